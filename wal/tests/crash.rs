//! The log on the simulated disk, crashed at every I/O.
//!
//! A workload appends numbered records to a few objects, waits for some of them, and checkpoints. At
//! every operation that changes the disk, crashes of all kinds are taken and recovered:
//! what was acknowledged is there, what was not is wholly there or wholly absent, in order, and
//! whatever a recovery served survives everything that follows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::sim::{Failure, Fault, Operation, SimFs, first_failure, for_each_seed};
use dovehouse_wal::{Access, Claim, Error, Flaw, Log, Opening, Record, Teeth, Ticket};
use parking_lot::Mutex;

mod common;

use common::{Book, options};

const OBJECTS: u32 = 4;

/// How many records each object has.
type Counts = BTreeMap<u32, u64>;

/// What a store must still know after a crash.
#[derive(Clone, Default)]
struct Promise {
    acknowledged: Counts,
    submitted: Counts,
}

struct Store {
    log: Log<Book>,
    counts: Counts,
}

fn encode_counts(counts: &Counts) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (object, count) in counts {
        bytes.put_u32(*object);
        bytes.put_u64(*count);
    }
    bytes
}

fn decode_counts(bytes: &[u8]) -> Counts {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(|| Some((reader.u32()?, reader.u64()?))).collect()
}

impl Store {
    fn open(fs: &SimFs, teeth: Teeth) -> Result<Store, Error> {
        let dir = Path::new("store");
        let opening = Opening::new(Arc::new(fs.clone()), dir, options(teeth), Access::Create)?;
        let mut counts = decode_counts(opening.payload());
        let book = Arc::new(Book::default());
        let log = opening.recover::<_, Error>(book.clone(), |record, _| {
            let mut reader = Reader::new(record.body);
            let (object, number) = (reader.u32().unwrap(), reader.u64().unwrap());
            let count = counts.entry(object).or_default();
            assert!(
                number <= *count + 1,
                "object {object} jumps from {count} to {number}"
            );
            *count = number.max(*count);
            let before = book.last.lock().insert(object, record.lsn);
            if let Some(before) = before {
                assert_eq!(
                    record.link, before,
                    "the link of record {number} of object {object}"
                );
            }
            Ok(())
        })?;
        Ok(Store { log, counts })
    }

    fn append(&mut self, object: u32, padding: usize) -> Result<Ticket, Error> {
        let count = self.counts.entry(object).or_default();
        let mut body = Vec::new();
        body.put_u32(object);
        body.put_u64(*count + 1);
        body.resize(body.len() + padding, object as u8);
        let reservation = self.log.reserve(body.len(), Claim::Growth)?;
        let record = Record {
            kind: 1,
            flags: 0,
            body,
            note: Some(object),
        };
        let ticket = self.log.append(record, reservation)?;
        *count += 1;
        Ok(ticket)
    }

    /// Puts the counts into the checkpoint and frees all segments before it.
    fn checkpoint(&mut self) -> Result<(), Error> {
        while self.log.commit_queued() {}
        let position = self.log.position();
        let durable = self.log.wait_durable(position.lsn)?;
        let segments = self.log.segments();
        let old = segments
            .iter()
            .map(|segment| segment.segno)
            .filter(|segno| *segno < position.lsn.segno());
        let released: Vec<u32> = old.collect();
        drop(segments);
        self.log
            .checkpoint(
                position,
                durable,
                false,
                &encode_counts(&self.counts),
                &released,
            )
            .map(drop)
    }
}

/// Recovers an image and compares it with the promise. Returns what was served.
fn check(image: &SimFs, promise: &Promise, teeth: Teeth) -> Result<Counts, String> {
    let store = Store::open(image, teeth).map_err(|error| format!("refused: {error}"))?;
    for object in 0..OBJECTS {
        let get = |counts: &Counts| counts.get(&object).copied().unwrap_or(0);
        let (found, acknowledged) = (get(&store.counts), get(&promise.acknowledged));
        if found < acknowledged {
            return Err(format!("object {object} lost {acknowledged}, has {found}"));
        }
        if found > get(&promise.submitted) {
            return Err(format!("object {object} has {found}, which nobody wrote"));
        }
    }
    Ok(store.counts.clone())
}

/// All that can happen to a disk from one moment on.
fn crash(image: SimFs, promise: &Promise, teeth: Teeth) -> Result<(), String> {
    for disk in [
        image.process_death(),
        image.power_loss(),
        image.power_loss(),
    ] {
        // Crash again in the middle of recovery, at every operation of it.
        let failure = Arc::new(Mutex::new(None));
        let (note, held) = (failure.clone(), promise.clone());
        disk.on_operation(move |again| {
            for second in [again.process_death().power_loss(), again.power_loss()] {
                if let Err(error) = check(&second, &held, teeth) {
                    note.lock().get_or_insert(format!("crashed again: {error}"));
                }
            }
        });
        let served = check(&disk, promise, teeth)?;
        disk.clear_hook();
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        // What was served is a promise from now on.
        let next = Promise {
            acknowledged: served.clone(),
            submitted: served,
        };
        check(&disk.power_loss(), &next, teeth)
            .map_err(|error| format!("after serving: {error}"))?;
        check(&disk.process_death().power_loss(), &next, teeth)
            .map_err(|error| format!("after serving and a kill: {error}"))?;
    }
    Ok(())
}

/// One seed in so many is crashed at each of its operations.
const EXHAUSTIVE: u64 = 20;

fn run(seed: u64, teeth: Teeth) -> Result<(), String> {
    let fs = SimFs::new(seed);
    fs.shear("segment");
    let mut rng = fastrand::Rng::with_seed(seed);
    let promise = Arc::new(Mutex::new(Promise::default()));
    let failure: Arc<Mutex<Option<String>>> = Arc::default();

    let (note, held) = (failure.clone(), promise.clone());
    let (mut sampler, every) = (rng.fork(), seed.is_multiple_of(EXHAUSTIVE));
    fs.on_operation(move |image| {
        // In some seeds every operation gets its crash, in the others a part of them.
        if note.lock().is_none() && (every || sampler.u8(0..4) == 0) {
            let promise = held.lock().clone();
            if let Err(error) = crash(image, &promise, teeth) {
                *note.lock() = Some(error);
            }
        }
    });

    if rng.u8(0..4) == 0 {
        fs.inject(Fault {
            operation: Operation::Write,
            name: "segment",
            after: rng.u64(0..40),
            failure: [Failure::Eio, Failure::Short][rng.usize(0..2)],
            lasting: false,
        });
    }
    let opened = Store::open(&fs, teeth);
    let outcome = opened.and_then(|mut store| workload(&mut store, &mut rng, &promise));
    if let Some(error) = failure.lock().take() {
        return Err(error);
    }
    // A failed write ends the run; what was acknowledged before it must be there all the same.
    if let Err(error) = outcome
        && !matches!(error, Error::Poisoned { .. } | Error::Io { .. })
    {
        return Err(format!("unexpected: {error}"));
    }
    fs.clear_hook();
    let promise = promise.lock().clone();
    crash(fs, &promise, teeth)
}

fn workload(
    store: &mut Store,
    rng: &mut fastrand::Rng,
    promise: &Mutex<Promise>,
) -> Result<(), Error> {
    let mut waiting: Vec<(u32, u64, Ticket)> = Vec::new();
    for _ in 0..rng.usize(5..60) {
        let object = rng.u32(0..OBJECTS);
        let padding = if rng.u8(0..4) == 0 {
            rng.usize(0..9000)
        } else {
            rng.usize(0..200)
        };
        let next = store.counts.get(&object).copied().unwrap_or(0) + 1;
        promise.lock().submitted.insert(object, next);
        let ticket = store.append(object, padding)?;
        waiting.push((object, next, ticket));
        if rng.u8(0..3) == 0 {
            for (object, number, ticket) in waiting.drain(..) {
                ticket.wait()?;
                promise.lock().acknowledged.insert(object, number);
            }
        }
        if rng.u8(0..12) == 0 {
            store.checkpoint()?;
        }
    }
    Ok(())
}

#[test]
fn acknowledged_records_survive_a_crash_at_every_io() {
    for_each_seed(200, "-p dovehouse-wal --test crash", |seed| {
        run(seed, Teeth::default())
    });
}

/// The suite above must go red when an invariant is broken on purpose.
#[test]
fn every_planted_flaw_is_found() {
    let flaws = [
        Flaw::AcknowledgeBeforeWrite,
        Flaw::RewriteLastBlock,
        Flaw::AcknowledgeAfterError,
        Flaw::NoRelog,
    ];
    for flaw in flaws {
        assert!(
            first_failure(0..200, |seed| run(seed, Teeth::plant(flaw))).is_some(),
            "{flaw:?} went unnoticed"
        );
    }
}
