//! The one rule of what is needed in the log. What objects were is needed until history has it; see `reclaim.rs`.

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
}

/// Whether a record is needed by a version that the object's entry may lead to. What is dead stays dead.
pub(crate) fn liveness(record: Version<'_>) -> bool {
    let (header, newest) = (record.header, record.newest);
    if header.generation != newest.generation {
        return header.generation > newest.generation;
    }
    match header.seq.cmp(&newest.seq) {
        // The same commit may lie in the log twice: moved by compaction, or written again by a recovery.
        Ordering::Equal => record.at == newest.head,
        Ordering::Greater => true,
        Ordering::Less => header.seq >= newest.image_seq(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClassId, Slot};
    use crate::slots::Form;

    const HEAD: Lsn = Lsn::new(7, 4096);

    /// Whether commit `seq` is needed by an object whose newest commit, 20, lies on two deltas.
    fn lives(seq: u64) -> bool {
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
        };
        liveness(record)
    }

    #[test]
    fn what_lies_under_the_last_image_is_dead() {
        assert_eq!(
            [17, 18, 19, 20, 21].map(lives),
            [false, true, true, true, true]
        );
    }
}
