//! What dies on the way, what is delivered twice, and cutovers that fail: the migration is exact all the same.

use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use lab::{Misbehaviour, in_lab, stack::Answer};
use serde_json::json;
use tokio::sync::oneshot;

use crate::stand::{Stand, WAIT_MAX, token_of};

/// Slow enough that a worker can be killed in it.
const SLOW_SEED: &str = "  seed: {max_bytes_per_second_per_broker: 1MiB, segment_max_bytes: 1MiB}\n";

/// Lanes, where none are configured.
const LANES: usize = 3;

/// The exit code of a process that was killed.
const KILLED: i64 = 137;

/// What is delivered once more is answered, and changes nothing.
async fn is_harmless_twice(stand: &Stand, functions: &[&str]) -> Result<()> {
    let before = stand.states().await?;
    for function in functions {
        let answer = stand.deliver_again(function).await?;
        ensure!(matches!(answer, Answer::Output(_)), "{function} once more: {answer:?}");
    }
    let after = stand.states().await?;
    ensure!(before == after, "{functions:?} once more: {before:?} became {after:?}");
    Ok(())
}

/// One of the functions that make things ready dies at work: the definition invokes it again.
async fn a_function_is_killed_at_work(stand: &Stand) -> Result<()> {
    let killed = async |stand: &Stand| {
        let (prechecks, copies) = ("krossing-precheck", "krossing-topology");
        Ok(stand.stack.kill_function(prechecks).await? + stand.stack.kill_function(copies).await? > 0)
    };
    stand.until("a function is killed at work", killed).await?;
    stand.stack.until_running("seed", Some(0), WAIT_MAX).await?;
    let invocations = stand.stack.invocations().await?;
    ensure!(invocations.iter().any(|one| one.failed && one.answer.contains("Runtime.ExitError")), "{invocations:?}");
    Ok(())
}

async fn a_worker_is_killed_in_the_seed(stand: &Stand) -> Result<()> {
    let seeding = stand.stack.until_running("seed", Some(0), WAIT_MAX).await?;
    stand.until("segments are stored", async |stand| Ok(stand.segments().await? >= 3)).await?;
    stand.stack.signal_task(&seeding, "KILL").await?;
    stand.until_replaced(&seeding, KILLED).await?;
    is_harmless_twice(stand, &["krossing-plan", "krossing-precheck", "krossing-topology"]).await
}

/// Once the target had kept up for the first time, lanes were laid out anew: also though the worker that had journaled
/// it and had asked the lanes to end died before it could say so. The next one says it, and a third drains.
async fn what_has_appeared_is_tailed_too(stand: &Stand) -> Result<()> {
    let drained = stand.tasks("drain").await?;
    let exit_codes: Vec<_> = drained.iter().map(|task| task.exit_code).collect();
    ensure!(exit_codes == [Some(KILLED), Some(0), Some(0)], "{drained:?}");
    let readied = stand.states().await?.iter().filter(|state| *state == "drain_ready").count();
    ensure!(readied == 1, "drain_ready was journaled {readied} times");
    let tailed = stand.tasks("tail").await?;
    let running = tailed.iter().filter(|task| task.running).count();
    ensure!(tailed.len() == LANES + LANES + 1 && running == LANES + 1, "{tailed:?}");
    Ok(())
}

async fn workers_end_at_the_open_gate(stand: &Stand) -> Result<()> {
    // As a deployment or a host that is taken out of service ends one.
    let tailing = stand.stack.until_running("tail", Some(1), WAIT_MAX).await?;
    stand.stack.stop_task(&tailing, "the host goes").await?;
    stand.until_replaced(&tailing, 0).await?;
    let tailing = stand.stack.until_running("tail", Some(0), WAIT_MAX).await?;
    stand.stack.signal_task(&tailing, "KILL").await?;
    let next = stand.until_replaced(&tailing, KILLED).await?;
    let says_how_far_it_is = async |stand: &Stand| Ok(stand.stack.task_log(&next).contains("lag_records_max"));
    stand.until("the lane is tailed again", says_how_far_it_is).await?;
    is_harmless_twice(stand, &["krossing-plan", "krossing-precheck", "krossing-topology", "krossing-notify"]).await
}

async fn a_cutover_is_refused_by_producers(stand: &Stand, execution: &str) -> Result<()> {
    let webhook = &stand.rehearsal.webhook;
    let before = webhook.requests().len();
    webhook.misbehave(Some(Misbehaviour::SaysNothing));
    stand.says("alice", "cutover").await?;
    stand.until_asked(execution, "after_failure", 1).await?;
    webhook.misbehave(None);
    let told = stand.producers_were_told(before);
    ensure!(told.last().is_some_and(|last| last == "unfreeze"), "{told:?}");
    ensure!(stand.states().await?.last().is_some_and(|state| state == "drain_ready"));
    Ok(())
}

/// Has a cutover begin, and comes back when producers have been asked to stand still. They answer once something is sent.
async fn until_producers_stand_still(stand: &Stand) -> Result<mpsc::Sender<()>> {
    let (frozen, until_frozen) = oneshot::channel();
    let (go_on, until_told) = mpsc::channel();
    stand.rehearsal.webhook.when_frozen(move || {
        _ = frozen.send(());
        tokio::task::block_in_place(|| until_told.recv().context("the test goes on"))
    });
    stand.says("alice", "cutover").await?;
    tokio::time::timeout(WAIT_MAX, until_frozen).await.context("producers were not asked to stand still")??;
    Ok(go_on)
}

/// The function dies when producers stand still. Nobody but the definition lets them go on.
async fn a_cutover_is_killed_while_producers_stand_still(stand: &Stand, execution: &str) -> Result<()> {
    let webhook = &stand.rehearsal.webhook;
    let before = webhook.requests().len();
    let killed = until_producers_stand_still(stand).await?;
    ensure!(stand.stack.kill_function("krossing-cutover").await? == 1);
    killed.send(())?;
    let failed = stand.until_asked(execution, "after_failure", 2).await?;
    ensure!(failed["facts"].to_string().contains("Runtime.ExitError"), "{failed}");
    let told = stand.producers_were_told(before);
    ensure!(told.first().is_some_and(|first| first == "freeze"), "{told:?}");
    ensure!(told.last().is_some_and(|last| last == "unfreeze"), "{told:?}");
    stand.rehearsal.producers.until_recorded(1).await?;
    let states = stand.states().await?;
    ensure!(states.ends_with(&["cutover", "failed", "drain_ready"].map(str::to_owned)), "{states:?}");
    Ok(())
}

/// The operator stops the execution when producers stand still, and the function dies with it. Nobody is left but the
/// rule that looks at the ends of executions.
async fn nobody_is_left_while_producers_stand_still(stand: &Stand, execution: &str) -> Result<()> {
    let (webhook, stack) = (&stand.rehearsal.webhook, &stand.stack);
    let before = webhook.requests().len();
    let killed = until_producers_stand_still(stand).await?;
    stack.stop_execution(execution, "Operator", "the wrong week").await?;
    ensure!(stack.kill_function("krossing-cutover").await? == 1);
    killed.send(())?;
    stand.until("its end is looked at", async |stand| stand.recovered(execution).await).await?;
    let told = stand.producers_were_told(before);
    ensure!(told.first().is_some_and(|first| first == "freeze"), "{told:?}");
    ensure!(told.last().is_some_and(|last| last == "unfreeze"), "{told:?}");
    let states = stand.states().await?;
    ensure!(states.ends_with(&["cutover", "failed", "drain_ready"].map(str::to_owned)), "{states:?}");
    Ok(())
}

/// The operator stops the execution when producers stand still already. The function does not end with it, and nobody
/// takes it from it: `recover`, which waits for its end, finds READY.
async fn one_is_stopped_while_producers_stand_still(stand: &Stand, execution: &str) -> Result<()> {
    let (webhook, stack) = (&stand.rehearsal.webhook, &stand.stack);
    let before = webhook.requests().len();
    let waits_for_the_lock = || stack.function_log("krossing-recover").matches("waiting for its end").count();
    let waited = waits_for_the_lock();
    let stopped = until_producers_stand_still(stand).await?;
    stack.stop_execution(execution, "Operator", "the wrong week").await?;
    stand.until("`recover` waits for the cutover", async |_| Ok(waits_for_the_lock() > waited)).await?;
    stopped.send(())?;
    stand.until("its end is looked at", async |stand| stand.recovered(execution).await).await?;
    let told = stand.producers_were_told(before);
    // Asked once more where it took long to stop the execution.
    ensure!(told.iter().all(|one| one != "unfreeze") && told.last().is_some_and(|last| last == "switch"), "{told:?}");
    let states = stand.states().await?;
    ensure!(states.ends_with(&["cutover", "awaiting_client_switch"].map(str::to_owned)), "{states:?}");
    // Behind READY it is too late for the same request to do anything.
    let again = stand.deliver_again("krossing-cutover").await?;
    ensure!(matches!(&again, Answer::Error { error_type, .. } if error_type == "Krossing.Refused"), "{again:?}");
    ensure!(stand.states().await? == states);
    Ok(())
}

/// `retry` leads back to the gate, and seeds nothing.
async fn is_asked_again(stand: &Stand, execution: &str, times: usize) -> Result<()> {
    stand.says("bob", "retry").await?;
    stand.until_asked(execution, "approve_cutover", times).await?;
    let seeds = stand.tasks("seed").await?.len();
    ensure!(seeds == LANES + 1, "{seeds} workers have seeded {LANES} lanes, and one was killed");
    Ok(())
}

#[test]
fn what_dies_is_replaced_and_nothing_is_done_twice() {
    in_lab("serverless-failures", async |lab| {
        let mut stand = Stand::prepare(lab, 22, SLOW_SEED).await?;
        let execution = stand.start("lab-1").await?;
        a_function_is_killed_at_work(&stand).await?;
        a_worker_is_killed_in_the_seed(&stand).await?;
        stand.a_topic_appears("appeared").await?;
        stand.stack.kill_task_saying("lanes_anew").await?;
        stand.until_asked(&execution, "approve_cutover", 1).await?;
        what_has_appeared_is_tailed_too(&stand).await?;
        workers_end_at_the_open_gate(&stand).await?;
        a_cutover_is_refused_by_producers(&stand, &execution).await?;
        is_asked_again(&stand, &execution, 2).await?;
        a_cutover_is_killed_while_producers_stand_still(&stand, &execution).await?;
        is_asked_again(&stand, &execution, 3).await?;

        nobody_is_left_while_producers_stand_still(&stand, &execution).await?;
        let execution = stand.start("lab-2").await?;
        stand.until_asked(&execution, "approve_cutover", 1).await?;
        one_is_stopped_while_producers_stand_still(&stand, &execution).await?;

        let told_before = stand.rehearsal.webhook.requests().len();
        let execution = stand.start("lab-3").await?;
        let ready = stand.until_asked(&execution, "acknowledge_switch", 1).await?;
        stand.rehearsal.groups.stop_live().await?;
        // Whoever has nothing but the AWS command line.
        stand.stack.send_task_success(&token_of(&ready)?, &json!({ "decision": "switched" })).await?;
        let ended = stand.stack.until_ended(&execution, WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "finalized", "{ended:?}");
        ensure!(stand.producers_were_told(told_before).is_empty(), "{:?}", stand.producers_were_told(told_before));

        stand.rehearsal.is_exact().await?;
        stand.evidence_verifies().await?;
        let journal = stand.journal().await?;
        let acknowledged = journal.iter().find(|entry| entry["to"] == "validating").context("it was acknowledged")?;
        ensure!(acknowledged["by"]["who"] == "whoever had the task token", "{acknowledged}");
        stand.everything_was_told(&journal).await?;
        for function in ["krossing-client-switch", "krossing-recover", "krossing-cutover"] {
            stand.deliver_again(function).await?;
        }
        ensure!(stand.journal().await? == journal, "what was delivered once more has changed what has ended");

        stand.another_migration("lost").await?;
        a_seed_fails_for_good(&stand).await?;
        stand.calls_are_within_rights().await
    });
}

/// A topic of the source is deleted while it is seeded. The journal has the failure, with evidence of the attempt, and
/// the operator is told why; what is left is given up.
async fn a_seed_fails_for_good(stand: &Stand) -> Result<()> {
    let before = stand.segments().await?;
    let execution = stand.start("lost-1").await?;
    stand.until("segments are stored", async |stand| Ok(stand.segments().await? > before)).await?;
    stand.a_topic_is_lost("appeared").await?;
    let failed = stand.until_asked(&execution, "after_failure", 1).await?;
    ensure!(failed["facts"].to_string().contains("appeared"), "nobody is told which topic: {failed}");
    let states = stand.states().await?;
    ensure!(states.ends_with(&["seed", "failed"].map(str::to_owned)), "{states:?}");
    let verified = stand.evidence_verifies().await?;
    ensure!(verified.contains("lost ended as failed"), "{verified}");
    stand.everything_was_told(&stand.journal().await?).await?;
    stand.command("rollback").await?.expect_code(0)?;
    let ended = stand.stack.until_ended(&execution, WAIT_MAX).await?;
    ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "rolled_back", "{ended:?}");
    let verified = stand.evidence_verifies().await?;
    ensure!(verified.contains("lost ended as rolled_back"), "{verified}");
    let journal = stand.journal().await?;
    stand.deliver_again("krossing-rollback").await?;
    ensure!(stand.journal().await? == journal, "what was rolled back was rolled back once more");
    Ok(())
}
