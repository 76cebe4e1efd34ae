//! The example `collab`: several people write one document.

use std::time::Duration;

use dovehouse::testing::TestHouse;
use dovehouse::{Body, ClientEnd, ClientWebSocket, Message, Query, http};

#[allow(dead_code)]
#[path = "../../examples/collab/main.rs"]
mod example;

use example::edit::{Asked, Edit, Told};
use example::replica::Replica;
use example::{Document, DocumentStub};

/// Before a test that waits for what never comes ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody with a copy of the document.
struct Writer {
    socket: ClientWebSocket,
    replica: Replica,
}

impl Writer {
    async fn join(document: &DocumentStub, name: &str) -> Writer {
        let request = http::Request::get(format!("/letter/{name}"));
        let request = request.header("upgrade", "websocket").body(Body::empty());
        let mut response = document.fetch(request.unwrap()).await.unwrap();
        let mut writer = Writer {
            socket: ClientEnd::take(&mut response).unwrap().accept(),
            replica: Replica::default(),
        };
        while writer.replica.people.is_empty() {
            writer.hear().await;
        }
        writer
    }

    async fn hear(&mut self) -> Told {
        let heard = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        let Some(Ok(Message::Text(text))) = heard.expect("there is something to hear") else {
            panic!("the connection ended");
        };
        let told: Told = serde_json::from_str(&text).unwrap();
        self.replica.hear(told.clone());
        told
    }

    async fn hear_until(&mut self, version: u64) -> String {
        while self.replica.version < version || !self.replica.is_settled() {
            self.hear().await;
        }
        self.replica.text()
    }

    async fn send(&mut self, asked: &Asked) {
        let text = serde_json::to_string(asked).unwrap();
        self.socket.send(text).await.unwrap();
    }

    async fn write(&mut self, at: usize, delete: usize, insert: &str) {
        let asked = self.replica.edit(at, delete, insert).unwrap();
        self.send(&asked).await;
    }

    fn names(&self) -> Vec<&str> {
        let people = self.replica.people.iter();
        people.map(|person| &*person.name).collect()
    }
}

fn letter(house: &TestHouse) -> DocumentStub {
    house.namespace::<Document>().unwrap().get_by_name("letter")
}

async fn text(document: &DocumentStub) -> String {
    let request = http::Request::get("/letter").body(Body::empty()).unwrap();
    let response = document.fetch(request).await.unwrap();
    response.into_body().text(1 << 20).await.unwrap()
}

#[tokio::test]
async fn everybody_ends_with_the_same_text_through_sleep_and_a_power_cut() {
    let house = TestHouse::with_seed(143);
    let document = letter(&house);
    let mut writers = Vec::new();
    for name in ["ada", "bob", "eve"] {
        writers.push(Writer::join(&document, name).await);
    }
    let mut rng = fastrand::Rng::with_seed(143);
    let (mut version, mut shown) = (0, String::new());
    for round in 0..30 {
        // All of them write before they hear of each other.
        for writer in &mut writers {
            let length = writer.replica.text().chars().count();
            let at = rng.usize(0..=length);
            let delete = rng.usize(0..=(length - at).min(4));
            let insert: String = (0..rng.usize(0..6)).map(|_| rng.char('α'..='ω')).collect();
            writer.write(at, delete, &insert).await;
            version += 1;
        }
        shown = writers[0].hear_until(version).await;
        for writer in &mut writers {
            assert_eq!(writer.hear_until(version).await, shown, "round {round}");
        }
        assert_eq!(text(&document).await, shown);
        if round % 5 == 0 {
            assert_eq!(
                house.evict_all().await.unwrap(),
                0,
                "it sleeps while they are connected"
            );
        }
    }

    let house = house.crash();
    let document = letter(&house);
    let mut late = Writer::join(&document, "late").await;
    assert_eq!(late.hear_until(version).await, shown);
    assert_eq!(
        late.names(),
        ["late"],
        "the others have lost their connections"
    );
    late.write(0, 0, "again ").await;
    assert_eq!(late.hear_until(version + 1).await, format!("again {shown}"));
}

#[tokio::test]
async fn edits_of_the_same_place_are_moved_past_each_other() {
    let house = TestHouse::with_seed(144);
    let document = letter(&house);
    let mut ada = Writer::join(&document, "ada").await;
    let mut bob = Writer::join(&document, "bob").await;
    ada.write(0, 0, "one two three").await;
    bob.hear_until(1).await;
    let both = [
        // Written at the same place: in the order in which they came.
        ((4, 0, "A "), (4, 0, "B "), "one A B two three"),
        // Taken away by both: once.
        ((4, 2, ""), (4, 2, ""), "one B two three"),
        // A word replaced by both.
        ((4, 1, "C"), (4, 1, "D"), "one CD two three"),
        // Written inside of what another takes away, who comes after: it goes with that.
        ((5, 0, "x"), (4, 3, ""), "one two three"),
        // And who came before: it stays.
        ((4, 4, ""), (6, 0, "y"), "one ythree"),
    ];
    let mut version = 1;
    for (first, second, expected) in both {
        ada.hear_until(version).await;
        bob.hear_until(version).await;
        ada.write(first.0, first.1, first.2).await;
        ada.hear_until(version + 1).await;
        // Bob has not heard of it.
        bob.write(second.0, second.1, second.2).await;
        version += 2;
        assert_eq!(bob.hear_until(version).await, expected);
    }
}

#[tokio::test]
async fn who_is_there_is_known_after_sleep_and_what_makes_no_sense_is_refused() {
    let house = TestHouse::with_seed(145);
    let document = letter(&house);
    let mut ada = Writer::join(&document, "ada").await;
    let mut bob = Writer::join(&document, "bob").await;
    house.evict_all().await.unwrap();
    bob.send(&Asked::Cursor(7)).await;
    while ada.replica.people.iter().all(|person| person.cursor == 0) {
        ada.hear().await;
    }
    assert_eq!(ada.names(), ["ada", "bob"]);
    bob.socket.close(1000, "").await.unwrap();
    while ada.names() != ["ada"] {
        ada.hear().await;
    }

    let edit = |base, at, delete| {
        Asked::Edit(Edit {
            base,
            at,
            delete,
            insert: "x".into(),
        })
    };
    for asked in [
        edit(9, 0, 0),
        edit(0, 1, 0),
        edit(0, 0, 1),
        edit(0, usize::MAX, usize::MAX),
    ] {
        ada.send(&asked).await;
        assert!(matches!(ada.hear().await, Told::Refused(_)), "{asked:?}");
    }
    ada.socket.send("no JSON").await.unwrap();
    assert!(matches!(ada.hear().await, Told::Refused(_)));
    assert_eq!(text(&document).await, "");

    // One that has not heard of the last thousand edits gets the document anew.
    for number in 0..1002 {
        ada.write(0, 0, "z").await;
        ada.hear_until(number + 1).await;
    }
    ada.send(&edit(1, 0, 0)).await;
    let told = ada.hear().await;
    assert!(
        matches!(told, Told::Document { version: 1002, .. }),
        "{told:?}"
    );
    let documents = house.namespace::<Document>().unwrap();
    let stored = documents.objects(Query::default()).await.unwrap();
    assert_eq!(stored.objects.len(), 1);
}
