//! Forks of large objects share what neither side has changed: against a model, through everything that moves,
//! ends or lets go of what is shared; and crashed while they are made and filled.

use std::sync::Arc;
use std::time::Duration;

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::{SimFs, first_failure, for_each_seed};
use dovehouse_engine::{
    Bookmark, Builder, ClassId, Engine, Error, Flaw, Object, PAGE_BYTES, Retention, Teeth,
};
use parking_lot::Mutex;

mod common;

use common::big::change;
use common::{Model, id};

const OBJECTS: u8 = 6;
const HOUR_MS: u64 = 3_600_000;
/// A clock that jumps further is not believed.
const STEP_MS: u64 = 25 * 60_000;

fn builder(fs: &SimFs, teeth: Teeth) -> Builder {
    common::builder(fs, teeth)
        .segment_bytes(128 << 10)
        .open_transaction_bytes(40 << 10)
        .retention(Retention::For(Duration::from_millis(HOUR_MS)))
}

/// A store with what its objects are, and were.
struct Run {
    fs: SimFs,
    teeth: Teeth,
    engine: Engine,
    class: ClassId,
    now: Vec<Model>,
    /// By object: when it was committed, and what it was.
    then: Vec<(u8, Bookmark, u64, Model)>,
}

impl Run {
    fn new(seed: u64, teeth: Teeth) -> Self {
        let fs = SimFs::new(seed);
        let engine = builder(&fs, teeth).open().unwrap();
        let class = engine.class("Test").unwrap();
        let now = vec![Model::default(); usize::from(OBJECTS)];
        let then = Vec::new();
        Run {
            fs,
            teeth,
            engine,
            class,
            now,
            then,
        }
    }

    fn wake(&self, number: u8) -> Object {
        self.engine.wake(self.class, id(number)).unwrap()
    }

    fn note(&mut self, number: u8, bookmark: Bookmark) {
        let model = self.now[usize::from(number)].clone();
        self.then.push((number, bookmark, self.fs.now_ms(), model));
    }

    /// Some commits of an object.
    fn change(&mut self, number: u8, rng: &mut fastrand::Rng) {
        let mut object = self.wake(number);
        for _ in 0..rng.usize(1..6) {
            let model = &mut self.now[usize::from(number)];
            for _ in 0..rng.usize(1..4) {
                change(&mut object, model, rng).unwrap();
            }
            common::commit(&mut object);
            // One that was never committed has none.
            if let Ok(bookmark) = object.bookmark() {
                self.note(number, bookmark);
            }
        }
    }

    fn fork(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        let to = rng.u8(..OBJECTS);
        if self.then.is_empty() || self.now[usize::from(to)] != Model::default() {
            return Ok(());
        }
        // Old points are as likely as new ones.
        let (number, bookmark, at_ms, model) = self.then[rng.usize(..self.then.len())].clone();
        match self.engine.fork(&id(number), &bookmark, id(to), true) {
            Ok(ticket) => {
                if let Some(ticket) = ticket {
                    ticket.wait().map_err(|error| error.to_string())?;
                    self.now[usize::from(to)] = model;
                    let bookmark = self.engine.bookmark(&id(to)).unwrap();
                    self.note(to, bookmark);
                }
                Ok(())
            }
            Err(Error::NotAvailable { .. }) if self.is_old(at_ms) => Ok(()),
            Err(error) => Err(format!("fork of {number}: {error}")),
        }
    }

    /// Whether nothing is promised of a commit that was newer than this for the last time then.
    fn is_old(&self, at_ms: u64) -> bool {
        at_ms + HOUR_MS <= self.fs.now_ms()
    }

    fn step(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        let number = rng.u8(..OBJECTS);
        match rng.u8(0..16) {
            0..6 => self.change(number, rng),
            6..10 => self.fork(rng)?,
            10 => {
                let mut object = self.wake(number);
                object.clear(false);
                common::commit(&mut object);
                self.now[usize::from(number)] = Model::default();
            }
            11 => self.fs.advance(rng.u64(1..STEP_MS)),
            12 => drop(self.engine.checkpoint().unwrap()),
            13 => drop(self.engine.compact().unwrap()),
            14 => self.engine.keep_up().unwrap(),
            _ => {
                self.fs = self.fs.power_loss();
                self.engine = builder(&self.fs, self.teeth).open().unwrap();
            }
        }
        Ok(())
    }

    /// All that is, and a few of what was.
    fn check(&self, rng: &mut fastrand::Rng) -> Result<(), String> {
        for (number, model) in (0..).zip(&self.now) {
            if Model::of(&self.wake(number)) != *model {
                return Err(format!("object {number} is not what it was made"));
            }
        }
        for _ in 0..4.min(self.then.len()) {
            let (number, bookmark, at_ms, model) = &self.then[rng.usize(..self.then.len())];
            match self.engine.past(&id(*number), bookmark) {
                Ok(past) if Model::of(&past) == *model => {}
                Ok(_) => return Err(format!("object {number} was not what it was")),
                Err(Error::NotAvailable { .. }) if self.is_old(*at_ms) => {}
                Err(error) => return Err(format!("object {number} as it was: {error}")),
            }
        }
        Ok(())
    }
}

fn forked(seed: u64, teeth: Teeth) -> Result<usize, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut run = Run::new(seed, teeth);
    let mut most = 0;
    for _ in 0..rng.usize(10..70) {
        run.step(&mut rng)?;
        if rng.bool() {
            run.check(&mut rng)?;
        }
        most = run.engine.stats().history.forks.max(most);
    }
    // Everything becomes old: forks are filled, and what they were made of is let go of.
    for _ in 0..12 {
        run.fs.advance(STEP_MS);
        run.engine.keep_up().unwrap();
        run.engine.checkpoint().unwrap();
        run.check(&mut rng)?;
    }
    match run.engine.stats().history.forks {
        0 => Ok(most),
        left => Err(format!("{left} forks still keep history")),
    }
}

#[test]
fn forks_are_what_they_were_made_of_whatever_becomes_of_it() {
    let most = std::sync::atomic::AtomicUsize::new(0);
    for_each_seed(14, "-p dovehouse-engine --test forks", |seed| {
        let forks = forked(seed, Teeth::default())?;
        most.fetch_max(forks, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    });
    let most = most.into_inner();
    assert!(most > 1, "{most} forks at a time share blocks");
}

fn page(number: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    fastrand::Rng::with_seed(u64::from(number)).fill(&mut page);
    page
}

/// An object of so many pages.
fn large(run: &Run, pages: u32) -> Bookmark {
    let mut object = run.wake(0);
    for number in 1..=pages {
        object.write_page(number, &page(number)).unwrap();
    }
    object.put(b"key", b"value").unwrap();
    common::commit(&mut object);
    object.bookmark().unwrap()
}

#[test]
fn a_fork_takes_a_small_record_however_large_its_origin_is_and_erasing_it_gives_all_back() {
    let run = Run::new(1, Teeth::default());
    let bookmark = large(&run, 1500);
    run.engine.checkpoint().unwrap();
    let before = run.engine.stats();
    let ticket = run.engine.fork(&id(0), &bookmark, id(1), false).unwrap();
    ticket.unwrap().wait().unwrap();
    let after = run.engine.stats();
    let log = after.log.record_bytes + after.log.pack_bytes
        - before.log.record_bytes
        - before.log.pack_bytes;
    assert!(log < 300, "{log} bytes for a fork of 6 MB");
    assert_eq!(after.history.forks, 1);
    let mut fork = run.wake(1);
    assert_eq!(fork.page(1500).unwrap().as_deref(), Some(&page(1500)[..]));
    assert_eq!(fork.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    fork.write_page(7, &page(70)).unwrap();
    common::commit(&mut fork);
    let log = run.engine.stats().log.record_bytes - after.log.record_bytes;
    assert!(log < 3 * PAGE_BYTES as u64, "{log} bytes for a page");
    assert_eq!(run.wake(0).page(7).unwrap().as_deref(), Some(&page(7)[..]));
    fork.clear(false);
    common::commit(&mut fork);
    drop(fork);
    for _ in 0..6 {
        run.fs.advance(STEP_MS);
        run.engine.checkpoint().unwrap();
    }
    assert_eq!(run.engine.stats().history.forks, 0);
}

#[test]
fn a_class_that_shall_keep_no_history_keeps_it_until_its_forks_are_filled() {
    let mut run = Run::new(2, Teeth::default());
    let bookmark = large(&run, 200);
    let fork = run.engine.fork(&id(0), &bookmark, id(1), false).unwrap();
    fork.unwrap().wait().unwrap();
    let mut origin = run.wake(0);
    origin.clear(false);
    common::commit(&mut origin);
    drop(origin);
    run.engine.set_retention(run.class, Retention::Off).unwrap();
    assert!(
        matches!(
            run.engine.fork(&id(0), &bookmark, id(2), false),
            Err(Error::NotAvailable { .. })
        ),
        "nothing is promised any more"
    );
    for number in [1, 100, 200] {
        let found = run.wake(1).page(number).unwrap();
        assert_eq!(found.as_deref(), Some(&page(number)[..]));
    }
    for round in 0..4 {
        run.fs.advance(10);
        run.engine.keep_up().unwrap();
        run.engine.checkpoint().unwrap();
        if round == 1 {
            run.fs = run.fs.power_loss();
            run.engine = builder(&run.fs, Teeth::default()).open().unwrap();
        }
    }
    let history = run.engine.stats().history;
    assert_eq!((history.forks, history.tables), (0, 0));
    for number in [1, 100, 200] {
        let found = run.wake(1).page(number).unwrap();
        assert_eq!(found.as_deref(), Some(&page(number)[..]));
    }
}

/// Whether an object is in a state, going by its keys and some of its pages.
fn is_in(object: &Object, state: &Model, rng: &mut fastrand::Rng) -> bool {
    let count = state.pages.len() as u32;
    let some = (0..6).map(|_| rng.u32(1..=count.max(1)));
    let same_page = |number: u32| {
        let found = object.page(number).unwrap().map(|page| page.to_vec());
        found == state.pages.get(number as usize - 1).cloned().flatten()
    };
    object.page_count() == count
        && object.get(b"key").unwrap().as_deref() == state.kv.get(&b"key"[..]).map(Vec::as_slice)
        && [1, count.max(1)].into_iter().chain(some).all(same_page)
}

/// A fork is made, changed, filled and left by its origin; at each operation of the disk it is crashed.
fn crashed(seed: u64, teeth: Teeth) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut run = Run::new(seed, teeth);
    let pages = [30, 530][rng.usize(0..2)];
    let bookmark = large(&run, pages);
    run.now[0] = Model::of(&run.wake(0));
    if rng.bool() {
        run.engine.checkpoint().unwrap();
    }
    /// What each of the two may be: what was acknowledged last, and what is later.
    type Promise = [Vec<Model>; 2];
    let promise: Arc<Mutex<Promise>> = Arc::new(Mutex::new([
        vec![run.now[0].clone()],
        vec![Model::default()],
    ]));
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let (promised, note) = (promise.clone(), failure.clone());
    let mut coin = rng.fork();
    run.fs.on_operation(move |image| {
        const SAMPLE: u8 = 8;
        if coin.u8(..SAMPLE) > 0 {
            return;
        }
        let engine = match builder(&image.power_loss(), teeth).open() {
            Ok(engine) => engine,
            Err(error) => {
                note.lock().get_or_insert(error.to_string());
                return;
            }
        };
        let class = engine.class("Test").unwrap();
        for (number, states) in (0..).zip(&*promised.lock()) {
            let found = engine.wake(class, id(number)).unwrap();
            if !states.iter().any(|state| is_in(&found, state, &mut coin)) {
                let why = format!("object {number} is in a state that it never had");
                note.lock().get_or_insert(why);
            }
        }
    });
    let expect = |number: usize, model: &Model| promise.lock()[number].push(model.clone());
    let acknowledged = |number: usize| {
        let states = &mut promise.lock()[number];
        states.drain(..states.len() - 1);
    };
    expect(1, &run.now[0]);
    run.now[1] = run.now[0].clone();
    let fork = run.engine.fork(&id(0), &bookmark, id(1), false).unwrap();
    if rng.bool() {
        run.engine.checkpoint().unwrap();
    }
    fork.unwrap().wait().unwrap();
    acknowledged(1);
    for _ in 0..rng.usize(1..6) {
        let number = rng.usize(..2);
        let mut object = run.wake(number as u8);
        let written = rng.u32(1..=pages);
        object.write_page(written, &page(rng.u32(..))).unwrap();
        if rng.u8(0..6) == 0 {
            object.clear(false);
        }
        run.now[number] = Model::of(&object);
        expect(number, &run.now[number]);
        common::commit(&mut object);
        acknowledged(number);
        drop(object);
        if rng.bool() {
            run.fs.advance(rng.u64(1..2 * STEP_MS));
            run.engine.keep_up().unwrap();
        }
    }
    for _ in 0..4 {
        run.fs.advance(STEP_MS);
        run.engine.checkpoint().unwrap();
        run.engine.keep_up().unwrap();
    }
    run.fs.clear_hook();
    let failed = failure.lock().take();
    failed.map_or(Ok(()), Err)
}

#[test]
fn a_fork_is_all_there_or_not_at_all_after_a_crash_at_any_io() {
    for_each_seed(14, "-p dovehouse-engine --test forks", |seed| {
        crashed(seed, Teeth::default())
    });
}

#[test]
fn every_planted_flaw_is_found() {
    let found = first_failure(0..100, |seed| {
        forked(seed, Teeth::plant(Flaw::ForgetForks)).map(drop)
    });
    println!("{:?}: {found:?}", Flaw::ForgetForks);
    assert!(found.is_some(), "{:?} went unnoticed", Flaw::ForgetForks);
}
