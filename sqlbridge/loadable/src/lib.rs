//! The VFS `dovehouse` for any SQLite, as a library that it loads. Empty without the feature `loadable`.
//!
//! This crate does **not** know more than the ways in: the VFS itself is the bridge's. It calls the SQLite that
//! loads it, and brings none of its own. `docs/loadable.md` says how it is used.

#[cfg(feature = "loadable")]
#[allow(unreachable_pub, reason = "C calls them")]
mod entries {
    use std::ffi::{c_char, c_int, c_void};

    use sqlbridge_core::loadable::initialize;

    /// What an extension's entry point returns to stay loaded when the connection that loaded it is closed.
    const OK_LOAD_PERMANENTLY: c_int = 256;

    /// The entry point by SQLite's rule for this file's name: for `load_extension`. It registers the VFS
    /// `dovehouse`, and again each time that it is called. The connection is not used and may be null; without a
    /// table of functions, it is the last one's SQLite.
    ///
    /// # Safety
    /// `message` must be null or a place for a pointer, `table` null or what SQLite gives to an extension.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sqlite3_dovehousesqlbridge_init(
        _connection: *mut c_void,
        message: *mut *mut c_char,
        table: *const c_void,
    ) -> c_int {
        // SAFETY: the caller's promise.
        match unsafe { initialize(table, message) } {
            0 => OK_LOAD_PERMANENTLY,
            code => code,
        }
    }

    /// The same for `sqlite3_auto_extension`, which takes any other result than `SQLITE_OK` for an error.
    ///
    /// # Safety
    /// As for [`sqlite3_dovehousesqlbridge_init`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn dovehouse_sqlbridge_auto_init(
        _connection: *mut c_void,
        message: *mut *mut c_char,
        table: *const c_void,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { initialize(table, message) }
    }
}
