//! Two clusters under load, and a stack that migrates between them.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use krossing_aws::{Aws, DynamoLedger};
use krossing_core::ports::Ledger as _;
use lab::{
    Lab, Stack, StackSpec,
    aws::REGION,
    compare::{compare, groups_resume_exactly},
    rehearsal::{Outcome, Rehearsal, RehearsalSpec, command_file},
    repository,
    stack::{Answer, EVIDENCE, SEGMENTS, SIGNING_KEY, TABLE},
    workload::{Offsets, Scale},
};
use serde_json::Value;

const POLL: Duration = Duration::from_millis(100);

pub(crate) struct Stand {
    pub(crate) rehearsal: Rehearsal,
    pub(crate) stack: Stack,
}

impl Stand {
    /// Clusters with data, and a stack whose configuration names them. `more` is more of the configuration.
    pub(crate) async fn prepare(lab: &Lab, seed: u64, more: &str) -> Result<Self> {
        let config =
            format!("  ledger: {{dynamodb_table: {TABLE}}}\n  aws: {{region: {REGION}, s3_path_style: true}}\n{more}");
        let spec = RehearsalSpec { scale: Scale::Tiny, config, seed, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let folder = rehearsal.folder.display().to_string();
        rehearsal.reconfigure(&format!("directory: \"{folder}/segments\""), &format!("s3_bucket: {SEGMENTS}"))?;
        let evidence = format!("directory: \"{folder}/evidence\", signing_key_file: \"{folder}/signing-key.pem\"");
        rehearsal.reconfigure(&evidence, &format!("s3_bucket: {EVIDENCE}, kms_key_id: {SIGNING_KEY}"))?;
        let config = std::fs::read_to_string(rehearsal.folder.join("migration.yaml"))?;
        let definition = std::fs::read_to_string(repository().join("statemachine/migration.asl.json"))?;
        let binaries = command_file()?.parent().context("binaries are in a folder")?.to_owned();
        let mut spec = StackSpec::new(&config, &definition, &binaries);
        spec.environment.insert("RUST_LOG".to_owned(), "info".to_owned());
        let stack = lab.stack(spec).await?;
        rehearsal.migration.env = stack.environment();
        Ok(Self { rehearsal, stack })
    }

    /// Waits until a gate has asked for the `times`-th time. Ends with what went wrong where the execution has.
    pub(crate) async fn until_asked(&self, execution: &str, gate: &str, times: usize) -> Result<Value> {
        loop {
            let events = self.stack.events().await?;
            let asked =
                |event: &&Value| event["detail-type"] == "Krossing Decision Needed" && event["detail"]["gate"] == gate;
            if let Some(event) = events.iter().filter(asked).nth(times - 1) {
                return Ok(event["detail"].clone());
            }
            let other = events.iter().rfind(|event| {
                event["detail-type"] == "Krossing Decision Needed" && event["detail"]["gate"] == "after_failure"
            });
            if let (Some(event), true) = (other, gate != "after_failure" && times == 1) {
                bail!("it failed before {gate}: {}", event["detail"]);
            }
            let now = self.stack.describe(execution).await?;
            ensure!(now.status == "RUNNING", "it ended before {gate}: {now:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A command of the operator's, against the stack.
    pub(crate) async fn command(&self, name: &str) -> Result<Outcome> {
        self.rehearsal.start(name, &["--migration-id", "lab", "--stack", "lab"])?.finish().await
    }

    pub(crate) async fn decide(&self, payload: &Value) -> Result<Answer> {
        self.stack.invoke("krossing-decide", payload).await
    }

    fn ledger(&self) -> DynamoLedger {
        let owner = self.stack.servers().owner();
        let credentials = Credentials::new(owner.id, owner.secret, None, None, "lab");
        let sdk = aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(format!("http://127.0.0.1:{}", self.stack.servers().dynamodb_port()))
            .build();
        DynamoLedger::new(&Aws::of(sdk), TABLE, &"lab".parse().unwrap())
    }

    pub(crate) async fn journal(&self) -> Result<Vec<Value>> {
        let lines = self.ledger().journal().await?;
        lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The states that the journal went through.
    pub(crate) async fn states(&self) -> Result<Vec<String>> {
        let journal = self.journal().await?;
        let transitions = journal.iter().filter(|entry| entry["kind"] == "transition");
        Ok(transitions.filter_map(|entry| entry["to"].as_str().map(str::to_owned)).collect())
    }

    /// An independent client finds every record and every position.
    pub(crate) async fn is_exact(&self) -> Result<()> {
        let (source, target) = (self.rehearsal.source.client(), self.rehearsal.target.client());
        let compared = compare(&source, &target, &self.rehearsal.topics()).await?;
        ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
        let acknowledged = self.rehearsal.workload.recorder.verify(&source, Offsets::Same).await?;
        ensure!(acknowledged.missing.is_empty(), "{:#?}", acknowledged.missing);
        let resumptions = groups_resume_exactly(&source, &target, &self.rehearsal.groups.names()).await?;
        let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
        ensure!(wrong.is_empty() && resumptions.len() > 200, "{} positions: {wrong:#?}", resumptions.len());
        eprintln!("  {} records and {} positions are as on the source", compared.records, resumptions.len());
        Ok(())
    }

    async fn s3(&self) -> aws_sdk_s3::Client {
        let owner = self.stack.servers().owner();
        let sdk = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(owner.id, owner.secret, None, None, "lab"))
            .endpoint_url(format!("http://127.0.0.1:{}", self.stack.servers().s3_port()))
            .load()
            .await;
        aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true).build())
    }

    /// Brings the evidence here and has the command check it; it cannot be deleted from the bucket.
    pub(crate) async fn evidence_verifies(&self) -> Result<()> {
        let s3 = self.s3().await;
        let folder: PathBuf = self.rehearsal.folder.join("brought");
        let listed = s3.list_objects_v2().bucket(EVIDENCE).prefix("lab/").send().await?;
        for key in listed.contents().iter().filter_map(|object| object.key()) {
            let file = folder.join(key);
            std::fs::create_dir_all(file.parent().context("a key has a folder")?)?;
            let object = s3.get_object().bucket(EVIDENCE).key(key).send().await?;
            std::fs::write(file, object.body.collect().await?.into_bytes())?;
        }
        let verified = Command::new(command_file()?)
            .args(["evidence", "verify"])
            .arg(folder.join("lab/evidence.json"))
            .arg("--objects")
            .arg(&folder)
            .output()?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let versions = s3.list_object_versions().bucket(EVIDENCE).prefix("lab/evidence.json").send().await?;
        let version = versions.versions().first().and_then(|version| version.version_id()).context("a version")?;
        let deleted = s3.delete_object().bucket(EVIDENCE).key("lab/evidence.json").version_id(version).send().await;
        ensure!(deleted.is_err(), "signed evidence was deleted");
        Ok(())
    }

    /// Each change of state came as an event and as a message for the chat, in order.
    pub(crate) async fn everything_was_told(&self, journal: &[Value]) -> Result<()> {
        let entries = journal.iter().filter(|entry| entry["kind"] == "transition");
        let wanted: Vec<_> = entries.map(|entry| entry["to"].clone()).collect();
        let events = self.stack.events().await?;
        let told: Vec<_> = events
            .iter()
            .filter(|event| event["detail"]["position"].is_u64())
            .map(|event| event["detail"]["state"].clone())
            .collect();
        ensure!(told == wanted, "{told:?} was told of {wanted:?}");
        let messages = self.stack.messages().await?;
        ensure!(messages.len() >= wanted.len(), "{} messages of {} states", messages.len(), wanted.len());
        ensure!(messages.iter().all(|message| message["content"]["title"].is_string()), "{messages:#?}");
        Ok(())
    }

    /// What a run takes: states, events, cold and warm starts.
    pub(crate) async fn figures(&self, execution: &str) -> Result<()> {
        let history = self.stack.history(execution).await?;
        let entered = |event: &&Value| event["type"].as_str().is_some_and(|kind| kind.ends_with("StateEntered"));
        eprintln!("  {} history events, {} states entered", history.len(), history.iter().filter(entered).count());
        for invocation in self.stack.invocations().await? {
            let (start, took) = (if invocation.cold { "cold" } else { "warm" }, invocation.took.as_millis());
            eprintln!("  {}: {start} init_ms={} took_ms={took}", invocation.function, invocation.init.as_millis());
        }
        Ok(())
    }
}

/// The task token in the line for the AWS command line.
pub(crate) fn token_of(asked: &Value) -> Result<String> {
    let line = asked["send_task_success"].as_str().context("a line for the command line")?;
    Ok(line.split('\'').nth(1).context("a token in quotes")?.to_owned())
}
