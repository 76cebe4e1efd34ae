//! A shard's WebSockets: the host's ends, which stay while their objects sleep, and what an object has
//! set for all of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use dovehouse_engine::ObjectId as RawId;

use super::frame;
use super::pulse::Pulse;
use super::{AutoResponse, Message, ReadyState};

/// What may wait for a peer that does not read, before one more message drops it.
const OUTGOING_BYTES_MAX: usize = 32 << 20;
/// What is read at once.
const SCRATCH_BYTES: usize = 32 << 10;
/// How long a closed connection may take to answer.
pub(super) const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);
/// The server goes away.
const GOING_AWAY: u16 = 1001;
/// Something unexpected happened.
const UNEXPECTED: u16 = 1011;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The peer has said goodbye, and the object may go on until it does too.
    HalfOpen,
    /// This side has said goodbye.
    Closing,
    /// It is given up, for this reason.
    Lost(&'static str),
    /// The object was reset: the connection ends without telling it.
    Dropped,
    /// Nothing is sent any more.
    Closed,
}

/// The host's end of a connection.
pub(crate) struct Socket {
    number: u64,
    /// Whether the object must stay in memory with it.
    pub(super) is_standard: bool,
    pub(super) tags: Box<[Box<str>]>,
    pub(super) attachment: RefCell<Option<Box<[u8]>>>,
    pub(super) auto_response_ms: Cell<Option<u64>>,
    /// Whether the object answers the peer's goodbye itself.
    pub(super) allows_half_open: Cell<bool>,
    pub(super) pulse: Cell<Pulse>,
    phase: Cell<Phase>,
    /// Frames that wait to be written.
    outgoing: RefCell<Vec<u8>>,
    /// The connection's task.
    task: RefCell<Option<Waker>>,
}

impl Socket {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn ready_state(&self) -> ReadyState {
        match self.phase() {
            Phase::Open => ReadyState::Open,
            Phase::HalfOpen | Phase::Closing => ReadyState::Closing,
            Phase::Lost(_) | Phase::Dropped | Phase::Closed => ReadyState::Closed,
        }
    }

    /// Sends a message; after goodbye it is dropped.
    pub(super) fn push(&self, message: &Message) {
        self.append(|out| frame::encode_message(out, message));
    }

    pub(super) fn push_ping(&self) {
        self.append(frame::encode_ping);
    }

    pub(super) fn push_pong(&self, payload: &[u8]) {
        self.append(|out| frame::encode_pong(out, payload));
    }

    /// Says goodbye. Only the first one counts.
    pub(super) fn push_close(&self, code: Option<u16>, reason: &str) {
        if self.may_send() {
            self.append(|out| frame::encode_close(out, code, reason));
            self.go_to(Phase::Closing);
        }
    }

    /// Whether this side has not said goodbye yet.
    fn may_send(&self) -> bool {
        matches!(self.phase(), Phase::Open | Phase::HalfOpen)
    }

    fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        if !self.may_send() {
            return;
        }
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.len() > OUTGOING_BYTES_MAX {
            *outgoing = Vec::new();
            drop(outgoing);
            return self.go_to(Phase::Lost("the peer does not read what it is sent"));
        }
        encode(&mut outgoing);
        drop(outgoing);
        self.wake();
    }

    /// Ends the connection without telling the object.
    fn drop_now(&self) {
        if self.phase() != Phase::Closed {
            self.push_close(Some(UNEXPECTED), "the object was reset");
            self.go_to(Phase::Dropped);
        }
    }

    pub(super) fn go_to(&self, phase: Phase) {
        self.phase.set(phase);
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// What waits to be written, to be written now.
    pub(super) fn take_outgoing(&self) -> Vec<u8> {
        self.outgoing.take()
    }

    /// Has this task woken when something changes.
    pub(super) fn watched_by(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

/// An object's connections, and what it has set for them. Outlives its sleep.
#[derive(Default)]
pub(super) struct Room {
    /// By number.
    sockets: Vec<Rc<Socket>>,
    pub(super) auto_response: Option<Rc<AutoResponse>>,
    pub(super) event_timeout_ms: Option<u64>,
}

/// A shard's connections.
pub(crate) struct Sockets {
    rooms: RefCell<HashMap<RawId, Room>>,
    next_number: Cell<u64>,
    /// Connections that have not ended.
    open: Cell<usize>,
    /// Where all connections read into, one after the other.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Told when the last connection is gone.
    all_gone: tokio::sync::Notify,
}

impl Default for Sockets {
    fn default() -> Self {
        Sockets {
            rooms: RefCell::default(),
            next_number: Cell::default(),
            open: Cell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            all_gone: tokio::sync::Notify::new(),
        }
    }
}

impl Sockets {
    /// Looks at an object's room, if it has one.
    pub(super) fn room<R>(&self, id: RawId, look: impl FnOnce(&Room) -> R) -> Option<R> {
        self.rooms.borrow().get(&id).map(look)
    }

    /// Changes an object's room.
    pub(super) fn room_mut<R>(&self, id: RawId, change: impl FnOnce(&mut Room) -> R) -> R {
        change(self.rooms.borrow_mut().entry(id).or_default())
    }

    /// An object's connections that may hibernate, oldest first.
    pub(super) fn of(&self, id: RawId) -> Vec<Rc<Socket>> {
        let hibernatable = |room: &Room| {
            let sockets = room.sockets.iter().filter(|socket| !socket.is_standard);
            sockets.cloned().collect()
        };
        self.room(id, hibernatable).unwrap_or_default()
    }

    /// All connections of the shard.
    pub(super) fn all(&self) -> Vec<Rc<Socket>> {
        let rooms = self.rooms.borrow();
        rooms
            .values()
            .flat_map(|room| room.sockets.iter().cloned())
            .collect()
    }

    pub(super) fn count(&self, id: RawId) -> usize {
        self.room(id, |room| room.sockets.len()).unwrap_or(0)
    }

    pub(super) fn add(&self, id: RawId, tags: Box<[Box<str>]>, is_standard: bool) -> Rc<Socket> {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let socket = Rc::new(Socket {
            number,
            is_standard,
            tags,
            attachment: RefCell::default(),
            auto_response_ms: Cell::default(),
            allows_half_open: Cell::default(),
            pulse: Cell::default(),
            phase: Cell::new(Phase::Open),
            outgoing: RefCell::default(),
            task: RefCell::default(),
        });
        self.room_mut(id, |room| room.sockets.push(socket.clone()));
        self.open.set(self.open.get() + 1);
        socket
    }

    /// The connection has ended. Called once for each.
    pub(super) fn remove(&self, id: RawId, socket: &Rc<Socket>) {
        let mut rooms = self.rooms.borrow_mut();
        if let Some(room) = rooms.get_mut(&id) {
            let place = room
                .sockets
                .binary_search_by_key(&socket.number, |found| found.number);
            if let Ok(place) = place {
                room.sockets.remove(place);
            }
        }
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.all_gone.notify_one();
        }
    }

    /// The object fell asleep: without connections nothing of it stays.
    pub(crate) fn asleep(&self, id: RawId) {
        let mut rooms = self.rooms.borrow_mut();
        if rooms.get(&id).is_some_and(|room| room.sockets.is_empty()) {
            rooms.remove(&id);
        }
    }

    /// The object was reset: its connections end.
    pub(crate) fn reset(&self, id: RawId) {
        let room = self.rooms.borrow_mut().remove(&id);
        for socket in room.iter().flat_map(|room| &room.sockets) {
            socket.drop_now();
        }
    }

    /// Says goodbye on all connections, and gives the peers a moment to answer.
    pub(crate) async fn close_all(&self) {
        for socket in self.rooms.borrow().values().flat_map(|room| &room.sockets) {
            socket.push_close(Some(GOING_AWAY), "the server is closing");
        }
        let answered = async {
            while self.open.get() > 0 {
                self.all_gone.notified().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, answered).await;
    }
}
