//! Objects that grow and shrink across both forms, against a model: values of every size around each limit,
//! pages far and near, savepoints, transactions that are larger than their memory, compaction, sleep; and
//! crashes at every I/O in between.

use std::borrow::Cow;

use dovehouse_engine::wal::sim::{SimFs, first_failure, for_each_seed};
use dovehouse_engine::{Builder, Error, Flaw, List, Object, PAGE_BYTES, Teeth};

mod common;

use common::harness::{Suite, run};
use common::{Model, id};

/// Little memory, so that transactions are written beside the log before they commit.
fn builder(fs: &SimFs, teeth: Teeth) -> Builder {
    common::builder(fs, teeth)
        .segment_bytes(128 << 10)
        .open_transaction_bytes(40 << 10)
}

/// Sizes around the limits of values in a node, of blocks, of tiny objects, and of what a record carries.
fn size(rng: &mut fastrand::Rng) -> usize {
    let around = [0, 10, 1024, 4096, 8 << 10, 14 << 10, 30 << 10][rng.usize(0..7)];
    (around + rng.usize(0..5)).saturating_sub(2)
}

fn change(object: &mut Object, model: &mut Model, rng: &mut fastrand::Rng) -> Result<(), Error> {
    match rng.u8(0..20) {
        0..5 => {
            let key = format!("key-{:02}", rng.u8(0..30)).into_bytes();
            let value = vec![rng.u8(..); size(rng)];
            object.put(&key, &value)?;
            model.kv.insert(key, value);
        }
        5..8 => {
            // Many small keys fill several nodes.
            let (first, step) = (rng.u32(0..500), rng.u32(1..4));
            for number in 0..rng.u32(1..80) {
                let key = format!("many-{:05}", first + number * step).into_bytes();
                let value = vec![rng.u8(..); rng.usize(0..60)];
                object.put(&key, &value)?;
                model.kv.insert(key, value);
            }
        }
        8..11 => {
            let from = format!("many-{:05}", rng.u32(0..500)).into_bytes();
            let gone: Vec<_> = model.kv.range(from..).take(rng.usize(1..100)).collect();
            let gone: Vec<_> = gone.into_iter().map(|(key, _)| key.clone()).collect();
            for key in gone {
                assert!(object.delete(&key)?);
                model.kv.remove(&key);
            }
            assert!(!object.delete(b"nothing")?);
        }
        11..16 => {
            let number = [rng.u32(1..4), rng.u32(1..20), rng.u32(505..520)][rng.usize(0..3)];
            let mut page = vec![0; PAGE_BYTES];
            if let Some(old) = object.page(number)? {
                page.copy_from_slice(&old);
            }
            if rng.u8(0..8) == 0 {
                page.fill(0);
            } else {
                rng.fill(&mut page[..rng.clone().usize(1..PAGE_BYTES)]);
            }
            object.write_page(number, &page)?;
            let count = model.pages.len().max(number as usize);
            model.pages.resize(count, None);
            model.pages[number as usize - 1] = page.iter().any(|byte| *byte != 0).then_some(page);
        }
        16..18 => {
            let count = rng.u32(0..24);
            object.truncate_pages(count);
            model.pages.truncate(count as usize);
        }
        18 => common::change(object, model, rng),
        _ => {
            object.clear(false);
            *model = Model::default();
        }
    }
    Ok(())
}

fn transaction(
    object: &mut Object,
    model: &mut Model,
    rng: &mut fastrand::Rng,
) -> Result<(), Error> {
    for _ in 0..rng.usize(1..8) {
        if rng.u8(0..5) == 0 {
            let (savepoint, kept) = (object.savepoint(), model.clone());
            for _ in 0..rng.usize(1..4) {
                change(object, model, rng)?;
            }
            object.rollback_to(savepoint);
            *model = kept;
        } else {
            change(object, model, rng)?;
        }
    }
    Ok(())
}

/// What is read in part, in either direction, agrees with what is read whole.
fn assert_agrees(object: &Object, model: &Model, rng: &mut fastrand::Rng) {
    assert_eq!(Model::of(object), *model);
    let bound = |rng: &mut fastrand::Rng| format!("many-{:05}", rng.u32(0..700)).into_bytes();
    let (from, to) = (bound(rng), bound(rng));
    let limit = rng.usize(1..60);
    let list = List::all().start(&from).end(&to).limit(limit);
    let range = || {
        let is_in = |key: &Vec<u8>| *key >= from && *key < to;
        model.kv.iter().filter(move |(key, _)| is_in(key))
    };
    let found = |list: &List| -> Vec<(Vec<u8>, Vec<u8>)> {
        let owned = |(key, value): (Cow<[u8]>, Cow<[u8]>)| (key.into_owned(), value.into_owned());
        object
            .list(list)
            .map(|listed| owned(listed.unwrap()))
            .collect()
    };
    let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
    let forwards: Vec<_> = range().take(limit).map(owned).collect();
    assert_eq!(found(&list), forwards);
    let backwards: Vec<_> = range().rev().take(limit).map(owned).collect();
    assert_eq!(found(&list.reverse()), backwards);
    for key in model.kv.keys().take(5) {
        let value = object.get(key).unwrap();
        assert_eq!(value.as_deref(), model.kv.get(key).map(Vec::as_slice));
    }
    assert_eq!(object.get(b"nothing").unwrap(), None);
}

#[test]
fn random_transactions_agree_with_the_model_across_both_forms() {
    let mut crossings = 0;
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fs = SimFs::new(seed);
        let mut engine = builder(&fs, Teeth::default()).open().unwrap();
        let class = engine.class("Test").unwrap();
        let mut model = Model::default();
        let (mut was_big, mut was_tiny) = (false, false);
        let mut object = Some(engine.wake(class, id(1)).unwrap());
        for _ in 0..rng.usize(5..60) {
            let awake = object.as_mut().unwrap();
            let mut next = model.clone();
            transaction(awake, &mut next, &mut rng).unwrap();
            assert_agrees(awake, &next, &mut rng);
            if rng.u8(0..5) == 0 {
                awake.rollback();
                assert_agrees(awake, &model, &mut rng);
            } else {
                common::commit(awake);
                model = next;
                assert_agrees(awake, &model, &mut rng);
            }
            was_big |= awake.is_big();
            was_tiny |= was_big && !awake.is_big();
            match rng.u8(0..8) {
                0 => drop(engine.checkpoint().unwrap()),
                1 => drop(engine.compact().unwrap()),
                2 => {
                    object = None;
                    engine.keep_up().unwrap();
                }
                3 => {
                    object = None;
                    engine.compact().unwrap();
                }
                4 => {
                    object = None;
                    fs = fs.power_loss();
                    engine = builder(&fs, Teeth::default()).open().unwrap();
                }
                _ => {}
            }
            if object.is_none() {
                let woken = engine.wake(class, id(1)).unwrap();
                assert_agrees(&woken, &model, &mut rng);
                object = Some(woken);
            }
        }
        crossings += usize::from(was_big && was_tiny);
    }
    assert!(crossings > 50, "{crossings} seeds crossed there and back");
}

const SUITE: Suite = Suite {
    objects: 2,
    steps: 50,
    builder,
    transaction,
    exhaustive: 50,
    sample: 24,
};

#[test]
fn every_object_is_at_one_of_its_commits_after_a_crash_at_any_io() {
    for_each_seed(60, "dovehouse-engine", |seed| {
        run(SUITE, seed, Teeth::default())
    });
}

/// What big objects rely on beyond the rest, broken on purpose.
#[test]
fn every_planted_flaw_is_found() {
    for flaw in [Flaw::CopyLeavesFirst, Flaw::ForgetHolds, Flaw::UnnamedBlob] {
        let found = first_failure(0..400, |seed| run(SUITE, seed, Teeth::plant(flaw)));
        println!("{flaw:?}: {found:?}");
        assert!(found.is_some(), "{flaw:?} went unnoticed");
    }
}
