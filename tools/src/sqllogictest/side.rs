//! The two sides that run a script: an object's database, and stock SQLite. Everything of
//! `dovehouse_sqlbridge` but its values and errors is used in this file.

use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::{ClassId, Engine, ObjectId, Ticket};
use dovehouse_sqlbridge::{
    Access, Budget, Connection, Cursor, Database, Error, Savepoint, SharedObject, SqlPolicy, Value,
};

use super::boundary::Boundary;

/// What a query gave.
pub(crate) struct Answer {
    pub(crate) columns: usize,
    /// Row by row.
    pub(crate) values: Vec<Value>,
}

impl Answer {
    fn of<A: Access<Error = Error>>(cursor: Cursor<A>) -> Result<Self, Refusal> {
        let columns = cursor.column_names().len();
        let mut values = Vec::new();
        for row in cursor.raw() {
            values.extend(row?);
        }
        Ok(Answer { columns, values })
    }
}

/// Why SQL did not run.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Whether a rule refused it that stock SQLite does not have.
    pub(crate) denied: bool,
    pub(crate) message: String,
}

impl Refusal {
    fn new(message: impl ToString) -> Self {
        Refusal {
            denied: false,
            message: message.to_string(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal {
            denied: matches!(error, Error::Denied { .. }),
            message: error.to_string(),
        }
    }
}

/// Runs a script's SQL.
pub(crate) trait Side {
    /// Runs a query. What it wrote is committed with the next statement.
    fn query(&mut self, sql: &str) -> Result<Answer, Refusal>;

    /// Runs a statement, and commits it unless a transaction is open.
    fn statement(&mut self, sql: &str) -> Result<(), Refusal>;
}

/// Stock SQLite, in memory.
pub(crate) struct Stock(Connection);

impl Stock {
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Stock(Connection::open_file(Path::new(":memory:"))?))
    }

    /// The one value that a query makes of `value`, which it names `?1`.
    pub(crate) fn convert(&self, query: &str, value: &Value) -> Result<Value, Error> {
        self.0
            .exec(query, std::slice::from_ref(value))?
            .one()?
            .get(0)
    }
}

impl Side for Stock {
    fn query(&mut self, sql: &str) -> Result<Answer, Refusal> {
        Answer::of(self.0.exec(sql, ())?)
    }

    fn statement(&mut self, sql: &str) -> Result<(), Refusal> {
        self.query(sql).map(drop)
    }
}

/// The database of an object.
pub(crate) struct Dovehouse {
    database: Database,
    object: SharedObject,
    /// Whether the script has begun a transaction.
    in_transaction: bool,
    /// The script's savepoints with their names, the innermost last.
    savepoints: Vec<(String, Savepoint)>,
    last: Option<Ticket>,
}

impl Dovehouse {
    pub(crate) fn open(engine: &Engine, class: ClassId, id: ObjectId) -> Result<Self, Error> {
        let object: SharedObject = Arc::new(engine.wake(class, id)?.into());
        // Scripts have queries that take long, on stock SQLite as well.
        let policy = SqlPolicy::native().budget(Budget::Unlimited);
        Ok(Dovehouse {
            database: Database::open_with(object.clone(), &policy)?,
            object,
            in_transaction: false,
            savepoints: Vec::new(),
            last: None,
        })
    }

    /// Commits the turn, unless the script's transaction goes on.
    fn commit_if_alone(&mut self) -> Result<(), Refusal> {
        if self.in_transaction || !self.savepoints.is_empty() {
            return Ok(());
        }
        if let Some(ticket) = self.database.commit()? {
            self.last = Some(ticket);
        }
        Ok(())
    }

    fn cross(&mut self, boundary: Boundary) -> Result<(), Refusal> {
        let is_open = self.in_transaction || !self.savepoints.is_empty();
        match boundary {
            Boundary::Begin | Boundary::Vacuum if is_open => {
                Err(Refusal::new("a transaction is open already"))
            }
            Boundary::Commit | Boundary::Rollback if !is_open => {
                Err(Refusal::new("no transaction is open"))
            }
            Boundary::Begin => {
                self.commit_if_alone()?;
                self.in_transaction = true;
                Ok(())
            }
            Boundary::Commit => {
                self.savepoints.clear();
                self.in_transaction = false;
                let committed = self.commit_if_alone();
                // As in SQLite, the transaction is still open then; but the turn is undone.
                self.in_transaction = committed.is_err();
                committed
            }
            Boundary::Rollback => {
                self.database.rollback();
                self.savepoints.clear();
                self.in_transaction = false;
                Ok(())
            }
            Boundary::Savepoint(name) => {
                self.commit_if_alone()?;
                self.savepoints.push((name, self.database.savepoint()?));
                Ok(())
            }
            Boundary::Release(name) => {
                for (_, savepoint) in self.inner(&name)?.into_iter().rev() {
                    self.database.release(savepoint)?;
                }
                self.commit_if_alone()
            }
            Boundary::RollbackTo(name) => {
                for (_, savepoint) in self.inner(&name)?.into_iter().rev() {
                    self.database.rollback_to(savepoint)?;
                }
                // In SQL it stays.
                self.savepoints.push((name, self.database.savepoint()?));
                Ok(())
            }
            Boundary::Vacuum => {
                self.commit_if_alone()?;
                self.database.vacuum()?;
                self.commit_if_alone()
            }
        }
    }

    /// Takes out the last savepoint of a name, and those inside it.
    fn inner(&mut self, name: &str) -> Result<Vec<(String, Savepoint)>, Refusal> {
        let found = self.savepoints.iter().rposition(|(of, _)| of == name);
        let found = found.ok_or_else(|| Refusal::new(format!("no such savepoint: {name}")))?;
        Ok(self.savepoints.split_off(found))
    }

    /// Commits what is open and waits until everything is durable.
    pub(crate) fn close(mut self) -> Result<(), Refusal> {
        self.savepoints.clear();
        self.in_transaction = false;
        self.commit_if_alone()?;
        match self.last.take() {
            Some(ticket) => ticket.wait().map(drop).map_err(Refusal::new),
            None => Ok(()),
        }
    }

    /// What SQLite finds wrong with the database.
    pub(crate) fn integrity_check(&self) -> Result<Vec<String>, Error> {
        self.database.integrity_check()
    }

    /// Ends the object, so that a long run does not keep the databases of all its scripts.
    pub(crate) fn erase(self) -> Result<(), Error> {
        let Dovehouse {
            database, object, ..
        } = self;
        drop(database);
        let mut object = object.lock();
        object.clear(false);
        object.commit()?;
        Ok(())
    }
}

impl Side for Dovehouse {
    fn query(&mut self, sql: &str) -> Result<Answer, Refusal> {
        Answer::of(self.database.exec(sql, ())?)
    }

    fn statement(&mut self, sql: &str) -> Result<(), Refusal> {
        if let Some(boundary) = Boundary::of(sql) {
            return self.cross(boundary);
        }
        self.query(sql)?;
        self.commit_if_alone()
    }
}
