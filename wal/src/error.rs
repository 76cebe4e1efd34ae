//! What can go wrong with the log, and what the caller does next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the log. Each variant says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the store open. Close it there, or wait.
    #[error("the store {path} is open in another process")]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// There is no store in this directory. Check the path.
    #[error("{path} is not a dovehouse store")]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// A newer program wrote this file. Upgrade this one.
    #[error("{path} has format {found}, this program reads {supported}")]
    Version {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// What this program understands.
        supported: String,
    },
    /// Bytes on disk are not what was acknowledged. Nothing was changed; restore the file from a
    /// backup or inspect the store with the `dovehouse` command.
    #[error("{path} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed, so nothing more is acknowledged. Reads go on; reopen the
    /// store to write again.
    #[error("the log stopped after a failed write: {cause}")]
    Poisoned {
        /// What failed first.
        cause: String,
    },
    /// There is no room for another segment. Free disk space and try again; nothing was written.
    #[error("no space for the log: {cause}")]
    Full {
        /// Why no segment could be made.
        cause: String,
    },
    /// A record beyond the limit. Nothing was written; commit less at once.
    #[error("a record of {bytes} bytes exceeds the limit of {limit}")]
    TooBig {
        /// Its size.
        bytes: usize,
        /// The largest that fits.
        limit: usize,
    },
    /// The log was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The log was closed.
    #[error("the store is closed")]
    Closed,
}

/// A result of the log.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether it says that the disk is full, or somebody's part of it.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Error::Full { .. } => true,
            Error::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }

    /// A failed call to the operating system.
    pub fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// Bytes that are not what they should be.
    pub fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt {
            path: path.to_owned(),
            offset,
            what: what.into(),
        }
    }
}
