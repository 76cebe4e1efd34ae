//! `dovehouse sql`: a query on an object's database.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_sqlbridge::{Budget, Database, SharedObject, SqlPolicy, Value};
use serde_json::json;

use crate::exit::Failure;
use crate::output;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// The object
    object: String,
    /// The query. Statements that write change a copy in memory only
    query: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let object: SharedObject = Arc::new(store::load(&engine, &arguments.object)?.into());
    // Whoever waits for the answer can also stop waiting.
    let policy = SqlPolicy::native().budget(Budget::Unlimited);
    let database = Database::open_with(object, &policy)?;
    let cursor = database.exec(&arguments.query, ())?;
    let columns = cursor.column_names().to_vec();
    let rows = cursor.raw().collect::<Result<Vec<_>, _>>()?;
    database.rollback();
    if arguments.json {
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

fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => real.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("x'{}'", output::hex(bytes)),
    }
}
