//! One simulation, in this process: the trace on standard output, its result in the last line.

use crate::trace::Trace;
use crate::world::World;
use crate::{clock, process, scenarios};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

/// Begins the last line of the output.
pub const RESULT_MARK: &str = "result ";
/// Exit code where the system forbids what determinism needs.
pub const EXIT_FORBIDDEN: u8 = 77;

/// The last line of a simulation's output.
#[derive(Debug, Serialize, Deserialize)]
pub struct SimulationResult {
    pub failure: Option<String>,
    pub simulated_ms: u64,
    /// Simulated time that nodes have lived, all together.
    pub node_ms: u64,
    pub event_count: u64,
    pub coverage: BTreeMap<String, u64>,
}

/// Runs one scenario with one seed. `arguments` are those behind the command's name.
pub fn main(arguments: &[String]) -> ExitCode {
    let [scenario, seed, parameters @ ..] = arguments else {
        eprintln!("usage: one SCENARIO SEED [NAME=VALUE]...");
        return ExitCode::from(2);
    };
    let Some(parameters) = parse_parameters(parameters) else {
        eprintln!("{parameters:?} are no parameters");
        return ExitCode::from(2);
    };
    let Ok(seed) = seed.parse::<u64>() else {
        eprintln!("seed {seed:?} is not a number");
        return ExitCode::from(2);
    };
    process::enroll(seed);
    if let Err(error) = process::at_fixed_addresses() {
        eprintln!("this system forbids switching address randomisation off: {error}");
        return ExitCode::from(EXIT_FORBIDDEN);
    }
    let Some(scenario) = scenarios::find(scenario) else {
        eprintln!("no scenario {scenario:?}; `list` names them");
        return ExitCode::from(2);
    };
    let trace = Trace::new(Box::new(BufWriter::with_capacity(
        64 * 1024,
        std::io::stdout(),
    )));
    let failure = run(scenario, seed, parameters, &trace);
    let result = SimulationResult {
        simulated_ms: clock::now().as_millis() as u64,
        node_ms: clock::node_time().as_millis() as u64,
        event_count: trace.line_count(),
        coverage: trace
            .coverage()
            .into_iter()
            .map(|(what, count)| (what.into(), count))
            .collect(),
        failure,
    };
    trace.flush();
    let text = serde_json::to_string(&result).unwrap_or_else(|error| error.to_string());
    let written = writeln!(std::io::stdout(), "{RESULT_MARK}{text}");
    if result.failure.is_some() || written.is_err() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// `NAME=VALUE` each: numbers, and `mistake`, which is planted.
fn parse_parameters(arguments: &[String]) -> Option<BTreeMap<String, u64>> {
    let mut parameters = BTreeMap::new();
    for argument in arguments {
        let (name, value) = argument.split_once('=')?;
        #[cfg(feature = "planted")]
        if name == "mistake" {
            apiary_protocol::planted::plant(crate::planted::find(value)?.mistake);
            continue;
        }
        parameters.insert(name.to_string(), value.parse().ok()?);
    }
    Some(parameters)
}

fn run(
    scenario: &scenarios::Scenario,
    seed: u64,
    parameters: BTreeMap<String, u64>,
    trace: &Trace,
) -> Option<String> {
    let panicked: Arc<Mutex<Option<String>>> = Arc::default();
    let (seen, panic_trace) = (panicked.clone(), trace.clone());
    std::panic::set_hook(Box::new(move |info| {
        panic_trace.event("world", format_args!("panic {info}"));
        if let Ok(mut seen) = seen.lock() {
            seen.get_or_insert(info.to_string());
        }
    }));
    let mut world = World::new(seed, parameters, trace.clone());
    let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut world)));
    let panicked = panicked.lock().ok().and_then(|mut message| message.take());
    match (result, panicked) {
        (Ok(Err(violation)), _) => Some(violation),
        (_, Some(message)) => Some(format!("a panic: {message}")),
        (Err(_), None) => Some("a panic without a message".into()),
        (Ok(Ok(())), None) => match process::thread_count() {
            1 => None,
            count => Some(format!(
                "the simulation ended with {count} threads; it must have one"
            )),
        },
    }
}
