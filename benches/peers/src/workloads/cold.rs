//! Reading from random objects with nothing cached: one key, and the whole state. The store is closed, its
//! files are dropped from the page cache, it is opened again, and a few objects are read; then the same
//! again. What an engine loads when it opens is not counted, so it shows in `reopen` only.

use std::time::Instant;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::Run;
use crate::content::{self, ENTRIES, Id};
use crate::drive::{histogram, quantile_us, record};
use crate::files;
use crate::output::{Section, number};
use crate::peers::{Engine, Peer};

/// How often a round drops everything.
const SETS: usize = 8;
/// Reads after that. Few, for each brings neighbours into memory.
const READS: usize = 16;
const COLUMNS: &[&str] = &[
    "engine",
    "objects",
    "key_p50_us",
    "key_p99_us",
    "key_kib_read",
    "state_p50_us",
    "state_p99_us",
    "state_kib_read",
];

/// Reads of one kind.
struct Reads {
    latency: Histogram<u64>,
    disk_bytes: u64,
}

impl Reads {
    fn new() -> Self {
        Reads {
            latency: histogram(),
            disk_bytes: 0,
        }
    }

    /// Median, a bad case, and KiB that each read from the disk.
    fn cells(&self) -> [serde_json::Value; 3] {
        let kib = self.disk_bytes as f64 / 1024.0 / self.latency.len() as f64;
        let us = |quantile| number(quantile_us(&self.latency, quantile));
        [us(0.5), us(0.99), number(kib)]
    }
}

pub fn run(run: &Run) -> Result<Section> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let mut bare = Reads::new();
    let bare_file = files::bare_file(&run.dir)?;
    let mut measure = |engine, _| {
        if engine == run.engines[0] {
            bare_reads(&bare_file, &mut bare, &mut rng)?;
        }
        let key = reads(run, engine, &mut rng, &mut |peer, id, out| {
            ensure!(peer.read(id, ENTRIES[0], out)?, "a key is missing");
            Ok(())
        })?;
        let state = reads(run, engine, &mut rng, &mut |peer, id, out| {
            ensure!(peer.read_all(id, out)? == ENTRIES.len(), "a key is missing");
            Ok(())
        })?;
        Ok((key, state))
    };
    let found = run.interleave("cold", run.rounds, &mut measure)?;
    let mut first = vec!["bare read of 4 KiB".into(), serde_json::Value::Null];
    first.extend(bare.cells());
    first.resize(COLUMNS.len(), serde_json::Value::Null);
    let mut rows = vec![first];
    for (engine, rounds) in found {
        let (keys, states): (Vec<Reads>, Vec<Reads>) = rounds.into_iter().unzip();
        let mut row = vec![engine.name().into(), engine.objects(run.objects).into()];
        row.extend(all(&keys)?.cells());
        row.extend(all(&states)?.cells());
        rows.push(row);
    }
    let samples = run.rounds * SETS * READS;
    Ok(Section {
        name: "cold",
        title: format!("Cold reads of one key, and of all 3 keys of an object: {samples} of each"),
        columns: COLUMNS,
        rows,
    })
}

fn all(rounds: &[Reads]) -> Result<Reads> {
    let mut all = Reads::new();
    for round in rounds {
        all.latency.add(&round.latency)?;
        all.disk_bytes += round.disk_bytes;
    }
    Ok(all)
}

fn bare_reads(file: &std::path::Path, reads: &mut Reads, rng: &mut fastrand::Rng) -> Result<()> {
    let before = files::read_bytes()?;
    for _ in 0..SETS * READS {
        record(&mut reads.latency, files::bare_read(file, rng)?);
    }
    reads.disk_bytes += files::read_bytes()? - before;
    Ok(())
}

type Read<'a> = &'a mut dyn FnMut(&dyn Peer, &Id, &mut Vec<u8>) -> Result<()>;

fn reads(run: &Run, engine: Engine, rng: &mut fastrand::Rng, read: Read<'_>) -> Result<Reads> {
    let mut reads = Reads::new();
    let mut value = Vec::new();
    for _ in 0..SETS {
        files::drop_cached(&run.store(engine))?;
        let peer = engine.open(&run.store(engine))?;
        let before = files::read_bytes()?;
        for _ in 0..READS {
            let id = content::id(run.seed, rng.u64(..engine.objects(run.objects)));
            value.clear();
            let start = Instant::now();
            read(&*peer, &id, &mut value)?;
            record(&mut reads.latency, start.elapsed());
        }
        reads.disk_bytes += files::read_bytes()? - before;
        peer.close()?;
    }
    Ok(reads)
}
