//! The configuration file: one table of fields, and what becomes of a text that fills it.
//!
//! The table drives everything: which keys there are, how a value is read, what is taken where none is given, and what
//! each means. A text becomes a [`Config`] whole or a list of all its [`Problem`]s, each with its line and what to
//! write instead, so that one round is enough to put them right. Inside Krossing nothing is checked again.
//!
//! Invariants: an unknown key is a problem, never ignored; a value that does not work yet is refused with a sentence and
//! never half done; a secret is in a type that does not print.
//!
//! Does not: read files, the environment or secrets; what a `${…}` stands for is given (see `lookup`).

mod lookup;
mod model;
mod reading;
mod reference;
mod table;
#[cfg(test)]
mod tests;
mod units;

pub use lookup::{Secrets, Unavailable, Wanted};
pub use model::*;
pub use reference::{fields_as_json, reference};
pub use table::{CLUSTER_FIELDS, FIELDS, Field, Kind, table};
