//! How survivors come into packs: small neighbours of one class as groups, the others alone.

use std::collections::HashMap;
use std::sync::Arc;

use dovehouse_wal::FRAME_BYTES;
use dovehouse_wal::bytes::Reader;

use crate::big::{BlobStart, Carried, Carrier, Item, encode_items, place_in};
use crate::codec::Stored;
use crate::compact::{Compactor, Pace};
use crate::engine::Inner;
use crate::error::Result;
use crate::group::{Group, MEMBER_BYTES_MAX, Opened};
use crate::id::{ObjectId, Slot};
use crate::load::LoadedState;
use crate::record::{
    Header, Kind, decode_erase, encode_content, encode_erase, encode_image, encode_state,
    split_image,
};
use crate::slots::{Entry, Place};
use crate::stats::add;
use crate::survivors::{Content, Survivor};
use crate::usage::Extent;

/// In the background, a break follows so many bytes: a slice of the pack.
const BREAK_BYTES: u64 = 256 << 10;

/// A version that was written to a pack.
pub(crate) struct Written {
    pub(crate) slot: Slot,
    pub(crate) from: Entry,
    pub(crate) to: Place,
    /// Set if it had deltas.
    pub(crate) chained: Option<Chained>,
}

/// An object with deltas, which must not go on while it is moved.
pub(crate) struct Chained {
    pub(crate) id: ObjectId,
    /// Where the records under the newest lie.
    pub(crate) below: Vec<Extent>,
}

/// A version that waits for its place.
struct Moving {
    slot: Slot,
    from: Entry,
    chained: Option<Chained>,
}

/// What a survivor is to be written as.
enum Form {
    /// A member of a group.
    Member {
        header: Header,
        id: ObjectId,
        content: Vec<u8>,
    },
    /// A record of its own.
    Alone(Kind, Vec<u8>),
}

/// An erased object that is to be forgotten.
pub(crate) struct Forgotten {
    pub(crate) slot: Slot,
    pub(crate) from: Entry,
    pub(crate) id: ObjectId,
}

/// A block that was written to a pack.
pub(crate) struct MovedBlock {
    pub(crate) carrier: Carrier,
    /// Which, and where it lies until its leaf says something else.
    pub(crate) item: Carried,
    pub(crate) to: Place,
}

/// The packs of one round.
pub(crate) struct Packing<'a> {
    inner: &'a Inner,
    compactor: &'a mut Compactor,
    pace: Pace,
    /// Packs that are full.
    pub(crate) full: Vec<u32>,
    pub(crate) forgotten: Vec<Forgotten>,
    pub(crate) moved_blocks: Vec<MovedBlock>,
    written: Vec<Written>,
    group: Group,
    /// The members of the group.
    gathered: Vec<Moving>,
    /// The group that a survivor was taken from last: its neighbours come from there too.
    opened: Option<(Arc<[u8]>, Opened)>,
    since_break: u64,
}

impl<'a> Packing<'a> {
    pub(crate) fn new(inner: &'a Inner, compactor: &'a mut Compactor, pace: Pace) -> Self {
        Packing {
            inner,
            compactor,
            pace,
            full: Vec::new(),
            forgotten: Vec::new(),
            moved_blocks: Vec::new(),
            written: Vec::new(),
            group: Group::default(),
            gathered: Vec::new(),
            opened: None,
            since_break: 0,
        }
    }

    /// Writes survivors, sorted by class and slot, to packs, durably.
    pub(crate) fn write_out(&mut self, survivors: Vec<Survivor>) -> Result<Vec<Written>> {
        let mut blocks = Vec::new();
        for survivor in survivors {
            let slot = survivor.slot;
            if let Content::Block(carrier, item, stored) = survivor.content {
                blocks.push((carrier, item, stored));
                continue;
            }
            let Some((form, from, chained)) = self.form(survivor)? else {
                continue;
            };
            let moving = Moving {
                slot,
                from,
                chained,
            };
            match form {
                Form::Member {
                    header,
                    id,
                    content,
                } => {
                    if !self.group.takes(&header, content.len()) {
                        self.write_group()?;
                    }
                    self.group.add(header, id, &content);
                    self.gathered.push(moving);
                }
                Form::Alone(kind, body) => {
                    let to = self.append(kind, &body)?;
                    self.written.push(moving.to(to));
                }
            }
        }
        self.write_group()?;
        self.write_blocks(blocks)?;
        if let Some(pack) = &mut self.compactor.pack {
            let flushed = pack.flush();
            self.inner.or_stop(flushed)?;
        }
        Ok(std::mem::take(&mut self.written))
    }

    /// What becomes of a survivor. `None` if it stays where it is.
    fn form(&mut self, survivor: Survivor) -> Result<Option<(Form, Entry, Option<Chained>)>> {
        Ok(match survivor.content {
            // Nothing is kept of an erased object, but for a last generation, and as long as it has a past.
            Content::Record(Kind::Erase, from, body)
                if from.generation < u8::MAX && !self.inner.has_past(survivor.slot, &from)? =>
            {
                let mut reader = Reader::new(&body);
                let id = Header::decode(&mut reader).and_then(|_| decode_erase(&mut reader));
                let slot = survivor.slot;
                self.forgotten
                    .extend(id.map(|id| Forgotten { slot, from, id }));
                None
            }
            Content::Record(kind, entry, body) => {
                let form = match kind {
                    Kind::Image => self.form_of_image(body)?,
                    _ => Form::Alone(kind, body),
                };
                Some((form, entry, None))
            }
            Content::Member(entry, body) => {
                let form = self.form_of_member(survivor.slot, body)?;
                form.map(|form| (form, entry, None))
            }
            Content::Block(..) => None,
            Content::Chain => self
                .form_of_chain(survivor.slot)?
                .map(|(form, entry, chained)| (form, entry, Some(chained))),
        })
    }

    fn form_of_image(&self, body: Vec<u8>) -> Result<Form> {
        // What cannot be opened is moved as it is.
        let Some((header, id, meta, stored)) = split_image(&body) else {
            return Ok(Form::Alone(Kind::Image, body));
        };
        let dictionaries = &self.inner.dictionaries;
        let current = self.inner.or_stop(dictionaries.current(header.class))?;
        let is_small = stored.state_bytes + meta.len() <= MEMBER_BYTES_MAX;
        let is_current = current.is_none_or(|current| current.number == stored.dictionary);
        if !is_small && is_current {
            return Ok(Form::Alone(Kind::Image, body));
        }
        let find = |number| dictionaries.find(number, header.class);
        let Some(state) = stored.open(find).unwrap_or(None) else {
            return Ok(Form::Alone(Kind::Image, body));
        };
        if is_small {
            let content = [meta, &state].concat();
            return Ok(Form::Member {
                header,
                id,
                content,
            });
        }
        let mut recoded = body[..body.len() - stored.encoded_bytes()].to_vec();
        let stored = self.inner.store_state(header.class, &state)?;
        stored.encode(&mut recoded);
        let smaller = recoded.len() < body.len();
        Ok(Form::Alone(
            Kind::Image,
            if smaller { recoded } else { body },
        ))
    }

    /// `None` if the group cannot be opened: it stays, and keeps its segment.
    fn form_of_member(&mut self, slot: Slot, body: Arc<[u8]>) -> Result<Option<Form>> {
        let is_open = |opened: &(Arc<[u8]>, _)| Arc::ptr_eq(&opened.0, &body);
        if !self.opened.as_ref().is_some_and(is_open) {
            let find = |number, class| self.inner.dictionaries.find(number, class);
            let opened = Opened::of(&body, find).unwrap_or(None);
            self.opened = opened.map(|opened| (body.clone(), opened));
        }
        let opened = self.opened.as_ref().filter(|opened| is_open(opened));
        let member = opened.and_then(|(_, opened)| opened.member(slot));
        Ok(member.map(|(header, id, content)| Form::Member {
            header,
            id,
            content: content.to_vec(),
        }))
    }

    /// The object in a slot as it is, if its newest version is durable.
    fn form_of_chain(&self, slot: Slot) -> Result<Option<(Form, Entry, Chained)>> {
        let (inner, index) = (self.inner, &self.inner.index);
        let entry = match index.overlay.get(slot) {
            Some(cell) => {
                let durable = cell.durable(inner.log.durable());
                durable.filter(|durable| cell.newest() == Some(*durable))
            }
            None => index.slots.get(slot)?,
        };
        let Some(entry) = entry else { return Ok(None) };
        // An object that cannot be read keeps its records where they are.
        let Some(loaded) = inner.load(slot, &entry).unwrap_or(None) else {
            return Ok(None);
        };
        // A big object is settled by waking it.
        let LoadedState::Tiny(state) = &loaded.state else {
            return Ok(None);
        };
        let id = loaded.id;
        let chained = Chained {
            id,
            below: loaded.below,
        };
        let header = Header {
            slot,
            generation: entry.generation,
            seq: entry.seq,
            class: entry.class,
            depth: 0,
        };
        if entry.erased {
            let form = Form::Alone(Kind::Erase, encode_erase(&header, id));
            return Ok(Some((form, entry, chained)));
        }
        let (name, written_ms) = (loaded.name.as_deref(), loaded.written_ms);
        let content = encode_content(name, written_ms, state);
        let form = if content.len() <= MEMBER_BYTES_MAX {
            Form::Member {
                header,
                id,
                content,
            }
        } else {
            let encoded = encode_state(state);
            let stored = inner.store_state(entry.class, &encoded)?;
            let body = encode_image(&header, id, name, written_ms, state, &stored);
            Form::Alone(Kind::Image, body)
        };
        Ok(Some((form, entry, chained)))
    }

    /// Writes the group that was gathered. One that cannot be opened again with its dictionary would be
    /// lost, so it names the dictionary that its class uses now, which is durable.
    fn write_group(&mut self) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        let Some(class) = group.class() else {
            return Ok(());
        };
        let dictionary = self.inner.or_stop(self.inner.dictionaries.current(class))?;
        let stored = Stored::new(group.opened(), dictionary.as_deref());
        if let Some(dictionary) = dictionary.as_deref() {
            add(&dictionary.images, self.gathered.len() as u64);
            add(&dictionary.state_bytes, group.opened().len() as u64);
            add(&dictionary.stored_bytes, stored.content_bytes() as u64);
        }
        let to = self.append(Kind::Group, &group.encode(&stored))?;
        // Each member has its share, the first one what is left over.
        let count = self.gathered.len() as u32;
        let mut bytes = to.bytes / count + to.bytes % count;
        for moving in self.gathered.drain(..) {
            self.written.push(moving.to(Place { bytes, ..to }));
            bytes = to.bytes / count;
        }
        Ok(())
    }

    /// Writes blocks as they are stored, those of one object together, in order.
    fn write_blocks(&mut self, mut blocks: Vec<(Carrier, Carried, Vec<u8>)>) -> Result<()> {
        let order = |(carrier, item, _): &(Carrier, Carried, Vec<u8>)| {
            (carrier.class, carrier.tree.slot, item.id)
        };
        blocks.sort_by_key(order);
        let limit = BREAK_BYTES.min(self.inner.log.record_bytes_max() as u64 / 2) as usize;
        let mut rest = &mut blocks[..];
        while let Some((carrier, ..)) = rest.first() {
            let carrier = *carrier;
            let mut bytes = 0;
            let mut fits = |(other, _, stored): &(Carrier, Carried, Vec<u8>)| {
                let first = bytes == 0;
                bytes += stored.len();
                other.tree == carrier.tree && (first || bytes <= limit)
            };
            let count = rest
                .iter()
                .map_while(|block| fits(block).then_some(()))
                .count();
            let (some, others) = rest.split_at_mut(count);
            self.write_blob(carrier, some)?;
            rest = others;
        }
        Ok(())
    }

    fn write_blob(
        &mut self,
        carrier: Carrier,
        blocks: &mut [(Carrier, Carried, Vec<u8>)],
    ) -> Result<()> {
        let start = BlobStart {
            tree: carrier.tree,
            class: carrier.class,
            seq: 0,
        };
        let mut body = Vec::new();
        start.encode(&mut body);
        let items: Vec<_> = blocks
            .iter_mut()
            .map(|(_, item, stored)| (item.id, Item::Here(std::mem::take(stored))))
            .collect();
        let leaf_of: HashMap<_, _> = blocks
            .iter()
            .map(|(_, item, _)| (item.id, item.leaf))
            .collect();
        let offsets = encode_items(&items, |id| leaf_of[&id], &mut body);
        let at = self.append(Kind::Blob, &body)?;
        for ((_, item, _), offset) in blocks.iter().zip(offsets) {
            let lsn = place_in(at.lsn, FRAME_BYTES + offset as usize);
            self.moved_blocks.push(MovedBlock {
                carrier,
                item: *item,
                to: Place {
                    lsn: lsn.expect("the record fits its segment"),
                    bytes: item.place.bytes,
                },
            });
        }
        Ok(())
    }

    fn append(&mut self, kind: Kind, body: &[u8]) -> Result<Place> {
        self.make_room(body.len())?;
        let pack = self.compactor.pack.as_mut().expect("there is room");
        let appended = pack.append(kind as u8, 0, body);
        let (lsn, bytes) = self.inner.or_stop(appended)?;
        self.since_break += u64::from(bytes);
        if self.pace == Pace::Background && self.since_break >= BREAK_BYTES {
            let bytes = std::mem::take(&mut self.since_break);
            self.inner.take_a_break(bytes);
            if self.inner.upkeep.is_stopping() {
                return Err(dovehouse_wal::Error::Closed.into());
            }
        }
        Ok(Place { lsn, bytes })
    }

    /// Sees to a pack with room for a record.
    fn make_room(&mut self, body_bytes: usize) -> Result<()> {
        if let Some(pack) = &mut self.compactor.pack
            && !pack.has_room(body_bytes)
        {
            let flushed = pack.flush();
            self.inner.or_stop(flushed)?;
            self.full.push(pack.segno());
            self.compactor.pack = None;
        }
        if self.compactor.pack.is_none() {
            // Between checkpoints, so that none takes the empty pack for a dead one.
            let _between_checkpoints = self.inner.reclaim.lock();
            let pack = self.inner.log.begin_pack()?;
            self.inner.filling.lock().insert(pack.segno());
            self.compactor.pack = Some(pack);
        }
        Ok(())
    }
}

impl Moving {
    fn to(self, to: Place) -> Written {
        Written {
            slot: self.slot,
            from: self.from,
            to,
            chained: self.chained,
        }
    }
}
