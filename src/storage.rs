//! An awake object's storage: its state in the engine, and its database once that is used.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Engine, Object, Ticket};
use dovehouse_sqlbridge::{Database, Pool, Savepoint, SharedObject, Slot};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::house::Address;

/// What an awake object takes besides its state.
const OVERHEAD_BYTES: usize = 2 << 10;
/// The blocks of a big object are in a cache that all share.
const BIG_BYTES: usize = 64 << 10;

pub(crate) struct Storage {
    object: SharedObject,
    slot: Slot,
    /// Inner transactions that are open.
    pub(crate) transactions: Cell<usize>,
    /// Of these, transactions that may last longer than a turn: while there are any, nothing commits.
    spanning: Cell<usize>,
    /// The outermost of those, if the database takes part. The database is held so that it stays open.
    outermost: RefCell<Option<(Rc<Database>, Savepoint)>>,
    /// The object's touches at the last commit, and those of unconfirmed writes since then.
    committed_touches: Cell<u64>,
    unconfirmed_touches: Cell<u64>,
}

/// The begin of a transaction that may last longer than a turn.
pub(crate) struct Spanning(Option<(Rc<Database>, Savepoint)>);

impl Storage {
    pub(crate) fn open(engine: &Engine, pool: &Pool, address: &Address) -> Result<Self> {
        let mut object = engine.wake(address.class.id, address.id.raw())?;
        if let Some(name) = address.id.name() {
            object.set_name(name);
        }
        let touches = object.touches();
        let object = Arc::new(Mutex::new(object));
        Ok(Storage {
            slot: pool.slot(object.clone()),
            transactions: Cell::new(0),
            spanning: Cell::new(0),
            outermost: RefCell::default(),
            committed_touches: Cell::new(touches),
            unconfirmed_touches: Cell::new(0),
            object,
        })
    }

    /// The object's keys and alarms.
    pub(crate) fn object<R>(&self, act: impl FnOnce(&mut Object) -> R) -> R {
        act(&mut self.object.lock())
    }

    /// The same for writes that nothing has to wait for.
    pub(crate) fn object_unconfirmed<R>(&self, act: impl FnOnce(&mut Object) -> R) -> R {
        let mut object = self.object.lock();
        let before = object.touches();
        let result = act(&mut object);
        let touches = object.touches() - before;
        self.unconfirmed_touches.update(|sum| sum + touches);
        result
    }

    /// The object's database, opened at its first use.
    pub(crate) fn database(&self) -> Result<Rc<Database>> {
        let database = self.slot.database()?;
        if self.spanning.get() > 0 && self.outermost.borrow().is_none() {
            // SQLite may undo a transaction by itself; its savepoint tells.
            *self.outermost.borrow_mut() = Some((database.clone(), database.savepoint()?));
        }
        Ok(database)
    }

    /// Commits the turn: keys, database and alarm as one record. Returns its ticket, and whether it has
    /// writes that the object's outputs wait for.
    pub(crate) fn commit(&self) -> Result<Option<(Ticket, bool)>> {
        let ticket = match self.slot.opened() {
            Some(database) => database.commit()?,
            None => self.object.lock().commit()?,
        };
        let touches = self.object.lock().touches();
        let touched = touches - self.committed_touches.replace(touches);
        let unconfirmed = self.unconfirmed_touches.take();
        Ok(ticket.map(|ticket| (ticket, touched > unconfirmed)))
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

    /// What the object takes in memory, more or less.
    pub(crate) fn memory_bytes(&self) -> usize {
        let object = self.object.lock();
        let state_bytes = match object.is_big() {
            true => BIG_BYTES,
            false => object.state_bytes(),
        };
        OVERHEAD_BYTES + state_bytes
    }

    /// Whether a transaction is open that goes on when the turn ends.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.spanning.get() > 0
    }

    /// Begins a transaction that may last longer than the turn. What the turn wrote before must be
    /// committed, if it is the outermost.
    pub(crate) fn begin(&self) -> Result<Spanning> {
        let inner = match self.spanning.get() {
            0 => None,
            _ => {
                let database = self.database()?;
                let savepoint = database.savepoint()?;
                Some((database, savepoint))
            }
        };
        self.spanning.update(|open| open + 1);
        self.transactions.update(|open| open + 1);
        Ok(Spanning(inner))
    }

    /// Ends it, and keeps what it did.
    pub(crate) fn keep(&self, Spanning(inner): Spanning) -> Result<()> {
        self.ended();
        match inner.or_else(|| self.outermost.take()) {
            Some((database, savepoint)) => Ok(database.release(savepoint)?),
            None => Ok(()),
        }
    }

    /// Ends it, and undoes what it did.
    pub(crate) fn undo(&self, Spanning(inner): Spanning) -> Result<()> {
        self.ended();
        if let Some((database, savepoint)) = inner {
            return Ok(database.rollback_to(savepoint)?);
        }
        // It began with nothing uncommitted.
        drop(self.outermost.take());
        match self.slot.opened() {
            Some(database) => database.rollback(),
            None => self.object.lock().rollback(),
        }
        Ok(())
    }

    fn ended(&self) {
        self.spanning.update(|open| open - 1);
        self.transactions.update(|open| open - 1);
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The connection goes first: it holds the object.
        self.outermost.take();
        self.slot.close();
        self.object.lock().rollback();
    }
}
