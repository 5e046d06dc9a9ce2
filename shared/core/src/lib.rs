//! The rules of a migration, and nothing that acts: no clock, no network, no async runtime, no environment.
//!
//! Every decision that Krossing takes is a function here, so that each can be tested against a model in microseconds:
//! which state may follow which ([`transition`]), what a record batch becomes on the way ([`records`]), where a group
//! resumes ([`offset_map`]), who may write to a lane ([`lease`]), what blocks a migration ([`precheck`]). What has to be
//! done in the world is named by the traits in [`ports`]; others implement them.
//!
//! Does not: read time or randomness (both are arguments), log, or decide anything twice.

pub mod acl;
pub mod canonical;
pub mod client_switch;
pub mod codes;
pub mod config;
pub mod cutover;
pub mod decision;
pub mod drain;
pub mod error;
pub mod evidence;
pub mod fence;
pub mod iam;
pub mod journal;
pub mod lanes;
pub mod lease;
pub mod limits;
pub mod msk;
pub mod offset_map;
pub mod plan;
pub mod ports;
pub mod precheck;
pub mod progress;
pub mod quotas;
pub mod records;
pub mod rights;
pub mod segment;
pub mod stateful;
pub mod stragglers;
pub mod transition;
pub mod types;
pub mod validation;

pub use error::{ErrorClass, KafkaCode};
pub use types::*;
