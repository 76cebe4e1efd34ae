//! What a handler has of its object: identity, storage, alarm, WebSockets.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use dovehouse_engine::{List, Listed, Object};

use crate::alarms::AlarmApi;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::house::Dovehouse;
use crate::id::ObjectId;
use crate::sql::Sql;
use crate::web_socket::WebSocket;

/// A handler's way to its object. Cheap to clone; it may be kept in the instance.
///
/// Storage calls act on memory and return at once. All writes between two awaits are one transaction:
/// they become durable together, before anything that the handler says leaves the object.
#[derive(Clone)]
pub struct Ctx {
    pub(crate) core: Rc<Core>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}

impl Ctx {
    /// The object's id. Its name is there if the object was woken by it, or has kept it.
    pub fn id(&self) -> &ObjectId {
        self.core.id()
    }

    /// The house, to reach other objects.
    pub fn house(&self) -> Result<Dovehouse> {
        let shard = self.core.shard.upgrade().ok_or(Error::Closed)?;
        shard
            .house
            .upgrade()
            .map(Dovehouse::from_inner)
            .ok_or(Error::Closed)
    }

    /// The time, in milliseconds since 1970, by the house's clock.
    pub fn now_ms(&self) -> u64 {
        self.core
            .shard
            .upgrade()
            .map_or(0, |shard| shard.clock.now_ms())
    }

    /// The object's keys and values.
    pub fn kv(&self) -> Kv<'_> {
        Kv { core: &self.core }
    }

    /// The object's SQL database.
    pub fn sql(&self) -> Sql<'_> {
        Sql::new(&self.core)
    }

    /// The object's alarm.
    pub fn alarm(&self) -> AlarmApi<'_> {
        AlarmApi { core: &self.core }
    }

    /// Removes everything the object has stored: keys, tables, and its alarm. What this turn wrote
    /// before is undone. Not inside [`Sql::transaction`]. Unless the object stores something again, it takes no space from then on.
    pub fn delete_all(&self) -> Result<()> {
        self.core
            .with_storage_mut(|storage| storage.delete_all(false))
    }

    /// What the object's keys, pages and alarm take, in bytes before compression.
    pub fn stored_bytes(&self) -> Result<usize> {
        self.core
            .with_storage(|storage| Ok(storage.object(|object| object.state_bytes())))
    }

    /// The object's open WebSockets, newest first.
    pub fn web_sockets(&self) -> Vec<WebSocket> {
        WebSocket::all(&self.core, None)
    }

    /// The object's open WebSockets with this tag, newest first.
    pub fn web_sockets_tagged(&self, tag: &str) -> Vec<WebSocket> {
        WebSocket::all(&self.core, Some(tag))
    }
}

/// An object's keys and values: bytes, sorted by key.
///
/// # Errors
/// All methods fail with [`Error::OutsideTurn`] when called by anybody but the object's own handlers.
/// A turn that writes more than its class may in one transaction (1 GiB unless set) fails.
#[derive(Clone, Copy)]
pub struct Kv<'a> {
    core: &'a Rc<Core>,
}

impl fmt::Debug for Kv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kv")
    }
}

impl Kv<'_> {
    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.core.with_storage(|storage| {
            let get = |object: &mut Object| Ok(object.get(key.as_ref())?.map(Cow::into_owned));
            storage.object(get)
        })
    }

    /// Sets a key, of at most 4 KiB, to a value of at most 128 MiB.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let put = |object: &mut Object| Ok(object.put(key.as_ref(), value.as_ref())?);
        self.core.with_storage(|storage| storage.object(put))
    }

    /// Removes a key. Returns whether it was there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let delete = |object: &mut Object| Ok(object.delete(key.as_ref())?);
        self.core.with_storage(|storage| storage.object(delete))
    }

    /// Keys and values in a range, in the byte order of the keys.
    pub fn list(&self, list: &List) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.core.with_storage(|storage| {
            storage.object(|object| {
                let owned = |listed: Listed<'_>| {
                    let (key, value) = listed?;
                    Ok((key.into_owned(), value.into_owned()))
                };
                object.list(list).map(owned).collect()
            })
        })
    }
}
