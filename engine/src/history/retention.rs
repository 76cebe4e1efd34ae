//! For how long a class keeps the history of its objects.

use std::collections::BTreeMap;
use std::time::Duration;

use dovehouse_wal::bytes::{Put, Reader};

use super::History;
use super::tables::Facts;
use crate::error::{Error, Result};
use crate::id::ClassId;

/// For how long superseded states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Not at all.
    Off,
    /// At least so long; in whole milliseconds. No time at all is [`Off`](Retention::Off), and more than 2^64
    /// milliseconds [`Forever`](Retention::Forever).
    For(Duration),
    /// As long as the store lives.
    Forever,
}

impl Retention {
    /// Thirty days: what a class keeps unless something else was said.
    pub const DEFAULT: Retention = Retention::For(Duration::from_secs(30 * 24 * 60 * 60));

    /// In milliseconds; 0 is not at all, and the largest number forever.
    pub(crate) fn ms(self) -> u64 {
        match self {
            Retention::Off => 0,
            Retention::For(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            Retention::Forever => u64::MAX,
        }
    }

    /// The same as it is read back: a time of zero is `Off`.
    pub(crate) fn plain(self) -> Self {
        Retention::from_ms(self.ms())
    }

    fn from_ms(ms: u64) -> Self {
        match ms {
            0 => Retention::Off,
            u64::MAX => Retention::Forever,
            ms => Retention::For(Duration::from_millis(ms)),
        }
    }
}

/// What is kept of all classes.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Of a class of which nothing else was said.
    default: Retention,
    /// Of commits after this nothing was let go of.
    since_ms: u64,
    classes: BTreeMap<ClassId, ClassKept>,
    /// What forks need, whatever was said: of a class all that is not older. On disk the forks say it.
    pinned: BTreeMap<ClassId, u64>,
}

/// What a class keeps that shall keep nothing, as long as a fork needs it.
const AS_LITTLE_AS_CAN_BE: Retention = Retention::For(Duration::from_millis(1));

/// What is kept of a class.
#[derive(Clone, Copy, Debug, Default)]
struct ClassKept {
    /// What an operator said goes before what the class is declared with.
    said: Wanted,
    declared: Wanted,
    since_ms: u64,
}

/// What somebody wants of a class's history, as far as they want something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) retention: Option<Retention>,
    pub(crate) thinning: Option<bool>,
}

impl ClassKept {
    fn retention(&self) -> Option<Retention> {
        self.said.retention.or(self.declared.retention)
    }

    fn is_thinned(&self) -> bool {
        let wanted = self.said.thinning.or(self.declared.thinning);
        wanted.unwrap_or(false)
    }
}

/// The bits of a class's entry in the manifest.
const SAID: u8 = 1;
const SAID_THINNED: u8 = 2;
const DECLARED: u8 = 4;
const DECLARED_THINNED: u8 = 8;
const SAID_NOT_THINNED: u8 = 16;
const ALL_FLAGS: u8 = 31;

impl Kept {
    pub(super) fn new(default: Retention, since_ms: u64) -> Self {
        Kept {
            default: default.plain(),
            since_ms,
            classes: BTreeMap::new(),
            pinned: BTreeMap::new(),
        }
    }

    /// What is wanted of a class.
    fn wanted(&self, class: ClassId) -> Retention {
        let wanted = self.classes.get(&class).and_then(ClassKept::retention);
        wanted.unwrap_or(self.default)
    }

    /// For how long a class keeps history.
    pub(super) fn retention(&self, class: ClassId) -> Retention {
        match self.wanted(class) {
            Retention::Off if self.pinned.contains_key(&class) => AS_LITTLE_AS_CAN_BE,
            wanted => wanted,
        }
    }

    /// Whether forks need what is in a table.
    pub(super) fn is_pinned(&self, facts: &Facts) -> bool {
        let needs = |since_ms: &u64| *since_ms <= facts.last_ms;
        match facts.classes.is_empty() {
            // Of one that cannot be read the classes are not known.
            true => self.pinned.values().any(needs),
            false => {
                let mut classes = facts.classes.iter();
                classes.any(|class| self.pinned.get(class).is_some_and(needs))
            }
        }
    }

    pub(super) fn pins_any(&self) -> bool {
        !self.pinned.is_empty()
    }

    pub(super) fn is_thinned(&self, class: ClassId) -> bool {
        self.classes.get(&class).is_some_and(ClassKept::is_thinned)
    }

    pub(super) fn keeps_any(&self) -> bool {
        let wanted = |kept: &ClassKept| kept.retention().is_some_and(|time| time != Retention::Off);
        self.default != Retention::Off || self.pins_any() || self.classes.values().any(wanted)
    }

    fn complete_since(&self, class: ClassId) -> u64 {
        let of_class = self.classes.get(&class).map_or(0, |kept| kept.since_ms);
        self.since_ms.max(of_class)
    }

    fn class(&mut self, class: ClassId) -> &mut ClassKept {
        self.classes.entry(class).or_default()
    }

    /// What a class's history had of commits until then is gone.
    pub(super) fn let_go(&mut self, class: ClassId, until_ms: u64) {
        let kept = self.class(class);
        kept.since_ms = kept.since_ms.max(until_ms);
    }

    pub(super) fn let_all_go(&mut self, until_ms: u64) {
        self.since_ms = self.since_ms.max(until_ms);
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.since_ms);
        out.put_varint(self.classes.len() as u64);
        for (class, kept) in &self.classes {
            out.put_varint(u64::from(class.0));
            out.put_varint(kept.since_ms);
            let (said, declared) = (kept.said, kept.declared);
            let flags = [
                (SAID, said.retention.is_some()),
                (SAID_THINNED, said.thinning == Some(true)),
                (DECLARED, declared.retention.is_some()),
                (DECLARED_THINNED, declared.thinning == Some(true)),
                (SAID_NOT_THINNED, said.thinning == Some(false)),
            ];
            let set = flags.into_iter().filter(|(_, is_set)| *is_set);
            out.push(set.map(|(flag, _)| flag).sum());
            for retention in [said.retention, declared.retention].into_iter().flatten() {
                out.put_varint(retention.ms());
            }
        }
    }

    pub(super) fn decode(default: Retention, reader: &mut Reader<'_>) -> Option<Self> {
        let mut kept = Kept::new(default, reader.varint()?);
        for _ in 0..reader.length()? {
            let class = ClassId(u16::try_from(reader.varint()?).ok()?);
            let since_ms = reader.varint()?;
            let flags = reader.u8().filter(|flags| *flags <= ALL_FLAGS)?;
            let mut retention = |flag| match flags & flag {
                0 => Some(None),
                _ => Some(Some(Retention::from_ms(reader.varint()?))),
            };
            let (said, declared) = (retention(SAID)?, retention(DECLARED)?);
            let thinning = match flags & (SAID_THINNED | SAID_NOT_THINNED) {
                0 => None,
                SAID_THINNED => Some(true),
                SAID_NOT_THINNED => Some(false),
                _ => return None,
            };
            let of_class = ClassKept {
                said: Wanted {
                    retention: said,
                    thinning,
                },
                declared: Wanted {
                    retention: declared,
                    thinning: (flags & DECLARED_THINNED != 0).then_some(true),
                },
                since_ms,
            };
            kept.classes.insert(class, of_class);
        }
        Some(kept)
    }
}

impl History {
    /// What is wanted of a class.
    pub(crate) fn retention(&self, class: ClassId) -> Retention {
        self.kept.read().wanted(class)
    }

    /// For how long a class keeps history now: forks may need it.
    pub(crate) fn retention_now(&self, class: ClassId) -> Retention {
        self.kept.read().retention(class)
    }

    /// What forks need from now on: of each class what is not older than this.
    pub(crate) fn pin(&self, pinned: BTreeMap<ClassId, u64>) {
        self.kept.write().pinned = pinned;
    }

    /// What a class's history had of commits until then is not to be asked for any more.
    pub(crate) fn let_go(&self, class: ClassId, until_ms: u64) {
        self.kept.write().let_go(class, until_ms);
    }

    /// Whether nothing that commits after this had replaced was lost, of any class.
    pub(crate) fn was_never_lost_since(&self, time_ms: u64) -> bool {
        time_ms >= self.kept.read().since_ms
    }

    /// Fails if something was let go of that is newer, or as old.
    pub(crate) fn has_all_since(&self, class: ClassId, time_ms: u64) -> Result<()> {
        match self.offers(class) && time_ms >= self.complete_since(class) {
            true => Ok(()),
            false => Err(Error::damaged("history", "it was let go of meanwhile")),
        }
    }

    pub(crate) fn is_thinned(&self, class: ClassId) -> bool {
        self.kept.read().is_thinned(class)
    }

    /// What an operator said of a class.
    pub(crate) fn said(&self, class: ClassId) -> Wanted {
        let kept = self.kept.read();
        kept.classes.get(&class).copied().unwrap_or_default().said
    }

    /// Says something else of a class.
    pub(crate) fn say(&self, class: ClassId, now_ms: u64, say: impl FnOnce(&mut Wanted)) {
        self.want(class, now_ms, |kept| say(&mut kept.said));
    }

    /// What a class is declared with.
    pub(crate) fn declared(&self, class: ClassId) -> Wanted {
        let kept = self.kept.read();
        kept.classes
            .get(&class)
            .copied()
            .unwrap_or_default()
            .declared
    }

    pub(crate) fn declare(&self, class: ClassId, now_ms: u64, wanted: Wanted) {
        self.want(class, now_ms, |kept| kept.declared = wanted);
    }

    fn want(&self, class: ClassId, now_ms: u64, change: impl FnOnce(&mut ClassKept)) {
        let mut kept = self.kept.write();
        let before = kept.wanted(class);
        change(kept.class(class));
        if before == Retention::Off || kept.wanted(class) == Retention::Off {
            kept.let_go(class, now_ms);
        }
    }

    /// Whether anything of a class is kept.
    pub(crate) fn keeps(&self, class: ClassId) -> bool {
        self.retention_now(class) != Retention::Off
    }

    /// Whether anything of a class is kept for those who ask.
    pub(crate) fn offers(&self, class: ClassId) -> bool {
        self.retention(class) != Retention::Off
    }

    pub(super) fn keeps_any(&self) -> bool {
        self.kept.read().keeps_any()
    }

    /// Of a class's commits after this nothing was let go of.
    pub(super) fn complete_since(&self, class: ClassId) -> u64 {
        self.kept.read().complete_since(class)
    }

    /// Whether what was before a commit of this time is there.
    pub(super) fn is_complete_since(&self, class: ClassId, time_ms: u64) -> bool {
        self.offers(class) && time_ms > self.complete_since(class)
    }

    /// A commit of a class was not noted: should the class keep history one day, that will not reach back over it.
    pub(super) fn pass_over(&self, class: ClassId, time_ms: u64) {
        if self.complete_since(class) < time_ms {
            self.kept.write().let_go(class, time_ms);
        }
    }

    /// Commits until then cannot be undone any more, of any class.
    pub(super) fn lose_all(&self, until_ms: u64) {
        self.kept.write().let_all_go(until_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_of_classes_reads_back_and_what_was_said_goes_first() {
        let times = [None, Some(Retention::Off), Some(Retention::Forever)];
        let thinnings = [None, Some(false), Some(true)];
        let mut kept = Kept::new(Retention::DEFAULT, 7);
        let mut wanted = Vec::new();
        for (said, declared) in times.iter().flat_map(|one| times.map(|two| (*one, two))) {
            for thinning in thinnings {
                let said = Wanted {
                    retention: said,
                    thinning,
                };
                let declared = Wanted {
                    retention: declared,
                    thinning: Some(true),
                };
                wanted.push((said, declared));
            }
        }
        for (number, (said, declared)) in (0..).zip(&wanted) {
            let class = kept.class(ClassId(number));
            (class.said, class.declared) = (*said, *declared);
        }
        let mut bytes = Vec::new();
        kept.encode(&mut bytes);
        let read = Kept::decode(Retention::DEFAULT, &mut Reader::new(&bytes)).unwrap();
        for (number, (said, declared)) in (0..).zip(&wanted) {
            let class = ClassId(number);
            assert_eq!(
                (read.classes[&class].said, read.classes[&class].declared),
                (*said, *declared)
            );
            let first = said.retention.or(declared.retention);
            assert_eq!(read.retention(class), first.unwrap_or(Retention::DEFAULT));
            assert_eq!(read.is_thinned(class), said.thinning != Some(false));
        }
        for len in 0..bytes.len() {
            assert!(Kept::decode(Retention::DEFAULT, &mut Reader::new(&bytes[..len])).is_none());
        }
        assert_eq!(Retention::For(Duration::ZERO).plain(), Retention::Off);
        assert_eq!(Retention::For(Duration::MAX).plain(), Retention::Forever);
    }
}
