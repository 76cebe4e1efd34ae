//! The nodes of a big object's key tree.
//!
//! ```text
//! leaf  = 1 · (key prefixed · value)*                      sorted by key
//! inner = 2 · (key prefixed · child varint)*               a child has the keys from its own on
//! value = 0 · bytes prefixed
//!       | 1 · bytes varint · blocks varint · number varint*
//! ```
//! The key of an inner node's first child counts as the lowest of all.

use dovehouse_wal::bytes::{Put, Reader};

const LEAF: u8 = 1;
const INNER: u8 = 2;
const INLINE: u8 = 0;
const BLOCKS: u8 = 1;

/// A node is split beyond this.
pub(crate) const NODE_BYTES: usize = 4096;

/// A value in a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Inline(Vec<u8>),
    /// A large value in blocks of its own.
    Blocks {
        bytes: u64,
        numbers: Vec<u32>,
    },
}

impl Value {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Value::Inline(value) => value.len() as u64,
            Value::Blocks { bytes, .. } => *bytes,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Inline(value) => {
                out.push(INLINE);
                out.put_prefixed(value);
            }
            Value::Blocks { bytes, numbers } => {
                out.push(BLOCKS);
                out.put_varint(*bytes);
                out.put_varint(numbers.len() as u64);
                for number in numbers {
                    out.put_varint(u64::from(*number));
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        match reader.u8()? {
            INLINE => Some(Value::Inline(reader.prefixed()?.to_vec())),
            BLOCKS => {
                let bytes = reader.varint()?;
                let mut numbers = Vec::new();
                for _ in 0..reader.length()? {
                    numbers.push(u32::try_from(reader.varint()?).ok()?);
                }
                Some(Value::Blocks { bytes, numbers })
            }
            _ => None,
        }
    }

    fn skip(reader: &mut Reader<'_>) -> Option<()> {
        match reader.u8()? {
            INLINE => reader.prefixed().map(drop),
            BLOCKS => {
                reader.varint()?;
                (0..reader.length()?).try_for_each(|_| reader.varint().map(drop))
            }
            _ => None,
        }
    }
}

/// An entry of a leaf.
pub(crate) type Entry = (Vec<u8>, Value);
/// A child of an inner node: its lowest key, and its block.
pub(crate) type Child = (Vec<u8>, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Leaf(Vec<Entry>),
    Inner(Vec<Child>),
}

fn varint_bytes(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// What an entry takes in a leaf.
pub(crate) fn entry_bytes((key, value): &Entry) -> usize {
    let value = match value {
        Value::Inline(value) => varint_bytes(value.len() as u64) + value.len(),
        Value::Blocks { numbers, .. } => 10 + 5 + 5 * numbers.len(),
    };
    varint_bytes(key.len() as u64) + key.len() + 1 + value
}

/// What a child takes in an inner node.
pub(crate) fn child_bytes((key, _): &Child) -> usize {
    varint_bytes(key.len() as u64) + key.len() + 5
}

impl Node {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(NODE_BYTES);
        match self {
            Node::Leaf(entries) => {
                out.push(LEAF);
                for (key, value) in entries {
                    out.put_prefixed(key);
                    value.encode(&mut out);
                }
            }
            Node::Inner(children) => {
                out.push(INNER);
                for (key, child) in children {
                    out.put_prefixed(key);
                    out.put_varint(u64::from(*child));
                }
            }
        }
        out
    }

    /// `None` is damage.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            LEAF => {
                let mut entries = Vec::new();
                while !reader.is_empty() {
                    let key = reader.prefixed()?.to_vec();
                    entries.push((key, Value::decode(&mut reader)?));
                }
                Some(Node::Leaf(entries))
            }
            INNER => {
                let mut children = Vec::new();
                while !reader.is_empty() {
                    let key = reader.prefixed()?.to_vec();
                    children.push((key, u32::try_from(reader.varint()?).ok()?));
                }
                (!children.is_empty()).then_some(Node::Inner(children))
            }
            _ => None,
        }
    }
}

/// The value of a key in a leaf, without taking the whole leaf apart. The outer `None` is damage.
pub(crate) fn find_value(leaf: &[u8], wanted: &[u8]) -> Option<Option<Value>> {
    let mut reader = Reader::new(leaf);
    (reader.u8()? == LEAF).then_some(())?;
    while !reader.is_empty() {
        let key = reader.prefixed()?;
        match key.cmp(wanted) {
            std::cmp::Ordering::Less => Value::skip(&mut reader)?,
            std::cmp::Ordering::Equal => return Value::decode(&mut reader).map(Some),
            std::cmp::Ordering::Greater => break,
        }
    }
    Some(None)
}

/// A child of an inner node, and the keys that it may have: from one on, and before another.
pub(crate) struct Found {
    pub(crate) child: u32,
    /// `None` for the first child: what is lowest is for its parent to say.
    pub(crate) low: Option<Vec<u8>>,
    pub(crate) high: Option<Vec<u8>>,
}

/// The child of an inner node which has a key; with `before`, which has what comes before it. `None` for a
/// key stands for the end. The outer `None` is damage.
pub(crate) fn find_child(inner: &[u8], wanted: Option<&[u8]>, before: bool) -> Option<Found> {
    let mut reader = Reader::new(inner);
    (reader.u8()? == INNER).then_some(())?;
    let mut found: Option<Found> = None;
    while !reader.is_empty() {
        let key = reader.prefixed()?;
        let child = u32::try_from(reader.varint()?).ok()?;
        let is_behind = wanted.is_some_and(|wanted| match before {
            true => key >= wanted,
            false => key > wanted,
        });
        match &mut found {
            Some(found) if is_behind => {
                found.high = Some(key.to_vec());
                break;
            }
            _ => {
                let low = found.is_some().then(|| key.to_vec());
                found = Some(Found {
                    child,
                    low,
                    high: None,
                });
            }
        }
    }
    found
}
