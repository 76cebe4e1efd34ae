//! What compaction costs: commits of many small objects, updated at random, while it runs.

use std::time::Duration;

use dovehouse_engine::Engine;

use super::{Run, commit, content};
use crate::exit::Failure;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    content::load_filled(&engine, run)?;
    engine.compact()?;
    let idle = commit::measure(
        &engine,
        run,
        Duration::from_secs(run.seconds / 4),
        "seconds, idle",
    )?;
    run.note_latency("idle_", &idle.latency);

    let before = engine.stats();
    let updates = update(run, &engine)?;
    let busy = commit::measure(
        &engine,
        run,
        Duration::from_secs(run.seconds),
        "seconds, compacting",
    )?;
    engine.compact()?;
    let after = engine.stats();
    run.note_rate(busy.operations, busy.elapsed);
    run.note_latency("", &busy.latency);
    run.note("updates", updates);
    run.note("moved_objects", after.moved_objects - before.moved_objects);
    run.note(
        "durable_writes",
        after.log.durable_writes - before.log.durable_writes,
    );
    let records = after.log.record_bytes - before.log.record_bytes;
    let device = (after.log.log_bytes - before.log.log_bytes)
        + (after.log.pack_bytes - before.log.pack_bytes)
        + (after.log.manifest_bytes - before.log.manifest_bytes)
        + (after.index_bytes - before.index_bytes);
    run.note_number("write_amplification", device as f64 / records as f64);
    let used: u64 = after
        .segments
        .iter()
        .map(|segment| segment.used_bytes)
        .sum();
    let live: u64 = after
        .segments
        .iter()
        .map(|segment| segment.live_bytes)
        .sum();
    run.note_number("space_amplification", used as f64 / live as f64);
    engine.close()?;
    Ok(())
}

/// Rewrites half of the objects, chosen at random, so that every segment is half dead.
fn update(run: &Run, engine: &Engine) -> Result<u64, Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let (kind, seed, objects) = (run.kind, run.seed, run.objects);
    let class = engine.class("Bench")?;
    let bar = crate::output::progress(objects / 2, "updates");
    let mut last = None;
    for count in 0..objects / 2 {
        let number = rng.u64(..objects);
        let mut object = engine.wake(class, content::id(seed, number))?;
        content::fill(&mut object, kind, seed ^ rng.u64(..), number);
        last = object.commit()?.or(last);
        if count % 1024 == 0 {
            bar.set_position(count);
        }
    }
    if let Some(ticket) = last {
        ticket.wait().map_err(content::engine_error)?;
    }
    bar.finish_and_clear();
    Ok(objects / 2)
}
