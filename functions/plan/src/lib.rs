//! The plan: read both clusters, decide everything once, store it, and hand it to whoever carries it out.
//!
//! Deciding is [`krossing_core::plan`]'s. Here it is read from clusters and kept: the plan as an object of canonical
//! JSON, its digest in the journal's first entry. What appears on the source later is an
//! [amendment](krossing_core::plan::Amendment), kept the same way. A plan that no longer has the journaled digest is refused.
//!
//! Invariants: nothing is written to a cluster; the object is stored and read back before the journal names it; what
//! the journal names is what is carried out.
//!
//! Does not: judge (precheck does) or make topics (topology does).

mod inventory;
mod stored;

pub use inventory::{collect, make, source, target};
pub use stored::{amend, check_identity, lanes, load, load_amendments, store};

#[cfg(test)]
mod tests;
