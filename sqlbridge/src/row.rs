//! A row of a result, and what it becomes in Rust.

use std::sync::Arc;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::{Error, Result};
use crate::value::{FromValue, Value};

/// A column, by its position from 0 or by its name. Of several columns with one name it is the last.
pub trait Column: std::fmt::Debug + Copy {
    /// The column's position.
    fn position(self, names: &[String]) -> Option<usize>;
}

impl Column for usize {
    fn position(self, names: &[String]) -> Option<usize> {
        (self < names.len()).then_some(self)
    }
}

impl Column for &str {
    fn position(self, names: &[String]) -> Option<usize> {
        names.iter().rposition(|name| name == self)
    }
}

/// A row of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub(crate) names: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// The value in a column.
    pub fn get<T: FromValue>(&self, column: impl Column) -> Result<T> {
        let position = column.position(&self.names);
        let position = position.ok_or_else(|| {
            Error::Type(format!(
                "there is no column {column:?}; there are {:?}",
                self.names
            ))
        })?;
        let value = &self.values[position];
        let wrong = || {
            Error::Type(format!(
                "column {column:?} is {value:?}, not {}",
                T::EXPECTED
            ))
        };
        T::from_value(value).ok_or_else(wrong)
    }

    /// The row as a type of the application: a struct or a map by the columns' names, a tuple or a
    /// vector by their order, or a single value if there is one column.
    ///
    /// NULL is `None`; 0 and 1 may be a `bool`; a text may be an enum without fields.
    ///
    /// ```
    /// # use dovehouse_sqlbridge::Connection;
    /// #[derive(serde::Deserialize)]
    /// struct Bird {
    ///     name: String,
    ///     ring: Option<i64>,
    /// }
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let connection = Connection::open_file(&dir.path().join("plain.sqlite"))?;
    /// let row = connection.exec("SELECT 'dove' AS name, NULL AS ring", ())?.one()?;
    /// let bird: Bird = row.deserialize()?;
    /// assert_eq!((bird.name.as_str(), bird.ring), ("dove", None));
    /// let pair: (String, Option<i64>) = row.deserialize()?;
    /// assert_eq!(pair.0, "dove");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(RowReader(self))
    }

    /// The columns' names, in their order.
    pub fn column_names(&self) -> &[String] {
        &self.names
    }

    /// All values, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All values, in the order of the columns.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Type(message.to_string())
    }
}

/// A row, for serde.
struct RowReader<'a>(&'a Row);

impl<'a> RowReader<'a> {
    fn only(self) -> Result<ValueReader<'a>> {
        match self.0.values.as_slice() {
            [value] => Ok(ValueReader(value)),
            values => Err(Error::Type(format!(
                "a row of {} columns is not a single value",
                values.len()
            ))),
        }
    }

    fn by_order<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let values = self.0.values.iter().map(ValueReader);
        let mut values = SeqDeserializer::new(values);
        let result = visitor.visit_seq(&mut values)?;
        values.end()?;
        Ok(result)
    }
}

macro_rules! single_values {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.only()?.$method(visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for RowReader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let columns = self.0.names.iter().map(String::as_str);
        let values = self.0.values.iter().map(ValueReader);
        visitor.visit_map(MapDeserializer::new(columns.zip(values)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.by_order(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.by_order(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.by_order(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    single_values! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option
    }

    forward_to_deserialize_any! { unit unit_struct map struct identifier ignored_any }
}

/// A value, for serde.
#[derive(Clone, Copy)]
struct ValueReader<'a>(&'a Value);

impl IntoDeserializer<'_, Error> for ValueReader<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for ValueReader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Integer(integer) => visitor.visit_i64(*integer),
            Value::Real(real) => visitor.visit_f64(*real),
            Value::Text(text) => visitor.visit_str(text),
            Value::Blob(bytes) => visitor.visit_bytes(bytes),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Integer(0) => visitor.visit_bool(false),
            Value::Integer(1) => visitor.visit_bool(true),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    /// Bytes, for a vector of `u8`.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Blob(bytes) => {
                visitor.visit_seq(SeqDeserializer::<_, Error>::new(bytes.iter().copied()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.0 {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            other => Err(Error::Type(format!(
                "{other:?} is not the name of a variant"
            ))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    fn row(columns: &[(&str, Value)]) -> Row {
        Row {
            names: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: columns.iter().map(|(_, value)| value.clone()).collect(),
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Dove,
        Wren,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Grams(f64);

    #[derive(Debug, Deserialize, PartialEq)]
    struct Bird {
        kind: Kind,
        grams: Grams,
        ringed: bool,
        ring: Option<u16>,
        feather: Vec<u8>,
    }

    fn dove() -> Row {
        row(&[
            ("kind", "dove".into()),
            ("grams", 180.5.into()),
            ("ringed", true.into()),
            ("ring", Value::Null),
            ("feather", vec![1u8, 2].into()),
            ("beside", 1.into()),
        ])
    }

    #[test]
    fn a_row_becomes_a_struct_a_tuple_a_map_or_a_single_value() {
        let bird: Bird = dove().deserialize().unwrap();
        let expected = Bird {
            kind: Kind::Dove,
            grams: Grams(180.5),
            ringed: true,
            ring: None,
            feather: vec![1, 2],
        };
        assert_eq!(bird, expected);
        let pair = row(&[("a", 1.into()), ("b", Value::Null)]);
        assert_eq!(pair.deserialize::<(i64, Option<i64>)>().unwrap(), (1, None));
        let map: BTreeMap<String, Option<i64>> = pair.deserialize().unwrap();
        assert_eq!(
            map,
            BTreeMap::from([("a".into(), Some(1)), ("b".into(), None)])
        );
        assert_eq!(row(&[("a", 7.into())]).deserialize::<u8>().unwrap(), 7);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let refused = [
            pair().deserialize::<i64>().unwrap_err(),
            pair().deserialize::<(i64,)>().unwrap_err(),
            pair().deserialize::<(i64, i64, i64)>().unwrap_err(),
            row(&[("a", 300.into())]).deserialize::<u8>().unwrap_err(),
            row(&[("a", 2.into())]).deserialize::<bool>().unwrap_err(),
            row(&[("a", Value::Null)]).deserialize::<i64>().unwrap_err(),
            row(&[("a", "emu".into())])
                .deserialize::<Kind>()
                .unwrap_err(),
            row(&[("kind", "dove".into())])
                .deserialize::<Bird>()
                .unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::Type(_)), "{error:?}");
        }
    }

    fn pair() -> Row {
        row(&[("a", 1.into()), ("b", 2.into())])
    }
}
