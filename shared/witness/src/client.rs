//! One librdkafka client: its threads and connections, kept from one range to the next, and what it last complained of.

use std::sync::{Mutex, MutexGuard, PoisonError};

use krossing_core::{
    TopicPartition,
    ports::{ClusterError, ClusterResult},
};
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::config::WitnessConfig;

/// A client without a group: it can only read.
pub(crate) struct Client(BaseConsumer<Complaints>);

/// What librdkafka said of its connections since the last [`Client::forget_complaints`].
#[derive(Default)]
pub(crate) struct Complaints(Mutex<Seen>);

#[derive(Default, Clone)]
struct Seen {
    last: Option<String>,
    refusal: Option<String>,
}

impl Client {
    /// Starts its threads; contacts nobody yet.
    pub(crate) fn start(config: &WitnessConfig) -> ClusterResult<Self> {
        BaseConsumer::from_config_and_context(&config.client_config(), Complaints::default()).map(Self).map_err(
            |error| ClusterError::NotAllowed {
                side: config.side,
                attempt: "setting up the checking client".to_owned(),
                detail: config.redact(&describe_setup(&error)),
            },
        )
    }

    pub(crate) fn native(&self) -> *mut rdkafka::bindings::rd_kafka_t {
        self.0.client().native_ptr()
    }

    /// The log start and the last stable offset, asked of the leader.
    pub(crate) fn log_ends(
        &self,
        partition: &TopicPartition,
        patience: std::time::Duration,
    ) -> Result<(i64, i64), RDKafkaErrorCode> {
        self.0
            .fetch_watermarks(partition.topic.as_str(), partition.partition.0, patience)
            .map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Takes up what librdkafka has to say of its connections. It is said through [`ClientContext::error`]; the
    /// returned event says it a second time.
    pub(crate) fn listen(&self) {
        while self.0.poll(std::time::Duration::ZERO).is_some() {}
    }

    pub(crate) fn forget_complaints(&self) {
        *self.0.context().seen() = Seen::default();
    }

    /// The last complaint of any kind.
    pub(crate) fn last_complaint(&self) -> Option<String> {
        self.0.context().seen().last.clone()
    }

    /// The last complaint that patience does not cure.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.0.context().seen().refusal.clone()
    }
}

impl Complaints {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Complaints {}

impl ClientContext for Complaints {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let mut seen = self.seen();
        if matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)) {
            seen.refusal = Some(reason.to_owned());
        }
        // "All brokers down" follows each cause and says less than it.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || seen.last.is_none() {
            seen.last = Some(reason.to_owned());
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Whoever reads decides what a lost connection means; here it is one observation among many.
        tracing::debug!(?level, facility, message, "librdkafka");
    }
}

/// rdkafka's own text holds the setting's value, which may be a key.
fn describe_setup(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, key, _) => format!("{key}: {description}"),
        KafkaError::ClientCreation(description) => description.clone(),
        other => other.to_string(),
    }
}
