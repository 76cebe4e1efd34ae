//! How many rows a statement read and wrote, from what stock SQLite tells.
//!
//! libSQL and workerd count in SQLite's machine: a row is read when a cursor is put on a place (`Rewind`,
//! `Last`, the seeks) or moves on (`Next`, `Prev`), and written when a table or an index gets an entry
//! or a table loses one. Stock SQLite counts the moves, by kind, and the changed rows of tables. What it does
//! not count is how often the other instructions ran; that follows from the program, which `EXPLAIN`
//! tells, as long as nothing decides in between:
//! 1. outside of a loop, once;
//! 2. in a loop that moves a cursor, once for each row of that loop;
//! 3. in a loop that takes rows from elsewhere, once for each changed row.
//!
//! The program is looked at when somebody asks for the counters, once for each prepared statement.

use crate::value::Value;

/// Rows that a statement has read and written, as Cloudflare counts them. `docs/sql.md` says where the
/// figures differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows of tables and entries of indexes that were looked at.
    pub rows_read: u64,
    /// Rows of tables and entries of indexes that were inserted or replaced, and rows that were deleted; by
    /// triggers and foreign keys too.
    pub rows_written: u64,
}

/// What SQLite has counted in one run of a statement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Moves of cursors, by the instruction's kind: see [`Kind`].
    pub(crate) moves: [u64; 3],
    /// Rows that changed.
    pub(crate) changes: u64,
    /// Of these, without those that triggers and foreign keys changed.
    pub(crate) direct_changes: u64,
}

/// Kinds of moves, of which SQLite keeps a counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Along an index, a sorter, or a temporary table.
    Other,
    /// Along a whole table.
    FullScan,
    /// While SQLite builds an index for this one statement.
    AutomaticIndex,
}

impl Kind {
    /// In the order of [`Counted::moves`].
    pub(crate) const ALL: [Kind; 3] = [Kind::Other, Kind::FullScan, Kind::AutomaticIndex];

    /// SQLite's number, both for `sqlite3_stmt_status` and in the instruction. That of `Other` is not
    /// documented, but it is where SQLite counts an instruction that says nothing else.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Kind::Other => 0,
            Kind::FullScan => libsqlite3_sys::SQLITE_STMTSTATUS_FULLSCAN_STEP,
            Kind::AutomaticIndex => libsqlite3_sys::SQLITE_STMTSTATUS_AUTOINDEX,
        }
    }
}

/// What matters of a statement's program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Places taken outside of loops.
    once: u64,
    /// Places taken in a loop, by the kind of its moves.
    for_each_row: [u64; 3],
    /// Places taken in a loop without moves.
    for_each_change: u64,
    /// Entries of indexes for each row that is inserted or updated.
    index_entries: u64,
}

/// An instruction, as `EXPLAIN` shows it.
#[derive(Debug)]
struct Instruction<'a> {
    address: i64,
    name: &'a str,
    p1: i64,
    p2: i64,
    p5: i64,
}

/// Instructions that put a cursor on a place.
const PLACES: [&str; 11] = [
    "Count",
    "Last",
    "NotExists",
    "Rewind",
    "SeekGE",
    "SeekGT",
    "SeekLE",
    "SeekLT",
    "SeekRowid",
    "Sort",
    "SorterSort",
];
/// Instructions that move it on.
const MOVES: [&str; 3] = ["Next", "Prev", "SorterNext"];
/// Instructions that open what is gone after the statement.
const OPENS_TEMPORARY: [&str; 3] = ["OpenAutoindex", "OpenDup", "OpenEphemeral"];
/// The flag of an instruction that counts as a change of a row already.
const COUNTS_CHANGE: i64 = 1;

impl<'a> Instruction<'a> {
    fn of(row: &'a [Value]) -> Option<Self> {
        match row {
            [
                Value::Integer(address),
                Value::Text(name),
                Value::Integer(p1),
                Value::Integer(p2),
                _p3,
                _p4,
                Value::Integer(p5),
                ..,
            ] => Some(Instruction {
                address: *address,
                name,
                p1: *p1,
                p2: *p2,
                p5: *p5,
            }),
            _ => None,
        }
    }

    fn is_in(&self, names: &[&str]) -> bool {
        names.contains(&self.name)
    }

    /// Whether it goes back.
    fn is_loop(&self) -> bool {
        self.p2 <= self.address && (self.is_in(&MOVES) || self.name == "Goto")
    }
}

impl Shape {
    /// The shape of a program, of which these are the rows of `EXPLAIN`.
    pub(crate) fn of(rows: &[Vec<Value>]) -> Self {
        let all = rows.iter().filter_map(|row| Instruction::of(row));
        // Programs of triggers follow, from address zero again. What they do is in the changes.
        let main: Vec<_> = all
            .enumerate()
            .take_while(|(place, instruction)| instruction.address == *place as i64)
            .map(|(_, instruction)| instruction)
            .collect();
        // The first instruction jumps to preparations at the end, from where it goes back: no loop.
        let end = main.first().map_or(0, |first| first.p2);
        let loops: Vec<_> = main
            .iter()
            .filter(|one| one.address < end && one.is_loop())
            .collect();
        let temporary: Vec<_> = main
            .iter()
            .filter(|one| one.is_in(&OPENS_TEMPORARY))
            .map(|one| one.p1)
            .collect();
        let mut shape = Shape::default();
        for one in &main {
            if one.is_in(&PLACES) {
                let around = loops
                    .iter()
                    .filter(|back| (back.p2..back.address).contains(&one.address));
                let innermost = around.min_by_key(|back| back.address - back.p2);
                let count = match innermost {
                    None => &mut shape.once,
                    Some(back) if back.name == "Goto" => &mut shape.for_each_change,
                    Some(back) => {
                        let kind = Kind::ALL
                            .iter()
                            .position(|kind| i64::from(kind.number()) == back.p5);
                        &mut shape.for_each_row[kind.unwrap_or_default()]
                    }
                };
                *count += 1;
            }
            let counted = one.p5 & COUNTS_CHANGE != 0;
            if one.name == "IdxInsert" && !counted && !temporary.contains(&one.p1) {
                shape.index_entries += 1;
            }
        }
        shape
    }

    pub(crate) fn counters(&self, counted: &Counted) -> Counters {
        let moves: u64 = counted.moves.iter().sum();
        // A loop has one row more than moves.
        let in_loops = self.for_each_row.iter().zip(counted.moves);
        let in_loops: u64 = in_loops.map(|(places, moves)| places * (moves + 1)).sum();
        let by_changes = self.for_each_change * counted.direct_changes;
        Counters {
            rows_read: moves + self.once + in_loops + by_changes,
            rows_written: counted.changes + self.index_entries * counted.direct_changes,
        }
    }
}
