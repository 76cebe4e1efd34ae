//! Opening a store to look at it, and finding the object that is meant.

use std::path::Path;

use dovehouse_engine::{
    Builder, ClassId, DEFAULT_TENANT, Engine, Error, Object, ObjectId, ObjectInfo, Retention,
};

use crate::exit::{FAILURE, Failure, NO_OBJECT};
use crate::point::Point;

/// Opens a store for reading. One whose log is damaged is read as far as it can be, with a warning.
pub(crate) fn open(dir: &Path) -> Result<Engine, Failure> {
    let (engine, damage) = open_damaged(dir)?;
    if let Some(damage) = damage {
        eprintln!("warning: {damage}");
    }
    Ok(engine)
}

/// Opens a store for reading, and says what is damaged in its log.
pub(crate) fn open_damaged(dir: &Path) -> Result<(Engine, Option<Error>), Failure> {
    match builder(dir).open_read_only() {
        Err(damage @ Error::DamagedLog { .. }) => Ok((builder(dir).open_damaged()?, Some(damage))),
        opened => Ok((opened?, None)),
    }
}

/// Opens a store to change it.
pub(crate) fn open_to_write(dir: &Path) -> Result<Engine, Failure> {
    Ok(builder(dir).open_existing()?)
}

/// Nothing of a store's history is let go of because its program has another default than this one.
fn builder(dir: &Path) -> Builder {
    Engine::builder(dir).retention(Retention::Forever)
}

/// The class that a text means, with its tenant unless that is the default one.
pub(crate) fn class(engine: &Engine, text: &str) -> Result<ClassId, Failure> {
    let wanted = text.split_once('/').unwrap_or((DEFAULT_TENANT, text));
    let classes = engine.classes();
    let found = classes
        .iter()
        .find(|(_, tenant, name)| (tenant.as_str(), name.as_str()) == wanted);
    let absent = || Failure::new(NO_OBJECT, format!("there is no class {text}"));
    Ok(found.ok_or_else(absent)?.0)
}

/// A class as people write it: with its tenant, unless that is the default one.
pub(crate) fn class_name(engine: &Engine, info: &ObjectInfo) -> String {
    match engine.class_name(info.entry.class) {
        Some((tenant, name)) if tenant.is_empty() => name,
        Some((tenant, name)) => format!("{tenant}/{name}"),
        None => format!("class {}", info.entry.class.get()),
    }
}

/// The object that a text means: an id, the start of one, or `Class:name`.
pub(crate) fn find(engine: &Engine, text: &str) -> Result<ObjectInfo, Failure> {
    if let Ok(id) = text.parse::<ObjectId>() {
        return engine
            .find(&id)?
            .ok_or_else(|| Failure::new(NO_OBJECT, format!("there is no object {id}")));
    }
    let matches = |info: &ObjectInfo| match text.split_once(':') {
        Some((class, name)) => {
            info.name.as_deref() == Some(name) && class_name(engine, info) == class
        }
        None => info.id.to_string().starts_with(&text.to_ascii_lowercase()),
    };
    // What cannot be read cannot be what is meant; `verify` names it.
    let mut found = engine
        .objects()
        .filter_map(Result::ok)
        .filter(|info| matches(info));
    match (found.next(), found.next()) {
        (Some(info), None) => Ok(info),
        (Some(first), Some(second)) => {
            let message = format!(
                "{text} may be {} or {}: write more of it",
                first.id, second.id
            );
            Err(Failure::new(FAILURE, message))
        }
        (None, _) => Err(Failure::new(
            NO_OBJECT,
            format!("there is no object {text}"),
        )),
    }
}

/// Loads the object that a text means, as it is or as it was.
pub(crate) fn load(engine: &Engine, text: &str, at: Option<&Point>) -> Result<Object, Failure> {
    let info = find(engine, text)?;
    Ok(match at {
        Some(point) => engine.past(&info.id, &point.bookmark(engine, &info.id)?)?,
        None => engine.wake(info.entry.class, info.id)?,
    })
}
