//! What a file's schema holds, and which of it an object's database may have.

use super::refusal::{Refusal, refusal};
use super::source::each_row;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::value::Value;

/// Names that begin so, in any case, are the host's own.
const RESERVED: &str = "_cf_";

/// A file's schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Type, name and table of each entry, sorted; without SQLite's counter of rows, which comes and
    /// goes with the tables that use it.
    entries: Vec<[String; 3]>,
    /// Names of the reserved tables.
    pub(crate) reserved: Vec<String>,
}

impl Schema {
    pub(crate) fn read(connection: &Connection) -> Result<Self> {
        let mut schema = Schema::default();
        let sql = "SELECT CAST(type AS TEXT), CAST(name AS TEXT), CAST(tbl_name AS TEXT),
            rootpage = 0 AND type = 'table', CAST(sql AS TEXT) FROM sqlite_schema";
        each_row(connection, sql, |row| schema.add(row))?;
        schema.entries.sort_unstable();
        Ok(schema)
    }

    fn add(&mut self, row: Vec<Value>) -> Result<()> {
        let [kind, name, table, is_virtual, sql]: [Value; 5] =
            row.try_into().expect("the query has five columns");
        let [kind, name, table, sql] = [kind, name, table, sql].map(text);
        let is_reserved_table =
            kind == "table" && is_virtual != Value::Integer(1) && is_reserved(&name);
        if is_reserved(&name) && !is_reserved_table {
            let why = format!(
                "the {kind} {name:?} has a name that begins with {RESERVED}, which is reserved"
            );
            return Err(unsupported(why));
        }
        if mentions_reserved(&sql) && !is_reserved_table {
            let why = format!(
                "the {kind} {name:?} uses a name that begins with {RESERVED}, which is reserved"
            );
            return Err(unsupported(why));
        }
        if is_reserved_table {
            self.reserved.push(name.clone());
        }
        if name != "sqlite_sequence" {
            self.entries.push([kind, name, table]);
        }
        Ok(())
    }

    /// Tables whose rows a module makes up.
    pub(crate) fn check_modules(&self, connection: &Connection) -> Result<()> {
        let mut tables = Vec::new();
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0";
        each_row(connection, sql, |row| {
            tables.extend(row.into_iter().map(text));
            Ok(())
        })?;
        // SQLite says which module is not there, and whether the module can use what is stored for it.
        for table in tables {
            let sql = format!("SELECT * FROM {} LIMIT 0", quoted(&table));
            connection.handle().prepare(&sql)?;
        }
        Ok(())
    }

    /// Reserved tables that are neither keys nor alarm.
    pub(crate) fn left_out(&self) -> Vec<String> {
        let is_kept = |name: &String| {
            let kept = ["_cf_KV", "_cf_METADATA"];
            kept.iter().any(|kept| kept.eq_ignore_ascii_case(name))
        };
        let left_out = self.reserved.iter().filter(|name| !is_kept(name));
        left_out.cloned().collect()
    }

    /// Whether there is nothing but reserved tables.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.iter().all(|[_, _, table]| is_reserved(table))
    }

    /// Fails unless the other schema, made from this one, has the same entries.
    pub(crate) fn check_rebuilt(&self, rebuilt: &Schema) -> Result<()> {
        match self.entries == rebuilt.entries {
            true => Ok(()),
            false => Err(unsupported(
                "its schema is another one when it is run as it stands there".into(),
            )),
        }
    }
}

/// Whether a name is the host's own.
fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

/// Whether a word of a text is a reserved name. One in a string or a comment counts: SQLite takes some
/// strings for names.
fn mentions_reserved(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    sql.match_indices(RESERVED).any(|(at, _)| {
        let before = sql[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii())
    })
}

/// A name as SQL reads it whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        _ => String::new(),
    }
}

pub(crate) fn unsupported(why: String) -> Error {
    refusal(Refusal::Unsupported(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_seen_in_any_case_and_quotes_and_others_are_let_pass() {
        for sql in ["SELECT * FROM _cf_kv", "x\"_CF_KV\"", "[_Cf_a]", "_cf_"] {
            assert!(mentions_reserved(sql), "{sql}");
        }
        for sql in [
            "",
            "SELECT my_cf_table",
            "a_cf_",
            "é_cf_",
            "_c f_",
            "$_cf_x",
        ] {
            assert!(!mentions_reserved(sql), "{sql}");
        }
        assert!(is_reserved("_CF_x") && !is_reserved("_cf") && !is_reserved("x_cf_"));
    }
}
