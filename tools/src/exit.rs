//! How the command ends: a message for people, and a code for scripts.

use std::fmt;
use std::io;
use std::process::ExitCode;

use dovehouse_engine::Error as EngineError;
use dovehouse_engine::wal::Error as LogError;
use dovehouse_engine::{Bookmark, ObjectId};

use crate::output;

/// Why the command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Empty if everything was said already.
    message: String,
}

pub(crate) const FAILURE: u8 = 1;
pub(crate) const DAMAGE: u8 = 3;
pub(crate) const NO_OBJECT: u8 = 5;
const LOCKED: u8 = 6;
const NEWER_FORMAT: u8 = 7;
/// All that failed fails with stock SQLite too.
#[cfg(feature = "sqllogictest")]
pub(crate) const AS_STOCK: u8 = 8;

impl Failure {
    pub(crate) fn new(code: u8, message: impl ToString) -> Self {
        Failure {
            code,
            message: message.to_string(),
        }
    }

    /// Damage that the command's output has named.
    pub(crate) fn damage_reported() -> Self {
        Self::reported(DAMAGE)
    }

    /// A failure that the command's output has named.
    pub(crate) fn reported(code: u8) -> Self {
        Failure::new(code, "")
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The same, saying what it is about.
    pub(crate) fn about(self, what: impl fmt::Display) -> Self {
        Failure::new(self.code, format!("{what}: {self}"))
    }

    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("dovehouse: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Log(LogError::Locked { .. }) => LOCKED,
            EngineError::Log(LogError::Version { .. }) => NEWER_FORMAT,
            EngineError::Log(LogError::Corrupt { .. })
            | EngineError::Damaged { .. }
            | EngineError::DamagedLog { .. } => DAMAGE,
            EngineError::NoObject { .. } => NO_OBJECT,
            _ => FAILURE,
        };
        match error {
            EngineError::NotAvailable {
                id,
                first,
                since_ms,
                newest,
            } => Failure::new(code, available(id, first, since_ms, newest)),
            error => Failure::new(code, error),
        }
    }
}

/// What of an object can still be had.
fn available(id: ObjectId, first: Bookmark, since_ms: Option<u64>, newest: Bookmark) -> String {
    let can = match since_ms {
        Some(since_ms) => format!(
            "commits can be had from {first} (of {}) to {newest}",
            output::time(since_ms)
        ),
        None => format!("only the present can be had, {newest}"),
    };
    format!("object {id} is not available as of that point: {can}")
}

#[cfg(feature = "sql")]
impl From<dovehouse_sqlbridge::Error> for Failure {
    fn from(error: dovehouse_sqlbridge::Error) -> Self {
        use dovehouse_sqlbridge::{Error, Refusal};
        match error {
            Error::Engine(error) => error.into(),
            Error::Import {
                refusal: Refusal::Damaged(_) | Refusal::NotADatabase(_),
                ..
            } => Failure::new(DAMAGE, error),
            other => Failure::new(FAILURE, other),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever reads our output may stop reading: `dovehouse ls | head`.
        let message = if error.kind() == io::ErrorKind::BrokenPipe {
            String::new()
        } else {
            error.to_string()
        };
        Failure {
            code: FAILURE,
            message,
        }
    }
}
