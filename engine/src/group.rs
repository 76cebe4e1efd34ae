//! The GROUP record: several sleeping objects of one class, their states compressed together. Compaction
//! writes it; what is said once for all of them, and what they have in common, takes its space once.
//!
//! ```text
//! GROUP  = class varint · count varint · member* · stored (see `codec.rs`)
//! member = slot varint, less the one before · generation u8 · seq varint · id
//! opened = for each member: bytes varint · meta without the id · state
//! ```
//! Each member is a version of its own: its index entry leads to the whole record, its depth is 0.

use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::codec::Stored;
use crate::dictionary::Dictionary;
use crate::error::Result;
use crate::id::{ClassId, ObjectId, Slot};
use crate::record::{Header, Meta, decode_state};
use crate::slots::SEQ_LIMIT;
use crate::state::State;

/// More than this gains little, and waking one object reads and opens them all.
const MEMBERS_MAX: usize = 8;
const OPENED_BYTES_MAX: usize = 8 << 10;

/// A larger object stays alone.
pub(crate) const MEMBER_BYTES_MAX: usize = OPENED_BYTES_MAX / 2;

/// A group that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct Group {
    members: Vec<(Header, ObjectId)>,
    opened: Vec<u8>,
}

impl Group {
    /// Whether another member may join. Members come sorted by slot.
    pub(crate) fn takes(&self, header: &Header, content_bytes: usize) -> bool {
        self.members.last().is_none_or(|(last, _)| {
            last.class == header.class
                && last.slot < header.slot
                && self.members.len() < MEMBERS_MAX
                && self.opened.len() + content_bytes <= OPENED_BYTES_MAX
        })
    }

    /// Adds a member; `content` is its meta without the id, and its state.
    pub(crate) fn add(&mut self, header: Header, id: ObjectId, content: &[u8]) {
        self.members.push((header, id));
        self.opened.put_prefixed(content);
    }

    /// What is to be compressed.
    pub(crate) fn opened(&self) -> &[u8] {
        &self.opened
    }

    pub(crate) fn class(&self) -> Option<ClassId> {
        self.members.first().map(|(header, _)| header.class)
    }

    /// The record's body.
    pub(crate) fn encode(&self, stored: &Stored<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(64 * self.members.len() + stored.content_bytes());
        body.put_varint(self.class().map_or(0, |class| u64::from(class.0)));
        body.put_varint(self.members.len() as u64);
        let mut before = 0;
        for (header, id) in &self.members {
            body.put_varint(header.slot.get() - before);
            before = header.slot.get();
            body.push(header.generation);
            body.put_varint(header.seq);
            body.extend_from_slice(id.as_bytes());
        }
        stored.encode(&mut body);
        body
    }
}

/// The members that a GROUP record's body names, and what follows them; `None` is damage.
pub(crate) fn decode_members<'a>(
    reader: &mut Reader<'a>,
) -> Option<(Vec<(Header, ObjectId)>, Stored<'a>)> {
    let class = ClassId(u16::try_from(reader.varint()?).ok()?);
    let count = reader.length()?;
    let mut members = Vec::new();
    let mut before = 0_u64;
    for _ in 0..count {
        before = before.checked_add(reader.varint()?)?;
        let header = Header {
            slot: Slot::new(before)?,
            generation: reader.u8()?,
            seq: reader.varint()?,
            class,
            depth: 0,
        };
        let id = ObjectId::from_bytes(reader.array()?);
        members.push((header, id));
        (header.seq < SEQ_LIMIT).then_some(())?;
    }
    Some((members, Stored::decode(reader)?))
}

/// The headers of a group's members; `None` is damage.
pub(crate) fn headers(body: &[u8]) -> Option<Vec<Header>> {
    let (members, _) = decode_members(&mut Reader::new(body))?;
    Some(members.into_iter().map(|(header, _)| header).collect())
}

/// A group that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    members: Vec<(Header, ObjectId)>,
    content: Vec<u8>,
}

impl Opened {
    /// Opens a GROUP record's body; `Ok(None)` is damage.
    pub(crate) fn of(
        body: &[u8],
        find: impl FnOnce(u32, ClassId) -> Result<Arc<Dictionary>>,
    ) -> Result<Option<Self>> {
        let Some((members, stored)) = decode_members(&mut Reader::new(body)) else {
            return Ok(None);
        };
        let class = members
            .first()
            .map_or(ClassId(0), |(header, _)| header.class);
        let content = stored.open(|number| find(number, class))?;
        Ok(content.map(|content| Opened { members, content }))
    }

    /// The header, the id and the content of a member; `None` if there is none, or it is damaged.
    pub(crate) fn member(&self, slot: Slot) -> Option<(Header, ObjectId, &[u8])> {
        let mut reader = Reader::new(&self.content);
        for (header, id) in &self.members {
            let content = reader.prefixed()?;
            if header.slot == slot {
                return Some((*header, *id, content));
            }
        }
        None
    }

    /// The meta and the state of a member.
    pub(crate) fn state(&self, slot: Slot) -> Option<(Meta, State)> {
        let (_, id, content) = self.member(slot)?;
        decode_content(id, content)
    }
}

/// The meta and the state in a member's content.
pub(crate) fn decode_content(id: ObjectId, content: &[u8]) -> Option<(Meta, State)> {
    let mut reader = Reader::new(content);
    let meta = Meta::decode_without_id(&mut reader, id)?;
    let mut state = decode_state(reader.rest(), &meta)?;
    state.alarms.clone_from(&meta.alarms);
    Some((meta, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::encode_content;

    fn header(slot: u64) -> Header {
        Header {
            slot: Slot::new(slot).unwrap(),
            generation: 1,
            seq: 10 + slot,
            class: ClassId(4),
            depth: 0,
        }
    }

    fn state(number: u64) -> State {
        let mut state = State::default();
        let value = format!("this is the state of object {number}").into_bytes();
        state.set_kv(b"key".to_vec(), Some(value));
        state
    }

    #[test]
    fn every_member_comes_back_and_strangers_and_damage_do_not() {
        let mut group = Group::default();
        let slots = [3, 4, 9, 100_000];
        for slot in slots {
            let content = encode_content(None, 1_700_000_000_000, &state(slot));
            assert!(group.takes(&header(slot), content.len()));
            group.add(
                header(slot),
                ObjectId::from_bytes([slot as u8; 32]),
                &content,
            );
        }
        assert!(!group.takes(&header(5), 10), "not in order");
        let alone: usize = slots.len() * (32 + group.opened().len() / slots.len());
        let body = group.encode(&Stored::new(group.opened(), None));
        assert!(body.len() < alone, "{} and {alone}", body.len());

        let opened = Opened::of(&body, |_, _| unreachable!()).unwrap().unwrap();
        for slot in slots {
            let (meta, found) = opened.state(Slot::new(slot).unwrap()).unwrap();
            assert_eq!((meta.id.as_bytes()[0], found), (slot as u8, state(slot)));
        }
        assert!(opened.state(Slot::new(5).unwrap()).is_none());
        assert_eq!(headers(&body).unwrap(), slots.map(header));
        for len in 0..body.len() {
            let cut = Opened::of(&body[..len], |_, _| unreachable!()).unwrap();
            assert!(cut.is_none(), "cut to {len}");
        }
    }

    #[test]
    fn a_group_is_bounded_in_members_and_in_bytes_and_has_one_class() {
        let mut group = Group::default();
        for slot in 1..=MEMBERS_MAX as u64 {
            assert!(group.takes(&header(slot), 10));
            group.add(header(slot), ObjectId::from_bytes([1; 32]), &[0; 10]);
        }
        assert!(!group.takes(&header(50), 10));
        let mut group = Group::default();
        group.add(
            header(1),
            ObjectId::from_bytes([1; 32]),
            &[0; MEMBER_BYTES_MAX],
        );
        assert!(group.takes(&header(2), 100) && !group.takes(&header(2), MEMBER_BYTES_MAX));
        let other = Header {
            class: ClassId(5),
            ..header(2)
        };
        assert!(!group.takes(&other, 10));
    }
}
