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
use krossing_core::{Side, error::KafkaCode, limits};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};

use crate::{api::Api, schema, security::Dialer};

/// Why a request has no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Not one byte of it reached the socket.
    NotSent(String),
    /// It was written, at least in part; what the broker made of it is not known.
    Lost(String),
    /// Wrong credentials, or a certificate that one side does not accept.
    NotAllowed(String),
    /// A call, or a version of it, that the broker does not offer.
    NotOffered(String),
    /// An answer that cannot be what it claims to be.
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
    side: Side,
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
            CallError::NotSent(detail) | CallError::Lost(detail) => {
                CallError::NotSent(format!("{host}:{port}: {detail}"))
            }
            CallError::NotAllowed(detail) => CallError::NotAllowed(format!("{host}:{port}: {detail}")),
            CallError::NotOffered(detail) => CallError::NotOffered(format!("{host}:{port}: {detail}")),
            CallError::NotUnderstood(detail) => CallError::NotUnderstood(format!("{host}:{port}: {detail}")),
            CallError::Code(code, detail) => CallError::Code(code, format!("{host}:{port}: {detail}")),
        })
    }

    async fn establish(dialer: &Dialer, host: &str, port: u16) -> Result<Self, CallError> {
        let tcp = TcpStream::connect((host, port)).await.map_err(|e| CallError::NotSent(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| CallError::NotSent(e.to_string()))?;
        let client_id = StrBytes::from_string(dialer.client_id.clone());
        let mut connection = match dialer.tls_for(host)? {
            None => Self::start(tcp, dialer.side, client_id),
            Some((connector, name)) => Self::start(
                connector.connect(name, tcp).await.map_err(|e| handshake_error(&e))?,
                dialer.side,
                client_id,
            ),
        };
        connection.offered = connection.ask_versions().await?;
        if let Some(sasl) = &dialer.sasl {
            let lifetime = sasl.authenticate(&connection).await?;
            connection.retire_at = lifetime.map(|lifetime| Instant::now() + retire_after(lifetime));
        }
        Ok(connection)
    }

    fn start(stream: impl AsyncRead + AsyncWrite + Send + 'static, side: Side, client_id: StrBytes) -> Self {
        let (outgoing, queue) = mpsc::channel(limits::CONNECTION_QUEUE_MAX);
        let (ended, _) = watch::channel(());
        let now = Instant::now();
        let state = State { pending: VecDeque::new(), closing: false, broken: None, quiet_until: now, used_at: now };
        let shared = Arc::new(Shared { state: Mutex::new(state), ended });
        let (read, write) = tokio::io::split(stream);
        tokio::spawn(write_requests(write, queue, shared.clone()));
        tokio::spawn(read_answers(read, shared.clone()));
        Self { outgoing, shared, side, client_id, offered: BTreeMap::new(), retire_at: None }
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
            CallError::NotOffered(format!("{} version {wanted} is wanted, the broker {offered}", R::NAME))
        })
    }

    /// One call in the ordinary way.
    pub(crate) async fn call<R: Api>(&self, request: &R) -> Result<R::Response, CallError> {
        self.call_with(request, CallOptions::default()).await
    }

    /// One call.
    pub(crate) async fn call_with<R: Api>(&self, request: &R, options: CallOptions) -> Result<R::Response, CallError> {
        let version = match options.version {
            Some(version) => version,
            None => self.version::<R>()?,
        };
        let answer = self.exchange(self.frame(request, version)?, options).await?;
        let answer = decode::<R>(answer, version).inspect_err(|error| self.shared.fail(error.clone()))?;
        self.shared.stay_quiet(R::throttle_ms(&answer));
        Ok(answer)
    }

    /// A request as it goes out, but for its correlation id, which the writer fills in. One line of the log at TRACE
    /// (`RUST_LOG=krossing_wire=trace`): what a step asks of a cluster can be counted there.
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
        tracing::trace!(side = %self.side, api = R::NAME, version, "request");
        encoded().map_err(|e: Box<dyn std::error::Error + Send + Sync>| {
            CallError::NotUnderstood(format!("a {} request cannot be written: {e}", R::NAME))
        })
    }

    async fn exchange(&self, frame: BytesMut, options: CallOptions) -> Answer {
        let (reply, mut answer) = oneshot::channel();
        let outgoing = Outgoing { frame, send_before: options.send_before, reply };
        let quiet = self.shared.lock().quiet_until.saturating_duration_since(Instant::now());
        let wait = options.wait_max + quiet;
        let exchanged =
            async { if self.outgoing.send(outgoing).await.is_ok() { (&mut answer).await.ok() } else { None } };
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
                | CallError::NotOffered(detail)
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
    let mut let_go_at = None;
    loop {
        {
            let state = shared.lock();
            if state.broken.is_some() || (state.closing && state.pending.is_empty()) {
                return;
            }
            if state.closing {
                let_go_at.get_or_insert_with(tokio::time::Instant::now);
            }
        }
        // Whoever asked has gone away: a broker that stays silent must not keep the socket for ever.
        let abandoned = async {
            match let_go_at {
                Some(at) => tokio::time::sleep_until(at + 2 * limits::REQUEST_WAIT_MAX).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            biased;
            _ = ended.changed() => continue,
            frame = frames.next() => frame,
            () = abandoned => return,
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
                    // A TLS alert, which is what a TLS listener says to anybody else.
                    let tls = if self.head[..2] == [0x15, 3] { "; it speaks TLS here" } else { "" };
                    let head = format!("an answer that begins with {:02x?} instead of its size{tls}", self.head);
                    CallError::NotUnderstood(head)
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

/// A listener without TLS takes the greeting for a request of absurd size, and hangs up without a word.
fn handshake_error(error: &io::Error) -> CallError {
    match io_error(error) {
        CallError::Lost(detail) if error.kind() == io::ErrorKind::UnexpectedEof => CallError::Lost(format!(
            "{detail}; if it speaks no TLS here, set tls.enabled: false, or name its TLS listener"
        )),
        other => other,
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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse, SaslAuthenticateRequest, SaslAuthenticateResponse};
    use tokio::io::DuplexStream;

    use super::*;
    use crate::security::tests::scram_by;

    const SOON: Duration = Duration::from_millis(100);

    /// A connection, and the broker's end of it. `buffer` is what the "network" takes before somebody reads.
    fn pair(buffer: usize) -> (Connection, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(buffer);
        let mut connection = Connection::start(ours, Side::Source, StrBytes::from_static_str("test"));
        connection.offered = [(26, (3, 3)), (36, (0, 2)), (17, (0, 1))].into();
        (connection, theirs)
    }

    async fn call(connection: &Connection, wait_max: Duration) -> Result<i16, CallError> {
        let options = CallOptions { wait_max, ..CallOptions::default() };
        connection.call_with(&EndTxnRequest::default(), options).await.map(|answer| answer.error_code)
    }

    /// The next request: its correlation id and everything behind it.
    async fn read_request(broker: &mut DuplexStream) -> (i32, Bytes) {
        let size = broker.read_i32().await.expect("a request");
        let mut request = vec![0; size as usize];
        broker.read_exact(&mut request).await.expect("a whole request");
        let mut request = Bytes::from(request);
        request.advance(4);
        (request.get_i32(), request)
    }

    async fn answer<T: Encodable + HeaderVersion>(
        broker: &mut DuplexStream,
        correlation: i32,
        answer: &T,
        version: i16,
    ) {
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&correlation.to_be_bytes());
        if T::header_version(version) >= 1 {
            frame.extend_from_slice(&[0]);
        }
        answer.encode(&mut frame, version).expect("an answer");
        broker.write_i32(frame.len() as i32).await.expect("room");
        broker.write_all(&frame).await.expect("room");
    }

    fn end_txn(code: i16) -> EndTxnResponse {
        EndTxnResponse::default().with_error_code(code)
    }

    #[tokio::test]
    async fn many_requests_are_under_way_and_each_gets_its_own_answer() {
        let (connection, mut broker) = pair(4096);
        let broker = async {
            let (first, _) = read_request(&mut broker).await;
            let (second, _) = read_request(&mut broker).await;
            answer(&mut broker, first, &end_txn(1), 3).await;
            answer(&mut broker, second, &end_txn(2), 3).await;
        };
        let wait = Duration::from_secs(5);
        let (one, two, ()) = tokio::join!(call(&connection, wait), call(&connection, wait), broker);
        assert_eq!((one, two), (Ok(1), Ok(2)));
    }

    #[tokio::test]
    async fn a_cut_connection_says_what_may_have_been_written_and_what_was_not() {
        let (connection, mut broker) = pair(4096);
        let cut = async {
            read_request(&mut broker).await;
            drop(broker);
        };
        let (pending, ()) = tokio::join!(call(&connection, Duration::from_secs(5)), cut);
        assert!(matches!(pending, Err(CallError::Lost(_))), "{pending:?}");
        assert!(!connection.usable());
        let later = call(&connection, SOON).await;
        assert!(matches!(later, Err(CallError::NotSent(_))), "{later:?}");
    }

    #[tokio::test]
    async fn a_request_stuck_behind_another_was_not_sent() {
        let (connection, _silent) = pair(8);
        let (stuck, behind) = tokio::join!(call(&connection, SOON), call(&connection, SOON * 2));
        assert!(matches!(stuck, Err(CallError::Lost(_))), "{stuck:?}");
        assert!(matches!(behind, Err(CallError::NotSent(_))), "{behind:?}");
    }

    #[tokio::test]
    async fn a_broker_that_stays_silent_costs_the_wait_and_the_connection() {
        let (connection, _silent) = pair(4096);
        let lost = call(&connection, SOON).await;
        assert!(matches!(lost, Err(CallError::Lost(_))), "{lost:?}");
        assert!(!connection.usable());
    }

    #[tokio::test]
    async fn nothing_is_written_after_its_time() {
        let (connection, mut broker) = pair(4096);
        let options = CallOptions { send_before: Some(Instant::now()), ..CallOptions::default() };
        let late = connection.call_with(&EndTxnRequest::default(), options).await;
        assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
        drop(connection);
        let mut written = Vec::new();
        broker.read_to_end(&mut written).await.expect("the end");
        assert!(written.is_empty(), "{written:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_or_to_something_else_ends_the_connection() {
        for frame in [
            i32::MAX.to_be_bytes().to_vec(),
            (-1i32).to_be_bytes().to_vec(),
            b"HTTP/1.1 400".to_vec(),
            [&10i32.to_be_bytes()[..], &77i32.to_be_bytes(), &[0; 6]].concat(),
            [&2i32.to_be_bytes()[..], &[0; 2]].concat(),
        ] {
            let (connection, mut broker) = pair(4096);
            let scripted = async {
                read_request(&mut broker).await;
                broker.write_all(&frame).await.expect("room");
            };
            let (refused, ()) = tokio::join!(call(&connection, Duration::from_secs(5)), scripted);
            assert!(matches!(refused, Err(CallError::NotUnderstood(_))), "{frame:02x?}: {refused:?}");
            assert!(!connection.usable());
        }
    }

    #[tokio::test]
    async fn a_throttled_connection_stays_quiet_for_as_long() {
        let (connection, mut broker) = pair(4096);
        let scripted = async {
            let (first, _) = read_request(&mut broker).await;
            answer(&mut broker, first, &end_txn(0).with_throttle_time_ms(SOON.as_millis() as i32), 3).await;
            let asked_at = Instant::now();
            let (second, _) = read_request(&mut broker).await;
            answer(&mut broker, second, &end_txn(0), 3).await;
            asked_at.elapsed()
        };
        let calls = async {
            assert_eq!(call(&connection, Duration::from_secs(5)).await, Ok(0));
            // The pause does not count as the broker's silence.
            assert_eq!(call(&connection, SOON).await, Ok(0));
        };
        let (quiet_for, ()) = tokio::join!(scripted, calls);
        assert!(quiet_for >= SOON * 9 / 10, "{quiet_for:?}");
    }

    #[tokio::test]
    async fn what_is_in_flight_is_still_answered_when_a_connection_is_let_go() {
        let (connection, mut broker) = pair(4096);
        let connection = Arc::new(connection);
        let calling = tokio::spawn({
            let connection = connection.clone();
            async move { call(&connection, Duration::from_secs(5)).await }
        });
        let (correlation, _) = read_request(&mut broker).await;
        drop(connection);
        answer(&mut broker, correlation, &end_txn(0), 3).await;
        assert_eq!(calling.await.expect("no panic"), Ok(0));
        assert_eq!(broker.read_i32().await.map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn a_call_that_the_broker_does_not_offer_is_named_with_both_versions() {
        let (mut connection, _broker) = pair(64);
        connection.offered = [(26, (0, 2))].into();
        let refused = call(&connection, SOON).await;
        let said = "EndTxn version 3 is wanted, the broker offers 0 to 2".to_owned();
        assert_eq!(refused, Err(CallError::NotOffered(said)));
    }

    #[test]
    fn a_listener_that_hangs_up_on_a_tls_greeting_may_be_one_without_tls() {
        let said = |kind| match handshake_error(&io::Error::new(kind, "tls handshake eof")) {
            CallError::Lost(detail) => detail,
            other => format!("{other:?}"),
        };
        assert!(said(io::ErrorKind::UnexpectedEof).contains("tls.enabled: false"));
        assert_eq!(said(io::ErrorKind::ConnectionReset), "tls handshake eof");
    }

    /// A broker that knows the password by heart, or does not.
    async fn scram_broker(broker: &mut DuplexStream, password: &str) {
        let (correlation, _) = read_request(broker).await;
        answer(broker, correlation, &kafka_protocol::messages::SaslHandshakeResponse::default(), 1).await;
        let mut server = scram_by(password);
        for _ in 0..2 {
            let (correlation, mut request) = read_request(broker).await;
            // The rest of the header: client id "test", no tagged fields.
            request.advance(2 + 4 + 1);
            let request = SaslAuthenticateRequest::decode(&mut request, 2).expect("a request");
            let said = server(&request.auth_bytes);
            let lifetime = 60_000;
            let reply = SaslAuthenticateResponse::default()
                .with_auth_bytes(Bytes::from(said))
                .with_session_lifetime_ms(lifetime);
            answer(broker, correlation, &reply, 2).await;
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_the_password_itself_is_not_believed() {
        let sasl = crate::Sasl::ScramSha512 { username: "alice".to_owned(), password: "secret".to_owned() };
        for (password, believed) in [("secret", true), ("guess", false)] {
            let (connection, mut broker) = pair(4096);
            let (outcome, ()) = tokio::join!(sasl.authenticate(&connection), scram_broker(&mut broker, password));
            if believed {
                assert_eq!(outcome, Ok(Some(Duration::from_secs(60))));
            } else {
                assert!(matches!(outcome, Err(CallError::NotAllowed(_))), "{outcome:?}");
            }
        }
    }
}
