//! SQL in handlers: cursors over awaits, inner transactions with keys, and what ends a cursor.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use dovehouse::testing::TestHouse;
use dovehouse::{Ctx, Error, PoolSizes, Result, SqlCursor, SqlPolicy};

struct Aviary {
    kept: Option<SqlCursor>,
}

#[dovehouse::object]
impl Aviary {
    fn new() -> Self {
        Aviary { kept: None }
    }

    pub fn fill(&mut self, ctx: &Ctx) -> Result<usize> {
        let applied = ctx.sql().migrate(&["CREATE TABLE bird(name TEXT)"])?;
        for name in ["dove", "wren", "crow"] {
            ctx.sql().exec("INSERT INTO bird VALUES (?)", (name,))?;
        }
        Ok(applied)
    }

    /// Reads a row, lets the turn end, and reads on.
    pub async fn slowly(&mut self, ctx: &Ctx) -> Result<Vec<String>> {
        let mut birds = ctx.sql().exec("SELECT name FROM bird ORDER BY rowid", ())?;
        let mut names = Vec::new();
        while let Some(row) = birds.next()? {
            names.push(row.get(0)?);
            ctx.kv().put("read", names.len().to_string())?;
            tokio::task::yield_now().await;
        }
        Ok(names)
    }

    pub fn try_and_fail(&mut self, ctx: &Ctx) -> Result<(i64, Option<Vec<u8>>)> {
        let inner: Result<()> = ctx.sql().transaction(|sql| {
            sql.exec("DELETE FROM bird", ())?;
            ctx.kv().put("deleted", "yes")?;
            sql.exec("INSERT INTO nowhere VALUES (1)", ())?;
            Ok(())
        });
        assert!(inner.is_err());
        let left = ctx
            .sql()
            .exec("SELECT count(*) FROM bird", ())?
            .one()?
            .get(0)?;
        Ok((left, ctx.kv().get("deleted")?))
    }

    pub fn keep(&mut self, ctx: &Ctx) -> Result<()> {
        self.kept = Some(ctx.sql().exec("SELECT name FROM bird", ())?);
        Ok(())
    }

    pub fn kept(&mut self, _ctx: &Ctx) -> Result<Option<String>, String> {
        let row = self.kept.as_mut().expect("one was kept").next();
        let row = row.map_err(|error| error.to_string())?;
        Ok(row.map(|row| row.get(0).expect("a name")))
    }

    pub fn clear_inside(&mut self, ctx: &Ctx) -> Result<bool> {
        let inner = ctx.sql().transaction(|_| ctx.delete_all());
        let refused = matches!(inner, Err(Error::InsideTransaction));
        Ok(refused && !ctx.sql().exec("SELECT 1 FROM bird", ())?.is_empty())
    }

    pub fn clear(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.delete_all()
    }
}

#[tokio::test]
async fn cursors_inner_transactions_and_migrations_work_in_handlers() {
    let house = TestHouse::new();
    let aviary = house.namespace::<Aviary>().unwrap().get_by_name("one");
    assert_eq!(aviary.fill().await.unwrap(), 1);
    assert_eq!(aviary.slowly().await.unwrap(), ["dove", "wren", "crow"]);
    assert_eq!(aviary.try_and_fail().await.unwrap(), (3, None));
    assert!(aviary.clear_inside().await.unwrap());
    assert_eq!(aviary.fill().await.unwrap(), 0);
    house.close().await.unwrap();
}

#[tokio::test]
async fn a_cursor_lives_over_turns_until_its_database_is_deleted() {
    let house = TestHouse::new();
    let aviary = house.namespace::<Aviary>().unwrap().get_by_name("two");
    aviary.fill().await.unwrap();
    aviary.keep().await.unwrap();
    assert_eq!(aviary.kept().await.unwrap().as_deref(), Some("dove"));
    aviary.clear().await.unwrap();
    let error = aviary.kept().await.unwrap_err().to_string();
    assert!(error.contains("canceled"), "{error}");
    house.close().await.unwrap();
}

#[tokio::test]
async fn objects_without_a_place_in_the_pool_open_their_database_again() {
    let sizes = PoolSizes {
        hot: 1,
        open: 2,
        idle: 1,
    };
    let house = TestHouse::with_settings(1, move |builder| builder.shards(1).sql_pool(sizes));
    let aviaries = house.namespace::<Aviary>().unwrap();
    for round in 1..=3 {
        for name in ["one", "two", "three", "four"] {
            let aviary = aviaries.get_by_name(name);
            aviary.fill().await.unwrap();
            assert_eq!(aviary.slowly().await.unwrap().len(), 3 * round);
        }
    }
    house.close().await.unwrap();
}

#[tokio::test]
async fn the_house_says_what_sql_may_do() {
    struct Asker;
    #[dovehouse::object]
    impl Asker {
        fn new() -> Self {
            Asker
        }
        pub fn ask(&mut self, ctx: &Ctx) -> Result<bool> {
            Ok(ctx.sql().exec("SELECT sqlite_version()", ()).is_ok())
        }
    }
    for (policy, permitted) in [
        (SqlPolicy::native(), true),
        (SqlPolicy::cloudflare(), false),
    ] {
        let house = TestHouse::with_settings(1, move |builder| builder.sql_policy(policy));
        let asker = house.namespace::<Asker>().unwrap().get_by_name("one");
        assert_eq!(asker.ask().await.unwrap(), permitted);
        house.close().await.unwrap();
    }
}

/// Outside of a handler nobody reads an object.
#[tokio::test]
async fn a_cursor_that_got_away_from_its_object_is_refused() {
    thread_local! {
        static STOLEN: std::cell::RefCell<Option<SqlCursor>> = const { std::cell::RefCell::new(None) };
    }
    struct Thief;
    #[dovehouse::object]
    impl Thief {
        fn new() -> Self {
            Thief
        }
        pub fn take(&mut self, ctx: &Ctx) -> Result<()> {
            let cursor = ctx.sql().exec("SELECT 1 UNION ALL SELECT 2", ())?;
            STOLEN.with_borrow_mut(|stolen| *stolen = Some(cursor));
            Ok(())
        }
        pub fn read(&mut self, _ctx: &Ctx) -> Result<bool> {
            let next = STOLEN.with_borrow_mut(|stolen| stolen.as_mut().map(|cursor| cursor.next()));
            Ok(matches!(next, Some(Err(Error::OutsideTurn))))
        }
    }
    let house = TestHouse::with_settings(1, |builder| builder.shards(1));
    let thieves = house.namespace::<Thief>().unwrap();
    thieves.get_by_name("one").take().await.unwrap();
    assert!(thieves.get_by_name("other").read().await.unwrap());
    house.close().await.unwrap();
}
