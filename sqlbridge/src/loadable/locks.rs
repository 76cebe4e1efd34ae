//! Who may read and write an object: SQLite's five levels, for the connections of one process.
//!
//! Any number read. One may reserve, and write into its cache, while others still read; to write into the object
//! it waits, pending, until they are gone, and lets no new ones in.

/// What a connection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

impl Level {
    /// The level of SQLite's number.
    pub(crate) fn from_code(code: i32) -> Self {
        match code {
            ..=0 => Level::None,
            1 => Level::Shared,
            2 => Level::Reserved,
            3 => Level::Pending,
            4.. => Level::Exclusive,
        }
    }
}

/// The locks of one object. A connection keeps its level and hands it in.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    /// Connections that hold anything.
    holders: usize,
    /// The connection that holds more than a shared lock.
    writer: Option<u64>,
    /// The writer waits for the others to go, or has seen them go.
    pending: bool,
}

impl Locks {
    /// Raises what a connection holds. Returns what it holds then: less than `wanted` if others exclude it.
    pub(crate) fn raise(&mut self, connection: u64, held: Level, wanted: Level) -> Level {
        if held >= wanted {
            return held;
        }
        if held == Level::None {
            if self.pending {
                return held;
            }
            self.holders += 1;
        }
        if wanted == Level::Shared {
            return wanted;
        }
        if self.writer.is_some_and(|writer| writer != connection) {
            return held.max(Level::Shared);
        }
        self.writer = Some(connection);
        if wanted == Level::Reserved {
            return wanted;
        }
        self.pending = true;
        if self.holders > 1 {
            return Level::Pending;
        }
        wanted
    }

    /// Lowers what a connection holds, to a shared lock or to none.
    pub(crate) fn lower(&mut self, held: Level, to: Level) {
        debug_assert!(to <= Level::Shared, "SQLite gives up writing, or all");
        if held > Level::Shared {
            self.writer = None;
            self.pending = false;
        }
        if held >= Level::Shared && to == Level::None {
            self.holders -= 1;
        }
    }

    /// Whether anybody holds more than a shared lock.
    pub(crate) fn is_reserved(&self) -> bool {
        self.writer.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two connections never hold what excludes each other, whatever they ask for.
    #[test]
    fn no_order_of_calls_lets_a_writer_meet_a_reader_or_another_writer() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut locks = Locks::default();
        let mut held = [Level::None; 3];
        let mut exclusive = 0;
        for step in 0..20_000 {
            let who = rng.usize(0..held.len());
            if rng.u8(0..3) == 0 {
                let to = [Level::None, Level::Shared][rng.usize(0..2)].min(held[who]);
                locks.lower(held[who], to);
                held[who] = to;
            } else {
                // SQLite asks for a shared lock first.
                let wanted = match held[who] {
                    Level::None => Level::Shared,
                    _ => [Level::Reserved, Level::Exclusive][rng.usize(0..2)],
                };
                let before = held[who];
                held[who] = locks.raise(who as u64, before, wanted);
                assert!(held[who] >= before, "step {step}");
            }
            let writers = held.iter().filter(|held| **held > Level::Shared).count();
            assert!(writers <= 1, "step {step}: {held:?}");
            if held.contains(&Level::Exclusive) {
                exclusive += 1;
                let others = held.iter().filter(|held| **held > Level::None).count();
                assert_eq!(others, 1, "step {step}: {held:?}");
            }
            assert_eq!(locks.is_reserved(), writers == 1, "step {step}: {held:?}");
        }
        assert!(exclusive > 1_000);
    }

    #[test]
    fn a_pending_writer_lets_readers_go_and_no_new_one_in() {
        let mut locks = Locks::default();
        let reader = locks.raise(1, Level::None, Level::Shared);
        let mut writer = locks.raise(2, Level::None, Level::Shared);
        writer = locks.raise(2, writer, Level::Reserved);
        assert_eq!(locks.raise(3, Level::None, Level::Shared), Level::Shared);
        locks.lower(Level::Shared, Level::None);
        writer = locks.raise(2, writer, Level::Exclusive);
        assert_eq!(writer, Level::Pending);
        assert_eq!(locks.raise(3, Level::None, Level::Shared), Level::None);
        locks.lower(reader, Level::None);
        assert_eq!(locks.raise(2, writer, Level::Exclusive), Level::Exclusive);
    }
}
