//! Object ids with the names that they were made from. How an id is made is the engine's
//! [`Minter`](dovehouse_engine::Minter).

use std::fmt;

use dovehouse_engine::ObjectId as RawId;

/// The identity of an object. Two ids are equal if their bytes are, whatever their names.
#[derive(Clone)]
pub struct ObjectId {
    raw: RawId,
    name: Option<String>,
}

impl ObjectId {
    pub(crate) fn new(raw: RawId, name: Option<String>) -> Self {
        // A longer name is not kept with the object, so it is not promised here either.
        let name = name.filter(|name| name.len() <= dovehouse_engine::NAME_BYTES_MAX);
        ObjectId { raw, name }
    }

    /// The id that a name stands for in the namespace with this unique key, which is the class's name unless
    /// [`namespace_with_key`](crate::Dovehouse::namespace_with_key) says otherwise. For tools that prepare a store.
    ///
    /// ```
    /// let id = dovehouse::ObjectId::from_name("w-MyDO", "foo");
    /// assert_eq!(id.to_string(), "c1d23b49d71284c075b36cbec96cf0ccbba204ac15da6658b186b8478db842dd");
    /// ```
    pub fn from_name(unique_key: &str, name: &str) -> Self {
        Minter::new(unique_key).named(name)
    }

    /// The name that it was made from; `None` for unique and parsed ids, and for names of more than
    /// 1,024 bytes.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
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
}

/// Makes and checks the ids of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Minter(dovehouse_engine::Minter);

impl Minter {
    pub(crate) fn new(unique_key: &str) -> Self {
        Minter(dovehouse_engine::Minter::new(unique_key))
    }

    pub(crate) fn named(&self, name: &str) -> ObjectId {
        ObjectId::new(self.0.named(name), Some(name.to_owned()))
    }

    pub(crate) fn complete_base(&self, base: [u8; 16]) -> ObjectId {
        ObjectId::new(self.0.complete(base), None)
    }

    pub(crate) fn parse(&self, text: &str) -> Result<ObjectId, IdError> {
        let raw: RawId = text.parse().map_err(|_| IdError::NotHex)?;
        if !self.0.made(raw) {
            return Err(IdError::OtherNamespace);
        }
        Ok(ObjectId::new(raw, None))
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
            assert_eq!(Minter::new(key).named(name).to_string(), id, "{key} {name}");
        }
        let base = std::array::from_fn(|at| at as u8);
        assert_eq!(
            Minter::new("mykey").complete_base(base).to_string(),
            "000102030405060708090a0b0c0d0e0f937a3254669a045965a7aa31be593ec8"
        );
    }

    #[test]
    fn an_id_is_read_back_by_its_own_namespace_only() {
        let minter = Minter::new("mykey");
        let id = minter.named("name");
        let parsed = minter.parse(&id.to_string()).unwrap();
        assert_eq!(
            (&parsed, parsed.name()),
            (&id, None),
            "a parsed id has no name"
        );
        assert_eq!(minter.parse(&id.to_string().to_uppercase()).unwrap(), id);
        assert_eq!(
            Minter::new("other").parse(&id.to_string()),
            Err(IdError::OtherNamespace)
        );
        assert_eq!(minter.parse("abc"), Err(IdError::NotHex));
        assert_eq!(minter.parse(&"x".repeat(64)), Err(IdError::NotHex));
        let mut forged = id.to_string();
        forged.replace_range(63.., if forged.ends_with('0') { "1" } else { "0" });
        assert_eq!(minter.parse(&forged), Err(IdError::OtherNamespace));
    }

    #[test]
    fn a_name_beyond_the_limit_still_names_the_object_but_is_not_kept() {
        let minter = Minter::new("mykey");
        assert_eq!(
            minter.named(&"a".repeat(1024)).name().map(str::len),
            Some(1024)
        );
        assert_eq!(minter.named(&"a".repeat(1025)).name(), None);
    }
}
