//! The one rule of what is needed.

use std::cmp::Ordering;

use dovehouse_wal::Lsn;

use crate::record::Header;
use crate::slots::Entry;

/// A record of an object, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version<'a> {
    pub(crate) header: &'a Header,
    /// Where it lies.
    pub(crate) at: Lsn,
    /// The object's newest version. Whoever frees or moves asks with one that is durable, or newer than the
    /// durable one for moving alone.
    pub(crate) newest: &'a Entry,
    /// When a later image or erase was written, if that is known.
    pub(crate) superseded_ms: Option<u64>,
}

/// How long superseded versions are kept: not at all, as long as there is no history.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retention {
    pub(crate) ms: u64,
    pub(crate) now_ms: u64,
}

impl Retention {
    fn keeps(self, superseded_ms: Option<u64>) -> bool {
        let is_old = |since: u64| since.saturating_add(self.ms) <= self.now_ms;
        self.ms > 0 && !superseded_ms.is_some_and(is_old)
    }
}

/// Whether a record is needed: by a version that the object's entry may lead to, for as long as superseded
/// ones are kept, or by a pin on its sequence number. What is dead stays dead.
pub(crate) fn liveness(record: Version<'_>, retention: Retention, pins: &[u64]) -> bool {
    let (header, newest) = (record.header, record.newest);
    if header.generation != newest.generation {
        return header.generation > newest.generation;
    }
    match header.seq.cmp(&newest.seq) {
        // The same commit may lie in the log twice: moved by compaction, or written again by a recovery.
        Ordering::Equal => record.at == newest.head,
        Ordering::Greater => true,
        Ordering::Less if header.seq >= newest.image_seq() => true,
        Ordering::Less => retention.keeps(record.superseded_ms) || pins.contains(&header.seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClassId, Slot};
    use crate::slots::Form;

    const HEAD: Lsn = Lsn::new(7, 4096);

    /// Whether commit `seq` is needed by an object whose newest commit, 20, lies on two deltas.
    fn lives(seq: u64, retention: Retention, superseded_ms: Option<u64>, pins: &[u64]) -> bool {
        let header = Header {
            slot: Slot::new(1).unwrap(),
            generation: 3,
            seq,
            class: ClassId(0),
            depth: 0,
        };
        let newest = Entry {
            head: HEAD,
            bytes: 100,
            seq: 20,
            generation: 3,
            class: ClassId(0),
            erased: false,
            expired: false,
            depth: 2,
            form: Form::Tiny,
            fingerprint: 0,
        };
        let record = Version {
            header: &header,
            at: HEAD,
            newest: &newest,
            superseded_ms,
        };
        liveness(record, retention, pins)
    }

    #[test]
    fn without_history_what_lies_under_the_last_image_is_dead() {
        let lives = |seq| lives(seq, Retention::default(), None, &[]);
        assert_eq!(
            [17, 18, 19, 20, 21].map(lives),
            [false, true, true, true, true]
        );
    }

    #[test]
    fn a_superseded_record_lives_for_its_retention_or_as_long_as_it_is_pinned() {
        let retention = Retention {
            ms: 1000,
            now_ms: 5000,
        };
        assert!(lives(17, retention, Some(4001), &[]));
        assert!(!lives(17, retention, Some(4000), &[]), "to the millisecond");
        assert!(
            lives(17, retention, None, &[]),
            "nobody knows that it is old"
        );
        assert!(lives(17, retention, Some(0), &[16, 17]));
        assert!(!lives(17, retention, Some(0), &[16, 18]));
    }
}
