//! Class lifecycle: classes are made, renamed, deleted and handed over by a deployment, which compares what is
//! declared with what the store has.
//!
//! 1. The plan is made on a copy of the catalog; see `plan.rs`. A plan with a problem changes nothing.
//! 2. The copy becomes the catalog, in one commit of the register: from here on the deployment is done.
//! 3. The names of the classes in the stores follow.
//! 4. The objects of deleted classes are erased in the background, now or after the next open.

mod declared;
mod plan;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use declared::{Export, ExportKind, ExportState, Migration, Rename, Transfer};
pub use report::{ClassChange, DeployReport, Problem};

use crate::catalog::{Catalog, StorageKind};
use crate::error::{Error, Result};
use crate::house::Inner;
use crate::object::Object;
use plan::Plan;

/// A deployment of a tenant's classes; see [`Dovehouse::deploy`](crate::Dovehouse::deploy).
#[derive(Clone)]
pub struct Deploy {
    house: Arc<Inner>,
    tenant: Arc<str>,
    /// Classes of the program, if it said which.
    code: Option<BTreeMap<&'static str, StorageKind>>,
    declared: Declared,
}

#[derive(Clone, Debug)]
enum Declared {
    Migrations(Vec<Migration>),
    Exports(BTreeMap<String, Export>),
}

impl std::fmt::Debug for Deploy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Deploy");
        debug
            .field("tenant", &self.tenant)
            .field("declared", &self.declared);
        debug.finish_non_exhaustive()
    }
}

impl Deploy {
    pub(crate) fn new(house: Arc<Inner>, tenant: Arc<str>) -> Self {
        Deploy {
            house,
            tenant,
            code: None,
            declared: Declared::Migrations(Vec::new()),
        }
    }

    /// Says that the program has this class. Once one is named, all have to be: what is declared must be in
    /// the program, and what is deleted must not.
    pub fn class<T: Object>(mut self) -> Self {
        self.code
            .get_or_insert_default()
            .insert(T::CLASS, T::STORAGE);
        self
    }

    /// Declares the classes by steps, each of which is applied once: all that were ever released, in their
    /// order. Replaces what was declared before.
    pub fn migrations(mut self, migrations: impl IntoIterator<Item = Migration>) -> Self {
        self.declared = Declared::Migrations(migrations.into_iter().collect());
        self
    }

    /// Declares the classes that are to be, by name. Replaces what was declared before.
    pub fn exports<N: Into<String>>(
        mut self,
        exports: impl IntoIterator<Item = (N, Export)>,
    ) -> Self {
        let named = exports
            .into_iter()
            .map(|(name, export)| (name.into(), export));
        self.declared = Declared::Exports(named.collect());
        self
    }

    /// What [`Deploy::apply`] would do. Changes nothing.
    pub fn dry_run(&self) -> DeployReport {
        let catalog = self.house.catalog.lock();
        self.plan(&catalog).report
    }

    /// Does it: all of it or nothing, durably when it returns, in a time that does not depend on the number of
    /// objects. May be called at every start of the program: what was applied is not applied again.
    ///
    /// # Errors
    /// [`Error::Deploy`] with the report if there is a problem; nothing was changed then.
    pub fn apply(&self) -> Result<DeployReport> {
        let mut catalog = self.house.catalog.lock();
        let plan = self.plan(&catalog);
        if !plan.report.problems.is_empty() {
            return Err(Error::Deploy(Box::new(plan.report)));
        }
        self.house.change_catalog(&mut catalog, plan.catalog)?;
        for (store, engine) in self.house.engines() {
            catalog.name_classes(self.house.location_name(store), engine)?;
        }
        drop(catalog);
        self.house.clear_deleted();
        Ok(plan.report)
    }

    fn plan(&self, catalog: &Catalog) -> Plan {
        let bound: BTreeSet<u32> = self.house.bound_classes();
        let plan = Plan::new(catalog.clone(), &self.tenant, self.code.as_ref(), bound);
        match &self.declared {
            Declared::Migrations(migrations) => plan.migrate(migrations),
            Declared::Exports(exports) => plan.reconcile(exports),
        }
    }
}
