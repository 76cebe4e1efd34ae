//! Object ids with the names that they were made from. How an id is made is the engine's
//! [`Minter`](dovehouse_engine::Minter).

use std::fmt;
use std::sync::Arc;

use dovehouse_engine::{Minter, ObjectId as RawId};

/// The identity of an object. Two ids are equal if their bytes are, whatever their names.
#[derive(Clone)]
pub struct ObjectId {
    raw: RawId,
    name: Option<String>,
    jurisdiction: Option<Arc<str>>,
}

impl ObjectId {
    pub(crate) fn new(raw: RawId, name: Option<String>, jurisdiction: Option<Arc<str>>) -> Self {
        // A longer name is not kept with the object, so it is not promised here either.
        let name = name.filter(|name| name.len() <= dovehouse_engine::NAME_BYTES_MAX);
        ObjectId {
            raw,
            name,
            jurisdiction,
        }
    }

    /// The id with the name that was stored with its object.
    pub(crate) fn with_name(&self, name: Option<String>) -> Self {
        ObjectId::new(self.raw, name, self.jurisdiction.clone())
    }

    /// The id that a name stands for in the namespace with this unique key, which is the class's name unless
    /// [`namespace_with_key`](crate::Dovehouse::namespace_with_key) says otherwise. For tools that prepare a store.
    ///
    /// ```
    /// let id = dovehouse::ObjectId::from_name("w-MyDO", "foo");
    /// assert_eq!(id.to_string(), "c1d23b49d71284c075b36cbec96cf0ccbba204ac15da6658b186b8478db842dd");
    /// ```
    pub fn from_name(unique_key: &str, name: &str) -> Self {
        let raw = Minter::new(unique_key).named(name);
        ObjectId::new(raw, Some(name.to_owned()), None)
    }

    /// The name that it was made from; `None` for unique and parsed ids, and for names of more than
    /// 1,024 bytes.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The jurisdiction that it is bound to; see
    /// [`Namespace::jurisdiction`](crate::Namespace::jurisdiction).
    pub fn jurisdiction(&self) -> Option<&str> {
        self.jurisdiction.as_deref()
    }

    /// The id as the store has it.
    pub fn raw(&self) -> RawId {
        self.raw
    }
}

impl PartialEq for ObjectId {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for ObjectId {}

impl std::hash::Hash for ObjectId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl fmt::Display for ObjectId {
    /// 64 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name:?})", self.raw),
            None => write!(f, "{}", self.raw),
        }
    }
}

/// A text that is not an id of this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// It has another length, or other characters.
    #[error("an object id must be 64 hex digits")]
    NotHex,
    /// It was made for another namespace, or made up.
    #[error("the object id is not valid for this namespace")]
    OtherNamespace,
    /// It is bound to another jurisdiction than the namespace, or to none.
    #[error("the object id is not of this namespace's jurisdiction")]
    OtherJurisdiction,
}

/// Makes and checks the ids of a class: those that are bound to no jurisdiction, and those of each.
#[derive(Clone, Debug)]
pub(crate) struct Minters {
    own: Minter,
    bound: Vec<(Arc<str>, Minter)>,
}

impl Minters {
    pub(crate) fn new<'a>(
        unique_key: &str,
        jurisdictions: impl Iterator<Item = &'a Arc<str>>,
    ) -> Self {
        let own = Minter::new(unique_key);
        let bound = jurisdictions.map(|name| (name.clone(), own.within(name)));
        Minters {
            bound: bound.collect(),
            own,
        }
    }

    /// Who makes the ids of a jurisdiction, or of none.
    ///
    /// # Panics
    /// If the jurisdiction is not one of the house.
    fn of(&self, jurisdiction: Option<&Arc<str>>) -> &Minter {
        let Some(jurisdiction) = jurisdiction else {
            return &self.own;
        };
        let mut bound = self.bound.iter();
        let found = bound.find(|(name, _)| name == jurisdiction);
        &found.expect("the house knows its jurisdictions").1
    }

    pub(crate) fn named(&self, name: &str, jurisdiction: Option<&Arc<str>>) -> ObjectId {
        let raw = self.of(jurisdiction).named(name);
        ObjectId::new(raw, Some(name.to_owned()), jurisdiction.cloned())
    }

    pub(crate) fn complete(&self, base: [u8; 16], jurisdiction: Option<&Arc<str>>) -> ObjectId {
        let raw = self.of(jurisdiction).complete(base);
        ObjectId::new(raw, None, jurisdiction.cloned())
    }

    /// The jurisdiction that an id is bound to. An error if the class has not made it.
    pub(crate) fn made(&self, id: RawId) -> Result<Option<Arc<str>>, IdError> {
        if self.own.made(id) {
            return Ok(None);
        }
        let found = self.bound.iter().find(|(_, minter)| minter.made(id));
        let (name, _) = found.ok_or(IdError::OtherNamespace)?;
        Ok(Some(name.clone()))
    }

    /// Whether a namespace of this jurisdiction, or of none, takes the id.
    pub(crate) fn check(&self, id: RawId, jurisdiction: Option<&Arc<str>>) -> Result<(), IdError> {
        let made = self.made(id)?;
        match jurisdiction.is_some() && made.as_ref() != jurisdiction {
            true => Err(IdError::OtherJurisdiction),
            false => Ok(()),
        }
    }

    pub(crate) fn parse(
        &self,
        text: &str,
        jurisdiction: Option<&Arc<str>>,
    ) -> Result<ObjectId, IdError> {
        let raw: RawId = text.parse().map_err(|_| IdError::NotHex)?;
        self.check(raw, jurisdiction)?;
        Ok(ObjectId::new(raw, None, self.made(raw)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_workerd() {
        let long = "a".repeat(1025);
        let vectors = [
            (
                "mykey",
                "http://foo/",
                "59002eb8cf872e541722977a258a12d6a93bbe8192b502e1c0cb250aa91af234",
            ),
            (
                "mykey",
                "http://foo/bar",
                "02b496f65dd35cbac90e3e72dc5a398ee93926ea4a3821e26677082d2e6f9b79",
            ),
            (
                "mykey",
                "name",
                "3652ef6221834806dc8df802d1d216e27b7d07e0a6b7adf6cfdaeec90f06459a",
            ),
            (
                "mykey",
                "",
                "5671fa8c78c77d33f1e2e2613dd33ef021665e44066444f8e9f9af35e972d39d",
            ),
            (
                "mykey",
                &long,
                "bdc61198d2fbb013e88835bda67829b379cb3f3528801c2748576045b380a60c",
            ),
            (
                "mykey",
                "é😀",
                "d0563ec1b6cfbc3513624d46098aaab7eb56478ce2c19b581511ef208435fd1d",
            ),
            (
                "210bd0cbd803ef7883a1ee9d86cce06e",
                "actor-kv-test",
                "aa299662980ce671dbcb09a5d7ab26ab30e45465bcd12f263f2bdd7d5edd804a",
            ),
            (
                "w-MyDO",
                "foo",
                "c1d23b49d71284c075b36cbec96cf0ccbba204ac15da6658b186b8478db842dd",
            ),
        ];
        for (key, name, id) in vectors {
            assert_eq!(
                ObjectId::from_name(key, name).to_string(),
                id,
                "{key} {name}"
            );
        }
        let base = std::array::from_fn(|at| at as u8);
        assert_eq!(
            minters("mykey").complete(base, None).to_string(),
            "000102030405060708090a0b0c0d0e0f937a3254669a045965a7aa31be593ec8"
        );
    }

    fn minters(unique_key: &str) -> Minters {
        Minters::new(unique_key, [Arc::from("eu"), Arc::from("us")].iter())
    }

    #[test]
    fn an_id_is_read_back_by_its_own_namespace_only() {
        let minters_of = minters;
        let minters = minters("mykey");
        let id = minters.named("name", None);
        let text = id.to_string();
        let parsed = minters.parse(&text, None).unwrap();
        assert_eq!(
            (&parsed, parsed.name()),
            (&id, None),
            "a parsed id has no name"
        );
        assert_eq!(minters.parse(&text.to_uppercase(), None).unwrap(), id);
        assert_eq!(
            minters_of("other").parse(&text, None),
            Err(IdError::OtherNamespace)
        );
        assert_eq!(minters.parse("abc", None), Err(IdError::NotHex));
        assert_eq!(minters.parse(&"x".repeat(64), None), Err(IdError::NotHex));
        let mut forged = text.clone();
        forged.replace_range(63.., if text.ends_with('0') { "1" } else { "0" });
        assert_eq!(minters.parse(&forged, None), Err(IdError::OtherNamespace));
    }

    #[test]
    fn a_name_means_another_id_in_each_jurisdiction_and_the_id_tells_which() {
        let minters = minters("mykey");
        let [eu, us] = ["eu", "us"].map(Arc::<str>::from);
        let none = minters.named("name", None);
        let in_eu = minters.named("name", Some(&eu));
        let in_us = minters.complete([7; 16], Some(&us));
        assert_ne!(none, in_eu);
        assert_ne!(in_eu, minters.named("name", Some(&us)));
        for (id, jurisdiction) in [(&none, None), (&in_eu, Some("eu")), (&in_us, Some("us"))] {
            let parsed = minters.parse(&id.to_string(), None).unwrap();
            assert_eq!(parsed.jurisdiction(), jurisdiction);
        }
        assert!(minters.parse(&in_eu.to_string(), Some(&eu)).is_ok());
        for foreign in [&none, &in_us] {
            assert_eq!(
                minters.parse(&foreign.to_string(), Some(&eu)),
                Err(IdError::OtherJurisdiction)
            );
        }
        // A house that does not know the jurisdiction takes its ids for forged.
        assert_eq!(
            Minters::new("mykey", [].iter()).parse(&in_eu.to_string(), None),
            Err(IdError::OtherNamespace)
        );
    }

    #[test]
    fn a_name_beyond_the_limit_still_names_the_object_but_is_not_kept() {
        let name = |bytes: usize| minters("mykey").named(&"a".repeat(bytes), None);
        assert_eq!(name(1024).name().map(str::len), Some(1024));
        assert_eq!(name(1025).name(), None);
    }
}
