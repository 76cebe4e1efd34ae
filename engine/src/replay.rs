//! Replay: what each record of the log's tail does to the index.
//!
//! A record applies unless the index shows something newer, by generation and sequence number. An
//! equal one applies too: what the index shows may be a page that was never synced, so the overlay
//! must hold it until the next checkpoint has written it. Alarms and ids are replayed from every
//! record, applied or not.

use std::path::Path;

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{FLAG_ENCRYPTED, FLAG_SKIPPABLE, Flaw, RecordView};

use crate::big::{Fork, Head, Leaf, PagesStart, TreeId, leaf_counts, named_leaves};
use crate::error::{Error, Result};
use crate::expire::{Expired, decode_expire};
use crate::id::ObjectId;
use crate::index::Index;
use crate::overlay::DueChange;
use crate::record::{Header, Kind, Meta, decode_class, decode_erase, delta_alarms};
use crate::remap::{Moved, decode_remap};
use crate::slots::{Entry, Form};
use crate::state::Alarm;

impl Index {
    /// Applies one record of the tail.
    pub(crate) fn replay(&self, record: RecordView<'_>, dir: &Path) -> Result<()> {
        let malformed = || {
            let what = format!("the record at {} of the log", record.lsn);
            Error::damaged(what, "its fields make no sense although its checksum holds")
        };
        let mut reader = Reader::new(record.body);
        let kind = Kind::from_u8(record.kind).filter(|_| record.flags & FLAG_ENCRYPTED == 0);
        match kind {
            Some(Kind::Image) => {
                let header = Header::decode(&mut reader).ok_or_else(malformed)?;
                let meta = Meta::decode(&mut reader).ok_or_else(malformed)?;
                let due = meta.alarms.iter().map(|alarm| alarm.due_ms).min();
                self.replay_version(&record, header, Some(meta.id), Some(due), Form::Tiny)
            }
            Some(Kind::Erase) => {
                let header = Header::decode(&mut reader).ok_or_else(malformed)?;
                let id = decode_erase(&mut reader).ok_or_else(malformed)?;
                self.replay_version(&record, header, Some(id), Some(None), Form::Tiny)
            }
            Some(kind @ (Kind::Head | Kind::Pages)) => {
                self.replay_big(&record, kind).ok_or_else(malformed)?
            }
            // Blocks are found by the commits that name them.
            Some(Kind::Blob) => Ok(()),
            Some(Kind::Leaf) => {
                let (header, _) = Leaf::decode(record.body).ok_or_else(malformed)?;
                self.replay_version(&record, header, None, None, Form::Leaf)
            }
            Some(Kind::Delta) => {
                let header = Header::decode(&mut reader).ok_or_else(malformed)?;
                let alarms = delta_alarms(reader).map_err(|()| malformed())?;
                let due = alarms.map(|alarms| alarms.iter().map(|alarm| alarm.due_ms).min());
                self.replay_version(&record, header, None, due, Form::Tiny)
            }
            Some(Kind::Remap) => {
                let moves = decode_remap(&mut reader).ok_or_else(malformed)?;
                moves.iter().try_for_each(|moved| self.replay_move(moved))
            }
            Some(Kind::Expire) => {
                let all = decode_expire(&mut reader).ok_or_else(malformed)?;
                all.iter()
                    .try_for_each(|expired| self.replay_expired(expired))
            }
            Some(Kind::Class) => {
                let (class, tenant, name) = decode_class(&mut reader).ok_or_else(malformed)?;
                self.classes.lock().insert(class, &tenant, &name);
                Ok(())
            }
            _ if record.flags & FLAG_SKIPPABLE != 0 => Ok(()),
            _ => Err(Error::Log(dovehouse_wal::Error::Version {
                path: dir.to_owned(),
                found: format!(
                    "a record of kind {} with flags {:#04x}",
                    record.kind, record.flags
                ),
                supported: "kinds 1 to 4, 6 to 9, 16 and 17".into(),
            })),
        }
    }

    /// A commit of a big object; `None` is damage.
    fn replay_big(&self, record: &RecordView<'_>, kind: Kind) -> Option<Result<()>> {
        for slot in named_leaves(record.lsn, kind, record.body)? {
            self.note_slot(slot);
        }
        let mut reader = Reader::new(record.body);
        let header = Header::decode(&mut reader)?;
        let (lsn, bytes) = (record.lsn, record.body.len());
        let (tree, id, due) = if kind == Kind::Head {
            let (meta, head, _) = Head::decode(lsn, bytes, &mut reader)?;
            if let Some(origin) = head.origin {
                let tree = TreeId {
                    slot: header.slot,
                    generation: header.generation,
                    tree: head.tree,
                };
                let leaves = leaf_counts(&head.map);
                let fork = Fork::new(tree, header.class, header.seq, leaves, origin);
                self.forks.replay(fork);
            }
            let due = meta.alarms.iter().map(|alarm| alarm.due_ms).min();
            (head.tree, Some(meta.id), Some(due))
        } else {
            let (start, _) = PagesStart::decode(lsn, bytes, &mut reader)?;
            let due = |alarms: Vec<Alarm>| alarms.iter().map(|alarm| alarm.due_ms).min();
            (start.tree, None, start.alarms.map(due))
        };
        Some(self.replay_version(record, header, id, due, Form::Big { tree }))
    }

    fn replay_version(
        &self,
        record: &RecordView<'_>,
        header: Header,
        id: Option<ObjectId>,
        due: DueChange,
        form: Form,
    ) -> Result<()> {
        let erased = record.kind == Kind::Erase as u8;
        self.note_slot(header.slot);
        let cell = self.cell(header.slot)?;
        let version = (header.generation, header.seq);
        let shown = || {
            cell.newest()
                .is_some_and(|newest| newest.version() >= version)
        };
        if self.teeth.has(Flaw::SkipWhatIsShown) && shown() {
            return Ok(());
        }
        // The alarm column and the id table have no versions of their own, and a checkpoint that was
        // cut off may have written the slot table only. So what records say of alarms and ids is
        // replayed from all of them; in log order, the last word is right.
        let replayed = cell.replay_record(due, id, |current| {
            if current.is_some_and(|current| current.version() > version) {
                return Ok(None);
            }
            let fingerprint = match (id, current) {
                (Some(id), _) => self.fingerprint(&id),
                // A leaf has no id.
                _ if form == Form::Leaf => 0,
                (None, Some(current)) => current.fingerprint,
                (None, None) => {
                    let what = format!("the delta at {} of the log", record.lsn);
                    return Err(Error::damaged(
                        what,
                        "the index does not know what it lies on",
                    ));
                }
            };
            Ok(Some(Entry {
                head: record.lsn,
                bytes: record.stored_bytes(),
                seq: header.seq,
                generation: header.generation,
                class: header.class,
                erased,
                expired: false,
                depth: header.depth,
                form,
                fingerprint,
            }))
        })?;
        if let Some((entry, dead)) = replayed {
            self.usage.replace(entry.class, entry.extent(), dead);
        }
        Ok(())
    }

    /// After the last record: tells alarms and ids what their records said in the end.
    pub(crate) fn settle_facts(&self) {
        let mut new_ids = self.new_ids.write();
        self.overlay.for_each(|cell| {
            let (due, id) = cell.facts();
            if let Some(due_ms) = due {
                self.alarms.set(cell.slot, due_ms);
            }
            if let Some(id) = id {
                new_ids.insert(id, cell.slot);
            }
        });
    }

    fn replay_expired(&self, expired: &Expired) -> Result<()> {
        let cell = self.cell(expired.slot)?;
        let class = cell.newest().map(|newest| newest.class);
        if let (Some((dead, is_free)), Some(class)) = (cell.replay_expired(expired), class) {
            self.usage.release(class, dead);
            if is_free {
                self.free_slot(expired.slot);
            }
        }
        Ok(())
    }

    /// A move counts if it moved the version that is newest at this point of the log. The committer
    /// asked whether the object was still where it was moved from; here the version says the same,
    /// since moves of one version come one after the other.
    fn replay_move(&self, moved: &Moved) -> Result<()> {
        let cell = self.cell(moved.slot)?;
        match cell.newest() {
            Some(newest) if newest.version() == (moved.generation, moved.seq) => {
                let entry = newest.moved(moved.to);
                self.usage
                    .replace(entry.class, entry.extent(), cell.replay(entry));
            }
            _ => self.overlay.release(cell),
        }
        Ok(())
    }
}
