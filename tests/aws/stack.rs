//! The stack itself, with a small definition and programs of its own: what the tests of the product rely on when they
//! ask what Step Functions would have done.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    Stack, StackSpec, in_lab, repository,
    stack::{Answer, SIGNING_KEY},
};
use serde_json::{Value, json};

const WAIT_MAX: Duration = Duration::from_secs(180);

fn spec() -> StackSpec {
    let folder = repository().join("tests/aws/stack");
    let script = |name: &str| vec!["python3".to_owned(), folder.join(name).display().to_string()];
    let mut spec = StackSpec::new("migration: {}", include_str!("stack/machine.asl.json"), Path::new("unused"));
    for command in spec.functions.values_mut() {
        *command = script("function.py");
    }
    spec.worker = script("worker.py");
    spec.environment = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    spec
}

/// Waits until a gate has asked; its token, and approves.
async fn approve(stack: &Stack) -> Result<String> {
    let token = loop {
        let asked = stack.events().await?.into_iter().rfind(|event| event["detail-type"] == "Krossing Decision Needed");
        match asked {
            Some(event) => break event["detail"]["token"].as_str().context("a token")?.to_owned(),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    stack.send_task_success(&token, &json!({"decision": "approve"})).await?;
    Ok(token)
}

fn kinds(history: &[Value]) -> Vec<&str> {
    history.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// The events of a detail-type that the recover function was given.
async fn recovered(stack: &Stack, detail_type: &str) -> Result<Vec<Value>> {
    let given = stack.invocations().await?.into_iter().filter(|invocation| invocation.function == "krossing-recover");
    let events: Vec<Value> =
        given.map(|invocation| serde_json::from_str(&invocation.payload)).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter(|event| event["detail-type"] == detail_type).collect())
}

#[test]
fn a_stack_does_what_aws_would_do() {
    in_lab("aws-stack", async |lab| {
        let stack = lab.stack(spec()).await?;
        an_execution_runs_to_its_end(&stack).await?;
        a_lane_that_fails_fails_the_map(&stack).await?;
        a_lane_that_is_silent_is_found_and_can_be_stopped(&stack).await?;
        an_error_keeps_its_name(&stack).await?;
        a_process_that_is_killed_is_an_exit_error(&stack).await?;
        a_stop_ends_an_execution_at_once(&stack).await?;
        services_are_as_the_test_says(&stack).await
    });
}

async fn an_execution_runs_to_its_end(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-1", &json!({"migration_id": "orders", "fails": "nothing"})).await?;
    let token = approve(stack).await?;
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.status == "SUCCEEDED" && ended.output["decision"] == "approve", "{ended:#?}");
    let lane = |lane: u32| json!({"lane": lane, "execution": execution});
    ensure!(ended.output["lanes"] == json!([lane(0), lane(1), lane(2)]), "{ended:#?}");
    let history = stack.history(&execution).await?;
    for kind in ["MapRunStarted", "MapRunSucceeded", "TaskSubmitted", "ExecutionSucceeded"] {
        ensure!(kinds(&history).contains(&kind), "{kind} is missing: {:?}", kinds(&history));
    }
    let late = stack.send_task_success(&token, &json!({})).await.err().context("a token is good once")?;
    ensure!(late.kind == "TaskTimedOut", "{late}");
    let strange = stack.send_task_success("strange", &json!({})).await.err().context("a token that nobody gave")?;
    ensure!(strange.kind == "InvalidToken", "{strange}");
    ensure!(stack.messages().await? == [json!({"source": "custom", "content": {"title": "continue?"}})]);
    ensure!(stack.tasks().await?.iter().filter_map(lab::stack::Task::lane).count() == 3);
    Ok(())
}

async fn a_lane_that_fails_fails_the_map(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-2", &json!({"migration_id": "orders", "fails": "lane"})).await?;
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    let expected = json!({"migration": "orders", "error": "States.ExceedToleratedFailureThreshold"});
    ensure!(ended.status == "SUCCEEDED" && ended.output == expected, "{ended:#?}");
    while recovered(stack, "ECS Task State Change")
        .await?
        .iter()
        .all(|event| event["detail"]["containers"][0]["exitCode"] != 1)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn a_lane_that_is_silent_is_found_and_can_be_stopped(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-6", &json!({"migration_id": "orders", "fails": "heartbeat"})).await?;
    let silent = stack.until_running("stand-still", None, WAIT_MAX).await?;
    until_asked_again(stack).await?;
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.output["lanes"][1] == json!({"error": "States.Timeout"}), "{ended:#?}");
    // Step Functions does not stop what it no longer waits for.
    stack.stop_task(&silent, "nobody waits for it").await?;
    loop {
        let stopped = recovered(stack, "ECS Task State Change").await?;
        let by_user = stopped.iter().find(|event| event["detail"]["stopCode"] == "UserInitiated");
        let Some(event) = by_user else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let container = &event["detail"]["overrides"]["containerOverrides"][0];
        let token = silent.environment["KROSSING_TASK_TOKEN"].as_str();
        ensure!(container["environment"][0]["value"] == token, "{event:#}");
        ensure!(event["detail"]["containers"][0]["exitCode"] == 143, "{event:#}");
        let void = stack.send_task_failure(token, "Krossing.Retryable", "stopped").await.err();
        ensure!(void.as_ref().is_some_and(|error| error.kind == "TaskTimedOut"), "{void:?}");
        return Ok(());
    }
}

async fn an_error_keeps_its_name(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-3", &json!({"migration_id": "orders", "fails": "cutover"})).await?;
    until_asked_again(stack).await?;
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.output["error"] == "Krossing.DataAtRisk", "{ended:#?}");
    let answer = stack.invoke("krossing-decide", &json!({"do": "fail", "class": "Krossing.Fenced"})).await?;
    let Answer::Error { error_type, .. } = answer else { anyhow::bail!("it fails: {answer:?}") };
    ensure!(error_type == "Krossing.Fenced");
    Ok(())
}

/// Approves what was asked last, until Step Functions takes it.
async fn until_asked_again(stack: &Stack) -> Result<()> {
    while approve(stack).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn a_process_that_is_killed_is_an_exit_error(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-4", &json!({"migration_id": "orders", "fails": "killed"})).await?;
    until_asked_again(stack).await?;
    while stack.kill_function("krossing-cutover").await? == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.output["error"] == "Runtime.ExitError", "{ended:#?}");
    let timings: Vec<_> = stack.invocations().await?;
    let cold = timings.iter().filter(|invocation| invocation.cold).count();
    for invocation in timings.iter().filter(|invocation| !invocation.failed) {
        let Value::Object(_) = serde_json::from_str(&invocation.answer)? else { anyhow::bail!("{invocation:?}") };
    }
    println!("{cold} of {} invocations were cold: {:?}", timings.len(), timings.first().map(|first| first.init));
    Ok(())
}

async fn a_stop_ends_an_execution_at_once(stack: &Stack) -> Result<()> {
    let execution = stack.start_execution("orders-5", &json!({"migration_id": "orders", "fails": "nothing"})).await?;
    while !kinds(&stack.history(&execution).await?).contains(&"TaskSubmitted") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stack.stop_execution(&execution, "Operator", "by hand").await?;
    let ended = stack.until_ended(&execution, Duration::from_secs(5)).await?;
    ensure!(ended.status == "ABORTED" && ended.error.as_deref() == Some("Operator"), "{ended:#?}");
    loop {
        let events = recovered(stack, "Step Functions Execution Status Change").await?;
        if let [event] = &events[..] {
            ensure!(event["detail"]["executionArn"] == execution, "{event:#}");
            ensure!(event["detail"]["status"] == "ABORTED" && event["detail"]["cause"] == "by hand", "{event:#}");
            return Ok(());
        }
        ensure!(events.is_empty(), "children and executions that succeed are no matter of the rule: {events:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn services_are_as_the_test_says(stack: &Stack) -> Result<()> {
    let secret =
        stack.service("secretsmanager", "secretsmanager", "GetSecretValue", &json!({"SecretId": "none"})).await;
    ensure!(secret.is_err_and(|error| error.kind == "ResourceNotFoundException"));
    let key = json!({"KeyId": SIGNING_KEY});
    let public = stack.service("kms", "TrentService", "GetPublicKey", &key).await?;
    ensure!(public["KeySpec"] == "ECC_NIST_EDWARDS25519", "{public}");
    stack.set_msk(&json!({"clusters": []}))
}
