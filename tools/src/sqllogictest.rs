//! `dovehouse sqllogictest`: scripts of SQL with the results they must give, run on objects, beside stock SQLite.
//!
//! The language is that of the classic corpus: `docs/sqllogictest.md`.

mod boundary;
mod format;
mod judge;
mod report;
mod run;
mod script;
mod side;

use std::path::{Path, PathBuf};

use dovehouse_engine::{ClassId, Engine, ObjectId};

use crate::exit::{FAILURE, Failure};
use crate::output;
use format::Formatter;
use report::{Mismatch, Report};
use side::Dovehouse;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder whose files `*.test` are run, those of folders in it too; or one file
    dir: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Less than a store has by default: segments are filled with zeros before they are used, and most runs are short.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Where the scripts run: a store with an object for each of them.
struct Place {
    engine: Engine,
    class: ClassId,
    formatter: Formatter,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut files = Vec::new();
    find(&arguments.dir, &mut files)?;
    if files.is_empty() {
        let message = format!("{}: no file *.test is there", arguments.dir.display());
        return Err(Failure::new(FAILURE, message));
    }
    files.sort();
    let report = run_files(&files)?;
    match arguments.json {
        true => output::json(&report.to_json())?,
        false => report.print()?,
    }
    report.result()
}

fn run_files(files: &[PathBuf]) -> Result<Report, Failure> {
    let temporary = tempfile::tempdir()?;
    let engine = Engine::builder(temporary.path().join("store"))
        .segment_bytes(SEGMENT_BYTES)
        .open()?;
    let place = Place {
        class: engine.class("Script")?,
        engine,
        formatter: Formatter::new()?,
    };
    let mut report = Report::default();
    let bar = output::progress(files.len() as u64, "scripts");
    for (number, path) in (1u64..).zip(files) {
        place.run(number, path, &mut report)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    place.engine.close()?;
    Ok(report)
}

impl Place {
    fn run(&self, number: u64, path: &Path, report: &mut Report) -> Result<(), Failure> {
        let bytes = std::fs::read(path).map_err(|error| named(path, error))?;
        let name = path.display().to_string();
        report.files += 1;
        let script = match script::text(&bytes).and_then(script::parse) {
            Ok(script) => script,
            Err(error) => {
                report.not_a_script(&name, error);
                return Ok(());
            }
        };
        let side = run::run(&name, &script, self.open(number)?, &self.formatter, report)?;
        let closed = side.close();
        // What the script left must be whole when the object wakes.
        let side = self.open(number)?;
        let found = match closed {
            Ok(()) => side.integrity_check()?.join("\n"),
            Err(refusal) => refusal.message,
        };
        if !found.is_empty() {
            report.dovehouse.failed += 1;
            report.mismatch(Mismatch {
                path: name,
                line: script.lines,
                sql: "PRAGMA integrity_check".into(),
                expected: "ok".into(),
                got: found,
                as_stock: false,
            });
        }
        Ok(side.erase()?)
    }

    fn open(&self, number: u64) -> Result<Dovehouse, Failure> {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let id = ObjectId::from_bytes(id);
        Ok(Dovehouse::open(&self.engine, self.class, id)?)
    }
}

/// The scripts at a path and below it.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let kind = std::fs::metadata(path).map_err(|error| named(path, error))?;
    if kind.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|error| named(path, error))?;
    for entry in entries {
        let path = entry.map_err(|error| named(path, error))?.path();
        if path.is_dir()
            || path
                .extension()
                .is_some_and(|extension| extension == "test")
        {
            find(&path, files)?;
        }
    }
    Ok(())
}

fn named(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(FAILURE, format!("{}: {error}", path.display()))
}
