//! Where an object has lived: moves leave its history behind, in the stores where it was made.
//!
//! The register notes of each object that has moved which of its commits it made where:
//! ```text
//! stays/ID = count · (location · first varint · last varint)* · first varint
//! ```
//! A *stay* is from the commit by which the object arrived, or 0 where it was made, up to the last one before it left;
//! the last number is that of the commit by which it arrived where it is now. What a store has of the object besides
//! is no part of its history: what a move wrote on its way, and that it was erased there.
//!
//! A bookmark is checked by the store that made it, so each belongs to one.

use std::sync::Arc;

use dovehouse_engine::wal::bytes::{Put, Reader};
use dovehouse_engine::{
    Bookmark, Engine, Error as EngineError, Moment, Object, ObjectId as RawId, Ticket,
};

use crate::class::Address;
use crate::error::{Error, Result};
use crate::house::Inner;
use crate::locations::HOME;
use crate::register::{self, malformed};

/// Stays that are kept of an object; the oldest are forgotten first.
const STAYS_MAX: usize = 64;

/// A time that an object spent in a store, and that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stay {
    location: String,
    first: u64,
    last: u64,
}

/// Where an object has lived, and since which commit it has been where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stays {
    past: Vec<Stay>,
    first: u64,
}

impl Stays {
    /// The object leaves a location, its last commit there made, and has arrived elsewhere by a commit.
    pub(crate) fn moved(mut self, from: &str, last: u64, arrived: u64) -> Self {
        self.past.push(Stay {
            location: from.to_owned(),
            first: self.first,
            last,
        });
        let too_many = self.past.len().saturating_sub(STAYS_MAX);
        self.past.drain(..too_many);
        self.first = arrived;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.past.len() as u64);
        for stay in &self.past {
            out.put_prefixed(stay.location.as_bytes());
            out.put_varint(stay.first);
            out.put_varint(stay.last);
        }
        out.put_varint(self.first);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut stays = Stays::default();
        for _ in 0..reader.length()? {
            stays.past.push(Stay {
                location: String::from_utf8(reader.prefixed()?.to_vec()).ok()?,
                first: reader.varint()?,
                last: reader.varint()?,
            });
        }
        stays.first = reader.varint()?;
        Some(stays)
    }
}

pub(crate) fn key(id: &RawId) -> Vec<u8> {
    register::key("stays/", id.as_bytes())
}

/// Whether the store cannot know what is asked for, so that another may.
fn is_elsewhere(error: &EngineError) -> bool {
    use EngineError::{NoObject, WrongBookmark};
    matches!(error, NoObject { .. } | WrongBookmark { .. })
}

impl Inner {
    /// The store where an object lives.
    pub(crate) fn home_of(&self, id: &RawId) -> Result<&Arc<Engine>> {
        Ok(self.engine_at(self.located(id)?.unwrap_or(HOME)))
    }

    pub(crate) fn stays(&self, id: &RawId) -> Result<Stays> {
        let Some(found) = self.register.get(&key(id))? else {
            return Ok(Stays::default());
        };
        Stays::decode(&found).ok_or_else(|| malformed("stays"))
    }

    /// The store of a stay; an error if the house was opened without it.
    fn store_of(&self, stay: &Stay) -> Result<&Arc<Engine>> {
        let why =
            "the house was opened without it, and what the object was before it moved is there";
        let store = self.stores.number(&stay.location);
        let store = store.map_err(|_| Error::location(&stay.location, why))?;
        Ok(self.engine_at(store))
    }

    /// The commits of an object that can be had again, the oldest first, wherever they were made. Those at
    /// locations that are missing are left out.
    pub(crate) fn moments(&self, id: &RawId) -> Result<Vec<Moment>> {
        let stays = self.stays(id)?;
        let mut moments = Vec::new();
        for stay in &stays.past {
            let Ok(engine) = self.store_of(stay) else {
                continue;
            };
            moments.extend(moments_in(engine, id, stay.first, stay.last).or_else(none_there)?);
        }
        let present = moments_in(self.home_of(id)?, id, stays.first, u64::MAX);
        match moments.is_empty() {
            true => Ok(present?),
            false => {
                moments.extend(present.or_else(none_there)?);
                Ok(moments)
            }
        }
    }

    /// The bookmark of what an object was at a time.
    pub(crate) fn bookmark_at(&self, id: &RawId, time_ms: u64) -> Result<Bookmark> {
        let stays = self.stays(id)?;
        match self.home_of(id)?.bookmark_at(id, time_ms) {
            // It had arrived by then.
            Ok(bookmark) if bookmark.seq() >= stays.first => return Ok(bookmark),
            Err(EngineError::NotAvailable { .. }) if !stays.past.is_empty() => {
                return Err(self.not_available(id)?);
            }
            Err(error) if stays.past.is_empty() || !is_elsewhere(&error) => {
                return Err(error.into());
            }
            _ => {}
        }
        for stay in stays.past.iter().rev() {
            let engine = self.store_of(stay)?;
            let found = match engine.bookmark_at(id, time_ms) {
                Ok(found) => found,
                Err(_) => return Err(self.not_available(id)?),
            };
            if found.seq() > stay.last {
                // By this store's clock it had left.
                let moments = moments_in(engine, id, stay.first, stay.last);
                if let Some(last) = moments.or_else(none_there)?.last() {
                    return Ok(last.bookmark);
                }
            } else if found.seq() >= stay.first {
                return Ok(found);
            }
        }
        Err(self.not_available(id)?)
    }

    /// An object as it was, by a bookmark of whichever store.
    pub(crate) fn past(&self, id: &RawId, bookmark: &Bookmark) -> Result<Object> {
        let refused = match self.home_of(id)?.past(id, bookmark) {
            Err(error) if is_elsewhere(&error) => error,
            found => return Ok(found?),
        };
        let stays = self.stays(id)?;
        let mut missing = None;
        for stay in stays.past.iter().rev() {
            match self.store_of(stay).map(|engine| engine.past(id, bookmark)) {
                Err(error) => missing = Some(error),
                Ok(Err(error)) if is_elsewhere(&error) => {}
                Ok(Err(EngineError::NotAvailable { .. })) => return Err(self.not_available(id)?),
                Ok(found) => return Ok(found?),
            }
        }
        match missing {
            Some(missing) => Err(missing),
            None if stays.past.is_empty() => Err(refused.into()),
            None => Err(self.not_available(id)?),
        }
    }

    /// Makes an object, which nobody has awake, of what another of its class was.
    pub(crate) fn fork(
        &self,
        id: &RawId,
        bookmark: &Bookmark,
        to: &Address,
        with_alarms: bool,
    ) -> Result<Option<Ticket>> {
        let store = self.place(to)?;
        let bound = to.class.minters.made(*id)?;
        if !self.stores.allows(bound.as_deref(), store) {
            let why = "it is outside the jurisdiction that the id of the forked object is bound to";
            return Err(Error::location(self.location_name(store), why));
        }
        let (engine, name) = (self.engine_at(store), to.id.name());
        match engine.fork_named(id, bookmark, to.id.raw(), name, with_alarms) {
            Err(error) if is_elsewhere(&error) => {}
            forked => return Ok(forked?),
        }
        let past = self.past(id, bookmark)?;
        let mut fork = engine.wake(self.class_number(&to.class, store)?, to.id.raw())?;
        if !fork.is_empty() {
            let id = to.id.raw();
            return Err(EngineError::NotEmpty { id }.into());
        }
        if let Some(name) = name {
            fork.set_name(name);
        }
        fork.replace_with(&past, with_alarms)?;
        Ok(fork.commit()?)
    }

    /// The error that says what can be had of an object that has moved.
    fn not_available(&self, id: &RawId) -> Result<Error> {
        let newest = self.home_of(id)?.bookmark(id)?;
        let first = self.moments(id)?.into_iter().next();
        Ok(Error::Engine(EngineError::NotAvailable {
            id: *id,
            first: first.map_or(newest, |moment| moment.bookmark),
            since_ms: first.map(|moment| moment.time_ms),
            newest,
        }))
    }
}

/// The commits of a stay.
fn moments_in(
    engine: &Engine,
    id: &RawId,
    first: u64,
    last: u64,
) -> dovehouse_engine::Result<Vec<Moment>> {
    let of_stay = |moment: &dovehouse_engine::Result<Moment>| match moment {
        Ok(moment) => (first..=last).contains(&moment.bookmark.seq()),
        Err(_) => true,
    };
    engine.history(id)?.filter(of_stay).collect()
}

/// A store that knows nothing of an object has none of its commits.
fn none_there(error: EngineError) -> dovehouse_engine::Result<Vec<Moment>> {
    match error {
        EngineError::NoObject { .. } => Ok(Vec::new()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_read_back_cut_ones_do_not_and_the_oldest_are_forgotten_first() {
        let mut stays = Stays::default();
        for n in 0..70 {
            stays = stays.moved(&format!("location {n}"), 10 * n + 9, 10 * n + 10);
        }
        assert_eq!((stays.past.len(), stays.first), (STAYS_MAX, 700));
        let oldest = Stay {
            location: "location 6".into(),
            first: 60,
            last: 69,
        };
        assert_eq!(stays.past[0], oldest);
        let bytes = stays.encode();
        assert_eq!(Stays::decode(&bytes), Some(stays));
        for len in 0..bytes.len() {
            assert_eq!(Stays::decode(&bytes[..len]), None, "cut to {len}");
        }
    }
}
