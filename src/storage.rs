//! An awake object's storage: its state in the engine, and its database once that is used.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Engine, Object, Ticket};
use dovehouse_sqlbridge::{Database, Pool, SharedObject, Slot};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::house::Address;

pub(crate) struct Storage {
    object: SharedObject,
    slot: Slot,
    /// Inner transactions that are open.
    pub(crate) transactions: Cell<usize>,
}

impl Storage {
    pub(crate) fn open(engine: &Engine, pool: &Pool, address: &Address) -> Result<Self> {
        let mut object = engine.wake(address.class.id, address.id.raw())?;
        if let Some(name) = address.id.name() {
            object.set_name(name);
        }
        let object = Arc::new(Mutex::new(object));
        Ok(Storage {
            slot: pool.slot(object.clone()),
            transactions: Cell::new(0),
            object,
        })
    }

    /// The object's keys and alarms.
    pub(crate) fn object<R>(&self, act: impl FnOnce(&mut Object) -> R) -> R {
        act(&mut self.object.lock())
    }

    /// The object's database, opened at its first use.
    pub(crate) fn database(&self) -> Result<Rc<Database>> {
        Ok(self.slot.database()?)
    }

    /// Commits the turn: keys, database and alarm as one record.
    pub(crate) fn commit(&self) -> Result<Option<Ticket>> {
        match self.slot.opened() {
            Some(database) => Ok(database.commit()?),
            None => Ok(self.object.lock().commit()?),
        }
    }

    /// Throws everything away, in this turn's transaction. The connection has to go with its pages.
    pub(crate) fn delete_all(&mut self, keep_alarm: bool) -> Result<()> {
        if self.transactions.get() > 0 {
            return Err(Error::InsideTransaction);
        }
        self.slot.close();
        self.object.lock().clear(keep_alarm);
        Ok(())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The connection goes first: it holds the object.
        self.slot.close();
        self.object.lock().rollback();
    }
}
