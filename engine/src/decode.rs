//! Records taken apart for people: what each field says, without applying anything.

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{Lsn, RecordView};

use crate::big::{BlobStart, Carried, Leaf, decode_commit};
use crate::codec::Stored;
use crate::expire::decode_expire;
use crate::group::decode_members;
use crate::id::{ClassId, ObjectId, Slot};
use crate::record::{self, Header, Kind, Meta, Operation};
use crate::remap::{Moved, decode_remap};
use crate::state::Alarm;

/// A record of the log, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded {
    /// An object's whole state.
    Image {
        /// The object and the commit.
        header: Header,
        /// What is said of the object before its state.
        meta: Meta,
        /// Whether the state is compressed.
        compressed: bool,
        /// The dictionary that it is compressed with; 0 is none.
        dictionary: u32,
        /// The state's size before compression.
        state_bytes: u64,
    },
    /// Several objects' whole states.
    Group {
        /// Their headers and ids.
        members: Vec<(Header, ObjectId)>,
        /// The dictionary that they are compressed with; 0 is none.
        dictionary: u32,
        /// The size of all states, with what is said of them, before compression.
        state_bytes: u64,
    },
    /// Erased objects are forgotten: the slots that they had, and their ids.
    Expire(Vec<(Slot, ObjectId)>),
    /// A change on top of the record before it.
    Delta {
        /// The object and the commit.
        header: Header,
        /// What changed, in order.
        operations: Vec<Change>,
    },
    /// A big object whole (HEAD), or a commit of it (PAGES).
    Commit {
        /// The object and the commit.
        header: Header,
        /// Whether it is the whole object: the map leads to all blocks that are not here.
        is_head: bool,
        /// What it changes.
        blocks: Vec<BlockPlace>,
    },
    /// Where blocks of a big object lie.
    Leaf {
        /// The leaf's own slot, and its version.
        header: Header,
        /// The object that it is a leaf of.
        owner: Slot,
        /// Which blocks it has: 0 pages, 1 keys and large values.
        file: u8,
        /// From 512 times this number on.
        index: u32,
        /// How many of them there are.
        blocks: usize,
    },
    /// Blocks of a big object beside the log.
    Blob {
        /// The object.
        owner: Slot,
        /// The commit that names them; 0 if compaction has moved them.
        seq: u64,
        /// The blocks.
        blocks: Vec<BlockPlace>,
    },
    /// The object has no state from here on.
    Erase {
        /// The object and the commit.
        header: Header,
        /// The object's id.
        id: ObjectId,
    },
    /// A class's number and name.
    Class {
        /// Its number.
        class: ClassId,
        /// The tenant that owns it.
        tenant: String,
        /// Its name.
        name: String,
    },
    /// Versions that lie elsewhere from here on.
    Remap(
        /// Each version, and where it lies now.
        Vec<Relocation>,
    ),
    /// A kind that this version reserves or does not know.
    Other,
    /// The checksum holds, but the fields make no sense.
    Malformed,
}

/// A block of a big object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// 0 for a page, 1 for a node of the key tree or a part of a large value.
    pub file: u8,
    /// Its number, from 1.
    pub number: u32,
    /// Where it lies; [`Lsn::NONE`] if there is none any more.
    pub lsn: Lsn,
    /// What it takes there.
    pub bytes: u32,
}

impl From<Carried> for BlockPlace {
    fn from(carried: Carried) -> Self {
        BlockPlace {
            file: carried.id.file,
            number: carried.id.number,
            lsn: carried.place.lsn,
            bytes: carried.place.bytes,
        }
    }
}

/// A version that compaction moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The object.
    pub slot: Slot,
    /// Which use of the slot.
    pub generation: u8,
    /// The number of the commit.
    pub seq: u64,
    /// Where its image lies now.
    pub lsn: Lsn,
    /// What it takes there, frame included.
    pub bytes: u32,
}

/// What a delta changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A key is set.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// A key is removed.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// The alarms are these from here on.
    Alarms(Vec<Alarm>),
    /// The database has so many pages from here on.
    PageCount(u64),
    /// A page changes.
    Page {
        /// The page, from 1.
        number: u32,
        /// How the change is written down.
        how: &'static str,
        /// What it takes.
        bytes: usize,
    },
}

impl Decoded {
    /// Takes a record apart.
    pub fn of(record: &RecordView<'_>) -> Decoded {
        let reader = Reader::new(record.body);
        let decoded = match Kind::from_u8(record.kind) {
            Some(Kind::Image) => image(reader),
            Some(Kind::Delta) => delta(reader),
            Some(kind @ (Kind::Head | Kind::Pages)) => commit(record, kind),
            Some(Kind::Leaf) => leaf(record),
            Some(Kind::Blob) => blob(record),
            Some(Kind::Erase) => erase(reader),
            Some(Kind::Class) => class(reader),
            Some(Kind::Remap) => remap(reader),
            Some(Kind::Group) => group(reader),
            Some(Kind::Expire) => expire(reader),
            _ => Some(Decoded::Other),
        };
        decoded.unwrap_or(Decoded::Malformed)
    }
}

fn image(mut reader: Reader<'_>) -> Option<Decoded> {
    let header = Header::decode(&mut reader)?;
    let meta = Meta::decode(&mut reader)?;
    let stored = Stored::decode(&mut reader)?;
    Some(Decoded::Image {
        header,
        meta,
        compressed: stored.is_compressed(),
        dictionary: stored.dictionary,
        state_bytes: stored.state_bytes as u64,
    })
}

fn delta(mut reader: Reader<'_>) -> Option<Decoded> {
    let header = Header::decode(&mut reader)?;
    let operations = record::operations(reader).map(|operation| Some(change(operation?)));
    Some(Decoded::Delta {
        header,
        operations: operations.collect::<Option<_>>()?,
    })
}

fn change(operation: Operation<'_>) -> Change {
    match operation {
        Operation::Put { key, value } => Change::Put {
            key: key.to_vec(),
            value: value.to_vec(),
        },
        Operation::Delete { key } => Change::Delete { key: key.to_vec() },
        Operation::Alarms(alarms) => Change::Alarms(alarms),
        Operation::PageCount(count) => Change::PageCount(count as u64),
        Operation::Page { number, change } => Change::Page {
            number,
            how: change.how(),
            bytes: change.body.len(),
        },
    }
}

fn commit(record: &RecordView<'_>, kind: Kind) -> Option<Decoded> {
    let is_head = kind == Kind::Head;
    let (header, _, items) = decode_commit(record.lsn, is_head, record.body)?;
    Some(Decoded::Commit {
        header,
        is_head,
        blocks: items.into_iter().map(BlockPlace::from).collect(),
    })
}

fn leaf(record: &RecordView<'_>) -> Option<Decoded> {
    let (header, leaf) = Leaf::decode(record.body)?;
    Some(Decoded::Leaf {
        header,
        owner: leaf.tree.slot,
        file: leaf.file,
        index: leaf.index,
        blocks: usize::from(leaf.used()),
    })
}

fn blob(record: &RecordView<'_>) -> Option<Decoded> {
    let (start, items) = BlobStart::decode(record.lsn, record.body)?;
    Some(Decoded::Blob {
        owner: start.tree.slot,
        seq: start.seq,
        blocks: items.into_iter().map(BlockPlace::from).collect(),
    })
}

fn erase(mut reader: Reader<'_>) -> Option<Decoded> {
    let header = Header::decode(&mut reader)?;
    Some(Decoded::Erase {
        header,
        id: record::decode_erase(&mut reader)?,
    })
}

fn remap(mut reader: Reader<'_>) -> Option<Decoded> {
    let moves = decode_remap(&mut reader)?;
    let relocation = |moved: Moved| Relocation {
        slot: moved.slot,
        generation: moved.generation,
        seq: moved.seq,
        lsn: moved.to.lsn,
        bytes: moved.to.bytes,
    };
    Some(Decoded::Remap(moves.into_iter().map(relocation).collect()))
}

fn group(mut reader: Reader<'_>) -> Option<Decoded> {
    let (members, stored) = decode_members(&mut reader)?;
    Some(Decoded::Group {
        members,
        dictionary: stored.dictionary,
        state_bytes: stored.state_bytes as u64,
    })
}

fn expire(mut reader: Reader<'_>) -> Option<Decoded> {
    let all = decode_expire(&mut reader)?;
    let forgotten = all.into_iter().map(|expired| (expired.slot, expired.id));
    Some(Decoded::Expire(forgotten.collect()))
}

fn class(mut reader: Reader<'_>) -> Option<Decoded> {
    let (class, tenant, name) = record::decode_class(&mut reader)?;
    Some(Decoded::Class {
        class,
        tenant,
        name,
    })
}
