//! Executions that end before the migration does, and one that gives it up.

use anyhow::{Result, ensure};
use lab::{
    Misbehaviour, in_lab,
    stack::{Answer, EVIDENCE},
};
use serde_json::json;

use crate::stand::{Stand, WAIT_MAX};

/// How long a gate waits: no longer than the test has to say nothing, and longer than it takes to say something.
const DECISION_TIMEOUT_SECONDS: u32 = 40;

async fn nobody_works(stand: &Stand) -> Result<()> {
    let at_rest = async |stand: &Stand| Ok(stand.stack.tasks().await?.iter().all(|task| !task.running));
    stand.until("workers have come to rest", at_rest).await
}

/// One that drives it is not disturbed by another that begins.
async fn another_is_refused(stand: &Stand) -> Result<()> {
    let states = stand.states().await?;
    let other = stand.start("lab-3").await?;
    let ended = stand.stack.until_ended(&other, WAIT_MAX).await?;
    ensure!(ended.status == "FAILED" && ended.error.as_deref() == Some("Krossing.Fenced"), "{ended:?}");
    let looked_at = async |stand: &Stand| stand.recovered(&other).await;
    stand.until("the end of the one that was refused is looked at", looked_at).await?;
    ensure!(stand.states().await? == states);
    Ok(())
}

/// The execution is stopped when its cutover has begun. The function does not end with it, and asks nobody to stand still.
async fn one_is_stopped_while_it_makes_the_cutover_ready(stand: &Stand, execution: &str) -> Result<()> {
    let asked_before = stand.rehearsal.webhook.requests().len();
    stand.says("carol", "cutover").await?;
    let has_begun = async |stand: &Stand| Ok(stand.states().await?.last().is_some_and(|state| state == "cutover"));
    stand.until("the cutover has begun", has_begun).await?;
    stand.stack.stop_execution(execution, "Operator", "the wrong week").await?;
    stand.until("its end is looked at", async |stand| stand.recovered(execution).await).await?;
    let told = stand.producers_were_told(asked_before);
    ensure!(!told.contains(&"freeze".to_owned()), "{told:?}");
    let states = stand.states().await?;
    ensure!(states.ends_with(&["cutover", "drain_ready"].map(str::to_owned)), "{states:?}");
    Ok(())
}

/// Producers do not stand still, and the operator has had enough: ends the execution, and then gives the migration up,
/// in an execution that does nothing else.
async fn a_cutover_fails_and_is_not_tried_again(stand: &Stand, execution: &str) -> Result<()> {
    stand.rehearsal.webhook.misbehave(Some(Misbehaviour::SaysNothing));
    stand.says("carol", "cutover").await?;
    stand.until_asked(execution, "after_failure", 1).await?;
    stand.rehearsal.webhook.misbehave(None);
    let at_work = stand.command("status").await?.expect_code(0)?;
    for told in ["asked: after_failure", "\n  Krossing.Refused: producers may go on", "next_command: krossing resume"] {
        ensure!(at_work.stdout.contains(told), "{told} is missing in {}", at_work.stdout);
    }
    stand.says("carol", "stop").await?;
    let ended = stand.stack.until_ended(execution, WAIT_MAX).await?;
    ensure!(ended.status == "FAILED", "{ended:?}");
    nobody_works(stand).await?;
    let tasks = stand.stack.tasks().await?.len();
    stand.command("rollback").await?.expect_code(0)?;
    ensure!(stand.stack.tasks().await?.len() == tasks, "what was to be given up was gone on with");
    Ok(())
}

/// What a rollback has left stands in the way of another migration. Its findings are too many for a message, and whole
/// beside the evidence.
async fn precheck_stops_another(stand: &mut Stand) -> Result<()> {
    stand.id = "stopped";
    let stopped = stand.command("execute").await?.expect_code(1)?;
    let place = format!("all findings are in s3://{EVIDENCE}/stopped/precheck.json: ");
    ensure!(stopped.stdout.contains(&place), "{stopped:?}");
    let findings = stand.beside_evidence("precheck.json").await?;
    let found = |code: &str| findings.as_array().is_some_and(|all| all.iter().any(|finding| finding["code"] == code));
    ensure!(found("B24"), "{findings}");
    ensure!(stand.journal().await?.is_empty(), "a migration that was refused has left a journal");
    let execution = stand.execution("stopped-1");
    let again = stand.command("execute").await?.expect_code(1)?;
    ensure!(again.stdout.contains(&place), "{again:?}");
    let asked = stand.until_asked(&execution, "after_failure", 2).await?;
    ensure!(asked["facts"].to_string().contains("nothing is there to be rolled back"), "{asked}");
    stand.says("carol", "stop").await?;
    let ended = stand.stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.status == "FAILED" && ended.error.as_deref() == Some("Krossing.Refused"), "{ended:?}");
    Ok(())
}

/// What a rollback has left is removed, and another migration of the same clusters goes as far as its gate.
async fn another_migration_begins(stand: &mut Stand, id: &'static str) -> Result<()> {
    stand.another_migration(id).await?;
    let begun = stand.command("execute").await?.expect_code(0)?;
    ensure!(begun.stderr.contains("krossing cutover"), "{}", begun.stderr);
    Ok(())
}

/// A topic of the source is deleted while the gate is open. Its lane is not tailed any more, which is told; the gate stays
/// open, and another answer than the cutover leads on.
async fn a_lane_rests_at_the_open_gate(stand: &Stand) -> Result<()> {
    stand.a_topic_is_lost("codec-none").await?;
    let told = async |stand: &Stand| {
        let events = stand.stack.events().await?;
        let mut failed =
            events.iter().filter(|event| event["detail-type"] == "Krossing Failed").map(|event| &event["detail"]);
        Ok(failed.any(|it| it["migration_id"] == stand.id && it["reason"].to_string().contains("nobody tails")))
    };
    stand.until("it is told that nobody tails a lane", told).await?;
    let status = stand.command("status").await?.expect_code(0)?;
    ensure!(status.stdout.contains("asked: approve_cutover") && status.stdout.contains("codec-none"), "{status:?}");
    Ok(())
}

async fn it_is_given_up(stand: &Stand, more: &[&str]) -> Result<()> {
    let given_up = stand.command_with("rollback", more).await?.expect_code(0)?;
    ensure!(given_up.stdout.contains("rolled_back") || given_up.stderr.contains("rolled_back"), "{given_up:?}");
    nobody_works(stand).await?;
    stand.evidence_verifies().await?;
    stand.everything_was_told(&stand.journal().await?).await
}

/// At READY, where no client has come: producers go on on the source, which the operator has seen to without the webhook,
/// and the worker that keeps groups in step ends.
async fn another_is_given_up_at_ready(stand: &mut Stand) -> Result<()> {
    another_migration_begins(stand, "at-ready").await?;
    let before = stand.rehearsal.webhook.requests().len();
    stand.command("cutover").await?.expect_code(0)?;
    it_is_given_up(stand, &["--producers-released"]).await?;
    let told = stand.producers_were_told(before);
    ensure!(told == ["freeze", "switch"], "{told:?}");
    let states = stand.states().await?;
    ensure!(states.ends_with(&["awaiting_client_switch", "rolled_back"].map(str::to_owned)), "{states:?}");
    Ok(())
}

#[test]
fn an_operator_who_says_nothing_or_stops_the_execution_leaves_a_migration_that_a_new_one_resumes() {
    in_lab("serverless-ends", async |lab| {
        let wait = |spec: &mut lab::StackSpec| spec.decision_timeout_seconds = DECISION_TIMEOUT_SECONDS;
        let mut stand = Stand::prepare_with(lab, 23, "", wait).await?;
        // So that whatever changes on the source is Krossing's doing.
        stand.rehearsal.producers.freeze().await?;
        stand.rehearsal.groups.stop_live().await?;
        let source = stand.rehearsal.source_as_it_is().await?;

        let first = stand.start("lab-1").await?;
        stand.until_asked(&first, "after_failure", 1).await?;
        let ended = stand.stack.until_ended(&first, WAIT_MAX).await?;
        ensure!(ended.status == "FAILED" && ended.error.as_deref() == Some("Krossing.NoDecision"), "{ended:?}");
        nobody_works(&stand).await?;
        let seeds = stand.tasks("seed").await?.len();

        let second = stand.start("lab-2").await?;
        stand.until_asked(&second, "approve_cutover", 1).await?;
        another_is_refused(&stand).await?;
        let early = stand.command("finalize").await?.expect_code(1)?;
        ensure!(early.stderr.contains("approve_cutover is asked first"), "{early:?}");
        ensure!(stand.stack.describe(&second).await?.status == "RUNNING");
        stand.stack.stop_execution(&second, "Operator", "the wrong week").await?;
        let stopped = stand.stack.until_ended(&second, WAIT_MAX).await?;
        ensure!(stopped.status == "ABORTED", "{stopped:?}");
        stand.until("its end is looked at", async |stand| stand.recovered(&second).await).await?;
        nobody_works(&stand).await?;
        let late = stand.decide(&json!({ "migration_id": "lab", "decision": "cutover" })).await?;
        ensure!(matches!(&late, Answer::Error { message, .. } if message.contains("has passed")), "{late:?}");
        let late = stand.command("cutover").await?.expect_code(1)?;
        ensure!(late.stderr.contains("nothing is asked"), "{late:?}");
        ensure!(stand.states().await?.last().is_some_and(|state| state == "drain_ready"));

        // Later cutovers that fail let producers go on.
        ensure!(stand.rehearsal.source_as_it_is().await? == source, "the source has changed");

        let interrupted = stand.start("lab-4").await?;
        stand.until_asked(&interrupted, "approve_cutover", 1).await?;
        one_is_stopped_while_it_makes_the_cutover_ready(&stand, &interrupted).await?;

        let last = stand.start("lab-5").await?;
        stand.until_asked(&last, "approve_cutover", 1).await?;
        a_cutover_fails_and_is_not_tried_again(&stand, &last).await?;
        let ended = stand.stack.until_ended(&stand.execution("lab-6"), WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "rolled_back", "{ended:?}");
        nobody_works(&stand).await?;
        ensure!(stand.tasks("seed").await?.len() == seeds, "what was seeded was seeded again");
        let journal = stand.journal().await?;
        let last = journal.iter().rfind(|entry| entry["kind"] == "transition").cloned().unwrap_or_default();
        ensure!(last["to"] == "rolled_back" && last["by"]["known_by"] == "aws_identity", "{last}");
        let stopped = |entry: &serde_json::Value| entry["detail"]["answer"] == "stop" && entry["by"]["who"] == "carol";
        ensure!(journal.iter().any(stopped), "nobody knows who stopped it: {journal:?}");
        let answers = journal.iter().filter(|entry| entry["detail"]["answer"] == "cutover").count();
        ensure!(answers == 2, "one that was refused is among the decisions, or one that was taken is not: {journal:?}");
        stand.evidence_verifies().await?;
        stand.everything_was_told(&journal).await?;

        let after_all = stand.start("lab-7").await?;
        let ended = stand.stack.until_ended(&after_all, WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "rolled_back", "{ended:?}");
        ensure!(stand.journal().await? == journal, "what has ended goes on");
        precheck_stops_another(&mut stand).await?;
        another_migration_begins(&mut stand, "again").await?;
        a_lane_rests_at_the_open_gate(&stand).await?;
        it_is_given_up(&stand, &[]).await?;
        another_is_given_up_at_ready(&mut stand).await?;
        stand.calls_are_within_rights().await
    });
}
