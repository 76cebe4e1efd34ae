//! Tables that are not stored in the database: what stands behind them says which columns they have, by
//! which of these rows can be found, and gives the rows one by one. What SQLite's planner asks and answers
//! is here, in safe code; its C interface is in `call.rs`.
//!
//! ```text
//! prepare   Question: constraints, order  → choose → Plan, packed into one number
//! run       the number and the operands   → Access → Table::rows → Iterator
//! ```

#[allow(unsafe_code)]
mod call;

use std::ffi::CStr;

pub(crate) use call::register;

use crate::value::Value;

/// A table behind which there is code. All of its rows have one key: it is a `WITHOUT ROWID` table.
pub(crate) trait Table: Send + Sync {
    /// A `CREATE TABLE` with its columns and its primary key. The name in it does not count.
    fn declaration(&self) -> &'static CStr;

    /// By what rows are found without looking at all of them; the best first.
    fn keys(&self) -> &'static [Key];

    /// The rows that this access asks for. They may be more if the key is a [`Key::Lookup`], or a condition
    /// is [`Compare::Glob`]: SQLite looks again.
    fn rows(&self, access: Access) -> Result<Rows, Fault>;

    /// What writes it, if it can be written. Views and triggers may use such a table: it must reach nothing
    /// but the database's own object.
    fn writer(&self) -> Option<&dyn Write> {
        None
    }
}

/// A column by which rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Unique, and in an order that is the table's own: it alone decides what is equal, less or greater.
    Sorted(usize),
    /// Found by equality only.
    Lookup(usize),
}

impl Key {
    fn column(self) -> usize {
        match self {
            Key::Sorted(column) | Key::Lookup(column) => column,
        }
    }
}

/// Rows of a table, each with a value for every column.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Vec<Value>, Fault>> + Send>;

/// Why a table did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// A result code of SQLite.
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// What a statement writes. All of it takes part in SQLite's transaction: what is written after a
/// savepoint is undone by rolling back to it.
pub(crate) trait Write {
    /// Adds a row. One that has the same key makes it fail with `SQLITE_CONSTRAINT`, unless it is to be
    /// replaced.
    fn insert(&self, row: Vec<Value>, replace: bool) -> Result<(), Fault>;
    /// Replaces the row with this key by one that may have another.
    fn update(&self, key: Value, row: Vec<Value>, replace: bool) -> Result<(), Fault>;
    /// Removes the row with this key.
    fn delete(&self, key: Value) -> Result<(), Fault>;
    /// SQLite has savepoints up to this depth, from 0. It tells of those only that were opened after the
    /// first write: the ones before are at the same place.
    fn savepoint(&self, depth: usize) -> Result<(), Fault>;
    /// The savepoints from this depth on are gone.
    fn release(&self, depth: usize);
    /// Undoes what was written since the savepoint at this depth, which stays.
    fn rollback_to(&self, depth: usize) -> Result<(), Fault>;
}

/// How a value is compared with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Glob,
}

/// A condition on the rows that could be left to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Constraint {
    pub(crate) column: usize,
    pub(crate) compare: Compare,
}

/// What SQLite wants to know before it runs a statement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// In SQLite's order; `None` for those that are of no use to a table.
    pub(crate) constraints: Vec<Option<Constraint>>,
    /// By which column the rows are wanted first, and whether from the last to the first.
    pub(crate) order: Option<(usize, bool)>,
    /// A bit for each column that is read.
    pub(crate) columns: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// What [`Access::new`] understands.
    pub(crate) number: i32,
    /// The constraints whose values it wants, in this order, and whether SQLite need not look again.
    pub(crate) uses: Vec<(usize, bool)>,
    pub(crate) is_ordered: bool,
    pub(crate) is_unique: bool,
    pub(crate) rows: i64,
}

/// What is asked of a table when a statement runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Access {
    /// The column that the conditions are about.
    pub(crate) key: Option<usize>,
    /// All of them hold. Without one all rows are wanted.
    pub(crate) conditions: Vec<(Compare, Value)>,
    /// From the last row to the first.
    pub(crate) is_reverse: bool,
    /// A bit for each column that is read; none of the others is looked at.
    columns: u16,
}

/// Which operands a plan has, in their order, as bits of its number. Behind them are: whether it goes
/// backwards, the key's place in [`Table::keys`] plus one, and the columns.
const OPERANDS: [Compare; 6] = [
    Compare::Equal,
    Compare::Greater,
    Compare::GreaterOrEqual,
    Compare::Less,
    Compare::LessOrEqual,
    Compare::Glob,
];
const REVERSE: i32 = 1 << OPERANDS.len();
const KEY_SHIFT: i32 = 8;
const COLUMNS_SHIFT: i32 = 16;

/// A table is taken to have so many rows: what counts is that finding them by key is cheaper.
const ROWS_GUESSED: i64 = 1 << 16;
/// And so many are taken to have the same value in a column that is looked up, or are in a range.
const ROWS_GUESSED_FOUND: i64 = 1 << 4;

/// The best way to the rows.
pub(crate) fn choose(keys: &[Key], question: &Question) -> Plan {
    let plans = (1..)
        .zip(keys)
        .map(|(place, key)| plan(place, *key, question));
    let best = plans.min_by_key(|plan| plan.rows);
    best.unwrap_or_else(|| Plan {
        number: columns_bits(question),
        uses: Vec::new(),
        is_ordered: false,
        is_unique: false,
        rows: ROWS_GUESSED,
    })
}

fn columns_bits(question: &Question) -> i32 {
    // SQLite sets the highest bit of its mask for all columns from the 64th on: no table has so many.
    i32::from(question.columns as u16 as i16) << COLUMNS_SHIFT
}

fn plan(place: i32, key: Key, question: &Question) -> Plan {
    let is_sorted = matches!(key, Key::Sorted(_));
    let find = |compare: Compare| {
        let wanted = Some(Constraint {
            column: key.column(),
            compare,
        });
        let found = question.constraints.iter().position(|one| *one == wanted);
        found.filter(|_| is_sorted || compare == Compare::Equal)
    };
    let found: Vec<(usize, Compare, usize)> = match find(Compare::Equal) {
        Some(at) => vec![(0, Compare::Equal, at)],
        None => {
            let found = (0..)
                .zip(OPERANDS)
                .filter_map(|(bit, compare)| Some((bit, compare, find(compare)?)));
            found.collect()
        }
    };
    let is_unique = is_sorted
        && found
            .iter()
            .any(|(_, compare, _)| *compare == Compare::Equal);
    let is_ordered = is_sorted
        && question
            .order
            .is_some_and(|(column, _)| column == key.column());
    let mut number = place << KEY_SHIFT | columns_bits(question);
    if is_ordered && question.order.is_some_and(|(_, descends)| descends) {
        number |= REVERSE;
    }
    number |= found.iter().fold(0, |bits, (bit, ..)| bits | 1 << bit);
    Plan {
        number,
        uses: found
            .iter()
            .map(|(_, compare, at)| (*at, is_sorted && *compare != Compare::Glob))
            .collect(),
        is_ordered,
        is_unique,
        rows: match found.len() {
            _ if is_unique => 1,
            0 => ROWS_GUESSED,
            1 if is_sorted => ROWS_GUESSED / 4,
            _ => ROWS_GUESSED_FOUND,
        },
    }
}

impl Access {
    /// What a plan means with these operands.
    pub(crate) fn new(keys: &[Key], number: i32, operands: Vec<Value>) -> Self {
        let place = (number >> KEY_SHIFT & 0xFF) as usize;
        let key = place.checked_sub(1).and_then(|place| keys.get(place));
        let compares = (0..)
            .zip(OPERANDS)
            .filter(|(bit, _)| number & 1 << bit != 0);
        Access {
            key: key.map(|key| key.column()),
            conditions: compares.map(|(_, compare)| compare).zip(operands).collect(),
            is_reverse: number & REVERSE != 0,
            columns: (number >> COLUMNS_SHIFT) as u16,
        }
    }

    /// Whether a column is read.
    pub(crate) fn reads(&self, column: usize) -> bool {
        self.columns & 1 << column != 0
    }

    /// The value that a column must have, if rows are looked up by that.
    pub(crate) fn looked_up(&self, column: usize) -> Option<&Value> {
        let (compare, value) = self.conditions.first()?;
        (self.key == Some(column) && *compare == Compare::Equal).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[Key::Sorted(0), Key::Lookup(2)];

    fn question(constraints: &[(usize, Compare)], order: Option<(usize, bool)>) -> Question {
        let constraint = |(column, compare): &(usize, Compare)| Constraint {
            column: *column,
            compare: *compare,
        };
        Question {
            constraints: constraints.iter().map(constraint).map(Some).collect(),
            order,
            columns: 1 << 63 | 0b1000_0000_0000_0001,
        }
    }

    /// What the table is asked, if the operands are 10, 11, … in SQLite's order.
    fn asked(question: &Question) -> (Plan, Access) {
        let plan = choose(KEYS, question);
        let operands = plan.uses.iter().map(|(at, _)| Value::from(10 + *at as i64));
        let access = Access::new(KEYS, plan.number, operands.collect());
        (plan, access)
    }

    #[test]
    fn a_range_of_the_sorted_column_is_left_to_the_table_whichever_way_it_is_written() {
        use Compare::*;
        let (plan, access) = asked(&question(
            &[(1, Equal), (0, LessOrEqual), (0, Greater)],
            Some((0, true)),
        ));
        assert_eq!(access.key, Some(0));
        assert_eq!(
            access.conditions,
            [(Greater, 12.into()), (LessOrEqual, 11.into())]
        );
        assert!(access.is_reverse && plan.is_ordered && !plan.is_unique);
        assert_eq!(plan.uses, [(2, true), (1, true)]);
        assert!(access.reads(0) && access.reads(15) && !access.reads(1));

        let (plan, access) = asked(&question(&[(0, Glob), (0, Less), (0, Equal)], None));
        assert_eq!(access.conditions, [(Equal, 12.into())]);
        assert!(plan.is_unique && !plan.is_ordered && !access.is_reverse);

        let (plan, _) = asked(&question(&[(0, Glob)], None));
        assert_eq!(
            plan.uses,
            [(0, false)],
            "SQLite looks again at what only resembles"
        );
    }

    #[test]
    fn a_column_for_lookups_is_used_for_equality_alone_and_gives_no_order() {
        use Compare::*;
        let (plan, access) = asked(&question(&[(2, Equal)], Some((2, false))));
        assert_eq!(access.looked_up(2), Some(&10.into()));
        assert_eq!(access.looked_up(0), None);
        assert!(!plan.is_ordered && !plan.is_unique);
        assert_eq!(plan.uses, [(0, false)]);

        let (plan, access) = asked(&question(&[(2, Less)], None));
        assert!(plan.uses.is_empty() && access.conditions.is_empty());
        let (plan, _) = asked(&Question::default());
        assert_eq!(plan.rows, ROWS_GUESSED);
    }
}
