//! A script in the language of the classic corpus, taken apart into records. Nothing is copied: a record
//! points into the text.
//!
//! Records are apart by blank lines; lines that begin with `#` in front of a record are comments. A record
//! begins with any number of `skipif NAME` and `onlyif NAME`, then comes one of
//!
//! ```text
//! statement ok|error                            the SQL is in the lines that follow
//! query TYPES [nosort|rowsort|valuesort] [LABEL]  the same, up to a line `----`; then what is expected
//! hash-threshold N
//! halt
//! ```
//!
//! Further words of such a line are comments.

use std::fmt;

/// Which of the two sides a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) dovehouse: bool,
    pub(crate) stock: bool,
}

impl Sides {
    const BOTH: Sides = Sides {
        dovehouse: true,
        stock: true,
    };

    fn none(self) -> bool {
        !self.dovehouse && !self.stock
    }

    /// What is left of them behind `skipif NAME`, or `onlyif NAME`. Both sides are `sqlite`.
    fn narrowed(self, only: bool, name: &str) -> Sides {
        let is_both = name.eq_ignore_ascii_case("sqlite");
        let is_dovehouse = is_both || name.eq_ignore_ascii_case("dovehouse");
        Sides {
            dovehouse: self.dovehouse && is_dovehouse == only,
            stock: self.stock && is_both == only,
        }
    }
}

/// A record that runs.
#[derive(Debug, PartialEq)]
pub(crate) struct Record<'a> {
    /// Where it begins, from 1, conditions included.
    pub(crate) line: u32,
    pub(crate) sides: Sides,
    pub(crate) sql: &'a str,
    pub(crate) kind: Kind<'a>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    Statement { fails: bool },
    Query(Query<'a>),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Query<'a> {
    /// One of `I`, `R`, `T` for each column.
    pub(crate) types: &'a str,
    pub(crate) sort: Sort,
    /// Queries of one label must give the same values.
    pub(crate) label: Option<&'a str>,
    pub(crate) expected: Expected<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    No,
    Rows,
    Values,
}

/// What a query is expected to give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expected<'a> {
    /// One value a line.
    Values(&'a str),
    /// So many values, with this MD5 in hex.
    Hash { count: usize, md5: &'a str },
}

/// A script, ready to run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Script<'a> {
    pub(crate) records: Vec<Record<'a>>,
    /// Records that were for other engines only.
    pub(crate) skipped: u64,
    /// Its last line.
    pub(crate) lines: u32,
}

/// Why a text is no script, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct ScriptError {
    pub(crate) line: u32,
    pub(crate) problem: Problem,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Problem {
    NotUtf8,
    UnknownRecord(String),
    NoRecord,
    NoName(&'static str),
    Expectation(String),
    Types(String),
    Sort(String),
    Threshold(String),
    NoSql,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotUtf8 => write!(f, "the text is not UTF-8"),
            Problem::UnknownRecord(word) => write!(
                f,
                "`{word}` begins no record: use statement, query, skipif, onlyif, hash-threshold or halt"
            ),
            Problem::NoRecord => write!(f, "there is no record behind skipif or onlyif"),
            Problem::NoName(word) => write!(f, "{word} names no engine"),
            Problem::Expectation(word) => {
                write!(
                    f,
                    "`statement {word}` should be `statement ok` or `statement error`"
                )
            }
            Problem::Types(types) => write!(
                f,
                "`{types}` should have an I, R or T for each column of the query"
            ),
            Problem::Sort(sort) => {
                write!(f, "`{sort}` should be nosort, rowsort or valuesort")
            }
            Problem::Threshold(word) => {
                write!(f, "`hash-threshold {word}` should have a number of values")
            }
            Problem::NoSql => write!(f, "the record has no SQL"),
        }
    }
}

/// Takes a file's bytes for a text.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, ScriptError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let newlines = before.iter().filter(|byte| **byte == b'\n').count();
        ScriptError {
            line: newlines as u32 + 1,
            problem: Problem::NotUtf8,
        }
    })
}

/// Takes a text apart, up to a `halt` that is for us.
pub(crate) fn parse(text: &str) -> Result<Script<'_>, ScriptError> {
    let mut lines = Lines {
        rest: text,
        number: 0,
    };
    let mut script = Script::default();
    while let Some(first) = lines.next_filled() {
        let line = lines.number;
        let wrong = |problem| ScriptError { line, problem };
        let (sides, words) = conditions(&mut lines, first)?;
        if sides.none() {
            script.skipped += 1;
            lines.block();
            continue;
        }
        match words[0] {
            "halt" => break,
            "hash-threshold" => {
                // Whether a result is given as a hash is seen by its own line.
                let number = words[1].parse::<u64>();
                number.map_err(|_| wrong(Problem::Threshold(words[1].to_owned())))?;
                lines.block();
                continue;
            }
            "statement" | "query" => {}
            other => return Err(wrong(Problem::UnknownRecord(other.to_owned()))),
        }
        let is_query = words[0] == "query";
        let (sql, has_results) = lines.sql(is_query);
        if sql.is_empty() {
            return Err(wrong(Problem::NoSql));
        }
        let kind = if is_query {
            let results = if has_results { lines.block() } else { "" };
            Kind::Query(query(words, results).map_err(wrong)?)
        } else {
            let fails = match words[1] {
                "ok" => false,
                "error" => true,
                other => return Err(wrong(Problem::Expectation(other.to_owned()))),
            };
            Kind::Statement { fails }
        };
        script.records.push(Record {
            line,
            sides,
            sql,
            kind,
        });
    }
    script.lines = lines.number;
    Ok(script)
}

/// The words of a record's line that count: kind, and up to three more.
type Words<'a> = [&'a str; 4];

fn words(line: &str) -> Words<'_> {
    let mut words = line.split_ascii_whitespace();
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// Reads conditions, and the line behind them that begins the record.
fn conditions<'a>(
    lines: &mut Lines<'a>,
    first: &'a str,
) -> Result<(Sides, Words<'a>), ScriptError> {
    let mut sides = Sides::BOTH;
    let mut line = first;
    loop {
        let words = words(line);
        let (condition, only) = match words[0] {
            "skipif" => ("skipif", false),
            "onlyif" => ("onlyif", true),
            _ => return Ok((sides, words)),
        };
        let number = lines.number;
        let wrong = |problem| ScriptError {
            line: number,
            problem,
        };
        if words[1].is_empty() || words[1].starts_with('#') {
            return Err(wrong(Problem::NoName(condition)));
        }
        sides = sides.narrowed(only, words[1]);
        line = lines
            .next_filled()
            .ok_or_else(|| wrong(Problem::NoRecord))?;
    }
}

fn query<'a>(words: Words<'a>, results: &'a str) -> Result<Query<'a>, Problem> {
    let [_, types, sort, label] = words;
    if types.is_empty() || types.chars().any(|kind| !matches!(kind, 'I' | 'R' | 'T')) {
        return Err(Problem::Types(types.to_owned()));
    }
    let (sort, label) = match sort {
        "" | "nosort" => (Sort::No, label),
        "rowsort" => (Sort::Rows, label),
        "valuesort" => (Sort::Values, label),
        comment if comment.starts_with('#') => (Sort::No, ""),
        other => return Err(Problem::Sort(other.to_owned())),
    };
    Ok(Query {
        types,
        sort,
        label: Some(label).filter(|label| !label.is_empty() && !label.starts_with('#')),
        expected: expected(results),
    })
}

/// `3 values hashing to 4e…` is a hash; anything else is values.
fn expected(results: &str) -> Expected<'_> {
    let mut words = results.split_ascii_whitespace();
    let first = [(); 5].map(|()| words.next().unwrap_or_default());
    let is_hash = |md5: &str| md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
    match (first, words.next()) {
        ([count, "values", "hashing", "to", md5], None) if is_hash(md5) => match count.parse() {
            Ok(count) => Expected::Hash { count, md5 },
            Err(_) => Expected::Values(results),
        },
        _ => Expected::Values(results),
    }
}

/// The lines of a text, and how many were read.
struct Lines<'a> {
    rest: &'a str,
    number: u32,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.number += 1;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }

    /// The next line that is neither blank nor a comment.
    fn next_filled(&mut self) -> Option<&'a str> {
        loop {
            let line = self.next()?;
            if !is_blank(line) && !line.starts_with('#') {
                return Some(line);
            }
        }
    }

    /// The lines up to a blank one, which is read too.
    fn block(&mut self) -> &'a str {
        self.until(|_| false).0
    }

    /// The lines of a record's SQL, and whether a query's results come next.
    fn sql(&mut self, is_query: bool) -> (&'a str, bool) {
        let (sql, has_results) = self.until(|line| is_query && line.trim_end() == "----");
        (sql.trim(), has_results)
    }

    /// The lines up to a blank one or one that `ends` them, and whether it was such.
    fn until(&mut self, ends: impl Fn(&str) -> bool) -> (&'a str, bool) {
        let start = self.rest;
        loop {
            let taken = start.len() - self.rest.len();
            match self.next() {
                Some(line) if ends(line) => return (&start[..taken], true),
                Some(line) if !is_blank(line) => {}
                _ => return (&start[..taken], false),
            }
        }
    }
}

fn is_blank(line: &str) -> bool {
    line.bytes().all(|byte| byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests;
