//! Runs a script on both sides, record by record, so that each failure is seen beside what stock SQLite did.

use std::time::Duration;

use dovehouse_sqlbridge::Error;
use rustix::time::{ClockId, clock_gettime};

use super::format::Formatter;
use super::judge::{Labels, judge};
use super::report::{Mismatch, Report, Tally};
use super::script::{Kind, Record, Script};
use super::side::{Dovehouse, Side, Stock};

/// How a record ended on one side.
enum Outcome {
    Passed,
    /// With what was there instead.
    Failed(String),
    /// A rule that stock SQLite does not have refused it, with its words.
    Denied(String),
}

/// One side and what it needs from record to record.
struct Runner<'a, S> {
    side: S,
    labels: Labels<'a>,
}

/// Runs a script up to its end, or up to a statement that is denied on an object: what comes behind it means
/// another state. Returns the object's side.
pub(crate) fn run(
    path: &str,
    script: &Script<'_>,
    dovehouse: Dovehouse,
    formatter: &Formatter,
    report: &mut Report,
) -> Result<Dovehouse, Error> {
    let mut dovehouse = Runner::new(dovehouse);
    let mut stock = Runner::new(Stock::open()?);
    report.skipped += script.skipped;
    for (done, record) in (1..).zip(&script.records) {
        let ours = match record.sides.dovehouse {
            true => Some(dovehouse.run(record, formatter, &mut report.dovehouse)?),
            false => None,
        };
        if let Some(Outcome::Denied(rule)) = ours {
            report.denied(path, record.line, &rule);
            if !goes_on(record) {
                report.skipped += (script.records.len() - done) as u64;
                break;
            }
            continue;
        }
        let theirs = match record.sides.stock {
            true => Some(stock.run(record, formatter, &mut report.stock)?),
            false => None,
        };
        if let Some(Outcome::Failed(got)) = ours {
            let as_stock = matches!(&theirs, Some(Outcome::Failed(stock)) if *stock == got);
            report.mismatch(Mismatch {
                path: path.to_owned(),
                line: record.line,
                sql: record.sql.to_owned(),
                expected: expected(record),
                got,
                as_stock,
            });
        }
    }
    Ok(dovehouse.side)
}

/// Whether what comes behind a record means the same if it was denied: it asked, or it set a switch.
fn goes_on(record: &Record<'_>) -> bool {
    let is_pragma = record
        .sql
        .get(..6)
        .is_some_and(|word| word.eq_ignore_ascii_case("PRAGMA"));
    is_pragma || matches!(record.kind, Kind::Query(_))
}

/// What this thread has had of a processor: a busy machine does not make a side slower.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn expected(record: &Record<'_>) -> String {
    match &record.kind {
        Kind::Statement { fails: true } => "an error".to_owned(),
        Kind::Statement { fails: false } => "no error".to_owned(),
        Kind::Query(query) => query.expected.to_string(),
    }
}

impl<'a, S: Side> Runner<'a, S> {
    fn new(side: S) -> Self {
        Runner {
            side,
            labels: Labels::new(),
        }
    }

    fn run(
        &mut self,
        record: &Record<'a>,
        formatter: &Formatter,
        tally: &mut Tally,
    ) -> Result<Outcome, Error> {
        let start = processor_time();
        let outcome = self.attempt(record, formatter)?;
        let is_query = matches!(record.kind, Kind::Query(_));
        let took = processor_time() - start;
        match outcome {
            Outcome::Passed => tally.count(is_query, true, took),
            Outcome::Failed(_) => tally.count(is_query, false, took),
            Outcome::Denied(_) => {}
        }
        Ok(outcome)
    }

    fn attempt(&mut self, record: &Record<'a>, formatter: &Formatter) -> Result<Outcome, Error> {
        let refusal = match &record.kind {
            Kind::Statement { fails } => match (self.side.statement(record.sql), fails) {
                (Ok(()), false) | (Err(_), true) => return Ok(Outcome::Passed),
                (Ok(()), true) => return Ok(Outcome::Failed("no error".to_owned())),
                (Err(refusal), false) => refusal,
            },
            Kind::Query(query) => match self.side.query(record.sql) {
                Ok(answer) => {
                    return Ok(match judge(query, &answer, formatter, &mut self.labels)? {
                        Ok(()) => Outcome::Passed,
                        Err(got) => Outcome::Failed(got),
                    });
                }
                Err(refusal) => refusal,
            },
        };
        Ok(match refusal.denied {
            true => Outcome::Denied(refusal.message),
            false => Outcome::Failed(format!("an error: {}", refusal.message)),
        })
    }
}
