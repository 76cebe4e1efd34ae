//! Restoring a class, or the whole store, to a time.

use dovehouse_wal::{Error as LogError, Ticket};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId};
use crate::inspect::ObjectInfo;

/// Commits that may be on their way at a time.
const WAITING_MAX: usize = 256;

/// What [`Engine::restore_all`] restores.
#[derive(Clone, Copy, Debug)]
pub struct RestoreAll {
    /// The time, in milliseconds since 1970. It must have passed.
    pub time_ms: u64,
    /// Only the objects of this class.
    pub class: Option<ClassId>,
    /// Whether alarms become what they were, too. Otherwise they stay as they are, but for those of objects that
    /// were nothing then.
    pub with_alarms: bool,
    /// Whether to look only: nothing is written, and what would be restored is counted, with objects whose
    /// commits since have changed nothing.
    pub dry_run: bool,
}

/// What [`Engine::restore_all`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoredAll {
    /// Objects that were looked at, and those that could not be.
    pub objects: u64,
    /// Objects that are now what they were.
    pub restored: u64,
    /// Among them those that were nothing then, and are erased.
    pub erased: u64,
    /// Objects that are still what they were.
    pub unchanged: u64,
    /// Objects that stayed as they are: each was reported.
    pub failed: u64,
    /// The time of what was last written before: restoring to this undoes it all, unless that was within the same
    /// millisecond.
    pub undo_ms: u64,
}

enum Outcome {
    Unchanged,
    Restored(Option<Ticket>),
    Erased(Option<Ticket>),
}

impl Engine {
    /// Restores each object of a class, or of the store, to what it was at a time: one commit for each, durable when
    /// this returns. An object that was nothing then is erased, and one that was erased since comes back, as long as
    /// its class's history has it. It is not one change of all of them: whoever reads meanwhile sees some of them restored and
    /// others not yet.
    ///
    /// `progress` is called with each object that was looked at, once it is done. An object that cannot be restored
    /// is reported to it, stays as it is, and the others go on: because it is awake, is damaged, or history does not reach
    /// back so far. Fails once nothing can be committed any more.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use dovehouse_engine::{Engine, ObjectId, RestoreAll};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path())?;
    /// # let class = engine.class("Room")?;
    /// let mut room = engine.wake(class, ObjectId::from_bytes([1; 32]))?;
    /// room.put(b"topic", b"doves")?;
    /// room.commit()?.expect("it was changed").wait()?;
    /// drop(room);
    /// let restored = engine.restore_all(
    ///     RestoreAll { time_ms: engine.now_ms(), class: Some(class), with_alarms: false, dry_run: false },
    ///     |_, failure| assert!(failure.is_none()),
    /// )?;
    /// assert_eq!((restored.unchanged, restored.failed), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn restore_all(
        &self,
        what: RestoreAll,
        mut progress: impl FnMut(&RestoredAll, Option<(Option<ObjectId>, Error)>),
    ) -> Result<RestoredAll> {
        let mut done = RestoredAll {
            undo_ms: self.inner.log.last_time_ms(),
            ..RestoredAll::default()
        };
        let mut waiting = Vec::new();
        for info in self.objects() {
            let (id, outcome) = match info {
                Ok(info) if what.class.is_some_and(|class| class != info.entry.class) => continue,
                Ok(info) => (Some(info.id), self.restore_one(what, &info)),
                Err(error) => (None, Err(error)),
            };
            done.objects += 1;
            let mut failure = None;
            match outcome {
                Ok(Outcome::Unchanged) => done.unchanged += 1,
                Ok(Outcome::Restored(ticket)) => {
                    done.restored += 1;
                    waiting.extend(ticket);
                }
                Ok(Outcome::Erased(ticket)) => {
                    done.restored += 1;
                    done.erased += 1;
                    waiting.extend(ticket);
                }
                Err(error) => {
                    done.failed += 1;
                    if stops_all(&error) {
                        return Err(error);
                    }
                    failure = Some((id, error));
                }
            }
            if waiting.len() >= WAITING_MAX {
                wait(&mut waiting)?;
            }
            progress(&done, failure);
        }
        wait(&mut waiting)?;
        Ok(done)
    }

    fn restore_one(&self, what: RestoreAll, info: &ObjectInfo) -> Result<Outcome> {
        let bookmark = self.bookmark_at(&info.id, what.time_ms)?;
        if bookmark == self.bookmark(&info.id)? {
            return Ok(Outcome::Unchanged);
        }
        let was_nothing = self.past(&info.id, &bookmark)?.is_empty();
        if what.dry_run {
            return Ok(match was_nothing {
                true if info.entry.erased => Outcome::Unchanged,
                true => Outcome::Erased(None),
                false => Outcome::Restored(None),
            });
        }
        let mut object = self.wake(info.entry.class, info.id)?;
        if was_nothing {
            return match object.is_empty() {
                true => Ok(Outcome::Unchanged),
                false => {
                    object.clear(false);
                    object.commit().map(Outcome::Erased)
                }
            };
        }
        object.restore(&bookmark, what.with_alarms)?;
        Ok(match object.commit()? {
            None => Outcome::Unchanged,
            ticket => Outcome::Restored(ticket),
        })
    }
}

/// Whether an error is not one of the object.
fn stops_all(error: &Error) -> bool {
    matches!(
        error,
        Error::Log(LogError::Poisoned { .. } | LogError::Io { .. } | LogError::ReadOnly)
    )
}

fn wait(tickets: &mut Vec<Ticket>) -> Result<()> {
    tickets
        .drain(..)
        .try_for_each(|ticket| Ok(ticket.wait().map(drop)?))
}
