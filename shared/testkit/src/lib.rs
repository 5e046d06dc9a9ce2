//! Semantic fakes of every port, faults by script and by seed, a clock turned by hand, and the reference model.
//!
//! A fake here behaves as the real thing does where it matters (`kafka-facts`), so that a test on it says something
//! about the real thing; suites of functions generic over a port run on the fake and on the real one alike. For tests
//! only: errors of use panic.

pub mod conformance;
pub mod memory;

pub use conformance::{ledger_suite, objects_suite};
pub use memory::{MemoryLedger, MemoryObjects};
