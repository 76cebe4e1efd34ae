//! Bytes on disk and in memory for each sleeping object, and how long opening takes.

use std::path::Path;
use std::time::Instant;

use dovehouse_engine::{DictionaryStats, Engine};
use serde_json::{Map, Value};

use super::{Kind, Run, content, machine};
use crate::compact;
use crate::exit::Failure;

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let start = Instant::now();
    create(run, &engine)?;
    run.note_rate(run.objects, start.elapsed());

    let start = Instant::now();
    let report = compact::with_progress(&engine)?;
    run.note("compacted_objects", report.objects);
    let dictionaries = engine.stats().dictionaries;
    run.note(
        "dictionaries",
        dictionaries.iter().map(dictionary).collect::<Vec<_>>(),
    );
    run.note_number("compact_s", start.elapsed().as_secs_f64());
    engine.close()?;
    drop(engine);

    let engine = run.reopen()?;
    run.note("rss_bytes", machine::rss_bytes());
    run.note("open_files", open_files());
    disk(run, &engine)?;
    engine.close()?;
    Ok(())
}

fn dictionary(stats: &DictionaryStats) -> Value {
    serde_json::json!({
        "number": stats.number,
        "trained": stats.is_trained,
        "bytes": stats.bytes,
        "images": stats.images,
        "state_bytes": stats.state_bytes,
        "stored_bytes": stats.stored_bytes,
    })
}

fn create(run: &Run, engine: &Engine) -> Result<(), Failure> {
    match run.kind {
        Kind::Kv | Kind::Random => drop(content::load_filled(engine, run)?),
        #[cfg(feature = "sql")]
        Kind::Sql => sql::create(run, engine)?,
    }
    Ok(())
}

/// What the store takes for each object, by kind of file. Segments that wait to be used, and what is
/// unused of the last one, are the pool: they are there for commits to come, whatever the objects.
fn disk(run: &mut Run, engine: &Engine) -> Result<(), Failure> {
    let log = engine.stats().log;
    let used = |file: &Path| std::fs::metadata(file).map_or(0, |file| file.len());
    let in_segments: u64 = engine
        .log()
        .segments()
        .iter()
        .map(|segment| u64::from(segment.end()))
        .sum();
    let segments = log.segment_files as u64 * log.segment_bytes;
    run.note("pool_bytes", segments - in_segments);
    let mut parts: Map<String, Value> = Map::new();
    let mut total = 0;
    for (name, bytes) in [
        ("segments", in_segments),
        ("slots", used(&run.dir.join("slots"))),
        ("ids", used(&run.dir.join("ids"))),
        ("alarms", used(&run.dir.join("alarms"))),
        (
            "manifest",
            used(&run.dir.join("MANIFEST-a")) + used(&run.dir.join("MANIFEST-b")),
        ),
    ] {
        total += bytes;
        let each = bytes as f64 / run.objects as f64;
        parts.insert(name.to_owned(), ((each * 100.0).round() / 100.0).into());
    }
    let each = total as f64 / run.objects as f64;
    parts.insert("total".to_owned(), ((each * 100.0).round() / 100.0).into());
    run.note("bytes_per_object", parts);
    Ok(())
}

fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(feature = "sql")]
mod sql {
    use dovehouse_engine::Engine;
    use dovehouse_sqlbridge::Database;

    use super::super::Run;
    use crate::exit::Failure;

    const SCHEMA: [&str; 6] = [
        "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT, email TEXT)",
        "CREATE TABLE message(id INTEGER PRIMARY KEY, user INTEGER, body TEXT, created_at INTEGER)",
        "CREATE TABLE setting(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
        "CREATE TABLE event(at INTEGER, what TEXT)",
        "CREATE INDEX message_user ON message(user)",
        "CREATE INDEX event_at ON event(at)",
    ];

    pub(super) fn create(run: &Run, engine: &Engine) -> Result<(), Failure> {
        let fill = |database: &Database, number| {
            for statement in SCHEMA {
                database.exec(statement, ())?;
            }
            let row = (format!("user {number}"), format!("{number}@example.org"));
            database.exec("INSERT INTO user(name, email) VALUES (?, ?)", row)?;
            Ok(())
        };
        super::super::sql::create(run, engine, fill).map(drop)
    }
}
