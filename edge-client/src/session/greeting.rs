//! Hello until there is a welcome, and doubt where nothing is heard.

use core::time::Duration;

use grapevine_protocol::{Hello, Incarnation, Refusal, Refused, ToAggregator, Welcome};

use super::{Action, Event, FIRST_PAUSE, LONGEST_PAUSE, Session};

/// How long nothing may be heard before the connection is doubted: a broker that lost the subscriptions of a client still
/// answers its pings, and who waits for an announcement says nothing that could be answered. An aggregator that is there says
/// something every few minutes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long nobody may answer a hello before that is said.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How often a message of another version is taken for a reason to say hello: anybody can publish one.
const VERSION_PAUSE: Duration = Duration::from_secs(60);

/// What is known beside the [`Link`].
#[derive(Default)]
pub(super) struct Greeting {
    /// Since when nobody has answered; none once that was said, too.
    unanswered_since: Option<Duration>,
    /// The start of an aggregator whose fleet is of another shape, to which hello was said.
    foreign: Option<Incarnation>,
    /// When a message of another version was the reason for a hello.
    versioned_at: Option<Duration>,
    /// Whether it was said that nobody answers.
    is_said: bool,
}

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
        if !self.greeting.is_said {
            self.greeting.unanswered_since.get_or_insert(now);
        }
        self.link = Link::Greeting { again_at: now + self.jittered(pause), pause };
        let identity = &self.identity;
        let hello = Hello {
            incarnation: identity.incarnation,
            extractor: identity.extractor,
            classes: identity.classes,
            shape: identity.shape,
            samples: self.samples,
            dataset: self.dataset,
            attributes: identity.attributes.clone(),
        };
        self.send(ToAggregator::Hello(hello));
    }

    pub(super) fn handle_welcome(&mut self, now: Duration, welcome: &Welcome) {
        if welcome.incarnation != self.identity.incarnation {
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
        self.is_answered();
        self.is_eligible = welcome.is_eligible;
        self.report(Event::Welcome);
        self.resume_download(now);
        self.resume_offer(now);
        self.proceed(now);
    }

    pub(super) fn handle_refused(&mut self, now: Duration, refused: &Refused) {
        if refused.incarnation == Some(self.identity.incarnation) {
            self.is_answered();
            self.report(Event::Refused(refused.reason));
            let again_at = now + self.jittered(LONGEST_PAUSE);
            self.link = Link::Greeting { again_at, pause: LONGEST_PAUSE };
        } else if refused.incarnation.is_none()
            && refused.reason == Refusal::UnknownDevice
            && self.link == Link::Welcome
        {
            // The aggregator lost its registry or never had this device in it.
            self.report(Event::Refused(refused.reason));
            self.greet(now, FIRST_PAUSE);
        } else if refused.incarnation.is_none() && matches!(refused.reason, Refusal::Version | Refusal::SameName) {
            self.report(Event::Refused(refused.reason));
        }
    }

    /// The fleet is of another shape than this device, perhaps since this moment. The aggregator names the reason when it
    /// refuses the next hello; nothing of the former fleet is of use any more.
    pub(super) fn handle_foreign_shape(&mut self, now: Duration, incarnation: Incarnation) {
        self.report(Event::Ignored(Refusal::Shape));
        if self.greeting.foreign.replace(incarnation) == Some(incarnation) || self.link == Link::Offline {
            return;
        }
        if self.working.is_some() {
            self.actions.push_back(Action::Interrupt);
        }
        self.greet(now, FIRST_PAUSE);
    }

    /// A message of another version came. If it is the aggregator's, its answer to a hello is one, too.
    pub fn handle_foreign_version(&mut self, now: Duration) {
        self.report(Event::Ignored(Refusal::Version));
        match self.link {
            Link::Offline => {}
            Link::Greeting { .. } => self.report(Event::Refused(Refusal::Version)),
            Link::Welcome => {
                if self.greeting.versioned_at.is_none_or(|at| at + VERSION_PAUSE <= now) {
                    self.greeting.versioned_at = Some(now);
                    self.greet(now, FIRST_PAUSE);
                }
            }
        }
    }

    fn is_answered(&mut self) {
        (self.greeting.unanswered_since, self.greeting.is_said) = (None, false);
    }

    /// When it is said that nobody answers.
    pub(super) fn unanswered_at(&self) -> Option<Duration> {
        self.greeting.unanswered_since.map(|since| since + UNANSWERED)
    }

    /// Says once that nobody has answered for long, as long as nobody does.
    pub(super) fn tell_unanswered(&mut self, now: Duration) {
        if matches!(self.link, Link::Greeting { .. }) && self.unanswered_at().is_some_and(|at| at <= now) {
            (self.greeting.unanswered_since, self.greeting.is_said) = (None, true);
            self.report(Event::Unanswered);
        }
    }

    /// Without a connection nobody can answer.
    pub(super) fn hang_up_greeting(&mut self) {
        self.greeting.unanswered_since = None;
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
