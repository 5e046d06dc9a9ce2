//! The ledger on DynamoDB Local and the object store on an S3 server with Object Lock: the suites that every other
//! implementation passes, and what only servers do: refuse, throttle, lose answers, end in the middle.
#![allow(clippy::unwrap_used)]

mod front;
mod ledger;
mod objects;

use anyhow::Result;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::Credentials;
use krossing_core::{MigrationId, ports::StoreError};
use lab::aws::{AccessKey, REGION};

/// What clients of a server on a port of the loopback are made of.
async fn sdk(port: u16, who: AccessKey) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(who.id, who.secret, None, None, "lab"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .load()
        .await
}

/// A name that no other test has.
fn fresh_migration() -> MigrationId {
    format!("m-{}", uuid::Uuid::new_v4()).parse().expect("an id")
}

/// That the message of a refusal names what it must.
fn refused_naming<T: std::fmt::Debug>(answer: Result<T, StoreError>, names: &[&str]) {
    let error = answer.expect_err("it is refused");
    println!("refused: {error}");
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    for name in names {
        assert!(error.to_string().contains(name), "{name:?} is missing: {error}");
    }
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>, names: &[&str]) {
    let error = answer.expect_err("there is no usable answer");
    println!("unavailable: {error}");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    for name in names {
        assert!(error.to_string().contains(name), "{name:?} is missing: {error}");
    }
}
