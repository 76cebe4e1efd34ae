//! Durable commits a second, and how long one takes, of clients that each wait for their own. Each client
//! has an object of its own, which is awake, and puts one small key. The other objects of the store sleep:
//! a tree must find the leaves that change among all others, as it must in a store that is in use.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Run;
use super::create::load;
use crate::content::{self, Id, KEY};
use crate::drive::{Free, Measured, drive, quantile_us, shares};
use crate::files;
use crate::output::{Section, median, number};
use crate::peers::{Engine, Peer};

const CLIENTS: [usize; 5] = [1, 16, 64, 256, 1024];
/// Writing the first segments, pages and log files is not what is asked: later they are overwritten, which
/// syncs faster.
const WARM: Duration = Duration::from_secs(1);
const BARE: &str = "bare O_DSYNC 4 KiB";
const COLUMNS: &[&str] = &[
    "engine",
    "clients",
    "commits_per_s",
    "lowest",
    "highest",
    "p50_us",
    "p99_us",
    "commits_per_sync",
];

/// What one round gave.
struct Sample {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    per_sync: f64,
}

impl Sample {
    fn new(measured: &Measured, per_sync: f64) -> Self {
        Sample {
            per_second: measured.per_second(),
            p50_us: quantile_us(&measured.latency, 0.5),
            p99_us: quantile_us(&measured.latency, 0.99),
            per_sync,
        }
    }
}

/// Several client numbers are one round, so that an engine's line is measured under one condition.
pub fn run(run: &Run) -> Result<Section> {
    let bare = files::bare_file(&run.dir)?;
    let mut references = Vec::new();
    let found = run.interleave("commit", run.rounds, |engine, _| {
        // Once a round, before the first engine.
        if engine == run.engines[0] {
            references.push(Sample::new(&files::bare_writes(&bare, run.time)?, 1.0));
        }
        let dir = run.dir.join(format!("commit-{}", engine.name()));
        if !dir.exists() {
            fill(run, engine, &dir)?;
        }
        CLIENTS
            .map(|clients| measure(run, engine, &dir, clients))
            .into_iter()
            .collect::<Result<Vec<_>>>()
    })?;
    let mut rows = vec![row(BARE, 1, references.iter())];
    for (place, clients) in CLIENTS.into_iter().enumerate() {
        for (engine, rounds) in &found {
            rows.push(row(
                engine.name(),
                clients,
                rounds.iter().map(|round| &round[place]),
            ));
        }
    }
    Ok(Section {
        name: "commit",
        title: format!("Durable commits, medians of {} rounds", run.rounds),
        columns: COLUMNS,
        rows,
    })
}

fn row<'a>(
    name: &str,
    clients: usize,
    samples: impl Iterator<Item = &'a Sample> + Clone,
) -> Vec<serde_json::Value> {
    let rates = || samples.clone().map(|sample| sample.per_second);
    let middle = |field: fn(&Sample) -> f64| median(samples.clone().map(field)).map(number).into();
    vec![
        name.into(),
        clients.into(),
        middle(|sample| sample.per_second),
        rates().min_by(f64::total_cmp).map(number).into(),
        rates().max_by(f64::total_cmp).map(number).into(),
        middle(|sample| sample.p50_us),
        middle(|sample| sample.p99_us),
        middle(|sample| sample.per_sync),
    ]
}

fn fill(run: &Run, engine: Engine, dir: &Path) -> Result<()> {
    let peer = engine.open(dir)?;
    load(&*peer, engine.objects(run.objects), run.seed, run.seed)?;
    peer.close()
}

fn measure(run: &Run, engine: Engine, dir: &Path, clients: usize) -> Result<Sample> {
    files::quiesce(&run.dir)?;
    let peer = engine.open(dir)?;
    let syncs = peer.syncs();
    let measured = commits(&*peer, run, clients)?;
    let per_sync = measured.commits as f64 / (peer.syncs() - syncs) as f64;
    peer.close()?;
    Ok(Sample::new(&measured, per_sync))
}

fn commits(peer: &dyn Peer, run: &Run, clients: usize) -> Result<Measured> {
    let ids: Vec<Id> = (0..clients as u64)
        .map(|number| content::id(run.seed, number))
        .collect();
    let shares = shares(clients, peer.drivers(clients));
    let end = WARM + run.time;
    drive(peer, clients, &ids, WARM, |free: Free<'_>| {
        let id = &ids[shares[free.thread].start + free.client];
        let value = content::small_value(free.at.as_nanos() as u64);
        if free.at < end {
            free.session.submit(free.client, id, &[(KEY, &value)])?;
        }
        Ok(free.at < end)
    })
}

/// Commits a second over clients, for a plot: a line for each engine.
pub fn lines(section: &Section) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for row in &section.rows {
        let name = row[0].as_str().unwrap_or_default();
        let point = (
            row[1].as_f64().unwrap_or_default(),
            row[2].as_f64().unwrap_or_default(),
        );
        match lines.iter_mut().find(|(line, _)| line == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name.to_owned(), vec![point])),
        }
    }
    lines
}
