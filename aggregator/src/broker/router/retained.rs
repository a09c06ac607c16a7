//! The newest retained message of each topic.

use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::filters::matches;
use super::limits::{MAX_RETAINED_BYTES, MAX_RETAINED_MESSAGES};
use super::session::Message;

#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<Box<str>, Arc<Message>>,
    bytes: usize,
}

impl Retained {
    /// Takes the place of the topic's retained message, or clears it if the payload is empty; false if there is no room.
    pub(super) fn set(&mut self, message: &Arc<Message>) -> bool {
        if let Some(old) = self.messages.remove(&message.topic) {
            self.bytes -= old.size();
        }
        if message.payload.is_empty() {
            return true;
        }
        let has_room = self.messages.len() < MAX_RETAINED_MESSAGES && self.bytes + message.size() <= MAX_RETAINED_BYTES;
        if has_room {
            self.bytes += message.size();
            self.messages.insert(message.topic.clone(), Arc::clone(message));
        }
        has_room
    }

    /// Every retained message whose topic matches a valid filter.
    pub(super) fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let Some(wildcard) = filter.find(['+', '#']) else {
            return self.messages.get(filter).cloned().into_iter().collect();
        };
        // `a/#` takes in `a` as well.
        let start = filter[..wildcard].trim_end_matches('/');
        let range = self
            .messages
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(start));
        range.filter(|(topic, _)| matches(filter, topic)).map(|(_, message)| Arc::clone(message)).collect()
    }

    /// Messages, and their bytes.
    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }
}
