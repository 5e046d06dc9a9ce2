//! Who we are, and whom we believe: TLS and SASL.
//!
//! Invariants: secrets appear in no `Debug` and in no error. The server's certificate is always verified, with its
//! name. SCRAM is not over before the server has proved that it knows the password too. A token is asked for anew with
//! each connection.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::{
    messages::{SaslAuthenticateRequest, SaslHandshakeRequest},
    protocol::StrBytes,
};
use krossing_core::{Side, error::KafkaCode};
use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    prelude::{Mechname, SASLClient, SASLConfig, Session, SessionError, State},
    property::{AuthId, Password},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::connection::{CallError, Connection};

/// How a cluster is spoken to. Plain by default.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Encrypted, with the server's certificate verified.
    pub tls: Option<TlsConfig>,
    /// Authenticated after that.
    pub sasl: Option<Sasl>,
}

/// Certificates, as PEM.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// Whom to believe; the system's certificate authorities where none is given.
    pub ca_pem: Option<Vec<u8>>,
    /// Our own certificate chain, for mutual TLS.
    pub cert_pem: Option<Vec<u8>>,
    /// Its private key, not encrypted.
    pub key_pem: Option<Vec<u8>>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.cert_pem.is_some();
        f.debug_struct("TlsConfig").field("own_ca", &self.ca_pem.is_some()).field("own_certificate", &own).finish()
    }
}

/// A SASL mechanism and what it needs.
#[derive(Clone)]
pub enum Sasl {
    /// PLAIN.
    Plain {
        /// The user.
        username: String,
        /// Its password.
        password: String,
    },
    /// SCRAM-SHA-512.
    ScramSha512 {
        /// The user.
        username: String,
        /// Its password.
        password: String,
    },
    /// OAUTHBEARER.
    OAuthBearer(Arc<dyn TokenSource>),
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sasl::Plain { username, .. } | Sasl::ScramSha512 { username, .. } => {
                write!(f, "{} as {username:?}", self.mechanism())
            }
            Sasl::OAuthBearer(_) => f.write_str(self.mechanism()),
        }
    }
}

/// Where bearer tokens come from. Boxed, because it is chosen by configuration and asked once a connection.
pub trait TokenSource: Send + Sync {
    /// A token that is valid now, or why there is none.
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>>;
}

/// What every connection of a cluster is opened with.
pub(crate) struct Dialer {
    pub(crate) side: Side,
    pub(crate) client_id: String,
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) sasl: Option<Sasl>,
}

impl Dialer {
    /// Reads the certificates; answers what is wrong with them.
    pub(crate) fn new(side: Side, client_id: String, security: Security) -> Result<Self, String> {
        let tls = security.tls.as_ref().map(tls_connector).transpose()?;
        Ok(Self { side, client_id, tls, sasl: security.sasl })
    }

    /// What TLS to `host` needs, where TLS is wanted.
    pub(crate) fn tls_for(&self, host: &str) -> Result<Option<(&TlsConnector, ServerName<'static>)>, CallError> {
        let Some(connector) = &self.tls else { return Ok(None) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| CallError::NotAllowed("a name that no certificate can carry".to_owned()))?;
        Ok(Some((connector, name)))
    }
}

fn tls_connector(config: &TlsConfig) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca_pem {
        Some(pem) => {
            for certificate in certificates(pem, "the certificate authority")? {
                roots.add(certificate).map_err(|e| format!("the certificate authority: {e}"))?;
            }
        }
        None => {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err("this system has no certificate authorities; name a file of them (ca_file)".to_owned());
            }
        }
    }
    // The provider by name: two of them in one process make the default ambiguous, and rustls panics.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let client = match (&config.cert_pem, &config.key_pem) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|e| format!("the private key (it must be PEM and not encrypted): {e}"))?;
            builder
                .with_client_auth_cert(certificates(cert, "our certificate")?, key)
                .map_err(|e| format!("our certificate: {e}"))?
        }
        _ => return Err("a certificate and its private key must be given together".to_owned()),
    };
    Ok(TlsConnector::from(Arc::new(client)))
}

fn certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{whose}: no certificate in PEM form")),
        Ok(found) => Ok(found),
        Err(e) => Err(format!("{whose}: {e}")),
    }
}

impl Sasl {
    /// The mechanism's registered name.
    pub(crate) fn mechanism(&self) -> &'static str {
        match self {
            Sasl::Plain { .. } => "PLAIN",
            Sasl::ScramSha512 { .. } => "SCRAM-SHA-512",
            Sasl::OAuthBearer(_) => "OAUTHBEARER",
        }
    }

    /// Says who we are; answers when the session ends, if it does.
    pub(crate) async fn authenticate(&self, connection: &Connection) -> Result<Option<Duration>, CallError> {
        let mechanism = self.mechanism();
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = connection.call(&handshake).await?;
        if let Some(code) = KafkaCode::from_wire(answer.error_code) {
            let offered = answer.mechanisms.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
            return Err(CallError::NotAllowed(format!("{mechanism}: {code}; the broker offers {offered:?}")));
        }
        match self {
            Sasl::Plain { username, password } => {
                let (_, lifetime) = exchange(connection, format!("\0{username}\0{password}").into_bytes()).await?;
                Ok(lifetime)
            }
            Sasl::OAuthBearer(source) => {
                let token = source.token().await.map_err(CallError::NotAllowed)?;
                let first = format!("n,,\x01auth=Bearer {token}\x01\x01").into_bytes();
                let (said, lifetime) = exchange(connection, first).await?;
                // A refusal comes as JSON, before the code (RFC 7628).
                if said.is_empty() {
                    Ok(lifetime)
                } else {
                    Err(CallError::NotAllowed(format!("{mechanism}: {}", String::from_utf8_lossy(&said))))
                }
            }
            Sasl::ScramSha512 { username, password } => scram(connection, username, password).await,
        }
    }
}

/// One step: our bytes, the broker's bytes, and the session's life.
async fn exchange(connection: &Connection, ours: Vec<u8>) -> Result<(Bytes, Option<Duration>), CallError> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(ours));
    let answer = connection.call(&request).await?;
    match KafkaCode::from_wire(answer.error_code) {
        Some(code) => {
            let detail = answer.error_message.as_ref().map(|m| format!(": {}", m.as_str())).unwrap_or_default();
            Err(CallError::NotAllowed(format!("{code}{detail}")))
        }
        None => {
            let lifetime = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
            Ok((answer.auth_bytes, lifetime.map(Duration::from_millis)))
        }
    }
}

async fn scram(connection: &Connection, username: &str, password: &str) -> Result<Option<Duration>, CallError> {
    let mut session = scram_session(username, password).map_err(CallError::NotAllowed)?;
    let mut said = None;
    let mut lifetime = None;
    // Two messages each way, and the server's proof is looked at in a third step.
    for _ in 0..3 {
        let mut ours = Vec::new();
        let state = session
            .step(said.as_deref(), &mut ours)
            .map_err(|e| CallError::NotAllowed(format!("SCRAM-SHA-512: {e}")))?;
        if matches!(state, State::Finished(_)) && ours.is_empty() {
            return Ok(lifetime);
        }
        let (answer, session_lifetime) = exchange(connection, ours).await?;
        said = Some(answer.to_vec());
        lifetime = session_lifetime;
    }
    Err(CallError::NotAllowed("SCRAM-SHA-512: the broker did not prove that it knows the password".to_owned()))
}

struct Credentials {
    username: String,
    password: String,
}

impl SessionCallback for Credentials {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        request.satisfy::<AuthId>(&self.username)?.satisfy::<Password>(self.password.as_bytes())?;
        Ok(())
    }
}

fn scram_session(username: &str, password: &str) -> Result<Session, String> {
    let credentials = Credentials { username: username.to_owned(), password: password.to_owned() };
    let config =
        SASLConfig::builder().with_default_mechanisms().with_callback(credentials).map_err(|e| e.to_string())?;
    let mechanism = Mechname::parse(b"SCRAM-SHA-512").map_err(|e| e.to_string())?;
    SASLClient::new(config).start_suggested([mechanism].iter()).map_err(|e| e.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A server's side of SCRAM-SHA-512 (RFC 5802) that does not look at the client's proof, and computes its own from
    /// `password`.
    pub(crate) fn scram_by(password: &str) -> impl FnMut(&[u8]) -> Vec<u8> {
        let password = password.to_owned();
        let mut client_first = String::new();
        let mut server_first = String::new();
        move |message| {
            let message = String::from_utf8(message.to_vec()).expect("text");
            let fields: HashMap<_, _> = message.split(',').filter_map(|field| field.split_once('=')).collect();
            if server_first.is_empty() {
                client_first = message.trim_start_matches("n,,").to_owned();
                server_first = format!("r={}server,s=c2FsdA==,i=4096", fields["r"]);
                return server_first.clone().into_bytes();
            }
            let without_proof = message.split(",p=").next().unwrap_or_default();
            let signed = format!("{client_first},{server_first},{without_proof}");
            let mut salted = [0; 64];
            pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password.as_bytes(), b"salt", 4096, &mut salted);
            let signature = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
            format!("v={}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, signature)).into_bytes()
        }
    }

    fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
        use hmac::Mac;
        let mut mac = hmac::Hmac::<sha2::Sha512>::new_from_slice(key).expect("any length");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "5ecret".to_owned();
        let sasl = Sasl::ScramSha512 { username: "alice".to_owned(), password: secret.clone() };
        let key = Some(secret.clone().into_bytes());
        let tls = TlsConfig { ca_pem: None, cert_pem: key.clone(), key_pem: key };
        let shown = format!("{:?}", Security { tls: Some(tls.clone()), sasl: Some(sasl) });
        assert!(shown.contains("alice") && !shown.contains(&secret) && !shown.contains("53, 101"), "{shown}");
        let refused = Dialer::new(Side::Source, String::new(), Security { tls: Some(tls), sasl: None }).err();
        assert!(refused.is_some_and(|refused| !refused.contains(&secret)));
    }

    #[test]
    fn half_a_key_pair_and_an_empty_authority_are_refused_in_words() {
        let with = |config| Dialer::new(Side::Source, String::new(), Security { tls: Some(config), sasl: None }).err();
        let empty = with(TlsConfig { ca_pem: Some(b"nothing".to_vec()), ..TlsConfig::default() });
        assert_eq!(empty.as_deref(), Some("the certificate authority: no certificate in PEM form"));
    }
}
