//! What SQLite asks of the VFS itself: files by their names, and the rest, which the operating system's VFS
//! answers. A pocket of `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use libsqlite3_sys as sqlite;

use super::methods::{METHODS, RawFile, guard};
use super::{Kind, Vfs, supers};
use crate::file::{Code, File};

/// The VFS of a callback.
///
/// # Safety
/// `raw` must be a VFS that [`super::register`] registered.
unsafe fn vfs<'a>(raw: *mut sqlite::sqlite3_vfs) -> &'a Vfs {
    // SAFETY: `register` put the address of a leaked `Vfs` there.
    unsafe { &*(*raw).pAppData.cast::<Vfs>() }
}

const OPEN_CODES: [Code; 4] = [
    sqlite::SQLITE_CANTOPEN,
    sqlite::SQLITE_NOMEM,
    sqlite::SQLITE_IOERR,
    sqlite::SQLITE_FULL,
];

pub(super) unsafe extern "C" fn open(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    name: sqlite::sqlite3_filename,
    raw: *mut sqlite::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let raw = raw.cast::<RawFile>();
    // SAFETY: it is our VFS. SQLite gives `szOsFile` bytes for the file; without methods it does not call
    // xClose.
    let vfs = unsafe {
        (*raw).base.pMethods = null();
        vfs(raw_vfs)
    };
    guard(&OPEN_CODES, sqlite::SQLITE_CANTOPEN, || {
        // SAFETY: the name is SQLite's own.
        let file = unsafe { file_for(vfs, name, flags)? };
        // SAFETY: as above; `out_flags` may be null.
        unsafe {
            (*raw).file = Box::into_raw(Box::new(file));
            (*raw).vfs = vfs;
            (*raw).base.pMethods = &raw const METHODS;
            if !out_flags.is_null() {
                *out_flags = flags;
            }
        }
        Ok(())
    })
}

/// # Safety
/// `name` must be the name that SQLite gave to xOpen, null for a file without one.
unsafe fn file_for(vfs: &Vfs, name: sqlite::sqlite3_filename, flags: c_int) -> Result<File, Code> {
    if flags & sqlite::SQLITE_OPEN_WAL != 0 {
        return Err(sqlite::SQLITE_CANTOPEN);
    }
    if flags & sqlite::SQLITE_OPEN_SUPER_JOURNAL != 0 {
        if flags & sqlite::SQLITE_OPEN_CREATE != 0 {
            // SAFETY: a super-journal has a NUL-terminated name.
            supers::create(&unsafe { CStr::from_ptr(name) }.to_string_lossy());
        }
        return Ok(File::Super);
    }
    match vfs.kind {
        Kind::Objects if flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 => {
            // SAFETY: a main database has a NUL-terminated name.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            let file = super::tokens::take_named(&name).ok_or(sqlite::SQLITE_CANTOPEN)?;
            Ok(File::Main(file))
        }
        Kind::Objects => Ok(File::scratch()),
        #[cfg(feature = "loadable")]
        // SAFETY: the caller's promise.
        Kind::Host => unsafe { host::file_for(vfs, name, flags) },
    }
}

#[cfg(feature = "loadable")]
mod host {
    use super::{CStr, Code, File, Vfs, c_int, sqlite};
    use crate::loadable;

    /// # Safety
    /// As for [`super::file_for`].
    pub(super) unsafe fn file_for(
        vfs: &Vfs,
        name: sqlite::sqlite3_filename,
        flags: c_int,
    ) -> Result<File, Code> {
        let text = || {
            // SAFETY: main databases and journals have a NUL-terminated name.
            let text = unsafe { CStr::from_ptr(name) };
            text.to_str().map_err(|_| sqlite::SQLITE_CANTOPEN)
        };
        if flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 {
            // SAFETY: it is a main database's name.
            let store = unsafe { vfs.api.parameter(name, c"store") };
            let may_create = flags & sqlite::SQLITE_OPEN_CREATE != 0;
            let opened = loadable::open(text()?, store, may_create, name.addr());
            return opened.map(File::Host).map_err(|why| {
                vfs.api.note(sqlite::SQLITE_CANTOPEN, &why);
                sqlite::SQLITE_CANTOPEN
            });
        }
        if flags & sqlite::SQLITE_OPEN_MAIN_JOURNAL != 0 {
            // SAFETY: a journal's name stands in one block with its database's, which is the one that xOpen was
            // given for the database: the address tells connections apart.
            let database = unsafe { (vfs.api.filename_database)(name) };
            let journal = loadable::journal_of(database.addr());
            return journal.map(File::Scratch).ok_or(sqlite::SQLITE_CANTOPEN);
        }
        Ok(File::scratch())
    }
}

/// Journals are scratch: there is nothing to delete.
pub(super) unsafe extern "C" fn delete(
    _raw_vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    durably: c_int,
) -> c_int {
    // SAFETY: the name is NUL-terminated.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    guard(&[sqlite::SQLITE_IOERR], sqlite::SQLITE_IOERR_DELETE, || {
        if durably != 0 {
            supers::delete(&name);
        }
        Ok(())
    })
}

/// No journal is ever found.
pub(super) unsafe extern "C" fn access(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: it is our VFS; the name is NUL-terminated, and SQLite gives a place for the answer.
    let (vfs, text, found) = unsafe {
        let text = CStr::from_ptr(name).to_string_lossy();
        (vfs(raw_vfs), text, &mut *found)
    };
    *found = 0;
    guard(&[sqlite::SQLITE_IOERR], sqlite::SQLITE_IOERR_ACCESS, || {
        if supers::exists(&text) {
            *found = 1;
        } else if text.starts_with('/') {
            // The super-journal of a transaction whose first database is the operating system's.
            // SAFETY: the arguments are passed on as they came.
            let code = unsafe {
                let call = (*vfs.system).xAccess;
                call.map_or(0, |call| call(vfs.system, name, flags, found))
            };
            if code != sqlite::SQLITE_OK {
                return Err(code);
            }
        }
        Ok(())
    })
}

pub(super) unsafe extern "C" fn full_pathname(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: it is our VFS, and the name is NUL-terminated.
    let (vfs, mut name) = unsafe { (vfs(raw_vfs), CStr::from_ptr(name).to_bytes_with_nul()) };
    guard(&OPEN_CODES, sqlite::SQLITE_CANTOPEN, || {
        let mut room = len as usize;
        if let Some(suffix_bytes) = vfs.kind.suffix_bytes() {
            // `file:///Room/lobby` is a way to write `file:Room/lobby`.
            while let [b'/', rest @ ..] = name {
                name = rest;
            }
            room -= suffix_bytes.min(room);
        }
        if name.len() > room {
            return Err(sqlite::SQLITE_CANTOPEN);
        }
        // SAFETY: `out` has room for `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
        Ok(())
    })
}

pub(super) unsafe extern "C" fn dl_open(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
) -> *mut c_void {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        (*system)
            .xDlOpen
            .map_or(null_mut(), |call| call(system, name))
    }
}

pub(super) unsafe extern "C" fn dl_error(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    len: c_int,
    message: *mut c_char,
) {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        if let Some(call) = (*system).xDlError {
            call(system, len, message);
        }
    }
}

/// What xDlSym gives, in the words of SQLite's header.
type Function = unsafe extern "C" fn(*mut sqlite::sqlite3_vfs, *mut c_void, *const c_char);

pub(super) unsafe extern "C" fn dl_symbol(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    library: *mut c_void,
    name: *const c_char,
) -> Option<Function> {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        (*system)
            .xDlSym
            .and_then(|call| call(system, library, name))
    }
}

pub(super) unsafe extern "C" fn dl_close(raw_vfs: *mut sqlite::sqlite3_vfs, library: *mut c_void) {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        if let Some(call) = (*system).xDlClose {
            call(system, library);
        }
    }
}

pub(super) unsafe extern "C" fn randomness(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        (*system)
            .xRandomness
            .map_or(0, |call| call(system, len, out))
    }
}

pub(super) unsafe extern "C" fn sleep(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    microseconds: c_int,
) -> c_int {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        (*system)
            .xSleep
            .map_or(0, |call| call(system, microseconds))
    }
}

pub(super) unsafe extern "C" fn current_time(
    raw_vfs: *mut sqlite::sqlite3_vfs,
    out: *mut f64,
) -> c_int {
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        let system = vfs(raw_vfs).system;
        (*system)
            .xCurrentTime
            .map_or(sqlite::SQLITE_ERROR, |call| call(system, out))
    }
}
