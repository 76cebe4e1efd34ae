//! An object's SQL, for its handlers.

use std::fmt;
use std::rc::Rc;

use dovehouse_sqlbridge::{Access, Cursor, Database, Parameters, Statements};

use crate::core::Core;
use crate::error::{Error, Result};

/// An object's SQL database: SQLite, private to the object.
///
/// Statements that write take part in the turn's transaction, together with the object's keys and alarm.
///
/// # Errors
/// Besides those of [`Kv`](crate::Kv): what SQLite says of the statement, as [`Error::Sql`]. A failed
/// statement leaves the turn's other writes as they are.
#[derive(Clone, Copy)]
pub struct Sql<'a> {
    core: &'a Rc<Core>,
}

impl fmt::Debug for Sql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sql")
    }
}

/// The rows of a statement; see [`Cursor`]. It may be kept over an await, and ends with an error if the
/// object was put to sleep or its storage deleted meanwhile.
pub type SqlCursor = Cursor<Turn>;

/// How a cursor reaches its object's database: in the object's own turns.
#[derive(Clone)]
pub struct Turn {
    core: Rc<Core>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl Access for Turn {
    type Error = Error;

    fn with<R>(
        &self,
        act: impl FnOnce(Statements<'_>) -> dovehouse_sqlbridge::Result<R>,
    ) -> Result<R> {
        self.core
            .with_storage(|storage| Ok(storage.database()?.with_statements(act)?))
    }
}

impl<'a> Sql<'a> {
    pub(crate) fn new(core: &'a Rc<Core>) -> Self {
        Sql { core }
    }

    fn with<R>(&self, act: impl FnOnce(&Database) -> dovehouse_sqlbridge::Result<R>) -> Result<R> {
        self.core
            .with_storage(|storage| Ok(act(&*storage.database()?)?))
    }

    /// Runs one statement or several. The last one's rows are the cursor's, and the parameters are for
    /// the last one; the rows of the others are dropped.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # fn handler(ctx: &Ctx) -> Result<()> {
    /// ctx.sql().exec("INSERT INTO bird(name, ring) VALUES (?, ?)", ("dove", 7))?;
    /// let names: Vec<String> = ctx.sql().exec("SELECT name FROM bird", ())?.deserialize()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn exec(&self, sql: &str, parameters: impl Parameters) -> Result<SqlCursor> {
        let turn = Turn {
            core: self.core.clone(),
        };
        self.with(|database| database.exec_through(turn, sql, parameters))
    }

    /// Runs `act` in a transaction inside the turn's: if it fails, tables, keys and alarm are as they
    /// were before. Nests.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # fn handler(ctx: &Ctx) -> Result<()> {
    /// ctx.sql().transaction(|sql| {
    ///     sql.exec("UPDATE account SET cents = cents - 100 WHERE id = 1", ())?;
    ///     sql.exec("UPDATE account SET cents = cents + 100 WHERE id = 2", ())?;
    ///     ctx.kv().put("last", "1 to 2")
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction<T, E: From<Error>>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.core.with_storage(|storage| Ok(storage.touched()))?;
        let savepoint = self.with(Database::savepoint)?;
        self.count_transactions(1)?;
        let acted = act(self);
        self.count_transactions(-1)?;
        match acted {
            Ok(value) => {
                self.with(|database| database.release(savepoint))?;
                Ok(value)
            }
            Err(error) => {
                self.with(|database| database.rollback_to(savepoint))?;
                self.core.with_storage(|storage| {
                    storage.undone_since(before);
                    Ok(())
                })?;
                Err(error)
            }
        }
    }

    fn count_transactions(&self, change: isize) -> Result<()> {
        self.core.with_storage(|storage| {
            let open = storage.transactions.get();
            storage.transactions.set(open.saturating_add_signed(change));
            Ok(())
        })
    }

    /// Brings the schema up to date: see [`Database::migrate`].
    pub fn migrate(&self, migrations: &[&str]) -> Result<usize> {
        self.with(|database| database.migrate(migrations))
    }

    /// The bytes of the database's pages in use, including this turn's.
    pub fn database_size(&self) -> Result<u64> {
        self.with(Database::size)
    }

    /// Rows that the last statement inserted, updated or deleted.
    pub fn changes(&self) -> Result<u64> {
        self.with(|database| Ok(database.changes()))
    }
}
