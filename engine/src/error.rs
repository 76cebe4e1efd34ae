//! What can go wrong with the engine, and what the caller does next.

use crate::history::Bookmark;
use crate::id::{ClassId, ObjectId};

/// An error of the engine. Each variant says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log refused or failed; see there.
    #[error(transparent)]
    Log(#[from] dovehouse_wal::Error),
    /// Somebody has this object awake already. Share that handle, or wait until it sleeps.
    #[error("object {id} is awake already")]
    Awake {
        /// The object.
        id: ObjectId,
    },
    /// The id belongs to an object of another class. Fix the call.
    #[error("object {id} is of class {found:?}, not {asked:?}")]
    WrongClass {
        /// The object.
        id: ObjectId,
        /// The class it has.
        found: ClassId,
        /// The class that was asked for.
        asked: ClassId,
    },
    /// A key or a value is larger than a store keeps. Nothing was changed. Fix the call, or split the value.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooBig {
        /// What is too large.
        what: &'static str,
        /// What it takes.
        bytes: usize,
        /// The most that it may take.
        limit: usize,
    },
    /// The object, its class, or the transaction would take more than its quota. Nothing was committed: roll back, or
    /// delete something and commit again.
    #[error("{what} would take {bytes} bytes, its quota is {limit}")]
    Quota {
        /// The object, the class or the transaction.
        what: String,
        /// What it would take.
        bytes: u64,
        /// What it may take.
        limit: u64,
    },
    /// Bytes of this object are not what was committed; other objects are not concerned. Restore it
    /// from a backup, or inspect the store with the `dovehouse` command.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The object, or the part of the index.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A part of the log that was acknowledged cannot be read, so the store is not opened as if nothing
    /// had happened. [`open_damaged`](crate::Builder::open_damaged) reads what is left; restore the
    /// objects concerned from a backup.
    #[error("{cause}; {}", concerned(.objects.as_deref()))]
    DamagedLog {
        /// The file, the offset, and what is wrong.
        cause: dovehouse_wal::Error,
        /// The objects that may have lost commits; `None` if any may.
        objects: Option<Vec<ObjectId>>,
    },
    /// The store has no object of this id. Fix the call.
    #[error("there is no object {id}")]
    NoObject {
        /// The id.
        id: ObjectId,
    },
    /// The bookmark is of another object, or of an earlier one of this id that is forgotten. Ask for the
    /// bookmarks of this one.
    #[error("the bookmark is not one of object {id}")]
    WrongBookmark {
        /// The object.
        id: ObjectId,
    },
    /// History does not reach so far back, or the point has not come yet. Choose a point between those that are
    /// named here.
    #[error("object {id} can be had from {first} ({}) to {newest}, not as of the point asked for", since(*since_ms))]
    NotAvailable {
        /// The object.
        id: ObjectId,
        /// The oldest commit that is available.
        first: Bookmark,
        /// When that was committed, in milliseconds since 1970; `None` if nothing but the present is there.
        since_ms: Option<u64>,
        /// The newest.
        newest: Bookmark,
    },
    /// The object is one as it was: it can be read, and changes of it go nowhere. Restore it, or fork it.
    #[error("object {id} is open as it was at an earlier point: it can be read, not changed")]
    Past {
        /// The object.
        id: ObjectId,
    },
    /// An object of this id is there already. Choose another id, or erase it first.
    #[error("object {id} is not empty")]
    NotEmpty {
        /// The id.
        id: ObjectId,
    },
    /// The call has to stand alone in its transaction. Commit or roll back before it.
    #[error("the object has an open transaction")]
    OpenTransaction,
    /// Another class has the name. Choose another, or delete that class first.
    #[error("there is a class {name} already")]
    Taken {
        /// The name.
        name: String,
    },
    /// A limit of the store, such as its number of classes. Fix the call.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

fn since(since_ms: Option<u64>) -> String {
    match since_ms {
        Some(since_ms) => format!("{since_ms} ms after 1970"),
        None => "nothing else is kept".to_owned(),
    }
}

fn concerned(objects: Option<&[ObjectId]>) -> String {
    const NAMED: usize = 8;
    let Some(objects) = objects else {
        return "any object may have lost commits there".to_owned();
    };
    let mut ids: Vec<_> = objects
        .iter()
        .take(NAMED)
        .map(ObjectId::to_string)
        .collect();
    if objects.len() > NAMED {
        ids.push(format!("and {} more", objects.len() - NAMED));
    }
    match ids.is_empty() {
        true => "no object has lost a commit".to_owned(),
        false => format!("these may have lost commits: {}", ids.join(", ")),
    }
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the disk is full. Nothing was committed; free space, on the disk or by erasing objects,
    /// and commit again.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Log(error) if error.is_full())
    }

    pub(crate) fn damaged(what: impl std::fmt::Display, why: impl Into<String>) -> Self {
        Error::Damaged {
            what: what.to_string(),
            why: why.into(),
        }
    }
}
