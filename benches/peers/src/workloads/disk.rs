//! What objects take on disk, after a clean close and after the engine gave back what it can.

use std::time::Instant;

use anyhow::Result;

use super::Run;
use crate::files;
use crate::output::{Section, number};
use crate::peers::Engine;

const COLUMNS: &[&str] = &[
    "engine",
    "objects",
    "after_close",
    "settled",
    "free_bytes",
    "bytes_per_object",
    "without_free",
    "settle_ms",
];

/// Settles every engine's store.
pub fn run(run: &Run) -> Result<Section> {
    let found = run.interleave("settle", 1, |engine, _| settle(run, engine))?;
    Ok(Section {
        name: "disk",
        title: "Bytes on disk; each object has 368 bytes of id, keys and values".to_owned(),
        columns: COLUMNS,
        rows: found.into_iter().flat_map(|(_, rows)| rows).collect(),
    })
}

fn settle(run: &Run, engine: Engine) -> Result<Vec<serde_json::Value>> {
    let (dir, objects) = (run.store(engine), engine.objects(run.objects));
    let closed = files::disk_bytes(&dir)?;
    let peer = engine.open(&dir)?;
    let start = Instant::now();
    peer.settle()?;
    let settle_ms = start.elapsed().as_secs_f64() * 1000.0;
    let settled = files::disk_bytes(&dir)?;

    let peer = engine.open(&dir)?;
    let free = peer.free_bytes()?;
    // Opening may prepare files for what is to come, which are among the free ones then.
    let used = match free {
        0 => settled,
        _ => files::disk_bytes(&dir)?.saturating_sub(free),
    };
    peer.close()?;
    let each = |bytes: u64| number(bytes as f64 / objects as f64);
    Ok(vec![
        engine.name().into(),
        objects.into(),
        closed.into(),
        settled.into(),
        free.into(),
        each(settled),
        each(used),
        number(settle_ms),
    ])
}
