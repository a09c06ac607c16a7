//! Whether the aggregator's own words come back, and whether somebody else's do.
//!
//! A broker whose access rules forbid a topic acknowledges what is published there and drops it, without a word. So after
//! each connection the aggregator publishes where devices speak, under the name that none of them can have, and listens
//! to its own announcement. An announcement of another aggregator after its own means that two serve one fleet.

use core::time::Duration;

use grapevine_protocol::{AGGREGATOR, FleetId, Incarnation, ToDevice, VERSION, decode_to_device, topics};

/// How long its own words may take to come back.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long another aggregator is said to be there after it was heard last.
const RIVAL_STAYS: Duration = Duration::from_secs(120);

/// What was said and heard since the newest connection.
pub(super) struct Echo {
    fleet: FleetId,
    /// The first incarnation of this start; each roll call takes the next number.
    first: Incarnation,
    due_at: Option<Duration>,
    heard_up: bool,
    heard_announcement: bool,
    /// Whether its own announcement ever came back: one that comes before is what an earlier start left at the broker.
    was_heard: bool,
    rival_at: Option<Duration>,
}

/// What was learned from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Everything came back.
    All,
    /// Another aggregator serves this fleet.
    Rival,
    /// Nothing new.
    Nothing,
}

impl Echo {
    pub(super) fn new(fleet: FleetId, first: Incarnation) -> Self {
        let (heard_up, heard_announcement, was_heard) = (false, false, false);
        Self { fleet, first, due_at: None, heard_up, heard_announcement, was_heard, rival_at: None }
    }

    /// The topics to subscribe to for this.
    pub(super) fn topics(fleet: &FleetId) -> [String; 1] {
        [topics::announcement(fleet)]
    }

    /// A connection stands. Gives what is to be published, and where.
    pub(super) fn handle_connected(&mut self, now: Duration) -> (String, Vec<u8>) {
        (self.heard_up, self.heard_announcement) = (false, false);
        self.due_at = Some(now + PATIENCE);
        (topics::echo(&self.fleet), self.word())
    }

    /// The connection is gone: nothing can come back.
    pub(super) fn handle_disconnected(&mut self) {
        self.due_at = None;
    }

    /// A message; `None` if it is none of this. `newest` is the incarnation of the newest announcement.
    pub(super) fn handle_message(
        &mut self,
        now: Duration,
        topic: &str,
        payload: &[u8],
        newest: Incarnation,
    ) -> Option<Heard> {
        let (is_up, is_announcement) = (topic == topics::echo(&self.fleet), topic == topics::announcement(&self.fleet));
        if !is_up && !is_announcement {
            return None;
        }
        let incarnation = if is_up { read(payload) } else { boot_of(payload) };
        // Whatever else is published there is no aggregator's.
        let Some(incarnation) = incarnation else { return Some(Heard::Nothing) };
        if incarnation.0.wrapping_sub(self.first.0) > newest.0.wrapping_sub(self.first.0) {
            if is_up || self.was_heard {
                self.rival_at = Some(now);
                return Some(Heard::Rival);
            }
            return Some(Heard::Nothing);
        }
        let had_all = self.heard_up && self.heard_announcement;
        self.heard_up |= is_up;
        self.heard_announcement |= is_announcement;
        self.was_heard |= is_announcement;
        if had_all || !(self.heard_up && self.heard_announcement) {
            return Some(Heard::Nothing);
        }
        // Also after it was said that nothing came: a busy broker is slow.
        self.due_at = None;
        Some(Heard::All)
    }

    /// When to ask again.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        [self.due_at, self.rival_at.map(|at| at + RIVAL_STAYS)].into_iter().flatten().min()
    }

    /// The topics from which nothing came back in time, said once.
    pub(super) fn is_unheard(&mut self, now: Duration) -> Option<Vec<String>> {
        self.due_at.take_if(|at| *at <= now)?;
        let missing =
            [(self.heard_up, topics::echo(&self.fleet)), (self.heard_announcement, topics::announcement(&self.fleet))];
        Some(missing.into_iter().filter(|(heard, _)| !heard).map(|(_, topic)| topic).collect())
    }

    /// Whether the other aggregator was not heard for long, said once.
    pub(super) fn is_alone_again(&mut self, now: Duration) -> bool {
        self.rival_at.take_if(|at| *at + RIVAL_STAYS <= now).is_some()
    }

    /// Its own word: a version and the first incarnation. It has this form in every version, so that two aggregators of
    /// different versions notice each other.
    fn word(&self) -> Vec<u8> {
        let mut word = vec![VERSION];
        word.extend(self.first.0.to_le_bytes());
        word
    }
}

fn read(word: &[u8]) -> Option<Incarnation> {
    let (_version, incarnation) = word.split_first()?;
    incarnation.try_into().ok().map(u64::from_le_bytes).map(Incarnation)
}

/// What to do about topics that do not come back.
pub(super) fn advice(fleet: &FleetId, missing: &[String]) -> String {
    format!(
        "the broker does not pass on {}: allow the client `{fleet}.{AGGREGATOR}` to read and write {}/# there, \
         or no device is heard (protocol/TOPICS.md shows the rules)",
        missing.join(" and "),
        topics::root(fleet),
    )
}

fn boot_of(announcement: &[u8]) -> Option<Incarnation> {
    match decode_to_device(announcement) {
        Ok((ToDevice::RoundAnnouncement(announcement), _)) => Some(announcement.incarnation),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use grapevine_models::{Method, Params, Shape};
    use grapevine_protocol::{Encoding, RoundAnnouncement, RoundId, RunId, Task, encode};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OWN: Incarnation = Incarnation(7_000);

    fn echo() -> Echo {
        Echo::new("north".parse().unwrap(), OWN)
    }

    fn announcement_of(incarnation: Incarnation) -> Vec<u8> {
        let announcement = RoundAnnouncement {
            incarnation,
            run: RunId(1),
            round: RoundId(0),
            task: Task::Wait,
            shape: Shape::new(2, 3).unwrap(),
            params: Params::defaults(Method::FedAvg, 2).check().unwrap(),
            encoding: Encoding::F32,
            heads: None,
            side_information: None,
            seed: 0,
            selection_threshold: 0,
            only: Vec::new(),
            closes_in_ms: 0,
        };
        encode(&ToDevice::RoundAnnouncement(announcement), &[])
    }

    fn word_of(incarnation: u64) -> Vec<u8> {
        Echo::new("north".parse().unwrap(), Incarnation(incarnation)).word()
    }

    #[test]
    fn what_does_not_come_back_is_said_once() {
        let mut echo = echo();
        let (topic, word) = echo.handle_connected(SECOND);
        assert_eq!(topic, "grapevine/north/up/aggregator");
        assert_eq!(echo.handle_message(SECOND, &topic, &word, OWN), Some(Heard::Nothing));
        assert_eq!(echo.is_unheard(SECOND * 20), None);
        assert_eq!(echo.is_unheard(SECOND * 21), Some(vec!["grapevine/north/announcement".into()]));
        assert_eq!(echo.is_unheard(SECOND * 22), None);
        let announcement = topics::announcement(&"north".parse().unwrap());
        let mut heard = |frame: &[u8]| echo.handle_message(SECOND * 23, &announcement, frame, OWN);
        assert_eq!(heard(b"garbage"), Some(Heard::Nothing));
        assert_eq!(
            [heard(&announcement_of(OWN)), heard(&announcement_of(OWN))],
            [Some(Heard::All), Some(Heard::Nothing)]
        );
        assert_eq!(echo.handle_message(SECOND, "grapevine/north/up/camera-1", &word, OWN), None);
        let sentence = advice(&"north".parse().unwrap(), &[topic]);
        assert!(sentence.contains("`north.aggregator` to read and write grapevine/north/#"), "{sentence}");
    }

    #[test]
    fn what_an_earlier_start_left_is_no_other_aggregator_and_what_comes_later_is() {
        let mut echo = echo();
        echo.handle_connected(SECOND);
        let announcement = topics::announcement(&"north".parse().unwrap());
        let mut heard =
            |incarnation| echo.handle_message(SECOND, &announcement, &announcement_of(Incarnation(incarnation)), OWN);
        assert_eq!(heard(3), Some(Heard::Nothing), "retained");
        assert_eq!([heard(OWN.0), heard(3)], [Some(Heard::Nothing), Some(Heard::Rival)]);
    }

    #[test]
    fn another_aggregator_is_noticed_until_it_is_gone() {
        let mut echo = echo();
        let (topic, _) = echo.handle_connected(SECOND);
        let newest = Incarnation(OWN.0 + 2);
        assert_eq!(echo.handle_message(SECOND, &topic, &word_of(OWN.0 + 2), newest), Some(Heard::Nothing));
        assert_eq!(echo.handle_message(SECOND, &topic, &word_of(12), newest), Some(Heard::Rival));
        assert!(!echo.is_alone_again(SECOND * 100) && echo.is_alone_again(SECOND * 121));
        assert!(!echo.is_alone_again(SECOND * 200));
        assert_eq!(echo.handle_message(SECOND, &topic, b"garbage", newest), Some(Heard::Nothing));
    }
}
