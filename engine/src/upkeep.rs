//! Work in the background: checkpoints when they are due, and free segments before they are needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::Inner;

/// How much room to keep ready, in segments.
const SPARE_SEGMENTS: i64 = 1;

/// How often the thread looks at the clock. Only the age of a checkpoint depends on it.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) log_bytes: u64,
    pub(crate) age_ms: u64,
    pub(crate) overlay_entries: usize,
}

/// What the upkeep thread and its callers share.
#[derive(Debug)]
pub(crate) struct Upkeep {
    limits: Limits,
    stop: AtomicBool,
    mutex: Mutex<()>,
    wanted: Condvar,
    checkpoint_bytes: AtomicU64,
    checkpoint_ms: AtomicU64,
}

impl Upkeep {
    pub(crate) fn new(limits: Limits, now_ms: u64) -> Self {
        Upkeep {
            limits,
            stop: AtomicBool::new(false),
            mutex: Mutex::new(()),
            wanted: Condvar::new(),
            checkpoint_bytes: AtomicU64::new(0),
            checkpoint_ms: AtomicU64::new(now_ms),
        }
    }

    pub(crate) fn checkpointed(&self, log_bytes: u64, now_ms: u64) {
        self.checkpoint_bytes.store(log_bytes, Ordering::Relaxed);
        self.checkpoint_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _guard = self.mutex.lock();
        self.wanted.notify_all();
    }

    /// Wakes the thread; called after every batch, so it does no more than look.
    fn wake(&self) {
        self.wanted.notify_one();
    }
}

impl Inner {
    /// The upkeep thread's life.
    pub(crate) fn keep_up(self: &Arc<Self>) {
        while !self.upkeep.stop.load(Ordering::Acquire) {
            if self.log.stopped().is_none() {
                // A failed checkpoint has stopped the log; a full disk is told to whoever commits.
                let _ = self.keep_up_once();
            }
            let mut guard = self.upkeep.mutex.lock();
            if !self.upkeep.stop.load(Ordering::Acquire) {
                self.upkeep.wanted.wait_for(&mut guard, LOOK_AROUND);
            }
        }
    }

    fn keep_up_once(&self) -> crate::error::Result<()> {
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
        let full = self.index.overlay.len() >= overlay_entries;
        if bytes >= log_bytes || (bytes > 0 && (age >= age_ms || full)) {
            self.checkpoint(false)?;
        }
        if self.is_room_low() {
            // Old segments may be free by now, which is cheaper than a new file.
            if bytes >= log_bytes / 2 {
                self.checkpoint(false)?;
            }
            if self.is_room_low() {
                self.log.grow()?;
            }
        }
        Ok(())
    }

    fn log_bytes_since_checkpoint(&self) -> u64 {
        self.log
            .log_bytes()
            .saturating_sub(self.upkeep.checkpoint_bytes.load(Ordering::Relaxed))
    }

    fn is_room_low(&self) -> bool {
        self.log.room_bytes() < SPARE_SEGMENTS * self.log.segment_bytes() as i64
    }

    /// Called after every batch: wakes the thread if there is something to do.
    pub(crate) fn look_after_batch(&self) {
        if self.is_room_low() || self.log_bytes_since_checkpoint() >= self.upkeep.limits.log_bytes {
            self.upkeep.wake();
        }
    }
}
