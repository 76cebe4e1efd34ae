//! Objects that grow and shrink across both forms, against a model: values of every size around each limit,
//! pages far and near, savepoints, transactions that are larger than their memory, compaction, sleep; and
//! crashes at every I/O in between.

use std::borrow::Cow;
use std::path::Path;

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::{SimFs, first_failure, for_each_seed};
use dovehouse_engine::{
    Builder, Engine, Error, Flaw, List, Object, PAGE_BYTES, Quota, Retention, Teeth,
    VALUE_BYTES_MAX,
};

mod common;

use common::big::change;
use common::harness::{Suite, run};
use common::{Model, id};

/// Little memory, so that transactions are written beside the log before they commit.
fn builder(fs: &SimFs, teeth: Teeth) -> Builder {
    common::builder(fs, teeth)
        .segment_bytes(128 << 10)
        .open_transaction_bytes(40 << 10)
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
    for_each_seed(20, "-p dovehouse-engine --test big", |seed| {
        run(SUITE, seed, Teeth::default())
    });
}

/// What big objects rely on beyond the rest, broken on purpose.
#[test]
fn every_planted_flaw_is_found() {
    // Without history segments are freed sooner, and what should not be.
    let suite = Suite {
        builder: |fs, teeth| builder(fs, teeth).retention(Retention::Off),
        ..SUITE
    };
    for flaw in [Flaw::CopyLeavesFirst, Flaw::ForgetHolds, Flaw::UnnamedBlob] {
        let found = first_failure(0..400, |seed| run(suite, seed, Teeth::plant(flaw)));
        println!("{flaw:?}: {found:?}");
        assert!(found.is_some(), "{flaw:?} went unnoticed");
    }
}

fn big_page(number: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    fastrand::Rng::with_seed(u64::from(number)).fill(&mut page);
    page
}

/// Changes a bit of the only place in the store's segments that has these bytes.
fn rot(fs: &SimFs, wanted: &[u8]) {
    let mut found = 0;
    for name in fs.list(Path::new("store")).unwrap() {
        let path = Path::new("store").join(&name);
        let content = fs.content(&path).unwrap();
        let mut windows = content.windows(wanted.len());
        if name.starts_with("segment-")
            && let Some(at) = windows.position(|window| window == wanted)
        {
            fs.rot(&path, at as u64, |byte| *byte ^= 1);
            found += 1;
        }
    }
    assert_eq!(found, 1, "random bytes are stored as they are, once");
}

fn big_value(number: u32) -> Vec<u8> {
    let mut value = vec![0; 60];
    fastrand::Rng::with_seed(u64::from(number) << 32).fill(&mut value);
    value
}

#[test]
fn damage_to_one_block_costs_its_readers_an_error_and_nobody_else() {
    let fs = SimFs::new(3);
    let engine = builder(&fs, Teeth::default()).open().unwrap();
    let class = engine.class("Test").unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    for number in 1..=40 {
        object.write_page(number, &big_page(number)).unwrap();
    }
    for number in 0..2000_u32 {
        object
            .put(&number.to_be_bytes(), &big_value(number))
            .unwrap();
    }
    common::commit(&mut object);
    drop(object);
    engine.close().unwrap();
    drop(engine);
    rot(&fs, &big_page(7)[100..200]);
    rot(&fs, &big_value(1000));

    let engine = builder(&fs, Teeth::default()).open().unwrap();
    let object = engine.wake(class, id(1)).unwrap();
    for number in 1..=40 {
        match object.page(number) {
            Ok(page) => assert_eq!(page.as_deref(), Some(&big_page(number)[..])),
            Err(error) => assert!(error.to_string().contains("page 7 of slot"), "{error}"),
        }
    }
    assert!(object.page(7).is_err() && object.get(&1000_u32.to_be_bytes()).is_err());
    let lists = [List::all(), List::all().reverse()];
    let [forwards, mut backwards] = lists.map(|list| -> Vec<_> {
        let listed = object.list(&list);
        listed
            .map(|listed| listed.ok().map(|(key, _)| key.into_owned()))
            .collect()
    });
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_eq!(forwards.iter().filter(|key| key.is_none()).count(), 1);
    let read = forwards.iter().flatten().count();
    assert!(
        (1900..2000).contains(&read),
        "one node of keys is lost, not {read} of 2,000"
    );
    // What can be read can be changed, and moved.
    drop(object);
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(&0_u32.to_be_bytes(), b"changed").unwrap();
    object.write_page(7, &big_page(77)).unwrap();
    common::commit(&mut object);
    drop(object);
    engine.compact().unwrap();
    let object = engine.wake(class, id(1)).unwrap();
    assert_eq!(object.page(7).unwrap().as_deref(), Some(&big_page(77)[..]));
    let first = object.get(&0_u32.to_be_bytes()).unwrap();
    assert_eq!(first.as_deref(), Some(&b"changed"[..]));
}

#[test]
fn a_transaction_beyond_its_limit_is_refused_and_leaves_nothing() {
    let fs = SimFs::new(5);
    let engine = builder(&fs, Teeth::default()).open().unwrap();
    let class = engine.class("Test").unwrap();
    let quota = Quota {
        transaction_bytes: Some(300 << 10),
        ..Quota::default()
    };
    engine.set_quota(class, quota);
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"kept", b"value").unwrap();
    common::commit(&mut object);
    let refused = (1..1500).find_map(|number| object.write_page(number, &big_page(number)).err());
    let error = refused.expect("it is too much");
    assert!(
        matches!(error, Error::Quota { limit: 307_200, .. }),
        "{error}"
    );
    object.rollback();
    assert_eq!(object.page_count(), 0);
    assert!(!object.is_big());
    object.put(b"more", b"value").unwrap();
    common::commit(&mut object);
    assert_eq!(object.list(&List::all()).count(), 2);
    drop(object);
    engine.compact().unwrap();
    let segments = engine.stats().segments;
    let live = segments.iter().map(|segment| segment.live_bytes);
    assert!(live.sum::<u64>() < 4096, "what was staged is dead");
}

#[test]
fn erasing_a_big_object_is_one_small_record_and_its_space_comes_back() {
    let fs = SimFs::new(6);
    let engine = builder(&fs, Teeth::default()).open().unwrap();
    let class = engine.class("Test").unwrap();
    for round in 0..3 {
        let mut object = engine.wake(class, id(1)).unwrap();
        for number in 1..=600 {
            object.write_page(number, &big_page(number)).unwrap();
        }
        common::commit(&mut object);
        drop(object);
        engine.compact().unwrap();
        let files = engine.stats().log.segment_files;
        assert!(files > 18, "{files} files of 128 KiB hold 600 pages");
        let mut object = engine.wake(class, id(1)).unwrap();
        object.clear(false);
        let before = engine.stats().log.record_bytes;
        common::commit(&mut object);
        let erase = engine.stats().log.record_bytes - before;
        assert!(erase < 200, "{erase} bytes");
        drop(object);
        engine.compact().unwrap();
        engine.compact().unwrap();
        let stats = engine.stats();
        assert!(
            stats.log.segment_files < 12,
            "round {round}: {} files for nothing",
            stats.log.segment_files
        );
        assert!(
            stats.slots < 12,
            "{} slots: leaves give theirs back",
            stats.slots
        );
    }
}

#[test]
fn the_largest_value_is_written_once_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path()).unwrap();
    let class = engine.class("Test").unwrap();
    let mut value = vec![0; VALUE_BYTES_MAX];
    fastrand::Rng::with_seed(1).fill(&mut value);
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"small", b"value").unwrap();
    object.put(b"large", &value).unwrap();
    common::commit(&mut object);
    drop(object);
    engine.close().unwrap();
    let log = engine.stats().log;
    let written = log.log_bytes + log.pack_bytes;
    assert!(
        written < VALUE_BYTES_MAX as u64 / 100 * 102,
        "{written} bytes"
    );
    drop(engine);
    let engine = Engine::open(dir.path()).unwrap();
    let object = engine.wake(engine.class("Test").unwrap(), id(1)).unwrap();
    let found = object.get(b"large").unwrap().unwrap();
    assert!(found[..] == value[..], "it is another value");
}

#[test]
fn a_restore_finds_every_page_that_changed_among_many_changes_of_one() {
    let fs = SimFs::new(1);
    let (engine, class) = common::open(&fs);
    let mut object = engine.wake(class, id(1)).unwrap();
    let write = |object: &mut Object, number: u32, byte: u8| {
        object.write_page(number, &[byte; PAGE_BYTES]).unwrap();
        common::commit(object);
    };
    for number in 1..=100 {
        object.write_page(number, &[1; PAGE_BYTES]).unwrap();
    }
    common::commit(&mut object);
    // Each time more of page 7 than are read on, on both sides of the bookmark.
    for byte in 2..50 {
        write(&mut object, 7, byte);
    }
    let bookmark = object.bookmark().unwrap();
    for byte in 50..100 {
        write(&mut object, 7, byte);
    }
    write(&mut object, 8, 2);
    write(&mut object, 90, 2);
    // Settled with it, so that history tells it.
    drop(object);
    engine.checkpoint().unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    object.restore(&bookmark, false).unwrap();
    for number in 1..=100 {
        let byte = if number == 7 { 49 } else { 1 };
        assert_eq!(
            object.page(number).unwrap().unwrap()[..],
            [byte; PAGE_BYTES]
        );
    }
}
