//! What `kv` classes may do: no SQL, and they store as much as Cloudflare's, so that a program that runs here runs
//! there.
//!
//! Classes with a database have the engine's limits only, which are wider.

use crate::catalog::StorageKind;
use crate::class::Class;
use crate::error::{Error, Result};

const KEY_BYTES_MAX: usize = 2_048;
/// 128 KiB, and what an encoding may add to them.
const VALUE_BYTES_MAX: usize = (128 << 10) + 34;
/// Keys in a call that takes several.
const KEYS_MAX: usize = 128;

impl Class {
    /// Whether its objects have a database.
    pub(crate) fn check_sql(&self) -> Result<()> {
        match self.storage {
            StorageKind::Kv => Err(Error::NoSql { class: self.name }),
            StorageKind::Sqlite => Ok(()),
        }
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<()> {
        self.check("the size of a key in bytes", key.len(), KEY_BYTES_MAX)
    }

    pub(crate) fn check_entry(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.check_key(key)?;
        self.check("the size of a value in bytes", value.len(), VALUE_BYTES_MAX)
    }

    pub(crate) fn check_number_of_keys(&self, number: usize) -> Result<()> {
        self.check("the number of keys in a call", number, KEYS_MAX)
    }

    fn check(&self, what: &'static str, found: usize, limit: usize) -> Result<()> {
        match self.storage {
            StorageKind::Kv if found > limit => Err(Error::KvLimit {
                class: self.name,
                what,
                limit,
            }),
            _ => Ok(()),
        }
    }
}
