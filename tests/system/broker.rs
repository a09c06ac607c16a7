//! The broker of a test: mosquitto where it is installed, else the embedded one.

use core::net::Ipv4Addr;

use grapevine_aggregator::broker::EmbeddedBroker;
use grapevine_host::BrokerAddress;

use crate::mosquitto::Mosquitto;

/// A running broker. Dropping it ends it.
pub enum Broker {
    /// A real one, in a process of its own.
    Mosquitto(Mosquitto),
    /// The one inside aggregators, in this process.
    Embedded(EmbeddedBroker),
}

impl Broker {
    /// Starts the better one of the two that can be had.
    pub fn start() -> Self {
        Mosquitto::start().map_or_else(Self::embedded, Self::Mosquitto)
    }

    /// Starts the embedded one.
    pub fn embedded() -> Self {
        Self::Embedded(EmbeddedBroker::start(0, Ipv4Addr::LOCALHOST.into()).expect("a free port and a thread"))
    }

    /// What it is.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mosquitto(_) => "mosquitto",
            Self::Embedded(_) => "the embedded broker",
        }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        match self {
            Self::Mosquitto(mosquitto) => mosquitto.port,
            Self::Embedded(broker) => broker.port(),
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> BrokerAddress {
        BrokerAddress::new("127.0.0.1", self.port())
    }
}
