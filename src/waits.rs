//! Which objects wait for which, to notice when a call would close a circle.
//!
//! An object waits for another while a call of one of its handlers stands in the other's queue. A circle
//! of such objects would wait for ever, so the call that would close it fails. Calls that need not queue,
//! and calls from outside, are never looked at here.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_engine::ObjectId;
use parking_lot::Mutex;

use crate::core::{Chain, Held};
use crate::error::CallError;

/// For each object that waits, the objects it waits for.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<ObjectId, Vec<ObjectId>>>);

/// A call in a queue; taken out when dropped.
pub(crate) struct Waiting {
    waits: Arc<Waits>,
    chain: Chain,
    target: ObjectId,
}

impl Waits {
    /// Notes that all of a chain wait for the target, unless that waits for one of them.
    pub(crate) fn begin(
        self: &Arc<Self>,
        chain: &Chain,
        target: ObjectId,
    ) -> Result<Waiting, CallError> {
        let mut waits = self.0.lock();
        if reaches(&waits, target, chain) {
            return Err(CallError::Deadlock);
        }
        for held in chain.iter() {
            waits.entry(held.object).or_default().push(target);
        }
        Ok(Waiting {
            waits: self.clone(),
            chain: chain.clone(),
            target,
        })
    }
}

/// Whether an object waits, directly or not, for one of the chain.
fn reaches(waits: &HashMap<ObjectId, Vec<ObjectId>>, from: ObjectId, chain: &[Held]) -> bool {
    let mut seen = vec![from];
    let mut next = 0;
    while let Some(object) = seen.get(next).copied() {
        if chain.iter().any(|held| held.object == object) {
            return true;
        }
        for target in waits.get(&object).into_iter().flatten() {
            if !seen.contains(target) {
                seen.push(*target);
            }
        }
        next += 1;
    }
    false
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waits = self.waits.0.lock();
        for held in self.chain.iter() {
            let Some(targets) = waits.get_mut(&held.object) else {
                continue;
            };
            if let Some(place) = targets.iter().position(|target| *target == self.target) {
                targets.swap_remove(place);
            }
            if targets.is_empty() {
                waits.remove(&held.object);
            }
        }
    }
}
