//! The command line as `--help` shows it.

use crate::bench::worker::Engine;
use crate::config::keys_help;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused: wrong SQL, wrong data, a name that is not there
  2    wrong usage: flags, settings
  3    storage cannot be reached, or what lies there is damaged
  4    not now: busy, out of memory, a conflicting commit, a deadline; try again
  5    it is unknown whether a write happened: read before repeating it
  70   a defect of Apiary
  130  cancelled by Ctrl-C or SIGTERM";

const EXAMPLES: &str = "\
Examples:
  apiary-node demo                                  make a database and look around
  apiary-node sql 'SELECT 1'                        run a statement
  apiary-node load trips trips-2025.parquet         a file into a frame
  apiary-node --storage s3://bucket/farm shell      a prompt on a bucket";

/// A lakehouse for small computers: SQL over open Delta tables in a directory or a bucket.
#[derive(Debug, Parser)]
#[command(name = "apiary-node", version, max_term_width = 100)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(after_long_help = format!(
    "{EXAMPLES}\n\nSettings (in the TOML file, as APIARY_<KEY> in the environment, or with --set):\n\
     {}\n{EXIT_CODES}", keys_help()))]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Settings")]
pub struct Global {
    /// Where the data lies: a directory, s3://, gs://, az:// or memory:// [default: ./apiary-data]
    #[arg(long, short = 's', global = true, value_name = "URI")]
    pub storage: Option<String>,
    /// Memory that the process may use, as 256MiB [default: what the machine or cgroup allows]
    #[arg(long, short = 'm', global = true, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Bees: tasks that run at once [default: one per usable core]
    #[arg(long, short = 'b', global = true, value_name = "COUNT")]
    pub bees: Option<String>,
    /// Any other setting; can be repeated (--help lists them)
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub set: Vec<String>,
    /// A TOML file with settings
    #[arg(long, global = true, value_name = "FILE", env = "APIARY_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to log on stderr, as `info` or `warn,apiary_engine=debug` [default: warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until it is told to stop
    Start,
    /// Run SQL statements
    Sql(Sql),
    /// Type SQL at a prompt
    Shell(Shell),
    /// Load files into a frame
    Load(Load),
    /// Show the node and what lies in the storage
    Status(Status),
    /// Show one object of the storage as JSON
    Inspect(Inspect),
    /// Make a database with example data and query it
    Demo(Demo),
    /// Measure against plain DataFusion
    Bench(Bench),
    /// One engine that takes orders from a benchmark
    #[command(hide = true)]
    BenchWorker(Worker),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; long results come in several blocks
    #[default]
    Table,
    /// With a header line
    Csv,
    /// One object per line
    Json,
    /// An Arrow IPC stream
    Arrow,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Statements are separated by semicolons and run in order; the first error ends the command.

Examples:
  apiary-node sql 'CREATE TABLE bees (name VARCHAR)' \"INSERT INTO bees VALUES ('Maja')\"
  apiary-node sql --format csv 'SELECT * FROM bees' > bees.csv
  apiary-node sql --file report.sql
  echo 'SELECT 1' | apiary-node sql")]
pub struct Sql {
    /// Statements; standard input when there are none
    #[arg(value_name = "STATEMENT")]
    pub statements: Vec<String>,
    /// A file with statements
    #[arg(long, short, value_name = "FILE", conflicts_with = "statements")]
    pub file: Option<PathBuf>,
    /// How rows are written to stdout
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct Shell {
    /// Where the lines that were typed are kept [default: ~/.apiary_history]
    #[arg(long, value_name = "FILE", env = "APIARY_HISTORY")]
    pub history: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    Parquet,
    /// With a header line
    Csv,
    /// One JSON object per line
    Json,
    /// Arrow IPC, file or stream
    Arrow,
}

#[derive(Args, Debug)]
#[command(after_help = "\
All files become one commit: all rows are there, or none. A frame that does not exist is made with
the columns of the files.

Examples:
  apiary-node load trips january.parquet february.parquet
  apiary-node load farm.east.eggs eggs.csv --partition-by day
  apiary-node load --overwrite prices prices.json")]
pub struct Load {
    /// The frame: frame, box.frame or hive.box.frame
    #[arg(value_name = "FRAME")]
    pub frame: String,
    /// Files of one kind
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What the files are [default: by their names: .parquet, .csv, .tsv, .json, .jsonl, .ndjson,
    /// .arrow, .arrows, .feather, .ipc]
    #[arg(long, short, value_enum)]
    pub format: Option<FileFormat>,
    /// Partition columns of a frame that is made
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub partition_by: Vec<String>,
    /// Replace the frame's rows instead of adding to them
    #[arg(long)]
    pub overwrite: bool,
    /// CSV: what separates columns [default: a comma; a tab for .tsv]
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<char>,
    /// CSV: a text that means NULL, besides nothing at all
    #[arg(long, value_name = "TEXT")]
    pub null: Option<String>,
    /// CSV, JSON: rows of each file that column types are guessed from; 0 for all
    #[arg(long, value_name = "ROWS", default_value_t = 100_000)]
    pub infer_rows: usize,
}

#[derive(Args, Debug)]
pub struct Status {
    /// As JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apiary-node inspect _registry/00000000000000000001.json
  apiary-node inspect default/default/bees/_delta_log/00000000000000000000.json")]
pub struct Inspect {
    /// The object, relative to the storage's root
    pub key: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  apiary-node demo && apiary-node --storage ./apiary-demo shell")]
pub struct Demo {
    /// TPC-H scale factor of the example data: 0.01 is 86,000 rows, 0.1 is 866,000
    #[arg(long, default_value_t = 0.01, value_parser = scale)]
    pub scale: f64,
}

#[derive(Args, Debug)]
pub struct Bench {
    #[command(subcommand)]
    pub what: Bencher,
}

#[derive(Args, Debug)]
pub struct Worker {
    #[arg(long, value_enum)]
    pub engine: Engine,
    /// The settings as JSON
    #[arg(long)]
    pub settings: String,
}

/// Where figures go and how often they are taken.
#[derive(Args, Clone, Debug)]
pub struct Measure {
    /// Write the figures to this JSON file
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How often each figure is taken; the median is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
}

#[derive(Debug, Subcommand)]
pub enum Bencher {
    /// The 22 TPC-H queries against plain DataFusion on the same cells
    Tpch(BenchTpch),
    /// Durable and other appends against a bare loop of the same file calls
    Commits(BenchCommits),
    /// TPC-H loaded from Parquet files
    Load(BenchLoad),
    /// Planning on a frame of very many cells
    Cells(BenchCells),
    /// What a node costs that does nothing
    Idle(BenchIdle),
    /// TPC-H shared by several nodes, against one node that has what they have together
    Swarm(BenchSwarm),
    /// A shuffle of very many bytes between two nodes
    Shuffle(BenchShuffle),
}

#[derive(Args, Clone, Debug)]
pub struct BenchTpch {
    /// TPC-H scale factor
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
    /// Queries to run
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,…")]
    pub queries: Vec<u32>,
    /// A third engine on the same cells: a program, with arguments, that takes a worker's orders as
    /// tests/python/duckdb_worker.py does
    #[arg(long, value_name = "COMMAND")]
    pub peer: Option<String>,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Args, Clone, Debug)]
pub struct BenchCommits {
    /// Appends of each run
    #[arg(long, default_value_t = 1000)]
    pub appends: u32,
    /// Processes that append to one frame at once
    #[arg(long, default_value_t = 4)]
    pub processes: u32,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Args, Clone, Debug)]
pub struct BenchLoad {
    /// TPC-H scale factor
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Args, Clone, Debug)]
pub struct BenchCells {
    /// Cells of the frame
    #[arg(long, default_value_t = 100_000)]
    pub cells: u32,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Debug, clap::Args)]
pub struct BenchSwarm {
    /// TPC-H scale factor
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
    /// Queries to run
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,…")]
    pub queries: Vec<u32>,
    /// Nodes of one bee each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub nodes: u32,
    /// Pin each node to a core of its own, and compare with one node on one core; without it, the one
    /// node has as many bees as the others together
    #[arg(long)]
    pub pinned: bool,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Debug, clap::Args)]
pub struct BenchShuffle {
    /// TPC-H scale factor of the rows; a row of `lineitem` has about 190 bytes
    #[arg(long, default_value_t = 9.0, value_parser = scale)]
    pub scale: f64,
    #[command(flatten)]
    pub measure: Measure,
}

#[derive(Args, Clone, Debug)]
pub struct BenchIdle {
    /// How long the node is watched, in seconds
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// TPC-H scale factor of what lies in the storage when none is named
    #[arg(long, default_value_t = 0.01, value_parser = scale)]
    pub scale: f64,
    /// Queries that the node runs before it rests
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,…")]
    pub queries: Vec<u32>,
    #[command(flatten)]
    pub measure: Measure,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if scale > 0.0 && scale <= 1000.0 => Ok(scale),
        _ => Err("a scale factor is a number above 0 and at most 1000".into()),
    }
}

impl Global {
    /// The flags that are settings, in the form that [`crate::config::load`] takes.
    ///
    /// # Errors
    /// The text of a `--set` that has no `=`.
    pub fn as_settings(&self) -> Result<Vec<(String, String)>, String> {
        let named = [
            ("storage", &self.storage),
            ("memory", &self.memory),
            ("bees", &self.bees),
            ("log", &self.log),
        ];
        let mut flags = Vec::new();
        for text in &self.set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(format!("--set {text:?} wants the form key=value"));
            };
            flags.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        let named = named
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        flags.extend(named.map(|(key, value)| (key.to_owned(), value)));
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_after_the_command() {
        let cli = Cli::parse_from(["apiary-node", "sql", "SELECT 1", "--memory", "1GiB"]);
        assert_eq!(
            cli.global.as_settings().unwrap(),
            [("memory".into(), "1GiB".into())]
        );
    }
}
