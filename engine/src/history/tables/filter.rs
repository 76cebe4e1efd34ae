//! Which slots a table has entries of: a Bloom filter, so that a table costs an object nothing that is not in it.

use crate::id::Slot;

/// At ten bits for each slot, so many probes let about one slot in a hundred through by mistake.
const PROBES: u64 = 7;
const BITS_PER_SLOT: usize = 10;

/// The largest filter. A table of more slots than it serves, some 800,000, has none: an object is likely to be
/// in it, and the filters of all tables are kept in memory.
pub(crate) const FILTER_BYTES_MAX: usize = 1 << 20;

/// Notes slots, in any order, each as often as one likes.
#[derive(Debug, Default)]
pub(crate) struct FilterBuilder {
    last: Option<Slot>,
    slots: Vec<u64>,
    is_full: bool,
}

impl FilterBuilder {
    pub(crate) fn add(&mut self, slot: Slot) {
        if self.is_full || self.last == Some(slot) {
            return;
        }
        self.last = Some(slot);
        self.slots.push(hash(slot));
        if self.slots.len() * BITS_PER_SLOT > FILTER_BYTES_MAX * 8 {
            self.is_full = true;
            self.slots = Vec::new();
        }
    }

    /// The filter's bytes; none for one that lets everything through.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bits = vec![0; (self.slots.len() * BITS_PER_SLOT).div_ceil(8)];
        let count = bits.len() as u64 * 8;
        for hash in self.slots {
            for bit in probes(hash, count) {
                bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        bits
    }
}

/// A filter as it was read.
#[derive(Debug)]
pub(crate) struct Filter {
    bits: Box<[u8]>,
}

impl Filter {
    pub(crate) fn new(bits: &[u8]) -> Self {
        Filter { bits: bits.into() }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bits.len()
    }

    /// Whether there may be entries of this slot.
    pub(crate) fn may_have(&self, slot: Slot) -> bool {
        let count = self.bits.len() as u64 * 8;
        count == 0 || probes(hash(slot), count).all(|bit| self.bits[bit / 8] & 1 << (bit % 8) != 0)
    }
}

fn probes(hash: u64, count: u64) -> impl Iterator<Item = usize> {
    let (first, step) = (hash >> 32, hash & 0xFFFF_FFFF | 1);
    (0..PROBES).map(move |probe| ((first + probe * step) % count) as usize)
}

/// The finishing steps of MurmurHash3: every bit of the slot moves every bit of the hash.
fn hash(slot: Slot) -> u64 {
    let mut hash = slot.get();
    for factor in [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53_u64] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u64) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn no_slot_is_missed_and_few_are_let_through_by_mistake() {
        let mut builder = FilterBuilder::default();
        for number in 1..=10_000 {
            builder.add(slot(number * 3));
            builder.add(slot(number * 3));
        }
        let filter = Filter::new(&builder.finish());
        assert_eq!(filter.bits.len(), 12_500);
        assert!((1..=10_000).all(|number| filter.may_have(slot(number * 3))));
        let wrong = (1..=10_000)
            .filter(|number| filter.may_have(slot(number * 3 + 1)))
            .count();
        assert!(wrong < 200, "{wrong} of 10,000");
    }

    #[test]
    fn a_filter_beyond_the_limit_is_left_out_and_lets_everything_through() {
        let mut builder = FilterBuilder::default();
        let most = (FILTER_BYTES_MAX * 8 / BITS_PER_SLOT) as u64;
        (1..=most + 1).for_each(|number| builder.add(slot(number)));
        let bits = builder.finish();
        assert!(bits.is_empty());
        assert!(Filter::new(&bits).may_have(slot(most * 9)));
    }
}
