//! Listing the objects of a class: by name, size and last write, without waking them.

use std::collections::BTreeMap;
use std::sync::Arc;

use dovehouse_engine::{ObjectInfo, PAGE_BYTES};

use crate::class::Class;
use crate::error::{Error, Result};
use crate::house::Inner;
use crate::id::ObjectId;
use crate::scheduler::Place;

/// Which objects to list, in which order, and how many; see [`Namespace::objects`](crate::Namespace::objects).
///
/// ```
/// use dovehouse::{Order, Query};
/// let large_rooms = Query::default().name_prefix("room/").bytes(1 << 20..).order(Order::Largest).limit(10);
/// ```
#[derive(Clone, Debug)]
pub struct Query {
    name_prefix: String,
    name_part: String,
    bytes: (u64, u64),
    written_ms: (u64, u64),
    order: Order,
    limit: usize,
    after: Option<Cursor>,
}

impl Default for Query {
    /// All objects, in the order in which they were made, a thousand at a time.
    fn default() -> Self {
        Query {
            name_prefix: String::new(),
            name_part: String::new(),
            bytes: (0, u64::MAX),
            written_ms: (0, u64::MAX),
            order: Order::Made,
            limit: 1000,
            after: None,
        }
    }
}

/// In which order objects are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were made; those of a location after those of the home store.
    #[default]
    Made,
    /// By name; those without one last.
    Name,
    /// The largest first.
    Largest,
    /// The one that was written last first.
    LastWritten,
}

/// A place in a list in [`Order::Made`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(Place);

impl Query {
    /// Only objects whose name begins like this. Without a name an object is not found by it.
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = prefix.into();
        self
    }

    /// Only objects whose name has this in it.
    pub fn name_contains(mut self, part: impl Into<String>) -> Self {
        self.name_part = part.into();
        self
    }

    /// Only objects that take so many bytes; see [`ObjectSummary::bytes`].
    pub fn bytes(mut self, range: impl std::ops::RangeBounds<u64>) -> Self {
        self.bytes = inclusive(&range);
        self
    }

    /// Only objects that were written last in this time, in milliseconds since 1970; see
    /// [`ObjectSummary::written_ms`].
    pub fn written_ms(mut self, range: impl std::ops::RangeBounds<u64>) -> Self {
        self.written_ms = inclusive(&range);
        self
    }

    /// In which order. All but [`Order::Made`] look at every object of the class, and give the first ones.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// At most so many. Default 1,000.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Go on behind a page in [`Order::Made`].
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    fn fits(&self, object: &ObjectSummary) -> bool {
        let within = |value: u64, (from, to): (u64, u64)| from <= value && value <= to;
        let by_name = !self.name_prefix.is_empty() || !self.name_part.is_empty();
        let named =
            |name: &str| name.starts_with(&self.name_prefix) && name.contains(&self.name_part);
        (!by_name || object.id.name().is_some_and(named))
            && within(object.bytes, self.bytes)
            && within(object.written_ms, self.written_ms)
    }

    /// What objects are sorted by, the smallest first.
    fn key(&self, object: &ObjectSummary) -> (u64, Option<String>) {
        match self.order {
            Order::Made => (0, None),
            Order::Name => {
                let name = object.id.name().map(str::to_owned);
                (u64::from(name.is_none()), name)
            }
            Order::Largest => (u64::MAX - object.bytes, None),
            Order::LastWritten => (u64::MAX - object.written_ms, None),
        }
    }
}

fn inclusive(range: &impl std::ops::RangeBounds<u64>) -> (u64, u64) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let from = match range.start_bound() {
        Included(from) => *from,
        Excluded(from) => from.saturating_add(1),
        Unbounded => 0,
    };
    let to = match range.end_bound() {
        Included(to) => *to,
        Excluded(to) => match to.checked_sub(1) {
            Some(to) => to,
            None => return (1, 0), // Nothing lies below 0.
        },
        Unbounded => u64::MAX,
    };
    (from, to)
}

/// What is known of an object without waking it: as it was when it was last written whole, which it is when it
/// falls asleep and every few commits before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectSummary {
    /// Its id, with its name if it has one.
    pub id: ObjectId,
    /// Bytes of its keys and values and of its database's pages, before compression.
    pub bytes: u64,
    /// How many keys it has.
    pub keys: u64,
    /// When it was last written, in milliseconds since 1970.
    pub written_ms: u64,
    /// When it has an alarm, in milliseconds since 1970.
    pub alarm_ms: Option<u64>,
    /// The location that it lives at; `None` for the home store.
    pub location: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The objects.
    pub objects: Vec<ObjectSummary>,
    /// Where to go on, if there may be more; only in [`Order::Made`].
    pub next: Option<Cursor>,
    /// Objects that could not be read, so that it is not known whether they belong here. `dovehouse verify`
    /// names them.
    pub unreadable: u64,
}

impl Inner {
    /// Lists objects. Reads the disk, so it belongs on a thread that may block.
    pub(crate) fn list(&self, class: &Arc<Class>, query: &Query) -> Page {
        let mut page = Page::default();
        if query.limit == 0 {
            return page;
        }
        // Sorted by key; what was made earlier comes first among equals.
        let mut sorted: BTreeMap<(u64, Option<String>, Place), ObjectSummary> = BTreeMap::new();
        for (place, found) in self.objects_of(class, query.after.map(|cursor| cursor.0)) {
            let Ok(summary) = found else {
                page.unreadable += 1;
                continue;
            };
            if !query.fits(&summary) {
                continue;
            }
            if query.order == Order::Made {
                page.objects.push(summary);
                if page.objects.len() == query.limit {
                    page.next = Some(Cursor(place));
                    return page;
                }
                continue;
            }
            let (number, text) = query.key(&summary);
            sorted.insert((number, text, place), summary);
            if sorted.len() > query.limit {
                sorted.pop_last();
            }
        }
        page.objects.extend(sorted.into_values());
        page
    }

    /// The objects of a class in all stores, each where it lives.
    pub(crate) fn objects_of<'a>(
        &'a self,
        class: &'a Arc<Class>,
        after: Option<Place>,
    ) -> impl Iterator<Item = (Place, Result<ObjectSummary>)> + 'a {
        let first = after.map_or(0, |(store, _)| store);
        self.engines().skip(first).flat_map(move |(store, engine)| {
            let after = after.filter(|(first, _)| *first == store);
            let of_class = self.class_in(class, store).into_iter();
            let found = of_class
                .flat_map(move |class| engine.objects_of(class, after.map(|(_, slot)| slot)));
            found.filter_map(move |(slot, found)| match found {
                Ok(info) => {
                    let lives_here = self.lives_in(&info.id, store);
                    lives_here.then(|| ((store, slot), Ok(self.summary(class, info, store))))
                }
                Err(error) => Some(((store, slot), Err(Error::from(error)))),
            })
        })
    }

    fn summary(&self, class: &Class, info: ObjectInfo, store: usize) -> ObjectSummary {
        let location = Some(self.location_name(store)).filter(|name| !name.is_empty());
        ObjectSummary {
            bytes: info.kv_bytes + info.page_count * PAGE_BYTES as u64,
            keys: info.kv_count,
            written_ms: info.written_ms,
            alarm_ms: info.alarms.iter().map(|alarm| alarm.due_ms).min(),
            location: location.map(str::to_owned),
            id: class.identify(info.id, info.name),
        }
    }
}
