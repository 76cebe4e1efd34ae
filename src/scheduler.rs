//! The scheduler: wakes the objects whose alarms are due. One task for the whole house.
//!
//! It asks the stores which slots are due and sends each object one event, which handles one alarm. A slot is
//! *under way* until that is done. So many thousand are at a time: the others wait in the store's alarm column,
//! in order of time, so that a hundred thousand alarms of one second take no memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dovehouse_engine::Slot;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::alarms::backoff_ms;
use crate::class::Address;
use crate::clock::Clock;
use crate::error::Result;
use crate::house::Inner;

/// Objects whose alarms are handled at the same time.
const UNDER_WAY_MAX: usize = 16_384;

/// More are looked for when fewer than this are under way.
const UNDER_WAY_MIN: usize = UNDER_WAY_MAX / 2;

/// How far ahead the scheduler looks, and how soon it looks again at what it could not read.
const LOOK_AHEAD_MS: u64 = 1_000;

/// An object in one of the house's stores.
pub(crate) type Place = (usize, Slot);

/// What became of an alarm that was fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was handled, or its failure was noted in the object.
    Noted,
    /// The object could not be read or written: that says nothing about the handler, and does not count.
    Unnoted,
}

/// The scheduler's shared state.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    wake: Notify,
    state: Mutex<State>,
    /// Until when the scheduler waits; the end of time while it looks. An alarm that is set for later changes
    /// nothing for it.
    waits_until_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    running: HashSet<Place>,
    /// Those that could not be handled, how often, and until when they are left alone.
    held: HashMap<Place, (u32, u64)>,
    /// Due, but of a class that nobody has asked for yet, or at a location that the object has left.
    unclaimed: HashSet<Place>,
}

impl State {
    fn knows(&self, place: &Place, now_ms: u64) -> bool {
        let held = self.held.get(place);
        self.running.contains(place)
            || self.unclaimed.contains(place)
            || held.is_some_and(|(_, until_ms)| *until_ms > now_ms)
    }

    fn hold(&mut self, place: Place, now_ms: u64, random: u64) {
        let (failures, until_ms) = self.held.entry(place).or_default();
        *until_ms = now_ms + backoff_ms(*failures, random);
        *failures += 1;
    }
}

impl Alarms {
    /// Has the scheduler look again.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// An alarm was set: has the scheduler look again if it would oversleep it.
    pub(crate) fn set_for(&self, due_ms: u64) {
        if due_ms < self.waits_until_ms.load(Ordering::SeqCst) {
            self.look();
        }
    }

    /// A class was asked for: its alarms can be handled from now on.
    pub(crate) fn look_for_class(&self) {
        self.state.lock().unclaimed.clear();
        self.look();
    }

    /// An alarm that was fired is not under way any more.
    pub(crate) fn done(&self, place: Place, outcome: Outcome, now_ms: u64, random: u64) {
        let mut state = self.state.lock();
        state.running.remove(&place);
        match outcome {
            Outcome::Noted => drop(state.held.remove(&place)),
            Outcome::Unnoted => state.hold(place, now_ms, random),
        }
        if state.running.len() < UNDER_WAY_MIN {
            self.look();
        }
    }
}

/// The scheduler's life; ends with the house.
pub(crate) async fn run(house: Weak<Inner>, clock: Arc<dyn Clock>) {
    loop {
        let Some(house) = house.upgrade() else { return };
        let waits_until_ms = &house.alarms.waits_until_ms;
        waits_until_ms.store(u64::MAX, Ordering::SeqCst);
        let next_ms = match house.fire_due(clock.now_ms()) {
            Ok(next_ms) => next_ms,
            Err(error) => {
                tracing::error!("alarms cannot be read: {error}");
                Some(clock.now_ms() + LOOK_AHEAD_MS)
            }
        };
        // What was set since the look began has noted that already.
        waits_until_ms.store(next_ms.unwrap_or(u64::MAX), Ordering::SeqCst);
        // Waiting must not keep the house alive, but must hear it.
        let alarms = house.alarms.clone();
        let weak = Arc::downgrade(&house);
        drop(house);
        match next_ms {
            Some(next_ms) => tokio::select! {
                () = clock.sleep_until(next_ms) => {}
                () = alarms.wake.notified() => {}
            },
            None => alarms.wake.notified().await,
        }
        if weak.strong_count() == 0 {
            return;
        }
    }
}

impl Inner {
    /// Wakes the objects whose alarm is due. Returns when to look again; `None` for when something
    /// changes.
    fn fire_due(self: &Arc<Self>, now_ms: u64) -> Result<Option<u64>> {
        let mut next_ms: Option<u64> = None;
        for (store, engine) in self.engines() {
            let known = {
                let state = self.alarms.state.lock();
                if state.running.len() >= UNDER_WAY_MIN {
                    return Ok(None); // The last but so many will have it looked again.
                }
                state.running.len() + state.held.len() + state.unclaimed.len()
            };
            // What is known already must not hide what comes behind it.
            let found = engine.slots_due_until(now_ms, known + UNDER_WAY_MAX)?;
            let due = found.len();
            for (_, slot) in found {
                if !self.fire_slot((store, slot), now_ms) {
                    return Ok(None); // There is more than can be under way.
                }
            }
            let later = match engine.next_due() {
                // What is due stays in the column until it is done, in front of what comes next.
                Some(next) if next <= now_ms => {
                    let ahead_ms = now_ms + LOOK_AHEAD_MS;
                    let ahead = engine.slots_due_until(ahead_ms, due + 1)?;
                    let mut ahead = ahead.into_iter().map(|(due_ms, _)| due_ms);
                    Some(ahead.find(|due_ms| *due_ms > now_ms).unwrap_or(ahead_ms))
                }
                next => next,
            };
            next_ms = [next_ms, later].into_iter().flatten().min();
        }
        Ok(next_ms.map(|next_ms| next_ms.max(now_ms + 1)))
    }

    /// Whether an alarm is due that is not put off, and not of a class that nobody has asked for.
    pub(crate) fn has_due_alarm(&self, now_ms: u64) -> Result<bool> {
        for (store, engine) in self.engines() {
            let passed_over = {
                let state = self.alarms.state.lock();
                state.held.len() + state.unclaimed.len()
            };
            let found = engine.slots_due_until(now_ms, passed_over + 1)?;
            let state = self.alarms.state.lock();
            let mut places = found.into_iter().map(|(_, slot)| (store, slot));
            if places.any(|place| state.running.contains(&place) || !state.knows(&place, now_ms)) {
                return Ok(true);
            }
        }
        Ok(!self.alarms.state.lock().running.is_empty())
    }

    /// Sends an object its due alarm, unless it is known already. Returns `false` if too many are under way.
    fn fire_slot(self: &Arc<Self>, place: Place, now_ms: u64) -> bool {
        {
            let state = self.alarms.state.lock();
            if state.knows(&place, now_ms) {
                return true;
            }
            if state.running.len() >= UNDER_WAY_MAX {
                return false;
            }
        }
        // Nobody else adds to what is known.
        let found = self.engine_at(place.0).object_info(place.1);
        let mut state = self.alarms.state.lock();
        let info = match found {
            Ok(Some(info)) => info,
            Ok(None) => return true,
            Err(error) => {
                tracing::error!(slot = %place.1, "an object whose alarm is due cannot be read: {error}");
                state.hold(place, now_ms, self.engine.random_u64());
                return true;
            }
        };
        // A move may have left it behind, and will have it looked again.
        let class = self.class(place.0, info.entry.class);
        let Some(class) = class.filter(|_| self.lives_in(&info.id, place.0)) else {
            state.unclaimed.insert(place);
            return true;
        };
        state.running.insert(place);
        drop(state);
        let address = Address::of(&class, class.identify(info.id, info.name));
        let event = (class.fire)(address.clone(), place);
        // A house that is closing fires no more.
        let _ = self.send(&address, event);
        true
    }
}
