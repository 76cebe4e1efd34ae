//! Migrations: numbered steps of a schema, each applied once.

use crate::database::Database;
use crate::error::{Error, Result};

impl Database {
    /// Brings the schema up to date: applies those of the migrations that this database has not had yet,
    /// in their order. Returns how many it applied.
    ///
    /// A migration is one statement or several. Their numbers are their places, from 1; the last one
    /// applied is kept in `PRAGMA user_version`. So add new ones at the end, and never change or remove
    /// one that was released. All that are missing are applied in one transaction inside the turn's.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dovehouse_engine::{Engine, ObjectId};
    /// # use dovehouse_sqlbridge::Database;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path())?;
    /// # let class = engine.class("Room")?;
    /// # let room = engine.wake(class, ObjectId::from_bytes([1; 32]))?;
    /// # let database = Database::open(Arc::new(room.into()))?;
    /// const SCHEMA: [&str; 2] = [
    ///     "CREATE TABLE bird(name TEXT)",
    ///     "ALTER TABLE bird ADD COLUMN ring INTEGER",
    /// ];
    /// assert_eq!(database.migrate(&SCHEMA)?, 2);
    /// assert_eq!(database.migrate(&SCHEMA)?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What SQLite says of a migration: then none of them is applied. [`Error::NewerSchema`] if the
    /// database has had more migrations than there are.
    pub fn migrate(&self, migrations: &[&str]) -> Result<usize> {
        let applied = self.internal_number("PRAGMA user_version")? as usize;
        if applied > migrations.len() {
            let known = migrations.len();
            return Err(Error::NewerSchema { applied, known });
        }
        let missing = &migrations[applied..];
        if missing.is_empty() {
            return Ok(0);
        }
        self.transaction(|_| {
            for migration in missing {
                self.exec(migration, ())?.to_vec()?;
            }
            self.internally(&format!("PRAGMA user_version = {}", migrations.len()))
        })?;
        Ok(missing.len())
    }
}
