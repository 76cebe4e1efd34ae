//! Armed restores: what sleeping or awake objects are to be restored to when they are woken next.
//!
//! They stand in an object of the house's own, each by the id of the object that it is for, and not in that object
//! itself: what it was is restored with all of its keys and alarms, and none of them are an application's to see.
//!
//! ```text
//! arm:     what the object wrote so far is durable, then the entry
//! wake:    the restore is durable, then the entry is taken out, then the object goes on
//! ```
//! A crash between the two at the wake has the next one restore the same again, of which nothing is lost since
//! nothing was written in between.

use std::collections::BTreeMap;

use dovehouse_engine::{Bookmark, Engine, Error as EngineError, List, Object, ObjectId};
use parking_lot::Mutex;

use crate::error::Result;
use crate::storage::Storage;

/// A tenant of the house's own.
const TENANT: &str = "dovehouse";
const CLASS: &str = "armed restores";
const ID: ObjectId = ObjectId::from_bytes(*b"armed restores of the dovehouse.");

#[derive(Debug, Default)]
pub(crate) struct Armed(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// `None` as long as nothing was ever armed, and after the house was closed.
    object: Option<Object>,
    restores: BTreeMap<ObjectId, Bookmark>,
}

impl Armed {
    pub(crate) fn open(engine: &Engine) -> Result<Self> {
        let classes = engine.classes();
        let mut found = classes.into_iter();
        let found = found.find(|(_, tenant, name)| tenant == TENANT && name == CLASS);
        let Some((class, ..)) = found else {
            return Ok(Armed::default());
        };
        let object = engine.wake(class, ID)?;
        let mut restores = BTreeMap::new();
        for listed in object.list(&List::all()) {
            let (key, value) = listed?;
            let id = <[u8; 32]>::try_from(&*key).ok().map(ObjectId::from_bytes);
            let text = std::str::from_utf8(&value).ok();
            let bookmark = text.and_then(|text| text.parse().ok());
            let (Some(id), Some(bookmark)) = (id, bookmark) else {
                let what = "the list of armed restores".to_owned();
                let why = "its entries make no sense".to_owned();
                return Err(EngineError::Damaged { what, why }.into());
            };
            restores.insert(id, bookmark);
        }
        Ok(Armed(Mutex::new(Entries {
            object: Some(object),
            restores,
        })))
    }

    /// Has the object restored when it is woken next, instead of what was armed before. Durable when it returns.
    pub(crate) fn arm(&self, engine: &Engine, id: ObjectId, bookmark: Bookmark) -> Result<()> {
        let mut entries = self.0.lock();
        let text = bookmark.to_string();
        entries.change(engine, |object| object.put(id.as_bytes(), text.as_bytes()))?;
        entries.restores.insert(id, bookmark);
        Ok(())
    }

    /// The object is not restored any more. Durable when it returns.
    pub(crate) fn disarm(&self, engine: &Engine, id: &ObjectId) -> Result<()> {
        let mut entries = self.0.lock();
        if entries.restores.contains_key(id) {
            entries.change(engine, |object| object.delete(id.as_bytes()).map(drop))?;
            entries.restores.remove(id);
        }
        Ok(())
    }

    /// Restores an object that has just woken, if that was armed. Durable when it returns.
    pub(crate) fn begin_session(
        &self,
        engine: &Engine,
        id: &ObjectId,
        storage: &mut Storage,
    ) -> Result<()> {
        let Some(bookmark) = self.0.lock().restores.get(id).copied() else {
            return Ok(());
        };
        match storage.restore(&bookmark, false) {
            Ok(_) => {
                if let Some((ticket, _)) = storage.commit()? {
                    ticket.wait().map_err(EngineError::Log)?;
                }
            }
            // History has let go of it since it was armed. An object that never wakes again would be worse.
            Err(crate::Error::Engine(
                error @ (EngineError::NotAvailable { .. } | EngineError::WrongBookmark { .. }),
            )) => tracing::error!(object = %id, "it is not restored: {error}"),
            Err(error) => return Err(error),
        }
        self.disarm(engine, id)
    }

    /// Lets go of the object, before its store is closed.
    pub(crate) fn close(&self) {
        drop(self.0.lock().object.take());
    }
}

impl Entries {
    fn change(
        &mut self,
        engine: &Engine,
        act: impl FnOnce(&mut Object) -> dovehouse_engine::Result<()>,
    ) -> Result<()> {
        if self.object.is_none() {
            self.object = Some(engine.wake(engine.class_of(TENANT, CLASS)?, ID)?);
        }
        let object = self.object.as_mut().expect("it was opened");
        match act(object).and_then(|()| object.commit()) {
            Ok(Some(ticket)) => drop(ticket.wait().map_err(EngineError::Log)?),
            Ok(None) => {}
            Err(error) => {
                object.rollback();
                return Err(error.into());
            }
        }
        Ok(())
    }
}
