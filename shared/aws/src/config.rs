//! What every client of AWS is made of: region, credentials, timeouts, retries.
//!
//! Region, credentials and endpoints come from where the SDK looks for them (environment, profile, web identity, ECS,
//! EC2; `AWS_ENDPOINT_URL` and its kin). Sign-in through a browser (SSO) is left out: it costs two more SDKs, and a
//! profile's `credential_process` does the same.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef},
    error::BoxError,
};
use krossing_core::limits::{
    AWS_API_ATTEMPT_WAIT_MAX, AWS_API_OPERATION_WAIT_MAX, AWS_ATTEMPTS_MAX, AWS_CONNECT_WAIT_MAX, AWS_PAUSE,
    AWS_PAUSE_MAX, LEDGER_ATTEMPT_WAIT_MAX, LEDGER_OPERATION_WAIT_MAX, OBJECT_ATTEMPT_WAIT_MAX,
    OBJECT_OPERATION_WAIT_MAX,
};
use krossing_core::msk::Arn;

/// Who we are on AWS, and where: clients are made of it.
#[derive(Debug, Clone)]
pub struct Aws {
    sdk: SdkConfig,
}

impl Aws {
    /// Asks the SDK's usual places; a region that is given here goes before theirs.
    pub async fn load(region: Option<&str>) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        Self::of(loader.load().await)
    }

    /// With a configuration made elsewhere: other credentials, another endpoint.
    pub fn of(sdk: SdkConfig) -> Self {
        Self { sdk }
    }

    /// The region, for messages.
    pub fn region(&self) -> String {
        self.sdk.region().map_or_else(|| "no region".to_owned(), ToString::to_string)
    }

    /// Where a client's requests will go.
    pub(crate) fn site(&self) -> Site {
        Site { region: self.region().into(), endpoint: Arc::default() }
    }

    /// The same in the region that an ARN names, for what is asked for by its ARN.
    pub(crate) fn where_is(&self, name: &str) -> Self {
        match Arn::parse(name) {
            Some(arn) if !arn.region.is_empty() => {
                Self::of(self.sdk.to_builder().region(Region::new(arn.region.to_owned())).build())
            }
            _ => self.clone(),
        }
    }

    /// The region, where there is one.
    pub(crate) fn sdk_region(&self) -> Option<Region> {
        self.sdk.region().cloned()
    }

    /// Whom to ask for what tokens for Kafka are signed with.
    pub(crate) fn credentials(&self) -> Option<SharedCredentialsProvider> {
        self.sdk.credentials_provider()
    }

    pub(crate) fn secrets_manager(&self, site: &Site) -> aws_sdk_secretsmanager::Client {
        let config = aws_sdk_secretsmanager::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_secretsmanager::Client::from_conf(config.timeout_config(api()).retry_config(retries()).build())
    }

    pub(crate) fn kms(&self, site: &Site) -> aws_sdk_kms::Client {
        let config = aws_sdk_kms::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_kms::Client::from_conf(config.timeout_config(api()).retry_config(retries()).build())
    }

    pub(crate) fn kafka(&self, site: &Site) -> aws_sdk_kafka::Client {
        let config = aws_sdk_kafka::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_kafka::Client::from_conf(config.timeout_config(api()).retry_config(retries()).build())
    }

    pub(crate) fn dynamodb(&self, site: &Site) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_dynamodb::Client::from_conf(config.timeout_config(self.small_calls()).retry_config(retries()).build())
    }

    /// Of services that answer in a moment: timeouts and retries.
    fn small_calls(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(AWS_CONNECT_WAIT_MAX)
            .operation_attempt_timeout(LEDGER_ATTEMPT_WAIT_MAX)
            .operation_timeout(LEDGER_OPERATION_WAIT_MAX)
            .build()
    }

    pub(crate) fn sfn(&self, site: &Site) -> aws_sdk_sfn::Client {
        let config = aws_sdk_sfn::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_sfn::Client::from_conf(config.timeout_config(self.small_calls()).retry_config(retries()).build())
    }

    pub(crate) fn sts(&self, site: &Site) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_sts::Client::from_conf(config.timeout_config(self.small_calls()).retry_config(retries()).build())
    }

    pub(crate) fn eventbridge(&self, site: &Site) -> aws_sdk_eventbridge::Client {
        let config = aws_sdk_eventbridge::config::Builder::from(&self.sdk).interceptor(site.clone());
        aws_sdk_eventbridge::Client::from_conf(
            config.timeout_config(self.small_calls()).retry_config(retries()).build(),
        )
    }

    pub(crate) fn s3(&self, site: &Site, path_style: bool) -> aws_sdk_s3::Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(AWS_CONNECT_WAIT_MAX)
            .operation_attempt_timeout(OBJECT_ATTEMPT_WAIT_MAX)
            .operation_timeout(OBJECT_OPERATION_WAIT_MAX)
            .build();
        let config = aws_sdk_s3::config::Builder::from(&self.sdk)
            .interceptor(site.clone())
            .timeout_config(timeouts)
            .retry_config(retries())
            .force_path_style(path_style)
            // Bodies that stop arriving: the operation's timeout ends with the answer's head.
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build());
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

/// A region, and the endpoint there that a client's requests go to: which one that is behind overrides, FIPS and
/// endpoints of an account only the SDK knows, so that it is read off the first request.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    region: Arc<str>,
    endpoint: Arc<OnceLock<String>>,
}

impl Site {
    /// Host and port; none before the first request.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.get().map(String::as_str)
    }

    #[cfg(test)]
    pub(crate) fn for_test(region: &str) -> Self {
        Self { region: region.into(), endpoint: Arc::default() }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)
    }
}

impl Intercept for Site {
    fn name(&self) -> &'static str {
        "Site"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let uri = context.request().uri();
        let behind_scheme = uri.split_once("://").map_or(uri, |(_, rest)| rest);
        let host = behind_scheme.split(['/', '?']).next().unwrap_or(behind_scheme);
        // What was read off an earlier request is the same.
        _ = self.endpoint.set(host.to_owned());
        Ok(())
    }
}

/// For calls that are made once in a while, and whose answers are small.
fn api() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(AWS_CONNECT_WAIT_MAX)
        .operation_attempt_timeout(AWS_API_ATTEMPT_WAIT_MAX)
        .operation_timeout(AWS_API_OPERATION_WAIT_MAX)
        .build()
}

fn retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(AWS_ATTEMPTS_MAX)
        .with_initial_backoff(AWS_PAUSE)
        .with_max_backoff(AWS_PAUSE_MAX)
}
