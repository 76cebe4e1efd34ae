//! SQL beside stock SQLite: commits, waking, statements in a turn, and many open databases.

mod commit;
mod databases;
mod hot;
mod wake;

use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::{ClassId, Engine};
use dovehouse_sqlbridge::{Connection, Database, SharedObject};

use super::{Run, content};
use crate::exit::Failure;
use crate::output;

pub(super) use commit::run as commit;
pub(super) use databases::run as databases;
pub(super) use hot::run as hot;
pub(super) use wake::run as wake;

/// What each database of a bench has.
const SCHEMA: &str =
    "CREATE TABLE note(id INTEGER PRIMARY KEY, author TEXT NOT NULL, body TEXT NOT NULL);
    CREATE INDEX note_author ON note(author)";
const INSERT: &str = "INSERT INTO note(author, body) VALUES (?, ?)";
const UPDATE: &str = "UPDATE note SET body = ? WHERE id = 1";
/// About as long as a line of a chat.
const BODY: &str =
    "the doves come home at dusk, one after the other, and count themselves on the ledge";

fn object(
    engine: &Engine,
    class: ClassId,
    seed: u64,
    number: u64,
) -> Result<SharedObject, Failure> {
    let object = engine.wake(class, content::id(seed, number))?;
    Ok(Arc::new(object.into()))
}

/// So many objects with the schema and a row, durable and asleep.
fn load(run: &Run, engine: &Engine) -> Result<ClassId, Failure> {
    create(run, engine, |database, number| {
        database.exec(SCHEMA, ())?;
        database.exec(INSERT, (format!("author {number}"), BODY))?;
        Ok(())
    })
}

/// So many objects with a database, each made in a transaction, durable and asleep. Shows how far it is.
pub(super) fn create(
    run: &Run,
    engine: &Engine,
    fill: impl Fn(&Database, u64) -> Result<(), Failure>,
) -> Result<ClassId, Failure> {
    let class = engine.class("Bench")?;
    let bar = output::progress(run.objects, "databases");
    let mut last = None;
    for number in 0..run.objects {
        let database = Database::open(object(engine, class, run.seed, number)?)?;
        fill(&database, number)?;
        last = database.commit()?.or(last);
        if number % 256 == 0 {
            bar.set_position(number);
        }
    }
    if let Some(ticket) = last {
        ticket.wait().map_err(content::engine_error)?;
    }
    bar.finish_and_clear();
    Ok(class)
}

/// So many objects with the schema and a row, their databases open.
pub(super) fn open_databases(
    run: &Run,
    engine: &Engine,
    count: u64,
) -> Result<Vec<Database>, Failure> {
    let class = engine.class("Bench")?;
    let open = |number| {
        let database = Database::open(object(engine, class, run.seed, number)?)?;
        database.exec(SCHEMA, ())?;
        database.exec(INSERT, (format!("author {number}"), BODY))?;
        content::wait(database.commit()?)?;
        Ok(database)
    };
    (0..count).map(open).collect()
}

/// A row is inserted, or one is updated, in turn; every other word of its text was said before.
pub(super) fn write_row(
    database: &Database,
    round: u64,
    rng: &mut fastrand::Rng,
) -> Result<(), Failure> {
    let word = |word| format!("{word} {:x} ", rng.u32(..));
    let body: String = BODY.split(' ').map(word).collect();
    match round % 2 {
        0 => database.exec(INSERT, (format!("author {round}"), body))?,
        _ => database.exec(UPDATE, (body,))?,
    };
    Ok(())
}

/// Stock SQLite on a file, with a log of its own.
fn stock(path: &Path, synchronous: &str) -> Result<Connection, Failure> {
    let connection = Connection::open_file(path)?;
    connection.exec("PRAGMA journal_mode = WAL", ())?.one()?;
    connection.exec(&format!("PRAGMA synchronous = {synchronous}"), ())?;
    connection.exec(SCHEMA, ())?;
    Ok(connection)
}
