//! What runs on AWS: the Lambdas, one a phase, and the Fargate worker. Each binary below `bin` is a few lines.
//!
//! They drive a migration as the command does, with the same sequence (`krossing_drive`) and the same phases, one
//! turn at a time; between turns `statemachine/migration.asl.json` says what comes next. State is in the ledger: what
//! travels through the workflow is who and how it ended.
//!
//! Invariants: whoever writes the journal holds the migration's lock, and is of the execution that has claimed it; each
//! turn may be delivered twice; what failed is an error whose name is its class, which the definition catches.

mod environment;
mod failure;
mod gates;
mod lambda;
mod recover;
mod task;
mod tell;
mod turns;
mod worker;

pub use environment::Environment;
pub use failure::Failure;
pub use lambda::{Lambda, serve};
pub use worker::main as worker;
