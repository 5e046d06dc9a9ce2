//! The edge: what a migration runs on, built from a configuration.
//!
//! Only here are the environment and the wall clock read, and only here are adapters chosen. Phases are given a
//! [`Migration`] and know its ports, not who stands behind them.

pub mod clock;
pub mod connect;
pub mod freeze;
mod key_store;
pub mod lock;
pub mod migration;
mod stored;
mod stores;
pub mod terminal;
mod tokens;
pub mod tracing;
pub mod webhook;

pub use self::tracing::start_tracing;
pub use clock::SystemClock;
pub use freeze::{Freeze, FreezeBy, GateFreeze, RunningExecution};
pub use krossing_aws as aws;
pub use krossing_local::path_of;
pub use migration::{ForStep, Migration, MigrationError, MigrationResult};
pub use stores::{AnyLedger, AnyObjects, AnySigner, BoxedMsk};
pub use terminal::TerminalFreeze;
pub use webhook::WebhookFreeze;
