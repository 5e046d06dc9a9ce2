//! Two clusters under load, and a stack that migrates between them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::PathBuf,
    pin::pin,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use krossing_aws::{Aws, DynamoLedger};
use krossing_core::ports::Ledger as _;
use lab::{
    Lab, Listener, Stack, StackSpec,
    aws::REGION,
    cluster::KROSSING,
    rehearsal::{Outcome, Rehearsal, RehearsalSpec, Running, WEBHOOK_SECRET, command_file},
    stack::{ACCOUNT, Answer, CONFIG, EVIDENCE, SEGMENTS, TABLE, Task, actions_of, calls_in},
    workload::{NewRecord, RecordingProducer, Scale, TopicSpec, create_topics},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(100);

/// How long a migration of this size may take to come to its next gate, or to its end.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(240);

pub(crate) struct Stand {
    pub(crate) rehearsal: Rehearsal,
    pub(crate) stack: Stack,
    /// The id of the migration that is looked at.
    pub(crate) id: &'static str,
}

fn msk_arn(name: &str) -> String {
    format!("arn:aws:kafka:{REGION}:{ACCOUNT}:cluster/{name}/1a2b3c4d-0000-1111-2222-333344445555-1")
}

/// A cluster as MSK tells of it.
fn on_msk(name: &str, kafka_version: &str, brokers: &str) -> Value {
    let zookeeper = name == "zk";
    let controllers = match zookeeper {
        true => json!({ "zookeeperNodeInfo": { "zookeeperId": 1.0, "endpoints": ["z"] } }),
        false => json!({ "controllerNodeInfo": { "endpoints": ["c"] } }),
    };
    json!({
        "arn": msk_arn(name),
        "v2": {
            "clusterType": "PROVISIONED", "clusterArn": msk_arn(name), "clusterName": name, "state": "ACTIVE",
            "creationTime": "2026-01-02T03:04:05.000Z", "currentVersion": "K1",
            "provisioned": {
                "brokerNodeGroupInfo": {
                    "brokerAZDistribution": "DEFAULT", "clientSubnets": ["subnet-1"],
                    "instanceType": "kafka.m7g.large", "securityGroups": ["sg-1"],
                    "storageInfo": { "ebsStorageInfo": { "volumeSize": 100 } },
                    "connectivityInfo": { "publicAccess": { "type": "DISABLED" } }
                },
                "currentBrokerSoftwareInfo": { "kafkaVersion": kafka_version },
                "clientAuthentication": {
                    "sasl": { "scram": { "enabled": true }, "iam": { "enabled": false } },
                    "tls": { "enabled": false }, "unauthenticated": { "enabled": false }
                },
                "numberOfBrokerNodes": brokers.split(',').count(), "storageMode": "LOCAL",
                "zookeeperConnectString": if zookeeper { json!("z-1.lab:2181") } else { Value::Null }
            }
        },
        "bootstrap_brokers": { "bootstrapBrokerStringSaslScram": brokers },
        "nodes": [{ "nodeType": "BROKER", "brokerNodeInfo": { "brokerId": 1.0 } }, controllers],
        "scram_secrets": [format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:AmazonMSK_krossing-a1B2c3")],
    })
}

impl Stand {
    /// Clusters with data, and a stack whose configuration names them. `more` is more of the configuration.
    pub(crate) async fn prepare(lab: &Lab, seed: u64, more: &str) -> Result<Self> {
        Self::prepare_with(lab, seed, more, |_| {}).await
    }

    /// As `prepare`, with a stack that is deployed otherwise.
    pub(crate) async fn prepare_with(
        lab: &Lab,
        seed: u64,
        more: &str,
        change: impl FnOnce(&mut StackSpec),
    ) -> Result<Self> {
        let spec =
            RehearsalSpec { scale: Scale::Tiny, config: format!("{CONFIG}{more}"), seed, ..RehearsalSpec::default() };
        let rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let mut spec = StackSpec::of_product(&rehearsal)?;
        change(&mut spec);
        Self::deploy(lab, rehearsal, spec).await
    }

    /// Clusters as they are on MSK: known by their ARNs, and logged in to with SCRAM over TLS. Passwords are secrets.
    pub(crate) async fn prepare_on_msk(lab: &Lab, seed: u64) -> Result<Self> {
        let config = CONFIG.to_owned();
        let spec =
            RehearsalSpec { scale: Scale::Tiny, listener: Listener::Scram, config, seed, ..RehearsalSpec::default() };
        let rehearsal = Rehearsal::prepare(lab, &spec).await?;
        rehearsal.reconfigure("${LAB_PASSWORD}", "${secretsmanager:AmazonMSK_krossing:password}")?;
        rehearsal.reconfigure(WEBHOOK_SECRET, "${secretsmanager:krossing-webhook}")?;
        let mut described = Vec::new();
        for (cluster, name, kafka_version) in
            [(&rehearsal.source, "zk", "3.9.x"), (&rehearsal.target, "kraft", "3.9.x.kraft")]
        {
            let (brokers, cluster_arn) = (cluster.bootstrap(Listener::Scram), msk_arn(name));
            rehearsal.reconfigure(
                &format!("bootstrap_servers: \"{brokers}\""),
                &format!("cluster_arn: \"{cluster_arn}\""),
            )?;
            described.push(on_msk(name, kafka_version, &brokers));
        }
        let mut spec = StackSpec::of_product(&rehearsal)?;
        spec.msk = json!({ "clusters": described });
        let login = json!({ "username": KROSSING.name, "password": KROSSING.password }).to_string();
        spec.secrets =
            vec![("AmazonMSK_krossing".to_owned(), login), ("krossing-webhook".to_owned(), WEBHOOK_SECRET.to_owned())];
        Self::deploy(lab, rehearsal, spec).await
    }

    async fn deploy(lab: &Lab, mut rehearsal: Rehearsal, spec: StackSpec) -> Result<Self> {
        let stack = lab.stack(spec).await?;
        rehearsal.migration.env = stack.environment();
        Ok(Self { rehearsal, stack, id: "lab" })
    }

    /// The ARN of an execution of this name.
    pub(crate) fn execution(&self, name: &str) -> String {
        format!("{}:{name}", self.stack.state_machine().replace(":stateMachine:", ":execution:"))
    }

    /// Begins an execution of the migration.
    pub(crate) async fn start(&self, name: &str) -> Result<String> {
        self.stack.start_execution(name, &json!({ "migration_id": self.id })).await
    }

    /// What a gate of an execution has asked, without what it asked twice.
    async fn asked(&self, execution: &str, gate: &str) -> Result<Vec<Value>> {
        let mut asked: Vec<Value> = self.stack.events().await?.iter().map(|event| event["detail"].clone()).collect();
        asked.retain(|detail| detail["gate"] == gate && detail["execution"] == execution);
        asked.dedup_by_key(|detail| detail["send_task_success"].clone());
        Ok(asked)
    }

    /// Waits until a gate has asked for the `times`-th time. Ends with what went wrong where the execution has.
    pub(crate) async fn until_asked(&self, execution: &str, gate: &str, times: usize) -> Result<Value> {
        let failures = self.asked(execution, "after_failure").await?.len();
        let begun = Instant::now();
        loop {
            if let Some(question) = self.asked(execution, gate).await?.get(times - 1) {
                return Ok(question.clone());
            }
            if gate != "after_failure"
                && let Some(failed) = self.asked(execution, "after_failure").await?.get(failures)
            {
                bail!("it failed before {gate}: {failed}");
            }
            let now = self.stack.describe(execution).await?;
            ensure!(now.status == "RUNNING", "it ended before {gate}: {now:?}");
            ensure!(begun.elapsed() < WAIT_MAX, "{gate} has not asked for the {times}. time after {WAIT_MAX:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !is_so(self).await? {
            ensure!(begun.elapsed() < WAIT_MAX, "not after {WAIT_MAX:?}: {what}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Answers the gate that is open, as an operator does who says who they are.
    pub(crate) async fn says(&self, by: &str, decision: &str) -> Result<()> {
        let said = json!({ "migration_id": self.id, "decision": decision, "by": by, "reason": "CHG-1" });
        let answer = self.decide(&said).await?;
        ensure!(matches!(answer, Answer::Output(_)), "{decision}: {answer:?}");
        Ok(())
    }

    /// Tasks whose command begins with `verb`, those that have ended too.
    pub(crate) async fn tasks(&self, verb: &str) -> Result<Vec<Task>> {
        let mut tasks = self.stack.tasks().await?;
        tasks.retain(|task| task.command.first().is_some_and(|first| first == verb));
        Ok(tasks)
    }

    /// Waits until the definition has put another worker in the place of one that ended with `exit_code`.
    pub(crate) async fn until_replaced(&self, task: &Task, exit_code: i64) -> Result<Task> {
        let mut next = None;
        self.until("another task does the work of one that has ended", async |stand| {
            let tasks = stand.tasks(&task.command[0]).await?;
            let later = tasks.iter().skip_while(|one| one.id != task.id).skip(1);
            next = later.filter(|one| one.running && one.lane() == task.lane()).last().cloned();
            Ok(next.is_some())
        })
        .await?;
        let ended = self.stack.tasks().await?.into_iter().find(|one| one.id == task.id).context("it is known")?;
        ensure!(ended.exit_code == Some(exit_code), "{ended:?}");
        next.context("there is a next one")
    }

    /// Whether `recover` has looked at the end of an execution, and had no trouble with it.
    pub(crate) async fn recovered(&self, execution: &str) -> Result<bool> {
        let invocations = self.stack.invocations().await?;
        let mut ends = invocations.iter().filter(|one| {
            one.function == "krossing-recover" && one.payload.contains("aws.states") && one.payload.contains(execution)
        });
        Ok(ends.any(|one| !one.failed))
    }

    /// Delivers to a function once more what it was given last.
    pub(crate) async fn deliver_again(&self, function: &str) -> Result<Answer> {
        let invocations = self.stack.invocations().await?;
        let last = invocations.iter().rfind(|invocation| invocation.function == function);
        let payload = last.with_context(|| format!("{function} was invoked before"))?.payload.clone();
        self.stack.invoke(function, &serde_json::from_str(&payload)?).await
    }

    /// How many segments are stored, of all migrations.
    pub(crate) async fn segments(&self) -> Result<usize> {
        let mut pages = self.s3().await.list_objects_v2().bucket(SEGMENTS).into_paginator().send();
        let mut found = 0;
        while let Some(page) = pages.next().await {
            let page = page?;
            let keys = page.contents().iter().filter_map(|object| object.key());
            found += keys.filter(|key| key.ends_with(".log")).count();
        }
        Ok(found)
    }

    /// Removes what a migration has left on the target, and looks at another.
    pub(crate) async fn another_migration(&mut self, id: &'static str) -> Result<()> {
        let topics = self.rehearsal.topics();
        delete_topics(&self.rehearsal.target.client(), topics.iter().map(String::as_str)).await?;
        self.id = id;
        Ok(())
    }

    /// Deletes a topic of the source.
    pub(crate) async fn a_topic_is_lost(&self, name: &str) -> Result<()> {
        delete_topics(&self.rehearsal.source.client(), [name]).await
    }

    /// Has a topic appear on the source, with records.
    pub(crate) async fn a_topic_appears(&mut self, name: &str) -> Result<()> {
        let (source, workload) = (self.rehearsal.source.client(), &mut self.rehearsal.workload);
        let topic = TopicSpec::new(name, 2);
        create_topics(&source, std::slice::from_ref(&topic), 1).await?;
        workload.topics.push(topic);
        let producer = RecordingProducer::new(&source, &workload.recorder, name, &[])?;
        tokio::task::spawn_blocking(move || {
            for partition in [0, 1].repeat(250) {
                producer.send(&NewRecord { partition, value: Some(b"new"), ..NewRecord::default() })?;
            }
            producer.settle()
        })
        .await?
    }

    /// What producers were asked, since the request number `from`.
    pub(crate) fn producers_were_told(&self, from: usize) -> Vec<String> {
        let requests = self.rehearsal.webhook.requests();
        requests.iter().skip(from).filter_map(|request| Some(request["action"].as_str()?.to_owned())).collect()
    }

    /// A command of the operator's, against the stack.
    pub(crate) async fn command(&self, name: &str) -> Result<Outcome> {
        self.command_with(name, &[]).await
    }

    /// As `command`, with more arguments.
    pub(crate) async fn command_with(&self, name: &str, more: &[&str]) -> Result<Outcome> {
        let arguments = [&["--migration-id", self.id, "--stack", "lab"], more].concat();
        self.rehearsal.start(name, &arguments)?.finish().await
    }

    /// As `command`, at a terminal where the operator types `answer` to whatever it asks.
    pub(crate) async fn command_at_a_terminal(&self, name: &str, answer: &str) -> Result<Outcome> {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&keyboard)?;
        unlockpt(&keyboard)?;
        let terminal = ptsname(&keyboard, Vec::new())?.into_string()?;
        let mut keyboard = File::from(keyboard);
        let mut command = self.rehearsal.command(name, &["--migration-id", self.id, "--stack", "lab"])?;
        command.stdin(File::options().read(true).write(true).open(terminal)?);
        let mut ended = pin!(Running::start(command)?.finish());
        loop {
            tokio::select! {
                outcome = &mut ended => return outcome,
                // What was typed before it asked is forgotten.
                () = tokio::time::sleep(POLL) => writeln!(keyboard, "{answer}")?,
            }
        }
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
        DynamoLedger::new(&Aws::of(sdk), TABLE, &self.id.parse().unwrap())
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

    /// What lies beside the evidence under this name.
    pub(crate) async fn beside_evidence(&self, name: &str) -> Result<Value> {
        let object = self.s3().await.get_object().bucket(EVIDENCE).key(format!("{}/{name}", self.id)).send().await?;
        Ok(serde_json::from_slice(&object.body.collect().await?.into_bytes())?)
    }

    /// Brings the evidence here and has the command check it, whose words are answered; it cannot be deleted from the
    /// bucket.
    pub(crate) async fn evidence_verifies(&self) -> Result<String> {
        let s3 = self.s3().await;
        let folder: PathBuf = self.rehearsal.folder.join("brought");
        let listed = s3.list_objects_v2().bucket(EVIDENCE).prefix(format!("{}/", self.id)).send().await?;
        for key in listed.contents().iter().filter_map(|object| object.key()) {
            let file = folder.join(key);
            std::fs::create_dir_all(file.parent().context("a key has a folder")?)?;
            let object = s3.get_object().bucket(EVIDENCE).key(key).send().await?;
            std::fs::write(file, object.body.collect().await?.into_bytes())?;
        }
        let verified = Command::new(command_file()?)
            .args(["evidence", "verify"])
            .arg(folder.join(self.id).join("evidence.json"))
            .arg("--objects")
            .arg(&folder)
            .output()?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let evidence = format!("{}/evidence.json", self.id);
        let versions = s3.list_object_versions().bucket(EVIDENCE).prefix(&evidence).send().await?;
        let version = versions.versions().first().and_then(|version| version.version_id()).context("a version")?;
        let deleted = s3.delete_object().bucket(EVIDENCE).key(&evidence).version_id(version).send().await;
        ensure!(deleted.is_err(), "signed evidence was deleted");
        Ok(String::from_utf8(verified.stdout)?)
    }

    /// Each change of state came as an event and as a message for the chat, in order.
    pub(crate) async fn everything_was_told(&self, journal: &[Value]) -> Result<()> {
        let entries = journal.iter().filter(|entry| entry["kind"] == "transition");
        let wanted: Vec<_> = entries.map(|entry| entry["to"].clone()).collect();
        let events = self.stack.events().await?;
        let told: Vec<_> = events
            .iter()
            .filter(|event| event["detail"]["migration_id"] == self.id && event["detail"]["position"].is_u64())
            .map(|event| event["detail"]["state"].clone())
            .collect();
        ensure!(told == wanted, "{told:?} was told of {wanted:?}");
        let messages = self.stack.messages().await?;
        ensure!(messages.len() >= wanted.len(), "{} messages of {} states", messages.len(), wanted.len());
        ensure!(messages.iter().all(|message| message["content"]["title"].is_string()), "{messages:#?}");
        Ok(())
    }

    /// The webhook's secret is in the configuration, and nowhere else; a task's token is in no chat.
    pub(crate) async fn no_secret_is_told(&self, execution: &str) -> Result<()> {
        let mut told = vec![("the history", format!("{:?}", self.stack.history(execution).await?))];
        told.push(("an event", format!("{:?}", self.stack.events().await?)));
        told.push(("the journal", format!("{:?}", self.journal().await?)));
        let invocations = self.stack.invocations().await?;
        let functions: std::collections::BTreeSet<_> = invocations.iter().map(|one| one.function.as_str()).collect();
        told.extend(functions.iter().map(|function| ("a function's log", self.stack.function_log(function))));
        told.extend(self.stack.tasks().await?.iter().map(|task| ("a task's log", self.stack.task_log(task))));
        for (what, text) in &told {
            ensure!(!text.contains(WEBHOOK_SECRET), "{what} tells the webhook's secret");
            ensure!(!text.contains(KROSSING.password), "{what} tells the clusters' password");
        }
        ensure!(told.iter().filter(|(what, text)| what.ends_with("log") && !text.is_empty()).count() > 5);
        let chat = format!("{:?}", self.stack.messages().await?);
        for event in self.stack.events().await? {
            if event["detail"]["send_task_success"].is_string() {
                ensure!(!chat.contains(&token_of(&event["detail"])?), "the chat is told a task's token");
            }
        }
        let mirror =
            self.s3().await.get_object().bucket(EVIDENCE).key(format!("{}/journal.jsonl", self.id)).send().await?;
        let mirror = String::from_utf8(mirror.body.collect().await?.to_vec())?;
        ensure!(mirror.lines().count() == self.journal().await?.len(), "the journal's copy is another");
        Ok(())
    }

    /// Functions and worker have called nothing that their roles may not. On what resource is not looked at.
    pub(crate) async fn calls_are_within_rights(&self) -> Result<()> {
        let mut logs: BTreeMap<String, String> = BTreeMap::new();
        for invocation in self.stack.invocations().await? {
            let role = invocation.function.trim_start_matches("krossing-").to_owned();
            logs.entry(role).or_insert_with(|| self.stack.function_log(&invocation.function));
        }
        for task in self.stack.tasks().await? {
            logs.entry("worker".to_owned()).or_default().push_str(&self.stack.task_log(&task));
        }
        for (role, log) in &logs {
            let (allowed, calls) = (actions_of(role)?, calls_in(log));
            ensure!(!calls.is_empty(), "{role} has called nothing, says its log");
            for (service, method) in calls {
                let action = action_of(&service, &method)?;
                ensure!(action.is_none_or(|action| allowed.contains(&action)), "{role} may not {service} {method}");
            }
        }
        Ok(())
    }

    /// What a run takes: states, events, cold and warm starts.
    pub(crate) async fn figures(&self, execution: &str) -> Result<()> {
        let history = self.stack.history(execution).await?;
        let entered = |event: &&Value| event["type"].as_str().is_some_and(|kind| kind.ends_with("StateEntered"));
        let largest = history.iter().map(|event| event.to_string().len()).max().unwrap_or_default();
        let states = history.iter().filter(entered).count();
        eprintln!("  {} history events of {largest} bytes at most, {states} states entered", history.len());
        // Whatever is migrated: what travels is who and how it ended. AWS ends an execution at 25,000 events.
        ensure!(history.len() < 120 && largest < 16 * 1024, "{} events of up to {largest} bytes", history.len());
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

/// What IAM calls the right to a call; none where it takes none.
fn action_of(service: &str, method: &str) -> Result<Option<String>> {
    let action = match (service, method) {
        ("STS", "GetCallerIdentity") => return Ok(None),
        ("DynamoDB", method) => format!("dynamodb:{method}"),
        ("S3", "HeadObject") => "s3:GetObject".to_owned(),
        ("S3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => "s3:PutObject".to_owned(),
        ("S3", "ListObjectsV2" | "HeadBucket") => "s3:ListBucket".to_owned(),
        ("S3", "GetObjectLockConfiguration") => "s3:GetBucketObjectLockConfiguration".to_owned(),
        ("S3", method) => format!("s3:{method}"),
        ("SFN", method) => format!("states:{method}"),
        ("EventBridge", method) => format!("events:{method}"),
        ("KMS", method) => format!("kms:{method}"),
        ("Secrets Manager", method) => format!("secretsmanager:{method}"),
        ("Kafka", method) => format!("kafka:{method}"),
        _ => bail!("which right {service} {method} takes is not known here"),
    };
    Ok(Some(action))
}

async fn delete_topics(client: &ClientConfig, names: impl IntoIterator<Item = &str>) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let names: Vec<_> = names.into_iter().collect();
    for deleted in admin.delete_topics(&names, &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| anyhow!("deleting {topic}: {code}"))?;
    }
    Ok(())
}
