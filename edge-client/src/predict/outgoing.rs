//! Messages that wait for the broker: bounded, the oldest give way, and those whose acknowledgement a lost connection
//! swallowed go out again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use grapevine_host::transport::{PublishError, Transport};
use serde::{Deserialize, Serialize};

/// Most messages that wait; beyond that the oldest is given up.
pub const MAX_WAITING: usize = 256;
/// The connection also carries the fleet's rounds: no message goes out while so many of any kind are unacknowledged.
const MAX_UNACKNOWLEDGED: u64 = 32;

/// Between whoever makes messages and the connection that publishes them.
#[derive(Debug)]
pub struct Outgoing {
    topic: String,
    queue: Mutex<Queue>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

/// What became of the images and the messages about them since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Messages handed to the broker; those of a lost connection count again.
    pub published: u64,
    /// Messages that wait for the broker.
    pub waiting: u64,
    /// Messages given up because more waited than are kept.
    pub dropped: u64,
    /// Images that could not be classified.
    pub unusable: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    /// Published, and perhaps not acknowledged; the broker acknowledges in order.
    in_flight: VecDeque<Vec<u8>>,
    figures: Figures,
}

impl Outgoing {
    /// An empty queue for this topic.
    pub fn new(topic: &str) -> Self {
        let (wake, woken) = bounded(1);
        Self { topic: topic.to_owned(), queue: Mutex::default(), wake, woken }
    }

    /// Puts a message behind the others.
    pub fn push(&self, message: Vec<u8>) {
        let mut queue = self.queue();
        queue.waiting.push_back(message);
        queue.shorten();
        // It is woken already when the channel is full.
        let _ = self.wake.try_send(());
    }

    /// Counts an image about which there is nothing to say.
    pub fn note_unusable(&self) {
        self.queue().figures.unusable += 1;
    }

    /// What happened so far.
    pub fn figures(&self) -> Figures {
        let queue = self.queue();
        Figures { waiting: queue.waiting.len() as u64, ..queue.figures }
    }

    /// To select on: something was pushed.
    pub(crate) fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// Publishes what may go out now; says whether more waits for acknowledgements.
    pub(crate) fn publish(&self, transport: &Transport) -> bool {
        while let Some(message) = self.next(transport.unacknowledged()) {
            match transport.publish(&self.topic, message, false) {
                Ok(()) => {}
                Err(PublishError::Full | PublishError::Disconnected) => {
                    self.queue().take_back_last();
                    break;
                }
                Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic { .. })) => {
                    tracing::error!("a prediction cannot be published: {error}");
                }
            }
        }
        transport.unacknowledged().is_some() && !self.queue().waiting.is_empty()
    }

    /// The connection is lost: what it may not have delivered waits again.
    pub(crate) fn hang_up(&self) {
        let mut queue = self.queue();
        while !queue.in_flight.is_empty() {
            queue.take_back_last();
        }
        queue.shorten();
    }

    /// The next message to publish, which then counts as published. `unacknowledged` is of the connection, if there is
    /// one.
    pub(super) fn next(&self, unacknowledged: Option<u64>) -> Option<Vec<u8>> {
        let unacknowledged = unacknowledged?;
        let mut queue = self.queue();
        while queue.in_flight.len() as u64 > unacknowledged {
            queue.in_flight.pop_front();
        }
        if unacknowledged >= MAX_UNACKNOWLEDGED {
            return None;
        }
        let message = queue.waiting.pop_front()?;
        queue.in_flight.push_back(message.clone());
        queue.figures.published += 1;
        Some(message)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change leaves the queue whole, whatever panics afterwards.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take_back_last(&mut self) {
        if let Some(message) = self.in_flight.pop_back() {
            self.waiting.push_front(message);
            self.figures.published -= 1;
        }
    }

    fn shorten(&mut self) {
        while self.waiting.len() > MAX_WAITING {
            self.waiting.pop_front();
            self.figures.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> Outgoing {
        let outgoing = Outgoing::new("a/b");
        (0..count).for_each(|number| outgoing.push(number.to_le_bytes().to_vec()));
        outgoing
    }

    fn number(message: Option<Vec<u8>>) -> Option<u64> {
        message.map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let outgoing = filled(MAX_WAITING as u64 + 10);
        let figures = outgoing.figures();
        assert_eq!((figures.waiting, figures.dropped, figures.published), (MAX_WAITING as u64, 10, 0));
        assert_eq!(number(outgoing.next(Some(0))), Some(10));
    }

    #[test]
    fn nothing_goes_out_without_a_connection_or_before_its_share_is_acknowledged() {
        let outgoing = filled(3);
        assert_eq!(outgoing.next(None), None);
        assert_eq!(outgoing.next(Some(MAX_UNACKNOWLEDGED)), None);
        assert_eq!(number(outgoing.next(Some(MAX_UNACKNOWLEDGED - 1))), Some(0));
        assert_eq!(outgoing.figures(), Figures { published: 1, waiting: 2, ..Figures::default() });
    }

    #[test]
    fn what_a_lost_connection_may_have_swallowed_goes_out_again_in_order() {
        let outgoing = filled(5);
        for unacknowledged in 0..4 {
            outgoing.next(Some(unacknowledged)).unwrap();
        }
        // Two of four are acknowledged when the last goes out.
        assert_eq!(number(outgoing.next(Some(2))), Some(4));
        outgoing.hang_up();
        assert_eq!(outgoing.figures(), Figures { published: 2, waiting: 3, ..Figures::default() });
        let again: Vec<u64> = (0..3).map(|sent| number(outgoing.next(Some(sent))).unwrap()).collect();
        assert_eq!(again, [2, 3, 4]);
        assert_eq!(outgoing.next(Some(0)), None, "all is acknowledged");
        outgoing.hang_up();
        assert_eq!(outgoing.figures().waiting, 0);
    }
}
