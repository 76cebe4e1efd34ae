//! `dovehouse export`: an object's database as a plain SQLite file.

use std::path::PathBuf;

use dovehouse_sqlbridge::Database;

use crate::exit::Failure;
use crate::output;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// The file to write, which must not be there yet
    #[arg(short, long)]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let object = store::load(&engine, &arguments.object)?;
    let unreadable = Database::export(&object, &arguments.output)?;
    let bytes = u64::from(object.page_count()) * dovehouse_engine::PAGE_BYTES as u64;
    output::print(format!("{} bytes in {}", bytes, arguments.output.display()))?;
    for (number, error) in &unreadable {
        output::print(format!("page {number} is zeros there: {error}"))?;
    }
    match unreadable.is_empty() {
        true => Ok(()),
        false => Err(Failure::damage_reported()),
    }
}
