//! One librdkafka client: its threads and connections, kept from one range to the next, and what it last complained of.

use std::{
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use krossing_core::{
    TopicPartition,
    ports::{ClusterError, ClusterResult},
};
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::config::{Sasl, TokenSource, WitnessConfig};

/// A client without a group: it can only read.
pub(crate) struct Client(BaseConsumer<Complaints>);

/// What librdkafka said of its connections since the last [`Client::forget_complaints`], and what it is told when it
/// asks for a token.
pub(crate) struct Complaints {
    seen: Mutex<Seen>,
    tokens: Option<Arc<dyn TokenSource>>,
}

#[derive(Default, Clone)]
struct Seen {
    last: Option<String>,
    refusal: Option<String>,
}

impl Client {
    /// Starts its threads; contacts nobody yet.
    pub(crate) fn start(config: &WitnessConfig) -> ClusterResult<Self> {
        let tokens = match &config.security.sasl {
            Some(Sasl::OAuthBearer(tokens)) => Some(Arc::clone(tokens)),
            Some(Sasl::Password { .. }) | None => None,
        };
        let context = Complaints { seen: Mutex::default(), tokens };
        BaseConsumer::from_config_and_context(&config.client_config(), context).map(Self).map_err(|error| {
            ClusterError::NotAllowed {
                side: config.side,
                attempt: "setting up the checking client".to_owned(),
                detail: config.redact(&describe_setup(&error)),
            }
        })
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

    /// Takes up what librdkafka has to say of its connections, and gives it a token where it wants one. It is said
    /// through [`ClientContext::error`]; the returned event says it a second time.
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
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Complaints {}

impl ClientContext for Complaints {
    // Asked only where the mechanism is OAUTHBEARER, and only while somebody polls: `listen`.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("nobody was named to ask for a token")?;
        let token = tokens.token()?;
        // The name is told to nobody: brokers take it out of the token.
        Ok(OAuthToken { token: token.text, principal_name: "krossing".to_owned(), lifetime_ms: token.expires_unix_ms })
    }

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
