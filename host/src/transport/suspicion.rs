//! Why a broker hangs up again and again: MQTT 3.1.1 has no word for it, so it is read off how connections end.

use core::time::Duration;

/// A connection that lasts so long ends every suspicion.
pub(super) const CALM: Duration = Duration::from_secs(60);
/// A connection that was closed sooner was a short one.
const SHORT: Duration = Duration::from_secs(30);
/// Short connections in a row before it is said that another client uses this one's id.
const MOST_SHORT: u32 = 4;
/// Connections in a row that end with a large packet unacknowledged, before it is said that it is too large.
const MOST_OVERSIZE: u32 = 2;
/// Packets up to this size are not suspected: every broker takes them.
const SMALL_BYTES: usize = 4_096;

/// What a broker seems to have against this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It hangs up whenever a packet of this size comes.
    PacketLimit {
        /// Of the whole packet.
        bytes: usize,
    },
    /// It closes each connection soon after it was made: another client with the same id throws this one out.
    Evicted,
    /// It keeps a message larger than this client reads; the subscription goes on without it.
    LargeRetained {
        /// Of the whole packet.
        bytes: usize,
    },
}

/// Watches how the connections of one transport end.
#[derive(Default)]
pub(super) struct Suspicion {
    oversize: u32,
    short: u32,
    /// The largest packet that a broker acknowledged.
    proven_bytes: usize,
    /// What was told last and is not over.
    told: Option<Trouble>,
}

impl Suspicion {
    /// The broker acknowledged a packet of this size.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.proven_bytes = self.proven_bytes.max(bytes);
    }

    /// An attempt to connect failed: the broker itself is away.
    pub(super) fn failed(&mut self) {
        (self.short, self.oversize) = (0, 0);
    }

    /// The broker closed a connection that stood for some time. `unacknowledged`: the largest packet that it had not
    /// acknowledged, 0 for none. Gives what is to be told now.
    pub(super) fn closed(&mut self, lasted: Duration, unacknowledged: usize) -> Option<Trouble> {
        if unacknowledged > SMALL_BYTES.max(self.proven_bytes) {
            self.short = 0;
            self.oversize += 1;
            if self.oversize < MOST_OVERSIZE {
                return None;
            }
            self.oversize = 0;
            return self.tell(Trouble::PacketLimit { bytes: unacknowledged });
        }
        self.oversize = 0;
        self.short = if lasted < SHORT { self.short + 1 } else { 0 };
        if self.short < MOST_SHORT { None } else { self.tell(Trouble::Evicted) }
    }

    /// A retained message was too large to be read. It comes in packets of slightly different sizes.
    pub(super) fn found_large(&mut self, bytes: usize) -> Option<Trouble> {
        if matches!(self.told, Some(Trouble::LargeRetained { .. })) {
            return None;
        }
        self.tell(Trouble::LargeRetained { bytes })
    }

    /// A connection has lasted for [`CALM`]. Whether a trouble that was told is over.
    pub(super) fn calmed(&mut self) -> bool {
        (self.short, self.oversize) = (0, 0);
        match self.told {
            Some(Trouble::PacketLimit { .. } | Trouble::Evicted) => self.told.take().is_some(),
            Some(Trouble::LargeRetained { .. }) | None => false,
        }
    }

    /// Whether attempts should become rarer and rarer.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self.told, Some(Trouble::PacketLimit { .. }))
    }

    fn tell(&mut self, trouble: Trouble) -> Option<Trouble> {
        let is_new = self.told != Some(trouble);
        self.told = Some(trouble);
        is_new.then_some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_large_packet_at_every_end_is_too_large_and_is_told_once() {
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.closed(SECOND, 65_700), None);
        assert_eq!(suspicion.closed(SECOND, 65_700), Some(Trouble::PacketLimit { bytes: 65_700 }));
        assert!(suspicion.is_hopeless());
        assert_eq!([suspicion.closed(SECOND, 65_700), suspicion.closed(SECOND, 65_700)], [None, None]);
        assert_eq!(suspicion.closed(SECOND, 33_000), None);
        assert_eq!(suspicion.closed(SECOND, 33_000), Some(Trouble::PacketLimit { bytes: 33_000 }));
        suspicion.passed(16_500);
        assert_eq!([suspicion.closed(SECOND, 16_500), suspicion.closed(SECOND, 16_500)], [None, None]);
        assert!(suspicion.calmed() && !suspicion.calmed() && !suspicion.is_hopeless());
    }

    #[test]
    fn short_connections_in_a_row_are_somebody_elses_and_a_broker_that_restarts_is_not() {
        let mut suspicion = Suspicion::default();
        let told: Vec<_> = (0..6).map(|_| suspicion.closed(SECOND * 2, 0)).collect();
        assert_eq!(told, [None, None, None, Some(Trouble::Evicted), None, None]);
        assert!(suspicion.calmed() && !suspicion.is_hopeless());
        let mut suspicion = Suspicion::default();
        for _ in 0..20 {
            assert_eq!(suspicion.closed(SECOND * 2, 0), None);
            suspicion.failed();
            assert_eq!(suspicion.closed(SECOND * 40, 0), None);
        }
    }
}
