//! Page 1 of a database without tables. Reads see it while the object has no pages, so that a new
//! database is not empty for SQLite and has the settings that we want: pages of 4 KiB, and incremental
//! auto-vacuum, which cannot be turned on later.

use dovehouse_engine::PAGE_BYTES;

/// The template. SQLite itself fills in the schema format and the encoding with the first table.
pub(crate) static PAGE_ONE: [u8; PAGE_BYTES] = page_one();

const fn page_one() -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let page_bytes = (PAGE_BYTES as u16).to_be_bytes();
    put(&mut page, 0, b"SQLite format 3\0");
    put(&mut page, 16, &page_bytes);
    put(&mut page, 18, &[1, 1]); // written and read with a rollback journal
    put(&mut page, 21, &[64, 32, 32]); // payload fractions, fixed by the format
    put(&mut page, 24, &1u32.to_be_bytes()); // change counter
    put(&mut page, 28, &1u32.to_be_bytes()); // pages
    put(&mut page, 52, &1u32.to_be_bytes()); // largest root page: auto-vacuum is on
    put(&mut page, 64, &1u32.to_be_bytes()); // and incremental
    put(&mut page, 92, &1u32.to_be_bytes()); // the change counter for which the page count holds
    put(&mut page, 96, &3_054_001u32.to_be_bytes()); // the version that wrote it
    put(&mut page, 100, &[13]); // an empty leaf of the schema table
    put(&mut page, 105, &page_bytes); // its cells begin at the end of the page
    page
}

const fn put(page: &mut [u8; PAGE_BYTES], at: usize, bytes: &[u8]) {
    let mut index = 0;
    while index < bytes.len() {
        page[at + index] = bytes[index];
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connection;

    #[test]
    fn stock_sqlite_takes_the_template_for_a_database_and_can_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("template.sqlite");
        std::fs::write(&path, PAGE_ONE).unwrap();
        let connection = Connection::open_file(&path).unwrap();
        assert_eq!(connection.integrity_check().unwrap(), Vec::<String>::new());
        let mode: i64 = connection
            .exec("PRAGMA auto_vacuum", &[])
            .unwrap()
            .one()
            .unwrap()
            .get(0)
            .unwrap();
        assert_eq!(mode, 2, "incremental");
        connection
            .exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)", &[])
            .unwrap();
        assert_eq!(connection.integrity_check().unwrap(), Vec::<String>::new());
        let encoding: String = connection
            .exec("PRAGMA encoding", &[])
            .unwrap()
            .one()
            .unwrap()
            .get(0)
            .unwrap();
        assert_eq!(encoding, "UTF-8");
    }
}
