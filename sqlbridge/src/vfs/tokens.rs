//! How a connection finds its object: [`announce`] puts the object into a table, the token goes into the file
//! name, and xOpen takes the object out again.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use super::{Api, Kind, register};
use crate::error::{Error, Result};
use crate::ffi;
use crate::file::MainFile;

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
    static REGISTERED: OnceLock<i32> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        ffi::configure();
        register(Api::linked(), Kind::Objects, false)
    });
    if code != sqlite::SQLITE_OK {
        let message = "the VFS cannot be registered".into();
        return Err(Error::Sqlite { code, message });
    }
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    ANNOUNCED.lock().get_or_insert_default().insert(token, file);
    Ok(Token(token))
}

/// Takes the file that a name announces.
pub(super) fn take_named(name: &str) -> Option<MainFile> {
    take(name.strip_prefix("object-")?.parse().ok()?)
}

fn take(token: u64) -> Option<MainFile> {
    ANNOUNCED.lock().as_mut()?.remove(&token)
}
