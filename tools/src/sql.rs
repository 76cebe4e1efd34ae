//! `dovehouse sql`: a query on an object's database, or on the store.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_sqlbridge::{
    Access, Budget, Connection, Cursor, Database, Error, SharedObject, SqlPolicy, Value,
};
use serde_json::json;

use crate::exit::{FAILURE, Failure};
use crate::output;
use crate::point::Point;
use crate::store;

#[derive(clap::Args)]
#[command(
    override_usage = "dovehouse sql [--json] [--at <POINT>] <DIR> <OBJECT> <QUERY>\n       dovehouse sql [--json] <DIR> <QUERY>",
    after_help = "With an OBJECT the query is on its database, in which the table kv has its keys. Without one it \
is on the store, whose tables are objects, segments, history, alarms, dictionaries and damage: see docs/sql.md."
)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object, unless the query is on the store
    #[arg(value_name = "OBJECT")]
    first: String,
    /// The query. Statements that write change a copy in memory only
    #[arg(value_name = "QUERY")]
    second: Option<String>,
    /// As the object was at this POINT: a bookmark, a time, or how long ago. Statements that
    /// write fail then
    #[arg(
        long,
        requires = "second",
        value_name = "POINT",
        allow_hyphen_values = true
    )]
    at: Option<Point>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const HINT: &str = "without an OBJECT the query is on the store: see dovehouse sql --help";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let Some(query) = &arguments.second else {
        let store = Connection::open_store(Arc::new(engine))?;
        let hint = |error| Failure::new(FAILURE, format!("{error}\n{HINT}"));
        return print(
            store.exec(&arguments.first, ()).map_err(hint)?,
            arguments.json,
        );
    };
    let object: SharedObject =
        Arc::new(store::load(&engine, &arguments.first, arguments.at.as_ref())?.into());
    // Whoever waits for the answer can also stop waiting.
    let policy = SqlPolicy::native().budget(Budget::Unlimited);
    let database = Database::open_with(object, &policy)?;
    // What a statement writes is forgotten with the database.
    print(database.exec(query, ())?, arguments.json)
}

fn print<A: Access<Error = Error>>(cursor: Cursor<A>, as_json: bool) -> Result<(), Failure> {
    let columns = cursor.column_names().to_vec();
    let rows = cursor.raw().collect::<Result<Vec<_>, _>>()?;
    if as_json {
        let row = |row: &Vec<Value>| row.iter().map(to_json).collect::<Vec<_>>();
        let rows: Vec<_> = rows.iter().map(row).collect();
        return Ok(output::json(
            &json!({ "schema": 1, "columns": columns, "rows": rows }),
        )?);
    }
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = output::table(&names, &[]);
    for row in &rows {
        table.add_row(row.iter().map(to_text));
    }
    Ok(output::print_table(&table)?)
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(integer) => json!(integer),
        Value::Real(real) => json!(real),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!({ "hex": output::hex(bytes) }),
    }
}

pub(crate) fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => real.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("x'{}'", output::hex(bytes)),
    }
}
