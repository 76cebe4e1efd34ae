//! Locations: the stores of a house, and which of them an object lives in.
//!
//! The *home store* is the one that the house is opened with. It keeps the [register](crate::register), which
//! says where each object lives that does not live at home. An object of which the register says nothing lives
//! at home, so most objects cost it nothing.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_engine::{Engine, ObjectId as RawId};

use crate::class::Address;
use crate::error::{Error, Result};
use crate::house::{Builder, Inner};
use crate::register;

/// The home store's number.
pub(crate) const HOME: usize = 0;

/// What a house is told of its locations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) locations: Vec<(String, PathBuf)>,
    jurisdictions: Vec<(String, Vec<String>)>,
    hints: Vec<(String, String)>,
}

impl Builder {
    /// A store in a directory of its own, for objects that are bound to a jurisdiction, created near a hint, or
    /// [moved](crate::Namespace::move_to) there. Opened together with the house, with the same settings.
    ///
    /// Give all that the house ever had: an object at a location that is missing cannot be woken.
    ///
    /// ```
    /// # use dovehouse::Dovehouse;
    /// # let dir = tempfile::tempdir()?;
    /// let house = Dovehouse::builder(dir.path().join("home"))
    ///     .location("frankfurt", dir.path().join("frankfurt"))
    ///     .jurisdiction("eu", &["frankfurt"])
    ///     .location_hint("weur", "frankfurt")
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn location(mut self, name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        self.locations.locations.push((name.into(), dir.into()));
        self
    }

    /// Allows ids that are bound to a jurisdiction; see [`Namespace::jurisdiction`](crate::Namespace::jurisdiction).
    /// Their objects are created at the first of these locations, and may be moved among them only. With no
    /// location they live in the home store.
    pub fn jurisdiction(mut self, name: impl Into<String>, locations: &[&str]) -> Self {
        let locations = locations.iter().map(|&name| name.to_owned()).collect();
        self.locations.jurisdictions.push((name.into(), locations));
        self
    }

    /// Has objects that are [created near](crate::Namespace::get_near) this hint created at a location. Several
    /// hints may mean one. Hints that mean none are accepted, and ignored.
    pub fn location_hint(mut self, hint: impl Into<String>, location: impl Into<String>) -> Self {
        self.locations.hints.push((hint.into(), location.into()));
        self
    }
}

/// All stores of a house, and what is said of them.
pub(crate) struct Stores {
    /// The home store first, whose name is empty.
    all: Vec<(String, Arc<Engine>)>,
    /// Each with the numbers of its stores.
    jurisdictions: Vec<(Arc<str>, Vec<usize>)>,
    hints: Vec<(String, usize)>,
}

impl Stores {
    /// `open` opens the store in a directory.
    pub(crate) fn open(
        home: Arc<Engine>,
        settings: Settings,
        open: impl Fn(&PathBuf) -> Result<Engine>,
    ) -> Result<Self> {
        let mut stores = Stores {
            all: vec![(String::new(), home)],
            jurisdictions: Vec::new(),
            hints: Vec::new(),
        };
        for (name, dir) in &settings.locations {
            if stores.number(name).is_ok() {
                let why = "two stores have this name; the home store's is empty";
                return Err(Error::location(name, why));
            }
            stores.all.push((name.clone(), Arc::new(open(dir)?)));
        }
        for (jurisdiction, names) in settings.jurisdictions {
            let mut numbers = Vec::new();
            for name in names {
                numbers.push(stores.number(&name)?);
            }
            if numbers.is_empty() {
                numbers.push(HOME);
            }
            stores.jurisdictions.push((jurisdiction.into(), numbers));
        }
        for (hint, name) in settings.hints {
            let store = stores.number(&name)?;
            stores.hints.push((hint, store));
        }
        Ok(stores)
    }

    pub(crate) fn number(&self, location: &str) -> Result<usize> {
        let found = self.all.iter().position(|(name, _)| name == location);
        found.ok_or_else(|| Error::location(location, "the house was opened without it"))
    }

    pub(crate) fn all(&self) -> &[(String, Arc<Engine>)] {
        &self.all
    }

    pub(crate) fn jurisdictions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.jurisdictions.iter().map(|(name, _)| name)
    }

    /// The stores where objects of a jurisdiction may live; `None` if it is not known.
    fn allowed(&self, jurisdiction: &str) -> Option<&[usize]> {
        let mut known = self.jurisdictions.iter();
        let found = known.find(|(name, _)| **name == *jurisdiction);
        found.map(|(_, stores)| stores.as_slice())
    }

    pub(crate) fn hint(&self, hint: &str) -> Option<usize> {
        let mut known = self.hints.iter();
        known
            .find(|(name, _)| name == hint)
            .map(|(_, store)| *store)
    }

    /// Whether an object may live in a store.
    pub(crate) fn allows(&self, jurisdiction: Option<&str>, store: usize) -> bool {
        jurisdiction.is_none_or(|name| self.allowed(name).is_some_and(|all| all.contains(&store)))
    }

    /// Where an object is to be created.
    fn wanted(&self, address: &Address) -> usize {
        let jurisdiction = address.id.jurisdiction();
        let hint = address.hint.filter(|hint| self.allows(jurisdiction, *hint));
        let bound = || self.allowed(jurisdiction?)?.first().copied();
        hint.or_else(bound).unwrap_or(HOME)
    }
}

impl Inner {
    /// All stores of the house with their numbers, the home store first.
    pub(crate) fn engines(&self) -> impl Iterator<Item = (usize, &Arc<Engine>)> {
        let all = self.stores.all().iter();
        all.map(|(_, engine)| engine).enumerate()
    }

    /// The store of this number.
    pub(crate) fn engine_at(&self, store: usize) -> &Arc<Engine> {
        &self.stores.all()[store].1
    }

    /// The name of the store of this number; empty for the home store.
    pub(crate) fn location_name(&self, store: usize) -> &str {
        &self.stores.all()[store].0
    }

    /// Where an object lives, if the register says so.
    pub(crate) fn located(&self, id: &RawId) -> Result<Option<usize>> {
        let found = self
            .register
            .get(&register::key("object/", id.as_bytes()))?;
        let Some(name) = found else { return Ok(None) };
        let name = String::from_utf8_lossy(&name);
        self.stores.number(&name).map(Some)
    }

    /// Whether a store's copy of an object is the object, and not what a move left behind.
    pub(crate) fn lives_in(&self, id: &RawId, store: usize) -> bool {
        matches!(self.located(id), Ok(found) if found.unwrap_or(HOME) == store)
    }

    /// The store that an object lives in. One that is not there yet gets its place, durably, so that what it
    /// will write is found again.
    pub(crate) fn place(&self, address: &Address) -> Result<usize> {
        let id = address.id.raw();
        if let Some(store) = self.located(&id)? {
            return Ok(store);
        }
        let wanted = self.stores.wanted(address);
        let is_at_home = || -> Result<bool> {
            let found = self.engine.find(&id)?;
            Ok(found.is_some_and(|found| !found.entry.erased))
        };
        if wanted == HOME || is_at_home()? {
            return Ok(HOME);
        }
        let name = self.location_name(wanted).as_bytes();
        self.register.change(&self.engine, |object| {
            Ok(object.put(&register::key("object/", id.as_bytes()), name)?)
        })?;
        Ok(wanted)
    }
}
