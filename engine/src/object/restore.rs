//! Restoring an object to what it was.

use super::{Content, LoadedBig, Object};
use crate::error::{Error, Result};
use crate::history::{Bookmark, PastView, Subject};
use crate::kv::List;
use crate::load::LoadedState;
use crate::state::State;

impl Object {
    /// Commits the open transaction, and gives the bookmark of what the object is then. It may be asked for
    /// before the commit is durable, and used once it is.
    ///
    /// Fails with [`Error::NoObject`] for an object that was never committed, besides what [`Object::commit`]
    /// fails with.
    pub fn bookmark(&mut self) -> Result<Bookmark> {
        self.commit()?;
        let Some(cell) = &self.cell else {
            return Err(Error::NoObject { id: self.id });
        };
        let of = Subject {
            slot: cell.slot,
            generation: self.head.generation,
        };
        Ok(self.engine.bookmark_of(&self.id, of, self.head.seq))
    }

    /// Makes the object what it was at a bookmark, keys and pages, in the open transaction: committing it is the
    /// restore, one commit, which can be undone in the same way. Alarms stay as they are now, unless
    /// `with_alarms` is set. A database that is open on the object must be closed before.
    ///
    /// Reads and writes what has changed since; of a big object that was thrown away meanwhile, or has been a
    /// tiny one, all that there was.
    ///
    /// Fails with [`Error::OpenTransaction`] if something was changed since the last commit, with
    /// [`Error::WrongBookmark`] or [`Error::NotAvailable`], and as [`Object::put`] does; roll back then.
    pub fn restore(&mut self, bookmark: &Bookmark, with_alarms: bool) -> Result<()> {
        if self.is_touched() {
            return Err(Error::OpenTransaction);
        }
        self.check_writable()?;
        if let Some(ticket) = self.last_ticket() {
            ticket.wait()?;
        }
        let (point, state) = self.engine.past(&self.id, bookmark)?;
        let alarms = with_alarms.then(|| state.alarms().to_vec());
        match (&self.content, state) {
            (Content::Tiny(_), LoadedState::Tiny(state)) => self.restore_tiny(&state)?,
            (Content::Big(big), LoadedState::Big(past)) if big.has_map_of(view_of(&past)) => {
                self.restore_blocks(&past)?;
            }
            (_, state) => {
                let engine = self.engine.clone();
                let past = Object::past(engine, self.class, self.id, state, point.seq);
                self.restore_all(&past)?;
            }
        }
        if let Some(alarms) = alarms {
            self.set_alarms(alarms);
        }
        Ok(())
    }

    fn restore_tiny(&mut self, past: &State) -> Result<()> {
        let Content::Tiny(working) = &self.content else {
            return Ok(());
        };
        let now = working.state().clone();
        let changes = now.changes_to(past);
        for (key, value) in changes.kv {
            match value {
                Some(value) => self.put(key, value)?,
                None => drop(self.delete(key)?),
            }
        }
        if let Content::Tiny(working) = &mut self.content {
            self.touched += 1;
            working.set_page_count(past.pages.len());
            for (number, _, new) in changes.pages {
                working.write_page(number, new.map(Into::into));
            }
        }
        self.keep_budget()
    }

    fn restore_blocks(&mut self, past: &LoadedBig) -> Result<()> {
        let (engine, view) = (self.engine.clone(), view_of(past));
        let Content::Big(big) = &mut self.content else {
            return Ok(());
        };
        let changed = big.blocks_since(view)?;
        self.touched += 1;
        big.begin_restore(past.root, past.page_count);
        for id in changed {
            let then = view.block(&engine, id)?;
            let Content::Big(big) = &mut self.content else {
                return Ok(());
            };
            if big.restore_block(id, then)? {
                self.keep_budget()?;
            }
        }
        Ok(())
    }

    /// Makes the object what another one is, keys and pages, in the open transaction. The other may be one of the
    /// past, and of another store. Alarms stay as they are now, unless `with_alarms` is set. A database that is open on
    /// the object must be closed before. Reads and writes all that there is.
    ///
    /// Fails as [`Object::put`] does; roll back then.
    pub fn replace_with(&mut self, other: &Object, with_alarms: bool) -> Result<()> {
        self.check_writable()?;
        match self.is_empty() {
            true => self.copy_from(other)?,
            false => self.restore_all(other)?,
        }
        if with_alarms {
            self.set_alarms(other.alarms().to_vec());
        }
        Ok(())
    }

    /// Throws everything away and copies what was.
    fn restore_all(&mut self, past: &Object) -> Result<()> {
        self.clear(true);
        self.copy_from(past)
    }

    /// Keys and pages.
    pub(super) fn copy_from(&mut self, past: &Object) -> Result<()> {
        for listed in past.list(&List::all()) {
            let (key, value) = listed?;
            self.put(&key, &value)?;
        }
        for number in 1..=past.page_count() {
            match past.page(number)? {
                Some(page) => self.write_page(number, &page)?,
                // The last page tells how many there are.
                None if number == past.page_count() => {
                    self.write_page(number, &[0; crate::PAGE_BYTES])?
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// The view of a big object as it was.
fn view_of(past: &LoadedBig) -> &PastView {
    past.under.past.as_ref().expect("it is of the past")
}
