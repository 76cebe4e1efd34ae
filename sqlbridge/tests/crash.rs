//! The mixed workload, crashed at every I/O: tables, keys, alarms and erasure of several objects.
//!
//! Each turn of an object writes its number into a table, a key and the alarm, or erases everything.
//! After a crash these agree with each other, are those of a turn between the last acknowledged and
//! the last submitted one, and SQLite finds the database whole.

use std::sync::Arc;

use dovehouse_engine::wal::sim::{Failure, Fault, Operation, SimFs, for_each_seed};
use dovehouse_engine::{Alarm, ClassId, Engine, Object, Ticket};
use dovehouse_sqlbridge::{Database, Error, SharedObject};
use parking_lot::Mutex;

mod common;

use common::{id, open_with};

const OBJECTS: usize = 3;
/// Small, so that segments fill up and are used again.
const SEGMENT_BYTES: u64 = 256 << 10;
const START_MS: u64 = 1_700_000_000_000;

/// What an object may be found as: the turns from the last acknowledged to the last submitted one. A
/// turn is its number if it wrote, and 0 if it erased.
type Promise = Vec<Vec<u64>>;

/// The turn that an object's key names.
fn stored_turn(object: &Object) -> u64 {
    object
        .get(b"turn")
        .unwrap()
        .map_or(0, |turn| u64::from_le_bytes(turn[..].try_into().unwrap()))
}

/// Reads the turn that an object is at, and checks that all its parts agree.
fn turn_of(engine: &Engine, class: ClassId, number: usize) -> Result<u64, String> {
    let object = engine
        .wake(class, id(number as u8))
        .map_err(|error| format!("wake: {error}"))?;
    let key = stored_turn(&object);
    let alarm = object
        .alarms()
        .first()
        .map_or(0, |alarm| alarm.due_ms - START_MS);
    if object.page_count() == 0 {
        return if key == 0 && alarm == 0 {
            Ok(0)
        } else {
            Err("keys without tables".into())
        };
    }
    let object: SharedObject = Arc::new(object.into());
    let database = Database::open(object).map_err(|error| error.to_string())?;
    let found = database
        .integrity_check()
        .map_err(|error| error.to_string())?;
    if !found.is_empty() {
        return Err(format!("integrity_check of object {number}: {found:?}"));
    }
    let sql = "SELECT max(turn), count(*), max(turn) - min(turn) + 1 FROM turns";
    let row = database
        .exec(sql, &[])
        .and_then(|rows| rows.one())
        .map_err(|error| error.to_string())?;
    let turns: Vec<u64> = (0..3)
        .map(|column| row.get::<u64>(column).unwrap_or(0))
        .collect();
    if turns[0] != key || key != alarm || turns[1] != turns[2] {
        return Err(format!(
            "object {number}: table {turns:?}, key {key}, alarm {alarm}"
        ));
    }
    Ok(key)
}

fn check(disk: &SimFs, promise: &Promise) -> Result<Promise, String> {
    let (engine, class) =
        open_with(disk, SEGMENT_BYTES).map_err(|error| format!("refused: {error}"))?;
    let mut served = Promise::new();
    for (number, allowed) in promise.iter().enumerate() {
        let turn = turn_of(&engine, class, number)?;
        if !allowed.contains(&turn) {
            return Err(format!(
                "object {number} is at turn {turn}, allowed are {allowed:?}"
            ));
        }
        served.push(vec![turn]);
    }
    Ok(served)
}

/// All that can happen to a disk from one moment on.
fn crash(image: SimFs, promise: &Promise, nested: bool) -> Result<(), String> {
    for disk in [
        image.process_death(),
        image.power_loss(),
        image.process_death().power_loss(),
    ] {
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        if nested {
            let (note, held) = (failure.clone(), promise.clone());
            disk.on_operation(move |again| {
                if let Err(error) = check(&again.process_death().power_loss(), &held) {
                    note.lock().get_or_insert(format!("crashed again: {error}"));
                }
            });
        }
        let served = check(&disk, promise)?;
        disk.clear_hook();
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        check(&disk.power_loss(), &served).map_err(|error| format!("after serving: {error}"))?;
    }
    Ok(())
}

/// An object at work.
struct Worker {
    database: Option<Database>,
    object: SharedObject,
    turn: u64,
}

impl Worker {
    fn wake(engine: &Engine, class: ClassId, number: usize, turn: u64) -> Result<Self, Error> {
        let object: SharedObject = Arc::new(engine.wake(class, id(number as u8))?.into());
        Ok(Worker {
            database: Some(Database::open(object.clone())?),
            object,
            turn,
        })
    }

    fn write(&mut self, rng: &mut fastrand::Rng) -> Result<(), Error> {
        self.turn += 1;
        let database = self.database.as_ref().expect("open");
        database.exec(
            "CREATE TABLE IF NOT EXISTS turns(turn INTEGER PRIMARY KEY, pad BLOB)",
            &[],
        )?;
        let size = if rng.u8(0..4) == 0 {
            rng.usize(0..6000)
        } else {
            rng.usize(0..50)
        };
        let mut pad = vec![0; size];
        rng.fill(&mut pad);
        let turn = self.turn as i64;
        database.exec(
            "INSERT INTO turns VALUES (?, ?)",
            &[turn.into(), pad.into()],
        )?;
        let bytes = self.turn.to_le_bytes();
        if self.turn.is_multiple_of(2) {
            self.object.lock().put(b"turn", &bytes).unwrap();
        } else {
            database.exec("REPLACE INTO kv VALUES ('turn', ?)", &[bytes[..].into()])?;
        }
        database.exec("DELETE FROM turns WHERE turn < ? - 5", &[turn.into()])?;
        if rng.u8(0..4) == 0 {
            database.exec("PRAGMA incremental_vacuum", &[])?;
        }
        let due_ms = START_MS + self.turn;
        self.object.lock().set_alarm(Alarm {
            due_ms,
            ..Alarm::default()
        });
        Ok(())
    }

    /// Throws everything away; the next turn begins with a new database.
    fn erase(&mut self) -> Result<(), Error> {
        self.database = None;
        self.object.lock().clear(false);
        self.turn = 0;
        Ok(())
    }

    fn stored_turn(&self) -> u64 {
        let object = self.object.lock();
        stored_turn(&object)
    }

    fn commit(&mut self) -> Result<Option<Ticket>, Error> {
        match &self.database {
            Some(database) => database.commit(),
            None => {
                let ticket = self.object.lock().commit()?;
                self.database = Some(Database::open(self.object.clone())?);
                Ok(ticket)
            }
        }
    }
}

/// A commit under way: its object, and the place of its turn in the promise.
type Submitted = (usize, usize, Ticket);

/// Waits for what is under way: from now on only these turns and later ones will do.
fn acknowledge(waiting: &mut Vec<Submitted>, promise: &Mutex<Promise>) -> Result<(), Error> {
    for (_, _, ticket) in waiting.iter() {
        ticket.wait().map_err(dovehouse_engine::Error::from)?;
    }
    let mut dropped = [0; OBJECTS];
    for (number, index, _) in waiting.drain(..) {
        promise.lock()[number].drain(..index - dropped[number]);
        dropped[number] = index;
    }
    Ok(())
}

fn workload(fs: &SimFs, rng: &mut fastrand::Rng, promise: &Mutex<Promise>) -> Result<(), Error> {
    let (engine, class) = open_with(fs, SEGMENT_BYTES)?;
    let mut workers: Vec<Option<Worker>> = (0..OBJECTS).map(|_| None).collect();
    let mut turns = [0; OBJECTS];
    let mut waiting: Vec<Submitted> = Vec::new();
    for _ in 0..rng.usize(5..40) {
        let number = rng.usize(0..OBJECTS);
        if workers[number].is_none() {
            let worker = Worker::wake(&engine, class, number, turns[number])?;
            if worker.stored_turn() != turns[number] {
                // Reads go on from the durable state after a failed write, but only then.
                acknowledge(&mut waiting, promise)?;
                panic!("object {number} woke up changed");
            }
            workers[number] = Some(worker);
        }
        let worker = workers[number].as_mut().expect("awake");
        if rng.u8(0..10) == 0 {
            worker.erase()?
        } else {
            worker.write(rng)?
        }
        turns[number] = worker.turn;
        promise.lock()[number].push(worker.turn);
        let submitted = promise.lock()[number].len() - 1;
        if let Some(ticket) = worker.commit()? {
            waiting.push((number, submitted, ticket));
        }
        match rng.u8(0..8) {
            0..3 => acknowledge(&mut waiting, promise)?,
            3 => workers[number] = None,
            4 => drop(engine.checkpoint()?),
            5 => engine.lay_out_queued(),
            _ => {}
        }
    }
    Ok(())
}

/// One seed in so many is crashed at each of its operations.
const EXHAUSTIVE: u64 = 20;

fn run(seed: u64) -> Result<(), String> {
    let fs = SimFs::new(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let promise: Arc<Mutex<Promise>> = Arc::new(Mutex::new(vec![vec![0]; OBJECTS]));
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let (note, held) = (failure.clone(), promise.clone());
    let (mut sampler, every) = (rng.fork(), seed.is_multiple_of(EXHAUSTIVE));
    fs.on_operation(move |image| {
        // In some seeds every operation gets its crash, in the others a part of them.
        if note.lock().is_none() && (every || sampler.u8(0..15) == 0) {
            let promise = held.lock().clone();
            if let Err(error) = crash(image, &promise, sampler.u8(0..15) == 0) {
                *note.lock() = Some(error);
            }
        }
    });
    if rng.u8(0..5) == 0 {
        let after = rng.u64(5..40);
        let failure = Failure::Eio;
        fs.inject(Fault {
            operation: Operation::Write,
            name: "segment",
            after,
            failure,
            lasting: false,
        });
    }
    let outcome = workload(&fs, &mut rng, &promise);
    if let Some(error) = failure.lock().take() {
        return Err(error);
    }
    if let Err(error) = &outcome
        && !error.to_string().contains("the log stopped")
        && !error.to_string().contains("injected")
    {
        return Err(format!("unexpected: {error}"));
    }
    fs.clear_hook();
    let promise = promise.lock().clone();
    crash(fs, &promise, true)
}

#[test]
fn tables_keys_and_alarms_agree_after_a_crash_at_any_io() {
    for_each_seed(200, "-p dovehouse-sqlbridge-core --test crash", run);
}
