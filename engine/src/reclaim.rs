//! Which segments hold nothing that is needed any more.
//!
//! Dead records never come back to life, so each segment needs to be looked through once: a cursor
//! moves past dead records and stops at a live one, the segment's *witness*. While the witness lives,
//! a look costs one index entry; when it dies, the cursor moves on. A segment whose cursor reaches
//! its end is free. Nothing of this is on disk, so there is no count that a crash could make wrong.
//!
//! Records are judged by the index on disk, synced, as the checkpoint that frees them leaves it: what
//! is dead there is dead for the newest and for the last durable version too, since those are never
//! older (I6).

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::{FLAG_SKIPPABLE, Flaw, Lsn, RecordView, Segment, Teeth};

use crate::error::Result;
use crate::id::Slot;
use crate::liveness::{Retention, Version, liveness};
use crate::record::{Header, Kind};
use crate::slots::{Entry, SlotTable};
use crate::survivors::versions;

type Log = dovehouse_wal::Log<crate::index::Index>;

/// How far each segment was looked through.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    cursors: HashMap<u32, Cursor>,
}

#[derive(Debug, Default)]
struct Cursor {
    /// The offset of the batch with the witness.
    batch: u32,
    witness: Option<(Header, Lsn)>,
}

impl Reclaim {
    /// Those of the settled segments in which nothing is live by the slot table on disk.
    pub(crate) fn dead_segments(
        &mut self,
        settled: &[Arc<Segment>],
        log: &Log,
        slots: &SlotTable,
        teeth: Teeth,
    ) -> Vec<u32> {
        let mut dead = Vec::new();
        let mut cursors = HashMap::new();
        for segment in settled {
            let mut cursor = self.cursors.remove(&segment.segno).unwrap_or_default();
            if teeth.has(Flaw::ReuseLiveSegment) || advance(&mut cursor, log, segment, slots) {
                dead.push(segment.segno);
            } else {
                cursors.insert(segment.segno, cursor);
            }
        }
        self.cursors = cursors;
        dead
    }
}

/// Moves the cursor to the next live record; `true` if there is none.
fn advance(cursor: &mut Cursor, log: &Log, segment: &Arc<Segment>, slots: &SlotTable) -> bool {
    if let Some((header, at)) = &cursor.witness
        && lives(header, *at, slots)
    {
        return false;
    }
    let mut batches = log.batches(segment, cursor.batch);
    loop {
        cursor.batch = batches.position().offset();
        match batches.next() {
            None => return true,
            // What cannot be read may be needed: keep it for those who can tell.
            Some(Err(_)) => {
                cursor.witness = None;
                return false;
            }
            Some(Ok(batch)) => match batch.records().find_map(|record| witness(&record, slots)) {
                Some(Witness::Object(header, at)) => {
                    cursor.witness = Some((header, at));
                    return false;
                }
                Some(Witness::Unknown) => {
                    cursor.witness = None;
                    return false;
                }
                None => {}
            },
        }
    }
}

enum Witness {
    Object(Header, Lsn),
    /// A record that this program does not understand, or an entry that is damaged.
    Unknown,
}

fn witness(record: &RecordView<'_>, slots: &SlotTable) -> Option<Witness> {
    match Kind::from_u8(record.kind) {
        // The checkpoint's payload holds all classes, and its index all moves.
        Some(Kind::Class | Kind::Remap | Kind::Expire) => None,
        Some(Kind::Image | Kind::Delta | Kind::Erase | Kind::Group) => match versions(record) {
            Some((_, headers)) => headers
                .into_iter()
                .find(|header| lives(header, record.lsn, slots))
                .map(|header| Witness::Object(header, record.lsn)),
            None => Some(Witness::Unknown),
        },
        _ if record.flags & FLAG_SKIPPABLE != 0 => None,
        _ => Some(Witness::Unknown),
    }
}

fn lives(header: &Header, at: Lsn, slots: &SlotTable) -> bool {
    match entry(header.slot, slots) {
        Ok(Some(newest)) => {
            let record = Version {
                header,
                at,
                newest: &newest,
                superseded_ms: None,
            };
            liveness(record, Retention::default(), &[])
        }
        // An index without the object, or a damaged entry: the record may be all that is left of it.
        Ok(None) | Err(_) => true,
    }
}

fn entry(slot: Slot, slots: &SlotTable) -> Result<Option<Entry>> {
    slots.get(slot)
}
