//! A file of 4 KiB pages that is read through the memory map and rewritten in place.
//!
//! The file changes under the map, by our own writes, so no `&[u8]` is ever formed over it: readers
//! load single 64-bit words atomically and check what they get with the checksums inside the entries.
//! This is the engine's only `unsafe` code. Where there is nothing to map (the simulated disk, a
//! read-only store that never had a checkpoint) reads go through the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_wal::Error;
use dovehouse_wal::fs::{File, Fs, Mode};
use parking_lot::{RwLock, RwLockReadGuard};

/// Size of an index page.
pub(crate) const PAGE_BYTES: usize = 4096;

/// An index page in memory.
pub(crate) type Page = [u8; PAGE_BYTES];

/// Files grow by this much at a time, so that the map is seldom made anew.
const GROWTH_PAGES: u64 = 256;

#[derive(Debug)]
pub(crate) struct IndexFile {
    path: PathBuf,
    /// `None` if the store is read only and the file was never made.
    file: Option<Arc<dyn File>>,
    map: RwLock<Map>,
    written_pages: AtomicU64,
    /// Held while a page is rewritten.
    rewriting: RwLock<()>,
}

#[derive(Debug)]
struct Map {
    words: Option<Words>,
    pages: u64,
}

impl IndexFile {
    pub(crate) fn open(fs: &dyn Fs, path: &Path, write: bool) -> Result<Self, Error> {
        let mode = if write { Mode::WRITE } else { Mode::READ };
        let file = match fs.open(path, mode) {
            Ok(file) => Some(file),
            Err(error) if !write && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("open", path, error)),
        };
        let index = IndexFile {
            path: path.to_owned(),
            file,
            map: RwLock::new(Map {
                words: None,
                pages: 0,
            }),
            written_pages: AtomicU64::new(0),
            rewriting: RwLock::default(),
        };
        index.remap()?;
        Ok(index)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error + '_ {
        move |error| Error::io(doing, &self.path, error)
    }

    fn remap(&self) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let pages = file.byte_len().map_err(self.io("measure"))? / PAGE_BYTES as u64;
        let words = match file.as_std() {
            Some(std) if pages > 0 => {
                Some(Words::map(std, pages as usize * PAGE_BYTES).map_err(self.io("map"))?)
            }
            _ => None,
        };
        *self.map.write() = Map { words, pages };
        Ok(())
    }

    /// Keeps pages from being rewritten while it is held. A reader whose checksum fails looks again under
    /// it, since it may have met a page half old and half new; what is still wrong then is damaged.
    pub(crate) fn hold_still(&self) -> RwLockReadGuard<'_, ()> {
        self.rewriting.read()
    }

    /// Bytes of pages that were written since the file was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_pages.load(Ordering::Relaxed) * PAGE_BYTES as u64
    }

    /// How many pages there are; behind them everything is zero.
    pub(crate) fn pages(&self) -> u64 {
        self.map.read().pages
    }

    /// Reads `N` words of eight bytes at a byte offset, which is a multiple of eight. Each word is read
    /// whole, but not all of them at one moment.
    pub(crate) fn words<const N: usize>(&self, offset: u64) -> Result<[u64; N], Error> {
        let map = self.map.read();
        if offset + 8 * N as u64 > map.pages * PAGE_BYTES as u64 {
            return Ok([0; N]);
        }
        if let Some(words) = &map.words {
            return Ok(std::array::from_fn(|at| {
                words.load(offset as usize / 8 + at)
            }));
        }
        let mut bytes = vec![0; 8 * N];
        let file = self.file.as_ref().expect("a file with pages is there");
        file.read_exact_at(&mut bytes, offset)
            .map_err(self.io("read"))?;
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
        Ok(std::array::from_fn(|_| {
            words.next().expect("N words were read")
        }))
    }

    /// A copy of a page; zeros behind the end.
    pub(crate) fn page(&self, number: u64) -> Result<Box<Page>, Error> {
        let mut page = Box::new([0; PAGE_BYTES]);
        if let Some(file) = self.file.as_ref().filter(|_| number < self.pages()) {
            let offset = number * PAGE_BYTES as u64;
            file.read_exact_at(&mut page[..], offset)
                .map_err(self.io("read"))?;
        }
        Ok(page)
    }

    /// Rewrites a page, making the file longer where needed. Durable after [`IndexFile::sync`].
    pub(crate) fn write_page(&self, number: u64, page: &Page) -> Result<(), Error> {
        let file = self
            .file
            .as_ref()
            .expect("a store that writes has its index files");
        if number >= self.pages() {
            // With its space, so that a full disk is met here and not by a page in the middle; on a full
            // disk just as far as it must.
            let allocate = |pages: u64| file.allocate(pages * PAGE_BYTES as u64);
            allocate((number + 1).next_multiple_of(GROWTH_PAGES))
                .or_else(|_| allocate(number + 1))
                .map_err(self.io("grow"))?;
            self.remap()?;
        }
        self.written_pages.fetch_add(1, Ordering::Relaxed);
        let _readers_wait = self.rewriting.write();
        file.write_all_at(&[page], number * PAGE_BYTES as u64)
            .map_err(self.io("write"))
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        let file = self
            .file
            .as_ref()
            .expect("a store that writes has its index files");
        file.sync().map_err(self.io("sync"))
    }
}

/// Words of eight bytes in memory that somebody else may rewrite.
#[derive(Debug)]
struct Words {
    start: *const AtomicU64,
    len: usize,
    /// What keeps the memory alive.
    _owner: memmap2::MmapRaw,
}

// SAFETY: the words are only ever read, and only as atomics; the owner is `Send + Sync` itself.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn map(file: &std::fs::File, bytes: usize) -> std::io::Result<Self> {
        // The length is that of whole pages which the file has, and index files are never truncated
        // while a store is open (the lock file keeps other processes out), so no load leads past the
        // end of the file. `MmapRaw` hands out a pointer, never a slice.
        let owner = memmap2::MmapOptions::new()
            .len(bytes)
            .map_raw_read_only(file)?;
        // Slots and hashes have no neighbours that are needed next: readahead would bring 128 KiB for each
        // page, and wake a cold object after it.
        owner.advise(memmap2::Advice::Random)?;
        let start = owner.as_ptr().cast::<AtomicU64>();
        Ok(Words {
            start,
            len: bytes / 8,
            _owner: owner,
        })
    }

    fn load(&self, at: usize) -> u64 {
        assert!(at < self.len, "the caller stays inside the map");
        // SAFETY: `at` is inside the mapping, which lives as long as `_owner`; a mapping starts on a
        // page, so the word is aligned; other writers of this memory are the kernel on behalf of our
        // own `pwrite`, which an atomic load may race with. A relaxed load of eight bytes is allowed
        // on read-only memory.
        let word = unsafe { &*self.start.add(at) };
        u64::from_le(word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million objects were being made when one was refused: its bucket was being rewritten by a
    /// checkpoint, half of it was new, and the checksum was called wrong.
    #[test]
    fn a_page_is_never_half_rewritten_for_a_reader_who_holds_it_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let file = IndexFile::open(&dovehouse_wal::fs::RealFs, &path, true).unwrap();
        file.write_page(0, &[0; PAGE_BYTES]).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..100_000_u32 {
                    file.write_page(0, &[round as u8; PAGE_BYTES]).unwrap();
                }
            });
            while !writer.is_finished() {
                let _still = file.hold_still();
                let words: [u64; PAGE_BYTES / 8] = file.words(0).unwrap();
                assert!(words.iter().all(|word| *word == words[0]));
            }
        });
    }
}
