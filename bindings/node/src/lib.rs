//! The command line of Apiary, for the programs that are it: `apiary-node` and `python -m apiary`.
//!
//! The edge of the system: reads flags, environment, files and signals, and writes to the standard
//! streams. Rows go to stdout, all else to stderr. What it does with data, it does through the
//! `apiary` crate.

mod args;
mod bench;
mod config;
mod demo;
mod exact;
mod failure;
mod input;
mod links;
mod load;
mod memory;
mod output;
mod program;
mod progress;
mod run;
mod shell;
mod signals;
mod start;
mod status;
mod tpch;
#[cfg(test)]
mod tpch_plans;

pub use crate::args::FileFormat;
pub use crate::failure::Failure;
pub use crate::input::{Input, TextOptions};
pub use crate::load::examine_files;
pub use crate::memory::{Allocator, give_back};
pub use crate::program::Program;

use crate::args::{Cli, Command, Inspect, Sql};
use crate::config::{Config, LogFormat};
use crate::failure::Result;
use crate::run::Runner;
use crate::signals::{Interrupts, in_thread};
use apiary::{Apiary, Role, Session};
use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// How long a command waits for its node to stop.
const STOP: Duration = Duration::from_secs(10);

/// Runs a command to its end, as `program` and with its arguments; gives the exit code. Once in a
/// process, and before it has started threads that are to get signals.
pub fn run(program: Program, arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let started = Instant::now();
    memory::configure();
    let name = program.name().to_owned();
    program.announce();
    let words = std::iter::once(OsString::from(&name)).chain(arguments);
    let parsed = Cli::command()
        .bin_name(name)
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(told) => {
            // A closed output is no failure of a help text.
            let _ = told.print();
            return told.exit_code();
        }
    };
    match command(cli, started) {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("error: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn command(cli: Cli, started: Instant) -> Result<()> {
    let flags = cli.global.as_settings().map_err(Failure::Usage)?;
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::load(cli.global.config.as_deref(), variables, &flags)?;
    log_to_stderr(&config)?;
    // Before any thread starts.
    let interrupts = Interrupts::listen().map_err(|source| Failure::File {
        path: "signals".into(),
        source,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| Failure::File {
            path: "the main runtime".into(),
            source,
        })?;
    match cli.command {
        Command::Inspect(options) => {
            runtime.block_on(interrupts.or_cancelled(inspect(&options, &config)))
        }
        Command::Start => with_node(&config, Role::Resident, &runtime, &interrupts, |apiary| {
            runtime.block_on(start::start(apiary, &interrupts, started))
        }),
        Command::Sql(options) => {
            let text = runtime.block_on(interrupts.or_cancelled(statements(&options)))?;
            with_node(&config, Role::Brief, &runtime, &interrupts, |apiary| {
                runtime.block_on(sql(&text, &options, apiary, &interrupts))
            })
        }
        Command::Shell(options) => {
            with_node(&config, Role::Brief, &runtime, &interrupts, |apiary| {
                shell::shell(&options, apiary, &interrupts, &runtime)
            })
        }
        Command::Load(options) => {
            with_node(&config, Role::Brief, &runtime, &interrupts, |apiary| {
                runtime.block_on(load::load(options, apiary, &interrupts))
            })
        }
        Command::Status(options) => {
            with_node(&config, Role::Brief, &runtime, &interrupts, |apiary| {
                runtime.block_on(interrupts.or_cancelled(status::status(&options, apiary)))
            })
        }
        Command::Demo(options) => {
            let mut config = config;
            if !config.storage_is_given {
                config.storage = demo::DEFAULT_STORAGE.to_owned();
            }
            with_node(&config, Role::Brief, &runtime, &interrupts, |apiary| {
                let storage = &config.storage;
                runtime.block_on(demo::demo(&options, storage, apiary, &interrupts))
            })
        }
        Command::Bench(options) => bench::bench(&options.what, &config, &runtime, &interrupts),
        Command::BenchWorker(options) => {
            let work = bench::worker::work(&options, &config);
            runtime.block_on(interrupts.or_cancelled(work))
        }
    }
}

/// Starts a node, does something with it, stops it. An interrupt while it starts ends the command.
fn with_node<T>(
    config: &Config,
    role: Role,
    runtime: &Runtime,
    interrupts: &Interrupts,
    task: impl FnOnce(&Apiary) -> Result<T>,
) -> Result<T> {
    let builder = Apiary::builder(&config.storage)
        .settings(config.settings.clone())
        .role(role);
    let apiary = runtime.block_on(interrupts.or_cancelled(async {
        let apiary = builder.open().await?;
        memory::bound(apiary.status().await?.memory_bytes);
        Ok(apiary)
    }))?;
    let outcome = task(&apiary);
    // Inside an async block, because the timer wants a runtime around it when it is made.
    let stopped = runtime.block_on(async { tokio::time::timeout(STOP, apiary.shutdown()).await });
    match stopped {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the node did not stop cleanly"),
        Err(_) => tracing::warn!("the node did not stop in time"),
    }
    outcome
}

/// A file or the standard input may come slowly, or never.
async fn statements(options: &Sql) -> Result<String> {
    if !options.statements.is_empty() {
        return Ok(options.statements.join(";\n"));
    }
    if let Some(path) = options.file.clone() {
        let read =
            move || std::fs::read_to_string(&path).map_err(|error| Failure::file(&path, error));
        return in_thread("apiary-statements", read).await;
    }
    if std::io::stdin().is_terminal() {
        eprintln!("Type statements, then Ctrl-D.");
    }
    let read = || {
        std::io::read_to_string(std::io::stdin()).map_err(|source| Failure::File {
            path: "standard input".into(),
            source,
        })
    };
    in_thread("apiary-statements", read).await
}

async fn sql(text: &str, options: &Sql, apiary: &Apiary, interrupts: &Interrupts) -> Result<()> {
    let statements = apiary::parse(text)?;
    if statements.is_empty() {
        return Err(Failure::Usage("there is no SQL statement to run".into()));
    }
    let runner = Runner {
        apiary,
        interrupts,
        format: options.format,
        reports: true,
    };
    let mut session = Session::new()?;
    for statement in statements {
        session = runner.run(statement, &session).await?.session;
    }
    Ok(())
}

async fn inspect(options: &Inspect, config: &Config) -> Result<()> {
    let builder = Apiary::builder(&config.storage).settings(config.settings.clone());
    let value = builder.inspect(&options.key).await?;
    Ok(writeln!(std::io::stdout(), "{value:#}")?)
}

fn log_to_stderr(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| Failure::Usage(format!("log filter {:?}: {error}", config.log)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
