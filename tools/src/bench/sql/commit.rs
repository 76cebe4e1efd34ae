//! Durable transactions of one row: inserts, then updates, by 1, 64 and 1,000 objects, each waiting for
//! its own; then the same by stock SQLite with a file for each object.

use std::time::{Duration, Instant};

use dovehouse_engine::{ClassId, Engine, Ticket};
use dovehouse_sqlbridge::{Connection, Database};
use hdrhistogram::Histogram;

use super::super::commit::{Client, serve, threads};
use super::super::{Run, histogram, record};
use super::{BODY, INSERT, SCHEMA, UPDATE, object, stock};
use crate::exit::Failure;
use crate::output;

const CLIENTS: [usize; 3] = [1, 64, 1000];

#[derive(Clone, Copy)]
enum Write {
    Insert,
    Update,
}

pub(in super::super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = engine.class("Bench")?;
    let counts = match run.clients {
        0 => CLIENTS.to_vec(),
        one => vec![one],
    };
    let time = Duration::from_secs(run.seconds);
    for clients in counts {
        // Zero-filling the first segments, creating tables and preparing are not what is asked.
        let warming = Duration::from_millis(500);
        ours(&engine, class, run.seed, clients, Write::Insert, warming)?;
        for (write, name) in [(Write::Insert, "insert"), (Write::Update, "update")] {
            let before = engine.stats().log;
            let start = now();
            let latency = ours(&engine, class, run.seed, clients, write, time)?;
            let (elapsed, after) = (start.elapsed(), engine.stats().log);
            let prefix = format!("{clients}_{name}_");
            let operations = latency.len() as f64;
            run.note_number(
                &format!("{prefix}per_s"),
                operations / elapsed.as_secs_f64(),
            );
            run.note_latency(&prefix, &latency);
            let bytes = (after.log_bytes - before.log_bytes) as f64;
            run.note_number(&format!("{prefix}log_bytes"), bytes / operations);
            let writes = after.durable_writes - before.durable_writes;
            run.note_number(
                &format!("{prefix}per_durable_write"),
                operations / writes as f64,
            );
        }
        let start = now();
        let latency = stock_files(run, clients, time)?;
        let per_s = latency.len() as f64 / start.elapsed().as_secs_f64();
        run.note_number(&format!("{clients}_stock_insert_per_s"), per_s);
        run.note_latency(&format!("{clients}_stock_insert_"), &latency);
    }
    engine.close()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn now() -> Instant {
    Instant::now()
}

/// Runs one closure on each of so many threads, and adds up what they measured.
fn on_threads(
    threads: usize,
    act: impl Fn(usize) -> Result<Histogram<u64>, Failure> + Sync,
) -> Result<Histogram<u64>, Failure> {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let act = &act;
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || act(thread)))
            .collect();
        let joined = running
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"));
        joined.collect()
    });
    let mut sum = histogram();
    for outcome in outcomes {
        sum.add(outcome?).expect("the same bounds");
    }
    Ok(sum)
}

fn ours(
    engine: &Engine,
    class: ClassId,
    seed: u64,
    clients: usize,
    write: Write,
    time: Duration,
) -> Result<Histogram<u64>, Failure> {
    let threads = threads(clients);
    on_threads(threads, |thread| {
        let numbers = (thread..clients).step_by(threads);
        let mut served = Vec::new();
        for number in numbers {
            let database = Database::open(object(engine, class, seed, number as u64)?)?;
            let tables = database.exec("SELECT count(*) FROM sqlite_schema", ())?;
            if tables.one()?.get::<i64>(0)? == 0 {
                database.exec(SCHEMA, ())?;
                database.commit()?;
            }
            served.push(Client::new(database));
        }
        let bar = output::progress(time.as_secs(), "seconds");
        let latency = serve(&mut served, now(), time, &bar, |database, round| {
            commit(database, write, round)
        });
        bar.finish_and_clear();
        latency
    })
}

/// The transaction of one row.
fn commit(database: &Database, write: Write, round: u64) -> Result<Ticket, Failure> {
    match write {
        Write::Insert => database.exec(INSERT, ("somebody", format!("{round:08} {BODY}")))?,
        Write::Update => database.exec(UPDATE, (format!("changed {round:08} {BODY}"),))?,
    };
    Ok(database.commit()?.expect("the row is new"))
}

/// Inserts into a file for each object, in turns, on as many threads.
fn stock_files(run: &Run, clients: usize, time: Duration) -> Result<Histogram<u64>, Failure> {
    let dir = run.dir.with_file_name(format!("stock-{clients}"));
    std::fs::create_dir_all(&dir)?;
    let threads = threads(clients);
    let measured = on_threads(threads, |thread| {
        let files: Vec<Connection> = (thread..clients)
            .step_by(threads)
            .map(|number| stock(&dir.join(format!("{number}.sqlite")), "FULL"))
            .collect::<Result<_, _>>()?;
        let mut latency = histogram();
        let start = now();
        for (round, file) in files.iter().cycle().enumerate() {
            if start.elapsed() >= time {
                break;
            }
            let since = now();
            file.exec(INSERT, ("somebody", format!("{round:08} {BODY}")))?;
            record(&mut latency, since.elapsed());
        }
        Ok(latency)
    });
    std::fs::remove_dir_all(&dir)?;
    measured
}
