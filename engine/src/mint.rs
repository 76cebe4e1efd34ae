//! Object ids from names: bit-identical to those of workerd, so that data and links can move.
//!
//! ```text
//! key  = SHA-256(unique key of the namespace)
//! base = HMAC-SHA-256(key, name)[0..16], or 16 random bytes
//! id   = base ‖ HMAC-SHA-256(key, base)[0..16]
//! ```
//! Ids that are bound to a jurisdiction have `SHA-256(key ‖ "jurisdiction:" ‖ jurisdiction)` for their key.
//! The second half is a check: an id of another namespace, or a made-up one, is refused. Whoever knows
//! the unique key can make valid ids.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::id::ObjectId;

/// Makes and checks the ids of one namespace. Whoever opens a store by names must make ids as those did
/// who wrote to it; the runtime uses the class's name as the unique key, unless it is given another.
#[derive(Clone, PartialEq, Eq)]
pub struct Minter {
    key: [u8; 32],
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Minter") // The key lets its holder make ids.
    }
}

impl Minter {
    /// The minter of the namespace with this key.
    pub fn new(unique_key: &str) -> Self {
        Minter {
            key: Sha256::digest(unique_key.as_bytes()).into(),
        }
    }

    /// The minter of the namespace's ids that are bound to a jurisdiction: the same name stands for another
    /// id there, and each minter knows its own ids only.
    pub fn within(&self, jurisdiction: &str) -> Self {
        // Hashed, where ids are HMACs: no id of the namespace gives away a part of this key.
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(b"jurisdiction:");
        hash.update(jurisdiction.as_bytes());
        Minter {
            key: hash.finalize().into(),
        }
    }

    /// The id that a name stands for: always the same. Any text will do, the empty one too.
    pub fn named(&self, name: &str) -> ObjectId {
        self.complete(self.mac(name.as_bytes()))
    }

    /// The id with this first half, which should be random.
    pub fn complete(&self, base: [u8; 16]) -> ObjectId {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&base);
        bytes[16..].copy_from_slice(&self.mac(&base));
        ObjectId::from_bytes(bytes)
    }

    /// Whether the id was made with this namespace's key.
    pub fn made(&self, id: ObjectId) -> bool {
        let base = id.as_bytes()[..16].try_into().expect("sixteen of 32");
        same(self.complete(base).as_bytes(), id.as_bytes())
    }

    fn mac(&self, bytes: &[u8]) -> [u8; 16] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length of key will do");
        mac.update(bytes);
        mac.finalize().into_bytes()[..16]
            .try_into()
            .expect("sixteen of 32")
    }
}

/// Compares in a time that does not tell where two ids differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter()
        .zip(b)
        .fold(0, |different, (a, b)| different | (a ^ b))
        == 0
}
