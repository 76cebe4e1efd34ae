//! Erased objects are forgotten by compaction, and their slots serve others.

use std::collections::BTreeMap;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Builder, ClassId, Engine, Retention, Teeth};

mod common;

use common::{commit, id, put, value};

/// Without history: erased objects that have a past keep their slots.
fn builder(fs: &SimFs) -> Builder {
    common::builder(fs, Teeth::default()).retention(Retention::Off)
}

fn open(fs: &SimFs) -> (Engine, ClassId) {
    let engine = builder(fs).open().unwrap();
    let class = engine.class("Room").unwrap();
    (engine, class)
}

fn erase(engine: &Engine, class: ClassId, number: u8) {
    let mut object = engine.wake(class, id(number)).unwrap();
    object.clear(false);
    commit(&mut object);
}

#[test]
fn an_erased_object_is_forgotten_and_its_slot_is_used_again_without_a_trace_of_it() {
    let fs = SimFs::new(50);
    let (engine, class) = open(&fs);
    (1..=3).for_each(|number| put(&engine, class, number, b"old"));
    (1..=2).for_each(|number| erase(&engine, class, number));
    engine.compact().unwrap();
    assert_eq!(engine.objects().count(), 1, "the others left nothing");
    assert!(engine.find(&id(1)).unwrap().is_none());
    put(&engine, class, 7, b"new");
    put(&engine, class, 1, b"again");
    assert_eq!(engine.stats().slots, 3, "no slot was added");
    drop(engine);
    for fs in [fs.process_death(), fs.power_loss()] {
        let (engine, class) = open(&fs);
        assert_eq!(value(&engine, class, 7).unwrap().unwrap(), b"new");
        assert_eq!(value(&engine, class, 1).unwrap().unwrap(), b"again");
        assert_eq!(value(&engine, class, 2).unwrap(), None);
        engine.compact().unwrap();
        assert_eq!(engine.objects().count(), 3);
        assert_eq!(engine.stats().slots, 3);
    }
}

/// Mistake 9: old records come back to life in a new object of the slot. A small store in which objects
/// come and go all the time, through crashes; each read verifies what it finds.
#[test]
fn slots_change_hands_for_ever_and_nobody_meets_a_predecessor() {
    for seed in 0..40 {
        let mut fs = SimFs::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut most = 0;
        for round in 0..30_u32 {
            let engine = builder(&fs).open().unwrap();
            let class = engine.class("Room").unwrap();
            for _ in 0..rng.usize(1..30) {
                let number = rng.u8(0..60);
                assert_eq!(
                    value(&engine, class, number).unwrap().as_ref(),
                    model.get(&number),
                    "seed {seed}, round {round}, object {number}"
                );
                if model.contains_key(&number) && rng.u8(0..3) > 0 {
                    erase(&engine, class, number);
                    model.remove(&number);
                } else if model.len() < 20 {
                    let text = format!("{number} in round {round}").into_bytes();
                    put(&engine, class, number, &text);
                    model.insert(number, text);
                }
                match rng.u8(0..12) {
                    0 => drop(engine.compact().unwrap()),
                    1 => drop(engine.checkpoint().unwrap()),
                    _ => {}
                }
            }
            most = most.max(engine.stats().slots);
            drop(engine);
            fs = match rng.bool() {
                true => fs.process_death(),
                false => fs.power_loss(),
            };
        }
        assert!(most < 60, "seed {seed}: {most} slots for 20 objects");
    }
}
