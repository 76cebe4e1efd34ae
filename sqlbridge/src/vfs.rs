//! The VFS: SQLite's calls, carried to [`File`](crate::file::File). A pocket of `unsafe`.
//!
//! There are two of the kind. `dovehouse-object` is inside: a [`Database`](crate::Database) opens an awake object
//! by a token. `dovehouse` is for any SQLite in the process, which opens objects by their names; see
//! [`loadable`](crate::loadable).

mod api;
mod methods;
mod names;
pub(crate) mod supers;
mod tokens;

use std::ffi::{CStr, c_int};
use std::ptr::{null, null_mut};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

pub(crate) use api::Api;
pub(crate) use tokens::announce;

/// The name by which a [`Database`](crate::Database) opens its connection.
pub(crate) const NAME: &CStr = Kind::Objects.name();

/// Who opens what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A [`Database`](crate::Database), by a token.
    Objects,
    /// Any SQLite, by a name.
    #[cfg(feature = "loadable")]
    Host,
}

impl Kind {
    const fn name(self) -> &'static CStr {
        match self {
            Kind::Objects => c"dovehouse-object",
            #[cfg(feature = "loadable")]
            Kind::Host => c"dovehouse",
        }
    }

    /// The longest name. SQLite keeps the names of super-journals in a page's room, which may be of 512 bytes.
    const fn path_bytes_max(self) -> c_int {
        match self {
            Kind::Objects => 64,
            #[cfg(feature = "loadable")]
            Kind::Host => 512,
        }
    }

    /// What SQLite appends to a database's name for other files' names, if anybody looks at those.
    const fn suffix_bytes(self) -> Option<usize> {
        match self {
            Kind::Objects => None,
            #[cfg(feature = "loadable")]
            Kind::Host => Some(16),
        }
    }
}

/// What the callbacks know of their VFS. Never freed, as SQLite may call them for ever.
struct Vfs {
    api: Api,
    kind: Kind,
    /// The VFS of the operating system, for what is not about files.
    system: *mut sqlite::sqlite3_vfs,
}

impl Vfs {
    fn name(&self) -> &'static CStr {
        self.kind.name()
    }
}

/// A registered VFS, for a list of them.
struct Registered {
    kind: Kind,
    /// Which SQLite: a process may have several.
    register: usize,
    raw: *mut sqlite::sqlite3_vfs,
}

// SAFETY: the structure behind `raw` is never freed, and only SQLite changes it, under its own lock.
unsafe impl Send for Registered {}

/// Registers a VFS, or the same one again: SQLite may have been shut down since, which makes the operating
/// system's the default one. Returns a result code.
pub(crate) fn register(api: Api, kind: Kind, as_default: bool) -> c_int {
    static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());
    let mut registered = REGISTERED.lock();
    let register = api.vfs_register as usize;
    let known = registered
        .iter()
        .find(|known| known.kind == kind && known.register == register);
    let raw = match known {
        Some(known) => known.raw,
        None => {
            // SAFETY: null asks for the default one, which lives as long as SQLite.
            let system = unsafe { (api.vfs_find)(null()) };
            if system.is_null() {
                return sqlite::SQLITE_ERROR;
            }
            let raw = new_vfs(Vfs { api, kind, system });
            registered.push(Registered {
                kind,
                register,
                raw,
            });
            raw
        }
    };
    // SAFETY: the structure lives for ever, and its callbacks keep SQLite's contracts.
    unsafe { (api.vfs_register)(raw, c_int::from(as_default)) }
}

fn new_vfs(vfs: Vfs) -> *mut sqlite::sqlite3_vfs {
    let kind = vfs.kind;
    let vfs: &'static Vfs = Box::leak(Box::new(vfs));
    Box::into_raw(Box::new(sqlite::sqlite3_vfs {
        iVersion: 1,
        szOsFile: size_of::<methods::RawFile>() as c_int,
        mxPathname: kind.path_bytes_max(),
        pNext: null_mut(),
        zName: kind.name().as_ptr(),
        pAppData: std::ptr::from_ref(vfs).cast_mut().cast(),
        xOpen: Some(names::open),
        xDelete: Some(names::delete),
        xAccess: Some(names::access),
        xFullPathname: Some(names::full_pathname),
        xDlOpen: Some(names::dl_open),
        xDlError: Some(names::dl_error),
        xDlSym: Some(names::dl_symbol),
        xDlClose: Some(names::dl_close),
        xRandomness: Some(names::randomness),
        xSleep: Some(names::sleep),
        xCurrentTime: Some(names::current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }))
}
