//! The ports of the ledger and of objects on AWS: DynamoDB and S3.
//!
//! One file a service: `ledger` and `objects`, `workflow` (Step Functions) and `events` (EventBridge); what they need of the SDK is set in `config`, and `failure` says
//! what an answer means: somebody must change something, or the next try may succeed. SDK retries, timeouts and
//! checksums are passed, not defaulted, and every call ends within a bound of `limits.rs`.
//!
//! Does not: make tables or buckets (the stack does), or read the environment other than through the SDK's own loader.

mod config;
mod events;
mod failure;
mod items;
mod ledger;
mod objects;
mod workflow;

pub use config::Aws;
pub use events::{Event, EventBus};
pub use ledger::{DynamoLedger, ITEM_KEY, SCOPE_KEY};
pub use objects::{BucketOptions, Retention, S3Objects};
pub use workflow::{Execution, Workflow, WorkflowError, caller};
