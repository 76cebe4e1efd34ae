//! Which part of an object's keys to list.

use std::ops::Bound;

/// From where to where.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A range of keys, in byte order. The default lists everything.
///
/// ```
/// use dovehouse_engine::List;
/// let newest_ten = List::prefix(b"message/").reverse().limit(10);
/// # let _ = newest_ten;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    prefix: Vec<u8>,
    limit: Option<usize>,
    reverse: bool,
}

impl List {
    /// All keys.
    pub fn all() -> Self {
        List::default()
    }

    /// Keys that begin with these bytes.
    pub fn prefix(prefix: &[u8]) -> Self {
        List {
            prefix: prefix.to_vec(),
            ..List::default()
        }
    }

    /// Only keys from this one on, itself included.
    pub fn start(mut self, key: &[u8]) -> Self {
        self.start = Some(key.to_vec());
        self
    }

    /// Only keys behind this one. Takes the place of [`List::start`].
    pub fn start_after(self, key: &[u8]) -> Self {
        // Nothing lies between a key and the same key with a zero byte behind it.
        self.start(&[key, &[0]].concat())
    }

    /// Only keys before this one.
    pub fn end(mut self, key: &[u8]) -> Self {
        self.end = Some(key.to_vec());
        self
    }

    /// At most so many, counted from the end where the listing begins.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The bounds in key order, or `None` if no key lies between them.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        let start = self.start.as_deref().unwrap_or_default().max(&self.prefix);
        let prefix_end = prefix_end(&self.prefix);
        let end = match (&self.end, &prefix_end) {
            (Some(end), Some(prefix_end)) => Some(end.min(prefix_end)),
            (Some(end), None) | (None, Some(end)) => Some(end),
            (None, None) => None,
        };
        match end {
            Some(end) if end.as_slice() <= start => None,
            Some(end) => Some((
                Bound::Included(start.to_vec()),
                Bound::Excluded(end.clone()),
            )),
            None => Some((Bound::Included(start.to_vec()), Bound::Unbounded)),
        }
    }

    pub(crate) fn is_reverse(&self) -> bool {
        self.reverse
    }

    pub(crate) fn limit_or_all(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }
}

/// The first key behind all keys with this prefix; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
