//! What can go wrong with the runtime, and what the caller does next.

use std::fmt::Display;

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
    /// handler; a task that a handler spawns calls back through the object's stub.
    #[error("an object's storage can only be used by its own handlers while it is awake")]
    OutsideTurn,
    /// An inner transaction cannot delete everything, since it could not take that back. Do it outside.
    #[error("delete_all() cannot be used inside transaction()")]
    InsideTransaction,
    /// The class has no `alarm` handler. Add one.
    #[error("the class {class} must have an alarm() handler")]
    NoAlarmHandler {
        /// The class.
        class: &'static str,
    },
    /// A limit of the runtime. Fix the call.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The house was closed.
    #[error("the house is closed")]
    Closed,
}

/// A result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call through a stub gave no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The handler returned an error. Its writes are kept.
    #[error("{0}")]
    Failed(String),
    /// The handler panicked. Its last writes were undone and the object was reset; a new call finds it
    /// as it was committed last.
    #[error("the object panicked: {0}")]
    Panicked(String),
    /// The object was reset while it worked on this call, by a panic elsewhere or because its writes
    /// could not be made durable: whether they will be found again is unknown. A new call wakes it anew.
    #[error("the object was reset: {0}")]
    Reset(String),
    /// The object could not be woken.
    #[error("the object cannot be woken: {0}")]
    Wake(String),
    /// The call came back to an object that is waiting for it, in a handler that runs alone. Take
    /// `&self` in one of the handlers, or do not wait.
    #[error("the call comes back to an object that waits for it")]
    Reentrant,
    /// The house was closed.
    #[error("the house is closed")]
    Closed,
}

/// What a handler may return: turned into what the caller gets. Implemented for `Result`.
pub trait Reply {
    /// What the caller gets if all went well.
    type Value;

    /// The value, or the error as the caller sees it.
    fn into_reply(self) -> std::result::Result<Self::Value, CallError>;
}

impl<T, E: Display> Reply for std::result::Result<T, E> {
    type Value = T;

    fn into_reply(self) -> std::result::Result<T, CallError> {
        self.map_err(|error| CallError::Failed(error.to_string()))
    }
}
