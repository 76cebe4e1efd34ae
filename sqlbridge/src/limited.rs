//! `UPDATE` and `DELETE` with `ORDER BY … LIMIT …`, which SQLite's parser knows only when it was built so.
//!
//! ```text
//! DELETE FROM t WHERE c RETURNING r ORDER BY o LIMIT n      becomes
//! DELETE FROM t WHERE _rowid_ IN (SELECT _rowid_ FROM t WHERE c ORDER BY o LIMIT n) RETURNING r
//! ```
//! which is what SQLite makes of it too. A text is only looked at after SQLite has refused it, so no
//! other statement pays for it, or can be misread.

use crate::error::Error;
use crate::text::{self, Token};

/// A statement in words that SQLite knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rewritten {
    pub(crate) text: String,
    pub(crate) table: String,
    /// Bytes of the original that it stands for, the semicolon included.
    pub(crate) taken: usize,
}

/// Gives a row if the table has a column by which the rewritten statement would mean the rowid.
pub(crate) const HIDES_ROWID: &str =
    "SELECT 1 FROM pragma_table_xinfo(?1) WHERE lower(name) = '_rowid_'";

/// The error if it does.
pub(crate) fn hidden_rowid() -> Error {
    refusal("a table with a column _rowid_ cannot have a LIMIT")
}

/// Whether an error is one that such a statement gets.
pub(crate) fn is_suspect(error: &Error) -> bool {
    let Error::Sqlite { message, .. } = error else {
        return false;
    };
    ["LIMIT", "ORDER"].iter().any(|word| {
        message
            .to_ascii_uppercase()
            .starts_with(&format!("NEAR \"{word}\""))
    })
}

/// The first statement of a text rewritten, if it is one of these. Fails if it cannot be said in other words.
pub(crate) fn rewrite(sql: &str) -> Result<Option<Rewritten>, Error> {
    let words = outer_tokens(sql);
    let semicolon = words.iter().position(|word| word.is_symbol(sql, b';'));
    let taken = semicolon.map_or(sql.len(), |at| words[at].at.end);
    let words = &words[..semicolon.unwrap_or(words.len())];
    let Some(parts) = Parts::of(sql, words) else {
        return Ok(None);
    };
    let returning = &sql[parts.returning.clone()];
    if parts.joins {
        return Err(refusal("UPDATE … FROM cannot have a LIMIT"));
    }
    if text::tokens(returning).any(|token| &returning[token.at] == "?") {
        return Err(refusal(
            "RETURNING with an unnumbered parameter cannot have a LIMIT; number the parameters",
        ));
    }
    let text = format!(
        "{}WHERE _rowid_ IN (SELECT _rowid_ FROM {} {}{}) {returning}",
        &sql[..parts.head_end],
        &sql[parts.table],
        &sql[parts.condition],
        &sql[parts.order_and_limit],
    );
    Ok(Some(Rewritten {
        text,
        table: parts.name,
        taken,
    }))
}

/// What the rewritten statement's error means.
pub(crate) fn explain(error: Error) -> Error {
    match error {
        Error::Sqlite { message, .. } if message.contains("no such column: _rowid_") => {
            refusal("a view or a table WITHOUT ROWID cannot have a LIMIT")
        }
        other => other,
    }
}

fn refusal(what: &str) -> Error {
    Error::Type(format!(
        "{what} in UPDATE or DELETE; choose the rows with WHERE … IN (SELECT … LIMIT …)"
    ))
}

/// The tokens that are in no parentheses; but the first semicolon ends a statement in any case.
fn outer_tokens(sql: &str) -> Vec<Token> {
    let mut depth = 0_usize;
    let mut outer = Vec::new();
    for token in text::tokens(sql) {
        // A semicolon before the first word is empty.
        if token.is_symbol(sql, b';') && outer.is_empty() {
            continue;
        }
        if token.is_symbol(sql, b')') {
            depth = depth.saturating_sub(1);
        }
        let ends = token.is_symbol(sql, b';');
        if depth == 0 || ends {
            outer.push(token.clone());
        }
        if token.is_symbol(sql, b'(') {
            depth += 1;
        }
        if ends {
            break;
        }
    }
    outer
}

/// Where the parts of a statement are.
struct Parts {
    /// The table's name.
    name: String,
    head_end: usize,
    table: std::ops::Range<usize>,
    condition: std::ops::Range<usize>,
    returning: std::ops::Range<usize>,
    order_and_limit: std::ops::Range<usize>,
    /// Whether it is an UPDATE … FROM.
    joins: bool,
}

impl Parts {
    fn of(sql: &str, words: &[Token]) -> Option<Self> {
        let is_verb = |word: &Token| {
            let verbs = [
                "SELECT", "VALUES", "INSERT", "REPLACE", "CREATE", "DELETE", "UPDATE",
            ];
            verbs.iter().any(|verb| word.is(sql, verb))
        };
        let verb = words.iter().position(is_verb)?;
        let find = |from: usize, keyword: &str| {
            let rest = words.get(from..)?;
            let found = rest.iter().position(|word| word.is(sql, keyword))?;
            Some(from + found)
        };
        let deletes = words[verb].is(sql, "DELETE");
        let (table, body) = if deletes {
            let table = find(verb, "FROM")? + 1;
            (table, table)
        } else if words[verb].is(sql, "UPDATE") {
            let has_or = words.get(verb + 1)?.is(sql, "OR");
            (verb + if has_or { 3 } else { 1 }, find(verb, "SET")?)
        } else {
            return None;
        };
        let limit = find(body, "LIMIT")?;
        let order = find(body, "ORDER").unwrap_or(limit);
        let returning = find(body, "RETURNING").unwrap_or(order);
        let condition = find(body, "WHERE").unwrap_or(returning);
        let in_order = condition <= returning && returning <= order && order <= limit;
        let table_end = if deletes { condition } else { body };
        if !in_order || table >= table_end {
            return None;
        }
        let joins = (body..condition)
            .any(|at| !deletes && words[at].is(sql, "FROM") && !words[at - 1].is(sql, "DISTINCT"));
        let start = |word: usize| words[word].at.start;
        let qualified = words.get(table + 1)?.is_symbol(sql, b'.');
        let name = words.get(if qualified { table + 2 } else { table })?;
        Some(Parts {
            name: name.name(sql).into_owned(),
            head_end: start(condition),
            table: start(table)..words[table_end - 1].at.end,
            condition: start(condition)..start(returning),
            returning: start(returning)..start(order),
            order_and_limit: start(order)..words.last()?.at.end,
            joins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> Option<String> {
        rewrite(sql).unwrap().map(|rewritten| rewritten.text)
    }

    #[test]
    fn the_parts_go_where_they_belong_and_what_is_quoted_or_inside_stays() {
        let cases = [
            (
                "DELETE FROM t LIMIT 5",
                "DELETE FROM t WHERE _rowid_ IN (SELECT _rowid_ FROM t LIMIT 5) ",
            ),
            (
                "with x as (select 1 limit 1) delete from main.\"limit\" as l -- where\n where a in x returning b order by c limit ? offset 1 -- end",
                "with x as (select 1 limit 1) delete from main.\"limit\" as l -- where\n WHERE _rowid_ IN (SELECT _rowid_ FROM main.\"limit\" as l where a in x order by c limit ? offset 1) returning b ",
            ),
            (
                "UPDATE OR IGNORE t SET a = (SELECT 1 FROM u LIMIT 1), b = 'LIMIT' WHERE c IS DISTINCT FROM d LIMIT 2, 3",
                "UPDATE OR IGNORE t SET a = (SELECT 1 FROM u LIMIT 1), b = 'LIMIT' WHERE _rowid_ IN (SELECT _rowid_ FROM t WHERE c IS DISTINCT FROM d LIMIT 2, 3) ",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(rewritten(sql).as_deref(), Some(expected));
        }
    }

    #[test]
    fn only_the_first_statement_is_taken() {
        let found = rewrite("; DELETE FROM t LIMIT 1; SELECT 1")
            .unwrap()
            .unwrap();
        assert_eq!(found.taken, "; DELETE FROM t LIMIT 1;".len());
    }

    #[test]
    fn what_is_no_such_statement_is_left_alone_and_what_cannot_be_said_is_refused() {
        for sql in [
            "SELECT 1 LIMIT 1 LIMIT 2",
            "INSERT INTO t SELECT 1 LIMIT 1 ON CONFLICT DO UPDATE SET a = 1 LIMIT 1",
            "DELETE FROM t ORDER BY a",
            "DELETE FROM",
            "DELETE LIMIT",
            "UPDATE LIMIT SET",
            "UPDATE t SET a = 1; DELETE FROM t LIMIT 1",
            "LIMIT",
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t LIMIT 1; END",
            "",
        ] {
            assert_eq!(rewritten(sql), None, "{sql}");
        }
        assert!(rewrite("UPDATE t SET a = 1 FROM u LIMIT 1").is_err());
        assert!(rewrite("DELETE FROM t RETURNING a + ? LIMIT 1").is_err());
    }
}
