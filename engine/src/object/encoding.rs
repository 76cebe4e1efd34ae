//! What record an open transaction becomes: a delta, or the whole state.

use dovehouse_wal::Flaw;

use super::{Content, Encoded, Next, Object};
use crate::error::{Error, Result};
use crate::id::{ObjectId, Slot};
use crate::record::{Header, Kind, encode_delta, encode_erase, encode_image, encode_state};
use crate::slots::SEQ_LIMIT;
use crate::state::State;

impl Object {
    /// The record of the open transaction, if it changed anything. `again` is the kind of one whose space
    /// is reserved: it stays.
    pub(super) fn encode(&mut self, again: Option<Kind>) -> Result<Option<Encoded>> {
        if let Content::Tiny(working) = &self.content {
            let grows = again.is_none() && working.state().bytes() > self.engine.tiny_bytes_max;
            if !grows || working.changes().is_empty() {
                return self.encode_tiny();
            }
            self.check_writable()?;
            self.grow();
        }
        self.encode_big(again)
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        match self.engine.read_only {
            _ if self.is_past => Err(Error::Past { id: self.id }),
            true => Err(dovehouse_wal::Error::ReadOnly.into()),
            false => Ok(()),
        }
    }

    fn encode_tiny(&self) -> Result<Option<Encoded>> {
        let Content::Tiny(working) = &self.content else {
            return Ok(None);
        };
        let changes = working.changes();
        // A transaction that made and unmade everything leaves an object that never was.
        let stays_empty = self.is_empty() && !self.head.has_image;
        if changes.is_empty() || stays_empty {
            return Ok(None);
        }
        self.check_writable()?;
        let alarms_changed = changes.alarms || changes.cleared;
        if self.is_empty() {
            return self.encode_erase(Next::Same).map(Some);
        }
        let encoded = |kind, body| Encoded {
            kind,
            body,
            alarms_changed,
            next: Next::Same,
        };
        let delta_will_do =
            self.head.has_image && !changes.cleared && self.head.depth < self.depth_max();
        let wants_image = self.cell.as_ref().is_some_and(|cell| cell.wants_image());
        if delta_will_do && !wants_image {
            let delta = encode_delta(&self.header(self.head.depth + 1)?, &changes, self.alarms());
            let chain = self.head.chain_bytes + delta.len() as u64;
            let bytes = working.state().bytes();
            if chain <= (2 * self.head.image_bytes).max(1024) && delta.len() <= bytes.max(256) {
                return Ok(Some(encoded(Kind::Delta, delta)));
            }
        }
        Ok(Some(encoded(Kind::Image, self.encode_image()?)))
    }

    pub(super) fn encode_erase(&self, next: Next) -> Result<Encoded> {
        Ok(Encoded {
            kind: Kind::Erase,
            body: encode_erase(&self.header(0)?, self.id),
            alarms_changed: true,
            next,
        })
    }

    pub(super) fn encode_image(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Tiny(working) => self.encode_image_of(working.state()),
            Content::Big(big) => self.encode_image_of(&big.to_state()?),
        }
    }

    pub(super) fn encode_image_of(&self, state: &State) -> Result<Vec<u8>> {
        let encoded = encode_state(state);
        let id = match self.engine.teeth.has(Flaw::NamelessImage) {
            false => self.id,
            true => ObjectId::from_bytes([0; 32]),
        };
        Ok(encode_image(
            &self.header(0)?,
            id,
            self.name.as_deref(),
            self.engine.fs.now_ms(),
            state,
            &self.engine.store_state(self.class, &encoded)?,
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
