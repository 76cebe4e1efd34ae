//! The order in which SQLite gives rows, by keys under the collation BINARY.

use std::cmp::Ordering;

use crate::value::Value;

/// How a database keeps texts: BINARY compares their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    /// By the name that SQLite has for it.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "UTF-16le" => Encoding::Utf16Le,
            "UTF-16be" => Encoding::Utf16Be,
            _ => Encoding::Utf8,
        }
    }

    fn compare(self, one: &str, other: &str) -> Ordering {
        let little = |text: &'_ str| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>()
        };
        match self {
            Encoding::Utf8 => one.cmp(other),
            Encoding::Utf16Le => little(one).cmp(&little(other)),
            Encoding::Utf16Be => one.encode_utf16().cmp(other.encode_utf16()),
        }
    }
}

/// The order of two keys.
pub(super) fn keys(one: &[Value], other: &[Value], encoding: Encoding) -> Ordering {
    let orders = one
        .iter()
        .zip(other)
        .map(|(one, other)| values(one, other, encoding));
    orders.fold(Ordering::Equal, Ordering::then)
}

fn values(one: &Value, other: &Value, encoding: Encoding) -> Ordering {
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Real(one), Value::Real(other)) => one.total_cmp(other),
        (Value::Integer(one), Value::Real(other)) => integer_and_real(*one, *other),
        (Value::Real(one), Value::Integer(other)) => integer_and_real(*other, *one).reverse(),
        (Value::Text(one), Value::Text(other)) => encoding.compare(one, other),
        (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}

/// Exactly, also where a real cannot have the integer's value.
fn integer_and_real(integer: i64, real: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real >= LIMIT {
        return Ordering::Less;
    }
    if real < -LIMIT {
        return Ordering::Greater;
    }
    // Whole numbers of this size fit, and what is cut off decides among equal ones.
    let whole = real.trunc();
    let by_whole = integer.cmp(&(whole as i64));
    by_whole.then_with(|| whole.total_cmp(&real))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;

    #[test]
    fn keys_are_in_the_order_of_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        for (name, encoding) in [
            ("UTF-8", Encoding::Utf8),
            ("UTF-16le", Encoding::Utf16Le),
            ("UTF-16be", Encoding::Utf16Be),
        ] {
            let file = Connection::open_file(&dir.path().join(name)).unwrap();
            file.exec(&format!("PRAGMA encoding = '{name}'"), ())
                .unwrap();
            file.exec("CREATE TABLE t(a)", ()).unwrap();
            let values = "(NULL), (1), (1.5), (-1.5), (-2), (9007199254740993), (9007199254740992.0), (-0.5), (0), (1e300),
                (-1e300), (9223372036854775807), (9223372036854775807.0), (''), ('a'), ('\u{e9}'), ('\u{ffff}'),
                ('\u{10000}'), ('ab'), ('\u{100}'), (x''), (x'00'), (x'ff'), (3.0), (3)";
            file.exec(&format!("INSERT INTO t VALUES {values}"), ())
                .unwrap();
            let rows: Vec<Vec<Value>> = file
                .exec("SELECT a FROM t ORDER BY a", ())
                .unwrap()
                .raw()
                .collect::<Result<_, _>>()
                .unwrap();
            for pair in rows.windows(2) {
                assert_ne!(
                    keys(&pair[0], &pair[1], encoding),
                    Ordering::Greater,
                    "{pair:?} in {name}"
                );
            }
        }
    }
}
