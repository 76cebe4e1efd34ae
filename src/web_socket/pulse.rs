//! Keep-alive: peers that say nothing are asked whether they are still there. A peer that vanished without a
//! word would hold its connection for ever, since that of a sleeping object is silent anyway.
//!
//! No connection has a timer. A task of the shard looks at all of them at a fixed interval, and what each has
//! noted since tells what to do next.

use std::rc::Rc;

use super::sockets::{Phase, Socket};
use crate::shard::Shard;

/// How many connections are looked at in one go.
const AT_ONCE: usize = 1024;

/// What is known of a peer since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Nobody reads what it says, so its silence means nothing: it is within the process, or an event of it is
    /// being dealt with.
    #[default]
    Unread,
    /// It said something.
    Heard,
    /// It said nothing, or only that it is there.
    Silent,
    /// It was asked.
    Asked,
}

impl Socket {
    /// Bytes came, or went out to a peer that had not taken any before.
    pub(super) fn heard(&self) {
        self.note(Pulse::Heard);
    }

    /// The peer answered. The next look asks again, so that proxies between see something each time.
    pub(super) fn answered(&self) {
        self.note(Pulse::Silent);
    }

    fn note(&self, pulse: Pulse) {
        if self.pulse.get() != Pulse::Unread {
            self.pulse.set(pulse);
        }
    }

    fn look(&self) {
        if self.phase() != Phase::Open {
            return;
        }
        match self.pulse.get() {
            Pulse::Unread => {}
            Pulse::Heard => self.pulse.set(Pulse::Silent),
            Pulse::Silent => {
                self.pulse.set(Pulse::Asked);
                self.push_ping();
            }
            Pulse::Asked => self.go_to(Phase::Lost("the peer does not answer a ping")),
        }
    }
}

impl Shard {
    /// Asks all peers that are silent, every so many milliseconds.
    pub(crate) async fn ask_silent_peers(self: Rc<Self>, interval_ms: u64) {
        loop {
            let now_ms = self.clock.now_ms();
            self.clock.sleep_until(now_ms + interval_ms).await;
            for some in self.sockets.all().chunks(AT_ONCE) {
                some.iter().for_each(|socket| socket.look());
                tokio::task::yield_now().await;
            }
        }
    }
}
