//! Which of the blocks that lie in a record are needed.
//!
//! A block is needed where it lies if the commit that wrote it is not settled yet, or if the leaf that leads
//! to it names this place. Whoever frees asks with the index as a checkpoint leaves it on the disk. That is
//! enough, because a checkpoint copies the entries of leaves after all others: a leaf there is never older
//! than the HEAD there, so a block that neither of them needs is needed by no later version either.

use std::sync::Arc;

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{Lsn, RecordView};

use super::block::TreeId;
use super::items::Carried;
use super::records::{BlobStart, Head, PagesStart};
use super::{Leaf, decode_commit};
use crate::error::Result;
use crate::id::{ClassId, Slot};
use crate::record::{Header, Kind};
use crate::slots::{Entry, Form};

/// A record that carries blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carrier {
    pub(crate) tree: TreeId,
    pub(crate) class: ClassId,
    /// The commit that names its blocks; 0 for moved ones.
    seq: u64,
    is_commit: bool,
}

/// The blocks that lie in a record; `None` if it carries none, or is damaged.
pub(crate) fn carried(record: &RecordView<'_>) -> Option<(Carrier, Vec<Carried>)> {
    let kind = Kind::from_u8(record.kind)?;
    if !matches!(kind, Kind::Head | Kind::Pages | Kind::Blob) {
        return None;
    }
    let (carrier, mut items) = if kind == Kind::Blob {
        let (start, items) = BlobStart::decode(record.lsn, record.body)?;
        let carrier = Carrier {
            tree: start.tree,
            class: start.class,
            seq: start.seq,
            is_commit: false,
        };
        (carrier, items)
    } else {
        let is_head = kind == Kind::Head;
        let (header, tree, items) = decode_commit(record.lsn, is_head, record.body)?;
        let carrier = Carrier {
            tree: TreeId {
                slot: header.slot,
                generation: header.generation,
                tree,
            },
            class: header.class,
            seq: header.seq,
            is_commit: true,
        };
        (carrier, items)
    };
    items.retain(|item| item.is_here);
    Some((carrier, items))
}

/// The slots of leaves that a commit adds: they are not free.
pub(crate) fn named_leaves(lsn: Lsn, kind: Kind, body: &[u8]) -> Option<Vec<Slot>> {
    let mut reader = Reader::new(body);
    Header::decode(&mut reader)?;
    let map = match kind {
        Kind::Head => Head::decode(lsn, body.len(), &mut reader)?.1.map,
        _ => {
            PagesStart::decode(lsn, body.len(), &mut reader)?
                .0
                .new_leaves
        }
    };
    let slots = map.iter().flatten().map(|leaf| leaf.slot).collect();
    Some(slots)
}

impl Carrier {
    /// Whether an object's entry is of this life of its map.
    pub(crate) fn is_map_of(owner: &Entry, tree: TreeId) -> bool {
        owner.generation == tree.generation && owner.form == Form::Big { tree: tree.tree }
    }

    /// Whether a block that lies in this record is needed there.
    pub(crate) fn needs(
        &self,
        item: &Carried,
        entry_of: impl Fn(Slot) -> Result<Option<Entry>>,
        leaf_of: impl Fn(Slot) -> Result<Option<Arc<Leaf>>>,
    ) -> bool {
        match entry_of(self.tree.slot) {
            Ok(Some(owner)) if !Carrier::is_map_of(&owner, self.tree) => false,
            Ok(Some(owner)) if self.is_unsettled(&owner) => true,
            Ok(Some(_)) => match leaf_of(item.leaf) {
                Ok(Some(leaf)) => {
                    let is_ours = leaf.tree == self.tree
                        && (leaf.file, leaf.index) == (item.id.file, item.id.leaf());
                    is_ours && leaf.places[item.id.position()] == item.place
                }
                Ok(None) => false,
                // A leaf that cannot be read keeps what it may lead to.
                Err(_) => true,
            },
            // A commit may be all that is left of its object; what no commit names is left over.
            Ok(None) => self.is_commit,
            Err(_) => true,
        }
    }

    /// Whether it is of a commit that is not settled into leaves.
    pub(crate) fn is_unsettled(&self, owner: &Entry) -> bool {
        (owner.image_seq()..=owner.seq).contains(&self.seq)
    }
}
