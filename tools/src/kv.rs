//! `dovehouse kv`: an object's keys.

use std::io::Write;
use std::path::PathBuf;

use dovehouse_engine::List;
use serde_json::json;

use crate::exit::{FAILURE, Failure};
use crate::output;
use crate::point::Point;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// Print the value of this key as it is, and nothing else
    key: Option<String>,
    /// Only keys that begin like this
    #[arg(long, default_value = "", conflicts_with = "key")]
    prefix: String,
    /// As the object was at this POINT: a bookmark, a time, or how long ago
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    at: Option<Point>,
    /// Print one JSON document; keys and values in hex
    #[arg(long, conflicts_with = "key")]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let object = store::load(&engine, &arguments.object, arguments.at.as_ref())?;
    if let Some(key) = &arguments.key {
        let absent = || Failure::new(FAILURE, format!("the object has no key {key}"));
        let value = object.get(key.as_bytes())?.ok_or_else(absent)?;
        return Ok(std::io::stdout().write_all(&value)?);
    }
    // What cannot be read is told at the end; the rest is worth having.
    let mut damage = Vec::new();
    let listed = object.list(&List::prefix(arguments.prefix.as_bytes()));
    let entries =
        listed.filter_map(|listed| listed.map_err(|error| damage.push(error.to_string())).ok());
    if arguments.json {
        let entries: Vec<_> = entries
            .map(|(key, value)| json!({ "key": output::hex(&key), "value": output::hex(&value) }))
            .collect();
        output::json(&json!({ "schema": 1, "entries": entries, "damage": damage }))?;
    } else {
        let mut table = output::table(&["KEY", "VALUE"], &[]);
        for (key, value) in entries {
            table.add_row([output::readable(&key), output::readable(&value)]);
        }
        output::print_table(&table)?;
        damage.iter().try_for_each(output::print)?;
    }
    match damage.is_empty() {
        true => Ok(()),
        false => Err(Failure::damage_reported()),
    }
}
