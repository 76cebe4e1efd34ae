//! What can go wrong with the runtime, and what the caller does next.

use std::any::{Any, type_name};
use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// An error of the house or of an object's storage.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store refused or failed; see there.
    #[error(transparent)]
    Engine(#[from] dovehouse_engine::Error),
    /// A statement failed; see there.
    #[error(transparent)]
    Sql(#[from] dovehouse_sqlbridge::Error),
    /// A text is no id, or an id of another namespace. Fix the call.
    #[error(transparent)]
    Id(#[from] crate::id::IdError),
    /// Storage was used outside the object's own handlers, or after the object was reset. Use it from a
    /// handler, a [callback](crate::Ctx::callback), or a future given to [`Ctx::wait_until`](crate::Ctx::wait_until).
    #[error("an object's storage can only be used by its own handlers while it is awake")]
    OutsideTurn,
    /// An inner transaction cannot delete everything, since it could not take that back. Do it outside.
    #[error("delete_all() cannot be used inside transaction()")]
    InsideTransaction,
    /// An error of the storage in the midst of a transaction, or of a turn, undid it. Do it again from its beginning:
    /// what is written after such an error in the same turn is half of it, and is refused.
    #[error("the transaction is gone: an earlier error undid it")]
    TransactionUndone,
    /// The class has no `alarm` handler. Add one.
    #[error("the class {class} must have an alarm() handler")]
    NoAlarmHandler {
        /// The class.
        class: &'static str,
    },
    /// A class cannot be used like this: its storage, its unique key or its type is another, or nothing has
    /// declared it. Fix the declaration.
    #[error("class {class} cannot be used: {why}")]
    Class {
        /// The class.
        class: &'static str,
        /// Why not.
        why: String,
    },
    /// The class has no SQL. Declare another class with `storage = "sqlite"`, in migrations
    /// `new_sqlite_classes`: that of this one cannot be changed.
    #[error(
        "SQL is not enabled for class {class}: it would have to be made with new_sqlite_classes"
    )]
    NoSql {
        /// The class.
        class: &'static str,
    },
    /// A class with `storage = "kv"` keeps less than one with a database: keys of 2,048 bytes, values of 128 KiB and 34
    /// bytes, 128 keys in a call that takes several. The call did nothing. Shorten the key, split the value or the
    /// call, or declare a class with `storage = "sqlite"`.
    #[error(
        "{what} exceeds {limit}, the limit of class {class}, which is stored as kv: split it, or declare a class with storage = \"sqlite\""
    )]
    KvLimit {
        /// The class.
        class: &'static str,
        /// What is too much.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A deployment cannot be done, and nothing of it was. See its problems.
    #[error("the classes cannot be deployed:\n{0}")]
    Deploy(Box<crate::deploy::DeployReport>),
    /// The name is the house's own. Choose another.
    #[error("a tenant cannot be named {tenant:?}")]
    Tenant {
        /// The name.
        tenant: String,
    },
    /// A location or a jurisdiction is not known, or the object cannot be there. Fix the call, or the house's
    /// settings.
    #[error("location or jurisdiction {name:?}: {why}")]
    Location {
        /// The location or the jurisdiction.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An alarm was set to the time 0. Give milliseconds since 1970, or delete the alarm.
    #[error("an alarm cannot be set to the time 0")]
    AlarmTime,
    /// A schedule cannot be read, its time zone is not known, or it has no time left. Fix the call.
    #[error("the schedule {schedule:?} cannot be used: {why}")]
    Schedule {
        /// The schedule.
        schedule: String,
        /// What is wrong with it.
        why: String,
    },
    /// A limit of the runtime. Fix the call.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A WebSocket cannot be closed like that. Fix the call.
    #[error("a WebSocket cannot be closed like that: {what}")]
    CloseCode {
        /// What is allowed.
        what: &'static str,
    },
    /// A typed value could not be written, or what is stored is not of the type that was asked for.
    /// Nothing was changed. Fix the type, or read the bytes.
    #[error("a value of type {type_name} cannot be {what}: {why}")]
    Value {
        /// The type.
        type_name: &'static str,
        /// "stored" or "read".
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// What had to happen in an object could not be done there; see there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The house was closed.
    #[error("the house is closed")]
    Closed,
}

impl Error {
    pub(crate) fn location(name: impl Into<String>, why: &'static str) -> Self {
        let name = name.into();
        Error::Location { name, why }
    }
}

/// SQLite's code for all kinds of constraints; the higher bits say which.
const SQLITE_CONSTRAINT: i32 = 19;

/// A result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call through a stub gave no result.
///
/// Four questions decide what a caller does next: see [`is_remote`](CallError::is_remote),
/// [`is_retryable`](CallError::is_retryable), [`is_overloaded`](CallError::is_overloaded) and
/// [`is_reset`](CallError::is_reset). After an error with which the object was reset, the stub, and its
/// clones, keep failing with it, so that no later call overtakes a lost one; take a
/// [fresh](crate::Stub::fresh) one.
///
/// A handler that returns a `CallError`, such as that of a call which it made itself, hands it on as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallError {
    /// The handler returned an error. Its writes are kept.
    #[error("{message}")]
    Failed {
        /// The name of the error's type, without its path, or what the handler called it with
        /// [`CallError::failed`].
        kind: String,
        /// The error's words.
        message: String,
    },
    /// The constructor returned an error. The next event tries again.
    #[error("the object cannot be constructed: {message}")]
    Constructor {
        /// As in [`CallError::Failed`].
        kind: String,
        /// The error's words.
        message: String,
    },
    /// The handler panicked. Its last writes were undone and the object was reset; a new call finds it
    /// as it was committed last.
    #[error("the object panicked: {0}")]
    Panicked(String),
    /// The object aborted itself, with this reason.
    #[error("{0}")]
    Aborted(String),
    /// The object was reset while it worked on this call, by a panic elsewhere or because its writes
    /// could not be committed or made durable: whether they will be found again is unknown. A new call wakes it anew.
    #[error("the object was reset: {0}")]
    Reset(String),
    /// A critical section took longer than its limit, and the object was reset.
    #[error("a critical section waited for too long: the limit is {limit_ms} ms")]
    TimedOut {
        /// The limit.
        limit_ms: u64,
    },
    /// What the object wrote was not durable after so long: the disk is too slow, or stuck. The object was reset;
    /// whether the writes will be found again is unknown. Try later, more slowly.
    #[error(
        "storage operation exceeded timeout: not durable after {limit_ms} ms, the object was reset"
    )]
    StorageTimeout {
        /// The limit.
        limit_ms: u64,
    },
    /// What a turn of the object wrote cannot be committed, and would not be the next time either: it exceeds a
    /// quota or a limit, violates a constraint that is checked at the end, or goes on after an error that had undone
    /// its beginning. Nothing of the turn was kept, and the
    /// object was reset. Fix the handler, or give it more room.
    #[error("the object was reset, and what it wrote last is undone: {0}")]
    Refused(String),
    /// Too many events wait for the object. The call was not begun. Try later, more slowly.
    #[error("the object is overloaded: {0}")]
    Overloaded(String),
    /// The object's state could not be loaded.
    #[error("the object cannot be woken: {0}")]
    Wake(String),
    /// The stub was made with an id that is not one of the namespace's: of another class, of another
    /// jurisdiction, or made up. Use the namespace that the id comes from.
    #[error("the object id is not valid for this namespace")]
    ForeignId,
    /// The call came back to an object that is waiting for it, in a handler that runs alone. Take
    /// `&self` in one of the handlers, or do not wait.
    #[error("the call comes back to an object that waits for it")]
    Reentrant,
    /// The call would wait for an object whose handler waits, in a circle, for one that this call's
    /// caller holds. Take `&self` in one of the handlers, or call in one order only.
    #[error("the call would wait in a circle of objects that wait for each other")]
    Deadlock,
    /// What was to answer has gone away: a callback whose maker ended, for example.
    #[error("nobody is there to answer any more")]
    Gone,
    /// The house was closed.
    #[error("the house is closed")]
    Closed,
}

impl CallError {
    /// What a handler returns to name its errors itself, instead of by their type.
    ///
    /// ```
    /// let error = dovehouse::CallError::failed("NotFound", "no such room");
    /// assert_eq!(error.kind(), "NotFound");
    /// assert!(error.is_remote() && !error.is_retryable());
    /// ```
    pub fn failed(kind: impl Into<String>, message: impl Into<String>) -> Self {
        CallError::Failed {
            kind: kind.into(),
            message: message.into(),
        }
    }

    /// What the caller gets for an error of a handler.
    pub(crate) fn of<E: Display + 'static>(error: E) -> Self {
        match (&error as &dyn Any).downcast_ref::<CallError>() {
            Some(error) => error.clone(),
            None => CallError::failed(kind_of(type_name::<E>()), error.to_string()),
        }
    }

    /// The same for the constructor.
    pub(crate) fn in_constructor(self) -> Self {
        match self {
            CallError::Failed { kind, message } => CallError::Constructor { kind, message },
            other => other,
        }
    }

    /// The kind of error: that of the handler's own errors, else the variant's name.
    pub fn kind(&self) -> &str {
        match self {
            CallError::Failed { kind, .. } | CallError::Constructor { kind, .. } => kind,
            other => other.variant(),
        }
    }

    /// Why an object is reset whose turn could not be committed.
    pub(crate) fn of_commit(error: Error) -> Self {
        use dovehouse_engine::{Error as Engine, wal::Error as Log};
        use dovehouse_sqlbridge::Error as Sql;
        let engine = match &error {
            Error::Sql(Sql::Sqlite { code, .. }) if code & 0xFF == SQLITE_CONSTRAINT => {
                return CallError::Refused(format!("constraints were violated: {error}"));
            }
            // Whoever passed over that error would do so again.
            Error::TransactionUndone => return CallError::Refused(error.to_string()),
            Error::Engine(engine) | Error::Sql(Sql::Engine(engine)) => engine,
            _ => return CallError::Reset(error.to_string()),
        };
        match engine {
            Engine::Quota { .. }
            | Engine::TooBig { .. }
            | Engine::Limit { .. }
            | Engine::Log(Log::TooBig { .. }) => CallError::Refused(error.to_string()),
            // The store failed, or is full: another time it may go well.
            _ => CallError::Reset(error.to_string()),
        }
    }

    pub(crate) fn variant(&self) -> &'static str {
        match self {
            CallError::Failed { .. } => "Failed",
            CallError::Constructor { .. } => "Constructor",
            CallError::Panicked(_) => "Panicked",
            CallError::Aborted(_) => "Aborted",
            CallError::Reset(_) => "Reset",
            CallError::TimedOut { .. } => "TimedOut",
            CallError::StorageTimeout { .. } => "StorageTimeout",
            CallError::Refused(_) => "Refused",
            CallError::Overloaded(_) => "Overloaded",
            CallError::Wake(_) => "Wake",
            CallError::ForeignId => "ForeignId",
            CallError::Reentrant => "Reentrant",
            CallError::Deadlock => "Deadlock",
            CallError::Gone => "Gone",
            CallError::Closed => "Closed",
        }
    }

    /// Whether the object's own code failed, and not what carries it.
    pub fn is_remote(&self) -> bool {
        use CallError::{Constructor, Failed, Panicked};
        matches!(self, Failed { .. } | Constructor { .. } | Panicked(_))
    }

    /// Whether the call may be made again if doing it twice does no harm: its carrier failed, and it may
    /// have been done or not.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            CallError::Reset(_) | CallError::Gone | CallError::Closed
        )
    }

    /// Whether the object has too much to do. Do not call it again at once.
    pub fn is_overloaded(&self) -> bool {
        use CallError::{Overloaded, StorageTimeout, TimedOut};
        matches!(
            self,
            Overloaded(_) | TimedOut { .. } | StorageTimeout { .. }
        )
    }

    /// Whether the object was reset: what it had in memory is gone.
    pub fn is_reset(&self) -> bool {
        use CallError::{Aborted, Constructor, Panicked, Refused, Reset, Wake};
        use CallError::{StorageTimeout, TimedOut};
        matches!(
            self,
            Panicked(_) | Aborted(_) | Reset(_) | Refused(_) | Constructor { .. } | Wake(_)
        ) || matches!(self, TimedOut { .. } | StorageTimeout { .. })
    }
}

/// A type's name without the path to it, and without its parameters.
fn kind_of(type_name: &'static str) -> &'static str {
    let head = type_name.split('<').next().unwrap_or(type_name);
    head.rsplit("::").next().unwrap_or(head)
}

/// What a handler may return: turned into what the caller gets. Implemented for `Result`.
pub trait Reply {
    /// What the caller gets if all went well.
    type Value;

    /// The value, or the error as the caller sees it.
    fn into_reply(self) -> std::result::Result<Self::Value, CallError>;
}

impl<T, E: Display + 'static> Reply for std::result::Result<T, E> {
    type Value = T;

    fn into_reply(self) -> std::result::Result<T, CallError> {
        self.map_err(CallError::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_called_by_their_type_and_those_of_calls_stay_what_they_are() {
        assert_eq!(CallError::of("text").kind(), "&str");
        assert_eq!(CallError::of(Error::Closed).kind(), "Error");
        let inner = CallError::Overloaded("many".into());
        assert_eq!(CallError::of(inner.clone()), inner);
        assert!(inner.is_overloaded() && !inner.is_retryable() && !inner.is_reset());
        assert_eq!(kind_of("a::b::Refused<c::D>"), "Refused");
    }
}
