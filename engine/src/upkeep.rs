//! Work in the background: checkpoints when they are due, free segments before they are needed, and
//! compaction when too much of the disk is dead.
//!
//! Two threads: `dovehouse-upkeep` for the first two, which commits may come to wait for, and
//! `dovehouse-compact`, which nobody waits for and which takes breaks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::compact::Pace;
use crate::engine::Inner;
use crate::error::Result;

/// How much room to keep ready, in segments.
const SPARE_SEGMENTS: usize = 1;

/// So many of the free segments are filled with zeros, ready for the log.
const FILLED_SEGMENTS: usize = 1;

/// How often the thread looks at the clock. Only the age of a checkpoint depends on it.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) log_bytes: u64,
    pub(crate) age_ms: u64,
    pub(crate) overlay_entries: usize,
}

/// Compaction begins when this many bytes are dead or unused for every one that is live. With what
/// gathers while it works, the store stays below 1.3 times what is live.
const DEAD_PER_LIVE: f64 = 0.2;

/// And not for less than so many segments: a small store is not worth the writing.
const DEAD_SEGMENTS_MIN: u64 = 2;

/// What compaction writes in a second at most, so that commits find the disk idle in between.
const COMPACT_BYTES_PER_MS: u64 = 64 << 10;

/// What the upkeep thread and its callers share.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) limits: Limits,
    /// Held by the one commit that makes the checkpoint which others wait for.
    pub(crate) over_budget: Mutex<()>,
    stop: AtomicBool,
    mutex: Mutex<()>,
    wanted: Condvar,
    /// Of the compaction thread: only the end of the engine wakes it early.
    stopping: Condvar,
    checkpoint_bytes: AtomicU64,
    checkpoint_ms: AtomicU64,
    /// One more than the log's bytes when growth last found the disk full; 0 if it never did.
    pub(crate) full_at: AtomicU64,
    /// The log's bytes when compaction last looked: the next look is a segment later.
    compact_bytes: AtomicU64,
}

impl Upkeep {
    pub(crate) fn new(limits: Limits, now_ms: u64) -> Self {
        Upkeep {
            limits,
            over_budget: Mutex::new(()),
            stop: AtomicBool::new(false),
            mutex: Mutex::new(()),
            wanted: Condvar::new(),
            stopping: Condvar::new(),
            checkpoint_bytes: AtomicU64::new(0),
            checkpoint_ms: AtomicU64::new(now_ms),
            full_at: AtomicU64::new(0),
            compact_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn checkpointed(&self, log_bytes: u64, now_ms: u64) {
        self.checkpoint_bytes.store(log_bytes, Ordering::Relaxed);
        self.checkpoint_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits for so long, or until it is woken; not at all if the threads shall stop.
    fn wait(&self, wake: &Condvar, time: Duration) {
        let mut guard = self.mutex.lock();
        if !self.is_stopping() {
            wake.wait_for(&mut guard, time);
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _guard = self.mutex.lock();
        self.wanted.notify_all();
        self.stopping.notify_all();
    }

    /// Wakes the thread; called after every batch, so it does no more than look.
    fn wake(&self) {
        self.wanted.notify_one();
    }
}

impl Inner {
    /// The upkeep thread's life; `alone` if there is none for compaction.
    pub(crate) fn keep_up(&self, alone: bool) {
        while !self.upkeep.is_stopping() {
            // A failed checkpoint has stopped the log; a full disk is told to whoever commits.
            let _ = self.keep_up_once();
            if alone {
                let _ = self.compact_if_due();
            }
            self.upkeep.wait(&self.upkeep.wanted, LOOK_AROUND);
        }
    }

    /// The compaction thread's life.
    pub(crate) fn keep_compact(&self) {
        while !self.upkeep.is_stopping() {
            // A full disk is told to whoever commits; whatever stopped the log is told by it.
            let _ = self.compact_if_due();
            self.upkeep.wait(&self.upkeep.stopping, LOOK_AROUND);
        }
    }

    /// Compacts until not much is dead any more, if much is.
    pub(crate) fn compact_if_due(&self) -> Result<()> {
        self.log.writable()?;
        self.merge_history()?;
        self.fill_forks()?;
        if self.has_retired_leaves() {
            let _one_at_a_time = self.compactor.lock();
            self.forget_leaves()?;
        }
        if self.is_compaction_due() && self.is_much_dead() {
            let outcome = self.compact(Pace::Background, |_| ());
            self.upkeep
                .compact_bytes
                .store(self.log.log_bytes(), Ordering::Relaxed);
            outcome?;
        }
        Ok(())
    }

    /// Whether the log has gone on since compaction last looked.
    pub(crate) fn is_compaction_due(&self) -> bool {
        let looked = self.upkeep.compact_bytes.load(Ordering::Relaxed);
        looked == 0 || self.log.log_bytes() >= looked + self.log.segment_bytes()
    }

    /// Whether so much is dead that compaction is worth its writing.
    pub(crate) fn is_much_dead(&self) -> bool {
        let (live, room) = self.settled_bytes();
        let dead = room.saturating_sub(live);
        dead >= DEAD_SEGMENTS_MIN * self.segment_room()
            && dead as f64 >= DEAD_PER_LIVE * live as f64
    }

    /// Lets commits have the disk for a while after so many bytes were written.
    pub(crate) fn take_a_break(&self, bytes: u64) {
        let time = Duration::from_millis(bytes / COMPACT_BYTES_PER_MS);
        self.upkeep.wait(&self.upkeep.stopping, time);
    }

    /// What is due but compaction.
    pub(crate) fn keep_up_once(&self) -> Result<()> {
        self.log.writable()?;
        let bytes = self.log_bytes_since_checkpoint();
        let Limits {
            log_bytes,
            age_ms,
            overlay_entries,
        } = self.upkeep.limits;
        let age = self
            .fs
            .now_ms()
            .saturating_sub(self.upkeep.checkpoint_ms.load(Ordering::Relaxed));
        let full = self.has_entries(overlay_entries);
        if bytes >= log_bytes || (bytes > 0 && (age >= age_ms || full)) {
            self.checkpoint(false)?;
        }
        self.make_dictionaries()?;
        if self.is_room_low() {
            // Old segments may be free by now, which is cheaper than a new file.
            if bytes >= log_bytes / 2 {
                self.checkpoint(false)?;
            }
            while self.is_room_low() {
                self.log.grow()?;
            }
        }
        if self.log.filled_segments() < FILLED_SEGMENTS {
            self.log.fill()?;
        }
        Ok(())
    }

    pub(crate) fn log_bytes_since_checkpoint(&self) -> u64 {
        self.log
            .log_bytes()
            .saturating_sub(self.upkeep.checkpoint_bytes.load(Ordering::Relaxed))
    }

    fn is_room_low(&self) -> bool {
        let segments = SPARE_SEGMENTS + self.log.reserve_segments();
        self.log.room_bytes() < segments as i64 * self.log.segment_bytes() as i64
    }

    /// Called after every batch: wakes the thread if there is something to do.
    pub(crate) fn look_after_batch(&self) {
        if self.is_room_low()
            || self.log.filled_segments() < FILLED_SEGMENTS
            || self.dictionaries.training.is_due()
            || self.log_bytes_since_checkpoint() >= self.upkeep.limits.log_bytes
            || self.has_entries(self.upkeep.limits.overlay_entries)
        {
            self.upkeep.wake();
        }
    }
}
