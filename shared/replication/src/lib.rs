//! The data path: source → segments → target, then source → target.
//!
//! A *lane* is the unit of everything here: up to a thousand partitions with one owner at a time. [`run_lane`] takes
//! the lane's lease, fences it, reads back what its predecessor left, and copies until its goal is reached. Whatever
//! happens whose outcome is not known ends the *session*; the next session fences and reads back again. There is no
//! other way to recover, so that the one way is used every time.
//!
//! Who may write to the target. Invariants: a batch is sent only while the lease is proven by the monotonic clock, one
//! per partition at a time, and must land at the offset expected; what it holds is known durably before it is sent.
//! Nothing here knows which side is ZooKeeper's, names a client, or reads the clock other than through its port.

mod append;
mod context;
mod crew;
mod error;
mod lane;
mod lease;
mod map;
mod scan;
mod seed;
mod segment;
mod session;
mod source;
mod tail;
mod transactions;

pub use context::{Bandwidth, LaneContext, LanePartition, LanePlan, LanePorts, Meter, Notice, Settings, Shared};
pub use crew::{Crew, close_lanes, seed_lanes};
pub use error::LaneError;
pub use lane::{Goal, boundaries, close_lane, run_lane};
pub use lease::{read_lease, reopen_lane};
pub use map::load_map;
pub use scan::{Behind, ScanFrom, records_behind, scan};
pub use tail::{PartitionLag, TailBoard, TailControl, TailOrder};
pub use transactions::{drain_sentence, open_transactions};
