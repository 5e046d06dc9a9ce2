//! The ledger on DynamoDB Local and the object store on an S3 server with Object Lock: the suites that every other
//! implementation passes, and what only servers do: refuse, throttle, lose answers, end in the middle. Secrets, keys
//! and MSK are answered for by scripts in the shapes of their services; brokers that take tokens of IAM are real.
#![allow(clippy::unwrap_used)]

mod front;
mod iam;
mod keys;
mod ledger;
mod migration;
mod msk;
mod objects;
mod secrets;
mod stack;
mod unreachable;

use anyhow::Result;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use krossing_aws::{Aws, BucketOptions, DynamoLedger, Retention, S3Objects};
use krossing_core::{
    MigrationId,
    ports::{Ledger as _, Objects as _, StoreError},
};
use krossing_runtime::SystemClock;
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

/// What the SDK's chain says on a machine without any.
#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded(
            "no providers in chain provided credentials",
        )))
    }
}

#[tokio::test]
async fn without_credentials_or_region_it_is_said_what_is_missing() {
    let no_region = || {
        let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest());
        config.credentials_provider(SharedCredentialsProvider::new(NoCredentials))
    };
    for config in [no_region(), no_region().region(Region::new(REGION))] {
        let aws = Aws::of(config.build());
        let ledger = DynamoLedger::new(&aws, "krossing", &fresh_migration());
        refused_naming(ledger.journal().await, &["krossing", "AWS_REGION", "credentials"]);
        let options = BucketOptions {
            bucket: "segments".to_owned(),
            prefix: String::new(),
            kms_key: None,
            path_style: false,
            retention: Retention::None,
        };
        let objects = S3Objects::new(&aws, options, SystemClock);
        refused_naming(objects.get("a").await, &["segments", "AWS_REGION", "credentials"]);
    }
}
