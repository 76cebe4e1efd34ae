//! Savepoints in transactions of every size, against a model: keys, pages and alarms that stay tiny, that cross
//! into the big form while the transaction is open, and that are written beside the log before it commits;
//! rolled back whole or in part, committed, and read again after a crash.
//!
//! A bug began it: an object that had become big while its transaction was open, and whose keys were then
//! rolled back to where the transaction began, lost all of them, those of earlier commits too.

use std::sync::atomic::{AtomicUsize, Ordering};

use dovehouse_engine::wal::sim::{SimFs, for_each_seed};
use dovehouse_engine::{Alarm, Builder, Object, PAGE_BYTES, Savepoint, Teeth};

mod common;

use common::{Model, id};

/// Little memory, so that transactions are written beside the log before they commit.
fn builder(fs: &SimFs) -> Builder {
    common::builder(fs, Teeth::default())
        .segment_bytes(128 << 10)
        .open_transaction_bytes(40 << 10)
}

/// How much a transaction writes.
#[derive(Clone, Copy, PartialEq)]
enum Size {
    /// A few small values.
    Tiny,
    /// About what makes an object big, or tiny again.
    Crossing,
    /// More than may wait in memory.
    Staged,
}

/// A page behind this one makes an object big at once.
const FAR_PAGE: u32 = 1025;

fn value(size: Size, rng: &mut fastrand::Rng) -> Vec<u8> {
    let around = match size {
        Size::Tiny => [0, 10, 60][rng.usize(0..3)],
        Size::Crossing => [10, 1024, 4096][rng.usize(0..3)],
        Size::Staged => [1024, 4096, 8 << 10, 14 << 10, 30 << 10][rng.usize(0..5)],
    };
    vec![rng.u8(..); (around + rng.usize(0..5)).saturating_sub(2)]
}

fn change_keys(object: &mut Object, model: &mut Model, size: Size, rng: &mut fastrand::Rng) {
    match rng.u8(0..10) {
        0..5 => {
            let (key, value) = (vec![b'k', rng.u8(0..24)], value(size, rng));
            object.put(&key, &value).unwrap();
            model.kv.insert(key, value);
        }
        5..7 => {
            let key = vec![b'k', rng.u8(0..24)];
            let existed = model.kv.remove(&key).is_some();
            assert_eq!(object.delete(&key).unwrap(), existed);
        }
        7 => {
            // Several nodes of keys.
            let first = rng.u16(0..300);
            for number in first..first + rng.u16(1..if size == Size::Tiny { 4 } else { 60 }) {
                let (key, value) = (number.to_be_bytes().to_vec(), vec![rng.u8(..); 30]);
                object.put(&key, &value).unwrap();
                model.kv.insert(key, value);
            }
        }
        8 => {
            let gone: Vec<_> = model.kv.keys().take(rng.usize(1..40)).cloned().collect();
            for key in gone {
                assert!(object.delete(&key).unwrap());
                model.kv.remove(&key);
            }
        }
        _ => {
            let (name, due_ms) = (["", "sweep"][rng.usize(0..2)], rng.u64(1..1 << 40));
            object.set_alarm(Alarm {
                name: name.to_owned(),
                due_ms,
                ..Alarm::default()
            });
            model.alarms.insert(name.to_owned(), due_ms);
        }
    }
}

fn change_pages(object: &mut Object, model: &mut Model, size: Size, rng: &mut fastrand::Rng) {
    if rng.u8(0..5) == 0 {
        let count = rng.u32(0..12);
        object.truncate_pages(count);
        return model.pages.truncate(count as usize);
    }
    let number = match (size, rng.u8(0..20)) {
        (Size::Tiny, _) => rng.u32(1..3),
        (_, 0) => FAR_PAGE,
        _ => rng.u32(1..16),
    };
    let page = vec![rng.u8(0..4); PAGE_BYTES];
    object.write_page(number, &page).unwrap();
    let count = model.pages.len().max(number as usize);
    model.pages.resize(count, None);
    model.pages[number as usize - 1] = (page[0] != 0).then_some(page);
}

/// A savepoint, what the object was there, and how often it had been cleared.
struct Point {
    savepoint: Savepoint,
    model: Model,
    cleared: usize,
}

/// An open transaction, its savepoints, and what it should see.
struct Open<'a> {
    object: &'a mut Object,
    model: Model,
    points: Vec<Point>,
    cleared: usize,
}

impl Open<'_> {
    fn mark(&mut self) {
        self.points.push(Point {
            savepoint: self.object.savepoint(),
            model: self.model.clone(),
            cleared: self.cleared,
        });
    }

    fn step(&mut self, size: Size, rng: &mut fastrand::Rng) {
        match rng.u8(0..24) {
            0..8 => change_keys(self.object, &mut self.model, size, rng),
            8..14 => change_pages(self.object, &mut self.model, size, rng),
            14..17 => self.mark(),
            17..19 if !self.points.is_empty() => {
                self.points.truncate(rng.usize(1..=self.points.len()));
                let point = self.points.last().expect("one is left");
                self.object.rollback_to(point.savepoint);
                self.model.clone_from(&point.model);
                self.cleared = point.cleared;
            }
            19..22 if !self.points.is_empty() => {
                self.points.truncate(rng.usize(1..=self.points.len()));
                let point = self.points.last().expect("one is left");
                if point.cleared == self.cleared {
                    self.object.rollback_keys_to(point.savepoint);
                    self.model.kv.clone_from(&point.model.kv);
                    self.model.alarms.clone_from(&point.model.alarms);
                }
            }
            22 => {
                // As a database does before it says that it has room; the transaction may still change.
                self.object.reserve().unwrap();
            }
            23 if rng.u8(0..3) == 0 => {
                let keep_alarms = rng.bool();
                self.object.clear(keep_alarms);
                let mut alarms = std::mem::take(&mut self.model.alarms);
                alarms.retain(|_, _| keep_alarms);
                self.model = Model {
                    alarms,
                    ..Model::default()
                };
                self.cleared += 1;
            }
            _ => {}
        }
    }
}

/// Runs a seed. Counts how often a commit left the object in the other form.
fn run(seed: u64, crossings: &AtomicUsize) {
    let fs = SimFs::new(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let engine = builder(&fs).open().unwrap();
    let class = engine.class("Test").unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    let mut model = Model::default();
    for _ in 0..rng.usize(2..10) {
        let was_big = object.is_big();
        let mut open = Open {
            object: &mut object,
            model: model.clone(),
            points: Vec::new(),
            cleared: 0,
        };
        if rng.bool() {
            open.mark();
        }
        let size = [Size::Tiny, Size::Crossing, Size::Staged][rng.usize(0..3)];
        for _ in 0..rng.usize(1..20) {
            open.step(size, &mut rng);
            if rng.u8(0..4) == 0 {
                assert_eq!(Model::of(open.object), open.model, "while it is open");
            }
        }
        assert_eq!(Model::of(open.object), open.model, "at the end");
        let next = open.model;
        if rng.u8(0..5) == 0 {
            object.rollback();
            assert_eq!(Model::of(&object), model, "rolled back");
            continue;
        }
        common::commit(&mut object);
        model = next;
        assert_eq!(Model::of(&object), model, "committed");
        if object.is_big() != was_big {
            crossings.fetch_add(1, Ordering::Relaxed);
        }
        let again = builder(&fs.power_loss()).open().unwrap();
        let read = again.wake(class, id(1)).unwrap();
        assert_eq!(Model::of(&read), model, "read again");
        if rng.u8(0..4) == 0 {
            drop(object);
            object = engine.wake(class, id(1)).unwrap();
            assert_eq!(Model::of(&object), model, "woken");
        }
    }
}

#[test]
fn a_transaction_of_any_size_goes_back_to_any_of_its_savepoints() {
    let (runs, crossings) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for_each_seed(120, "-p dovehouse-engine --test savepoints", |seed| {
        run(seed, &crossings);
        runs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let (runs, crossings) = (runs.into_inner(), crossings.into_inner());
    assert!(
        runs < 100 || crossings > runs / 2,
        "{crossings} crossings in {runs} runs"
    );
}

#[test]
fn keys_of_earlier_commits_are_there_after_the_first_savepoint_of_one_that_outgrew_its_memory() {
    let fs = SimFs::new(1);
    let engine = builder(&fs).open().unwrap();
    let class = engine.class("Test").unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"kept", b"value").unwrap();
    object.set_alarm(Alarm::default());
    common::commit(&mut object);
    let before = Model::of(&object);
    let savepoint = object.savepoint();
    for number in 0..50_u8 {
        object.put(&[number], &[number; 90 << 10]).unwrap();
    }
    assert!(object.is_big(), "it is more than waits in memory");
    object.rollback_keys_to(savepoint);
    assert_eq!(Model::of(&object), before);
    object.put(b"more", b"value").unwrap();
    common::commit(&mut object);
    let read = builder(&fs.power_loss()).open().unwrap();
    let read = read.wake(class, id(1)).unwrap();
    assert_eq!(read.get(b"kept").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(Model::of(&read), Model::of(&object));
}

#[test]
#[should_panic = "what was cleared cannot be half undone"]
fn a_big_object_that_was_cleared_is_not_half_undone() {
    let fs = SimFs::new(2);
    let engine = builder(&fs).open().unwrap();
    let class = engine.class("Test").unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    for number in 0..40_u8 {
        object.put(&[number], &[number; 8 << 10]).unwrap();
    }
    common::commit(&mut object);
    assert!(object.is_big());
    let savepoint = object.savepoint();
    object.clear(false);
    object.rollback_keys_to(savepoint);
}
