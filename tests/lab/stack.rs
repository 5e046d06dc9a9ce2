//! A stack: the AWS form of a migration as a deployment makes it, from processes of a lab and without containers.
//!
//! Step Functions, SNS, EventBridge and Secrets Manager are moto (`stack/moto_server.py`), DynamoDB and S3 those of
//! [`Lab::aws`]. All else is the front (`stack/front.py`), the endpoint of every client: it runs Lambda functions and
//! Fargate tasks as processes of the real binaries, applies the rules of EventBridge, and answers for MSK what the test
//! wrote. What it is asked here is plain JSON: the lab needs no SDK for it. Rules and timeouts are read from
//! `infra/stack.json`, which CDK deploys: no test has others.
//!
//! What moto does otherwise than AWS, and `moto_server.py` mends: parameters of `ecs:runTask` keep the names of the
//! state machine; a heartbeat before the wait is refused; an answer before the wait is lost until a heartbeat runs out;
//! a task with a heartbeat and no timeout ends after a minute; one token serves all attempts, and is good for ever;
//! `SendTaskFailure` and `StopExecution` lose the cause; a stopped execution goes on until its task ends; JSONata is
//! not there; a child that fails in a distributed map is null in the output of a map that succeeds, and children share
//! the parent's name, ARN and variables; no status events.
//!
//! What stays otherwise than on AWS:
//! - Nothing is refused for want of rights: roles and policies are not looked at, but by S3.
//! - A heartbeat that runs out is `States.Timeout` in history and output; a catcher may name it so or
//!   `States.HeartbeatTimeout`. Definitions should name both.
//! - Children of a distributed map cannot be described or stopped by their ARN; their events are not in any history.
//! - A retrier that sleeps is not woken by a stop: the status is right at once, the history's last event comes late.
//!   A branch that was aborted may add an event behind the last one.
//! - `.sync` calls a task that exits with 1 a success. Use `.waitForTaskToken`.
//! - A task runs within milliseconds, where Fargate takes half a minute. A sandbox is kept for good, is not frozen
//!   between invocations, and is as fast as the machine.
//! - EventBridge's patterns are the front's own few kinds, and its retries are those of Lambda.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    AwsServers, Inner, Lab,
    aws::{REGION, until_answering},
    cluster::free_ports,
    process::{POLL, Process},
    rehearsal::{Rehearsal, command_file},
    repository,
};

/// The account that everything is in.
pub const ACCOUNT: &str = "123456789012";
/// The journal's table.
pub const TABLE: &str = "krossing";
/// The bucket of segments.
pub const SEGMENTS: &str = "segments";
/// The bucket of evidence, with Object Lock.
pub const EVIDENCE: &str = "evidence";
/// The id of a key that signs with Ed25519; `alias/…` is not known.
pub const SIGNING_KEY: &str = "11111111-2222-4333-8444-555555555555";

const TOPIC: &str = "krossing-chat";
const CLUSTER: &str = "krossing";
const WORKER: &str = "krossing-worker";
/// Between the attempts of an asynchronous invocation: Lambda waits for one minute and then two.
const ASYNC_RETRY_SECONDS: [f64; 2] = [1.0, 2.0];

/// The placeholders of the definition that stand for functions, and the functions.
const FUNCTIONS: [(&str, &str); 9] = [
    ("PlanFunction", "krossing-plan"),
    ("PrecheckFunction", "krossing-precheck"),
    ("TopologyFunction", "krossing-topology"),
    ("CutoverFunction", "krossing-cutover"),
    ("ClientSwitchFunction", "krossing-client-switch"),
    ("RollbackFunction", "krossing-rollback"),
    ("RecoverFunction", "krossing-recover"),
    ("NotifyFunction", "krossing-notify"),
    ("DecideFunction", "krossing-decide"),
];

/// Each call of the SDK's is a span with service and method, which lines of its orchestrator name.
const LOG: &str = "info,aws_smithy_runtime::client::orchestrator=debug,aws_sdk=debug";

/// What a rehearsal's configuration says besides, where a stack does the work; the rest is [`StackSpec::of_product`]'s.
pub const CONFIG: &str = "  ledger: {dynamodb_table: krossing}\n  aws: {region: eu-west-1, s3_path_style: true}\n";

/// What is deployed.
#[derive(Debug, Clone)]
pub struct StackSpec {
    /// The whole configuration, as text: `KROSSING_CONFIG` of all functions and tasks.
    pub config: String,
    /// The state machine, with placeholders.
    pub definition: String,
    /// How each function is started, by its name. One that is not here is not deployed.
    pub functions: BTreeMap<String, Vec<String>>,
    /// How the worker is started. The command of a task is appended.
    pub worker: Vec<String>,
    /// More variables of functions and tasks.
    pub environment: BTreeMap<String, String>,
    /// What Secrets Manager holds: names and values.
    pub secrets: Vec<(String, String)>,
    /// What MSK says, in the form that [`Stack::set_msk`] says.
    pub msk: Value,
    /// The name of the event bus.
    pub event_bus: String,
    /// `${SeedConcurrency}`.
    pub seed_concurrency: u32,
    /// `${DecisionTimeoutSeconds}`.
    pub decision_timeout_seconds: u32,
}

impl StackSpec {
    /// The product as it is built, for a rehearsal that was configured with [`CONFIG`]: its segments and evidence go to
    /// the stack's buckets, and KMS signs.
    pub fn of_product(rehearsal: &Rehearsal) -> Result<Self> {
        let folder = rehearsal.folder.display().to_string();
        rehearsal.reconfigure(&format!("directory: \"{folder}/segments\""), &format!("s3_bucket: {SEGMENTS}"))?;
        let evidence = format!("directory: \"{folder}/evidence\", signing_key_file: \"{folder}/signing-key.pem\"");
        rehearsal.reconfigure(&evidence, &format!("s3_bucket: {EVIDENCE}, kms_key_id: {SIGNING_KEY}"))?;
        let config = std::fs::read_to_string(rehearsal.folder.join("migration.yaml"))?;
        let definition = std::fs::read_to_string(repository().join("statemachine/migration.asl.json"))?;
        let binaries = command_file()?;
        let binaries = binaries.parent().context("binaries are in a folder")?;
        Ok(Self {
            environment: BTreeMap::from([("RUST_LOG".to_owned(), LOG.to_owned())]),
            ..Self::new(&config, &definition, binaries)
        })
    }

    /// The product's functions and worker, from a folder of binaries.
    pub fn new(config: &str, definition: &str, binaries: &Path) -> Self {
        let binary = |name: &str| vec![binaries.join(name).display().to_string()];
        Self {
            config: config.to_owned(),
            definition: definition.to_owned(),
            functions: FUNCTIONS.iter().map(|(_, name)| ((*name).to_owned(), binary(name))).collect(),
            worker: binary(WORKER),
            environment: BTreeMap::new(),
            secrets: Vec::new(),
            msk: json!({}),
            event_bus: "default".to_owned(),
            seed_concurrency: 4,
            decision_timeout_seconds: 3_600,
        }
    }

    /// The definition with its placeholders filled. Fails where one is left.
    fn filled_definition(&self) -> Result<String> {
        let functions = FUNCTIONS.map(|(name, function)| (name, arn("lambda", &format!("function:{function}"))));
        let others = [
            ("Cluster", cluster_arn()),
            ("WorkerTask", arn("ecs", &format!("task-definition/{WORKER}:1"))),
            ("Subnets", "subnet-1,subnet-2".to_owned()),
            ("SecurityGroups", "sg-1".to_owned()),
            ("SeedConcurrency", self.seed_concurrency.to_string()),
            ("DecisionTimeoutSeconds", self.decision_timeout_seconds.to_string()),
        ];
        filled(&self.definition, functions.into_iter().chain(others)).context("filling the definition")
    }
}

/// A text with its placeholders filled. Fails where one is left.
fn filled(text: &str, values: impl IntoIterator<Item = (&'static str, String)>) -> Result<String> {
    let mut filled = text.to_owned();
    for (name, value) in values {
        filled = filled.replace(&format!("${{{name}}}"), &value);
    }
    let left = filled.split("${").nth(1).map(|rest| rest.split('}').next().unwrap_or_default().to_owned());
    ensure!(left.is_none(), "there is a placeholder that nothing fills: {left:?}");
    Ok(filled)
}

fn arn(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
}

fn cluster_arn() -> String {
    arn("ecs", &format!("cluster/{CLUSTER}"))
}

/// A stack that runs.
pub struct Stack {
    port: u16,
    folder: PathBuf,
    state_machine: String,
    environment: Vec<(&'static str, String)>,
    servers: AwsServers,
    // Processes end before the lab that watches over them.
    _processes: [Process; 2],
    _lab: Arc<Inner>,
}

/// A service said no.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The name of the error, such as `TaskTimedOut`.
    pub kind: String,
    /// What it said.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Refusal {}

/// How an execution is.
#[derive(Debug, Clone)]
pub struct Execution {
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT` or `ABORTED`.
    pub status: String,
    /// Null unless it succeeded.
    pub output: Value,
    /// The name of the error that it failed with, if it did.
    pub error: Option<String>,
    /// The cause of that.
    pub cause: Option<String>,
}

/// How a function answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Its output.
    Output(Value),
    /// Its error, as `FunctionError` and the payload say it.
    Error {
        /// What Step Functions calls the error.
        error_type: String,
        /// What went wrong.
        message: String,
    },
}

/// One invocation of a function that is over.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The function.
    pub function: String,
    /// Whether a process was started for it.
    pub cold: bool,
    /// From the start of the process until it asked for work; zero unless cold.
    pub init: Duration,
    /// From the request to the answer, with `init`.
    pub took: Duration,
    /// What it was given.
    pub payload: String,
    /// What it answered.
    pub answer: String,
    /// Whether that is an error.
    pub failed: bool,
}

/// A Fargate task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// The command of its overrides.
    pub command: Vec<String>,
    /// The environment of its overrides.
    pub environment: BTreeMap<String, String>,
    /// Whether its process runs.
    pub running: bool,
    /// The exit code, once it has stopped: 137 if it was killed.
    pub exit_code: Option<i64>,
    /// Why it stopped.
    pub stopped_reason: Option<String>,
}

impl Task {
    /// The number behind `--lane`.
    pub fn lane(&self) -> Option<u32> {
        let at = self.command.iter().position(|argument| argument == "--lane")?;
        self.command.get(at + 1)?.parse().ok()
    }
}

impl Lab {
    /// Deploys a stack, and waits until it answers. Fails where `setup.sh` has not been run.
    pub async fn stack(&self, spec: StackSpec) -> Result<Stack> {
        let python = repository().join(".lab/python-aws");
        ensure!(python.join("requirements.cksum").exists(), "moto is missing: run tests/lab/setup.sh");
        let servers = self.aws().await?;
        let folder = self.folder_for_cluster("stack")?;
        let ports = free_ports(2)?;
        let (port, moto_port) = (ports[0], ports[1]);
        let environment = client_environment(port, &servers, &spec);
        let config = front_config(port, moto_port, &folder, &environment, &spec)?;
        write_json(&folder.join("msk.json"), &spec.msk)?;
        write_json(&folder.join("front.json"), &config)?;

        let run = |script: &str| {
            let mut command = Command::new(python.join("bin/python"));
            command.arg("-B").arg(repository().join("tests/lab/stack").join(script));
            command
        };
        let mut moto = run("moto_server.py");
        moto.args(["-H", "127.0.0.1", "-p", &moto_port.to_string()]);
        // Where its state machines find the other services.
        moto.env("MOTO_PORT", port.to_string());
        let moto = self.inner.processes.spawn(moto, &folder.join("moto.log"))?;
        let mut front = run("front.py");
        front.arg(folder.join("front.json"));
        let front = self.inner.processes.spawn(front, &folder.join("front.log"))?;
        let mut processes = [moto, front];
        for (at, port) in [moto_port, port].into_iter().enumerate() {
            until_answering(port, &mut processes[at]).await?;
        }

        write_json(&folder.join("deploy.json"), &deployment(&spec)?)?;
        let mut deploy = run("deploy.py");
        deploy.arg(folder.join("deploy.json"));
        deploy.envs(environment.iter().map(|(name, value)| (name, value))).env("AWS_DEFAULT_REGION", REGION);
        let state_machine = deployed(deploy).await?;
        Ok(Stack { port, folder, state_machine, environment, servers, _processes: processes, _lab: self.inner.clone() })
    }
}

/// What a client of the stack needs, the command as well as functions and tasks.
fn client_environment(port: u16, servers: &AwsServers, spec: &StackSpec) -> Vec<(&'static str, String)> {
    let owner = servers.owner();
    let local = |port| format!("http://127.0.0.1:{port}");
    vec![
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", owner.id.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", owner.secret.to_owned()),
        ("AWS_ENDPOINT_URL", local(port)),
        ("AWS_ENDPOINT_URL_DYNAMODB", local(servers.dynamodb_port())),
        ("AWS_ENDPOINT_URL_S3", local(servers.s3_port())),
        ("KROSSING_EVENT_BUS", spec.event_bus.clone()),
    ]
}

fn front_config(
    port: u16,
    moto_port: u16,
    folder: &Path,
    environment: &[(&'static str, String)],
    spec: &StackSpec,
) -> Result<Value> {
    let file = stack_file()?;
    let common: BTreeMap<_, _> = environment.iter().cloned().collect();
    let mut own = spec.environment.clone();
    own.insert("KROSSING_CONFIG".to_owned(), spec.config.clone());
    own.entry("RUST_LOG".to_owned()).or_insert_with(|| "info".to_owned());
    let mut functions = BTreeMap::new();
    for (name, command) in &spec.functions {
        let entry = items(&file["functions"]).iter().find(|entry| entry["binary"] == *name);
        let timeout = &entry.with_context(|| format!("{name} is not in infra/stack.json"))?["timeout_seconds"];
        functions.insert(name, json!({"command": command, "environment": own, "timeout_seconds": timeout}));
    }
    Ok(json!({
        "port": port,
        "moto_port": moto_port,
        "logs": folder,
        "region": REGION,
        "account": ACCOUNT,
        "environment": common,
        "async_retry_seconds": ASYNC_RETRY_SECONDS,
        "functions": functions,
        "tasks": {WORKER: {
            "container": file["worker"]["container"],
            "command": spec.worker,
            "environment": own,
            "stop_timeout_seconds": file["worker"]["stop_timeout_seconds"],
        }},
        "rules": rules(spec, &file["rules"])?,
        "msk_seed": folder.join("msk.json"),
        "ed25519_keys": [SIGNING_KEY],
    }))
}

/// What CDK deploys.
fn stack_file() -> Result<Value> {
    let text = std::fs::read_to_string(repository().join("infra/stack.json")).context("reading infra/stack.json")?;
    serde_json::from_str(&text).context("infra/stack.json is JSON")
}

/// What the role of a function, by its name in `infra/stack.json`, or of the worker may do, whatever on.
pub fn actions_of(role: &str) -> Result<BTreeSet<String>> {
    let file = stack_file()?;
    let function = items(&file["functions"]).iter().find(|function| function["name"] == role);
    let holder = if role == "worker" { Some(&file["worker"]) } else { function };
    let holder = holder.with_context(|| format!("{role} is not in infra/stack.json"))?;
    let grants = items(&holder["grants"]).iter().filter_map(Value::as_str);
    let statements = grants.flat_map(|grant| items(&file["grants"][grant]));
    let actions = statements.flat_map(|statement| items(&statement["actions"])).filter_map(Value::as_str);
    Ok(actions.map(str::to_owned).collect())
}

/// The calls of AWS that a log tells of, as service and method.
pub fn calls_in(log: &str) -> BTreeSet<(String, String)> {
    let named = |line: &str, name: &str| {
        let rest = line.split_once(&format!("rpc.{name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    log.lines().filter_map(|line| Some((named(line, "service")?, named(line, "method")?))).collect()
}

/// The rules of EventBridge, made of those of `infra/stack.json` as CDK makes them.
fn rules(spec: &StackSpec, declared: &Value) -> Result<Vec<Value>> {
    let arns = [("StateMachine", arn("states", "stateMachine:krossing-lab")), ("Cluster", cluster_arn())];
    let filled = filled(&declared.to_string(), arns).context("filling the rules")?;
    let mut rules: Vec<Value> = serde_json::from_str(&filled)?;
    for rule in &mut rules {
        // What AWS itself reports comes on the default bus, whatever ours is.
        if rule["bus"] != "default" {
            rule["bus"] = json!(spec.event_bus);
        }
        let target = text(rule, "target").context("a rule has a target")?;
        if target == "chat topic" {
            rule["topic"] = json!(arn("sns", TOPIC));
        } else {
            let function = format!("krossing-{target}");
            ensure!(spec.functions.contains_key(&function), "a rule calls {function}, which is not deployed");
            rule["function"] = json!(function);
        }
    }
    Ok(rules)
}

fn deployment(spec: &StackSpec) -> Result<Value> {
    Ok(json!({
        "table": {"name": TABLE, "hash": "scope", "range": "item"},
        "buckets": [{"name": SEGMENTS, "object_lock": false}, {"name": EVIDENCE, "object_lock": true}],
        "topic": TOPIC,
        "event_bus": spec.event_bus,
        "secrets": spec.secrets,
        "state_machine": "krossing-lab",
        "definition": spec.filled_definition()?,
        "role": format!("arn:aws:iam::{ACCOUNT}:role/krossing-states"),
    }))
}

/// Runs the deployment; the ARN of the state machine.
async fn deployed(command: Command) -> Result<String> {
    let output = tokio::process::Command::from(command).output().await.context("deploying the stack")?;
    ensure!(output.status.success(), "deploying the stack: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Whole or not at all: the front may read it at any moment.
fn write_json(file: &Path, value: &Value) -> Result<()> {
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("writing {}", fresh.display()))?;
    Ok(std::fs::rename(&fresh, file)?)
}

/// Step Functions.
impl Stack {
    /// The ARN of the state machine.
    pub fn state_machine(&self) -> &str {
        &self.state_machine
    }

    /// Starts an execution; its ARN.
    pub async fn start_execution(&self, name: &str, input: &Value) -> Result<String> {
        let asked = json!({"stateMachineArn": self.state_machine, "name": name, "input": input.to_string()});
        let answer = self.states("StartExecution", &asked).await?;
        text(&answer, "executionArn").context("an execution has an ARN")
    }

    /// How an execution is.
    pub async fn describe(&self, execution: &str) -> Result<Execution> {
        let found = self.states("DescribeExecution", &json!({"executionArn": execution})).await?;
        let output = found["output"].as_str().map(serde_json::from_str).transpose()?.unwrap_or_default();
        let status = text(&found, "status").context("an execution has a status")?;
        Ok(Execution { status, output, error: text(&found, "error"), cause: text(&found, "cause") })
    }

    /// Waits until an execution has ended.
    pub async fn until_ended(&self, execution: &str, wait_max: Duration) -> Result<Execution> {
        let begun = Instant::now();
        loop {
            let found = self.describe(execution).await?;
            if found.status != "RUNNING" {
                return Ok(found);
            }
            ensure!(begun.elapsed() < wait_max, "the execution still runs after {wait_max:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// All events of an execution, in order. Those of a distributed map's children are not among them.
    pub async fn history(&self, execution: &str) -> Result<Vec<Value>> {
        let (mut events, mut next) = (Vec::new(), Value::Null);
        loop {
            let mut asked = json!({"executionArn": execution, "maxResults": 1_000});
            if !next.is_null() {
                asked["nextToken"] = next;
            }
            let mut page = self.states("GetExecutionHistory", &asked).await?;
            if let Value::Array(some) = page["events"].take() {
                events.extend(some);
            }
            next = page["nextToken"].take();
            if next.is_null() {
                return Ok(events);
            }
        }
    }

    /// Stops an execution, as an operator does.
    pub async fn stop_execution(&self, execution: &str, error: &str, cause: &str) -> Result<()> {
        let asked = json!({"executionArn": execution, "error": error, "cause": cause});
        self.states("StopExecution", &asked).await?;
        Ok(())
    }

    /// Answers for a task.
    pub async fn send_task_success(&self, token: &str, output: &Value) -> Result<(), Refusal> {
        let asked = json!({"taskToken": token, "output": output.to_string()});
        self.states("SendTaskSuccess", &asked).await.map(drop)
    }

    /// Says that a task failed.
    pub async fn send_task_failure(&self, token: &str, error: &str, cause: &str) -> Result<(), Refusal> {
        let asked = json!({"taskToken": token, "error": error, "cause": cause});
        self.states("SendTaskFailure", &asked).await.map(drop)
    }

    async fn states(&self, action: &str, asked: &Value) -> Result<Value, Refusal> {
        self.service("states", "AWSStepFunctions", action, asked).await
    }
}

/// Lambda and ECS.
impl Stack {
    /// Invokes a function and waits for its answer.
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Answer> {
        let path = format!("/2015-03-31/functions/{function}/invocations");
        let response = self.ask("POST", &path, &[], payload.to_string().as_bytes()).await?.accepted()?;
        let failed = response.header("x-amz-function-error").is_some();
        let body: Value = serde_json::from_slice(&response.body).context("a function answers with JSON")?;
        Ok(if failed {
            let error_type = text(&body, "errorType").unwrap_or_default();
            Answer::Error { error_type, message: text(&body, "errorMessage").unwrap_or_default() }
        } else {
            Answer::Output(body)
        })
    }

    /// All invocations that are over, in the order of their ends.
    pub async fn invocations(&self) -> Result<Vec<Invocation>> {
        let records = self.control("GET", "timings", None).await?;
        let milliseconds = |value: &Value| Duration::from_secs_f64(value.as_f64().unwrap_or_default() / 1_000.0);
        let invocation = |record: &Value| Invocation {
            function: text(record, "function").unwrap_or_default(),
            cold: record["cold"] == true,
            init: milliseconds(&record["init_ms"]),
            took: milliseconds(&record["took_ms"]),
            payload: text(record, "payload").unwrap_or_default(),
            answer: text(record, "answer").unwrap_or_default(),
            failed: record["failed"] == true,
        };
        Ok(items(&records).iter().map(invocation).collect())
    }

    /// Kills the processes of a function that are in an invocation; how many there were.
    pub async fn kill_function(&self, function: &str) -> Result<u64> {
        let answer = self.control("POST", &format!("functions/{function}/kill"), Some(&json!({}))).await?;
        answer["killed"].as_u64().context("the front counts")
    }

    /// All tasks since the start, in the order of their starts.
    pub async fn tasks(&self) -> Result<Vec<Task>> {
        let tasks = self.control("GET", "tasks", None).await?;
        let task = |record: &Value| Task {
            id: text(record, "id").unwrap_or_default(),
            command: items(&record["command"]).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            environment: serde_json::from_value(record["environment"].clone()).unwrap_or_default(),
            running: record["running"] == true,
            exit_code: record["exit_code"].as_i64(),
            stopped_reason: text(record, "stopped_reason"),
        };
        Ok(items(&tasks).iter().map(task).collect())
    }

    /// Waits until a task runs whose command begins with `verb`, on `lane` if it has one.
    pub async fn until_running(&self, verb: &str, lane: Option<u32>, wait_max: Duration) -> Result<Task> {
        let begun = Instant::now();
        loop {
            let wanted = |task: &Task| {
                task.running && task.command.first().is_some_and(|first| first == verb) && task.lane() == lane
            };
            if let Some(task) = self.tasks().await?.into_iter().find(wanted) {
                return Ok(task);
            }
            ensure!(begun.elapsed() < wait_max, "no task {verb} on lane {lane:?} runs after {wait_max:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) to a task's process. To ECS one that is killed has ended by itself.
    pub async fn signal_task(&self, task: &Task, signal: &str) -> Result<()> {
        self.control("POST", &format!("tasks/{}/signal", task.id), Some(&json!({"signal": signal}))).await?;
        Ok(())
    }

    /// From now on tasks that are run never start, for this reason as ECS would say it; none: they do.
    pub async fn no_task_starts(&self, reason: Option<&str>) -> Result<()> {
        self.control("POST", "tasks/never-start", Some(&json!({"reason": reason}))).await.map(drop)
    }

    /// The next worker that is about to succeed with an output that has `text` in it is killed instead, and Step
    /// Functions hears nothing.
    pub async fn kill_task_saying(&self, text: &str) -> Result<()> {
        self.control("POST", "tasks/die-saying", Some(&json!({"text": text}))).await.map(drop)
    }

    /// Stops a task, as an operator or a deployment does: SIGTERM, and SIGKILL when its time is up.
    pub async fn stop_task(&self, task: &Task, reason: &str) -> Result<()> {
        let asked = json!({"cluster": CLUSTER, "task": task.id, "reason": reason});
        self.service("ecs", "AmazonEC2ContainerServiceV20141113", "StopTask", &asked).await?;
        Ok(())
    }
}

/// What else the stack said, and its surroundings.
impl Stack {
    /// All events, of ours and of services, in order.
    pub async fn events(&self) -> Result<Vec<Value>> {
        let events = self.control("GET", "events", None).await?;
        Ok(items(&events).iter().map(|record| record["event"].clone()).collect())
    }

    /// What the chat's topic was sent.
    pub async fn messages(&self) -> Result<Vec<Value>> {
        let sent = self.control("GET", "messages", None).await?;
        let message = |record: &Value| {
            ensure!(record["status"] == 200, "SNS did not take a message: {record}");
            Ok(serde_json::from_str(record["message"].as_str().unwrap_or_default())?)
        };
        items(&sent).iter().map(message).collect()
    }

    /// Changes what MSK says: `clusters`, each with `arn`, `v2` (ClusterInfo as DescribeClusterV2 names its members),
    /// `v1`, `bootstrap_brokers`, `nodes`, `scram_secrets`, `compatible_versions`; and `configurations` by ARN, each
    /// with `configuration` and `revisions`, the properties as text by number.
    pub fn set_msk(&self, seed: &Value) -> Result<()> {
        write_json(&self.folder.join("msk.json"), seed)
    }

    /// What the command needs to talk to the stack.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment.clone()
    }

    /// DynamoDB and S3.
    pub fn servers(&self) -> &AwsServers {
        &self.servers
    }

    /// What a function wrote, of all its processes.
    pub fn function_log(&self, function: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("function-{function}.log"))).unwrap_or_default()
    }

    /// What a task wrote.
    pub fn task_log(&self, task: &Task) -> String {
        std::fs::read_to_string(self.folder.join(format!("task-{}.log", task.id))).unwrap_or_default()
    }

    /// Any call of a service that speaks JSON. `scope` is the name that requests are signed for.
    pub async fn service(&self, scope: &str, prefix: &str, action: &str, asked: &Value) -> Result<Value, Refusal> {
        let unusable = |error: anyhow::Error| Refusal { kind: "Lab".to_owned(), message: format!("{error:#}") };
        // moto finds the service by the scope. Nothing checks the signature.
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential=lab/20260101/{REGION}/{scope}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let target = format!("{prefix}.{action}");
        let headers = [
            ("Authorization", signed.as_str()),
            ("X-Amz-Target", target.as_str()),
            ("Content-Type", "application/x-amz-json-1.0"),
        ];
        let response = self.ask("POST", "/", &headers, asked.to_string().as_bytes()).await.map_err(unusable)?;
        let refused = response.status >= 300;
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if !refused {
            return Ok(body);
        }
        let message = text(&body, "message").unwrap_or_else(|| response.text());
        let kind = text(&body, "__type").unwrap_or_default();
        Err(Refusal { kind: kind.rsplit('#').next().unwrap_or_default().to_owned(), message })
    }

    async fn control(&self, method: &str, path: &str, asked: Option<&Value>) -> Result<Value> {
        let body = asked.map(Value::to_string).unwrap_or_default();
        let response = self.ask(method, &format!("/_lab/{path}"), &[], body.as_bytes()).await?.accepted()?;
        Ok(serde_json::from_slice(&response.body)?)
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.context("connecting to the front")?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(&[request.as_bytes(), body].concat()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Response::parse(&answer)
    }
}

/// An answer of the front.
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("an answer has a head")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).context("an answer has a status")?.parse()?;
        Ok(Self { status, head, body: bytes[end + 4..].to_vec() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn accepted(self) -> Result<Self> {
        ensure!(self.status < 300, "the front said {}: {}", self.status, self.text());
        Ok(self)
    }
}

fn text(value: &Value, member: &str) -> Option<String> {
    value[member].as_str().map(str::to_owned)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
