//! The engine as its users see it.

use std::sync::Arc;

use dovehouse_engine::wal::Error as LogError;
use dovehouse_engine::wal::sim::{Failure, Fault, Operation, SimFs};
use dovehouse_engine::{
    Alarm, ClassId, DELETED_TENANT, Engine, Error, KEY_BYTES_MAX, List, PAGE_BYTES, Teeth,
    VALUE_BYTES_MAX,
};

mod common;

use common::{Model, builder, commit, id, is_stop, open, put, transaction, value};

#[test]
fn what_was_committed_is_there_after_sleep_after_a_power_cut_and_after_a_clean_close() {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs);
    put(&engine, class, 1, b"one");
    assert_eq!(value(&engine, class, 1).unwrap().unwrap(), b"one");
    drop(engine);

    let fs = fs.power_loss();
    let (engine, class) = open(&fs);
    assert_eq!(value(&engine, class, 1).unwrap().unwrap(), b"one");
    put(&engine, class, 2, b"two");
    engine.close().unwrap();

    let fs = fs.power_loss();
    let (engine, class) = open(&fs);
    assert_eq!(value(&engine, class, 1).unwrap().unwrap(), b"one");
    assert_eq!(value(&engine, class, 2).unwrap().unwrap(), b"two");
    assert_eq!(engine.stats().log.records, 0, "nothing was written again");
}

#[test]
fn an_object_is_awake_once_and_keeps_its_class() {
    let fs = SimFs::new(2);
    let (engine, class) = open(&fs);
    let other = engine.class("Other").unwrap();
    let object = engine.wake(class, id(1)).unwrap();
    assert!(matches!(
        engine.wake(class, id(1)),
        Err(Error::Awake { .. })
    ));
    drop(object);
    put(&engine, class, 1, b"one");
    assert!(matches!(
        engine.wake(other, id(1)),
        Err(Error::WrongClass { .. })
    ));
    assert!(
        engine.wake(class, id(1)).is_ok(),
        "a refused wake takes nothing with it"
    );
}

#[test]
fn an_object_without_state_takes_no_record_and_an_erased_one_can_be_made_again() {
    let fs = SimFs::new(3);
    let (engine, class) = open(&fs);
    let records = engine.stats().log.records;
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"gone", b"before anybody saw it").unwrap();
    object.delete(b"gone").unwrap();
    assert!(object.commit().unwrap().is_none());
    assert_eq!(engine.stats().log.records, records);

    object.put(b"value", b"first life").unwrap();
    object.set_alarm(Alarm {
        due_ms: 1_700_000_000_000,
        ..Alarm::default()
    });
    commit(&mut object);
    object.clear(false);
    commit(&mut object);
    assert!(
        engine.due_until(u64::MAX, 10).unwrap().is_empty(),
        "its alarm went with it"
    );
    let seq = object.seq();
    drop(object);

    let (engine, class) = open(&fs.power_loss());
    assert_eq!(value(&engine, class, 1).unwrap(), None);
    put(&engine, class, 1, b"second life");
    let object = engine.wake(class, id(1)).unwrap();
    assert!(object.seq() > seq, "the sequence goes on");
    assert_eq!(engine.objects().count(), 1, "in the same slot");
}

#[test]
fn a_key_or_value_beyond_the_limit_is_refused_and_nothing_is_lost() {
    let fs = SimFs::new(4);
    let (engine, class) = open(&fs);
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"value", b"kept").unwrap();
    let error = object.put(&[1; KEY_BYTES_MAX + 1], b"").unwrap_err();
    assert!(matches!(error, Error::TooBig { .. }), "{error}");
    let error = object
        .put(b"big", &vec![1; VALUE_BYTES_MAX + 1])
        .unwrap_err();
    assert!(matches!(error, Error::TooBig { .. }), "{error}");
    object.put(&[1; KEY_BYTES_MAX], b"fits").unwrap();
    commit(&mut object);
    drop(object);
    let (engine, class) = open(&fs.power_loss());
    let object = engine.wake(class, id(1)).unwrap();
    let keys: Vec<_> = object
        .list(&List::all())
        .map(|listed| listed.unwrap().0.into_owned())
        .collect();
    assert_eq!(keys, [vec![1; KEY_BYTES_MAX], b"value".to_vec()]);
}

#[test]
fn lists_go_both_ways_between_bounds() {
    let (engine, class) = open(&SimFs::new(5));
    let mut object = engine.wake(class, id(1)).unwrap();
    for key in ["a", "b/1", "b/2", "b/3", "c", "\u{ff}"] {
        object.put(key.as_bytes(), b"").unwrap();
    }
    object.put(&[0xFF, 0xFF], b"").unwrap();
    let keys = |list: List| -> Vec<String> {
        object
            .list(&list)
            .map(|listed| String::from_utf8_lossy(&listed.unwrap().0).into_owned())
            .collect()
    };
    assert_eq!(keys(List::prefix(b"b/")), ["b/1", "b/2", "b/3"]);
    assert_eq!(keys(List::prefix(b"b/").reverse().limit(2)), ["b/3", "b/2"]);
    assert_eq!(keys(List::all().start(b"b/2").end(b"c")), ["b/2", "b/3"]);
    assert_eq!(
        keys(List::prefix(b"b/").start(b"b/2").end(b"z")),
        ["b/2", "b/3"]
    );
    assert_eq!(
        keys(List::all().start(b"c").end(b"b")),
        Vec::<String>::new()
    );
    assert_eq!(keys(List::all().limit(0)), Vec::<String>::new());
    assert_eq!(keys(List::prefix(&[0xFF])).len(), 1);
    assert_eq!(keys(List::all()).len(), 7);
}

#[test]
fn waking_an_object_that_slept_is_one_read_however_often_it_was_changed() {
    let fs = SimFs::new(6);
    let (engine, class) = open(&fs);
    let mut object = engine.wake(class, id(1)).unwrap();
    for number in 0..10u8 {
        object.put(&[number], &[number; 20]).unwrap();
        commit(&mut object);
    }
    drop(object);
    engine.wake(class, id(1)).unwrap();
    assert_eq!(
        engine.objects().next().unwrap().unwrap().entry.depth,
        0,
        "it was written whole"
    );
}

#[test]
fn a_chain_of_deltas_is_bounded() {
    let (engine, class) = open(&SimFs::new(7));
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"large", &[7; 3000]).unwrap();
    commit(&mut object);
    let mut deepest = 0;
    for number in 0..200u32 {
        object.put(b"counter", &number.to_le_bytes()).unwrap();
        commit(&mut object);
        deepest = deepest.max(engine.objects().next().unwrap().unwrap().entry.depth);
    }
    assert_eq!(deepest, 16);
}

#[test]
fn segments_without_a_live_record_are_used_again() {
    let fs = SimFs::new(8);
    let (engine, class) = open(&fs);
    for round in 0..100u8 {
        for number in 0..4 {
            put(&engine, class, number, &[round; 3000]);
        }
        engine.checkpoint().unwrap();
    }
    let files = engine.stats().log.segment_files;
    assert!(
        files <= 4,
        "{files} segment files for 12 KB that changed a hundred times"
    );
    let (engine, class) = open(&fs.power_loss());
    for number in 0..4 {
        assert_eq!(value(&engine, class, number).unwrap().unwrap(), [99; 3000]);
    }
}

#[test]
fn a_segment_stays_while_one_object_in_it_lives() {
    let fs = SimFs::new(9);
    let (engine, class) = open(&fs);
    put(&engine, class, 9, b"written once");
    for round in 0..100u8 {
        put(&engine, class, 1, &[round; 6000]);
        if round % 10 == 0 {
            engine.checkpoint().unwrap();
        }
    }
    engine.close().unwrap();
    let (engine, class) = open(&fs.power_loss());
    assert_eq!(value(&engine, class, 9).unwrap().unwrap(), b"written once");
}

/// A store in which nearly everything but one small object in each segment is dead.
fn scattered(fs: &SimFs, engine: &Engine, class: ClassId) -> Vec<Model> {
    let mut models = Vec::new();
    for number in 0..6 {
        let mut object = engine.wake(class, id(number)).unwrap();
        object.set_name(&format!("object {number}"));
        object.put(b"value", &[number; 200]).unwrap();
        object.set_alarm(Alarm {
            due_ms: 1_800_000_000_000 + u64::from(number),
            ..Alarm::default()
        });
        commit(&mut object);
        models.push(Model::of(&object));
        drop(object);
        for round in 0..3 {
            put(engine, class, 100, &random(fs, round, 12_000));
        }
    }
    engine.checkpoint().unwrap();
    models
}

fn random(fs: &SimFs, round: u64, bytes: usize) -> Vec<u8> {
    use dovehouse_engine::wal::fs::Fs;
    let mut rng = fastrand::Rng::with_seed(fs.random_u64() ^ round);
    (0..bytes).map(|_| rng.u8(..)).collect()
}

#[test]
fn compaction_moves_what_lives_out_of_mostly_dead_segments_and_frees_them() {
    let fs = SimFs::new(31);
    let (engine, class) = open(&fs);
    let models = scattered(&fs, &engine, class);
    let before = engine.stats().log;
    let report = engine.compact().unwrap();
    assert!(
        report.objects >= 5 && report.freed_segments >= 2,
        "{report:?}"
    );
    let after = engine.stats().log;
    assert!(
        after.segment_files < before.segment_files,
        "{before:?} {after:?}"
    );
    assert_eq!(
        engine.compact().unwrap().objects,
        0,
        "there is nothing left to do"
    );
    for fs in [fs.process_death(), fs.power_loss()] {
        let (engine, class) = open(&fs);
        for (number, model) in models.iter().enumerate() {
            let object = engine.wake(class, id(number as u8)).unwrap();
            assert_eq!(Model::of(&object), *model);
            assert_eq!(object.name(), Some(&*format!("object {number}")));
        }
        assert_eq!(engine.next_due(), Some(1_800_000_000_000));
    }
}

#[test]
fn an_object_with_deltas_moves_as_an_image_when_it_sleeps_and_not_under_its_owner() {
    let fs = SimFs::new(32);
    let (engine, class) = open(&fs);
    let mut awake = engine.wake(class, id(200)).unwrap();
    awake.put(b"value", &[1; 300]).unwrap();
    commit(&mut awake);
    awake.put(b"more", b"delta").unwrap();
    commit(&mut awake);
    scattered(&fs, &engine, class);
    let model = Model::of(&awake);
    let stored = |engine: &Engine| engine.find(&id(200)).unwrap().unwrap().entry;

    let before = stored(&engine);
    engine.compact().unwrap();
    assert_eq!(stored(&engine), before, "its owner counts its deltas");
    awake.put(b"more", b"another delta").unwrap();
    commit(&mut awake);
    assert_eq!(stored(&engine).depth, 0, "compaction asked for an image");
    awake.put(b"more", b"delta").unwrap();
    commit(&mut awake);

    // A crash leaves it asleep, and with its delta.
    let fs = fs.power_loss();
    let (engine, class) = open(&fs);
    let before = stored(&engine);
    assert_eq!(before.depth, 1);
    scattered(&fs, &engine, class);
    engine.compact().unwrap();
    let after = stored(&engine);
    assert_eq!((after.depth, after.seq), (0, before.seq));
    assert_ne!(after.head, before.head);
    let (engine, class) = open(&fs.power_loss());
    assert_eq!(Model::of(&engine.wake(class, id(200)).unwrap()), model);
}

#[test]
fn after_a_failed_write_objects_are_read_as_they_were_last_durable() {
    let fs = SimFs::new(13);
    let (engine, class) = open(&fs);
    put(&engine, class, 1, b"durable");
    fs.inject(Fault {
        operation: Operation::Write,
        name: "segment",
        after: 0,
        failure: Failure::Eio,
        lasting: false,
    });
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"value", b"unknown").unwrap();
    let ticket = object.commit().unwrap().unwrap();
    assert!(ticket.wait().is_err());
    object.put(b"value", b"refused").unwrap();
    assert!(is_stop(&object.commit().unwrap_err()));
    drop(object);
    assert_eq!(value(&engine, class, 1).unwrap().unwrap(), b"durable");
    assert!(engine.stopped().is_some());
    assert!(is_stop(&engine.checkpoint().unwrap_err()));
}

#[test]
fn a_store_is_read_without_writing_while_nobody_else_writes_it() {
    let fs = SimFs::new(14);
    let (engine, class) = open(&fs);
    put(&engine, class, 1, b"one");
    let read_only = |fs: &SimFs| builder(fs, Teeth::default()).open_read_only();
    assert!(matches!(
        read_only(&fs),
        Err(Error::Log(LogError::Locked { .. }))
    ));

    let crashed = fs.process_death();
    let before = crashed.operations();
    let looking = read_only(&crashed).unwrap();
    let class = looking.class("Room").unwrap();
    assert_eq!(value(&looking, class, 1).unwrap().unwrap(), b"one");
    let mut object = looking.wake(class, id(1)).unwrap();
    object.put(b"value", b"two").unwrap();
    assert!(matches!(
        object.commit(),
        Err(Error::Log(LogError::ReadOnly))
    ));
    drop(object);
    assert!(matches!(
        looking.class("New"),
        Err(Error::Log(LogError::ReadOnly))
    ));
    looking.close().unwrap();
    assert_eq!(crashed.operations(), before, "nothing was written");
}

#[test]
fn alarms_are_found_in_order_across_a_restart() {
    let fs = SimFs::new(15);
    let (engine, class) = open(&fs);
    let base = 1_700_000_000_000;
    for number in 1..=20u8 {
        let mut object = engine.wake(class, id(number)).unwrap();
        object.set_alarm(Alarm {
            due_ms: base + 100 - u64::from(number),
            ..Alarm::default()
        });
        commit(&mut object);
    }
    engine.checkpoint().unwrap();
    let mut object = engine.wake(class, id(20)).unwrap();
    object.clear_alarm("");
    object.put(b"so that it", b"stays").unwrap();
    commit(&mut object);
    drop(object);
    let (engine, _) = open(&fs.power_loss());
    assert!(engine.next_due().is_some_and(|due| due <= base + 81));
    let due = engine.due_until(base + 83, 10).unwrap();
    let found: Vec<_> = due.iter().map(|due| (due.due_ms - base, due.id)).collect();
    assert_eq!(found, [(81, id(19)), (82, id(18)), (83, id(17))]);
}

#[test]
fn a_name_is_kept_with_its_object_and_a_class_with_its_number() {
    let fs = SimFs::new(16);
    let (engine, class) = open(&fs);
    let mut object = engine.wake(class, id(1)).unwrap();
    object.set_name("lobby");
    object.put(b"value", b"one").unwrap();
    commit(&mut object);
    drop(object);
    let (engine, again) = open(&fs.power_loss());
    assert_eq!(again, class);
    assert_eq!(engine.wake(class, id(1)).unwrap().name(), Some("lobby"));
    let info = engine.find(&id(1)).unwrap().unwrap();
    assert_eq!((info.name.as_deref(), info.kv_count), (Some("lobby"), 1));
    assert_eq!(
        engine.class_name(class),
        Some((String::new(), "Room".to_owned()))
    );
}

#[test]
fn a_class_is_renamed_and_deleted_by_one_record_and_its_name_may_be_used_again() {
    let fs = SimFs::new(31);
    let (engine, class) = open(&fs);
    let kept = engine.class("Kept").unwrap();
    put(&engine, class, 1, b"of the deleted class");
    put(&engine, class, 2, b"left over");
    put(&engine, kept, 3, b"kept");
    let records = engine.stats().log.records;
    let (_, name) = engine.class_name(class).unwrap();
    assert!(matches!(
        engine.rename_class(kept, "", &name),
        Err(Error::Taken { .. })
    ));
    engine.rename_class(kept, "tenant", "Renamed").unwrap();
    engine.delete_class(class).unwrap();
    let fresh = engine.class(&name).unwrap();
    assert_eq!(engine.stats().log.records, records + 3);
    // Once from the log's tail, once from the manifest.
    for _ in 0..2 {
        let (engine, again) = open(&fs.power_loss());
        assert_eq!(again, fresh);
        assert_eq!(engine.class_of("tenant", "Renamed").unwrap(), kept);
        assert_eq!(value(&engine, kept, 3).unwrap().unwrap(), b"kept");
        assert_eq!(value(&engine, fresh, 1).unwrap(), None, "it is as erased");
        put(&engine, fresh, 1, b"of the new class");
        let left: Vec<_> = engine.objects_of(class, None).collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1.as_ref().unwrap().id, id(2));
        assert_eq!((engine.count_of(class), engine.count_of(fresh)), (1, 1));
        engine.close().unwrap();
    }
    engine.checkpoint().unwrap();
    let (engine, _) = open(&fs.power_loss());
    assert_eq!(
        engine.class_name(class),
        Some((DELETED_TENANT.to_owned(), name))
    );
    assert!(engine.class("Next").unwrap() > fresh);
}

#[test]
fn random_transactions_agree_with_the_model_through_sleep_and_reopening() {
    for seed in 0..20 {
        let fs = SimFs::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut models = vec![Model::default(); 4];
        let (mut engine, mut class) = open(&fs);
        for _ in 0..150 {
            let number = rng.usize(0..models.len());
            let mut object = engine.wake(class, id(number as u8)).unwrap();
            assert_eq!(Model::of(&object), models[number], "seed {seed}");
            for _ in 0..rng.usize(1..4) {
                transaction(&mut object, &mut models[number], &mut rng);
                commit(&mut object);
            }
            drop(object);
            match rng.u8(0..30) {
                0 => drop(engine.checkpoint().unwrap()),
                1 => {
                    engine.close().unwrap();
                    (engine, class) = open(&fs);
                }
                2 => {
                    drop(engine);
                    (engine, class) = open(&fs);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn threads_commit_to_a_real_disk_and_everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || {
        // Small enough that checkpoints and recycling happen in the background meanwhile.
        Engine::builder(dir.path())
            .segment_bytes(256 << 10)
            .checkpoint_bytes(256 << 10)
    };
    let engine = Arc::new(builder().open().unwrap());
    let class = engine.class("Counter").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let engine = engine.clone();
            scope.spawn(move || {
                for round in 0..100u64 {
                    for object in 0..8 {
                        let mut object = engine.wake(class, id(thread * 8 + object)).unwrap();
                        object.write_page(1, &[thread + 1; PAGE_BYTES]).unwrap();
                        object.put(b"count", &(round + 1).to_le_bytes()).unwrap();
                        let ticket = object.commit().unwrap().unwrap();
                        if round % 10 == 9 {
                            ticket.wait().unwrap();
                        }
                    }
                }
            });
        }
    });
    drop(Arc::into_inner(engine).unwrap());
    let engine = builder().open_existing().unwrap();
    for number in 0..32u8 {
        let object = engine.wake(class, id(number)).unwrap();
        let count = object.get(b"count").unwrap();
        assert_eq!(count.as_deref(), Some(&100u64.to_le_bytes()[..]));
        let page = object.page(1).unwrap();
        assert_eq!(page.as_deref(), Some(&[number / 8 + 1; PAGE_BYTES][..]));
    }
}
