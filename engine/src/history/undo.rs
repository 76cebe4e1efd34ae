//! How much of a tiny object's state its history holds: what a commit changed, and now and then all of it.

use super::value::Undo;
use crate::record::encode_operations;
use crate::state::{Alarm, Changes, State};

/// A state is found by going back from the next whole one: over this many commits at most, for small states.
const STATE_EVERY: u64 = 64;
/// And over so many for larger ones, of which each whole one takes more.
const LARGE_STATE_EVERY: u64 = 256;
const LARGE_BYTES: usize = 4 << 10;

/// Whether a commit's undo is the whole state before it, of this size.
pub(super) fn wants_state(seq: u64, state_bytes: usize) -> bool {
    let every = match state_bytes > LARGE_BYTES {
        true => LARGE_STATE_EVERY,
        false => STATE_EVERY,
    };
    seq.is_multiple_of(every)
}

/// The undo of a commit that wrote the whole state.
pub(super) fn tiny(seq: u64, changes: &Changes<'_>, before: &State) -> Undo {
    if wants_state(seq, before.bytes()) {
        return Undo::State(Box::new(before.clone()));
    }
    match operations(changes, &before.alarms) {
        Undo::Operations(operations) if operations.len() > before.bytes() => {
            Undo::State(Box::new(before.clone()))
        }
        undo => undo,
    }
}

pub(super) fn operations(changes: &Changes<'_>, alarms: &[Alarm]) -> Undo {
    let mut operations = Vec::new();
    encode_operations(changes, alarms, &mut operations);
    match operations.is_empty() {
        true => Undo::Nothing,
        false => Undo::Operations(operations),
    }
}
