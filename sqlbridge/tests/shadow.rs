//! The same statements on an object and on a file of stock SQLite: after every commit the object's image is
//! the file, page for page.

use std::collections::BTreeSet;
use std::path::Path;

use dovehouse_engine::PAGE_BYTES;
use dovehouse_engine::wal::sim::{SimFs, for_each_seed};
use dovehouse_sqlbridge::{Connection, Database, Error, Value};
use fastrand::Rng;

mod common;

use common::statements::statement;
use common::{Awake, open, wake};

/// Bytes of page 1 that count changes of the file, or name the version that wrote it. An exclusive connection
/// counts once only.
const COUNTERS: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// An object and the file beside it.
struct Pair {
    awake: Awake,
    stock: Connection,
}

impl Pair {
    /// Runs a statement on both. They agree on whether it works.
    fn run(&self, sql: &str, parameters: &[Value]) {
        let ours = self.awake.database.exec(sql, parameters);
        let stock = self.stock.exec(sql, parameters);
        match (&ours, &stock) {
            (Ok(_), Ok(_)) => {}
            (Err(Error::Sqlite { code: one, .. }), Err(Error::Sqlite { code: other, .. })) => {
                assert_eq!(one, other, "{sql}");
            }
            _ => panic!("{sql}: {:?} and {:?}", ours.err(), stock.err()),
        }
    }

    /// Some statements, and in between transactions that nest, of which some are taken back.
    fn statements(&self, rng: &mut Rng, depth: u32) {
        for _ in 0..rng.u32(1..6) {
            if depth < 3 && rng.u8(..5) == 0 {
                self.inner(rng, depth);
                continue;
            }
            let (sql, parameters) = statement(rng);
            self.run(&sql, &parameters);
        }
    }

    fn inner(&self, rng: &mut Rng, depth: u32) {
        self.stock.exec("SAVEPOINT inner", ()).unwrap();
        let fails = rng.bool();
        let ended: Result<(), Error> = self.awake.database.transaction(|_| {
            self.statements(rng, depth + 1);
            if fails {
                Err(Error::NoDatabase)
            } else {
                Ok(())
            }
        });
        assert_eq!(ended.is_err(), fails);
        if fails {
            self.stock.exec("ROLLBACK TO inner", ()).unwrap();
        }
        self.stock.exec("RELEASE inner", ()).unwrap();
    }

    fn vacuum(&self) {
        self.awake.database.vacuum().unwrap();
        self.awake.commit();
        self.stock.exec("VACUUM", ()).unwrap();
    }
}

fn image(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    for range in COUNTERS {
        bytes[range].fill(0);
    }
    bytes
}

/// The leaves of the free list: SQLite does not write what it will not read, so they have what was there
/// before, which a file and an object need not remember alike.
fn unused_pages(image: &[u8]) -> BTreeSet<u32> {
    let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let mut unused = BTreeSet::new();
    let mut trunk = number(32);
    while trunk != 0 {
        let start = (trunk as usize - 1) * PAGE_BYTES;
        let leaves = number(start + 4) as usize;
        unused.extend((0..leaves).map(|leaf| number(start + 8 + 4 * leaf)));
        trunk = number(start);
    }
    unused
}

fn assert_equal(pair: &Pair, file: &Path, out: &Path) {
    let _ = std::fs::remove_file(out);
    Database::export(&pair.awake.object.lock(), out).unwrap();
    let (ours, stock) = (image(out), image(file));
    assert_eq!(ours.len(), stock.len(), "sizes");
    let pages = ours.chunks(PAGE_BYTES).zip(stock.chunks(PAGE_BYTES));
    let unused = unused_pages(&stock);
    for (number, (one, other)) in (1..).zip(pages) {
        assert!(
            unused.contains(&number) || one == other,
            "page {number} of {}",
            ours.len() / PAGE_BYTES
        );
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let fs = SimFs::new(seed);
    let (engine, class) = open(&fs).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("stock"), dir.path().join("ours"));
    let stock = Connection::open_file(&file).unwrap();
    for setting in [
        "PRAGMA page_size = 4096",
        "PRAGMA auto_vacuum = INCREMENTAL",
        "PRAGMA synchronous = OFF",
        "PRAGMA cache_size = -512",
        "PRAGMA foreign_keys = ON",
    ] {
        stock.exec(setting, ()).unwrap();
    }
    let mut pair = Pair {
        awake: wake(&engine, class, 1),
        stock,
    };
    pair.run("CREATE TABLE first(a)", &[]);
    pair.awake.commit();
    for _ in 0..40 {
        assert_equal(&pair, &file, &out);
        match rng.u8(..12) {
            0 => pair.vacuum(),
            1 => {
                let Pair { awake, stock } = pair;
                drop(awake);
                let awake = wake(&engine, class, 1);
                pair = Pair { awake, stock };
            }
            _ => {
                pair.stock.exec("BEGIN", ()).unwrap();
                pair.statements(&mut rng, 0);
                if rng.u8(..4) == 0 {
                    pair.awake.database.rollback();
                    pair.stock.exec("ROLLBACK", ()).unwrap();
                } else {
                    pair.awake.commit();
                    pair.stock.exec("COMMIT", ()).unwrap();
                }
            }
        }
    }
    assert_equal(&pair, &file, &out);
    pair.awake.assert_whole();
    Ok(())
}

#[test]
fn after_every_commit_the_image_is_that_of_stock_sqlite() {
    for_each_seed(40, "-p dovehouse-sqlbridge-core --test shadow", run);
}
