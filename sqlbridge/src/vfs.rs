//! The VFS `dovehouse`: SQLite's calls, carried to [`File`]. A pocket of `unsafe`.
//!
//! A connection finds its object by a token: [`announce`] puts the object into a table, the token goes
//! into the file name, and xOpen takes the object out again.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::file::{Code, File, MainFile};

/// The VFS's name.
pub(crate) const NAME: &CStr = c"dovehouse";
const PATH_BYTES_MAX: usize = 64;

static ANNOUNCED: Mutex<Option<HashMap<u64, MainFile>>> = Mutex::new(None);

/// An object that waits to be opened. Forgotten when dropped.
pub(crate) struct Token(u64);

impl Token {
    /// The file name that opens it.
    pub(crate) fn file_name(&self) -> String {
        format!("object-{}", self.0)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        take(self.0);
    }
}

/// Registers the VFS, once for the process, and lets the next open by this token find the file.
pub(crate) fn announce(file: MainFile) -> Result<Token> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    register()?;
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    ANNOUNCED.lock().get_or_insert_default().insert(token, file);
    Ok(Token(token))
}

fn take(token: u64) -> Option<MainFile> {
    ANNOUNCED.lock().as_mut()?.remove(&token)
}

/// What SQLite allocates for an open file. It begins like every file of SQLite.
#[repr(C)]
struct RawFile {
    base: sqlite::sqlite3_file,
    /// From `Box::into_raw`; null while the file is not open.
    file: *mut File,
}

fn register() -> Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        let vfs = sqlite::sqlite3_vfs {
            iVersion: 1,
            szOsFile: size_of::<RawFile>() as c_int,
            mxPathname: PATH_BYTES_MAX as c_int,
            pNext: null_mut(),
            zName: NAME.as_ptr(),
            pAppData: null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        };
        // SAFETY: the structure is leaked, so it lives as long as SQLite may use it; all callbacks keep
        // SQLite's contracts. It does not become the default.
        unsafe { sqlite::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
    });
    if code == sqlite::SQLITE_OK {
        return Ok(());
    }
    Err(Error::Sqlite {
        code,
        message: "the VFS cannot be registered".into(),
    })
}

static METHODS: sqlite::sqlite3_io_methods = sqlite::sqlite3_io_methods {
    // Version 1: no shared memory, hence no WAL, and no memory mapping.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
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

/// Runs a callback's body on its file. A panic must not cross the C frames above: it becomes an I/O
/// error, and the object's transaction is taken back.
///
/// # Safety
/// `raw` must be a file that [`open`] opened and [`close`] has not closed.
unsafe fn with(
    raw: *mut sqlite::sqlite3_file,
    act: impl FnOnce(&mut File) -> std::result::Result<(), Code>,
) -> c_int {
    // SAFETY: SQLite passes the file that it had opened by this VFS, and uses a connection's files from
    // one thread at a time, so there is no other reference to it.
    let file = unsafe { &mut *(*raw.cast::<RawFile>()).file };
    let outcome = catch_unwind(AssertUnwindSafe(|| act(file)));
    match outcome {
        Ok(Ok(())) => sqlite::SQLITE_OK,
        Ok(Err(code)) => code,
        Err(_panic) => {
            let _second_panic = catch_unwind(AssertUnwindSafe(|| {
                if let File::Main(main) = file {
                    main.forget();
                }
            }));
            sqlite::SQLITE_IOERR
        }
    }
}

unsafe extern "C" fn open(
    _vfs: *mut sqlite::sqlite3_vfs,
    name: sqlite::sqlite3_filename,
    raw: *mut sqlite::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let raw = raw.cast::<RawFile>();
    // SAFETY: SQLite gives `szOsFile` bytes for the file. Without methods it does not call xClose.
    unsafe { (*raw).base.pMethods = null() };
    let file = if flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 {
        // SAFETY: a main database has a NUL-terminated name.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let token = name
            .strip_prefix("object-")
            .and_then(|token| token.parse().ok());
        token.and_then(take).map(File::Main)
    } else if flags & sqlite::SQLITE_OPEN_WAL != 0 {
        None
    } else {
        Some(File::Scratch(Vec::new()))
    };
    let Some(file) = file else {
        return sqlite::SQLITE_CANTOPEN;
    };
    // SAFETY: as above; `out_flags` may be null.
    unsafe {
        (*raw).file = Box::into_raw(Box::new(file));
        (*raw).base.pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    sqlite::SQLITE_OK
}

unsafe extern "C" fn close(raw: *mut sqlite::sqlite3_file) -> c_int {
    let raw = raw.cast::<RawFile>();
    // SAFETY: `open` put a box there, and SQLite closes a file once.
    let file = unsafe { Box::from_raw((*raw).file) };
    // SAFETY: the memory is still SQLite's file; nothing uses it after this.
    unsafe { (*raw).base.pMethods = null() };
    drop(file);
    sqlite::SQLITE_OK
}

unsafe extern "C" fn read(
    raw: *mut sqlite::sqlite3_file,
    buf: *mut c_void,
    len: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives a buffer of `len` bytes.
    let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len as usize) };
    // SAFETY: the file is open.
    unsafe {
        with(raw, |file| match file.read(buf, offset as u64)? {
            true => Ok(()),
            false => Err(sqlite::SQLITE_IOERR_SHORT_READ),
        })
    }
}

unsafe extern "C" fn write(
    raw: *mut sqlite::sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len as usize) };
    // SAFETY: the file is open.
    unsafe { with(raw, |file| file.write(bytes, offset as u64)) }
}

unsafe extern "C" fn truncate(
    raw: *mut sqlite::sqlite3_file,
    size: sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    unsafe {
        with(raw, |file| {
            file.truncate(size as u64);
            Ok(())
        })
    }
}

/// Durability is the ticket's: see `FCNTL_SYNC`, which comes first.
unsafe extern "C" fn sync(_raw: *mut sqlite::sqlite3_file, _flags: c_int) -> c_int {
    sqlite::SQLITE_OK
}

unsafe extern "C" fn file_size(
    raw: *mut sqlite::sqlite3_file,
    size: *mut sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open, and SQLite gives a place for the size.
    unsafe {
        with(raw, |file| {
            *size = file.size() as sqlite::sqlite3_int64;
            Ok(())
        })
    }
}

/// An object has one owner, so there is nothing to exclude.
unsafe extern "C" fn lock(_raw: *mut sqlite::sqlite3_file, _level: c_int) -> c_int {
    sqlite::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(
    _raw: *mut sqlite::sqlite3_file,
    reserved: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *reserved = 0 };
    sqlite::SQLITE_OK
}

unsafe extern "C" fn file_control(
    raw: *mut sqlite::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the file is open; the arguments are what SQLite documents for each operation.
    unsafe {
        with(raw, |file| {
            let File::Main(main) = file else {
                return Err(sqlite::SQLITE_NOTFOUND);
            };
            match operation {
                sqlite::SQLITE_FCNTL_SYNC => main.reserve(),
                sqlite::SQLITE_FCNTL_COMMIT_PHASETWO => main.publish(),
                sqlite::SQLITE_FCNTL_PRAGMA => pragma(main, argument.cast()),
                sqlite::SQLITE_FCNTL_HAS_MOVED => {
                    *argument.cast::<c_int>() = 0;
                    Ok(())
                }
                sqlite::SQLITE_FCNTL_VFSNAME => {
                    *argument.cast::<*mut c_char>() = allocate(NAME);
                    Ok(())
                }
                _ => Err(sqlite::SQLITE_NOTFOUND),
            }
        })
    }
}

/// # Safety
/// `words` must be the argument of `SQLITE_FCNTL_PRAGMA`: a place for a message, the pragma's name, and
/// its argument or null.
unsafe fn pragma(main: &MainFile, words: *mut *mut c_char) -> std::result::Result<(), Code> {
    // SAFETY: the caller's promise.
    let (name, has_argument) =
        unsafe { (CStr::from_ptr(*words.add(1)), !(*words.add(2)).is_null()) };
    let name = name.to_string_lossy().to_ascii_lowercase();
    if !main.forbids_pragma(&name, has_argument) {
        return Err(sqlite::SQLITE_NOTFOUND); // SQLite's own business.
    }
    let message = CString::new(format!("{name} is set by the store and cannot be changed"))
        .unwrap_or_default();
    // SAFETY: SQLite frees the message, which is its own memory.
    unsafe { *words = allocate(&message) };
    Err(sqlite::SQLITE_ERROR)
}

/// A copy of a text in SQLite's memory.
fn allocate(text: &CStr) -> *mut c_char {
    // SAFETY: the format takes one NUL-terminated text.
    unsafe { sqlite::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) }
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

/// Journals are scratch: there is nothing to delete, and none is ever found.
unsafe extern "C" fn delete(
    _vfs: *mut sqlite::sqlite3_vfs,
    _name: *const c_char,
    _sync: c_int,
) -> c_int {
    sqlite::SQLITE_OK
}

unsafe extern "C" fn access(
    _vfs: *mut sqlite::sqlite3_vfs,
    _name: *const c_char,
    _flags: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *found = 0 };
    sqlite::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the name is NUL-terminated, and `out` has room for `len` bytes.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > len as usize {
            return sqlite::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
    }
    sqlite::SQLITE_OK
}

/// The VFS of the operating system, for what is not about files.
fn default_vfs() -> *mut sqlite::sqlite3_vfs {
    // SAFETY: null asks for the default one, which lives as long as the process.
    unsafe { sqlite::sqlite3_vfs_find(null()) }
}

unsafe extern "C" fn randomness(
    _vfs: *mut sqlite::sqlite3_vfs,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    let vfs = default_vfs();
    // SAFETY: the arguments are passed on as they came.
    unsafe { (*vfs).xRandomness.map_or(0, |call| call(vfs, len, out)) }
}

unsafe extern "C" fn sleep(_vfs: *mut sqlite::sqlite3_vfs, microseconds: c_int) -> c_int {
    let vfs = default_vfs();
    // SAFETY: the arguments are passed on as they came.
    unsafe { (*vfs).xSleep.map_or(0, |call| call(vfs, microseconds)) }
}

unsafe extern "C" fn current_time(_vfs: *mut sqlite::sqlite3_vfs, out: *mut f64) -> c_int {
    let vfs = default_vfs();
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        (*vfs)
            .xCurrentTime
            .map_or(sqlite::SQLITE_ERROR, |call| call(vfs, out))
    }
}
