//! The engine crashed at every I/O, with a model beside it.
//!
//! At operations that change the disk, crashes of all kinds are taken and recovered: each object is at a
//! commit between the last acknowledged and the last submitted one, whole; its alarm is found by the index.

use std::sync::Arc;

use dovehouse_engine::wal::Role;
use dovehouse_engine::wal::sim::{Failure, Fault, Operation, SimFs};
use dovehouse_engine::{Builder, Engine, Error, Object, Teeth, Ticket};
use parking_lot::Mutex;

use super::{Model, id, is_stop};

/// What is crashed.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) objects: u8,
    pub(crate) steps: usize,
    pub(crate) builder: fn(&SimFs, Teeth) -> Builder,
    /// Changes an object and its model. May fail once the log has stopped.
    pub(crate) transaction: fn(&mut Object, &mut Model, &mut fastrand::Rng) -> Result<(), Error>,
    /// One seed in so many is crashed at each of its operations, the others at one in `sample`.
    pub(crate) exhaustive: u64,
    pub(crate) sample: u8,
}

/// The states that an object may be found in: the last acknowledged one and all later ones.
#[derive(Clone, Debug)]
struct History {
    states: Vec<Model>,
}

type Promise = Vec<History>;

fn check(suite: Suite, disk: &SimFs, promise: &Promise, teeth: Teeth) -> Result<Promise, String> {
    let engine = (suite.builder)(disk, teeth)
        .open()
        .map_err(|error| format!("refused: {error}"))?;
    let class = engine
        .class("Test")
        .map_err(|error| format!("class: {error}"))?;
    let mut served = Promise::new();
    let mut due = Vec::new();
    for (number, history) in promise.iter().enumerate() {
        let object = engine
            .wake(class, id(number as u8))
            .map_err(|error| format!("wake: {error}"))?;
        let found = Model::of(&object);
        if !history.states.contains(&found) {
            return Err(format!(
                "object {number} is in a state that it never had or must have left"
            ));
        }
        due.extend(
            found
                .alarms
                .values()
                .min()
                .map(|due_ms| (*due_ms, object.id())),
        );
        served.push(History {
            states: vec![found],
        });
    }
    let mut times = log_times(&engine)?;
    if !times.is_sorted() {
        times.dedup();
        return Err(format!("the log's clock steps back: {times:?}"));
    }
    // Moving everything that can be moved changes nothing that anybody sees.
    engine
        .compact()
        .map_err(|error| format!("compact: {error}"))?;
    for (number, history) in served.iter().enumerate() {
        let object = engine.wake(class, id(number as u8));
        let object = object.map_err(|error| format!("wake after compaction: {error}"))?;
        if Model::of(&object) != history.states[0] {
            return Err(format!("object {number} was changed by compaction"));
        }
    }
    due.sort();
    let found = engine
        .due_until(u64::MAX, 100)
        .map_err(|error| format!("alarms: {error}"))?;
    let mut found: Vec<_> = found.iter().map(|due| (due.due_ms, due.id)).collect();
    found.sort();
    if found != due {
        return Err(format!("alarms are {found:?} instead of {due:?}"));
    }
    Ok(served)
}

/// The times of the log's batches.
fn log_times(engine: &Engine) -> Result<Vec<u64>, String> {
    let mut times = Vec::new();
    let mut segments = engine.log().segments();
    segments.retain(|segment| segment.role == Role::Log);
    for segment in segments {
        for batch in engine.log().batches(&segment) {
            let batch = batch.map_err(|error| format!("a batch: {error}"))?;
            times.push(batch.header.time_ms);
        }
    }
    Ok(times)
}

/// All that can happen to a disk from one moment on.
fn crash(
    suite: Suite,
    image: SimFs,
    promise: &Promise,
    teeth: Teeth,
    nested: bool,
) -> Result<(), String> {
    for disk in [image.process_death(), image.power_loss()] {
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        if nested {
            let (note, held) = (failure.clone(), promise.clone());
            disk.on_operation(move |again| {
                for second in [again.process_death().power_loss(), again.power_loss()] {
                    if let Err(error) = check(suite, &second, &held, teeth) {
                        note.lock().get_or_insert(format!("crashed again: {error}"));
                    }
                }
            });
        }
        let served = check(suite, &disk, promise, teeth)?;
        disk.clear_hook();
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        // What was served is a promise from now on.
        check(suite, &disk.power_loss(), &served, teeth)
            .map_err(|error| format!("after serving: {error}"))?;
    }
    Ok(())
}

struct Run<'a> {
    suite: Suite,
    fs: &'a SimFs,
    engine: Engine,
    awake: Vec<Option<Object>>,
    current: Vec<Model>,
    waiting: Vec<(usize, usize, Ticket)>,
    promise: &'a Mutex<Promise>,
}

impl Run<'_> {
    fn step(&mut self, rng: &mut fastrand::Rng) -> Result<(), Error> {
        let number = rng.usize(0..usize::from(self.suite.objects));
        if self.awake[number].is_none() {
            let class = self.engine.class("Test")?;
            let object = self.engine.wake(class, id(number as u8))?;
            let found = Model::of(&object);
            if found != self.current[number] {
                // Reads go on from the durable state after a failed write, but only then.
                self.acknowledge()?;
                assert_eq!(
                    found, self.current[number],
                    "object {number} woke up changed"
                );
            }
            self.awake[number] = Some(object);
        }
        let object = self.awake[number].as_mut().expect("it is awake");
        let mut next = self.current[number].clone();
        (self.suite.transaction)(object, &mut next, rng)?;
        if rng.u8(0..6) == 0 {
            object.rollback();
            assert_eq!(
                Model::of(object),
                self.current[number],
                "a rollback takes everything back"
            );
        } else {
            // Promised before it is published: a crash may find it from then on.
            self.promise.lock()[number].states.push(next.clone());
            let count = self.promise.lock()[number].states.len();
            self.current[number] = next;
            if let Some(ticket) = object.commit()? {
                self.waiting.push((number, count - 1, ticket));
            }
        }
        if rng.u8(0..4) == 0 {
            self.engine.lay_out_queued();
        }
        if rng.u8(0..6) == 0 {
            // Up to a year away, at either end of the present.
            self.fs
                .set_now_ms(rng.u64(1_670_000_000_000..1_730_000_000_000));
        }
        match rng.u8(0..10) {
            0..3 => self.acknowledge()?,
            3 => self.awake[number] = None,
            4 => drop(self.engine.checkpoint()?),
            5 => drop(self.engine.compact()?),
            _ => {}
        }
        Ok(())
    }

    /// Waits for what is under way: from now on only these states and later ones will do.
    fn acknowledge(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        for (_, _, ticket) in &waiting {
            ticket.wait()?;
        }
        let mut promise = self.promise.lock();
        let mut dropped = vec![0; promise.len()];
        for (number, index, _) in waiting {
            promise[number].states.drain(..index - dropped[number]);
            dropped[number] = index;
        }
        Ok(())
    }
}

/// One run of a seed.
pub(crate) fn run(suite: Suite, seed: u64, teeth: Teeth) -> Result<(), String> {
    let fs = SimFs::new(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let promise: Arc<Mutex<Promise>> = Arc::new(Mutex::new(
        (0..suite.objects)
            .map(|_| History {
                states: vec![Model::default()],
            })
            .collect(),
    ));
    let failure: Arc<Mutex<Option<String>>> = Arc::default();

    let (note, held) = (failure.clone(), promise.clone());
    let (mut sampler, every) = (rng.fork(), seed.is_multiple_of(suite.exhaustive));
    fs.on_operation(move |image| {
        // In some seeds every operation gets its crash, in the others a part of them.
        if note.lock().is_none() && (every || sampler.u8(0..suite.sample) == 0) {
            let promise = held.lock().clone();
            if let Err(error) = crash(suite, image, &promise, teeth, sampler.u8(0..8) == 0) {
                *note.lock() = Some(error);
            }
        }
    });
    if rng.u8(0..5) == 0 {
        let (operation, name) = [
            (Operation::Write, "segment"),
            (Operation::Sync, "slots"),
            (Operation::Write, "SUPER"),
        ][rng.usize(0..3)];
        let after = rng.u64(0..60);
        fs.inject(Fault {
            operation,
            name,
            after,
            failure: Failure::Eio,
            lasting: false,
        });
    }

    let opened = (suite.builder)(&fs, teeth).open();
    let outcome = opened.and_then(|engine| {
        let mut run = Run {
            suite,
            fs: &fs,
            engine,
            awake: (0..suite.objects).map(|_| None).collect(),
            current: vec![Model::default(); usize::from(suite.objects)],
            waiting: Vec::new(),
            promise: &promise,
        };
        (0..rng.usize(10..suite.steps)).try_for_each(|_| run.step(&mut rng))
    });
    if let Some(error) = failure.lock().take() {
        return Err(error);
    }
    if let Err(error) = outcome.as_ref()
        && !is_stop(error)
    {
        return Err(format!("unexpected: {error}"));
    }
    fs.clear_hook();
    let promise = promise.lock().clone();
    crash(suite, fs, &promise, teeth, true)
}
