//! Alarms: setting them, and firing them, across evictions and restarts.
//!
//! An alarm is part of the object's state, so it commits with the data that set it. One task for the
//! whole house asks the engine which alarms are due and wakes those objects. It fires at least once and
//! never early; a handler that fails is tried again after 2 s, 4 s, 8 s …, six times.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use dovehouse_engine::{Alarm, ObjectId as RawId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::house::Inner;

/// The name of an object's own alarm.
const OWN: &str = "";
/// Failures after which an alarm is given up.
const RETRIES_MAX: u32 = 6;
const BACKOFF_MS: u64 = 2_000;
const BACKOFF_EXPONENT_MAX: u32 = 9;
/// How many due alarms are asked for at a time, beyond those that are being handled.
const AT_A_TIME: usize = 256;

/// How soon to look again while something overdue waits.
const LOOK_AGAIN_MS: u64 = 1_000;

/// What an alarm handler is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlarmInfo {
    /// When it was to fire, in milliseconds since 1970.
    pub scheduled_ms: u64,
    /// How often it failed before.
    pub retry_count: u32,
}

impl AlarmInfo {
    /// Whether it failed before.
    pub fn is_retry(&self) -> bool {
        self.retry_count > 0
    }
}

/// An object's alarm; see [`Ctx::alarm`](crate::Ctx::alarm).
#[derive(Clone, Copy)]
pub struct AlarmApi<'a> {
    pub(crate) core: &'a Rc<Core>,
}

impl std::fmt::Debug for AlarmApi<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AlarmApi")
    }
}

impl AlarmApi<'_> {
    /// When the alarm will fire, in milliseconds since 1970. While its handler runs there is none,
    /// unless the handler set another.
    pub fn get(&self) -> Result<Option<u64>> {
        if self.core.alarm_running.get() {
            return Ok(None);
        }
        self.core.with_storage(|storage| {
            Ok(storage.object(|object| own(object.alarms()).map(|a| a.due_ms)))
        })
    }

    /// Sets the alarm, replacing the one that is set. A time that has passed fires as soon as it is
    /// durable.
    pub fn set(&self, due_ms: u64) -> Result<()> {
        if !self.core.address.class.has_alarm {
            return Err(Error::NoAlarmHandler {
                class: self.core.address.class.name,
            });
        }
        let alarm = Alarm {
            name: OWN.into(),
            due_ms,
            ..Alarm::default()
        };
        self.change(|object| object.set_alarm(alarm))
    }

    /// Takes the alarm away. A handler that is running because of it goes on.
    pub fn delete(&self) -> Result<()> {
        self.change(|object| object.clear_alarm(OWN))
    }

    fn change<R>(&self, change: impl FnOnce(&mut dovehouse_engine::Object) -> R) -> Result<()> {
        self.core
            .with_storage(|storage| Ok(storage.object(change)))?;
        self.core.alarm_running.set(false);
        look_again(self.core);
        Ok(())
    }
}

fn own(alarms: &[Alarm]) -> Option<&Alarm> {
    alarms.iter().find(|alarm| alarm.name == OWN)
}

/// Has the scheduler look again, once the change is durable.
fn look_again(core: &Rc<Core>) {
    if let Some(house) = core.shard.upgrade().and_then(|shard| shard.house.upgrade()) {
        core.emit(Box::new(move || house.alarms.wake.notify_one()));
    }
}

/// Takes up the object's alarm if it is due. Called in a turn of the object.
pub(crate) fn begin(core: &Rc<Core>) -> Result<Option<AlarmInfo>> {
    let now_ms = core.shard.upgrade().map_or(0, |shard| shard.clock.now_ms());
    let due = core.with_storage(|storage| {
        Ok(storage.object(|object| {
            own(object.alarms())
                .filter(|alarm| alarm.due_ms <= now_ms)
                .cloned()
        }))
    })?;
    core.alarm_running.set(due.is_some());
    Ok(due.map(|alarm| AlarmInfo {
        scheduled_ms: alarm.due_ms,
        retry_count: alarm.attempts,
    }))
}

/// The handler has returned. Called in its last turn, so that this commits with what it wrote.
pub(crate) fn end(core: &Rc<Core>, succeeded: bool) -> Result<()> {
    if !core.alarm_running.replace(false) {
        return Ok(()); // It set another alarm, or took it away.
    }
    if succeeded {
        core.with_storage(|storage| Ok(storage.object(|object| object.clear_alarm(OWN))))?;
        look_again(core);
        Ok(())
    } else {
        put_off(core, false)
    }
}

/// Moves a failed alarm to its next try, or gives it up: after the last try, or if it is to be abandoned.
pub(crate) fn put_off(core: &Rc<Core>, abandon: bool) -> Result<()> {
    let Some(shard) = core.shard.upgrade() else {
        return Ok(());
    };
    let now_ms = shard.clock.now_ms();
    let random = shard.engine.random_u64();
    core.with_storage(|storage| {
        storage.object(|object| {
            let Some(alarm) = own(object.alarms())
                .filter(|alarm| alarm.due_ms <= now_ms)
                .cloned()
            else {
                return; // A newer alarm takes its place.
            };
            if abandon {
                object.clear_alarm(OWN);
            } else if alarm.attempts >= RETRIES_MAX {
                tracing::error!(object = %core.address.id, "its alarm failed for good");
                object.clear_alarm(OWN);
            } else {
                let due_ms = now_ms + backoff_ms(alarm.attempts, random);
                object.set_alarm(Alarm {
                    due_ms,
                    attempts: alarm.attempts + 1,
                    ..alarm
                });
            }
        });
        Ok(())
    })?;
    look_again(core);
    Ok(())
}

/// Two seconds, doubling, with up to a quarter more so that objects that failed together spread out.
fn backoff_ms(attempts: u32, random: u64) -> u64 {
    let base = BACKOFF_MS << attempts.min(BACKOFF_EXPONENT_MAX);
    base + random % (base / 4 + 1)
}

/// The scheduler's shared state.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    wake: Notify,
    /// Objects whose alarm is being handled.
    under_way: Mutex<HashSet<RawId>>,
}

impl Alarms {
    /// Has the scheduler look again.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// The object's alarm was handled, or could not be.
    pub(crate) fn done(&self, id: RawId) {
        self.under_way.lock().remove(&id);
        self.wake.notify_one();
    }
}

/// The scheduler's life; ends with the house.
pub(crate) async fn run(house: Weak<Inner>, clock: Arc<dyn crate::clock::Clock>) {
    loop {
        let Some(house) = house.upgrade() else { return };
        let next_ms = match house.fire_due(clock.now_ms()) {
            Ok(next_ms) => next_ms,
            Err(error) => {
                tracing::error!("alarms cannot be read: {error}");
                None
            }
        };
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
        let limit = self.alarms.under_way.lock().len() + AT_A_TIME;
        for due in self.engine.due_until(now_ms, limit)? {
            // A class that nobody has asked for yet cannot be woken; its alarms wait until then.
            let Some(class) = self.class(due.class) else {
                continue;
            };
            if self.alarms.under_way.lock().insert(due.id) {
                self.fire(class, due.id);
            }
        }
        // What is overdue now is under way, or waits for its class: it must not hide what comes next.
        let next_ms = self.engine.next_due();
        Ok(next_ms.map(|next_ms| {
            if next_ms > now_ms {
                next_ms
            } else {
                now_ms + LOOK_AGAIN_MS
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_two_seconds_apart_then_ever_more_up_to_a_limit() {
        assert_eq!(backoff_ms(0, 0), 2_000);
        assert_eq!(backoff_ms(3, 0), 16_000);
        assert_eq!(backoff_ms(9, 0), 1_024_000);
        assert_eq!(backoff_ms(50, 0), 1_024_000);
        assert!((0..1000).all(|random| (2_000..=2_500).contains(&backoff_ms(0, random))));
    }
}
