//! The ports of the ledger and of objects on a folder: the embedded default, for a laptop and for tests.
//!
//! Why files and not an embedded database: an operator can read them, copy them and put them into a ticket, and the
//! journal stays readable when everything else is lost. What is durable when a call returns was written, synced, and
//! its folder synced; what must be whole is written beside and renamed. Several processes may use one folder: writes
//! that depend on what is there hold a lock (`flock`, which a dying process gives up).
//!
//! Does not: work on a network file system without `flock`, or notice a second folder that was copied from the first.

mod files;
mod ledger;
mod names;
mod objects;
mod signing_key;

pub use ledger::LocalLedger;
pub use names::path_of;
pub use objects::LocalObjects;
pub use signing_key::SigningKeyFile;
