//! How to reach a cluster, and what that becomes in librdkafka's own vocabulary.

use std::{fmt, sync::Arc};

use krossing_core::{Side, limits};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct WitnessConfig {
    /// Which of the two it is: for errors.
    pub side: Side,
    /// `host:port` of some brokers.
    pub bootstrap: Vec<String>,
    /// How to speak to them.
    pub security: Security,
}

/// Encryption and authentication; neither is plaintext.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// TLS, if the listener wants it.
    pub tls: Option<Tls>,
    /// SASL, if the listener wants it.
    pub sasl: Option<Sasl>,
}

/// TLS, with PEM texts.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities to trust; none: the system's.
    pub ca_pem: Option<String>,
    /// Our certificate chain, for mutual TLS.
    pub cert_pem: Option<String>,
    /// Our private key, for mutual TLS.
    pub key_pem: Option<String>,
}

/// Who we are.
#[derive(Clone)]
pub enum Sasl {
    /// A user name and a password.
    Password {
        /// How they are proved.
        mechanism: SaslMechanism,
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// OAUTHBEARER.
    OAuthBearer(Arc<dyn TokenSource>),
}

/// Where bearer tokens come from. Boxed, because it is chosen by configuration and asked a few times an hour.
pub trait TokenSource: Send + Sync {
    /// A token that is valid now, or why there is none. Called by a thread that may wait.
    fn token(&self) -> Result<Token, String>;
}

/// A bearer token.
#[derive(Clone)]
pub struct Token {
    /// What is sent.
    pub text: String,
    /// Until when it is valid: librdkafka asks for the next one when four fifths of that are over.
    pub expires_unix_ms: i64,
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// Sent as it is.
    Plain,
    /// A challenge; the password is never sent.
    ScramSha512,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own_authority = self.ca_pem.is_some();
        let mutual = self.cert_pem.is_some();
        f.debug_struct("Tls").field("own_authority", &own_authority).field("mutual", &mutual).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sasl::Password { mechanism, username, .. } => write!(f, "{mechanism:?} as {username:?}"),
            Sasl::OAuthBearer(_) => f.write_str("OAuthBearer"),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_unix_ms", &self.expires_unix_ms).finish_non_exhaustive()
    }
}

impl WitnessConfig {
    /// The settings of librdkafka for this cluster.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let mut set = |name: &str, value: &str| {
            config.set(name, value);
        };
        set("bootstrap.servers", &self.bootstrap.join(","));
        set("client.id", "krossing-witness");
        // No group.id: with one, whatever its name, librdkafka asks for a coordinator twice a second, and a broker
        // answers that question by creating `__consumer_offsets`.
        set("isolation.level", "read_committed");
        set("check.crcs", "true");
        set("enable.partition.eof", "true");
        set("enable.auto.commit", "false");
        set("enable.auto.offset.store", "false");
        set("allow.auto.create.topics", "false");
        // An offset that is gone is an error to us, not a silent jump: we ask for the log start and go on from there.
        set("auto.offset.reset", "error");
        set("queued.max.messages.kbytes", &(limits::WITNESS_QUEUE_BYTES_MAX / 1024).to_string());
        set("queued.min.messages", &limits::WITNESS_QUEUE_RECORDS_MIN.to_string());
        set("fetch.message.max.bytes", &limits::WITNESS_FETCH_BYTES.to_string());
        set("receive.message.max.bytes", &limits::ANSWER_BYTES_MAX.to_string());
        // The end of a range that no record follows is known by an empty answer: this is what it costs.
        set("fetch.wait.max.ms", "50");
        set("topic.metadata.propagation.max.ms", "5000");
        set("reconnect.backoff.max.ms", "2000");
        set("log.connection.close", "false");
        let protocol = match (&self.security.tls, &self.security.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        set("security.protocol", protocol);
        if let Some(tls) = &self.security.tls {
            let pems =
                [("ssl.ca.pem", &tls.ca_pem), ("ssl.certificate.pem", &tls.cert_pem), ("ssl.key.pem", &tls.key_pem)];
            for (name, pem) in pems {
                if let Some(pem) = pem {
                    set(name, pem);
                }
            }
            // An OpenSSL that was built into the binary looks for the system's authorities where it was built.
            if cfg!(feature = "static") && tls.ca_pem.is_none() {
                set("ssl.ca.location", "probe");
            }
        }
        match &self.security.sasl {
            Some(Sasl::Password { mechanism, username, password }) => {
                let mechanism = match mechanism {
                    SaslMechanism::Plain => "PLAIN",
                    SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
                };
                set("sasl.mechanisms", mechanism);
                set("sasl.username", username);
                set("sasl.password", password);
            }
            Some(Sasl::OAuthBearer(_)) => set("sasl.mechanisms", "OAUTHBEARER"),
            None => {}
        }
        // Info and below are librdkafka's own affairs; what it warns of reaches our tracing (see `client`).
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// A text of librdkafka without what must not be shown.
    pub(crate) fn redact(&self, text: &str) -> String {
        let password = match &self.security.sasl {
            Some(Sasl::Password { password, .. }) => Some(password.as_str()),
            Some(Sasl::OAuthBearer(_)) | None => None,
        };
        let key = self.security.tls.as_ref().and_then(|tls| tls.key_pem.as_deref());
        [password, key]
            .into_iter()
            .flatten()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret, "(hidden)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_password(password: &str) -> WitnessConfig {
        let (mechanism, username) = (SaslMechanism::ScramSha512, "alice".into());
        let sasl = Sasl::Password { mechanism, username, password: password.into() };
        let tls = Tls { key_pem: Some("the key".into()), ..Tls::default() };
        WitnessConfig {
            side: Side::Source,
            bootstrap: vec!["a:1".into(), "b:2".into()],
            security: Security { tls: Some(tls), sasl: Some(sasl) },
        }
    }

    #[test]
    fn no_group_is_named_so_that_no_coordinator_is_asked() {
        let config = with_password("secret").client_config();
        assert_eq!(config.get("group.id"), None);
        assert_eq!(config.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
    }

    #[test]
    fn secrets_appear_neither_in_debug_nor_in_errors() {
        let config = with_password("secret");
        let shown = format!("{config:?}");
        assert!(!shown.contains("secret") && !shown.contains("the key"), "{shown}");
        assert_eq!(config.redact("bad value secret of the key"), "bad value (hidden) of (hidden)");
        assert_eq!(with_password("").redact("as it is"), "as it is");
    }
}
