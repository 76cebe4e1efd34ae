//! An object's keys and values, for its handlers.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use dovehouse_engine::{List, Listed, Object};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::class::Class;
use crate::core::Core;
use crate::encoding::{decode, encode};
use crate::error::Result;

/// An object's keys and values, sorted by the bytes of the keys. Values are bytes; the methods that end in
/// `_as` take and give typed ones, by way of serde.
///
/// # Errors
/// All methods fail with [`Error::OutsideTurn`](crate::Error::OutsideTurn) when called by anybody but the
/// object's own handlers. A turn that writes more than its class may in one transaction (1 GiB unless set)
/// fails. In a class with `storage = "kv"` those that take keys or values fail with
/// [`Error::KvLimit`](crate::Error::KvLimit) for a key of more than 2,048 bytes, a value of more than 131,106, or more
/// than 128 keys in one call.
#[derive(Clone, Copy)]
pub struct Kv<'a> {
    core: &'a Rc<Core>,
    confirmed: bool,
}

impl fmt::Debug for Kv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kv")
    }
}

impl<'a> Kv<'a> {
    pub(crate) fn new(core: &'a Rc<Core>) -> Self {
        let confirmed = true;
        Kv { core, confirmed }
    }

    /// The same keys, for writes that nothing waits for: what the object says may leave before they are
    /// durable. If they cannot be made durable the object is reset all the same. In a turn with other
    /// writes, they are one transaction with them, and its outputs wait.
    pub fn unconfirmed(self) -> Self {
        Kv {
            confirmed: false,
            ..self
        }
    }

    fn read<R>(&self, act: impl FnOnce(&Object) -> Result<R>) -> Result<R> {
        self.core
            .with_storage(|storage| storage.object(|object| act(object)))
    }

    fn class(&self) -> &Class {
        &self.core.address.class
    }

    fn write<R>(&self, act: impl FnOnce(&mut Object) -> Result<R>) -> Result<R> {
        self.core.with_storage(|storage| match self.confirmed {
            true => storage.object(act),
            false => storage.object_unconfirmed(act),
        })
    }

    /// Several writes, all or none.
    fn write_each<I>(
        &self,
        items: impl IntoIterator<Item = I>,
        mut write: impl FnMut(&mut Object, I) -> Result<()>,
    ) -> Result<()> {
        self.write(|object| {
            let before = object.savepoint();
            for (number, item) in (1..).zip(items) {
                let fits = self.class().check_number_of_keys(number);
                if let Err(error) = fits.and_then(|()| write(object, item)) {
                    object.rollback_keys_to(before);
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.class().check_key(key.as_ref())?;
        self.read(|object| Ok(object.get(key.as_ref())?.map(Cow::into_owned)))
    }

    /// The typed value of a key. Fails with [`Error::Value`](crate::Error::Value) if it is not of this type.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Settings {
    ///     title: String,
    ///     #[serde(default)] // It was added later.
    ///     colour: Option<String>,
    /// }
    /// # fn handler(ctx: &Ctx) -> Result<()> {
    /// let settings: Option<Settings> = ctx.kv().get_as("settings")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_as<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.class().check_key(key.as_ref())?;
        self.read(|object| {
            let value = object.get(key.as_ref())?;
            value.map(|value| decode(&value)).transpose()
        })
    }

    /// Keys with their values, in the order of the keys, each once; those that are not there are left out.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut keys: Vec<Vec<u8>> = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        self.class().check_number_of_keys(keys.len())?;
        keys.iter()
            .try_for_each(|key| self.class().check_key(key))?;
        keys.sort_unstable();
        keys.dedup();
        self.read(|object| {
            let mut found = Vec::new();
            for key in keys {
                if let Some(value) = object.get(&key)?.map(Cow::into_owned) {
                    found.push((key, value));
                }
            }
            Ok(found)
        })
    }

    /// Sets a key, of at most 4 KiB, to a value of at most 128 MiB; in a class with `storage = "kv"` 2,048 bytes and
    /// 128 KiB.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.class().check_entry(key, value)?;
        self.write(|object| Ok(object.put(key, value)?))
    }

    /// Sets a key to a typed value, which is encoded now. Fails with [`Error::Value`](crate::Error::Value)
    /// if it cannot be.
    pub fn put_as<T: Serialize + ?Sized>(&self, key: impl AsRef<[u8]>, value: &T) -> Result<()> {
        self.put(key, encode(value)?)
    }

    /// Sets several keys, all or none: if one of them fails, none is changed.
    pub fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.write_each(entries, |object, (key, value)| {
            let (key, value) = (key.as_ref(), value.as_ref());
            self.class().check_entry(key, value)?;
            Ok(object.put(key, value)?)
        })
    }

    /// Removes a key. Returns whether it was there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.class().check_key(key.as_ref())?;
        self.write(|object| Ok(object.delete(key.as_ref())?))
    }

    /// Removes several keys, all or none. Returns how many were there.
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<usize> {
        let mut deleted = 0;
        self.write_each(keys, |object, key| {
            self.class().check_key(key.as_ref())?;
            deleted += usize::from(object.delete(key.as_ref())?);
            Ok(())
        })?;
        Ok(deleted)
    }

    /// Keys and values in a range.
    pub fn list(&self, list: &List) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.read(|object| {
            let owned = |listed: Listed<'_>| {
                let (key, value) = listed?;
                Ok((key.into_owned(), value.into_owned()))
            };
            object.list(list).map(owned).collect()
        })
    }

    /// Keys and typed values in a range.
    pub fn list_as<T: DeserializeOwned>(&self, list: &List) -> Result<Vec<(Vec<u8>, T)>> {
        self.read(|object| {
            let typed = |listed: Listed<'_>| {
                let (key, value) = listed?;
                Ok((key.into_owned(), decode(&value)?))
            };
            object.list(list).map(typed).collect()
        })
    }
}
