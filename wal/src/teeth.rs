//! Faults that can be planted to prove that the tests would notice them.
//!
//! Without the feature `teeth` nothing can be planted and every question is answered `false` at
//! compile time.

/// An invariant broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// I1: the checkpoint does not wait for durability before it writes the index.
    CheckpointDoesNotWait,
    /// I2: a commit is acknowledged before its write.
    AcknowledgeBeforeWrite,
    /// I3: a batch starts in the block where the last one ended, and rewrites that block.
    RewriteLastBlock,
    /// I4: an image does not say whose it is.
    NamelessImage,
    /// I5: a move by compaction overwrites a newer version.
    MoveWithoutComparing,
    /// I6: a segment is reused although live records lie in it.
    ReuseLiveSegment,
    /// I7: replay passes over what the index shows already, although it may show it from the page cache.
    SkipWhatIsShown,
    /// I8: a failed write is taken for a success.
    AcknowledgeAfterError,
    /// I9: growth takes the reserve.
    NoReserve,
    /// I10: a class's old dictionary is removed when it gets a new one.
    DropOldDictionary,
    /// A checkpoint copies the leaves of big objects before what was written after them.
    CopyLeavesFirst,
    /// Segments with blocks of an open transaction are judged by what the index says of them.
    ForgetHolds,
    /// A commit names blocks in a segment that no checkpoint has named.
    UnnamedBlob,
    /// Segments are reused before history has read what died in them.
    FreeBeforeHistory,
    /// The slots of leaves are given back before history has read them.
    ForgetLeavesEarly,
    /// History that forks need is let go of.
    ForgetForks,
    /// Recovery serves its tail without writing it again.
    NoRelog,
}

/// The flaw planted in a store, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Teeth {
    #[cfg(feature = "teeth")]
    planted: Option<Flaw>,
}

impl Teeth {
    /// Plants a flaw.
    #[cfg(feature = "teeth")]
    pub fn plant(flaw: Flaw) -> Self {
        Teeth {
            planted: Some(flaw),
        }
    }

    /// Whether this flaw is planted.
    pub fn has(&self, flaw: Flaw) -> bool {
        #[cfg(feature = "teeth")]
        return self.planted == Some(flaw);
        #[cfg(not(feature = "teeth"))]
        {
            let _ = flaw;
            false
        }
    }
}
