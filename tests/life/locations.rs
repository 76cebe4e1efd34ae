//! Where objects live: bound to a jurisdiction, created near a hint, and moved.

use std::sync::Arc;

use dovehouse::engine::{Engine, ObjectInfo};
use dovehouse::{CallError, Ctx, Dovehouse, Error, Namespace, Query, Result};

use dovehouse::testing::{START_MS, TestDisk, TestHouse, eventually};

/// Something of everything.
struct Bird {
    /// In memory only.
    seen: u32,
}

#[dovehouse::object]
impl Bird {
    fn new(ctx: &Ctx) -> Result<Self> {
        let schema = ["CREATE TABLE IF NOT EXISTS note(text)"];
        ctx.sql().migrate(&schema)?;
        Ok(Bird { seen: 0 })
    }

    pub fn note(&mut self, ctx: &Ctx, text: String) -> Result<()> {
        ctx.kv().put("last", &text)?;
        ctx.sql().exec("INSERT INTO note VALUES (?)", (text,))?;
        ctx.alarm().set(START_MS + 1000)
    }

    pub fn fill(&mut self, ctx: &Ctx, bytes: usize) -> Result<()> {
        ctx.kv().put("filling", vec![7; bytes])
    }

    pub fn notes(&self, ctx: &Ctx) -> Result<Vec<String>> {
        let mut notes: Vec<String> = ctx.sql().exec("SELECT text FROM note", ())?.deserialize()?;
        let last = ctx
            .kv()
            .get("last")?
            .map(|last| String::from_utf8(last).unwrap());
        notes.extend(last);
        Ok(notes)
    }

    pub fn see(&mut self) -> u32 {
        self.seen += 1;
        self.seen
    }

    pub fn pending(&self, ctx: &Ctx) -> Result<Option<u64>> {
        ctx.alarm().get()
    }

    pub fn jurisdiction(&self, ctx: &Ctx) -> Option<String> {
        ctx.id().jurisdiction().map(str::to_owned)
    }

    fn alarm(&mut self, ctx: &Ctx) -> Result<()> {
        let where_from = ctx.id().jurisdiction().unwrap_or("nowhere").to_owned();
        ctx.kv().put("last", format!("alarm, {where_from}"))
    }
}

fn open(seed: u64) -> (TestHouse, Namespace<Bird>) {
    let house = TestHouse::with_settings(seed, |builder| {
        let builder = builder.location("frankfurt", "frankfurt");
        let builder = builder.location("oregon", "oregon");
        builder
            .jurisdiction("eu", &["frankfurt"])
            .jurisdiction("us", &["oregon", ""])
            .location_hint("wnam", "oregon")
            .location_hint("weur", "frankfurt")
    });
    let birds = house.namespace().unwrap();
    (house, birds)
}

fn birds(house: &Dovehouse) -> Namespace<Bird> {
    house.namespace().unwrap()
}

async fn locations(birds: &Namespace<Bird>) -> Vec<String> {
    let page = birds.objects(Query::default()).await.unwrap();
    let of = |object: dovehouse::ObjectSummary| {
        let name = object.id.name().unwrap_or("-").to_owned();
        format!("{name} {}", object.location.unwrap_or("home".into()))
    };
    page.objects.into_iter().map(of).collect()
}

#[tokio::test]
async fn bound_objects_live_in_their_jurisdiction_and_other_ids_are_refused_there() {
    let (house, birds) = open(130);
    let eu = birds.jurisdiction("eu").unwrap();
    assert!(matches!(
        birds.jurisdiction("mars").map(drop),
        Err(Error::Location { .. })
    ));
    let dove = eu.get_by_name("dove");
    dove.note("in europe".into()).await.unwrap();
    birds
        .get_by_name("dove")
        .note("anywhere".into())
        .await
        .unwrap();
    assert_eq!(locations(&birds).await, ["dove home", "dove frankfurt"]);

    // Forged and foreign ids are not even sent.
    for (namespace, id) in [
        (&eu, birds.id_from_name("dove")),
        (&eu, birds.jurisdiction("us").unwrap().unique_id()),
        (&birds, dovehouse::ObjectId::from_name("Fish", "dove")),
    ] {
        assert!(namespace.id_from_string(&id.to_string()).is_err());
        let refused = namespace.get(id).see().await.unwrap_err();
        assert!(matches!(refused, CallError::ForeignId), "{refused}");
    }

    let house = house.crash();
    let birds = self::birds(&house);
    // The namespace of all takes the id, which tells where it belongs; the alarm finds it there too.
    let parsed = birds.id_from_string(&dove.id().to_string()).unwrap();
    assert_eq!(parsed.jurisdiction(), Some("eu"));
    let parsed = birds.get(parsed);
    assert_eq!(parsed.notes().await.unwrap(), ["in europe", "in europe"]);
    assert_eq!(parsed.jurisdiction().await.unwrap().as_deref(), Some("eu"));
    house.advance(1000);
    eventually(async || parsed.notes().await.unwrap()[1] == "alarm, eu").await;
    let home = birds.get_by_name("dove");
    eventually(async || home.notes().await.unwrap()[1] == "alarm, nowhere").await;
}

#[tokio::test]
async fn a_hint_places_an_object_that_is_not_there_yet() {
    let (house, birds) = open(131);
    let near = |name: &str, hint: &str| birds.get_near(birds.id_from_name(name), hint);
    near("new", "wnam").note("a".into()).await.unwrap();
    birds.get_by_name("old").note("b".into()).await.unwrap();
    near("old", "wnam").note("c".into()).await.unwrap();
    near("new", "weur").note("d".into()).await.unwrap();
    near("unknown", "moon").note("e".into()).await.unwrap();
    let eu = birds.jurisdiction("eu").unwrap();
    eu.get_near(eu.id_from_name("bound"), "wnam")
        .note("f".into())
        .await
        .unwrap();
    let expected = ["old home", "unknown home", "bound frankfurt", "new oregon"];
    assert_eq!(locations(&birds).await, expected);
    let house = house.crash();
    let birds = self::birds(&house);
    let notes = birds.get_by_name("new").notes().await.unwrap();
    assert_eq!(notes, ["a", "d", "d"]);
}

#[tokio::test]
async fn an_object_moves_with_all_it_has_and_stays_within_its_jurisdiction() {
    let (house, birds) = open(132);
    let dove = birds.get_by_name("dove");
    dove.note("first".into()).await.unwrap();
    dove.fill(300 << 10).await.unwrap();
    assert_eq!(dove.see().await.unwrap(), 1);
    for location in ["frankfurt", "oregon", "oregon", "", "oregon"] {
        birds.move_to(dove.id(), location).await.unwrap();
        let shown = if location.is_empty() {
            "home"
        } else {
            location
        };
        assert_eq!(locations(&birds).await, [format!("dove {shown}")]);
    }
    assert_eq!(dove.see().await.unwrap(), 2, "its memory goes with it");
    dove.note("second".into()).await.unwrap();
    assert!(matches!(
        birds.move_to(dove.id(), "mars").await,
        Err(Error::Location { .. })
    ));
    let bound = birds.jurisdiction("us").unwrap().get_by_name("eagle");
    bound.note("bound".into()).await.unwrap();
    birds.move_to(bound.id(), "").await.unwrap();
    let refused = birds.move_to(bound.id(), "frankfurt").await;
    assert!(matches!(refused, Err(Error::Location { .. })));
    // One that sleeps moves too.
    assert!(house.evict(bound.id()).await.unwrap());
    birds.move_to(bound.id(), "oregon").await.unwrap();

    let house = house.crash();
    let birds = self::birds(&house);
    assert_eq!(locations(&birds).await, ["dove oregon", "eagle oregon"]);
    let dove = birds.get_by_name("dove");
    assert_eq!(dove.notes().await.unwrap(), ["first", "second", "second"]);
    assert_eq!(dove.pending().await.unwrap(), Some(START_MS + 1000));
    house.advance(1000);
    eventually(async || dove.notes().await.unwrap()[2] == "alarm, nowhere").await;

    // Without its location it is not taken for an empty one.
    let house = house.disk().power_loss().builder().open().unwrap();
    let birds = self::birds(&house);
    let gone = birds.get_by_name("dove").notes().await.unwrap_err();
    assert!(matches!(gone, CallError::Wake(why) if why.contains("oregon")));
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_move_leaves_exactly_one_owner_with_everything() {
    let (house, birds) = open(133);
    let dove = birds.get_by_name("dove");
    dove.note("kept".into()).await.unwrap();
    let before = birds.bookmark(dove.id()).unwrap();
    let mut crashes = Vec::new();
    for location in ["frankfurt", ""] {
        let moving = birds.move_to(dove.id(), location);
        let (moved, points) = house.disk().crash_points(moving).await;
        moved.unwrap();
        crashes.extend(points);
    }
    let (mut at_home, mut away) = (0, 0);
    for crash in crashes {
        for disk in [crash.power_loss(), crash.process_death()] {
            let house = house.on(disk);
            let birds = self::birds(&house);
            let dove = birds.get_by_name("dove");
            assert_eq!(dove.notes().await.unwrap(), ["kept", "kept"]);
            assert_eq!(dove.pending().await.unwrap(), Some(START_MS + 1000));
            let owner = locations(&birds).await;
            // What it was before the move is found from wherever it is, by time as well.
            let past = birds.past(dove.id(), &before).unwrap();
            assert_eq!(past.get("last").unwrap().as_deref(), Some(&b"kept"[..]));
            let listed = birds.history(dove.id()).unwrap();
            assert!(listed.iter().any(|moment| moment.bookmark == before));
            let time_ms = listed[0].time_ms;
            let then = birds.bookmark_at(dove.id(), time_ms).unwrap();
            let past = birds.past(dove.id(), &then).unwrap();
            assert_eq!(past.get("last").unwrap().as_deref(), Some(&b"kept"[..]));
            house.dovehouse().close().await.unwrap();
            // The other store has nothing of it.
            let found = ["store", "frankfurt"].map(|dir| find(house.disk(), dir));
            let expected = match owner[0].as_str() {
                "dove home" => [true, false],
                _ => [false, true],
            };
            assert_eq!((owner.len(), found), (1, expected), "{owner:?}");
            *if expected[0] { &mut at_home } else { &mut away } += 1;
        }
    }
    assert!(at_home > 0 && away > 0, "{at_home} at home, {away} away");
}

fn find(disk: &TestDisk, dir: &str) -> bool {
    let engine = Engine::builder(dir)
        .fs(Arc::new(disk.clone()))
        .open_read_only();
    let engine = engine.unwrap();
    let is_dove = |info: &ObjectInfo| info.name.as_deref() == Some("dove") && !info.entry.erased;
    engine.objects().any(|info| is_dove(&info.unwrap()))
}
