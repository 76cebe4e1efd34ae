//! What is live in the victims of compaction.

use std::collections::HashSet;
use std::sync::Arc;

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{FRAME_BYTES, Lsn, RecordView, Segment};

use crate::big::{Carried, Carrier, Leaf, carried, decode_commit};
use crate::engine::Inner;
use crate::error::Result;
use crate::group;
use crate::id::{ClassId, Slot};
use crate::liveness::{Version, liveness};
use crate::record::{Header, Kind, split_image};
use crate::slots::Entry;

/// A version that is to be moved.
pub(crate) struct Survivor {
    pub(crate) class: ClassId,
    pub(crate) slot: Slot,
    pub(crate) content: Content,
}

/// Where a survivor's content is.
pub(crate) enum Content {
    /// In a record of its own: its body.
    Record(Kind, Entry, Vec<u8>),
    /// In a group: the body of that.
    Member(Entry, Arc<[u8]>),
    /// In several records: the object is to be read.
    Chain,
    /// A block of a big object, as it is stored.
    Block(Carrier, Carried, Vec<u8>),
}

/// What was found in the victims of a round.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) survivors: Vec<Survivor>,
    /// Objects with deltas that were met: a round moves each version once, or replay could not tell which
    /// of two moves counts.
    chained: HashSet<Slot>,
    /// Big objects that must be settled before what lies here can be moved.
    pub(crate) unsettled: HashSet<Slot>,
}

/// The versions that a record holds; `None` if it is none of objects, or damaged.
pub(crate) fn versions(record: &RecordView<'_>) -> Option<(Kind, Vec<Header>)> {
    let kind = Kind::from_u8(record.kind)?;
    let headers = match kind {
        Kind::Image | Kind::Delta | Kind::Erase | Kind::Head | Kind::Pages | Kind::Leaf => {
            vec![Header::decode(&mut Reader::new(record.body))?]
        }
        Kind::Group => group::headers(record.body)?,
        _ => return None,
    };
    Some((kind, headers))
}

/// Whether a record is a HEAD without blocks of its own, which can be moved as it is.
fn is_bare_head(record: &RecordView<'_>) -> bool {
    let is_head = record.kind == Kind::Head as u8;
    let commit = || decode_commit(record.lsn, is_head, record.body);
    is_head && commit().is_some_and(|(_, _, items)| items.is_empty())
}

impl Inner {
    /// What is live in a segment.
    pub(crate) fn collect(&self, segment: &Arc<Segment>, collected: &mut Collected) {
        for batch in self.log.batches(segment, 0) {
            // What cannot be read stays where it is, and keeps its segment.
            let Ok(batch) = batch else { return };
            for record in batch.records() {
                self.collect_versions(&record, collected);
                self.collect_blocks(&record, collected);
            }
        }
    }

    fn collect_versions(&self, record: &RecordView<'_>, collected: &mut Collected) {
        let Some((kind, headers)) = versions(record) else {
            return;
        };
        let mut shared: Option<Arc<[u8]>> = None;
        for header in headers {
            let Some(entry) = self.live_entry(&header, record.lsn) else {
                continue;
            };
            let whole = header.depth == 0 && entry.head == record.lsn;
            if entry.is_big() && !(whole && is_bare_head(record)) {
                collected.unsettled.insert(header.slot);
                continue;
            }
            if kind == Kind::Leaf && self.note_dead_leaf(record, |slot| self.index.newest(slot)) {
                continue;
            }
            if !whole && !collected.chained.insert(header.slot) {
                continue;
            }
            let content = match kind {
                _ if !whole => Content::Chain,
                Kind::Group => {
                    let body = shared.get_or_insert_with(|| record.body.into());
                    Content::Member(entry, body.clone())
                }
                _ => Content::Record(kind, entry, record.body.to_vec()),
            };
            collected.survivors.push(Survivor {
                class: header.class,
                slot: header.slot,
                content,
            });
        }
    }

    fn collect_blocks(&self, record: &RecordView<'_>, collected: &mut Collected) {
        let Some((carrier, items)) = carried(record) else {
            return;
        };
        let owner = self.index.newest(carrier.tree.slot).unwrap_or(None);
        let is_map = |owner: &Entry| Carrier::is_map_of(owner, carrier.tree);
        let Some(owner) = owner.filter(is_map) else {
            return;
        };
        if carrier.is_unsettled(&owner) {
            collected.unsettled.insert(carrier.tree.slot);
            return;
        }
        for item in items {
            let entry_of = |_| Ok(Some(owner));
            if carrier.needs(&item, entry_of, |slot| self.leaf(slot)) {
                let offset = (item.place.lsn.offset() - record.lsn.offset()) as usize - FRAME_BYTES;
                let stored = record.body[offset..][..item.place.bytes as usize].to_vec();
                collected.survivors.push(Survivor {
                    class: carrier.class,
                    slot: carrier.tree.slot,
                    content: Content::Block(carrier, item, stored),
                });
            }
        }
    }

    /// Whether a LEAF record is of a map that is gone. Notes that its slot is to be given back.
    pub(crate) fn note_dead_leaf(
        &self,
        record: &RecordView<'_>,
        entry_of: impl Fn(Slot) -> Result<Option<Entry>>,
    ) -> bool {
        let Some((header, leaf)) = Leaf::decode(record.body) else {
            return false;
        };
        let is_dead = self.is_leaf_dead(&leaf, entry_of);
        if is_dead {
            self.retired.add(header.slot);
        }
        is_dead
    }

    /// The object's entry, if the version with this header is live.
    fn live_entry(&self, header: &Header, at: Lsn) -> Option<Entry> {
        // An entry that is damaged keeps what it may lead to.
        let entry = self.index.newest(header.slot).unwrap_or(None)?;
        let record = Version {
            header,
            at,
            newest: &entry,
        };
        liveness(record).then_some(entry)
    }

    /// Shows states of classes that need a dictionary, so that their survivors are the first to use it.
    pub(crate) fn sample(&self, survivors: &[Survivor]) -> Result<()> {
        let training = &self.dictionaries.training;
        for of_class in survivors.chunk_by(|a, b| a.class == b.class) {
            let class = of_class[0].class;
            let dictionary = self.or_stop(self.dictionaries.current(class))?;
            if dictionary
                .as_ref()
                .is_some_and(|dictionary| dictionary.is_trained)
            {
                continue;
            }
            for survivor in of_class {
                let Content::Record(Kind::Image, _, body) = &survivor.content else {
                    continue;
                };
                if !training.wants(class) {
                    break;
                }
                let stored = split_image(body).map(|(_, _, _, stored)| stored);
                let find = |number| self.dictionaries.find(number, class);
                let state = stored.and_then(|stored| stored.open(find).unwrap_or(None));
                if let Some(state) = state {
                    training.show(class, &state, body.len(), dictionary.as_deref());
                }
            }
        }
        self.make_dictionaries()
    }
}
