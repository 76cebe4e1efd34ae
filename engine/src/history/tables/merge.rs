//! Which tables are worth being merged, and the merge.
//!
//! What is merged has one group and was made on one day (UTC) by its newest commit, so that it can go as a whole when
//! its time is over. On the day itself tables of similar size are merged, four at least, so that an entry is rewritten
//! some few times only; when the day is over, what there is of it becomes one table, or a few large ones.
//!
//! Tables of the group need not be neighbours. The merged one takes the place of the oldest, so the others step over
//! tables of other groups; that is allowed if no object can be in both, because they have no class in common. Otherwise
//! the order of age matters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Member;
use super::files::Facts;
use super::table::Table;
use crate::id::ClassId;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Similar tables are no more than so many times as large as the smallest one, or all below [`TINY_BYTES`].
const SIMILAR: u64 = 4;
const TINY_BYTES: u64 = 128 << 10;

/// So many are merged at least, before their day is over.
const COUNT_MIN: usize = 4;

/// Tables are merged up to this size, which bounds what a merge takes on the disk for a while.
const MERGED_BYTES_MAX: u64 = 1 << 30;

fn day(facts: &Facts) -> u64 {
    facts.last_ms / DAY_MS
}

/// Tables that could be merged into the place of the oldest, which comes first.
#[derive(Debug)]
struct Run {
    day: u64,
    tables: Vec<Arc<Table>>,
    /// The classes of other tables that lie behind the first one.
    passed: BTreeSet<ClassId>,
}

/// The tables that are best merged now, at the time `now_ms`: those of the fewest bytes. None if it is not worth it.
pub(crate) fn pick(members: &[Arc<Member>], now_ms: u64) -> Vec<Arc<Table>> {
    let bytes = |tables: &[Arc<Table>]| tables.iter().map(|table| table.bytes).sum::<u64>();
    runs(members)
        .iter()
        .filter_map(|run| match run.day < now_ms / DAY_MS {
            true => whole(&run.tables),
            false => similar(&run.tables),
        })
        .min_by_key(|tables| bytes(tables))
        .unwrap_or_default()
        .to_vec()
}

fn runs(members: &[Arc<Member>]) -> Vec<Run> {
    let mut done = Vec::new();
    let mut open: BTreeMap<u32, Run> = BTreeMap::new();
    for member in members {
        let table = match &member.table {
            Ok(table) if !table.is_damaged() => table,
            // Nobody knows what is in it.
            _ => {
                done.extend(std::mem::take(&mut open).into_values());
                continue;
            }
        };
        let facts = &member.facts;
        for (_, run) in open.iter_mut().filter(|(group, _)| **group != facts.group) {
            run.passed.extend(&facts.classes);
        }
        match open.get_mut(&facts.group) {
            Some(run) if run.day == day(facts) && run.passed.is_disjoint(&facts.classes) => {
                run.tables.push(table.clone());
            }
            _ => {
                let run = Run {
                    day: day(facts),
                    tables: vec![table.clone()],
                    passed: BTreeSet::new(),
                };
                done.extend(open.insert(facts.group, run));
            }
        }
    }
    done.extend(open.into_values());
    done
}

/// As many neighbours as fit into one table, from the oldest that has one.
fn whole(tables: &[Arc<Table>]) -> Option<&[Arc<Table>]> {
    from_each(tables)
        .map(|tables| {
            let mut bytes = 0;
            longest(tables, |table| {
                bytes += table.bytes;
                bytes <= MERGED_BYTES_MAX
            })
        })
        .find(|tables| tables.len() >= 2)
}

/// Enough neighbours of similar size, those of the fewest bytes.
fn similar(tables: &[Arc<Table>]) -> Option<&[Arc<Table>]> {
    from_each(tables)
        .map(|tables| {
            let (mut bytes, mut least, mut most) = (0, u64::MAX, 0);
            longest(tables, |table| {
                bytes += table.bytes;
                least = least.min(table.bytes);
                most = most.max(table.bytes);
                bytes <= MERGED_BYTES_MAX && most <= TINY_BYTES.max(least * SIMILAR)
            })
        })
        .filter(|tables| tables.len() >= COUNT_MIN)
        .min_by_key(|tables| tables.iter().map(|table| table.bytes).sum::<u64>())
}

fn from_each(tables: &[Arc<Table>]) -> impl Iterator<Item = &[Arc<Table>]> {
    (0..tables.len()).map(|from| &tables[from..])
}

fn longest(tables: &[Arc<Table>], mut fits: impl FnMut(&Table) -> bool) -> &[Arc<Table>] {
    let len = tables.iter().take_while(|table| fits(table)).count();
    &tables[..len]
}

/// The facts of what tables of one group become.
pub(crate) fn facts_of(tables: &[Arc<Table>]) -> Facts {
    let facts = || tables.iter().map(|table| &table.facts);
    Facts {
        group: facts().next().map_or(0, |facts| facts.group),
        classes: facts().flat_map(|facts| facts.classes.clone()).collect(),
        first_ms: facts().map(|facts| facts.first_ms).min().unwrap_or(0),
        last_ms: facts().map(|facts| facts.last_ms).max().unwrap_or(0),
    }
}
