//! Recovery: from what a crash left to a log that keeps every promise it made.
//!
//! 1. Choose the valid SUPER slot with the highest generation, and write it again, durably.
//! 2. Follow the chain of segments from the replay start. A segment ends at the batch that its
//!    successor names; of several successors the highest segment number counts.
//! 3. At the first bad batch decide between a torn tail, which was never acknowledged, and damage to
//!    acknowledged data, which refuses the open.
//! 4. Never append behind a recovered tail: what follows goes into a fresh segment, which names the
//!    last *proven* batch as its predecessor.
//! 5. Before anything is served, sync what was replayed, and write every batch that no later one
//!    proves again, durably, into the fresh segment: the last run may have ended in a failed write
//!    whose pages the kernel has since called clean.
//!
//! Each line is there because a model checker found a trace that loses data without it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crossbeam::channel::bounded;
use parking_lot::Mutex;

use crate::batch::{Batch, RecordView};
use crate::chain::{Chain, Unproven};
use crate::committer::{Active, Layout};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, LockKind};
use crate::hole::Hole;
use crate::log::{Inner, Ledger, Log};
use crate::lsn::{DurableLsn, Lsn, Position};
use crate::options::LogOptions;
use crate::pool::Pool;
use crate::room::Room;
use crate::segment::{BLOCK_BYTES, Role, SegmentHeader};
use crate::superblock::{Checkpoint, SuperFile, Superblock};
use crate::teeth::Flaw;
use crate::ticket::Progress;

/// What may be done with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look at it. Nothing is written; a tail that a crash left is replayed in memory only.
    ReadOnly,
    /// The same for a store whose log is damaged: what can be read behind the damage counts.
    Damaged,
    /// Write to a store that exists.
    Write,
    /// Write, and create the store if it does not exist.
    Create,
}

impl Access {
    /// Whether the store may be written.
    pub fn writes(self) -> bool {
        matches!(self, Access::Write | Access::Create)
    }
}

/// What a replay meets.
#[derive(Clone, Copy, Debug)]
pub enum Replayed<'a> {
    /// A record, with its batch's time.
    Record(RecordView<'a>, u64),
    /// A part that cannot be read.
    Hole(&'a Hole),
}

/// A store that is locked and whose checkpoint was read, before its log is replayed.
#[derive(Debug)]
pub struct Opening {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    access: Access,
    lock: Box<dyn LockGuard>,
    super_file: SuperFile,
    pub(crate) checkpoint: Checkpoint,
}

const LOCK_NAME: &str = "LOCK";

impl Opening {
    /// Locks the store in `dir` and reads its checkpoint.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, options: LogOptions, access: Access) -> Result<Self> {
        let read_only = !access.writes();
        if access == Access::Create {
            fs.create_dir(dir)
                .map_err(|error| Error::io("create", dir, error))?;
        }
        let lock = take_lock(&*fs, dir, access)?;
        let found = SuperFile::exists(&*fs, dir)?;
        let opened = if found {
            SuperFile::open(fs.clone(), dir, !read_only)?
        } else {
            None
        };
        let super_file = match opened {
            Some(super_file) => super_file,
            // A SUPER without a valid slot is a creation that was cut off, unless there is a log.
            None if found && !Pool::list(&*fs, dir)?.is_empty() => {
                return Err(Error::corrupt(
                    &dir.join("SUPER"),
                    0,
                    "neither of its slots is valid",
                ));
            }
            None if access == Access::Create => {
                check_segment_bytes(options.segment_bytes);
                SuperFile::create(fs.clone(), dir, options.segment_bytes)?
            }
            None => {
                return Err(Error::NotAStore {
                    path: dir.to_owned(),
                });
            }
        };
        if !read_only {
            super_file.rewrite()?;
        }
        let checkpoint = super_file.checkpoint()?;
        Ok(Opening {
            fs,
            dir: dir.to_owned(),
            options,
            access,
            lock,
            super_file,
            checkpoint,
        })
    }

    /// What the layer above wrote with its last checkpoint; empty for a new store.
    pub fn payload(&self) -> &[u8] {
        &self.checkpoint.payload
    }

    pub(crate) fn is_tolerant(&self) -> bool {
        self.access == Access::Damaged
    }

    /// The superblock that counts.
    pub fn superblock(&self) -> &Superblock {
        &self.checkpoint.superblock
    }

    /// Replays the log from the checkpoint on, and makes what it replayed durable. `replay` gets each
    /// record with its batch's time, in log order, at its final place.
    pub fn recover<L: Ledger, E: From<Error>>(
        self,
        ledger: Arc<L>,
        mut replay: impl FnMut(RecordView<'_>, u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Log<L>, E> {
        self.recover_replaying(ledger, |replayed| match replayed {
            Replayed::Record(record, time_ms) => replay(record, time_ms),
            Replayed::Hole(hole) => Err(hole.error.clone().into()),
        })
    }

    /// The same, with the holes of a log that was opened as [`Access::Damaged`], where they are met.
    pub fn recover_replaying<L: Ledger, E: From<Error>>(
        self,
        ledger: Arc<L>,
        mut replay: impl FnMut(Replayed<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Log<L>, E> {
        let superblock = self.checkpoint.superblock;
        let pool = Pool::new(self.fs.clone(), &self.dir, superblock.segment_bytes);
        let write = self.access.writes();
        let mut chain = Chain::new(&self, &pool, write)?;
        let mut told = 0;
        while let Some(batch) = chain.next_proven()? {
            tell_holes(&chain.holes, &mut told, Some(batch.header.lsn), &mut replay)?;
            deliver(&batch, &mut replay)?;
        }
        let unproven = std::mem::take(&mut chain.unproven);
        for batch in unproven.iter().filter(|_| !write) {
            let before = Some(batch.batch.header.lsn);
            tell_holes(&chain.holes, &mut told, before, &mut replay)?;
            deliver(&batch.batch, &mut replay)?;
        }
        tell_holes(&chain.holes, &mut told, None, &mut replay)?;
        let mut inner = self.into_inner(ledger, pool, &chain, write);
        if write {
            chain.sync()?;
            for batch in inner.relog(&chain, &unproven)? {
                deliver(&batch, &mut replay)?;
            }
        }
        inner.adopt(&chain, write);
        Ok(Log::start(inner))
    }

    fn into_inner<L: Ledger>(
        self,
        ledger: Arc<L>,
        pool: Pool,
        chain: &Chain,
        write: bool,
    ) -> Inner<L> {
        let superblock = self.checkpoint.superblock;
        let segment_bytes = superblock.segment_bytes;
        let record_bytes_max = LogOptions::record_bytes_max(segment_bytes);
        let tail = if write { chain.proven } else { chain.tail };
        Inner {
            store_id: superblock.store_id,
            segment_bytes,
            record_bytes_max,
            batch_bytes: self.options.batch_bytes,
            teeth: self.options.teeth,
            drive: self.options.drive,
            read_only: !write,
            ledger,
            progress: Arc::new(Progress::new(DurableLsn::proven(tail.lsn))),
            room: Arc::new(Room::new(
                segment_bytes,
                record_bytes_max,
                self.options.teeth,
            )),
            queue: bounded(self.options.queue_records),
            queued_bytes: AtomicU64::new(0),
            queue_bytes: self.options.queue_bytes,
            layout: Mutex::new(Layout::new(tail, chain.segno_max, chain.time_ms)),
            step: Mutex::default(),
            super_file: Mutex::new(self.super_file),
            counters: Default::default(),
            realtime: AtomicBool::new(false),
            lock: Mutex::new(Some(self.lock)),
            fs: self.fs,
            dir: self.dir,
            pool,
        }
    }
}

fn take_lock(fs: &dyn Fs, dir: &Path, access: Access) -> Result<Box<dyn LockGuard>> {
    let path = dir.join(LOCK_NAME);
    let kind = match access {
        Access::ReadOnly | Access::Damaged => LockKind::Shared,
        // Taking the exclusive lock creates its file; do that only where a store is or shall be.
        Access::Write if !SuperFile::exists(fs, dir).unwrap_or(false) => {
            return Err(Error::NotAStore {
                path: dir.to_owned(),
            });
        }
        Access::Write | Access::Create => LockKind::Exclusive,
    };
    fs.lock(&path, kind).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked {
            path: dir.to_owned(),
        },
        std::io::ErrorKind::NotFound => Error::NotAStore {
            path: dir.to_owned(),
        },
        _ => Error::io("lock", &path, error),
    })
}

/// # Panics
/// If the size is not one that a store can have.
fn check_segment_bytes(bytes: u64) {
    let allowed = 64 << 10..=2 << 30;
    assert!(
        allowed.contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES),
        "segment_bytes is a multiple of 4 KiB from 64 KiB to 2 GiB, not {bytes}"
    );
}

fn deliver<E>(
    batch: &Batch,
    replay: &mut impl FnMut(Replayed<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    batch
        .records()
        .try_for_each(|record| replay(Replayed::Record(record, batch.header.time_ms)))
}

/// Tells of the holes that lie before a batch, or of all that are left; `told` counts them.
fn tell_holes<E>(
    holes: &[Hole],
    told: &mut usize,
    before: Option<Lsn>,
    replay: &mut impl FnMut(Replayed<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let next = holes[*told..].iter();
    for hole in next.take_while(|hole| before.is_none_or(|before| hole.lsn < before)) {
        replay(Replayed::Hole(hole))?;
        *told += 1;
    }
    Ok(())
}

impl<L: Ledger> Inner<L> {
    /// Writes the unproven batches again, durably, as the first of a fresh segment. Returns them as
    /// they stand there.
    fn relog(&mut self, chain: &Chain, unproven: &[Unproven]) -> Result<Vec<Batch>> {
        if unproven.is_empty() {
            return Ok(Vec::new());
        }
        if self.teeth.has(Flaw::NoRelog) {
            return Ok(unproven
                .iter()
                .map(|unproven| unproven.batch.clone())
                .collect());
        }
        let header = SegmentHeader {
            role: Role::Log,
            store_id: self.store_id,
            segno: chain.segno_max + 1,
            salt: self.fs.random_u64(),
            pred_salt: chain.proven.salt,
            pred_last_batch: chain.proven.last_batch,
            created_ms: self.fs.now_ms(),
            segment_bytes: self.segment_bytes,
        };
        let segment = match self.pool.activate(&header)? {
            Some(segment) => segment,
            None => {
                self.grow()?;
                self.pool.activate(&header)?.expect("a file was just made")
            }
        };
        let mut bytes = header.encode();
        let mut prev_crc = header.crc();
        let mut batches = Vec::new();
        for (number, unproven) in (1..).zip(unproven) {
            let lsn = Lsn::new(header.segno, bytes.len() as u32);
            let batch = unproven.batch.moved(&header, lsn, number, prev_crc);
            prev_crc = batch.crc;
            bytes.extend_from_slice(batch.bytes());
            bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
            batches.push(batch);
        }
        let written = segment.file.write_all_at(&[&bytes], 0);
        written.map_err(|error| Error::io("write", &segment.path, error))?;
        let position = Position {
            lsn: Lsn::new(header.segno, bytes.len() as u32),
            salt: header.salt,
            last_batch: batches.len() as u32,
        };
        segment.set_end(position.lsn.offset());
        self.progress.advance(position.lsn);
        let mut layout = Layout::new(position, header.segno, chain.time_ms);
        layout.go_on_in(Active::after(segment, position, prev_crc));
        self.layout = Mutex::new(layout);
        Ok(batches)
    }

    /// Tells the pool what became of each file, and counts the room there is.
    fn adopt(&mut self, chain: &Chain, write: bool) {
        let mut ends: HashMap<usize, u32> = chain.ends.iter().copied().collect();
        if !write {
            // Nothing was written again: the tail is served from where it lies.
            ends.extend(chain.current.map(|life| (life, chain.tail.lsn.offset())));
        }
        for (index, life) in chain.lives.iter().enumerate() {
            if let Some(end) = ends.get(&index) {
                let (number, file) = (life.file_number, life.file.clone());
                self.pool
                    .add_segment(number, file, (&life.header).into(), *end);
            }
        }
        self.room.add_segments(self.pool.free_count());
        let remaining = self.layout.get_mut().remaining(self.segment_bytes);
        self.room.consume(0, self.room.usable(remaining), false);
    }
}
