//! `dovehouse diff`: what differs between two points of an object.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_engine::{Bookmark, Engine, ObjectId};
use dovehouse_sqlbridge::{AlarmChange, AlarmState, Counts, Diff, SharedObject, TableDiff, Value};
use serde_json::json;

use crate::exit::{FAILURE, Failure};
use crate::output;
use crate::point::Point;
use crate::sql::to_text;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// The first point: a bookmark, a time, or how long ago
    #[arg(allow_hyphen_values = true)]
    from: Point,
    /// The second point, unless it is the present
    #[arg(allow_hyphen_values = true)]
    to: Option<Point>,
    /// List at most so many keys, and rows of each table
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON document; keys and values in hex
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let id = store::find(&engine, &arguments.object)?.id;
    let from = arguments.from.bookmark(&engine, &id)?;
    let to = match &arguments.to {
        Some(point) => point.bookmark(&engine, &id)?,
        None => engine.bookmark(&id)?,
    };
    let diff = between(&engine, &id, &from, &to, arguments.limit)?;
    if arguments.json {
        let mut document =
            serde_json::to_value(&diff).map_err(|error| Failure::new(FAILURE, error))?;
        document["schema_changes"] = document["schema"].take();
        document["schema"] = json!(1);
        document["from"] = json!(from.to_string());
        document["to"] = json!(to.to_string());
        return Ok(output::json(&document)?);
    }
    print(&diff)
}

/// What differs between two points of an object.
pub(crate) fn between(
    engine: &Engine,
    id: &ObjectId,
    from: &Bookmark,
    to: &Bookmark,
    limit: usize,
) -> Result<Diff, Failure> {
    let past = |bookmark| -> Result<SharedObject, Failure> {
        Ok(Arc::new(engine.past(id, bookmark)?.into()))
    };
    Ok(Diff::between(&past(from)?, &past(to)?, limit)?)
}

/// Lines that begin with `+` are of the second point, those with `-` of the first.
pub(crate) fn print(diff: &Diff) -> Result<(), Failure> {
    if diff.is_empty() {
        return Ok(output::print("nothing differs")?);
    }
    if diff.keys.counts.total() > 0 {
        output::print(format!("keys: {}", sentence(&diff.keys.counts)))?;
        for change in &diff.keys.listed {
            let entry = |value: &Option<Vec<u8>>| {
                let value = output::readable(value.as_deref()?);
                Some(format!("{} = {value}", output::readable(&change.key)))
            };
            lines(entry(&change.before), entry(&change.after))?;
        }
        rest(diff.keys.counts, diff.keys.listed.len())?;
    }
    print_alarms(&diff.alarms)?;
    if !diff.schema.is_empty() {
        output::print(format!("schema: {} statements differ", diff.schema.len()))?;
        for change in &diff.schema {
            lines(change.before.clone(), change.after.clone())?;
        }
    }
    diff.tables.iter().try_for_each(print_table)
}

fn print_alarms(changes: &[AlarmChange]) -> Result<(), Failure> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut counts = Counts::default();
    for change in changes {
        match (&change.before, &change.after) {
            (None, _) => counts.added += 1,
            (_, None) => counts.removed += 1,
            _ => counts.changed += 1,
        }
    }
    output::print(format!("alarms: {}", sentence(&counts)))?;
    for AlarmChange {
        name,
        before,
        after,
        ..
    } in changes
    {
        let line = |state: &Option<AlarmState>| {
            let AlarmState {
                due_ms,
                attempts,
                schedule,
                ..
            } = state.as_ref()?;
            let name = if name.is_empty() {
                "the object's own"
            } else {
                name
            };
            let mut line = format!("{name}: {}", output::time(*due_ms));
            if *attempts > 0 {
                line += &format!(", tried {attempts} times");
            }
            if !schedule.is_empty() {
                line += &format!(", schedule {schedule}");
            }
            Some(line)
        };
        lines(line(before), line(after))?;
    }
    Ok(())
}

fn print_table(table: &TableDiff) -> Result<(), Failure> {
    let counts = sentence(&table.counts);
    output::print(format!("rows of {}: {counts}", table.name))?;
    for row in &table.listed {
        let key: Vec<_> = row.key.iter().map(to_text).collect();
        let line = |columns: &[String], values: &Option<Vec<Value>>| {
            let values = values.as_ref()?.iter().zip(columns);
            let values: Vec<_> = values
                .map(|(value, name)| format!("{name} = {}", to_text(value)))
                .collect();
            Some(format!("{}: {}", key.join(", "), values.join(", ")))
        };
        lines(
            line(&table.columns_before, &row.before),
            line(&table.columns_after, &row.after),
        )?;
    }
    rest(table.counts, table.listed.len())
}

fn lines(before: Option<String>, after: Option<String>) -> Result<(), Failure> {
    for (sign, text) in [('-', before), ('+', after)] {
        let Some(text) = text else { continue };
        // What has several lines stays one change.
        for line in text.lines() {
            output::print(format!("  {sign} {line}"))?;
        }
    }
    Ok(())
}

fn rest(counts: Counts, listed: usize) -> Result<(), Failure> {
    match counts.total() - listed as u64 {
        0 => Ok(()),
        more => Ok(output::print(format!("  and {more} more"))?),
    }
}

fn sentence(counts: &Counts) -> String {
    let Counts {
        added,
        removed,
        changed,
        ..
    } = counts;
    format!("{added} added, {removed} removed, {changed} changed")
}
