//! Every commit of random histories can be had again: through crashes, compaction, erasing, forms that change, and
//! clocks that jump.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_engine::wal::fs::{File, Fs, LockGuard, LockKind, Mode};
use dovehouse_engine::wal::sim::{SimFs, first_failure, for_each_seed};
use dovehouse_engine::{Bookmark, Builder, ClassId, Engine, Error, Flaw, Object, Retention, Teeth};
use parking_lot::Mutex;

mod common;

use common::{Model, id};

/// What is acknowledged of an object: its states by the number of the commit, with the times.
#[derive(Clone, Default)]
struct Past {
    states: BTreeMap<u64, (Model, u64, Bookmark)>,
}

impl Past {
    fn at(&self, seq: u64) -> Model {
        let before = self.states.range(..=seq).next_back();
        before.map_or_else(Model::default, |(_, (model, ..))| model.clone())
    }

    fn at_time(&self, time_ms: u64) -> Model {
        let mut before = self
            .states
            .values()
            .filter(|(_, at_ms, _)| *at_ms <= time_ms);
        before
            .next_back()
            .map_or_else(Model::default, |(model, ..)| model.clone())
    }
}

type Pasts = Vec<Past>;
type Change = fn(&mut Object, &mut Model, &mut fastrand::Rng);

#[derive(Clone, Copy)]
struct Suite {
    builder: fn(&SimFs, Teeth) -> Builder,
    change: Change,
    steps: usize,
    objects: u8,
    /// One operation in so many is crashed at.
    sample: u16,
}

fn open(suite: Suite, fs: &SimFs, teeth: Teeth) -> (Engine, ClassId) {
    let engine = (suite.builder)(fs, teeth).open().unwrap();
    let class = engine.class("Room").unwrap();
    (engine, class)
}

/// That the engine has all of these states, by bookmark and by time.
fn check(engine: &Engine, pasts: &Pasts) -> Result<(), String> {
    for (number, past) in pasts.iter().enumerate() {
        let id = id(number as u8);
        if past.states.is_empty() {
            continue;
        }
        let told = |what: String| move |error: Error| format!("object {number}, {what}: {error}");
        for (seq, (model, time_ms, bookmark)) in &past.states {
            let object = engine
                .past(&id, bookmark)
                .map_err(told(format!("commit {seq}")))?;
            if Model::of(&object) != *model {
                return Err(format!(
                    "object {number} at commit {seq} was {model:?}, not {:?}",
                    Model::of(&object)
                ));
            }
            for time_ms in [time_ms - 1, *time_ms, time_ms + 1] {
                let found = match engine.bookmark_at(&id, time_ms) {
                    // The clock was set back since.
                    Err(Error::NotAvailable { .. }) if time_ms > engine.now_ms() => continue,
                    found => found.map_err(told(format!("at {time_ms}")))?,
                };
                if past.at(found.seq()) != past.at_time(time_ms) {
                    let listed: Vec<_> = engine
                        .history(&id)
                        .unwrap()
                        .map(|moment| {
                            moment
                                .map(|moment| (moment.bookmark.seq(), moment.time_ms))
                                .unwrap()
                        })
                        .collect();
                    let told: Vec<_> = past
                        .states
                        .iter()
                        .map(|(seq, (_, ms, _))| (seq, ms))
                        .collect();
                    return Err(format!(
                        "object {number} at {time_ms} ms: commit {} of {listed:?}, known {told:?}",
                        found.seq()
                    ));
                }
            }
        }
        let mut seq = 0;
        for moment in engine.history(&id).map_err(told("history".into()))? {
            let moment = moment.map_err(told("history".into()))?;
            seq += 1;
            if moment.bookmark.seq() != seq {
                return Err(format!("object {number}: commit {seq} is missing"));
            }
        }
        let newest = past.states.last_key_value().map_or(0, |(seq, _)| *seq);
        if seq < newest {
            return Err(format!(
                "object {number}: history ends at {seq} of {newest}"
            ));
        }
    }
    Ok(())
}

fn run(suite: Suite, seed: u64, teeth: Teeth) -> Result<(), String> {
    let mut fs = SimFs::new(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let pasts: Arc<Mutex<Pasts>> =
        Arc::new(Mutex::new(vec![Past::default(); suite.objects.into()]));
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let hook = |fs: &SimFs, mut sampler: fastrand::Rng| {
        let (note, held) = (failure.clone(), pasts.clone());
        fs.on_operation(move |image| {
            if note.lock().is_none() && sampler.u16(0..suite.sample) == 0 {
                let disk = match sampler.bool() {
                    true => image.process_death(),
                    false => image.power_loss(),
                };
                let (engine, _) = open(suite, &disk, teeth);
                let known = held.lock().clone();
                let outcome = check(&engine, &known);
                if let Err(error) = outcome {
                    *note.lock() = Some(format!("after a crash: {error}"));
                }
            }
        });
    };
    hook(&fs, rng.fork());
    let (mut engine, mut class) = open(suite, &fs, teeth);
    let mut log_ms = fs_now(&fs);
    for _ in 0..rng.usize(5..suite.steps) {
        let number = rng.usize(0..usize::from(suite.objects));
        let mut object = engine.wake(class, id(number as u8)).unwrap();
        for _ in 0..rng.usize(1..6) {
            let now_ms = fs_now(&fs);
            if rng.u8(0..8) == 0 {
                // A year back or forth.
                fs.set_now_ms(rng.u64(1_670_000_000_000..1_730_000_000_000));
            } else {
                fs.advance(rng.u64(0..3));
            }
            let past = pasts.lock()[number].clone();
            let mut model = Model::of(&object);
            match rng.u8(0..8) {
                0 if !past.states.is_empty() => {
                    let chosen = rng.usize(0..past.states.len());
                    let (then, _, bookmark) = past.states.values().nth(chosen).unwrap();
                    let with_alarms = rng.bool();
                    object
                        .restore(bookmark, with_alarms)
                        .map_err(|error| format!("restore: {error}"))?;
                    let alarms = match with_alarms {
                        true => then.alarms.clone(),
                        false => model.alarms,
                    };
                    model = Model {
                        alarms,
                        ..then.clone()
                    };
                }
                _ => (suite.change)(&mut object, &mut model, &mut rng),
            }
            let before = object.seq();
            match object.commit().unwrap() {
                Some(ticket) => {
                    ticket.wait().unwrap();
                    log_ms = fs_now(&fs).max(log_ms);
                }
                // The log has not seen this time.
                None => fs.set_now_ms(now_ms),
            }
            if Model::of(&object) != model {
                return Err(format!("object {number} is not what was committed"));
            }
            if object.seq() > before {
                let bookmark = object.bookmark().unwrap();
                let text = bookmark.to_string();
                let state = (model, log_ms, text.parse().unwrap());
                pasts.lock()[number].states.insert(object.seq(), state);
            }
        }
        drop(object);
        match rng.u8(0..12) {
            0 => drop(engine.checkpoint().unwrap()),
            1 => drop(engine.compact().unwrap()),
            2 => engine.keep_up().unwrap(),
            3 => {
                fs.clear_hook();
                drop(engine);
                fs = if rng.bool() {
                    fs.process_death()
                } else {
                    fs.power_loss()
                };
                hook(&fs, rng.fork());
                (engine, class) = open(suite, &fs, teeth);
            }
            4 => {
                let known = pasts.lock().clone();
                check(&engine, &known)?;
            }
            _ => {}
        }
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
    }
    let known = pasts.lock().clone();
    check(&engine, &known)
}

fn fs_now(fs: &SimFs) -> u64 {
    fs.now_ms()
}

const TINY: Suite = Suite {
    builder: |fs, teeth| common::builder(fs, teeth).retention(Retention::Forever),
    change: common::transaction,
    steps: 60,
    objects: 3,
    sample: 200,
};

#[test]
fn every_commit_of_a_small_object_can_be_had_again() {
    for_each_seed(25, "-p dovehouse-engine --test history", |seed| {
        run(TINY, seed, Teeth::default())
    });
}

/// Little memory and a low limit of tiny objects, so that they cross it.
const BIG: Suite = Suite {
    builder: |fs, teeth| {
        common::builder(fs, teeth)
            .segment_bytes(128 << 10)
            .open_transaction_bytes(40 << 10)
            .retention(Retention::Forever)
    },
    change: |object, model, rng| {
        for _ in 0..rng.usize(1..4) {
            common::big::change(object, model, rng).unwrap();
        }
    },
    steps: 40,
    objects: 2,
    sample: 400,
};

#[test]
fn every_commit_of_a_big_object_can_be_had_again() {
    for_each_seed(10, "-p dovehouse-engine --test history", |seed| {
        run(BIG, seed, Teeth::default())
    });
}

/// Each flaw comes with a seed that has found it; the search goes on from there.
#[test]
fn every_planted_flaw_is_found() {
    for (suite, flaw, from) in [
        (TINY, Flaw::FreeBeforeHistory, 44),
        (BIG, Flaw::FreeBeforeHistory, 86),
        (BIG, Flaw::ForgetLeavesEarly, 0),
    ] {
        let found = first_failure(from..from + 400, |seed| {
            run(suite, seed, Teeth::plant(flaw))
        });
        println!("{flaw:?}: {found:?}");
        assert!(found.is_some(), "{flaw:?} went unnoticed");
    }
}

fn put(engine: &Engine, class: ClassId, key: &[u8], value: &[u8]) -> Bookmark {
    let mut object = engine.wake(class, id(0)).unwrap();
    object.put(key, value).unwrap();
    common::commit(&mut object);
    drop(object);
    // What it wrote to fall asleep is durable when it wakes.
    drop(engine.wake(class, id(0)).unwrap());
    engine.bookmark(&id(0)).unwrap()
}

fn value_at(engine: &Engine, bookmark: &Bookmark) -> Result<Option<Vec<u8>>, Error> {
    let object = engine.past(&id(0), bookmark)?;
    Ok(object.get(b"key")?.map(|value| value.into_owned()))
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// Commits every few seconds for two days and a bit, with checkpoints and merges in between.
#[test]
fn thinning_keeps_the_last_state_of_each_minute_and_everything_of_the_last_day() {
    for (seed, large) in [(1, false), (2, true)] {
        let fs = SimFs::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let open = || common::builder(&fs, Teeth::default()).open().unwrap();
        let mut engine = open();
        let class = engine.class("Room").unwrap();
        engine.set_thinning(class, true).unwrap();
        fs.set_now_ms((1_700_000_000_000 / DAY_MS + 1) * DAY_MS);
        let mut states: Vec<(u64, Model, Bookmark)> = Vec::new();
        let mut object = engine.wake(class, id(0)).unwrap();
        if large {
            object.put(b"large", &vec![7; 40_000]).unwrap();
        }
        let mut model = Model::of(&object);
        let steps = if large { 500 } else { 3000 };
        let advance_ms = 2 * DAY_MS / steps + 4 * MINUTE_MS / steps;
        for step in 0..steps {
            // Several in some minutes, none in others.
            let pause = if step % 40 == 0 {
                40 * advance_ms - 39 * 7_000
            } else {
                7_000
            };
            fs.advance(pause);
            let (key, value) = (vec![b'k', rng.u8(0..9)], vec![rng.u8(..); rng.usize(0..50)]);
            object.put(&key, &value).unwrap();
            model.kv.insert(key, value);
            if let Some(ticket) = object.commit().unwrap() {
                ticket.wait().unwrap();
                states.push((fs_now(&fs), model.clone(), object.bookmark().unwrap()));
            }
            if step % 400 == 399 {
                drop(object);
                engine.keep_up().unwrap();
                engine.checkpoint().unwrap();
                if step % 800 == 799 {
                    drop(engine);
                    engine = open();
                }
                object = engine.wake(class, id(0)).unwrap();
            }
        }
        drop(object);
        fs.advance(if large { 3 * DAY_MS / 2 } else { DAY_MS / 2 });
        for _ in 0..4 {
            engine.keep_up().unwrap();
            engine.checkpoint().unwrap();
        }
        let (mut thinned_out, now_ms) = (0, fs_now(&fs));
        for (at, (time_ms, model, bookmark)) in states.iter().enumerate() {
            let next = states.get(at + 1);
            let is_last = next.is_none_or(|(next, ..)| next / MINUTE_MS > time_ms / MINUTE_MS);
            let is_recent = time_ms + DAY_MS > now_ms;
            match engine.past(&id(0), bookmark) {
                Ok(object) => assert_eq!(Model::of(&object), *model, "seed {seed}, {time_ms}"),
                // Falling asleep is a commit, too: the same state may have a later one.
                Err(Error::NotAvailable { .. }) if !is_recent => thinned_out += 1,
                Err(error) => panic!("seed {seed}, {time_ms}: {error}"),
            }
            if is_last {
                let found = engine.bookmark_at(&id(0), *time_ms).unwrap();
                assert_eq!(Model::of(&engine.past(&id(0), &found).unwrap()), *model);
            }
        }
        assert!(
            thinned_out > states.len() / 4,
            "{thinned_out} of {}",
            states.len()
        );
    }
}

#[test]
fn what_is_too_old_is_let_go_of_with_an_error_that_says_what_is_left() {
    let fs = SimFs::new(3);
    let hour = std::time::Duration::from_secs(3600);
    let engine = common::builder(&fs, Teeth::default())
        .retention(Retention::For(hour))
        .open()
        .unwrap();
    let class = engine.class("Room").unwrap();
    let first = put(&engine, class, b"key", b"1");
    let second = put(&engine, class, b"key", b"2");
    engine.checkpoint().unwrap();
    // Steps that a clock takes by itself: one that jumps is not believed.
    for _ in 0..3 {
        fs.advance(25 * MINUTE_MS);
        engine.checkpoint().unwrap();
    }
    let third = put(&engine, class, b"key", b"3");
    engine.checkpoint().unwrap();
    match value_at(&engine, &first) {
        Err(Error::NotAvailable {
            first,
            newest,
            since_ms,
            ..
        }) => {
            assert!(first > second && first <= third && newest == third);
            assert!(since_ms.is_some());
        }
        found => panic!("{found:?}"),
    }
    assert_eq!(
        value_at(&engine, &second).unwrap().unwrap(),
        b"2",
        "it lasted until now"
    );
    assert!(matches!(
        engine.bookmark_at(&id(0), fs_now(&fs) - 70 * MINUTE_MS - 25 * MINUTE_MS),
        Err(Error::NotAvailable { .. })
    ));
    assert_eq!(engine.bookmark_at(&id(0), fs_now(&fs)).unwrap(), third);
    assert!(matches!(
        engine.bookmark_at(&id(0), fs_now(&fs) + 1),
        Err(Error::NotAvailable { .. })
    ));
}

/// A disk whose wall clock somebody sets: that takes no time.
#[derive(Debug)]
struct SetClock {
    disk: SimFs,
    ahead_ms: AtomicU64,
}

impl Fs for SetClock {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        self.disk.open(path, mode)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path, kind)
    }

    fn now_ms(&self) -> u64 {
        self.disk.now_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }

    fn elapsed_us(&self) -> u64 {
        self.disk.elapsed_us()
    }

    fn random_u64(&self) -> u64 {
        self.disk.random_u64()
    }
}

#[test]
fn a_clock_that_was_set_forward_by_much_lets_nothing_go() {
    let fs = Arc::new(SetClock {
        disk: SimFs::new(8),
        ahead_ms: AtomicU64::new(0),
    });
    let builder = || common::builder(&fs.disk, Teeth::default()).fs(fs.clone());
    let engine = builder().open().unwrap();
    let class = engine.class("Room").unwrap();
    let first = put(&engine, class, b"key", b"1");
    put(&engine, class, b"key", b"2");
    engine.checkpoint().unwrap();
    fs.ahead_ms.store(40 * DAY_MS, Ordering::Relaxed);
    engine.checkpoint().unwrap();
    put(&engine, class, b"key", b"3");
    engine.checkpoint().unwrap();
    assert_eq!(value_at(&engine, &first).unwrap().unwrap(), b"1");
    // Whoever opens the store with that clock means it.
    engine.close().unwrap();
    drop(engine);
    let engine = builder().open().unwrap();
    engine.checkpoint().unwrap();
    assert!(matches!(
        value_at(&engine, &first),
        Err(Error::NotAvailable { .. })
    ));
}

#[test]
fn a_bookmark_of_another_object_or_of_another_life_is_refused() {
    let fs = SimFs::new(4);
    let (engine, class) = common::open(&fs);
    let bookmark = put(&engine, class, b"key", b"1");
    common::put(&engine, class, 1, b"other");
    let refused = |engine: &Engine, id| {
        matches!(
            engine.past(&id, &bookmark),
            Err(Error::WrongBookmark { .. })
        )
    };
    assert!(refused(&engine, id(1)));
    assert!(matches!(
        engine.past(&id(9), &bookmark),
        Err(Error::NoObject { .. })
    ));
    let mut object = engine.wake(class, id(0)).unwrap();
    object.clear(false);
    common::commit(&mut object);
    drop(object);
    engine.compact().unwrap();
    assert_eq!(
        value_at(&engine, &bookmark).unwrap().unwrap(),
        b"1",
        "erased, not forgotten"
    );
    put(&engine, class, b"key", b"again");
    assert_eq!(
        value_at(&engine, &bookmark).unwrap().unwrap(),
        b"1",
        "and made again"
    );
    let mut object = engine.wake(class, id(0)).unwrap();
    object.clear(false);
    common::commit(&mut object);
    drop(object);
    engine.set_retention(class, Retention::Off).unwrap();
    engine.compact().unwrap();
    put(&engine, class, b"key", b"another life");
    assert!(refused(&engine, id(0)));
}

#[test]
fn a_past_object_cannot_be_changed_and_a_fork_goes_its_own_way() {
    let fs = SimFs::new(5);
    let (engine, class) = common::open(&fs);
    let first = put(&engine, class, b"key", b"1");
    let mut past = engine.past(&id(0), &first).unwrap();
    let second = put(&engine, class, b"key", b"2");
    past.put(b"key", b"else").unwrap();
    assert!(matches!(past.commit(), Err(Error::Past { .. })));
    drop(past);
    engine
        .fork(&id(0), &first, id(1), false)
        .unwrap()
        .unwrap()
        .wait()
        .unwrap();
    assert!(matches!(
        engine.fork(&id(0), &first, id(1), false),
        Err(Error::NotEmpty { .. })
    ));
    let value = |number| {
        let object = engine.wake(class, id(number)).unwrap();
        object.get(b"key").unwrap().map(|value| value.into_owned())
    };
    assert_eq!(
        (value(0).unwrap(), value(1).unwrap()),
        (b"2".to_vec(), b"1".to_vec())
    );
    assert!(matches!(
        engine.past(&id(1), &second),
        Err(Error::WrongBookmark { .. })
    ));
    let mut object = engine.wake(class, id(0)).unwrap();
    object.put(b"key", b"open").unwrap();
    assert!(matches!(
        object.restore(&first, false),
        Err(Error::OpenTransaction)
    ));
}
