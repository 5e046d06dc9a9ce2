//! A fault proxy: stands in `advertised.listeners` of one listener of every broker, and does to connections what
//! networks do, when a test says so.
//!
//! It knows Kafka's framing and no more: a length, then for a request the api key and the correlation id. Answers come in
//! the order of the requests, so that the fate of a request is decided when it passes and meets its answer later.
//! Plaintext only. It runs inside the test's process and ends with it; without rules it passes everything on.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::process::POLL;

/// A frame larger than a broker takes by default (`socket.request.max.bytes`) is none.
const FRAME_BYTES_MAX: usize = 100 << 20;

/// Requests on one connection that wait for their answer; Kafka's clients leave it at a handful.
const PENDING_MAX: usize = 1_024;

/// Kafka's numbers of the calls that tests name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
#[allow(missing_docs, reason = "the names are Kafka's")]
pub enum Call {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    AddPartitionsToTxn = 24,
    EndTxn = 26,
    DescribeConfigs = 32,
}

/// What happens to a request that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut before the broker has seen it.
    RequestLost,
    /// The broker does what it was asked and answers; then the connection is cut, and the client never learns.
    AnswerLost,
    /// The broker is asked and answers, but from this answer on nothing comes back; the connection stays open.
    Silence,
    /// The answer, and what is behind it on the same connection, comes later.
    Late(Duration),
}

/// For some calls: which of their requests something happens to.
#[derive(Debug)]
struct Rule {
    number: u64,
    calls: Vec<Call>,
    pass: u64,
    times: u64,
    fault: Fault,
    met: u64,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    rules_made: u64,
    /// Requests by api key.
    seen: BTreeMap<i16, u64>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

/// The proxies of a cluster's brokers. Connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    ports: Vec<u16>,
    shared: Arc<Shared>,
    cut: watch::Sender<()>,
    servers: Vec<JoinHandle<()>>,
}

/// A rule that was laid down; it holds until [`Proxy::heal`], also when this is dropped.
#[derive(Debug)]
pub struct Trap {
    number: u64,
    shared: Arc<Shared>,
}

impl Trap {
    /// How many requests have met it. None are counted once it is lifted.
    pub fn met(&self) -> u64 {
        self.shared.state().rules.iter().find(|rule| rule.number == self.number).map_or(0, |rule| rule.met)
    }

    /// Waits until `times` requests have met it.
    pub async fn until_met(&self, times: u64) {
        while self.met() < times {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Proxy {
    /// A proxy port for each of `brokers`, which need not run yet.
    pub(crate) async fn start(brokers: &[u16]) -> Result<Self> {
        let (cut, _) = watch::channel(());
        let mut it = Self { ports: Vec::new(), shared: Arc::default(), cut, servers: Vec::new() };
        for &broker in brokers {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the proxy")?;
            it.ports.push(listener.local_addr()?.port());
            it.servers.push(tokio::spawn(serve(listener, broker, it.shared.clone(), it.cut.clone())));
        }
        Ok(it)
    }

    /// The ports to connect to, one a broker, in their order.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Cuts every connection now. New ones pass.
    pub fn cut_all(&self) {
        self.cut.send_replace(());
    }

    /// Lets `pass` requests of `calls` through, on all connections together, and does `fault` to the `times` after those.
    pub fn trap(&self, calls: &[Call], pass: u64, times: u64, fault: Fault) -> Trap {
        let mut state = self.shared.state();
        state.rules_made += 1;
        let number = state.rules_made;
        state.rules.push(Rule { number, calls: calls.to_vec(), pass, times, fault, met: 0 });
        Trap { number, shared: self.shared.clone() }
    }

    /// Lifts all rules, and cuts connections, those that were silenced among them.
    pub fn heal(&self) {
        self.shared.state().rules.clear();
        self.cut_all();
    }

    /// How many requests of a call have come.
    pub fn seen(&self, call: Call) -> u64 {
        self.shared.state().seen.get(&(call as i16)).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
        self.cut_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What will happen to a request: the first rule that is not used up decides.
    fn fate(&self, api_key: i16) -> Option<Fault> {
        let mut state = self.state();
        *state.seen.entry(api_key).or_default() += 1;
        for rule in &mut state.rules {
            if !rule.calls.iter().any(|call| *call as i16 == api_key) || rule.met == rule.times {
                continue;
            }
            if rule.pass > 0 {
                rule.pass -= 1;
            } else {
                rule.met += 1;
                return Some(rule.fault);
            }
        }
        None
    }
}

async fn serve(listener: TcpListener, broker: u16, shared: Arc<Shared>, cut: watch::Sender<()>) {
    while let Ok((client, _)) = listener.accept().await {
        let (shared, mut cut) = (shared.clone(), cut.subscribe());
        tokio::spawn(async move {
            // How a connection ends is of no interest: both sides see that it has.
            tokio::select! {
                _ = pass(client, broker, &shared) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// One connection, until either side or a fault ends it.
async fn pass(client: TcpStream, broker: u16, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", broker)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (fates, met) = mpsc::channel(PENDING_MAX);
    tokio::select! {
        ended = requests(from_client, to_server, &fates, shared) => ended,
        ended = answers(from_server, to_client, met) => ended,
    }
}

async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    fates: &mpsc::Sender<Option<Fault>>,
    shared: &Shared,
) -> io::Result<()> {
    loop {
        let frame = read_frame(&mut client).await?;
        let api_key = frame.get(4..6).map_or(-1, |key| i16::from_be_bytes([key[0], key[1]]));
        let fate = shared.fate(api_key);
        if fate == Some(Fault::RequestLost) {
            return Ok(());
        }
        if fates.send(fate).await.is_err() {
            return Ok(());
        }
        server.write_all(&frame).await?;
    }
}

async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut fates: mpsc::Receiver<Option<Fault>>,
) -> io::Result<()> {
    loop {
        let frame = read_frame(&mut server).await?;
        match fates.recv().await.flatten() {
            None | Some(Fault::RequestLost) => {}
            Some(Fault::AnswerLost) => return Ok(()),
            Some(Fault::Late(by)) => tokio::time::sleep(by).await,
            // Requests go on to the broker, whose answers nobody will see.
            Some(Fault::Silence) => loop {
                read_frame(&mut server).await?;
                fates.recv().await;
            },
        }
        client.write_all(&frame).await?;
    }
}

/// A frame with its length before it.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let bytes = usize::try_from(i32::from_be_bytes(length)).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a frame of Kafka's protocol"))?;
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    stream.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}
