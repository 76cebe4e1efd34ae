//! Bookmarks: points in the history of one object.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::read::Subject;
use crate::id::ObjectId;
use crate::ids::HashKey;

/// A point in the history of one object: its state as of one commit.
///
/// Its text sorts as the object's commits do: four groups of 8, 8, 8 and 32 lowercase hexadecimal digits. The
/// first two are the number of the commit; the others tell the object and are of no use to anybody else. It
/// names no place on the disk, so it stays valid for as long as the history reaches back to it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use dovehouse_engine::{Bookmark, Engine, ObjectId};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path())?;
/// # let (class, id) = (engine.class("Room")?, ObjectId::from_bytes([1; 32]));
/// let mut room = engine.wake(class, id)?;
/// room.put(b"topic", b"doves")?;
/// let bookmark = room.bookmark()?;
/// assert_eq!(bookmark.to_string().parse::<Bookmark>()?, bookmark);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bookmark {
    seq: u64,
    tag: u32,
    check: [u8; 16],
}

/// The text is no bookmark: it was cut or changed. Ask for the bookmark again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bookmark has 8, 8, 8 and 32 lowercase hexadecimal digits, separated by hyphens")]
pub struct BookmarkError;

impl Bookmark {
    pub(super) fn new(key: &HashKey, id: &ObjectId, of: Subject, seq: u64) -> Self {
        let hash = |seq: u64| {
            let mut hasher = SipHasher13::new_with_key(key);
            hasher.write(b"bookmark");
            hasher.write(id.as_bytes());
            hasher.write_u64(of.slot.get());
            hasher.write_u8(of.generation);
            hasher.write_u64(seq);
            hasher.finish128().as_u128()
        };
        Bookmark {
            seq,
            // The same for all bookmarks of the object: no commit has this number.
            tag: hash(u64::MAX) as u32,
            check: hash(seq).to_be_bytes(),
        }
    }

    /// The number of the commit, counted over all lives of the object's id; 0 is before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bookmark { seq, tag, check } = self;
        let (high, low) = ((seq >> 32) as u32, *seq as u32);
        let check = u128::from_be_bytes(*check);
        write!(f, "{high:08x}-{low:08x}-{tag:08x}-{check:032x}")
    }
}

impl FromStr for Bookmark {
    type Err = BookmarkError;

    fn from_str(text: &str) -> Result<Self, BookmarkError> {
        let groups: Vec<&str> = text.split('-').collect();
        let is_hex = |group: &str| {
            group
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let [high, low, tag, check] = groups[..] else {
            return Err(BookmarkError);
        };
        let lengths = [high.len(), low.len(), tag.len(), check.len()];
        if lengths != [8, 8, 8, 32] || !groups.iter().all(|group| is_hex(group)) {
            return Err(BookmarkError);
        }
        let number = |group| u32::from_str_radix(group, 16).map_err(|_| BookmarkError);
        Ok(Bookmark {
            seq: u64::from(number(high)?) << 32 | u64::from(number(low)?),
            tag: number(tag)?,
            check: u128::from_str_radix(check, 16)
                .map_err(|_| BookmarkError)?
                .to_be_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Slot;

    #[test]
    fn texts_come_back_sort_as_commits_do_and_tell_objects_apart() {
        let of = |slot, generation| Subject {
            slot: Slot::new(slot).unwrap(),
            generation,
        };
        let (id, other) = (ObjectId::from_bytes([1; 32]), ObjectId::from_bytes([2; 32]));
        let new = |id, of, seq| Bookmark::new(&[7; 16], id, of, seq);
        let seqs = [0, 1, 255, 256, 0xFFFF_FFFF, 0x1_0000_0000, 1 << 39];
        let marks: Vec<_> = seqs.map(|seq| new(&id, of(3, 0), seq)).to_vec();
        let texts: Vec<_> = marks.iter().map(Bookmark::to_string).collect();
        assert!(texts.is_sorted() && marks.is_sorted());
        for (mark, text) in marks.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*mark));
            let groups: Vec<_> = text.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 8, 8, 32]);
            for len in 0..text.len() {
                assert_eq!(text[..len].parse::<Bookmark>(), Err(BookmarkError));
            }
            assert_eq!(
                text.to_uppercase().parse::<Bookmark>().is_ok(),
                *text == text.to_uppercase()
            );
        }
        assert_ne!(new(&other, of(3, 0), 5), new(&id, of(3, 0), 5));
        assert_ne!(new(&id, of(3, 1), 5), new(&id, of(3, 0), 5));
    }
}
