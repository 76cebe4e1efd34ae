//! Super-journals: by them SQLite makes the commits of several files one. Here each object commits by itself, so
//! nothing is in them; but they must seem to exist.
//!
//! A journal whose transaction takes part names its super-journal. When such a transaction is rolled back in the
//! midst of its commit, SQLite looks whether that is still there: if not, it believes the transaction committed.
//! So a name lasts until SQLite removes it after the commit, which it does durably, unlike the removal by
//! the first of several rollbacks.

use std::collections::BTreeSet;

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::file::Code;

static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes a super-journal.
pub(crate) fn create(name: &str) {
    NAMES.lock().insert(name.to_owned());
}

/// Whether it was created and not removed.
pub(crate) fn exists(name: &str) -> bool {
    NAMES.lock().contains(name)
}

/// Removes a super-journal, if it is one.
pub(crate) fn delete(name: &str) {
    NAMES.lock().remove(name);
}

/// Forgets those that failed commits left, once no database is open.
#[cfg(feature = "loadable")]
pub(crate) fn clear() {
    NAMES.lock().clear();
}

/// Checks the name of a journal that SQLite writes into a super-journal. A file of the operating system cannot
/// take part: after a crash it would look for the super-journal on the disk.
pub(crate) fn check_child(name: &[u8]) -> Result<(), Code> {
    match name.first() {
        Some(b'/') => Err(sqlite::SQLITE_IOERR_WRITE),
        _ => Ok(()),
    }
}
