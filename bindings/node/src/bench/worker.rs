//! A process that runs one engine and takes orders, a JSON line each, from the benchmark that started
//! it. Its peak memory is that engine's alone.

use super::unexpected;
use crate::args::Worker;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::input::{Input, TextOptions};
use crate::memory;
use crate::signals::Interrupts;
use crate::start::IdleKeeper;
use crate::tpch;
use apiary::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use apiary::arrow::ipc::writer::FileWriter;
use apiary::{Apiary, Role, Settings};
use datafusion::datasource::file_format::options::ReadOptions;
use datafusion::datasource::listing::{ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How often whoever waits for a worker looks whether a signal has come.
const SIGNAL_LOOK: Duration = Duration::from_millis(100);

/// Hive and box of the benchmarks' frames.
pub const HIVE: &str = "bench";
pub const BOX: &str = "tpch";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// A brief node.
    Apiary,
    /// A resident node.
    Resident,
    /// Plain DataFusion with its default settings.
    Datafusion,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Files of a table, for the peer.
    Register { table: String, files: Vec<PathBuf> },
    /// A statement, run to its end. `to`: where its rows go.
    Run { sql: String, to: Option<PathBuf> },
    /// So many appends of `rows` rows each, awaited one by one, with ids from `first` on.
    Append {
        frame: String,
        first: i64,
        appends: u32,
        rows: u32,
    },
    /// A file into a new frame.
    Load { frame: String, file: PathBuf },
    /// Rests, as `start` does.
    Rest { seconds: u64 },
    /// Memory of this process, and what it asked of the storage.
    Report,
}

/// The benchmark's end of a worker. The process ends when this is dropped.
pub struct Handle {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    interrupts: Interrupts,
    /// From the start of the process to its readiness.
    pub ready_ms: f64,
}

impl Handle {
    /// Starts this program again as a worker, on one core alone when it is named, and waits until it is
    /// ready.
    pub fn spawn(
        engine: Engine,
        storage: &Path,
        settings: &Settings,
        log: &str,
        core: Option<usize>,
        interrupts: &Interrupts,
    ) -> Result<Self> {
        let mut command = crate::program::again().map_err(not_started)?;
        let engine = match engine {
            Engine::Apiary => "apiary",
            Engine::Resident => "resident",
            Engine::Datafusion => "datafusion",
        };
        command
            .args(["bench-worker", "--engine", engine])
            .arg("--storage")
            .arg(storage);
        // All settings travel, wherever they came from.
        let settings = serde_json::to_string(settings)
            .map_err(|error| unexpected(format!("settings: {error}")))?;
        command
            .arg("--settings")
            .arg(settings)
            .arg("--log")
            .arg(log);
        if let Some(core) = core {
            pin(&mut command, core)?;
        }
        Self::start(command, interrupts)
    }

    /// Starts another program that takes the same orders: its words, separated by spaces.
    pub fn spawn_peer(command: &str, interrupts: &Interrupts) -> Result<Self> {
        let mut words = command.split_whitespace();
        let program = words
            .next()
            .ok_or_else(|| Failure::Usage("--peer: names no program".into()))?;
        let mut command = Command::new(program);
        command.args(words);
        Self::start(command, interrupts)
    }

    fn start(mut command: Command, interrupts: &Interrupts) -> Result<Self> {
        let started = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|source| Failure::File {
            path: command.get_program().display().to_string(),
            source,
        })?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let Some(answers) = answers else {
            return Err(unexpected("a worker without output".into()));
        };
        let mut handle = Self {
            child,
            orders,
            answers: lines_of(answers)?,
            interrupts: interrupts.clone(),
            ready_ms: 0.0,
        };
        handle.answer()?;
        handle.ready_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(handle)
    }

    pub fn send(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)
            .map_err(|error| unexpected(format!("an order: {error}")))?;
        let gone = || unexpected("a worker has ended".into());
        let orders = self.orders.as_mut().ok_or_else(gone)?;
        writeln!(orders, "{line}").map_err(|_| gone())
    }

    /// The next answer; an answer with `error` is given as it is.
    ///
    /// # Errors
    /// `Cancelled` after a signal.
    pub fn answer(&mut self) -> Result<Value> {
        let line = loop {
            if self.interrupts.is_asked() {
                return Err(Failure::Cancelled);
            }
            match self.answers.recv_timeout(SIGNAL_LOOK) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(unexpected("a worker ended without an answer".into()));
                }
            }
        };
        serde_json::from_str(&line).map_err(|error| unexpected(format!("{line:?}: {error}")))
    }

    pub fn order(&mut self, order: &Order) -> Result<Value> {
        self.send(order)?;
        self.answer()
    }

    /// [`Handle::order`] for orders that must succeed.
    pub fn must(&mut self, order: &Order) -> Result<Value> {
        let answer = self.order(order)?;
        match answer["error"].as_str() {
            Some(error) => Err(apiary::Error::rejected(error).into()),
            None => Ok(answer),
        }
    }
}

/// Lets the program start on one core alone: all its threads inherit it.
#[cfg(target_os = "linux")]
fn pin(command: &mut Command, core: usize) -> Result<()> {
    use std::os::unix::process::CommandExt;
    // SAFETY: an empty set is all zeroes.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= libc::CPU_SETSIZE as usize {
        return Err(Failure::Usage(format!("there is no core {core}")));
    }
    // SAFETY: the core is within the set.
    unsafe { libc::CPU_SET(core, &mut cores) };
    let pin = move || {
        // SAFETY: between fork and exec it only makes a system call on a set that lives here.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&cores), &cores) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(pin) };
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn pin(_: &mut Command, _: usize) -> Result<()> {
    Err(Failure::Usage(
        "processes are pinned to cores on Linux only".into(),
    ))
}

/// The lines of a worker as they come; the sender is gone when the worker is.
fn lines_of(answers: ChildStdout) -> Result<Receiver<String>> {
    let (sender, receiver) = channel();
    let read = move || {
        for line in BufReader::new(answers)
            .lines()
            .map_while(std::io::Result::ok)
        {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("bench-answers".into());
    thread.spawn(read).map_err(not_started)?;
    Ok(receiver)
}

fn not_started(source: std::io::Error) -> Failure {
    Failure::File {
        path: "a worker process".into(),
        source,
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The end of its input ends it; a cancelled one is not waited for.
        self.orders = None;
        if self.interrupts.is_asked() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

enum Running {
    Apiary(Apiary),
    Datafusion(Box<SessionContext>),
}

/// The worker's side: answers orders until there are no more.
pub async fn work(options: &Worker, config: &Config) -> Result<()> {
    let mut settings: Settings = serde_json::from_str(&options.settings)
        .map_err(|error| Failure::Usage(format!("--settings: {error}")))?;
    // Secrets come as they came to the benchmark, and not among its words.
    settings.storage = config.settings.storage.clone();
    let open = |role| {
        Apiary::builder(&config.storage)
            .settings(settings)
            .role(role)
            .open()
    };
    let engine = match options.engine {
        Engine::Apiary => Running::Apiary(open(Role::Brief).await?),
        Engine::Resident => Running::Apiary(open(Role::Resident).await?),
        Engine::Datafusion => Running::Datafusion(Box::new(SessionContext::new())),
    };
    if let Running::Apiary(apiary) = &engine {
        memory::bound(apiary.status().await?.memory_bytes);
    }
    println!("{}", json!({ "ready": true }));
    let (mut orders, mut ended) = read_orders()?;
    while let Some(line) = orders.recv().await {
        let order: Order = serde_json::from_str(&line)
            .map_err(|error| Failure::Usage(format!("order {line:?}: {error}")))?;
        let answer = tokio::select! {
            answer = obey(&engine, order) => answer,
            // Whoever gave the order is gone.
            _ = &mut ended => break,
        };
        let answer = answer.unwrap_or_else(|failure| json!({ "error": failure.to_string() }));
        println!("{answer}");
    }
    if let Running::Apiary(apiary) = engine {
        apiary.shutdown().await?;
    }
    Ok(())
}

/// Orders as they come, and their end. Read on a thread, so that the end is seen while one is obeyed.
fn read_orders() -> Result<(mpsc::UnboundedReceiver<String>, oneshot::Receiver<()>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let read = move || {
        // Dropped with this thread.
        let _end: oneshot::Sender<()> = end;
        for line in std::io::stdin()
            .lock()
            .lines()
            .map_while(std::io::Result::ok)
        {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("bench-orders".into());
    thread.spawn(read).map_err(not_started)?;
    Ok((receiver, ended))
}

async fn obey(engine: &Running, order: Order) -> Result<Value> {
    match (engine, order) {
        (Running::Datafusion(context), Order::Register { table, files }) => {
            register(context, &table, &files).await?;
            Ok(json!({}))
        }
        (engine, Order::Run { sql, to }) => run(engine, &sql, to.as_deref()).await,
        (
            Running::Apiary(apiary),
            Order::Append {
                frame,
                first,
                appends,
                rows,
            },
        ) => append(apiary, &frame, first, appends, rows).await,
        (Running::Apiary(apiary), Order::Load { frame, file }) => load(apiary, &frame, file).await,
        (Running::Apiary(apiary), Order::Rest { seconds }) => rest(apiary, seconds).await,
        (engine, Order::Report) => report(engine).await,
        (_, order) => Err(unexpected(format!("this engine cannot obey {order:?}"))),
    }
}

async fn register(context: &SessionContext, table: &str, files: &[PathBuf]) -> Result<()> {
    let wrap = |error| Failure::Apiary(apiary::Error::from(error));
    let urls = files
        .iter()
        .map(|file| ListingTableUrl::parse(file.display().to_string()));
    let urls = urls.collect::<Result<Vec<_>, _>>().map_err(wrap)?;
    // What `register_parquet` does for one path.
    let state = context.state();
    let options = ParquetReadOptions::default()
        .to_listing_options(state.config(), state.default_table_options());
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options);
    let config = config.infer_schema(&state).await.map_err(wrap)?;
    let provider = ListingTable::try_new(config).map_err(wrap)?;
    context
        .register_table(table, Arc::new(provider))
        .map_err(wrap)?;
    Ok(())
}

async fn run(engine: &Running, sql: &str, to: Option<&Path>) -> Result<Value> {
    let wrap = |error| Failure::Apiary(apiary::Error::from(error));
    let started = Instant::now();
    let (schema, mut batches) = match engine {
        Running::Apiary(apiary) => {
            let answer = apiary.sql(sql).await?;
            let schema = answer.schema().clone();
            (schema, answer.map_err(Failure::from).boxed())
        }
        Running::Datafusion(context) => {
            let frame = context.sql(sql).await.map_err(wrap)?;
            let stream = frame.execute_stream().await.map_err(wrap)?;
            (stream.schema(), stream.map_err(wrap).boxed())
        }
    };
    let mut writer = match to {
        None => None,
        Some(path) => {
            let file = File::create(path).map_err(|error| Failure::file(path, error))?;
            let writer = FileWriter::try_new(file, &schema)
                .map_err(|error| unexpected(error.to_string()))?;
            Some(writer)
        }
    };
    let planned_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows();
        if let Some(writer) = &mut writer {
            writer
                .write(&batch)
                .map_err(|error| unexpected(error.to_string()))?;
        }
    }
    let ms = started.elapsed().as_secs_f64() * 1e3;
    if let Some(mut writer) = writer {
        writer
            .finish()
            .map_err(|error| unexpected(error.to_string()))?;
    }
    Ok(json!({ "ms": ms, "planned_ms": planned_ms, "rows": rows }))
}

/// Rows as the commit benchmark appends them.
pub fn rows_to_append(first: i64, count: u32) -> RecordBatch {
    let ids = first..first + i64::from(count);
    let texts = ids.clone().map(|id| format!("row {id} of an append"));
    let columns = [
        (
            "id",
            Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef,
        ),
        (
            "text",
            Arc::new(StringArray::from_iter_values(texts)) as ArrayRef,
        ),
    ];
    // Both columns have `count` values.
    RecordBatch::try_from_iter(columns)
        .unwrap_or_else(|_| RecordBatch::new_empty(schema_to_append()))
}

pub fn schema_to_append() -> apiary::arrow::datatypes::SchemaRef {
    use apiary::arrow::datatypes::{DataType, Field, Schema};
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

async fn append(
    apiary: &Apiary,
    frame: &str,
    first: i64,
    appends: u32,
    rows: u32,
) -> Result<Value> {
    let frame = apiary.frame(frame).await?;
    let started = Instant::now();
    let mut refused = 0;
    for index in 0..appends {
        let batch = rows_to_append(first + i64::from(index) * i64::from(rows), rows);
        if frame.write_batches(vec![batch]).await.is_err() {
            refused += 1;
        }
    }
    Ok(json!({ "ms": started.elapsed().as_secs_f64() * 1e3, "refused": refused }))
}

async fn load(apiary: &Apiary, frame: &str, file: PathBuf) -> Result<Value> {
    let started = Instant::now();
    let input = Input::examine(&[file], None, TextOptions::default(), None)?;
    let box_ns = apiary.create_hive(HIVE).await?.create_box(BOX).await?;
    let frame = box_ns
        .create_frame(frame, input.schema.clone(), &[])
        .await?;
    let report = frame.write(input.stream(Arc::default())?).await?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    Ok(json!({ "ms": ms, "rows": report.rows_written, "bytes": report.bytes_written }))
}

async fn rest(apiary: &Apiary, seconds: u64) -> Result<Value> {
    let mut keeper = IdleKeeper::default();
    // Long enough for the memory of the start to be given back.
    for _ in 0..3 {
        tokio::time::sleep(crate::start::LOOK).await;
        keeper.look(apiary, &apiary.status().await?).await;
    }
    let before = apiary.status().await?.requests;
    let (started, cpu_before) = (Instant::now(), memory::process_cpu());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (elapsed, cpu_after) = (started.elapsed(), memory::process_cpu());
    let after = apiary.status().await?.requests;
    let operations = |counts: &apiary::RequestCounts| {
        counts.get_count
            + counts.head_count
            + counts.put_count
            + counts.list_count
            + counts.delete_count
    };
    let minutes = elapsed.as_secs_f64() / 60.0;
    Ok(json!({
        "resident_bytes": memory::process_bytes("VmRSS"),
        "core_share": (cpu_after - cpu_before).as_secs_f64() / elapsed.as_secs_f64(),
        "operations_per_minute": (operations(&after) - operations(&before)) as f64 / minutes,
    }))
}

async fn report(engine: &Running) -> Result<Value> {
    let requests = match engine {
        Running::Apiary(apiary) => Some(apiary.status().await?.requests),
        Running::Datafusion(_) => None,
    };
    Ok(json!({
        "peak_bytes": memory::process_bytes("VmHWM"),
        "resident_bytes": memory::process_bytes("VmRSS"),
        "anonymous_bytes": memory::process_bytes("RssAnon"),
        "requests": requests,
    }))
}

/// TPC-H frames in the benchmarks' box, loaded where they are not.
pub async fn fill(apiary: &Apiary, scale: f64) -> Result<()> {
    let box_ns = apiary.create_hive(HIVE).await?.create_box(BOX).await?;
    for table in tpch::TABLES {
        let frame = box_ns
            .create_frame(table.name(), table.schema(), &[])
            .await?;
        if tpch::fill(&frame, table, scale).await?.is_some() {
            eprintln!("loaded {}", frame.name());
        }
    }
    Ok(())
}
