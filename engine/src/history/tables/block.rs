//! Entries one behind the other, as the blocks of a table hold them.
//!
//! ```text
//! key   = bytes shared with the key before u8 · the others, with their number
//! entry = key · value, with its length
//! ```
//! Only the order of the keys is relied on; what they mean is nobody's concern here.

use std::ops::Range;
use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::history::key::Key;

/// The longest key.
pub(crate) const KEY_BYTES_MAX: usize = 18;

/// A key's bytes and zeros behind them, for keeping many in memory. They sort as the keys do, since no key's bytes
/// begin with those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackedKey([u8; KEY_BYTES_MAX]);

impl PackedKey {
    pub(crate) fn new(key: &Key) -> Self {
        let mut bytes = Vec::with_capacity(KEY_BYTES_MAX);
        key.encode(&mut bytes);
        bytes.resize(KEY_BYTES_MAX, 0);
        PackedKey(bytes.try_into().expect("no key is longer"))
    }

    pub(crate) fn key(&self) -> Key {
        Key::decode(&mut Reader::new(&self.0)).expect("it was made from a key")
    }
}

/// Writes keys, each in terms of the one before.
#[derive(Debug, Default)]
pub(crate) struct KeyWriter {
    before: Vec<u8>,
    key: Vec<u8>,
}

impl KeyWriter {
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, key: &Key) {
        self.key.clear();
        key.encode(&mut self.key);
        let both = self.before.iter().zip(&self.key);
        let shared = both.take_while(|(before, now)| before == now).count();
        out.push(shared as u8);
        out.put_prefixed(&self.key[shared..]);
        std::mem::swap(&mut self.before, &mut self.key);
    }
}

/// Reads what [`KeyWriter`] wrote, and keeps the bytes of the last key.
#[derive(Debug, Default)]
pub(crate) struct KeyReader {
    key: Vec<u8>,
}

impl KeyReader {
    /// Goes to the next key; `None` if it is damaged or not above the one before.
    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let shared = usize::from(reader.u8()?);
        let rest = reader.prefixed()?;
        if shared + rest.len() > KEY_BYTES_MAX || *rest <= *self.key.get(shared..)? {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        Some(())
    }

    fn key(&self) -> Option<Key> {
        let mut reader = Reader::new(&self.key);
        let key = Key::decode(&mut reader)?;
        reader.is_empty().then_some(key)
    }

    /// The next key; `None` if it is damaged or not above the one before.
    pub(crate) fn next(&mut self, reader: &mut Reader<'_>) -> Option<Key> {
        self.take(reader)?;
        self.key()
    }
}

/// A block in the making.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    keys: KeyWriter,
    raw: Vec<u8>,
}

impl BlockBuilder {
    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    pub(crate) fn push(&mut self, key: &Key, value: &[u8]) {
        self.keys.put(&mut self.raw, key);
        self.raw.put_prefixed(value);
    }

    /// The bytes of the block; the next one begins.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.keys = KeyWriter::default();
        std::mem::take(&mut self.raw)
    }
}

/// A walk over the entries of a block, which may be damaged.
#[derive(Debug)]
pub(crate) struct BlockCursor {
    raw: Arc<[u8]>,
    keys: KeyReader,
    value: Range<usize>,
}

/// The bytes of a block are not entries in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) type Walked<T> = std::result::Result<T, Malformed>;

impl BlockCursor {
    /// Before the first entry.
    pub(crate) fn new(raw: Arc<[u8]>) -> Self {
        BlockCursor {
            raw,
            keys: KeyReader::default(),
            value: 0..0,
        }
    }

    /// The next entry's key, until there is no more.
    pub(crate) fn next(&mut self) -> Walked<Option<Key>> {
        match self.step()? {
            true => self.keys.key().map(Some).ok_or(Malformed),
            false => Ok(None),
        }
    }

    /// The key of the first entry behind this one that is not below `from`.
    pub(crate) fn seek(&mut self, from: &Key) -> Walked<Option<Key>> {
        let mut bytes = Vec::with_capacity(KEY_BYTES_MAX);
        from.encode(&mut bytes);
        while self.step()? {
            if self.keys.key >= bytes {
                return self.keys.key().map(Some).ok_or(Malformed);
            }
        }
        Ok(None)
    }

    /// The value of the entry whose key came last.
    pub(crate) fn value(&self) -> &[u8] {
        &self.raw[self.value.clone()]
    }

    fn step(&mut self) -> Walked<bool> {
        let mut reader = Reader::new(&self.raw[self.value.end..]);
        if reader.is_empty() {
            return Ok(false);
        }
        self.keys.take(&mut reader).ok_or(Malformed)?;
        let value = reader.prefixed().ok_or(Malformed)?.len();
        let end = self.raw.len() - reader.rest().len();
        self.value = end - value..end;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::key;
    use super::*;

    fn walk(raw: &[u8]) -> Walked<Vec<(Key, Vec<u8>)>> {
        let mut cursor = BlockCursor::new(raw.into());
        let mut found = Vec::new();
        while let Some(key) = cursor.next()? {
            found.push((key, cursor.value().to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn entries_come_back_in_order_from_any_key_on() {
        let entries: Vec<_> = (1..200)
            .map(|n| (key(n / 50 + 1, n * 2), vec![n as u8; n as usize % 7]))
            .collect();
        let mut block = BlockBuilder::default();
        for (key, value) in &entries {
            block.push(key, value);
        }
        let raw = block.finish();
        assert_eq!(walk(&raw).unwrap(), entries);
        for n in 0..400 {
            let from = key(n / 100 + 1, n);
            let found = BlockCursor::new(raw.as_slice().into()).seek(&from).unwrap();
            let expected = entries.iter().map(|(key, _)| *key).find(|key| *key >= from);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn bytes_that_are_no_entries_in_order_are_told_and_nothing_panics() {
        let block = |keys: &[Key]| {
            let mut block = BlockBuilder::default();
            keys.iter().for_each(|key| block.push(key, b"value"));
            block.finish()
        };
        assert_eq!(walk(&block(&[key(2, 1), key(1, 1)])), Err(Malformed));
        assert_eq!(walk(&block(&[key(2, 1), key(2, 1)])), Err(Malformed));
        let raw = block(&[key(1, 1), key(1, 2), key(2, 3)]);
        for len in 1..raw.len() {
            // A cut between two entries is told by the length that the index knows.
            if let Ok(found) = walk(&raw[..len]) {
                assert!(found.len() < 3);
            }
        }
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let mut bytes = raw.clone();
            bytes[rng.usize(0..raw.len())] = rng.u8(..);
            let _ = walk(&bytes);
        }
    }
}
