//! `dovehouse bench`: what this disk and this machine reach, one question at a time.
//!
//! Every bench works on a store of its own, makes its content from a seed, and syncs for real. On a
//! terminal it shows how far it is; with `--json` it prints one document with the parameters, the
//! machine, and what was measured. Fields that a bench does not measure are not there.

mod alarms;
#[cfg(feature = "load")]
mod alarms_due;
mod big;
#[cfg(feature = "load")]
mod call;
mod commit;
mod compact;
mod content;
mod footprint;
mod history;
mod machine;
mod recover;
#[cfg(feature = "sql")]
mod sql;
mod wake;
#[cfg(feature = "load")]
mod web;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use dovehouse_engine::Engine;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::exit::{FAILURE, Failure};
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    bench: Bench,
    /// How many clients there are, each waiting for its own commit, request, or share of a broadcast
    #[arg(long, value_parser = at_least_one::<usize>)]
    clients: Option<usize>,
    /// How many objects there are; for `big`, how many pages of 4 KiB; for `sql-hot`, how many rows; for `ws`, how many idle connections
    #[arg(long, value_parser = at_least_one::<u64>)]
    objects: Option<u64>,
    /// How long to measure
    #[arg(long)]
    seconds: Option<u64>,
    /// What the objects hold
    #[arg(long, value_enum, default_value_t = Kind::Kv)]
    kind: Kind,
    /// Where the content comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store's directory, which must not be there yet; kept afterwards. Default: one in the
    /// directory for temporary files, removed afterwards
    #[arg(long)]
    data: Option<PathBuf>,
    /// For `history`: what it can say within a minute
    #[arg(long)]
    quick: bool,
    /// For `history`: a checkpoint is made after so many bytes of log, and each second
    #[arg(long, default_value_t = 64 << 20)]
    checkpoint_bytes: u64,
    /// What `big` runs in a process of its own, to kill it
    #[arg(long, hide = true, requires = "data")]
    until_killed: bool,
    /// What `ws` runs in a process of its own, to hold connections to this address
    #[arg(long, hide = true)]
    #[cfg(feature = "load")]
    hold: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Bench {
    /// Durable commits a second, and how long one takes
    Commit,
    /// Waking a sleeping object and reading one key
    Wake,
    /// Bytes on disk and in memory for each sleeping object
    Footprint,
    /// Opening after a crash, with a tail of 256 MiB
    Recover,
    /// Commits while compaction runs, and what it costs
    Compact,
    /// Arming alarms and finding those that are due
    Alarms,
    /// How late 100,000 alarms fire that are due in the same second
    #[cfg(feature = "load")]
    AlarmsDue,
    /// One object of 10 GiB of pages and one of 10 million keys: loads, commits, reads, a kill, and erasing
    Big,
    /// Calls from object to object and from outside, durable ones, and bytes for each awake object
    #[cfg(feature = "load")]
    Call,
    /// What history costs: commits with it and without, its bytes, and the latency of going back
    History,
    /// Durable SQL transactions of one row at 1, 64 and 1,000 objects, beside stock SQLite on files
    #[cfg(feature = "sql")]
    SqlCommit,
    /// The first row of a sleeping object's database, beside opening a file
    #[cfg(feature = "sql")]
    SqlWake,
    /// Inserts, selects and gets in one turn of one object, beside stock SQLite on a file
    #[cfg(feature = "sql")]
    SqlHot,
    /// What an open database takes in memory, with a tenth of them hot
    #[cfg(feature = "sql")]
    Databases,
    /// HTTP requests, reads and durable writes, to one object and to 10,000
    #[cfg(feature = "load")]
    Http,
    /// A broadcast to 200 WebSockets, and the memory of 10,000 idle ones whose objects sleep
    #[cfg(feature = "load")]
    Ws,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Three keys with values like small JSON documents, 112 bytes each
    Kv,
    /// The same values, of random bytes
    Random,
    /// A database of four tables, two indexes and a row; for `big`, one of rows of 1 KB, beside stock SQLite
    #[cfg(feature = "sql")]
    Sql,
}

fn at_least_one<N: std::str::FromStr + Default + PartialEq>(text: &str) -> Result<N, String> {
    match text.parse() {
        Ok(number) if number != N::default() => Ok(number),
        _ => Err("a number from 1".into()),
    }
}

/// What a bench is run with, its defaults filled in.
struct Run {
    dir: PathBuf,
    clients: usize,
    objects: u64,
    seconds: u64,
    kind: Kind,
    seed: u64,
    quick: bool,
    checkpoint_bytes: u64,
    /// What was measured.
    found: Map<String, Value>,
    /// Removes the directory, if it is ours.
    _temporary: Option<tempfile::TempDir>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    #[cfg(feature = "load")]
    if let Some(address) = &arguments.hold {
        return web::hold(address, arguments.objects.unwrap_or(1));
    }
    let (clients, objects, seconds) = match arguments.bench {
        Bench::Commit => (1000, 1000, 5),
        Bench::Wake => (1, 100_000, 5),
        Bench::Footprint => (1, 1_000_000, 0),
        Bench::Recover => (1, 1_000_000, 0),
        Bench::Compact => (16, 1_000_000, 20),
        Bench::Alarms => (1, 1_000_000, 0),
        #[cfg(feature = "load")]
        Bench::AlarmsDue => (1, 100_000, 0),
        Bench::Big => (1, 2_621_440, 10),
        #[cfg(feature = "load")]
        Bench::Call => (1_000, 20_000, 2),
        Bench::History => (0, 10_000, 3),
        #[cfg(feature = "sql")]
        Bench::SqlCommit => (0, 0, 3),
        #[cfg(feature = "sql")]
        Bench::SqlWake => (1, 10_000, 3),
        #[cfg(feature = "sql")]
        Bench::SqlHot => (1, 100_000, 0),
        #[cfg(feature = "sql")]
        Bench::Databases => (1, 10_000, 0),
        #[cfg(feature = "load")]
        Bench::Http => (64, 10_000, 12),
        #[cfg(feature = "load")]
        Bench::Ws => (200, 10_000, 5),
    };
    let temporary = match arguments.data {
        Some(_) => None,
        None => Some(tempfile::tempdir()?),
    };
    let dir = match (&arguments.data, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, temporary) => temporary
            .as_ref()
            .expect("it was made")
            .path()
            .join("store"),
    };
    if dir.exists() && !arguments.until_killed {
        let message = format!(
            "{} is there already; a bench makes a store of its own",
            dir.display()
        );
        return Err(Failure::new(FAILURE, message));
    }
    let mut run = Run {
        dir,
        clients: arguments.clients.unwrap_or(clients),
        objects: arguments.objects.unwrap_or(objects),
        seconds: arguments.seconds.unwrap_or(seconds),
        kind: arguments.kind,
        seed: arguments.seed,
        quick: arguments.quick,
        checkpoint_bytes: arguments.checkpoint_bytes,
        found: Map::new(),
        _temporary: temporary,
    };
    if arguments.until_killed {
        return big::until_killed(&run);
    }
    match arguments.bench {
        Bench::Big => big::run(&mut run),
        Bench::History => history::run(&mut run),
        Bench::Commit => commit::run(&mut run),
        Bench::Wake => wake::run(&mut run),
        Bench::Footprint => footprint::run(&mut run),
        Bench::Recover => recover::run(&mut run),
        Bench::Compact => compact::run(&mut run),
        Bench::Alarms => alarms::run(&mut run),
        #[cfg(feature = "load")]
        Bench::AlarmsDue => alarms_due::run(&mut run),
        Bench::Call => call::run(&mut run),
        #[cfg(feature = "sql")]
        Bench::SqlCommit => sql::commit(&mut run),
        #[cfg(feature = "sql")]
        Bench::SqlWake => sql::wake(&mut run),
        #[cfg(feature = "sql")]
        Bench::SqlHot => sql::hot(&mut run),
        #[cfg(feature = "sql")]
        Bench::Databases => sql::databases(&mut run),
        #[cfg(feature = "load")]
        Bench::Http => web::http(&mut run),
        #[cfg(feature = "load")]
        Bench::Ws => web::web_sockets(&mut run),
    }?;
    run.report(arguments)
}

impl Run {
    fn open(&self) -> Result<Engine, Failure> {
        Ok(Engine::open(&self.dir)?)
    }

    /// Opens the store again, and notes how long that took and what it takes on the heap.
    #[expect(clippy::disallowed_methods, reason = "benches measure real time")]
    fn reopen(&mut self) -> Result<Engine, Failure> {
        let heap_before = machine::heap_bytes();
        let start = Instant::now();
        let engine = self.open()?;
        self.note_number("open_ms", start.elapsed().as_secs_f64() * 1000.0);
        let heap_bytes = machine::heap_bytes_since(heap_before);
        self.note("heap_bytes", heap_bytes);
        Ok(engine)
    }

    fn note(&mut self, field: &str, value: impl Into<Value>) {
        self.found.insert(field.to_owned(), value.into());
    }

    /// A number with as many digits as it deserves.
    fn note_number(&mut self, field: &str, value: f64) {
        let digits = if value < 100.0 { 100.0 } else { 1.0 };
        self.note(field, (value * digits).round() / digits);
    }

    /// Quantiles of what took so many nanoseconds.
    fn note_latency(&mut self, prefix: &str, histogram: &Histogram<u64>) {
        for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            let us = histogram.value_at_quantile(quantile) as f64 / 1000.0;
            self.note_number(&format!("{prefix}{name}"), us);
        }
    }

    fn note_rate(&mut self, operations: u64, elapsed: Duration) {
        self.note("ops", operations);
        self.note_number("ops_per_s", operations as f64 / elapsed.as_secs_f64());
    }

    fn report(&self, arguments: &Arguments) -> Result<(), Failure> {
        let bench = arguments.bench.to_possible_value().expect("none is hidden");
        let bench = bench.get_name();
        if arguments.json {
            let mut document = json!({
                "schema": 1,
                "bench": bench,
                "parameters": {
                    "clients": self.clients,
                    "objects": self.objects,
                    "seconds": self.seconds,
                    "kind": format!("{:?}", self.kind).to_lowercase(),
                    "seed": self.seed,
                },
                "machine": machine::describe(),
            });
            let fields = document.as_object_mut().expect("it is an object");
            fields.extend(self.found.clone());
            output::json(&document)?;
            return Ok(());
        }
        let mut table = output::table(&["FIELD", "VALUE"], &[]);
        for (field, value) in &self.found {
            match value {
                Value::Object(parts) => parts.iter().for_each(|(part, value)| {
                    table.add_row([format!("{field}, {part}"), value.to_string()]);
                }),
                value => {
                    table.add_row([field.clone(), value.to_string()]);
                }
            }
        }
        Ok(output::print_table(&table)?)
    }
}

/// A histogram of nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// Counts what took so long.
fn record(histogram: &mut Histogram<u64>, elapsed: Duration) {
    let counted = histogram.record(elapsed.as_nanos() as u64);
    counted.expect("the histogram grows");
}
