//! RabbitMQ, as far as the protocol leans on it: queues that give a message back when its holder is gone.

use domain::protocol::Taken;

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message<B> {
    /// What it says.
    pub body: B,
    /// Whether it was taken before: the broker's `redelivered`.
    pub taken: Taken,
    /// Its publisher did not learn whether the broker had taken it before.
    pub may_be_copy: bool,
}

impl<B> Message<B> {
    /// One that nobody has taken yet.
    pub fn fresh(body: B) -> Self {
        Self { body, taken: Taken::First, may_be_copy: false }
    }

    /// One whose publisher may have published it before.
    #[must_use]
    pub fn after_tries(self, tried: bool) -> Self {
        Self { may_be_copy: tried, ..self }
    }

    /// One of which an earlier holder may have done part.
    #[must_use]
    pub fn come_back(self) -> Self {
        Self { taken: Taken::Again, ..self }
    }
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Entry<B> {
    Message(Message<B>),
    Probe,
}

/// A durable queue, first in, first out. What is taken and not acknowledged is not in here but with its holder
/// ([`crate::work::Job`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Queue<B>(Vec<Entry<B>>);

impl<B> Default for Queue<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B> Queue<B> {
    /// A publish that the broker has taken; whether the publisher learns of it is another matter.
    pub fn publish(&mut self, body: B) {
        self.enter(Message::fresh(body));
    }

    /// A message that says for itself whether it came back where it was before.
    pub fn enter(&mut self, message: Message<B>) {
        self.0.push(Entry::Message(message));
    }

    /// The message at the head is given to a consumer.
    pub fn take(&mut self) -> Option<Message<B>> {
        match self.0.first()? {
            Entry::Message(_) => match self.0.remove(0) {
                Entry::Message(message) => Some(message),
                Entry::Probe => None,
            },
            Entry::Probe => None,
        }
    }

    /// The message that is taken next.
    pub fn head(&self) -> Option<&Message<B>> {
        match self.0.first()? {
            Entry::Message(message) => Some(message),
            Entry::Probe => None,
        }
    }

    /// A message whose holder or whose holder's channel is gone comes back, to the head, and says so.
    pub fn requeue(&mut self, message: Message<B>) {
        self.0.insert(0, Entry::Message(message.come_back()));
    }

    /// The next to be taken is a message.
    pub fn has_message_at_head(&self) -> bool {
        self.head().is_some()
    }

    /// The next to be taken is a probe.
    pub fn has_probe_at_head(&self) -> bool {
        matches!(self.0.first(), Some(Entry::Probe))
    }

    /// A probe is put in behind everything.
    pub fn put_probe(&mut self) {
        self.0.push(Entry::Probe);
    }

    /// The probe is gone: taken, or it says nothing any more.
    pub fn remove_probe(&mut self) {
        self.0.retain(|entry| !matches!(entry, Entry::Probe));
    }

    /// The messages that wait.
    pub fn messages(&self) -> impl Iterator<Item = &Message<B>> {
        self.0.iter().filter_map(|entry| match entry {
            Entry::Message(message) => Some(message),
            Entry::Probe => None,
        })
    }

    /// The broker starts with an empty data folder.
    pub fn wipe(&mut self) {
        self.0.clear();
    }
}
