//! Files as the disk sees them: what they take, dropping them from the page cache, and bare writes and
//! reads to compare with.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{Advice, OFlags, fadvise};

use crate::drive::{Measured, histogram, record};

const BLOCK: usize = 4096;
const BARE_BYTES: u64 = 64 << 20;

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() {
                &mut dirs
            } else {
                &mut files
            };
            found.push(entry.path());
        }
    }
    Ok(files)
}

/// What a directory's files take on the disk, holes not counted.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut blocks = 0;
    for file in files(dir)? {
        blocks += file.metadata()?.blocks();
    }
    Ok(blocks * 512)
}

/// Drops a directory's files from the page cache. Nobody must have them mapped.
pub fn drop_cached(dir: &Path) -> Result<()> {
    for path in files(dir)? {
        let file = File::open(path)?;
        // What is dirty cannot be dropped.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Writes out what earlier measurements left in the page cache, so that it does not disturb the next.
pub fn quiesce(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Bytes that this process had read from the disk so far.
pub fn read_bytes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(line
        .context("the kernel does not count what is read")?
        .parse()?)
}

/// A file of zeros that was written before, for [`bare_writes`] and [`bare_read`].
pub fn bare_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("bare");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; BARE_BYTES as usize], 0)?;
    file.sync_all()?;
    Ok(path)
}

/// 4 KiB after 4 KiB with `O_DSYNC`, for so long: what one client can reach at best.
pub fn bare_writes(path: &Path, time: Duration) -> Result<Measured> {
    let dsync = OFlags::DSYNC.bits() as i32;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(dsync)
        .open(path)?;
    let block = [7; BLOCK];
    let mut latency = histogram();
    let start = Instant::now();
    let mut since = start;
    while since - start < time {
        file.write_all_at(&block, latency.len() * BLOCK as u64 % BARE_BYTES)?;
        let now = Instant::now();
        record(&mut latency, now - since);
        since = now;
    }
    let elapsed = start.elapsed();
    Ok(Measured {
        elapsed,
        commits: latency.len(),
        latency,
    })
}

/// How long one read of 4 KiB that are not cached takes.
pub fn bare_read(path: &Path, rng: &mut fastrand::Rng) -> Result<Duration> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let offset = rng.u64(..BARE_BYTES / BLOCK as u64) * BLOCK as u64;
    let mut block = [0; BLOCK];
    let start = Instant::now();
    file.read_exact_at(&mut block, offset)?;
    Ok(start.elapsed())
}
