//! A program of its own on the engine alone, without an async runtime: 100,000 mailboxes, each an
//! object, on two threads.
//!
//! `cargo run --release --example embed [DIR]`
//!
//! Each thread delivers letters to mailboxes of its own, keeps the ones it used last awake, and lets
//! the others sleep. A letter is confirmed by a callback when it is durable, so no thread waits for the
//! disk. Mailboxes that have mail set an alarm; at the end those that are due are read. What is there
//! already is added to: run it twice with a directory.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_engine::{Alarm, ClassId, Engine, List, Object, ObjectId, TicketState};

const MAILBOXES: u64 = 100_000;
const LETTERS: u64 = 150_000;
const THREADS: u64 = 2;
/// Mailboxes that a thread keeps awake.
const AWAKE: usize = 1000;
/// A mailbox with new mail is looked at so much later.
const READ_AFTER_MS: u64 = 60_000;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    let dir = dir.unwrap_or_else(|| temporary.path().join("mail"));

    // The memory of the engine: changes since its last checkpoint, and what compaction moves.
    let engine = Engine::builder(&dir).memory_bytes(64 << 20).open()?;
    let mailboxes = engine.class("Mailbox")?;
    let confirmed = Arc::new(AtomicU64::new(0));

    std::thread::scope(|scope| {
        let deliver = |thread| deliver(&engine, mailboxes, thread, &confirmed);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || deliver(thread)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread does not panic"))
    })?;
    let read = read_mail(&engine, mailboxes)?;
    println!("{} letters are durable", confirmed.load(Ordering::Acquire));
    println!("{read} letters read in the first 10,000 mailboxes that are due");

    let report = engine.compact()?;
    let stats = engine.stats();
    println!(
        "{} mailboxes, {} bytes of records for each; {} letters for each durable write; {} moved by compaction",
        stats.slots,
        engine.class_bytes(mailboxes) / stats.slots,
        stats.log.records / stats.log.durable_writes,
        report.objects,
    );
    engine.close()?;
    Ok(())
}

fn mailbox(number: u64) -> ObjectId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    ObjectId::from_bytes(id)
}

/// Delivers a thread's letters. Mailboxes are divided among the threads: an object is awake once.
fn deliver(engine: &Engine, class: ClassId, thread: u64, confirmed: &Arc<AtomicU64>) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(thread);
    let mut awake: VecDeque<Object> = VecDeque::new();
    for letter in 0..LETTERS / THREADS {
        // Each mailbox once, then at random.
        let own = MAILBOXES / THREADS;
        let number = if letter < own { letter } else { rng.u64(..own) };
        let id = mailbox(number * THREADS + thread);
        let found = awake.iter().position(|object| object.id() == id);
        let mut object = match found.and_then(|at| awake.remove(at)) {
            Some(object) => object,
            None => engine.wake(class, id)?,
        };
        add_letter(&mut object, engine.now_ms(), &mut rng)?;
        if let Some(ticket) = object.commit()? {
            let confirmed = confirmed.clone();
            ticket.on_settled(move |state| {
                if matches!(state, TicketState::Durable(_)) {
                    confirmed.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        awake.push_back(object);
        if awake.len() > AWAKE {
            // Falls asleep: from here on it takes disk, and no memory.
            awake.pop_front();
        }
    }
    // What was committed last is durable when everything is.
    let last = awake.back().and_then(Object::last_ticket);
    last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
    Ok(())
}

fn add_letter(object: &mut Object, now_ms: u64, rng: &mut fastrand::Rng) -> Result<()> {
    let number = object.get(b"count")?.map_or(0, |count| {
        let count = count[..].try_into();
        u64::from_le_bytes(count.expect("this program wrote eight bytes"))
    });
    let text = format!(
        "Dear friend, this is letter {number}. Yours, {}",
        rng.u32(..)
    );
    object.put(b"count", &(number + 1).to_le_bytes())?;
    object.put(format!("letter:{number:08}").as_bytes(), text.as_bytes())?;
    object.set_alarm(Alarm {
        due_ms: now_ms + READ_AFTER_MS,
        ..Alarm::default()
    });
    Ok(())
}

/// Wakes mailboxes whose alarm is due, takes their letters out, and clears the alarm in the same commit.
fn read_mail(engine: &Engine, class: ClassId) -> Result<u64> {
    let mut read = 0;
    let mut last = None;
    for due in engine.due_until(engine.now_ms() + 2 * READ_AFTER_MS, 10_000)? {
        let mut object = engine.wake(class, due.id)?;
        let letters: Vec<Vec<u8>> = object
            .list(&List::prefix(b"letter:"))
            .map(|listed| Ok(listed?.0.into_owned()))
            .collect::<Result<_>>()?;
        read += letters.len() as u64;
        for letter in letters {
            object.delete(&letter)?;
        }
        object.clear_alarm("");
        last = object.commit()?.or(last);
    }
    if let Some(ticket) = last {
        ticket.wait()?;
    }
    Ok(read)
}
