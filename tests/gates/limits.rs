//! What a class may store: less in one without a database.

use dovehouse::testing::TestHouse;
use dovehouse::{Ctx, Error, List, Result};

const KEY_MAX: usize = 2_048;
const VALUE_MAX: usize = 131_072 + 34;
const KEYS_MAX: usize = 128;

/// Calls one beyond each limit: what each was refused with.
fn beyond(ctx: &Ctx) -> Vec<Option<Error>> {
    let kv = ctx.kv();
    let (key, value) = ("k".repeat(KEY_MAX + 1), vec![7; VALUE_MAX + 1]);
    let keys: Vec<_> = (0..=KEYS_MAX).map(|n| format!("many/{n}")).collect();
    let entries = || keys.iter().map(|key| (key, "x"));
    vec![
        kv.put(&key, "x").err(),
        kv.put("value", &value).err(),
        kv.unconfirmed().put("value", &value).err(),
        kv.put_as("typed", &"x".repeat(VALUE_MAX)).err(),
        kv.put_many([("a", &b"x"[..]), ("b", &value)]).err(),
        kv.put_many([("a", "x"), (&key, "x")]).err(),
        kv.put_many(entries()).err(),
        kv.get(&key).err(),
        kv.get_as::<u8>(&key).err(),
        kv.get_many([&key]).err(),
        kv.get_many(&keys).err(),
        kv.delete(&key).err(),
        kv.delete_many(["kept", &key]).err(),
        kv.delete_many(&keys).err(),
    ]
}

/// The same, just within the limits.
fn within(ctx: &Ctx) -> Result<()> {
    let kv = ctx.kv();
    let (key, value) = ("k".repeat(KEY_MAX), vec![7; VALUE_MAX]);
    let keys: Vec<_> = (1..KEYS_MAX).map(|n| format!("many/{n}")).collect();
    kv.put(&key, &value)?;
    kv.put_many(keys.iter().chain([&key]).map(|key| (key, "x")))?;
    kv.put(&key, &value)?;
    assert_eq!(kv.get_many(keys.iter().chain([&key]))?.len(), KEYS_MAX);
    assert_eq!(kv.get(&key)?, Some(value));
    assert!(kv.delete(&key)?);
    assert_eq!(kv.delete_many(&keys)?, KEYS_MAX - 1);
    Ok(())
}

struct Narrow;

#[dovehouse::object(storage = "kv")]
impl Narrow {
    fn new() -> Self {
        Narrow
    }

    pub fn check(&mut self, ctx: &Ctx) -> Result<()> {
        within(ctx)?;
        ctx.kv().put("kept", "x")?;
        for (call, refused) in beyond(ctx).into_iter().enumerate() {
            let refused = refused.unwrap_or_else(|| panic!("call {call} was done"));
            let Error::KvLimit { class, limit, .. } = refused else {
                panic!("call {call}: {refused}");
            };
            assert_eq!(class, "Narrow");
            assert!([KEY_MAX, VALUE_MAX, KEYS_MAX].contains(&limit));
            let message = refused.to_string();
            assert!(message.contains("storage = \"sqlite\""), "{message}");
        }
        let left = ctx.kv().list(&List::all())?;
        assert_eq!(
            left,
            [(b"kept".to_vec(), b"x".to_vec())],
            "they did nothing"
        );
        Ok(())
    }
}

struct Wide;

#[dovehouse::object]
impl Wide {
    fn new() -> Self {
        Wide
    }

    pub fn check(&mut self, ctx: &Ctx) -> Result<()> {
        within(ctx)?;
        for (call, refused) in beyond(ctx).into_iter().enumerate() {
            assert!(refused.is_none(), "call {call}: {refused:?}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_kv_class_has_narrower_limits_than_one_with_a_database_and_says_so() {
    let house = TestHouse::new();
    let narrow = house.namespace::<Narrow>().unwrap();
    narrow.get_by_name("a").check().await.unwrap();
    let wide = house.namespace::<Wide>().unwrap();
    wide.get_by_name("a").check().await.unwrap();
}
