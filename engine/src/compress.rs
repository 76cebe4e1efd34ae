//! zstd, with the contexts kept per thread: making one costs more than compressing a small object.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, DCtx};

const LEVEL: i32 = 3;

/// Below this a frame's header eats what compression gains.
const WORTH_TRYING: usize = 64;

/// What zstd takes for the start of a trained dictionary; raw content must not begin like it.
const DICTIONARY_MAGIC: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();

thread_local! {
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// The compressed form, if it is smaller. `base` is similar content that the reader has too; empty
/// for none.
pub(crate) fn compress(bytes: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < WORTH_TRYING || base.starts_with(&DICTIONARY_MAGIC) {
        return None;
    }
    let mut out = vec![0; bytes.len() - 1];
    let written = COMPRESSOR
        .with_borrow_mut(|context| context.compress_using_dict(&mut out[..], bytes, base, LEVEL));
    // The only failure here is that the output would not be smaller.
    out.truncate(written.ok()?);
    Some(out)
}

/// The original of `len` bytes; `None` if the frame is damaged or of another length.
pub(crate) fn decompress(frame: &[u8], base: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let written = DECOMPRESSOR
        .with_borrow_mut(|context| context.decompress_using_dict(&mut out[..], frame, base))
        .ok()?;
    (written == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_with_and_without_a_base_and_damage_is_none() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut text = vec![0; 2000];
        text.iter_mut().for_each(|byte| *byte = rng.u8(b'a'..b'q'));
        let mut base = text.clone();
        base[700..720].fill(0);
        let alone = compress(&text, b"").unwrap();
        let based = compress(&text, &base).unwrap();
        assert!(
            based.len() < alone.len() / 4,
            "{} and {}",
            based.len(),
            alone.len()
        );
        assert_eq!(decompress(&alone, b"", text.len()).unwrap(), text);
        assert_eq!(decompress(&based, &base, text.len()).unwrap(), text);
        assert_eq!(decompress(&alone, b"", text.len() - 1), None);
        assert_eq!(decompress(&alone[1..], b"", text.len()), None);
        assert_eq!(compress(&[1, 2, 3], b""), None);
    }
}
