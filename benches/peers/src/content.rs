//! What objects are called and what they hold, from a seed.

/// Names an object, as a hash of its name would.
pub type Id = [u8; 32];

/// The key of the small commits.
pub const KEY: &[u8] = b"sixteen byte key";
/// What a small commit writes under it.
pub const VALUE_BYTES: usize = 44;

/// Keys of an object that was created with [`fill`].
pub const ENTRIES: [&[u8]; 3] = [b"entry:00", b"entry:01", b"entry:02"];
/// Bytes of such a key with its value.
const ENTRY_BYTES: usize = 112;

/// The id of an object.
pub fn id(seed: u64, number: u64) -> Id {
    let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number);
    let mut id = [0; 32];
    rng.fill(&mut id);
    id
}

/// The value of a small commit, another one for each round.
pub fn small_value(round: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&round.to_le_bytes());
    value
}

/// The values of a new object, one for each of [`ENTRIES`].
pub fn fill(seed: u64, number: u64) -> [Vec<u8>; 3] {
    let mut rng = fastrand::Rng::with_seed(seed ^ number.rotate_left(32));
    ENTRIES.map(|key| document(&mut rng, number, ENTRY_BYTES - key.len()))
}

/// Something like a small JSON document of so many bytes.
fn document(rng: &mut fastrand::Rng, number: u64, bytes: usize) -> Vec<u8> {
    let names = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana"];
    let states = ["open", "closed", "waiting"];
    let text = format!(
        r#"{{"user":"{}{}","state":"{}","count":{},"updated":{},"tag":"{:x}"}}"#,
        names[rng.usize(..names.len())],
        number % 100_000,
        states[rng.usize(..states.len())],
        rng.u16(..),
        1_700_000_000_000 + rng.u64(..100_000_000_000),
        rng.u64(..),
    );
    let mut value = text.into_bytes();
    value.resize(bytes, b' ');
    value
}
