//! What can go wrong with a database, and what the caller does next.

use std::path::PathBuf;
use std::sync::Arc;

use crate::import::Refusal;
use crate::policy::{Budget, Rule};

/// An error of the bridge. Each variant says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite refused or failed. Fix the statement; what the turn wrote before it stays, unless the
    /// message says otherwise.
    #[error("{message} (SQLite code {code})")]
    Sqlite {
        /// The extended result code.
        code: i32,
        /// SQLite's words.
        message: String,
    },
    /// The policy does not let SQL do this. The rule says what to do instead.
    #[error("{what} is refused: {rule}")]
    Denied {
        /// The rule.
        rule: Rule,
        /// What it was asked about: a keyword, a name, a function, a pragma.
        what: String,
    },
    /// The statement ran for longer than the policy lets it. Make it smaller, or set another budget. If it
    /// writes, all of the turn is undone; if it reads, nothing is.
    #[error("the statement has used its budget up: {budget}")]
    Interrupted {
        /// The budget.
        budget: Budget,
    },
    /// A value is not of the type that was asked for, or there is no such column. Fix the call.
    #[error("{0}")]
    Type(String),
    /// The statement was given too many or too few parameters. Fix the call.
    #[error("the statement has {expected} parameters, {given} were given")]
    Parameters {
        /// How many it has.
        expected: usize,
        /// How many there were.
        given: usize,
    },
    /// A query gave another number of rows than one.
    #[error("expected one row, the query gave {found}")]
    NotOneRow {
        /// "none" or "several".
        found: &'static str,
    },
    /// The inner transaction is gone: an error in it made SQLite undo the whole turn. Do the turn again.
    #[error("the inner transaction is gone: an earlier error undid the whole turn")]
    TurnUndone,
    /// The database has had more migrations than the program knows. Run a newer program.
    #[error("the database has had {applied} migrations, this program knows {known}")]
    NewerSchema {
        /// How many were applied.
        applied: usize,
        /// How many were given.
        known: usize,
    },
    /// The cursor's statement is gone: its transaction was undone, the database deleted, or the object
    /// fell asleep. Ask again.
    #[error(
        "the cursor was canceled because its transaction was undone, or the database deleted or closed"
    )]
    Canceled,
    /// The engine refused or failed; see there. The turn's writes are undone.
    #[error(transparent)]
    Engine(#[from] dovehouse_engine::Error),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Export {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Arc<std::io::Error>,
    },
    /// A file is not imported; the object is as it was. The refusal says what to do.
    #[error("cannot import {path}: {refusal}")]
    Import {
        /// The file.
        path: PathBuf,
        /// Why not.
        refusal: Refusal,
    },
    /// The object has no database.
    #[error("the object has no database")]
    NoDatabase,
}

/// A result of the bridge.
pub type Result<T, E = Error> = std::result::Result<T, E>;
