//! A simulated disk that forgets, tears and fails on request, from one seed.
//!
//! [`SimFs`] keeps two things apart for every sector of 512 bytes: what a reader sees now, and what
//! a power cut may leave instead. A sync or a durable write settles the second; an error on either
//! leaves the page cache *clean but lying*, so that later syncs succeed and repair nothing, as Linux
//! file systems do.
//!
//! There are two crashes. [`SimFs::process_death`] keeps the page cache: whatever was written is seen.
//! [`SimFs::power_loss`] keeps any subset of what was not synced, and drops un-synced directory entries.
//! Each returns a new disk; cross them to test a kill that is followed by a power cut.
//! [`SimFs::on_operation`] is called before every operation that changes the disk, with the disk as a
//! crash in the middle of that operation would leave it: this is how tests crash at *every* I/O.
//!
//! Nothing here reads the real clock or real randomness: the same seed and calls give the same
//! [`SimFs::trace`].

mod disk;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::fs::{File, Fs, LockGuard, LockKind, Mode};
use disk::Disk;

/// The sector size: a sector reaches the disk whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Runs a test from each of so many seeds, or from as many as `SEEDS` says, or from the one that `SEED`
/// names. `test` is what `cargo test` is to be told to run it again.
///
/// # Panics
/// If a run fails, with the command that replays it; if one of the variables is not a number.
pub fn for_each_seed(
    usually: u64,
    test: &str,
    run: impl Fn(u64) -> Result<(), String> + std::panic::RefUnwindSafe + Sync,
) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(
            value
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")),
        )
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(usually),
    };
    if let Some((seed, error)) = first_failure(seeds, run) {
        panic!("seed {seed}: {error}\nreplay: SEED={seed} cargo test {test}");
    }
}

/// The first seed from which a run fails, and why. A failed assertion is a failure, too. Seeds run side by
/// side, on a thread for each processor.
pub fn first_failure(
    seeds: std::ops::Range<u64>,
    run: impl Fn(u64) -> Result<(), String> + std::panic::RefUnwindSafe + Sync,
) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<Option<(u64, String)>> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || found.lock().is_some() {
                break;
            }
            let caught = std::panic::catch_unwind(|| run(seed));
            let outcome = caught.unwrap_or_else(|_| Err("an assertion failed, see above".into()));
            if let Err(error) = outcome {
                let mut found = found.lock();
                if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                    *found = Some((seed, error));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    found.into_inner()
}

/// What an injected fault acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write, durable or not.
    Write,
    /// A file sync.
    Sync,
    /// A read.
    Read,
    /// A change of a file's length.
    SetLen,
    /// A sync of a directory.
    SyncDir,
    /// The creation or removal of a name.
    Name,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An I/O error; a write may have been kept in any part, and a sync leaves the cache lying.
    Eio,
    /// No space left; nothing is written.
    Enospc,
    /// A write that returns having written less than asked.
    Short,
    /// A write that lands 4 KiB beside its place and reports success.
    Misdirected,
    /// A single bit arrives flipped, in a write or a read, and nobody says so.
    FlippedBit,
}

/// A fault to inject: `failure` at an `operation` on a file whose name contains `name`.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which kind of operation.
    pub operation: Operation,
    /// Part of the file's name; empty for all files.
    pub name: &'static str,
    /// How many matching operations to let pass first.
    pub after: u64,
    /// What goes wrong.
    pub failure: Failure,
    /// Whether it goes wrong every time from then on, or once.
    pub lasting: bool,
}

/// A simulated disk with its clock and randomness. Clones share the disk.
#[derive(Clone)]
pub struct SimFs {
    shared: Arc<Shared>,
}

type Hook = Box<dyn FnMut(SimFs) + Send>;

struct Shared {
    disk: Mutex<Disk>,
    hook: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for SimFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimFs").finish_non_exhaustive()
    }
}

impl SimFs {
    /// An empty disk. All its choices follow from the seed.
    pub fn new(seed: u64) -> Self {
        Self::from_disk(Disk::new(seed))
    }

    fn from_disk(disk: Disk) -> Self {
        SimFs {
            shared: Arc::new(Shared {
                disk: Mutex::new(disk),
                hook: Mutex::new(None),
            }),
        }
    }

    /// The disk as the next process finds it after this one was killed: the page cache survives.
    pub fn process_death(&self) -> SimFs {
        Self::from_disk(self.shared.disk.lock().next_process())
    }

    /// The disk after the power was cut: of everything un-synced, any part may be there.
    pub fn power_loss(&self) -> SimFs {
        let mut disk = self.shared.disk.lock().next_process();
        disk.settle();
        Self::from_disk(disk)
    }

    /// Calls `hook` before every operation that changes the disk, with a disk on which that
    /// operation went through in part. Replaces an earlier hook.
    pub fn on_operation(&self, hook: impl FnMut(SimFs) + Send + 'static) {
        *self.shared.hook.lock() = Some(Box::new(hook));
    }

    /// Removes the hook.
    pub fn clear_hook(&self) {
        *self.shared.hook.lock() = None;
    }

    /// How many operations changed the disk so far, whether or not they went well.
    pub fn operations(&self) -> u64 {
        self.shared.disk.lock().operations
    }

    /// A hash over every operation and its bytes: equal for equal seeds and calls.
    pub fn trace(&self) -> u64 {
        self.shared.disk.lock().trace
    }

    /// Arms a fault. Several can be armed; the first that matches an operation acts.
    pub fn inject(&self, fault: Fault) {
        self.shared.disk.lock().faults.push(fault);
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.shared.disk.lock().faults.clear();
    }

    /// Limits the sum of all file lengths; growing a file beyond it fails with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.disk.lock().capacity = bytes;
    }

    /// Lets a crash in the middle of a write leave whole sectors of it as garbage, in files whose name
    /// contains `name`: for what does not rely on sectors being written whole.
    pub fn shear(&self, name: &'static str) {
        self.shared.disk.lock().sheared = Some(name);
    }

    /// Moves the clock.
    pub fn advance(&self, ms: u64) {
        self.shared.disk.lock().now_ms += ms;
    }

    /// Sets the clock, backwards too.
    pub fn set_now_ms(&self, ms: u64) {
        self.shared.disk.lock().now_ms = ms;
    }

    /// Bit rot: changes bytes on the platter and in the cache, behind everybody's back.
    pub fn rot(&self, path: &Path, offset: u64, change: impl FnOnce(&mut u8)) {
        self.shared.disk.lock().rot(path, offset, change);
    }

    /// The present content of a file, as a reader sees it.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.shared.disk.lock();
        let inode = disk.find(path)?;
        Ok(disk.inode(inode).live.to_vec())
    }

    /// Runs the hook, if there is one, on a disk where `apply` went through in part.
    fn crash_point(&self, apply: impl FnOnce(&mut Disk)) {
        // The hook is taken out while it runs: it may use this disk itself.
        let Some(mut hook) = self.shared.hook.lock().take() else {
            return;
        };
        let mut image = self.shared.disk.lock().copy();
        apply(&mut image);
        hook(SimFs::from_disk(image));
        self.shared.hook.lock().get_or_insert(hook);
    }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let missing = self.shared.disk.lock().find(path).is_err();
        if missing {
            if !mode.create {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.crash_point(|image| image.create(path));
        }
        let mut disk = self.shared.disk.lock();
        if missing {
            disk.begin(Operation::Name, path)?;
            disk.create(path);
        }
        let inode = disk.find(path)?;
        Ok(Arc::new(SimFile {
            fs: self.clone(),
            path: path.to_owned(),
            inode,
            mode,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.shared.disk.lock().list(dir))
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        // Directories are taken for granted: the store makes one, once, before anything else.
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.crash_point(|image| image.unlink(path));
        let mut disk = self.shared.disk.lock();
        disk.begin(Operation::Name, path)?;
        disk.find(path)?;
        disk.unlink(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.crash_point(|_| ());
        let mut disk = self.shared.disk.lock();
        disk.begin(Operation::SyncDir, dir)?;
        disk.sync_dir(dir);
        Ok(())
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        let mut disk = self.shared.disk.lock();
        if kind == LockKind::Shared {
            disk.find(path)?;
        }
        disk.lock(path, kind)?;
        Ok(Box::new(SimLock {
            fs: self.clone(),
            path: path.to_owned(),
            kind,
        }))
    }

    fn now_ms(&self) -> u64 {
        self.shared.disk.lock().now_ms
    }

    fn elapsed_us(&self) -> u64 {
        self.now_ms() * 1000
    }

    fn random_u64(&self) -> u64 {
        self.shared.disk.lock().rng.u64(..)
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    path: PathBuf,
    kind: LockKind,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.shared.disk.lock().unlock(&self.path, self.kind);
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    path: PathBuf,
    inode: usize,
    mode: Mode,
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.fs.shared.disk.lock();
        let flipped = match disk.fault(Operation::Read, &self.path) {
            None => false,
            Some(Failure::FlippedBit) => true,
            Some(failure) => return Err(disk::error(failure)),
        };
        let read = disk.inode(self.inode).read(buf, offset);
        if flipped && read > 0 {
            let at = disk.rng.usize(0..read);
            buf[at] ^= 1 << disk.rng.u8(0..8);
        }
        Ok(read)
    }

    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        assert!(
            self.mode.write,
            "a write to {} that was opened for reading",
            self.path.display()
        );
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.fs.crash_point(|image| {
            image.write_partly(&self.path, self.inode, &bytes, offset, self.mode.dsync)
        });
        self.fs
            .shared
            .disk
            .lock()
            .write(&self.path, self.inode, bytes, offset, self.mode.dsync)
    }

    fn sync(&self) -> io::Result<()> {
        self.fs.crash_point(|image| image.sync_partly(self.inode));
        self.fs.shared.disk.lock().sync(&self.path, self.inode)
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.fs.shared.disk.lock().inode(self.inode).live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fs.crash_point(|_| ());
        self.fs
            .shared
            .disk
            .lock()
            .set_len(&self.path, self.inode, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match self.byte_len()? < len {
            true => self.set_len(len),
            false => Ok(()),
        }
    }

    fn as_std(&self) -> Option<&std::fs::File> {
        None
    }
}

#[cfg(test)]
mod tests;
