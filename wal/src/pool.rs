//! The segment files: made and zero-filled off the commit path, recycled in place.
//!
//! A file that was never written costs an extent conversion and a journal commit at its first write,
//! so files are filled with zeros and synced before the committer meets them, and afterwards reused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};
use crate::fs::{File, Fs, Mode};
use crate::lsn::Position;
use crate::segment::{BLOCK_BYTES, Role, SegmentHeader};
use crate::superblock::{TableEntry, TableState};

const NAME_PREFIX: &str = "segment-";
/// Background writes go in slices, so that a commit never waits behind a big one.
const FILL_SLICE_BYTES: usize = 256 << 10;

/// One life of a segment file. Whoever holds it keeps the file from being reused.
#[derive(Debug)]
pub struct Segment {
    /// The number in the file's name.
    pub file_number: u32,
    /// The segment's number in this life.
    pub segno: u32,
    /// The salt of this life.
    pub salt: u64,
    /// What it holds.
    pub role: Role,
    /// The file's path, for messages.
    pub path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    end: AtomicU32,
}

impl Segment {
    /// The offset behind the last durable batch that counts.
    pub fn end(&self) -> u32 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn set_end(&self, offset: u32) {
        self.end.store(offset, Ordering::Release);
    }
}

/// Which life of a file a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) segno: u32,
    pub(crate) salt: u64,
    pub(crate) role: Role,
}

impl From<&SegmentHeader> for Life {
    fn from(header: &SegmentHeader) -> Self {
        Life {
            segno: header.segno,
            salt: header.salt,
            role: header.role,
        }
    }
}

#[derive(Debug)]
enum State {
    Free,
    /// A segment of the log, active, in the replay range, or sealed; or a pack.
    Used(Arc<Segment>),
    /// A life that is no part of the log; reusable once a checkpoint lies behind its number.
    Dead {
        segno: u32,
    },
    /// Released, but a reader still holds it.
    Retired(Arc<Segment>),
    /// Released, and held by nobody: free once a checkpoint has said so.
    Releasing,
}

#[derive(Debug)]
pub(crate) struct Pool {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    segment_bytes: u64,
    files: Mutex<BTreeMap<u32, State>>,
    by_segno: RwLock<HashMap<u32, Arc<Segment>>>,
    growing: Mutex<()>,
    /// Free files that have their space but were never written.
    unfilled: Mutex<HashSet<u32>>,
    /// Segments in use, for those who ask often.
    used: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, segment_bytes: u64) -> Self {
        Pool {
            fs,
            dir: dir.to_owned(),
            segment_bytes,
            files: Mutex::default(),
            by_segno: RwLock::default(),
            growing: Mutex::default(),
            unfilled: Mutex::default(),
            used: AtomicUsize::new(0),
        }
    }

    /// The numbers of the segment files in a directory.
    pub(crate) fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<u32>> {
        let names = fs
            .list(dir)
            .map_err(|error| Error::io("list", dir, error))?;
        Ok(names
            .iter()
            .filter_map(|name| name.strip_prefix(NAME_PREFIX)?.parse().ok())
            .collect())
    }

    pub(crate) fn path(&self, file_number: u32) -> PathBuf {
        self.dir.join(format!("{NAME_PREFIX}{file_number:08}"))
    }

    pub(crate) fn open_file(&self, file_number: u32, write: bool) -> Result<Arc<dyn File>> {
        let path = self.path(file_number);
        let mode = Mode {
            write,
            create: false,
            dsync: write,
        };
        self.fs
            .open(&path, mode)
            .map_err(|error| Error::io("open", &path, error))
    }

    /// Notes a file as a segment of the store, complete up to the offset `end`.
    pub(crate) fn add_segment(
        &self,
        file_number: u32,
        file: Arc<dyn File>,
        life: Life,
        end: u32,
    ) -> Arc<Segment> {
        let path = self.path(file_number);
        let Life { segno, salt, role } = life;
        let segment = Arc::new(Segment {
            file_number,
            segno,
            salt,
            role,
            path,
            file,
            end: AtomicU32::new(end),
        });
        self.files
            .lock()
            .insert(file_number, State::Used(segment.clone()));
        let mut by_segno = self.by_segno.write();
        by_segno.insert(segno, segment.clone());
        self.used.store(by_segno.len(), Ordering::Relaxed);
        segment
    }

    pub(crate) fn add_free(&self, file_number: u32) {
        self.files.lock().insert(file_number, State::Free);
    }

    pub(crate) fn add_dead(&self, file_number: u32, segno: u32) {
        self.files.lock().insert(file_number, State::Dead { segno });
    }

    pub(crate) fn free_count(&self) -> usize {
        self.files
            .lock()
            .values()
            .filter(|state| matches!(state, State::Free))
            .count()
    }

    /// Segments of the log and packs.
    pub(crate) fn used_count(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn file_count(&self) -> usize {
        self.files.lock().len()
    }

    /// The segment with this number, kept from reuse while held.
    pub(crate) fn segment(&self, segno: u32) -> Option<Arc<Segment>> {
        self.by_segno.read().get(&segno).cloned()
    }

    /// All segments of the log, in order.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> = self.by_segno.read().values().cloned().collect();
        all.sort_by_key(|segment| segment.segno);
        all
    }

    /// Begins a new life in a free file. `None` if there is none.
    pub(crate) fn activate(&self, header: &SegmentHeader) -> Result<Option<Arc<Segment>>> {
        let Some(number) = self.take_free(header.role == Role::Log) else {
            return Ok(None);
        };
        let file = self
            .open_file(number, true)
            .inspect_err(|_| self.add_free(number))?;
        self.unfilled.lock().remove(&number);
        Ok(Some(self.add_segment(
            number,
            file,
            header.into(),
            BLOCK_BYTES as u32,
        )))
    }

    /// Takes a free file out of the hands of others: no checkpoint lies behind its number. The filled
    /// ones are for the log.
    fn take_free(&self, prefer_filled: bool) -> Option<u32> {
        let mut files = self.files.lock();
        let unfilled = self.unfilled.lock();
        let free = files
            .iter_mut()
            .filter(|(_, state)| matches!(state, State::Free));
        let (number, state) =
            free.min_by_key(|(number, _)| unfilled.contains(number) == prefer_filled)?;
        *state = State::Dead { segno: u32::MAX };
        Some(*number)
    }

    /// Free files that the log can use at full speed.
    pub(crate) fn filled_count(&self) -> usize {
        let files = self.files.lock();
        let unfilled = self.unfilled.lock();
        let free = files
            .iter()
            .filter(|(_, state)| matches!(state, State::Free));
        free.filter(|(number, _)| !unfilled.contains(number))
            .count()
    }

    /// Makes one more free file: its space is its own, and its name durable.
    pub(crate) fn grow(&self) -> Result<()> {
        let _one_at_a_time = self.growing.lock();
        let number = self
            .files
            .lock()
            .last_key_value()
            .map_or(1, |(last, _)| last + 1);
        let path = self.path(number);
        let made = self.fs.open(&path, Mode::DURABLE).and_then(|file| {
            file.allocate(self.segment_bytes)?;
            file.sync()?;
            self.fs.sync_dir(&self.dir)
        });
        made.map_err(|error| {
            // A half-made file is removed at the next open, if not here.
            let _ = self.fs.unlink(&path);
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                    cause: format!("cannot create {}: {error}", path.display()),
                },
                _ => Error::io("create", &path, error),
            }
        })?;
        self.unfilled.lock().insert(number);
        self.add_free(number);
        Ok(())
    }

    /// Fills a free file with zeros, if there is one that was never written. Returns whether there was.
    pub(crate) fn fill(&self) -> Result<bool> {
        let _one_at_a_time = self.growing.lock();
        let Some(number) = self.take_unfilled() else {
            return Ok(false);
        };
        let path = self.path(number);
        let filled = self.write_zeros(&path);
        if filled.is_ok() {
            self.unfilled.lock().remove(&number);
        }
        self.add_free(number);
        filled.map_err(|error| Error::io("fill", &path, error))?;
        Ok(true)
    }

    fn take_unfilled(&self) -> Option<u32> {
        let mut files = self.files.lock();
        let unfilled = self.unfilled.lock();
        let (number, state) = files
            .iter_mut()
            .find(|(number, state)| matches!(state, State::Free) && unfilled.contains(number))?;
        *state = State::Dead { segno: u32::MAX };
        Some(*number)
    }

    fn write_zeros(&self, path: &Path) -> io::Result<()> {
        let file = self.fs.open(path, Mode::DURABLE)?;
        let zeros = vec![0; FILL_SLICE_BYTES.min(self.segment_bytes as usize)];
        let mut offset = 0;
        while offset < self.segment_bytes {
            let slice = &zeros[..zeros.len().min((self.segment_bytes - offset) as usize)];
            file.write_all_at(&[slice], offset)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }

    /// Removes free files while `may_go` says so. Returns how many.
    pub(crate) fn trim(&self, mut may_go: impl FnMut() -> bool) -> Result<usize> {
        let mut removed = 0;
        while may_go() {
            // Nobody activates the file once it is dead; a crash that brings it back leaves it free.
            let Some(number) = self.take_free(false) else {
                break;
            };
            let path = self.path(number);
            self.fs
                .unlink(&path)
                .map_err(|error| Error::io("remove", &path, error))?;
            self.files.lock().remove(&number);
            self.unfilled.lock().remove(&number);
            removed += 1;
        }
        if removed > 0 {
            self.fs
                .sync_dir(&self.dir)
                .map_err(|error| Error::io("sync", &self.dir, error))?;
        }
        Ok(removed)
    }

    /// The table for a checkpoint that starts replay at `replay_from` and frees `released`.
    pub(crate) fn table(&self, replay_from: Position, released: &[u32]) -> Vec<TableEntry> {
        let released: HashSet<u32> = released.iter().copied().collect();
        let start = replay_from.lsn.segno();
        let sealed = |segment: &Segment| TableState::Sealed {
            life: Life {
                segno: segment.segno,
                salt: segment.salt,
                role: segment.role,
            },
            end: segment.end(),
        };
        let state = |state: &State| match state {
            State::Free | State::Releasing => TableState::Free,
            State::Used(segment) if released.contains(&segment.segno) => TableState::Free,
            State::Used(segment) if segment.role != Role::Log => match segment.end() {
                // Nothing in it is durable yet.
                end if u64::from(end) == BLOCK_BYTES => TableState::Free,
                _ => sealed(segment),
            },
            State::Used(segment) if segment.segno < start => sealed(segment),
            State::Dead { segno } if *segno < start => TableState::Free,
            State::Used(_) | State::Dead { .. } => TableState::Log,
            State::Retired(segment) => sealed(segment),
        };
        let mut files = self.files.lock();
        for state in files.values_mut() {
            // Nobody can take hold of it again. One that is let go of after this is for the next table.
            if matches!(state, State::Retired(segment) if Arc::strong_count(segment) == 1) {
                *state = State::Releasing;
            }
        }
        files
            .iter()
            .map(|(file, found)| TableEntry {
                file: *file,
                state: state(found),
            })
            .collect()
    }

    /// Frees what the checkpoint with this table said is free. Returns how many files that gave.
    pub(crate) fn release(&self, replay_from: Position, released: &[u32]) -> usize {
        let gone: Vec<Arc<Segment>> = {
            let mut by_segno = self.by_segno.write();
            released
                .iter()
                .filter_map(|segno| by_segno.remove(segno))
                .collect()
        };
        self.used.fetch_sub(gone.len(), Ordering::Relaxed);
        let mut files = self.files.lock();
        let mut freed = 0;
        for segment in gone {
            let number = segment.file_number;
            // Besides the log's own reference and this one there are only readers.
            let state = match Arc::strong_count(&segment) {
                0..=2 => State::Releasing,
                _ => State::Retired(segment),
            };
            files.insert(number, state);
        }
        for state in files.values_mut() {
            let free = match state {
                State::Dead { segno } => *segno < replay_from.lsn.segno(),
                State::Releasing => true,
                State::Free | State::Used(_) | State::Retired(_) => false,
            };
            if free {
                *state = State::Free;
                freed += 1;
            }
        }
        freed
    }
}
