//! The migration as AWS runs it: the real definition, real Lambda binaries and workers, a real S3 server and the
//! DynamoDB API, between real clusters under live load. What stands in for AWS is said in `lab::stack`.
#![allow(clippy::unwrap_used)]

mod ends;
mod failures;
mod gates;
mod stand;

use anyhow::ensure;
use lab::{in_lab, stack::Answer};
use serde_json::json;
use stand::{Stand, WAIT_MAX};

#[test]
fn a_migration_runs_through_the_definition_and_is_exact() {
    in_lab("serverless", async |lab| {
        let mut stand = Stand::prepare_on_msk(lab, 21).await?;
        let began = stand.command("execute").await?.expect_code(0)?;
        ensure!(began.stderr.contains("krossing cutover") && began.stderr.contains("--stack lab"), "{}", began.stderr);
        let execution = stand.execution("lab-1");
        let status = stand.command("status").await?.expect_code(0)?;
        let next = "next_command: krossing cutover --config";
        for told in
            ["state: drain_ready since", "asked: approve_cutover", &execution, "partitions, run (", "lag=", next]
        {
            ensure!(status.stdout.contains(told), "{told} is missing in {}", status.stdout);
        }
        let wrong = stand.decide(&json!({ "migration_id": "lab", "decision": "switched" })).await?;
        let Answer::Error { error_type, message } = wrong else { anyhow::bail!("no answer to this gate: {wrong:?}") };
        ensure!(error_type == "Krossing.Refused" && message.contains("cutover or rollback"), "{message}");
        let another = stand.decide(&json!({ "migration_id": "another", "decision": "cutover" })).await?;
        ensure!(
            matches!(&another, Answer::Error { message, .. } if message.contains("nothing is asked")),
            "{another:?}"
        );
        // The stack may be named by the configuration alone.
        stand.rehearsal.reconfigure("s3_path_style: true", "s3_path_style: true, stack: lab")?;
        let by_configuration = stand.rehearsal.run("status").await?.expect_code(0)?;
        ensure!(by_configuration.stdout.contains("asked: approve_cutover"), "{by_configuration:?}");
        let said = json!({ "migration_id": "lab", "decision": "cutover", "by": "alice", "reason": "CHG-1" });
        ensure!(matches!(stand.decide(&said).await?, Answer::Output(_)));
        stand.until_asked(&execution, "acknowledge_switch", 1).await?;
        ensure!(matches!(stand.decide(&said).await?, Answer::Error { .. }), "a gate that has passed takes no answer");
        let late = stand.command("cutover").await?.expect_code(1)?;
        ensure!(late.stderr.contains("acknowledge_switch"), "{}", late.stderr);
        stand.rehearsal.groups.stop_live().await?;
        stand.command("cutover-ack").await?.expect_code(0)?;
        let ended = stand.stack.until_ended(&execution, WAIT_MAX).await?;
        ensure!(ended.status == "SUCCEEDED" && ended.output["state"] == "finalized", "{ended:?}");

        stand.rehearsal.is_exact().await?;
        let journal = stand.journal().await?;
        let by = |state: &str| journal.iter().find(|entry| entry["to"] == state).map(|entry| entry["by"].clone());
        ensure!(by("cutover") == Some(json!({ "who": "alice", "known_by": "nobody" })), "{:?}", by("cutover"));
        let approved = journal.iter().find(|entry| entry["kind"] == "gate_answered").map(|entry| &entry["detail"]);
        ensure!(
            approved.is_some_and(|why| why["gate"] == "approve_cutover" && why["reason"] == "CHG-1"),
            "{approved:?}"
        );
        ensure!(by("validating").unwrap()["known_by"] == "aws_identity", "{:?}", by("validating"));
        stand.evidence_verifies().await?;
        stand.everything_was_told(&journal).await?;
        stand.no_secret_is_told(&execution).await?;
        stand.calls_are_within_rights().await?;
        stand.figures(&execution).await?;
        Ok(())
    });
}
