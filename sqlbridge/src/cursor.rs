//! A cursor: the rows of a statement, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::connection::{Connection, Started, Stepped};
use crate::counters::{Counted, Counters};
use crate::error::{Error, Result};
use crate::row::Row;
use crate::running::RunId;
use crate::value::Value;

/// How a cursor reaches its statement: by a reference to the connection or the database, or by whatever
/// holds the database.
pub trait Access {
    /// What the cursor's methods fail with.
    type Error: From<Error>;

    /// Calls `act` with the statements, if they may be used now.
    fn with<R>(&self, act: impl FnOnce(Statements<'_>) -> Result<R>) -> Result<R, Self::Error>;
}

/// The running statements of a connection, for cursors.
#[derive(Clone, Copy, Debug)]
pub struct Statements<'a>(pub(crate) &'a Connection);

impl Access for &Connection {
    type Error = Error;

    fn with<R>(&self, act: impl FnOnce(Statements<'_>) -> Result<R>) -> Result<R> {
        act(Statements(self))
    }
}

/// The rows of a statement, in order. The statement runs as the rows are asked for, one row ahead; a
/// statement that writes has run to its end before there is a cursor.
///
/// Writing into a table that a cursor reads has SQLite's usual effect: rows may or may not be seen. A
/// rollback of the transaction ends the cursor with an error, and so does deleting the database.
/// Dropping a cursor early ends its statement.
#[derive(Debug)]
pub struct Cursor<A: Access> {
    access: A,
    names: Arc<[String]>,
    ahead: VecDeque<Vec<Value>>,
    /// The statement, unless it has run to its end.
    run: Option<RunId>,
    sql: Arc<str>,
    /// What SQLite has counted, once the statement is at its end.
    counted: Counted,
}

impl<A: Access> Cursor<A> {
    /// The rows of a statement that was just started on the same connection.
    pub(crate) fn new(access: A, started: Started) -> Self {
        let Started {
            names,
            ahead,
            run,
            sql,
            counted,
        } = started;
        Cursor {
            access,
            names,
            ahead,
            run,
            sql,
            counted,
        }
    }

    /// The columns' names, in their order; two may be equal.
    pub fn column_names(&self) -> &[String] {
        &self.names
    }

    /// The next row, or `None` behind the last one. After an error there are no more rows.
    #[expect(
        clippy::should_implement_trait,
        reason = "it can fail; the iterator gives results"
    )]
    pub fn next(&mut self) -> Result<Option<Row>, A::Error> {
        let row = self.next_values()?;
        Ok(row.map(|values| Row {
            names: self.names.clone(),
            values,
        }))
    }

    fn next_values(&mut self) -> Result<Option<Vec<Value>>, A::Error> {
        let Some(values) = self.ahead.pop_front() else {
            return Ok(None);
        };
        if let Some(run) = self.run {
            let next = self.access.with(|statements| statements.0.step(run));
            match next {
                Ok(Stepped::Row(values)) => self.ahead.push_back(values),
                Ok(Stepped::Done(counted)) => {
                    self.run = None;
                    self.counted = counted;
                }
                Err(error) => {
                    self.run = None;
                    return Err(error);
                }
            }
        }
        Ok(Some(values))
    }

    /// Rows that the statement has read and written so far, one row ahead of those that were taken; all of them
    /// once the last one was. Statements before the last one of a text are not counted.
    ///
    /// The first time that this is asked of a statement it is prepared once more, to look at its program. So
    /// after a change of the schema by which the statement cannot be prepared any more it fails.
    pub fn counters(&self) -> Result<Counters, A::Error> {
        self.access.with(|statements| match self.run {
            Some(run) => statements.0.counters_of_run(run),
            None => statements.0.counters(&self.sql, &self.counted),
        })
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.ahead.is_empty()
    }

    /// The only row; an error if there are none, or several.
    pub fn one(mut self) -> Result<Row, A::Error> {
        match (self.next()?, self.ahead.is_empty()) {
            (Some(row), true) => Ok(row),
            (None, _) => Err(Error::NotOneRow { found: "none" }.into()),
            (Some(_), false) => Err(Error::NotOneRow { found: "several" }.into()),
        }
    }

    /// The first row, if there is one; the rest is not read.
    pub fn first(mut self) -> Result<Option<Row>, A::Error> {
        self.next()
    }

    /// All rows that are left.
    pub fn to_vec(mut self) -> Result<Vec<Row>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.next()? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// All rows that are left, as a type of the application: see [`Row::deserialize`].
    pub fn deserialize<T: DeserializeOwned>(mut self) -> Result<Vec<T>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.next()? {
            rows.push(row.deserialize()?);
        }
        Ok(rows)
    }

    /// The rows that are left as values only, without names.
    pub fn raw(self) -> Raw<A> {
        Raw(self)
    }
}

impl<A: Access> Drop for Cursor<A> {
    fn drop(&mut self) {
        if let Some(run) = self.run {
            // A connection that is not there any more has no such statement either.
            let _ = self.access.with(|statements| {
                statements.0.end(run);
                Ok(())
            });
        }
    }
}

impl<A: Access> IntoIterator for Cursor<A> {
    type Item = Result<Row, A::Error>;
    type IntoIter = IntoIter<A>;

    fn into_iter(self) -> IntoIter<A> {
        IntoIter(self)
    }
}

/// The rows of a [`Cursor`].
#[derive(Debug)]
pub struct IntoIter<A: Access>(Cursor<A>);

impl<A: Access> Iterator for IntoIter<A> {
    type Item = Result<Row, A::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}

/// The rows of a [`Cursor`], as values only.
#[derive(Debug)]
pub struct Raw<A: Access>(Cursor<A>);

impl<A: Access> Iterator for Raw<A> {
    type Item = Result<Vec<Value>, A::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_values().transpose()
    }
}
