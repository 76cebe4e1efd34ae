//! Alarms: setting them, and what their handlers do to them.
//!
//! An alarm is part of the object's state, so it commits with the data that set it. The
//! [scheduler](crate::scheduler) wakes the object when one is due; what follows happens here, in the
//! object's own turns:
//!
//! 1. The earliest alarm that is due is taken up, if there still is one: never early, by the clock, but for
//!    [`testing::run_alarm`](crate::testing::run_alarm).
//! 2. The handler runs. As long as it leaves the alarm alone, there is none for it.
//! 3. In the handler's last turn the alarm is deleted, or moved to its next time if it has a schedule. If
//!    the handler failed, it is moved to its next try, and after six of those given up.

use std::rc::Rc;

use dovehouse_engine::{Alarm, Object};

use crate::core::Core;
use crate::cron::{Schedule, UTC};
use crate::error::{CallError, Error, Result};

/// The name of an object's own alarm.
pub(crate) const OWN: &str = "";
/// Failures after which an alarm is given up.
const RETRIES_MAX: u32 = 6;
const BACKOFF_MS: u64 = 2_000;
const BACKOFF_EXPONENT_MAX: u32 = 9;
/// A handler that runs for longer has failed.
const HANDLER_MS_MAX: u64 = 15 * 60_000;
/// Alarms of one object, its own included: each change writes them all.
const ALARMS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 256;

/// What an alarm handler is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlarmInfo {
    /// The alarm's name; empty for the object's own.
    pub name: String,
    /// When it was to fire, in milliseconds since 1970; for a retry, when that was.
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

/// An alarm of an object; see [`Ctx::alarm`](crate::Ctx::alarm) and
/// [`Ctx::alarm_named`](crate::Ctx::alarm_named).
///
/// # Errors
/// All methods fail with [`Error::OutsideTurn`] when called by anybody but the object's own handlers.
#[derive(Clone, Copy)]
pub struct AlarmApi<'a> {
    pub(crate) core: &'a Rc<Core>,
    pub(crate) name: &'a str,
    pub(crate) confirmed: bool,
}

impl std::fmt::Debug for AlarmApi<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AlarmApi").field(&self.name).finish()
    }
}

impl AlarmApi<'_> {
    /// The same alarm, for changes that nothing waits for, as [`Kv::unconfirmed`](crate::Kv::unconfirmed) has it.
    pub fn unconfirmed(self) -> Self {
        AlarmApi {
            confirmed: false,
            ..self
        }
    }

    fn write<R>(&self, act: impl FnOnce(&mut Object) -> Result<R>) -> Result<R> {
        self.core.with_storage(|storage| match self.confirmed {
            true => storage.object(act),
            false => storage.object_unconfirmed(act),
        })
    }

    /// When the alarm will fire, in milliseconds since 1970. While its handler runs there is none,
    /// unless the handler set another. Between a failure and the retry it is the time of the retry.
    pub fn get(&self) -> Result<Option<u64>> {
        let found = self.stored()?;
        let waits = found.filter(|alarm| !is_running(self.core, alarm));
        Ok(waits.map(|alarm| alarm.due_ms))
    }

    /// Sets the alarm, replacing the one of the same name that is set, with its schedule and its retries.
    /// A time that has passed means now: it fires as soon as it is durable.
    ///
    /// # Errors
    /// [`Error::NoAlarmHandler`] if the class has no handler, [`Error::AlarmTime`] for the time 0, and
    /// [`Error::Limit`] for a name of more than 256 bytes or a 257th alarm.
    pub fn set(&self, due_ms: u64) -> Result<()> {
        if due_ms == 0 {
            return Err(Error::AlarmTime);
        }
        let now_ms = now_ms(self.core);
        self.put(due_ms.max(now_ms), String::new())
    }

    /// Has the alarm fire at every time of a cron expression, by UTC: minute, hour, day of the month, month,
    /// day of the week; with a sixth field in front, the seconds.
    ///
    /// Each time counts from when the last one was handled: those that were missed, because nothing ran or
    /// the handler failed or took too long, are one. A handler that fails is tried again like any other; after
    /// six retries the next time of the schedule comes. Deleting or setting the alarm ends the schedule.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # fn handler(ctx: &Ctx) -> Result<()> {
    /// ctx.alarm_named("nightly").cron("30 3 * * *")?;
    /// ctx.alarm_named("payday").cron_in("Europe/Berlin", "0 9 L * *")?; // the month's last day, at nine there
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Schedule`] for what is no expression, or one that has no time left, and those of
    /// [`AlarmApi::set`].
    pub fn cron(&self, expression: &str) -> Result<()> {
        self.cron_in(UTC, expression)
    }

    /// The same, by the wall clock of a time zone of the system's database, such as `Europe/Berlin`. What
    /// falls into an hour that the clocks skip comes when they have skipped it, and what falls into one that
    /// they repeat comes once.
    pub fn cron_in(&self, zone: &str, expression: &str) -> Result<()> {
        let due_ms = Schedule::new(zone, expression)?.after(now_ms(self.core))?;
        self.put(due_ms, Schedule::text(zone, expression))
    }

    /// Takes the alarm away, with its schedule. A handler that is running because of it goes on.
    pub fn delete(&self) -> Result<()> {
        self.write(|object| {
            object.clear_alarm(self.name);
            Ok(())
        })
    }

    fn stored(&self) -> Result<Option<Alarm>> {
        self.core
            .with_storage(|storage| Ok(storage.object(|object| find(object, self.name))))
    }

    fn put(&self, due_ms: u64, schedule: String) -> Result<()> {
        let class = &self.core.address.class;
        if !class.has_alarm {
            return Err(Error::NoAlarmHandler { class: class.name });
        }
        limit(
            "the bytes of an alarm's name",
            self.name.len(),
            NAME_BYTES_MAX,
        )?;
        let alarm = Alarm {
            name: self.name.to_owned(),
            due_ms,
            schedule,
            ..Alarm::default()
        };
        // It may be set to just what it was when it fired: then only this tells that it was set.
        if let Some(running) = &mut *self.core.alarm_running.borrow_mut()
            && running.alarm == alarm
        {
            running.set_again = true;
        }
        self.write(|object| {
            let others = object.alarms().iter();
            let others = others.filter(|other| other.name != alarm.name).count();
            limit("the number of an object's alarms", others + 1, ALARMS_MAX)?;
            object.set_alarm(alarm);
            Ok(())
        })?;
        tell(self.core, due_ms);
        Ok(())
    }
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<()> {
    match count > limit {
        true => Err(Error::Limit { what, limit }),
        false => Ok(()),
    }
}

/// All alarms of the object with their times, by name; not the one whose handler runs.
pub(crate) fn all(core: &Rc<Core>) -> Result<Vec<(String, u64)>> {
    let alarms =
        core.with_storage(|storage| Ok(storage.object(|object| object.alarms().to_vec())))?;
    let waiting = alarms.into_iter().filter(|alarm| !is_running(core, alarm));
    Ok(waiting.map(|alarm| (alarm.name, alarm.due_ms)).collect())
}

fn find(object: &Object, name: &str) -> Option<Alarm> {
    let mut alarms = object.alarms().iter();
    alarms.find(|alarm| alarm.name == name).cloned()
}

fn now_ms(core: &Core) -> u64 {
    core.shard.upgrade().map_or(0, |shard| shard.clock.now_ms())
}

/// The alarm whose handler runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// As it was when it fired. What the object has under this name is another alarm if it differs.
    alarm: Alarm,
    /// The handler set it to what it was.
    set_again: bool,
}

fn is_running(core: &Core, alarm: &Alarm) -> bool {
    let running = core.alarm_running.borrow();
    running
        .as_ref()
        .is_some_and(|running| running.alarm == *alarm && !running.set_again)
}

/// Tells the scheduler of an alarm, once it is durable.
fn tell(core: &Rc<Core>, due_ms: u64) {
    if let Some(house) = core.shard.upgrade().and_then(|shard| shard.house.upgrade()) {
        core.emit(Box::new(move || house.alarms.set_for(due_ms)));
    }
}

/// The first alarm for this time or before it.
fn first_due(object: &Object, until_ms: u64) -> Option<Alarm> {
    let due = object
        .alarms()
        .iter()
        .filter(|alarm| alarm.due_ms <= until_ms);
    due.min_by_key(|alarm| alarm.due_ms).cloned()
}

/// Takes up the object's earliest alarm if it is for this time or before it. Called in a turn of the object.
pub(crate) fn begin(core: &Rc<Core>, until_ms: u64) -> Result<Option<AlarmInfo>> {
    let due =
        core.with_storage(|storage| Ok(storage.object(|object| first_due(object, until_ms))))?;
    let info = due.as_ref().map(|alarm| AlarmInfo {
        name: alarm.name.clone(),
        scheduled_ms: alarm.due_ms,
        retry_count: alarm.attempts,
    });
    *core.alarm_running.borrow_mut() = due.map(|alarm| Running {
        alarm,
        set_again: false,
    });
    Ok(info)
}

/// Runs the handler for as long as a handler may run; one that runs for longer has its object reset.
pub(crate) async fn within_limit(
    core: &Rc<Core>,
    handler: impl Future<Output = Result<(), CallError>>,
) -> Result<(), CallError> {
    let Some(shard) = core.shard.upgrade() else {
        return Err(CallError::Closed);
    };
    let limit = shard
        .clock
        .sleep_until(shard.clock.now_ms() + HANDLER_MS_MAX);
    drop(shard);
    tokio::select! {
        biased;
        outcome = handler => outcome,
        () = limit => {
            let why = "its alarm handler ran for more than 15 minutes";
            Err(core.reset(CallError::Aborted(why.into())))
        }
    }
}

/// The handler has returned. Called in its last turn, so that this commits with what it wrote.
pub(crate) fn end(core: &Rc<Core>, succeeded: bool) -> Result<()> {
    let Some(running) = core.alarm_running.take() else {
        return Ok(());
    };
    match succeeded {
        true => finish(core, &running),
        false => put_off(core, Some(&running), false),
    }
}

/// The alarm did its work: it is deleted, or moved to its schedule's next time.
fn finish(core: &Rc<Core>, running: &Running) -> Result<()> {
    let now_ms = now_ms(core);
    replace(core, running, |alarm| next_time(core, alarm, now_ms))
}

/// Moves a failed alarm to its next try, or gives it up, after the last try or if it is to be abandoned: the
/// one whose handler ran, or the first that is due, if none came to run.
pub(crate) fn put_off(core: &Rc<Core>, running: Option<&Running>, abandon: bool) -> Result<()> {
    let Some(shard) = core.shard.upgrade() else {
        return Ok(());
    };
    let now_ms = shard.clock.now_ms();
    let random = shard.engine.random_u64();
    let running = match running {
        Some(running) => running.clone(),
        None => {
            let due = |object: &mut Object| first_due(object, now_ms);
            let due = core.with_storage(|storage| Ok(storage.object(due)))?;
            let Some(alarm) = due else { return Ok(()) };
            Running {
                alarm,
                set_again: false,
            }
        }
    };
    replace(core, &running, |alarm| {
        if abandon {
            return next_time(core, alarm, now_ms);
        }
        if alarm.attempts >= RETRIES_MAX {
            tracing::error!(object = %core.address.id, alarm = alarm.name, "its alarm failed for good");
            return next_time(core, alarm, now_ms);
        }
        Some(Alarm {
            due_ms: now_ms + backoff_ms(alarm.attempts, random),
            attempts: alarm.attempts + 1,
            ..alarm
        })
    })
}

/// Puts another in the alarm's place, or none, unless the handler has put something there.
fn replace(
    core: &Rc<Core>,
    running: &Running,
    next: impl FnOnce(Alarm) -> Option<Alarm>,
) -> Result<()> {
    let due_ms = core.with_storage(|storage| {
        Ok(storage.object(|object| {
            let name = &running.alarm.name;
            let found = find(object, name).filter(|found| *found == running.alarm);
            let next = found.filter(|_| !running.set_again).map(next)?;
            let due_ms = next.as_ref().map(|next| next.due_ms);
            match next {
                Some(alarm) => object.set_alarm(alarm),
                None => drop(object.clear_alarm(name)),
            }
            due_ms
        }))
    })?;
    due_ms.into_iter().for_each(|due_ms| tell(core, due_ms));
    Ok(())
}

/// The alarm at its schedule's next time; `None` if it has no schedule, or the schedule has ended.
fn next_time(core: &Core, alarm: Alarm, now_ms: u64) -> Option<Alarm> {
    if alarm.schedule.is_empty() {
        return None;
    }
    // One that a test ran early is not to come once more.
    let after_ms = now_ms.max(alarm.due_ms);
    let next = Schedule::read(&alarm.schedule).and_then(|schedule| schedule.after(after_ms));
    match next {
        Ok(due_ms) => Some(Alarm {
            due_ms,
            attempts: 0,
            ..alarm
        }),
        Err(error) => {
            tracing::error!(object = %core.address.id, alarm = alarm.name, "its schedule ends: {error}");
            None
        }
    }
}

/// Two seconds, doubling, with up to a quarter more so that objects that failed together spread out.
pub(crate) fn backoff_ms(attempts: u32, random: u64) -> u64 {
    let base = BACKOFF_MS << attempts.min(BACKOFF_EXPONENT_MAX);
    base + random % (base / 4 + 1)
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
