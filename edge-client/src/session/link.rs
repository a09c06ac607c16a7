//! The talk with the aggregator: hello until there is a welcome, and doubt where nothing is heard.

use core::time::Duration;

use grapevine_protocol::{DatasetId, DeviceId, Goodbye, Hello, Incarnation, Refusal, Refused, ToAggregator, Welcome};

use super::context::Context;
use super::work::News;
use super::{Action, Event, FIRST_PAUSE, Identity, LONGEST_PAUSE, next_pause};

/// How long nothing may be heard before the connection is doubted: a broker that lost the subscriptions of a client still
/// answers its pings, and who waits for an announcement says nothing that could be answered. An aggregator that is there says
/// something every few minutes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long nobody may answer a hello before that is said.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How often a message of another version is taken for a reason to say hello: anybody can publish one.
const VERSION_PAUSE: Duration = Duration::from_secs(60);

/// Who this device is, what it holds, and whether the aggregator knows that.
pub(super) struct Link {
    identity: Identity,
    samples: u32,
    /// Which samples they are.
    dataset: DatasetId,
    state: State,
    /// Whether rounds choose from devices like this one.
    is_eligible: bool,
    /// Since when nothing was heard on this connection.
    silent_since: Option<Duration>,
    /// Since when nobody has answered; none once that was said, too.
    unanswered_since: Option<Duration>,
    /// Whether it was said that nobody answers.
    is_said: bool,
    /// The start of an aggregator whose fleet is of another shape, to which hello was said.
    foreign: Option<Incarnation>,
    /// When a message of another version was the reason for a hello.
    versioned_at: Option<Duration>,
}

/// What decides whether a round counts on this device.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) device: &'a DeviceId,
    /// Whether rounds choose from devices like this one.
    pub(super) is_eligible: bool,
    pub(super) has_samples: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offline,
    /// Connected to the broker, hello said.
    Greeting {
        again_at: Duration,
        pause: Duration,
    },
    Welcome,
}

impl Link {
    pub(super) fn new(identity: Identity, samples: u32, dataset: DatasetId) -> Self {
        Self {
            identity,
            samples,
            dataset,
            state: State::Offline,
            is_eligible: false,
            silent_since: None,
            unanswered_since: None,
            is_said: false,
            foreign: None,
            versioned_at: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn is_welcome(&self) -> bool {
        self.state == State::Welcome
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate { device: &self.identity.device, is_eligible: self.is_eligible, has_samples: self.samples > 0 }
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let timers = match self.state {
            State::Offline => return None,
            State::Greeting { again_at, .. } => [Some(again_at), self.unanswered_at()],
            State::Welcome => [None; 2],
        };
        timers.into_iter().chain([self.doubt_at()]).flatten().min()
    }

    pub(super) fn handle_connected(&mut self, context: &mut Context) {
        self.silent_since = Some(context.now());
        self.greet(context, FIRST_PAUSE);
    }

    /// Without a connection nobody can answer.
    pub(super) fn handle_disconnected(&mut self) {
        self.state = State::Offline;
        (self.silent_since, self.unanswered_since) = (None, None);
    }

    /// Something was heard.
    pub(super) fn handle_sound(&mut self, now: Duration) {
        self.silent_since = Some(now);
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        match self.state {
            State::Offline => return,
            State::Greeting { again_at, pause } if again_at <= context.now() => {
                self.greet(context, next_pause(pause));
            }
            State::Greeting { .. } | State::Welcome => {}
        }
        self.tell_unanswered(context);
        self.doubt(context);
    }

    pub(super) fn handle_samples(&mut self, context: &mut Context, samples: u32, dataset: DatasetId) {
        let is_same = (self.samples, self.dataset) == (samples, dataset);
        (self.samples, self.dataset) = (samples, dataset);
        if !is_same && self.state != State::Offline {
            self.greet(context, FIRST_PAUSE);
        }
    }

    /// Whether the talk begins with this: everything that waited for it may go out.
    #[must_use]
    pub(super) fn handle_welcome(&mut self, context: &mut Context, welcome: &Welcome) -> bool {
        if welcome.incarnation != self.identity.incarnation {
            // A hello of an earlier start came late, and the aggregator believes it: it must hear of this one again. Not at
            // once: somebody else with this name would answer in the same way.
            if self.is_welcome() {
                self.state = State::Greeting { again_at: context.after(FIRST_PAUSE), pause: FIRST_PAUSE };
            }
            return false;
        }
        if !self.is_greeting() {
            return false;
        }
        self.state = State::Welcome;
        self.is_answered();
        self.is_eligible = welcome.is_eligible;
        context.report(Event::Welcome);
        true
    }

    pub(super) fn handle_refused(&mut self, context: &mut Context, refused: &Refused) {
        if refused.incarnation == Some(self.identity.incarnation) {
            self.is_answered();
            context.report(Event::Refused(refused.reason));
            self.state = State::Greeting { again_at: context.after(LONGEST_PAUSE), pause: LONGEST_PAUSE };
        } else if refused.incarnation.is_none() && refused.reason == Refusal::UnknownDevice && self.is_welcome() {
            // The aggregator lost its registry or never had this device in it.
            context.report(Event::Refused(refused.reason));
            self.greet(context, FIRST_PAUSE);
        } else if refused.incarnation.is_none() && matches!(refused.reason, Refusal::Version | Refusal::SameName) {
            context.report(Event::Refused(refused.reason));
        }
    }

    /// The fleet is of another shape than this device, perhaps since this moment. The aggregator names the reason when it
    /// refuses the next hello. `false` if this start of it was asked already, or cannot be.
    #[must_use]
    pub(super) fn handle_foreign_shape(&mut self, context: &mut Context, incarnation: Incarnation) -> bool {
        context.report(Event::Ignored(Refusal::Shape));
        self.foreign.replace(incarnation) != Some(incarnation) && self.state != State::Offline
    }

    /// A message of another version came. If it is the aggregator's, its answer to a hello is one, too.
    pub(super) fn handle_foreign_version(&mut self, context: &mut Context) {
        context.report(Event::Ignored(Refusal::Version));
        match self.state {
            State::Offline => {}
            State::Greeting { .. } => context.report(Event::Refused(Refusal::Version)),
            State::Welcome => {
                if self.versioned_at.is_none_or(|at| at + VERSION_PAUSE <= context.now()) {
                    self.versioned_at = Some(context.now());
                    self.greet(context, FIRST_PAUSE);
                }
            }
        }
    }

    /// Whether the aggregator must hear hello again: one that started again has no devices in its registry, and one that
    /// came after this device never heard its hello.
    pub(super) fn must_greet(&self, news: News) -> bool {
        match news {
            News::None | News::Round => false,
            News::FirstStart => self.is_greeting(),
            News::OtherStart => self.state != State::Offline,
        }
    }

    pub(super) fn greet(&mut self, context: &mut Context, pause: Duration) {
        if !self.is_said {
            self.unanswered_since.get_or_insert(context.now());
        }
        self.state = State::Greeting { again_at: context.after(pause), pause };
        let identity = &self.identity;
        context.send(ToAggregator::Hello(Hello {
            incarnation: identity.incarnation,
            extractor: identity.extractor,
            classes: identity.classes,
            shape: identity.shape,
            samples: self.samples,
            dataset: self.dataset,
            attributes: identity.attributes.clone(),
        }));
    }

    pub(super) fn last_will(&self) -> ToAggregator {
        ToAggregator::Goodbye(Goodbye { incarnation: self.identity.incarnation })
    }

    fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting { .. })
    }

    fn is_answered(&mut self) {
        (self.unanswered_since, self.is_said) = (None, false);
    }

    /// When it is said that nobody answers.
    fn unanswered_at(&self) -> Option<Duration> {
        self.unanswered_since.map(|since| since + UNANSWERED)
    }

    /// Says once that nobody has answered for long, as long as nobody does.
    fn tell_unanswered(&mut self, context: &mut Context) {
        if self.is_greeting() && self.unanswered_at().is_some_and(|at| at <= context.now()) {
            (self.unanswered_since, self.is_said) = (None, true);
            context.report(Event::Unanswered);
        }
    }

    /// When the connection is doubted.
    fn doubt_at(&self) -> Option<Duration> {
        self.silent_since.map(|since| since + PATIENCE)
    }

    /// Asks for a new connection where nothing was heard for too long.
    fn doubt(&mut self, context: &mut Context) {
        if self.doubt_at().is_some_and(|at| at <= context.now()) {
            self.silent_since = Some(context.now());
            context.act(Action::Reconnect);
        }
    }
}
