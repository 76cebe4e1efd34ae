//! The closed loop of `bench commit` on two stores in turn, one of which keeps history. Checkpoints, with which
//! the log is followed, are made while it runs, at least one each second.

use std::time::{Duration, Instant};

use dovehouse_engine::{Engine, Retention};
use hdrhistogram::Histogram;

use super::super::{Run, commit, histogram};
use crate::exit::Failure;

const CLIENTS: [usize; 3] = [1, 64, 1000];
/// Each of two runs without history and two with it, in the order off, on, on, off: so drift is nobody's.
const ROUNDS: usize = 3;

struct Store {
    name: &'static str,
    engine: Engine,
    per_s: Vec<f64>,
    latency: Histogram<u64>,
    /// What the threads of the background took, for each commit.
    background_us: Vec<f64>,
    /// The last checkpoint, behind the end of the loop.
    left_ms: Vec<f64>,
}

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let asked = run.clients;
    let counts = match asked {
        0 => CLIENTS.to_vec(),
        one => vec![one],
    };
    let mut worst = f64::NEG_INFINITY;
    for clients in counts {
        run.clients = clients;
        let overhead = with_clients(run)?;
        run.note_number(&format!("{clients}_commit_overhead_percent"), overhead);
        worst = worst.max(overhead);
    }
    run.clients = asked;
    run.note_number("commit_overhead_percent", worst);
    Ok(())
}

fn with_clients(run: &mut Run) -> Result<f64, Failure> {
    let open = |name, retention| {
        let dir = run.dir.join(format!("{name}-{}", run.clients));
        let engine = Engine::builder(dir)
            .retention(retention)
            .checkpoint_bytes(run.checkpoint_bytes)
            .checkpoint_ms(1000)
            .open()?;
        // Zero-filling the first segments is not what is asked.
        commit::measure(&engine, run, Duration::from_millis(500), "warming up")?;
        Ok::<_, Failure>(Store {
            name,
            engine,
            per_s: Vec::new(),
            latency: histogram(),
            background_us: Vec::new(),
            left_ms: Vec::new(),
        })
    };
    let mut off = open("off", Retention::Off)?;
    let mut on = open("on", Retention::DEFAULT)?;
    for _ in 0..ROUNDS {
        measure(run, &mut off)?;
        measure(run, &mut on)?;
        measure(run, &mut on)?;
        measure(run, &mut off)?;
    }
    for store in [&mut off, &mut on] {
        let prefix = format!("{}_{}_", run.clients, store.name);
        run.note_number(&format!("{prefix}per_s"), median(&mut store.per_s));
        run.note_latency(&prefix, &store.latency);
        let background_us = median(&mut store.background_us);
        run.note_number(&format!("{prefix}background_us_per_op"), background_us);
        let left_ms = median(&mut store.left_ms);
        run.note_number(&format!("{prefix}last_checkpoint_ms"), left_ms);
        store.engine.close()?;
    }
    let overhead = 1.0 - median(&mut on.per_s) / median(&mut off.per_s);
    std::fs::remove_dir_all(off.engine.dir())?;
    std::fs::remove_dir_all(on.engine.dir())?;
    Ok(100.0 * overhead)
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn measure(run: &Run, store: &mut Store) -> Result<(), Failure> {
    let background_before = background_ns();
    let time = Duration::from_secs(run.seconds);
    let measured = commit::measure(&store.engine, run, time, "seconds")?;
    let start = Instant::now();
    store.engine.checkpoint()?;
    store.left_ms.push(start.elapsed().as_secs_f64() * 1000.0);
    let operations = measured.operations as f64;
    store
        .per_s
        .push(operations / measured.elapsed.as_secs_f64());
    store
        .latency
        .add(measured.latency)
        .expect("the same bounds");
    let background_us = (background_ns() - background_before) as f64 / 1000.0;
    store.background_us.push(background_us / operations);
    Ok(())
}

/// Processor time of the threads that keep stores up, of both; that of the one without commits is nothing.
fn background_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task");
    let times = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).ok();
        let name = read("comm")?;
        let is_ours = name.starts_with("dovehouse-upkee") || name.starts_with("dovehouse-compa");
        let stat = read("schedstat").filter(|_| is_ours)?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
