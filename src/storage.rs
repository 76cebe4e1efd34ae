//! An awake object's storage: its state in the engine, and its database once that is used.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Bookmark, Error as EngineError, Object, Ticket};
use dovehouse_sqlbridge::{Database, Pool, Savepoint, SharedObject, Slot};
use parking_lot::Mutex;

use crate::catalog::StorageKind;
use crate::class::{Address, Class};
use crate::error::{Error, Result};
use crate::house::Inner;

/// What an awake object takes besides its state.
const OVERHEAD_BYTES: usize = 2 << 10;
/// The blocks of a big object are in a cache that all share.
const BIG_BYTES: usize = 64 << 10;

pub(crate) struct Storage {
    object: SharedObject,
    slot: Slot,
    class: Arc<Class>,
    /// Inner transactions that are open.
    pub(crate) transactions: Cell<usize>,
    /// Of these, transactions that may last longer than a turn, the innermost last: while there are any,
    /// nothing commits.
    spanning: RefCell<Vec<Spanning>>,
    /// The object's touches at the last commit, and those of unconfirmed writes since then.
    committed_touches: Cell<u64>,
    unconfirmed_touches: Cell<u64>,
}

/// A transaction that may last longer than a turn.
struct Spanning {
    begin: Begin,
    before: Touched,
}

/// Where it began.
enum Begin {
    /// With the turn: the outermost one, as long as no database takes part.
    Turn,
    /// In the database, which is held so that it stays open.
    Database(Rc<Database>, Savepoint),
    /// Among the keys of a class without databases.
    Keys(dovehouse_engine::Savepoint),
}

/// How often the object was touched, and by writes that nothing waits for.
#[derive(Clone, Copy)]
pub(crate) struct Touched {
    all: u64,
    unconfirmed: u64,
}

impl Storage {
    /// Loads the object's state. If commits of it are under way, their ticket is returned instead.
    pub(crate) fn open(
        house: &Inner,
        pool: &Pool,
        address: &Address,
    ) -> Result<Result<Self, Ticket>> {
        let store = house.place(address)?;
        let class = house.class_number(&address.class, store)?;
        let woken = house
            .engine_at(store)
            .wake_at_once(class, address.id.raw())?;
        Ok(woken.map(|object| Self::of(object, pool, address)))
    }

    fn of(mut object: Object, pool: &Pool, address: &Address) -> Self {
        if let Some(name) = address.id.name() {
            object.set_name(name);
        }
        let touches = object.touches();
        let object = Arc::new(Mutex::new(object));
        Storage {
            slot: pool.slot(object.clone()),
            transactions: Cell::new(0),
            spanning: RefCell::default(),
            committed_touches: Cell::new(touches),
            unconfirmed_touches: Cell::new(0),
            object,
            class: address.class.clone(),
        }
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
        self.class.check_sql()?;
        let database = self.slot.database()?;
        if let Some(outermost) = self.spanning.borrow_mut().first_mut()
            && matches!(outermost.begin, Begin::Turn)
        {
            // SQLite may undo a transaction by itself; its savepoint tells.
            outermost.begin = Begin::Database(database.clone(), database.savepoint()?);
        }
        Ok(database)
    }

    /// Commits the turn: keys, database and alarm as one record. Returns its ticket, and whether it has
    /// writes that the object's outputs wait for.
    pub(crate) fn commit(&self) -> Result<Option<(Ticket, bool)>> {
        let (ticket, touches) = match self.slot.opened() {
            Some(database) => {
                let is_half = database.take_undone()
                    && (database.is_writing() || self.object.lock().is_touched());
                if is_half {
                    database.rollback();
                    return Err(Error::TransactionUndone);
                }
                let ticket = database.commit()?;
                (ticket, self.object.lock().touches())
            }
            None => {
                let mut object = self.object.lock();
                if !object.is_touched() {
                    return Ok(None); // As most turns of most objects.
                }
                (object.commit()?, object.touches())
            }
        };
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

    /// Makes the object what it was, in this turn's transaction, which must have nothing else. Returns the
    /// bookmark of what it is now.
    pub(crate) fn restore(
        &mut self,
        house: &Inner,
        bookmark: &Bookmark,
        with_alarms: bool,
    ) -> Result<Bookmark> {
        self.slot.close();
        let mut object = self.object.lock();
        let now = object.bookmark()?;
        let restored = match object.restore(bookmark, with_alarms) {
            // It may be one of where the object was before it moved.
            Err(EngineError::WrongBookmark { id }) => {
                let past = house.past(&id, bookmark);
                past.and_then(|past| Ok(object.replace_with(&past, with_alarms)?))
            }
            restored => restored.map_err(Error::from),
        };
        if let Err(error) = restored {
            object.rollback();
            return Err(error);
        }
        Ok(now)
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

    /// What was touched so far, for [`Storage::undone_since`].
    pub(crate) fn touched(&self) -> Touched {
        Touched {
            all: self.object.lock().touches(),
            unconfirmed: self.unconfirmed_touches.get(),
        }
    }

    /// What was written since then is undone: no output has to wait for it.
    pub(crate) fn undone_since(&self, before: Touched) {
        let undone = self.object.lock().touches() - before.all;
        self.unconfirmed_touches.set(before.unconfirmed + undone);
    }

    /// Whether a transaction is open that goes on when the turn ends.
    pub(crate) fn is_in_transaction(&self) -> bool {
        !self.spanning.borrow().is_empty()
    }

    /// Begins a transaction that may last longer than the turn. What the turn wrote before must be
    /// committed, if it is the outermost.
    pub(crate) fn begin(&self) -> Result<()> {
        let before = self.touched();
        let begin = match (self.is_in_transaction(), self.class.storage) {
            (false, _) => Begin::Turn,
            (true, StorageKind::Kv) => Begin::Keys(self.object.lock().savepoint()),
            (true, StorageKind::Sqlite) => {
                let database = self.database()?;
                let savepoint = database.savepoint()?;
                Begin::Database(database, savepoint)
            }
        };
        self.spanning.borrow_mut().push(Spanning { begin, before });
        self.transactions.update(|open| open + 1);
        Ok(())
    }

    /// Ends the innermost of these transactions, and keeps what it did or undoes it.
    pub(crate) fn end(&self, keep: bool) -> Result<()> {
        let mut spanning = self.spanning.borrow_mut();
        let Some(Spanning { begin, before }) = spanning.pop() else {
            return Ok(());
        };
        self.transactions.update(|open| open - 1);
        let ended = match (begin, keep) {
            (Begin::Database(database, savepoint), true) => database.release(savepoint),
            (Begin::Database(database, savepoint), false) if !spanning.is_empty() => {
                database.rollback_to(savepoint)
            }
            // The outermost began with nothing uncommitted.
            (Begin::Database(database, _), false) => {
                database.rollback();
                Ok(())
            }
            (Begin::Turn | Begin::Keys(_), true) => Ok(()),
            (Begin::Keys(savepoint), false) => {
                self.object.lock().rollback_to(savepoint);
                Ok(())
            }
            (Begin::Turn, false) => {
                self.object.lock().rollback();
                Ok(())
            }
        };
        if !keep {
            self.undone_since(before);
        }
        if spanning.is_empty()
            && let Some(database) = self.slot.opened()
        {
            // All of it is over, and what came before it was committed.
            database.take_undone();
        }
        Ok(ended?)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The connection goes first: it holds the object.
        self.spanning.take();
        self.slot.close();
        self.object.lock().rollback();
    }
}
