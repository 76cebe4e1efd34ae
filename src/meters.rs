//! What the runtime counts, by way of the crate `metrics`: `docs/observability.md` has the names.
//!
//! The program installs a recorder, or nothing is counted. A class finds it once, when it is asked for.

use metrics::{Counter, Gauge, counter, gauge};

use crate::error::CallError;

/// The counters of a class.
pub(crate) struct Meters {
    class: &'static str,
    pub(crate) calls: Counter,
    pub(crate) canceled: Counter,
    pub(crate) alarms: Counter,
    pub(crate) wakes: Counter,
    pub(crate) resets: Counter,
    pub(crate) evicted_idle: Counter,
    pub(crate) evicted_for_memory: Counter,
}

impl Meters {
    pub(crate) fn new(class: &'static str) -> Self {
        let evictions = |cause: &'static str| counter!("dovehouse_evictions_total", "class" => class, "cause" => cause);
        Meters {
            class,
            calls: counter!("dovehouse_calls_total", "class" => class),
            canceled: counter!("dovehouse_calls_canceled_total", "class" => class),
            alarms: counter!("dovehouse_alarms_fired_total", "class" => class),
            wakes: counter!("dovehouse_wakes_total", "class" => class),
            resets: counter!("dovehouse_resets_total", "class" => class),
            evicted_idle: evictions("idle"),
            evicted_for_memory: evictions("memory"),
        }
    }

    /// Counts a call that gave no result.
    pub(crate) fn failed(&self, error: &CallError) {
        // By variant: the kinds of an application's own errors may be without number.
        let kind = error.variant();
        counter!("dovehouse_calls_failed_total", "class" => self.class, "kind" => kind)
            .increment(1);
    }
}

/// The gauges of a shard.
pub(crate) struct Gauges {
    pub(crate) awake: Gauge,
    pub(crate) awake_bytes: Gauge,
}

impl Gauges {
    pub(crate) fn new(shard: usize) -> Self {
        let shard = shard.to_string();
        Gauges {
            awake: gauge!("dovehouse_objects_awake", "shard" => shard.clone()),
            awake_bytes: gauge!("dovehouse_awake_bytes", "shard" => shard),
        }
    }
}
