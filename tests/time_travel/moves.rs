//! Objects that have moved: their history stays where it was made, and is found from where they are.

use dovehouse::engine::Error as EngineError;
use dovehouse::testing::{START_MS, TestDisk};
use dovehouse::{Bookmark, Dovehouse, Error, Namespace, Retention};

use crate::{Diary, last};

fn open(disk: &TestDisk, locations: &[&str]) -> (Dovehouse, Namespace<Diary>) {
    let builder = locations.iter().fold(disk.builder(), |builder, name| {
        builder.location(*name, *name)
    });
    let house = builder.jurisdiction("eu", &["barn"]).open().unwrap();
    let diaries = house.namespace().unwrap();
    (house, diaries)
}

const ALL: [&str; 2] = ["annex", "barn"];
const TEXTS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
/// Where each of them is written.
const PLACES: [&str; 6] = ["", "", "annex", "barn", "barn", ""];

/// A diary that has written each text in its place, a second apart.
async fn travelled(disk: &TestDisk, diaries: &Namespace<Diary>) -> Vec<Bookmark> {
    let (diary, id) = (diaries.get_by_name("d"), diaries.id_from_name("d"));
    let mut marks = Vec::new();
    for (text, place) in TEXTS.into_iter().zip(PLACES) {
        disk.clock().advance(500);
        diaries.move_to(&id, place).await.unwrap();
        disk.clock().advance(500);
        marks.push(diary.write(text.into()).await.unwrap().0);
    }
    marks
}

/// What a diary has that has written the first texts.
fn entries(count: usize) -> Vec<String> {
    let last = [format!("last={}", TEXTS[count - 1])];
    let rows = TEXTS[..count].iter().map(|text| (*text).to_owned());
    last.into_iter().chain(rows).collect()
}

#[tokio::test]
async fn history_of_before_a_move_is_found_listed_and_restored() {
    let disk = TestDisk::new(40);
    let (house, diaries) = open(&disk, &ALL);
    let marks = travelled(&disk, &diaries).await;
    let id = diaries.id_from_name("d");
    drop((diaries, house));
    let disk = disk.power_loss();
    let (house, diaries) = open(&disk, &ALL);
    let diary = diaries.get_by_name("d");
    for (number, (mark, text)) in marks.iter().zip(TEXTS).enumerate() {
        assert_eq!(last(&diaries, "d", mark).as_deref(), Some(text));
        let past = diaries.past(&id, mark).unwrap();
        let count = past.sql().exec("SELECT count(*) FROM entry", ()).unwrap();
        assert_eq!(
            count.one().unwrap().get::<u64>(0).unwrap(),
            number as u64 + 1
        );
        // By time: when it was written, and until the next one was, the move in between included.
        for later_ms in [0, 499, 500, 999] {
            let time_ms = START_MS + 1_000 * (number as u64 + 1) + later_ms;
            if time_ms <= START_MS + 6_000 {
                let then = diaries.bookmark_at(&id, time_ms).unwrap();
                assert_eq!(
                    last(&diaries, "d", &then).as_deref(),
                    Some(text),
                    "at {time_ms}"
                );
            }
        }
    }
    let nothing = diaries.bookmark_at(&id, START_MS).unwrap();
    assert_eq!(last(&diaries, "d", &nothing), None);
    let moments = diaries.history(&id).unwrap();
    assert!(moments.is_sorted_by_key(|moment| moment.time_ms));
    let listed: Vec<_> = moments.iter().map(|moment| moment.bookmark).collect();
    let places: Vec<_> = marks
        .iter()
        .map(|mark| listed.iter().position(|found| found == mark))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?}"
    );
    assert_eq!(
        diary.history().await.unwrap().0,
        moments,
        "the same in the object"
    );

    // Back to each, wherever it was, and each time it can be undone.
    for (count, mark) in (1..).zip(&marks) {
        let undo = diaries.restore(&id, mark, false).await.unwrap();
        assert_eq!(diary.entries().await.unwrap(), entries(count));
        diaries.restore(&id, &undo, false).await.unwrap();
        assert_eq!(diary.entries().await.unwrap(), entries(6));
    }
    let fork = diaries.id_from_name("fork");
    diaries.fork(&id, &marks[2], &fork, true).await.unwrap();
    assert_eq!(diaries.get(fork).entries().await.unwrap(), entries(3));
    // What is bound to a jurisdiction is not forked out of it.
    let eu = diaries.jurisdiction("eu").unwrap();
    let bound = eu.get_by_name("bound").write("x".into()).await.unwrap().0;
    let (id_bound, out) = (eu.id_from_name("bound"), diaries.id_from_name("out"));
    let refused = diaries.fork(&id_bound, &bound, &out, false).await;
    assert!(
        matches!(refused, Err(Error::Location { .. })),
        "{refused:?}"
    );
    let within = eu.id_from_name("within");
    diaries
        .fork(&id_bound, &bound, &within, false)
        .await
        .unwrap();
    assert_eq!(
        diaries.get(within).entries().await.unwrap(),
        ["last=x", "x"]
    );
    // As the next session, which begins after another move and a power cut.
    diaries.move_to(&id, "annex").await.unwrap();
    diary.arm(marks[0].into()).await.unwrap().0.unwrap();
    diaries.move_to(&id, "barn").await.unwrap();
    drop((diary, diaries, house));
    let disk = disk.power_loss();
    let (_house, diaries) = open(&disk, &ALL);
    let diary = diaries.get_by_name("d");
    assert_eq!(diary.found().await.unwrap(), entries(1));
    let after = diary.write("after".into()).await.unwrap().0;
    assert_eq!(last(&diaries, "d", &after).as_deref(), Some("after"));
}

#[tokio::test]
async fn what_is_not_there_any_more_or_not_opened_is_an_error_that_says_what_is() {
    let disk = TestDisk::new(41);
    let (house, diaries) = open(&disk, &ALL);
    let marks = travelled(&disk, &diaries).await;
    let id = diaries.id_from_name("d");
    drop((diaries, house));

    // Without one of the locations.
    let (_house, diaries) = open(&disk.power_loss(), &["barn"]);
    assert_eq!(last(&diaries, "d", &marks[0]).as_deref(), Some("one"));
    assert_eq!(last(&diaries, "d", &marks[3]).as_deref(), Some("four"));
    let missing = diaries.past(&id, &marks[2]).map(drop).unwrap_err();
    assert!(
        matches!(&missing, Error::Location { name, .. } if name == "annex"),
        "{missing}"
    );
    let missing = diaries.restore(&id, &marks[2], false).await.unwrap_err();
    assert!(matches!(missing, Error::Location { .. }), "{missing}");
    let missing = diaries.bookmark_at(&id, START_MS + 3_000).unwrap_err();
    assert!(matches!(missing, Error::Location { .. }), "{missing}");
    let left = diaries.history(&id).unwrap();
    let is_left = |mark: &Bookmark| left.iter().any(|moment| moment.bookmark == *mark);
    let expected = PLACES.map(|place| place != "annex");
    assert_eq!(marks.iter().map(is_left).collect::<Vec<_>>(), expected);

    // The class has let go of it.
    let disk = disk.power_loss();
    let (_house, diaries) = open(&disk, &ALL);
    diaries.set_retention(Retention::Off).unwrap();
    diaries.set_retention(Retention::Forever).unwrap();
    for text in ["new", "newer"] {
        disk.clock().advance(1_000);
        diaries.get_by_name("d").write(text.into()).await.unwrap();
    }
    let moments = diaries.history(&id).unwrap();
    let (first, newest) = (moments[0], moments[moments.len() - 1]);
    assert!(first.time_ms > START_MS + 6_000 && newest.time_ms > first.time_ms);
    let mut gone = Vec::new();
    for mark in &marks[..5] {
        gone.push(diaries.past(&id, mark).map(drop).unwrap_err());
    }
    gone.push(diaries.bookmark_at(&id, START_MS + 1_000).unwrap_err());
    gone.push(diaries.bookmark_at(&id, START_MS + 3_000).unwrap_err());
    for error in gone {
        let Error::Engine(EngineError::NotAvailable {
            first: from,
            since_ms,
            newest: to,
            ..
        }) = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (from, since_ms, to),
            (first.bookmark, Some(first.time_ms), newest.bookmark)
        );
    }
    // One of another object is none of this one's, wherever that lives.
    let other = diaries
        .get_by_name("other")
        .write("x".into())
        .await
        .unwrap()
        .0;
    assert!(diaries.past(&id, &other).is_err());
}
