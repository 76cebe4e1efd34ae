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

use dovehouse_wal::{FLAG_SKIPPABLE, Flaw, Lsn, RecordView, Segment};

use crate::big::{Carried, Carrier, Leaf, carried};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::Slot;
use crate::liveness::{Version, liveness};
use crate::record::{Header, Kind};
use crate::slots::{Entry, Form};
use crate::survivors::versions;

/// How far each segment was looked through.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    cursors: HashMap<u32, Cursor>,
    /// Segments that are dead once the log was followed so far: history needs what later commits replaced.
    dead: HashMap<u32, Lsn>,
}

#[derive(Debug, Default)]
struct Cursor {
    /// The offset of the batch with the witness.
    batch: u32,
    witness: Option<Witness>,
}

impl Reclaim {
    /// Those of the settled segments in which nothing is live by the index on disk, nor to be read for history.
    /// `newest` lies behind everything that the index shows.
    pub(crate) fn dead_segments(
        &mut self,
        settled: &[Arc<Segment>],
        newest: Lsn,
        inner: &Inner,
    ) -> Vec<u32> {
        let judge = Judge(inner);
        let mut dead = HashMap::new();
        let mut cursors = HashMap::new();
        for segment in settled {
            let segno = segment.segno;
            let mut cursor = self.cursors.remove(&segno).unwrap_or_default();
            if let Some(since) = self.dead.remove(&segno) {
                // Dead records never come back to life.
                dead.insert(segno, since);
            } else if inner.teeth.has(Flaw::ReuseLiveSegment) || judge.advance(&mut cursor, segment)
            {
                dead.insert(segno, newest);
            } else {
                cursors.insert(segno, cursor);
            }
        }
        self.cursors = cursors;
        self.dead = dead;
        let followed = inner.history.freed_to();
        let hurries =
            inner.teeth.has(Flaw::ReuseLiveSegment) || inner.teeth.has(Flaw::FreeBeforeHistory);
        let is_free = |since: &Lsn| *since <= followed || hurries;
        let free = self.dead.extract_if(|_, since| is_free(since));
        free.map(|(segno, _)| segno).collect()
    }
}

/// What is needed in a segment.
#[derive(Debug)]
enum Witness {
    Object(Header, Lsn),
    /// A block of a big object.
    Block(Carrier, Carried),
    /// A record that this program does not understand, or an entry that is damaged.
    Unknown,
}

/// Judges by the index on disk.
struct Judge<'a>(&'a Inner);

impl Judge<'_> {
    /// Moves the cursor to the next live record; `true` if there is none.
    fn advance(&self, cursor: &mut Cursor, segment: &Arc<Segment>) -> bool {
        let lives = match &cursor.witness {
            Some(Witness::Object(header, at)) => self.lives(header, *at),
            Some(Witness::Block(carrier, item)) => self.needs(carrier, item),
            Some(Witness::Unknown) | None => false,
        };
        if lives {
            return false;
        }
        let mut batches = self.0.log.batches(segment, cursor.batch);
        loop {
            cursor.batch = batches.position().offset();
            cursor.witness = match batches.next() {
                None => return true,
                // What cannot be read may be needed: keep it for those who can tell.
                Some(Err(_)) => Some(Witness::Unknown),
                Some(Ok(batch)) => batch.records().find_map(|record| self.witness(&record)),
            };
            if cursor.witness.is_some() {
                return false;
            }
        }
    }

    fn witness(&self, record: &RecordView<'_>) -> Option<Witness> {
        let kind = Kind::from_u8(record.kind);
        match kind {
            // The checkpoint's payload holds all classes, and its index all moves.
            Some(Kind::Class | Kind::Remap | Kind::Expire) => None,
            Some(Kind::Image | Kind::Delta | Kind::Erase | Kind::Group | Kind::Leaf) => {
                self.version(record)
            }
            Some(Kind::Head | Kind::Pages) => self.version(record).or_else(|| self.block(record)),
            Some(Kind::Blob) => self.block(record),
            _ if record.flags & FLAG_SKIPPABLE != 0 => None,
            _ => Some(Witness::Unknown),
        }
    }

    fn version(&self, record: &RecordView<'_>) -> Option<Witness> {
        let Some((kind, headers)) = versions(record) else {
            return Some(Witness::Unknown);
        };
        let live = headers
            .into_iter()
            .find(|header| self.lives(header, record.lsn))?;
        if kind == Kind::Leaf {
            // It stays until its slot is given back.
            self.0.note_dead_leaf(record, |slot| self.entry(slot));
        }
        Some(Witness::Object(live, record.lsn))
    }

    fn block(&self, record: &RecordView<'_>) -> Option<Witness> {
        let Some((carrier, items)) = carried(record) else {
            return Some(Witness::Unknown);
        };
        let needed = items.into_iter().find(|item| self.needs(&carrier, item))?;
        Some(Witness::Block(carrier, needed))
    }

    fn needs(&self, carrier: &Carrier, item: &Carried) -> bool {
        carrier.needs(item, |slot| self.entry(slot), |slot| self.leaf(slot))
    }

    /// The leaf that the index on disk leads to.
    fn leaf(&self, slot: Slot) -> Result<Option<Arc<Leaf>>> {
        let is_leaf = |entry: &Entry| entry.form == Form::Leaf && !entry.expired;
        let Some(entry) = self.entry(slot)?.filter(is_leaf) else {
            return Ok(None);
        };
        let gone = || Error::damaged(format!("the leaf in slot {slot}"), "it is not there");
        Ok(Some(self.0.read_leaf(slot, &entry)?.ok_or_else(gone)?))
    }

    fn lives(&self, header: &Header, at: Lsn) -> bool {
        match self.entry(header.slot) {
            Ok(Some(newest)) => {
                let record = Version {
                    header,
                    at,
                    newest: &newest,
                };
                liveness(record)
            }
            // An index without the object, or a damaged entry: the record may be all that is left of it.
            Ok(None) | Err(_) => true,
        }
    }

    fn entry(&self, slot: Slot) -> Result<Option<Entry>> {
        self.0.index.slots.get(slot)
    }
}
