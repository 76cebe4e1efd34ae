//! Time travel as users of the runtime see it: bookmarks in handlers, restores of the next session and at once,
//! forks, objects as they were, and for how long.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

mod keeping;
mod moves;
mod sql;

use std::time::Duration;

use dovehouse::engine::Error as EngineError;
use dovehouse::testing::{START_MS, TestHouse};
use dovehouse::{
    AlarmInfo, Bookmark, CallError, Ctx, Error, List, Local, Moment, Namespace, Result, Retention,
};

fn open(seed: u64) -> (TestHouse, Namespace<Diary>) {
    let house = TestHouse::with_seed(seed);
    let diaries = house.namespace().unwrap();
    (house, diaries)
}

/// Another house, as a power cut leaves this one, which goes on.
fn after_power_loss(house: &TestHouse) -> (TestHouse, Namespace<Diary>) {
    let cut = house.on(house.disk().power_loss());
    let diaries = cut.namespace().unwrap();
    (cut, diaries)
}

/// What its constructor found, and entries in both keys and a table.
struct Diary {
    found: Vec<String>,
}

/// What the object has: its keys, and the rows of its table.
fn entries(ctx: &Ctx) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    for (key, value) in ctx.kv().list(&List::all())? {
        all.push(String::from_utf8(key).unwrap() + "=" + std::str::from_utf8(&value).unwrap());
    }
    all.extend(
        ctx.sql()
            .exec("SELECT text FROM entry ORDER BY id", ())?
            .deserialize::<String>()?,
    );
    Ok(all)
}

fn write(ctx: &Ctx, text: &str) -> Result<()> {
    ctx.kv().put("last", text)?;
    ctx.sql()
        .exec("INSERT INTO entry(text) VALUES (?)", (text,))?;
    Ok(())
}

#[dovehouse::object]
impl Diary {
    fn new(ctx: &Ctx) -> Result<Self> {
        ctx.sql().exec(
            "CREATE TABLE IF NOT EXISTS entry(id INTEGER PRIMARY KEY, text)",
            (),
        )?;
        Ok(Diary {
            found: entries(ctx)?,
        })
    }

    pub fn write(&mut self, ctx: &Ctx, text: String) -> Result<Local<Bookmark>> {
        write(ctx, &text)?;
        Ok(ctx.storage().bookmark()?.into())
    }

    pub fn write_unconfirmed(&mut self, ctx: &Ctx, text: String) -> Result<Local<Bookmark>> {
        ctx.kv().unconfirmed().put("last", text)?;
        Ok(ctx.storage().bookmark()?.into())
    }

    pub fn entries(&self, ctx: &Ctx) -> Result<Vec<String>> {
        entries(ctx)
    }

    pub fn found(&self) -> Result<Vec<String>> {
        Ok(self.found.clone())
    }

    /// Bookmarks between the writes of one turn.
    pub fn three_in_a_turn(&mut self, ctx: &Ctx) -> Result<Local<Vec<Bookmark>>> {
        let mut bookmarks = Vec::new();
        for text in ["a", "b", "c"] {
            write(ctx, text)?;
            bookmarks.push(ctx.storage().bookmark()?);
            // Nothing was written between them.
            assert_eq!(ctx.storage().bookmark()?, *bookmarks.last().unwrap());
        }
        write(ctx, "after")?;
        Ok(bookmarks.into())
    }

    pub async fn in_transactions(&mut self, ctx: &Ctx) -> Result<()> {
        let before = ctx.storage().bookmark()?;
        ctx.transaction(async |_| {
            ctx.kv().put("within", "1")?;
            let error = ctx.storage().bookmark().unwrap_err();
            assert!(matches!(error, Error::Engine(EngineError::OpenTransaction)));
            let armed = ctx.storage().on_next_session_restore(&before).await;
            assert!(matches!(
                armed,
                Err(Error::Engine(EngineError::OpenTransaction))
            ));
            Ok::<_, Error>(())
        })
        .await?;
        ctx.sql().transaction(|_| {
            let error = ctx.storage().bookmark().unwrap_err();
            assert!(matches!(error, Error::Engine(EngineError::OpenTransaction)));
            Ok::<_, Error>(())
        })
    }

    pub async fn history(&self, ctx: &Ctx) -> Result<Local<Vec<Moment>>> {
        Ok(ctx.storage().history().await?.into())
    }

    pub async fn bookmark_at(&self, ctx: &Ctx, ms: u64) -> Result<Local<Result<Bookmark>>> {
        Ok(ctx.storage().bookmark_at(ms).await.into())
    }

    pub async fn arm(
        &mut self,
        ctx: &Ctx,
        bookmark: Local<Bookmark>,
    ) -> Result<Local<Result<Bookmark>>> {
        let bookmark = bookmark.0;
        Ok(ctx
            .storage()
            .on_next_session_restore(&bookmark)
            .await
            .into())
    }

    /// Goes back, as the guide says, and leaves the way back in the error.
    pub async fn go_back(&mut self, ctx: &Ctx, bookmark: Local<Bookmark>) -> Result<()> {
        write(ctx, "about to go")?;
        let bookmark = bookmark.0;
        let undo = ctx.storage().on_next_session_restore(&bookmark).await?;
        write(ctx, "never")?;
        ctx.abort(undo.to_string())
    }

    pub fn wake_me_at(&mut self, ctx: &Ctx, ms: u64) -> Result<()> {
        ctx.alarm().set(ms)
    }

    pub fn due(&self, ctx: &Ctx) -> Result<Option<u64>> {
        ctx.alarm().get()
    }

    pub async fn restore_itself(&mut self, ctx: &Ctx, to: Local<Bookmark>) -> Result<()> {
        let diaries = ctx.house()?.namespace::<Diary>()?;
        let restored = diaries.restore(ctx.id(), &to.0, false).await;
        assert!(matches!(restored, Err(Error::Call(CallError::Reentrant))));
        Ok(())
    }

    async fn alarm(&mut self, ctx: &Ctx, _: AlarmInfo) -> Result<()> {
        write(ctx, "alarm")
    }
}

/// What a past object has, as [`entries`] tells it, without the rows.
fn last(diaries: &Namespace<Diary>, name: &str, bookmark: &Bookmark) -> Option<String> {
    let past = diaries.past(&diaries.id_from_name(name), bookmark).unwrap();
    let last = past.get("last").unwrap();
    last.map(|value| String::from_utf8(value).unwrap())
}

#[tokio::test]
async fn a_bookmark_includes_the_write_before_it_and_not_the_one_after() {
    let (house, diaries) = open(1);
    let diary = diaries.get_by_name("d");
    let marks = diary.three_in_a_turn().await.unwrap().0;
    assert!(marks.is_sorted());
    for (mark, text) in marks.iter().zip(["a", "b", "c"]) {
        assert_eq!(last(&diaries, "d", mark).as_deref(), Some(text));
    }
    let id = diaries.id_from_name("d");
    let newest = diaries.bookmark(&id).unwrap();
    assert_eq!(last(&diaries, "d", &newest).as_deref(), Some("after"));
    // What was said of an unconfirmed write is true after a power cut.
    let mark = diary.write_unconfirmed("u".into()).await.unwrap().0;
    let (_house, diaries) = after_power_loss(&house);
    assert_eq!(last(&diaries, "d", &mark).as_deref(), Some("u"));
    diaries.get_by_name("d").in_transactions().await.unwrap();
}

#[tokio::test]
async fn the_past_is_found_by_time_and_listed_in_and_outside_of_the_object() {
    let (house, diaries) = open(2);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    house.advance(1_000);
    let one = diary.write("one".into()).await.unwrap().0;
    house.advance(1_000);
    let two = diary.write("two".into()).await.unwrap().0;
    let between = START_MS + 1_500;
    assert_eq!(diaries.bookmark_at(&id, between).unwrap(), one);
    let asked = diary.bookmark_at(between).await.unwrap().0;
    assert_eq!(asked.unwrap(), one);
    assert_eq!(diaries.bookmark(&id).unwrap(), two);
    let moments = diary.history().await.unwrap().0;
    assert_eq!(diaries.history(&id).unwrap(), moments);
    let (newest, before) = (moments.last().unwrap(), &moments[moments.len() - 2]);
    assert_eq!((newest.bookmark, before.bookmark), (two, one));
    assert_eq!(newest.time_ms, START_MS + 2_000);
    assert!(newest.bytes > 0);
    let later = diary.bookmark_at(START_MS + 9_000).await.unwrap();
    let error = later.0.unwrap_err();
    assert!(
        matches!(error, Error::Engine(EngineError::NotAvailable { newest, .. }) if newest == two)
    );
    // An id that nobody used, and one of another class.
    let nobody = diaries.history(&diaries.id_from_name("nobody"));
    assert!(matches!(
        nobody.unwrap_err(),
        Error::Engine(EngineError::NoObject { .. })
    ));
    let foreign = dovehouse::ObjectId::from_name("Other", "d");
    assert!(matches!(diaries.history(&foreign), Err(Error::Id(_))));
}

#[tokio::test]
async fn the_next_session_begins_with_what_was_and_can_be_undone() {
    let (house, diaries) = open(3);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    let then = diary.write("then".into()).await.unwrap().0;
    diary.write("later".into()).await.unwrap();
    diary.wake_me_at(START_MS + 60_000).await.unwrap();
    let aborted = diary.go_back(then.into()).await.unwrap_err();
    let CallError::Aborted(undo) = aborted else {
        panic!("{aborted}");
    };
    let undo: Bookmark = undo.parse().unwrap();
    // The abort undid what its turn wrote, and not that the object goes back; no key tells of that.
    let before = diaries.past(&id, &undo).unwrap();
    assert_eq!(before.get("last").unwrap().unwrap(), b"about to go");
    assert_eq!(before.alarms(), [(String::new(), START_MS + 60_000)]);
    // The house dies before the next session; that begins with the restore all the same.
    let (cut, cut_diaries) = after_power_loss(&house);
    for (house, diaries) in [(&house, diaries), (&cut, cut_diaries)] {
        let diary = diaries.get_by_name("d");
        assert_eq!(diary.found().await.unwrap(), ["last=then", "then"]);
        assert_eq!(diary.entries().await.unwrap(), ["last=then", "then"]);
        assert_eq!(diary.due().await.unwrap(), Some(START_MS + 60_000));
        // As one commit, once.
        let moments = diaries.history(&id).unwrap();
        let restored = moments.last().unwrap();
        let before = &moments[moments.len() - 2].bookmark;
        assert_eq!(last(&diaries, "d", before).as_deref(), Some("about to go"));
        let kept = diary.write("kept".into()).await.unwrap().0;
        assert!(kept > restored.bookmark);
        let (house, diaries) = after_power_loss(house);
        let diary = diaries.get_by_name("d");
        assert_eq!(diary.found().await.unwrap(), ["last=kept", "then", "kept"]);
        // And back again, by eviction this time.
        diary.arm(undo.into()).await.unwrap().0.unwrap();
        diary.write("replaced".into()).await.unwrap();
        assert!(house.evict(&id).await.unwrap());
        assert_eq!(
            diary.found().await.unwrap(),
            ["last=about to go", "then", "later", "about to go"]
        );
    }
}

#[tokio::test]
async fn a_bookmark_of_another_object_or_one_that_is_gone_is_refused_when_it_is_given() {
    let (house, diaries) = open(4);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    assert_eq!(diaries.retention(), Retention::DEFAULT);
    let old = diary.write("old".into()).await.unwrap().0;
    let now = diary.write("now".into()).await.unwrap().0;
    let other = diaries.get_by_name("other");
    let foreign = other.write("x".into()).await.unwrap().0;
    let is_foreign =
        |error: Error| matches!(error, Error::Engine(EngineError::WrongBookmark { .. }));
    let armed = diary.arm(foreign.into()).await.unwrap();
    assert!(is_foreign(armed.0.unwrap_err()));
    assert!(is_foreign(diaries.past(&id, &foreign).unwrap_err()));
    let restored = diaries.restore(&id, &foreign, false).await;
    assert!(is_foreign(restored.unwrap_err()));
    // It is armed while it can be had, and gone when the object wakes: it wakes as it is.
    diary.arm(old.into()).await.unwrap().0.unwrap();
    diaries.set_retention(Retention::Off).unwrap();
    assert!(house.evict(&id).await.unwrap());
    assert_eq!(diary.found().await.unwrap(), ["last=now", "old", "now"]);
    let armed = diary.arm(old.into()).await.unwrap().0;
    let Err(Error::Engine(EngineError::NotAvailable { newest, .. })) = armed else {
        panic!("{armed:?}");
    };
    assert!(newest >= now, "it may have fallen asleep since");
    diaries
        .set_retention(Retention::For(Duration::from_secs(60)))
        .unwrap();
    drop(diaries);
    let (house, diaries) = after_power_loss(&house);
    let kept = Retention::For(Duration::from_secs(60));
    assert_eq!(diaries.retention(), kept);
    assert!(house.evict(&id).await.unwrap());
    let found = diaries.get_by_name("d").found().await.unwrap();
    assert_eq!(found, ["last=now", "old", "now"]);
}

#[tokio::test]
async fn an_object_is_restored_from_outside_awake_or_asleep() {
    let (house, diaries) = open(5);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    diary.wake_me_at(START_MS + 5_000).await.unwrap();
    let then = diary.write("then".into()).await.unwrap().0;
    diary.wake_me_at(START_MS + 60_000).await.unwrap();
    let later = diary.write("later".into()).await.unwrap().0;
    diary.restore_itself(then.into()).await.unwrap();
    // Awake; what was armed is forgotten.
    diary.arm(later.into()).await.unwrap().0.unwrap();
    let undo = diaries.restore(&id, &then, false).await.unwrap();
    assert_eq!(undo, later);
    assert_eq!(diary.found().await.unwrap(), ["last=then", "then"]);
    assert_eq!(diary.due().await.unwrap(), Some(START_MS + 60_000));
    assert!(house.evict(&id).await.unwrap());
    assert_eq!(diary.found().await.unwrap(), ["last=then", "then"]);
    // Asleep, and in the midst of calls, which find the one or the other.
    assert!(house.evict(&id).await.unwrap());
    let (undone, found) = tokio::join!(diaries.restore(&id, &later, false), diary.found());
    undone.unwrap();
    assert_eq!(found.unwrap(), ["last=later", "then", "later"]);
    let (found, undone) = tokio::join!(diary.found(), diaries.restore(&id, &then, true));
    undone.unwrap();
    assert_eq!(found.unwrap(), ["last=later", "then", "later"]);
    assert_eq!(diary.due().await.unwrap(), Some(START_MS + 5_000));
    // It was acknowledged, so a power cut keeps it; and the scheduler knows of the alarm.
    let (_house, lost) = after_power_loss(&house);
    let lost = lost.get_by_name("d").entries().await.unwrap();
    assert_eq!(lost, ["last=then", "then"]);
    house.advance(10_000);
    house.alarms_done().await;
    let expected = ["last=alarm", "then", "alarm"];
    assert_eq!(diary.entries().await.unwrap(), expected);
}

#[tokio::test]
async fn a_fork_has_what_was_and_goes_its_own_way() {
    let (house, diaries) = open(6);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    diary.wake_me_at(START_MS + 60_000).await.unwrap();
    let then = diary.write("then".into()).await.unwrap().0;
    diary.write("later".into()).await.unwrap();
    let (to, too) = (diaries.id_from_name("fork"), diaries.id_from_name("too"));
    diaries.fork(&id, &then, &to, false).await.unwrap();
    diaries.fork(&id, &then, &too, true).await.unwrap();
    let (fork, fork_too) = (diaries.get_by_name("fork"), diaries.get_by_name("too"));
    assert_eq!(fork.found().await.unwrap(), ["last=then", "then"]);
    assert_eq!(fork.due().await.unwrap(), None);
    assert_eq!(fork_too.due().await.unwrap(), Some(START_MS + 60_000));
    fork.write("fork".into()).await.unwrap();
    let expected = ["last=later", "then", "later"];
    assert_eq!(diary.entries().await.unwrap(), expected);
    let taken = diaries.fork(&id, &then, &to, false).await.unwrap_err();
    assert!(matches!(taken, Error::Engine(EngineError::NotEmpty { .. })));
    let expected = ["last=fork", "then", "fork"];
    assert_eq!(fork.entries().await.unwrap(), expected, "it goes on");
    let (_house, diaries) = after_power_loss(&house);
    let fork = diaries.get_by_name("fork");
    assert_eq!(fork.entries().await.unwrap(), expected);
}
