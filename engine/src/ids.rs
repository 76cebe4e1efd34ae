//! The id table: from a 32-byte id to its slot, 8 bytes an object.
//!
//! Extendible hashing under a keyed hash. The directory, four bytes a bucket, is part of the
//! checkpoint's payload; the buckets are pages of the file `ids`:
//! ```text
//! word 0         depth u8 · zero u24 · crc u32 (of the page with this field zero)
//! word 1 .. 511  slot u40 · fingerprint u24, or zero
//! ```
//! Words are never torn and never move, so any mixture of an old and a new version of a bucket is a
//! valid bucket. A split writes both halves into fresh buckets and leaves the old one as it is until
//! the checkpoint that names the new directory is durable: a crash before that finds the old
//! directory and the old bucket. An entry is a hint: the full id is verified in the object's record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hasher;
use std::path::Path;

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::Fs;
use parking_lot::RwLock;
use siphasher::sip::SipHasher13;

use crate::error::{Error, Result};
use crate::id::{ObjectId, Slot};
use crate::index_file::{IndexFile, PAGE_BYTES, Page};

const WORDS: usize = PAGE_BYTES / 8;
const FINGERPRINT_BITS: u32 = 24;

/// The directory never grows beyond this: 8 billion objects.
const DEPTH_MAX: u32 = 24;

/// An id's hash. Its upper half stands in the slot entry and chooses the bucket; other bits of it
/// stand in the bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdHash(u64);

impl IdHash {
    /// The part in the slot entry.
    pub(crate) fn fingerprint(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The part in the bucket.
    fn short(self) -> u64 {
        self.0 & ((1 << FINGERPRINT_BITS) - 1)
    }
}

/// The first `depth` bits of a fingerprint.
fn prefix(fingerprint: u32, depth: u32) -> usize {
    if depth == 0 {
        0
    } else {
        (fingerprint >> (32 - depth)) as usize
    }
}

/// The key of a store's id hash: ids are chosen by users, so it must not be known.
pub(crate) type HashKey = [u8; 16];

#[derive(Clone, Debug)]
struct Directory {
    depth: u32,
    /// The bucket of each prefix of `depth` bits.
    buckets: Vec<u32>,
    /// Buckets in the file, used or not.
    allocated: u32,
    /// Buckets that no checkpoint on disk refers to.
    free: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct IdTable {
    file: IndexFile,
    key: HashKey,
    directory: RwLock<Directory>,
}

/// A checkpoint's changes to the table, in memory until the checkpoint is named.
#[derive(Debug)]
pub(crate) struct IdUpdate {
    directory: Directory,
    pages: HashMap<u32, Box<Page>>,
    /// Buckets that the old directory names and the new one does not.
    replaced: Vec<u32>,
}

impl IdTable {
    /// Bytes of pages that were written since the file was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.file.written_bytes()
    }

    pub(crate) fn open(fs: &dyn Fs, dir: &Path, write: bool, key: HashKey) -> Result<Self> {
        let file = IndexFile::open(fs, &dir.join("ids"), write)?;
        let directory = Directory {
            depth: 0,
            buckets: vec![0],
            allocated: 1,
            free: Vec::new(),
        };
        Ok(IdTable {
            file,
            key,
            directory: RwLock::new(directory),
        })
    }

    pub(crate) fn hash(&self, id: &ObjectId) -> IdHash {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(id.as_bytes());
        IdHash(hasher.finish())
    }

    /// The slots that may belong to an id, most often none or one.
    pub(crate) fn candidates(&self, hash: IdHash) -> Result<Vec<Slot>> {
        let directory = self.directory.read();
        let bucket = directory.buckets[prefix(hash.fingerprint(), directory.depth)];
        let words: [u64; WORDS] = self.file.words(u64::from(bucket) * PAGE_BYTES as u64)?;
        Ok(words[1..]
            .iter()
            .filter_map(|word| slot_of(*word, hash))
            .collect())
    }

    /// The bucket of this hash.
    pub(crate) fn bucket(&self, hash: IdHash) -> u32 {
        let directory = self.directory.read();
        directory.buckets[prefix(hash.fingerprint(), directory.depth)]
    }

    /// Whether a bucket is what was written. Between a crash and the first checkpoint after it, one that
    /// the crash tore is not: it has all its entries, but not its checksum.
    pub(crate) fn is_intact(&self, bucket: u32) -> Result<bool> {
        let _still = self.file.hold_still();
        let page = self.file.page(u64::from(bucket))?;
        Ok(page.iter().all(|byte| *byte == 0) || crc_of(&page) == page[4..8])
    }

    /// Begins an update by these ids that are gone and these new ones. `fingerprint_of` gives the fingerprint in a slot's entry; the
    /// entries of the new slots must be in the slot table already.
    pub(crate) fn prepare(
        &self,
        gone: &[(IdHash, Slot)],
        new: &[(IdHash, Slot)],
        fingerprint_of: &dyn Fn(Slot) -> Result<Option<u32>>,
    ) -> Result<IdUpdate> {
        let directory = self.directory.read().clone();
        let mut update = IdUpdate {
            directory,
            pages: HashMap::new(),
            replaced: Vec::new(),
        };
        for (hash, slot) in gone {
            update.remove(&self.file, *hash, *slot)?;
        }
        for (hash, slot) in new {
            while !update.insert(&self.file, *hash, *slot)? {
                update.split(&self.file, *hash, fingerprint_of)?;
            }
        }
        Ok(update)
    }

    /// Writes the update's buckets and syncs them. Harmless until [`IdTable::adopt`]: buckets that the
    /// old directory names only gain entries.
    pub(crate) fn write(&self, update: &mut IdUpdate) -> Result<()> {
        for (bucket, page) in &mut update.pages {
            let crc: [u8; 4] = crc_of(page);
            page[4..8].copy_from_slice(&crc);
            self.file.write_page(u64::from(*bucket), page)?;
        }
        Ok(self.file.sync()?)
    }

    /// Takes over the new directory, after the checkpoint that holds it is durable.
    pub(crate) fn adopt(&self, update: IdUpdate) {
        let mut directory = update.directory;
        directory.free.extend(update.replaced);
        *self.directory.write() = directory;
    }

    /// Takes over the directory of the checkpoint that is on disk.
    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Option<()> {
        let depth = u32::from(reader.u8()?);
        let allocated = reader.u32()?;
        let numbers = |reader: &mut Reader<'_>, count: usize| -> Option<Vec<u32>> {
            let mut bytes = Reader::new(reader.take(count.checked_mul(4)?)?);
            let all = std::iter::from_fn(|| bytes.u32());
            all.map(|bucket| (bucket < allocated).then_some(bucket))
                .collect()
        };
        if depth > DEPTH_MAX {
            return None;
        }
        let buckets = numbers(reader, 1 << depth)?;
        let free = reader.length()?;
        let free = numbers(reader, free)?;
        *self.directory.write() = Directory {
            depth,
            buckets,
            allocated,
            free,
        };
        Some(())
    }
}

impl IdUpdate {
    /// The directory as the checkpoint's payload holds it.
    pub(crate) fn encode(&self, payload: &mut Vec<u8>) {
        payload.push(self.directory.depth as u8);
        payload.put_u32(self.directory.allocated);
        self.directory
            .buckets
            .iter()
            .for_each(|bucket| payload.put_u32(*bucket));
        // What this checkpoint replaces is free as soon as it counts.
        payload.put_varint((self.directory.free.len() + self.replaced.len()) as u64);
        self.directory
            .free
            .iter()
            .chain(&self.replaced)
            .for_each(|bucket| payload.put_u32(*bucket));
    }

    fn bucket(&self, hash: IdHash) -> u32 {
        self.directory.buckets[prefix(hash.fingerprint(), self.directory.depth)]
    }

    fn page(&mut self, file: &IndexFile, bucket: u32) -> Result<&mut Page> {
        Ok(match self.pages.entry(bucket) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(space) => space.insert(file.page(u64::from(bucket))?),
        })
    }

    /// Puts an entry into its bucket; `false` if that is full.
    fn insert(&mut self, file: &IndexFile, hash: IdHash, slot: Slot) -> Result<bool> {
        let bucket = self.bucket(hash);
        Ok(insert_word(
            self.page(file, bucket)?,
            slot.get() << FINGERPRINT_BITS | hash.short(),
        ))
    }

    /// Takes an entry out of its bucket, if it is there.
    fn remove(&mut self, file: &IndexFile, hash: IdHash, slot: Slot) -> Result<()> {
        let bucket = self.bucket(hash);
        let page = self.page(file, bucket)?;
        let word = slot.get() << FINGERPRINT_BITS | hash.short();
        for at in 1..WORDS {
            if get_word(page, at) == word {
                page[at * 8..at * 8 + 8].fill(0);
            }
        }
        Ok(())
    }

    /// Splits the bucket of this hash into two fresh ones.
    fn split(
        &mut self,
        file: &IndexFile,
        hash: IdHash,
        fingerprint_of: &dyn Fn(Slot) -> Result<Option<u32>>,
    ) -> Result<()> {
        let old = self.bucket(hash);
        let page = *self.page(file, old)?;
        let depth = u32::from(page[0]) + 1;
        if depth > DEPTH_MAX {
            return Err(Error::Limit {
                what: "the number of objects in a bucket",
                limit: WORDS as u64,
            });
        }
        if depth > self.directory.depth {
            self.directory.buckets = self
                .directory
                .buckets
                .iter()
                .flat_map(|bucket| [*bucket; 2])
                .collect();
            self.directory.depth = depth;
        }
        let halves = [self.allocate(depth), self.allocate(depth)];
        for word in (1..WORDS)
            .map(|at| get_word(&page, at))
            .filter(|word| *word != 0)
        {
            let fingerprint = Slot::new(word >> FINGERPRINT_BITS).map_or(Ok(None), fingerprint_of);
            let sides = match fingerprint {
                Ok(Some(fingerprint)) => {
                    let side = prefix(fingerprint, depth) & 1;
                    side..side + 1
                }
                // An entry whose slot cannot be read belongs to either: keep it findable in both.
                _ => 0..2,
            };
            for half in &halves[sides] {
                insert_word(self.pages.get_mut(half).expect("just made"), word);
            }
        }
        // Of the directory's entries for the old bucket, the first half have the next bit clear.
        let shift = self.directory.depth - depth;
        for (index, bucket) in self.directory.buckets.iter_mut().enumerate() {
            if *bucket == old {
                *bucket = halves[index >> shift & 1];
            }
        }
        self.pages.remove(&old);
        self.replaced.push(old);
        Ok(())
    }

    /// A fresh bucket.
    fn allocate(&mut self, depth: u32) -> u32 {
        let bucket = self.directory.free.pop().unwrap_or_else(|| {
            self.directory.allocated += 1;
            self.directory.allocated - 1
        });
        let mut page = Box::new([0; PAGE_BYTES]);
        page[0] = depth as u8;
        self.pages.insert(bucket, page);
        bucket
    }
}

/// The slot in a bucket's word, if its fingerprint is the hash's.
fn slot_of(word: u64, hash: IdHash) -> Option<Slot> {
    let matches = word & ((1 << FINGERPRINT_BITS) - 1) == hash.short();
    Slot::new(word >> FINGERPRINT_BITS).filter(|_| matches)
}

fn get_word(page: &Page, at: usize) -> u64 {
    u64::from_le_bytes(page[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
}

/// Puts a word into a free place, unless it is there; `false` if there is none.
fn insert_word(page: &mut Page, word: u64) -> bool {
    let mut free = None;
    for at in 1..WORDS {
        match get_word(page, at) {
            // Replay brings ids that the bucket has already.
            found if found == word => return true,
            0 if free.is_none() => free = Some(at),
            _ => {}
        }
    }
    if let Some(at) = free {
        page[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    free.is_some()
}

/// The checksum of a bucket, as it stands in it.
fn crc_of(page: &Page) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&page[..4]);
    hasher.update(&page[8..]);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovehouse_wal::sim::SimFs;
    use std::cell::RefCell;

    fn id(number: u64) -> ObjectId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        ObjectId::from_bytes(bytes)
    }

    /// Adds ids in rounds, each a checkpoint, and lets `before_adopting` look at the table in between.
    fn fill(
        table: &IdTable,
        rounds: &[std::ops::Range<u64>],
        before_adopting: impl Fn(u64),
    ) -> Vec<u8> {
        let known = RefCell::new(HashMap::new());
        let mut payload = Vec::new();
        for round in rounds {
            let new: Vec<_> = round
                .clone()
                .map(|n| (table.hash(&id(n)), Slot::new(n + 1).unwrap()))
                .collect();
            known
                .borrow_mut()
                .extend(new.iter().map(|(hash, slot)| (*slot, hash.fingerprint())));
            let fingerprint_of = |slot| Ok(known.borrow().get(&slot).copied());
            let mut update = table.prepare(&[], &new, &fingerprint_of).unwrap();
            table.write(&mut update).unwrap();
            before_adopting(round.start);
            payload.clear();
            update.encode(&mut payload);
            table.adopt(update);
        }
        payload
    }

    fn finds(table: &IdTable, number: u64) -> bool {
        let found = table.candidates(table.hash(&id(number))).unwrap();
        found.contains(&Slot::new(number + 1).unwrap())
    }

    #[test]
    fn every_id_is_found_after_many_splits_and_after_reopening() {
        let fs = SimFs::new(1);
        let dir = Path::new("d");
        let table = IdTable::open(&fs, dir, true, [7; 16]).unwrap();
        let payload = fill(&table, &[0..300, 300..9000, 9000..20_000], |_| ());
        let reopened = IdTable::open(&fs, dir, true, [7; 16]).unwrap();
        let mut reader = Reader::new(&payload);
        reopened.decode(&mut reader).unwrap();
        assert!(reader.is_empty());
        for table in [&table, &reopened] {
            assert!((0..20_000).all(|number| finds(table, number)));
            assert!((0..20_000).all(|number| {
                table
                    .is_intact(table.bucket(table.hash(&id(number))))
                    .unwrap()
            }));
            let strangers = (20_000..40_000)
                .filter(|n| !table.candidates(table.hash(&id(*n))).unwrap().is_empty());
            assert!(
                strangers.count() < 20,
                "fingerprints of 24 bits tell ids apart"
            );
        }
    }

    #[test]
    fn until_a_checkpoint_counts_the_old_directory_finds_every_old_id() {
        let fs = SimFs::new(2);
        let table = IdTable::open(&fs, Path::new("d"), true, [7; 16]).unwrap();
        let rounds: Vec<_> = (0..8)
            .map(|round| round * 1000..(round + 1) * 1000)
            .collect();
        fill(&table, &rounds, |old| {
            assert!(
                (0..old).all(|number| finds(&table, number)),
                "with {old} ids"
            );
        });
    }
}
