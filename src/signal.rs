//! How the committer's thread wakes a shard whose outputs wait for the log.
//!
//! Two steps on each side, and a fence between them, so that one of the two sees the other: the committer
//! publishes the durable position and then looks whether a shard waits; a shard says that it waits and
//! then looks at the durable position. `tests/loom` runs all orders of this.

use crate::sync::{AtomicBool, Notify, Ordering, fence};

/// Wakes a shard when the log has moved and it has outputs that wait.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiting: AtomicBool,
    pub(crate) moved: Notify,
}

impl Signal {
    /// Called by the committer's thread after every batch.
    pub(crate) fn log_moved(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) {
            self.moved.notify_one();
        }
    }

    /// Says that the shard wants to be woken. The log may have moved before: look after this.
    pub(crate) fn expect(&self) {
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that it has nothing to wait for.
    pub(crate) fn rest(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }
}
