//! `dovehouse import-wrangler`: the objects of a class that workerd, wrangler or miniflare kept in a directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dovehouse_engine::{ClassId, Engine, ObjectId};
use dovehouse_sqlbridge::{Import, names_in_metadata};
use serde_json::{Value, json};

use crate::exit::{DAMAGE, FAILURE, Failure};
use crate::import::{class_of, document, into_object};
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory, which is made if it is not there
    dir: PathBuf,
    /// The class that the objects get
    class: String,
    /// The directory of its files, such as .wrangler/state/v3/do/worker-Class; nobody may have it open
    source: PathBuf,
    /// Put the files in place of what the objects have
    #[arg(long)]
    replace: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What becomes of a directory.
#[derive(Default)]
struct Report {
    imported: Vec<Value>,
    failures: Vec<(PathBuf, Failure)>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let files = files(&arguments.source)?;
    let mut report = Report::default();
    let names = names(&arguments.source, &mut report);
    let engine = Engine::builder(&arguments.dir).open()?;
    let class = class_of(&engine, &arguments.class)?;
    let bar = output::progress(files.len() as u64, "objects");
    for file in files {
        match import(&engine, class, &file, &names, arguments.replace) {
            Ok(imported) => report.imported.push(imported),
            Err(failure) => report.failures.push((file, failure)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    engine.close()?;
    report.print(&arguments.source, arguments.json)?;
    report.end()
}

/// The directory's object files, by name.
fn files(source: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(source)? {
        let path = entry?.path();
        let is_file = path
            .extension()
            .is_some_and(|end| end == "sqlite" || end == "facets");
        if is_file && path.file_stem().is_some_and(|stem| stem != "metadata") {
            files.push(path);
        }
    }
    if files.is_empty() {
        let message = format!(
            "there are no objects in {}: give the directory of one class, such as .wrangler/state/v3/do/worker-Class",
            source.display()
        );
        return Err(Failure::new(FAILURE, message));
    }
    files.sort();
    Ok(files)
}

/// The names that are known. Objects can do without theirs.
fn names(source: &Path, report: &mut Report) -> HashMap<ObjectId, String> {
    let metadata = source.join("metadata.sqlite");
    if !metadata.exists() {
        return HashMap::new();
    }
    let names = names_in_metadata(&metadata).unwrap_or_else(|error| {
        report.failures.push((metadata, error.into()));
        Vec::new()
    });
    names.into_iter().collect()
}

fn import(
    engine: &Engine,
    class: ClassId,
    file: &Path,
    names: &HashMap<ObjectId, String>,
    replace: bool,
) -> Result<Value, Failure> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy());
    let id = stem.and_then(|stem| stem.parse::<ObjectId>().ok());
    let is_object = file.extension().is_some_and(|end| end == "sqlite");
    let Some(id) = id.filter(|_| is_object) else {
        let message = "its name is not an object's id; facets are not imported";
        return Err(Failure::new(FAILURE, message));
    };
    let mut object = engine.wake(class, id)?;
    let name = names.get(&id).map(String::as_str);
    if let Some(name) = name {
        object.set_name(name);
    }
    let imported = into_object(&Import::new(file).replace(replace), &mut object)?;
    Ok(document(id, name, &imported))
}

impl Report {
    fn print(&self, source: &Path, as_json: bool) -> std::io::Result<()> {
        let key = source.canonicalize()?;
        let key = key.file_name().map(|name| name.to_string_lossy());
        if as_json {
            let failures = self.failures.iter().map(|(file, failure)| {
                json!({ "file": file.display().to_string(), "error": failure.to_string() })
            });
            return output::json(&json!({
                "schema": 1,
                "unique_key": key,
                "imported": self.imported,
                "failures": failures.collect::<Vec<_>>(),
            }));
        }
        for (file, failure) in &self.failures {
            output::print(format!("{}: {failure}", file.display()))?;
        }
        let (imported, failed) = (self.imported.len(), self.failures.len());
        output::print(format!("{imported} objects imported, {failed} files not"))?;
        match key {
            Some(key) if imported > 0 => output::print(format!(
                "their ids were made from the unique key {key:?}: open the class with namespace_with_key"
            )),
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        let codes = self.failures.iter().map(|(_, failure)| failure.code());
        match codes.max_by_key(|code| *code == DAMAGE) {
            Some(code) => Err(Failure::reported(code)),
            None => Ok(()),
        }
    }
}
