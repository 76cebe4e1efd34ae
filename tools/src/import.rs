//! `dovehouse import`: a plain SQLite file into an object.

use std::path::PathBuf;

use dovehouse::ObjectId as NamedId;
use dovehouse_engine::{ClassId, DEFAULT_TENANT, Engine, Object, ObjectId};
use dovehouse_sqlbridge::{Import, Imported};
use serde_json::{Value, json};

use crate::exit::{FAILURE, Failure};
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory, which is made if it is not there
    dir: PathBuf,
    /// The object, as Class:name; with --id only its class
    object: String,
    /// The SQLite file, which is not changed
    file: PathBuf,
    /// The object's id, if it is not made from a name
    #[arg(long)]
    id: Option<ObjectId>,
    /// The unique key from which the class's ids are made, if that is not its name
    #[arg(long, conflicts_with = "id")]
    key: Option<String>,
    /// Put the file in place of what the object has
    #[arg(long)]
    replace: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (class, id, name) = meant(arguments)?;
    let engine = Engine::builder(&arguments.dir).open()?;
    let class = class_of(&engine, class)?;
    let mut object = engine.wake(class, id)?;
    if let Some(name) = name {
        object.set_name(name);
    }
    let import = Import::new(&arguments.file).replace(arguments.replace);
    let imported = into_object(&import, &mut object)?;
    drop(object);
    engine.close()?;
    match arguments.json {
        true => output::json(&document(id, name, &imported))?,
        false => output::print(format!("{} in {id}", sentence(&imported)))?,
    }
    Ok(())
}

/// The class, the id and the name of the object that the arguments mean.
fn meant(arguments: &Arguments) -> Result<(&str, ObjectId, Option<&str>), Failure> {
    match (arguments.id, arguments.object.split_once(':')) {
        (Some(id), None) => Ok((&arguments.object, id, None)),
        (None, Some((class, name))) => {
            let (_, class_name) = tenant_and_name(class);
            let key = arguments.key.as_deref().unwrap_or(class_name);
            Ok((class, NamedId::from_name(key, name).raw(), Some(name)))
        }
        _ => Err(Failure::new(
            FAILURE,
            "give the object as Class:name, or its class and --id",
        )),
    }
}

/// A class as people write it, in its parts.
fn tenant_and_name(class: &str) -> (&str, &str) {
    class.split_once('/').unwrap_or((DEFAULT_TENANT, class))
}

pub(crate) fn class_of(engine: &Engine, class: &str) -> Result<ClassId, Failure> {
    let (tenant, name) = tenant_and_name(class);
    Ok(engine.class_of(tenant, name)?)
}

/// Imports, and waits until it is durable.
pub(crate) fn into_object(import: &Import, object: &mut Object) -> Result<Imported, Failure> {
    let imported = import.run(object)?;
    if let Some(ticket) = &imported.ticket {
        ticket.wait().map_err(dovehouse_engine::Error::from)?;
    }
    Ok(imported)
}

pub(crate) fn document(id: ObjectId, name: Option<&str>, imported: &Imported) -> Value {
    json!({
        "schema": 1,
        "id": id.to_string(),
        "name": name,
        "pages": imported.pages,
        "keys": imported.keys,
        "alarm_ms": imported.alarm_ms,
        "left_out": imported.left_out,
    })
}

fn sentence(imported: &Imported) -> String {
    let Imported { pages, keys, .. } = imported;
    let alarm = imported.alarm_ms.map_or("no alarm".into(), |due_ms| {
        format!("an alarm at {}", output::time(due_ms))
    });
    let left_out = match imported.left_out.as_slice() {
        [] => String::new(),
        tables => format!(", without {}", tables.join(", ")),
    };
    format!("{pages} pages, {keys} keys and {alarm}{left_out}")
}
