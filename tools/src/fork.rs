//! `dovehouse fork`: a new object of what another one was.

use std::path::PathBuf;

use dovehouse_engine::{Error as EngineError, Minter, ObjectId};

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
    /// A bookmark, a time, or how long ago
    #[arg(allow_hyphen_values = true)]
    point: Point,
    /// The new object of the same class: its name, or its id
    new: String,
    /// The unique key from which the class's ids are made, if that is not its name
    #[arg(long)]
    key: Option<String>,
    /// Give the new object the alarms, too
    #[arg(long)]
    with_alarms: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open_to_write(&arguments.dir)?;
    let info = store::find(&engine, &arguments.object)?;
    let bookmark = arguments.point.bookmark(&engine, &info.id)?;
    let class = store::class_name(&engine, &info);
    let (to, name) = match arguments.new.parse::<ObjectId>() {
        Ok(id) => (id, None),
        Err(_) => {
            let name = match arguments.new.split_once(':') {
                Some((other, name)) if other == class => name,
                Some((other, _)) if engine.classes().iter().any(|(_, _, name)| name == other) => {
                    let why = format!("a fork of an object of {class} is of {class}, too");
                    return Err(Failure::new(FAILURE, why));
                }
                _ => &arguments.new,
            };
            let key = class.split_once('/').map_or(&class[..], |(_, name)| name);
            let minter = Minter::new(arguments.key.as_deref().unwrap_or(key));
            (minter.named(name), Some(name))
        }
    };
    let ticket = engine.fork_named(&info.id, &bookmark, to, name, arguments.with_alarms)?;
    if let Some(ticket) = &ticket {
        ticket.wait().map_err(EngineError::from)?;
    }
    engine.close()?;
    match ticket {
        Some(_) => output::print(format!("{to} is what {} was at {bookmark}", info.id))?,
        None => output::print("nothing was made: the object had no state then")?,
    }
    Ok(())
}
