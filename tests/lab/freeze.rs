//! The operator's side of a freeze: an HTTP server on the loopback that stops and starts the live producers.
//!
//! It takes `POST` with a JSON body whose `action` is `freeze`, `unfreeze` or `switch`, and answers `{"state":"frozen"}`,
//! `{"state":"unfrozen"}` or `{"state":"switched"}` once that is true. Where it was given a secret it refuses, with 401, what is not signed:
//! `Krossing-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256(secret, "t.body")>`. HTTP by hand: one request a
//! connection is all that is needed, and it shares no code with the client that calls it.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::workload::LiveProducers;

/// A request larger than this is not one of ours.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What the operator's side does instead of freezing when it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Answers 200 and does not say that producers stand still.
    SaysNothing,
    /// Answers 500.
    Fails,
    /// Answers with another place.
    Redirects,
    /// Never answers.
    Hangs,
    /// Answers that producers stand still when the freeze has expired.
    AnswersLate,
}

/// What a test does between the moment at which producers stand still and the answer that says so.
type Hook = Box<dyn FnOnce() -> Result<()> + Send>;

/// The server. It ends when this is dropped.
pub struct FreezeWebhook {
    url: String,
    hook: Arc<Mutex<Option<Hook>>>,
    misbehaviour: Arc<Mutex<Option<Misbehaviour>>>,
    requests: Arc<Mutex<Vec<serde_json::Value>>>,
    server: JoinHandle<()>,
}

impl FreezeWebhook {
    /// Starts it on a port of its own.
    pub async fn start(producers: Arc<LiveProducers>, secret: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/freeze", listener.local_addr()?);
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let hook = Arc::<Mutex<Option<Hook>>>::default();
        let misbehaviour = Arc::<Mutex<Option<Misbehaviour>>>::default();
        let (seen, hooked, misbehaves) = (requests.clone(), hook.clone(), misbehaviour.clone());
        let operator = Arc::new(Operator { producers, seen, hook: hooked, misbehaviour: misbehaves });
        let secret = secret.map(str::to_owned);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (operator, secret) = (operator.clone(), secret.clone());
                // One that is never answered must not keep others waiting.
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &operator, secret.as_deref()).await {
                        eprintln!("freeze webhook: {error:#}");
                    }
                });
            }
        });
        Ok(Self { url, hook, misbehaviour, requests, server })
    }

    /// Where to post to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// At the next freeze, once the producers stand still and before that is answered, does `hook`.
    pub fn when_frozen(&self, hook: impl FnOnce() -> Result<()> + Send + 'static) {
        *self.hook.lock().expect("no panic while held") = Some(Box::new(hook));
    }

    /// From now on does this when it is asked to freeze; none: what it is asked.
    pub fn misbehave(&self, misbehaviour: Option<Misbehaviour>) {
        *self.misbehaviour.lock().expect("no panic while held") = misbehaviour;
    }

    /// The bodies of all requests that were accepted, in order.
    pub fn requests(&self) -> Vec<serde_json::Value> {
        self.requests.lock().expect("no panic while held").clone()
    }
}

impl Drop for FreezeWebhook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Whom the server acts for.
struct Operator {
    producers: Arc<LiveProducers>,
    seen: Arc<Mutex<Vec<serde_json::Value>>>,
    hook: Arc<Mutex<Option<Hook>>>,
    misbehaviour: Arc<Mutex<Option<Misbehaviour>>>,
}

async fn answer(mut stream: TcpStream, operator: &Operator, secret: Option<&str>) -> Result<()> {
    // Precheck connects and asks for nothing.
    if stream.peek(&mut [0]).await? == 0 {
        return Ok(());
    }
    let (head, body) = read_request(&mut stream).await?;
    let (status, answer) = match check_signature(secret, &head, &body) {
        Err(error) => ("401 Unauthorized", serde_json::json!({ "error": error.to_string() })),
        Ok(()) => match act(operator, &body).await {
            Ok(Some(state)) => ("200 OK", serde_json::json!({ "state": state })),
            Ok(None) => misbehave(operator, &body).await?,
            Err(error) => ("500 Internal Server Error", serde_json::json!({ "error": format!("{error:#}") })),
        },
    };
    let answer = answer.to_string();
    let length = answer.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await.context("closing")
}

/// Does what it is asked, and answers what is then so; none where it is to misbehave.
async fn act(operator: &Operator, body: &[u8]) -> Result<Option<&'static str>> {
    let request: serde_json::Value = serde_json::from_slice(body).context("the body is not JSON")?;
    operator.seen.lock().expect("no panic while held").push(request.clone());
    match request["action"].as_str() {
        Some("freeze") if operator.misbehaviour.lock().expect("no panic while held").is_some() => Ok(None),
        Some("freeze") => {
            operator.producers.freeze().await?;
            if let Some(hook) = operator.hook.lock().expect("no panic while held").take() {
                hook()?;
            }
            Ok(Some("frozen"))
        }
        Some("switch") => Ok(Some("switched")),
        Some("unfreeze") => {
            operator.producers.unfreeze();
            Ok(Some("unfrozen"))
        }
        other => bail!("action {other:?} is none of freeze, unfreeze and switch"),
    }
}

async fn misbehave(operator: &Operator, body: &[u8]) -> Result<(&'static str, serde_json::Value)> {
    let misbehaviour = *operator.misbehaviour.lock().expect("no panic while held");
    Ok(match misbehaviour.unwrap_or(Misbehaviour::SaysNothing) {
        Misbehaviour::SaysNothing => ("200 OK", serde_json::json!({})),
        Misbehaviour::Fails => ("500 Internal Server Error", serde_json::json!({})),
        Misbehaviour::Redirects => ("307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", serde_json::json!({})),
        Misbehaviour::Hangs => std::future::pending().await,
        Misbehaviour::AnswersLate => {
            let request: serde_json::Value = serde_json::from_slice(body)?;
            let expires = request["expires_at_unix_ms"].as_u64().context("a freeze without a deadline")?;
            let expires = std::time::UNIX_EPOCH + std::time::Duration::from_millis(expires);
            while let Ok(left) = expires.duration_since(std::time::SystemTime::now()) {
                tokio::time::sleep(left).await;
            }
            ("200 OK", serde_json::json!({ "state": "frozen" }))
        }
    })
}

async fn read_request(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec())?;
            ensure!(head.starts_with("POST "), "not a POST: {head}");
            let length: usize = header(&head, "content-length").context("no Content-Length")?.parse()?;
            ensure!(length < REQUEST_BYTES_MAX, "a body of {length} bytes");
            if bytes.len() >= end + 4 + length {
                return Ok((head, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
        ensure!(bytes.len() < 2 * REQUEST_BYTES_MAX, "the request does not end");
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the request was cut off");
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn check_signature(secret: Option<&str>, head: &str, body: &[u8]) -> Result<()> {
    let Some(secret) = secret else { return Ok(()) };
    let signature = header(head, "krossing-signature").context("the request is not signed")?;
    let field = |name: &str| signature.split(',').find_map(|field| field.trim().strip_prefix(name));
    let (time, given) = (field("t=").context("no t= in the signature")?, field("v1=").context("no v1= in it")?);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.verify_slice(&hex::decode(given)?).context("the signature is not that of this body")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_signed_with_the_secret_is_accepted() {
        // Computed with: printf '17.{"action":"freeze"}' | openssl dgst -sha256 -hmac key
        let body = br#"{"action":"freeze"}"#;
        let head = |signature: &str| format!("POST /freeze HTTP/1.1\r\nkrossing-SIGNATURE: {signature}");
        let good = "37c242b402b4f5fa106dcb0eec240e885312c1a6c293bb3989d1feae4ae09bb9";
        assert!(check_signature(Some("key"), &head(&format!("t=17,v1={good}")), body).is_ok());
        assert!(check_signature(Some("key"), &head(&format!("t=18,v1={good}")), body).is_err());
        assert!(check_signature(Some("other"), &head(&format!("t=17,v1={good}")), body).is_err());
        assert!(check_signature(Some("key"), "POST /freeze HTTP/1.1", body).is_err());
        assert!(check_signature(None, "POST /freeze HTTP/1.1", body).is_ok());
    }
}
