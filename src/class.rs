//! Classes in use: what a namespace was asked for, and the addresses of objects.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use dovehouse_engine::{ClassId, ObjectId as RawId};

use crate::catalog::{Catalog, Deployed, State, StorageKind};
use crate::error::{Error, Result};
use crate::fire::Fire;
use crate::house::Inner;
use crate::id::{Minters, ObjectId};
use crate::locations::HOME;
use crate::meters::Meters;
use crate::object::Object;
use crate::retention::Declared;
use crate::scheduler::Place;
use crate::shard::Event;
use crate::web_socket::{self, Dispatch};

/// A class that was asked for.
pub(crate) struct Class {
    pub(crate) uid: u32,
    pub(crate) tenant: Arc<str>,
    pub(crate) name: &'static str,
    pub(crate) storage: StorageKind,
    pub(crate) has_alarm: bool,
    history: Declared,
    pub(crate) minters: Minters,
    pub(crate) meters: Meters,
    type_id: TypeId,
    /// Its numbers in the stores, as far as they have it.
    numbers: Vec<OnceLock<ClassId>>,
    /// Makes the event of a due alarm.
    pub(crate) fire: fn(Address, Place) -> Box<dyn Event>,
    /// Runs the handlers for what happens on a WebSocket.
    pub(crate) dispatch: Dispatch,
}

impl Class {
    /// An id of the class as the store has it, with all that is known of it.
    pub(crate) fn identify(&self, id: RawId, name: Option<String>) -> ObjectId {
        let jurisdiction = self.minters.made(id).ok().flatten();
        ObjectId::new(id, name, jurisdiction)
    }
}

/// Where an object is: its class and its id.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) class: Arc<Class>,
    pub(crate) id: ObjectId,
    /// The store where it is to be created, if it is not there yet.
    pub(crate) hint: Option<usize>,
    /// The id is not one of the class's, or not one of the jurisdiction's.
    pub(crate) is_foreign: bool,
}

impl Address {
    /// The address of an object that is there.
    pub(crate) fn of(class: &Arc<Class>, id: ObjectId) -> Self {
        Address {
            class: class.clone(),
            id,
            hint: None,
            is_foreign: false,
        }
    }
}

impl Inner {
    /// The class of a type for a tenant, made if it is not there and nothing else declares the tenant's
    /// classes.
    pub(crate) fn use_class<T: Object>(
        &self,
        tenant: &Arc<str>,
        unique_key: Option<&str>,
    ) -> Result<Arc<Class>> {
        let mut catalog = self.catalog.lock();
        let at = match catalog.find(tenant, T::CLASS) {
            Some(at) => at,
            None => self.make_class::<T>(&mut catalog, tenant, unique_key)?,
        };
        let entry = &catalog.entries[at];
        let refuse = |why: String| {
            let class = T::CLASS;
            Err(Error::Class { class, why })
        };
        if let State::Expected { from } = &entry.state {
            return refuse(format!("it is still to come from tenant {from:?}"));
        }
        if entry.storage != T::STORAGE {
            let stored = entry.storage;
            return refuse(format!(
                "it is stored as {stored} and cannot become {}",
                T::STORAGE
            ));
        }
        if unique_key.is_some_and(|key| key != entry.unique_key) {
            return refuse("its ids are made with another unique key".into());
        }
        let mut classes = self.classes.lock();
        if let Some(class) = classes.iter().find(|class| class.uid == entry.uid) {
            return match class.type_id == TypeId::of::<T>() {
                true => Ok(class.clone()),
                false => refuse("another type of the program has its name".into()),
            };
        }
        let numbers = self.stores.all().iter();
        let numbers = numbers.map(|(location, _)| match entry.number(location) {
            Some(number) => OnceLock::from(number),
            None => OnceLock::new(),
        });
        let class = Arc::new(Class {
            uid: entry.uid,
            tenant: tenant.clone(),
            name: T::CLASS,
            storage: T::STORAGE,
            has_alarm: T::HAS_ALARM,
            history: Declared::of::<T>(self),
            minters: Minters::new(&entry.unique_key, self.stores.jurisdictions()),
            meters: Meters::new(T::CLASS),
            type_id: TypeId::of::<T>(),
            numbers: numbers.collect(),
            fire: Fire::<T>::event,
            dispatch: web_socket::dispatch::<T>,
        });
        classes.push(class.clone());
        drop((classes, catalog));
        self.class_number(&class, HOME)?;
        for (store, _) in self.engines() {
            if let Some(number) = self.class_in(&class, store) {
                self.declare_history(class.history, store, number)?;
            }
        }
        // Its alarms can be handled from now on.
        self.alarms.look_for_class();
        Ok(class)
    }

    fn make_class<T: Object>(
        &self,
        catalog: &mut Catalog,
        tenant: &str,
        unique_key: Option<&str>,
    ) -> Result<usize> {
        let class = T::CLASS;
        let refuse = |why: &str| {
            let why = why.to_owned();
            Err(Error::Class { class, why })
        };
        match catalog.deployed(tenant) {
            Some(Deployed::Migrations { .. }) => {
                return refuse("no migration has made it; add one, and deploy");
            }
            Some(Deployed::Exports) => {
                return refuse("it is not among the exports; declare it there, and deploy");
            }
            None => {}
        }
        if unique_key.is_some_and(|key| catalog.has_key(key)) {
            return refuse("another class makes its ids with this unique key");
        }
        let mut changed = catalog.clone();
        let at = changed.add(tenant, class, unique_key, T::STORAGE);
        self.change_catalog(catalog, changed)?;
        Ok(at)
    }

    /// Writes a changed catalog, durably.
    pub(crate) fn change_catalog(&self, catalog: &mut Catalog, changed: Catalog) -> Result<()> {
        self.register
            .change(&self.engine, |object| changed.write(catalog, object))?;
        *catalog = changed;
        Ok(())
    }

    /// The number of a class in a store, if the store has it.
    pub(crate) fn class_in(&self, class: &Class, store: usize) -> Option<ClassId> {
        class.numbers[store].get().copied()
    }

    /// The number of a class in a store, which gets it if it does not have it yet.
    pub(crate) fn class_number(&self, class: &Class, store: usize) -> Result<ClassId> {
        if let Some(number) = self.class_in(class, store) {
            return Ok(number);
        }
        let mut catalog = self.catalog.lock();
        let number = self.engine_at(store).class_of(&class.tenant, class.name)?;
        self.declare_history(class.history, store, number)?;
        self.repeat_what_was_said(class, store, number)?;
        let mut changed = catalog.clone();
        let entry = changed
            .entries
            .iter_mut()
            .find(|entry| entry.uid == class.uid);
        let entry = entry.expect("a class in use is not taken away");
        let location = self.location_name(store);
        if entry.number(location).is_none() {
            entry.numbers.push((location.to_owned(), number));
            self.change_catalog(&mut catalog, changed)?;
        }
        Ok(*class.numbers[store].get_or_init(|| number))
    }

    /// The class of this number in a store, if it was asked for.
    pub(crate) fn class(&self, store: usize, number: ClassId) -> Option<Arc<Class>> {
        let classes = self.classes.lock();
        let mut classes = classes.iter();
        classes
            .find(|class| self.class_in(class, store) == Some(number))
            .cloned()
    }

    /// The classes that were asked for.
    pub(crate) fn bound_classes(&self) -> BTreeSet<u32> {
        self.classes.lock().iter().map(|class| class.uid).collect()
    }

    /// Starts erasing the objects of deleted classes, if there are any.
    pub(crate) fn clear_deleted(self: &Arc<Self>) {
        let catalog = self.catalog.lock();
        let mut entries = catalog.entries.iter();
        if entries.all(|entry| entry.state != State::Deleted) {
            return;
        }
        drop(catalog);
        let house = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("dovehouse-clear".into());
        let started = thread.spawn(move || {
            if let Err(error) = clear_deleted(&house) {
                tracing::error!("objects of deleted classes are left until the next open: {error}");
            }
        });
        self.threads
            .lock()
            .push(started.expect("the system can start a thread"));
    }
}

/// Erases the objects of deleted classes one by one, and then forgets the classes. Ends early with the house.
fn clear_deleted(house: &Weak<Inner>) -> Result<()> {
    let Some(inner) = house.upgrade() else {
        return Ok(());
    };
    let deleted = inner.catalog.lock().entries.clone();
    let stores: Vec<_> = inner.stores.all().to_vec();
    drop(inner);
    for entry in deleted.iter().filter(|entry| entry.state == State::Deleted) {
        for (location, engine) in &stores {
            let Some(number) = entry.number(location) else {
                continue;
            };
            for (_, found) in engine.objects_of(number, None) {
                // One that cannot be read is damaged, and stays for `dovehouse verify` to name.
                let Ok(found) = found else { continue };
                if house.upgrade().is_none_or(|inner| inner.is_closing()) {
                    return Ok(());
                }
                engine.clear_leftover(number, found.id)?;
            }
        }
        let known = |location: &str| stores.iter().any(|(found, _)| found == location);
        let Some(inner) = house.upgrade() else {
            return Ok(());
        };
        if entry.numbers.iter().all(|(location, _)| known(location)) {
            let mut catalog = inner.catalog.lock();
            let mut changed = catalog.clone();
            changed.entries.retain(|found| found.uid != entry.uid);
            inner.change_catalog(&mut catalog, changed)?;
        }
    }
    Ok(())
}
