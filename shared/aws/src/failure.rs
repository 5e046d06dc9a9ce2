//! What an answer of AWS that is not the wanted one means: a table from codes to [`StoreError`]s.
//!
//! Every message names the table, bucket, secret, key or cluster with its region, says what AWS said, and where somebody must act, what to
//! do. Conditions that do not hold are not failures: whoever set one looks for it first.

use std::{error::Error, fmt, future::Future, sync::Arc, time::Duration};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use krossing_core::ports::{StoreError, StoreResult};

use crate::config::Site;

/// What was asked: named in every message.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A table of DynamoDB.
    Table {
        /// Its name.
        name: Arc<str>,
        /// Where it was looked for.
        site: Site,
    },
    /// A bucket of S3.
    Bucket {
        /// Its name.
        name: Arc<str>,
        /// Where it was looked for.
        site: Site,
    },
    /// Something else that AWS keeps.
    Other {
        /// Which service's.
        kind: Kind,
        /// Its name or ARN.
        name: Arc<str>,
        /// Where it was looked for.
        site: Site,
    },
}

/// What is asked for by its name or ARN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A secret of Secrets Manager.
    Secret,
    /// A key of KMS.
    Key,
    /// A cluster of MSK.
    Cluster,
    /// A bus of EventBridge.
    Bus,
    /// Step Functions, or an execution there.
    Workflow,
    /// STS.
    Identity,
}

impl Kind {
    fn service(self) -> &'static str {
        match self {
            Kind::Secret => "Secrets Manager",
            Kind::Key => "KMS",
            Kind::Cluster => "MSK",
            Kind::Bus => "EventBridge",
            Kind::Workflow => "Step Functions",
            Kind::Identity => "STS",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::Key => "KMS key",
            Kind::Cluster => "MSK cluster",
            Kind::Bus => "event bus",
            Kind::Workflow => "Step Functions",
            Kind::Identity => "STS",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Table { name, site } => write!(f, "table {name} in {site}"),
            Place::Bucket { name, site } => write!(f, "bucket {name} in {site}"),
            Place::Other { kind, name, site } => write!(f, "{} {name} in {site}", kind.name()),
        }
    }
}

impl Place {
    /// Where no answer came from, and what may keep it away; none where nothing was sent yet.
    fn unanswered(&self) -> Option<String> {
        let (service, endpoint, site) = match self {
            Place::Table { site, .. } => ("DynamoDB", "a gateway endpoint", site),
            Place::Bucket { site, .. } => ("S3", "a gateway endpoint", site),
            Place::Other { kind, site, .. } => (kind.service(), "an interface endpoint", site),
        };
        let host = site.endpoint()?;
        Some(format!(
            "no answer came from {service} at {host}: where that lasts, give the subnets of this process a route to \
             {service} ({endpoint}, or NAT), and have security groups let its HTTPS through"
        ))
    }
}

/// What can be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The next try may succeed.
    Passing,
    /// There is no such table or bucket.
    NotThere,
    /// It is in another region.
    ElsewhereRegion,
    /// The role lacks a right.
    NotAllowed,
    /// AWS does not know, or does not believe, who asks.
    NotKnown,
    /// We have no credentials, or no region, to ask with.
    NotConfigured,
    /// Any other no.
    Definite,
}

/// An error of the SDK, as an error of the port.
pub(crate) fn failed<E>(attempt: &str, place: &Place, error: &SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (meaning, detail, remedy) = explained(place, error);
    let attempt = attempt.to_owned();
    match (meaning, remedy) {
        (Meaning::Passing, _) => StoreError::Unavailable { attempt, detail },
        (_, Some(remedy)) => StoreError::Refused { attempt, detail: format!("{detail}; {remedy}") },
        (_, None) => StoreError::Refused { attempt, detail },
    }
}

/// What an error of the SDK means, what was seen, and what to do where somebody must act.
pub(crate) fn explained<E>(place: &Place, error: &SdkError<E>) -> (Meaning, String, Option<&'static str>)
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let said = said(error);
    let meaning = match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Meaning::Passing,
        SdkError::ServiceError(service) => of_answer(error.code(), service.raw().status().as_u16(), place),
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) if is_passing_identity(&said) => {
            Meaning::Passing
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) if is_configuration(&said) => {
            Meaning::NotConfigured
        }
        SdkError::DispatchFailure(failure) if !failure.is_user() => Meaning::Passing,
        _ => Meaning::Definite,
    };
    let detail = match place.unanswered().filter(|_| is_silence(error)) {
        Some(unanswered) => format!("{place}: {said}; {unanswered}"),
        None => format!("{place}: {said}"),
    };
    (meaning, detail, remedy(meaning, place))
}

/// Whether nothing came back at all: a service that is out, or packets that are dropped on the way to it.
fn is_silence<E>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::TimeoutError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_timeout() || failure.is_io(),
        _ => false,
    }
}

fn of_answer(code: Option<&str>, status: u16, place: &Place) -> Meaning {
    match code.unwrap_or_default() {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "TooManyRequestsException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "InternalServerError"
        | "InternalError"
        | "ServiceUnavailable"
        | "SlowDown"
        | "RequestTimeout"
        | "OperationAborted"
        | "KMSInternalException"
        | "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "ServiceUnavailableException"
        | "InternalServiceError"
        | "InternalServerErrorException"
        | "ConditionalRequestConflict" => Meaning::Passing,
        "ResourceNotFoundException" | "NoSuchBucket" | "NotFoundException" => Meaning::NotThere,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Meaning::ElsewhereRegion,
        "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => Meaning::NotKnown,
        "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "ForbiddenException" => Meaning::NotAllowed,
        // Answers to HEAD have no body, and so no code.
        _ => match status {
            301 | 307 => Meaning::ElsewhereRegion,
            403 => Meaning::NotAllowed,
            404 if matches!(place, Place::Bucket { .. }) => Meaning::NotThere,
            408 | 429 | 500.. => Meaning::Passing,
            _ => Meaning::Definite,
        },
    }
}

/// Whoever gives us credentials (STS, ECS, EC2) does not answer now: in the days that a seed takes they are asked for
/// anew again and again.
fn is_passing_identity(said: &str) -> bool {
    let said = said.to_lowercase();
    ["timed out", "an error occurred while loading credentials"].iter().any(|words| said.contains(words))
}

/// No credentials and no region are errors of the SDK's own making, known by their words only.
fn is_configuration(said: &str) -> bool {
    let said = said.to_lowercase();
    ["credential", "missing region", "region must be set"].iter().any(|words| said.contains(words))
}

fn remedy(meaning: Meaning, place: &Place) -> Option<&'static str> {
    let table = matches!(place, Place::Table { .. });
    match meaning {
        Meaning::Passing | Meaning::Definite => None,
        Meaning::NotThere if matches!(place, Place::Other { .. }) => {
            Some("correct its name or the region (aws.region), or make it")
        }
        Meaning::NotThere => Some("deploy what makes it, or correct its name or the region"),
        Meaning::ElsewhereRegion => Some("it lies in another region: correct the region"),
        Meaning::NotAllowed if let Place::Other { kind, .. } = place => Some(match kind {
            Kind::Secret => {
                "give the role of this process secretsmanager:GetSecretValue on it, and kms:Decrypt on its key where it \
                 has one of its own"
            }
            Kind::Key => "give the role of this process kms:GetPublicKey and kms:Sign on it",
            Kind::Cluster => {
                "give the role of this process kafka:DescribeClusterV2, GetBootstrapBrokers, ListNodes and \
                 ListScramSecrets on it"
            }
            Kind::Bus => "give the role of this process events:PutEvents on it",
            Kind::Workflow => {
                "give this identity states:StartExecution on the state machine, DescribeExecution on its executions, and \
                 SendTaskSuccess, SendTaskFailure and SendTaskHeartbeat"
            }
            Kind::Identity => "let this identity ask STS who it is",
        }),
        Meaning::NotAllowed if table => Some(
            "give the role of this process dynamodb:GetItem, PutItem, Query and DeleteItem on it, and the rights on its \
             key where it has one",
        ),
        Meaning::NotAllowed => Some(
            "give the role of this process s3:ListBucket on it and s3:GetObject, PutObject and AbortMultipartUpload on \
             what is in it; with Object Lock s3:GetBucketObjectLockConfiguration and PutObjectRetention; with a KMS \
             key kms:GenerateDataKey and Decrypt",
        ),
        Meaning::NotKnown => Some("AWS does not accept this process's credentials: renew them, and look at its clock"),
        Meaning::NotConfigured => {
            Some("give this process a region (AWS_REGION) and credentials (a role, a profile, or AWS_ACCESS_KEY_ID)")
        }
    }
}

/// What AWS said, or what went wrong on the way, in one line.
fn said<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E>) -> String {
    if let SdkError::ServiceError(service) = error {
        let status = service.raw().status().as_u16();
        return match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code} ({status}): {message}"),
            (Some(code), None) => format!("{code} ({status})"),
            (None, _) => format!("HTTP status {status}"),
        };
    }
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = inner.source();
    }
    said
}

/// Ends a call that takes longer than it may.
pub(crate) async fn within<T>(
    attempt: &str,
    place: &Place,
    wait_max: Duration,
    call: impl Future<Output = StoreResult<T>>,
) -> StoreResult<T> {
    tokio::time::timeout(wait_max, call).await.unwrap_or_else(|_| {
        let detail = format!("{place}: not done within {} s", wait_max.as_secs());
        Err(StoreError::Unavailable { attempt: attempt.to_owned(), detail })
    })
}

/// Content that we do not store, or stored content that we do not understand.
pub(crate) fn damaged(attempt: &str, place: &Place, what: impl fmt::Display) -> StoreError {
    let detail = format!("{place}: {what}; restore it from a backup");
    StoreError::Damaged { attempt: attempt.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Place {
        Place::Table { name: "krossing".into(), site: Site::for_test("eu-west-1") }
    }

    fn others() -> [Place; 6] {
        [Kind::Secret, Kind::Key, Kind::Cluster, Kind::Bus, Kind::Workflow, Kind::Identity].map(|kind| Place::Other {
            kind,
            name: "it".into(),
            site: Site::for_test("eu-west-1"),
        })
    }

    fn bucket() -> Place {
        Place::Bucket { name: "segments".into(), site: Site::for_test("eu-west-1") }
    }

    fn check(place: &Place, code: &str, status: u16, expected: Meaning) {
        let code = (!code.is_empty()).then_some(code);
        assert_eq!(of_answer(code, status, place), expected, "{place}: {code:?} {status}");
    }

    #[test]
    fn what_passes_with_time_is_told_from_what_does_not() {
        check(&table(), "ProvisionedThroughputExceededException", 400, Meaning::Passing);
        check(&table(), "ThrottlingException", 400, Meaning::Passing);
        check(&table(), "InternalServerError", 500, Meaning::Passing);
        check(&table(), "", 503, Meaning::Passing);
        check(&bucket(), "SlowDown", 503, Meaning::Passing);
        check(&bucket(), "NeverHeardOf", 500, Meaning::Passing);
        check(&bucket(), "NeverHeardOf", 400, Meaning::Definite);
        check(&table(), "ValidationException", 400, Meaning::Definite);
    }

    #[test]
    fn what_somebody_must_change_is_named() {
        check(&table(), "ResourceNotFoundException", 400, Meaning::NotThere);
        check(&bucket(), "NoSuchBucket", 404, Meaning::NotThere);
        check(&bucket(), "", 404, Meaning::NotThere);
        check(&bucket(), "PermanentRedirect", 301, Meaning::ElsewhereRegion);
        check(&bucket(), "", 301, Meaning::ElsewhereRegion);
        check(&bucket(), "AuthorizationHeaderMalformed", 400, Meaning::ElsewhereRegion);
        check(&table(), "AccessDeniedException", 400, Meaning::NotAllowed);
        check(&bucket(), "", 403, Meaning::NotAllowed);
        check(&bucket(), "InvalidAccessKeyId", 403, Meaning::NotKnown);
        check(&table(), "ExpiredTokenException", 400, Meaning::NotKnown);
    }

    #[test]
    fn every_meaning_that_needs_somebody_says_what_to_do() {
        for meaning in [Meaning::NotThere, Meaning::ElsewhereRegion, Meaning::NotAllowed, Meaning::NotKnown] {
            for place in [table(), bucket()].into_iter().chain(others()) {
                assert!(remedy(meaning, &place).is_some(), "{meaning:?} {place}");
            }
        }
    }
}
