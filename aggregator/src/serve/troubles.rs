//! Troubles that a person must look at, from when each is noticed until it is over. Each is an error in the log, once.

use std::collections::BTreeMap;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The broker does not let this aggregator in.
    Refused,
    /// There is no connection.
    Disconnected,
    /// The broker hangs up again and again.
    Broker,
    /// The broker keeps what cannot be read.
    Retained,
    /// The broker drops this aggregator's messages.
    MessagesDropped,
    /// The answers to a device do not seem to reach it.
    UnreachedDevice,
    /// Another aggregator serves the same fleet.
    OtherAggregator,
}

/// All of it, a sentence each.
#[derive(Default)]
pub(super) struct Troubles {
    sentences: BTreeMap<Trouble, String>,
}

impl Troubles {
    /// Something is wrong. `true` if that is news.
    pub(super) fn begin(&mut self, trouble: Trouble, sentence: String) -> bool {
        let is_new = self.sentences.get(&trouble) != Some(&sentence);
        if is_new {
            tracing::error!("{sentence}");
            self.sentences.insert(trouble, sentence);
        }
        is_new
    }

    /// It is what the log has said already, at another level.
    pub(super) fn note(&mut self, trouble: Trouble, sentence: String) {
        self.sentences.insert(trouble, sentence);
    }

    /// It is over. `true` if it was there.
    pub(super) fn end(&mut self, trouble: Trouble) -> bool {
        self.sentences.remove(&trouble).is_some()
    }

    /// Whether it is wrong now.
    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.sentences.contains_key(&trouble)
    }

    /// The sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        self.sentences.values().cloned().collect()
    }
}
