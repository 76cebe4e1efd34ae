//! Objects as they were, for reading.

use std::borrow::Cow;
use std::fmt;

use dovehouse_engine::{Bookmark, List, Listed, Object};
use serde::de::DeserializeOwned;

use crate::encoding::decode;
use crate::error::Result;

/// An object as it was at a bookmark; see [`Namespace::past`](crate::Namespace::past). It stays so, whatever
/// becomes of the object itself, and as many as are wanted may be open at once. It can only be read.
pub struct Past {
    object: Object,
    bookmark: Bookmark,
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Past")
            .field("bookmark", &self.bookmark)
            .finish_non_exhaustive()
    }
}

impl Past {
    pub(crate) fn new(object: Object, bookmark: Bookmark) -> Self {
        Past { object, bookmark }
    }

    /// What it was opened at.
    pub fn bookmark(&self) -> Bookmark {
        self.bookmark
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(self.object.get(key.as_ref())?.map(Cow::into_owned))
    }

    /// The typed value of a key. Fails with [`Error::Value`](crate::Error::Value) if it is not of this type.
    pub fn get_as<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let value = self.object.get(key.as_ref())?;
        value.map(|value| decode(&value)).transpose()
    }

    /// Keys and values in a range.
    pub fn list(&self, list: &List) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let owned = |listed: Listed<'_>| {
            let (key, value) = listed?;
            Ok((key.into_owned(), value.into_owned()))
        };
        self.object.list(list).map(owned).collect()
    }

    /// Keys and typed values in a range.
    pub fn list_as<T: DeserializeOwned>(&self, list: &List) -> Result<Vec<(Vec<u8>, T)>> {
        let typed = |listed: Listed<'_>| {
            let (key, value) = listed?;
            Ok((key.into_owned(), decode(&value)?))
        };
        self.object.list(list).map(typed).collect()
    }

    /// The names of the alarms that were set, with their times in milliseconds since 1970. The object's own has
    /// the empty name.
    pub fn alarms(&self) -> Vec<(String, u64)> {
        let alarms = self.object.alarms().iter();
        alarms
            .map(|alarm| (alarm.name.to_string(), alarm.due_ms))
            .collect()
    }
}
