//! `dovehouse history`: the commits of an object.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde_json::json;

use crate::exit::Failure;
use crate::output;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// At most so many, the newest
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let info = store::find(&engine, &arguments.object)?;
    let mut moments = VecDeque::new();
    for moment in engine.history(&info.id)? {
        moments.push_back(moment?);
        if arguments.limit.is_some_and(|limit| moments.len() > limit) {
            moments.pop_front();
        }
    }
    let moments = moments.iter().rev();
    if arguments.json {
        let commits: Vec<_> = moments
            .map(|moment| {
                json!({
                    "bookmark": moment.bookmark.to_string(),
                    "seq": moment.bookmark.seq(),
                    "time_ms": moment.time_ms,
                    "time": output::time(moment.time_ms),
                    "bytes": moment.bytes,
                })
            })
            .collect();
        let document = json!({ "schema": 1, "id": info.id.to_string(), "commits": commits });
        return Ok(output::json(&document)?);
    }
    let mut table = output::table(&["BOOKMARK", "TIME", "BYTES"], &[2]);
    for moment in moments {
        table.add_row([
            moment.bookmark.to_string(),
            output::time(moment.time_ms),
            moment.bytes.to_string(),
        ]);
    }
    Ok(output::print_table(&table)?)
}
