//! Subnets that packets do not leave, and tasks that never begin: each ends in time, and says what could not be reached,
//! or why, to whoever waits. The product's own binaries, in a stack with a workflow of one task.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use krossing_aws::{Aws, DynamoLedger};
use krossing_core::{ErrorClass, ports::Ledger as _};
use lab::{
    Stack, StackSpec, in_lab,
    rehearsal::command_file,
    stack::{Answer, SIGNING_KEY, TABLE},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::sdk;

/// How long something may take that must not hang: well below the time of a function (`infra/stack.json`).
const WAIT_MAX: Duration = Duration::from_secs(180);

/// When a connection that is not made is taken as one that never will be: on the loopback it takes no time at all.
const SILENCE: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(50);

const MIGRATION: &str = "orders";

/// An address that packets go to and no answer comes from, as behind a missing route: nobody accepts, and there is no
/// room for one more who waits for that.
struct Deaf {
    port: u16,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    async fn listen() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut waiting = Vec::new();
        while let Ok(connected) = tokio::time::timeout(SILENCE, TcpStream::connect(address)).await {
            waiting.push(connected?);
            ensure!(waiting.len() < 100, "whoever does not accept is connected to all the same");
        }
        Ok(Self { port: address.port(), _listener: listener, _waiting: waiting })
    }
}

/// Of a migration between clusters that cannot be reached.
fn config(brokers: &Deaf) -> String {
    let port = brokers.port;
    format!(
        "migration:
  source: {{bootstrap_servers: '127.0.0.1:{port}'}}
  target: {{bootstrap_servers: 'localhost:{port}'}}
  backup: {{s3_bucket: segments}}
  evidence: {{s3_bucket: evidence, kms_key_id: {SIGNING_KEY}}}
  ledger: {{dynamodb_table: {TABLE}}}
  aws: {{region: eu-west-1, s3_path_style: true}}
"
    )
}

/// One task, which is not tried again.
fn definition() -> String {
    let given = |name: &str, value: &str| json!({ "Name": name, "Value": value });
    let environment = [
        given("KROSSING_TASK_TOKEN", "{% $states.context.Task.Token %}"),
        given("KROSSING_MIGRATION_ID", MIGRATION),
        given("KROSSING_EXECUTION", "{% $states.context.Execution.Id %}"),
    ];
    let network = json!({ "AwsvpcConfiguration": { "Subnets": ["subnet-1"] } });
    let worker = json!({ "Name": "worker", "Command": ["seed", "--lane", "0"], "Environment": environment });
    let arguments = json!({
        "Cluster": "${Cluster}",
        "TaskDefinition": "${WorkerTask}",
        "NetworkConfiguration": network,
        "Overrides": { "ContainerOverrides": [worker] },
    });
    let seed = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::ecs:runTask.waitForTaskToken",
        "Arguments": arguments,
        "TimeoutSeconds": 600,
        "End": true,
    });
    json!({ "QueryLanguage": "JSONata", "StartAt": "Seed", "States": { "Seed": seed } }).to_string()
}

/// The product, where `plan` and workers do not reach DynamoDB, and nobody reaches a broker.
fn spec(dynamodb: &Deaf, brokers: &Deaf) -> Result<StackSpec> {
    let binaries = command_file()?;
    let mut spec = StackSpec::new(&config(brokers), &definition(), binaries.parent().unwrap_or(Path::new("")));
    spec.environment = BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned())]);
    let elsewhere = ["env".to_owned(), format!("AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:{}", dynamodb.port)];
    let plan = spec.functions.get_mut("krossing-plan").context("it is deployed")?;
    for command in [plan, &mut spec.worker] {
        command.splice(0..0, elsewhere.clone());
    }
    Ok(spec)
}

fn names(said: &str, all: &[&str]) -> Result<()> {
    for one in all {
        ensure!(said.contains(one), "{one:?} is missing: {said}");
    }
    Ok(())
}

/// Whoever waits for an answer of a function gets one, of the class that says what the workflow makes of it.
async fn function_fails(stack: &Stack, function: &str, class: ErrorClass, said: &[&str]) -> Result<()> {
    let asked = json!({ "migration_id": MIGRATION });
    let answer =
        tokio::time::timeout(WAIT_MAX, stack.invoke(function, &asked)).await.context(function.to_owned())??;
    let Answer::Error { error_type, message } = answer else { anyhow::bail!("{function} did without: {answer:?}") };
    println!("{function}: {error_type}: {message}");
    ensure!(error_type == class.name(), "{function}: {error_type}: {message}");
    names(&message, said)
}

/// What the workflow is told of its task.
async fn task_fails(stack: &Stack, name: &str, error: &str, said: &[&str]) -> Result<()> {
    let execution = stack.start_execution(name, &json!({ "migration_id": MIGRATION })).await?;
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    println!("{name}: {ended:?}");
    ensure!(ended.error.as_deref() == Some(error), "{ended:?}");
    names(&ended.cause.unwrap_or_default(), said)
}

async fn ledger(stack: &Stack) -> DynamoLedger {
    let servers = stack.servers();
    let aws = Aws::of(sdk(servers.dynamodb_port(), servers.owner()).await);
    DynamoLedger::new(&aws, TABLE, &MIGRATION.parse().expect("an id"))
}

async fn a_task_never_starts(stack: &Stack) -> Result<()> {
    let why = "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref";
    stack.no_task_starts(Some(why)).await?;
    task_fails(stack, "never-starts", "Krossing.NotStarted", &["the worker's task has stopped", why]).await?;
    let events = stack.events().await?;
    let stopped = events.iter().rfind(|event| event["detail"]["stopCode"] == "TaskFailedToStart");
    ensure!(stopped.is_some_and(|event| event["detail"]["containers"][0]["exitCode"] == Value::Null), "{stopped:?}");
    // A map keeps to itself why one of its lanes failed: whoever is asked after the failure is told from here.
    let ledger = ledger(stack).await;
    let noted = async {
        loop {
            if let Some((_, noted)) = ledger.document("lane-failure/lane-0").await? {
                return anyhow::Ok(noted);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let noted = tokio::time::timeout(WAIT_MAX, noted).await.context("it is written down")??;
    names(std::str::from_utf8(&noted)?, &[why])
}

#[test]
fn what_cannot_be_reached_and_what_never_starts_is_named_in_time() {
    in_lab("aws-unreachable", async |lab| {
        let (dynamodb, kafka) = (Deaf::listen().await?, Deaf::listen().await?);
        let stack = lab.stack(spec(&dynamodb, &kafka)?).await?;
        let endpoint = format!("127.0.0.1:{}", dynamodb.port);
        let unrouted = [TABLE, "DynamoDB", &endpoint, "subnets", "route", "gateway endpoint", "NAT"];
        let (source, target) = (format!("127.0.0.1:{}", kafka.port), format!("localhost:{}", kafka.port));
        let brokers = ["source", source.as_str(), "target", target.as_str(), "security groups"];
        let ended = tokio::join!(
            function_fails(&stack, "krossing-plan", ErrorClass::Retryable, &unrouted),
            task_fails(&stack, "unrouted", ErrorClass::Retryable.name(), &unrouted),
            // A finding, beside all others.
            function_fails(&stack, "krossing-precheck", ErrorClass::Refused, &brokers),
        );
        ended.0.and(ended.1).and(ended.2)?;
        ensure!(ledger(&stack).await.journal().await?.is_empty(), "something was begun");
        a_task_never_starts(&stack).await
    });
}
