//! How typed values become bytes: MessagePack, with the names of fields.
//!
//! With the names, so that a program can add a field with a default, or take one away, and still read what
//! an older one has stored. No value begins with the byte 0xC1, which MessagePack does not use: that is
//! left for another encoding.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| Error::Value {
        type_name: std::any::type_name::<T>(),
        what: "stored",
        why: error.to_string(),
    })
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::Value {
        type_name: std::any::type_name::<T>(),
        what: "read",
        why: error.to_string(),
    })
}
