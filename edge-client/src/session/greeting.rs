//! Hello until there is a welcome, and doubt where nothing is heard.

use core::time::Duration;

use grapevine_protocol::{Hello, Refusal, Refused, ToAggregator, Welcome};

use super::{Action, Event, FIRST_PAUSE, LONGEST_PAUSE, Session};

/// How long nothing may be heard before the connection is doubted: a broker that lost the subscriptions of a client still
/// answers its pings, and who waits for a notice says nothing that could be answered. An aggregator that is there says
/// something every few minutes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where the talk with the aggregator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Offline,
    /// Connected to the broker, hello said.
    Greeting {
        again_at: Duration,
        pause: Duration,
    },
    Welcome,
}

impl Session {
    pub(super) fn greet(&mut self, now: Duration, pause: Duration) {
        self.link = Link::Greeting { again_at: now + self.jittered(pause), pause };
        let identity = &self.identity;
        let hello = Hello {
            boot: identity.boot,
            extractor: identity.extractor,
            classes: identity.classes,
            shape: identity.shape,
            samples: self.samples,
            dataset: self.dataset,
            labels: identity.labels.clone(),
        };
        self.send(ToAggregator::Hello(hello));
    }

    pub(super) fn handle_welcome(&mut self, now: Duration, welcome: &Welcome) {
        if welcome.boot != self.identity.boot {
            // A hello of an earlier start came late, and the aggregator believes it: it must hear of this one again. Not at
            // once: somebody else with this name would answer in the same way.
            if self.link == Link::Welcome {
                self.link = Link::Greeting { again_at: now + self.jittered(FIRST_PAUSE), pause: FIRST_PAUSE };
            }
            return;
        }
        if !matches!(self.link, Link::Greeting { .. }) {
            return;
        }
        self.link = Link::Welcome;
        self.is_eligible = welcome.is_eligible;
        self.report(Event::Welcome);
        self.resume_download(now);
        self.resume_offer(now);
        self.proceed(now);
    }

    pub(super) fn handle_refused(&mut self, now: Duration, refused: &Refused) {
        if refused.boot == Some(self.identity.boot) {
            self.report(Event::Refused(refused.reason));
            let again_at = now + self.jittered(LONGEST_PAUSE);
            self.link = Link::Greeting { again_at, pause: LONGEST_PAUSE };
        } else if refused.boot.is_none() && refused.reason == Refusal::UnknownDevice && self.link == Link::Welcome {
            // The aggregator lost its books or never had this device in them.
            self.report(Event::Refused(refused.reason));
            self.greet(now, FIRST_PAUSE);
        } else if refused.boot.is_none() && refused.reason == Refusal::Version {
            self.report(Event::Refused(refused.reason));
        }
    }

    /// When the connection is doubted.
    pub(super) fn doubt_at(&self) -> Option<Duration> {
        self.silent_since.map(|since| since + PATIENCE)
    }

    /// Asks for a new connection where nothing was heard for too long.
    pub(super) fn doubt(&mut self, now: Duration) {
        if self.doubt_at().is_some_and(|at| at <= now) {
            self.silent_since = Some(now);
            self.actions.push_back(Action::Reconnect);
        }
    }
}
