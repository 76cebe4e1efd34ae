//! Opening after a crash: the log's tail is replayed, and what it proves is made durable again.

use std::time::Instant;

use dovehouse_engine::Engine;

use super::{Run, content};
use crate::exit::Failure;

/// The tail that a crash leaves, in bytes of records.
const TAIL_BYTES: u64 = 256 << 20;
/// A record of the tail has this size, frame included.
const RECORD_BYTES: u64 = 120;

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = Engine::builder(&run.dir)
        .checkpoint_bytes(u64::MAX)
        .checkpoint_ms(u64::MAX)
        .memory_bytes(1 << 40)
        .open()?;
    let class = content::load_filled(&engine, run)?;
    engine.checkpoint()?;

    let before = engine.stats().log.record_bytes;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let bar = crate::output::progress(TAIL_BYTES >> 20, "MiB of log");
    let mut last = None;
    loop {
        let written = engine.stats().log.record_bytes - before;
        bar.set_position(written >> 20);
        if written >= TAIL_BYTES {
            break;
        }
        for _ in 0..4096 {
            let mut object = engine.wake(class, content::id(run.seed, rng.u64(..run.objects)))?;
            // With its frame and its header this is a record of the size that is asked for.
            let mut value = [0; RECORD_BYTES as usize - 37];
            rng.fill(&mut value);
            object.put(b"entry:00", &value).expect("room");
            last = object.commit()?;
        }
    }
    if let Some(ticket) = last {
        ticket.wait().map_err(content::engine_error)?;
    }
    bar.finish_and_clear();
    let log = engine.stats().log;
    run.note("tail_records", log.records);
    run.note("tail_bytes", log.record_bytes - before);
    // Stops without a checkpoint, which is what a killed process leaves.
    drop(engine);

    let engine = run.reopen()?;
    engine.close()?;
    drop(engine);

    let start = Instant::now();
    let engine = run.open()?;
    run.note_number(
        "open_after_close_ms",
        start.elapsed().as_secs_f64() * 1000.0,
    );
    engine.close()?;
    Ok(())
}
