//! The log: append records, wait for them, read them back, and name checkpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::batch::{FRAME_BYTES, Frame, RecordView, decode_record};
use crate::committer::{Job, Layout, Pending, Step, raise_priority};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard};
use crate::lsn::{DurableLsn, Lsn, Position};
use crate::options::Drive;
use crate::pool::{Pool, Segment};
use crate::room::{Claim, Reservation, Room};
use crate::segment::{BLOCK_BYTES, SegmentHeader};
use crate::stats::{Counters, LogStats, add};
use crate::superblock::{SuperFile, Superblock};
use crate::teeth::{Flaw, Teeth};
use crate::ticket::{Progress, Pump, Pumped, Ticket};

/// The layer above, which knows what a record belongs to.
pub trait Ledger: Send + Sync + 'static {
    /// What the ledger wants back with a record's place; opaque to the log.
    type Note: Send + 'static;

    /// A record got its place. Called in log order, once for each record that was appended with a
    /// note, before the record is written. Returns the link to the previous record of the same
    /// object, or [`Lsn::NONE`].
    fn place(&self, note: Self::Note, placed: Placed) -> Lsn;
}

/// A record's place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Where its frame starts.
    pub lsn: Lsn,
    /// Bytes it takes, frame included.
    pub stored_bytes: u32,
    /// What was durable before the batch that carries it.
    pub durable: DurableLsn,
    /// The batch's time, in milliseconds since 1970.
    pub time_ms: u64,
}

/// A record to append.
#[derive(Debug)]
pub struct Record<N> {
    /// What it is; the meaning belongs to the layer above.
    pub kind: u8,
    /// Flags; the upper two belong to the log.
    pub flags: u8,
    /// Its content.
    pub body: Vec<u8>,
    /// Comes back through [`Ledger::place`]; `None` for a record that belongs to no object.
    pub note: Option<N>,
}

/// A record read back, with a body of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Where its frame starts.
    pub lsn: Lsn,
    /// What it is.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// The previous record of the same object, or [`Lsn::NONE`].
    pub link: Lsn,
    /// Its content.
    pub body: Vec<u8>,
}

/// The log of one store. Shared by reference; dropping it stops the committer after what is queued.
pub struct Log<L: Ledger> {
    pub(crate) inner: Arc<Inner<L>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Both ends of the committer's queue.
type Queue<N> = (Sender<Job<N>>, Receiver<Job<N>>);

pub(crate) struct Inner<L: Ledger> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) store_id: u128,
    pub(crate) segment_bytes: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) teeth: Teeth,
    pub(crate) drive: Drive,
    pub(crate) read_only: bool,
    pub(crate) ledger: Arc<L>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) pool: Pool,
    pub(crate) room: Arc<Room>,
    pub(crate) queue: Queue<L::Note>,
    /// Bytes of the records in the queue, and how many there may be.
    pub(crate) queued_bytes: AtomicU64,
    pub(crate) queue_bytes: u64,
    pub(crate) layout: Mutex<Layout>,
    pub(crate) step: Mutex<Step<L::Note>>,
    pub(crate) super_file: Mutex<SuperFile>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) realtime: AtomicBool,
    /// Held until the log is closed.
    pub(crate) lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl<L: Ledger> Inner<L> {
    pub(crate) fn poison(&self, error: &Error) {
        self.progress.stop(Error::Poisoned {
            cause: error.to_string(),
        });
    }
}

impl<L: Ledger> Inner<L> {
    /// Whether a record of so many bytes has to wait.
    fn is_queue_full(&self, bytes: u64) -> bool {
        let queued = self.queued_bytes.load(Ordering::Relaxed);
        let no_bytes = queued > 0 && queued + bytes > self.queue_bytes;
        no_bytes || self.drive == Drive::Caller && self.queue.0.is_full()
    }

    /// Makes another free file, which nobody counts on yet.
    pub(crate) fn grow(&self) -> Result<()> {
        self.pool.grow()
    }
}

impl<L: Ledger> Pump for Inner<L> {
    fn pump(&self) -> Pumped {
        match self.drive {
            _ if self.read_only => Pumped::Elsewhere,
            Drive::Caller => {
                self.commit_queued();
                Pumped::Here
            }
            Drive::Thread => {
                self.help();
                Pumped::Elsewhere
            }
        }
    }
}

impl<L: Ledger> std::fmt::Debug for Log<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

impl<L: Ledger> Log<L> {
    /// Starts the committer of a recovered log.
    pub(crate) fn start(inner: Inner<L>) -> Self {
        let inner = Arc::new(inner);
        let pump: Arc<dyn Pump> = inner.clone();
        inner.progress.set_pump(Arc::downgrade(&pump));
        let threaded = inner.drive == Drive::Thread && !inner.read_only;
        let thread = threaded.then(|| {
            let inner = inner.clone();
            let name = "dovehouse-commit".to_owned();
            let body = move || {
                inner.realtime.store(raise_priority(), Ordering::Relaxed);
                inner.commit_until_stopped();
            };
            std::thread::Builder::new()
                .name(name)
                .spawn(body)
                .expect("the system can start a thread")
        });
        Log {
            inner,
            thread: Mutex::new(thread),
        }
    }

    /// Promises room for a record with a body of this size. After this, appending it cannot fail for
    /// lack of space. May make a new segment file; on a full disk [`Error::Full`] says that the claim
    /// must wait until space is freed.
    pub fn reserve(&self, body_bytes: usize, claim: Claim) -> Result<Reservation> {
        let inner = &self.inner;
        self.writable()?;
        if body_bytes > inner.record_bytes_max {
            return Err(Error::TooBig {
                bytes: body_bytes,
                limit: inner.record_bytes_max,
            });
        }
        loop {
            if let Some(reservation) =
                inner
                    .room
                    .reserve(body_bytes, claim, inner.pool.used_count())
            {
                return Ok(reservation);
            }
            self.grow()?;
            if inner.pool.filled_count() == 0 {
                // The next segment begins with this record, perhaps.
                self.fill()?;
            }
        }
    }

    /// Queues a record. While the queue is full, lends the committer a hand; fails only if the log has
    /// stopped.
    ///
    /// # Panics
    /// If the body is larger than the reservation.
    pub fn append(&self, record: Record<L::Note>, reservation: Reservation) -> Result<Ticket> {
        assert!(
            record.body.len() <= reservation.body_bytes(),
            "a record fits what was reserved for it"
        );
        self.writable()?;
        let ticket = Ticket::new(self.inner.progress.clone());
        let body_crc = crc32fast::hash(&record.body);
        let pending = Pending {
            record,
            body_crc,
            ticket: ticket.cell(),
            _reservation: reservation,
        };
        let bytes = pending.stored_bytes();
        while self.inner.is_queue_full(bytes) && self.inner.commit_queued() {}
        self.inner.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inner
            .queue
            .0
            .send(Job::Append(pending))
            .map_err(|_| Error::Closed)?;
        Ok(ticket)
    }

    /// Whether anything can be written: an error says why not.
    pub fn writable(&self) -> Result<()> {
        if self.inner.read_only {
            return Err(Error::ReadOnly);
        }
        self.inner.progress.stopped().map_or(Ok(()), Err)
    }

    /// Why the log stopped, if it did.
    pub fn stopped(&self) -> Option<Error> {
        self.inner.progress.stopped()
    }

    /// Stops the log after a failure elsewhere in the store: nothing more is acknowledged.
    pub fn poison(&self, error: &Error) {
        self.inner.poison(error);
    }

    /// What is durable now.
    pub fn durable(&self) -> DurableLsn {
        self.inner.progress.durable()
    }

    /// Waits until everything before `lsn` is durable.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<DurableLsn> {
        self.inner.progress.wait_for(lsn)
    }

    /// Calls `listener` whenever the durable position has moved or the log has stopped. It runs on
    /// a thread that commits, so it must be short and must not wait for a commit.
    pub fn on_progress(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.inner.progress.listen(Arc::new(listener));
    }

    /// Writes one batch of what is queued, on the caller's thread. For [`Drive::Caller`].
    pub fn commit_queued(&self) -> bool {
        self.inner.commit_queued()
    }

    /// Gives what is queued its place without writing it: the next [`Log::commit_queued`], or a wait,
    /// writes it. For tests of what may happen in between, with [`Drive::Caller`].
    /// Does nothing in a log with a thread of its own.
    pub fn lay_out_queued(&self) {
        if self.inner.drive == Drive::Caller {
            self.inner.lay_out_queued();
        }
    }

    /// Where the next batch will be laid out. Everything before it is in the ledger.
    pub fn position(&self) -> Position {
        self.inner.layout.lock().position
    }

    /// Names a checkpoint: replay will start at `replay_from`, with this payload, and the segments in
    /// `released` may be reused. `durable` proves that everything up to there is on the disk; an
    /// error stops the log.
    ///
    /// # Panics
    /// If `durable` does not reach `replay_from`.
    pub fn checkpoint(
        &self,
        replay_from: Position,
        durable: DurableLsn,
        clean: bool,
        payload: &[u8],
        released: &[u32],
    ) -> Result<usize> {
        self.writable()?;
        let skipped_wait = self.inner.teeth.has(Flaw::CheckpointDoesNotWait);
        assert!(
            durable.end() >= replay_from.lsn || skipped_wait,
            "a checkpoint lies before the durable end"
        );
        let time_ms = self.last_time_ms();
        let mut super_file = self.inner.super_file.lock();
        let table = self.inner.pool.table(replay_from, released);
        let written = super_file
            .flip(replay_from, time_ms, clean, &table, payload)
            .inspect_err(|error| {
                // A full disk leaves the checkpoint before as it was.
                if !error.is_full() {
                    self.poison(error);
                }
            })?;
        add(&self.inner.counters.manifest_bytes, written);
        let freed = self.inner.pool.release(replay_from, released);
        self.inner.room.add_segments(freed);
        Ok(freed)
    }

    /// What SUPER says: where replay would start if the process died now.
    pub fn superblock(&self) -> Superblock {
        self.inner.super_file.lock().current
    }

    /// Fills a free segment file with zeros, so that the log can use it at full speed; slow. Returns
    /// whether there was one to fill.
    pub fn fill(&self) -> Result<bool> {
        self.writable()?;
        let filled = self.inner.pool.fill()?;
        if filled {
            add(&self.inner.counters.zero_bytes, self.inner.segment_bytes);
        }
        Ok(filled)
    }

    /// Free segment files that are filled.
    pub fn filled_segments(&self) -> usize {
        self.inner.pool.filled_count()
    }

    /// Makes another free segment file. An error changes nothing.
    pub fn grow(&self) -> Result<()> {
        self.writable()?;
        self.inner.grow()?;
        self.inner.room.add_segments(1);
        Ok(())
    }

    /// Ends the segment that is being written, if there is something in it: the next batch begins another.
    /// What was promised stays promised: if there is no room for that, nothing happens.
    pub fn seal(&self) -> Result<()> {
        self.writable()?;
        let inner = &self.inner;
        let mut layout = inner.layout.lock();
        let unused = inner.room.usable(layout.remaining(inner.segment_bytes));
        if inner.room.give_up(unused) && !layout.seal() {
            inner.room.consume(0, unused, false);
        }
        Ok(())
    }

    /// Gives free segment files back to the file system, all but `keep` of them. Returns how many.
    pub fn trim(&self, keep: usize) -> Result<usize> {
        self.writable()?;
        let inner = &self.inner;
        inner
            .pool
            .trim(|| inner.pool.free_count() > keep && inner.room.spare_segment())
    }

    /// Bytes written to the log since it was opened, padding included.
    pub fn log_bytes(&self) -> u64 {
        self.inner.counters.log_bytes.load(Ordering::Relaxed)
    }

    /// Free segments that growth leaves now.
    pub fn reserve_segments(&self) -> usize {
        Claim::Growth.leaves(self.inner.pool.used_count()) as usize
    }

    /// Bytes that can be appended before another segment is needed.
    pub fn room_bytes(&self) -> i64 {
        self.inner.room.left()
    }

    /// The largest body of a record.
    pub fn record_bytes_max(&self) -> usize {
        self.inner.record_bytes_max
    }

    /// The size of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.inner.segment_bytes
    }

    /// The store's identity.
    pub fn store_id(&self) -> u128 {
        self.inner.store_id
    }

    /// The time of the last batch, in milliseconds since 1970.
    pub fn last_time_ms(&self) -> u64 {
        self.inner.layout.lock().time_ms
    }

    /// The segment with this number, kept from being reused while the result is held.
    pub fn segment(&self, segno: u32) -> Option<Arc<Segment>> {
        self.inner.pool.segment(segno)
    }

    /// All segments of the log, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.inner.pool.segments()
    }

    /// Reads a record. `None` if its segment is no longer part of the log: the record was moved or
    /// is dead. `size_hint` saves a second read if it is at least the record's size.
    pub fn read(&self, lsn: Lsn, size_hint: usize) -> Result<Option<OwnedRecord>> {
        match self.segment(lsn.segno()) {
            Some(segment) => segment
                .read(lsn, size_hint, self.inner.segment_bytes)
                .map(Some),
            None => Ok(None),
        }
    }

    /// Reads bytes as they lie somewhere, for content that has a checksum of its own. `None` if the segment
    /// is no longer part of the store.
    pub fn read_bytes(&self, lsn: Lsn, bytes: &mut [u8]) -> Result<Option<()>> {
        let Some(segment) = self.segment(lsn.segno()) else {
            return Ok(None);
        };
        let offset = u64::from(lsn.offset());
        if offset + bytes.len() as u64 > self.inner.segment_bytes {
            let why = "what should lie there leads out of the segment";
            return Err(Error::corrupt(&segment.path, offset, why));
        }
        let read = segment.file.read_exact_at(bytes, offset);
        read.map_err(|error| Error::io("read", &segment.path, error))?;
        Ok(Some(()))
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let counters = &self.inner.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            durable_writes: count(&counters.durable_writes),
            records: count(&counters.records),
            record_bytes: count(&counters.record_bytes),
            kinds: counters.kinds(),
            log_bytes: count(&counters.log_bytes),
            pack_bytes: count(&counters.pack_bytes),
            manifest_bytes: count(&counters.manifest_bytes),
            zero_bytes: count(&counters.zero_bytes),
            write_latency: counters.latency(),
            segment_bytes: self.inner.segment_bytes,
            segment_files: self.inner.pool.file_count(),
            free_segments: self.inner.pool.free_count(),
            realtime_committer: self.inner.realtime.load(Ordering::Relaxed),
        }
    }

    /// Writes what is queued, stops, and lets another process open the store. Later appends and
    /// checkpoints fail with [`Error::Closed`].
    pub fn close(&self) {
        match self.thread.lock().take() {
            Some(thread) => {
                // An error means that the thread is gone already.
                let _ = self.inner.queue.0.send(Job::Stop);
                let _ = thread.join();
            }
            None => while self.inner.commit_queued() {},
        }
        self.inner.progress.stop(Error::Closed);
        self.inner.lock.lock().take();
    }
}

impl<L: Ledger> Drop for Log<L> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Segment {
    /// Reads the header of this life. `None` if it is damaged.
    pub fn header(&self, store_id: u128) -> Result<Option<SegmentHeader>> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        self.file
            .read_exact_at(&mut block, 0)
            .map_err(|error| Error::io("read", &self.path, error))?;
        SegmentHeader::decode(&block, store_id, &self.path)
    }

    /// Reads the record at a position of this segment.
    pub fn read(&self, lsn: Lsn, size_hint: usize, segment_bytes: u64) -> Result<OwnedRecord> {
        let offset = u64::from(lsn.offset());
        let room = segment_bytes.saturating_sub(offset) as usize;
        let corrupt = |what: &str| Error::corrupt(&self.path, offset, what);
        let io = |error| Error::io("read", &self.path, error);
        if lsn.segno() != self.segno || room < FRAME_BYTES {
            return Err(corrupt("no record can be here"));
        }
        let mut bytes = vec![0; size_hint.clamp(FRAME_BYTES, room)];
        self.file.read_exact_at(&mut bytes, offset).map_err(io)?;
        let (frame, _) = Frame::decode(&bytes).expect("a frame was read");
        let len = FRAME_BYTES + frame.body_len as usize;
        if len > room {
            return Err(corrupt("the record's length leads out of the segment"));
        }
        if len > bytes.len() {
            let read = bytes.len();
            bytes.resize(len, 0);
            self.file
                .read_exact_at(&mut bytes[read..], offset + read as u64)
                .map_err(io)?;
        }
        let (record, _) = decode_record(&bytes[..len], lsn)
            .ok_or_else(|| corrupt("the record's checksum is wrong"))?;
        Ok(record.to_owned())
    }
}

impl RecordView<'_> {
    /// A copy with a body of its own.
    pub fn to_owned(&self) -> OwnedRecord {
        let RecordView {
            lsn,
            kind,
            flags,
            link,
            body,
        } = *self;
        OwnedRecord {
            lsn,
            kind,
            flags,
            link,
            body: body.to_vec(),
        }
    }
}
