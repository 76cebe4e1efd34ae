//! How an image holds its state: as it is, or compressed, with the class's dictionary if there is one.
//!
//! ```text
//! stored = codec u8 · dictionary varint (0: none) · bytes uncompressed varint · the rest of the body
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::compress::{compress, decompress};
use crate::dictionary::Dictionary;
use crate::error::Result;
use crate::state::IMAGE_BYTES_MAX;

const RAW: u8 = 0;
/// A whole frame of zstd; written by versions before dictionaries.
const FRAME: u8 = 1;
/// A frame of zstd without its magic number, which every frame has.
const SHORT_FRAME: u8 = 2;

const FRAME_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// With a dictionary even a few bytes may shrink.
const WORTH_TRYING: usize = 16;

/// A state as an image holds it.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    codec: u8,
    pub(crate) dictionary: u32,
    pub(crate) state_bytes: usize,
    content: Cow<'a, [u8]>,
}

impl<'a> Stored<'a> {
    /// Compresses a state if that makes it smaller.
    pub(crate) fn new(state: &'a [u8], dictionary: Option<&Dictionary>) -> Self {
        let state_bytes = state.len();
        let framed = match dictionary {
            Some(dictionary) if state_bytes >= WORTH_TRYING => dictionary.compress(state),
            Some(_) => None,
            None => compress(state, b""),
        };
        let shorter = framed.filter(|frame| frame.starts_with(&FRAME_MAGIC));
        match shorter {
            Some(mut frame) => {
                frame.drain(..FRAME_MAGIC.len());
                Stored {
                    codec: SHORT_FRAME,
                    dictionary: dictionary.map_or(0, |dictionary| dictionary.number),
                    state_bytes,
                    content: frame.into(),
                }
            }
            None => Stored {
                codec: RAW,
                dictionary: 0,
                state_bytes,
                content: state.into(),
            },
        }
    }

    /// What the content takes.
    pub(crate) fn content_bytes(&self) -> usize {
        self.content.len()
    }

    /// What [`Stored::encode`] appends.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let mut start = Vec::new();
        start.put_varint(u64::from(self.dictionary));
        start.put_varint(self.state_bytes as u64);
        1 + start.len() + self.content.len()
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.codec != RAW
    }

    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.push(self.codec);
        body.put_varint(u64::from(self.dictionary));
        body.put_varint(self.state_bytes as u64);
        body.extend_from_slice(&self.content);
    }

    /// The rest of an image's body; `None` is damage.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let codec = reader.u8()?;
        let dictionary = u32::try_from(reader.varint()?).ok()?;
        let state_bytes = reader.length()?;
        let known = matches!(codec, RAW | FRAME | SHORT_FRAME);
        let fits = state_bytes <= IMAGE_BYTES_MAX && (dictionary == 0 || codec == SHORT_FRAME);
        (known && fits).then(|| Stored {
            codec,
            dictionary,
            state_bytes,
            content: reader.rest().into(),
        })
    }

    /// The state; `Ok(None)` is damage. `find` gives a dictionary by its number.
    pub(crate) fn open(
        &self,
        find: impl FnOnce(u32) -> Result<Arc<Dictionary>>,
    ) -> Result<Option<Vec<u8>>> {
        let (content, len) = (&self.content, self.state_bytes);
        Ok(match self.codec {
            RAW => (content.len() == len).then(|| content.to_vec()),
            FRAME => decompress(content, b"", len),
            _ => {
                let mut frame = Vec::with_capacity(FRAME_MAGIC.len() + content.len());
                frame.extend_from_slice(&FRAME_MAGIC);
                frame.extend_from_slice(content);
                match self.dictionary {
                    0 => decompress(&frame, b"", len),
                    number => find(number)?.decompress(&frame, len),
                }
            }
        })
    }
}
