//! What a measurement ran on, and what the process takes.

use serde_json::{Value, json};

/// The system's allocator, counting.
#[cfg(feature = "count-heap")]
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now, by the allocator's own count; `None` if that was not built to count.
#[cfg(feature = "count-heap")]
pub(super) fn heap_bytes() -> Option<u64> {
    let stats = ALLOCATOR.stats();
    let gone = stats.bytes_deallocated;
    Some(stats.bytes_allocated.saturating_sub(gone) as u64)
}

#[cfg(not(feature = "count-heap"))]
pub(super) fn heap_bytes() -> Option<u64> {
    None
}

/// How many more those are than before.
pub(super) fn heap_bytes_since(before: Option<u64>) -> Option<u64> {
    Some(heap_bytes()?.saturating_sub(before?))
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
        "counts_heap": cfg!(feature = "count-heap"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
