//! Loading an object: one read for its image, and one for each delta on top.

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{FRAME_BYTES, Lsn, OwnedRecord};

use crate::big::{Carried, Head, Map, PagesStart, Recent, Spot, TreeId, Under, decode_commit};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::group::{self, Opened};
use crate::id::{ClassId, ObjectId, Slot};
use crate::object::LoadedBig;
use crate::record::{Header, Kind, Meta, apply_delta, decode_erase, decode_image};
use crate::slots::{Entry, Form};
use crate::state::{Alarm, State};
use crate::usage::Extent;

/// What a chain of records says of an object.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: ObjectId,
    pub(crate) name: Option<String>,
    pub(crate) written_ms: u64,
    pub(crate) state: LoadedState,
    /// Where the records under the head lie.
    pub(crate) below: Vec<Extent>,
    /// The image's stored bytes, and those of the deltas on top of it.
    pub(crate) image_bytes: u64,
    pub(crate) chain_bytes: u64,
}

/// The state of an object, in either form.
#[derive(Debug)]
pub(crate) enum LoadedState {
    Tiny(State),
    Big(Box<LoadedBig>),
}

/// The commits of a big object since its last HEAD, this one included, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct BigChain {
    pub(crate) map: Map,
    pub(crate) commits: Vec<BigLink>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct BigLink {
    pub(crate) seq: u64,
    /// The fewest pages that there were meanwhile, if some were dropped.
    pub(crate) cut: Option<u32>,
    pub(crate) items: Vec<Carried>,
}

impl BigChain {
    /// `None` is damage.
    fn add(&mut self, seq: u64, link: &Link) -> Option<()> {
        let (lsn, bytes) = (link.record.lsn, link.record.body.len());
        let (cut, items) = if link.kind == Kind::Head {
            let (_, head, items) = Head::decode(lsn, bytes, &mut link.payload())?;
            self.map = head.map;
            (head.cut, items)
        } else {
            let (start, items) = PagesStart::decode(lsn, bytes, &mut link.payload())?;
            for (leaves, new) in self.map.iter_mut().zip(start.new_leaves) {
                leaves.extend(new);
            }
            (start.cut, items)
        };
        self.commits.push(BigLink { seq, cut, items });
        Some(())
    }
}

impl LoadedState {
    pub(crate) fn alarms(&self) -> &[Alarm] {
        match self {
            LoadedState::Tiny(state) => &state.alarms,
            LoadedState::Big(big) => &big.alarms,
        }
    }
}

/// A record of the chain, its header taken off.
struct Link {
    record: OwnedRecord,
    kind: Kind,
    /// Where the payload starts in the body; a group is all payload.
    payload: usize,
}

/// A record of unknown size is read with as much of what follows it: most are smaller.
const READ_BYTES: usize = 512;

impl Link {
    /// What the record takes, or the object's share of it.
    fn stored_bytes(&self) -> u32 {
        let bytes = FRAME_BYTES + self.record.body.len();
        let members = match self.kind {
            Kind::Group => group::headers(&self.record.body).map_or(1, |headers| headers.len()),
            _ => 1,
        };
        (bytes / members.max(1)) as u32
    }

    fn payload(&self) -> Reader<'_> {
        Reader::new(&self.record.body[self.payload..])
    }
}

impl Inner {
    /// Loads the version of an object that an entry names. `None` if one of its records is no longer
    /// where the entry says: look at the entry again.
    pub(crate) fn load(&self, slot: Slot, entry: &Entry) -> Result<Option<Loaded>> {
        if let Some(cause) = self.doubt.of(slot) {
            let why = format!("a newer commit of it may be lost: {cause}");
            return Err(Error::damaged(format!("slot {slot}"), why));
        }
        let Some(chain) = self.read_chain(slot, entry)? else {
            return Ok(None);
        };
        let malformed = |link: &Link| malformed(slot, link.record.lsn);
        let (base, deltas) = chain.split_last().expect("a chain has its head");
        let (meta, state) = if let Form::Big { tree } = entry.form {
            let tree = TreeId {
                slot,
                generation: entry.generation,
                tree,
            };
            let (meta, mut big) = load_head(base, tree).ok_or_else(|| malformed(base))?;
            for pages in deltas.iter().rev() {
                apply_pages(pages, tree, &mut big).ok_or_else(|| malformed(pages))?;
            }
            (meta, LoadedState::Big(Box::new(big)))
        } else {
            let decoded = self.decode_base(base, slot, entry.class)?;
            let (meta, mut state) = decoded.ok_or_else(|| malformed(base))?;
            for delta in deltas.iter().rev() {
                apply_delta(delta.payload(), &mut state).ok_or_else(|| malformed(delta))?;
            }
            (meta, LoadedState::Tiny(state))
        };
        let chain_bytes = deltas
            .iter()
            .map(|delta| delta.record.body.len() as u64)
            .sum();
        let image_bytes = u64::from(base.stored_bytes());
        let below = chain[1..].iter().map(|link| Extent {
            segno: link.record.lsn.segno(),
            bytes: link.stored_bytes(),
        });
        Ok(Some(Loaded {
            id: meta.id,
            name: meta.name,
            written_ms: meta.written_ms,
            state,
            below: below.collect(),
            image_bytes,
            chain_bytes,
        }))
    }

    /// Only the meta of the image under an entry; `None` as for [`Inner::load`].
    pub(crate) fn load_meta(&self, slot: Slot, entry: &Entry) -> Result<Option<Meta>> {
        let Some(chain) = self.read_chain(slot, entry)? else {
            return Ok(None);
        };
        let base = chain.last().expect("a chain has its head");
        let meta = match base.kind {
            Kind::Image | Kind::Head => Meta::decode(&mut base.payload()),
            _ => self
                .decode_base(base, slot, entry.class)?
                .map(|(meta, _)| meta),
        };
        meta.ok_or_else(|| malformed(slot, base.record.lsn))
            .map(Some)
    }

    /// The meta and the state in the record at the base; `Ok(None)` is damage.
    fn decode_base(
        &self,
        base: &Link,
        slot: Slot,
        class: ClassId,
    ) -> Result<Option<(Meta, State)>> {
        let find = |number| self.dictionaries.find(number, class);
        let mut payload = base.payload();
        match base.kind {
            Kind::Erase => {
                let id = decode_erase(&mut payload);
                Ok(id.map(|id| (Meta::erased(id), State::default())))
            }
            Kind::Group => {
                let opened = Opened::of(payload.rest(), |number, _| find(number))?;
                Ok(opened.and_then(|opened| opened.state(slot)))
            }
            _ => decode_image(&mut payload, find),
        }
    }

    /// The entry that would lead to the version of an object whose record lies at `at`. `None` if there is no
    /// record of it, or it was moved.
    pub(crate) fn entry_at(&self, slot: Slot, at: Lsn) -> Result<Option<Entry>> {
        let found = match at.is_none() {
            true => None,
            false => self.log.read(at, READ_BYTES)?,
        };
        let Some(record) = found else {
            return Ok(None);
        };
        let gone = || malformed(slot, at);
        let kind = Kind::from_u8(record.kind).ok_or_else(gone)?;
        let header = match kind {
            Kind::Group => {
                let headers = group::headers(&record.body).ok_or_else(gone)?;
                headers.into_iter().find(|header| header.slot == slot)
            }
            _ => Header::decode(&mut Reader::new(&record.body)),
        };
        let header = header.ok_or_else(gone)?;
        let form = match kind {
            Kind::Head | Kind::Pages => {
                let commit = decode_commit(at, kind == Kind::Head, &record.body);
                let (_, tree, _) = commit.ok_or_else(gone)?;
                Form::Big { tree }
            }
            _ => Form::Tiny,
        };
        Ok(Some(Entry {
            head: at,
            bytes: (FRAME_BYTES + record.body.len()) as u32,
            seq: header.seq,
            generation: header.generation,
            class: header.class,
            erased: kind == Kind::Erase,
            expired: false,
            depth: header.depth,
            form,
            fingerprint: 0,
        }))
    }

    /// The same with the version itself.
    pub(crate) fn version_at(&self, slot: Slot, at: Lsn) -> Result<Option<(Entry, Loaded)>> {
        let Some(entry) = self.entry_at(slot, at)? else {
            return Ok(None);
        };
        Ok(self.load(slot, &entry)?.map(|loaded| (entry, loaded)))
    }

    /// The commits of a big object since its last HEAD, this one included; `None` as for [`Inner::load`].
    pub(crate) fn big_chain(&self, slot: Slot, entry: &Entry) -> Result<Option<BigChain>> {
        let Some(chain) = self.read_chain(slot, entry)? else {
            return Ok(None);
        };
        let mut found = BigChain::default();
        for (seq, link) in (entry.image_seq()..).zip(chain.iter().rev()) {
            found
                .add(seq, link)
                .ok_or_else(|| malformed(slot, link.record.lsn))?;
        }
        Ok(Some(found))
    }

    /// The records from the head down to the image or erase at the base.
    fn read_chain(&self, slot: Slot, entry: &Entry) -> Result<Option<Vec<Link>>> {
        let mut chain = Vec::with_capacity(usize::from(entry.depth) + 1);
        let mut at = entry.head;
        // No more than is known to be needed: on a cold disk the next page costs as much as this one.
        let mut hint = entry.bytes as usize;
        for depth in (0..=entry.depth).rev() {
            let Some(record) = self.log.read(at, hint)? else {
                return Ok(None);
            };
            let seq = entry.image_seq() + u64::from(depth);
            let link =
                check_link(record, slot, entry, seq, depth).ok_or_else(|| malformed(slot, at))?;
            (at, hint) = (link.record.link, READ_BYTES);
            chain.push(link);
        }
        Ok(Some(chain))
    }
}

/// Whether a record is the one that a chain has at this depth.
fn check_link(record: OwnedRecord, slot: Slot, entry: &Entry, seq: u64, depth: u8) -> Option<Link> {
    let kind = Kind::from_u8(record.kind)?;
    let mut reader = Reader::new(&record.body);
    let header = match kind {
        Kind::Group => {
            let headers = group::headers(&record.body)?;
            headers.into_iter().find(|header| header.slot == slot)?
        }
        _ => Header::decode(&mut reader)?,
    };
    let expected = Header {
        slot,
        generation: entry.generation,
        seq,
        class: entry.class,
        depth,
    };
    let fits = match kind {
        Kind::Head => depth == 0 && entry.is_big(),
        Kind::Pages => depth > 0 && entry.is_big(),
        Kind::Image | Kind::Erase | Kind::Group => depth == 0 && !entry.is_big(),
        Kind::Delta => depth > 0 && !entry.is_big(),
        _ => false,
    };
    // A group's members were looked up apart: here it is all payload.
    let payload = record.body.len() - reader.rest().len();
    (header == expected && fits).then_some(Link {
        record,
        kind,
        payload,
    })
}

/// A big object as its HEAD shows it; `None` is damage.
fn load_head(link: &Link, tree: TreeId) -> Option<(Meta, LoadedBig)> {
    let (lsn, body_bytes) = (link.record.lsn, link.record.body.len());
    let (meta, head, items) = Head::decode(lsn, body_bytes, &mut link.payload())?;
    let mut under = Under {
        tree: Some(tree),
        is_committed: true,
        map: head.map,
        head_has_items: !items.is_empty(),
        cut: head.cut.unwrap_or(u32::MAX),
        ..Under::default()
    };
    under.name_leaves();
    add_recent(&mut under, items);
    let big = LoadedBig {
        under,
        root: head.keys,
        page_count: u32::try_from(meta.page_count).ok()?,
        alarms: meta.alarms.clone(),
    };
    (head.tree == tree.tree).then_some((meta, big))
}

/// What a PAGES record makes of it; `None` is damage.
fn apply_pages(link: &Link, tree: TreeId, big: &mut LoadedBig) -> Option<()> {
    let (lsn, body_bytes) = (link.record.lsn, link.record.body.len());
    let (start, items) = PagesStart::decode(lsn, body_bytes, &mut link.payload())?;
    if let Some(cut) = start.cut {
        big.under.cut_pages(cut);
    }
    for (leaves, new) in big.under.map.iter_mut().zip(start.new_leaves) {
        leaves.extend(new);
    }
    big.under.name_leaves();
    add_recent(&mut big.under, items);
    (big.root, big.page_count) = (start.keys, start.page_count);
    if let Some(alarms) = start.alarms {
        big.alarms = alarms;
    }
    (start.tree == tree.tree).then_some(())
}

fn add_recent(under: &mut Under, items: Vec<Carried>) {
    for item in items {
        let spot = match item.place.is_none() {
            true => Spot::Gone,
            false => Spot::At(item.place),
        };
        let recent = Recent {
            spot,
            content: None,
            is_inline: item.is_here,
        };
        under.recent.insert(item.id, recent);
    }
}

fn malformed(slot: Slot, at: Lsn) -> Error {
    Error::damaged(
        format!("slot {slot}"),
        format!("its record at {at} is not what the index says"),
    )
}

impl Meta {
    /// What an erased object's meta would say.
    fn erased(id: ObjectId) -> Self {
        Meta {
            id,
            name: None,
            written_ms: 0,
            alarms: Vec::new(),
            kv_count: 0,
            kv_bytes: 0,
            page_count: 0,
        }
    }
}
