//! Damage on the disk: it costs the objects that it hits, is reported, and is never taken for absence.

use std::path::Path;

use dovehouse_engine::wal::Error as LogError;
use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Engine, Error, Teeth};

mod common;

use common::{builder, commit, id, open, put, value};

#[test]
fn damage_to_one_object_costs_that_object_and_nothing_else() {
    let fs = SimFs::new(10);
    let (engine, class) = open(&fs);
    for number in 1..=3 {
        put(&engine, class, number, &[number; 500]);
    }
    let hurt = engine.objects().nth(1).unwrap().unwrap();
    engine.close().unwrap();
    let head = hurt.entry.head;
    let path = Path::new("store").join(format!("segment-{:08}", head.segno()));
    fs.rot(&path, u64::from(head.offset()) + 30, |byte| *byte ^= 1);

    let (engine, class) = open(&fs.process_death());
    let error = value(&engine, class, 2).unwrap_err();
    assert!(
        matches!(error, Error::Log(LogError::Corrupt { .. })),
        "{error}"
    );
    assert_eq!(value(&engine, class, 1).unwrap().unwrap(), [1; 500]);
    assert_eq!(value(&engine, class, 3).unwrap().unwrap(), [3; 500]);
    assert_eq!(engine.objects().filter(Result::is_err).count(), 1);
}

#[test]
fn damage_to_an_index_entry_is_reported_and_never_taken_for_absence() {
    let fs = SimFs::new(11);
    let (engine, class) = open(&fs);
    put(&engine, class, 1, b"one");
    let slot = engine.objects().next().unwrap().unwrap().slot;
    engine.close().unwrap();
    fs.rot(
        &Path::new("store").join("slots"),
        slot.get() * 32 + 3,
        |byte| *byte ^= 1,
    );
    let (engine, class) = open(&fs.process_death());
    let error = value(&engine, class, 1).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_lost_bucket_of_the_id_table_is_reported_and_never_taken_for_absence() {
    let fs = SimFs::new(12);
    let (engine, class) = open(&fs);
    put(&engine, class, 1, b"one");
    engine.close().unwrap();
    let path = Path::new("store").join("ids");
    let content = fs.content(&path).unwrap();
    for at in (8..content.len().min(4096)).filter(|at| content[*at] != 0) {
        fs.rot(&path, at as u64, |byte| *byte = 0);
    }
    let (engine, class) = open(&fs.process_death());
    let error = value(&engine, class, 1).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// Three objects with two commits each, one batch for each commit, none of them in a checkpoint; and where
/// the batches of the second commits start.
fn store_with_a_tail(seed: u64) -> (SimFs, [u64; 3]) {
    let fs = SimFs::new(seed);
    let (engine, class) = open(&fs);
    (1..=3).for_each(|number| put(&engine, class, number, b"first"));
    let mut objects: Vec<_> = (1..=3)
        .map(|number| engine.wake(class, id(number)).unwrap())
        .collect();
    let starts = [0, 1, 2].map(|at| {
        objects[at].put(b"value", b"second").unwrap();
        commit(&mut objects[at]);
        let log = engine.log();
        let segment = log.segments().pop().unwrap();
        let last = log.batches(&segment).last().unwrap().unwrap();
        u64::from(last.header.lsn.offset())
    });
    (fs.process_death(), starts)
}

#[test]
fn damage_in_the_tail_refuses_the_open_with_names_and_costs_only_what_it_hits() {
    let (fs, starts) = store_with_a_tail(40);
    let path = Path::new("store/segment-00000001");
    // In the value of the second object's second commit.
    let content = fs.content(path).unwrap();
    let from = starts[1] as usize;
    let value = content[from..]
        .windows(6)
        .position(|bytes| bytes == b"second")
        .unwrap();
    fs.rot(path, (from + value) as u64, |byte| *byte ^= 0x40);
    let refused = builder(&fs, Teeth::default()).open().unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("segment-00000001"), "{message}");
    assert!(message.contains(&id(2).to_string()), "{message}");
    let Error::DamagedLog { cause, objects } = refused else {
        panic!("{message}");
    };
    assert!(matches!(cause, LogError::Corrupt { offset, .. } if offset == starts[1]));
    assert_eq!(objects, Some(vec![id(2)]));

    let engine = builder(&fs, Teeth::default()).open_damaged().unwrap();
    let class = engine.class("Room").unwrap();
    assert_eq!(value_of(&engine, class, 1), b"second");
    assert_eq!(value_of(&engine, class, 3), b"second");
    assert!(matches!(
        engine.wake(class, id(2)),
        Err(Error::Damaged { .. })
    ));
    let mut object = engine.wake(class, id(1)).unwrap();
    object.put(b"value", b"third").unwrap();
    assert!(matches!(
        object.commit(),
        Err(Error::Log(LogError::ReadOnly))
    ));
}

fn value_of(engine: &Engine, class: ClassId, number: u8) -> Vec<u8> {
    value(engine, class, number).unwrap().unwrap()
}

#[test]
fn damage_that_hides_whose_it_is_puts_all_in_doubt_but_those_seen_behind_it() {
    let (fs, starts) = store_with_a_tail(41);
    let path = Path::new("store/segment-00000001");
    for offset in starts[1]..starts[1] + 200 {
        fs.rot(path, offset, |byte| *byte = 0xAA);
    }
    let refused = builder(&fs, Teeth::default()).open().unwrap_err();
    assert!(matches!(refused, Error::DamagedLog { objects: None, .. }));
    let engine = builder(&fs, Teeth::default()).open_damaged().unwrap();
    let class = engine.class("Room").unwrap();
    assert_eq!(value_of(&engine, class, 3), b"second", "committed later");
    for number in [1, 2] {
        let woken = engine.wake(class, id(number));
        assert!(matches!(woken, Err(Error::Damaged { .. })), "{number}");
    }
}

/// Mistake 17, from the outside: whatever byte of whatever file flips, nothing panics, and no object is ever
/// in a state that it did not commit.
#[test]
fn a_flipped_byte_anywhere_is_an_error_or_changes_nothing_that_was_committed() {
    let fs = SimFs::new(70);
    let (engine, class) = open(&fs);
    let mut history = vec![Vec::new(); 12];
    for round in 0..12_u8 {
        for number in 0..12_u8 {
            if (number + round) % 3 == 0 {
                let content = [number, round].repeat(40 + usize::from(round) * 9);
                put(&engine, class, number, &content);
                history[usize::from(number)].push(Some(content));
            }
        }
        match round {
            4 | 8 => drop(engine.compact().unwrap()),
            6 => drop(engine.checkpoint().unwrap()),
            _ => {}
        }
    }
    let killed = fs.process_death();
    engine.close().unwrap();
    // Damage is met when an object is read, and when the log's tail is replayed.
    let (_, failed) = flip_bytes(&fs, &history);
    // A bucket of ids that the tail touches may be torn: no damage to it is seen until a checkpoint.
    for known in &mut history {
        known.push(None);
    }
    let (refused, _) = flip_bytes(&killed, &history);
    assert!(
        refused > 20 && failed > 20,
        "{refused} opens, {failed} reads"
    );
}

/// Flips bits all over a store, one at a time. Returns how many opens and how many reads failed.
fn flip_bytes(fs: &SimFs, history: &[Vec<Option<Vec<u8>>>]) -> (usize, usize) {
    let mut rng = fastrand::Rng::with_seed(17);
    let (mut refused, mut failed) = (0, 0);
    for name in fs.list(Path::new("store")).unwrap() {
        let path = Path::new("store").join(name);
        let content = fs.content(&path).unwrap();
        let used: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
        for _ in 0..if used.is_empty() { 0 } else { 100 } {
            let (at, bit) = (used[rng.usize(0..used.len())], rng.u8(0..8));
            let fs = fs.process_death();
            fs.rot(&path, at as u64, |byte| *byte ^= 1 << bit);
            let Ok(engine) = builder(&fs, Teeth::default()).open() else {
                refused += 1;
                continue;
            };
            for (number, known) in (0..).zip(history) {
                let class = engine.class("Room");
                match class.and_then(|class| value(&engine, class, number)) {
                    Err(_) => failed += 1,
                    Ok(found) => assert!(
                        known.contains(&found),
                        "object {number} with bit {bit} of byte {at} of {} flipped",
                        path.display()
                    ),
                }
            }
        }
    }
    (refused, failed)
}
