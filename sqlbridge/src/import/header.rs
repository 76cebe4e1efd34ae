//! The first hundred bytes of a database file, looked at before SQLite does: its own words for most of
//! what can be wrong are "file is not a database".
//!
//! ```text
//!  0 magic (16)        16 page size (2; 1 is 65536)   18 versions to write and to read
//! 20 reserved bytes    21 payload fractions (64 32 32)
//! 24 change counter    28 pages                       40 schema version
//! 44 schema format     56 encoding                    92 change counter for which the page count holds
//! ```

use super::refusal::Refusal;

/// The length of the header.
pub(crate) const HEADER_BYTES: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// SQLite needs so much of each page for itself.
const USABLE_BYTES_MIN: u32 = 480;

/// Checks a header by itself, and against the length of its file. What a write-ahead log or a journal
/// may yet change is left to SQLite if there is one. Returns the size of a page.
pub(crate) fn check(header: &[u8], file_bytes: u64, has_log: bool) -> Result<usize, Refusal> {
    if !header.starts_with(MAGIC) {
        let why = "it does not begin as one does, so it is another kind of file, or encrypted";
        return Err(Refusal::NotADatabase(why.into()));
    }
    let Some(header) = header.first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(format!("its header ends after {file_bytes} bytes")));
    };
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        size if size.is_power_of_two() && size >= 512 => u32::from(size),
        size => return Err(damaged(format!("its header has pages of {size} bytes"))),
    };
    if header[18] == 0 || header[19] == 0 {
        return Err(damaged("its header has a format version of 0".into()));
    }
    if header[18] > 2 || header[19] > 2 {
        let newer = "it is of a format that this version of SQLite does not know";
        return Err(Refusal::Unsupported(newer.into()));
    }
    let reserved = header[20];
    if page_bytes - u32::from(reserved) < USABLE_BYTES_MIN {
        let why = format!("its header reserves {reserved} bytes of pages of {page_bytes}");
        return Err(damaged(why));
    }
    if header[21..24] != [64, 32, 32] {
        return Err(damaged("its header has other payload fractions".into()));
    }
    let (format, encoding) = (number(header, 44), number(header, 56));
    if format > 4 || encoding > 3 {
        let why = format!("its header has schema format {format} and encoding {encoding}");
        return Err(damaged(why));
    }
    let (pages, there) = (number(header, 28), file_bytes / u64::from(page_bytes));
    let count_holds = number(header, 24) == number(header, 92);
    if count_holds && u64::from(pages) > there && !has_log {
        let why = format!("its header counts {pages} pages, there are {there}");
        return Err(damaged(why));
    }
    Ok(page_bytes as usize)
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let bytes = header[at..at + 4].try_into().expect("four bytes");
    u32::from_be_bytes(bytes)
}

fn damaged(why: String) -> Refusal {
    Refusal::Damaged(why)
}
