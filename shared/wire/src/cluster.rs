//! The cluster behind the ports: its brokers, who leads what, and what is done when one of them does not answer.
//!
//! Why one place: every call is of one of four kinds — to any broker, to a partition's leader, to the controller, to a
//! coordinator — and finding the right broker, waiting, and trying again is the same for all calls of a kind.
//!
//! Invariants: every loop ends within `limits::CALL_RETRY_MAX` and pauses between its tries; leaders are asked for once
//! at a time, however many callers want to know; an error says what was attempted and the last thing that was seen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{join_all, select_ok};
use kafka_protocol::{
    messages::{MetadataRequest, MetadataResponse, metadata_request::MetadataRequestTopic},
    protocol::StrBytes,
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{ClusterError, ClusterResult, Leader, PerPartition},
    types::{BrokerId, LeaderEpoch, Side, TopicName, TopicPartition},
};

use crate::{
    api::Api,
    broker::Broker,
    connection::{CallError, Connection},
    security::{Dialer, Security},
};

/// Which cluster, and how it is reached.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// Which of the two it is: for messages.
    pub side: Side,
    /// `host:port` of some brokers.
    pub bootstrap: Vec<String>,
    /// How it is spoken to.
    pub security: Security,
    /// How brokers name us in their logs and quotas.
    pub client_id: String,
}

/// A Kafka cluster, with all of the cluster ports. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct WireCluster(pub(crate) Arc<Inner>);

impl std::fmt::Debug for WireCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireCluster({})", self.0.side)
    }
}

pub(crate) struct Inner {
    pub(crate) side: Side,
    /// What reaching it is called.
    attempt: String,
    dialer: Arc<Dialer>,
    bootstrap: Vec<Arc<Broker>>,
    known: Mutex<Known>,
    /// Held by the one caller that asks for leaders.
    asking: tokio::sync::Mutex<()>,
    next_candidate: AtomicUsize,
    pub(crate) coordinators: Mutex<HashMap<(CoordinatorKind, String), BrokerId>>,
}

/// Whose coordinator is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CoordinatorKind {
    Group,
    Transaction,
}

#[derive(Default)]
struct Known {
    brokers: BTreeMap<BrokerId, Arc<Broker>>,
    controller: Option<BrokerId>,
    topics: HashMap<TopicName, KnownTopic>,
    asked_at: Option<Instant>,
}

struct KnownTopic {
    asked_at: Instant,
    leaders: Result<BTreeMap<i32, Option<Leader>>, KafkaCode>,
}

impl WireCluster {
    /// Reaches the cluster: one of the bootstrap brokers must answer and let us in.
    pub async fn connect(config: WireConfig) -> ClusterResult<WireCluster> {
        let cluster = Self::new(config)?;
        cluster.reach().await?;
        Ok(cluster)
    }

    /// A cluster that nobody has asked anything yet.
    pub fn new(config: WireConfig) -> ClusterResult<WireCluster> {
        let WireConfig { side, bootstrap, security, client_id } = config;
        let attempt = format!("connect to {}", bootstrap.join(","));
        let refuse = |detail| ClusterError::NotAllowed { side, attempt: attempt.clone(), detail };
        let dialer = Arc::new(Dialer::new(side, client_id, security).map_err(refuse)?);
        let bootstrap = bootstrap
            .iter()
            .map(|address| {
                let (host, port) = parse_address(address)
                    .ok_or_else(|| refuse(format!("{address:?} is not of the form host:port")))?;
                Ok(Arc::new(Broker::new(BrokerId(-1), host, port, dialer.clone())))
            })
            .collect::<ClusterResult<Vec<_>>>()?;
        if bootstrap.is_empty() {
            return Err(refuse("no bootstrap broker is named".to_owned()));
        }
        Ok(WireCluster(Arc::new(Inner {
            side,
            attempt,
            dialer,
            bootstrap,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            next_candidate: AtomicUsize::new(0),
            coordinators: Mutex::default(),
        })))
    }

    /// Makes sure that one of the bootstrap brokers answers and lets us in.
    pub async fn reach(&self) -> ClusterResult<()> {
        let mut retry = self.0.retry(self.0.attempt.clone());
        while let Err(error) = self.0.metadata(Some(&[])).await {
            retry.again(error).await?;
        }
        Ok(())
    }
}

/// `host:port`, also with an IPv6 address in brackets.
fn parse_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.trim().rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn retry(&self, attempt: impl Into<String>) -> Retry {
        Retry::new(self.side, attempt.into())
    }

    // ── Brokers ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A broker by its number.
    pub(crate) fn broker(&self, id: BrokerId) -> Result<Arc<Broker>, CallError> {
        let broker = self.known().brokers.get(&id).cloned();
        broker.ok_or_else(|| CallError::NotSent(format!("broker {id} is not in the cluster's metadata")))
    }

    /// The connection for ordinary calls to one broker.
    pub(crate) async fn connection(&self, id: BrokerId) -> Result<Arc<Connection>, CallError> {
        self.broker(id)?.control().await
    }

    /// A connection to whichever broker answers: those that are connected first.
    pub(crate) async fn any_connection(&self) -> Result<Arc<Connection>, CallError> {
        let known: Vec<_> = self.known().brokers.values().cloned().collect();
        if let Some(connection) = known.iter().chain(&self.bootstrap).find_map(|broker| broker.connected()) {
            return Ok(connection);
        }
        let all: Vec<_> = known.iter().chain(&self.bootstrap).collect();
        let first = self.next_candidate.fetch_add(1, Ordering::Relaxed);
        // Each may cost a connect timeout: three at once, and others at the next try.
        let tries: Vec<_> = (0..all.len().min(3)).map(|n| Box::pin(all[(first + n) % all.len()].control())).collect();
        select_ok(tries).await.map(|(connection, _)| connection)
    }

    /// All brokers by number, as of now.
    pub(crate) async fn brokers(&self, attempt: &str) -> ClusterResult<Vec<Arc<Broker>>> {
        let mut retry = self.retry(attempt);
        while let Err(error) = self.metadata(Some(&[])).await {
            retry.again(error).await?;
        }
        Ok(self.known().brokers.values().cloned().collect())
    }

    /// Asks every broker. When one does not answer, all are asked again, those that there are by then: one that has left
    /// in between is not waited for.
    pub(crate) async fn each_broker<T, F>(&self, attempt: &str, ask: impl Fn(Arc<Broker>) -> F) -> ClusterResult<Vec<T>>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut retry = self.retry(attempt);
        loop {
            let brokers = self.brokers(attempt).await?;
            let told: Result<Vec<T>, CallError> = join_all(brokers.into_iter().map(&ask)).await.into_iter().collect();
            match told {
                Ok(told) => return Ok(told),
                Err(error) => retry.again(error).await?,
            }
        }
    }

    /// One call to any broker, tried again while it cannot be answered.
    pub(crate) async fn ask_any<R: Api + Send + Sync>(&self, attempt: &str, request: &R) -> ClusterResult<R::Response>
    where
        R::Response: Send,
    {
        let mut retry = self.retry(attempt);
        loop {
            let asked = async { self.any_connection().await?.call(request).await };
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.again(error).await?,
            }
        }
    }

    /// The connection to the controller, or (KRaft) to the broker that passes calls on to it.
    pub(crate) async fn controller(&self) -> Result<Arc<Connection>, CallError> {
        let controller = self.known().controller;
        match controller {
            Some(id) => self.connection(id).await,
            None => {
                self.metadata(Some(&[])).await?;
                Err(CallError::Code(KafkaCode::NOT_CONTROLLER, "no controller is known".to_owned()))
            }
        }
    }

    // ── Leaders ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Asks for metadata once, of topics by name, or of all; keeps what it says about brokers.
    pub(crate) async fn metadata(&self, topics: Option<&[TopicName]>) -> Result<MetadataResponse, CallError> {
        let named = |name: &TopicName| MetadataRequestTopic::default().with_name(Some(wire_topic(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        let answer = self.any_connection().await?.call(&request).await?;
        self.learn_brokers(&answer)?;
        Ok(answer)
    }

    fn learn_brokers(&self, answer: &MetadataResponse) -> Result<(), CallError> {
        if answer.brokers.is_empty() {
            return Err(CallError::Code(KafkaCode::BROKER_NOT_AVAILABLE, "metadata without a broker".to_owned()));
        }
        let mut known = self.known();
        let mut brokers = BTreeMap::new();
        for broker in &answer.brokers {
            let id = BrokerId(broker.node_id.0);
            let port = u16::try_from(broker.port)
                .map_err(|_| CallError::NotUnderstood(format!("broker {id} advertises port {}", broker.port)))?;
            let same = known.brokers.get(&id).filter(|old| old.is_at(&broker.host, port)).cloned();
            let new = || Arc::new(Broker::new(id, broker.host.as_str().to_owned(), port, self.dialer.clone()));
            brokers.insert(id, same.unwrap_or_else(new));
        }
        known.brokers = brokers;
        known.controller = (answer.controller_id.0 >= 0).then_some(BrokerId(answer.controller_id.0));
        Ok(())
    }

    /// Asks for the leaders of `topics` anew. Callers that come while somebody asks wait, and ask only for what has not
    /// been asked since they came.
    pub(crate) async fn refresh(&self, attempt: &str, topics: &BTreeSet<TopicName>) -> ClusterResult<()> {
        let came_at = Instant::now();
        let _asking = self.asking.lock().await;
        let (stale, pause) = {
            let known = self.known();
            let fresh = |name: &&TopicName| known.topics.get(*name).is_some_and(|topic| topic.asked_at >= came_at);
            let stale: Vec<_> = topics.iter().filter(|name| !fresh(name)).cloned().collect();
            (stale, known.asked_at.map(|at| limits::METADATA_PAUSE.saturating_sub(at.elapsed())))
        };
        if stale.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(pause.unwrap_or_default()).await;
        let mut retry = self.retry(attempt);
        let (asked_at, answer) = loop {
            let asked_at = Instant::now();
            match self.metadata(Some(&stale)).await {
                Ok(answer) => break (asked_at, answer),
                Err(error) => retry.again(error).await?,
            }
        };
        let mut known = self.known();
        known.asked_at = Some(asked_at);
        for topic in answer.topics {
            let Some(name) = topic.name.map(|name| TopicName::new(name.as_str())) else { continue };
            let leaders = match KafkaCode::from_wire(topic.error_code) {
                Some(code) => Err(code),
                None => Ok(topic.partitions.iter().map(|p| (p.partition_index, leader_of(p))).collect()),
            };
            known.topics.insert(name, KnownTopic { asked_at, leaders });
        }
        Ok(())
    }

    /// The leaders of partitions, asked for where they are not known or `fresh` ones are wanted.
    pub(crate) async fn leaders_of(
        &self,
        attempt: &str,
        partitions: &[TopicPartition],
        fresh: bool,
    ) -> ClusterResult<PerPartition<Leader>> {
        let unknown: BTreeSet<_> = {
            let known = self.known();
            let wanted = |p: &&TopicPartition| fresh || known.leader(p).is_err();
            partitions.iter().filter(wanted).map(|p| p.topic.clone()).collect()
        };
        if !unknown.is_empty() {
            self.refresh(attempt, &unknown).await?;
        }
        let known = self.known();
        Ok(partitions.iter().map(|p| (p.clone(), known.leader(p))).collect())
    }

    /// Forgets who leads a topic: the next caller asks.
    pub(crate) fn forget_leaders(&self, topic: &TopicName) {
        self.known().topics.remove(topic);
    }

    /// Asks something about many partitions: one request a leader, leaders at the same time, and again for those whose
    /// codes pass with time. Codes that remain are part of the answer; a leader that cannot be reached is an error.
    pub(crate) async fn by_leader<T, F, Fut>(
        &self,
        attempt: &str,
        partitions: &[TopicPartition],
        ask: F,
    ) -> ClusterResult<PerPartition<T>>
    where
        F: Fn(Arc<Connection>, Vec<TopicPartition>) -> Fut + Sync,
        Fut: Future<Output = Result<PerPartition<T>, CallError>> + Send,
        T: Send,
    {
        let mut retry = self.retry(attempt);
        // Ends before `retry` does, so that one missing topic does not end the tries of the others.
        let unknown_topics_until = Instant::now() + limits::UNKNOWN_TOPIC_WAIT_MAX - limits::RETRY_PAUSE_MAX;
        let mut left = partitions.to_vec();
        let mut done: PerPartition<T> = BTreeMap::new();
        let mut fresh = false;
        while !left.is_empty() {
            let mut by_broker: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
            let mut passing: BTreeMap<TopicPartition, KafkaCode> = BTreeMap::new();
            let mut settle = |partition, result: Result<T, KafkaCode>| match result {
                Err(code) if passes_at_leader(code, unknown_topics_until) => {
                    passing.insert(partition, code);
                }
                result => {
                    done.insert(partition, result);
                }
            };
            for (partition, leader) in self.leaders_of(attempt, &left, fresh).await? {
                match leader {
                    Ok(leader) => by_broker.entry(leader.broker).or_default().push(partition),
                    Err(code) => settle(partition, Err(code)),
                }
            }
            let asked = by_broker.into_iter().map(|(broker, partitions)| {
                let ask = &ask;
                async move {
                    let answer = async { ask(self.connection(broker).await?, partitions.clone()).await }.await;
                    (partitions, answer)
                }
            });
            let mut unreachable = Vec::new();
            let mut last = None;
            for (partitions, answer) in join_all(asked).await {
                match answer {
                    Ok(mut answer) => {
                        for partition in partitions {
                            let missing = || CallError::NotUnderstood(format!("nothing is said about {partition}"));
                            let result = answer.remove(&partition).ok_or_else(missing).map_err(|e| retry.error(e))?;
                            settle(partition, result);
                        }
                    }
                    Err(error) => {
                        unreachable.extend(partitions);
                        last = Some(error);
                    }
                }
            }
            if passing.is_empty() && unreachable.is_empty() {
                break;
            }
            let codes_only = last.is_none();
            let code = passing.iter().next().map(|(partition, code)| CallError::Code(*code, partition.to_string()));
            match last.or(code).map(|error| retry.again(error)) {
                Some(again) => match again.await {
                    Err(_) if codes_only => {
                        done.extend(passing.into_iter().map(|(partition, code)| (partition, Err(code))));
                        break;
                    }
                    again => again?,
                },
                None => break,
            }
            left = unreachable.into_iter().chain(passing.into_keys()).collect();
            fresh = true;
        }
        Ok(done)
    }
}

impl Known {
    fn leader(&self, partition: &TopicPartition) -> Result<Leader, KafkaCode> {
        let unknown = KafkaCode::UNKNOWN_TOPIC_OR_PARTITION;
        let leaders = self.topics.get(&partition.topic).ok_or(unknown)?.leaders.as_ref().map_err(|code| *code)?;
        leaders.get(&partition.partition.0).ok_or(unknown)?.ok_or(KafkaCode::LEADER_NOT_AVAILABLE)
    }
}

fn leader_of(partition: &kafka_protocol::messages::metadata_response::MetadataResponsePartition) -> Option<Leader> {
    (partition.leader_id.0 >= 0).then(|| Leader {
        broker: BrokerId(partition.leader_id.0),
        epoch: (partition.leader_epoch >= 0).then_some(LeaderEpoch(partition.leader_epoch)),
    })
}

/// Partition codes that pass once metadata is fresh or the broker has caught up.
fn passes_at_leader(code: KafkaCode, unknown_topics_until: Instant) -> bool {
    if code == KafkaCode::UNKNOWN_TOPIC_OR_PARTITION {
        return Instant::now() < unknown_topics_until;
    }
    moved(code)
        || matches!(
            code,
            KafkaCode::REQUEST_TIMED_OUT
                | KafkaCode::NETWORK_EXCEPTION
                | KafkaCode::KAFKA_STORAGE_ERROR
                | KafkaCode::OFFSET_NOT_AVAILABLE
        )
}

/// Codes that say that what we know about a partition's leader is no longer so.
pub(crate) fn moved(code: KafkaCode) -> bool {
    matches!(
        code,
        KafkaCode::UNKNOWN_TOPIC_OR_PARTITION
            | KafkaCode::LEADER_NOT_AVAILABLE
            | KafkaCode::NOT_LEADER_OR_FOLLOWER
            | KafkaCode::REPLICA_NOT_AVAILABLE
            | KafkaCode::FENCED_LEADER_EPOCH
            | KafkaCode::UNKNOWN_LEADER_EPOCH
    )
}

/// The coordinator has moved, or is not ready.
pub(crate) fn coordinator_moved(code: KafkaCode) -> bool {
    matches!(
        code,
        KafkaCode::COORDINATOR_LOAD_IN_PROGRESS | KafkaCode::COORDINATOR_NOT_AVAILABLE | KafkaCode::NOT_COORDINATOR
    )
}

/// THROTTLING_QUOTA_EXCEEDED: the controller makes no more topics for a while.
const CONTROLLER_BUSY: KafkaCode = KafkaCode(89);

/// Codes for a whole call that pass with time.
pub(crate) fn passes(code: KafkaCode) -> bool {
    moved(code)
        || coordinator_moved(code)
        || matches!(
            code,
            KafkaCode::REQUEST_TIMED_OUT
                | KafkaCode::BROKER_NOT_AVAILABLE
                | KafkaCode::NETWORK_EXCEPTION
                | KafkaCode::NOT_CONTROLLER
                | KafkaCode::CONCURRENT_TRANSACTIONS
                | KafkaCode::KAFKA_STORAGE_ERROR
                | KafkaCode::OFFSET_NOT_AVAILABLE
                | KafkaCode::UNSTABLE_OFFSET_COMMIT
                | CONTROLLER_BUSY
        )
}

/// Codes that say that we lack a right.
fn forbidden(code: KafkaCode) -> bool {
    matches!(
        code,
        KafkaCode::TOPIC_AUTHORIZATION_FAILED
            | KafkaCode::GROUP_AUTHORIZATION_FAILED
            | KafkaCode::CLUSTER_AUTHORIZATION_FAILED
            | KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            | KafkaCode::SASL_AUTHENTICATION_FAILED
    )
}

/// The tries of one call: pauses that double, up to a bound in all.
pub(crate) struct Retry {
    side: Side,
    attempt: String,
    began: Instant,
    pause: Duration,
}

impl Retry {
    fn new(side: Side, attempt: String) -> Self {
        Self { side, attempt, began: Instant::now(), pause: limits::RETRY_PAUSE }
    }

    /// Waits before the next try, where one makes sense.
    pub(crate) async fn again(&mut self, error: CallError) -> ClusterResult<()> {
        let bound = match &error {
            CallError::NotSent(_) | CallError::Lost(_) => limits::CALL_RETRY_MAX,
            CallError::Code(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION, _) => limits::UNKNOWN_TOPIC_WAIT_MAX,
            CallError::Code(KafkaCode::UNSTABLE_OFFSET_COMMIT, _) => limits::UNSTABLE_OFFSETS_WAIT_MAX,
            CallError::Code(code, _) if passes(*code) => limits::CALL_RETRY_MAX,
            CallError::Code(..) | CallError::NotAllowed(_) | CallError::NotOffered(_) | CallError::NotUnderstood(_) => {
                Duration::ZERO
            }
        };
        if self.began.elapsed() + self.pause >= bound {
            return Err(self.error(error));
        }
        tracing::debug!(side = %self.side, attempt = self.attempt, ?error, pause = ?self.pause, "trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(limits::RETRY_PAUSE_MAX);
        Ok(())
    }

    /// What the caller of the port is told.
    pub(crate) fn error(&self, error: CallError) -> ClusterError {
        let (side, attempt) = (self.side, self.attempt.clone());
        match error {
            CallError::NotSent(detail) | CallError::Lost(detail) => ClusterError::Unavailable { side, attempt, detail },
            CallError::NotAllowed(detail) => ClusterError::NotAllowed { side, attempt, detail },
            CallError::NotOffered(detail) => ClusterError::NotOffered { side, attempt, detail },
            CallError::NotUnderstood(detail) => ClusterError::NotUnderstood { side, attempt, detail },
            CallError::Code(code, detail) if passes(code) && code != KafkaCode::UNKNOWN_TOPIC_OR_PARTITION => {
                ClusterError::Unavailable { side, attempt, detail: with_detail(code, &detail) }
            }
            CallError::Code(code, detail) if forbidden(code) => {
                ClusterError::NotAllowed { side, attempt, detail: with_detail(code, &detail) }
            }
            CallError::Code(code, detail) => ClusterError::Refused { side, attempt, code, detail },
        }
    }
}

fn with_detail(code: KafkaCode, detail: &str) -> String {
    if detail.is_empty() { code.to_string() } else { format!("{code}: {detail}") }
}

/// An error where `code` is one.
pub(crate) fn check_code(code: i16, detail: Option<&StrBytes>) -> Result<(), CallError> {
    match KafkaCode::from_wire(code) {
        None => Ok(()),
        Some(code) => Err(CallError::Code(code, text(detail))),
    }
}

/// A text that may be null.
pub(crate) fn text(text: Option<&StrBytes>) -> String {
    text.map(|text| text.as_str().to_owned()).unwrap_or_default()
}

/// A text for the wire.
pub(crate) fn wire_str(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name for the wire.
pub(crate) fn wire_topic(topic: &TopicName) -> kafka_protocol::messages::TopicName {
    kafka_protocol::messages::TopicName(wire_str(topic.as_str()))
}

/// Partition numbers by topic: how requests name partitions.
pub(crate) fn by_topic<'a, T>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<&'a TopicName, Vec<(i32, T)>> {
    let mut topics: BTreeMap<&TopicName, Vec<(i32, T)>> = BTreeMap::new();
    for (partition, value) in partitions {
        topics.entry(&partition.topic).or_default().push((partition.partition.0, value));
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let parsed = |address| parse_address(address).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(parsed("b-1.example:9098").as_deref(), Some("b-1.example 9098"));
        assert_eq!(parsed(" [::1]:9092 ").as_deref(), Some("::1 9092"));
        for wrong in ["b-1.example", ":9092", "b:0", "b:70000", "b:port", ""] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_call_is_tried_again_only_while_that_can_help_and_within_its_bound() {
        let mut retry = Retry::new(Side::Source, "ask".to_owned());
        for definite in [
            CallError::NotAllowed("no".to_owned()),
            CallError::Code(KafkaCode::INVALID_TOPIC_EXCEPTION, String::new()),
            CallError::Code(KafkaCode::TOPIC_AUTHORIZATION_FAILED, String::new()),
        ] {
            assert!(retry.again(definite).await.is_err());
        }
        assert!(retry.again(CallError::Lost("cut".to_owned())).await.is_ok());
        retry.pause = limits::CALL_RETRY_MAX;
        let over = retry.again(CallError::Lost("cut".to_owned())).await;
        assert!(matches!(over, Err(ClusterError::Unavailable { .. })), "{over:?}");
        // A topic that is not there is waited for, but not for long, and is then a definite answer.
        retry.pause = limits::UNKNOWN_TOPIC_WAIT_MAX;
        let missing = retry.again(CallError::Code(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION, String::new())).await;
        assert!(matches!(missing, Err(ClusterError::Refused { .. })), "{missing:?}");
    }
}
