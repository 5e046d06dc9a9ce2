//! From a text to a [`Config`], or to all its problems.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use marked_yaml::{LoaderOptions, Node, Span, parse_yaml_with_options};

use super::{
    lookup::{Reference, Secrets, Unavailable, look_up},
    model::*,
    table::{Field, Kind, table},
    units::{parse_bytes, parse_duration, show_duration},
};
use crate::{cutover::MarkerKind, msk::Arn, plan::Selection};

/// Where the fields may stand.
const ROOTS: [&[&str]; 2] = [&["enterprise", "msk_kraft_migration"], &["migration"]];

impl Config {
    /// Reads a configuration that names no secret of AWS. `env` gives the value of an environment variable.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        Self::parse_with(text, env, &Secrets::new())
    }

    /// Reads a configuration with the secrets that it was found to want.
    pub fn parse_with(
        text: &str,
        env: impl Fn(&str) -> Option<String>,
        secrets: &Secrets,
    ) -> Result<Self, Vec<Problem>> {
        Self::parse_by(text, &|_, reference| look_up(reference, &env, secrets))
    }

    /// Reads a configuration, with an answer to each reference in it.
    pub(super) fn parse_by(text: &str, lookup: &Lookup<'_>) -> Result<Self, Vec<Problem>> {
        let mut reading = Reading::default();
        match load(text) {
            Ok(top) if reading.read_top(&top, lookup) => {}
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
        passing: false,
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

/// Answers a reference of the field at a path.
pub(super) type Lookup<'a> = dyn Fn(&str, Reference<'_>) -> Result<String, Unavailable> + 'a;

/// Whether a text shows a hidden value, or a part of it where it is a list.
fn shows(text: &str, hidden: &str) -> bool {
    let shown = |part: &str| {
        let escaped = format!("{part:?}");
        text.contains(part) || text.contains(escaped.trim_matches('"'))
    };
    hidden.split(',').map(str::trim).any(|part| !part.is_empty() && shown(part))
}

/// A value as it is written: one text, or a list of them.
#[derive(Debug, Clone)]
struct Raw {
    line: Option<usize>,
    texts: Vec<String>,
    list: bool,
}

#[derive(Default)]
pub(super) struct Reading {
    problems: Vec<Problem>,
    values: BTreeMap<String, Raw>,
    /// What fields have taken from secrets: never to be shown.
    hidden: BTreeMap<String, Vec<String>>,
    /// Fields that are there and could not be read: to be told once, and not as missing too.
    unreadable: BTreeSet<String>,
}

impl Reading {
    /// Takes in what is written, as far as it can be.
    pub(super) fn first_look(text: &str, lookup: impl Fn(&str, Reference<'_>) -> Result<String, Unavailable>) -> Self {
        let mut reading = Self::default();
        if let Ok(top) = load(text) {
            reading.read_top(&top, &lookup);
        }
        reading
    }

    /// The one text that is written for a field.
    pub(super) fn written(&self, path: &str) -> Option<String> {
        match self.values.get(path)?.texts.as_slice() {
            [text] => Some(text.trim().to_owned()),
            _ => None,
        }
    }

    fn problem(&mut self, line: Option<usize>, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problem_that(false, line, path, what, remedy);
    }

    fn problem_that(
        &mut self,
        passing: bool,
        line: Option<usize>,
        path: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if line.is_some() || !self.unreadable.contains(path) {
            let (mut what, remedy) = (what.into(), remedy.into());
            if self.hidden.get(path).is_some_and(|hidden| hidden.iter().any(|value| shows(&what, value))) {
                what = "what its secret holds does not fit here".to_owned();
            }
            self.problems.push(Problem { line, path: path.to_owned(), what, remedy, passing });
        }
    }

    fn sorted_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems
    }

    /// Reads what is written. Answers whether there is a section to read.
    fn read_top(&mut self, top: &Node, lookup: &Lookup<'_>) -> bool {
        let mut roots = Vec::new();
        self.find_roots(top, &mut Vec::new(), &mut roots);
        match roots.as_slice() {
            [root] => self.read_node(root, "", lookup),
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

    fn read_node(&mut self, node: &Node, path: &str, lookup: &Lookup<'_>) {
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
                        self.read_node(value, &below, lookup);
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
                if let Some(text) = self.expand(scalar.as_str(), line, path, lookup) {
                    self.values.insert(path.to_owned(), Raw { line, texts: vec![text], list: false });
                }
            }
            Node::Sequence(items) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    match item.as_scalar() {
                        Some(scalar) => texts.extend(self.expand(scalar.as_str(), line_of(item.span()), path, lookup)),
                        None => {
                            self.problem(line_of(item.span()), path, "an item is not a text", "write a list of texts")
                        }
                    }
                }
                self.values.insert(path.to_owned(), Raw { line, texts, list: true });
            }
        }
    }

    /// A text with each `${…}` replaced.
    fn expand(&mut self, text: &str, line: Option<usize>, path: &str, lookup: &Lookup<'_>) -> Option<String> {
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
            let reference = Reference::parse(name);
            let value = match lookup(path, reference) {
                Ok(value) => value,
                Err(Unavailable { what, remedy, passing }) => {
                    self.problem_that(passing, line, path, what, remedy);
                    unreadable(self);
                    return None;
                }
            };
            if matches!(reference, Reference::Secret { .. }) {
                self.hidden.entry(path.to_owned()).or_default().push(value.clone());
            }
            expanded.push_str(&value);
            rest = after;
        }
        expanded.push_str(rest);
        Some(expanded)
    }

    fn config(&mut self) -> Option<Config> {
        // Everything is read before anything is given up, so that all problems are found.
        let source = self.cluster("source");
        let target = self.cluster("target");
        let backup = self.place("backup");
        let evidence = self.place("evidence");
        let dynamodb_table = self.text("ledger.dynamodb_table");
        let (region, stack) = (self.text("aws.region"), self.text("aws.stack"));
        let s3_path_style = self.choice("aws.s3_path_style").map(|choice| choice == "true");
        let retention = self.duration("evidence.retention");
        let signing_key = self.signing_key();
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
            backup: BackupConfig { place: backup? },
            evidence: EvidenceConfig { place: evidence?, retention: retention?, signing_key: signing_key? },
            ledger: LedgerConfig { dynamodb_table },
            aws: AwsConfig { region, stack, s3_path_style: s3_path_style? },
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

    fn signing_key(&mut self) -> Option<SigningKey> {
        const FILE: &str = "evidence.signing_key_file";
        const KMS: &str = "evidence.kms_key_id";
        match (self.given(FILE), self.given(KMS)) {
            (true, true) => {
                let line = self.line(KMS);
                self.problem(line, KMS, format!("{FILE} is given as well"), "give one of the two");
                None
            }
            (false, true) => self.text(KMS).map(SigningKey::Kms),
            (true, false) => self.text(FILE).map(|text| SigningKey::File(text.into())),
            (false, false) => Some(SigningKey::DefaultFile),
        }
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
        let secret = self.text(SECRET).map(Secret::new);
        let Some(url) = self.text(URL) else {
            if self.given(URL) {
                return None;
            }
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
        let cluster_arn = self.cluster_arn(side);
        let auth = self.auth(side);
        let trust = self.trust(side);
        let enabled = self.choice(&format!("{side}.tls.enabled")).map(|text| text == "true");
        let auth = auth?;
        let tls = match (enabled.unwrap_or(auth != Auth::None), &auth) {
            (false, Auth::Mtls(_)) => {
                let path = format!("{side}.tls.enabled");
                let line = self.line(&path);
                self.problem(line, &path, "mtls is a part of TLS", "leave it out, or use another auth.mode");
                None
            }
            (false, Auth::Iam) => {
                let path = format!("{side}.tls.enabled");
                let line = self.line(&path);
                self.problem(line, &path, "iam sends a token that anybody could use", "leave it out");
                None
            }
            (false, Auth::None | Auth::ScramSha512 { .. }) => {
                let trusting = [format!("{side}.tls.ca_file"), format!("{side}.auth.truststore")];
                for path in trusting.iter() {
                    if !self.given(path) {
                        continue;
                    }
                    let line = self.line(path);
                    self.problem(line, path, "TLS is not enabled", format!("write {side}.tls.enabled: true"));
                }
                None
            }
            (true, _) => Some(Tls { trust: trust? }),
        };
        Some(ClusterConfig { bootstrap_servers: servers?, cluster_arn, auth, tls })
    }

    fn cluster_arn(&mut self, side: &str) -> Option<String> {
        let path = format!("{side}.cluster_arn");
        let text = self.text(&path)?;
        if !Arn::parse(&text).is_some_and(|arn| arn.is_cluster()) {
            let line = self.line(&path);
            let remedy =
                "write arn:aws:kafka:REGION:ACCOUNT:cluster/NAME/UUID, as `aws kafka list-clusters-v2` shows it";
            self.problem(line, &path, format!("{text} is not the ARN of an MSK cluster"), remedy);
        }
        Some(text)
    }

    fn trust(&mut self, side: &str) -> Option<Trust> {
        let (pem, store) = (format!("{side}.tls.ca_file"), format!("{side}.auth.truststore"));
        let password = format!("{side}.auth.truststore_password");
        match (self.given(&pem), self.given(&store)) {
            (true, true) => {
                let line = self.line(&store);
                self.problem(line, &store, format!("{pem} is given as well"), "give one of the two");
                None
            }
            (_, true) => {
                if !self.given(&password) {
                    self.problem(None, &password, "it is missing, and the key store needs it", "give it");
                }
                Some(Trust::KeyStore(self.key_store(&store, &password)?))
            }
            (in_pem, false) => {
                if self.given(&password) {
                    let line = self.line(&password);
                    self.problem(
                        line,
                        &password,
                        format!("there is no {store}"),
                        "leave it out, or give the key store",
                    );
                }
                Some(if in_pem { Trust::Pem(self.text(&pem)?.into()) } else { Trust::System })
            }
        }
    }

    fn key_store(&mut self, file: &str, password: &str) -> Option<KeyStore> {
        let (file, password) = (self.text(file), self.text(password));
        Some(KeyStore { file: file?.into(), password: Secret::new(password?) })
    }

    fn servers(&mut self, side: &str) -> Option<Vec<String>> {
        let path = format!("{side}.bootstrap_servers");
        let servers = self.list(&path);
        if servers.is_empty() {
            if self.given(&format!("{side}.cluster_arn")) && !self.given(&path) {
                return Some(servers);
            }
            let line = self.line(&path);
            let remedy = format!("give at least one broker as host:port, or {side}.cluster_arn");
            self.problem(line, &path, "it is missing", remedy);
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
        let in_store = self.given(&path("keystore"));
        let (needed, possible): (&[&str], &[&str]) = match mode {
            "scram-sha-512" => (&["username", "password"], &[]),
            "mtls" if in_store => (&["keystore", "keystore_password"], &["key_password"]),
            "mtls" => (&["cert_file", "key_file"], &[]),
            _ => (&[], &[]),
        };
        let fields = ["username", "password", "cert_file", "key_file", "keystore", "keystore_password", "key_password"];
        for name in fields {
            let path = path(name);
            let line = self.line(&path);
            match (self.given(&path), needed.contains(&name)) {
                (true, false) if !possible.contains(&name) => {
                    let beside = if mode == "mtls" && in_store { " beside auth.keystore" } else { "" };
                    let what = format!("auth.mode {mode} does not use it{beside}");
                    self.problem(line, &path, what, "leave it out, or change auth.mode");
                }
                (false, true) => {
                    self.problem(line, &path, format!("it is missing, and auth.mode {mode} needs it"), "give it");
                }
                _ => {}
            }
        }
        match mode {
            "none" => Some(Auth::None),
            "iam" => Some(Auth::Iam),
            "scram-sha-512" => {
                let (username, password) = (self.text(&path("username")), self.text(&path("password")));
                Some(Auth::ScramSha512 { username: username?, password: Secret::new(password?) })
            }
            "mtls" if in_store => {
                let store = self.key_store(&path("keystore"), &path("keystore_password"));
                let key_password = self.text(&path("key_password")).map(Secret::new);
                Some(Auth::Mtls(Identity::KeyStore { store: store?, key_password }))
            }
            "mtls" => {
                let (cert, key) = (self.text(&path("cert_file")), self.text(&path("key_file")));
                Some(Auth::Mtls(Identity::Pem { cert_file: cert?.into(), key_file: key?.into() }))
            }
            _ => None,
        }
    }

    /// Whether anything is written for a field, be it unreadable.
    fn given(&self, path: &str) -> bool {
        self.values.contains_key(path) || self.unreadable.contains(path)
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

    /// A folder or a bucket: one of the two.
    fn place(&mut self, section: &str) -> Option<Place> {
        let [directory, bucket, prefix, key] =
            ["directory", "s3_bucket", "s3_prefix", "s3_kms_key_id"].map(|name| format!("{section}.{name}"));
        match (self.given(&directory), self.given(&bucket)) {
            (true, true) => {
                let line = self.line(&bucket);
                self.problem(line, &bucket, format!("{directory} is given as well"), "give one of the two");
                None
            }
            (false, true) => {
                let name = self.text(&bucket);
                // A prefix is a folder to whoever looks at the bucket, however it was written.
                let prefix = self.text(&prefix).map(|text| text.trim_matches('/').to_owned()).unwrap_or_default();
                let prefix = if prefix.is_empty() { prefix } else { prefix + "/" };
                Some(Place::Bucket(Bucket { name: name?, prefix, kms_key_id: self.text(&key) }))
            }
            (folder, false) => {
                for path in [prefix, key] {
                    if self.given(&path) {
                        let line = self.line(&path);
                        self.problem(line, &path, format!("there is no {bucket}"), "leave it out, or give the bucket");
                    }
                }
                if !folder {
                    self.problem(None, &directory, "it is missing", format!("give a folder, or {bucket}"));
                    return None;
                }
                self.text(&directory).map(|text| Place::Folder(text.into()))
            }
        }
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
            | Kind::Servers => &[],
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
            | Kind::Servers => return None,
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
        Some(_) | None => "leave it out, or see the list of fields in docs/configuration.md".to_owned(),
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
