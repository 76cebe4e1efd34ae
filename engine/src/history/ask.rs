//! What callers ask of history: bookmarks, commits, and objects as they were.

use super::Bookmark;
use super::key::{Key, What};
use super::past::Point;
use super::read::Subject;
use super::value::{Block, Commit};
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::load::LoadedState;
use crate::object::Object;

/// A commit in an object's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moment {
    /// The object's state as of this commit.
    pub bookmark: Bookmark,
    /// When it was committed, in milliseconds since 1970. Never less than that of the commit before, however
    /// clocks were set.
    pub time_ms: u64,
    /// What it took in the log.
    pub bytes: u64,
}

impl Engine {
    /// The bookmark of an object's newest durable commit. Fails with [`Error::NoObject`] if there is none.
    pub fn bookmark(&self, id: &ObjectId) -> Result<Bookmark> {
        let point = self.inner.present(id)?;
        Ok(self.inner.bookmark(&point))
    }

    /// The bookmark of what an object was at a time, in milliseconds since 1970: of its last commit then, or of
    /// its having been nothing before the first. Fails with [`Error::NotAvailable`] for a time that history no
    /// longer reaches, and for one that has not come yet.
    pub fn bookmark_at(&self, id: &ObjectId, time_ms: u64) -> Result<Bookmark> {
        let point = self.inner.present(id)?;
        let now_ms = self.inner.fs.now_ms().max(self.inner.log.last_time_ms());
        if time_ms > now_ms {
            return Err(self.inner.not_there(&point));
        }
        let seq = self.inner.seq_at(&point, time_ms)?;
        Ok(self.inner.bookmark(&Point { seq, ..point }))
    }

    /// The commits of an object that history has, the oldest first. What an object was before the first of
    /// them can be had, too: it is what [`Engine::bookmark_at`] gives for the time before it, as long as no
    /// older commit was let go of.
    pub fn history(&self, id: &ObjectId) -> Result<impl Iterator<Item = Result<Moment>> + '_> {
        let inner = &self.inner;
        let point = inner.present(id)?;
        let commits = inner.history.commits(point.of, 1);
        let moment = move |item: Result<(u64, Commit)>| match item {
            Ok((_, commit))
                if !inner
                    .history
                    .is_complete_since(commit.class, commit.time_ms) =>
            {
                None
            }
            Ok((seq, commit)) => Some(Ok(Moment {
                bookmark: inner.bookmark(&Point { seq, ..point }),
                time_ms: commit.time_ms,
                bytes: commit.bytes,
            })),
            Err(error) => Some(Err(error)),
        };
        Ok(commits.filter_map(moment))
    }

    /// Reads all of history that is in files, and calls `entry` for each. Returns what cannot be read.
    pub fn check_history(&self, mut entry: impl FnMut()) -> Vec<Error> {
        let mut damage = Vec::new();
        for entries in self.inner.history.tables.each() {
            for item in entries {
                match item.and_then(|(key, value)| check_entry(&key, &value)) {
                    Ok(()) => entry(),
                    Err(error) => damage.push(error),
                }
            }
        }
        damage
    }

    /// An object as it was, for reading: its commits fail. Any number of them may be awake, beside the object
    /// itself. Fails with [`Error::WrongBookmark`] for a bookmark of another object, and with
    /// [`Error::NotAvailable`] if history no longer reaches back so far.
    pub fn past(&self, id: &ObjectId, bookmark: &Bookmark) -> Result<Object> {
        let (point, state) = self.inner.past(id, bookmark)?;
        let class = point.newest.class;
        Ok(Object::past(
            self.inner.clone(),
            class,
            *id,
            state,
            point.seq,
        ))
    }
}

/// Whether an entry makes sense.
fn check_entry(key: &Key, value: &[u8]) -> Result<()> {
    let makes_sense = match key.what {
        What::Commit => Commit::decode(value).is_some(),
        What::Block(_) => Block::decode(value).is_some(),
        What::End => value.is_empty(),
    };
    match makes_sense {
        true => Ok(()),
        false => {
            let what = format!("the history of slot {}", key.slot);
            Err(Error::damaged(
                what,
                format!("what it says of commit {} makes no sense", key.seq),
            ))
        }
    }
}

impl Inner {
    /// An object now: its newest durable commit, and history up to that.
    pub(crate) fn present(&self, id: &ObjectId) -> Result<Point> {
        let found = self.find(id)?.ok_or(Error::NoObject { id: *id })?;
        let (slot, newest) = (found.slot, found.entry);
        self.follow_log()?;
        Ok(Point {
            id: *id,
            of: Subject {
                slot,
                generation: newest.generation,
            },
            seq: newest.seq,
            newest,
        })
    }

    /// What an object was.
    pub(crate) fn past(&self, id: &ObjectId, bookmark: &Bookmark) -> Result<(Point, LoadedState)> {
        loop {
            let present = self.present(id)?;
            let point = Point {
                seq: bookmark.seq(),
                ..present
            };
            if self.bookmark(&point) != *bookmark {
                return Err(Error::WrongBookmark { id: *id });
            }
            if point.seq > point.newest.seq {
                return Err(self.not_there(&point));
            }
            if let Some(state) = self.state_at(&point)? {
                return Ok((point, state));
            }
        }
    }

    fn bookmark(&self, point: &Point) -> Bookmark {
        self.bookmark_of(&point.id, point.of, point.seq)
    }

    pub(crate) fn bookmark_of(&self, id: &ObjectId, of: Subject, seq: u64) -> Bookmark {
        Bookmark::new(self.index.key(), id, of, seq)
    }

    /// The last commit at a time.
    fn seq_at(&self, point: &Point, time_ms: u64) -> Result<u64> {
        // The first commit after the time is found by halves: times grow with numbers.
        let is_after = |seq: u64| -> Result<Option<(u64, Commit)>> {
            self.history.commit_after(point.of, seq)
        };
        let (mut from, mut to) = (0, point.newest.seq);
        while from < to {
            let middle = from + (to - from) / 2;
            match is_after(middle)? {
                Some((seq, commit)) if seq <= to && commit.time_ms <= time_ms => from = seq,
                _ => to = middle,
            }
        }
        let class = point.newest.class;
        // Of commits after this nothing was let go of.
        let since_ms = self.history.complete_since(class);
        let (before, is_there) = match is_after(from)? {
            Some((seq, commit)) if seq <= point.newest.seq => {
                (seq - commit.back.min(seq), commit.time_ms > since_ms)
            }
            _ => (point.newest.seq, self.history.offers(class)),
        };
        match is_there && (before == from || time_ms >= since_ms) {
            true => Ok(before),
            false => Err(self.not_there(point)),
        }
    }

    /// The error for a point that cannot be had.
    pub(crate) fn not_there(&self, point: &Point) -> Error {
        let first = self.history.commits(point.of, 1).find_map(|item| {
            let (seq, commit) = item.ok()?;
            let is_there = self.history.is_complete_since(commit.class, commit.time_ms);
            is_there.then_some((seq, commit.time_ms))
        });
        let newest = Point {
            seq: point.newest.seq,
            ..*point
        };
        let (first, since_ms) = match first {
            Some((seq, time_ms)) => (Point { seq, ..*point }, Some(time_ms)),
            None => (newest, None),
        };
        Error::NotAvailable {
            id: point.id,
            first: self.bookmark(&first),
            since_ms,
            newest: self.bookmark(&newest),
        }
    }
}
