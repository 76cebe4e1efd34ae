//! An awake object's whole state in memory, and the undo log of its open transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The most that an image holds, uncompressed.
pub(crate) const IMAGE_BYTES_MAX: usize = 4 << 20;

/// The size of a database page.
pub const PAGE_BYTES: usize = 4096;

/// A time at which the object is to be woken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Tells several alarms of one object apart; the Durable Objects alarm has the empty name.
    pub name: String,
    /// When, in milliseconds since 1970.
    pub due_ms: u64,
    /// How often it was tried since it became due.
    pub attempts: u32,
    /// A schedule that sets it again, as the layer above writes it; empty for none.
    pub schedule: String,
}

pub(crate) type PageData = Arc<[u8]>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) kv: BTreeMap<Vec<u8>, Vec<u8>>,
    kv_bytes: usize,
    /// Pages 1, 2, … of the database; `None` is all zeros.
    pub(crate) pages: Vec<Option<PageData>>,
    /// Sorted by name.
    pub(crate) alarms: Vec<Alarm>,
}

/// How to take one step back.
#[derive(Clone, Debug)]
pub(crate) enum Undo {
    Kv {
        key: Vec<u8>,
        old: Option<Vec<u8>>,
    },
    Page {
        number: u32,
        old: Option<PageData>,
    },
    /// The database grew; it had this many pages.
    Grown {
        count: usize,
    },
    /// The database lost these last pages.
    Truncated {
        pages: Vec<Option<PageData>>,
    },
    Alarms {
        old: Vec<Alarm>,
    },
    Cleared {
        old: Box<State>,
    },
}

/// A place in an open transaction to which it can be rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Savepoint(pub(crate) usize);

/// A state with an open transaction on top of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Working {
    state: State,
    undo: Vec<Undo>,
    /// Whether a savepoint was taken since the last commit.
    has_savepoints: bool,
}

/// A changed page: its number, its committed and its new content.
pub(crate) type PageChange<'a> = (u32, Option<&'a [u8]>, Option<&'a [u8]>);

/// What a transaction changed, by comparison with what was committed.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// Everything was thrown away at some point: only a whole image tells the new state.
    pub(crate) cleared: bool,
    /// Each changed key with its new value.
    pub(crate) kv: Vec<(&'a [u8], Option<&'a [u8]>)>,
    pub(crate) pages: Vec<PageChange<'a>>,
    pub(crate) page_count: Option<usize>,
    pub(crate) alarms: bool,
}

impl Changes<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        let Changes {
            cleared,
            kv,
            pages,
            page_count,
            alarms,
        } = self;
        !cleared && kv.is_empty() && pages.is_empty() && page_count.is_none() && !alarms
    }
}

impl State {
    /// Whether there is nothing in it: such an object is erased.
    pub(crate) fn is_empty(&self) -> bool {
        self.kv.is_empty() && self.pages.is_empty() && self.alarms.is_empty()
    }

    /// Bytes of all keys and values.
    pub(crate) fn kv_bytes(&self) -> usize {
        self.kv_bytes
    }

    /// What the state takes uncompressed, with an upper bound for the lengths that stand around it.
    pub(crate) fn bytes(&self) -> usize {
        const LENGTHS: usize = 2 * 5;
        let kv = self.kv_bytes + self.kv.len() * LENGTHS;
        let pages = self.pages.len() + self.pages.iter().flatten().count() * PAGE_BYTES;
        let alarm = |alarm: &Alarm| alarm.name.len() + alarm.schedule.len() + 3 * LENGTHS;
        kv + pages + self.alarms.iter().map(alarm).sum::<usize>()
    }

    pub(crate) fn set_kv(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let key_bytes = key.len();
        let added = value.as_ref().map_or(0, |value| key_bytes + value.len());
        let old = match value {
            Some(value) => self.kv.insert(key, value),
            None => self.kv.remove(&key),
        };
        self.kv_bytes = self.kv_bytes + added - old.as_ref().map_or(0, |old| key_bytes + old.len());
        old
    }

    pub(crate) fn page(&self, number: u32) -> Option<&PageData> {
        self.pages.get((number as usize).checked_sub(1)?)?.as_ref()
    }

    /// What would make another state of this one.
    pub(crate) fn changes_to<'a>(&'a self, other: &'a State) -> Changes<'a> {
        let (count, other_count) = (self.pages.len(), other.pages.len());
        let mut changes = Changes {
            alarms: self.alarms != other.alarms,
            page_count: (count != other_count).then_some(other_count),
            ..Changes::default()
        };
        let gone = self.kv.keys().filter(|key| !other.kv.contains_key(*key));
        changes.kv = gone.map(|key| (key.as_slice(), None)).collect();
        let set = other
            .kv
            .iter()
            .filter(|(key, value)| self.kv.get(*key) != Some(value));
        let set = set.map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        changes.kv.extend(set);
        changes.kv.sort_unstable();
        for (number, page) in (1..).zip(&other.pages) {
            let (old, new) = (self.page(number).map(|page| &page[..]), page.as_deref());
            if old != new {
                changes.pages.push((number, old, new));
            }
        }
        changes
    }

    /// Replaces a page that exists.
    pub(crate) fn set_page(&mut self, number: u32, data: Option<PageData>) -> Option<PageData> {
        std::mem::replace(&mut self.pages[number as usize - 1], data)
    }
}

impl Working {
    pub(crate) fn new(state: State) -> Self {
        Working {
            state,
            ..Working::default()
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What the open transaction sees.
    pub(crate) fn into_state(self) -> State {
        self.state
    }

    /// What is committed, what the open transaction sees, and how it got there, if anybody may want to go a
    /// part of the way back.
    pub(crate) fn into_parts(self) -> (State, State, Option<Vec<Undo>>) {
        let mut committed = self.clone();
        committed.rollback_to(Savepoint::default());
        let undo = self.has_savepoints.then_some(self.undo);
        (committed.state, self.state, undo)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let old = self.state.set_kv(key.to_vec(), value.map(<[u8]>::to_vec));
        let existed = old.is_some();
        if existed || value.is_some() {
            self.undo.push(Undo::Kv {
                key: key.to_vec(),
                old,
            });
        }
        existed
    }

    pub(crate) fn write_page(&mut self, number: u32, data: Option<PageData>) {
        let count = self.state.pages.len();
        if number as usize > count {
            self.undo.push(Undo::Grown { count });
            self.state.pages.resize(number as usize, None);
        }
        let old = self.state.set_page(number, data);
        self.undo.push(Undo::Page { number, old });
    }

    /// Drops pages at the end, or adds zeros.
    pub(crate) fn set_page_count(&mut self, count: usize) {
        let before = self.state.pages.len();
        if count > before {
            self.undo.push(Undo::Grown { count: before });
            self.state.pages.resize(count, None);
        }
        self.truncate_pages(count);
    }

    pub(crate) fn truncate_pages(&mut self, count: usize) {
        if count < self.state.pages.len() {
            let pages = self.state.pages.split_off(count);
            self.undo.push(Undo::Truncated { pages });
        }
    }

    pub(crate) fn set_alarms(&mut self, alarms: Vec<Alarm>) {
        let old = std::mem::replace(&mut self.state.alarms, alarms);
        self.undo.push(Undo::Alarms { old });
    }

    /// Throws everything away but, if asked for, the alarms.
    pub(crate) fn clear(&mut self, keep_alarms: bool) {
        let alarms = if keep_alarms {
            self.state.alarms.clone()
        } else {
            Vec::new()
        };
        let next = State {
            alarms,
            ..State::default()
        };
        let old = std::mem::replace(&mut self.state, next);
        self.undo.push(Undo::Cleared { old: Box::new(old) });
    }

    /// Whether anything was touched since the last commit.
    pub(crate) fn is_touched(&self) -> bool {
        !self.undo.is_empty()
    }

    pub(crate) fn savepoint(&mut self) -> Savepoint {
        self.has_savepoints = true;
        Savepoint(self.undo.len())
    }

    pub(crate) fn rollback_to(&mut self, savepoint: Savepoint) {
        while self.undo.len() > savepoint.0 {
            match self.undo.pop().expect("there is one") {
                Undo::Kv { key, old } => drop(self.state.set_kv(key, old)),
                Undo::Page { number, old } => drop(self.state.set_page(number, old)),
                Undo::Grown { count } => self.state.pages.truncate(count),
                Undo::Truncated { pages } => self.state.pages.extend(pages),
                Undo::Alarms { old } => self.state.alarms = old,
                Undo::Cleared { old } => self.state = *old,
            }
        }
    }

    pub(crate) fn was_cleared_since(&self, savepoint: Savepoint) -> bool {
        let since = self.undo.iter().skip(savepoint.0);
        since
            .into_iter()
            .any(|undo| matches!(undo, Undo::Cleared { .. }))
    }

    /// Undoes what was done to keys and alarms since the savepoint, and leaves the pages as they are.
    pub(crate) fn rollback_keys_to(&mut self, savepoint: Savepoint) {
        let kept = self.undo.split_off(savepoint.0.min(self.undo.len()));
        for undo in kept.into_iter().rev() {
            match undo {
                Undo::Kv { key, old } => drop(self.state.set_kv(key, old)),
                Undo::Alarms { old } => self.state.alarms = old,
                of_pages => self.undo.push(of_pages),
            }
        }
        self.undo[savepoint.0..].reverse();
    }

    /// The transaction is committed: there is no way back.
    pub(crate) fn forget_undo(&mut self) {
        self.undo.clear();
        self.has_savepoints = false;
    }

    /// What differs from the committed state.
    pub(crate) fn changes(&self) -> Changes<'_> {
        let Some(touched) = self.touched() else {
            return Changes {
                cleared: true,
                ..Changes::default()
            };
        };
        let (state, count) = (&self.state, self.state.pages.len());
        let mut changes = Changes {
            alarms: touched.alarms.is_some_and(|old| *old != state.alarms),
            page_count: (touched.page_count != count).then_some(count),
            ..Changes::default()
        };
        for (key, old) in touched.kv {
            let new = state.kv.get(key).map(Vec::as_slice);
            if old != new {
                changes.kv.push((key, new));
            }
        }
        for (number, old) in touched.pages {
            let old = old.filter(|_| number as usize <= touched.page_count);
            let new = state.page(number).map(|page| &page[..]);
            if old != new && number as usize <= count {
                changes.pages.push((number, old, new));
            }
        }
        changes
    }

    /// What would make the committed state of this one again, and its alarms. `None` if everything was
    /// thrown away.
    pub(crate) fn changes_back(&self) -> Option<(Changes<'_>, &[Alarm])> {
        let touched = self.touched()?;
        let state = &self.state;
        let alarms = touched.alarms.unwrap_or(&state.alarms);
        let mut changes = Changes {
            alarms: *alarms != state.alarms,
            page_count: (touched.page_count != state.pages.len()).then_some(touched.page_count),
            ..Changes::default()
        };
        for (key, old) in touched.kv {
            if old != state.kv.get(key).map(Vec::as_slice) {
                changes.kv.push((key, old));
            }
        }
        for (number, old) in touched.pages {
            let new = state.page(number).map(|page| &page[..]);
            if old != new && number as usize <= touched.page_count {
                changes.pages.push((number, new, old));
            }
        }
        Some((changes, alarms))
    }

    /// What the transaction has touched, as it was committed: the oldest note on each thing tells. `None` if
    /// everything was thrown away.
    fn touched(&self) -> Option<Touched<'_>> {
        let mut touched = Touched {
            page_count: self.state.pages.len(),
            ..Touched::default()
        };
        // Backwards, so that older notes overwrite younger ones; the page count is followed along.
        for undo in self.undo.iter().rev() {
            match undo {
                Undo::Kv { key, old } => drop(touched.kv.insert(key, old.as_deref())),
                Undo::Page { number, old } => {
                    touched.pages.insert(*number, old.as_deref());
                }
                Undo::Grown { count } => touched.page_count = *count,
                Undo::Truncated { pages: gone } => {
                    let first = touched.page_count as u32 + 1;
                    touched
                        .pages
                        .extend((first..).zip(gone.iter().map(Option::as_deref)));
                    touched.page_count += gone.len();
                }
                Undo::Alarms { old } => touched.alarms = Some(old),
                Undo::Cleared { .. } => return None,
            }
        }
        Some(touched)
    }
}

/// What a transaction has touched, as it was committed.
#[derive(Default)]
struct Touched<'a> {
    kv: BTreeMap<&'a [u8], Option<&'a [u8]>>,
    pages: BTreeMap<u32, Option<&'a [u8]>>,
    page_count: usize,
    alarms: Option<&'a Vec<Alarm>>,
}
