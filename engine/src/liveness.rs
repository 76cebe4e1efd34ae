//! The one rule of what is needed.

use std::cmp::Ordering;

use dovehouse_wal::Lsn;

use crate::record::Header;
use crate::slots::Entry;

/// Whether a record at this place is needed by a version of its object that `entry` may lead to.
///
/// A record is dead once a later image or erase of the same object exists. Dead records stay dead.
/// Whoever frees or moves asks with an entry that is durable, or newer than the durable one for
/// moving alone.
pub(crate) fn is_live(header: &Header, at: Lsn, entry: &Entry) -> bool {
    if header.generation != entry.generation {
        return header.generation > entry.generation;
    }
    match header.seq.cmp(&entry.seq) {
        // The same commit may lie in the log twice: moved by compaction, or written again by a recovery.
        Ordering::Equal => at == entry.head,
        Ordering::Greater => true,
        Ordering::Less => header.seq >= entry.image_seq(),
    }
}
