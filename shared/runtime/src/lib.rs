//! The edge: what a migration runs on, built from a configuration.
//!
//! Only here are the environment and the wall clock read, and only here are adapters chosen. Phases are given a
//! [`Migration`] and know its ports, not who stands behind them.

pub mod migration;

pub use migration::{ForStep, Migration, MigrationError, MigrationResult};
