//! Keys of a big object in order, one node of the tree at a time.

use std::borrow::Cow;
use std::ops::Bound;

use super::Big;
use super::keys::{read_value, span};
use super::node::{Entry, Value};
use crate::error::Result;
use crate::kv::Bounds;

/// What comes next: a key with its value, or an error that stands for all keys of a damaged node.
pub(crate) type Listed<'a> = Result<(Cow<'a, [u8]>, Cow<'a, [u8]>)>;

/// The keys of a range, in either direction.
pub(crate) struct BigList<'a> {
    big: &'a Big,
    /// What is left.
    bounds: Option<Bounds>,
    reverse: bool,
    /// From the node that was read last, with what the open transaction changed; the next one is the last.
    gathered: Vec<(Vec<u8>, Source<'a>)>,
}

/// Where a value is.
enum Source<'a> {
    Changed(&'a [u8]),
    Stored(Value),
}

impl<'a> BigList<'a> {
    pub(crate) fn new(big: &'a Big, bounds: Option<Bounds>, reverse: bool) -> Self {
        BigList {
            big,
            bounds,
            reverse,
            gathered: Vec::new(),
        }
    }

    /// Reads the next node.
    fn gather(&mut self, (from, to): Bounds) -> Result<()> {
        let core = &self.big.core;
        let span = match (self.reverse, &from, &to) {
            (false, Bound::Included(from), _) => span(self.big, &core.root, Some(from), false),
            (true, _, Bound::Excluded(to)) => span(self.big, &core.root, Some(to), true),
            (false, ..) => span(self.big, &core.root, Some(&[]), false),
            (true, ..) => span(self.big, &core.root, None, true),
        };
        // This node has what lies between its bounds and ours; the rest is for the next ones.
        let (here, rest) = if self.reverse {
            match span.low {
                Some(low) if is_before(&from, &low) => (
                    (Bound::Included(low.clone()), to),
                    Some((from, Bound::Excluded(low))),
                ),
                _ => ((from, to), None),
            }
        } else {
            match span.high {
                Some(high) if is_behind(&to, &high) => (
                    (from, Bound::Excluded(high.clone())),
                    Some((Bound::Included(high), to)),
                ),
                _ => ((from, to), None),
            }
        };
        self.bounds = rest;
        let changed = core.keys.range::<Vec<u8>, _>(here.clone());
        let entries = span.entries?;
        let stored = entries.into_iter().filter(|(key, _)| contains(&here, key));
        self.gathered = merge(stored, changed);
        if !self.reverse {
            self.gathered.reverse();
        }
        Ok(())
    }

    fn value(&self, source: Source<'a>) -> Result<Cow<'a, [u8]>> {
        match source {
            Source::Changed(value) => Ok(Cow::Borrowed(value)),
            Source::Stored(value) => Ok(Cow::Owned(read_value(self.big, value)?)),
        }
    }
}

impl<'a> Iterator for BigList<'a> {
    type Item = Listed<'a>;

    fn next(&mut self) -> Option<Listed<'a>> {
        loop {
            if let Some((key, source)) = self.gathered.pop() {
                return Some(self.value(source).map(|value| (Cow::Owned(key), value)));
            }
            let bounds = self.bounds.take()?;
            if let Err(error) = self.gather(bounds) {
                return Some(Err(error));
            }
        }
    }
}

fn is_before(from: &Bound<Vec<u8>>, key: &[u8]) -> bool {
    match from {
        Bound::Included(from) => from[..] < *key,
        _ => true,
    }
}

fn is_behind(to: &Bound<Vec<u8>>, key: &[u8]) -> bool {
    match to {
        Bound::Excluded(to) => to[..] > *key,
        _ => true,
    }
}

fn contains((from, to): &Bounds, key: &[u8]) -> bool {
    let from_here = match from {
        Bound::Included(from) => *key >= from[..],
        _ => true,
    };
    from_here && is_behind(to, key)
}

/// What is stored with what was changed since, in order.
fn merge<'a>(
    stored: impl Iterator<Item = Entry>,
    changed: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
) -> Vec<(Vec<u8>, Source<'a>)> {
    let (mut stored, mut changed) = (stored.peekable(), changed.peekable());
    let mut merged = Vec::new();
    loop {
        let changed_first = match (stored.peek(), changed.peek()) {
            (None, None) => return merged,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some((a, _)), Some((b, _))) => b.as_slice() <= a.as_slice(),
        };
        if !changed_first {
            let entry = stored
                .next()
                .map(|(key, value)| (key, Source::Stored(value)));
            merged.extend(entry);
            continue;
        }
        let Some((key, value)) = changed.next() else {
            continue;
        };
        stored.next_if(|(old, _)| old == key);
        if let Some(value) = value {
            merged.push((key.clone(), Source::Changed(value)));
        }
    }
}
