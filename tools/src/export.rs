//! `dovehouse export`: an object's database as a plain SQLite file, or those of all objects.

use std::path::{Path, PathBuf};

use dovehouse_engine::{Engine, Error as EngineError, Object, ObjectInfo};
use dovehouse_sqlbridge::Database;

use crate::exit::{DAMAGE, Failure};
use crate::output;
use crate::point::Point;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    #[arg(required_unless_present = "all")]
    object: Option<String>,
    /// The file to write, which must not be there yet
    #[arg(short, long, required_unless_present = "all")]
    output: Option<PathBuf>,
    /// Write every object's database to DIRECTORY/class/id.sqlite
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["object", "output"])]
    all: Option<PathBuf>,
    /// As objects were at this POINT: a time, a bookmark, or how long ago
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    at: Option<Point>,
    /// Add the keys and the alarm, in tables as workerd has them
    #[arg(long)]
    workerd: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    match (&arguments.all, &arguments.object, &arguments.output) {
        (Some(directory), ..) => all(&engine, directory, arguments),
        (None, Some(object), Some(output)) => {
            let object = store::load(&engine, object, arguments.at.as_ref())?;
            let zeros = one(&object, output, arguments.workerd)?;
            let bytes = output.metadata()?.len();
            output::print(format!("{bytes} bytes in {}", output.display()))?;
            zeros.iter().try_for_each(output::print)?;
            match zeros.is_empty() {
                true => Ok(()),
                false => Err(Failure::damage_reported()),
            }
        }
        _ => unreachable!("clap asks for them"),
    }
}

/// Writes one file. Returns what is to be said of pages that cannot be read.
fn one(object: &Object, path: &Path, workerd: bool) -> Result<Vec<String>, Failure> {
    let unreadable = match workerd {
        true => Database::export_for_workerd(object, path)?,
        false => Database::export(object, path)?,
    };
    let say =
        |(number, error): &(u32, EngineError)| format!("page {number} is zeros there: {error}");
    Ok(unreadable.iter().map(say).collect())
}

/// Writes what can be read, and names the rest.
fn all(engine: &Engine, directory: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let (mut written, mut without, mut code) = (0, 0, None);
    let bar = output::progress(engine.stats().slots, "objects");
    for info in engine.objects() {
        let result = info.map_err(Failure::from).and_then(|info| {
            export(engine, &info, directory, arguments).map_err(|failure| failure.about(info.id))
        });
        match result {
            Ok(true) => written += 1,
            Ok(false) => without += 1,
            Err(failure) => {
                code = code.filter(|code| *code == DAMAGE).or(Some(failure.code()));
                bar.suspend(|| output::print(&failure))?;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    output::print(format!(
        "{written} databases written, {without} objects have none"
    ))?;
    code.map_or(Ok(()), |code| Err(Failure::reported(code)))
}

/// Writes an object's file, if there is something to write.
fn export(
    engine: &Engine,
    info: &ObjectInfo,
    directory: &Path,
    arguments: &Arguments,
) -> Result<bool, Failure> {
    let object = match &arguments.at {
        Some(point) => engine.past(&info.id, &point.bookmark(engine, &info.id)?)?,
        None => engine.wake(info.entry.class, info.id)?,
    };
    if object.page_count() == 0 && !arguments.workerd {
        return Ok(false);
    }
    let directory = directory.join(file_name(&store::class_name(engine, info)));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}.sqlite", info.id));
    let zeros = one(&object, &path, arguments.workerd)?;
    match zeros.is_empty() {
        true => Ok(true),
        false => Err(Failure::new(DAMAGE, zeros.join("; "))),
    }
}

/// A class as the name of a directory: what could mean something else there is escaped.
fn file_name(class: &str) -> String {
    let mut name = String::new();
    for byte in class.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            other => name += &format!("%{other:02X}"),
        }
    }
    name
}
