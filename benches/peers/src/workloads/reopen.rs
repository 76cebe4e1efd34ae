//! How long opening takes until the first read succeeds: after a clean close, and after a kill in the midst
//! of writing. The writer that is killed is this program again, as a child.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Run, create};
use crate::content::{self, ENTRIES};
use crate::files;
use crate::output::{Section, median, number};
use crate::peers::{Engine, Peer};

/// How long the child goes on writing before it is killed.
const WRITING: Duration = Duration::from_millis(200);
const ACKNOWLEDGED: &str = "acknowledged";
const COLUMNS: &[&str] = &[
    "engine",
    "objects",
    "clean_ms",
    "clean_highest",
    "killed_ms",
    "killed_highest",
    "lost_objects",
];

struct Sample {
    clean_ms: f64,
    killed_ms: f64,
    lost: u64,
}

pub fn run(run: &Run) -> Result<Section> {
    let found = run.interleave("reopen", run.rounds, |engine, _| {
        let clean = timed_open(run, engine, &run.store(engine))?;
        clean.0.close()?;
        let (killed_ms, lost) = killed(run, engine)?;
        Ok(Sample {
            clean_ms: clean.1,
            killed_ms,
            lost,
        })
    })?;
    let rows = found.iter().map(|(engine, samples)| {
        let clean = || samples.iter().map(|sample| sample.clean_ms);
        let killed = || samples.iter().map(|sample| sample.killed_ms);
        vec![
            engine.name().into(),
            engine.objects(run.objects).into(),
            median(clean()).map(number).into(),
            clean().max_by(f64::total_cmp).map(number).into(),
            median(killed()).map(number).into(),
            killed().max_by(f64::total_cmp).map(number).into(),
            samples.iter().map(|sample| sample.lost).sum::<u64>().into(),
        ]
    });
    Ok(Section {
        name: "reopen",
        title: format!(
            "Opening until the first read, page cache warm, medians of {} rounds",
            run.rounds
        ),
        columns: COLUMNS,
        rows: rows.collect(),
    })
}

/// Opens a store and reads from it, and says how many milliseconds that took.
fn timed_open(run: &Run, engine: Engine, dir: &Path) -> Result<(Box<dyn Peer>, f64)> {
    let id = content::id(run.seed, engine.objects(run.objects) / 2);
    let mut value = Vec::new();
    let start = Instant::now();
    let peer = engine.open(dir)?;
    ensure!(peer.read(&id, ENTRIES[0], &mut value)?, "a key is missing");
    Ok((peer, start.elapsed().as_secs_f64() * 1000.0))
}

/// Kills a writer, and says how long opening took, and how many acknowledged objects are not there.
fn killed(run: &Run, engine: Engine) -> Result<(f64, u64)> {
    let dir = run.dir.join(format!("killed-{}", engine.name()));
    files::quiesce(&run.dir)?;
    let mut child = start_child(run, engine, &dir)?;
    let acknowledged = wait_for(&mut child);
    std::thread::sleep(WRITING);
    child.kill()?;
    child.wait()?;
    acknowledged?;

    let (peer, killed_ms) = timed_open(run, engine, &dir)?;
    let (mut lost, mut value) = (0, Vec::new());
    for number in 0..engine.objects(run.objects) {
        value.clear();
        let found = peer.read(&content::id(run.seed, number), ENTRIES[0], &mut value)?;
        lost += u64::from(!found);
    }
    peer.close()?;
    std::fs::remove_dir_all(dir)?;
    Ok((killed_ms, lost))
}

fn start_child(run: &Run, engine: Engine, dir: &Path) -> Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--killed-writer", engine.name()])
        .args([
            "--objects",
            &run.objects.to_string(),
            "--seed",
            &run.seed.to_string(),
        ])
        .arg("--data")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(child)
}

fn wait_for(child: &mut Child) -> Result<()> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut line)?;
    ensure!(
        line.trim_end() == ACKNOWLEDGED,
        "the writer stopped by itself"
    );
    Ok(())
}

/// The child: creates the objects, says so when all are durable, and writes them anew until it is killed.
pub fn child(engine: Engine, dir: &Path, objects: u64, seed: u64) -> Result<()> {
    let peer = engine.open(dir)?;
    let objects = engine.objects(objects);
    create::load(&*peer, objects, seed, seed)?;
    writeln!(std::io::stdout(), "{ACKNOWLEDGED}")?;
    for content in seed + 1.. {
        create::load(&*peer, objects, seed, content)?;
    }
    Ok(())
}
