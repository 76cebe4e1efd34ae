//! Plans: a catalog as a deployment will leave it, and the report of how it came to that.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::{Export, ExportState, Migration};
use super::report::{ClassChange, DeployReport, Problem};
use crate::catalog::{Catalog, Deployed, State, StorageKind};

pub(super) struct Plan {
    pub(super) catalog: Catalog,
    pub(super) report: DeployReport,
    tenant: String,
    code: Option<BTreeMap<&'static str, StorageKind>>,
    /// Classes that this process uses.
    bound: BTreeSet<u32>,
}

impl Plan {
    pub(super) fn new(
        catalog: Catalog,
        tenant: &str,
        code: Option<&BTreeMap<&'static str, StorageKind>>,
        bound: BTreeSet<u32>,
    ) -> Self {
        let tag_before = match catalog.deployed(tenant) {
            Some(Deployed::Migrations { tag }) => Some(tag.clone()),
            _ => None,
        };
        let report = DeployReport {
            tag_after: tag_before.clone(),
            tag_before,
            ..DeployReport::default()
        };
        Plan {
            catalog,
            report,
            tenant: tenant.to_owned(),
            code: code.cloned(),
            bound,
        }
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.push(problem);
    }

    fn change(&mut self, change: ClassChange) {
        self.report.changes.push(change);
    }

    /// A class of the tenant that is there, not only expected.
    fn live(&self, class: &str) -> Option<usize> {
        let at = self.catalog.find(&self.tenant, class)?;
        (self.catalog.entries[at].state == State::Live).then_some(at)
    }

    /// Whether the class may be taken from whoever uses it.
    fn is_free(&mut self, at: usize) -> bool {
        let entry = &self.catalog.entries[at];
        let is_free = !self.bound.contains(&entry.uid);
        if !is_free {
            let class = entry.name.clone();
            self.problem(Problem::Bound { class });
        }
        is_free
    }

    fn delete(&mut self, at: usize) {
        if self.is_free(at) {
            self.catalog.entries[at].state = State::Deleted;
            let class = self.catalog.entries[at].name.clone();
            self.change(ClassChange::Deleted { class });
        }
    }

    fn rename(&mut self, at: usize, to: &str) {
        if self.is_free(at) {
            let name = &mut self.catalog.entries[at].name;
            let from = std::mem::replace(name, to.to_owned());
            let to = to.to_owned();
            self.change(ClassChange::Renamed { from, to });
        }
    }

    fn create(&mut self, class: &str, storage: StorageKind) {
        self.catalog.add(&self.tenant, class, None, storage);
        let class = class.to_owned();
        self.change(ClassChange::Created { class, storage });
    }

    /// Hands a class over, with its objects and their ids.
    fn hand_over(&mut self, at: usize, to_tenant: &str, to: &str) {
        if !self.is_free(at) {
            return;
        }
        let entry = &mut self.catalog.entries[at];
        let change = ClassChange::Transferred {
            from_tenant: std::mem::replace(&mut entry.tenant, to_tenant.to_owned()),
            from: std::mem::replace(&mut entry.name, to.to_owned()),
            to_tenant: to_tenant.to_owned(),
            to: to.to_owned(),
        };
        self.change(change);
    }

    /// What is declared must be in the program, with the storage that it says.
    fn check_code(&mut self, class: &str, declared: StorageKind) {
        let Some(code) = &self.code else { return };
        let class = class.to_owned();
        match code.get(class.as_str()).copied() {
            None => self.problem(Problem::NotInCode { class }),
            Some(stored) if stored != declared => self.problem(Problem::StorageDiffers {
                class,
                stored: declared,
                declared: stored,
            }),
            Some(_) => {}
        }
    }

    fn check_gone(&mut self, class: &str, what: &'static str) {
        let code = self.code.as_ref();
        if code.is_some_and(|code| code.contains_key(class)) {
            let class = class.to_owned();
            self.problem(Problem::StillInCode { class, what });
        }
    }

    /// The plan of those migrations that were not applied yet.
    pub(super) fn migrate(mut self, migrations: &[Migration]) -> Self {
        let mut tags = BTreeSet::new();
        for migration in migrations {
            if !tags.insert(&migration.tag) {
                let tag = migration.tag.clone();
                self.problem(Problem::TagTwice { tag });
            }
        }
        let deployed = self.report.tag_before.clone();
        let Some(last) = migrations.last() else {
            if let Some(tag) = deployed {
                self.problem(Problem::NoMigrations { tag });
            }
            return self;
        };
        let applied = deployed.as_ref().and_then(|deployed| {
            migrations
                .iter()
                .position(|migration| migration.tag == *deployed)
        });
        if let (Some(deployed), None) = (&deployed, applied) {
            let note = format!(
                "the store is at {deployed:?}, which is none of the migrations: all are applied"
            );
            self.report.notes.push(note);
        }
        for migration in &migrations[applied.map_or(0, |at| at + 1)..] {
            self.step(migration, deployed.is_none());
        }
        self.report.tag_after = Some(last.tag.clone());
        let tag = last.tag.clone();
        self.catalog
            .set_deployed(&self.tenant, Deployed::Migrations { tag });
        // Code is compared with the end of it, since steps may undo each other.
        let entries = self.catalog.entries.iter();
        let live: Vec<_> = entries
            .filter(|entry| entry.tenant == self.tenant && entry.state == State::Live)
            .map(|entry| (entry.name.clone(), entry.storage))
            .collect();
        live.iter()
            .for_each(|(class, storage)| self.check_code(class, *storage));
        self
    }

    /// `is_first`: before the first migration a class may have been made by using it.
    fn step(&mut self, step: &Migration, is_first: bool) {
        let missing = |directive, class: &String| Problem::NoSuchClass {
            directive,
            class: class.clone(),
        };
        let taken = |directive, class: &String| Problem::ClassExists {
            directive,
            class: class.clone(),
        };
        for class in &step.deleted_classes {
            match self.live(class) {
                Some(at) => self.delete(at),
                None => self.problem(missing("deleted_classes", class)),
            }
        }
        for renamed in &step.renamed_classes {
            match (
                self.live(&renamed.from),
                self.catalog.find(&self.tenant, &renamed.to),
            ) {
                (None, _) => self.problem(missing("renamed_classes", &renamed.from)),
                (_, Some(_)) => self.problem(taken("renamed_classes", &renamed.to)),
                (Some(at), None) => self.rename(at, &renamed.to),
            }
        }
        for transfer in &step.transferred_classes {
            let source = self.catalog.find(&transfer.from_script, &transfer.from);
            match (source, self.catalog.find(&self.tenant, &transfer.to)) {
                (None, _) => self.problem(Problem::NoSource {
                    class: transfer.from.clone(),
                    tenant: transfer.from_script.clone(),
                }),
                (_, Some(_)) => self.problem(taken("transferred_classes", &transfer.to)),
                (Some(at), None) => {
                    let tenant = self.tenant.clone();
                    self.hand_over(at, &tenant, &transfer.to);
                }
            }
        }
        let kv = step
            .new_classes
            .iter()
            .map(|class| ("new_classes", class, StorageKind::Kv));
        let sqlite = step.new_sqlite_classes.iter();
        let sqlite = sqlite.map(|class| ("new_sqlite_classes", class, StorageKind::Sqlite));
        for (directive, class, storage) in kv.chain(sqlite) {
            match self.catalog.find(&self.tenant, class) {
                None => self.create(class, storage),
                Some(at) if is_first && self.catalog.entries[at].storage == storage => {
                    let note = format!(
                        "class {class} is there already, and belongs to the migrations from now on"
                    );
                    self.report.notes.push(note);
                }
                Some(_) => self.problem(taken(directive, class)),
            }
        }
    }

    /// The plan that makes the classes what the exports say.
    pub(super) fn reconcile(mut self, exports: &BTreeMap<String, Export>) -> Self {
        let entries = self.catalog.entries.iter();
        let undeclared: Vec<_> = entries
            .filter(|entry| entry.tenant == self.tenant && entry.state != State::Deleted)
            .filter(|entry| !exports.contains_key(&entry.name))
            .map(|entry| entry.name.clone())
            .collect();
        for class in undeclared {
            self.problem(Problem::Undeclared { class });
        }
        // What goes makes room for what comes.
        for state in [
            ExportState::Deleted,
            ExportState::Transferred,
            ExportState::Renamed,
            ExportState::Created,
            ExportState::ExpectingTransfer,
        ] {
            for (class, export) in exports.iter().filter(|(_, export)| export.state == state) {
                match state {
                    ExportState::Deleted => self.export_deleted(class),
                    ExportState::Transferred => self.export_transferred(class, export),
                    ExportState::Renamed => self.export_renamed(class, export, exports),
                    ExportState::Created => self.export_created(class, export),
                    ExportState::ExpectingTransfer => self.export_expecting(class, export),
                }
            }
        }
        self.report.tag_after = None;
        self.catalog.set_deployed(&self.tenant, Deployed::Exports);
        self
    }

    fn stale(&mut self, class: &str) {
        let class = class.to_owned();
        self.change(ClassChange::SafeToRemove { class });
    }

    fn export_deleted(&mut self, class: &str) {
        self.check_gone(class, "deleted");
        match self.catalog.find(&self.tenant, class) {
            Some(at) => self.delete(at),
            None => self.stale(class),
        }
    }

    fn export_renamed(&mut self, class: &str, export: &Export, exports: &BTreeMap<String, Export>) {
        self.check_gone(class, "renamed");
        let to = export.renamed_to.clone().unwrap_or_default();
        let is_live = |export: &Export| export.state == ExportState::Created;
        if to == class || !exports.get(&to).is_some_and(is_live) {
            let from = class.to_owned();
            return self.problem(Problem::BadRename { from, to });
        }
        match (self.live(class), self.catalog.find(&self.tenant, &to)) {
            (None, _) => self.stale(class),
            (Some(_), Some(_)) => {
                let from = class.to_owned();
                self.problem(Problem::Occupied { from, to });
            }
            (Some(at), None) => self.rename(at, &to),
        }
    }

    fn export_created(&mut self, class: &str, export: &Export) {
        let Some(declared) = export.storage else {
            let class = class.to_owned();
            return self.problem(Problem::NoStorage { class });
        };
        self.check_code(class, declared);
        let Some(at) = self.catalog.find(&self.tenant, class) else {
            return self.create(class, declared);
        };
        let entry = &mut self.catalog.entries[at];
        if let State::Expected { .. } = entry.state {
            // It does not wait any longer, and begins empty.
            entry.state = State::Live;
            entry.storage = declared;
            let (class, storage) = (class.to_owned(), declared);
            return self.change(ClassChange::Created { class, storage });
        }
        let stored = entry.storage;
        if stored != declared {
            let class = class.to_owned();
            self.problem(Problem::StorageDiffers {
                class,
                stored,
                declared,
            });
        }
    }

    fn export_expecting(&mut self, class: &str, export: &Export) {
        let Some(from) = &export.transfer_from else {
            let class = class.to_owned();
            return self.problem(Problem::NoOtherTenant { class });
        };
        match self.catalog.find(&self.tenant, class) {
            // It has come.
            Some(at) if self.catalog.entries[at].state == State::Live => {
                let note = format!("class {class} is here: declare it as created");
                self.report.notes.push(note);
            }
            found => {
                if self.catalog.find(from, class).is_none() {
                    let (class, tenant) = (class.to_owned(), from.clone());
                    return self.problem(Problem::NoSource { class, tenant });
                }
                let add = || {
                    self.catalog
                        .add(&self.tenant, class, None, StorageKind::Sqlite)
                };
                let at = found.unwrap_or_else(add);
                self.catalog.entries[at].state = State::Expected { from: from.clone() };
                let (class, from_tenant) = (class.to_owned(), from.clone());
                self.change(ClassChange::TransferPending { from_tenant, class });
            }
        }
    }

    fn export_transferred(&mut self, class: &str, export: &Export) {
        self.check_gone(class, "transferred");
        let Some(to) = export.transferred_to.clone() else {
            let class = class.to_owned();
            return self.problem(Problem::NoOtherTenant { class });
        };
        let Some(at) = self.live(class) else {
            return self.stale(class);
        };
        let expected = self.catalog.find(&to, class).filter(|expected| {
            let state = &self.catalog.entries[*expected].state;
            matches!(state, State::Expected { from } if *from == self.tenant)
        });
        match expected {
            None => {
                let class = class.to_owned();
                self.problem(Problem::NotExpected { class, tenant: to });
            }
            Some(expected) if self.is_free(expected) => {
                self.hand_over(at, &to, class);
                self.catalog.entries.remove(expected);
            }
            Some(_) => {}
        }
    }
}
