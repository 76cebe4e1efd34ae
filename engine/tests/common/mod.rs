//! Objects as a model sees them, and a random workload on them.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub(crate) mod big;
pub(crate) mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{
    Alarm, Builder, ClassId, Engine, Error, List, Object, ObjectId, PAGE_BYTES, Teeth,
};

/// Small segments, no threads, all on the simulated disk.
pub(crate) fn builder(fs: &SimFs, teeth: Teeth) -> Builder {
    Engine::builder("store")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(64 << 10)
        .dictionary_states(12)
        .without_threads()
        .teeth(teeth)
}

pub(crate) fn id(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 32])
}

/// An object's whole state.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) kv: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) pages: Vec<Option<Vec<u8>>>,
    pub(crate) alarms: BTreeMap<String, u64>,
}

impl Model {
    pub(crate) fn of(object: &Object) -> Model {
        let kv = object
            .list(&List::all())
            .map(|listed| {
                let (key, value) = listed.unwrap();
                (key.into_owned(), value.into_owned())
            })
            .collect();
        let page = |number| object.page(number).unwrap().map(|page| page.to_vec());
        let pages = (1..=object.page_count()).map(page);
        let alarms = object
            .alarms()
            .iter()
            .map(|alarm| (alarm.name.clone(), alarm.due_ms))
            .collect();
        Model {
            kv,
            pages: pages.collect(),
            alarms,
        }
    }
}

/// In a failed assertion a digest of each value says enough; whole pages would bury the message.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kv = self.kv.iter().map(|(key, value)| (key, digest(value)));
        let pages = self.pages.iter().map(|page| page.as_deref().map(digest));
        f.debug_struct("Model")
            .field("kv", &kv.collect::<Vec<_>>())
            .field("pages", &pages.collect::<Vec<_>>())
            .field("alarms", &self.alarms)
            .finish()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{}B:{:08x}", bytes.len(), crc32fast::hash(bytes))
}

/// Applies one random change to an object and to its model.
pub(crate) fn change(object: &mut Object, model: &mut Model, rng: &mut fastrand::Rng) {
    match rng.u8(0..16) {
        0..6 => {
            let key = vec![b'k', rng.u8(0..12)];
            let mut value = vec![0; rng.usize(0..60)];
            rng.fill(&mut value);
            object.put(&key, &value).unwrap();
            model.kv.insert(key, value);
        }
        6..8 => {
            let key = vec![b'k', rng.u8(0..12)];
            assert_eq!(
                object.delete(&key).unwrap(),
                model.kv.remove(&key).is_some()
            );
        }
        8..12 => {
            let number = rng.u32(1..=2);
            let mut page = object
                .page(number)
                .unwrap()
                .map_or_else(|| vec![0; PAGE_BYTES], |page| page.to_vec());
            for _ in 0..rng.usize(1..5) {
                let at = rng.usize(0..PAGE_BYTES);
                page[at] = rng.u8(..);
            }
            object.write_page(number, &page).unwrap();
            let count = model.pages.len().max(number as usize);
            model.pages.resize(count, None);
            model.pages[number as usize - 1] = page.iter().any(|byte| *byte != 0).then_some(page);
        }
        12 => {
            let count = rng.u32(0..2);
            object.truncate_pages(count);
            model.pages.truncate(count as usize);
        }
        13 => {
            let name = ["", "sweep"][rng.usize(0..2)].to_owned();
            let due_ms = 1_700_000_000_000 + rng.u64(0..1_000_000);
            object.set_alarm(Alarm {
                name: name.clone(),
                due_ms,
                ..Alarm::default()
            });
            model.alarms.insert(name, due_ms);
        }
        14 => {
            let name = ["", "sweep"][rng.usize(0..2)];
            assert_eq!(
                object.clear_alarm(name),
                model.alarms.remove(name).is_some()
            );
        }
        _ => {
            let keep_alarms = rng.bool();
            object.clear(keep_alarms);
            let alarms = if keep_alarms {
                std::mem::take(&mut model.alarms)
            } else {
                BTreeMap::new()
            };
            *model = Model {
                alarms,
                ..Model::default()
            };
        }
    }
}

/// A few changes, some of them rolled back to a savepoint.
pub(crate) fn transaction(object: &mut Object, model: &mut Model, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..5) {
        if rng.u8(0..5) == 0 {
            let (savepoint, kept) = (object.savepoint(), model.clone());
            for _ in 0..rng.usize(1..4) {
                change(object, model, rng);
            }
            object.rollback_to(savepoint);
            *model = kept;
        } else {
            change(object, model, rng);
        }
    }
    assert_eq!(
        Model::of(object),
        *model,
        "the open transaction is what the model says"
    );
}

/// Whether an error only says that the log has stopped.
pub(crate) fn is_stop(error: &Error) -> bool {
    use dovehouse_engine::wal::Error as LogError;
    matches!(
        error,
        Error::Log(LogError::Poisoned { .. } | LogError::Io { .. })
    )
}

pub(crate) fn open(fs: &SimFs) -> (Engine, ClassId) {
    let engine = builder(fs, Teeth::default()).open().unwrap();
    let class = engine.class("Room").unwrap();
    (engine, class)
}

pub(crate) fn commit(object: &mut Object) {
    if let Some(ticket) = object.commit().unwrap() {
        ticket.wait().unwrap();
    }
}

pub(crate) fn put(engine: &Engine, class: ClassId, number: u8, value: &[u8]) {
    let mut object = engine.wake(class, id(number)).unwrap();
    object.put(b"value", value).unwrap();
    commit(&mut object);
}

pub(crate) fn value(engine: &Engine, class: ClassId, number: u8) -> Result<Option<Vec<u8>>, Error> {
    let object = engine.wake(class, id(number))?;
    Ok(object.get(b"value")?.map(|value| value.into_owned()))
}
