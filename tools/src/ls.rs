//! `dovehouse ls`: the objects of a store.

use std::path::PathBuf;

use dovehouse_engine::{Engine, ObjectInfo};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::output;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// Only objects of this class
    class: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let (mut objects, mut damaged) = (Vec::new(), Vec::new());
    for object in engine.objects() {
        match object {
            Ok(info) if wanted(&engine, &info, arguments.class.as_deref()) => objects.push(info),
            Ok(_) => {}
            Err(error) => damaged.push(error.to_string()),
        }
    }
    if arguments.json {
        let objects: Vec<Value> = objects.iter().map(|info| describe(&engine, info)).collect();
        output::json(&json!({ "schema": 1, "objects": objects, "damaged": damaged }))?;
    } else {
        print(&engine, &objects)?;
        damaged
            .iter()
            .for_each(|error| eprintln!("dovehouse: {error}"));
    }
    if damaged.is_empty() {
        Ok(())
    } else {
        Err(Failure::damage_reported())
    }
}

/// Erased objects are no objects, until they are made again.
fn wanted(engine: &Engine, info: &ObjectInfo, class: Option<&str>) -> bool {
    !info.entry.erased && class.is_none_or(|class| store::class_name(engine, info) == class)
}

fn print(engine: &Engine, objects: &[ObjectInfo]) -> Result<(), Failure> {
    let mut table = output::table(
        &["ID", "CLASS", "NAME", "COMMITS", "KEYS", "PAGES", "WRITTEN"],
        &[3, 4, 5],
    );
    for info in objects {
        table.add_row([
            info.id.to_string(),
            store::class_name(engine, info),
            info.name.clone().unwrap_or_default(),
            info.entry.seq.to_string(),
            info.kv_count.to_string(),
            info.page_count.to_string(),
            output::time(info.written_ms),
        ]);
    }
    Ok(output::print_table(&table)?)
}

/// An object as JSON.
pub(crate) fn describe(engine: &Engine, info: &ObjectInfo) -> Value {
    let alarm = |alarm: &dovehouse_engine::Alarm| json!({ "name": alarm.name, "due_ms": alarm.due_ms, "attempts": alarm.attempts });
    json!({
        "id": info.id.to_string(),
        "class": store::class_name(engine, info),
        "name": info.name,
        "slot": info.slot.get(),
        "generation": info.entry.generation,
        "seq": info.entry.seq,
        "erased": info.entry.erased,
        "head": info.entry.head.to_string(),
        "head_bytes": info.entry.bytes,
        "depth": info.entry.depth,
        "written_ms": info.written_ms,
        "kv_count": info.kv_count,
        "kv_bytes": info.kv_bytes,
        "page_count": info.page_count,
        "alarms": info.alarms.iter().map(alarm).collect::<Vec<_>>(),
    })
}
