//! The few functions of SQLite that the VFS calls. A pocket of `unsafe`.
//!
//! They come from the SQLite that this crate links, or from the table that a program's own SQLite hands to an
//! extension.

use std::ffi::{CStr, c_char, c_int};

use libsqlite3_sys as sqlite;

type Log = unsafe extern "C" fn(c_int, *const c_char, ...);

/// SQLite's functions.
#[derive(Clone, Copy)]
pub(crate) struct Api {
    pub(crate) vfs_find: unsafe extern "C" fn(*const c_char) -> *mut sqlite::sqlite3_vfs,
    pub(crate) vfs_register: unsafe extern "C" fn(*mut sqlite::sqlite3_vfs, c_int) -> c_int,
    pub(crate) mprintf: unsafe extern "C" fn(*const c_char, ...) -> *mut c_char,
    #[cfg_attr(not(feature = "loadable"), expect(dead_code))]
    pub(crate) uri_parameter: unsafe extern "C" fn(*const c_char, *const c_char) -> *const c_char,
    #[cfg_attr(not(feature = "loadable"), expect(dead_code))]
    pub(crate) filename_database: unsafe extern "C" fn(*const c_char) -> *const c_char,
    #[cfg_attr(not(feature = "loadable"), expect(dead_code))]
    pub(crate) log: Log,
}

impl Api {
    /// The SQLite that this crate links.
    pub(crate) fn linked() -> Self {
        Api {
            vfs_find: sqlite::sqlite3_vfs_find,
            vfs_register: sqlite::sqlite3_vfs_register,
            mprintf: sqlite::sqlite3_mprintf,
            uri_parameter: sqlite::sqlite3_uri_parameter,
            filename_database: sqlite::sqlite3_filename_database,
            log: sqlite::sqlite3_log,
        }
    }

    /// A copy of a text in SQLite's memory; null if there is none left.
    pub(crate) fn allocate(&self, text: &CStr) -> *mut c_char {
        // SAFETY: the format takes one NUL-terminated text.
        unsafe { (self.mprintf)(c"%s".as_ptr(), text.as_ptr()) }
    }
}

#[cfg(feature = "loadable")]
mod table {
    use std::ffi::c_void;

    use super::{Api, CStr, c_char, c_int};

    /// The oldest SQLite whose table reaches as far as we read it, and in which a journal's name leads to its
    /// database's.
    const VERSION_MIN: c_int = 3_032_000;

    // Places in `struct sqlite3_api_routines` of sqlite3ext.h, which only ever grows at its end.
    const LIBVERSION_NUMBER: usize = 67;
    const MPRINTF: usize = 69;
    const VFS_FIND: usize = 141;
    const VFS_REGISTER: usize = 142;
    const LOG: usize = 167;
    const URI_PARAMETER: usize = 189;
    const FILENAME_DATABASE: usize = 246;

    impl Api {
        /// The functions of the SQLite that gave this table; a message in its memory if it is too old.
        ///
        /// # Safety
        /// `table` must be what SQLite gives to an extension's entry point.
        pub(crate) unsafe fn from_table(table: *const c_void) -> Result<Self, *mut c_char> {
            let table = table.cast::<*const c_void>();
            // SAFETY: each place holds a function of the type that the header gives it. Those behind the
            // version are there in every SQLite since 3.32, and read only then.
            unsafe {
                let version: unsafe extern "C" fn() -> c_int =
                    std::mem::transmute(*table.add(LIBVERSION_NUMBER));
                let mprintf = std::mem::transmute::<
                    *const c_void,
                    unsafe extern "C" fn(*const c_char, ...) -> *mut c_char,
                >(*table.add(MPRINTF));
                let version = version();
                if version < VERSION_MIN {
                    let text = c"the VFS dovehouse needs SQLite %d or later, this is %d";
                    return Err(mprintf(text.as_ptr(), VERSION_MIN, version));
                }
                Ok(Api {
                    vfs_find: std::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(*const c_char) -> *mut super::sqlite::sqlite3_vfs,
                    >(*table.add(VFS_FIND)),
                    vfs_register: std::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(*mut super::sqlite::sqlite3_vfs, c_int) -> c_int,
                    >(*table.add(VFS_REGISTER)),
                    mprintf,
                    uri_parameter: std::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(*const c_char, *const c_char) -> *const c_char,
                    >(*table.add(URI_PARAMETER)),
                    filename_database: std::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(*const c_char) -> *const c_char,
                    >(*table.add(FILENAME_DATABASE)),
                    log: std::mem::transmute::<*const c_void, super::Log>(*table.add(LOG)),
                })
            }
        }

        /// The value of a parameter in a database's URI.
        ///
        /// # Safety
        /// `name` must be a main database's name as SQLite gives it to xOpen.
        pub(crate) unsafe fn parameter(&self, name: *const c_char, key: &CStr) -> Option<String> {
            // SAFETY: the caller's promise; the value lives as long as the name.
            unsafe {
                let value = (self.uri_parameter)(name, key.as_ptr());
                let value = (!value.is_null()).then(|| CStr::from_ptr(value))?;
                Some(value.to_string_lossy().into_owned())
            }
        }

        /// A line in SQLite's error log, for what a result code cannot say.
        pub(crate) fn note(&self, code: c_int, text: &str) {
            let Ok(text) = std::ffi::CString::new(text) else {
                return;
            };
            // SAFETY: the format takes one NUL-terminated text.
            unsafe { (self.log)(code, c"dovehouse: %s".as_ptr(), text.as_ptr()) };
        }
    }
}
