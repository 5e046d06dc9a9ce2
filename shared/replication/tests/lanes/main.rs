//! Lanes on the fakes: copied exactly, whatever fails, moves or dies meanwhile.
//!
//! Every test ends with the reference model, which knows nothing of runs, segments or checkpoints. Time is paused: waits
//! take none, and a test is the same each time.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod bench;
mod bounds;
mod copying;
mod crashes;
mod moving;
mod owners;
