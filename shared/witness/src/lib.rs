//! The second Kafka client: reads committed records as an application would, through librdkafka.
//!
//! Why a client of another make: copying is done by `wire`; a mistake in it must not be able to hide in the check. So
//! this crate shares no code with it, not even a type of its configuration.
//!
//! Invariants: nothing is ever written. No group coordinator is contacted (no `group.id` is set), so that a cluster
//! without `__consumer_offsets` stays without. A range is read to its end or is an error, also where it ends in
//! control records, aborted data or a compaction gap. Memory is bounded by [`limits::WITNESS_READERS_MAX`] readers of
//! [`limits::WITNESS_QUEUE_BYTES_MAX`] each.
//!
//! Does not compare, digest or decide anything: that is `core`'s.
//!
//! [`limits::WITNESS_READERS_MAX`]: krossing_core::limits::WITNESS_READERS_MAX
//! [`limits::WITNESS_QUEUE_BYTES_MAX`]: krossing_core::limits::WITNESS_QUEUE_BYTES_MAX

mod client;
mod cluster;
mod config;
mod partition;

pub use cluster::WitnessCluster;
pub use config::{Sasl, SaslMechanism, Security, Tls, Token, TokenSource, WitnessConfig};
