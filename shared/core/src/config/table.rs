//! The table of fields.

use std::time::Duration;

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

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);
pub(super) const MIB: u64 = 1024 * 1024;

/// The fields of a cluster, below `source` and below `target`.
pub const CLUSTER_FIELDS: &[Field] = &[
    field(
        "bootstrap_servers",
        Kind::Servers,
        None,
        "Brokers to begin with, as host:port; by default MSK is asked for those of cluster_arn.",
    ),
    field("cluster_arn", Kind::Text, None, "The MSK cluster's ARN; part of the migration's fingerprint."),
    field(
        "auth.mode",
        Kind::Choice(&["none", "scram-sha-512", "mtls", "iam"]),
        Some("none"),
        "How to log in; iam: as the AWS role of this process.",
    ),
    field("auth.username", Kind::Text, None, "User name for scram-sha-512."),
    field("auth.password", Kind::Secret, None, "Password for scram-sha-512; best as ${NAME}."),
    field("auth.cert_file", Kind::Path, None, "Client certificate for mtls, PEM, with its chain."),
    field("auth.key_file", Kind::Path, None, "Private key for mtls, PEM, not encrypted."),
    field("auth.keystore", Kind::Path, None, "The same as one Java key store (JKS or PKCS#12) with one private key."),
    field("auth.keystore_password", Kind::Secret, None, "Its password; best as ${NAME}."),
    field("auth.key_password", Kind::Secret, None, "Password of the key inside a JKS file; by default the store's."),
    field(
        "auth.truststore",
        Kind::Path,
        None,
        "Java key store with the certificates to trust, in place of tls.ca_file.",
    ),
    field("auth.truststore_password", Kind::Secret, None, "Its password."),
    field("tls.enabled", Kind::Bool, None, "Whether to speak TLS: by default with every auth.mode but none."),
    field("tls.ca_file", Kind::Path, None, "Certificates to trust, PEM; by default those of the system."),
];

/// All other fields.
pub const FIELDS: &[Field] = &[
    field("backup.directory", Kind::Path, None, "Folder for segments."),
    field("backup.s3_bucket", Kind::Text, None, "Bucket for segments, in place of a folder."),
    field("backup.s3_prefix", Kind::Text, None, "Prefix in that bucket."),
    field("backup.s3_kms_key_id", Kind::Text, None, "KMS key that encrypts segments; by default as the bucket does."),
    field("evidence.directory", Kind::Path, None, "Folder for plan, offset map and reports."),
    field("evidence.s3_bucket", Kind::Text, None, "Bucket for plan, offset map and reports, in place of a folder."),
    field("evidence.s3_prefix", Kind::Text, None, "Prefix in that bucket."),
    field("evidence.s3_kms_key_id", Kind::Text, None, "KMS key that encrypts them; by default as the bucket does."),
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
    field(
        "evidence.kms_key_id",
        Kind::Text,
        None,
        "KMS key that signs evidence, in place of a file: id, ARN or alias of a key of ECC_NIST_EDWARDS25519.",
    ),
    field(
        "ledger.dynamodb_table",
        Kind::Text,
        None,
        "DynamoDB table for journal, leases and checkpoints, in place of a folder; many migrations may share it.",
    ),
    field(
        "aws.region",
        Kind::Text,
        None,
        "Region of buckets, table, keys and secrets; by default as the AWS SDK finds it.",
    ),
    field("aws.stack", Kind::Text, None, "The stack on AWS that does the work, in place of the command."),
    field(
        "aws.s3_path_style",
        Kind::Bool,
        Some("false"),
        "Whether buckets are named in the path and not in the host: for S3 servers that are not AWS.",
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
