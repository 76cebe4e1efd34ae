//! What a measurement ran on.

use std::path::Path;

use serde_json::{Value, json};

/// The rest of the first line of a file that begins so.
fn line(path: &str, start: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
    Some(rest.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The type of the file system that a directory lies on: that of the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|mount| {
        let mut fields = mount.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    let (_, kind) = above.max_by_key(|(point, _)| point.len())?;
    Some(kind.to_owned())
}

pub fn describe(dir: &Path) -> Value {
    json!({
        "cpu": line("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": line("/proc/meminfo", "MemTotal:"),
        "kernel": line("/proc/sys/kernel/osrelease", ""),
        "file_system": file_system(dir),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
