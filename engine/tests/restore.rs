//! Going back: classes and stores restored to a time, and how far that can reach.

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::{SimFs, for_each_seed};
use dovehouse_engine::{ClassId, Error, RestoreAll, Retention, Teeth};

mod common;

use common::{Model, id};

const ROOMS: u8 = 40;

/// Objects of two classes, and what they were an hour ago.
fn restored(seed: u64) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let fs = SimFs::new(seed);
    let engine = common::builder(&fs, Teeth::default()).open().unwrap();
    let mut coin = rng.fork();
    let classes = ["Room", "Hall"].map(|name| engine.class(name).unwrap());
    let class_of = |number: u8| classes[usize::from(number % 2)];
    let mut change = |rooms: std::ops::Range<u8>| {
        for number in rooms {
            let mut object = engine.wake(class_of(number), id(number)).unwrap();
            let mut model = Model::of(&object);
            match rng.u8(0..6) {
                0 => object.clear(false),
                _ => common::transaction(&mut object, &mut model, &mut rng),
            }
            common::commit(&mut object);
        }
    };
    let states = |of: Option<ClassId>| -> Vec<(u8, Model)> {
        (0..ROOMS)
            .filter(|number| of.is_none_or(|class| class == class_of(*number)))
            .map(|number| {
                (
                    number,
                    Model::of(&engine.wake(class_of(number), id(number)).unwrap()),
                )
            })
            .collect()
    };
    // The last ones are made later.
    change(0..ROOMS - 8);
    let (time_ms, then) = (fs.now_ms(), states(None));
    fs.advance(3_600_000);
    change(0..ROOMS);
    fs.advance(1);
    change(0..ROOMS);
    if coin.bool() {
        engine.compact().unwrap();
    }
    common::put(&engine, class_of(0), 0, b"changed for sure");
    let (before, awake) = (states(None), engine.wake(class_of(0), id(0)).unwrap());
    let restore = |class, dry_run, time_ms| {
        let mut failed = Vec::new();
        let what = RestoreAll {
            time_ms,
            class,
            with_alarms: true,
            dry_run,
        };
        let done = engine
            .restore_all(what, |_, failure| {
                failed.extend(failure.map(|(id, error)| (id.unwrap(), error)));
            })
            .unwrap();
        assert_eq!(done.failed, failed.len() as u64);
        assert_eq!(done.objects, done.restored + done.unchanged + done.failed);
        (done, failed)
    };
    // Objects that fell asleep have been written.
    fs.advance(1);
    let (looked, _) = restore(Some(classes[0]), true, time_ms);
    let others = states(Some(classes[1]));
    let (done, failed) = restore(Some(classes[0]), false, time_ms);
    // One that is awake is named, and stays as it is.
    assert!(
        matches!(failed[..], [(which, Error::Awake { .. })] if which == id(0)),
        "{failed:?}"
    );
    assert!(looked.restored >= done.restored && looked.erased >= done.erased);
    assert_eq!(Model::of(&awake), before[0].1);
    drop(awake);
    assert_eq!(
        states(Some(classes[1])),
        others,
        "another class is not concerned"
    );
    let (_, failed) = restore(None, false, time_ms);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(states(None), then);
    // What was made later is gone, and comes back like everything else.
    assert!(then[usize::from(ROOMS) - 1].1 == Model::default());
    let (_, failed) = restore(None, false, done.undo_ms);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(states(None), before);
    let (_, failed) = restore(None, false, fs.now_ms() + 1);
    assert!(
        matches!(failed[0].1, Error::NotAvailable { .. }),
        "a time that has not come"
    );
    Ok(())
}

#[test]
fn a_class_and_a_store_go_back_to_a_time_and_forth_again() {
    for_each_seed(20, "-p dovehouse-engine --test restore", restored);
}

#[test]
fn history_does_not_reach_back_over_commits_that_nobody_noted() {
    // A program that kept no history, for a class or at all, and then one that does: what was before was taken for
    // what the object had always been.
    for another_keeps in [false, true] {
        let fs = SimFs::new(1);
        let open = |default| {
            let builder = common::builder(&fs, Teeth::default()).retention(default);
            let engine = builder.open().unwrap();
            let class = engine.class("Room").unwrap();
            (engine, class)
        };
        let (engine, class) = open(Retention::Off);
        if another_keeps {
            let other = engine.class("Hall").unwrap();
            engine.set_retention(other, Retention::Forever).unwrap();
        }
        let start_ms = fs.now_ms();
        for value in [b"one", b"two"] {
            fs.advance(10);
            common::put(&engine, class, 1, value);
        }
        fs.advance(10);
        engine.close().unwrap();
        drop(engine);
        let (engine, class) = open(Retention::Forever);
        common::put(&engine, class, 1, b"three");
        for passed_ms in [0, 10] {
            let found = engine.bookmark_at(&id(1), start_ms + passed_ms);
            assert!(
                matches!(found, Err(Error::NotAvailable { .. })),
                "{found:?}"
            );
        }
        let two = engine.bookmark_at(&id(1), fs.now_ms() - 1).unwrap();
        let past = engine.past(&id(1), &two).unwrap();
        assert_eq!(past.get(b"value").unwrap().as_deref(), Some(&b"two"[..]));
    }
}
