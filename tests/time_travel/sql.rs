//! SQL on objects as they were.

use std::sync::Arc;

use dovehouse::engine::Error as EngineError;
use dovehouse::sqlbridge::Error as SqlError;
use dovehouse::testing::{START_MS, TestDisk};
use dovehouse::{Bookmark, Ctx, Error, Local, Past, Result, Rule, SqlPolicy};
use serde::Deserialize;

use crate::open;

#[derive(Debug, Deserialize, PartialEq)]
struct Entry {
    id: u32,
    text: String,
}

fn texts(past: &Past) -> Vec<String> {
    let rows = past.sql().exec("SELECT text FROM entry ORDER BY id", ());
    rows.unwrap().deserialize().unwrap()
}

fn is_past_error(error: &Error) -> bool {
    matches!(
        error,
        Error::Sql(SqlError::Engine(EngineError::Past { .. }))
    )
}

#[tokio::test]
async fn several_pasts_are_queried_beside_the_live_object_and_none_takes_a_write() {
    let (house, diaries) = open(20);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    house.advance(1_000);
    let mut pasts = Vec::new();
    for text in ["one", "two", "three"] {
        let then = diary.write(text.into()).await.unwrap().0;
        pasts.push(diaries.past(&id, &then).unwrap());
    }
    diary.write("live".into()).await.unwrap();
    for (past, expected) in
        pasts
            .iter()
            .zip([&["one"][..], &["one", "two"], &["one", "two", "three"]])
    {
        assert_eq!(texts(past), expected);
        // Its keys are those of then, in SQL too.
        let last = past.sql().exec(
            "SELECT CAST(value AS TEXT) FROM kv WHERE key = ?",
            ("last",),
        );
        let last: String = last.unwrap().one().unwrap().get(0).unwrap();
        assert_eq!(last, *expected.last().unwrap());
    }
    let sql = pasts[2].sql();
    let found = sql.exec(
        "SELECT * FROM entry WHERE id > ? AND text <> ?",
        (1, "three"),
    );
    let two = Entry {
        id: 2,
        text: "two".into(),
    };
    assert_eq!(found.unwrap().deserialize::<Entry>().unwrap(), [two]);
    // Cursors of two of them, and two of one, side by side.
    let all = "SELECT text FROM entry ORDER BY id";
    let mut cursors =
        [&pasts[1], &pasts[2], &pasts[2]].map(|past| past.sql().exec(all, ()).unwrap());
    for expected in ["one", "two"] {
        for cursor in &mut cursors {
            let row = cursor.next().unwrap().unwrap();
            assert_eq!(row.get::<String>("text").unwrap(), expected);
        }
    }
    drop(cursors);

    for write in [
        "DELETE FROM entry",
        "INSERT INTO entry(text) VALUES ('x')",
        "CREATE TABLE other(a)",
        "CREATE TEMP TABLE other(a)",
        "DELETE FROM kv",
        "SELECT 1; DROP TABLE entry",
    ] {
        let refused = sql.exec(write, ()).map(drop).unwrap_err();
        assert!(is_past_error(&refused), "{write}: {refused}");
        assert!(refused.to_string().contains("can be read, not changed"));
    }
    assert_eq!(texts(&pasts[2]), ["one", "two", "three"]);
    assert_eq!(
        diary.entries().await.unwrap().len(),
        5,
        "the live one goes on"
    );
    assert!(sql.database_size().unwrap() > 0);

    // A restore of the object does not change what it was.
    let then = pasts[0].bookmark();
    diaries.restore(&id, &then, false).await.unwrap();
    assert_eq!(texts(&pasts[2]), ["one", "two", "three"]);
    // Before the first commit there was no table.
    let nothing = diaries.bookmark_at(&id, START_MS - 1).unwrap();
    let nothing = diaries.past(&id, &nothing).unwrap();
    let missing = nothing.sql().exec(all, ()).map(drop).unwrap_err();
    assert!(missing.to_string().contains("no such table"), "{missing}");
    house.close().await.unwrap();
}

#[tokio::test]
async fn a_past_is_read_by_several_threads_and_a_big_one_by_what_is_asked_for() {
    let (_house, diaries) = open(21);
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    let mut then = None;
    for number in 0..100u32 {
        let text = number.to_string().repeat(2_000);
        then = Some(diary.write(text).await.unwrap().0);
    }
    diary.write("after".into()).await.unwrap();
    let past = Arc::new(diaries.past(&id, &then.unwrap()).unwrap());
    let count = |past: Arc<Past>, from: u32| {
        tokio::task::spawn_blocking(move || -> Result<u32> {
            let sql = "SELECT count(*) FROM entry WHERE id > ?";
            let counts = (0..20).map(|_| Ok(past.sql().exec(sql, (from,))?.one()?.get(0)?));
            counts
                .collect::<Result<Vec<u32>>>()
                .map(|counts| counts[19])
        })
    };
    let counting = [0, 50, 99, 100].map(|from| count(past.clone(), from));
    let mut counts = Vec::new();
    for counted in counting {
        counts.push(counted.await.unwrap().unwrap());
    }
    assert_eq!(counts, [100, 50, 1, 0]);
    let (past, sql) = (&past, "SELECT length(text) FROM entry WHERE id = 11");
    let length: u32 = past
        .sql()
        .exec(sql, ())
        .unwrap()
        .one()
        .unwrap()
        .get(0)
        .unwrap();
    assert_eq!(length, 4_000);
}

/// A class without SQL.
struct Counter;

#[dovehouse::object(storage = "kv")]
impl Counter {
    fn new() -> Self {
        Counter
    }

    pub fn count(&mut self, ctx: &Ctx) -> Result<Local<Bookmark>> {
        let count: u32 = ctx.kv().get_as("count")?.unwrap_or(0);
        ctx.kv().put_as("count", &(count + 1))?;
        Ok(ctx.storage().bookmark()?.into())
    }
}

#[tokio::test]
async fn the_past_is_under_the_houses_policy_and_has_no_sql_where_the_class_has_none() {
    let disk = TestDisk::new(22);
    let house = disk.builder().sql_policy(SqlPolicy::cloudflare()).open();
    let house = house.unwrap();
    let counters = house.namespace::<Counter>().unwrap();
    let counter = counters.get_by_name("c");
    let one = counter.count().await.unwrap().0;
    counter.count().await.unwrap();
    let past = counters.past(counter.id(), &one).unwrap();
    assert_eq!(past.get_as::<u32>("count").unwrap(), Some(1));
    let refused = past.sql().exec("SELECT 1", ()).map(drop).unwrap_err();
    assert!(matches!(refused, Error::NoSql { class: "Counter" }));

    let diaries = house.namespace::<crate::Diary>().unwrap();
    let diary = diaries.get_by_name("d");
    let then = diary.write("then".into()).await.unwrap().0;
    let past = diaries.past(diary.id(), &then).unwrap();
    assert_eq!(texts(&past), ["then"]);
    for (sql, expected) in [
        ("SELECT sqlite_version()", Rule::Function),
        ("PRAGMA user_version", Rule::Pragma),
    ] {
        let refused = past.sql().exec(sql, ()).map(drop).unwrap_err();
        assert!(
            matches!(refused, Error::Sql(SqlError::Denied { rule, .. }) if rule == expected),
            "{sql}: {refused}"
        );
    }
}
