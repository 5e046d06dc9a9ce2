//! From a configuration to a migration: clusters by `wire`, the second client by `witness`, ledger and objects in
//! folders or on AWS.
//!
//! The two clients share no type, so that what is configured is mapped twice here, and only here. An error names the
//! field to put right; a secret is exposed to the client that needs it and to nothing else.
//!
//! Invariant: nothing is written to a cluster. Whoever cannot go on without both clusters calls [`reach`]; precheck does
//! not, and finds what cannot be reached together with all else.

use std::{
    convert::Infallible,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use krossing_aws::{
    Aws, BucketOptions, DynamoLedger, IamTokens, KmsSigner, MskApi, Retention, S3Objects, read_secrets,
};
use krossing_core::{
    MigrationId, Side,
    config::{
        Auth, ClusterConfig, Config, FreezeConfig, Identity, KeyStore, Place, Problem, Secrets, SigningKey, Trust,
    },
    journal::{Actor, KnownBy},
    limits::CALL_RETRY_MAX,
    msk::{mode_name, region_of},
    ports::{Clock, ClusterError, FreezeError, MskError, PortSet, Ports, StoreError},
};
use krossing_local::{LocalLedger, LocalObjects, SigningKeyFile};
use krossing_wire::{WireCluster, WireConfig};
use krossing_witness::{WitnessCluster, WitnessConfig};

use crate::{
    AnyLedger, AnyObjects, AnySigner, BoxedMsk, Freeze, FreezeBy, Migration, SystemClock, TerminalFreeze,
    WebhookFreeze,
    key_store::{KeyStoreProblem, OpenKeyStore},
    lock::Say,
    tokens::Tokens,
};

/// Where the signing key is by default, below the home folder.
const SIGNING_KEY: &str = ".config/krossing/signing-key.pem";

/// What a process works on, where nothing is a fake.
#[derive(Debug)]
pub enum Real {}

impl Ports for Real {
    type Source = WireCluster;
    type Target = WireCluster;
    type SourceWitness = WitnessCluster;
    type TargetWitness = WitnessCluster;
    type Ledger = AnyLedger;
    type Objects = AnyObjects;
    type Clock = SystemClock;
    type Freeze = Freeze;
    type Signer = AnySigner;
    type Msk = BoxedMsk;
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What it says is not possible; all of it.
    #[error("the configuration {} has {} problem(s):\n{}", path.display(), problems.len(), lines(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// Each with its line.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

/// Why a configuration is not yet a migration.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file that the configuration names cannot be read.
    #[error("{field}: could not read {}", path.display())]
    File {
        /// The field that names it.
        field: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A key store cannot be used.
    #[error("{field}: {} cannot be used: {problem}", path.display())]
    KeyStore {
        /// The field that names it.
        field: String,
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        problem: KeyStoreProblem,
    },
    /// One cluster, or both, cannot be reached; every cluster that cannot is named.
    #[error("{}", clusters(failures))]
    Clusters {
        /// Which, and why.
        failures: Vec<(Side, ClusterError)>,
    },
    /// MSK does not name brokers to begin with.
    #[error("{side}.bootstrap_servers: it is missing, and MSK gives none by {side}.cluster_arn: {problem}")]
    Brokers {
        /// Of which cluster.
        side: Side,
        /// Why, and what to do.
        problem: String,
        /// Whether it did not answer at all, so that it may later.
        may_pass: bool,
    },
    /// A folder cannot be used.
    #[error("{field}: {} cannot be used", path.display())]
    Folder {
        /// The field that names it.
        field: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: StoreError,
    },
    /// Two places for one journal.
    #[error("--journal-dir: ledger.dynamodb_table is given as well; give one of the two")]
    TwoLedgers,
    /// No place for it.
    #[error(
        "ledger.dynamodb_table: it is missing, and the evidence is in a bucket, which keeps no journal: give the table, \
         or a folder with --journal-dir"
    )]
    NoLedger,
    /// Nobody says where the signing key is.
    #[error(
        "evidence.signing_key_file: give it or evidence.kms_key_id, for there is no home folder (HOME is not set) to keep the key in"
    )]
    NoSigningKey,
    /// The webhook cannot be called.
    #[error("cutover.producer_freeze_webhook cannot be used")]
    Webhook(#[source] FreezeError),
}

fn clusters(failures: &[(Side, ClusterError)]) -> String {
    let say = |(side, error): &(Side, ClusterError)| {
        format!("{side}: {error} (see {side}.bootstrap_servers, {side}.auth and {side}.tls)")
    };
    failures.iter().map(say).collect::<Vec<_>>().join("; ")
}

/// What becomes of the secrets that a configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedSecrets {
    /// They are asked for, where there are any.
    Read,
    /// Nobody logs in anywhere with them: no right to read them is needed.
    LeftAlone,
}

/// Reads the configuration from a file.
pub async fn read_config(path: &Path, secrets: NamedSecrets) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let parsed = parse_config(&text, secrets).await;
    parsed.map_err(|problems| ConfigError::Problems { path: path.to_owned(), problems })
}

/// Reads the configuration, with `${NAME}` from the environment and `${secretsmanager:NAME:KEY}` from AWS.
async fn parse_config(text: &str, secrets: NamedSecrets) -> Result<Config, Vec<Problem>> {
    let env = |name: &str| std::env::var(name).ok();
    if secrets == NamedSecrets::LeftAlone {
        return Config::parse_without_secrets(text, env);
    }
    let wanted = Config::wanted(text, env);
    let secrets = match wanted.secrets.is_empty() {
        true => Secrets::new(),
        // Boxed as in `stores`: the SDK's futures are large.
        false => Box::pin(read_secrets(&Aws::load(wanted.region.as_deref()).await, &wanted.secrets)).await,
    };
    Config::parse_with(text, env, &secrets)
}

/// A variable that whoever starts this process sets; none where it is not set, or is no text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration of a process that has no file: the text in `KROSSING_CONFIG`.
pub async fn config_from_environment(secrets: NamedSecrets) -> Result<Config, ConfigError> {
    let path = || PathBuf::from("KROSSING_CONFIG");
    let text = std::env::var("KROSSING_CONFIG").map_err(|error| ConfigError::Unreadable {
        path: path(),
        source: std::io::Error::new(std::io::ErrorKind::NotFound, error),
    })?;
    let parsed = parse_config(&text, secrets).await;
    parsed.map_err(|problems| ConfigError::Problems { path: path(), problems })
}

/// Where journal, leases and checkpoints of a migration are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerPlace {
    /// In this folder, which is the migration's own.
    Folder(PathBuf),
    /// In this DynamoDB table, beside those of other migrations.
    Table(String),
}

impl LedgerPlace {
    /// As the configuration and `--journal-dir` say; by default beside the evidence.
    pub fn of(config: &Config, journal_dir: Option<&Path>, id: &MigrationId) -> Result<Self, ConnectError> {
        match (journal_dir, &config.ledger.dynamodb_table, config.evidence.place.folder()) {
            (Some(_), Some(_), _) => Err(ConnectError::TwoLedgers),
            (None, Some(table), _) => Ok(LedgerPlace::Table(table.clone())),
            (Some(folder), None, _) | (None, None, Some(folder)) => Ok(LedgerPlace::Folder(folder.join(id.as_str()))),
            (None, None, None) => Err(ConnectError::NoLedger),
        }
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            LedgerPlace::Folder(folder) => Some(folder),
            LedgerPlace::Table(_) => None,
        }
    }
}

impl fmt::Display for LedgerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerPlace::Folder(folder) => folder.display().fmt(f),
            LedgerPlace::Table(table) => write!(f, "the DynamoDB table {table}"),
        }
    }
}

/// A new migration's id: when it was begun, and four digits against two at the same minute.
pub fn new_migration_id() -> MigrationId {
    let begun = Timestamp::from_millisecond(SystemClock.unix_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
    let digits = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("m-{}-{}", begun.strftime("%Y%m%d-%H%M"), &digits[..4]);
    id.parse().expect("letters, digits and hyphens are allowed")
}

/// Names this process in leases: host, process, and when it began.
pub fn owner() -> String {
    format!("{}:{}:{}", host(), std::process::id(), SystemClock.unix_ms())
}

fn host() -> String {
    whoami::hostname().unwrap_or_else(|_| "localhost".to_owned())
}

/// Who runs this process: the user that the system knows, and behind `sudo` the one who asked for it.
pub fn actor() -> Actor {
    let (user, known_by) = match whoami::username() {
        Ok(user) => (user, KnownBy::OperatingSystem),
        Err(_) => ("an unknown user".to_owned(), KnownBy::Nobody),
    };
    let asked_by = std::env::var("SUDO_USER").map(|name| format!(" for {name}")).unwrap_or_default();
    Actor { who: format!("{user}@{}{asked_by}", host()), known_by }
}

/// Asks both clusters for an answer; every one that gives none is named. What is waited for is said.
pub async fn reach(migration: &Migration<Real>, say: Say) -> Result<(), ConnectError> {
    let reached = async { tokio::join!(migration.source.reach(), migration.target.reach()) };
    let (source, target) = saying_what_is_waited_for(migration, CALL_RETRY_MAX, say, reached).await;
    let mut failures = Vec::new();
    of(Side::Source, source, &mut failures);
    of(Side::Target, target, &mut failures);
    if failures.is_empty() { Ok(()) } else { Err(ConnectError::Clusters { failures }) }
}

/// Asks both clusters for an answer for as long as somebody who only wants to know waits; says which give none, and why.
pub async fn reach_to_look(migration: &Migration<Real>, say: Say) -> Vec<(Side, String)> {
    let look = async |side, cluster: &WireCluster| {
        tokio::select! {
            reached = cluster.reach() => reached.err().map(|error| (side, error.to_string())),
            () = migration.clock.sleep(LOOK_WAIT_MAX) => {
                let servers = servers(migration, side);
                Some((side, format!("{servers} gave no answer for {} s", LOOK_WAIT_MAX.as_secs())))
            }
        }
    };
    let looked = async { tokio::join!(look(Side::Source, &migration.source), look(Side::Target, &migration.target)) };
    let (source, target) = saying_what_is_waited_for(migration, LOOK_WAIT_MAX, say, looked).await;
    source.into_iter().chain(target).collect()
}

/// Does something that may first have to wait for brokers, and says of each cluster that it is waited for, unless it
/// answers within a second: half a minute of silence looks like a command that hangs.
pub async fn saying_what_is_waited_for<T>(
    migration: &Migration<Real>,
    wait_max: Duration,
    say: Say,
    doing: impl Future<Output = T>,
) -> T {
    let notice = async |side, cluster: &WireCluster| {
        tokio::select! {
            _ = cluster.reach() => {}
            () = migration.clock.sleep(CONNECTING_SILENT) => {
                say(&format!("connecting to {side} {} for up to {} s", servers(migration, side), wait_max.as_secs()));
            }
        }
    };
    let notices = async {
        tokio::join!(notice(Side::Source, &migration.source), notice(Side::Target, &migration.target));
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        done = doing => done,
        never = notices => match never {},
    }
}

/// How long a cluster may be silent before it is said that it is waited for.
const CONNECTING_SILENT: Duration = Duration::from_secs(1);

/// How long somebody who only wants to know where a migration stands waits for a cluster. Longer: the answer, most of
/// which is in the ledger, is late. Shorter: a cluster that is slow to answer is told as one that cannot be reached.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(10);

fn servers(migration: &Migration<Real>, side: Side) -> String {
    let cluster = match side {
        Side::Source => &migration.config.source,
        Side::Target => &migration.config.target,
    };
    cluster.bootstrap_servers.join(",")
}

/// Opens the folders, and what is needed to reach both clusters and AWS; none of them has been asked anything yet.
pub async fn connect(config: Config, id: MigrationId, place: &LedgerPlace) -> Result<Migration<Real>, ConnectError> {
    let (config, msk) = with_brokers(config).await?;
    open(config, msk, id, place).await
}

/// As [`connect`], for whoever only looks: a cluster of which MSK names no broker any more is answered with why, and
/// cannot be reached. What is in the ledger can be read without it.
pub async fn connect_to_look(
    config: Config,
    id: MigrationId,
    place: &LedgerPlace,
) -> Result<(Migration<Real>, Vec<(Side, String)>), ConnectError> {
    let (mut unnamed, mut config) = (Vec::new(), config);
    let (known, msk) = loop {
        match with_brokers(config.clone()).await {
            Ok(known) => break known,
            Err(ConnectError::Brokers { side, problem, .. }) => {
                let cluster = match side {
                    Side::Source => &mut config.source,
                    Side::Target => &mut config.target,
                };
                cluster.bootstrap_servers = vec![NO_BROKER.to_owned()];
                unnamed.push((side, problem));
            }
            Err(error) => return Err(error),
        }
    };
    Ok((open(known, msk, id, place).await?, unnamed))
}

/// As [`connect`], for whoever asks neither cluster anything: MSK is not asked for brokers either.
pub async fn connect_to_ledger(
    mut config: Config,
    id: MigrationId,
    place: &LedgerPlace,
) -> Result<Migration<Real>, ConnectError> {
    for cluster in [&mut config.source, &mut config.target] {
        if cluster.bootstrap_servers.is_empty() {
            cluster.bootstrap_servers = vec![NO_BROKER.to_owned()];
        }
    }
    let msk = MskApi::new(config.aws.region.as_deref(), None, None);
    open(config, BoxedMsk(msk), id, place).await
}

/// Stands for a broker that nobody knows: no name below `.invalid` ever has an address (RFC 2606).
const NO_BROKER: &str = "no-broker-is-known.invalid:9092";

async fn open(
    config: Config,
    msk: BoxedMsk,
    id: MigrationId,
    place: &LedgerPlace,
) -> Result<Migration<Real>, ConnectError> {
    let (source_secrets, target_secrets) = (Pem::read("source", &config.source)?, Pem::read("target", &config.target)?);
    let freeze = freeze(&config.cutover.freeze, &id)?;
    let stores = Stores::of(&config, place).await;
    let source_login = Login { pem: source_secrets, tokens: stores.tokens(Side::Source, &config.source) };
    let target_login = Login { pem: target_secrets, tokens: stores.tokens(Side::Target, &config.target) };
    let source = WireCluster::new(wire_config(Side::Source, &config.source, &source_login));
    let target = WireCluster::new(wire_config(Side::Target, &config.target, &target_login));
    let source_witness = WitnessCluster::connect(witness_config(Side::Source, &config.source, &source_login));
    let target_witness = WitnessCluster::connect(witness_config(Side::Target, &config.target, &target_login));
    let mut failures = Vec::new();
    let source = of(Side::Source, source, &mut failures);
    let target = of(Side::Target, target, &mut failures);
    let source_witness = of(Side::Source, source_witness, &mut failures);
    let target_witness = of(Side::Target, target_witness, &mut failures);
    let (Some(source), Some(target), Some(source_witness), Some(target_witness)) =
        (source, target, source_witness, target_witness)
    else {
        return Err(ConnectError::Clusters { failures });
    };
    let segments = stores.objects("backup.directory", &config.backup.place, Retention::None)?;
    let retention = Retention::Compliance(config.evidence.retention);
    let objects = stores.objects("evidence.directory", &config.evidence.place, retention)?;
    let ledger = stores.ledger(place, &id)?;
    let signer = stores.signer(&config.evidence.signing_key)?;
    let ports = PortSet {
        source,
        target,
        source_witness,
        target_witness,
        ledger,
        segments,
        evidence: objects,
        clock: SystemClock,
        freeze,
        signer,
        msk,
    };
    Ok(Migration { id, config, by: actor(), role_per_phase: false, ports })
}

/// The configuration with brokers for each cluster, asked of MSK where none are given.
async fn with_brokers(mut config: Config) -> Result<(Config, BoxedMsk), ConnectError> {
    let arn = |cluster: &ClusterConfig| cluster.cluster_arn.clone();
    let (source, target) = (arn(&config.source), arn(&config.target));
    let msk = MskApi::new(config.aws.region.as_deref(), source.as_deref(), target.as_deref());
    for (side, cluster) in [(Side::Source, &mut config.source), (Side::Target, &mut config.target)] {
        if cluster.bootstrap_servers.is_empty() {
            let told = Box::pin(msk.brokers(side)).await.map_err(|error| ConnectError::Brokers {
                side,
                problem: error.to_string(),
                may_pass: matches!(error, MskError::NotAsked { .. }),
            })?;
            let servers = told.and_then(|told| told.of(&cluster.auth, cluster.tls.is_some()));
            cluster.bootstrap_servers = servers.ok_or_else(|| {
                let mode = mode_name(&cluster.auth);
                let problem =
                    format!("it has none for auth.mode {mode}; enable that on the cluster, or change auth.mode");
                ConnectError::Brokers { side, problem, may_pass: false }
            })?;
        }
    }
    Ok((config, BoxedMsk(msk)))
}

/// Opens ledger and objects.
struct Stores {
    /// Loaded where something is on AWS only: looking for credentials takes a moment, and may ask the network.
    aws: Option<Aws>,
    path_style: bool,
}

impl Stores {
    async fn of(config: &Config, place: &LedgerPlace) -> Self {
        let in_folders = [&config.backup.place, &config.evidence.place].iter().all(|place| place.folder().is_some());
        let key_in_file = !matches!(config.evidence.signing_key, SigningKey::Kms(_));
        let without_iam = [&config.source, &config.target].iter().all(|cluster| cluster.auth != Auth::Iam);
        let aws = match in_folders && key_in_file && without_iam && place.folder().is_some() {
            true => None,
            false => Some(Aws::load(config.aws.region.as_deref()).await),
        };
        Self { aws, path_style: config.aws.s3_path_style }
    }

    fn objects(&self, field: &'static str, place: &Place, retention: Retention) -> Result<AnyObjects, ConnectError> {
        match (place, &self.aws) {
            (Place::Folder(path), _) => {
                let opened = LocalObjects::open(path.clone());
                let error = |source| ConnectError::Folder { field, path: path.clone(), source };
                Ok(AnyObjects::Folder(opened.map_err(error)?))
            }
            (Place::Bucket(bucket), Some(aws)) => {
                let objects = |retention| {
                    let options = BucketOptions {
                        bucket: bucket.name.clone(),
                        prefix: bucket.prefix.clone(),
                        kms_key: bucket.kms_key_id.clone(),
                        path_style: self.path_style,
                        retention,
                    };
                    S3Objects::new(aws, options, SystemClock)
                };
                Ok(AnyObjects::Bucket { objects: objects(Retention::None), signed: objects(retention) })
            }
            (Place::Bucket(_), None) => unreachable!("a bucket is what AWS is loaded for"),
        }
    }

    fn ledger(&self, place: &LedgerPlace, id: &MigrationId) -> Result<AnyLedger, ConnectError> {
        match (place, &self.aws) {
            (LedgerPlace::Folder(path), _) => {
                let error = |source| ConnectError::Folder {
                    field: "--journal-dir or evidence.directory",
                    path: path.clone(),
                    source,
                };
                Ok(AnyLedger::Folder(LocalLedger::open(path.clone()).map_err(error)?))
            }
            (LedgerPlace::Table(table), Some(aws)) => Ok(AnyLedger::Table(DynamoLedger::new(aws, table, id))),
            (LedgerPlace::Table(_), None) => unreachable!("a table is what AWS is loaded for"),
        }
    }

    /// Where tokens come from, where a cluster is logged in to with IAM.
    fn tokens(&self, side: Side, cluster: &ClusterConfig) -> Option<Tokens> {
        let region = region_of(cluster.cluster_arn.as_deref(), &cluster.bootstrap_servers);
        match (&cluster.auth, &self.aws) {
            (Auth::Iam, Some(aws)) => Some(Tokens::new(IamTokens::new(aws, region, &format!("{side}.auth.mode")))),
            (Auth::Iam, None) => unreachable!("IAM is what AWS is loaded for"),
            (Auth::None | Auth::ScramSha512 { .. } | Auth::Mtls(_), _) => None,
        }
    }

    fn signer(&self, key: &SigningKey) -> Result<AnySigner, ConnectError> {
        let file = |path| AnySigner::File(SigningKeyFile::new(path));
        Ok(match (key, &self.aws) {
            (SigningKey::File(path), _) => file(path.clone()),
            (SigningKey::DefaultFile, _) => file(default_signing_key()?),
            (SigningKey::Kms(key), Some(aws)) => AnySigner::Kms(KmsSigner::new(aws, key)),
            (SigningKey::Kms(_), None) => unreachable!("a key in KMS is what AWS is loaded for"),
        })
    }
}

/// Not beside the evidence: who may read what was signed must not be able to sign.
fn default_signing_key() -> Result<PathBuf, ConnectError> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(SIGNING_KEY)).ok_or(ConnectError::NoSigningKey)
}

/// Removes a migration's folder if nothing was ever journaled there: what only looks, or is refused, leaves none behind.
pub fn remove_if_unused(place: &LedgerPlace) {
    let Some(folder) = place.folder() else { return };
    // A folder that is not empty cannot be removed, and is the answer to whether it was used.
    for unused in [folder.join("documents"), folder.join("progress"), folder.to_owned()] {
        if let Err(error) = fs::remove_dir(&unused) {
            tracing::debug!(folder = %unused.display(), %error, "the folder stays");
        }
    }
}

fn freeze(config: &FreezeConfig, id: &MigrationId) -> Result<Freeze, ConnectError> {
    let by = match config {
        FreezeConfig::Confirmation => FreezeBy::Terminal(TerminalFreeze::new(id.clone())),
        FreezeConfig::Webhook { url, secret } => {
            let secret = secret.as_ref().map(|secret| secret.expose().to_owned());
            FreezeBy::Webhook(WebhookFreeze::new(url, secret, id.clone()).map_err(ConnectError::Webhook)?)
        }
    };
    Ok(by.into())
}

fn of<T>(side: Side, reached: Result<T, ClusterError>, failures: &mut Vec<(Side, ClusterError)>) -> Option<T> {
    match reached {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            // The second client of a cluster that cannot be reached says nothing new.
            if failures.iter().all(|(failed, _)| *failed != side) {
                failures.push((side, error));
            }
            None
        }
    }
}

/// Certificates and keys, as they stand in their files. Never printed.
#[derive(Default)]
struct Pem {
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Pem {
    fn read(side: &str, cluster: &ClusterConfig) -> Result<Self, ConnectError> {
        let read = |name: &str, path: &Path| {
            fs::read_to_string(path).map_err(|source| ConnectError::File {
                field: format!("{side}.{name}"),
                path: path.to_owned(),
                source,
            })
        };
        let ca = match cluster.tls.as_ref().map(|tls| &tls.trust) {
            Some(Trust::Pem(path)) => Some(read("tls.ca_file", path)?),
            Some(Trust::KeyStore(store)) => {
                Some(with_store(format!("{side}.auth.truststore"), store, |opened| opened.trusted())?)
            }
            Some(Trust::System) | None => None,
        };
        let (cert, key) = match &cluster.auth {
            Auth::Mtls(Identity::Pem { cert_file, key_file }) => {
                (Some(read("auth.cert_file", cert_file)?), Some(read("auth.key_file", key_file)?))
            }
            Auth::Mtls(Identity::KeyStore { store, key_password }) => {
                let password = key_password.as_ref().unwrap_or(&store.password);
                let field = format!("{side}.auth.keystore");
                let (cert, key) = with_store(field, store, |opened| opened.identity(password))?;
                (Some(cert), Some(key))
            }
            Auth::None | Auth::ScramSha512 { .. } | Auth::Iam => (None, None),
        };
        Ok(Self { ca, cert, key })
    }
}

/// What logging in to a cluster needs that is not in the configuration.
#[derive(Default)]
struct Login {
    pem: Pem,
    /// Where `auth.mode` is iam.
    tokens: Option<Tokens>,
}

/// Takes something out of a key store.
fn with_store<T>(
    field: String,
    store: &KeyStore,
    take: impl FnOnce(OpenKeyStore) -> Result<T, KeyStoreProblem>,
) -> Result<T, ConnectError> {
    let path = store.file.clone();
    match fs::read(&path) {
        Ok(content) => OpenKeyStore::open(&content, &store.password)
            .and_then(take)
            .map_err(|problem| ConnectError::KeyStore { field, path, problem }),
        Err(source) => Err(ConnectError::File { field, path, source }),
    }
}

fn wire_config(side: Side, cluster: &ClusterConfig, login: &Login) -> WireConfig {
    let Login { pem, tokens } = login;
    let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
    let tls = cluster.tls.as_ref().map(|_| krossing_wire::TlsConfig {
        ca_pem: bytes(&pem.ca),
        cert_pem: bytes(&pem.cert),
        key_pem: bytes(&pem.key),
    });
    let sasl = match &cluster.auth {
        Auth::ScramSha512 { username, password } => Some(krossing_wire::Sasl::ScramSha512 {
            username: username.clone(),
            password: password.expose().to_owned(),
        }),
        Auth::Iam => tokens.clone().map(|tokens| krossing_wire::Sasl::OAuthBearer(Arc::new(tokens))),
        Auth::None | Auth::Mtls(_) => None,
    };
    WireConfig {
        side,
        bootstrap: cluster.bootstrap_servers.clone(),
        security: krossing_wire::Security { tls, sasl },
        client_id: "krossing".to_owned(),
    }
}

fn witness_config(side: Side, cluster: &ClusterConfig, login: &Login) -> WitnessConfig {
    let Login { pem, tokens } = login;
    let tls = cluster.tls.as_ref().map(|_| krossing_witness::Tls {
        ca_pem: pem.ca.clone(),
        cert_pem: pem.cert.clone(),
        key_pem: pem.key.clone(),
    });
    let sasl = match &cluster.auth {
        Auth::ScramSha512 { username, password } => Some(krossing_witness::Sasl::Password {
            mechanism: krossing_witness::SaslMechanism::ScramSha512,
            username: username.clone(),
            password: password.expose().to_owned(),
        }),
        Auth::Iam => tokens.clone().map(|tokens| krossing_witness::Sasl::OAuthBearer(Arc::new(tokens))),
        Auth::None | Auth::Mtls(_) => None,
    };
    WitnessConfig {
        side,
        bootstrap: cluster.bootstrap_servers.clone(),
        security: krossing_witness::Security { tls, sasl },
    }
}

#[cfg(test)]
mod tests {
    use krossing_core::config::{Secret, Tls};

    use super::*;

    fn cluster(auth: Auth, tls: Option<Tls>) -> ClusterConfig {
        ClusterConfig { bootstrap_servers: vec!["127.0.0.1:1".to_owned()], cluster_arn: None, auth, tls }
    }

    #[test]
    fn a_file_that_is_missing_is_named_with_its_field() {
        let tls = Tls { trust: Trust::Pem("/nowhere/ca.pem".into()) };
        let error = Pem::read("target", &cluster(Auth::None, Some(tls))).err().expect("there is no such file");
        assert_eq!(error.to_string(), "target.tls.ca_file: could not read /nowhere/ca.pem");
    }

    #[test]
    fn a_password_reaches_both_clients_and_no_debug_output() {
        let auth = Auth::ScramSha512 { username: "alice".to_owned(), password: Secret::new("hunter2") };
        let cluster = cluster(auth, Some(Tls { trust: Trust::System }));
        let wire = wire_config(Side::Source, &cluster, &Login::default());
        let witness = witness_config(Side::Source, &cluster, &Login::default());
        assert!(matches!(
            &witness.security.sasl,
            Some(krossing_witness::Sasl::Password { password, .. }) if password == "hunter2"
        ));
        assert!(
            matches!(&wire.security.sasl, Some(krossing_wire::Sasl::ScramSha512 { password, .. }) if password == "hunter2")
        );
        assert!(wire.security.tls.is_some() && witness.security.tls.is_some());
        let shown = format!("{cluster:?} {wire:?} {witness:?}");
        assert!(shown.contains("alice") && !shown.contains("hunter2"), "{shown}");
    }

    #[tokio::test]
    async fn every_problem_of_a_configuration_is_shown_with_its_line() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("m.yaml");
        fs::write(&path, "migration:\n  sorce: {}\n  seed: {lanes: 0}\n").expect("the file can be written");
        let shown = read_config(&path, NamedSecrets::Read).await.expect_err("it is wrong").to_string();
        for expected in ["line 2: ", "line 3: ", "source.bootstrap_servers", "backup.directory"] {
            assert!(shown.contains(expected), "{expected} is missing in {shown}");
        }
    }

    #[test]
    fn ids_are_made_of_time_and_chance() {
        let id = new_migration_id();
        assert_eq!(id.as_str().len(), "m-20261121-1530-ab12".len(), "{id}");
        assert!(id.as_str().starts_with("m-20"), "{id}");
    }
}
