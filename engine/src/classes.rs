//! Classes: the kinds of objects, each with a number that is never reused.

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::{Claim, Record};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId};
use crate::object::Object;
use crate::record::{Kind, encode_class};

/// The name of the tenant that a store has by default.
pub const DEFAULT_TENANT: &str = "";

/// The tenant of classes that were deleted. Their objects are as good as erased: waking one for another class
/// erases it first.
pub const DELETED_TENANT: &str = "\0deleted";

/// All classes, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    names: Vec<Option<(String, String)>>,
}

impl Classes {
    pub(crate) fn find(&self, tenant: &str, name: &str) -> Option<ClassId> {
        let same = |class: &Option<(String, String)>| {
            class
                .as_ref()
                .is_some_and(|(found_tenant, found)| found_tenant == tenant && found == name)
        };
        self.names
            .iter()
            .position(same)
            .map(|number| ClassId(number as u16))
    }

    pub(crate) fn name(&self, class: ClassId) -> Option<(&str, &str)> {
        let (tenant, name) = self.names.get(usize::from(class.0))?.as_ref()?;
        Some((tenant, name))
    }

    /// The number that the next class gets.
    pub(crate) fn next(&self) -> Result<ClassId> {
        let limit = u64::from(u16::MAX);
        let number = u16::try_from(self.names.len());
        number.map(ClassId).map_err(|_| Error::Limit {
            what: "the number of classes",
            limit,
        })
    }

    pub(crate) fn insert(&mut self, class: ClassId, tenant: &str, name: &str) {
        let number = usize::from(class.0);
        if self.names.len() <= number {
            self.names.resize(number + 1, None);
        }
        self.names[number] = Some((tenant.to_owned(), name.to_owned()));
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (ClassId, &str, &str)> {
        let numbered = self.names.iter().enumerate();
        numbered.filter_map(|(number, class)| {
            let (tenant, name) = class.as_ref()?;
            Some((ClassId(number as u16), tenant.as_str(), name.as_str()))
        })
    }

    pub(crate) fn encode(&self, payload: &mut Vec<u8>) {
        payload.put_varint(self.all().count() as u64);
        for (class, tenant, name) in self.all() {
            payload.put_varint(u64::from(class.0));
            payload.put_prefixed(tenant.as_bytes());
            payload.put_prefixed(name.as_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut classes = Classes::default();
        for _ in 0..reader.length()? {
            let (class, tenant, name) = crate::record::decode_class(reader)?;
            classes.insert(class, &tenant, &name);
        }
        Some(classes)
    }
}

impl Engine {
    /// Gives a class another name, or another tenant: one small record, durable when this returns. Its
    /// objects are not touched. Nothing happens if that is its name already.
    ///
    /// # Errors
    /// [`Error::Taken`] if another class has the name. Two classes of [`DELETED_TENANT`] may have the same.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn rename_class(&self, class: ClassId, tenant: &str, name: &str) -> Result<()> {
        let body = encode_class(class, tenant, name);
        let reservation = self.inner.reserve(body.len(), Claim::Replacement)?;
        let mut classes = self.inner.index.classes.lock();
        assert!(classes.name(class).is_some(), "{class:?} is of this store");
        if classes.name(class) == Some((tenant, name)) {
            return Ok(());
        }
        if tenant != DELETED_TENANT && classes.find(tenant, name).is_some() {
            return Err(Error::Taken {
                name: name.to_owned(),
            });
        }
        let record = Record {
            kind: Kind::Class as u8,
            flags: 0,
            body,
            note: None,
        };
        self.inner.log.append(record, reservation)?.wait()?;
        classes.insert(class, tenant, name);
        Ok(())
    }

    /// Erases what is left of an object of a deleted class, unless somebody has the object awake, who has done
    /// so, or the id has another owner by now. Whoever wakes the object meanwhile waits.
    pub fn clear_leftover(&self, class: ClassId, id: ObjectId) -> Result<()> {
        let erase = |leftover: Result<Object>| {
            let mut leftover = leftover?;
            leftover.clear(false);
            leftover.commit()
        };
        match self.inner.for_a_moment(class, id, erase) {
            None | Some(Err(Error::WrongClass { .. })) => Ok(()),
            Some(erased) => erased.map(drop),
        }
    }

    /// Deletes a class, whatever the number of its objects: they are as good as erased from now on. Their
    /// space comes back as they are erased one by one, by [`Engine::wake`] for another class, or with
    /// [`Engine::clear_leftover`]. The number is never used again, the name may be.
    ///
    /// # Errors
    /// What [`Engine::rename_class`] says, but for the name.
    pub fn delete_class(&self, class: ClassId) -> Result<()> {
        let name = self.class_name(class).map(|(_, name)| name);
        self.rename_class(class, DELETED_TENANT, &name.unwrap_or_default())
    }
}
