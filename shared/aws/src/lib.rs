//! The ports on AWS: the ledger in DynamoDB, objects in S3, the signing key in KMS, MSK's own API;
//! and secrets for the configuration, tokens for brokers.
//!
//! One file a service: `ledger`, `objects`, `key`, `msk`, `secrets`, `iam`, `workflow` (Step Functions), `events`
//! (EventBridge); what they need of the SDK is set in `config`, and `failure` says what an answer means: somebody must
//! change something, or the next try may succeed. SDK retries, timeouts and checksums are passed, not defaulted, and
//! every call ends within a bound of `limits.rs`.
//!
//! Does not: make tables or buckets (the stack does), or read the environment other than through the SDK's own loader.

mod config;
mod events;
mod failure;
mod iam;
mod items;
mod key;
mod ledger;
mod msk;
mod objects;
mod secrets;
mod workflow;

pub use config::Aws;
pub use events::{Event, EventBus};
pub use iam::{IamToken, IamTokens};
pub use key::KmsSigner;
pub use ledger::{DynamoLedger, ITEM_KEY, SCOPE_KEY};
pub use msk::MskApi;
pub use objects::{BucketOptions, Retention, S3Objects};
pub use secrets::read_secrets;
pub use workflow::{Execution, Workflow, WorkflowError, caller};
