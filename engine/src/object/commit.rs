//! The commit of an object: its record, room for it, and what the object is from then on.

use std::sync::Arc;

use dovehouse_wal::{Claim, Record, Reservation, Ticket};

use super::{Content, Encoded, Next, Object, Prepared};
use crate::big::Landing;
use crate::error::Result;
use crate::index::Note;
use crate::overlay::Cell;
use crate::record::{Kind, with_header};
use crate::slots::{Entry, Form};
use crate::space::REPLACEMENT_BYTES_MAX;
use crate::state::Working;

/// Room for what a truncation between reserve and publish may add.
const RESERVE_SLACK_BYTES: usize = 64;

/// A small object that fell asleep with deltas is written whole, so that waking it is one read.
const SLEEP_IMAGE_BYTES_MAX: u64 = 64 << 10;

impl Object {
    /// Encodes the open transaction and reserves space for it. After this, [`Object::publish`] cannot
    /// fail for lack of space; a truncation of pages in between is covered. An error leaves the
    /// transaction as it is.
    pub fn reserve(&mut self) -> Result<()> {
        self.prepared = self.prepare()?;
        Ok(())
    }

    /// Appends the open transaction as one record. `None` if it changed nothing.
    ///
    /// The object goes on at once; what depends on the commit waits for the ticket.
    pub fn publish(&mut self) -> Result<Option<Ticket>> {
        let prepared = match self.prepared.take() {
            Some(prepared) if prepared.touched == self.touched => Some(prepared),
            Some(stale) => self.encode_again(stale)?,
            None => self.prepare()?,
        };
        match prepared {
            Some(prepared) => self.append(prepared).map(Some),
            None => {
                self.forget_undo();
                Ok(None)
            }
        }
    }

    /// Commits the open transaction: [`Object::reserve`] and [`Object::publish`]. An error leaves the
    /// transaction open; roll it back, or change it and commit again.
    pub fn commit(&mut self) -> Result<Option<Ticket>> {
        self.reserve()?;
        self.publish()
    }

    /// The ticket of the last commit by this handle, unless it is known to be durable.
    pub fn last_ticket(&self) -> Option<&Ticket> {
        self.last_ticket
            .as_ref()
            .filter(|ticket| !ticket.is_durable())
    }

    /// The transaction changed nothing: there is nothing to go back to.
    fn forget_undo(&mut self) {
        match &mut self.content {
            Content::Tiny(working) => working.forget_undo(),
            Content::Big(_) => self.rollback(),
        }
    }

    fn prepare(&mut self) -> Result<Option<Prepared>> {
        let Some(encoded) = self.encode(None)? else {
            return Ok(None);
        };
        let reservation = self.reserve_for(encoded.body.len() + RESERVE_SLACK_BYTES)?;
        Ok(Some(Prepared {
            encoded,
            reservation,
            touched: self.touched,
        }))
    }

    /// Room for the open transaction: growth needs more of it than what replaces or erases.
    fn reserve_for(&self, body_bytes: usize) -> Result<Reservation> {
        let state_bytes = self.state_bytes();
        let replaces = self.head.has_image && state_bytes <= self.head.state_bytes;
        if replaces && body_bytes <= REPLACEMENT_BYTES_MAX {
            return self.engine.reserve(body_bytes, Claim::Replacement);
        }
        self.engine
            .check_quota(self.class, self.id, state_bytes, body_bytes)?;
        self.engine.reserve(body_bytes, Claim::Growth)
    }

    /// The transaction changed after its space was reserved.
    fn encode_again(&mut self, stale: Prepared) -> Result<Option<Prepared>> {
        let Some(encoded) = self.encode(Some(stale.encoded.kind))? else {
            return Ok(None);
        };
        let reservation = match encoded.body.len() <= stale.reservation.body_bytes() {
            true => stale.reservation,
            false => self.reserve_for(encoded.body.len())?,
        };
        Ok(Some(Prepared {
            encoded,
            reservation,
            touched: self.touched,
        }))
    }

    fn append(&mut self, prepared: Prepared) -> Result<Ticket> {
        let Prepared {
            encoded,
            reservation,
            ..
        } = prepared;
        let Encoded {
            kind,
            mut body,
            alarms_changed,
            next,
        } = encoded;
        let is_delta = matches!(kind, Kind::Delta | Kind::Pages);
        let cell = match &self.cell {
            Some(cell) => cell.clone(),
            None => {
                // The first record was encoded before the object had its slot.
                let before = self.header(0)?;
                let cell = self.new_cell()?;
                body = with_header(&body, &before, &self.header(0)?);
                cell
            }
        };
        if self.head.seq == 0 {
            cell.set_new_id(self.id);
            self.engine.index.note_id(self.id, cell.slot);
        }
        let header = self.header(if is_delta { self.head.depth + 1 } else { 0 })?;
        let form = match &self.content {
            Content::Big(big) if matches!(next, Next::Big(_)) => Form::Big { tree: big.tree() },
            _ => Form::Tiny,
        };
        let entry = Entry {
            head: dovehouse_wal::Lsn::NONE,
            bytes: 0,
            seq: header.seq,
            generation: header.generation,
            class: self.class,
            erased: kind == Kind::Erase,
            expired: false,
            depth: header.depth,
            form,
            fingerprint: self.engine.index.fingerprint(&self.id),
        };
        let due = alarms_changed.then(|| self.alarms().iter().map(|alarm| alarm.due_ms).min());
        let stored = body.len() as u64;
        let landing = matches!(next, Next::Big(_)).then(Arc::<Landing>::default);
        let note = Some(Note::Version {
            cell,
            entry,
            due,
            landing: landing.clone(),
        });
        let record = Record {
            kind: kind as u8,
            flags: 0,
            body,
            note,
        };
        let ticket = self.engine.log.append(record, reservation)?;
        self.head.seq = header.seq;
        self.head.depth = header.depth;
        self.head.has_image = kind != Kind::Erase;
        self.head.state_bytes = self.state_bytes();
        match is_delta {
            true => self.head.chain_bytes += stored,
            false => (self.head.image_bytes, self.head.chain_bytes) = (stored, 0),
        }
        self.last_ticket = Some(ticket.clone());
        self.go_on(next, landing, &ticket);
        Ok(ticket)
    }

    /// What the object is from this commit on.
    fn go_on(&mut self, next: Next, landing: Option<Arc<Landing>>, ticket: &Ticket) {
        match (next, &mut self.content) {
            (Next::Big(commit), Content::Big(big)) => {
                let landing = landing.expect("a big commit lands");
                big.committed(commit, self.class, &landing, ticket);
            }
            (Next::Tiny(state), Content::Big(big)) => {
                big.retire_tree();
                self.content = Content::Tiny(Working::new(*state));
            }
            (Next::Same | Next::Big(_) | Next::Tiny(_), Content::Tiny(working)) => {
                working.forget_undo();
            }
            (Next::Same, Content::Big(_)) => {}
        }
    }

    /// Gives the object a slot.
    pub(super) fn new_cell(&mut self) -> Result<Arc<Cell>> {
        let cell = self.engine.index.allocate_cell()?;
        // The slot may have had another object: its records must not be taken for this one's.
        self.head.generation = cell.newest().map_or(0, |newest| newest.generation);
        self.cell = Some(cell.clone());
        Ok(cell)
    }

    /// Writes the object whole if deltas lie on its image. Not waited for: the deltas are durable.
    pub(super) fn write_image_for_sleep(&mut self) -> Result<()> {
        if self.engine.read_only {
            return Ok(());
        }
        if let Content::Big(big) = &self.content {
            let is_settled = self.head.depth == 0 && !big.head_has_items();
            return match is_settled || !big.has_tree() {
                true => Ok(()),
                false => self.settle_for_sleep(),
            };
        }
        let large = self.head.image_bytes > SLEEP_IMAGE_BYTES_MAX;
        if self.head.depth == 0 || (large && self.head.depth <= 16) {
            return Ok(());
        }
        let body = self.encode_image()?;
        self.append_whole(Kind::Image, body, Next::Same, Claim::Growth)
    }

    pub(super) fn append_whole(
        &mut self,
        kind: Kind,
        body: Vec<u8>,
        next: Next,
        claim: Claim,
    ) -> Result<()> {
        let reservation = self.engine.log.reserve(body.len(), claim)?;
        let prepared = Prepared {
            encoded: Encoded {
                kind,
                body,
                alarms_changed: false,
                next,
            },
            reservation,
            touched: self.touched,
        };
        self.append(prepared).map(drop)
    }
}
