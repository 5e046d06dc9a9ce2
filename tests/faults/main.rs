//! Faults on real brokers: what dies, moves and forgets while a migration runs, and what must hold all the same.
//!
//! Each module is one kind of fault, with what is provoked in its header. `KROSSING_LONG=1` runs the long forms.

mod authorizers;
mod blockers;
mod bounds;
mod cutovers;
mod failover;
mod folders;
mod groups;
mod kills;
mod mistakes;
mod moves;
mod numbered;
mod owners;
mod tampered;
