//! Record batches (magic 2): read their headers, filter them, and make of them what a target accepts.
//!
//! Why not a library: those that exist build an object for every record and header, lose what they do not expect
//! (equal header keys, keys that are not UTF-8), and decompress without a limit. Here a batch stays bytes; what must be
//! written anew is spliced.
//!
//! Order of use: [`Batches`] cuts what a Fetch answered, [`AbortFilter`] says which of them are committed data,
//! [`Repacker`] makes of those what the target accepts, [`OutBatch::seal`] gives them to a producer.
//!
//! Invariants: no bytes make this panic, and none make it hold more memory than they are worth up to
//! [`limits::BATCH_UNCOMPRESSED_BYTES_MAX`](crate::limits::BATCH_UNCOMPRESSED_BYTES_MAX); what cannot be read is an
//! error that names the offset.
//!
//! Does not: read message formats 0 and 1 (an error; precheck blocks such topics), interpret keys or values.

pub mod abort;
pub mod batch;
pub mod build;
pub mod codec;
mod error;
pub mod record;
pub mod repack;
mod varint;

pub use abort::{AbortFilter, Verdict};
pub use batch::{BatchHeader, Batches, RawBatch, TimestampType};
pub use build::{BatchBuilder, control_batch};
pub use codec::Codec;
pub use error::{RecordError, RecordProblem};
pub use record::{ControlType, RawRecord, RawRecords, Record, control_type};
pub use repack::{OutBatch, RepackLimits, Repacker, next_sequence};

#[cfg(test)]
mod tests;
