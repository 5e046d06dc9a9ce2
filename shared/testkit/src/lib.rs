//! Semantic fakes of every port, faults by script and by seed, a clock turned by hand, and the reference model.
//!
//! A fake here behaves as the real thing does where it matters (`kafka-facts`), so that a test on it says something
//! about the real thing; suites of functions generic over a port run on the fake and on the real one alike. For tests
//! only: errors of use panic.
//!
//! A crash test: load a [`FakeWorld`], run a [`FakeProcess`] of it with [`Faults::none`] to learn how many calls there
//! are; then, for each number, run one process with [`Faults::at`] until it has [`crashed`](Faults::crashed), a second
//! one without faults to its end, and [`model::compare`] the clusters.

pub mod clock;
pub mod cluster;
mod cluster_ports;
pub mod conformance;
pub mod faults;
pub mod faulty;
pub mod freeze;
mod log;
pub mod memory;
pub mod model;
mod msk;
pub mod signer;
pub mod witness;
pub mod world;

pub use clock::HandClock;
pub use cluster::{FakeCluster, TransactionalProducer, record, record_at, tombstone};
pub use conformance::{ledger_suite, objects_suite};
pub use faults::{Call, Fault, Faults};
pub use faulty::Faulty;
pub use freeze::{FakeFreeze, FreezeCall};
pub use memory::{MemoryLedger, MemoryObjects};
pub use msk::FakeMsk;
pub use signer::FakeSigner;
pub use witness::FakeWitness;
pub use world::{FakePorts, FakeProcess, FakeWorld, tester};

#[cfg(test)]
mod tests;
