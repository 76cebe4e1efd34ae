//! Statements of a script that begin or end a transaction. In an object the turn is the transaction, so these
//! are not run but translated.

#[derive(Debug, PartialEq)]
pub(crate) enum Boundary {
    Begin,
    Commit,
    Rollback,
    /// These three with a name, in lower case.
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// Rewrites the database, in a transaction of its own.
    Vacuum,
}

impl Boundary {
    /// What a text is, if it is one such statement and nothing else.
    pub(crate) fn of(sql: &str) -> Option<Self> {
        let sql = sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
        let verb = sql.split_ascii_whitespace().next()?;
        let verbs = [
            "BEGIN",
            "COMMIT",
            "END",
            "ROLLBACK",
            "SAVEPOINT",
            "RELEASE",
            "VACUUM",
        ];
        if !verbs.iter().any(|known| verb.eq_ignore_ascii_case(known)) {
            return None;
        }
        let words: Vec<String> = sql
            .split_ascii_whitespace()
            .map(str::to_ascii_lowercase)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let name = |name: &str| name.trim_matches('"').to_owned();
        Some(match words[..] {
            ["begin"]
            | [
                "begin",
                "transaction" | "deferred" | "immediate" | "exclusive",
            ]
            | [
                "begin",
                "deferred" | "immediate" | "exclusive",
                "transaction",
            ] => Boundary::Begin,
            ["commit" | "end"] | ["commit" | "end", "transaction"] => Boundary::Commit,
            ["rollback"] | ["rollback", "transaction"] => Boundary::Rollback,
            ["savepoint", to] => Boundary::Savepoint(name(to)),
            ["release", to] | ["release", "savepoint", to] => Boundary::Release(name(to)),
            ["rollback", "to", to]
            | ["rollback", "to", "savepoint", to]
            | ["rollback", "transaction", "to", to]
            | ["rollback", "transaction", "to", "savepoint", to] => Boundary::RollbackTo(name(to)),
            ["vacuum"] => Boundary::Vacuum,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_of_a_script_is_seen_however_it_is_written() {
        for (sql, boundary) in [
            ("BEGIN", Boundary::Begin),
            ("begin immediate\n transaction ;", Boundary::Begin),
            ("BEGIN TRANSACTION", Boundary::Begin),
            ("COMMIT TRANSACTION", Boundary::Commit),
            ("End;", Boundary::Commit),
            ("ROLLBACK", Boundary::Rollback),
            ("SAVEPOINT One", Boundary::Savepoint("one".into())),
            ("release savepoint \"one\"", Boundary::Release("one".into())),
            (
                "ROLLBACK TRANSACTION TO SAVEPOINT one;",
                Boundary::RollbackTo("one".into()),
            ),
            ("ROLLBACK TO one", Boundary::RollbackTo("one".into())),
            ("VACUUM", Boundary::Vacuum),
        ] {
            assert_eq!(Boundary::of(sql), Some(boundary), "{sql}");
        }
        for sql in [
            "BEGIN; SELECT 1",
            "BEGINS",
            "SAVEPOINT",
            "VACUUM INTO 'x'",
            "SELECT 1",
            "",
        ] {
            assert_eq!(Boundary::of(sql), None, "{sql}");
        }
    }
}
