//! Creating objects: each is one durable commit of three keys, and many commits are under way.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::Run;
use crate::content::{self, ENTRIES};
use crate::drive::{Measured, drive};
use crate::files;
use crate::output::{Section, median, number};
use crate::peers::{Engine, Peer, Put};

/// Commits under way: what an import would do.
const UNDER_WAY: usize = 4096;

/// Leaves a store with objects for each engine.
pub fn run(run: &Run, rounds: usize) -> Result<Section> {
    let found = run.interleave("create", rounds, |engine, _| {
        measure(run, engine, &run.store(engine))
    })?;
    let rows = found.iter().map(|(engine, samples)| {
        let rates = || samples.iter().map(|(per_second, _)| *per_second);
        vec![
            engine.name().into(),
            engine.objects(run.objects).into(),
            median(rates()).map(number).into(),
            rates().min_by(f64::total_cmp).map(number).into(),
            rates().max_by(f64::total_cmp).map(number).into(),
            median(samples.iter().map(|(_, per_sync)| *per_sync))
                .map(number)
                .into(),
        ]
    });
    Ok(Section {
        name: "create",
        title: format!(
            "Creating objects of 3 keys, {UNDER_WAY} under way, medians of {rounds} rounds"
        ),
        columns: &[
            "engine",
            "objects",
            "objects_per_s",
            "lowest",
            "highest",
            "commits_per_sync",
        ],
        rows: rows.collect(),
    })
}

fn measure(run: &Run, engine: Engine, dir: &Path) -> Result<(f64, f64)> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    files::quiesce(&run.dir)?;
    let peer = engine.open(dir)?;
    let syncs = peer.syncs();
    let measured = load(&*peer, engine.objects(run.objects), run.seed, run.seed)?;
    let per_sync = measured.commits as f64 / (peer.syncs() - syncs) as f64;
    peer.close()?;
    Ok((measured.per_second(), per_sync))
}

/// Writes so many objects, all durable afterwards. `seed` names them, `content` fills them.
pub fn load(peer: &dyn Peer, objects: u64, seed: u64, content: u64) -> Result<Measured> {
    let next = AtomicU64::new(0);
    let under_way = UNDER_WAY.min(objects as usize);
    drive(peer, under_way, &[], Duration::ZERO, |free| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number < objects {
            let values = content::fill(content, number);
            let puts: Vec<Put<'_>> = ENTRIES
                .into_iter()
                .zip(values.iter().map(Vec::as_slice))
                .collect();
            free.session
                .submit(free.client, &content::id(seed, number), &puts)?;
        }
        Ok(number < objects)
    })
}
