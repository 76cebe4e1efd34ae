//! Armed restores: what sleeping or awake objects are to be restored to when they are woken next.
//!
//! They stand in the [register](crate::register), each by the id of the object that it is for, and not in that object
//! itself: what it was is restored with all of its keys and alarms, and none of them are an application's to see.
//!
//! ```text
//! arm:     what the object wrote so far is durable, then the entry
//! wake:    the restore is durable, then the entry is taken out, then the object goes on
//! ```
//! A crash between the two at the wake has the next one restore the same again, of which nothing is lost since
//! nothing was written in between.

use std::collections::BTreeMap;

use dovehouse_engine::{Bookmark, Error as EngineError, ObjectId};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::house::Inner;
use crate::register::{self, Register, malformed};
use crate::storage::Storage;

const PREFIX: &str = "armed/";

/// What the register has of them, so that waking an object asks memory only.
#[derive(Debug)]
pub(crate) struct Armed(Mutex<BTreeMap<ObjectId, Bookmark>>);

impl Armed {
    pub(crate) fn open(register: &Register) -> Result<Self> {
        let mut restores = BTreeMap::new();
        for (id, bookmark) in register.list(PREFIX)? {
            let id = <[u8; 32]>::try_from(id).ok().map(ObjectId::from_bytes);
            let text = String::from_utf8(bookmark).ok();
            let bookmark = text.and_then(|text| text.parse().ok());
            let malformed = || malformed("list of armed restores");
            restores.insert(id.ok_or_else(malformed)?, bookmark.ok_or_else(malformed)?);
        }
        Ok(Armed(Mutex::new(restores)))
    }
}

impl Inner {
    /// Has an object restored when it is woken next, instead of what was armed before. Durable when it returns.
    pub(crate) fn arm(&self, id: ObjectId, bookmark: Bookmark) -> Result<()> {
        let mut restores = self.armed.0.lock();
        let (key, text) = (register::key(PREFIX, id.as_bytes()), bookmark.to_string());
        self.register.change(
            &self.engine,
            |object| Ok(object.put(&key, text.as_bytes())?),
        )?;
        restores.insert(id, bookmark);
        Ok(())
    }

    /// The object is not restored any more. Durable when it returns.
    pub(crate) fn disarm(&self, id: &ObjectId) -> Result<()> {
        let mut restores = self.armed.0.lock();
        if restores.contains_key(id) {
            let key = register::key(PREFIX, id.as_bytes());
            self.register
                .change(&self.engine, |object| Ok(object.delete(&key).map(drop)?))?;
            restores.remove(id);
        }
        Ok(())
    }

    /// Restores an object that has just woken, if that was armed. Durable when it returns.
    pub(crate) fn begin_session(&self, id: &ObjectId, storage: &mut Storage) -> Result<()> {
        let Some(bookmark) = self.armed.0.lock().get(id).copied() else {
            return Ok(());
        };
        match storage.restore(self, &bookmark, false) {
            Ok(_) => {
                if let Some((ticket, _)) = storage.commit()? {
                    ticket.wait().map_err(EngineError::Log)?;
                }
            }
            // History has let go of it since it was armed. An object that never wakes again would be worse.
            Err(Error::Engine(
                error @ (EngineError::NotAvailable { .. } | EngineError::WrongBookmark { .. }),
            )) => tracing::error!(object = %id, "it is not restored: {error}"),
            Err(error) => return Err(error),
        }
        self.disarm(id)
    }
}
