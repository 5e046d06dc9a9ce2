//! Producers that an operator has stand still, gates that nobody answers, and workers that die behind the point of no
//! return.

use anyhow::{Result, ensure};
use lab::in_lab;

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
    stand.says("alice", "cutover").await?;
    stand.until_asked(execution, "freeze_producers", 1).await?;
    stand.says("alice", "cancel").await?;
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
    let answers: Vec<_> = answered.map(|entry| (&entry["by"]["who"], &entry["detail"]["answer"])).collect();
    let wanted = [("alice", "cutover"), ("alice", "cancel"), ("alice", "cutover"), ("bob", "frozen")];
    ensure!(
        answers
            .iter()
            .map(|(who, answer)| (who.as_str(), answer.as_str()))
            .eq(wanted.map(|(who, answer)| (Some(who), Some(answer)))),
        "{answers:?}"
    );
    Ok(())
}

/// A worker is killed at its work, and another goes on with it.
async fn another_goes_on(stand: &Stand, work: &str) -> Result<()> {
    let working = stand.stack.until_running(work, None, WAIT_MAX).await?;
    stand.stack.signal_task(&working, "KILL").await?;
    stand.until_replaced(&working, KILLED).await.map(drop)
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

        let resumed = stand.command("resume").await?.expect_code(10)?;
        ensure!(resumed.stderr.contains("krossing cutover-ack"), "{}", resumed.stderr);
        let second = stand.execution("lab-2");
        stand.until_asked(&second, "acknowledge_switch", 1).await?;
        stand.says("bob", "switched").await?;
        another_goes_on(&stand, "finalize").await?;
        let ended = stand.stack.until_ended(&second, WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "finalized", "{ended:?}");
        stand.rehearsal.is_exact().await?;
        stand.evidence_verifies().await?;
        stand.everything_was_told(&stand.journal().await?).await
    });
}
