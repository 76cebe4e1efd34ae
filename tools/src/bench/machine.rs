//! What a measurement ran on, and what the process takes.

use std::alloc::System;

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// The system's allocator, counting.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now, by the allocator's own count.
pub(super) fn heap_bytes() -> u64 {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated) as u64
}

/// A line of a file of the system that begins so, without the beginning.
fn line(path: &str, start: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
    Some(rest.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// Bytes of the process that are in memory; pages of mapped files are not counted.
pub(super) fn rss_bytes() -> Option<u64> {
    let kilobytes = line("/proc/self/status", "RssAnon:")?;
    let number: u64 = kilobytes.trim_end_matches(" kB").parse().ok()?;
    Some(number << 10)
}

pub(super) fn describe() -> Value {
    let memory = line("/proc/meminfo", "MemTotal:").unwrap_or_default();
    json!({
        "cpu": line("/proc/cpuinfo", "model name").unwrap_or_default(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory,
        "kernel": line("/proc/sys/kernel/osrelease", "").unwrap_or_default(),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
