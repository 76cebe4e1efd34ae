//! What SQLite calls on an open file. A pocket of `unsafe`.
//!
//! A panic must not cross the C frames above, and a result code must be one that SQLite can stand at that
//! place: both become an I/O error. Above all nothing that writes ever answers BUSY, INTERRUPT or NOMEM: SQLite
//! would go on with the transaction of which we have just taken the pages back.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libsqlite3_sys as sqlite;

use super::Vfs;
use crate::faults;
use crate::file::{Code, File};

/// What SQLite allocates for an open file. It begins like every file of SQLite.
#[repr(C)]
pub(super) struct RawFile {
    pub(super) base: sqlite::sqlite3_file,
    /// From `Box::into_raw`; null while the file is not open.
    pub(super) file: *mut File,
    pub(super) vfs: *const Vfs,
}

pub(super) static METHODS: sqlite::sqlite3_io_methods = sqlite::sqlite3_io_methods {
    // Version 1: no shared memory, hence no WAL, and no memory mapping.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Runs a callback's body. A code whose primary code is not among `allowed` becomes `otherwise`, and so does a
/// panic.
pub(super) fn guard(
    allowed: &[Code],
    otherwise: Code,
    act: impl FnOnce() -> Result<(), Code>,
) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        faults::strike()?;
        act()
    }));
    match outcome {
        Ok(Ok(())) => sqlite::SQLITE_OK,
        Ok(Err(code)) if allowed.contains(&(code & 0xff)) => code,
        Ok(Err(_)) | Err(_) => otherwise,
    }
}

/// The file that SQLite means.
///
/// # Safety
/// `raw` must be a file that xOpen opened and [`close`] has not closed; and no other such reference may be in
/// use.
unsafe fn file<'a>(raw: *mut sqlite::sqlite3_file) -> &'a mut File {
    // SAFETY: SQLite passes the file that it had opened by this VFS, and uses a connection's files from
    // one thread at a time, so there is no other reference to it.
    unsafe { &mut *(*raw.cast::<RawFile>()).file }
}

/// Runs a callback's body that changes the file. If it fails, the file's transaction is taken back, and SQLite
/// is told so by one of the two errors that make it do the same.
///
/// # Safety
/// As for [`file`].
unsafe fn change(
    raw: *mut sqlite::sqlite3_file,
    otherwise: Code,
    act: impl FnOnce(&mut File) -> Result<(), Code>,
) -> c_int {
    // SAFETY: the caller's promise.
    let file = unsafe { file(raw) };
    let code = guard(
        &[sqlite::SQLITE_IOERR, sqlite::SQLITE_FULL],
        otherwise,
        || act(file),
    );
    if code != sqlite::SQLITE_OK {
        let _second_panic = catch_unwind(AssertUnwindSafe(|| file.forget()));
    }
    code
}

unsafe extern "C" fn close(raw: *mut sqlite::sqlite3_file) -> c_int {
    let raw = raw.cast::<RawFile>();
    // SAFETY: xOpen put a box there, and SQLite closes a file once. The memory is still SQLite's file; nothing
    // uses it after this.
    let file = unsafe {
        (*raw).base.pMethods = std::ptr::null();
        Box::from_raw((*raw).file)
    };
    guard(&[], sqlite::SQLITE_IOERR_CLOSE, || {
        drop(file);
        Ok(())
    })
}

unsafe extern "C" fn read(
    raw: *mut sqlite::sqlite3_file,
    buf: *mut c_void,
    len: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives a buffer of `len` bytes, and the file is open.
    let (buf, file) = unsafe {
        let buf = std::slice::from_raw_parts_mut(buf.cast::<u8>(), len as usize);
        (buf, file(raw))
    };
    guard(
        &[sqlite::SQLITE_IOERR, sqlite::SQLITE_NOMEM],
        sqlite::SQLITE_IOERR_READ,
        || match file.read(buf, offset as u64)? {
            true => Ok(()),
            false => Err(sqlite::SQLITE_IOERR_SHORT_READ),
        },
    )
}

unsafe extern "C" fn write(
    raw: *mut sqlite::sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives `len` bytes, and the file is open.
    unsafe {
        let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), len as usize);
        change(raw, sqlite::SQLITE_IOERR_WRITE, |file| {
            file.write(bytes, offset as u64)
        })
    }
}

unsafe extern "C" fn truncate(
    raw: *mut sqlite::sqlite3_file,
    size: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    unsafe {
        change(raw, sqlite::SQLITE_IOERR_TRUNCATE, |file| {
            file.truncate(size as u64)
        })
    }
}

/// Durability is the record's: see `FCNTL_SYNC`, which comes first. Of scratch it cannot fail: SQLite asks for it
/// when the journal is empty already and the record is not yet published.
unsafe extern "C" fn sync(raw: *mut sqlite::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: the file is open.
    unsafe {
        match file(raw) {
            File::Scratch(_) => sqlite::SQLITE_OK,
            _ => change(raw, sqlite::SQLITE_IOERR_FSYNC, |_| Ok(())),
        }
    }
}

/// It is asked for in the second half of a commit too, where SQLite takes another error than the disk's for a
/// commit that did not touch its cache.
unsafe extern "C" fn file_size(
    raw: *mut sqlite::sqlite3_file,
    size: *mut sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { file(raw) };
    guard(&[sqlite::SQLITE_IOERR], sqlite::SQLITE_IOERR_FSTAT, || {
        // SAFETY: SQLite gives a place for the size.
        unsafe { *size = file.size() as sqlite::sqlite3_int64 };
        Ok(())
    })
}

/// The only callback that may answer BUSY.
unsafe extern "C" fn lock(raw: *mut sqlite::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { file(raw) };
    let allowed = [
        sqlite::SQLITE_BUSY,
        sqlite::SQLITE_IOERR,
        sqlite::SQLITE_NOMEM,
        sqlite::SQLITE_INTERRUPT,
    ];
    guard(&allowed, sqlite::SQLITE_IOERR_LOCK, || file.lock(level))
}

/// It never fails: SQLite would not know any more what it holds.
unsafe extern "C" fn unlock(raw: *mut sqlite::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { file(raw) };
    let outcome = catch_unwind(AssertUnwindSafe(|| file.unlock(level)));
    if outcome.is_ok() {
        sqlite::SQLITE_OK
    } else {
        sqlite::SQLITE_IOERR_UNLOCK
    }
}

unsafe extern "C" fn check_reserved_lock(
    raw: *mut sqlite::sqlite3_file,
    reserved: *mut c_int,
) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { file(raw) };
    guard(
        &[sqlite::SQLITE_IOERR],
        sqlite::SQLITE_IOERR_CHECKRESERVEDLOCK,
        || {
            // SAFETY: SQLite gives a place for the answer.
            unsafe { *reserved = c_int::from(file.is_reserved()) };
            Ok(())
        },
    )
}

unsafe extern "C" fn file_control(
    raw: *mut sqlite::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the file is open; the arguments are what SQLite documents for each operation, and xOpen has
    // noted the VFS, which is never freed.
    unsafe {
        let vfs = &*(*raw.cast::<RawFile>()).vfs;
        match operation {
            sqlite::SQLITE_FCNTL_SYNC => change(raw, sqlite::SQLITE_IOERR_FSYNC, File::reserve),
            sqlite::SQLITE_FCNTL_COMMIT_PHASETWO => {
                change(raw, sqlite::SQLITE_IOERR_FSYNC, File::publish)
            }
            sqlite::SQLITE_FCNTL_PRAGMA => pragma(vfs, file(raw), argument.cast()),
            sqlite::SQLITE_FCNTL_HAS_MOVED => {
                *argument.cast::<c_int>() = 0;
                sqlite::SQLITE_OK
            }
            sqlite::SQLITE_FCNTL_VFSNAME => {
                *argument.cast::<*mut c_char>() = vfs.api.allocate(vfs.name());
                sqlite::SQLITE_OK
            }
            _ => sqlite::SQLITE_NOTFOUND,
        }
    }
}

/// # Safety
/// `words` must be the argument of `SQLITE_FCNTL_PRAGMA`: a place for a message, the pragma's name, and
/// its argument or null.
unsafe fn pragma(vfs: &Vfs, file: &mut File, words: *mut *mut c_char) -> c_int {
    let allowed = [
        sqlite::SQLITE_NOTFOUND,
        sqlite::SQLITE_ERROR,
        sqlite::SQLITE_IOERR,
        sqlite::SQLITE_NOMEM,
        sqlite::SQLITE_INTERRUPT,
    ];
    guard(&allowed, sqlite::SQLITE_ERROR, || {
        // SAFETY: the caller's promise.
        let (name, argument) = unsafe {
            let argument = *words.add(2);
            let argument = (!argument.is_null()).then(|| CStr::from_ptr(argument));
            (CStr::from_ptr(*words.add(1)), argument)
        };
        let name = name.to_string_lossy().to_ascii_lowercase();
        let argument = argument.map(|argument| argument.to_string_lossy());
        let Some(message) = file.refuses_pragma(&name, argument.as_deref()) else {
            return Err(sqlite::SQLITE_NOTFOUND); // SQLite's own business.
        };
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: SQLite frees the message, which is its own memory.
        unsafe { *words = vfs.api.allocate(&message) };
        Err(sqlite::SQLITE_ERROR)
    })
}

/// A power cut never tears a page here, since pages become durable by the log's records.
unsafe extern "C" fn sector_size(_raw: *mut sqlite::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn device_characteristics(_raw: *mut sqlite::sqlite3_file) -> c_int {
    sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE
        | sqlite::SQLITE_IOCAP_SAFE_APPEND
        | sqlite::SQLITE_IOCAP_SEQUENTIAL
        | sqlite::SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN
}
