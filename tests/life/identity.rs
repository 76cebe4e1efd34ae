//! Names, ids, and finding objects.

use dovehouse::{Ctx, Order, Query, Result};

use dovehouse::testing::{START_MS, TestHouse, eventually};

/// Notes the name that it had in its constructor.
struct Named {
    at_first: Option<String>,
}

#[dovehouse::object]
impl Named {
    fn new(ctx: &Ctx) -> Self {
        Named {
            at_first: ctx.id().name().map(str::to_owned),
        }
    }

    pub fn name_at_first(&self) -> Option<String> {
        self.at_first.clone()
    }

    pub fn fill(&mut self, ctx: &Ctx, bytes: usize) -> Result<()> {
        ctx.kv().put("filling", vec![7; bytes])
    }

    pub fn wake_later(&mut self, ctx: &Ctx, due_ms: u64) -> Result<()> {
        ctx.alarm().set(due_ms)
    }

    pub fn woken_as(&self, ctx: &Ctx) -> Result<Option<Vec<u8>>> {
        ctx.kv().get("woken as")
    }

    fn alarm(&mut self, ctx: &Ctx) -> Result<()> {
        let name = self.at_first.clone().unwrap_or_default();
        ctx.kv().put("woken as", name)
    }
}

#[tokio::test]
async fn a_name_is_there_in_the_constructor_and_when_an_alarm_woke_the_object() {
    let house = TestHouse::with_seed(101);
    let named = house.namespace::<Named>().unwrap();
    let lobby = named.get_by_name("lobby");
    assert_eq!(
        lobby.name_at_first().await.unwrap().as_deref(),
        Some("lobby")
    );
    lobby.wake_later(START_MS + 1000).await.unwrap();
    let nobody = named.get(named.unique_id());
    assert_eq!(nobody.name_at_first().await.unwrap(), None);

    let house = house.crash();
    let named = house.namespace::<Named>().unwrap();
    house.advance(1000);
    // Nobody has called it by its name since.
    let parsed = named.id_from_string(&lobby.id().to_string()).unwrap();
    let parsed = named.get(parsed);
    eventually(async || parsed.woken_as().await.unwrap().is_some()).await;
    assert_eq!(parsed.woken_as().await.unwrap().unwrap(), b"lobby");
}

#[tokio::test]
async fn objects_are_found_by_name_size_and_last_write_without_being_woken() {
    let house = TestHouse::with_seed(102);
    let named = house.namespace::<Named>().unwrap();
    for (number, name) in ["room/b", "room/a", "hall"].into_iter().enumerate() {
        house.advance(1000);
        let stub = named.get_by_name(name);
        stub.fill(1000 * (number + 1)).await.unwrap();
        house.evict(stub.id()).await.unwrap();
    }
    let unnamed = named.get(named.unique_id());
    unnamed.fill(10).await.unwrap();
    house.evict(unnamed.id()).await.unwrap();
    named
        .get_by_name("never/used")
        .name_at_first()
        .await
        .unwrap();

    let list = async |query: Query| {
        let page = named.objects(query).await.unwrap();
        assert_eq!(page.unreadable, 0);
        let name = |id: &dovehouse::ObjectId| id.name().unwrap_or("-").to_owned();
        let names: Vec<_> = page.objects.iter().map(|found| name(&found.id)).collect();
        names.join(" ")
    };
    let all = Query::default();
    assert_eq!(list(all.clone()).await, "room/b room/a hall -");
    assert_eq!(
        list(all.clone().order(Order::Name)).await,
        "hall room/a room/b -"
    );
    assert_eq!(
        list(all.clone().name_prefix("room/").order(Order::Largest)).await,
        "room/a room/b"
    );
    assert_eq!(list(all.clone().name_contains("all")).await, "hall");
    assert_eq!(list(all.clone().bytes(1500..2500)).await, "room/a");
    let last = all.clone().order(Order::LastWritten).limit(2);
    assert_eq!(list(last).await, "hall -");
    let written = named.objects(all.clone()).await.unwrap().objects[1].written_ms;
    assert_eq!(
        list(all.clone().written_ms(written..=written)).await,
        "room/a"
    );
    assert_eq!(list(all.clone().written_ms(..0)).await, "");

    // Page by page.
    let first = named.objects(all.clone().limit(3)).await.unwrap();
    assert_eq!(first.objects.len(), 3);
    let rest = named.objects(all.after(first.next.unwrap())).await.unwrap();
    assert_eq!((rest.objects.len(), rest.next), (1, None));
    assert_eq!(rest.objects[0].id, *unnamed.id());
}
