//! The configuration file: one table of fields, and what becomes of a text that fills it.
//!
//! The table drives everything: which keys there are, how a value is read, what is taken where none is given, and what
//! each means. A text becomes a [`Config`] whole or a list of all its [`Problem`]s, each with its line and what to
//! write instead, so that one round is enough to put them right. Inside Krossing nothing is checked again.
//!
//! Invariants: an unknown key is a problem, never ignored; a value that does not work yet is refused with a sentence and
//! never half done; a secret is in a type that does not print.
//!
//! Does not: read files or the environment; `${NAME}` is asked of a function.

mod reference;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::Duration,
};

use marked_yaml::{LoaderOptions, Node, Span, parse_yaml_with_options};

pub use reference::reference;

use crate::{cutover::MarkerKind, plan::Selection};

// ── The table ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// How a field's value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that is never shown.
    Secret,
    /// A file or folder.
    Path,
    /// A whole number with a unit: `30s`, `30m`, `12h`, `7d`, `7y`; between these two.
    Duration(Duration, Duration),
    /// A number of bytes: `32MiB`, `8MB`, `1048576`; between these two.
    Bytes(u64, u64),
    /// A whole number, between these two.
    Count(u64, u64),
    /// `true` or `false`.
    Bool,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A list, or one text with commas.
    List,
    /// A list of `host:port`, or one text with commas.
    Servers,
    /// Not possible yet: why, and what to do instead.
    NotYet(&'static str),
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Where it stands below `migration`, for clusters below `source` and `target`.
    pub path: &'static str,
    /// How it is read.
    pub kind: Kind,
    /// What is taken where it is not given, as it would be written; none where nothing is.
    pub default: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
}

const fn field(path: &'static str, kind: Kind, default: Option<&'static str>, meaning: &'static str) -> Field {
    Field { path, kind, default, meaning }
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const MIB: u64 = 1024 * 1024;

const BUCKET: Kind = Kind::NotYet("buckets do not work yet; give a `directory` instead");
const KEYSTORE: Kind =
    Kind::NotYet("Java key stores do not work yet; give PEM files: cert_file, key_file, tls.ca_file");

/// The fields of a cluster, below `source` and below `target`.
pub const CLUSTER_FIELDS: &[Field] = &[
    field("bootstrap_servers", Kind::Servers, None, "Brokers to begin with, as host:port."),
    field("cluster_arn", Kind::Text, None, "The MSK cluster's ARN; part of the migration's fingerprint."),
    field("auth.mode", Kind::Choice(&["none", "scram-sha-512", "mtls", "iam"]), Some("none"), "How to log in."),
    field("auth.username", Kind::Text, None, "User name for scram-sha-512."),
    field("auth.password", Kind::Secret, None, "Password for scram-sha-512; best as ${NAME}."),
    field("auth.cert_file", Kind::Path, None, "Client certificate for mtls, PEM, with its chain."),
    field("auth.key_file", Kind::Path, None, "Private key for mtls, PEM."),
    field("auth.keystore", KEYSTORE, None, "Java key store with the client's certificate."),
    field("auth.keystore_password", KEYSTORE, None, "Its password."),
    field("auth.truststore", KEYSTORE, None, "Java key store with trusted certificates."),
    field("auth.truststore_password", KEYSTORE, None, "Its password."),
    field("tls.enabled", Kind::Bool, None, "Whether to speak TLS: by default with every auth.mode but none."),
    field("tls.ca_file", Kind::Path, None, "Certificates to trust, PEM; by default those of the system."),
];

/// All other fields.
pub const FIELDS: &[Field] = &[
    field("backup.directory", Kind::Path, None, "Folder for segments."),
    field("backup.s3_bucket", BUCKET, None, "Bucket for segments."),
    field("backup.s3_prefix", BUCKET, None, "Prefix in that bucket."),
    field("evidence.directory", Kind::Path, None, "Folder for plan, offset map and reports."),
    field("evidence.s3_bucket", BUCKET, None, "Bucket for plan, offset map and reports."),
    field("evidence.s3_prefix", BUCKET, None, "Prefix in that bucket."),
    field(
        "evidence.retention",
        Kind::Duration(DAY, Duration::from_secs(100 * 365 * 86_400)),
        Some("7y"),
        "How long evidence is to be kept.",
    ),
    field(
        "evidence.signing_key_file",
        Kind::Path,
        None,
        "Ed25519 key that signs evidence, PEM, made on first use; by default ~/.config/krossing/signing-key.pem.",
    ),
    field("topics.include", Kind::List, Some("*"), "Topics to migrate; `*` stands for any characters."),
    field("topics.exclude", Kind::List, Some(""), "Topics to leave out of those."),
    field(
        "seed.max_concurrent_partitions",
        Kind::Count(1, 1_000),
        Some("4"),
        "Partitions that a lane seeds at the same time.",
    ),
    field("seed.segment_max_bytes", Kind::Bytes(MIB, 256 * MIB), Some("32MiB"), "Size at which a segment is closed."),
    field(
        "seed.max_bytes_per_second_per_broker",
        Kind::Bytes(64 * 1024, 1 << 40),
        None,
        "Most that is read from one source broker while seeding; by default as much as it gives.",
    ),
    field(
        "seed.lanes",
        Kind::Count(1, 1_000),
        Some("3"),
        "Lanes to split the partitions into: workers at the same time.",
    ),
    field(
        "topology.on_config_drift",
        Kind::Choice(&["overwrite_with_source", "keep", "refuse"]),
        Some("overwrite_with_source"),
        "What to do where an empty topic, or a client's quota, is on the target with other settings.",
    ),
    field(
        "acl.on_drift",
        Kind::Choice(&["merge", "replace", "refuse"]),
        Some("merge"),
        "What to do where the target has other access rules.",
    ),
    field(
        "cutover.drain_timeout",
        Kind::Duration(SECOND, Duration::from_secs(30 * 86_400)),
        Some("30m"),
        "How long the tail may take to become drain-ready.",
    ),
    field(
        "cutover.drain_max_partition_lag",
        Kind::Count(0, 1_000_000_000),
        Some("100"),
        "Records that a partition may be behind and still be drain-ready.",
    ),
    field(
        "cutover.drain_stable_window",
        Kind::Duration(Duration::ZERO, DAY),
        Some("30s"),
        "How long every partition must have stayed within that.",
    ),
    field(
        "cutover.max_producer_freeze",
        Kind::Duration(SECOND, Duration::from_secs(3_600)),
        Some("60s"),
        "How long producers may stand still before the cutover is taken back.",
    ),
    field(
        "cutover.producer_freeze_webhook",
        Kind::Text,
        None,
        "URL that freezes and unfreezes producers; without one an operator confirms.",
    ),
    field("cutover.producer_freeze_webhook_secret", Kind::Secret, None, "Secret that signs the calls of it."),
    field(
        "cutover.marker",
        Kind::Choice(&["control", "record", "none"]),
        Some("control"),
        "What closes each source partition: control (a marker that no consumer sees), record (a visible record with the \
         header krossing-sentinel), none (nothing is written there).",
    ),
    field(
        "cutover.standstill_window",
        Kind::Duration(Duration::from_millis(100), Duration::from_secs(3_600)),
        Some("5s"),
        "With marker none: how long the source's log ends must stand still to be its closing; part of \
         max_producer_freeze.",
    ),
    field(
        "validation.count_tolerance",
        Kind::Count(0, 1_000_000_000),
        Some("1"),
        "Records by which a partition's count may differ and only be a warning.",
    ),
    field(
        "validation.spot_check_records_per_partition",
        Kind::Count(0, 10_000),
        Some("3"),
        "Records compared byte by byte in each partition.",
    ),
];

/// The whole table: each field with its full path.
pub fn table() -> impl Iterator<Item = (String, Field)> {
    let sides = ["source", "target"].into_iter();
    let clusters = sides.flat_map(|side| CLUSTER_FIELDS.iter().map(move |f| (format!("{side}.{}", f.path), *f)));
    clusters.chain(FIELDS.iter().map(|f| (f.path.to_owned(), *f)))
}

// ── What it becomes ────────────────────────────────────────────────────────────────────────────────────────────────

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
    /// Brokers to begin with.
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
    Mtls {
        /// The certificate and its chain, PEM.
        cert_file: PathBuf,
        /// Its private key, PEM.
        key_file: PathBuf,
    },
}

/// TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates to trust, PEM; those of the system where none is given.
    pub ca_file: Option<PathBuf>,
}

/// Where segments are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// The folder.
    pub directory: PathBuf,
}

/// Where evidence is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// The folder.
    pub directory: PathBuf,
    /// How long it is to be kept.
    pub retention: Duration,
    /// The key that signs it; none for the default one.
    pub signing_key_file: Option<PathBuf>,
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
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}; {}", self.path, self.what, self.remedy)
    }
}

// ── Reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Where the fields may stand.
const ROOTS: [&[&str]; 2] = [&["enterprise", "msk_kraft_migration"], &["migration"]];

impl Config {
    /// Reads a configuration. `env` gives the value of an environment variable.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        let mut reading = Reading::default();
        match load(text) {
            Ok(top) if reading.read_top(&top, &env) => {}
            Ok(_) => return Err(reading.sorted_problems()),
            Err(problem) => return Err(vec![problem]),
        }
        let config = reading.config();
        match config {
            Some(config) if reading.problems.is_empty() => Ok(config),
            _ => Err(reading.sorted_problems()),
        }
    }
}

fn load(text: &str) -> Result<Node, Problem> {
    let problem = |line: Option<usize>, what: String| Problem {
        line,
        path: "file".to_owned(),
        what,
        remedy: "write it as YAML, with names that contain `*` or begin with a special character in quotes".to_owned(),
    };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(problem(None, "it is empty".to_owned()));
    }
    let options = LoaderOptions::default().error_on_duplicate_keys(true);
    parse_yaml_with_options(0, text, options).map_err(|error| {
        use marked_yaml::LoadError;
        let line = match &error {
            LoadError::TopLevelMustBeMapping(mark)
            | LoadError::TopLevelMustBeSequence(mark)
            | LoadError::UnexpectedAnchor(mark)
            | LoadError::MappingKeyMustBeScalar(mark)
            | LoadError::UnexpectedTag(mark)
            | LoadError::ScanError(mark, _) => Some(mark.line()),
            LoadError::DuplicateKey(keys) => line_of(keys.key.span()),
        };
        problem(line, error.to_string())
    })
}

fn line_of(span: &Span) -> Option<usize> {
    span.start().map(|mark| mark.line())
}

/// A value as it is written: one text, or a list of them.
#[derive(Debug, Clone)]
struct Raw {
    line: Option<usize>,
    texts: Vec<String>,
    list: bool,
}

#[derive(Default)]
struct Reading {
    problems: Vec<Problem>,
    values: BTreeMap<String, Raw>,
    /// Fields that are there and could not be read: to be told once, and not as missing too.
    unreadable: BTreeSet<String>,
}

impl Reading {
    fn problem(&mut self, line: Option<usize>, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        if line.is_some() || !self.unreadable.contains(path) {
            self.problems.push(Problem { line, path: path.to_owned(), what: what.into(), remedy: remedy.into() });
        }
    }

    fn sorted_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems
    }

    /// Reads what is written. Answers whether there is a section to read.
    fn read_top(&mut self, top: &Node, env: &impl Fn(&str) -> Option<String>) -> bool {
        let mut roots = Vec::new();
        self.find_roots(top, &mut Vec::new(), &mut roots);
        match roots.as_slice() {
            [root] => self.read_node(root, "", env),
            [] => self.problem(None, "file", "it has no `migration` section", "put all fields below `migration:`"),
            [_, second, ..] => self.problem(
                line_of(second.span()),
                "file",
                "it has both `migration` and `enterprise.msk_kraft_migration`",
                "keep one of them",
            ),
        }
        roots.len() == 1
    }

    fn find_roots<'n>(&mut self, node: &'n Node, above: &mut Vec<String>, roots: &mut Vec<&'n Node>) {
        let Some(mapping) = node.as_mapping() else {
            let path = if above.is_empty() { "file".to_owned() } else { above.join(".") };
            self.problem(
                line_of(node.span()),
                &path,
                "it is not a section",
                "put `migration:` below it, or leave it out",
            );
            return;
        };
        for (key, value) in mapping.iter() {
            above.push(key.as_str().to_owned());
            let is = |root: &&[&str]| root.iter().copied().eq(above.iter().map(String::as_str));
            let leads = |root: &&[&str]| root.starts_with(&above.iter().map(String::as_str).collect::<Vec<_>>());
            if ROOTS.iter().any(is) {
                roots.push(value);
            } else if ROOTS.iter().any(leads) {
                self.find_roots(value, above, roots);
            } else {
                let path = above.join(".");
                self.problem(line_of(key.span()), &path, "there is no such section", "the only section is `migration`");
            }
            above.pop();
        }
    }

    fn read_node(&mut self, node: &Node, path: &str, env: &impl Fn(&str) -> Option<String>) {
        let line = line_of(node.span());
        let is_field = table().any(|(known, _)| known == path);
        match node {
            Node::Mapping(_) if is_field => self.problem(line, path, "it is a section", "write a value"),
            Node::Mapping(mapping) => {
                for (key, value) in mapping.iter() {
                    let below =
                        if path.is_empty() { key.as_str().to_owned() } else { format!("{path}.{}", key.as_str()) };
                    let section = format!("{below}.");
                    if table().any(|(known, _)| known == below || known.starts_with(&section)) {
                        self.read_node(value, &below, env);
                    } else {
                        self.problem(line_of(key.span()), &below, "there is no such field", nearest(&below));
                    }
                }
            }
            // An empty section (`tls:` with nothing below) sets nothing.
            Node::Scalar(scalar) if !is_field && scalar.as_str().trim().is_empty() => {}
            Node::Scalar(_) | Node::Sequence(_) if !is_field => {
                self.problem(line, path, "it is a section of fields", "write its fields below it, indented");
            }
            Node::Scalar(scalar) => {
                if let Some(text) = self.expand(scalar.as_str(), line, path, env) {
                    self.values.insert(path.to_owned(), Raw { line, texts: vec![text], list: false });
                }
            }
            Node::Sequence(items) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    match item.as_scalar() {
                        Some(scalar) => texts.extend(self.expand(scalar.as_str(), line_of(item.span()), path, env)),
                        None => {
                            self.problem(line_of(item.span()), path, "an item is not a text", "write a list of texts")
                        }
                    }
                }
                self.values.insert(path.to_owned(), Raw { line, texts, list: true });
            }
        }
    }

    /// A text with each `${NAME}` replaced.
    fn expand(
        &mut self,
        text: &str,
        line: Option<usize>,
        path: &str,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        let mut expanded = String::new();
        let mut rest = text;
        let unreadable = |reading: &mut Self| reading.unreadable.insert(path.to_owned());
        while let Some((before, from)) = rest.split_once("${") {
            expanded.push_str(before);
            let Some((name, after)) = from.split_once('}') else {
                self.problem(line, path, "a `${` is not closed", "write ${NAME}");
                unreadable(self);
                return None;
            };
            let Some(value) = env(name) else {
                let what = format!("the environment variable {name} is not set");
                self.problem(line, path, what, format!("set {name}, or write the value here"));
                unreadable(self);
                return None;
            };
            expanded.push_str(&value);
            rest = after;
        }
        expanded.push_str(rest);
        Some(expanded)
    }

    fn config(&mut self) -> Option<Config> {
        for (path, field) in table() {
            if let (Kind::NotYet(why), Some(raw)) = (field.kind, self.values.get(&path)) {
                let line = raw.line;
                let (what, remedy) = why.split_once("; ").unwrap_or((why, "leave it out"));
                self.problem(line, &path, what, remedy);
            }
        }
        // Everything is read before anything is given up, so that all problems are found.
        let source = self.cluster("source");
        let target = self.cluster("target");
        let backup = self.required_path("backup.directory");
        let evidence = self.required_path("evidence.directory");
        let retention = self.duration("evidence.retention");
        let signing_key_file = self.text("evidence.signing_key_file").map(PathBuf::from);
        let topics = Selection { include: self.list("topics.include"), exclude: self.list("topics.exclude") };
        let seed = self.seed();
        let on_config_drift = self.choice("topology.on_config_drift").map(|choice| match choice {
            "keep" => ConfigDrift::Keep,
            "refuse" => ConfigDrift::Refuse,
            _ => ConfigDrift::OverwriteWithSource,
        });
        let on_drift = self.choice("acl.on_drift").map(|choice| match choice {
            "replace" => AclDrift::Replace,
            "refuse" => AclDrift::Refuse,
            _ => AclDrift::Merge,
        });
        let cutover = self.cutover();
        let count_tolerance = self.number("validation.count_tolerance");
        let spot_check = self.number("validation.spot_check_records_per_partition");
        Some(Config {
            source: source?,
            target: target?,
            backup: BackupConfig { directory: backup? },
            evidence: EvidenceConfig { directory: evidence?, retention: retention?, signing_key_file },
            topics,
            seed: seed?,
            topology: TopologyConfig { on_config_drift: on_config_drift? },
            acl: AclConfig { on_drift: on_drift? },
            cutover: cutover?,
            validation: ValidationConfig {
                count_tolerance: count_tolerance?,
                spot_check_records_per_partition: to_usize(spot_check?),
            },
        })
    }

    fn seed(&mut self) -> Option<SeedConfig> {
        let concurrent = self.number("seed.max_concurrent_partitions");
        let segment = self.number("seed.segment_max_bytes");
        let rate = self.number("seed.max_bytes_per_second_per_broker");
        let lanes = self.number("seed.lanes");
        Some(SeedConfig {
            max_concurrent_partitions: to_usize(concurrent?),
            segment_max_bytes: segment?,
            max_bytes_per_second_per_broker: rate,
            lanes: to_usize(lanes?),
        })
    }

    fn cutover(&mut self) -> Option<CutoverConfig> {
        let drain_timeout = self.duration("cutover.drain_timeout");
        let drain_max_partition_lag = self.number("cutover.drain_max_partition_lag");
        let drain_stable_window = self.duration("cutover.drain_stable_window");
        let max_producer_freeze = self.duration("cutover.max_producer_freeze");
        let freeze = self.freeze();
        let marker = self.choice("cutover.marker").map(|choice| match choice {
            "record" => MarkerKind::Record,
            "none" => MarkerKind::None,
            _ => MarkerKind::Control,
        });
        let standstill_window = self.duration("cutover.standstill_window");
        if let (Some(MarkerKind::None), Some(window), Some(budget)) = (marker, standstill_window, max_producer_freeze)
            && window >= budget
        {
            let path = "cutover.standstill_window";
            let what = "it is not shorter than cutover.max_producer_freeze, so that no cutover can be in time";
            self.problem(self.line(path), path, what, "make it shorter, or max_producer_freeze longer");
        }
        if let (Some(window), Some(timeout)) = (drain_stable_window, drain_timeout)
            && window > timeout
        {
            let line = self.line("cutover.drain_stable_window");
            let what = "it is longer than cutover.drain_timeout, so that drain-ready can never be reached";
            self.problem(line, "cutover.drain_stable_window", what, "make it shorter, or drain_timeout longer");
        }
        Some(CutoverConfig {
            drain_timeout: drain_timeout?,
            drain_max_partition_lag: drain_max_partition_lag?,
            drain_stable_window: drain_stable_window?,
            max_producer_freeze: max_producer_freeze?,
            freeze: freeze?,
            marker: marker?,
            standstill_window: standstill_window?,
        })
    }

    fn freeze(&mut self) -> Option<FreezeConfig> {
        const URL: &str = "cutover.producer_freeze_webhook";
        const SECRET: &str = "cutover.producer_freeze_webhook_secret";
        let secret = self.text(SECRET).map(Secret);
        let Some(url) = self.text(URL) else {
            if secret.is_some() {
                let line = self.line(SECRET);
                self.problem(
                    line,
                    SECRET,
                    "there is no webhook to sign calls of",
                    format!("give {URL}, too, or leave it out"),
                );
            }
            return Some(FreezeConfig::Confirmation);
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let line = self.line(URL);
            self.problem(line, URL, "it is not a URL", "begin it with https:// or http://");
            return None;
        }
        Some(FreezeConfig::Webhook { url, secret })
    }

    fn cluster(&mut self, side: &str) -> Option<ClusterConfig> {
        let servers = self.servers(side);
        let auth = self.auth(side);
        let enabled = self.choice(&format!("{side}.tls.enabled")).map(|text| text == "true");
        let ca_file = self.text(&format!("{side}.tls.ca_file")).map(PathBuf::from);
        let auth = auth?;
        let tls = match (enabled.unwrap_or(auth != Auth::None), &auth) {
            (false, Auth::Mtls { .. }) => {
                let path = format!("{side}.tls.enabled");
                let line = self.line(&path);
                self.problem(line, &path, "mtls is a part of TLS", "leave it out, or use another auth.mode");
                None
            }
            (false, Auth::None | Auth::ScramSha512 { .. }) => {
                if ca_file.is_some() {
                    let path = format!("{side}.tls.ca_file");
                    let line = self.line(&path);
                    self.problem(line, &path, "TLS is not enabled", format!("write {side}.tls.enabled: true"));
                }
                None
            }
            (true, _) => Some(Tls { ca_file }),
        };
        let cluster_arn = self.text(&format!("{side}.cluster_arn"));
        Some(ClusterConfig { bootstrap_servers: servers?, cluster_arn, auth, tls })
    }

    fn servers(&mut self, side: &str) -> Option<Vec<String>> {
        let path = format!("{side}.bootstrap_servers");
        let servers = self.list(&path);
        if servers.is_empty() {
            let arn = self.values.contains_key(&format!("{side}.cluster_arn"));
            let what =
                if arn { "it is missing, and brokers cannot be looked up by cluster_arn yet" } else { "it is missing" };
            let line = self.line(&path);
            self.problem(line, &path, what, "give at least one broker as host:port");
            return None;
        }
        let whole = |server: &String| {
            let port = server.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
        };
        let wrong: Vec<String> = servers.iter().filter(|server| !whole(server)).cloned().collect();
        if !wrong.is_empty() {
            let line = self.line(&path);
            self.problem(line, &path, format!("{} is not a broker's address", wrong.join(", ")), "write host:port");
            return None;
        }
        Some(servers)
    }

    fn auth(&mut self, side: &str) -> Option<Auth> {
        let path = |name: &str| format!("{side}.auth.{name}");
        let mode = self.choice(&path("mode"))?;
        let needed: &[&str] = match mode {
            "scram-sha-512" => &["username", "password"],
            "mtls" => &["cert_file", "key_file"],
            "iam" => {
                let line = self.line(&path("mode"));
                let remedy = "use scram-sha-512, mtls or none until it does";
                self.problem(line, &path("mode"), "iam does not work yet", remedy);
                return None;
            }
            _ => &[],
        };
        for name in ["username", "password", "cert_file", "key_file"] {
            let (given, path) = (self.values.contains_key(&path(name)), path(name));
            let line = self.line(&path);
            if given && !needed.contains(&name) {
                self.problem(
                    line,
                    &path,
                    format!("auth.mode {mode} does not use it"),
                    "leave it out, or change auth.mode",
                );
            } else if !given && needed.contains(&name) {
                self.problem(line, &path, format!("it is missing, and auth.mode {mode} needs it"), "give it");
            }
        }
        let given: Vec<String> = needed.iter().filter_map(|name| self.text(&path(name))).collect();
        match (mode, given.as_slice()) {
            ("scram-sha-512", [username, password]) => {
                Some(Auth::ScramSha512 { username: username.clone(), password: Secret::new(password.clone()) })
            }
            ("mtls", [cert, key]) => Some(Auth::Mtls { cert_file: cert.into(), key_file: key.into() }),
            ("none", _) => Some(Auth::None),
            _ => None,
        }
    }

    fn line(&self, path: &str) -> Option<usize> {
        self.values.get(path).and_then(|raw| raw.line)
    }

    /// What is written for a field, or its default; none where there is neither.
    fn raw(&self, path: &str) -> Option<(Field, Raw)> {
        let (_, field) = table().find(|(known, _)| known == path)?;
        let default = || field.default.map(|text| Raw { line: None, texts: vec![text.to_owned()], list: false });
        self.values.get(path).cloned().or_else(default).map(|raw| (field, raw))
    }

    fn text(&mut self, path: &str) -> Option<String> {
        let (_, raw) = self.raw(path)?;
        match raw.texts.as_slice() {
            [text] if !raw.list && !text.trim().is_empty() => Some(text.trim().to_owned()),
            [_] if !raw.list => {
                self.problem(raw.line, path, "it is empty", "write a value, or leave it out");
                None
            }
            _ => {
                self.problem(raw.line, path, "it is a list", "write one value");
                None
            }
        }
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        let Some((_, raw)) = self.raw(path) else { return Vec::new() };
        let items = raw.texts.iter().flat_map(|text| text.split(',')).map(|item| item.trim().to_owned());
        items.filter(|item| !item.is_empty()).collect()
    }

    fn required_path(&mut self, path: &str) -> Option<PathBuf> {
        if !self.values.contains_key(path) {
            self.problem(None, path, "it is missing", "give a folder");
            return None;
        }
        self.text(path).map(PathBuf::from)
    }

    /// One of the words a field allows.
    fn choice(&mut self, path: &str) -> Option<&'static str> {
        let (field, raw) = self.raw(path)?;
        let choices: &[&'static str] = match field.kind {
            Kind::Choice(choices) => choices,
            Kind::Bool => &["true", "false"],
            Kind::Text
            | Kind::Secret
            | Kind::Path
            | Kind::Duration(..)
            | Kind::Bytes(..)
            | Kind::Count(..)
            | Kind::List
            | Kind::Servers
            | Kind::NotYet(_) => &[],
        };
        let text = self.text(path)?;
        let found = choices.iter().copied().find(|choice| *choice == text);
        if found.is_none() {
            self.problem(raw.line, path, format!("it cannot be {text:?}"), format!("write {}", choices.join(" or ")));
        }
        found
    }

    fn duration(&mut self, path: &str) -> Option<Duration> {
        let (field, raw) = self.raw(path)?;
        let text = self.text(path)?;
        let Kind::Duration(least, most) = field.kind else { return None };
        match parse_duration(&text) {
            None => {
                self.problem(
                    raw.line,
                    path,
                    format!("{text:?} is not a duration"),
                    "write a number and a unit: 30s, 30m, 12h, 7d, 7y",
                );
                None
            }
            Some(duration) if duration < least || duration > most => {
                let remedy = format!("write one from {} to {}", show_duration(least), show_duration(most));
                self.problem(raw.line, path, format!("{text} is out of bounds"), remedy);
                None
            }
            Some(duration) => Some(duration),
        }
    }

    fn number(&mut self, path: &str) -> Option<u64> {
        let (field, raw) = self.raw(path)?;
        let text = self.text(path)?;
        let (parsed, least, most, unit) = match field.kind {
            Kind::Bytes(least, most) => (parse_bytes(&text), least, most, "a number of bytes: 32MiB, 8MB, 1048576"),
            Kind::Count(least, most) => (text.parse().ok(), least, most, "a whole number"),
            Kind::Text
            | Kind::Secret
            | Kind::Path
            | Kind::Duration(..)
            | Kind::Bool
            | Kind::Choice(_)
            | Kind::List
            | Kind::Servers
            | Kind::NotYet(_) => return None,
        };
        match parsed {
            None => {
                self.problem(raw.line, path, format!("{text:?} is not a number"), format!("write {unit}"));
                None
            }
            Some(number) if number < least || number > most => {
                self.problem(raw.line, path, format!("{text} is out of bounds"), format!("write {least} to {most}"));
                None
            }
            Some(number) => Some(number),
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A remedy for a name that does not exist: the one that looks most like it.
fn nearest(path: &str) -> String {
    let best = table().map(|(known, _)| (distance(path, &known), known)).min();
    match best {
        Some((steps, known)) if steps <= 1 + path.len() / 4 => format!("did you mean {known}?"),
        Some(_) | None => "leave it out, or see the list of fields".to_owned(),
    }
}

/// How many characters must be changed to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(YEAR.as_millis(), "y"), (DAY.as_millis(), "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let unit_bytes: u64 = match unit {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit_bytes)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const SMALLEST: &str = "
migration:
  source: {bootstrap_servers: 'a:9092, b:9092'}
  target:
    bootstrap_servers: [c:9092]
  backup: {directory: /b}
  evidence: {directory: /e}
";

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn check(text: &str, expected: &[&str]) {
        let problems = Config::parse(text, no_env).expect_err("it has problems");
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "in {text}");
    }

    #[test]
    fn the_smallest_file_gets_the_defaults_of_the_table() {
        let config = Config::parse(SMALLEST, no_env).unwrap();
        assert_eq!(config.source.bootstrap_servers, ["a:9092", "b:9092"]);
        assert_eq!((config.source.auth, config.source.tls), (Auth::None, None));
        assert_eq!(config.topics, Selection::default());
        assert_eq!(config.seed.max_concurrent_partitions, 4);
        assert_eq!(config.seed.segment_max_bytes, 32 << 20);
        assert_eq!(config.seed.max_bytes_per_second_per_broker, None);
        assert_eq!(config.evidence.retention, 7 * YEAR);
        assert_eq!(config.cutover.drain_timeout, Duration::from_secs(1_800));
        assert_eq!(config.cutover.drain_max_partition_lag, 100);
        assert_eq!(config.cutover.freeze, FreezeConfig::Confirmation);
        assert_eq!(config.validation.count_tolerance, 1);
    }

    #[test]
    fn every_field_can_be_given_and_secrets_come_from_the_environment_and_are_never_shown() {
        let text = r#"
enterprise:
  msk_kraft_migration:
    source:
      bootstrap_servers: ["${HOST}:9096"]
      cluster_arn: arn:aws:kafka:eu:1:cluster/a/b
      auth: {mode: scram-sha-512, username: me, password: "${PASSWORD}"}
      tls: {ca_file: /ca.pem}
    target:
      bootstrap_servers: t:9094
      auth: {mode: mtls, cert_file: /c.pem, key_file: /k.pem}
    backup: {directory: /b}
    evidence: {directory: /e, retention: 30d}
    topics: {include: ["orders*", audit], exclude: ["*-dlq"]}
    seed: {max_concurrent_partitions: 8, segment_max_bytes: 8MB, max_bytes_per_second_per_broker: 1MiB, lanes: 2}
    cutover:
      drain_timeout: 1h
      drain_max_partition_lag: 0
      drain_stable_window: 500ms
      max_producer_freeze: 5s
      producer_freeze_webhook: https://f/
      producer_freeze_webhook_secret: "${PASSWORD}"
      marker: record
    validation: {count_tolerance: 0, spot_check_records_per_partition: 10}
    topology: {on_config_drift: refuse}
    acl: {on_drift: replace}
"#;
        let env = |name: &str| match name {
            "HOST" => Some("s".to_owned()),
            "PASSWORD" => Some("hunter2".to_owned()),
            _ => None,
        };
        let config = Config::parse(text, env).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let Auth::ScramSha512 { username, password } = &config.source.auth else { panic!("{:?}", config.source.auth) };
        assert_eq!((username.as_str(), password.expose()), ("me", "hunter2"));
        assert_eq!(config.source.bootstrap_servers, ["s:9096"]);
        assert_eq!(config.source.tls, Some(Tls { ca_file: Some("/ca.pem".into()) }));
        assert_eq!(config.target.tls, Some(Tls { ca_file: None }));
        assert_eq!(config.topics.include, ["orders*", "audit"]);
        assert_eq!(config.seed.segment_max_bytes, 8_000_000);
        assert_eq!(config.cutover.drain_stable_window, Duration::from_millis(500));
        assert!(matches!(config.cutover.freeze, FreezeConfig::Webhook { secret: Some(_), .. }));
        assert_eq!(
            (config.cutover.marker, config.cutover.standstill_window),
            (MarkerKind::Record, Duration::from_secs(5))
        );
        assert_eq!(config.topology.on_config_drift, ConfigDrift::Refuse);
        assert_eq!(config.acl.on_drift, AclDrift::Replace);
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_its_line() {
        check(
            "
migration:
  source:
    bootstrap_servers: [a, b:9092]
    auth: {mode: iam}
  target:
    cluster_arn: arn
    auth: {mode: scram-sha-512, username: me, cert_file: /c}
  backup: {s3_bucket: b}
  evidence: {directory: '${NOT_SET}'}
  cutover: {drain_timeout: soon, drain_max_partition_lag: -1, max_producer_freeze: 5s, marker: none, producer_freeze_webhok: x}
  seed:
    segment_max_bytes: 1GiB
",
            &[
                "backup.directory: it is missing; give a folder",
                "cutover.standstill_window: it is not shorter than cutover.max_producer_freeze, so that no cutover can be in time; make it shorter, or max_producer_freeze longer",
                "target.auth.password: it is missing, and auth.mode scram-sha-512 needs it; give it",
                "target.bootstrap_servers: it is missing, and brokers cannot be looked up by cluster_arn yet; give at least one broker as host:port",
                "line 4: source.bootstrap_servers: a is not a broker's address; write host:port",
                "line 5: source.auth.mode: iam does not work yet; use scram-sha-512, mtls or none until it does",
                "line 8: target.auth.cert_file: auth.mode scram-sha-512 does not use it; leave it out, or change auth.mode",
                "line 9: backup.s3_bucket: buckets do not work yet; give a `directory` instead",
                "line 10: evidence.directory: the environment variable NOT_SET is not set; set NOT_SET, or write the value here",
                "line 11: cutover.drain_max_partition_lag: \"-1\" is not a number; write a whole number",
                "line 11: cutover.drain_timeout: \"soon\" is not a duration; write a number and a unit: 30s, 30m, 12h, 7d, 7y",
                "line 11: cutover.producer_freeze_webhok: there is no such field; did you mean cutover.producer_freeze_webhook?",
                "line 13: seed.segment_max_bytes: 1GiB is out of bounds; write 1048576 to 268435456",
            ],
        );
    }

    #[test]
    fn a_file_that_is_not_a_configuration_is_told_so() {
        check(
            "",
            &[
                "file: it is empty; write it as YAML, with names that contain `*` or begin with a special character in quotes",
            ],
        );
        check(
            "a: 1",
            &[
                "file: it has no `migration` section; put all fields below `migration:`",
                "line 1: a: there is no such section; the only section is `migration`",
            ],
        );
        for text in [
            "- a",
            "migration: {topics: {include: [*]}}",
            "migration: {a: 1, a: 2}",
            "x",
            "migration: &a 1",
            "migration: [",
            "\u{0}",
        ] {
            assert!(Config::parse(text, no_env).is_err(), "{text}");
        }
    }

    #[test]
    fn contradictions_between_fields_are_problems() {
        let with = |more: &str| format!("{SMALLEST}  {more}\n");
        check(
            &with("cutover: {drain_timeout: 10s, drain_stable_window: 11s}"),
            &[
                "line 8: cutover.drain_stable_window: it is longer than cutover.drain_timeout, so that drain-ready can never be reached; make it shorter, or drain_timeout longer",
            ],
        );
        check(
            &with("cutover: {producer_freeze_webhook_secret: s}"),
            &[
                "line 8: cutover.producer_freeze_webhook_secret: there is no webhook to sign calls of; give cutover.producer_freeze_webhook, too, or leave it out",
            ],
        );
        check(
            &SMALLEST.replace("[c:9092]", "[c:9092]\n    tls: {enabled: false, ca_file: /x}"),
            &["line 6: target.tls.ca_file: TLS is not enabled; write target.tls.enabled: true"],
        );
    }

    #[test]
    fn every_default_of_the_table_can_be_read() {
        for (path, field) in table() {
            let Some(default) = field.default else { continue };
            let fits = match field.kind {
                Kind::Duration(least, most) => parse_duration(default).is_some_and(|d| d >= least && d <= most),
                Kind::Bytes(least, most) => parse_bytes(default).is_some_and(|n| n >= least && n <= most),
                Kind::Count(least, most) => default.parse::<u64>().is_ok_and(|n| n >= least && n <= most),
                Kind::Choice(choices) => choices.contains(&default),
                Kind::Bool => ["true", "false"].contains(&default),
                Kind::Text | Kind::Secret | Kind::Path | Kind::List | Kind::Servers => true,
                Kind::NotYet(_) => false,
            };
            assert!(fits, "{path}: {default}");
        }
    }

    #[test]
    fn durations_and_sizes_need_units_that_exist() {
        for (text, seconds) in [("30s", 30), ("30m", 1_800), ("7d", 604_800), ("7y", 220_752_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["30", "s", "-1s", "1.5h", "9999999999999999999y", "7 years"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for (text, bytes) in [("32MiB", 33_554_432), ("8MB", 8_000_000), ("1048576", 1_048_576), ("1 KiB", 1_024)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "8M", "-1", "99999999999TiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(YEAR), "1y");
    }
}
