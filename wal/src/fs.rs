//! The file seam: everything the store asks of a disk, a clock and a source of randomness.
//!
//! The whole store does its I/O through [`Fs`] and [`File`]. [`RealFs`] is the operating system;
//! [`crate::sim::SimFs`] is a disk that forgets, tears and fails on request, from one seed.
//!
//! What the store relies on, and nothing more:
//! - a write to a file opened with [`Mode::dsync`] that returned without error survives a power cut;
//! - after [`File::sync`] returned without error, so do all earlier writes to that file and its length;
//! - after [`Fs::sync_dir`] returned without error, so do the creations and removals in it;
//! - a sector of 512 bytes is written whole or not at all;
//! - a write or sync that failed proves nothing about the bytes it covers.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// How a file is opened. All files are opened for reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Also open for writing.
    pub write: bool,
    /// Create the file if it does not exist; needs `write`.
    pub create: bool,
    /// Every write is durable when it returns (`O_DSYNC`).
    pub dsync: bool,
}

impl Mode {
    /// Read only.
    pub const READ: Mode = Mode {
        write: false,
        create: false,
        dsync: false,
    };
    /// Read and write, creating the file; durable after [`File::sync`].
    pub const WRITE: Mode = Mode {
        write: true,
        create: true,
        dsync: false,
    };
    /// Read and write, creating the file; every write is durable when it returns.
    pub const DURABLE: Mode = Mode {
        write: true,
        create: true,
        dsync: true,
    };
}

/// A directory tree, a clock and a source of randomness.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Opens a file. Fails with [`io::ErrorKind::NotFound`] unless it exists or `mode.create` is set.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// The names of the files in a directory, sorted. Directories in it are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; no error if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the creations and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an advisory lock on a file, without waiting; released when the result is dropped.
    /// Fails with [`io::ErrorKind::WouldBlock`] if another holder excludes it.
    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>>;
    /// Wall time in milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// Microseconds since some moment, by a clock that is never set: for measuring.
    fn elapsed_us(&self) -> u64;
    /// Sixty-four random bits. Not predictable on a real system.
    fn random_u64(&self) -> u64;
}

/// What a lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Excludes everybody else: for the one process that writes. Creates the file.
    Exclusive,
    /// Excludes the writer only. The file must exist.
    Shared,
}

/// A held lock.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// An open file. Reads and writes name their offset, so a file can be shared between threads.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes the parts one after the other, as one system call where possible. May write less.
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes all earlier writes and the file's length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn byte_len(&self) -> io::Result<u64>;
    /// Sets the file's length; new bytes read as zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file at least so long, with space on the disk for all of it; new bytes read as zero.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// The operating system's file, if there is one to map into memory.
    fn as_std(&self) -> Option<&std::fs::File>;
}

impl dyn File + '_ {
    /// Writes all parts, continuing after a short write. An error means that any of the bytes may
    /// or may not have been written.
    pub fn write_all_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.write_vectored_at(rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads exactly `buf.len()` bytes, or fails with [`io::ErrorKind::UnexpectedEof`].
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The operating system's files, clock and randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealFs;

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(mode.write).create(mode.create);
        if mode.dsync {
            options.custom_flags(rustix::fs::OFlags::DSYNC.bits() as i32);
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(dir)?;
        // The new name lives in the parent, so the parent is what has to be made durable.
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        let file = match kind {
            LockKind::Exclusive => std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?,
            LockKind::Shared => std::fs::File::open(path)?,
        };
        let taken = match kind {
            LockKind::Exclusive => file.try_lock(),
            LockKind::Shared => file.try_lock_shared(),
        };
        match taken {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |elapsed| elapsed.as_millis() as u64)
    }

    fn elapsed_us(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(
            read,
            Ok(bytes.len()),
            "the kernel gives eight random bytes whole"
        );
        u64::from_le_bytes(bytes)
    }
}

#[derive(Debug)]
struct RealLock {
    // The lock lives as long as the descriptor.
    _file: std::fs::File,
}

impl LockGuard for RealLock {}

#[derive(Debug)]
struct RealFile(std::fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }

    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, parts, offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&self.0, flags, 0, len)?)
    }

    fn as_std(&self) -> Option<&std::fs::File> {
        Some(&self.0)
    }
}
