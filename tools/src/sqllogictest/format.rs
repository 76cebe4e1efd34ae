//! Values as a script writes them, by the type that its query gives to the column: `I` an integer, `R` a
//! number with three decimals, `T` text in which what is not printable ASCII is `@`. NULL is `NULL`, an
//! empty text `(empty)`.
//!
//! A value of another type is converted as SQLite converts it, by SQLite itself: only it knows its own
//! rules for the digits of a number.

use dovehouse_sqlbridge::{Error, Value};

use super::side::Stock;

pub(crate) struct Formatter {
    sqlite: Stock,
}

impl Formatter {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Formatter {
            sqlite: Stock::open()?,
        })
    }

    /// The value in a column of a type that the parser let pass.
    pub(crate) fn format(&self, kind: u8, value: &Value) -> Result<String, Error> {
        let expression = match (kind, value) {
            (_, Value::Null) => return Ok("NULL".to_owned()),
            (b'I' | b'T', Value::Integer(integer)) => return Ok(integer.to_string()),
            (b'T', Value::Text(text)) => return Ok(printable(text.as_bytes())),
            (b'T', Value::Blob(bytes)) => return Ok(printable(bytes)),
            (b'I', _) => "SELECT CAST(CAST(?1 AS INTEGER) AS TEXT)",
            (b'R', _) => "SELECT printf('%.3f', ?1)",
            _ => "SELECT CAST(?1 AS TEXT)",
        };
        match self.sqlite.convert(expression, value)? {
            Value::Text(text) => Ok(text),
            other => unreachable!("{expression} gives text, not {other:?}"),
        }
    }
}

/// As the classic runner prints a C string: it ends at the first NUL.
fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    if bytes.is_empty() {
        return "(empty)".to_owned();
    }
    let shown = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '@',
    };
    bytes.iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(kind: u8, value: impl Into<Value>) -> String {
        let formatter = Formatter::new().unwrap();
        formatter.format(kind, &value.into()).unwrap()
    }

    #[test]
    fn integers_are_what_sqlite_casts_to() {
        assert_eq!(formatted(b'I', i64::MIN), "-9223372036854775808");
        assert_eq!(formatted(b'I', -1.99), "-1");
        assert_eq!(formatted(b'I', 1e300), "9223372036854775807");
        assert_eq!(formatted(b'I', "12 doves"), "12");
        assert_eq!(formatted(b'I', "doves"), "0");
        assert_eq!(formatted(b'I', b"7".as_slice()), "7");
        assert_eq!(formatted(b'I', None::<i64>), "NULL");
    }

    #[test]
    fn reals_have_three_decimals() {
        assert_eq!(formatted(b'R', 2), "2.000");
        assert_eq!(formatted(b'R', 2.0625), "2.063");
        assert_eq!(formatted(b'R', -0.0004), "-0.000");
        assert_eq!(formatted(b'R', 1e20), "100000000000000000000.000");
        assert_eq!(formatted(b'R', "1.5 doves"), "1.500");
        assert_eq!(formatted(b'R', "doves"), "0.000");
        assert_eq!(formatted(b'R', None::<i64>), "NULL");
    }

    #[test]
    fn texts_are_printable() {
        assert_eq!(formatted(b'T', "a\tb\u{e9}~"), "a@b@@~");
        assert_eq!(formatted(b'T', ""), "(empty)");
        assert_eq!(formatted(b'T', "a\0b"), "a");
        assert_eq!(formatted(b'T', b"\0".as_slice()), "(empty)");
        assert_eq!(formatted(b'T', b"a\xff".as_slice()), "a@");
        assert_eq!(formatted(b'T', 7), "7");
        assert_eq!(formatted(b'T', 0.1), "0.1");
        assert_eq!(formatted(b'T', 1e20), "1.0e+20");
        assert_eq!(formatted(b'T', None::<i64>), "NULL");
    }
}
