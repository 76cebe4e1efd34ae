//! What calls carry besides data: callbacks, streams, stubs.

use dovehouse::{CallError, Callback, Ctx, Result, Stream, StreamSender, stream};

use super::dove::{open, settle};

struct Nest;

#[dovehouse::object]
impl Nest {
    fn new() -> Self {
        Nest
    }

    /// Has another call back while it has itself alone.
    pub async fn lend(&mut self, ctx: &Ctx, other: NestStub) -> Result<Vec<u32>, CallError> {
        let mine = ctx.clone();
        let note = ctx.callback(async move |number: u32| {
            mine.kv().put_as("noted", &number)?;
            Result::<u32>::Ok(number + 1)
        });
        let answers = other.borrow(note).await?;
        let noted: Option<u32> = ctx
            .kv()
            .get_as("noted")
            .map_err(|error| CallError::failed("", error.to_string()))?;
        assert_eq!(noted, Some(2));
        Ok(answers)
    }

    pub async fn borrow(&mut self, lent: Callback<u32, u32>) -> Result<Vec<u32>, CallError> {
        Ok(vec![lent.call(1).await?, lent.call(2).await?])
    }

    /// The callback calls the object that it was lent to.
    pub async fn lend_a_circle(
        &mut self,
        ctx: &Ctx,
        other: NestStub,
    ) -> Result<Vec<u32>, CallError> {
        let back = other.clone();
        let note = ctx.callback(async move |_: u32| back.ping().await.map(|()| 0));
        other.borrow(note).await
    }

    pub fn ping(&mut self) {}

    pub fn give(&self, ctx: &Ctx, abort: bool) -> Callback<String, String> {
        let mine = ctx.clone();
        ctx.callback(async move |text: String| match abort {
            true => mine.abort("told to"),
            false => Ok::<_, CallError>(text + "!"),
        })
    }

    pub async fn fill(
        &self,
        sender: StreamSender<u32>,
        to: u32,
        finish: bool,
    ) -> Result<(), CallError> {
        for number in 0..to {
            sender.send(number).await?;
        }
        match finish {
            true => sender.finish().await,
            false => Ok(()),
        }
    }

    pub async fn sum(&self, mut numbers: Stream<u32>) -> Result<u32, CallError> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
}

#[tokio::test]
async fn a_callback_runs_in_its_maker_even_while_that_is_alone_and_waits() {
    let (house, _) = open(31);
    let nests = house.namespace::<Nest>().unwrap();
    let (a, b) = (nests.get_by_name("a"), nests.get_by_name("b"));
    assert_eq!(a.lend(b.clone()).await.unwrap(), [2, 3]);
    let error = a.lend_a_circle(b).await.unwrap_err();
    assert_eq!(error, CallError::Reentrant);
}

#[tokio::test]
async fn whoever_holds_a_callback_keeps_its_maker_awake_and_hears_of_its_end() {
    let (house, doves) = open(32);
    let nests = house.namespace::<Nest>().unwrap();
    let nest = nests.get_by_name("a");
    let given = nest.give(false).await.unwrap();
    settle(&doves.get_by_name("b")).await;
    assert!(!house.evict(nest.id()).await.unwrap());
    assert_eq!(given.call("hello".into()).await.unwrap(), "hello!");
    drop(given);
    while !house.evict(nest.id()).await.unwrap() {
        tokio::task::yield_now().await;
    }
    let given = nest.give(true).await.unwrap();
    let aborted = CallError::Aborted("told to".into());
    for _ in 0..2 {
        assert_eq!(given.call(String::new()).await, Err(aborted.clone()));
    }
    let outside = Callback::new(async |number: u32| match number {
        1 => Ok(10),
        _ => Err("enough"),
    });
    let error = nest.fresh().borrow(outside).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        ("&str", "enough".to_owned())
    );
}

#[tokio::test]
async fn streams_flow_as_their_reader_reads_and_tell_an_end_from_a_failure() {
    let (house, doves) = open(33);
    let nest = house.namespace::<Nest>().unwrap().get_by_name("a");
    for finish in [true, false] {
        let (sender, mut numbers) = stream(4);
        let filling = tokio::spawn({
            let nest = nest.clone();
            async move { nest.fill(sender, 100, finish).await }
        });
        settle(&doves.get_by_name("b")).await;
        assert!(!filling.is_finished(), "its buffer is full");
        for expected in 0..100 {
            assert_eq!(numbers.next().await, Some(Ok(expected)));
        }
        let end = if finish {
            None
        } else {
            Some(Err(CallError::Gone))
        };
        assert_eq!(numbers.next().await, end);
        assert_eq!(numbers.next().await, None);
        filling.await.unwrap().unwrap();
    }
    let (sender, numbers) = stream(1);
    let summing = nest.sum(numbers);
    let sending = async {
        for number in 1..=10 {
            sender.send(number).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    assert_eq!(tokio::join!(summing, sending).0.unwrap(), 55);
    let (sender, numbers) = stream(1);
    drop(numbers);
    assert_eq!(nest.fill(sender, 1, true).await, Err(CallError::Gone));
}
