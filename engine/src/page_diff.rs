//! A changed page in a delta: the smallest of byte ranges, zstd against the version before it, and
//! the page itself.
//!
//! A one-row insert touches a few hundred bytes of four pages; a one-column update twelve.

use dovehouse_wal::bytes::{Put, Reader};

use crate::compress::{compress, decompress};

const ZERO: u8 = 0;
const FULL: u8 = 1;
const FULL_ZSTD: u8 = 2;
const RANGES: u8 = 3;
const BASED_ZSTD: u8 = 4;

/// Equal bytes between two ranges cost less inside one range than a new range would.
const GAP_BYTES: usize = 4;
/// Ranges of at most this size are taken without trying compression: it seldom wins there.
const RANGES_GOOD_ENOUGH: usize = 64;

/// Appends the change from `old` to `new`: a tag and a prefixed body.
pub(crate) fn encode(old: Option<&[u8]>, new: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(new) = new else {
        out.push(ZERO);
        return;
    };
    let best = match old.filter(|old| old.len() == new.len()) {
        Some(old) => smallest_change(old, new),
        None => compress(new, b"").map(|frame| (FULL_ZSTD, frame)),
    };
    let best = best.unwrap_or_else(|| (FULL, new.to_vec()));
    out.push(best.0);
    out.put_prefixed(&best.1);
}

/// Ranges or a frame, if one of them is smaller than the page.
fn smallest_change(old: &[u8], new: &[u8]) -> Option<(u8, Vec<u8>)> {
    let ranges = encode_ranges(old, new);
    if ranges.len() <= RANGES_GOOD_ENOUGH {
        return Some((RANGES, ranges));
    }
    match compress(new, old) {
        Some(frame) if frame.len() < ranges.len() => Some((BASED_ZSTD, frame)),
        _ => (ranges.len() < new.len()).then_some((RANGES, ranges)),
    }
}

/// A change as it stands in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    tag: u8,
    pub(crate) body: &'a [u8],
}

impl<'a> Change<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let tag = reader.u8()?;
        let body = if tag == ZERO { &[] } else { reader.prefixed()? };
        Some(Change { tag, body })
    }

    /// How it is written down, in words.
    pub(crate) fn how(&self) -> &'static str {
        match self.tag {
            ZERO => "all zeros",
            FULL => "the whole page",
            FULL_ZSTD => "the whole page, compressed",
            RANGES => "ranges of bytes",
            BASED_ZSTD => "compressed with the page before",
            _ => "unknown",
        }
    }

    /// The page that it makes of the one before. The outer `None` is damage.
    pub(crate) fn apply(&self, old: Option<&[u8]>, page_bytes: usize) -> Option<Option<Vec<u8>>> {
        let page = match self.tag {
            ZERO => return Some(None),
            FULL => self.body.to_vec(),
            FULL_ZSTD => decompress(self.body, b"", page_bytes)?,
            RANGES => decode_ranges(self.body, old?)?,
            BASED_ZSTD => decompress(self.body, old?, page_bytes)?,
            _ => return None,
        };
        (page.len() == page_bytes).then_some(Some(page))
    }
}

/// `(skip, length, bytes)` for each stretch that differs.
pub(crate) fn encode_ranges(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut done = 0;
    while let Some(start) = first_difference(old, new, done) {
        let mut end = start + 1;
        while let Some(next) = first_difference(old, new, end).filter(|next| next - end < GAP_BYTES)
        {
            end = next + 1;
        }
        out.put_varint((start - done) as u64);
        out.put_prefixed(&new[start..end]);
        done = end;
    }
    out
}

fn first_difference(old: &[u8], new: &[u8], from: usize) -> Option<usize> {
    // Most of a page is equal: compare by words first.
    let mut at = from;
    while at + 8 <= old.len() && old[at..at + 8] == new[at..at + 8] {
        at += 8;
    }
    (at..old.len()).find(|at| old[*at] != new[*at])
}

pub(crate) fn decode_ranges(body: &[u8], old: &[u8]) -> Option<Vec<u8>> {
    let mut page = old.to_vec();
    let mut reader = Reader::new(body);
    let mut at = 0usize;
    while !reader.is_empty() {
        let start = at.checked_add(reader.length()?)?;
        let bytes = reader.prefixed()?;
        at = start.checked_add(bytes.len())?;
        page.get_mut(start..at)?.copy_from_slice(bytes);
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(old: Option<&[u8]>, new: Option<&[u8]>) -> usize {
        let mut out = Vec::new();
        encode(old, new, &mut out);
        let mut reader = Reader::new(&out);
        let decoded = Change::read(&mut reader)
            .unwrap()
            .apply(old, 4096)
            .expect("a page comes back");
        assert_eq!(decoded.as_deref(), new);
        assert!(reader.is_empty());
        out.len()
    }

    #[test]
    fn changes_come_back_and_small_ones_stay_small() {
        let old: Vec<u8> = (0..4096u32).map(|at| (at * 7 % 251) as u8).collect();
        let mut new = old.clone();
        assert!(round_trip(Some(&old), Some(&new)) <= 2, "no change");
        new[100] ^= 1;
        new[103] ^= 1;
        assert!(
            round_trip(Some(&old), Some(&new)) <= 10,
            "two near bytes are one range"
        );
        new[4095] ^= 1;
        round_trip(Some(&old), Some(&new));
        let mut rng = fastrand::Rng::with_seed(1);
        let mut random = vec![0; 4096];
        rng.fill(&mut random);
        assert!(
            round_trip(Some(&old), Some(&random)) <= 4096 + 4,
            "never much more than the page"
        );
        assert!(
            round_trip(None, Some(&old)) < 600,
            "a first version is compressed"
        );
        round_trip(Some(&old), None);
        for _ in 0..200 {
            let mut changed = old.clone();
            for _ in 0..rng.usize(1..60) {
                let at = rng.usize(0..4096);
                changed[at] = rng.u8(..);
            }
            round_trip(Some(&old), Some(&changed));
        }
    }

    #[test]
    fn any_bytes_decode_to_a_page_or_to_nothing() {
        let mut rng = fastrand::Rng::with_seed(2);
        let old = [5; 4096];
        for _ in 0..20_000 {
            let mut bytes = vec![0; rng.usize(0..40)];
            rng.fill(&mut bytes);
            let change = Change::read(&mut Reader::new(&bytes));
            let page = change
                .and_then(|change| change.apply(Some(&old), 4096))
                .flatten();
            assert!(page.is_none_or(|page| page.len() == 4096));
        }
    }
}
