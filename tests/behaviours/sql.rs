//! SQL in handlers: what statements leave when they fail, what settings hold for how long, and what is there.

use dovehouse::sqlbridge::Error as SqlError;
use dovehouse::testing::TestHouse;
use dovehouse::{CallError, Ctx, Error, Result, SqlPolicy, Value};

use crate::pigeon::{Loft, Pigeon, keys_of, run};

fn number(ctx: &Ctx, sql: &str) -> Result<i64> {
    Ok(ctx.sql().exec(sql, ())?.one()?.get(0)?)
}

#[tokio::test]
async fn a_statement_that_failed_can_be_run_again_and_its_error_has_the_extended_code() {
    let loft = Loft::new(40);
    let pigeon = loft.pigeon();
    let running = run(&pigeon, async |ctx| {
        ctx.sql().exec("CREATE TABLE t(a UNIQUE)", ())?;
        let insert = |value: i64| ctx.sql().exec("INSERT INTO t VALUES (?)", (value,));
        insert(1)?;
        for _ in 0..2 {
            let Err(Error::Sql(SqlError::Sqlite { code, message })) = insert(1) else {
                panic!("it is there already");
            };
            assert_eq!((code & 0xFF, code), (19, 2067), "SQLITE_CONSTRAINT_UNIQUE");
            assert!(
                message.contains("UNIQUE constraint failed: t.a"),
                "{message}"
            );
        }
        insert(2)?;
        number(ctx, "SELECT count(*) FROM t")
    });
    assert_eq!(running.await.unwrap(), 2);
}

#[tokio::test]
async fn a_text_of_statements_ends_at_the_one_that_fails_and_what_came_before_it_stays() {
    let loft = Loft::new(41);
    let pigeon = loft.pigeon();
    let text = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (NULL); INSERT INTO t VALUES (2)";
    let failing = run(&pigeon, async move |ctx| {
        ctx.sql().exec("CREATE TABLE t(a NOT NULL)", ())?;
        for times in 1..=2 {
            assert!(ctx.sql().exec(text, ()).is_err());
            assert_eq!(number(ctx, "SELECT count(*) FROM t")?, times);
        }
        // The whole text, if it is a transaction of its own.
        let inner: Result<()> = ctx.sql().transaction(|sql| sql.exec(text, ()).map(drop));
        assert!(inner.is_err());
        number(ctx, "SELECT count(*) FROM t")
    });
    assert_eq!(failing.await.unwrap(), 2);
    for nothing in ["", " ; ", "-- a comment", "/* and */ ; -- another"] {
        let empty = run(&pigeon, async move |ctx| {
            ctx.sql().exec(nothing, ()).map(drop)
        });
        let error = empty.await.unwrap_err().to_string();
        assert!(error.contains("did not contain a statement"), "{error}");
    }
}

#[tokio::test]
async fn foreign_keys_are_on_and_turning_them_off_counts_before_the_first_write_only() {
    let loft = Loft::new(42);
    let pigeon = loft.pigeon();
    let tables = run(&pigeon, async |ctx| {
        ctx.sql().exec(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY); CREATE TABLE child(id REFERENCES parent)",
            (),
        )?;
        let orphan = ctx.sql().exec("INSERT INTO child VALUES (1)", ());
        assert!(orphan.unwrap_err().to_string().contains("FOREIGN KEY"));
        // In the midst of a transaction SQLite passes over it.
        ctx.sql().exec("PRAGMA foreign_keys = off", ())?;
        number(ctx, "PRAGMA foreign_keys")
    });
    assert_eq!(tables.await.unwrap(), 1);
    let orphan = run(&pigeon, async |ctx| {
        ctx.sql().exec("PRAGMA foreign_keys = off", ())?;
        ctx.sql().exec("INSERT INTO child VALUES (1)", ())?;
        number(ctx, "SELECT count(*) FROM child")
    });
    assert_eq!(orphan.await.unwrap(), 1);
    // It is the connection's, not the object's.
    assert!(loft.house.evict(pigeon.id()).await.unwrap());
    let again = run(&pigeon, async |ctx| number(ctx, "PRAGMA foreign_keys"));
    assert_eq!(again.await.unwrap(), 1);
}

#[tokio::test]
async fn values_come_back_as_they_were_bound_and_equal_names_keep_their_columns() {
    let loft = Loft::new(43);
    let pigeon = loft.pigeon();
    let bound = run(&pigeon, async |ctx| {
        let sql = "SELECT typeof(?1), typeof(?2), typeof(?3), typeof(?4), typeof(?5), ?1, ?5, ?5 AS b, 7 AS b";
        let values = (i64::MAX, 0.5, "text", true, Option::<i64>::None);
        let mut rows = ctx.sql().exec(sql, values)?;
        assert_eq!(&rows.column_names()[7..], ["b", "b"]);
        let row = rows.next()?.expect("one row");
        assert_eq!(
            &rows.column_names()[7..],
            ["b", "b"],
            "behind the last row too"
        );
        assert_eq!(row.get::<i64>("b")?, 7, "the last one of a name");
        Ok(row.into_values())
    });
    let types = ["integer", "real", "text", "integer", "null"].map(Value::from);
    let values = [i64::MAX.into(), Value::Null, Value::Null, 7.into()];
    assert_eq!(bound.await.unwrap(), [&types[..], &values].concat());
}

#[tokio::test]
async fn full_text_search_and_rtrees_are_there_under_cloudflares_rules() {
    let policy = SqlPolicy::cloudflare();
    let house = TestHouse::with_settings(44, move |builder| builder.sql_policy(policy));
    let pigeon = house.namespace::<Pigeon>().unwrap().get_by_name("p");
    let using = run(&pigeon, async |ctx| {
        ctx.sql().exec(
            "CREATE VIRTUAL TABLE note USING fts5(text);
             INSERT INTO note VALUES ('a dove in a house'), ('a wren');
             CREATE VIRTUAL TABLE place USING rtree(id, min_x, max_x);
             INSERT INTO place VALUES (1, 0, 5), (2, 7, 9)",
            (),
        )?;
        let found = number(ctx, "SELECT rowid FROM note('dove')")?;
        let near = number(ctx, "SELECT id FROM place WHERE max_x >= 6")?;
        Ok((found, near))
    });
    assert_eq!(using.await.unwrap(), (1, 2));
    // They are pages like others: there when the object wakes.
    assert!(house.evict(pigeon.id()).await.unwrap());
    let again = run(&pigeon, async |ctx| {
        number(ctx, "SELECT count(*) FROM note, place")
    });
    assert_eq!(again.await.unwrap(), 4);
}

#[tokio::test]
async fn the_size_of_a_database_is_that_of_its_pages_in_use() {
    let loft = Loft::new(45);
    let pigeon = loft.pigeon();
    let sizes = run(&pigeon, async |ctx| {
        let sql = ctx.sql();
        sql.exec("CREATE TABLE t(a)", ())?;
        let before = sql.database_size()?;
        sql.exec("INSERT INTO t VALUES (zeroblob(40000))", ())?;
        let filled = sql.database_size()?;
        sql.exec("DELETE FROM t", ())?;
        Ok([before, filled, sql.database_size()?])
    });
    let [before, filled, emptied] = sizes.await.unwrap();
    assert_eq!(before % 4096, 0);
    assert!(filled > 40_000, "{filled}");
    assert_eq!(emptied, before, "free pages are not counted");
}

/// The disk fails in the midst of a turn: SQLite gives its transaction up, and so does the object.
#[tokio::test]
async fn an_error_by_which_sqlite_gives_its_transaction_up_undoes_the_turn_so_far() {
    let loft = Loft::new(46);
    let pigeon = loft.pigeon();
    let undone = run(&pigeon, async |ctx| {
        ctx.sql().exec("CREATE TABLE t(a PRIMARY KEY)", ())?;
        tokio::task::yield_now().await;
        ctx.kv().put("before", "")?;
        ctx.sql().exec("INSERT INTO t VALUES (1)", ())?;
        let sql = "INSERT OR ROLLBACK INTO t VALUES (1)";
        assert!(ctx.sql().exec(sql, ()).is_err());
        assert_eq!(ctx.kv().get("before")?, None);
        let inner: Result<()> = ctx.sql().transaction(|inner| {
            inner.exec("INSERT INTO t VALUES (2)", ())?;
            assert!(
                inner
                    .exec("INSERT OR ROLLBACK INTO t VALUES (2)", ())
                    .is_err()
            );
            Ok(())
        });
        assert!(matches!(inner, Err(Error::Sql(SqlError::TurnUndone))));
        number(ctx, "SELECT count(*) FROM t")
    });
    assert_eq!(undone.await.unwrap(), 0);
    // What it writes after that would be half of the turn.
    let half = run(&pigeon, async |ctx| {
        ctx.kv().put("before", "")?;
        ctx.sql().exec("INSERT INTO t VALUES (1)", ())?;
        let sql = "INSERT OR ROLLBACK INTO t VALUES (1)";
        assert!(ctx.sql().exec(sql, ()).is_err());
        ctx.kv().put("after", "")
    });
    let error = half.await.unwrap_err();
    assert!(matches!(&error, CallError::Refused(_)), "{error}");
    assert!(
        error.to_string().contains("an earlier error undid it"),
        "{error}"
    );
    let pigeon = loft.pigeon();
    assert!(keys_of(&pigeon).await.is_empty());
    let across: std::result::Result<(), _> = run(&pigeon, async |ctx| {
        ctx.transaction(async |_| {
            ctx.sql().exec("INSERT INTO t VALUES (3)", ())?;
            tokio::task::yield_now().await;
            let failed = ctx.sql().exec("INSERT OR ROLLBACK INTO t VALUES (3)", ());
            assert!(failed.is_err());
            Ok(())
        })
        .await
    })
    .await;
    let error = across.unwrap_err().to_string();
    assert!(error.contains("the transaction is gone"), "{error}");
    // A transaction over awaits is a whole; the turn that it ends in may go on.
    let goes_on = run(&pigeon, async |ctx| {
        let undone = ctx.transaction(async |_| {
            ctx.sql().exec("INSERT INTO t VALUES (3)", ())?;
            let failed = ctx.sql().exec("INSERT OR ROLLBACK INTO t VALUES (3)", ());
            assert!(failed.is_err());
            Ok(())
        });
        assert!(matches!(undone.await, Err(Error::TransactionUndone)));
        ctx.kv().put("after", "")
    });
    goes_on.await.unwrap();
    assert_eq!(keys_of(&pigeon).await, ["after"]);
    let count = run(&loft.pigeon(), async |ctx| {
        number(ctx, "SELECT count(*) FROM t")
    });
    assert_eq!(count.await.unwrap(), 0);
}
