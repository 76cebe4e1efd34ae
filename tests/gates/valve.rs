//! The simulated disk, with a valve in front of the committer's writes.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use dovehouse::engine::wal::fs::{File, Fs, LockGuard, LockKind, Mode};
use dovehouse::engine::wal::sim::SimFs;

/// Holds commits while it is closed. Whatever else writes goes on.
#[derive(Clone, Debug, Default)]
pub struct Valve(Arc<(Mutex<bool>, Condvar)>);

impl Valve {
    pub fn close(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        if std::thread::current().name() == Some("dovehouse-commit") {
            let (closed, opened) = &*self.0;
            drop(opened.wait_while(closed.lock().unwrap(), |closed| *closed));
        }
    }
}

#[derive(Debug)]
pub struct HeldFs {
    pub disk: SimFs,
    pub valve: Valve,
}

#[derive(Debug)]
struct HeldFile {
    file: Arc<dyn File>,
    valve: Valve,
}

impl Fs for HeldFs {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(HeldFile {
            file: self.disk.open(path, mode)?,
            valve: self.valve.clone(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path, kind)
    }

    fn now_ms(&self) -> u64 {
        self.disk.now_ms()
    }

    fn elapsed_us(&self) -> u64 {
        self.disk.elapsed_us()
    }

    fn random_u64(&self) -> u64 {
        self.disk.random_u64()
    }
}

impl File for HeldFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.valve.pass();
        self.file.write_vectored_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn as_std(&self) -> Option<&std::fs::File> {
        self.file.as_std()
    }
}
