//! What an extension's entry point does. A pocket of `unsafe`.

use std::ffi::{c_char, c_int, c_void};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use super::register_with;
use crate::vfs::Api;

/// Registers the VFS `dovehouse` with the SQLite that gives this table of functions, or, if that is null, with
/// the one that gave the last. May be called any number of times.
///
/// Returns `SQLITE_OK`, or an error with a text in `message` if there is something to say: the SQLite is older
/// than 3.32, or the first table is null (`SQLITE_MISUSE`).
///
/// # Safety
/// `table` must be null or what SQLite gives to an extension's entry point, and `message` null or a place for a
/// pointer.
pub unsafe fn initialize(table: *const c_void, message: *mut *mut c_char) -> c_int {
    static LAST: Mutex<Option<Api>> = Mutex::new(None);
    let mut last = LAST.lock();
    if !table.is_null() {
        // SAFETY: the caller's promise.
        match unsafe { Api::from_table(table) } {
            Ok(api) => *last = Some(api),
            Err(text) => {
                if !message.is_null() {
                    // SAFETY: the caller's promise. The text is SQLite's own memory, as it wants it.
                    unsafe { *message = text };
                }
                return sqlite::SQLITE_ERROR;
            }
        }
    }
    match *last {
        Some(api) => register_with(api),
        None => sqlite::SQLITE_MISUSE,
    }
}
