//! Bounds for a connection to a file that nobody vouches for: what its schema may call, how large a
//! value may become, and how much work it may cause.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libsqlite3_sys as sqlite;

use super::Handle;
use crate::error::Result;

/// How many instructions of SQLite's machine are counted at once.
const INSTRUCTIONS_PER_CALL: u64 = 10_000;

/// Interrupts what runs on a connection when the work it was given is used up. No bound once dropped.
#[derive(Debug)]
pub(crate) struct Effort<'a> {
    handle: &'a Handle,
    /// Calls that are left. Shared with the callback by address.
    _calls: Arc<AtomicU64>,
}

impl Handle {
    /// Turns off what a schema could make a reader do: functions with side effects, triggers, views,
    /// extensions, writes to the schema table.
    pub(crate) fn distrust(&self) -> Result<()> {
        let switches = [
            (sqlite::SQLITE_DBCONFIG_DEFENSIVE, 1),
            (sqlite::SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
            (sqlite::SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
            (sqlite::SQLITE_DBCONFIG_ENABLE_VIEW, 0),
            (sqlite::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
        ];
        for (switch, value) in switches {
            // SAFETY: each of these takes an int and a pointer to an int, which may be null.
            let code = unsafe {
                sqlite::sqlite3_db_config(
                    self.raw.as_ptr(),
                    switch,
                    value as c_int,
                    null_mut::<c_int>(),
                )
            };
            self.check(code)?;
        }
        Ok(())
    }

    /// Forgets the modules for virtual tables other than these.
    pub(crate) fn keep_modules(&self, names: &[&CStr]) -> Result<()> {
        let mut list: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        list.push(null());
        // SAFETY: the list ends with a null, and its names are NUL-terminated and outlive the call.
        let code = unsafe { sqlite::sqlite3_drop_modules(self.raw.as_ptr(), list.as_mut_ptr()) };
        self.check(code)
    }

    /// No text, blob or row may be longer.
    pub(crate) fn limit_value(&self, bytes: u64) {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: the connection is open. SQLite lowers the limit to its own if that is less.
        unsafe { sqlite::sqlite3_limit(self.raw.as_ptr(), sqlite::SQLITE_LIMIT_LENGTH, bytes) };
    }

    /// Lets statements run for so many instructions, all together. Then they fail with
    /// `SQLITE_INTERRUPT`. What happens inside one instruction is not counted.
    pub(crate) fn limit_effort(&self, instructions: u64) -> Effort<'_> {
        let calls = Arc::new(AtomicU64::new(instructions / INSTRUCTIONS_PER_CALL));
        let argument = Arc::as_ptr(&calls).cast_mut().cast::<c_void>();
        let every = INSTRUCTIONS_PER_CALL as c_int;
        // SAFETY: the callback reads the number behind `argument`. `Effort` keeps it, and unregisters the
        // callback before it lets go of it.
        unsafe {
            sqlite::sqlite3_progress_handler(self.raw.as_ptr(), every, Some(spend), argument);
        }
        Effort {
            handle: self,
            _calls: calls,
        }
    }
}

impl Drop for Effort<'_> {
    fn drop(&mut self) {
        let raw = self.handle.raw.as_ptr();
        // SAFETY: the connection outlives the borrow.
        unsafe { sqlite::sqlite3_progress_handler(raw, 0, None, null_mut()) };
    }
}

/// Takes one call from what is left; interrupts if there is none.
unsafe extern "C" fn spend(calls: *mut c_void) -> c_int {
    // SAFETY: `limit_effort` registered the address of a counter that is alive.
    let calls = unsafe { &*calls.cast::<AtomicU64>() };
    let left = calls.load(Ordering::Relaxed);
    calls.store(left.saturating_sub(1), Ordering::Relaxed);
    c_int::from(left == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connection;
    use crate::error::Error;

    #[test]
    fn work_ends_when_its_effort_is_used_up_and_is_unbounded_again_after_that() {
        let connection = Connection::new(Handle::open(":memory:", None).unwrap());
        let count = |to: u32| {
            let sql = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {to})
                SELECT count(*) FROM n"
            );
            connection.run(&sql)
        };
        let effort = connection.handle().limit_effort(300_000);
        count(1000).unwrap();
        for to in [u32::MAX, 100_000] {
            let Err(Error::Sqlite { code, .. }) = count(to) else {
                panic!("{to} is too much")
            };
            assert_eq!(code, sqlite::SQLITE_INTERRUPT);
        }
        drop(effort);
        count(100_000).unwrap();
    }

    #[test]
    fn a_distrusted_connection_has_the_modules_that_were_named_and_short_values() {
        let handle = Handle::open(":memory:", None).unwrap();
        handle.distrust().unwrap();
        handle.keep_modules(&[c"fts5"]).unwrap();
        handle.limit_value(1000);
        let connection = Connection::new(handle);
        let run = |sql: &str| connection.run(sql);
        run("CREATE VIRTUAL TABLE f USING fts5(a)").unwrap();
        run("CREATE VIRTUAL TABLE r USING rtree(id, a, b)").unwrap_err();
        run("SELECT zeroblob(1000)").unwrap();
        run("SELECT zeroblob(1001)").unwrap_err();
        run("CREATE VIEW v AS SELECT 1").unwrap();
        run("SELECT * FROM v").unwrap_err();
    }
}
