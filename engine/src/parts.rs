//! Parts that the benches time one by one. Not for use; any version may change it.

use crate::codec::Stored;
use crate::dictionary::{Dictionary, sample, train};
use crate::id::{ClassId, ObjectId, Slot};
use crate::page_diff;
use crate::record::{Header, encode_image, encode_state, split_image};
use crate::state::State;

/// An object of some keys, and a dictionary for its kind.
#[derive(Debug)]
pub struct Image {
    state: State,
    dictionary: Dictionary,
}

impl Image {
    /// An object of these values, and a dictionary trained on others.
    pub fn new(values: &[Vec<u8>], others: &[Vec<u8>]) -> Self {
        let mut state = State::default();
        for (number, value) in values.iter().enumerate() {
            state.set_kv(format!("entry:{number:02}").into(), Some(value.clone()));
        }
        let sizes: Vec<_> = others.iter().map(Vec::len).collect();
        let content = train(&others.concat(), &sizes, 16 << 10);
        let dictionary = Dictionary::new(1, ClassId(1), &content)
            .or_else(|| Dictionary::new(1, ClassId(1), &sample(&others[0])));
        Image {
            state,
            dictionary: dictionary.expect("a sample is a dictionary"),
        }
    }

    /// The record's body.
    pub fn encode(&self) -> Vec<u8> {
        let state = encode_state(&self.state);
        let stored = Stored::new(&state, Some(&self.dictionary));
        let header = Header {
            slot: Slot::new(1).expect("a slot"),
            generation: 0,
            seq: 1,
            class: ClassId(1),
            depth: 0,
        };
        let id = ObjectId::from_bytes([7; 32]);
        encode_image(&header, id, None, 1_700_000_000_000, &self.state, &stored)
    }

    /// How many bytes the state in a record's body has.
    pub fn decode(&self, body: &[u8]) -> usize {
        let (.., stored) = split_image(body).expect("an image");
        let content = &body[body.len() - stored.content_bytes()..];
        let frame = [&0xFD2F_B528_u32.to_le_bytes()[..], content].concat();
        let opened = self.dictionary.decompress(&frame, stored.state_bytes);
        opened
            .expect("it was compressed with this dictionary")
            .len()
    }
}

/// What a change of a page takes in a delta.
pub fn page_change(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    page_diff::encode(Some(old), Some(new), out);
}
