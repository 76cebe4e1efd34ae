//! `dovehouse verify`: is everything there, and is it what it should be?

use std::path::PathBuf;

use dovehouse_engine::{Decoded, Engine, List, ObjectInfo};
use serde_json::json;

use crate::exit::Failure;
use crate::output;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// Also load every object's state, and check its database with SQLite
    #[arg(long)]
    deep: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Report {
    segments: u64,
    batches: u64,
    records: u64,
    objects: u64,
    databases: u64,
    history: u64,
    damage: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (engine, damage) = store::open_damaged(&arguments.dir)?;
    let mut report = Report::default();
    report
        .damage
        .extend(damage.map(|damage| damage.to_string()));
    check_log(&engine, &mut report);
    check_objects(&engine, &mut report, arguments.deep);
    check_history(&engine, &mut report);
    if arguments.json {
        output::json(&json!({
            "schema": 1,
            "segments": report.segments,
            "batches": report.batches,
            "records": report.records,
            "objects": report.objects,
            "databases": report.databases,
            "history_entries": report.history,
            "damage": report.damage,
        }))?;
    } else {
        let Report {
            segments,
            batches,
            records,
            objects,
            databases,
            history,
            damage,
        } = &report;
        let deep = if arguments.deep {
            format!(", {databases} databases")
        } else {
            String::new()
        };
        output::print(format!(
            "{segments} segments, {batches} batches, {records} records, {objects} objects{deep}, {history} entries of history: {}",
            if damage.is_empty() {
                "no damage".to_owned()
            } else {
                format!("{} damaged places", damage.len())
            }
        ))?;
        damage.iter().try_for_each(output::print)?;
    }
    if report.damage.is_empty() {
        Ok(())
    } else {
        Err(Failure::damage_reported())
    }
}

/// Every batch of every segment: checksums, and fields that make sense.
fn check_log(engine: &Engine, report: &mut Report) {
    let log = engine.log();
    let segments = log.segments();
    let bar = output::progress(segments.len() as u64, "segments");
    for segment in &segments {
        report.segments += 1;
        match segment.header(log.superblock().store_id) {
            Ok(Some(header)) if header.segno == segment.segno => {}
            Ok(_) => report
                .damage
                .push(format!("{}: its header is damaged", segment.path.display())),
            Err(error) => report.damage.push(error.to_string()),
        }
        for batch in log.batches(segment) {
            match batch {
                Ok(batch) => {
                    report.batches += 1;
                    for record in batch.records() {
                        report.records += 1;
                        if Decoded::of(&record) == Decoded::Malformed {
                            report
                                .damage
                                .push(format!("the record at {} makes no sense", record.lsn));
                        }
                    }
                }
                Err(error) => report.damage.push(error.to_string()),
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
}

/// Every object: its index entries agree, and its records are there.
fn check_objects(engine: &Engine, report: &mut Report, deep: bool) {
    let bar = output::progress(engine.stats().slots, "objects");
    for object in engine.objects() {
        bar.inc(1);
        let info = match object {
            Ok(info) => info,
            Err(error) => {
                report.damage.push(error.to_string());
                continue;
            }
        };
        report.objects += 1;
        match engine.finds(&info) {
            Ok(true) => {}
            Ok(false) => report
                .damage
                .push(format!("object {}: the id table does not find it", info.id)),
            Err(error) => report.damage.push(error.to_string()),
        }
        if deep {
            check_state(engine, &info, report);
        }
    }
    bar.finish_and_clear();
}

/// Every entry of history that is in files.
fn check_history(engine: &Engine, report: &mut Report) {
    let bar = output::progress(engine.stats().history.entries, "entries of history");
    let damage = engine.check_history(|| {
        report.history += 1;
        bar.inc(1);
    });
    bar.finish_and_clear();
    report.damage.extend(damage.iter().map(ToString::to_string));
}

fn check_state(engine: &Engine, info: &ObjectInfo, report: &mut Report) {
    match engine.wake(info.entry.class, info.id) {
        Ok(object) => {
            let keys = object.list(&List::all()).filter_map(|listed| listed.err());
            let pages = (1..=object.page_count()).filter_map(|number| object.page(number).err());
            let named = |error| format!("object {}: {error}", info.id);
            let damage: Vec<_> = keys.chain(pages).map(named).collect();
            let is_whole = damage.is_empty();
            report.damage.extend(damage);
            if is_whole {
                check_database(object, info, report);
            }
        }
        Err(error) => report.damage.push(format!("object {}: {error}", info.id)),
    }
}

#[cfg(feature = "sql")]
fn check_database(object: dovehouse_engine::Object, info: &ObjectInfo, report: &mut Report) {
    if object.page_count() == 0 {
        return;
    }
    report.databases += 1;
    let object: dovehouse_sqlbridge::SharedObject = std::sync::Arc::new(object.into());
    let found =
        dovehouse_sqlbridge::Database::open(object).and_then(|database| database.integrity_check());
    match found {
        Ok(found) => {
            let named = found
                .into_iter()
                .map(|what| format!("object {}: SQLite says: {what}", info.id));
            report.damage.extend(named);
        }
        Err(error) => report.damage.push(format!("object {}: {error}", info.id)),
    }
}

#[cfg(not(feature = "sql"))]
fn check_database(_object: dovehouse_engine::Object, _info: &ObjectInfo, _report: &mut Report) {}
