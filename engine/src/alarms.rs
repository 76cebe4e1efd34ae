//! When objects want to be woken: a column of 5 bytes a slot on disk, and in memory only what changed
//! since the last checkpoint and the earliest time of each page.
//!
//! ```text
//! page of the file `alarms`   crc u32 · zero u16 · (due u40) × 818
//! due                         0 for none, else milliseconds since 2020-01-01 plus one, saturating
//! ```
//! The exact time is in the object; the column only finds it. A page that a crash tore differs only
//! in entries that replay brings again.

use std::collections::BTreeSet;
use std::path::Path;

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::Fs;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::id::Slot;
use crate::index_file::{IndexFile, PAGE_BYTES, Page};

const HEADER_BYTES: usize = 6;
const ENTRY_BYTES: usize = 5;
const PER_PAGE: u64 = ((PAGE_BYTES - HEADER_BYTES) / ENTRY_BYTES) as u64;

/// 2020-01-01 in milliseconds since 1970.
const EPOCH_MS: u64 = 1_577_836_800_000;
const VALUE_MAX: u64 = (1 << 40) - 1;

/// An alarm time as the column has it; rounds times outside its range to the nearest it has.
fn to_column(due_ms: Option<u64>) -> u64 {
    due_ms.map_or(0, |due| (due.saturating_sub(EPOCH_MS) + 1).min(VALUE_MAX))
}

fn from_column(value: u64) -> Option<u64> {
    (value != 0).then(|| value - 1 + EPOCH_MS)
}

/// Finds the objects whose alarm is due.
#[derive(Debug)]
pub(crate) struct AlarmIndex {
    file: IndexFile,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Slots whose time is not that of the column (any more).
    fresh: FxHashMap<Slot, Option<u64>>,
    by_time: BTreeSet<(u64, Slot)>,
    /// The earliest time in each page of the column, 0 for none.
    zones: Vec<u64>,
}

impl AlarmIndex {
    /// Bytes of pages that were written since the file was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.file.written_bytes()
    }

    pub(crate) fn open(fs: &dyn Fs, dir: &Path, write: bool) -> Result<Self> {
        let file = IndexFile::open(fs, &dir.join("alarms"), write)?;
        Ok(AlarmIndex {
            file,
            state: Mutex::default(),
        })
    }

    /// Reads the zones of the checkpoint that is on disk.
    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Option<()> {
        let count = reader.length()?;
        let zones = (0..count)
            .map(|_| reader.varint())
            .collect::<Option<Vec<_>>>()?;
        self.state.lock().zones = zones;
        Some(())
    }

    /// Notes an object's earliest alarm.
    pub(crate) fn set(&self, slot: Slot, due_ms: Option<u64>) {
        let mut state = self.state.lock();
        if let Some(Some(before)) = state.fresh.insert(slot, due_ms) {
            state.by_time.remove(&(before, slot));
        }
        if let Some(due_ms) = due_ms {
            state.by_time.insert((due_ms, slot));
        }
    }

    /// The earliest alarm of all; never later than the true one.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let state = self.state.lock();
        let fresh = state.by_time.first().map(|(due, _)| *due);
        let zone = state.zones.iter().copied().filter_map(from_column).min();
        match (fresh, zone) {
            (Some(fresh), Some(zone)) => Some(fresh.min(zone)),
            (fresh, zone) => fresh.or(zone),
        }
    }

    /// Up to `limit` slots with an alarm at or before `until_ms`, roughly in order of time.
    pub(crate) fn due_until(&self, until_ms: u64, limit: usize) -> Result<Vec<(u64, Slot)>> {
        let mut state = self.state.lock();
        let fresh = state
            .by_time
            .iter()
            .take_while(|(due, _)| *due <= until_ms)
            .take(limit);
        let mut due: Vec<(u64, Slot)> = fresh.copied().collect();
        for zone in 0..state.zones.len() {
            if due.len() >= limit {
                break;
            }
            if from_column(state.zones[zone]).is_none_or(|earliest| earliest > until_ms) {
                continue;
            }
            let page = self.file.page(zone as u64)?;
            let mut earliest = 0;
            for slot in slots_of(zone as u64) {
                let Some(time) = from_column(get(&page, slot)) else {
                    continue;
                };
                if state.fresh.contains_key(&slot) {
                    continue; // The column is out of date here.
                }
                if time <= until_ms && due.len() < limit {
                    due.push((time, slot));
                }
                earliest = min_time(earliest, to_column(Some(time)));
            }
            // Entries that `fresh` overrides no longer count for the zone.
            state.zones[zone] = earliest;
        }
        due.sort_unstable();
        Ok(due)
    }

    /// Writes the times of these slots, sorted, and syncs them. Returns the zones for the payload.
    pub(crate) fn write(&self, times: &[(Slot, Option<u64>)]) -> Result<Vec<u64>> {
        let mut zones = self.state.lock().zones.clone();
        for chunk in times.chunk_by(|a, b| a.0.get() / PER_PAGE == b.0.get() / PER_PAGE) {
            let number = chunk[0].0.get() / PER_PAGE;
            let mut page = self.file.page(number)?;
            for (slot, due_ms) in chunk {
                put(&mut page, *slot, to_column(*due_ms));
            }
            let all = slots_of(number).map(|slot| get(&page, slot));
            let earliest = all.fold(0, min_time);
            if zones.len() <= number as usize {
                zones.resize(number as usize + 1, 0);
            }
            // A page of a store without alarms is never written.
            let known = number < self.file.pages();
            zones[number as usize] = earliest;
            if known || earliest != 0 {
                let crc = crc32fast::hash(&page[4..]).to_le_bytes();
                page[..4].copy_from_slice(&crc);
                self.file.write_page(number, &page)?;
            }
        }
        self.file.sync()?;
        Ok(zones)
    }

    /// After the checkpoint counts: takes over its zones.
    pub(crate) fn adopt(&self, zones: Vec<u64>) {
        self.state.lock().zones = zones;
    }

    /// The column now says what `fresh` said about this slot.
    pub(crate) fn settle(&self, slot: Slot, due_ms: Option<u64>) {
        let mut state = self.state.lock();
        // A time outside the column's range stays in memory, where it is exact.
        let exact = from_column(to_column(due_ms)) == due_ms;
        if exact && state.fresh.get(&slot) == Some(&due_ms) {
            state.fresh.remove(&slot);
            if let Some(due_ms) = due_ms {
                state.by_time.remove(&(due_ms, slot));
            }
        }
    }
}

/// The zones as the checkpoint's payload holds them.
pub(crate) fn encode_zones(zones: &[u64], payload: &mut Vec<u8>) {
    payload.put_varint(zones.len() as u64);
    zones.iter().for_each(|zone| payload.put_varint(*zone));
}

/// The earlier of two column values, of which 0 is none.
fn min_time(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    }
}

fn slots_of(page: u64) -> impl Iterator<Item = Slot> {
    (page * PER_PAGE..(page + 1) * PER_PAGE).filter_map(Slot::new)
}

fn place(slot: Slot) -> std::ops::Range<usize> {
    let at = HEADER_BYTES + (slot.get() % PER_PAGE) as usize * ENTRY_BYTES;
    at..at + ENTRY_BYTES
}

fn get(page: &Page, slot: Slot) -> u64 {
    let mut bytes = [0; 8];
    bytes[..ENTRY_BYTES].copy_from_slice(&page[place(slot)]);
    u64::from_le_bytes(bytes)
}

fn put(page: &mut Page, slot: Slot, value: u64) {
    page[place(slot)].copy_from_slice(&value.to_le_bytes()[..ENTRY_BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovehouse_wal::sim::SimFs;

    fn slot(number: u64) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn due_alarms_are_found_before_and_after_a_checkpoint_and_never_twice() {
        let fs = SimFs::new(1);
        let index = AlarmIndex::open(&fs, Path::new("d"), true).unwrap();
        let base = EPOCH_MS + 1_000_000;
        for number in 1..3000 {
            index.set(slot(number), Some(base + number));
        }
        let times: Vec<_> = (1..3000).map(|n| (slot(n), Some(base + n))).collect();
        let zones = index.write(&times).unwrap();
        index.adopt(zones);
        times
            .iter()
            .for_each(|(slot, due)| index.settle(*slot, *due));
        assert_eq!(index.next_due(), Some(base + 1));

        index.set(slot(1), None);
        index.set(slot(2), Some(base + 5000));
        let due = index.due_until(base + 10, 100).unwrap();
        assert_eq!(
            due,
            (3..=10).map(|n| (base + n, slot(n))).collect::<Vec<_>>()
        );
        assert_eq!(
            index.next_due(),
            Some(base + 3),
            "what was moved no longer counts for its zone"
        );
        assert_eq!(index.due_until(base + 10, 3).unwrap().len(), 3);
        assert_eq!(index.due_until(base + 9000, 10_000).unwrap().len(), 2998);
    }

    #[test]
    fn times_outside_the_columns_range_are_never_late() {
        for due in [0, 1, EPOCH_MS, EPOCH_MS + 7, u64::MAX] {
            let column = from_column(to_column(Some(due))).unwrap();
            assert!(column <= due.max(EPOCH_MS), "{due} became {column}");
        }
        assert_eq!(from_column(to_column(None)), None);
    }
}
