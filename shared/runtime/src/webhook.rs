//! Producers' standstill by a webhook: a program of the operator's that stops producers and lets them go.
//!
//! `POST {"migration_id", "action": "freeze" | "unfreeze" | "switch", "expires_at", "expires_at_unix_ms",
//! "bootstrap_servers"}` (the deadline with a freeze only, the target's servers with a switch only), answered by
//! `{"state": "frozen" | "unfrozen" | "switched"}`. With a secret each request carries
//! `Krossing-Signature: t=<unix>,v1=<hex HMAC-SHA256(secret, "<t>.<body>")>`, so that the receiver knows who asks, and
//! that nobody repeats it later.
//!
//! Invariants: only an answer that names the wanted state counts as confirmed. A redirect is never followed: it would
//! hand a signed order to a place that nobody configured. Every wait is bounded, that of a freeze by its deadline too.
//! An unfreeze is asked for twice: the second answer is what is believed. Requests may arrive more than once.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use krossing_core::{
    MigrationId,
    limits::{
        CONNECT_WAIT_MAX, WEBHOOK_ANSWER_BYTES_MAX, WEBHOOK_ANSWER_WAIT_MAX, WEBHOOK_PAUSE, WEBHOOK_PAUSE_MAX,
        WEBHOOK_SWITCH_WAIT_MAX, WEBHOOK_TOTAL_WAIT_MAX,
    },
    ports::{Clock, FreezeAnswer, FreezeError, ProducerFreeze},
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service;

use crate::clock::SystemClock;

/// Asks a URL of the operator's.
pub struct WebhookFreeze {
    url: Uri,
    secret: Option<String>,
    migration: MigrationId,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    connector: HttpsConnector<HttpConnector>,
    answer_wait_max: Duration,
    total_wait_max: Duration,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Freeze,
    Unfreeze,
    Switch,
}

impl Action {
    /// What is asked of the operator's side, as a part of a sentence.
    fn order(self) -> &'static str {
        match self {
            Action::Freeze => "freeze producers",
            Action::Unfreeze => "unfreeze producers",
            Action::Switch => "switch producers to the target",
        }
    }

    /// The state that confirms it.
    fn state(self) -> &'static str {
        match self {
            Action::Freeze => "frozen",
            Action::Unfreeze => "unfrozen",
            Action::Switch => "switched",
        }
    }
}

#[derive(Serialize)]
struct Order<'a> {
    migration_id: &'a str,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_unix_ms: Option<i64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    bootstrap_servers: &'a [String],
}

#[derive(Deserialize)]
struct State {
    state: String,
}

/// What one request came to.
enum Outcome {
    Answer(FreezeAnswer),
    /// May be different a moment later.
    Passing(String),
    /// Will be the same a moment later.
    Lasting(String),
}

impl WebhookFreeze {
    /// For this migration, at this URL (http or https), signing with `secret` if there is one.
    pub fn new(url: &str, secret: Option<String>, migration: MigrationId) -> Result<Self, FreezeError> {
        let error = |detail: String| FreezeError { attempt: format!("setting up the freeze webhook {url}"), detail };
        let parsed: Uri = url.parse().map_err(|cause| error(format!("not a URL: {cause}")))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) {
            return Err(error("the URL must begin with http:// or https://".into()));
        }
        let provider = hyper_rustls_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|cause| error(format!("the system's certificates cannot be read: {cause}")))?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            url: parsed,
            secret,
            migration,
            client: Client::builder(TokioExecutor::new()).build(connector.clone()),
            connector,
            answer_wait_max: WEBHOOK_ANSWER_WAIT_MAX,
            total_wait_max: WEBHOOK_TOTAL_WAIT_MAX,
        })
    }

    async fn order(
        &self,
        action: Action,
        expires_at_unix_ms: Option<i64>,
        bootstrap_servers: &[String],
    ) -> Result<FreezeAnswer, FreezeError> {
        let order = action.order();
        let error = |detail: String| FreezeError { attempt: format!("asking {} to {order}", self.url), detail };
        let expires_at = expires_at_unix_ms
            .map(|ms| jiff::Timestamp::from_millisecond(ms).map(|time| time.to_string()))
            .transpose()
            .map_err(|cause| error(format!("the deadline is no time: {cause}")))?;
        let migration_id = self.migration.as_str();
        let content = Order { migration_id, action, expires_at, expires_at_unix_ms, bootstrap_servers };
        let body = serde_json::to_vec(&content).expect("texts and numbers are JSON");
        let give_up = Instant::now() + self.total_wait(action, expires_at_unix_ms);
        let (mut pause, mut said) = (WEBHOOK_PAUSE, String::new());
        loop {
            let detail = match timeout_at(give_up, self.ask_once(action, Bytes::from(body.clone()))).await {
                Ok(Outcome::Answer(answer)) => return Ok(answer),
                Ok(Outcome::Lasting(detail)) => return Err(error(detail)),
                Ok(Outcome::Passing(detail)) => detail,
                Err(_) => return Err(error("no answer within the time that is left for it".into())),
            };
            if Instant::now() + pause >= give_up {
                return Err(error(detail));
            }
            // One that is dead is asked many times, and says the same each time.
            if detail == said {
                tracing::debug!(url = %self.url, order, detail, "the freeze webhook is asked again");
            } else {
                tracing::warn!(url = %self.url, order, detail, "the freeze webhook is asked again and again");
                said = detail;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WEBHOOK_PAUSE_MAX);
        }
    }

    fn total_wait(&self, action: Action, expires_at_unix_ms: Option<i64>) -> Duration {
        if matches!(action, Action::Switch) {
            return self.total_wait_max.min(WEBHOOK_SWITCH_WAIT_MAX);
        }
        let Some(expires) = expires_at_unix_ms else { return self.total_wait_max };
        let left_ms = expires.saturating_sub(SystemClock.unix_ms()).max(0);
        self.total_wait_max.min(Duration::from_millis(left_ms.unsigned_abs()))
    }

    async fn ask_once(&self, action: Action, body: Bytes) -> Outcome {
        let mut request = Request::post(self.url.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = &self.secret {
            let unix = SystemClock.unix_ms() / 1_000;
            request = request.header("krossing-signature", format!("t={unix},v1={}", sign(secret, unix, &body)));
        }
        let request = match request.body(Full::new(body)) {
            Ok(request) => request,
            Err(cause) => return Outcome::Lasting(format!("the request cannot be made: {cause}")),
        };
        let exchange = async {
            match self.client.request(request).await {
                Ok(response) => judge(action, response).await,
                Err(cause) => Outcome::Passing(format!("no answer: {}", chain(&cause))),
            }
        };
        let seconds = self.answer_wait_max.as_secs_f32();
        timeout(self.answer_wait_max, exchange)
            .await
            .unwrap_or_else(|_| Outcome::Passing(format!("no answer within {seconds} s")))
    }
}

impl ProducerFreeze for WebhookFreeze {
    /// Name, TCP and TLS, and no request: every request means something to whoever acts on it.
    async fn reach(&self) -> Result<(), FreezeError> {
        let error =
            |detail: String| FreezeError { attempt: format!("reaching the freeze webhook {}", self.url), detail };
        let connected = timeout(CONNECT_WAIT_MAX, self.connector.clone().call(self.url.clone())).await;
        let seconds = CONNECT_WAIT_MAX.as_secs();
        let connected = connected.map_err(|_| error(format!("no connection within {seconds} s")))?;
        connected.map(drop).map_err(|cause| error(chain(cause.as_ref())))
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        self.order(Action::Freeze, Some(expires_at_unix_ms), &[]).await
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        self.order(Action::Switch, None, bootstrap_servers).await
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        self.order(Action::Unfreeze, None, &[]).await?;
        self.order(Action::Unfreeze, None, &[]).await
    }
}

/// The cryptography that the rest of Krossing uses; named, because a process may hold several.
fn hyper_rustls_provider() -> tokio_rustls::rustls::crypto::CryptoProvider {
    tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()
}

fn sign(secret: &str, unix: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{unix}.").as_bytes());
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

async fn judge(action: Action, response: Response<Incoming>) -> Outcome {
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()));
        let location = location.as_deref().unwrap_or("nowhere in particular");
        return Outcome::Lasting(format!(
            "{status}: it points to {location}, and redirects are not followed; configure that URL if it is right"
        ));
    }
    if status.is_server_error() {
        return Outcome::Passing(format!("it answered {status}"));
    }
    if !status.is_success() {
        return Outcome::Lasting(format!("it answered {status}"));
    }
    match Limited::new(response.into_body(), WEBHOOK_ANSWER_BYTES_MAX).collect().await {
        Ok(body) => Outcome::Answer(read_state(action, status, &body.to_bytes())),
        Err(cause) => Outcome::Passing(format!("{status}, but its answer could not be read: {cause}")),
    }
}

fn read_state(action: Action, status: StatusCode, body: &[u8]) -> FreezeAnswer {
    let wanted = action.state();
    match serde_json::from_slice::<State>(body) {
        Ok(State { state }) if state == wanted => {
            FreezeAnswer { confirmed: true, detail: format!("the webhook answered {state:?}") }
        }
        Ok(State { state }) => {
            FreezeAnswer { confirmed: false, detail: format!("the webhook answered {state:?} instead of {wanted:?}") }
        }
        Err(_) => FreezeAnswer {
            confirmed: false,
            detail: format!("the webhook answered {status} without {{\"state\":\"{wanted}\"}}: not confirmed"),
        },
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// What an endpoint was sent: head and body.
    type Received = Arc<Mutex<Vec<(String, String)>>>;

    /// An endpoint that gives one answer after the other, the last one for ever. An empty one is never given.
    async fn endpoint(answers: &[&str]) -> (String, Received) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/freeze", listener.local_addr().expect("it is bound"));
        let received = Received::default();
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        tokio::spawn({
            let received = received.clone();
            async move {
                for turn in 0.. {
                    let (mut stream, _) = listener.accept().await.expect("clients come");
                    let mut request = Vec::new();
                    let (head, body) = loop {
                        let text = String::from_utf8_lossy(&request).into_owned();
                        if let Some((head, body)) = text.split_once("\r\n\r\n")
                            && body.ends_with('}')
                        {
                            break (head.to_lowercase(), body.to_owned());
                        }
                        let read = stream.read_buf(&mut request).await.expect("the client writes");
                        assert!(read > 0, "the client went away in {text:?}");
                    };
                    received.lock().expect("no test panics here").push((head, body));
                    let answer = answers[turn.min(answers.len() - 1)].clone();
                    tokio::spawn(async move {
                        if answer.is_empty() {
                            std::future::pending::<()>().await;
                        }
                        stream.write_all(answer.as_bytes()).await.expect("the client reads");
                    });
                }
            }
        });
        (url, received)
    }

    #[tokio::test]
    async fn reaching_it_asks_for_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/freeze", listener.local_addr().expect("it is bound"));
        webhook(&url, Some("secret")).reach().await.expect("somebody listens");
        let (mut stream, _) = listener.accept().await.expect("a client came");
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).await.expect("the client went");
        assert_eq!(sent, b"");
        drop((listener, stream));
        let error = webhook(&url, None).reach().await.expect_err("nobody listens").to_string();
        assert!(error.contains(&url), "{error}");
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn webhook(url: &str, secret: Option<&str>) -> WebhookFreeze {
        let migration = "orders".parse().expect("a valid id");
        let mut webhook = WebhookFreeze::new(url, secret.map(str::to_owned), migration).expect("a valid URL");
        webhook.answer_wait_max = Duration::from_millis(300);
        webhook.total_wait_max = Duration::from_secs(1);
        webhook
    }

    fn soon() -> i64 {
        SystemClock.unix_ms() + 60_000
    }

    #[tokio::test]
    async fn the_wanted_state_confirms_and_the_order_says_who_what_and_until_when() {
        let (url, received) = endpoint(&[&answer("200 OK", r#"{"state":"frozen"}"#)]).await;
        let frozen = webhook(&url, None).freeze(1_795_264_000_500 + 4_000_000_000).await.expect("an answer");
        assert!(frozen.confirmed, "{frozen:?}");
        let (head, body) = received.lock().expect("no panic").remove(0);
        assert!(head.starts_with("post /freeze http/1.1"), "{head}");
        assert!(!head.contains("krossing-signature"), "{head}");
        let order: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let expected = serde_json::json!({
            "migration_id": "orders", "action": "freeze",
            "expires_at": "2027-01-06T19:33:20.5Z", "expires_at_unix_ms": 1_799_264_000_500_i64,
        });
        assert_eq!(order, expected);
    }

    #[tokio::test]
    async fn a_secret_signs_time_and_body() {
        let (url, received) = endpoint(&[&answer("200 OK", r#"{"state":"frozen"}"#)]).await;
        webhook(&url, Some("shared")).freeze(soon()).await.expect("an answer");
        let (head, body) = received.lock().expect("no panic").remove(0);
        let signature = head.lines().find_map(|line| line.strip_prefix("krossing-signature: ")).expect("a signature");
        let (time, hmac) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).expect("its form");
        assert_eq!(hmac, sign("shared", time.parse().expect("a number"), body.as_bytes()));
        // By `printf '1700000000.{}' | openssl dgst -sha256 -hmac shared`.
        assert_eq!(sign("shared", 1_700_000_000, b"{}"), KNOWN);
    }

    const KNOWN: &str = "8fe400a4d7d97fe5517b7b8d84c07a253654d1bf408323b8b0f24f6cc87644c7";

    #[tokio::test]
    async fn an_answer_without_the_wanted_state_is_not_a_confirmation() {
        for body in ["", "ok", "{}", r#"{"state":"unfrozen"}"#, r#"{"state":true}"#] {
            let (url, _) = endpoint(&[&answer("200 OK", body)]).await;
            let frozen = webhook(&url, None).freeze(soon()).await.expect("an answer");
            assert!(!frozen.confirmed, "{body}: {frozen:?}");
        }
    }

    #[tokio::test]
    async fn letting_go_is_asked_for_twice_and_the_second_answer_counts() {
        let good = answer("200 OK", r#"{"state":"unfrozen"}"#);
        let bad = answer("200 OK", r#"{"state":"frozen"}"#);
        for (answers, confirmed) in [([good.as_str(), good.as_str()], true), ([good.as_str(), bad.as_str()], false)] {
            let (url, received) = endpoint(&answers).await;
            let unfrozen = webhook(&url, None).unfreeze().await.expect("an answer");
            assert_eq!(unfrozen.confirmed, confirmed);
            let received = received.lock().expect("no panic");
            assert_eq!(received.len(), 2);
            assert_eq!(received[1].1, r#"{"migration_id":"orders","action":"unfreeze"}"#);
        }
    }

    #[tokio::test]
    async fn a_switch_names_the_targets_servers() {
        for (state, confirmed) in [("switched", true), ("frozen", false)] {
            let (url, received) = endpoint(&[&answer("200 OK", &format!(r#"{{"state":"{state}"}}"#))]).await;
            let servers = ["b-1:9096".to_owned(), "b-2:9096".to_owned()];
            let switched = webhook(&url, Some("shared")).switch(&servers).await.expect("an answer");
            assert_eq!(switched.confirmed, confirmed, "{switched:?}");
            let (head, body) = received.lock().expect("no panic").remove(0);
            assert!(head.contains("krossing-signature"), "{head}");
            let expected = r#"{"migration_id":"orders","action":"switch","bootstrap_servers":["b-1:9096","b-2:9096"]}"#;
            assert_eq!(body, expected);
        }
    }

    #[tokio::test]
    async fn an_answer_after_the_deadline_confirms_nothing() {
        let (hanging, received) = endpoint(&[""]).await;
        let mut late = webhook(&hanging, None);
        late.answer_wait_max = Duration::from_secs(30);
        let error = late.freeze(SystemClock.unix_ms() + 200).await.expect_err("nothing was said in time");
        assert!(error.detail.contains("time that is left"), "{error}");
        assert_eq!(received.lock().expect("no panic").len(), 1);
    }

    #[tokio::test]
    async fn what_passes_is_asked_again() {
        let good = answer("200 OK", r#"{"state":"frozen"}"#);
        for passing in [answer("503 Service Unavailable", ""), String::new(), "nonsense\r\n\r\n".to_owned()] {
            let (url, received) = endpoint(&[&passing, &good]).await;
            let frozen = webhook(&url, None).freeze(soon()).await.expect("an answer");
            assert!(frozen.confirmed, "{frozen:?}");
            assert_eq!(received.lock().expect("no panic").len(), 2, "{passing:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_pass_is_an_error_within_the_bound() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            format!("http://{}/", listener.local_addr().expect("it is bound"))
        };
        let (failing, _) = endpoint(&[&answer("500 Internal Server Error", "")]).await;
        let (hanging, _) = endpoint(&[""]).await;
        for (url, said) in [(&closed, "refused"), (&failing, "500"), (&hanging, "no answer within")] {
            let begun = std::time::Instant::now();
            let error = webhook(url, None).freeze(soon()).await.expect_err("no confirmation");
            assert!(error.detail.contains(said), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
        let error = webhook(&hanging, None).freeze(SystemClock.unix_ms() + 100).await.expect_err("the deadline");
        assert!(error.detail.contains("time that is left"), "{error}");
    }

    #[tokio::test]
    async fn redirects_and_refusals_are_errors_at_once() {
        let redirect =
            "HTTP/1.1 302 Found\r\nlocation: http://other/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        for (answers, said) in [(redirect, "http://other/"), (&*answer("403 Forbidden", ""), "403 Forbidden")] {
            let (url, received) = endpoint(&[answers]).await;
            let error = webhook(&url, None).freeze(soon()).await.expect_err("no confirmation");
            assert!(error.detail.contains(said), "{error}");
            assert_eq!(received.lock().expect("no panic").len(), 1);
        }
    }

    #[test]
    fn a_url_that_cannot_be_asked_is_refused_when_set_up() {
        for url in ["", "freeze", "ftp://host/", "http://"] {
            assert!(WebhookFreeze::new(url, None, "orders".parse().expect("a valid id")).is_err(), "{url:?}");
        }
        assert!(WebhookFreeze::new("https://host/freeze", None, "orders".parse().expect("a valid id")).is_ok());
    }
}
