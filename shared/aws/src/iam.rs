//! How brokers of MSK are told which AWS role we are: a token for OAUTHBEARER.
//!
//! The token is the address of a request for `kafka-cluster:Connect`, signed with our credentials, which the broker has
//! checked by AWS: what `aws-msk-iam-sasl-signer` makes, in all its languages. Made here on `aws-sigv4`, which the SDK
//! brings: that crate adds 10 more, among them tables of Unicode for addresses, and reads the clock itself.
//!
//! Credentials are asked for with each token, which is when those of a role are renewed. A token is good for as long as
//! it and the credentials behind it are.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::Region;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider},
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4::SigningParams,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use krossing_core::limits::{AWS_API_OPERATION_WAIT_MAX, IAM_TOKEN_LIFE};

use crate::config::Aws;

/// What is asked to be allowed, and the name that stands in the signature.
const CONNECT: &str = "kafka-cluster:Connect";
const SERVICE: &str = "kafka-cluster";

/// What to do where there is no token to be had.
const REMEDY: &str =
    "give this process credentials (a role, a profile, or AWS_ACCESS_KEY_ID), or renew those that it has";

/// A token, and until when it is one.
#[derive(Clone)]
pub struct IamToken {
    /// What is sent.
    pub text: String,
    /// In milliseconds since 1970.
    pub expires_unix_ms: i64,
}

/// Makes tokens for brokers of a region.
#[derive(Debug, Clone)]
pub struct IamTokens {
    credentials: Option<SharedCredentialsProvider>,
    region: Option<Region>,
    /// The field that wants them, for messages.
    field: Arc<str>,
}

impl IamTokens {
    /// For the cluster whose `field` says that it is to be logged in to with IAM, in `region`; without one in that of the
    /// SDK's usual places.
    pub fn new(aws: &Aws, region: Option<&str>, field: &str) -> Self {
        let region = region.map(|region| Region::new(region.to_owned())).or_else(|| aws.sdk_region());
        Self { credentials: aws.credentials(), region, field: field.into() }
    }

    /// A token that is valid from now on, or why there is none and what to do.
    pub async fn token(&self, now_unix_ms: i64) -> Result<IamToken, String> {
        let field = &self.field;
        let region = self.region.as_ref().ok_or_else(|| {
            format!("{field}: iam needs to know the cluster's region: give its cluster_arn, aws.region or AWS_REGION")
        })?;
        let none = |what: String| format!("{field}: there are no AWS credentials to log in with: {what}; {REMEDY}");
        let provider = self.credentials.as_ref().ok_or_else(|| none("nobody provides any".to_owned()))?;
        let asked = tokio::time::timeout(AWS_API_OPERATION_WAIT_MAX, provider.provide_credentials()).await;
        let credentials = asked
            .map_err(|_| none(format!("no answer within {} s", AWS_API_OPERATION_WAIT_MAX.as_secs())))?
            .map_err(|error| none(chain(&error)))?;
        let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now_unix_ms).unwrap_or_default());
        let expires = match credentials.expiry() {
            Some(expiry) if expiry <= now => return Err(none("those that there are have expired".to_owned())),
            Some(expiry) => expiry.min(now + IAM_TOKEN_LIFE),
            None => now + IAM_TOKEN_LIFE,
        };
        let text =
            signed(&credentials, region.as_ref(), now).map_err(|what| format!("{field}: signing a token: {what}"))?;
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Ok(IamToken { text, expires_unix_ms: i64::try_from(expires).unwrap_or(i64::MAX) })
    }
}

fn signed(credentials: &Credentials, region: &str, now: SystemTime) -> Result<String, String> {
    // Not resolved and never called: brokers know it as this in every partition of AWS.
    let address = format!("https://kafka.{region}.amazonaws.com/?Action={}", CONNECT.replace(':', "%3A"));
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(IAM_TOKEN_LIFE);
    let identity = credentials.clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?;
    let request = SignableRequest::new("GET", address.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, &params.into()).map_err(|error| error.to_string())?.into_parts();
    let mut signed = address.clone();
    for (name, value) in instructions.params() {
        signed.push_str(&format!("&{name}={}", encoded(value)));
    }
    // Behind the signature, which does not cover it: for CloudTrail.
    signed.push_str("&User-Agent=krossing");
    Ok(BASE64.encode(signed))
}

/// As an address has it, and as the signature was made over it (RFC 3986).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        said = format!("{said}: {inner}");
        cause = inner.source();
    }
    said
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use aws_config::{BehaviorVersion, SdkConfig};

    use super::*;

    const NOW: i64 = 1_764_000_000_000;

    fn tokens(credentials: Credentials, region: Option<&str>) -> IamTokens {
        let sdk = SdkConfig::builder().behavior_version(BehaviorVersion::latest());
        let sdk = sdk.credentials_provider(SharedCredentialsProvider::new(credentials)).build();
        IamTokens::new(&Aws::of(sdk), region, "target.auth.mode")
    }

    fn credentials(session: Option<&str>, expires_unix_ms: Option<i64>) -> Credentials {
        let at = |ms: i64| UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs());
        Credentials::new("AKID", "secret", session.map(str::to_owned), expires_unix_ms.map(at), "test")
    }

    #[tokio::test]
    async fn a_token_is_a_signed_address_without_the_secret() {
        let token = tokens(credentials(Some("a+session/token=="), None), Some("eu-west-1")).token(NOW).await.unwrap();
        assert_eq!(token.expires_unix_ms, NOW + 900_000);
        let address = String::from_utf8(BASE64.decode(&token.text).unwrap()).unwrap();
        let (host, query) = address.split_once('?').unwrap();
        assert_eq!(host, "https://kafka.eu-west-1.amazonaws.com/");
        for part in [
            "Action=kafka-cluster%3AConnect",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Credential=AKID%2F20251124%2Feu-west-1%2Fkafka-cluster%2Faws4_request",
            "X-Amz-Date=20251124T160000Z",
            "X-Amz-Expires=900",
            "X-Amz-SignedHeaders=host",
            "X-Amz-Security-Token=a%2Bsession%2Ftoken%3D%3D",
        ] {
            assert!(query.split('&').any(|found| found == part), "{part} is missing in {query}");
        }
        assert!(query.contains("&X-Amz-Signature=") && !query.contains("secret"), "{query}");
    }

    #[tokio::test]
    async fn a_token_lives_no_longer_than_its_credentials() {
        let token = tokens(credentials(None, Some(NOW + 60_000)), Some("eu-west-1")).token(NOW).await.unwrap();
        assert_eq!(token.expires_unix_ms, NOW + 60_000);
        let said = tokens(credentials(None, Some(NOW)), Some("eu-west-1")).token(NOW).await.err().unwrap();
        assert!(said.starts_with("target.auth.mode: ") && said.contains("have expired; give this process"), "{said}");
        let said = tokens(credentials(None, None), None).token(NOW).await.err().unwrap();
        assert!(said.contains("cluster_arn") && said.contains("AWS_REGION"), "{said}");
    }
}
