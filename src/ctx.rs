//! What a handler has of its object: identity, storage, alarm. WebSockets and bodies are in files of their own.

use std::fmt;
use std::rc::Rc;

use crate::alarms::{self, AlarmApi};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::house::Dovehouse;
use crate::id::ObjectId;
use crate::kv::Kv;
use crate::sql::Sql;

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
        let inner = shard.house.upgrade().ok_or(Error::Closed)?;
        let tenant = self.core.address.class.tenant.clone();
        Ok(Dovehouse::from_inner(inner, tenant))
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
        Kv::new(&self.core)
    }

    /// The object's SQL database.
    pub fn sql(&self) -> Sql<'_> {
        Sql::new(&self.core)
    }

    /// The object's alarm.
    pub fn alarm(&self) -> AlarmApi<'_> {
        self.alarm_named(alarms::OWN)
    }

    /// One of several alarms that the object may have beside its own, each with its own time, retries and
    /// schedule. The handler is told the name. The alarm of the empty name is the object's own.
    pub fn alarm_named<'a>(&'a self, name: &'a str) -> AlarmApi<'a> {
        AlarmApi {
            core: &self.core,
            name,
            confirmed: true,
        }
    }

    /// The names of all alarms that are set, with their times in milliseconds since 1970, by name.
    pub fn alarms(&self) -> Result<Vec<(String, u64)>> {
        alarms::all(&self.core)
    }

    /// Removes everything the object has stored: keys, tables, and its alarm. What this turn wrote
    /// before is undone. Not inside a transaction. Unless the object stores something again, it takes no space from then on.
    pub fn delete_all(&self) -> Result<()> {
        self.core
            .with_storage_mut(|storage| storage.delete_all(false))
    }

    /// The same, but the alarm stays.
    pub fn delete_all_but_alarm(&self) -> Result<()> {
        self.core
            .with_storage_mut(|storage| storage.delete_all(true))
    }

    /// What the object's keys, pages and alarm take, in bytes before compression.
    pub fn stored_bytes(&self) -> Result<usize> {
        self.core
            .with_storage(|storage| Ok(storage.object(|object| object.state_bytes())))
    }
}
