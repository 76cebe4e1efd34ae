//! What a run found, for people and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::ScriptError;
use crate::exit::{AS_STOCK, FAILURE, Failure};
use crate::output;

/// So many mismatches are kept and shown; a foreign corpus may have millions. All are counted.
const SHOWN_MAX: usize = 100;

/// A record that failed on an object.
pub(crate) struct Mismatch {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) sql: String,
    pub(crate) expected: String,
    pub(crate) got: String,
    /// Whether stock SQLite failed with the very same.
    pub(crate) as_stock: bool,
}

/// What one side did.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    queries: u64,
    /// The processor's time for the queries, their checking included.
    time: Duration,
}

impl Tally {
    pub(crate) fn count(&mut self, is_query: bool, passed: bool, took: Duration) {
        match passed {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        if is_query {
            self.queries += 1;
            self.time += took;
        }
    }

    /// Queries in a second of a processor.
    fn queries_per_s(&self) -> u64 {
        (self.queries as f64 / self.time.as_secs_f64().max(1e-9)) as u64
    }
}

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) files: u64,
    pub(crate) dovehouse: Tally,
    pub(crate) stock: Tally,
    /// Records for other engines, and those behind a denied statement.
    pub(crate) skipped: u64,
    /// How many of the failed records failed with stock SQLite too.
    failed_as_stock: u64,
    mismatches: Vec<Mismatch>,
    denied: u64,
    denials: Vec<(String, u32, String)>,
    not_scripts: Vec<(String, ScriptError)>,
}

impl Report {
    pub(crate) fn mismatch(&mut self, mismatch: Mismatch) {
        self.failed_as_stock += u64::from(mismatch.as_stock);
        if self.mismatches.len() < SHOWN_MAX {
            self.mismatches.push(mismatch);
        }
    }

    /// A record that was refused by a rule of objects. It neither passed nor failed.
    pub(crate) fn denied(&mut self, path: &str, line: u32, rule: &str) {
        self.denied += 1;
        if self.denials.len() < SHOWN_MAX {
            self.denials.push((path.to_owned(), line, rule.to_owned()));
        }
    }

    pub(crate) fn not_a_script(&mut self, path: &str, error: ScriptError) {
        self.not_scripts.push((path.to_owned(), error));
    }

    fn records(&self) -> u64 {
        self.dovehouse.passed + self.dovehouse.failed
    }

    /// The exit code's word on it all.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        let failed = self.dovehouse.failed;
        match (self.not_scripts.len(), failed - self.failed_as_stock) {
            (0, 0) if failed == 0 => Ok(()),
            (0, 0) => Err(Failure::reported(AS_STOCK)),
            _ => Err(Failure::reported(FAILURE)),
        }
    }

    pub(crate) fn print(&self) -> std::io::Result<()> {
        for (path, error) in &self.not_scripts {
            output::print(format!(
                "{path}:{}: not a script: {}",
                error.line, error.problem
            ))?;
        }
        for (path, line, rule) in &self.denials {
            output::print(format!("{path}:{line}: denied: {rule}"))?;
        }
        for mismatch in &self.mismatches {
            output::print(text_of(mismatch))?;
        }
        let hidden = self.dovehouse.failed - self.mismatches.len() as u64;
        if hidden > 0 {
            output::print(format!("{hidden} more failed"))?;
        }
        let denied = match self.denied {
            0 => String::new(),
            some => format!(", {some} denied"),
        };
        output::print(format!(
            "{} files, {} records: {} passed, {} failed ({} as stock SQLite does), {} skipped{denied}",
            self.files,
            self.records(),
            self.dovehouse.passed,
            self.dovehouse.failed,
            self.failed_as_stock,
            self.skipped,
        ))?;
        output::print(format!(
            "stock SQLite: {} passed, {} failed; queries a second: {} here, {} there",
            self.stock.passed,
            self.stock.failed,
            self.dovehouse.queries_per_s(),
            self.stock.queries_per_s(),
        ))
    }

    pub(crate) fn to_json(&self) -> Value {
        let mismatch = |found: &Mismatch| {
            json!({
                "file": found.path,
                "line": found.line,
                "sql": found.sql,
                "expected": found.expected,
                "got": found.got,
                "as_stock": found.as_stock,
            })
        };
        let denial = |(path, line, rule): &(String, u32, String)| json!({ "file": path, "line": line, "rule": rule });
        let not_script = |(path, error): &(String, ScriptError)| json!({ "file": path, "line": error.line, "problem": error.problem.to_string() });
        json!({
            "schema": 1,
            "files": self.files,
            "records": self.records(),
            "passed": self.dovehouse.passed,
            "failed": self.dovehouse.failed,
            "failed_as_stock": self.failed_as_stock,
            "skipped": self.skipped,
            "denied": self.denied,
            "queries_per_s": self.dovehouse.queries_per_s(),
            "stock": {
                "passed": self.stock.passed,
                "failed": self.stock.failed,
                "queries_per_s": self.stock.queries_per_s(),
            },
            "failures": self.mismatches.iter().map(mismatch).collect::<Vec<_>>(),
            "denials": self.denials.iter().map(denial).collect::<Vec<_>>(),
            "not_scripts": self.not_scripts.iter().map(not_script).collect::<Vec<_>>(),
        })
    }
}

fn text_of(mismatch: &Mismatch) -> String {
    let Mismatch {
        path,
        line,
        sql,
        expected,
        got,
        as_stock,
    } = mismatch;
    let indented = |text: &str| text.replace('\n', "\n        ");
    format!(
        "{path}:{line}: {}\n    {}\n    expected\n        {}\n    got\n        {}",
        match as_stock {
            true => "failed, as with stock SQLite",
            false => "failed",
        },
        sql.replace('\n', "\n    "),
        indented(expected),
        indented(got),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_code(as_stock: &[bool]) -> Option<u8> {
        let mut report = Report::default();
        report.dovehouse.failed = as_stock.len() as u64;
        for as_stock in as_stock {
            report.mismatch(Mismatch {
                path: "a.test".into(),
                line: 7,
                sql: "SELECT 1".into(),
                expected: "1".into(),
                got: "2".into(),
                as_stock: *as_stock,
            });
        }
        report.result().err().map(|failure| failure.code())
    }

    #[test]
    fn failures_that_stock_sqlite_shares_have_a_code_of_their_own() {
        assert_eq!(exit_code(&[]), None);
        assert_eq!(exit_code(&[true; 200]), Some(AS_STOCK));
        assert_eq!(exit_code(&[true, false]), Some(FAILURE));
    }
}
