//! The Kafka protocol, asynchronous: the cluster ports of `core` on crate `kafka-protocol`.
//!
//! Why not librdkafka: records must pass as the batches they lie in, and a worker must know of each batch whether it was
//! appended, was not, or may have been. Why `kafka-protocol`: it has every message; of it only messages are used.
//!
//! `schema` walks answers before they are decoded, `connection` is one connection, `broker` the few that lead to one
//! broker, `cluster` knows who leads what and tries again; then one file a port.
//!
//! Invariants: reading never changes a cluster, not even by letting it make its internal topics. Every call ends within
//! a bound of `limits`. Error codes are looked at wherever an answer can carry one. Secrets appear in no message.

mod access;
mod admin;
mod api;
mod broker;
mod cluster;
mod connection;
mod coordinators;
mod groups;
mod inventory;
mod mark;
mod produce;
mod read;
mod rights;
mod schema;
mod security;

pub use cluster::{WireCluster, WireConfig};
pub use security::{Sasl, Security, TlsConfig, TokenSource};
