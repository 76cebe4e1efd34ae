//! Classes that are made, renamed, deleted and handed over, and objects that are brought up to date.

use dovehouse::deploy::{ClassChange, Deploy, Export, Migration, Problem};
use dovehouse::{CallError, Ctx, Dovehouse, Error, Local, Result, StorageKind};
use tokio::sync::oneshot;

use dovehouse::testing::{TestHouse, eventually};

/// A class of four methods, under several names.
macro_rules! class {
    ($type:ident, $($argument:tt)*) => {
        struct $type;

        #[dovehouse::object($($argument)*)]
        impl $type {
            fn new() -> Self {
                $type
            }

            pub fn put(&mut self, ctx: &Ctx, value: String) -> Result<()> {
                ctx.kv().put("value", value)
            }

            pub fn get(&self, ctx: &Ctx) -> Result<Option<String>> {
                let value = ctx.kv().get("value")?;
                Ok(value.map(|value| String::from_utf8(value).unwrap()))
            }

            pub fn sql(&self, ctx: &Ctx) -> Result<usize> {
                Ok(ctx.sql().exec("SELECT 1", ())?.to_vec()?.len())
            }
        }
    };
}

class!(Room, class = "Room");
class!(Hall, class = "Hall");
class!(KvRoom, class = "Room", storage = "kv");

fn problems(refused: Result<dovehouse::deploy::DeployReport>) -> Vec<Problem> {
    match refused {
        Err(Error::Deploy(report)) => report.problems,
        other => panic!("{other:?}"),
    }
}

fn v1() -> Migration {
    Migration::new("v1").new_sqlite("Room")
}

#[tokio::test]
async fn a_renamed_class_keeps_its_objects_ids_and_storage_across_a_power_cut() {
    let house = TestHouse::with_seed(120);
    let first = house.deploy().class::<Room>().migrations([v1()]);
    assert_eq!(first.dry_run().to_string(), "Created Room (sqlite)");
    let report = first.apply().unwrap();
    assert_eq!(
        report,
        first_again(&house, "Created Room (sqlite)", &report)
    );
    let id = {
        let rooms = house.namespace::<Room>().unwrap();
        rooms.get_by_name("lobby").put("kept".into()).await.unwrap();
        rooms.id_from_name("lobby")
    };
    // In use it cannot be taken away.
    let v2 = Migration::new("v2")
        .rename("Room", "Hall")
        .new_sqlite("Room");
    let second = |house: &Dovehouse| house.deploy().migrations([v1(), v2.clone()]);
    let bound = problems(second(&house).apply());
    assert_eq!(
        bound[0],
        Problem::Bound {
            class: "Room".into()
        }
    );
    let house = house.crash();
    let dry = second(&house).dry_run();
    assert_eq!(
        dry.to_string(),
        "Renamed Room → Hall\nCreated Room (sqlite)"
    );
    assert_eq!(dry, second(&house).dry_run(), "a dry run changes nothing");
    assert_eq!(second(&house).apply().unwrap(), dry);
    let nothing = second(&house).apply().unwrap();
    assert_eq!(nothing.to_string(), "Nothing to do");
    let house = house.crash();
    let halls = house.namespace::<Hall>().unwrap();
    assert_eq!(halls.id_from_name("lobby"), id);
    let kept = halls.get_by_name("lobby").get().await.unwrap();
    assert_eq!(kept.as_deref(), Some("kept"));
    let classes: Vec<_> = house
        .engine()
        .classes()
        .into_iter()
        .map(|(.., name)| name)
        .collect();
    assert!(classes.contains(&"Hall".to_owned()), "{classes:?}");
    halls.get_by_name("attic").put("new".into()).await.unwrap();
    assert_eq!(halls.get_by_name("attic").sql().await.unwrap(), 1);
    // The new class of the old name has other objects.
    let rooms = house.namespace::<Room>().unwrap();
    assert_ne!(rooms.id_from_name("lobby"), id);
    assert_eq!(rooms.get_by_name("lobby").get().await.unwrap(), None);
    assert_eq!(rooms.get_by_name("lobby").sql().await.unwrap(), 1);
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_deployment_leaves_all_of_it_or_nothing() {
    let house = TestHouse::with_seed(127);
    house.deploy().migrations([v1()]).apply().unwrap();
    let rooms = house.namespace::<Room>().unwrap();
    rooms.get_by_name("a").put("kept".into()).await.unwrap();
    let house = house.crash();
    let undone = house.disk().power_loss();
    let swap = Migration::new("v2").rename("Room", "Hall").new_kv("Room");
    let deploy = |house: &Dovehouse| house.deploy().migrations([v1(), swap.clone()]);
    let applying = async { deploy(&house).apply().unwrap() };
    let (_, mut crashes) = house.disk().crash_points(applying).await;
    crashes.push(undone);
    let (mut before, mut after) = (0, 0);
    for crash in crashes {
        let house = house.on(crash.power_loss());
        let names: Vec<_> = house
            .engine()
            .classes()
            .into_iter()
            .map(|class| class.2)
            .collect();
        let is_done = deploy(&house).dry_run().changes.is_empty();
        assert_eq!(names.contains(&"Hall".to_owned()), is_done, "{names:?}");
        *if is_done { &mut after } else { &mut before } += 1;
        deploy(&house).apply().unwrap();
        let halls = house.namespace::<Hall>().unwrap();
        let kept = halls.get_by_name("a").get().await.unwrap();
        assert_eq!(kept.as_deref(), Some("kept"));
        assert!(house.namespace::<KvRoom>().is_ok());
    }
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

/// The report, if its text is this.
fn first_again(
    house: &Dovehouse,
    text: &str,
    report: &dovehouse::deploy::DeployReport,
) -> dovehouse::deploy::DeployReport {
    assert_eq!(report.to_string(), text);
    assert_eq!(report.tag_after.as_deref(), Some("v1"));
    let again = house.deploy().migrations([v1()]).apply().unwrap();
    assert_eq!(
        (again.tag_before, again.changes),
        (report.tag_after.clone(), vec![])
    );
    report.clone()
}

#[tokio::test]
async fn a_deleted_class_is_gone_at_once_and_its_objects_are_erased_after_a_restart_too() {
    let house = TestHouse::with_seed(121);
    house.deploy().migrations([v1()]).apply().unwrap();
    let rooms = house.namespace::<Room>().unwrap();
    for number in 0..200 {
        rooms
            .get_by_name(&number.to_string())
            .put("old".into())
            .await
            .unwrap();
    }
    let house = house.crash();
    let v2 = Migration::new("v2").delete("Room");
    let operations = house.disk().sim().operations();
    let report = house
        .deploy()
        .migrations([v1(), v2.clone()])
        .apply()
        .unwrap();
    assert_eq!(
        report.changes,
        [ClassChange::Deleted {
            class: "Room".into()
        }]
    );
    // What follows in the background may have begun; the deletion itself writes twice.
    assert!(house.disk().sim().operations() - operations < 200);
    assert!(
        matches!(house.namespace::<Room>(), Err(Error::Class { .. })),
        "nothing makes it anew"
    );

    // A crash in the midst of it leaves the rest to the next open; the name may be used meanwhile.
    let house = house.crash();
    let v3 = Migration::new("v3").new_sqlite("Room");
    house.deploy().migrations([v1(), v2, v3]).apply().unwrap();
    let rooms = house.namespace::<Room>().unwrap();
    let again = rooms.get_by_name("7");
    assert_eq!(again.get().await.unwrap(), None);
    again.put("new".into()).await.unwrap();
    let is_clear = async || {
        let objects = house.engine().objects().map(|found| found.unwrap());
        let rooms = objects.filter(|found| found.name.is_some() && !found.entry.erased);
        rooms.count() <= 1
    };
    eventually(is_clear).await;
    assert_eq!(again.get().await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_class_keeps_the_storage_that_it_was_made_with_and_kv_has_no_sql() {
    let house = TestHouse::with_seed(122);
    let rooms = house.namespace::<KvRoom>().unwrap();
    rooms.get_by_name("a").put("value".into()).await.unwrap();
    let refused = rooms.get_by_name("a").sql().await.unwrap_err();
    assert!(
        matches!(&refused, CallError::Failed { message, .. } if message.contains("new_sqlite_classes"))
    );
    let house = house.crash();
    assert!(matches!(
        house.namespace::<Room>(),
        Err(Error::Class { .. })
    ));
    let exports = [("Room", Export::created(StorageKind::Sqlite))];
    let refused = problems(house.deploy().exports(exports).apply());
    let differs = Problem::StorageDiffers {
        class: "Room".into(),
        stored: StorageKind::Kv,
        declared: StorageKind::Sqlite,
    };
    assert_eq!(refused, [differs]);
    let exports = [("Room", Export::created(StorageKind::Kv))];
    house
        .deploy()
        .class::<KvRoom>()
        .exports(exports)
        .apply()
        .unwrap();
    let undeclared = house.namespace::<Hall>().map(drop).unwrap_err();
    assert!(undeclared.to_string().contains("exports"), "{undeclared}");
    let rooms = house.namespace::<KvRoom>().unwrap();
    assert!(rooms.get_by_name("a").get().await.unwrap().is_some());
}

#[test]
fn migrations_that_make_no_sense_are_refused_as_a_whole() {
    let house = TestHouse::with_seed(123);
    let refuse = |migrations: &[Migration]| {
        let refused = house.deploy().migrations(migrations.to_vec()).apply();
        let refused = problems(refused)
            .into_iter()
            .map(|problem| problem.to_string());
        refused.collect::<Vec<_>>().join("; ")
    };
    let gone = Migration::new("v2")
        .delete("Nobody")
        .rename("No", "Yes")
        .new_kv("Room");
    assert_eq!(
        refuse(&[v1(), gone]),
        "Cannot apply deleted_classes migration to non-existent class Nobody; \
         Cannot apply renamed_classes migration to non-existent class No; \
         Cannot apply new_classes migration to existing class Room"
    );
    assert!(
        house.deploy().dry_run().problems.is_empty(),
        "nothing was applied"
    );
    assert!(refuse(&[v1(), v1()]).contains("two migrations have the tag \"v1\""));
    let not_there = house.deploy().class::<Hall>().migrations([v1()]);
    assert_eq!(
        problems(not_there.apply()),
        [Problem::NotInCode {
            class: "Room".into()
        }]
    );
    house.deploy().migrations([v1()]).apply().unwrap();
    assert_eq!(
        problems(house.deploy().apply()),
        [Problem::NoMigrations { tag: "v1".into() }]
    );
    let unknown = Migration::new("w1").new_kv("Other");
    let report = house.deploy().migrations([unknown]).apply().unwrap();
    assert_eq!(
        (report.notes.len(), report.tag_before.as_deref()),
        (1, Some("v1"))
    );
}

#[test]
fn exports_are_reconciled_with_what_is_there() {
    let house = TestHouse::with_seed(124);
    let apply = |exports: &[(&str, Export)]| house.deploy().exports(exports.to_vec()).apply();
    let created = || Export::created(StorageKind::Sqlite);
    let report = apply(&[("Room", created()), ("Hall", created())]).unwrap();
    assert_eq!(
        report.to_string(),
        "Created Hall (sqlite)\nCreated Room (sqlite)"
    );
    let refused = |exports: &[(&str, Export)]| problems(apply(exports));
    assert_eq!(
        refused(&[("Room", created())]),
        [Problem::Undeclared {
            class: "Hall".into()
        }]
    );
    let (from, to) = ("Hall".to_owned(), "Room".to_owned());
    assert_eq!(
        refused(&[("Room", created()), ("Hall", Export::renamed("Room"))]),
        [Problem::Occupied {
            from: from.clone(),
            to
        }]
    );
    assert_eq!(
        refused(&[("Room", created()), ("Hall", Export::renamed("Attic"))]),
        [Problem::BadRename {
            from,
            to: "Attic".into()
        }]
    );
    assert_eq!(
        refused(&[
            ("Room", created()),
            ("Hall", created()),
            ("New", Export::default())
        ]),
        [Problem::NoStorage {
            class: "New".into()
        }]
    );
    let still = house.deploy().class::<Hall>().class::<Room>();
    let still = still.exports([("Room", created()), ("Hall", Export::deleted())]);
    let gone = Problem::StillInCode {
        class: "Hall".into(),
        what: "deleted",
    };
    assert_eq!(problems(still.apply()), [gone]);
    let moved = [
        ("Room", Export::deleted()),
        ("Hall", Export::renamed("Attic")),
        ("Attic", created()),
    ];
    assert_eq!(
        apply(&moved).unwrap().to_string(),
        "Deleted Room\nRenamed Hall → Attic"
    );
    assert_eq!(
        apply(&moved).unwrap().to_string(),
        "Safe to remove: Room\nSafe to remove: Hall"
    );
}

#[tokio::test]
async fn a_class_is_handed_over_to_a_tenant_that_expects_it_with_its_objects() {
    let house = TestHouse::with_seed(125);
    house
        .namespace::<Room>()
        .unwrap()
        .get_by_name("a")
        .put("mine".into())
        .await
        .unwrap();
    let house = house.crash();
    let other = house.tenant("other").unwrap();
    assert!(matches!(
        house.tenant("dovehouse"),
        Err(Error::Tenant { .. })
    ));
    let give = |house: &Dovehouse| {
        house
            .deploy()
            .exports([("Room", Export::transferred("other"))])
    };
    assert!(matches!(
        problems(give(&house).apply())[..],
        [Problem::NotExpected { .. }]
    ));
    let expect = |house: &Dovehouse| -> Deploy {
        house
            .deploy()
            .exports([("Room", Export::expecting_transfer(""))])
    };
    assert_eq!(
        expect(&other).apply().unwrap().to_string(),
        "Transfer pending: Room from "
    );
    assert!(
        matches!(other.namespace::<Room>(), Err(Error::Class { .. })),
        "not yet"
    );
    assert_eq!(
        give(&house).apply().unwrap().to_string(),
        "Transferred /Room → other/Room"
    );
    assert_eq!(expect(&other).apply().unwrap().notes.len(), 1);
    let rooms = other.namespace::<Room>().unwrap();
    assert_eq!(
        rooms.get_by_name("a").get().await.unwrap().as_deref(),
        Some("mine")
    );

    // And taken back, under another name, by a migration of who wants it.
    let back = Migration::new("v1").transfer("other", "Room", "Hall");
    let bound = problems(house.deploy().migrations([back]).apply());
    assert_eq!(
        bound,
        [Problem::Bound {
            class: "Room".into()
        }]
    );
}

/// Keeps a number in its storage that counts its migrations.
struct Versioned;

#[dovehouse::object]
impl Versioned {
    fn migrate(ctx: &Ctx) -> Result<()> {
        if ctx.kv().get("refuse")?.is_some() {
            return Err(Error::OutsideTurn);
        }
        let steps = [
            "CREATE TABLE bird(name)",
            "INSERT INTO bird VALUES ('dove')",
        ];
        if ctx.sql().migrate(&steps)? > 0 {
            ctx.kv().put("migrated", "yes")?;
        }
        Ok(())
    }

    fn new(ctx: &Ctx) -> Result<Self> {
        // The schema is there already.
        ctx.sql().exec("SELECT name FROM bird", ())?.one()?;
        Ok(Versioned)
    }

    pub fn refuse(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.kv().put("refuse", "yes")
    }

    pub async fn wait(&self, go: Local<oneshot::Receiver<()>>) {
        let _ = go.0.await;
    }
}

/// The same class before it had a schema.
struct Unversioned;

#[dovehouse::object(class = "Versioned")]
impl Unversioned {
    fn new() -> Self {
        Unversioned
    }

    pub fn put(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.kv().put("old", "data")
    }
}

#[tokio::test]
async fn a_sweep_brings_sleeping_objects_up_to_date_and_can_be_stopped_and_continued() {
    let house = TestHouse::with_seed(126);
    let before = house.namespace::<Unversioned>().unwrap();
    for number in 0..100 {
        before.get_by_name(&number.to_string()).put().await.unwrap();
    }
    drop(before);
    let house = house.crash();
    let objects = house.namespace::<Versioned>().unwrap();
    objects.get_by_name("3").refuse().await.unwrap();
    assert!(house.evict(objects.get_by_name("3").id()).await.unwrap());
    let (go, gate) = oneshot::channel();
    let awake = objects.get_by_name("5");
    let waiting = tokio::spawn({
        let awake = awake.clone();
        async move { awake.wait(Local(gate)).await }
    });
    eventually(async || house.awake().await.unwrap() == 1).await;

    let sweep = objects.sweep();
    let running = tokio::spawn({
        let sweep = sweep.clone();
        async move { sweep.run().await.unwrap() }
    });
    eventually(async || sweep.progress().done() >= 10).await;
    sweep.stop();
    let stopped = running.await.unwrap();
    assert!((10..=100).contains(&stopped.done()), "{stopped:?}");
    assert_eq!(stopped.total, 100);
    let done = sweep.run().await.unwrap();
    assert_eq!((done.migrated, done.awake, done.failed), (98, 1, 1));
    assert_eq!(house.awake().await.unwrap(), 1, "they sleep again");
    go.send(()).unwrap();
    waiting.await.unwrap().unwrap();
    let pages = objects.objects(dovehouse::Query::default()).await.unwrap();
    let migrated = pages.objects.iter().filter(|object| object.bytes > 4096);
    assert!(migrated.count() >= 98, "nobody has called them");
}
