//! Classes: the kinds of objects, each with a number that is never reused.

use dovehouse_wal::bytes::{Put, Reader};

use crate::error::{Error, Result};
use crate::id::ClassId;

/// The name of the tenant that a store has by default.
pub const DEFAULT_TENANT: &str = "";

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
