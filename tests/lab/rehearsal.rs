//! A whole migration in a lab: two clusters, hard data under live load, and the `krossing` command as a user runs it.
//!
//! The command is a process of its own, so that it can be killed, and so that its memory and CPU can be read from the
//! outside. What it did is judged by [`compare`](crate::compare), which shares no code with it.

use std::{
    collections::BTreeSet,
    ops::Deref,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    Cluster, ClusterSpec, FreezeWebhook, Lab, Listener, Security, Version,
    certificates::STORE_PASSWORD,
    cluster::KROSSING,
    compare::{compare, groups_resume_exactly},
    process::POLL,
    state::ClusterState,
    workload::{Groups, LiveProducers, Offsets, Scale, Workload},
};

/// The secret that signs the webhook's requests.
pub const WEBHOOK_SECRET: &str = "lab-webhook-secret";

/// What is rehearsed.
#[derive(Debug, Clone)]
pub struct RehearsalSpec {
    /// How much data.
    pub scale: Scale,
    /// 1 or 3 on each side.
    pub brokers: usize,
    /// How the command connects; load and comparison use the plaintext listener.
    pub listener: Listener,
    /// The target's version.
    pub target: Version,
    /// Seed of the data.
    pub seed: u64,
    /// More lines of the configuration, below `migration:`, two spaces in.
    pub config: String,
    /// For how long the target must have kept up.
    pub stable_window: &'static str,
}

impl Default for RehearsalSpec {
    fn default() -> Self {
        Self {
            scale: Scale::Small,
            brokers: 1,
            listener: Listener::Plaintext,
            target: Version::V3_9,
            seed: 1,
            config: String::new(),
            stable_window: "2s",
        }
    }
}

/// Two clusters, a filled source under load, and a configuration for the command.
pub struct Rehearsal {
    /// The cluster in ZooKeeper mode.
    pub source: Cluster,
    /// The cluster in KRaft mode.
    pub target: Cluster,
    /// What was loaded.
    pub workload: Workload,
    /// What goes on producing.
    pub producers: Arc<LiveProducers>,
    /// What freezes them.
    pub webhook: FreezeWebhook,
    /// The groups.
    pub groups: Groups,
    /// The command.
    pub migration: Migration,
}

/// What is asked of a rehearsal is mostly asked of its migration.
impl Deref for Rehearsal {
    type Target = Migration;

    fn deref(&self) -> &Migration {
        &self.migration
    }
}

/// Two clusters without data, for migrations of a test's own small topics: several at a time, each of its own topics.
pub struct Pair {
    /// The cluster in ZooKeeper mode.
    pub source: Cluster,
    /// The cluster in KRaft mode.
    pub target: Cluster,
    /// What is asked to freeze producers. There are none: it says yes.
    pub webhook: FreezeWebhook,
    folder: PathBuf,
}

impl Pair {
    /// Two clusters that run.
    pub async fn new(lab: &Lab, source: Cluster, target: Cluster) -> Result<Self> {
        let webhook = FreezeWebhook::start(LiveProducers::none(&source.client()), Some(WEBHOOK_SECRET)).await?;
        Ok(Self { source, target, webhook, folder: lab.folder().join("migrations") })
    }

    /// A migration of `topics` (names or patterns), over the plaintext listeners. `config` is more of the
    /// configuration, below `migration:`, two spaces in. A second call with the same id changes the configuration.
    pub fn migration(&self, id: &str, topics: &[&str], config: &str) -> Result<Migration> {
        let spec = RehearsalSpec {
            config: format!("  topics: {{include: {topics:?}}}\n{config}"),
            stable_window: "500ms",
            ..RehearsalSpec::default()
        };
        let folder = self.folder.join(id);
        Migration::configure(id, folder, &configuration(&spec, &self.source, &self.target, &self.webhook)?)
    }
}

/// The command for one migration: its configuration, its folder, its journal.
pub struct Migration {
    /// Its id.
    pub id: String,
    /// The folder of configuration, segments and evidence.
    pub folder: PathBuf,
    /// More variables of the environment that the command runs in.
    pub env: Vec<(&'static str, String)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; none where it was killed.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    /// The most memory it held, in bytes.
    pub memory_bytes_max: u64,
    /// Processor time it used.
    pub cpu: Duration,
}

/// Bytes of memory that a command may take, whatever it copies: what a worker's task is given.
pub const MEMORY_BYTES_MAX: u64 = 512_000_000;

impl Outcome {
    /// The outcome, if the command ended well and within its memory.
    pub fn expect_done(self) -> Result<Self> {
        let taken = self.memory_bytes_max;
        ensure!(taken < MEMORY_BYTES_MAX, "{taken} bytes of memory, more than {MEMORY_BYTES_MAX}");
        self.expect_code(0)
    }

    /// The outcome, if the command ended with `code`.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code == Some(code) {
            return Ok(self);
        }
        bail!("exit code {:?} instead of {code}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

impl Rehearsal {
    /// Starts both clusters, fills the source, and starts what goes on producing and consuming.
    pub async fn prepare(lab: &Lab, spec: &RehearsalSpec) -> Result<Self> {
        let security = match spec.listener {
            Listener::Plaintext | Listener::Proxied => Security::Plaintext,
            Listener::Scram | Listener::MutualTls | Listener::Iam => Security::Tls,
        };
        let proxied = spec.listener == Listener::Proxied;
        let iam = spec.listener == Listener::Iam;
        let cluster = ClusterSpec { brokers: spec.brokers, security, proxied, iam, ..ClusterSpec::default() };
        let on_target = ClusterSpec { version: spec.target, ..cluster.clone() };
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(cluster), lab.kraft_cluster(on_target))?;
        let workload = Workload::load(&source, spec.scale, spec.seed).await?;
        let producers = LiveProducers::start(&source.client(), &workload.recorder);
        let webhook = FreezeWebhook::start(producers.clone(), Some(WEBHOOK_SECRET)).await?;
        let groups = Groups::start(&source.client()).await?;
        let folder = lab.folder().join("migration");
        let migration = Migration::configure("lab", folder, &configuration(spec, &source, &target, &webhook)?)?;
        Ok(Self { source, target, workload, producers, webhook, groups, migration })
    }

    /// What of the source must not change.
    pub async fn source_as_it_is(&self) -> Result<ClusterState> {
        ClusterState::read(&self.source).await
    }

    /// An independent client finds every record that producers had acknowledged, once and unchanged, and every group's
    /// position at its record.
    pub async fn is_exact(&self) -> Result<()> {
        let (source, target) = (self.source.client(), self.target.client());
        let compared = compare(&source, &target, &self.topics()).await?;
        ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
        let acknowledged = self.workload.recorder.verify(&source, Offsets::Same).await?;
        ensure!(acknowledged.missing.is_empty(), "{:#?}", acknowledged.missing);
        let resumptions = groups_resume_exactly(&source, &target, &self.groups.names()).await?;
        let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
        ensure!(wrong.is_empty() && resumptions.len() > 200, "{} positions: {wrong:#?}", resumptions.len());
        eprintln!("  {} records and {} positions are as on the source", compared.records, resumptions.len());
        Ok(())
    }

    /// The topics of the workload.
    pub fn topics(&self) -> BTreeSet<String> {
        self.workload.topic_names()
    }
}

/// The configuration, with `{folder}` where the migration's folder belongs.
fn configuration(spec: &RehearsalSpec, source: &Cluster, target: &Cluster, webhook: &FreezeWebhook) -> Result<String> {
    let cluster = |cluster: &Cluster, with_java_stores: bool| -> Result<String> {
        let servers = format!("    bootstrap_servers: \"{}\"\n", cluster.bootstrap(spec.listener));
        let ca =
            |cluster: &Cluster| format!("    tls: {{enabled: true, ca_file: \"{}\"}}\n", cluster.ca_file().display());
        Ok(match spec.listener {
            Listener::Plaintext | Listener::Proxied => servers,
            Listener::Scram => format!(
                "{servers}    auth: {{mode: scram-sha-512, username: {}, password: \"${{LAB_PASSWORD}}\"}}\n{}",
                KROSSING.name,
                ca(cluster)
            ),
            Listener::Iam => format!("{servers}    auth: {{mode: iam}}\n{}", ca(cluster)),
            // Both ways to give a certificate: as Java has it on the target, as PEM on the source.
            Listener::MutualTls if with_java_stores => {
                let stores = cluster.java_stores(KROSSING)?;
                format!(
                    "{servers}    auth: {{mode: mtls, keystore: \"{}\", keystore_password: {STORE_PASSWORD}, truststore: \
                     \"{}\", truststore_password: {STORE_PASSWORD}}}\n",
                    stores.keystore.display(),
                    stores.truststore.display(),
                )
            }
            Listener::MutualTls => {
                let pair = cluster.key_pair(KROSSING);
                format!(
                    "{servers}    auth: {{mode: mtls, cert_file: \"{}\", key_file: \"{}\"}}\n{}",
                    pair.cert_file.display(),
                    pair.key_file.display(),
                    ca(cluster)
                )
            }
        })
    };
    Ok(format!(
        "migration:\n  source:\n{}  target:\n{}  backup: {{directory: \"{{folder}}/segments\"}}\n  evidence: {{directory: \
         \"{{folder}}/evidence\", signing_key_file: \"{{folder}}/signing-key.pem\"}}\n  cutover:\n    drain_stable_window: {}\n    drain_timeout: 5m\n    \
         producer_freeze_webhook: \"{}\"\n    producer_freeze_webhook_secret: \"{WEBHOOK_SECRET}\"\n{}",
        cluster(source, false)?,
        cluster(target, true)?,
        spec.stable_window,
        webhook.url(),
        spec.config,
    ))
}

impl Migration {
    /// Writes the configuration of a migration in `folder`.
    pub fn configure(id: &str, folder: PathBuf, config: &str) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let it = Self { id: id.to_owned(), folder, env: Vec::new() };
        std::fs::write(it.config_file(), config.replace("{folder}", &it.folder.to_string_lossy()))?;
        Ok(it)
    }

    /// Changes a text of the configuration, for the commands to come.
    pub fn reconfigure(&self, from: &str, to: &str) -> Result<()> {
        let config = std::fs::read_to_string(self.config_file())?;
        ensure!(config.contains(from), "{from:?} is not in the configuration:\n{config}");
        Ok(std::fs::write(self.config_file(), config.replace(from, to))?)
    }

    fn config_file(&self) -> PathBuf {
        self.folder.join("migration.yaml")
    }

    /// Where journal, leases and checkpoints are.
    pub fn ledger_folder(&self) -> PathBuf {
        self.folder.join("evidence").join(&self.id)
    }

    /// A command as a user would type it; `migration` for those that need an id.
    pub fn command(&self, name: &str, more: &[&str]) -> Result<Command> {
        let mut command = Command::new(command_file()?);
        command.arg(name).arg("--config").arg(self.config_file()).args(more);
        command.env("LAB_PASSWORD", KROSSING.password).env("RUST_BACKTRACE", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs a command of this migration to its end.
    pub async fn run(&self, name: &str) -> Result<Outcome> {
        self.begin(name)?.finish().await
    }

    /// Starts a command of this migration.
    pub fn begin(&self, name: &str) -> Result<Running> {
        self.start(name, &["--migration-id", &self.id])
    }

    /// Starts a command.
    pub fn start(&self, name: &str, more: &[&str]) -> Result<Running> {
        Running::start(self.command(name, more)?)
    }

    /// The journal: state or kind of each entry, with its reason.
    pub fn journal(&self) -> Result<Vec<serde_json::Value>> {
        read_journal(&self.ledger_folder().join("journal.jsonl"))
    }

    /// Waits until the journal holds an entry that `wanted` likes.
    pub async fn until_journaled(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        loop {
            if self.journal().is_ok_and(|entries| entries.iter().any(&wanted)) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `wanted` segments are in the folder.
    pub async fn until_stored_segments(&self, wanted: usize) -> Result<()> {
        let mut folders = vec![];
        loop {
            folders.push(self.folder.join("segments"));
            let mut found = 0;
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                    match entry.path() {
                        path if path.is_dir() => folders.push(path),
                        path => found += usize::from(path.extension().is_some_and(|extension| extension == "log")),
                    }
                }
            }
            if found >= wanted {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The command under test, built before the tests are: it lies beside the folder of the running test.
pub fn command_file() -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    let mut folders = running.ancestors().skip(1);
    let found = folders.by_ref().take(2).map(|folder| folder.join("krossing")).find(|file| file.is_file());
    found.context("the command is not built: run `cargo build --package krossing-cli` first")
}

/// The entries of a journal, or of the copy of one.
pub fn read_journal(file: &Path) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    // A line without its end is being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// A command that runs.
pub struct Running {
    child: Child,
    began: Instant,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
    usage: JoinHandle<Usage>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    memory_bytes_max: u64,
    cpu: Duration,
}

impl Running {
    /// Starts a command that was made ready by [`Migration::command`].
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn().context("starting the command")?;
        let pid = child.id().context("the command has just started")?;
        let stdout = tokio::spawn(collect(child.stdout.take()));
        let stderr = tokio::spawn(collect(child.stderr.take()));
        Ok(Self { child, began: Instant::now(), stdout, stderr, usage: tokio::spawn(watch(pid)) })
    }

    /// Waits for its end.
    pub async fn finish(mut self) -> Result<Outcome> {
        let status = self.child.wait().await?;
        let took = self.began.elapsed();
        let usage = self.usage.await?;
        Ok(Outcome {
            code: status.code(),
            stdout: self.stdout.await?,
            stderr: self.stderr.await?,
            took,
            memory_bytes_max: usage.memory_bytes_max,
            cpu: usage.cpu,
        })
    }

    /// Stops it where it is (`STOP`), lets it go on (`CONT`), or asks it to end (`TERM`). It is not reaped before
    /// [`Running::finish`], so that its number is still its own.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let id = self.child.id().context("the command has ended")?;
        let status = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status()?;
        ensure!(status.success(), "kill -{signal} {id}: {status}");
        Ok(())
    }

    /// Waits for something that happens while it runs; an error with what it has said where it ends before that.
    pub async fn until(&mut self, happens: impl Future<Output = Result<()>>) -> Result<()> {
        let status = tokio::select! {
            biased;
            done = happens => return done,
            status = self.child.wait() => status?,
        };
        let said = (&mut self.stderr).await?;
        bail!("the command ended ({status}) before what was waited for:\n{said}")
    }

    /// Its process's number; none once it has ended and was waited for.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Kills it with SIGKILL, as it is.
    pub async fn kill(mut self) -> Result<Outcome> {
        ensure!(
            self.child.try_wait()?.is_none(),
            "the command ended before it could be killed: {:?}",
            self.finish().await?
        );
        self.child.start_kill()?;
        self.finish().await
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = String::new();
    let Some(stream) = stream else { return text };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if std::env::var_os("KROSSING_SHOW").is_some() {
            eprintln!("    {line}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Reads a process's memory and CPU until it has ended.
async fn watch(pid: u32) -> Usage {
    let mut usage = Usage::default();
    let folder = PathBuf::from(format!("/proc/{pid}"));
    while let Some(now) = read_usage(&folder) {
        usage = Usage { memory_bytes_max: now.memory_bytes_max.max(usage.memory_bytes_max), cpu: now.cpu };
        tokio::time::sleep(POLL).await;
    }
    usage
}

/// None once the process has ended (a zombie has no memory lines).
fn read_usage(folder: &Path) -> Option<Usage> {
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.split_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // Behind the name, which may hold anything: the fields from the third on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // Linux counts in hundredths of a second wherever Rust runs.
    Some(Usage { memory_bytes_max: kib * 1024, cpu: Duration::from_millis(ticks * 10) })
}
