//! Statements that stand on a row: they stay with the connection, and cursors have their numbers.
//!
//! So a cursor that outlives its connection, or whose database was deleted, finds nothing rather than
//! something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ffi::Statement;

/// The number of a running statement; none is given twice in a process, since a cursor may meet another
/// connection than its own. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunId(u64);

static LAST: AtomicU64 = AtomicU64::new(0);

impl RunId {
    /// The last one given.
    pub(crate) fn last() -> Self {
        RunId(LAST.load(Ordering::Relaxed))
    }
}

/// A statement in use, and what it takes to keep it for the next use.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) sql: Arc<str>,
    /// Whether the bridge prepared it for itself: an application must not get it by its text.
    pub(crate) internal: bool,
    pub(crate) names: Arc<[String]>,
    /// Whether it may write, and so has to run in the turn's transaction, and to its end.
    pub(crate) writes: bool,
    pub(crate) statement: Statement,
}

/// The running statements of a connection: few, so they are looked through.
#[derive(Debug, Default)]
pub(crate) struct Running {
    statements: Vec<(RunId, Prepared)>,
}

impl Running {
    pub(crate) fn insert(&mut self, prepared: Prepared) -> RunId {
        let id = RunId(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        self.statements.push((id, prepared));
        id
    }

    pub(crate) fn get(&self, id: RunId) -> Option<&Prepared> {
        let found = self.statements.iter().find(|(run, _)| *run == id);
        found.map(|(_, prepared)| prepared)
    }

    pub(crate) fn remove(&mut self, id: RunId) -> Option<Prepared> {
        let found = self.statements.iter().position(|(run, _)| *run == id)?;
        Some(self.statements.swap_remove(found).1)
    }

    /// Takes all out that were started after this one.
    pub(crate) fn take_since(&mut self, last: RunId) -> Vec<Prepared> {
        let younger = self
            .statements
            .extract_if(.., |(run, _)| run.0 > last.0)
            .map(|(_, prepared)| prepared);
        younger.collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }
}
