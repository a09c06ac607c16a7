//! What a person should know about devices that the registry does not say: who is turned away, whose name two devices use,
//! and who does not seem to hear any answer.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::{DeviceId, Incarnation, Refusal};

use super::device_index::DeviceIndex;

/// Devices that are kept in mind, the newest ones.
const MOST: usize = 64;
/// Two starts of one name that take turns are two devices as long as they do it this often.
const TURNS_WITHIN: Duration = Duration::from_secs(600);
/// How often a start must have come back after another one: a late hello alone makes it once.
const TURNS: u32 = 2;
/// A device that is welcome and says hello so often does not hear that it is.
const HELLOS: u32 = 5;
/// Within what time it does so, by its own pauses, and how long it is remembered.
const HELLOS_WITHIN: Duration = Duration::from_secs(180);

/// A device that is turned away, or told something, with every hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// The newest reason.
    pub reason: Refusal,
    /// Since when, on the machine's clock.
    pub since: Duration,
    /// When it said hello last.
    pub seen: Duration,
}

#[derive(Default)]
pub(super) struct Watchlist {
    turned_away: BTreeMap<DeviceId, TurnedAway>,
    starts: BTreeMap<DeviceIndex, Starts>,
    hellos: BTreeMap<DeviceIndex, Hellos>,
}

/// The hellos of a device that said nothing else.
struct Hellos {
    incarnation: Incarnation,
    first: Duration,
    last: Duration,
    count: u32,
}

/// The newest changes between starts of one device.
struct Starts {
    /// The start before the newest.
    former: Incarnation,
    changed_at: Duration,
    /// How often the former start came back.
    turns: u32,
}

impl Watchlist {
    /// A device is turned away. `true` if that is new, or the reason is.
    pub(super) fn note(&mut self, device: &DeviceId, reason: Refusal, now: Duration) -> bool {
        if let Some(known) = self.turned_away.get_mut(device).filter(|known| known.reason == reason) {
            known.seen = now;
            return false;
        }
        if self.turned_away.len() >= MOST && !self.turned_away.contains_key(device) {
            let oldest = self.turned_away.iter().min_by_key(|(_, known)| known.seen).map(|(device, _)| device.clone());
            if let Some(oldest) = oldest {
                self.turned_away.remove(&oldest);
            }
        }
        self.turned_away.insert(device.clone(), TurnedAway { reason, since: now, seen: now });
        true
    }

    /// A device is welcome.
    pub(super) fn welcome(&mut self, device: &DeviceId) {
        self.turned_away.remove(device);
    }

    /// A known device said hello with another start than before. `true` as long as two starts take turns: they are two
    /// devices, for one that starts again never goes back to a start before.
    pub(super) fn takes_turns(
        &mut self,
        index: DeviceIndex,
        former: Incarnation,
        incarnation: Incarnation,
        now: Duration,
    ) -> bool {
        self.starts.retain(|_, starts| now < starts.changed_at + TURNS_WITHIN);
        if former == incarnation {
            return self.starts.get(&index).is_some_and(|starts| starts.turns >= TURNS);
        }
        if self.starts.len() >= MOST && !self.starts.contains_key(&index) {
            let oldest = self.starts.iter().min_by_key(|(_, starts)| starts.changed_at).map(|(index, _)| *index);
            if let Some(oldest) = oldest {
                self.starts.remove(&oldest);
            }
        }
        let starts = self.starts.entry(index).or_insert(Starts { former, changed_at: now, turns: 0 });
        let has_returned = starts.former == incarnation;
        *starts = Starts { former, changed_at: now, turns: if has_returned { starts.turns + 1 } else { 0 } };
        starts.turns >= TURNS
    }

    /// A device that is welcome said hello.
    pub(super) fn said_hello(&mut self, index: DeviceIndex, incarnation: Incarnation, now: Duration) {
        self.hellos.retain(|_, hellos| now < hellos.last + HELLOS_WITHIN);
        if self.hellos.len() >= MOST && !self.hellos.contains_key(&index) {
            return;
        }
        let hellos = self.hellos.entry(index).or_insert(Hellos { incarnation, first: now, last: now, count: 0 });
        if hellos.incarnation != incarnation || now >= hellos.first + HELLOS_WITHIN && hellos.count < HELLOS {
            *hellos = Hellos { incarnation, first: now, last: now, count: 0 };
        }
        (hellos.last, hellos.count) = (now, hellos.count + 1);
    }

    /// A device said something else, so it heard that it is welcome; or its connection broke.
    pub(super) fn said_more(&mut self, index: DeviceIndex) {
        self.hellos.remove(&index);
    }

    /// All devices say hello now, for they are asked to.
    pub(super) fn roll_is_called(&mut self) {
        self.hellos.clear();
    }

    /// A device that does not seem to hear any answer.
    pub(super) fn deaf(&self, now: Duration) -> Option<DeviceIndex> {
        let is_deaf = |hellos: &Hellos| hellos.count >= HELLOS && now < hellos.last + HELLOS_WITHIN;
        self.hellos.iter().find(|(_, hellos)| is_deaf(hellos)).map(|(index, _)| *index)
    }

    /// The registry has no such index any more.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        self.starts.remove(&index);
        self.hellos.remove(&index);
    }

    /// Who is turned away, by name.
    pub(super) fn turned_away(&self) -> impl Iterator<Item = (&DeviceId, &TurnedAway)> {
        self.turned_away.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::device_index::Names;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn device(number: usize) -> DeviceId {
        format!("device-{number}").parse().unwrap()
    }

    #[test]
    fn two_starts_that_take_turns_are_two_devices_and_restarts_are_not() {
        let (mut list, index) = (Watchlist::default(), Names::default().index(&device(0)));
        let mut hello = |former, incarnation, at| {
            list.takes_turns(index, Incarnation(former), Incarnation(incarnation), SECOND * at)
        };
        assert!(!hello(1, 2, 0) && !hello(2, 3, 1) && !hello(3, 4, 2), "starts that never come back");
        assert!(!hello(4, 3, 3), "a late hello of the start before");
        assert!(hello(3, 4, 4) && hello(4, 4, 5) && hello(4, 3, 6));
        assert!(!hello(3, 3, 700), "one of the two is gone");
    }

    #[test]
    fn a_device_that_only_ever_says_hello_is_deaf() {
        let (mut list, index) = (Watchlist::default(), Names::default().index(&device(0)));
        // The pauses of a device that nobody answers: 2, 4, 8, 16 and 32 s.
        let hellos = [0, 2, 6, 14, 30, 62].map(|at| SECOND * at);
        hellos[..4].iter().for_each(|at| list.said_hello(index, Incarnation(1), *at));
        assert_eq!(list.deaf(hellos[3]), None);
        hellos[4..].iter().for_each(|at| list.said_hello(index, Incarnation(1), *at));
        assert_eq!(list.deaf(hellos[5]), Some(index));
        assert_eq!(list.deaf(SECOND * 400), None, "it is off");
        list.said_more(index);
        assert_eq!(list.deaf(hellos[5]), None);
        // One roll call every five minutes.
        for minute in (0..60).step_by(5) {
            list.said_hello(index, Incarnation(1), SECOND * 60 * minute);
            assert_eq!(list.deaf(SECOND * 60 * minute), None);
        }
    }

    #[test]
    fn the_newest_devices_that_are_turned_away_are_kept() {
        let mut list = Watchlist::default();
        for number in 0..MOST + 10 {
            assert!(list.note(&device(number), Refusal::Classes, SECOND * number as u32));
        }
        assert!(!list.note(&device(MOST), Refusal::Classes, SECOND * 900));
        assert!(list.note(&device(MOST), Refusal::Extractor, SECOND * 901));
        assert_eq!(list.turned_away().count(), MOST);
        assert!(list.turned_away().all(|(device, _)| device.as_str() != "device-9"));
        list.welcome(&device(MOST));
        assert_eq!(list.turned_away().count(), MOST - 1);
    }
}
