//! One connection to one broker: requests go out in order, answers come back in order, any number in between.
//!
//! Why two tasks: a caller that goes away must not leave half a frame on the wire, and answers must be taken off the
//! socket whether or not somebody waits. Callers hand a frame to the writer and wait for their answer's oneshot.
//!
//! Invariants: a request that fails says whether its bytes may have reached the broker ([`CallError::Lost`]) or surely
//! did not ([`CallError::NotSent`]): what becomes of a produced batch hangs on it. When the connection breaks everything
//! pending fails at once. Nothing waits without a bound. An answer is bounded in size, and walked by its schema before
//! it is decoded. A session that will end (KIP-368) ends here first: the connection is retired, what is in flight
//! finishes, and a new one is opened. Does not retry and knows no cluster.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiVersionsRequest, RequestHeader},
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};
use krossing_core::{error::KafkaCode, limits};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    api::Api,
    schema,
    security::Dialer,
};

/// Why a request has no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Not one byte of it reached the socket.
    NotSent(String),
    /// It was written, at least in part; what the broker made of it is not known.
    Lost(String),
    /// Wrong credentials, or a certificate that one side does not accept.
    NotAllowed(String),
    /// An answer that cannot be what it claims to be, or a call that the broker does not offer.
    NotUnderstood(String),
    /// The broker answered with a code for the whole call.
    Code(KafkaCode, String),
}

/// How one call is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOptions {
    /// The one version wanted, instead of the first that the broker offers.
    pub(crate) version: Option<i16>,
    /// How long the answer may take.
    pub(crate) wait_max: Duration,
    /// When it is too late to write the request.
    pub(crate) send_before: Option<Instant>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { version: None, wait_max: limits::REQUEST_WAIT_MAX, send_before: None }
    }
}

/// A connection that has said hello and is allowed in.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    client_id: StrBytes,
    offered: BTreeMap<i16, (i16, i16)>,
    retire_at: Option<Instant>,
}

type Answer = Result<Bytes, CallError>;

struct Outgoing {
    frame: BytesMut,
    send_before: Option<Instant>,
    reply: oneshot::Sender<Answer>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes both tasks when `state` says that they should end.
    ended: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// Written and not yet answered, oldest first.
    pending: VecDeque<(i32, oneshot::Sender<Answer>)>,
    /// Nobody can send any more: what is pending is still read.
    closing: bool,
    broken: Option<CallError>,
    quiet_until: Instant,
    used_at: Instant,
}

impl Connection {
    /// Opens a connection: TCP, TLS, versions, SASL, all within one bound.
    pub(crate) async fn open(dialer: &Dialer, host: &str, port: u16) -> Result<Self, CallError> {
        let wait = limits::CONNECT_WAIT_MAX;
        let opened = match tokio::time::timeout(wait, Self::establish(dialer, host, port)).await {
            Ok(opened) => opened,
            Err(_) => Err(CallError::NotSent(format!("no connection within {} s", wait.as_secs()))),
        };
        opened.map_err(|error| match error {
            // Whatever was lost was part of the greeting.
            CallError::NotSent(detail) | CallError::Lost(detail) => CallError::NotSent(format!("{host}:{port}: {detail}")),
            CallError::NotAllowed(detail) => CallError::NotAllowed(format!("{host}:{port}: {detail}")),
            CallError::NotUnderstood(detail) => CallError::NotUnderstood(format!("{host}:{port}: {detail}")),
            CallError::Code(code, detail) => CallError::Code(code, format!("{host}:{port}: {detail}")),
        })
    }

    async fn establish(dialer: &Dialer, host: &str, port: u16) -> Result<Self, CallError> {
        let tcp = TcpStream::connect((host, port)).await.map_err(|e| CallError::NotSent(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| CallError::NotSent(e.to_string()))?;
        let client_id = StrBytes::from_string(dialer.client_id.clone());
        let mut connection = match dialer.tls_for(host)? {
            None => Self::start(tcp, client_id),
            Some((connector, name)) => {
                Self::start(connector.connect(name, tcp).await.map_err(|e| io_error(&e))?, client_id)
            }
        };
        connection.offered = connection.ask_versions().await?;
        if let Some(sasl) = &dialer.sasl {
            let lifetime = sasl.authenticate(&connection).await?;
            connection.retire_at = lifetime.map(|lifetime| Instant::now() + retire_after(lifetime));
        }
        Ok(connection)
    }

    fn start(stream: impl AsyncRead + AsyncWrite + Send + 'static, client_id: StrBytes) -> Self {
        let (outgoing, queue) = mpsc::channel(limits::CONNECTION_QUEUE_MAX);
        let (ended, _) = watch::channel(());
        let now = Instant::now();
        let state =
            State { pending: VecDeque::new(), closing: false, broken: None, quiet_until: now, used_at: now };
        let shared = Arc::new(Shared { state: Mutex::new(state), ended });
        let (read, write) = tokio::io::split(stream);
        tokio::spawn(write_requests(write, queue, shared.clone()));
        tokio::spawn(read_answers(read, shared.clone()));
        Self { outgoing, shared, client_id, offered: BTreeMap::new(), retire_at: None }
    }

    /// The versions of each call that the broker offers.
    async fn ask_versions(&self) -> Result<BTreeMap<i16, (i16, i16)>, CallError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("krossing"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let newest = CallOptions { version: Some(3), ..CallOptions::default() };
        let frame = self.frame(&request, 3)?;
        let answer = self.exchange(frame, newest).await?;
        // A broker that does not know version 3 says so in version 0 (KIP-511).
        let unsupported = answer.get(..2) == Some(&KafkaCode::UNSUPPORTED_VERSION.0.to_be_bytes());
        let answer = if unsupported {
            let oldest = CallOptions { version: Some(0), ..CallOptions::default() };
            self.call_with(&request, oldest).await?
        } else {
            decode::<ApiVersionsRequest>(answer, 3)?
        };
        match KafkaCode::from_wire(answer.error_code) {
            Some(code) => Err(CallError::Code(code, "asked for its versions".to_owned())),
            None => Ok(answer.api_keys.iter().map(|key| (key.api_key, (key.min_version, key.max_version))).collect()),
        }
    }

    /// Whether new requests may be given to it.
    pub(crate) fn usable(&self) -> bool {
        let now = Instant::now();
        let state = self.shared.lock();
        let idle = state.pending.is_empty() && now.duration_since(state.used_at) > limits::CONNECTION_IDLE_MAX;
        state.broken.is_none() && !idle && self.retire_at.is_none_or(|at| now < at)
    }

    /// The versions of a call that the broker offers.
    pub(crate) fn offers(&self, key: i16) -> Option<(i16, i16)> {
        self.offered.get(&key).copied()
    }

    /// Whether the broker offers a version of `R` that is in use here.
    pub(crate) fn can<R: Api>(&self) -> bool {
        self.version::<R>().is_ok()
    }

    /// The version of `R` that this connection speaks.
    pub(crate) fn version<R: Api>(&self) -> Result<i16, CallError> {
        let offered = self.offers(R::KEY);
        let wanted = R::ANSWERS.iter().map(|(version, _)| *version);
        wanted.clone().find(|v| offered.is_some_and(|(min, max)| (min..=max).contains(v))).ok_or_else(|| {
            let wanted = wanted.map(|v| v.to_string()).collect::<Vec<_>>().join(" or ");
            let offered = offered.map_or("does not offer it".to_owned(), |(min, max)| format!("offers {min} to {max}"));
            CallError::NotUnderstood(format!("{} version {wanted} is wanted, the broker {offered}", R::NAME))
        })
    }

    /// One call in the ordinary way.
    pub(crate) async fn call<R: Api>(&self, request: &R) -> Result<R::Response, CallError> {
        self.call_with(request, CallOptions::default()).await
    }

    /// One call.
    pub(crate) async fn call_with<R: Api>(
        &self,
        request: &R,
        options: CallOptions,
    ) -> Result<R::Response, CallError> {
        let version = match options.version {
            Some(version) => version,
            None => self.version::<R>()?,
        };
        let answer = self.exchange(self.frame(request, version)?, options).await?;
        let answer = decode::<R>(answer, version).inspect_err(|error| self.shared.fail(error.clone()))?;
        self.shared.stay_quiet(R::throttle_ms(&answer));
        Ok(answer)
    }

    /// A request as it goes out, but for its correlation id, which the writer fills in.
    fn frame<R: Api>(&self, request: &R, version: i16) -> Result<BytesMut, CallError> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(self.client_id.clone()));
        let header_version = R::header_version(version);
        let encoded = || {
            let size = header.compute_size(header_version)? + request.compute_size(version)?;
            let mut frame = BytesMut::with_capacity(4 + size);
            frame.extend_from_slice(&i32::try_from(size)?.to_be_bytes());
            header.encode(&mut frame, header_version)?;
            request.encode(&mut frame, version)?;
            Ok(frame)
        };
        encoded().map_err(|e: Box<dyn std::error::Error + Send + Sync>| {
            CallError::NotUnderstood(format!("a {} request cannot be written: {e}", R::NAME))
        })
    }

    async fn exchange(&self, frame: BytesMut, options: CallOptions) -> Answer {
        let (reply, mut answer) = oneshot::channel();
        let outgoing = Outgoing { frame, send_before: options.send_before, reply };
        let quiet = self.shared.lock().quiet_until.saturating_duration_since(Instant::now());
        let wait = options.wait_max + quiet;
        let exchanged = async {
            if self.outgoing.send(outgoing).await.is_ok() { (&mut answer).await.ok() } else { None }
        };
        match tokio::time::timeout(wait, exchanged).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(CallError::NotSent(self.shared.reason())),
            Err(_) => {
                let silence = CallError::Lost(format!("no answer within {} s", wait.as_secs()));
                self.shared.fail(silence);
                // The tasks now answer everybody: they alone know whether this request had been written. Dropped
                // unanswered, it never reached the writer.
                answer.await.unwrap_or_else(|_| Err(CallError::NotSent(self.shared.reason())))
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks the connection: everything pending fails with `error`.
    fn fail(&self, error: CallError) {
        let pending = {
            let mut state = self.lock();
            state.broken.get_or_insert_with(|| error.clone());
            std::mem::take(&mut state.pending)
        };
        for (_, reply) in pending {
            // A caller that has gone away wants no answer.
            let _ = reply.send(Err(error.clone()));
        }
        self.ended.send_replace(());
    }

    /// Nobody can send any more.
    fn close(&self) {
        self.lock().closing = true;
        self.ended.send_replace(());
    }

    fn reason(&self) -> String {
        match &self.lock().broken {
            Some(
                CallError::NotSent(detail)
                | CallError::Lost(detail)
                | CallError::NotAllowed(detail)
                | CallError::NotUnderstood(detail),
            ) => detail.clone(),
            Some(CallError::Code(code, detail)) => format!("{code}: {detail}"),
            None => "the connection has ended".to_owned(),
        }
    }

    fn stay_quiet(&self, throttle_ms: i32) {
        let pause = Duration::from_millis(u64::try_from(throttle_ms).unwrap_or(0)).min(limits::THROTTLE_PAUSE_MAX);
        if !pause.is_zero() {
            tracing::debug!(?pause, "the broker asks for a pause");
            self.lock().quiet_until = Instant::now() + pause;
        }
    }

    /// Enters a request as written, before it is: from here on only the answer tells what became of it.
    fn expect(&self, correlation: i32, reply: oneshot::Sender<Answer>) -> Result<(), oneshot::Sender<Answer>> {
        let mut state = self.lock();
        if state.broken.is_some() {
            return Err(reply);
        }
        state.used_at = Instant::now();
        state.pending.push_back((correlation, reply));
        Ok(())
    }

    /// Gives an answer to whoever waits for it.
    fn deliver(&self, mut frame: Bytes) -> Result<(), CallError> {
        let strange = |detail: &str| CallError::NotUnderstood(detail.to_owned());
        let correlation = frame.try_get_i32().map_err(|_| strange("an answer shorter than its header"))?;
        let (expected, reply) =
            self.lock().pending.pop_front().ok_or_else(|| strange("an answer to nothing that was asked"))?;
        if correlation != expected {
            let _ = reply.send(Err(strange("an answer to another request")));
            return Err(strange("an answer to another request"));
        }
        // A caller that has gone away wants no answer.
        let _ = reply.send(Ok(frame));
        Ok(())
    }
}

async fn write_requests(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let mut ended = shared.ended.subscribe();
    let mut correlation = 0i32;
    loop {
        let request = tokio::select! {
            biased;
            _ = ended.changed() => break,
            request = queue.recv() => request,
        };
        let Some(request) = request else { break };
        let quiet_until = shared.lock().quiet_until;
        tokio::select! {
            biased;
            _ = ended.changed() => {
                let _ = request.reply.send(Err(CallError::NotSent(shared.reason())));
                break;
            }
            () = tokio::time::sleep_until(quiet_until.into()) => {}
        }
        if request.reply.is_closed() {
            continue;
        }
        correlation = correlation.wrapping_add(1);
        let mut frame = request.frame;
        // Length, api key and version come first.
        frame[8..12].copy_from_slice(&correlation.to_be_bytes());
        if request.send_before.is_some_and(|before| Instant::now() >= before) {
            let _ = request.reply.send(Err(CallError::NotSent("it was too late to send it".to_owned())));
            continue;
        }
        if let Err(reply) = shared.expect(correlation, request.reply) {
            let _ = reply.send(Err(CallError::NotSent(shared.reason())));
            break;
        }
        let written = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        let written = tokio::select! {
            biased;
            _ = ended.changed() => break,
            written = tokio::time::timeout(limits::REQUEST_WAIT_MAX, written) => written,
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return end_writing(queue, &shared, io_error(&error)),
            Err(_) => {
                return end_writing(queue, &shared, CallError::Lost("the broker takes no bytes".to_owned()));
            }
        }
    }
    if shared.lock().broken.is_some() {
        refuse_queued(queue, &shared);
    } else {
        shared.close();
    }
}

fn end_writing(queue: mpsc::Receiver<Outgoing>, shared: &Shared, error: CallError) {
    shared.fail(error);
    refuse_queued(queue, shared);
}

/// Answers what was queued and never written.
fn refuse_queued(mut queue: mpsc::Receiver<Outgoing>, shared: &Shared) {
    queue.close();
    while let Ok(request) = queue.try_recv() {
        let _ = request.reply.send(Err(CallError::NotSent(shared.reason())));
    }
}

async fn read_answers(stream: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut ended = shared.ended.subscribe();
    let mut frames = Frames { stream: BufReader::with_capacity(16 * 1024, stream), head: [0; 4], have: 0, body: None };
    loop {
        {
            let state = shared.lock();
            if state.broken.is_some() || (state.closing && state.pending.is_empty()) {
                return;
            }
        }
        let frame = tokio::select! {
            biased;
            _ = ended.changed() => continue,
            frame = frames.next() => frame,
        };
        if let Err(error) = frame.and_then(|frame| shared.deliver(frame)) {
            shared.fail(error);
        }
    }
}

/// Answers as they come off the socket. Dropping the future of `next` loses nothing: what was read is kept here.
struct Frames<S> {
    stream: S,
    head: [u8; 4],
    have: usize,
    body: Option<(usize, BytesMut)>,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    async fn next(&mut self) -> Result<Bytes, CallError> {
        loop {
            if let Some((size, body)) = &mut self.body {
                if body.len() == *size {
                    let frame = std::mem::take(body).freeze();
                    self.body = None;
                    self.have = 0;
                    return Ok(frame);
                }
                let left = *size - body.len();
                // Room for what is claimed only as it arrives.
                body.reserve(left.min(limits::ANSWER_STEP_BYTES));
                let read = (&mut self.stream).take(left as u64).read_buf(body).await;
                more(read)?;
            } else if self.have < 4 {
                let read = self.stream.read(&mut self.head[self.have..]).await;
                self.have += more(read)?;
            } else {
                let size = i32::from_be_bytes(self.head);
                let size = usize::try_from(size).ok().filter(|size| *size <= limits::ANSWER_BYTES_MAX);
                let size = size.ok_or_else(|| {
                    CallError::NotUnderstood(format!("an answer that begins with {:02x?} instead of its size", self.head))
                })?;
                self.body = Some((size, BytesMut::new()));
            }
        }
    }
}

fn more(read: io::Result<usize>) -> Result<usize, CallError> {
    match read {
        Ok(0) => Err(CallError::Lost("the broker closed the connection".to_owned())),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(io_error(&error)),
    }
}

/// A TLS peer that does not accept us, or we it, is not a network that fails.
fn io_error(error: &io::Error) -> CallError {
    use tokio_rustls::rustls::Error as Tls;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        Some(Tls::AlertReceived(_) | Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented) => {
            CallError::NotAllowed(format!("TLS: {error}"))
        }
        Some(_) => CallError::NotUnderstood(format!("TLS: {error}")),
        None => CallError::Lost(error.to_string()),
    }
}

/// When to leave a session that the broker will end: early enough that a request sent at the last moment is answered.
fn retire_after(lifetime: Duration) -> Duration {
    lifetime.mul_f64(0.8)
}

/// Decodes an answer after its header's correlation id, if it can be what it claims to be.
pub(crate) fn decode<R: Api>(mut answer: Bytes, version: i16) -> Result<R::Response, CallError> {
    let strange =
        |detail: String| CallError::NotUnderstood(format!("the answer to {} version {version}: {detail}", R::NAME));
    if <R::Response as HeaderVersion>::header_version(version) >= 1 {
        answer.advance(schema::tagged_fields_len(&answer).map_err(|e| strange(e.to_string()))?);
    }
    let known = R::ANSWERS.iter().find(|(known, _)| *known == version);
    let (_, shape) = known.ok_or_else(|| strange("a version that is not in use here".to_owned()))?;
    schema::check(&answer, shape, <R as HeaderVersion>::header_version(version) >= 2)
        .map_err(|e| strange(e.to_string()))?;
    let decoded = <R as Request>::Response::decode(&mut answer, version).map_err(|e| strange(e.to_string()))?;
    if answer.has_remaining() {
        return Err(strange(format!("{} bytes too many", answer.remaining())));
    }
    Ok(decoded)
}
