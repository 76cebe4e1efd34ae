//! What a deployment does, or why it does nothing.

use std::fmt;

use crate::catalog::StorageKind;

/// What a deployment does: changes in their order, and problems, with any of which nothing is done. Displays
/// as text of several lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeployReport {
    /// The tag of the last migration before, if the classes were declared by migrations.
    pub tag_before: Option<String>,
    /// And after.
    pub tag_after: Option<String>,
    /// What changes.
    pub changes: Vec<ClassChange>,
    /// What should be looked at, but is no obstacle.
    pub notes: Vec<String>,
    /// Why nothing can be done.
    pub problems: Vec<Problem>,
}

/// What happens to a class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClassChange {
    /// It is made.
    Created {
        /// Its name.
        class: String,
        /// What its objects keep.
        storage: StorageKind,
    },
    /// It is deleted, with its objects.
    Deleted {
        /// Its name.
        class: String,
    },
    /// It gets another name.
    Renamed {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// It gets another tenant.
    Transferred {
        /// The tenant that had it.
        from_tenant: String,
        /// Its name there.
        from: String,
        /// The tenant that has it now.
        to_tenant: String,
        /// Its name there.
        to: String,
    },
    /// It is expected from another tenant.
    TransferPending {
        /// The tenant that has it.
        from_tenant: String,
        /// Its name.
        class: String,
    },
    /// The declaration has done its work and can be left out.
    SafeToRemove {
        /// The name.
        class: String,
    },
}

impl fmt::Display for ClassChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ClassChange::*;
        match self {
            Created { class, storage } => write!(f, "Created {class} ({storage})"),
            Deleted { class } => write!(f, "Deleted {class}"),
            Renamed { from, to } => write!(f, "Renamed {from} → {to}"),
            Transferred {
                from_tenant,
                from,
                to_tenant,
                to,
            } => {
                write!(f, "Transferred {from_tenant}/{from} → {to_tenant}/{to}")
            }
            TransferPending { from_tenant, class } => {
                write!(f, "Transfer pending: {class} from {from_tenant}")
            }
            SafeToRemove { class } => write!(f, "Safe to remove: {class}"),
        }
    }
}

/// Why a deployment cannot be done, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A step is about a class that is not there.
    #[error("Cannot apply {directive} migration to non-existent class {class}")]
    NoSuchClass {
        /// What was to be done.
        directive: &'static str,
        /// The class.
        class: String,
    },
    /// A step makes a class that is there.
    #[error("Cannot apply {directive} migration to existing class {class}")]
    ClassExists {
        /// What was to be done.
        directive: &'static str,
        /// The class.
        class: String,
    },
    /// Two migrations have one tag. Give one of them another.
    #[error("two migrations have the tag {tag:?}")]
    TagTwice {
        /// The tag.
        tag: String,
    },
    /// The classes were declared by migrations before. Keep sending all of them.
    #[error("the classes were declared by migrations up to {tag:?}, and there are none now")]
    NoMigrations {
        /// The last one.
        tag: String,
    },
    /// The class is in use: its namespace was asked for in this process. Deploy before asking for it, or
    /// stop using it.
    #[error(
        "Cannot delete, rename or transfer class {class} without also removing the binding to it"
    )]
    Bound {
        /// The class.
        class: String,
    },
    /// What is declared is not in the program.
    #[error("class {class} is declared but not in the code")]
    NotInCode {
        /// The class.
        class: String,
    },
    /// What is deleted, renamed or handed over is still in the program.
    #[error("class {class} is {what} but still in the code")]
    StillInCode {
        /// The class.
        class: String,
        /// What has become of it.
        what: &'static str,
    },
    /// The store has a class that is not declared. Declare it: as deleted, if it is to go.
    #[error("class {class} has objects but is missing from the exports")]
    Undeclared {
        /// The class.
        class: String,
    },
    /// A class is to be made, and nothing says what its objects keep.
    #[error("class {class} needs `storage`: sqlite or legacy-kv")]
    NoStorage {
        /// The class.
        class: String,
    },
    /// The storage of a class never changes. Declare what it is, or another class.
    #[error("class {class} is stored as {stored} and cannot become {declared}")]
    StorageDiffers {
        /// The class.
        class: String,
        /// What it is.
        stored: StorageKind,
        /// What it was declared to be.
        declared: StorageKind,
    },
    /// The new name is not that of a live export.
    #[error("class {from} is renamed to {to}, which is not declared as a live class")]
    BadRename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// Another class has the new name.
    #[error(
        "class {from} cannot become {to}: there is a class of that name with objects of its own"
    )]
    Occupied {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A transfer does not say where to or where from.
    #[error("the transfer of class {class} does not name the other tenant")]
    NoOtherTenant {
        /// The class.
        class: String,
    },
    /// The other tenant does not expect the class. Deploy there first.
    #[error("tenant {tenant:?} does not expect class {class}")]
    NotExpected {
        /// The class.
        class: String,
        /// The tenant that was to get it.
        tenant: String,
    },
    /// The other tenant does not have the class.
    #[error("tenant {tenant:?} has no class {class}")]
    NoSource {
        /// The class.
        class: String,
        /// The tenant that was to have it.
        tenant: String,
    },
}

impl fmt::Display for DeployReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.problems.is_empty() {
            let problems: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
            return f.write_str(&problems.join("\n"));
        }
        let changes = self.changes.iter().map(ClassChange::to_string);
        let notes = self.notes.iter().map(|note| format!("Note: {note}"));
        let lines: Vec<_> = changes.chain(notes).collect();
        match lines.is_empty() {
            true => f.write_str("Nothing to do"),
            false => f.write_str(&lines.join("\n")),
        }
    }
}
