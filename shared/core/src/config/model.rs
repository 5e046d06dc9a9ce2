//! What a file becomes.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{cutover::MarkerKind, plan::Selection};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text that is not to be shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// A configuration that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The cluster to copy from.
    pub source: ClusterConfig,
    /// The cluster to copy to.
    pub target: ClusterConfig,
    /// Where segments are.
    pub backup: BackupConfig,
    /// Where plan, offset map and reports are.
    pub evidence: EvidenceConfig,
    /// Where journal, leases and checkpoints are.
    pub ledger: LedgerConfig,
    /// How AWS is spoken to.
    pub aws: AwsConfig,
    /// Which topics.
    pub topics: Selection,
    /// How the seed runs.
    pub seed: SeedConfig,
    /// What to do about topics that differ.
    pub topology: TopologyConfig,
    /// What to do about access rules that differ.
    pub acl: AclConfig,
    /// How the cutover runs.
    pub cutover: CutoverConfig,
    /// What validation checks.
    pub validation: ValidationConfig,
}

/// How to reach a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Brokers to begin with; none: MSK is asked for them, by `cluster_arn`, which is then given.
    pub bootstrap_servers: Vec<String>,
    /// The MSK cluster's ARN.
    pub cluster_arn: Option<String>,
    /// How to log in.
    pub auth: Auth,
    /// TLS, where it is spoken.
    pub tls: Option<Tls>,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// With user name and password.
    ScramSha512 {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// With a client certificate.
    Mtls(Identity),
    /// As the AWS role of this process.
    Iam,
}

/// A client certificate with its chain, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// As PEM files.
    Pem {
        /// The certificate and its chain.
        cert_file: PathBuf,
        /// Its private key.
        key_file: PathBuf,
    },
    /// In a key store.
    KeyStore {
        /// The store.
        store: KeyStore,
        /// The password of the key inside it; the store's where none is given.
        key_password: Option<Secret>,
    },
}

impl Identity {
    /// The file that the certificate is in.
    pub fn file(&self) -> &Path {
        match self {
            Identity::Pem { cert_file, .. } => cert_file,
            Identity::KeyStore { store, .. } => &store.file,
        }
    }
}

/// A Java key store: JKS or PKCS#12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStore {
    /// The file.
    pub file: PathBuf,
    /// Its password.
    pub password: Secret,
}

/// TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Which certificates to trust.
    pub trust: Trust,
}

/// Certificates to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of the system.
    System,
    /// Those of a PEM file.
    Pem(PathBuf),
    /// Those of a key store.
    KeyStore(KeyStore),
}

/// Where objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket of S3.
    Bucket(Bucket),
}

/// A bucket, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What all keys begin with: empty, or ending in `/`.
    pub prefix: String,
    /// The KMS key that encrypts objects; none: whatever the bucket does by default.
    pub kms_key_id: Option<String>,
}

impl Place {
    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Place::Folder(folder) => Some(folder),
            Place::Bucket(_) => None,
        }
    }

    /// Where the object `key` is, as one would type it.
    pub fn of(&self, key: &str) -> String {
        match self {
            Place::Folder(folder) => folder.join(key).display().to_string(),
            Place::Bucket(_) => format!("{self}{key}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(folder) => folder.display().fmt(f),
            Place::Bucket(Bucket { name, prefix, .. }) => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

/// Where segments are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// A folder or a bucket.
    pub place: Place,
}

/// Where the journal, leases and checkpoints are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerConfig {
    /// A DynamoDB table; none: a folder, by default that of the evidence.
    pub dynamodb_table: Option<String>,
}

/// How AWS is spoken to, where something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsConfig {
    /// The region; none: as the SDK finds it.
    pub region: Option<String>,
    /// The stack that does the work; none: the command itself.
    pub stack: Option<String>,
    /// Whether buckets are named in the path.
    pub s3_path_style: bool,
}

/// Where evidence is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// A folder or a bucket.
    pub place: Place,
    /// How long it is to be kept.
    pub retention: Duration,
    /// The key that signs it.
    pub signing_key: SigningKey,
}

/// The key that signs evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// In the file that a machine's user has by default.
    DefaultFile,
    /// In this file.
    File(PathBuf),
    /// In KMS, by this id, ARN or alias.
    Kms(String),
}

/// How the seed runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedConfig {
    /// Partitions that a lane seeds at the same time.
    pub max_concurrent_partitions: usize,
    /// Size at which a segment is closed.
    pub segment_max_bytes: u64,
    /// Most that is read from one source broker.
    pub max_bytes_per_second_per_broker: Option<u64>,
    /// Lanes to split the partitions into.
    pub lanes: usize,
}

/// What to do about topics that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyConfig {
    /// Where an empty topic exists on the target with other settings.
    pub on_config_drift: ConfigDrift,
}

/// What to do about an empty target topic with other settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigDrift {
    /// Give it the planned ones.
    OverwriteWithSource,
    /// Give it the hold settings while copying, and its own back at the end.
    Keep,
    /// Stop.
    Refuse,
}

/// What to do about access rules that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclConfig {
    /// Where the target has other ones.
    pub on_drift: AclDrift,
}

/// What to do about access rules that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclDrift {
    /// Make what is missing, leave the rest.
    Merge,
    /// Make what is missing, report the rest.
    Replace,
    /// Stop.
    Refuse,
}

/// How the cutover runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutoverConfig {
    /// How long the tail may take to become drain-ready.
    pub drain_timeout: Duration,
    /// Records that a partition may be behind and still be drain-ready.
    pub drain_max_partition_lag: u64,
    /// How long every partition must have stayed within that.
    pub drain_stable_window: Duration,
    /// How long producers may stand still.
    pub max_producer_freeze: Duration,
    /// How producers are made to stand still.
    pub freeze: FreezeConfig,
    /// What closes each source partition.
    pub marker: MarkerKind,
    /// Without markers: how long log ends must stand still.
    pub standstill_window: Duration,
}

/// How producers are made to stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreezeConfig {
    /// An operator confirms it at a terminal.
    Confirmation,
    /// A call does it.
    Webhook {
        /// Where to.
        url: String,
        /// What signs it.
        secret: Option<Secret>,
    },
}

/// What validation checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationConfig {
    /// Records by which a partition's count may differ and only be a warning.
    pub count_tolerance: u64,
    /// Records compared byte by byte in each partition.
    pub spot_check_records_per_partition: usize,
}

/// Something in the file that must be put right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1; none for something that is missing.
    pub line: Option<usize>,
    /// The field.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
    /// Whether the file may be right as it is: somebody who was asked did not answer.
    pub passing: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}; {}", self.path, self.what, self.remedy)
    }
}
