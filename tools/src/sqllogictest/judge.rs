//! Does an answer fit what the script expects?

use std::collections::HashMap;
use std::fmt;

use dovehouse_sqlbridge::Error;
use md5::{Digest, Md5};

use super::format::Formatter;
use super::script::{Expected, Query, Sort};
use super::side::Answer;

/// A failure shows so many values; the hash stands for the others.
const VALUES_SHOWN: usize = 10;

/// The values that the queries of a label gave, as their hash.
pub(crate) type Labels<'a> = HashMap<&'a str, String>;

/// Compares an answer with what is expected. The error says what was there instead.
pub(crate) fn judge<'a>(
    query: &Query<'a>,
    answer: &Answer,
    formatter: &Formatter,
    labels: &mut Labels<'a>,
) -> Result<Result<(), String>, Error> {
    let columns = query.types.len();
    if answer.columns != columns {
        return Ok(Err(format!("{} columns", answer.columns)));
    }
    let types = query.types.bytes().cycle();
    let mut values = answer
        .values
        .iter()
        .zip(types)
        .map(|(value, kind)| formatter.format(kind, value))
        .collect::<Result<Vec<String>, Error>>()?;
    match query.sort {
        Sort::No => {}
        Sort::Rows => sort_rows(&mut values, columns),
        Sort::Values => values.sort_unstable(),
    }
    let fits = match query.expected {
        Expected::Values(expected) => expected.lines().eq(values.iter().map(String::as_str)),
        Expected::Hash { count, md5 } => {
            count == values.len() && md5.eq_ignore_ascii_case(&hash(&values))
        }
    };
    if !fits {
        return Ok(Err(shown(&values)));
    }
    if let Some(label) = query.label {
        let given = hash(&values);
        let first = labels.entry(label).or_insert_with(|| given.clone());
        if *first != given {
            return Ok(Err(format!(
                "other values than the first query labelled {label}"
            )));
        }
    }
    Ok(Ok(()))
}

/// Sorts whole rows, by their values from the left.
fn sort_rows(values: &mut Vec<String>, columns: usize) {
    if columns == 1 {
        values.sort_unstable();
        return;
    }
    let mut left = std::mem::take(values).into_iter();
    let mut rows = Vec::with_capacity(left.len() / columns);
    while left.len() > 0 {
        rows.push(left.by_ref().take(columns).collect::<Vec<_>>());
    }
    rows.sort_unstable();
    values.extend(rows.into_iter().flatten());
}

/// The classic hash of a result: MD5 over each value and a newline behind it.
fn hash(values: &[String]) -> String {
    let mut md5 = Md5::new();
    for value in values {
        md5.update(value);
        md5.update("\n");
    }
    crate::output::hex(&md5.finalize())
}

/// The same for the same values only.
fn shown(values: &[String]) -> String {
    match values {
        [] => "nothing".to_owned(),
        few if few.len() <= VALUES_SHOWN => few.join("\n"),
        many => format!(
            "{}\n… {} values hashing to {}",
            many[..VALUES_SHOWN].join("\n"),
            many.len(),
            hash(many)
        ),
    }
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Hash { count, md5 } => write!(f, "{count} values hashing to {md5}"),
            Expected::Values(values) => {
                let values: Vec<String> = values.lines().map(str::to_owned).collect();
                write!(f, "{}", shown(&values))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Kind, parse};
    use super::super::side::{Side, Stock};
    use super::*;

    /// Judges each query of a script by what stock SQLite gives.
    fn judged(text: &str) -> Vec<Result<(), String>> {
        let (mut stock, formatter) = (Stock::open().unwrap(), Formatter::new().unwrap());
        let mut labels = Labels::new();
        let script = parse(text).unwrap();
        let queries = script.records.iter().map(|record| match &record.kind {
            Kind::Query(query) => {
                let answer = stock.query(record.sql).unwrap();
                judge(query, &answer, &formatter, &mut labels).unwrap()
            }
            Kind::Statement { .. } => panic!("only queries are judged"),
        });
        queries.collect()
    }

    #[test]
    fn order_counts_unless_rows_or_values_are_sorted() {
        let rows = "VALUES (2, 'b'), (10, 'a'), (2, 'a')";
        for (sort, expected) in [
            ("nosort", "2\nb\n10\na\n2\na"),
            ("rowsort", "10\na\n2\na\n2\nb"),
            ("valuesort", "10\n2\n2\na\na\nb"),
        ] {
            let text = format!("query IT {sort}\n{rows}\n----\n{expected}\n");
            assert_eq!(judged(&text), [Ok(())], "{sort}");
        }
        let text = format!("query IT\n{rows}\n----\n10\na\n2\na\n2\nb\n");
        assert_eq!(judged(&text), [Err("2\nb\n10\na\n2\na".into())]);
    }

    #[test]
    fn too_few_values_too_many_and_wrong_columns_fail() {
        let text = "query I\nVALUES (1), (2)\n----\n1\n\nquery I\nVALUES (1)\n----\n1\n2\n\n\
                    query I\nSELECT 1 WHERE 0\n----\n1\n\nquery II\nSELECT 1 WHERE 0\n\nquery I\nSELECT 1";
        let found = judged(text);
        let expected = ["1\n2", "1", "nothing", "1 columns", "1"];
        assert_eq!(found, expected.map(|got| Err(got.to_owned())));
    }

    /// The sums are those of `printf '1\n2\n3\n' | md5sum` and of nothing.
    #[test]
    fn a_hash_is_the_md5_of_the_values_with_a_newline_each() {
        let md5 = "c0710d6b4f15dfa88f600b0e6b624077";
        let query = "query I\nVALUES (1), (2), (3)\n----";
        let text = format!(
            "{query}\n3 values hashing to {md5}\n\n{query}\n3 values hashing to {}\n\n\
             {query}\n4 values hashing to {md5}\n\n\
             query I\nSELECT 1 WHERE 0\n----\n0 values hashing to d41d8cd98f00b204e9800998ecf8427e",
            md5.to_uppercase()
        );
        assert_eq!(
            judged(&text),
            [Ok(()), Ok(()), Err("1\n2\n3".into()), Ok(())]
        );
    }

    #[test]
    fn queries_of_a_label_must_agree() {
        let text = "query I nosort a\nSELECT 1\n----\n1\n\nquery I nosort b\nSELECT 2\n----\n2\n\n\
                    query T nosort a\nSELECT '1'\n----\n1\n\nquery I nosort a\nSELECT 2\n----\n2";
        let found = judged(text);
        assert_eq!(found[..3], [Ok(()), Ok(()), Ok(())]);
        assert!(
            found[3]
                .as_ref()
                .is_err_and(|got| got.contains("labelled a"))
        );
    }
}
