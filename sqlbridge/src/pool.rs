//! The databases of a thread: hot, released, closed.
//!
//! A connection costs tens of kilobytes, an object that is awake without one a few. So of the objects of a
//! thread only the last ones used have a connection, and of those only the very last keep its caches:
//! ```text
//! hot ──(others are used)──> released ──(others are used)──> closed ──> idle, for the next object
//!  ^                             │                              │       with the same schema
//!  └────────── used ─────────────┴──────────────────────────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::database::Database;
use crate::error::Result;
use crate::file::SharedObject;
use crate::idle::{Idle, Schema, with_page_one};
use crate::policy::SqlPolicy;

/// How many databases of a thread keep what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Databases with full caches: about 40 KB each, beside the object's own pages. Default 1,000.
    pub hot: usize,
    /// Databases with a connection, the hot ones among them: about 20 KB each. Default 4,000.
    pub open: usize,
    /// Connections that wait for an object with the schema of the one before. Default 64.
    pub idle: usize,
}

impl Default for PoolSizes {
    fn default() -> Self {
        PoolSizes {
            hot: 1_000,
            open: 4_000,
            idle: 64,
        }
    }
}

/// The databases of a thread. Clones are the same pool.
///
/// ```
/// # use std::sync::Arc;
/// # use dovehouse_engine::{Engine, ObjectId};
/// # use dovehouse_sqlbridge::{Pool, PoolSizes, SqlPolicy};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path())?;
/// # let class = engine.class("Room")?;
/// let pool = Pool::new(SqlPolicy::native(), PoolSizes::default());
/// let room = Arc::new(engine.wake(class, ObjectId::from_bytes([1; 32]))?.into());
/// let slot = pool.slot(room);
/// let database = slot.database()?; // opened, or as it was
/// database.exec("CREATE TABLE bird(name TEXT)", ())?;
/// database.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    policy: SqlPolicy,
    sizes: PoolSizes,
    clock: Cell<u64>,
    open: RefCell<Open>,
    idle: RefCell<Vec<(Schema, Idle)>>,
}

/// The open databases, by when they were last used.
#[derive(Debug, Default)]
struct Open {
    databases: HashMap<u64, Entry>,
    hot: BTreeMap<u64, u64>,
    released: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Entry {
    database: Rc<Database>,
    used: u64,
}

/// An object's place in a [`Pool`], whether its database is open or not. Dropping it closes the database,
/// and undoes a turn that was not committed.
#[derive(Debug)]
pub struct Slot {
    pool: Rc<Inner>,
    number: u64,
    object: SharedObject,
}

impl Pool {
    /// A pool without databases.
    pub fn new(policy: SqlPolicy, sizes: PoolSizes) -> Self {
        let hot = sizes.hot.min(sizes.open);
        let inner = Inner {
            policy,
            sizes: PoolSizes { hot, ..sizes },
            clock: Cell::new(0),
            open: RefCell::default(),
            idle: RefCell::default(),
        };
        Pool {
            inner: Rc::new(inner),
        }
    }

    /// A place for an object. Its database is opened at its first use.
    pub fn slot(&self, object: SharedObject) -> Slot {
        Slot {
            number: self.inner.tick(),
            pool: self.inner.clone(),
            object,
        }
    }

    /// How many databases are hot, released, and connections idle.
    pub fn counts(&self) -> (usize, usize, usize) {
        let open = self.inner.open.borrow();
        (
            open.hot.len(),
            open.released.len(),
            self.inner.idle.borrow().len(),
        )
    }
}

impl Slot {
    /// The object's database: as it was left, or opened now. Keep it no longer than a turn.
    pub fn database(&self) -> Result<Rc<Database>> {
        let database = match self.pool.used(self.number) {
            Some(database) => database,
            None => self.pool.enter(self.number, &self.object)?,
        };
        self.pool.make_room();
        Ok(database)
    }

    /// The database, if it is open.
    pub fn opened(&self) -> Option<Rc<Database>> {
        let open = self.pool.open.borrow();
        let entry = open.databases.get(&self.number);
        entry.map(|entry| entry.database.clone())
    }

    /// Closes the database, if it is open. What the turn did is undone. Whoever still holds the database
    /// gets errors from it.
    pub fn close(&self) {
        if let Some(database) = self.pool.remove(self.number) {
            database.rollback();
            self.pool.retire(database);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn tick(&self) -> u64 {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        now
    }

    /// The open database with this number, as the one used last.
    fn used(&self, number: u64) -> Option<Rc<Database>> {
        let mut open = self.open.borrow_mut();
        let Open {
            databases,
            hot,
            released,
        } = &mut *open;
        let entry = databases.get_mut(&number)?;
        if hot.last_key_value() != Some((&entry.used, &number)) {
            hot.remove(&entry.used);
            released.remove(&entry.used);
            entry.used = self.tick();
            hot.insert(entry.used, number);
        }
        Some(entry.database.clone())
    }

    fn enter(&self, number: u64, object: &SharedObject) -> Result<Rc<Database>> {
        let database = Rc::new(self.open(object)?);
        let entry = Entry {
            database: database.clone(),
            used: self.tick(),
        };
        let mut open = self.open.borrow_mut();
        open.hot.insert(entry.used, number);
        open.databases.insert(number, entry);
        Ok(database)
    }

    fn open(&self, object: &SharedObject) -> Result<Database> {
        let waiting = {
            let mut idle = self.idle.borrow_mut();
            let find = |page: &[u8]| idle.iter().rposition(|(schema, _)| schema.is_on(page));
            let found = with_page_one(&object.lock(), find).flatten();
            found.map(|place| idle.remove(place))
        };
        match waiting {
            Some((_, idle)) => idle.open(object.clone()),
            None => Database::open_with(object.clone(), &self.policy),
        }
    }

    fn remove(&self, number: u64) -> Option<Rc<Database>> {
        let mut open = self.open.borrow_mut();
        let entry = open.databases.remove(&number)?;
        open.hot.remove(&entry.used);
        open.released.remove(&entry.used);
        Some(entry.database)
    }

    /// Keeps a closed database's connection for the next object, if it can serve one.
    fn retire(&self, database: Rc<Database>) {
        let database = match Rc::try_unwrap(database) {
            Ok(database) => database,
            // Somebody holds on to it. Two connections must not write to one object.
            Err(held) => return held.part(),
        };
        let Some((schema, connection)) = database.into_idle() else {
            return;
        };
        let mut idle = self.idle.borrow_mut();
        idle.push((schema, connection));
        if idle.len() > self.sizes.idle {
            idle.remove(0);
        }
    }

    /// Takes caches from the databases that were not used for long, and connections from the others. The
    /// one used last is left alone.
    fn make_room(&self) {
        loop {
            let mut open = self.open.borrow_mut();
            if open.hot.len() <= self.sizes.hot.max(1) {
                break;
            }
            let Some((used, number)) = open.hot.pop_first() else {
                break;
            };
            open.released.insert(used, number);
            if let Some(entry) = open.databases.get(&number) {
                entry.database.release_memory();
            }
        }
        while let Some(database) = self.take_oldest() {
            self.retire(database);
        }
    }

    /// The oldest database that can be closed, if too many are open.
    fn take_oldest(&self) -> Option<Rc<Database>> {
        let number = {
            let open = self.open.borrow();
            if open.databases.len() <= self.sizes.open.max(1) {
                return None;
            }
            let closable = |number: &u64| {
                open.databases.get(number).is_some_and(|entry| {
                    Rc::strong_count(&entry.database) == 1 && entry.database.is_closable()
                })
            };
            *open.released.values().find(|number| closable(number))?
        };
        self.remove(number)
    }
}
