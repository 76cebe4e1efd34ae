//! The stores that this process has open, and the objects in them: one engine for a directory, one awake object
//! for all connections to it. Closed with the last one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dovehouse_engine::{ClassId, DEFAULT_TENANT, Engine, Minter, Object, ObjectId};
use parking_lot::Mutex;

use super::locks::Locks;
use crate::vfs::supers;

/// Held while a store opens or closes, so that nobody meets one that is half open.
static STORES: Mutex<BTreeMap<PathBuf, Store>> = Mutex::new(BTreeMap::new());

struct Store {
    engine: Engine,
    /// Where it was opened. After a fork the child has neither the engine's threads nor the store's lock.
    process: u32,
    /// The objects, and how many connections each has.
    open: HashMap<ObjectId, (Arc<Shared>, usize)>,
}

/// An object that connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) state: Mutex<State>,
    store: PathBuf,
    id: ObjectId,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) object: Object,
    pub(super) locks: Locks,
    /// A commit may not be durable: nothing is served until the object is woken again.
    pub(super) failed: bool,
}

/// Opens an object for one more connection. The error is for people.
pub(super) fn open(
    dir: &Path,
    class: &str,
    name: &str,
    may_create: bool,
) -> Result<Arc<Shared>, String> {
    let mut stores = STORES.lock();
    let dir = open_store(&mut stores, dir, may_create)?;
    let store = stores.get_mut(&dir).expect("it was just opened");
    let opened = open_object(store, &dir, class, name, may_create);
    if store.open.is_empty() {
        close(&mut stores, &dir);
    }
    opened
}

/// Opens the store, unless it is open. Returns its path without links.
fn open_store(
    stores: &mut BTreeMap<PathBuf, Store>,
    dir: &Path,
    may_create: bool,
) -> Result<PathBuf, String> {
    if let Ok(dir) = dir.canonicalize()
        && let Some(store) = stores.get(&dir)
    {
        return match store.process == std::process::id() {
            true => Ok(dir),
            false => Err(format!(
                "{} was opened before a fork; open it in one of the processes only",
                dir.display()
            )),
        };
    }
    let builder = Engine::builder(dir);
    let opened = match may_create {
        true => builder.open(),
        false => builder.open_existing(),
    };
    let engine = opened.map_err(|error| error.to_string())?;
    let dir = dir
        .canonicalize()
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    let store = Store {
        engine,
        process: std::process::id(),
        open: HashMap::new(),
    };
    stores.insert(dir.clone(), store);
    Ok(dir)
}

fn open_object(
    store: &mut Store,
    dir: &Path,
    class_name: &str,
    name: &str,
    may_create: bool,
) -> Result<Arc<Shared>, String> {
    let id = Minter::new(class_name).named(name);
    if let Some((shared, connections)) = store.open.get_mut(&id) {
        *connections += 1;
        return Ok(shared.clone());
    }
    let class = class(&store.engine, class_name, may_create)?;
    let mut object = store
        .engine
        .wake(class, id)
        .map_err(|error| error.to_string())?;
    if !may_create && object.page_count() == 0 {
        return Err(format!("{class_name}/{name} has no database"));
    }
    object.set_name(name);
    let state = State {
        object,
        locks: Locks::default(),
        failed: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        store: dir.to_owned(),
        id,
    });
    store.open.insert(id, (shared.clone(), 1));
    Ok(shared)
}

fn class(engine: &Engine, name: &str, may_create: bool) -> Result<ClassId, String> {
    if may_create {
        return engine.class(name).map_err(|error| error.to_string());
    }
    let classes = engine.classes();
    let found = classes
        .iter()
        .find(|(_, tenant, class)| tenant == DEFAULT_TENANT && class == name);
    let (class, ..) = found.ok_or_else(|| format!("there is no class {name}"))?;
    Ok(*class)
}

/// A connection to the object is closed.
pub(super) fn release(shared: Arc<Shared>) {
    let mut stores = STORES.lock();
    let (dir, id) = (shared.store.clone(), shared.id);
    drop(shared);
    let Some(store) = stores.get_mut(&dir) else {
        return;
    };
    if let Some((_, connections)) = store.open.get_mut(&id) {
        *connections -= 1;
        if *connections == 0 {
            // The object sleeps.
            store.open.remove(&id);
        }
    }
    if store.open.is_empty() {
        close(&mut stores, &dir);
    }
}

fn close(stores: &mut BTreeMap<PathBuf, Store>, dir: &Path) {
    if let Some(store) = stores.remove(dir) {
        // All commits are durable. Without the last checkpoint the next open replays them.
        let _ = store.engine.close();
    }
    if stores.is_empty() {
        supers::clear();
    }
}
