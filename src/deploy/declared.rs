//! What a deployment may declare, in the words of a Workers configuration, from which it can be deserialized.

use serde::Deserialize;

use crate::catalog::StorageKind;

/// A step in the life of a tenant's classes. In one step, classes are deleted first, then renamed, then taken
/// over, then made.
///
/// ```
/// use dovehouse::deploy::Migration;
/// let first: Migration = serde_json::from_str(r#"{"tag": "v1", "new_sqlite_classes": ["Room"]}"#)?;
/// assert_eq!(first, Migration::new("v1").new_sqlite("Room"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// Its name, of which the store keeps the last one that was applied.
    pub tag: String,
    /// Classes to be made that keep keys and values only.
    #[serde(default)]
    pub new_classes: Vec<String>,
    /// Classes to be made that have SQL too.
    #[serde(default)]
    pub new_sqlite_classes: Vec<String>,
    /// Classes that get another name. Their objects keep their ids and all that they have.
    #[serde(default)]
    pub renamed_classes: Vec<Rename>,
    /// Classes to be deleted with all their objects.
    #[serde(default)]
    pub deleted_classes: Vec<String>,
    /// Classes to be taken over from another tenant, with their objects.
    #[serde(default)]
    pub transferred_classes: Vec<Transfer>,
}

/// A class's old and new name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The old name.
    pub from: String,
    /// The new name.
    pub to: String,
}

/// A class of another tenant, and its name here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Its name there.
    pub from: String,
    /// The other tenant: in a Workers configuration, the script.
    pub from_script: String,
    /// Its name here.
    pub to: String,
}

impl Migration {
    /// A step that does nothing yet.
    pub fn new(tag: impl Into<String>) -> Self {
        Migration {
            tag: tag.into(),
            ..Migration::default()
        }
    }

    /// Makes a class with SQL.
    pub fn new_sqlite(mut self, class: impl Into<String>) -> Self {
        self.new_sqlite_classes.push(class.into());
        self
    }

    /// Makes a class without.
    pub fn new_kv(mut self, class: impl Into<String>) -> Self {
        self.new_classes.push(class.into());
        self
    }

    /// Renames a class.
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        let (from, to) = (from.into(), to.into());
        self.renamed_classes.push(Rename { from, to });
        self
    }

    /// Deletes a class.
    pub fn delete(mut self, class: impl Into<String>) -> Self {
        self.deleted_classes.push(class.into());
        self
    }

    /// Takes a class over from another tenant.
    pub fn transfer(
        mut self,
        from_tenant: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Self {
        self.transferred_classes.push(Transfer {
            from: from.into(),
            from_script: from_tenant.into(),
            to: to.into(),
        });
        self
    }
}

/// How a class is to be.
///
/// ```
/// use dovehouse::{StorageKind, deploy::Export};
/// let room: Export = serde_json::from_str(r#"{"type": "durable-object", "storage": "sqlite"}"#)?;
/// assert_eq!(room, Export::created(StorageKind::Sqlite));
/// let hall: Export = serde_json::from_str(r#"{"type": "durable-object", "state": "renamed", "renamed_to": "Room"}"#)?;
/// assert_eq!(hall, Export::renamed("Room"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// What it is.
    #[serde(rename = "type", default)]
    pub kind: ExportKind,
    /// What its objects keep. Needed for a class that is to be made.
    #[serde(default)]
    pub storage: Option<StorageKind>,
    /// Whether it is, or what has become of it.
    #[serde(default)]
    pub state: ExportState,
    /// For a renamed class: the export that it is now.
    #[serde(default)]
    pub renamed_to: Option<String>,
    /// For a transferred class: the tenant that expects it.
    #[serde(default)]
    pub transferred_to: Option<String>,
    /// For an expected class: the tenant that has it.
    #[serde(default)]
    pub transfer_from: Option<String>,
}

/// What is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ExportKind {
    /// A class of durable objects.
    #[default]
    #[serde(rename = "durable-object")]
    DurableObject,
}

/// Whether a class is, or what has become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportState {
    /// It is.
    #[default]
    Created,
    /// It has another name now.
    Renamed,
    /// It is gone, with its objects.
    Deleted,
    /// Another tenant has it, which had to expect it first.
    Transferred,
    /// It will come from another tenant.
    ExpectingTransfer,
}

impl Export {
    /// A class that is to be.
    pub fn created(storage: StorageKind) -> Self {
        Export {
            storage: Some(storage),
            ..Export::default()
        }
    }

    /// A class that has another name now.
    pub fn renamed(to: impl Into<String>) -> Self {
        Export {
            state: ExportState::Renamed,
            renamed_to: Some(to.into()),
            ..Export::default()
        }
    }

    /// A class that is gone.
    pub fn deleted() -> Self {
        Export {
            state: ExportState::Deleted,
            ..Export::default()
        }
    }

    /// A class that another tenant has now.
    pub fn transferred(to_tenant: impl Into<String>) -> Self {
        Export {
            state: ExportState::Transferred,
            transferred_to: Some(to_tenant.into()),
            ..Export::default()
        }
    }

    /// A class that will come from another tenant, under the same name.
    pub fn expecting_transfer(from_tenant: impl Into<String>) -> Self {
        Export {
            state: ExportState::ExpectingTransfer,
            transfer_from: Some(from_tenant.into()),
            ..Export::default()
        }
    }
}
