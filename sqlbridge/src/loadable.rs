//! The VFS `dovehouse`: any SQLite in the process opens objects by their names.
//!
//! ```text
//! file:CLASS/NAME?vfs=dovehouse&store=DIR
//! ```
//! A program whose SQLite is another than the one in this crate loads the library that the package
//! `dovehouse-sqlbridge` builds; a program that shares this crate's SQLite calls [`register`].
//!
//! There is no turn and no output gate here: COMMIT returns when the record is durable. Many connections of one
//! process may open an object, and lock each other out as with a file; another process cannot open the store.
//! Journals are scratch: what a crash or an error leaves is what was committed, since nothing else ever gets into
//! the log. `docs/loadable.md` is the user's page.
//!
//! ```
//! use std::path::Path;
//! use dovehouse_sqlbridge::{Connection, loadable};
//!
//! loadable::register()?;
//! # let dir = tempfile::tempdir()?;
//! # let store = dir.path().display();
//! let uri = format!("file:Room/lobby?vfs=dovehouse&store={store}");
//! let connection = Connection::open_file(Path::new(&uri))?;
//! connection.exec("CREATE TABLE bird(name TEXT)", &[])?; // it is durable
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[allow(unsafe_code)]
mod entry;
mod host_file;
pub(crate) mod locks;
mod stores;

use std::path::PathBuf;

use libsqlite3_sys as sqlite;

pub use entry::initialize;
pub(crate) use host_file::{HostFile, journal_of};

use crate::error::{Error, Result};
use crate::vfs::{self, Api, Kind};

/// The store of a URI that names none.
const STORE_VARIABLE: &str = "DOVEHOUSE_STORE";

/// `1` makes `dovehouse` the default VFS.
const DEFAULT_VARIABLE: &str = "DOVEHOUSE_DEFAULT_VFS";

/// Registers the VFS with the SQLite that this crate links. May be called again, and has to be if
/// `DOVEHOUSE_DEFAULT_VFS` is `1` and SQLite was shut down since.
pub fn register() -> Result<()> {
    match register_with(Api::linked()) {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Sqlite {
            code,
            message: "the VFS cannot be registered".into(),
        }),
    }
}

fn register_with(api: Api) -> i32 {
    let as_default = std::env::var_os(DEFAULT_VARIABLE).is_some_and(|value| value == "1");
    vfs::register(api, Kind::Host, as_default)
}

/// Opens a database by its name, `CLASS/NAME`, for the connection whose name stands at this address. The error
/// is for people.
pub(crate) fn open(
    name: &str,
    store: Option<String>,
    may_create: bool,
    address: usize,
) -> std::result::Result<HostFile, String> {
    let (class, object) = name
        .split_once('/')
        .filter(|(class, _)| !class.is_empty())
        .ok_or_else(|| format!("{name:?} is not CLASS/NAME"))?;
    let store = store.map(PathBuf::from);
    let store = store
        .or_else(|| std::env::var_os(STORE_VARIABLE).map(PathBuf::from))
        .filter(|store| !store.as_os_str().is_empty())
        .ok_or("neither the URI's parameter `store` nor DOVEHOUSE_STORE names a directory")?;
    let shared = stores::open(&store, class, object, may_create)?;
    Ok(HostFile::new(shared, address))
}
