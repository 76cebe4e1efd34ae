//! What the objects of a bench hold, from a seed.

use dovehouse_engine::{ClassId, Engine, Object, ObjectId, Ticket};

use super::{Kind, Run};
use crate::exit::Failure;
use crate::output;

/// Keys and values of one object, 112 bytes each.
pub(super) const VALUES: usize = 3;
const ENTRY_BYTES: usize = 112;

/// How many commits of a bulk load may be under way.
const UNDER_WAY: usize = 4096;

/// The id of an object: random, as ids made from names are.
pub(super) fn id(seed: u64, number: u64) -> ObjectId {
    let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number);
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    ObjectId::from_bytes(bytes)
}

/// Writes an object's content.
pub(super) fn fill(object: &mut Object, kind: Kind, seed: u64, number: u64) {
    let mut rng = fastrand::Rng::with_seed(seed ^ number.rotate_left(32));
    for entry in 0..VALUES {
        put(object, kind, &mut rng, number, entry).expect("room");
    }
}

/// Writes one of its keys.
pub(super) fn put(
    object: &mut Object,
    kind: Kind,
    rng: &mut fastrand::Rng,
    number: u64,
    entry: usize,
) -> Result<(), Failure> {
    let key = format!("entry:{entry:02}");
    let value = match kind {
        Kind::Random => {
            let mut value = vec![0; ENTRY_BYTES - key.len()];
            rng.fill(&mut value);
            value
        }
        _ => document(rng, number, ENTRY_BYTES - key.len()),
    };
    Ok(object.put(key.as_bytes(), &value)?)
}

/// Waits for a commit, if there was something to commit.
pub(super) fn wait(ticket: Option<Ticket>) -> Result<(), Failure> {
    if let Some(ticket) = ticket {
        ticket.wait().map_err(engine_error)?;
    }
    Ok(())
}

/// Something like a small JSON document of so many bytes.
fn document(rng: &mut fastrand::Rng, number: u64, bytes: usize) -> Vec<u8> {
    let names = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana"];
    let states = ["open", "closed", "waiting"];
    let text = format!(
        r#"{{"user":"{}{}","state":"{}","count":{},"updated":{},"tag":"{:x}"}}"#,
        names[rng.usize(..names.len())],
        number % 100_000,
        states[rng.usize(..states.len())],
        rng.u16(..),
        1_700_000_000_000 + rng.u64(..100_000_000_000),
        rng.u64(..),
    );
    let mut value = text.into_bytes();
    value.resize(bytes, b' ');
    value
}

/// The objects of a run with their content; see [`load`].
pub(super) fn load_filled(engine: &Engine, run: &Run) -> Result<ClassId, Failure> {
    let write = |object: &mut Object, number| fill(object, run.kind, run.seed, number);
    load(engine, run.objects, "objects", write, run.seed)
}

/// A class and so many objects of it, all durable and asleep. Shows how far it is.
pub(super) fn load(
    engine: &Engine,
    objects: u64,
    what: &'static str,
    mut write: impl FnMut(&mut Object, u64),
    seed: u64,
) -> Result<ClassId, Failure> {
    let class = engine.class("Bench")?;
    let bar = output::progress(objects, what);
    let mut under_way = std::collections::VecDeque::new();
    for number in 0..objects {
        let mut object = engine.wake(class, id(seed, number))?;
        write(&mut object, number);
        if let Some(ticket) = object.commit()? {
            under_way.push_back(ticket);
        }
        if under_way.len() >= UNDER_WAY {
            under_way
                .pop_front()
                .expect("it is not empty")
                .wait()
                .map_err(engine_error)?;
        }
        if number % 1024 == 0 {
            bar.set_position(number);
        }
    }
    for ticket in under_way {
        ticket.wait().map_err(engine_error)?;
    }
    bar.finish_and_clear();
    Ok(class)
}

pub(super) fn engine_error(error: dovehouse_engine::wal::Error) -> Failure {
    dovehouse_engine::Error::from(error).into()
}
