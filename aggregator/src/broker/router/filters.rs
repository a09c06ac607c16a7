//! Topics and filters: which are valid, and who subscribes to what.

use std::collections::BTreeMap;

use rumqttc::mqttbytes::QoS;

use super::SessionId;
use crate::broker::limits::{MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS};

/// Whether a message may be published to this topic.
pub(super) fn is_topic(topic: &str) -> bool {
    is_bounded(topic) && !topic.contains(['+', '#'])
}

/// Whether a client may subscribe to this filter: `+` and `#` are whole levels, and `#` is the last one.
pub(super) fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    let is_level = |(index, level): (usize, &str)| match level {
        "+" => true,
        "#" => index + 1 == levels,
        _ => !level.contains(['+', '#']),
    };
    is_bounded(filter) && filter.split('/').enumerate().all(is_level)
}

fn is_bounded(text: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&text.len()) && !text.contains('\0') && text.split('/').count() <= MAX_TOPIC_LEVELS
}

/// Whether a valid filter takes in a valid topic. Wildcards at the first level leave out topics with `$`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let mut topic_levels = topic.split('/');
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            (_, _) => return false,
        }
    }
    topic_levels.next().is_none()
}

/// The subscriptions of all sessions, as a tree with one floor for each level of the filters.
#[derive(Debug, Default)]
pub(super) struct Filters {
    subscribers: BTreeMap<SessionId, QoS>,
    below: BTreeMap<Box<str>, Self>,
}

impl Filters {
    pub(super) fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.below.is_empty()
    }

    pub(super) fn insert(&mut self, filter: &str, session: SessionId, qos: QoS) {
        let floor = filter.split('/').fold(self, |floor, level| floor.below.entry(level.into()).or_default());
        floor.subscribers.insert(session, qos);
    }

    /// Removes a subscription, and the floors that it leaves empty.
    pub(super) fn remove(&mut self, filter: &str, session: SessionId) {
        let (level, rest) = filter.split_once('/').map_or((filter, None), |(level, rest)| (level, Some(rest)));
        let Some(floor) = self.below.get_mut(level) else {
            return;
        };
        match rest {
            Some(rest) => floor.remove(rest, session),
            None => drop(floor.subscribers.remove(&session)),
        }
        if floor.is_empty() {
            self.below.remove(level);
        }
    }

    /// Everybody who subscribes to this topic, once each, with the highest QoS among the filters that match.
    pub(super) fn subscribers(&self, topic: &str) -> BTreeMap<SessionId, QoS> {
        let mut found = BTreeMap::new();
        self.collect(Some(topic), !topic.starts_with('$'), &mut found);
        found
    }

    fn collect(&self, topic: Option<&str>, with_wildcards: bool, found: &mut BTreeMap<SessionId, QoS>) {
        if with_wildcards && let Some(all) = self.below.get("#") {
            all.gather(found);
        }
        let Some(topic) = topic else {
            return self.gather(found);
        };
        let (level, rest) = topic.split_once('/').map_or((topic, None), |(level, rest)| (level, Some(rest)));
        if let Some(floor) = self.below.get(level) {
            floor.collect(rest, true, found);
        }
        if with_wildcards && let Some(floor) = self.below.get("+") {
            floor.collect(rest, true, found);
        }
    }

    fn gather(&self, found: &mut BTreeMap<SessionId, QoS>) {
        for (session, qos) in &self.subscribers {
            let highest = found.entry(*session).or_insert(*qos);
            if *qos > *highest {
                *highest = *qos;
            }
        }
    }
}
