//! Why a file is not imported.

use std::io;
use std::sync::Arc;

use libsqlite3_sys as sqlite;

use crate::error::Error;

/// Why a file is not imported, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The file is something else, or encrypted. Give the right one, or decrypt it first.
    #[error("it is not a SQLite database: {0}")]
    NotADatabase(String),
    /// The file was cut short or changed. Restore it from a backup, or salvage it with `sqlite3 FILE .recover`.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A sound file with something in it that an object's database cannot have. Remove that with stock
    /// SQLite first.
    #[error("{0}")]
    Unsupported(String),
    /// More than was allowed. Raise [`Import::bytes_max`](crate::Import::bytes_max), and the class's
    /// `transaction_bytes`, since an import is one transaction.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What it has.
        bytes: u64,
        /// The most that it may have.
        limit: u64,
    },
    /// The object has keys, tables or an alarm. Choose another one, or
    /// [replace](crate::Import::replace) it.
    #[error("the object is not empty")]
    NotEmpty,
    /// Reading the file, or writing its copy to the directory for temporary files, failed. Try again when
    /// the cause is gone.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// SQLite failed for a reason that is not the file's, such as a lack of space for temporary files.
    /// Try again when the cause is gone.
    #[error("{message} (SQLite code {code})")]
    Sqlite {
        /// The extended result code.
        code: i32,
        /// SQLite's words.
        message: String,
    },
}

impl Refusal {
    /// What SQLite's result code says about the file.
    fn from_code(code: i32, message: String) -> Self {
        if code == sqlite::SQLITE_IOERR_SHORT_READ {
            return Refusal::Damaged("it ends within a page".into());
        }
        match code & 0xFF {
            sqlite::SQLITE_CORRUPT => Refusal::Damaged(message),
            sqlite::SQLITE_NOTADB => Refusal::NotADatabase(message),
            sqlite::SQLITE_INTERRUPT => Refusal::Unsupported(
                "reading it takes more work than a file of its size may".into(),
            ),
            sqlite::SQLITE_ERROR | sqlite::SQLITE_TOOBIG | sqlite::SQLITE_CONSTRAINT => {
                Refusal::Unsupported(format!("its schema cannot be used here: {message}"))
            }
            _ => Refusal::Sqlite { code, message },
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Io(Arc::new(error))
    }
}

/// For what reading the source gives.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Sqlite { code, message } => Refusal::from_code(code, message),
            Error::Import { refusal, .. } => refusal,
            other => Refusal::Unsupported(other.to_string()),
        }
    }
}

/// A refusal as an error of the bridge, until the path is known.
pub(crate) fn refusal(refusal: Refusal) -> Error {
    let path = Default::default();
    Error::Import { path, refusal }
}
