//! What the consumers of the three stages have in common: a message in hand, and how far its work has come.

use domain::protocol::Taken;

use crate::broker::{Message, Queue};
use crate::{Mistake, Protocol};

/// What is left of a message in hand when its holder is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The message: the broker waits for its acknowledgement, and puts it back when the holder or its channel is lost.
    Unacked,
    /// There is no message of its own: it is the first attempt, for which the fan-out stage holds the event's message.
    ForEvent,
    /// The same, but the event's message is held for it no longer: a job in a delay queue stands for it.
    StoodIn,
    /// Nothing: the channel was lost, or the message acknowledged. The holder, if it lives, works on without knowing.
    Over,
}

/// A message in the hands of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job<B, P> {
    /// The message.
    pub message: Message<B>,
    /// Whether it would come back.
    pub hold: Hold,
    /// How far its work has come.
    pub phase: P,
}

impl<B: Clone, P> Job<B, P> {
    /// The holder dies: what it knew is gone, and the broker gives the message to another.
    pub fn crash(self, queue: &mut Queue<B>) {
        if self.hold == Hold::Unacked {
            queue.requeue(self.message);
        }
    }

    /// The channel is lost while the holder lives: the broker gives the message to another, or to the same again, and
    /// the holder's acknowledgement will mean nothing.
    pub fn lose_channel(&mut self, queue: &mut Queue<B>) {
        if self.hold == Hold::Unacked {
            queue.requeue(self.message.clone());
            self.hold = Hold::Over;
        }
    }
}

/// One of the two processes of a kind. They are interchangeable.
pub type Who = usize;

/// How a statement or a publish went, as its process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Done, and the process knows.
    Received,
    /// Done, but the answer was lost with the connection: the process tries again.
    Lost,
}

impl Protocol {
    /// Messages are held until all they caused is durable.
    pub(crate) fn hold_when_taken(&self) -> Hold {
        if self.makes(Mistake::AckBeforeCommit) { Hold::Over } else { Hold::Unacked }
    }

    /// What was committed is still to be handed over: the message is held on.
    pub(crate) fn hold_when_committed(&self, hold: Hold) -> Hold {
        if self.makes(Mistake::PublishAfterAck) { Hold::Over } else { hold }
    }

    /// How a message came, as far as anyone takes notice.
    pub(crate) fn taken(&self, taken: Taken) -> Taken {
        if self.makes(Mistake::IgnoresTaken) { Taken::First } else { taken }
    }
}
