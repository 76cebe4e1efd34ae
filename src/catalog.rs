//! The catalog: every class of every tenant, and what it is stored as.
//!
//! The register has the last word: a class is what its entry there says. The stores know classes by numbers
//! of their own, with a name for tools; after a change, and again at each open, those names are brought in
//! line with the entries, so that a crash in between is made good.
//!
//! ```text
//! class/UID      = 1 · tenant · name · unique key · storage u8 · state u8 · from · count · (location · number varint)*
//! deploy/TENANT  = "m" and the tag of the last migration, or "e" for exports
//! ```

use std::fmt;

use dovehouse_engine::wal::bytes::{Put, Reader};
use dovehouse_engine::{ClassId, DELETED_TENANT};
use serde::Deserialize;

use crate::error::Result;
use crate::register::{self, Register, malformed};

/// What the objects of a class may keep. Chosen when the class is made, and never changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum StorageKind {
    /// Keys and values, an SQL database, alarms.
    #[default]
    #[serde(rename = "sqlite")]
    Sqlite,
    /// Keys and values, and alarms: no SQL.
    #[serde(rename = "legacy-kv", alias = "kv")]
    Kv,
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StorageKind::Sqlite => "sqlite",
            StorageKind::Kv => "kv",
        })
    }
}

/// How a class stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// Its objects are being erased.
    Deleted,
    /// It will come from this tenant.
    Expected {
        from: String,
    },
}

/// A class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number in the house; see [`Catalog::next_uid`].
    pub(crate) uid: u32,
    pub(crate) tenant: String,
    pub(crate) name: String,
    /// What its ids are made with, whatever its name becomes.
    pub(crate) unique_key: String,
    pub(crate) storage: StorageKind,
    pub(crate) state: State,
    /// Its numbers in the stores that have objects of it, by location; the home store's is empty.
    pub(crate) numbers: Vec<(String, ClassId)>,
}

/// All classes, and what each tenant deployed last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) entries: Vec<Entry>,
    pub(crate) deployed: Vec<(String, Deployed)>,
}

/// What declares the classes of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deployed {
    Migrations { tag: String },
    Exports,
}

impl Entry {
    /// What the stores call it.
    fn stored_name(&self) -> (&str, &str) {
        match self.state {
            State::Deleted => (DELETED_TENANT, &self.name),
            _ => (&self.tenant, &self.name),
        }
    }

    pub(crate) fn number(&self, location: &str) -> Option<ClassId> {
        let mut numbers = self.numbers.iter();
        let found = numbers.find(|(found, _)| found == location);
        found.map(|(_, number)| *number)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        for text in [&self.tenant, &self.name, &self.unique_key] {
            out.put_prefixed(text.as_bytes());
        }
        out.push(u8::from(self.storage == StorageKind::Kv));
        let (state, from) = match &self.state {
            State::Live => (0, ""),
            State::Deleted => (1, ""),
            State::Expected { from } => (2, from.as_str()),
        };
        out.push(state);
        out.put_prefixed(from.as_bytes());
        out.put_varint(self.numbers.len() as u64);
        for (location, number) in &self.numbers {
            out.put_prefixed(location.as_bytes());
            out.put_varint(u64::from(number.get()));
        }
        out
    }

    fn decode(uid: u32, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == 1).then_some(())?;
        let text = |reader: &mut Reader<'_>| String::from_utf8(reader.prefixed()?.to_vec()).ok();
        let (tenant, name) = (text(&mut reader)?, text(&mut reader)?);
        let unique_key = text(&mut reader)?;
        let storage = match reader.u8()? {
            0 => StorageKind::Sqlite,
            1 => StorageKind::Kv,
            _ => return None,
        };
        let state = reader.u8()?;
        let from = text(&mut reader)?;
        let state = match state {
            0 => State::Live,
            1 => State::Deleted,
            2 => State::Expected { from },
            _ => return None,
        };
        let mut numbers = Vec::new();
        for _ in 0..reader.length()? {
            let location = text(&mut reader)?;
            numbers.push((
                location,
                ClassId::new(u16::try_from(reader.varint()?).ok()?),
            ));
        }
        Some(Entry {
            uid,
            tenant,
            name,
            unique_key,
            storage,
            state,
            numbers,
        })
    }
}

/// Reads the catalog, and writes down what it has taken up: the unique keys must stay.
pub(crate) fn open(register: &Register, home: &dovehouse_engine::Engine) -> Result<Catalog> {
    let known = Catalog::read(register)?;
    let mut catalog = known.clone();
    catalog.adopt(home);
    if catalog != known {
        register.change(home, |object| catalog.write(&known, object))?;
    }
    Ok(catalog)
}

impl Catalog {
    fn read(register: &Register) -> Result<Self> {
        let mut catalog = Catalog::default();
        for (uid, entry) in register.list("class/")? {
            let uid = uid.try_into().map(u32::from_be_bytes);
            let entry = uid.ok().and_then(|uid| Entry::decode(uid, &entry));
            catalog
                .entries
                .push(entry.ok_or_else(|| malformed("class"))?);
        }
        for (tenant, value) in register.list("deploy/")? {
            let texts = String::from_utf8(tenant)
                .ok()
                .zip(String::from_utf8(value).ok());
            let (tenant, value) = texts.ok_or_else(|| malformed("deployment"))?;
            let deployed = match value.strip_prefix('m') {
                Some(tag) => Deployed::Migrations {
                    tag: tag.to_owned(),
                },
                None => Deployed::Exports,
            };
            catalog.deployed.push((tenant, deployed));
        }
        Ok(catalog)
    }

    /// Writes the difference between another catalog and this one, in one commit.
    pub(crate) fn write(
        &self,
        before: &Catalog,
        object: &mut dovehouse_engine::Object,
    ) -> Result<()> {
        let class_key = |uid: u32| register::key("class/", &uid.to_be_bytes());
        for entry in &self.entries {
            if !before.entries.contains(entry) {
                object.put(&class_key(entry.uid), &entry.encode())?;
            }
        }
        for gone in &before.entries {
            if self.entries.iter().all(|entry| entry.uid != gone.uid) {
                object.delete(&class_key(gone.uid))?;
            }
        }
        for (tenant, deployed) in &self.deployed {
            let value = match deployed {
                Deployed::Migrations { tag } => format!("m{tag}"),
                Deployed::Exports => "e".to_owned(),
            };
            object.put(
                &register::key("deploy/", tenant.as_bytes()),
                value.as_bytes(),
            )?;
        }
        Ok(())
    }

    /// The class of this name that is there or expected.
    pub(crate) fn find(&self, tenant: &str, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.tenant == tenant && entry.name == name && entry.state != State::Deleted
        })
    }

    pub(crate) fn deployed(&self, tenant: &str) -> Option<&Deployed> {
        let mut deployed = self.deployed.iter();
        deployed
            .find(|(found, _)| found == tenant)
            .map(|(_, deployed)| deployed)
    }

    pub(crate) fn set_deployed(&mut self, tenant: &str, deployed: Deployed) {
        self.deployed.retain(|(found, _)| found != tenant);
        self.deployed.push((tenant.to_owned(), deployed));
    }

    /// Adds a class and returns its place. Without a unique key of its own it gets one that no other class
    /// has: its name, with its tenant's before it.
    pub(crate) fn add(
        &mut self,
        tenant: &str,
        name: &str,
        unique_key: Option<&str>,
        storage: StorageKind,
    ) -> usize {
        let uid = self.next_uid();
        let unique_key = unique_key.map_or_else(
            || {
                let plain = match tenant {
                    "" => name.to_owned(),
                    tenant => format!("{tenant}-{name}"),
                };
                // A class that was renamed still has the key of its first name.
                match self.has_key(&plain) {
                    true => format!("{plain}#{uid}"),
                    false => plain,
                }
            },
            str::to_owned,
        );
        self.entries.push(Entry {
            uid,
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            unique_key,
            storage,
            state: State::Live,
            numbers: Vec::new(),
        });
        self.entries.len() - 1
    }

    /// Whether a class that is not deleted makes its ids with this key.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        let mut live = self
            .entries
            .iter()
            .filter(|entry| entry.state != State::Deleted);
        live.any(|entry| entry.unique_key == key)
    }

    /// A number that no class has.
    fn next_uid(&self) -> u32 {
        self.entries
            .iter()
            .map(|entry| entry.uid)
            .max()
            .unwrap_or(0)
            + 1
    }

    /// Takes up classes of the home store that others have made there: tools, or a program that uses the
    /// engine alone.
    fn adopt(&mut self, home: &dovehouse_engine::Engine) {
        for (number, tenant, name) in home.classes() {
            let known = |entry: &Entry| entry.number("") == Some(number);
            let ours = tenant == register::TENANT || tenant == DELETED_TENANT;
            if !ours && !self.entries.iter().any(known) {
                let at = self.add(&tenant, &name, None, StorageKind::Sqlite);
                self.entries[at].numbers.push((String::new(), number));
            }
        }
    }

    /// Brings the names in a store in line with the entries.
    pub(crate) fn name_classes(
        &self,
        location: &str,
        engine: &dovehouse_engine::Engine,
    ) -> Result<()> {
        let differs = |entry: &&Entry, number: ClassId| {
            let (tenant, name) = entry.stored_name();
            engine.class_name(number) != Some((tenant.to_owned(), name.to_owned()))
        };
        let of_store = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, entry.number(location)?)));
        let wrong: Vec<_> = of_store
            .filter(|(entry, number)| differs(entry, *number))
            .collect();
        // One may have the name that another is to get.
        for (entry, number) in wrong.iter().filter(|_| wrong.len() > 1) {
            engine.rename_class(*number, register::TENANT, &format!("class {}", entry.uid))?;
        }
        for (entry, number) in wrong {
            let (tenant, name) = entry.stored_name();
            engine.rename_class(number, tenant, name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_and_a_cut_one_does_not() {
        let entry = Entry {
            uid: 7,
            tenant: "tenant".into(),
            name: "Room".into(),
            unique_key: "w-Room".into(),
            storage: StorageKind::Kv,
            state: State::Expected {
                from: "other".into(),
            },
            numbers: vec![
                (String::new(), ClassId::new(3)),
                ("eu".into(), ClassId::new(300)),
            ],
        };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(7, &bytes), Some(entry));
        for len in 0..bytes.len() {
            assert_eq!(Entry::decode(7, &bytes[..len]), None, "cut to {len}");
        }
    }

    #[test]
    fn a_new_class_never_gets_the_key_of_one_that_was_renamed() {
        let mut catalog = Catalog::default();
        let room = catalog.add("", "Room", None, StorageKind::Sqlite);
        catalog.entries[room].name = "Hall".into();
        let again = catalog.add("", "Room", None, StorageKind::Sqlite);
        let of_tenant = catalog.add("billing", "Room", None, StorageKind::Sqlite);
        let keys = [room, again, of_tenant].map(|at| catalog.entries[at].unique_key.as_str());
        assert_eq!(keys, ["Room", "Room#2", "billing-Room"]);
    }
}
