//! A commit each second on one object of about a KB, for thirty days: of a clock that each commit moves. With its
//! history kept exactly, and thinned out.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_engine::Engine;
use dovehouse_engine::wal::fs::{File, Fs, LockGuard, LockKind, Mode, RealFs};

use super::super::{Run, content};
use super::sizes;
use crate::exit::Failure;
use crate::output;

const DAYS: u64 = 30;
const QUICK_DAYS: u64 = 1;
const HOUR_SECONDS: u64 = 3600;
/// Of 112 bytes.
pub(super) const KEYS: usize = 9;
const START_MS: u64 = 1_700_000_000_000;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    month(run, "month", false)?;
    month(run, "thinned_month", true)
}

fn month(run: &mut Run, name: &str, is_thinned: bool) -> Result<(), Failure> {
    let days = if run.quick { QUICK_DAYS } else { DAYS };
    let dir = run.dir.join(name);
    let fs = Arc::new(FastFs::default());
    let engine = Engine::builder(&dir)
        .fs(fs.clone())
        .without_threads()
        .open()?;
    let class = engine.class("Bench")?;
    engine.set_thinning(class, is_thinned)?;
    let mut object = engine.wake(class, content::id(run.seed, 0))?;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    for entry in 0..KEYS {
        content::put(&mut object, run.kind, &mut rng, 0, entry)?;
    }
    content::wait(object.commit()?)?;
    engine.checkpoint()?;
    let before = engine.stats();
    let bar = output::progress(days * 24, "hours");
    for _ in 0..days * 24 {
        for _ in 0..HOUR_SECONDS {
            fs.ms.fetch_add(1000, Ordering::Relaxed);
            let entry = rng.usize(..KEYS);
            content::put(&mut object, run.kind, &mut rng, 0, entry)?;
            content::wait(object.commit()?)?;
        }
        engine.keep_up()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let commits = days * 24 * HOUR_SECONDS;
    sizes::note(run, &engine, &before, name, commits)?;
    let stats = engine.stats().history;
    run.note(&format!("{name}_history_bytes"), stats.table_bytes);
    run.note(&format!("{name}_tables"), stats.tables);
    drop(object);
    engine.close()?;
    drop(engine);
    Ok(std::fs::remove_dir_all(dir)?)
}

/// The real disk, by a clock that is moved. It does not wait for the disk to be durable either: how many bytes
/// there are does not depend on that.
#[derive(Debug, Default)]
struct FastFs {
    ms: AtomicU64,
}

impl Fs for FastFs {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let dsync = false;
        RealFs.open(path, Mode { dsync, ..mode })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFs.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealFs.create_dir(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealFs.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFs.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        RealFs.lock(path, kind)
    }

    fn now_ms(&self) -> u64 {
        START_MS + self.ms.load(Ordering::Relaxed)
    }

    fn elapsed_us(&self) -> u64 {
        self.ms.load(Ordering::Relaxed) * 1000
    }

    fn random_u64(&self) -> u64 {
        RealFs.random_u64()
    }
}
