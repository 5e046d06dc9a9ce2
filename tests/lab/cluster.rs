//! A running cluster: ZooKeeper and its brokers, or KRaft nodes that are broker and controller in one.
//!
//! Every cluster has a plaintext listener, which brokers use among themselves and the lab uses for itself; a secured
//! one has SASL_SSL with SCRAM-SHA-512 and mutual TLS beside it; a proxied one has a second plaintext listener that is
//! advertised as a [`Proxy`]'s ports; one like MSK's for IAM has OAUTHBEARER, with tokens that are checked as AWS does. With an authorizer, whoever comes through the
//! plaintext listener and the user `krossing` may do everything, others what ACLs allow.
//!
//! Ports are taken from below the range that the system uses for outgoing connections: a broker that is stopped must
//! find its port free when it is started again. A clash at the first start is answered by taking other ports.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::future::try_join_all;
use rand::RngExt as _;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    metadata::Metadata,
};

use crate::{
    Inner,
    certificates::{Certificates, JavaStores, KeyPair},
    process::{POLL, Process},
    proxy::Proxy,
    repository,
    tools::{self, java, java_with},
};

/// How long a cluster may take until it answers. Alone 4–12 s; a killed broker of three that looks through its logs while
/// a machine of two cores compiles three times over took more than 90 s.
const START_WAIT_MAX: Duration = Duration::from_secs(240);

/// How often a cluster is started anew with other ports when another process was quicker to take one.
const PORT_CLASHES_MAX: u32 = 3;

/// Which Kafka a cluster runs; ZooKeeper mode ended with 3.9. Those that are too old for a migration are fetched by
/// `KROSSING_LONG=1 make setup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 2.6.3, too old for a source
    V2_6,
    /// 3.6.2, too old for a target
    V3_6,
    /// 3.9.1
    V3_9,
    /// 4.1.1
    V4_1,
}

impl Version {
    /// Where `setup.sh` puts its jars.
    pub fn jars(self) -> PathBuf {
        repository().join(match self {
            Version::V2_6 => ".lab/kafka-2.6.3",
            Version::V3_6 => ".lab/kafka-3.6.2",
            Version::V3_9 => ".lab/kafka-3.9.1",
            Version::V4_1 => ".lab/kafka-4.1.1",
        })
    }
}

/// Which listeners a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plaintext alone.
    Plaintext,
    /// Plaintext, SASL_SSL with SCRAM-SHA-512, and mutual TLS.
    Tls,
}

/// One of a cluster's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// No encryption, nobody in particular.
    Plaintext,
    /// TLS, and a name with a password.
    Scram,
    /// TLS with a client certificate.
    MutualTls,
    /// Plaintext, through the fault proxy.
    Proxied,
    /// TLS, and a token of IAM.
    Iam,
}

impl Listener {
    fn name(self) -> &'static str {
        match self {
            Listener::Plaintext => "PLAINTEXT",
            Listener::Scram => "SASL",
            Listener::MutualTls => "MTLS",
            Listener::Proxied => "PROXIED",
            Listener::Iam => "IAM",
        }
    }
}

/// Someone who may connect to a secured cluster, by password or by certificate (of that common name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The name: Kafka's principal is `User:<name>`.
    pub name: &'static str,
    /// The SCRAM password.
    pub password: &'static str,
}

/// May do everything.
pub const KROSSING: User = User { name: "krossing", password: "krossing-secret" };
/// May do what ACLs allow.
pub const ALICE: User = User { name: "alice", password: "alice-secret" };

const USERS: [User; 2] = [KROSSING, ALICE];

/// What cluster is wanted.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    /// 1, or 3 with replication factor 3 and `min.insync.replicas` 2.
    pub brokers: usize,
    /// Its listeners.
    pub security: Security,
    /// Whether there is a listener behind a fault proxy.
    pub proxied: bool,
    /// Whether a cluster with TLS has a listener for IAM.
    pub iam: bool,
    /// Whether ACLs are enforced.
    pub authorizer: bool,
    /// Which Kafka.
    pub version: Version,
    /// Each JVM's heap.
    pub heap_mb: u32,
    /// More broker settings; they win over the lab's own.
    pub settings: Vec<(String, String)>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            brokers: 1,
            security: Security::Plaintext,
            proxied: false,
            iam: false,
            authorizer: false,
            version: Version::V3_9,
            heap_mb: 512,
            settings: Vec::new(),
        }
    }
}

impl ClusterSpec {
    /// Sets a broker setting.
    pub fn with(mut self, setting: &str, value: &str) -> Self {
        self.settings.push((setting.to_owned(), value.to_owned()));
        self
    }
}

/// How a broker's log ends where ZooKeeper still knows a broker of its number.
const STILL_REGISTERED: &str = "KeeperException$NodeExistsException";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    ZooKeeper,
    KRaft,
}

/// A broker, running or not.
struct Node {
    id: usize,
    ports: BTreeMap<Listener, u16>,
    controller_port: u16,
    process: Mutex<Option<Process>>,
}

/// A cluster whose brokers have answered. Its processes end when it is dropped.
pub struct Cluster {
    // In this order: brokers end before ZooKeeper, both before the lab's folder goes.
    nodes: Vec<Node>,
    zookeeper: Mutex<Option<Process>>,
    zookeeper_port: u16,
    mode: Mode,
    folder: PathBuf,
    spec: ClusterSpec,
    certificates: Option<Certificates>,
    proxy: Option<Proxy>,
    /// From the call until a request was answered.
    pub started_in: Duration,
    lab: Arc<Inner>,
}

impl Cluster {
    pub(crate) async fn start_zookeeper(lab: Arc<Inner>, folder: PathBuf, spec: ClusterSpec) -> Result<Self> {
        ensure!(spec.version != Version::V4_1, "ZooKeeper mode ended with 3.9");
        Self::start(lab, folder, spec, Mode::ZooKeeper).await
    }

    pub(crate) async fn start_kraft(lab: Arc<Inner>, folder: PathBuf, spec: ClusterSpec) -> Result<Self> {
        Self::start(lab, folder, spec, Mode::KRaft).await
    }

    async fn start(lab: Arc<Inner>, folder: PathBuf, spec: ClusterSpec, mode: Mode) -> Result<Self> {
        let begun = Instant::now();
        let certificates = match spec.security {
            Security::Plaintext => None,
            Security::Tls => Some(Certificates::make(&folder.join("tls"), &USERS.map(|user| user.name))?),
        };
        for attempt in 0.. {
            let mut cluster = Self::with_ports(&lab, &folder, &spec, mode, certificates.clone())?;
            if spec.proxied {
                let brokers: Vec<_> = cluster.nodes.iter().map(|node| node.ports[&Listener::Proxied]).collect();
                cluster.proxy = Some(Proxy::start(&brokers).await?);
            }
            match cluster.start_all().await {
                Ok(()) => {
                    cluster.started_in = begun.elapsed();
                    return Ok(cluster);
                }
                Err(error) if attempt < PORT_CLASHES_MAX && format!("{error:?}").contains("Address already in use") => {
                    drop(cluster);
                    std::fs::remove_dir_all(folder.join("data"))?;
                }
                Err(error) => {
                    lab.keep.store(true, std::sync::atomic::Ordering::Relaxed);
                    return Err(error.context(format!("starting the cluster in {}", folder.display())));
                }
            }
        }
        unreachable!("the loop has no other end")
    }

    fn with_ports(
        lab: &Arc<Inner>,
        folder: &Path,
        spec: &ClusterSpec,
        mode: Mode,
        certificates: Option<Certificates>,
    ) -> Result<Self> {
        let mut listeners = match spec.security {
            Security::Plaintext => vec![Listener::Plaintext],
            Security::Tls => vec![Listener::Plaintext, Listener::Scram, Listener::MutualTls],
        };
        listeners.extend(spec.proxied.then_some(Listener::Proxied));
        listeners.extend(spec.iam.then_some(Listener::Iam));
        let mut free = free_ports(1 + spec.brokers * (1 + listeners.len()))?.into_iter();
        let mut port = || free.next().expect("as many as were counted");
        let zookeeper_port = port();
        let nodes = (1..=spec.brokers)
            .map(|id| Node {
                id,
                ports: listeners.iter().map(|&listener| (listener, port())).collect(),
                controller_port: port(),
                process: Mutex::new(None),
            })
            .collect();
        Ok(Self {
            nodes,
            zookeeper: Mutex::new(None),
            zookeeper_port,
            mode,
            folder: folder.to_owned(),
            spec: spec.clone(),
            certificates,
            proxy: None,
            started_in: Duration::ZERO,
            lab: lab.clone(),
        })
    }

    async fn start_all(&self) -> Result<()> {
        std::fs::create_dir_all(self.folder.join("data"))?;
        if self.spec.iam {
            tools::compile(self.spec.version, "iam/IamTokens.java", &self.classes())?;
        }
        for node in &self.nodes {
            std::fs::write(self.properties_file(node), self.properties(node))?;
        }
        match self.mode {
            Mode::ZooKeeper => self.spawn_zookeeper()?,
            Mode::KRaft => self.format().await?,
        }
        for node in &self.nodes {
            self.spawn_node(node)?;
        }
        if self.mode == Mode::ZooKeeper && self.spec.security == Security::Tls {
            // Brokers may be starting meanwhile: they are told of users by a notification.
            self.until_accepting(self.zookeeper_port).await?;
            try_join_all(USERS.map(|user| self.add_scram_user_in_zookeeper(user))).await?;
        }
        self.until_ready(self.nodes.len()).await
    }

    // ── What tests need to know ────────────────────────────────────────────────────────────────────────────────────

    /// The bootstrap servers of a listener, comma separated.
    pub fn bootstrap(&self, listener: Listener) -> String {
        let servers: Vec<_> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", self.advertised_port(node, listener))).collect();
        servers.join(",")
    }

    /// The fault proxy of a cluster that was asked for with one.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the cluster was asked for with a proxy")
    }

    /// A librdkafka configuration for the plaintext listener.
    pub fn client(&self) -> ClientConfig {
        self.client_by(Listener::Plaintext, KROSSING)
    }

    /// A librdkafka configuration for a listener, as a user.
    pub fn client_by(&self, listener: Listener, user: User) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap(listener));
        // Brokers restart in seconds here; librdkafka's own maximum of 10 s would be the longest part of a test.
        config.set("reconnect.backoff.max.ms", "500");
        match listener {
            Listener::Plaintext | Listener::Proxied => {}
            Listener::Iam => panic!("the lab has no tokens, and uses other listeners"),
            Listener::Scram => {
                config.set("security.protocol", "SASL_SSL").set("sasl.mechanism", "SCRAM-SHA-512");
                config.set("sasl.username", user.name).set("sasl.password", user.password);
                config.set("ssl.ca.location", self.ca_file().to_string_lossy());
            }
            Listener::MutualTls => {
                let pair = self.key_pair(user);
                config.set("security.protocol", "SSL");
                config.set("ssl.certificate.location", pair.cert_file.to_string_lossy());
                config.set("ssl.key.location", pair.key_file.to_string_lossy());
                config.set("ssl.ca.location", self.ca_file().to_string_lossy());
            }
        }
        config
    }

    /// The authority's certificate of a secured cluster.
    pub fn ca_file(&self) -> &Path {
        &self.certificates.as_ref().expect("the cluster was asked for with TLS").ca_file
    }

    /// A user's certificate and key of a secured cluster.
    pub fn key_pair(&self, user: User) -> KeyPair {
        self.certificates.as_ref().expect("the cluster was asked for with TLS").pair(user.name)
    }

    /// A user's certificate and the authority of a secured cluster, for Java.
    pub fn java_stores(&self, user: User) -> Result<JavaStores> {
        self.certificates.as_ref().expect("the cluster was asked for with TLS").java_stores(user.name)
    }

    /// A certificate of a secured cluster's authority that is not good any more.
    pub fn expired_pair(&self) -> Result<KeyPair> {
        self.certificates.as_ref().expect("the cluster was asked for with TLS").expired()
    }

    /// How many brokers it was asked for with.
    pub fn brokers(&self) -> usize {
        self.nodes.len()
    }

    /// The replication factor that fits it.
    pub fn replication(&self) -> usize {
        self.nodes.len().min(3)
    }

    /// Whether it enforces access rules.
    pub fn authorizes(&self) -> bool {
        self.spec.authorizer
    }

    /// Where broker `id` (from 1) keeps its logs: a folder for each partition.
    pub fn data_folder(&self, id: usize) -> PathBuf {
        self.folder.join("data").join(format!("broker-{id}"))
    }

    /// What broker `id` has logged so far.
    pub fn broker_log(&self, id: usize) -> PathBuf {
        self.folder.join(format!("broker-{id}.log"))
    }

    // ── What tests do to brokers ───────────────────────────────────────────────────────────────────────────────────

    /// Ends broker `id` (from 1) at once, as `kill -9` does.
    pub fn kill_broker(&self, id: usize) -> Result<()> {
        let process = self.node(id)?.take();
        process.ok_or_else(|| anyhow!("broker {id} does not run"))?.kill()
    }

    /// Asks broker `id` to end and waits until it has.
    pub async fn stop_broker(&self, id: usize) -> Result<()> {
        let mut process = self.node(id)?.take().ok_or_else(|| anyhow!("broker {id} does not run"))?;
        process.terminate()?;
        tokio::time::timeout(START_WAIT_MAX, process.wait()).await.context("a broker does not end")??;
        Ok(())
    }

    /// Starts broker `id` again, on its old ports and data, and waits until the cluster counts it in.
    pub async fn start_broker(&self, id: usize) -> Result<()> {
        let node = self.node(id)?;
        ensure!(!node.runs(), "broker {id} runs already");
        loop {
            self.spawn_node(node)?;
            match self.until_ready(self.nodes.iter().filter(|node| node.runs()).count()).await {
                // ZooKeeper keeps the name of a broker that was killed until its session has run out, and one that comes
                // back before that gives up. Whoever runs brokers has something that starts them again.
                Err(error) if error.to_string().contains(STILL_REGISTERED) => drop(node.take()),
                ready => return ready,
            }
        }
    }

    /// Waits until every replica of every partition is in step: until then another broker must not be taken away.
    pub async fn until_in_sync(&self) -> Result<()> {
        self.until_metadata("replicas that are in step", |metadata| {
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.all(|it| it.isr().len() == it.replicas().len() && it.leader() > 0)
        })
        .await
    }

    /// Waits until others lead whatever broker `id`, which was killed, had led.
    pub async fn until_led_without(&self, id: usize) -> Result<()> {
        let gone = i32::try_from(id)?;
        self.until_metadata("other leaders", |metadata| {
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            metadata.brokers().iter().all(|broker| broker.id() != gone)
                && partitions.all(|it| it.leader() > 0 && it.leader() != gone)
        })
        .await
    }

    /// Waits until nobody leads partition 0 of `topic`.
    pub async fn until_leaderless(&self, topic: &str) -> Result<()> {
        self.until_metadata("a partition without a leader", |metadata| {
            let named = metadata.topics().iter().filter(|found| found.name() == topic);
            named.flat_map(|topic| topic.partitions()).any(|partition| partition.id() == 0 && partition.leader() < 0)
        })
        .await
    }

    async fn until_metadata(&self, what: &'static str, wanted: impl Fn(&Metadata) -> bool) -> Result<()> {
        let consumer: Arc<BaseConsumer> = Arc::new(self.client().create()?);
        let seen = async {
            loop {
                let asked = consumer.clone();
                let answer =
                    tokio::task::spawn_blocking(move || asked.fetch_metadata(None, Duration::from_secs(5))).await?;
                if answer.is_ok_and(|metadata| wanted(&metadata)) {
                    return Ok(());
                }
                self.check_alive()?;
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(START_WAIT_MAX, seen).await.with_context(|| format!("waiting for {what}"))?
    }

    /// Moves every partition's leadership to the next of its replicas, with Kafka's own tools.
    pub async fn move_leaders(&self) -> Result<()> {
        let consumer: BaseConsumer = self.client().create()?;
        let metadata =
            tokio::task::spawn_blocking(move || consumer.fetch_metadata(None, Duration::from_secs(30))).await??;
        let mut partitions = Vec::new();
        for topic in metadata.topics() {
            for partition in topic.partitions() {
                let mut replicas = partition.replicas().to_vec();
                replicas.rotate_left(1);
                partitions.push(serde_json::json!({
                    "topic": topic.name(), "partition": partition.id(), "replicas": replicas
                }));
            }
        }
        let file = self.folder.join("reassignment.json");
        std::fs::write(&file, serde_json::json!({ "version": 1, "partitions": partitions }).to_string())?;
        let file = file.to_string_lossy();
        let reassign = ["--reassignment-json-file", &file, "--execute"];
        self.tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &reassign).await?;
        let elect = ["--election-type", "preferred", "--all-topic-partitions"];
        self.tool("org.apache.kafka.tools.LeaderElectionCommand", &elect).await?;
        Ok(())
    }

    /// Ends the brokers in good order. Dropping the cluster does it with less ceremony.
    pub async fn stop(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            // One after the other would let each hand over its partitions; at the end there is nobody to take them.
            node.process.lock().expect("no panic while held").as_mut().map_or(Ok(()), Process::terminate)?;
        }
        for node in &self.nodes {
            if let Some(mut process) = node.take() {
                // KRaft's last nodes wait for a quorum that will not come back; killing them loses nothing more.
                _ = tokio::time::timeout(Duration::from_secs(10), process.wait()).await;
            }
        }
        drop(self.zookeeper.lock().expect("no panic while held").take());
        Ok(())
    }

    /// The port that clients of a listener are told.
    fn advertised_port(&self, node: &Node, listener: Listener) -> u16 {
        match (&self.proxy, listener) {
            (Some(proxy), Listener::Proxied) => proxy.ports()[node.id - 1],
            _ => node.ports[&listener],
        }
    }

    fn node(&self, id: usize) -> Result<&Node> {
        self.nodes.iter().find(|node| node.id == id).ok_or_else(|| anyhow!("there is no broker {id}"))
    }

    // ── Settings ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// What brokers load beside Kafka's jars.
    fn classes(&self) -> PathBuf {
        self.folder.join("classes")
    }

    fn properties_file(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("broker-{}.properties", node.id))
    }

    fn properties(&self, node: &Node) -> String {
        let mut settings = self.common_settings(node);
        match self.mode {
            Mode::ZooKeeper => settings.extend(pairs(&format!(
                "broker.id={}
                zookeeper.connect=127.0.0.1:{}
                zookeeper.session.timeout.ms=6000",
                node.id, self.zookeeper_port
            ))),
            Mode::KRaft => {
                let voters: Vec<_> =
                    self.nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller_port)).collect();
                settings.extend(pairs(&format!(
                    "process.roles=broker,controller
                    node.id={}
                    controller.listener.names=CONTROLLER
                    controller.quorum.voters={}",
                    node.id,
                    voters.join(",")
                )));
            }
        }
        if let Some(certificates) = &self.certificates {
            settings.extend(pairs(&format!(
                "ssl.keystore.type=PEM
                ssl.keystore.location={}
                ssl.truststore.type=PEM
                ssl.truststore.location={}
                ssl.client.auth=none
                listener.name.mtls.ssl.client.auth=required
                listener.name.mtls.ssl.principal.mapping.rules=RULE:^CN=([a-zA-Z0-9]*).*$/$1/,DEFAULT
                sasl.enabled.mechanisms=SCRAM-SHA-512
                listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
                certificates.broker_file.display(),
                certificates.ca_file.display()
            )));
        }
        if self.spec.iam {
            // Sessions of MSK end with their token, after 15 minutes at most: here soon enough to be waited for.
            settings.extend(pairs(
                "listener.name.iam.sasl.enabled.mechanisms=OAUTHBEARER
                listener.name.iam.oauthbearer.sasl.server.callback.handler.class=IamTokens
                listener.name.iam.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
                listener.name.iam.oauthbearer.connections.max.reauth.ms=3000",
            ));
        }
        if self.spec.authorizer {
            let class = match self.mode {
                Mode::ZooKeeper => "kafka.security.authorizer.AclAuthorizer",
                Mode::KRaft => "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            };
            settings.extend(pairs(&format!(
                "authorizer.class.name={class}
                super.users=User:ANONYMOUS;User:{}
                allow.everyone.if.no.acl.found=false",
                KROSSING.name
            )));
        }
        settings.extend(self.spec.settings.iter().cloned());
        settings.iter().fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}={value}").expect("a string takes everything");
            text
        })
    }

    fn common_settings(&self, node: &Node) -> BTreeMap<String, String> {
        let listeners = |port: &dyn Fn(Listener) -> u16| {
            let each = |&listener: &Listener| format!("{}://127.0.0.1:{}", listener.name(), port(listener));
            node.ports.keys().map(each).collect::<Vec<_>>().join(",")
        };
        let own = listeners(&|listener| node.ports[&listener]);
        let advertised = listeners(&|listener| self.advertised_port(node, listener));
        let controller = match self.mode {
            Mode::ZooKeeper => String::new(),
            Mode::KRaft => format!(",CONTROLLER://127.0.0.1:{}", node.controller_port),
        };
        let (replicas, in_sync) = if self.nodes.len() < 3 { (1, 1) } else { (3, 2) };
        // The cleaner and retention look every second, so that a test sees within seconds what production does to old
        // data within minutes; coordinators' topics are few and groups form at once.
        pairs(&format!(
            "listeners={own}{controller}
            advertised.listeners={advertised}
            listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MTLS:SSL,PROXIED:PLAINTEXT,IAM:SASL_SSL
            inter.broker.listener.name=PLAINTEXT
            log.dirs={data}
            broker.rack=rack-{id}
            auto.create.topics.enable=false
            default.replication.factor={replicas}
            min.insync.replicas={in_sync}
            offsets.topic.replication.factor={replicas}
            offsets.topic.num.partitions=8
            transaction.state.log.replication.factor={replicas}
            transaction.state.log.min.isr={in_sync}
            transaction.state.log.num.partitions=4
            group.initial.rebalance.delay.ms=0
            log.cleaner.backoff.ms=500
            log.cleaner.dedupe.buffer.size=16777216
            log.retention.check.interval.ms=1000
            log.initial.task.delay.ms=500
            log.segment.delete.delay.ms=1000",
            data = self.data_folder(node.id).display(),
            id = node.id,
        ))
    }

    // ── Processes ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn spawn_zookeeper(&self) -> Result<()> {
        let properties = self.folder.join("zookeeper.properties");
        let settings = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\ntickTime=1000\n",
            self.folder.join("data/zookeeper").display(),
            self.zookeeper_port
        );
        std::fs::write(&properties, settings)?;
        let class = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        let mut command = java(Version::V3_9, 128, "warn", class);
        command.arg(properties);
        let process = self.lab.processes.spawn(command, &self.folder.join("zookeeper.log"))?;
        *self.zookeeper.lock().expect("no panic while held") = Some(process);
        Ok(())
    }

    fn spawn_node(&self, node: &Node) -> Result<()> {
        let mut command = java_with(self.spec.version, &[self.classes()], self.spec.heap_mb, "info", "kafka.Kafka");
        command.arg(self.properties_file(node));
        let process = self.lab.processes.spawn(command, &self.broker_log(node.id))?;
        *node.process.lock().expect("no panic while held") = Some(process);
        Ok(())
    }

    /// Formats the first node's folder with Kafka's tool, and makes the others' from it: they differ in two lines, and
    /// each run of the tool costs a JVM.
    async fn format(&self) -> Result<()> {
        let first = &self.nodes[0];
        let (config, id) = (self.properties_file(first), random_id());
        let users = USERS.map(|user| format!("SCRAM-SHA-512=[name={},password={}]", user.name, user.password));
        let config = config.to_string_lossy();
        let mut arguments = vec!["format", "-t", &id, "-c", &config];
        if self.spec.security == Security::Tls {
            arguments.extend(users.iter().flat_map(|user| ["--add-scram", user]));
        }
        tools::run(self.spec.version, "kafka.tools.StorageTool", &arguments).await?;
        for node in &self.nodes[1..] {
            let folder = self.data_folder(node.id);
            std::fs::create_dir_all(&folder)?;
            for file in std::fs::read_dir(self.data_folder(first.id))? {
                let file = file?;
                let target = folder.join(file.file_name());
                if file.file_name() == "meta.properties" {
                    let lines: Vec<_> = std::fs::read_to_string(file.path())?
                        .lines()
                        .map(|line| match line.split_once('=') {
                            Some(("node.id", _)) => format!("node.id={}", node.id),
                            Some(("directory.id", _)) => format!("directory.id={}", random_id()),
                            _ => line.to_owned(),
                        })
                        .collect();
                    std::fs::write(target, lines.join("\n"))?;
                } else {
                    std::fs::copy(file.path(), target)?;
                }
            }
        }
        Ok(())
    }

    async fn add_scram_user_in_zookeeper(&self, user: User) -> Result<()> {
        let zookeeper = format!("127.0.0.1:{}", self.zookeeper_port);
        let password = format!("SCRAM-SHA-512=[iterations=4096,password={}]", user.password);
        let arguments = ["--zookeeper", &zookeeper, "--alter", "--add-config", &password];
        let whom = ["--entity-type", "users", "--entity-name", user.name];
        tools::run(Version::V3_9, "kafka.admin.ConfigCommand", &[&arguments[..], &whom].concat()).await?;
        Ok(())
    }

    // ── Waiting until it answers ───────────────────────────────────────────────────────────────────────────────────

    /// Waits until each running broker answers on each listener that the cluster has `count` brokers.
    async fn until_ready(&self, count: usize) -> Result<()> {
        let all = async {
            for node in self.nodes.iter().filter(|node| node.runs()) {
                for (&listener, &port) in &node.ports {
                    self.until_accepting(port).await?;
                    if listener == Listener::Iam {
                        continue;
                    }
                    self.until_counting(node, listener, count).await?;
                }
            }
            Ok(())
        };
        match tokio::time::timeout(START_WAIT_MAX, all).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.check_alive()?;
                bail!("the cluster did not answer within {START_WAIT_MAX:?}; its logs are in {}", self.folder.display())
            }
        }
    }

    async fn until_accepting(&self, port: u16) -> Result<()> {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            self.check_alive()?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn until_counting(&self, node: &Node, listener: Listener, count: usize) -> Result<()> {
        let mut config = self.client_by(listener, KROSSING);
        config.set("bootstrap.servers", format!("127.0.0.1:{}", node.ports[&listener]));
        let consumer: Arc<BaseConsumer> = Arc::new(config.create()?);
        loop {
            let asked = consumer.clone();
            let answer =
                tokio::task::spawn_blocking(move || asked.fetch_metadata(None, Duration::from_secs(1))).await?;
            if answer.is_ok_and(|metadata| metadata.brokers().len() == count) {
                return Ok(());
            }
            self.check_alive()?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error with the end of its log where a process has ended.
    fn check_alive(&self) -> Result<()> {
        let processes = self.nodes.iter().map(|node| &node.process).chain([&self.zookeeper]);
        for process in processes {
            if let Some(process) = process.lock().expect("no panic while held").as_mut()
                && let Some(status) = process.ended()?
            {
                bail!("process {} has ended ({status}):\n{}", process.id(), process.log_tail());
            }
        }
        Ok(())
    }
}

impl Node {
    fn take(&self) -> Option<Process> {
        self.process.lock().expect("no panic while held").take()
    }

    fn runs(&self) -> bool {
        self.process.lock().expect("no panic while held").is_some()
    }
}

fn pairs(lines: &str) -> BTreeMap<String, String> {
    lines
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Ports that nobody listens on, below 32768 where Linux begins to number outgoing connections.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..100 * count {
        if held.len() == count {
            break;
        }
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", rand::rng().random_range(12_000..32_000))) {
            held.push(listener);
        }
    }
    ensure!(held.len() == count, "no free ports");
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// 16 random bytes as Kafka writes ids: 22 characters of URL-safe base64, the last of which has only two bits.
fn random_id() -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    let mut id: String = (0..21).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
    id.push('A');
    id
}
