//! What a statement can be given for its `?`s.

use crate::value::Value;

/// Values for the parameters of a statement, in their order: nothing (`()`), a tuple of up to 12
/// values of whatever types become a [`Value`], or a slice, an array or a vector of [`Value`]s.
///
/// Names are positions: `:name`, `@name`, `$name` and `?NNN` get numbers from SQLite, from 1.
///
/// ```
/// # use dovehouse_sqlbridge::Connection;
/// # let dir = tempfile::tempdir()?;
/// # let connection = Connection::open_file(&dir.path().join("plain.sqlite"))?;
/// connection.exec("CREATE TABLE bird(name TEXT, grams REAL, ring BLOB)", ())?;
/// connection.exec("INSERT INTO bird VALUES (?, ?, ?)", ("dove", 180.5, Some(vec![7u8])))?;
/// connection.exec("INSERT INTO bird VALUES (?, ?, NULL)", &["wren".into(), 9.into()])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Parameters {
    /// Calls `act` with the values.
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R;
}

impl Parameters for () {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(&[])
    }
}

impl Parameters for &[Value] {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(self)
    }
}

impl<const N: usize> Parameters for &[Value; N] {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(self)
    }
}

impl<const N: usize> Parameters for [Value; N] {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(&self)
    }
}

impl Parameters for &Vec<Value> {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(self)
    }
}

impl Parameters for Vec<Value> {
    fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
        act(&self)
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: Into<Value>),+> Parameters for ($($name,)+) {
            fn with<R>(self, act: impl FnOnce(&[Value]) -> R) -> R {
                #[expect(non_snake_case, reason = "the values go by the names of their types")]
                let ($($name,)+) = self;
                act(&[$($name.into()),+])
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);
