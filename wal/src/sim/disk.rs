//! The state of the simulated disk: for each sector, what a reader sees and what a power cut may leave.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, Fault, Operation, SECTOR_BYTES};
use crate::fs::LockKind;

/// A sector's content, or what there is of it at the end of a file.
type Sector = Vec<u8>;

/// What a power cut may leave of a sector besides what a reader sees.
#[derive(Clone, Default)]
struct Unsettled {
    older: Vec<Sector>,
    /// Whether a sync still writes it. After a failed one the cache says clean, and it does not.
    dirty: bool,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What a reader sees.
    pub(super) live: Content,
    sectors: BTreeMap<usize, Unsettled>,
    /// Lengths that a power cut may leave instead of the live one.
    older_lengths: Vec<usize>,
}

impl Inode {
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        self.live.read(buf, offset as usize)
    }

    fn sector(&self, number: usize) -> Sector {
        let mut sector = vec![0; SECTOR_BYTES];
        let read = self.live.read(&mut sector, number * SECTOR_BYTES);
        sector.truncate(read);
        sector
    }

    fn put_live(&mut self, bytes: &[u8], offset: usize) {
        if self.live.len() < offset + bytes.len() {
            self.resize(offset + bytes.len());
        }
        self.live.write(bytes, offset);
    }

    fn resize(&mut self, len: usize) {
        if len != self.live.len() {
            self.older_lengths.push(self.live.len());
            self.live.resize(len);
        }
    }

    /// Writes the part of `bytes` that lies in one sector, into the cache only.
    fn cache_sector(&mut self, number: usize, bytes: &[u8], offset: usize, dirty: bool) {
        let older = self.sector(number);
        let state = self.sectors.entry(number).or_default();
        state.older.push(older);
        state.dirty = dirty;
        let (part, at) = clip(number, bytes, offset);
        self.put_live(part, at);
    }

    /// Writes the part of `bytes` that lies in one sector, to the platter.
    fn settle_sector(&mut self, number: usize, bytes: &[u8], offset: usize) {
        let (part, at) = clip(number, bytes, offset);
        self.put_live(part, at);
        self.sectors.remove(&number);
    }

    fn sync(&mut self) {
        self.sectors.retain(|_, state| !state.dirty);
        self.older_lengths.clear();
    }
}

/// A file's bytes, in pages that copies of the disk share: crash images are taken by the thousand.
#[derive(Clone, Default)]
pub(super) struct Content {
    pages: Vec<Arc<[u8; PAGE_BYTES]>>,
    len: usize,
}

const PAGE_BYTES: usize = 4096;

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.len];
        self.read(&mut all, 0);
        all
    }

    fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let from = offset.min(self.len);
        let to = (offset + buf.len()).min(self.len).max(from);
        for at in split(from..to) {
            let page = &self.pages[at.start / PAGE_BYTES];
            let inside = at.start % PAGE_BYTES..at.start % PAGE_BYTES + at.len();
            buf[at.start - from..at.end - from].copy_from_slice(&page[inside]);
        }
        to - from
    }

    /// Writes bytes inside the present length.
    fn write(&mut self, bytes: &[u8], offset: usize) {
        for at in split(offset..offset + bytes.len()) {
            let page = Arc::make_mut(&mut self.pages[at.start / PAGE_BYTES]);
            let inside = at.start % PAGE_BYTES..at.start % PAGE_BYTES + at.len();
            page[inside].copy_from_slice(&bytes[at.start - offset..at.end - offset]);
        }
    }

    fn resize(&mut self, len: usize) {
        if len < self.len {
            // What is cut off must read as zero if the file grows again.
            let end = self.len.min(len.next_multiple_of(PAGE_BYTES));
            self.write(&vec![0; end - len], len);
        }
        self.pages
            .resize(len.div_ceil(PAGE_BYTES), Arc::new([0; PAGE_BYTES]));
        self.len = len;
    }
}

/// The pieces of a range that each lie in one page.
fn split(range: std::ops::Range<usize>) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut from = range.start;
    std::iter::from_fn(move || {
        let to = (from + 1).next_multiple_of(PAGE_BYTES).min(range.end);
        let piece = from..to;
        from = to;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The part of a write that falls into a sector, and its offset in the file.
fn clip(number: usize, bytes: &[u8], offset: usize) -> (&[u8], usize) {
    let from = offset.max(number * SECTOR_BYTES);
    let to = (offset + bytes.len()).min((number + 1) * SECTOR_BYTES);
    (&bytes[from - offset..to - offset], from)
}

fn sectors_of(bytes: &[u8], offset: usize) -> std::ops::Range<usize> {
    offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES)
}

pub(super) fn error(failure: Failure) -> io::Error {
    match failure {
        Failure::Enospc => io::Error::from(io::ErrorKind::StorageFull),
        _ => io::Error::other("injected I/O error"),
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) rng: fastrand::Rng,
    /// Chooses what crashes leave. Apart from `rng`, so that taking crash images changes nothing else.
    crash_rng: fastrand::Rng,
    pub(super) now_ms: u64,
    pub(super) operations: u64,
    pub(super) trace: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity: Option<u64>,
    /// Files whose sectors a crash in the middle of a write may leave as garbage.
    pub(super) sheared: Option<&'static str>,
    inodes: Vec<Inode>,
    /// Names as a reader sees them, and as the directory has them on the platter.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    locks: HashMap<PathBuf, (usize, bool)>,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Disk {
            rng: fastrand::Rng::with_seed(seed),
            crash_rng: fastrand::Rng::with_seed(seed ^ 0x5EED),
            now_ms: 1_700_000_000_000,
            operations: 0,
            trace: seed,
            faults: Vec::new(),
            capacity: None,
            sheared: None,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            locks: HashMap::new(),
        }
    }

    /// A copy to crash. Its choices differ from those of the next copy.
    pub(super) fn copy(&mut self) -> Self {
        let mut copy = self.clone();
        copy.crash_rng = self.crash_rng.fork();
        copy
    }

    /// The same disk without what belongs to a process: its locks and its planned faults.
    pub(super) fn next_process(&mut self) -> Self {
        let mut next = self.copy();
        next.locks.clear();
        next.faults.clear();
        next
    }

    /// Takes the power away: every choice that was open is made.
    pub(super) fn settle(&mut self) {
        let paths: Vec<PathBuf> = self
            .names
            .keys()
            .chain(self.durable_names.keys())
            .cloned()
            .collect();
        for path in paths {
            if self.names.get(&path) != self.durable_names.get(&path) && self.crash_rng.bool() {
                match self.durable_names.get(&path).copied() {
                    Some(inode) => self.names.insert(path, inode),
                    None => self.names.remove(&path),
                };
            }
        }
        self.durable_names = self.names.clone();
        for inode in &mut self.inodes {
            for (number, state) in std::mem::take(&mut inode.sectors) {
                let choice = self.crash_rng.usize(0..=state.older.len());
                if let Some(older) = state.older.get(choice) {
                    // What lay past the end of the file when this version was current reads as zero.
                    let mut sector = older.clone();
                    sector.resize(SECTOR_BYTES, 0);
                    let from = number * SECTOR_BYTES;
                    sector.truncate(inode.live.len().saturating_sub(from));
                    inode.live.write(&sector, from);
                }
            }
            let choice = self.crash_rng.usize(0..=inode.older_lengths.len());
            if let Some(len) = inode.older_lengths.get(choice).copied() {
                inode.live.resize(len);
            }
            inode.older_lengths.clear();
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn inode(&self, number: usize) -> &Inode {
        &self.inodes[number]
    }

    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        let inside = self.names.keys().filter(|path| path.parent() == Some(dir));
        inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    pub(super) fn create(&mut self, path: &Path) {
        self.names.insert(path.to_owned(), self.inodes.len());
        self.inodes.push(Inode::default());
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.names.remove(path);
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        self.durable_names
            .retain(|path, _| path.parent() != Some(dir));
        let inside = self
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        self.durable_names
            .extend(inside.map(|(path, inode)| (path.clone(), *inode)));
    }

    pub(super) fn lock(&mut self, path: &Path, kind: LockKind) -> io::Result<()> {
        let (holders, exclusive) = self.locks.get(path).copied().unwrap_or((0, false));
        if holders > 0 && (exclusive || kind == LockKind::Exclusive) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.locks
            .insert(path.to_owned(), (holders + 1, kind == LockKind::Exclusive));
        if self.find(path).is_err() {
            self.create(path);
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self, path: &Path, kind: LockKind) {
        if let Some((holders, exclusive)) = self.locks.get_mut(path) {
            *holders -= 1;
            *exclusive &= kind != LockKind::Exclusive;
        }
    }

    /// The fault that acts on this operation, if any.
    pub(super) fn fault(&mut self, operation: Operation, path: &Path) -> Option<Failure> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let matches = |fault: &Fault| fault.operation == operation && name.contains(fault.name);
        let mut acting = None;
        for (index, fault) in self
            .faults
            .iter_mut()
            .enumerate()
            .filter(|(_, fault)| matches(fault))
        {
            if fault.after > 0 {
                fault.after -= 1;
            } else if acting.is_none() {
                acting = Some(index);
            }
        }
        let index = acting?;
        let failure = self.faults[index].failure;
        if !self.faults[index].lasting {
            self.faults.remove(index);
        }
        Some(failure)
    }

    fn note(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
        self.operations += 1;
    }

    /// Counts an operation that has no partial outcome, and fails it if a fault says so.
    pub(super) fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.note((operation as u8, path));
        self.fault(operation, path)
            .map_or(Ok(()), |failure| Err(error(failure)))
    }

    pub(super) fn write(
        &mut self,
        path: &Path,
        inode: usize,
        mut bytes: Vec<u8>,
        offset: u64,
        dsync: bool,
    ) -> io::Result<usize> {
        self.note((Operation::Write as u8, path, offset, &bytes));
        let mut offset = offset as usize;
        let whole = bytes.len();
        match self.fault(Operation::Write, path) {
            None => {}
            Some(Failure::Eio) => {
                self.write_failed(inode, &bytes, offset);
                return Err(error(Failure::Eio));
            }
            Some(Failure::Enospc) => return Err(error(Failure::Enospc)),
            Some(Failure::Short) => bytes.truncate((whole / 2).max(1)),
            Some(Failure::Misdirected) => offset += 4096,
            Some(Failure::FlippedBit) => {
                let at = self.rng.usize(0..whole);
                bytes[at] ^= 1 << self.rng.u8(0..8);
            }
        }
        let grown = (offset + bytes.len()).saturating_sub(self.inodes[inode].live.len());
        self.check_capacity(grown)?;
        for sector in sectors_of(&bytes, offset) {
            if dsync {
                self.inodes[inode].settle_sector(sector, &bytes, offset);
            } else {
                self.inodes[inode].cache_sector(sector, &bytes, offset, true);
            }
        }
        if dsync {
            self.inodes[inode].older_lengths.clear();
        }
        Ok(bytes.len())
    }

    /// A crash in the middle of a write: each sector is untouched, in the cache, on the platter, or,
    /// where that is asked for, unreadable garbage.
    pub(super) fn write_partly(
        &mut self,
        path: &Path,
        inode: usize,
        bytes: &[u8],
        offset: u64,
        dsync: bool,
    ) {
        let offset = offset as usize;
        let sheared = self
            .sheared
            .is_some_and(|name| path.to_string_lossy().contains(name));
        // All-or-nothing outcomes are the interesting boundary cases: make them common.
        let uniform = self.crash_rng.u8(0..6);
        for sector in sectors_of(bytes, offset) {
            let choice = if uniform < 3 {
                uniform
            } else {
                self.crash_rng.u8(0..4)
            };
            match choice {
                0 => {}
                1 if dsync => self.inodes[inode].settle_sector(sector, bytes, offset),
                3 if sheared => {
                    let garbage = [self.crash_rng.u8(..); SECTOR_BYTES];
                    self.inodes[inode].settle_sector(sector, &garbage, sector * SECTOR_BYTES);
                }
                _ => self.inodes[inode].cache_sector(sector, bytes, offset, true),
            }
        }
    }

    /// A write that reports an error: nothing, everything, or a part may be on the platter, and the
    /// cache may show the new bytes as clean.
    fn write_failed(&mut self, inode: usize, bytes: &[u8], offset: usize) {
        let outcome = self.rng.u8(0..4);
        for sector in sectors_of(bytes, offset) {
            let file = &mut self.inodes[inode];
            match outcome {
                0 => file.cache_sector(sector, bytes, offset, false),
                1 => {}
                2 => file.settle_sector(sector, bytes, offset),
                _ if self.rng.bool() => file.settle_sector(sector, bytes, offset),
                _ => {}
            }
        }
    }

    pub(super) fn sync(&mut self, path: &Path, inode: usize) -> io::Result<()> {
        self.note((Operation::Sync as u8, path));
        if let Some(failure) = self.fault(Operation::Sync, path) {
            for state in self.inodes[inode].sectors.values_mut() {
                state.dirty = false;
            }
            return Err(error(failure));
        }
        self.inodes[inode].sync();
        Ok(())
    }

    /// A crash in the middle of a sync: some sectors made it.
    pub(super) fn sync_partly(&mut self, inode: usize) {
        let rng = &mut self.crash_rng;
        self.inodes[inode]
            .sectors
            .retain(|_, state| !(state.dirty && rng.bool()));
    }

    pub(super) fn set_len(&mut self, path: &Path, inode: usize, len: u64) -> io::Result<()> {
        self.begin(Operation::SetLen, path)?;
        let len = len as usize;
        self.check_capacity(len.saturating_sub(self.inodes[inode].live.len()))?;
        self.inodes[inode].resize(len);
        Ok(())
    }

    fn check_capacity(&self, grown: usize) -> io::Result<()> {
        let used: usize = self
            .names
            .values()
            .map(|inode| self.inodes[*inode].live.len())
            .sum();
        match self.capacity {
            Some(capacity) if grown > 0 && (used + grown) as u64 > capacity => {
                Err(error(Failure::Enospc))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn rot(&mut self, path: &Path, offset: u64, change: impl FnOnce(&mut u8)) {
        let inode = self.find(path).expect("the test names a file that exists");
        let file = &mut self.inodes[inode];
        let mut byte = [0];
        file.live.read(&mut byte, offset as usize);
        change(&mut byte[0]);
        file.live.write(&byte, offset as usize);
        file.sectors.remove(&(offset as usize / SECTOR_BYTES));
    }
}
