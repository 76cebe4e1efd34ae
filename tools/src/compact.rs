//! `dovehouse compact`: give back the space of what is dead.

use std::path::PathBuf;

use dovehouse_engine::wal::Role;
use dovehouse_engine::{CompactReport, Engine, SegmentUsage};
use serde_json::json;

use crate::exit::Failure;
use crate::{output, store};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// Show how much of each segment lives, and which would be emptied; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.dry_run {
        return show(&store::open(&arguments.dir)?, arguments.json);
    }
    let engine = Engine::builder(&arguments.dir).open_existing()?;
    let before = engine.stats().log.segment_files;
    let report = with_progress(&engine)?;
    let after = engine.stats().log.segment_files;
    let segment_bytes = engine.log().superblock().segment_bytes;
    engine.close()?;
    print(&report, before, after, segment_bytes, arguments.json)
}

/// Compacts, and shows how far it is.
pub(crate) fn with_progress(engine: &Engine) -> Result<CompactReport, Failure> {
    // Counted, and let go: whoever holds a segment keeps its file.
    let victims = engine
        .segment_usage()
        .iter()
        .filter(|usage| usage.is_victim)
        .count();
    let bar = output::progress(victims as u64, "segments");
    let report = engine.compact_with(|report| bar.set_position(report.victims as u64));
    bar.finish_and_clear();
    Ok(report?)
}

fn print(
    report: &CompactReport,
    before: usize,
    after: usize,
    segment_bytes: u64,
    as_json: bool,
) -> Result<(), Failure> {
    let CompactReport {
        victims,
        objects,
        bytes,
        freed_segments,
        ..
    } = report;
    if as_json {
        output::json(&json!({
            "schema": 1,
            "victims": victims,
            "objects": objects,
            "bytes": bytes,
            "freed_segments": freed_segments,
            "segment_bytes": segment_bytes,
            "segment_files_before": before,
            "segment_files": after,
        }))?;
    } else {
        output::print(format!(
            "{victims} segments emptied, {objects} objects of {bytes} bytes moved, \
             {freed_segments} segments free, {before} segment files before and {after} now"
        ))?;
    }
    Ok(())
}

fn show(engine: &Engine, as_json: bool) -> Result<(), Failure> {
    let usages = engine.segment_usage();
    if as_json {
        let rows: Vec<_> = usages
            .iter()
            .map(|usage| {
                json!({
                    "segno": usage.segment.segno,
                    "role": role(usage),
                    "used_bytes": usage.segment.end(),
                    "live_bytes": usage.live_bytes,
                    "victim": usage.is_victim,
                })
            })
            .collect();
        output::json(&json!({ "schema": 1, "segments": rows }))?;
        return Ok(());
    }
    let mut table = output::table(&["SEGMENT", "ROLE", "USED", "LIVE", "EMPTIED"], &[0, 2, 3]);
    for usage in &usages {
        table.add_row([
            usage.segment.segno.to_string(),
            role(usage).to_owned(),
            usage.segment.end().to_string(),
            usage.live_bytes.to_string(),
            if usage.is_victim { "yes" } else { "" }.to_owned(),
        ]);
    }
    Ok(output::print_table(&table)?)
}

fn role(usage: &SegmentUsage) -> &'static str {
    match usage.segment.role {
        Role::Pack => "pack",
        _ => "log",
    }
}
