//! History: what objects were, for as long as their class keeps it.
//!
//! History looks back from the present: for each commit it holds how to undo it, so an earlier state is the
//! present one, or a whole one in between, less what came after. Old history ends by being dropped, and nothing
//! newer needs it.
//!
//! ```text
//! log ──follow──► recent entries (memory) ──checkpoint──► tables (files), merged in the background
//! ```
//! See `scan.rs` for how the log is followed, and `past.rs` for how the past is read.

mod ask;
mod blocks;
mod bookmark;
mod keep;
mod key;
mod past;
mod read;
mod recent;
mod restore_all;
mod retention;
mod scan;
mod tables;
mod thin;
mod undo;
mod value;
mod wanted;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dovehouse_wal::Lsn;
use parking_lot::{Mutex, RwLock};

pub use ask::Moment;
pub use bookmark::{Bookmark, BookmarkError};
pub(crate) use keep::Start;
pub use restore_all::{RestoreAll, RestoredAll};
pub use retention::Retention;

use crate::id::{ClassId, Slot};
use key::Key;
pub(crate) use past::PastView;
pub(crate) use read::Subject;
use recent::{Recent, Recents};
use retention::Kept;
use scan::Scan;
use tables::Tables;

/// The history of a store.
#[derive(Debug)]
pub(crate) struct History {
    scan: Mutex<Scan>,
    /// What no table has yet.
    recent: RwLock<Recents>,
    recent_bytes: AtomicUsize,
    recent_bytes_max: usize,
    tables: Tables,
    kept: RwLock<Kept>,
    /// Where a scan after a crash has to begin: what commits before it replaced may be freed.
    resume_at: Mutex<Lsn>,
    /// Wall time and running time when they were last looked at.
    clock: Mutex<(u64, u64)>,
    /// Whether the wall clock was set forward by so much that nothing is let go of by it.
    clock_jumped: AtomicBool,
}

impl History {
    /// Whether leaves of an object's map were written, and it is not told yet what they were before.
    fn is_settling(&self, slot: Slot) -> bool {
        self.scan.lock().leaves.contains_key(&slot)
    }

    fn add(&self, key: Key, class: ClassId, time_ms: u64, value: Vec<u8>) {
        let recent = Recent {
            class,
            time_ms,
            value,
        };
        let bytes = self.recent.write().add(key, recent);
        self.recent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
