//! What stands between the client under test and a server: a relay that breaks chosen requests.
//!
//! It reads whole requests, so that one is forwarded or is not, and never half of one: what a network and a killed
//! process do to a client is then done at the request that a test means.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It is forwarded, and its answer comes back.
    Forward,
    /// It is not forwarded, and the connection is cut.
    Lose,
    /// It is forwarded, and the connection is cut before the answer.
    LoseAnswer,
    /// It is answered like this, and not forwarded.
    Answer { status: u16, content_type: &'static str, body: String },
    /// It is never answered.
    Hang,
}

/// Decides by the request's head and body.
type Rule = Box<dyn Fn(&str, &[u8]) -> Fate + Send>;

/// The relay. It ends when this is dropped.
pub(crate) struct Front {
    port: u16,
    rule: Arc<Mutex<Rule>>,
    broken: Arc<AtomicUsize>,
    relay: JoinHandle<()>,
}

impl Front {
    /// A relay to a port of the loopback that forwards everything.
    pub(crate) async fn before(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_, _| Fate::Forward)));
        let broken = Arc::new(AtomicUsize::new(0));
        let (rules, count) = (rule.clone(), broken.clone());
        let relay = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (rules, count) = (rules.clone(), count.clone());
                // A client that goes away is no matter of ours.
                tokio::spawn(async move { relay(stream, server, &rules, &count).await });
            }
        });
        Ok(Self { port, rule, broken, relay })
    }

    /// Nothing but a script, in the JSON that AWS speaks: what a request by that name is answered, as status and body.
    pub(crate) async fn script(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + 'static) -> Result<Self> {
        let front = Self::before(0).await?;
        front.decide(move |head, body| {
            // Of services that name it in a header the operation, of others the request's first line.
            let header = head.lines().filter_map(|line| line.split_once(": "));
            let target =
                header.filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-target")).map(|(_, value)| value).next();
            let asked = target.and_then(|target| target.rsplit('.').next()).or_else(|| head.lines().next());
            let body = serde_json::from_slice(body).unwrap_or_default();
            let (status, answer) = answer(asked.unwrap_or_default(), &body);
            Fate::Answer { status, content_type: "application/x-amz-json-1.1", body: answer.to_string() }
        });
        Ok(front)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on decides like this.
    pub(crate) fn decide(&self, rule: impl Fn(&str, &[u8]) -> Fate + Send + 'static) {
        *self.rule.lock().expect("no panic while held") = Box::new(rule);
        self.broken.store(0, Ordering::Relaxed);
    }

    /// How many requests were not simply forwarded since the rule was set.
    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// One request a connection: it is told that the connection closes.
async fn relay(mut client: TcpStream, server: u16, rule: &Mutex<Rule>, broken: &AtomicUsize) -> Result<()> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let value = |name: &str| {
        head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let length: usize = value("content-length").map_or(Ok(0), |(_, length)| length.trim().parse())?;
    if value("expect").is_some() && request.len() < head_end + length {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    while request.len() < head_end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let fate = (rule.lock().expect("no panic while held"))(&head, &request[head_end..]);
    if !matches!(fate, Fate::Forward) {
        broken.fetch_add(1, Ordering::Relaxed);
    }
    match fate {
        Fate::Lose => {}
        Fate::Hang => std::future::pending().await,
        Fate::Answer { status, content_type, body } => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} Scripted\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await?;
            client.write_all(body.as_bytes()).await?;
        }
        Fate::Forward => client.write_all(&forward(&head, &request[head_end..], server).await?).await?,
        Fate::LoseAnswer => drop(forward(&head, &request[head_end..], server).await?),
    }
    Ok(())
}

async fn forward(head: &str, body: &[u8], server: u16) -> Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
    let kept = head.trim_end().lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("expect")
    });
    let mut request = kept.collect::<Vec<_>>().join("\r\n");
    request.push_str("\r\nConnection: close\r\n\r\n");
    upstream.write_all(request.as_bytes()).await?;
    upstream.write_all(body).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}
