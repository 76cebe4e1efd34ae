//! Reading one key of a random object with everything cached: of one that sleeps, and of one that the
//! engine keeps open, if it knows such a thing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::Run;
use crate::content::{self, ENTRIES, Id};
use crate::drive::{histogram, quantile_us, record};
use crate::output::{Section, median, number};
use crate::peers::Engine;

/// Objects that are kept open.
const AWAKE: usize = 100;
const COLUMNS: &[&str] = &[
    "engine",
    "objects",
    "reads_per_s",
    "p50_us",
    "p99_us",
    "awake_p50_us",
    "awake_p99_us",
];

struct Sample {
    asleep: Histogram<u64>,
    elapsed: Duration,
    awake: Option<Histogram<u64>>,
}

pub fn run(run: &Run) -> Result<Section> {
    let found = run.interleave("read", run.rounds, |engine, round| {
        measure(run, engine, round)
    })?;
    let rows = found.iter().map(|(engine, samples)| {
        let rate = |sample: &Sample| sample.asleep.len() as f64 / sample.elapsed.as_secs_f64();
        let asleep = |quantile| {
            median(
                samples
                    .iter()
                    .map(|sample| quantile_us(&sample.asleep, quantile)),
            )
        };
        let awake = |quantile| {
            let kept = samples.iter().filter_map(|sample| sample.awake.as_ref());
            median(kept.map(|histogram| quantile_us(histogram, quantile)))
        };
        vec![
            engine.name().into(),
            engine.objects(run.objects).into(),
            median(samples.iter().map(rate)).map(number).into(),
            asleep(0.5).map(number).into(),
            asleep(0.99).map(number).into(),
            awake(0.5).map(number).into(),
            awake(0.99).map(number).into(),
        ]
    });
    Ok(Section {
        name: "read",
        title: format!(
            "Warm reads of one key by one thread, medians of {} rounds",
            run.rounds
        ),
        columns: COLUMNS,
        rows: rows.collect(),
    })
}

fn measure(run: &Run, engine: Engine, round: usize) -> Result<Sample> {
    let objects = engine.objects(run.objects);
    let peer = engine.open(&run.store(engine))?;
    let mut rng = fastrand::Rng::with_seed(run.seed ^ round as u64);
    let ids: Vec<Id> = (0..objects)
        .map(|number| content::id(run.seed, number))
        .collect();
    for id in &ids {
        ensure!(
            peer.read(id, ENTRIES[0], &mut Vec::new())?,
            "an object is missing"
        );
    }
    let start = Instant::now();
    let asleep = sample(run.time, |out| {
        peer.read(&ids[rng.usize(..ids.len())], ENTRIES[0], out)
    })?;
    let elapsed = start.elapsed();
    let kept = &ids[..AWAKE.min(ids.len())];
    let awake = match peer.awake(kept)? {
        Some(reader) => Some(sample(run.time / 2, |out| {
            reader(rng.usize(..kept.len()), ENTRIES[0], out)
        })?),
        None => None,
    };
    peer.close()?;
    Ok(Sample {
        asleep,
        elapsed,
        awake,
    })
}

/// Reads for so long.
fn sample(
    time: Duration,
    mut read: impl FnMut(&mut Vec<u8>) -> Result<bool>,
) -> Result<Histogram<u64>> {
    let mut latency = histogram();
    let mut value = Vec::new();
    let start = Instant::now();
    let mut since = start;
    while since - start < time {
        value.clear();
        ensure!(read(&mut value)?, "a key is missing");
        let now = Instant::now();
        record(&mut latency, now - since);
        since = now;
    }
    Ok(latency)
}
