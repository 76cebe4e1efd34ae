//! A client's copy of a document, which shows its own edits at once.

use super::edit::{Asked, Edit, Person, Told};

/// A client's copy: the last version that it heard of, and its own edit until it hears that one.
#[derive(Debug, Default)]
pub struct Replica {
    you: u64,
    pub version: u64,
    heard: String,
    own: Option<Edit>,
    pub people: Vec<Person>,
}

impl Replica {
    /// Whether it has heard of everything that its user wrote.
    pub fn is_settled(&self) -> bool {
        self.own.is_none()
    }

    /// The text that its user sees.
    pub fn text(&self) -> String {
        self.own
            .as_ref()
            .map_or_else(|| self.heard.clone(), |own| own.apply(&self.heard))
    }

    /// Edits what the user sees; one at a time, so that there is none if the last is still on its way. Send what this
    /// returns.
    pub fn edit(&mut self, at: usize, delete: usize, insert: &str) -> Option<Asked> {
        let (base, insert) = (self.version, insert.to_owned());
        let edit = Edit {
            base,
            at,
            delete,
            insert,
        };
        match self.own {
            Some(_) => None,
            None => Some(Asked::Edit(self.own.insert(edit).clone())),
        }
    }

    pub fn hear(&mut self, told: Told) {
        match told {
            Told::Document { version, text, you } => {
                (self.version, self.heard, self.you, self.own) = (version, text, you, None);
            }
            Told::Edit { edit, by } => {
                self.heard = edit.apply(&self.heard);
                self.version = edit.base + 1;
                self.own = self
                    .own
                    .take()
                    .filter(|_| by != self.you)
                    .map(|own| own.after(&edit));
            }
            Told::People(people) => self.people = people,
            Told::Refused(_) => self.own = None,
        }
    }
}
