//! Namespaces: the objects of one class, by id or by name.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::Result;
use crate::house::{Address, Class, Inner};
use crate::id::ObjectId;
use crate::object::Object;
use crate::stub::Stub;

/// All objects of a class. Every id names an object, whether it was ever used or not. Cheap to clone,
/// and usable from any thread.
pub struct Namespace<T> {
    pub(crate) house: Arc<Inner>,
    pub(crate) class: Arc<Class>,
    object: PhantomData<fn() -> T>,
}

impl<T> Clone for Namespace<T> {
    fn clone(&self) -> Self {
        Namespace {
            house: self.house.clone(),
            class: self.class.clone(),
            object: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Namespace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.class.name).finish()
    }
}

impl<T: Object> Namespace<T> {
    pub(crate) fn new(house: Arc<Inner>, class: Arc<Class>) -> Self {
        Namespace {
            house,
            class,
            object: PhantomData,
        }
    }

    /// The id that a name stands for: always the same. Any text will do, the empty one too.
    pub fn id_from_name(&self, name: &str) -> ObjectId {
        self.class.minter.named(name)
    }

    /// A fresh id.
    pub fn unique_id(&self) -> ObjectId {
        let mut base = [0; 16];
        base[..8].copy_from_slice(&self.house.engine.random_u64().to_le_bytes());
        base[8..].copy_from_slice(&self.house.engine.random_u64().to_le_bytes());
        self.class.minter.complete_base(base)
    }

    /// The id with this text, as [`ObjectId`] displays it. Ids of other namespaces are refused.
    pub fn id_from_string(&self, text: &str) -> Result<ObjectId> {
        Ok(self.class.minter.parse(text)?)
    }

    /// The object with this id. Nothing is sent and nothing wakes.
    pub fn get(&self, id: ObjectId) -> T::Stub {
        let address = Address {
            class: self.class.clone(),
            id,
        };
        Stub::new(self.house.clone(), address).into()
    }

    /// The object with this name.
    pub fn get_by_name(&self, name: &str) -> T::Stub {
        self.get(self.id_from_name(name))
    }
}
