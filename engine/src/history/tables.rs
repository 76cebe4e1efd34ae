//! All tables of a store.
//!
//! - The manifest names the tables, oldest first. A table is durable before a manifest can name it, and its file
//!   stays until a manifest that does not name it any more is durable: [`Tables::encode`] notes what it left out, and
//!   [`Tables::remove_dropped`] removes that. So a crash at any moment leaves all files that some manifest names.
//! - What nothing names is removed when the store is opened.
//! - A number is never given again as long as its file may be there.
//! - Of entries with the same key that of the oldest table counts.

mod block;
mod files;
mod filter;
mod merge;
mod range;
mod table;
#[cfg(test)]
mod testing;
mod writer;

use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_wal::Access;
use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::Fs;
use parking_lot::{Mutex, RwLock};

pub(crate) use files::Facts;
use files::Files;
pub(crate) use range::Range;
use table::{BlockCache, Table};

use super::key::Key;
use crate::error::{Error, Result};

/// What the blocks in memory may take.
const CACHE_BYTES: u64 = 8 << 20;

/// The tables of a store; shared by all threads. Readers never wait for a writer.
#[derive(Debug)]
pub(crate) struct Tables {
    files: Files,
    cache: Arc<BlockCache>,
    state: RwLock<State>,
    /// Held while a merge goes on.
    merging: Mutex<()>,
}

#[derive(Debug)]
struct State {
    next: u32,
    /// Oldest first. Replaced as a whole, so that whoever reads keeps the tables that it began with.
    members: Arc<Vec<Arc<Member>>>,
    /// Not needed any more, but named by the manifest on disk.
    dropped: Vec<u32>,
    /// Left out of the last manifest that was encoded.
    left_out: Vec<u32>,
}

/// A table, or what is known of one that cannot be read.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) number: u32,
    /// Of a table that cannot be read, what the manifest knows: the group and the time of the newest commit.
    pub(crate) facts: Facts,
    pub(crate) table: Result<Arc<Table>>,
}

impl Member {
    fn new(table: Table) -> Arc<Self> {
        Arc::new(Member {
            number: table.number,
            facts: table.facts.clone(),
            table: Ok(Arc::new(table)),
        })
    }
}

/// What the manifest says of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Numbers from here on were never used.
    next: u32,
    /// Oldest first: number, group, time of the newest commit.
    tables: Vec<(u32, u32, u64)>,
}

impl Default for Listing {
    /// That of a store without history.
    fn default() -> Self {
        Listing {
            next: 1,
            tables: Vec::new(),
        }
    }
}

impl Listing {
    /// Takes a listing off; `None` is damage.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let next = u32::try_from(reader.varint()?).ok()?;
        let tables = (0..reader.varint()?)
            .map(|_| {
                let number = u32::try_from(reader.varint()?).ok()?;
                let group = u32::try_from(reader.varint()?).ok()?;
                (number < next).then_some((number, group, reader.varint()?))
            })
            .collect::<Option<_>>()?;
        Some(Listing { next, tables })
    }
}

impl Tables {
    /// Opens the tables that the manifest names. One that cannot be read is met when it is read; nothing else fails
    /// because of it.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        store_id: u128,
        access: Access,
        listing: &Listing,
    ) -> Result<Self> {
        let files = Files { fs, dir, store_id };
        let mut next = listing.next;
        let is_named = |number: u32| listing.tables.iter().any(|named| named.0 == number);
        for number in files.list()? {
            next = next.max(number.saturating_add(1));
            if access.writes() && !is_named(number) {
                files.remove(number)?;
            }
        }
        let member = |&(number, group, last_ms): &(u32, u32, u64)| match Table::open(&files, number)
        {
            Ok(table) => Member::new(table),
            Err(error) => Arc::new(Member {
                number,
                facts: Facts {
                    group,
                    first_ms: last_ms,
                    last_ms,
                    ..Facts::default()
                },
                table: Err(error),
            }),
        };
        let members = listing.tables.iter().map(member).collect();
        Ok(Tables {
            files,
            cache: Arc::new(BlockCache::new(CACHE_BYTES)),
            state: RwLock::new(State {
                next,
                members: Arc::new(members),
                dropped: Vec::new(),
                left_out: Vec::new(),
            }),
            merging: Mutex::new(()),
        })
    }

    /// What the next manifest is to say. What was taken out before this counts as left out of it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut state = self.state.write();
        out.put_varint(state.next.into());
        out.put_varint(state.members.len() as u64);
        for member in state.members.iter() {
            out.put_varint(member.number.into());
            out.put_varint(member.facts.group.into());
            out.put_varint(member.facts.last_ms);
        }
        let dropped = std::mem::take(&mut state.dropped);
        state.left_out.extend(dropped);
    }

    /// Removes the files that the last encoded manifest does not name. To be called when it is durable, and not
    /// otherwise. Returns how many there were.
    pub(crate) fn remove_dropped(&self) -> Result<usize> {
        let numbers = std::mem::take(&mut self.state.write().left_out);
        for (done, number) in numbers.iter().enumerate() {
            if let Err(error) = self.files.remove(*number) {
                // The next time will do as well.
                self.state.write().left_out.extend(&numbers[done..]);
                return Err(error);
            }
        }
        Ok(numbers.len())
    }

    /// The tables as they are now, oldest first.
    pub(crate) fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.state.read().members.clone()
    }

    /// Writes entries, whose keys ascend, as a table that is newer than all others; nothing if there are none. It is
    /// durable when this returns, but counts after a crash only if a manifest names it. After an error nothing has
    /// changed.
    pub(crate) fn add(
        &self,
        facts: Facts,
        entries: impl Iterator<Item = Result<(Key, Vec<u8>)>>,
    ) -> Result<()> {
        if let Some(table) = Table::write(&self.files, self.number()?, facts, entries)? {
            let mut state = self.state.write();
            Arc::make_mut(&mut state.members).push(Member::new(table));
        }
        Ok(())
    }

    /// A number that was never used.
    fn number(&self) -> Result<u32> {
        let mut state = self.state.write();
        let number = state.next;
        state.next = number.checked_add(1).ok_or(Error::Limit {
            what: "the number of history files ever made",
            limit: u32::MAX.into(),
        })?;
        Ok(number)
    }

    /// The entries whose keys lie in a range, ascending, as they are now. Blocks are read as the sequence arrives at
    /// them; bound the range, so that none is read only to find that another object's entries begin.
    pub(crate) fn range(&self, keys: impl RangeBounds<Key>) -> Range {
        let members = self.members();
        let tables = members.iter().map(|member| member.table.as_ref());
        Range::over(tables, &keys, Some(self.cache.clone()))
    }

    /// The entries of each table by itself. One that cannot be read gives an error.
    pub(crate) fn each(&self) -> impl Iterator<Item = Range> {
        let members = self.members();
        (0..members.len()).map(move |at| {
            let table = members[at].table.as_ref();
            Range::over(std::iter::once(table), &.., None)
        })
    }

    /// Merges some tables into one, if that is worth it at the time `now_ms`, and says whether it was.
    pub(crate) fn merge_one(&self, now_ms: u64) -> Result<bool> {
        let _merging = self.merging.lock();
        let run = merge::pick(&self.members(), now_ms);
        if run.is_empty() {
            return Ok(false);
        }
        let entries = Range::over(run.iter().map(Ok), &.., None);
        let facts = merge::facts_of(&run);
        let merged = Table::write(&self.files, self.number()?, facts, entries)?;
        self.replace(&run, merged.map(Member::new));
        Ok(true)
    }

    /// Writes one table anew, the oldest that `is_wanted`, in the given group; says whether there was one. It takes
    /// the old one's place while what `hold` gives is held, or not at all.
    pub(crate) fn rewrite_one<I, H>(
        &self,
        is_wanted: impl Fn(&Facts) -> bool,
        group: impl FnOnce(&Facts) -> u32,
        rewrite: impl FnOnce(Range) -> I,
        hold: impl FnOnce(&Facts) -> Option<H>,
    ) -> Result<bool>
    where
        I: Iterator<Item = Result<(Key, Vec<u8>)>>,
    {
        let _merging = self.merging.lock();
        let members = self.members();
        let wanted = members.iter().find_map(|member| match &member.table {
            Ok(table) if !table.is_damaged() && is_wanted(&member.facts) => Some(table.clone()),
            _ => None,
        });
        let Some(table) = wanted else {
            return Ok(false);
        };
        let facts = Facts {
            group: group(&table.facts),
            ..table.facts.clone()
        };
        let entries = rewrite(Range::over(std::iter::once(Ok(&table)), &.., None));
        let written = Table::write(&self.files, self.number()?, facts, entries)?;
        let written = written.map(Member::new);
        match hold(&table.facts) {
            Some(_held) => self.replace(&[table], written),
            None => {
                let mut state = self.state.write();
                state.dropped.extend(written.map(|member| member.number));
            }
        }
        Ok(true)
    }

    /// Puts a table into the place of those that it was made from.
    fn replace(&self, run: &[Arc<Table>], merged: Option<Arc<Member>>) {
        let mut state = self.state.write();
        let mut members: Vec<_> = (*state.members).clone();
        let is_of_run =
            |member: &Arc<Member>| run.iter().any(|table| table.number == member.number);
        let place = members.iter().position(is_of_run);
        let before = members.len();
        members.retain(|member| !is_of_run(member));
        match place {
            Some(place) if before - members.len() == run.len() => {
                members.splice(place..place, merged);
                state.members = Arc::new(members);
                state.dropped.extend(run.iter().map(|table| table.number));
            }
            // A part of it expired meanwhile and must not come back.
            _ => state.dropped.extend(merged.map(|member| member.number)),
        }
    }

    /// Takes out all tables of which `is_over` says so, and says what they were. Of one that cannot be read it learns
    /// the group and the time of the newest commit, and no class.
    pub(crate) fn drop_where(&self, mut is_over: impl FnMut(&Facts) -> bool) -> Vec<Facts> {
        let mut state = self.state.write();
        let (gone, kept): (Vec<_>, Vec<_>) = state
            .members
            .iter()
            .cloned()
            .partition(|member| is_over(&member.facts));
        state.members = Arc::new(kept);
        state
            .dropped
            .extend(gone.iter().map(|member| member.number));
        gone.iter().map(|member| member.facts.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
