//! Alarms that differ between two states of an object. All are listed: an object has few.

use dovehouse_engine::Alarm;
use serde::Serialize;

/// An alarm that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AlarmChange {
    /// Its name; empty for the object's own.
    pub name: String,
    /// What it was in the first state, if it was set.
    pub before: Option<AlarmState>,
    /// What it is in the second state, if it is set.
    pub after: Option<AlarmState>,
}

/// An alarm that is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AlarmState {
    /// When it is due, in milliseconds since 1970; between tries, when it is tried next.
    pub due_ms: u64,
    /// How often it was tried since it became due.
    pub attempts: u32,
    /// The schedule that sets it again, in the words of the layer above; empty if it has none.
    pub schedule: String,
}

impl AlarmState {
    fn of(alarm: &Alarm) -> Self {
        AlarmState {
            due_ms: alarm.due_ms,
            attempts: alarm.attempts,
            schedule: alarm.schedule.clone(),
        }
    }
}

pub(super) fn between(before: &[Alarm], after: &[Alarm]) -> Vec<AlarmChange> {
    let find = |alarms: &[Alarm], name: &str| {
        let found = alarms.iter().find(|alarm| alarm.name == name);
        found.map(AlarmState::of)
    };
    let all = before.iter().chain(after);
    let mut names: Vec<&str> = all.map(|alarm| alarm.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let change = |name: &str| AlarmChange {
        name: name.to_owned(),
        before: find(before, name),
        after: find(after, name),
    };
    let changes = names.into_iter().map(change);
    changes
        .filter(|change| change.before != change.after)
        .collect()
}
