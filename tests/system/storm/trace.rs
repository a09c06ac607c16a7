//! What happened, for people.

use core::time::Duration;

use grapevine_protocol::{decode_to_aggregator, decode_to_device};

use super::stimulus::Stimulus;

type Sink = Box<dyn FnMut(&str)>;

/// Writes down what happens, or nothing.
#[derive(Default)]
pub struct Trace {
    sink: Option<Sink>,
}

impl Trace {
    /// Gives a line for every stimulus.
    pub fn to(sink: impl FnMut(&str) + 'static) -> Self {
        Self { sink: Some(Box::new(sink)) }
    }

    pub(super) fn note(&mut self, at: Duration, stimulus: &Stimulus) {
        if let Some(sink) = &mut self.sink {
            sink(&format!("{:>10.3} s  {}", at.as_secs_f64(), described(stimulus)));
        }
    }
}

fn described(stimulus: &Stimulus) -> String {
    match stimulus {
        Stimulus::Heard { device, frame, broker } => {
            let message = decode_to_aggregator(frame).map(|(message, block)| (message, block.len()));
            format!("device {device} says (broker {broker}) {message:?}")
        }
        Stimulus::Told { device, frame, broker } => {
            let message = decode_to_device(frame).map(|(message, block)| (message, block.len()));
            format!("device {device} is told (broker {broker}) {message:?}")
        }
        Stimulus::Forged { speaker, frame, broker } => {
            let message = decode_to_aggregator(frame).map(|(message, block)| (message, block.len()));
            format!("somebody says as {speaker} (broker {broker}) {message:?}")
        }
        Stimulus::Fault(fault) => format!("{fault:?}"),
        Stimulus::Timeout(_) | Stimulus::Act(_) | Stimulus::WorkDone { .. } | Stimulus::Ingested { .. } => {
            format!("{stimulus:?}")
        }
    }
}
