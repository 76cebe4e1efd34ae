//! What a document and its clients say to each other, as JSON; and how one edit is moved past another.

use serde::{Deserialize, Serialize};

/// Replaces some characters of the text as it was in a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    pub base: u64,
    pub at: usize,
    pub delete: usize,
    pub insert: String,
}

impl Edit {
    /// The text with this edit. It must be one of this text.
    pub fn apply(&self, text: &str) -> String {
        let before = text.chars().take(self.at);
        let after = text.chars().skip(self.at + self.delete);
        before.chain(self.insert.chars()).chain(after).collect()
    }

    /// The same edit, after another of the same version. What the other has written at the same place comes
    /// first, and what it has written inside of what this one deletes goes with that.
    pub fn after(self, other: &Edit) -> Edit {
        let at = other.moved(self.at, true);
        let end = other.moved(self.at + self.delete, false);
        Edit {
            base: other.base + 1,
            at,
            delete: end.saturating_sub(at),
            insert: self.insert,
        }
    }

    /// Where a place in the text is after this edit; a place where something was inserted is behind or before that.
    fn moved(&self, place: usize, is_behind: bool) -> usize {
        let inserted = self.insert.chars().count();
        if place < self.at || (place == self.at && !is_behind) {
            place
        } else if place >= self.at + self.delete {
            place - self.delete + inserted
        } else {
            self.at + if is_behind { inserted } else { 0 }
        }
    }
}

/// Somebody who is connected, as attached to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub number: u64,
    pub name: String,
    pub cursor: usize,
}

/// What a client sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    Edit(Edit),
    Cursor(usize),
}

/// What a client hears.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// All of it: to those who come, and to those whose edit is too late to be moved.
    Document {
        version: u64,
        text: String,
        you: u64,
    },
    /// An edit of the last version, and whose it is.
    Edit {
        edit: Edit,
        by: u64,
    },
    People(Vec<Person>),
    Refused(String),
}
