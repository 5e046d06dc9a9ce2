//! Producers that an operator has stand still, gates that nobody answers, a rollback that comes too late, and workers
//! that die behind the point of no return.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::in_lab;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::json;

use crate::stand::{Stand, WAIT_MAX};

/// How long a gate waits: longer than it takes to say something, and no longer than the test has to say nothing.
const DECISION_TIMEOUT_SECONDS: u32 = 40;

/// The exit code of a process that was killed.
const KILLED: i64 = 137;

/// Has the configuration name no webhook.
fn without_webhook(config: &str) -> String {
    let lines = config.lines().filter(|line| !line.contains("producer_freeze_webhook"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The operator thinks better of it once, then says that producers stand still.
async fn producers_are_frozen_by_hand(stand: &Stand, execution: &str) -> Result<()> {
    stand.until_asked(execution, "approve_cutover", 1).await?;
    let called_off = stand.command_at_a_terminal("cutover", "not tonight").await?.expect_code(1)?;
    ensure!(called_off.stderr.contains("type `frozen` once they do"), "{called_off:?}");
    stand.until_asked(execution, "approve_cutover", 2).await?;
    ensure!(stand.states().await?.last().is_some_and(|state| state == "drain_ready"));
    stand.says("alice", "cutover").await?;
    stand.until_asked(execution, "freeze_producers", 2).await?;
    stand.rehearsal.producers.freeze().await?;
    stand.says("bob", "frozen").await?;
    stand.until_asked(execution, "acknowledge_switch", 1).await?;
    let journal = stand.journal().await?;
    let frozen = journal.iter().find(|entry| entry["kind"] == "freeze_confirmed");
    ensure!(frozen.is_some_and(|entry| entry["reason"].to_string().contains("bob")), "{frozen:?}");
    let answered = journal.iter().filter(|entry| entry["kind"] == "gate_answered");
    let answers: Vec<_> = answered.map(|entry| json!([entry["detail"]["answer"], entry["by"]["known_by"]])).collect();
    let wanted = [("cutover", "aws_identity"), ("cancel", "aws_identity"), ("cutover", "nobody"), ("frozen", "nobody")];
    ensure!(json!(answers) == json!(wanted), "{answers:?}");
    Ok(())
}

/// A worker is killed at its work, and another goes on with it.
async fn another_goes_on(stand: &Stand, work: &str) -> Result<()> {
    let working = stand.stack.until_running(work, None, WAIT_MAX).await?;
    stand.stack.signal_task(&working, "KILL").await?;
    stand.until_replaced(&working, KILLED).await.map(drop)
}

/// A client that has come to the target: a member of a group, which has committed nothing there.
async fn one_comes_to_the_target(stand: &Stand, group: &str, topic: &str) -> Result<BaseConsumer> {
    let mut config = stand.rehearsal.target.client();
    let consumer: BaseConsumer = config.set("group.id", group).set("enable.auto.commit", "false").create()?;
    consumer.subscribe(&[topic])?;
    let joining = tokio::task::spawn_blocking(move || {
        while consumer.assignment()?.count() == 0 {
            // What it reads is no matter, and errors of a group that balances pass.
            _ = consumer.poll(Duration::from_millis(100));
        }
        anyhow::Ok(consumer)
    });
    tokio::time::timeout(WAIT_MAX, joining).await??
}

/// The task of this execution; one of an execution before may not have noticed its end yet.
async fn who_keeps_groups_in_step(stand: &Stand, execution: &str) -> Result<String> {
    let mut found = None;
    stand
        .until("a worker keeps groups in step", async |stand| {
            let mut tasks = stand.tasks("client-switch").await?;
            tasks.retain(|task| task.running && task.environment["KROSSING_EXECUTION"] == execution);
            found = tasks.pop().map(|task| task.id);
            Ok(found.is_some())
        })
        .await?;
    found.context("it was found")
}

/// Asked again at the same gate, with the reason; groups are kept in step as if nothing had been said.
async fn a_rollback_that_comes_too_late_is_refused(stand: &Stand, execution: &str) -> Result<()> {
    let states = stand.states().await?;
    let in_step = who_keeps_groups_in_step(stand, execution).await?;
    let client = one_comes_to_the_target(stand, "in-the-middle-of-bulk", "bulk").await?;
    let refused = stand.command("rollback").await?.expect_code(1)?;
    ensure!(refused.stderr.contains("krossing cutover-ack"), "{}", refused.stderr);
    let again = stand.until_asked(execution, "acknowledge_switch", 2).await?;
    let facts = again["facts"].to_string();
    ensure!(facts.contains("rollback is not possible any more: clients have come to the target"), "{facts}");
    ensure!(facts.contains("group in-the-middle-of-bulk has switched"), "{facts}");
    drop(client);
    ensure!(stand.states().await? == states, "{states:?} became {:?}", stand.states().await?);
    let journal = stand.journal().await?;
    let noted = journal.iter().rfind(|entry| entry["kind"] == "notice").map(|entry| &entry["reason"]);
    ensure!(noted.is_some_and(|reason| reason.to_string().contains("the rollback was refused")), "{noted:?}");
    let still = who_keeps_groups_in_step(stand, execution).await?;
    ensure!(still == in_step, "{in_step} became {still}");
    Ok(())
}

#[test]
fn a_switch_that_nobody_acknowledges_is_asked_for_again_by_the_next_execution() {
    in_lab("serverless-gates", async |lab| {
        let change = |spec: &mut lab::StackSpec| {
            spec.decision_timeout_seconds = DECISION_TIMEOUT_SECONDS;
            spec.config = without_webhook(&spec.config);
        };
        let mut stand = Stand::prepare_with(lab, 24, "", change).await?;
        let first = stand.start("lab-1").await?;
        producers_are_frozen_by_hand(&stand, &first).await?;
        stand.rehearsal.groups.stop_live().await?;
        another_goes_on(&stand, "client-switch").await?;
        stand.until_asked(&first, "after_failure", 1).await?;
        stand.says("bob", "stop").await?;
        let ended = stand.stack.until_ended(&first, WAIT_MAX).await?;
        ensure!(ended.status == "FAILED" && ended.error.as_deref() == Some("Krossing.NoDecision"), "{ended:?}");
        ensure!(stand.states().await?.last().is_some_and(|state| state == "awaiting_client_switch"));

        let status = stand.command("status").await?.expect_code(0)?.stdout;
        ensure!(
            status.contains("FAILED: Krossing.NoDecision") && status.contains("next_command: krossing resume"),
            "{status}"
        );
        let resumed = stand.command("resume").await?.expect_code(10)?;
        ensure!(resumed.stderr.contains("krossing cutover-ack"), "{}", resumed.stderr);
        let second = stand.execution("lab-2");
        stand.until_asked(&second, "acknowledge_switch", 1).await?;
        a_rollback_that_comes_too_late_is_refused(&stand, &second).await?;
        stand.says("bob", "switched").await?;
        another_goes_on(&stand, "finalize").await?;
        let ended = stand.stack.until_ended(&second, WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "finalized", "{ended:?}");
        stand.rehearsal.is_exact().await?;
        let verified = stand.evidence_verifies().await?;
        ensure!(verified.contains("acknowledge_switch: rollback"), "{verified}");
        stand.everything_was_told(&stand.journal().await?).await
    });
}
