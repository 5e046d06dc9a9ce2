//! The sequence of a migration: which phase comes when, and the journal between them. The command runs it in one
//! process, Lambdas and workers a turn at a time.
//!
//! `drive` has what each command does, `phases` the way from the plan to `drain_ready`, `hand_over` how one process that
//! copies lets another have the lanes, `gate` how a workflow that waits is answered, `execution` which one drives. What is
//! said meanwhile goes to a [`Voice`].
//!
//! Does not: decide which command may run (the table in `krossing_core::transition` does), lock, connect, or print.

pub mod drive;
pub mod execution;
pub mod gate;
pub mod hand_over;
mod phases;
mod voice;

pub use drive::{Drive, Planned, load_planned};
pub use krossing_cutover::FreezeTime;
pub use voice::{SILENT, Shown, Voice, Watched, chain};
