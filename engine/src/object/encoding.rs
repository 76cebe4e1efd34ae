//! What record an open transaction becomes: a delta, or the whole state.

use dovehouse_wal::Flaw;

use super::Object;
use crate::error::{Error, Result};
use crate::id::{ObjectId, Slot};
use crate::record::{Header, Kind, encode_delta, encode_erase, encode_image, encode_state};
use crate::slots::SEQ_LIMIT;

impl Object {
    /// The record of the open transaction: its kind, its body, and whether it changes alarms.
    pub(super) fn encode(&self) -> Result<Option<(Kind, Vec<u8>, bool)>> {
        let changes = self.working.changes();
        // A transaction that made and unmade everything leaves an object that never was.
        let stays_empty = self.is_empty() && !self.head.has_image;
        if changes.is_empty() || stays_empty {
            return Ok(None);
        }
        if self.engine.read_only {
            return Err(dovehouse_wal::Error::ReadOnly.into());
        }
        let (bytes, limit) = (self.state_bytes(), self.engine.state_bytes_max);
        if bytes > limit {
            return Err(Error::TooBig { bytes, limit });
        }
        let alarms_changed = changes.alarms || changes.cleared;
        if self.is_empty() {
            return Ok(Some((
                Kind::Erase,
                encode_erase(&self.header(0)?, self.id),
                true,
            )));
        }
        let delta_will_do =
            self.head.has_image && !changes.cleared && self.head.depth < self.depth_max();
        let wants_image = self.cell.as_ref().is_some_and(|cell| cell.wants_image());
        if delta_will_do && !wants_image {
            let delta = encode_delta(&self.header(self.head.depth + 1)?, &changes, self.alarms());
            let chain = self.head.chain_bytes + delta.len() as u64;
            if chain <= (2 * self.head.image_bytes).max(1024) && delta.len() <= bytes.max(256) {
                return Ok(Some((Kind::Delta, delta, alarms_changed)));
            }
        }
        Ok(Some((Kind::Image, self.encode_image()?, alarms_changed)))
    }

    pub(super) fn encode_image(&self) -> Result<Vec<u8>> {
        let state = encode_state(self.state());
        let id = match self.engine.teeth.has(Flaw::NamelessImage) {
            false => self.id,
            true => ObjectId::from_bytes([0; 32]),
        };
        Ok(encode_image(
            &self.header(0)?,
            id,
            self.name.as_deref(),
            self.engine.fs.now_ms(),
            self.state(),
            &self.engine.store_state(self.class, &state)?,
        ))
    }

    /// The longest chain: 16 deltas on a small image. On a large one more, since each image costs more
    /// than the reads that it saves.
    fn depth_max(&self) -> u8 {
        (16 + 16 * (self.head.image_bytes / 4096)).min(u64::from(u8::MAX)) as u8
    }

    pub(super) fn header(&self, depth: u8) -> Result<Header> {
        let seq = self.head.seq + 1;
        if seq >= SEQ_LIMIT {
            return Err(Error::Limit {
                what: "the number of commits of an object",
                limit: SEQ_LIMIT,
            });
        }
        let slot = match &self.cell {
            Some(cell) => cell.slot,
            // Stands in for the slot of a new object, which it gets when it is published; the widest
            // number, so that the space reserved for it is enough.
            None => Slot::new(Slot::LIMIT - 1).expect("below the limit"),
        };
        Ok(Header {
            slot,
            generation: self.head.generation,
            seq,
            class: self.class,
            depth,
        })
    }
}
