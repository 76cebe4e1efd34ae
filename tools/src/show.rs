//! `dovehouse show`: what is known of one object.

use std::path::PathBuf;

use dovehouse_engine::List;
use serde_json::json;

use crate::exit::Failure;
use crate::output;
use crate::{ls, store};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let info = store::find(&engine, &arguments.object)?;
    let object = engine.wake(info.entry.class, info.id)?;
    // The image may be older than the object; what is awake is not.
    let keys = object.list(&List::all()).filter(Result::is_ok).count();
    if arguments.json {
        let mut document = ls::describe(&engine, &info);
        document["schema"] = json!(1);
        document["kv_count"] = json!(keys);
        document["page_count"] = json!(object.page_count());
        document["state_bytes"] = json!(object.state_bytes());
        return Ok(output::json(&document)?);
    }
    let mut table = output::table(&["FIELD", "VALUE"], &[]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("id", info.id.to_string());
    row(
        "name",
        info.name.clone().unwrap_or_else(|| "none kept".into()),
    );
    row("class", store::class_name(&engine, &info));
    row("commits", info.entry.seq.to_string());
    row(
        "slot",
        format!("{}, generation {}", info.slot, info.entry.generation),
    );
    row(
        "newest record",
        format!("at {}, {} bytes", info.entry.head, info.entry.bytes),
    );
    row(
        "records to read",
        format!(
            "{} (an image and {} deltas)",
            info.entry.depth + 1,
            info.entry.depth
        ),
    );
    row("image written", output::time(info.written_ms));
    row("keys", keys.to_string());
    row("database pages", object.page_count().to_string());
    row(
        "state",
        format!("{} bytes uncompressed", object.state_bytes()),
    );
    for alarm in object.alarms() {
        let name = if alarm.name.is_empty() {
            "alarm".to_owned()
        } else {
            format!("alarm {}", alarm.name)
        };
        row(
            &name,
            format!(
                "{}, tried {} times",
                output::time(alarm.due_ms),
                alarm.attempts
            ),
        );
    }
    if info.entry.erased {
        row("erased", "yes".into());
    }
    Ok(output::print_table(&table)?)
}
