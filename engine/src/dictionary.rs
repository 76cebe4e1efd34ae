//! One dictionary of a class: content that its objects have in common, so that each needs to store
//! only what is its own.
//!
//! A dictionary is a file of its own, `dictionary-NUMBER-CLASS`, written once and durable before the
//! first record that names it (I10). Losing it would lose every object that names it, so the file
//! holds it twice, on different blocks:
//! ```text
//! copy       = start (20 bytes, see `docs/format/`) · store id u128 · number u32 · class u16 ·
//!              bytes u32 · crc u32 of all before and of the content · content, padded to 4 KiB
//! dictionary = copy · copy
//! ```
//! Content that begins with zstd's magic number for dictionaries was trained; any other is a sample.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::{Fs, Mode};
use dovehouse_wal::{BLOCK_BYTES, check_file_start, put_file_start};
use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict};

use crate::error::{Error, Result};
use crate::id::ClassId;

const MAGIC: &[u8; 8] = b"DOVEdict";
const LEVEL: i32 = 3;

/// What zstd takes for the start of a trained dictionary.
pub(crate) const TRAINED_MAGIC: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();

/// The most that a dictionary may hold.
pub(crate) const DICTIONARY_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// A dictionary that is ready for use.
pub(crate) struct Dictionary {
    pub(crate) number: u32,
    pub(crate) class: ClassId,
    pub(crate) bytes: usize,
    pub(crate) is_trained: bool,
    compressor: CDict<'static>,
    decompressor: DDict<'static>,
    pub(crate) images: AtomicU64,
    pub(crate) state_bytes: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dictionary")
            .field("number", &self.number)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

impl Dictionary {
    /// `None` if zstd cannot use the content.
    pub(crate) fn new(number: u32, class: ClassId, content: &[u8]) -> Option<Self> {
        if content.is_empty() || content.len() > DICTIONARY_BYTES_MAX {
            return None;
        }
        Some(Dictionary {
            number,
            class,
            bytes: content.len(),
            is_trained: content.starts_with(&TRAINED_MAGIC),
            compressor: CDict::try_create(content, LEVEL)?,
            decompressor: DDict::try_create(content)?,
            images: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        })
    }

    /// A frame of zstd, if it is smaller than the original.
    pub(crate) fn compress(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; bytes.len()];
        let written = COMPRESSOR.with_borrow_mut(|context| {
            context.compress_using_cdict(&mut out[..], bytes, &self.compressor)
        });
        // The only failure here is that the output would not be smaller.
        out.truncate(written.ok()?);
        Some(out)
    }

    /// The original of `len` bytes; `None` if the frame is damaged or of another length.
    pub(crate) fn decompress(&self, frame: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; len];
        let written = DECOMPRESSOR
            .with_borrow_mut(|context| {
                context.decompress_using_ddict(&mut out[..], frame, &self.decompressor)
            })
            .ok()?;
        (written == len).then_some(out)
    }
}

/// The dictionary's file name.
pub(crate) fn file_name(number: u32, class: ClassId) -> String {
    format!("dictionary-{number:08}-{:05}", class.0)
}

/// The number and class in a dictionary's file name; `None` for another file.
pub(crate) fn parse_file_name(name: &str) -> Option<(u32, ClassId)> {
    let (number, class) = name.strip_prefix("dictionary-")?.split_once('-')?;
    Some((number.parse().ok()?, ClassId(class.parse().ok()?)))
}

fn encode_copy(store_id: u128, number: u32, class: ClassId, content: &[u8]) -> Vec<u8> {
    let mut copy = Vec::new();
    put_file_start(&mut copy, MAGIC);
    copy.extend_from_slice(&store_id.to_le_bytes());
    copy.put_u32(number);
    copy.put_u16(class.0);
    copy.put_u32(content.len() as u32);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&copy);
    hasher.update(content);
    copy.put_u32(hasher.finalize());
    copy.extend_from_slice(content);
    copy.resize(copy.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    copy
}

/// Writes a dictionary durably, both copies; the directory is the caller's to sync.
pub(crate) fn write(
    fs: &dyn Fs,
    path: &Path,
    store_id: u128,
    (number, class): (u32, ClassId),
    content: &[u8],
) -> std::io::Result<()> {
    let copy = encode_copy(store_id, number, class, content);
    let file = fs.open(path, Mode::DURABLE)?;
    file.write_all_at(&[&copy], 0)?;
    file.write_all_at(&[&copy], copy.len() as u64)
}

/// The content of a dictionary's file, from the copy that is intact.
pub(crate) fn read(
    fs: &dyn Fs,
    path: &Path,
    store_id: u128,
    (number, class): (u32, ClassId),
) -> Result<Vec<u8>> {
    let io = |error| dovehouse_wal::Error::io("read", path, error);
    let file = fs.open(path, Mode::READ).map_err(io)?;
    let len = file.byte_len().map_err(io)?;
    let limit = 2 * (DICTIONARY_BYTES_MAX as u64 + BLOCK_BYTES);
    let mut bytes = vec![0; len.min(limit) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let copies = [&bytes[..], &bytes[bytes.len() / 2..]];
    for copy in copies {
        if let Some(content) = decode_copy(copy, store_id, number, class, path)? {
            return Ok(content);
        }
    }
    Err(Error::damaged(
        path.display(),
        "neither copy of the dictionary is intact",
    ))
}

/// `Ok(None)` if the copy is damaged.
fn decode_copy(
    bytes: &[u8],
    store_id: u128,
    number: u32,
    class: ClassId,
    path: &Path,
) -> Result<Option<Vec<u8>>> {
    const HEADER: usize = 20 + 16 + 4 + 2 + 4;
    let mut reader = Reader::new(bytes);
    let content = (|| {
        let header = reader.take(HEADER)?;
        let mut fields = Reader::new(header);
        fields.take(20)?;
        let found = (fields.array()?, fields.u32()?, fields.u16()?);
        let len = fields.u32()? as usize;
        let crc = reader.u32()?;
        let content = reader.take(len)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(header);
        hasher.update(content);
        let ours = found == (store_id.to_le_bytes(), number, class.0);
        (ours && hasher.finalize() == crc).then_some(content)
    })();
    if content.is_some() {
        check_file_start(&mut Reader::new(bytes), MAGIC, path)?;
    }
    Ok(content.map(<[u8]>::to_vec))
}

/// Content for a dictionary from samples that lie one behind the other: trained if there is enough to
/// learn from, else a part of them as it is.
pub(crate) fn train(samples: &[u8], sizes: &[usize], bytes_max: usize) -> Vec<u8> {
    let mut content = vec![0; bytes_max];
    match zstd::zstd_safe::train_from_buffer(&mut content[..], samples, sizes) {
        Ok(len) if content.starts_with(&TRAINED_MAGIC) => {
            content.truncate(len);
            // zstd would write the number that it gave the dictionary into every frame. Ours is in the
            // record already.
            content[4..8].fill(0);
            content
        }
        _ => sample(&samples[samples.len().saturating_sub(bytes_max)..]),
    }
}

/// Content for a dictionary from a sample as it is.
pub(crate) fn sample(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(DICTIONARY_BYTES_MAX)];
    // It must not be taken for a trained one.
    let start = if bytes.starts_with(&TRAINED_MAGIC) {
        1
    } else {
        0
    };
    bytes[start..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovehouse_wal::sim::SimFs;

    fn document(number: usize) -> Vec<u8> {
        let text = format!(
            r#"{{"id":{number},"name":"user {number}","email":"{number}@example.org","roles":["reader","writer"]}}"#
        );
        text.into_bytes()
    }

    fn samples(count: usize) -> (Vec<u8>, Vec<usize>) {
        let all: Vec<_> = (0..count).map(document).collect();
        (all.concat(), all.iter().map(Vec::len).collect())
    }

    #[test]
    fn a_trained_dictionary_shrinks_what_it_was_trained_for_and_gives_it_back() {
        let (bytes, sizes) = samples(2000);
        let content = train(&bytes, &sizes, 4096);
        let dictionary = Dictionary::new(1, ClassId(3), &content).unwrap();
        assert!(dictionary.is_trained);
        let new = document(1_234_567);
        let frame = dictionary.compress(&new).unwrap();
        assert!(
            frame.len() < new.len() / 2,
            "{} of {}",
            frame.len(),
            new.len()
        );
        assert_eq!(dictionary.decompress(&frame, new.len()).unwrap(), new);
        assert_eq!(dictionary.decompress(&frame, new.len() + 1), None);
        assert_eq!(dictionary.decompress(&frame[1..], new.len()), None);
    }

    #[test]
    fn too_few_samples_give_a_dictionary_too() {
        let (bytes, sizes) = samples(2);
        let content = train(&bytes, &sizes, 4096);
        let dictionary = Dictionary::new(1, ClassId(3), &content).unwrap();
        assert!(!dictionary.is_trained);
        let new = document(77);
        let frame = dictionary.compress(&new).unwrap();
        assert!(frame.len() < new.len() / 2);
        assert_eq!(dictionary.decompress(&frame, new.len()).unwrap(), new);
    }

    #[test]
    fn a_file_survives_damage_to_either_copy_but_not_to_both() {
        let fs = SimFs::new(1);
        let path = Path::new("store").join(file_name(7, ClassId(2)));
        let of = (7, ClassId(2));
        let content: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        write(&fs, &path, 9, of, &content).unwrap();
        let second = encode_copy(9, 7, ClassId(2), &content).len() as u64;
        assert_eq!(read(&fs, &path, 9, of).unwrap(), content);
        assert!(read(&fs, &path, 8, of).is_err(), "of another store");
        fs.rot(&path, 5000, |byte| *byte ^= 1);
        assert_eq!(read(&fs, &path, 9, of).unwrap(), content);
        fs.rot(&path, second + 30, |byte| *byte ^= 1);
        assert!(matches!(
            read(&fs, &path, 9, of),
            Err(Error::Damaged { .. })
        ));
        fs.rot(&path, 5000, |byte| *byte ^= 1);
        assert_eq!(read(&fs, &path, 9, of).unwrap(), content);
    }

    #[test]
    fn a_name_says_the_number_and_the_class() {
        assert_eq!(
            parse_file_name(&file_name(7, ClassId(500))),
            Some((7, ClassId(500)))
        );
        assert_eq!(parse_file_name("dictionary-7"), None);
        assert_eq!(parse_file_name("segment-00000001"), None);
    }
}
