//! For how long objects can be had as they were: what classes declare, what the house has, what an operator says.

use std::sync::Arc;
use std::time::Duration;

use dovehouse::engine::{Engine, Error as EngineError, Retention};
use dovehouse::testing::TestDisk;
use dovehouse::{Bookmark, Builder, Ctx, Dovehouse, Error, Local, Namespace, Object, Result};

/// A class of two methods, under several names and declarations.
macro_rules! class {
    ($type:ident, $($argument:tt)*) => {
        struct $type;

        #[dovehouse::object($($argument)*)]
        impl $type {
            fn new() -> Self {
                $type
            }

            #[allow(dead_code)] // Of some classes no object is made.
            pub fn put(&mut self, ctx: &Ctx, value: String) -> Result<Local<Bookmark>> {
                ctx.kv().put("value", value)?;
                Ok(ctx.storage().bookmark()?.into())
            }
        }
    };
}

class!(Plain,);
class!(Hour, retention = "1h");
class!(Zero, retention = "0d");
class!(Off, retention = "off");
class!(Forever, retention = "forever", thinned = true);
// The class `Plain` in a later version of the program, and in one after that.
class!(PlainWeek, class = "Plain", retention = "7d");
class!(PlainOff, class = "Plain", retention = "off", thinned = true);

const HOUR: Retention = Retention::For(Duration::from_secs(60 * 60));
const WEEK: Retention = Retention::For(Duration::from_secs(7 * 24 * 60 * 60));

fn open(builder: Builder) -> Dovehouse {
    builder.open().unwrap()
}

fn retention<T: Object>(house: &Dovehouse) -> Retention {
    house.namespace::<T>().unwrap().retention()
}

/// What tools find in a store that nobody has open.
fn stored(disk: &TestDisk, dir: &str, class: &str) -> Retention {
    let disk = Arc::new(disk.power_loss().sim().clone());
    let engine = Engine::builder(dir).fs(disk).open_read_only().unwrap();
    let classes = engine.classes().into_iter();
    let mut found = classes.filter(|(_, _, name)| name == class);
    engine.retention(found.next().unwrap().0)
}

fn value<T: Object>(namespace: &Namespace<T>, name: &str, bookmark: &Bookmark) -> Result<Vec<u8>> {
    let past = namespace.past(&namespace.id_from_name(name), bookmark)?;
    Ok(past.get("value")?.unwrap_or_default())
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Engine(EngineError::NotAvailable { .. }))
}

#[tokio::test]
async fn a_class_declares_its_retention_and_the_house_that_of_the_others() {
    let disk = TestDisk::new(30);
    let house = open(disk.builder().retention(WEEK));
    assert_eq!(retention::<Plain>(&house), WEEK);
    assert_eq!(retention::<Hour>(&house), HOUR);
    assert_eq!(retention::<Zero>(&house), Retention::Off);
    assert_eq!(retention::<Off>(&house), Retention::Off);
    assert_eq!(retention::<Forever>(&house), Retention::Forever);
    let forever = house.namespace::<Forever>().unwrap();
    assert!(forever.thinning() && !house.namespace::<Hour>().unwrap().thinning());

    let off = house.namespace::<Off>().unwrap();
    let first = off.get_by_name("o").put("1".into()).await.unwrap().0;
    let second = off.get_by_name("o").put("2".into()).await.unwrap().0;
    assert!(is_gone(&value(&off, "o", &first).unwrap_err()));
    assert_eq!(value(&off, "o", &second).unwrap(), b"2", "the present");
    let first = forever.get_by_name("f").put("1".into()).await.unwrap().0;
    forever.get_by_name("f").put("2".into()).await.unwrap();
    assert_eq!(value(&forever, "f", &first).unwrap(), b"1");
    // Tools, which know neither the program nor its settings, keep to them.
    let expected = [
        ("Plain", WEEK),
        ("Hour", HOUR),
        ("Zero", Retention::Off),
        ("Off", Retention::Off),
        ("Forever", Retention::Forever),
    ];
    for (class, expected) in expected {
        assert_eq!(stored(&disk, "store", class), expected, "{class}");
    }
    // So does a program that has not asked for the class yet: nothing is dropped that is to be kept.
    drop((off, forever, house));
    let disk = disk.power_loss();
    let house = open(disk.builder().retention(Retention::Off));
    let class = house.engine().class("Forever").unwrap();
    assert_eq!(house.engine().retention(class), Retention::Forever);
    let forever = house.namespace::<Forever>().unwrap();
    assert_eq!(value(&forever, "f", &first).unwrap(), b"1");
    assert_eq!(
        retention::<Plain>(&house),
        Retention::Off,
        "now the house says so"
    );
}

#[tokio::test]
async fn what_an_operator_said_goes_before_what_later_programs_declare() {
    let disk = TestDisk::new(31);
    let house = open(disk.builder());
    let plain = house.namespace::<Plain>().unwrap();
    assert_eq!(
        (plain.retention(), plain.thinning()),
        (Retention::DEFAULT, false)
    );
    let first = plain.get_by_name("p").put("1".into()).await.unwrap().0;
    plain.get_by_name("p").put("2".into()).await.unwrap();
    plain.set_retention(Retention::Forever).unwrap();
    plain.set_thinning(false).unwrap();
    drop((plain, house));
    let disk = disk.power_loss();
    let house = open(disk.builder());
    // The new declaration would have let go of it.
    let plain = house.namespace::<PlainOff>().unwrap();
    assert_eq!(
        (plain.retention(), plain.thinning()),
        (Retention::Forever, false)
    );
    assert_eq!(value(&plain, "p", &first).unwrap(), b"1");
    // Taken back, the declaration counts, for this program and the next.
    plain.set_retention(None).unwrap();
    plain.set_thinning(None).unwrap();
    assert_eq!(
        (plain.retention(), plain.thinning()),
        (Retention::Off, true)
    );
    assert!(is_gone(&value(&plain, "p", &first).unwrap_err()));
    drop((plain, house));
    let disk = disk.power_loss();
    let house = open(disk.builder());
    let plain = house.namespace::<PlainWeek>().unwrap();
    assert_eq!((plain.retention(), plain.thinning()), (WEEK, false));
    disk.clock().advance(1_000);
    let third = plain.get_by_name("p").put("3".into()).await.unwrap().0;
    plain.get_by_name("p").put("4".into()).await.unwrap();
    assert_eq!(
        value(&plain, "p", &third).unwrap(),
        b"3",
        "history begins again"
    );
    assert!(is_gone(&value(&plain, "p", &first).unwrap_err()));
    assert_eq!(stored(&disk, "store", "Plain"), WEEK);
    // A program that declares nothing any more leaves it to the house.
    drop((plain, house));
    let disk = disk.power_loss();
    assert_eq!(
        retention::<Plain>(&open(disk.builder())),
        Retention::DEFAULT
    );
}

#[tokio::test]
async fn a_store_that_gets_a_class_later_is_told_what_holds_for_it() {
    let disk = TestDisk::new(32);
    let builder = || disk.builder().location("annex", "annex").retention(WEEK);
    let house = open(builder());
    let (hours, plain) = (
        house.namespace::<Hour>().unwrap(),
        house.namespace::<Plain>().unwrap(),
    );
    plain.set_retention(Retention::Forever).unwrap();
    hours.get_by_name("a").put("1".into()).await.unwrap();
    plain.get_by_name("a").put("1".into()).await.unwrap();
    hours
        .move_to(&hours.id_from_name("a"), "annex")
        .await
        .unwrap();
    plain
        .move_to(&plain.id_from_name("a"), "annex")
        .await
        .unwrap();
    assert_eq!(stored(&disk, "annex", "Hour"), HOUR);
    assert_eq!(stored(&disk, "annex", "Plain"), Retention::Forever);
    // Both stores are told from then on.
    hours.set_retention(Retention::Off).unwrap();
    assert_eq!(stored(&disk, "annex", "Hour"), Retention::Off);
    assert_eq!(stored(&disk, "store", "Hour"), Retention::Off);
}
