//! An awake object's storage: its state in the engine, and its database once that is used.

use std::cell::OnceCell;
use std::sync::Arc;

use dovehouse_engine::{Engine, Object, Ticket};
use dovehouse_sqlbridge::{Database, SharedObject};
use parking_lot::Mutex;

use crate::error::Result;
use crate::house::Address;

pub(crate) struct Storage {
    object: SharedObject,
    database: OnceCell<Database>,
}

impl Storage {
    pub(crate) fn open(engine: &Engine, address: &Address) -> Result<Self> {
        let mut object = engine.wake(address.class.id, address.id.raw())?;
        if let Some(name) = address.id.name() {
            object.set_name(name);
        }
        Ok(Storage {
            object: Arc::new(Mutex::new(object)),
            database: OnceCell::new(),
        })
    }

    /// The object's keys and alarms.
    pub(crate) fn object<R>(&self, act: impl FnOnce(&mut Object) -> R) -> R {
        act(&mut self.object.lock())
    }

    /// The object's database, opened at its first use.
    pub(crate) fn database(&self) -> Result<&Database> {
        if self.database.get().is_none() {
            let opened = Database::open(self.object.clone())?;
            let _first = self.database.set(opened);
        }
        Ok(self.database.get().expect("it was just set"))
    }

    /// Commits the turn: keys, database and alarm as one record.
    pub(crate) fn commit(&self) -> Result<Option<Ticket>> {
        match self.database.get() {
            Some(database) => Ok(database.commit()?),
            None => Ok(self.object.lock().commit()?),
        }
    }

    /// Throws everything away, in this turn's transaction. The connection has to go with its pages.
    pub(crate) fn delete_all(&mut self, keep_alarm: bool) {
        if let Some(database) = self.database.take() {
            database.rollback();
        }
        self.object.lock().clear(keep_alarm);
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The connection goes first: it holds the object.
        drop(self.database.take());
        self.object.lock().rollback();
    }
}
