//! Waiting without time: for everything that can run to have run, and for what the test says.

use dovehouse::testing::TestHouse;
use dovehouse::{Builder, Local};
use tokio::sync::{mpsc, oneshot};

/// Rings.
struct Bell;

#[dovehouse::object]
impl Bell {
    fn new() -> Self {
        Bell
    }

    pub fn ring(&self) {}
}

/// A house with one shard, so that what is sent after something else comes after it.
pub fn open(seed: u64) -> TestHouse {
    open_with(seed, |builder| builder)
}

pub fn open_with(
    seed: u64,
    settings: impl Fn(Builder) -> Builder + Send + Sync + 'static,
) -> TestHouse {
    let house = TestHouse::with_settings(seed, move |builder| settings(builder.shards(1)));
    // Made now, since later the test may hold commits.
    house.namespace::<Bell>().unwrap();
    house
}

/// Lets everything run that can. Each ring is a task of the shard, behind those that were there before it.
pub async fn settle(house: &TestHouse) {
    let bell = house.namespace::<Bell>().unwrap().get_by_name("bell");
    for _ in 0..8 {
        // An answer may be there before anybody waits for it.
        tokio::task::yield_now().await;
        bell.ring().await.unwrap();
    }
    house.evict(bell.id()).await.unwrap();
}

/// What handlers tell the test.
pub type Marks = Local<mpsc::UnboundedSender<String>>;
/// What they wait for.
pub type Go = Local<oneshot::Receiver<()>>;

pub fn marks() -> (Marks, mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender.into(), receiver)
}

pub fn go() -> (oneshot::Sender<()>, Go) {
    let (sender, receiver) = oneshot::channel();
    (sender, receiver.into())
}

/// What was told so far.
pub fn told(marked: &mut mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| marked.try_recv().ok()).collect()
}
