//! A whole migration of hard data under live load whose journal, segments and evidence are on AWS: driven by one command
//! at a time, taken over from one that stands still, killed in the seed, resumed, and ended with evidence that nobody
//! can delete.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use lab::{
    in_lab,
    rehearsal::{Rehearsal, RehearsalSpec},
    workload::Scale,
};

use crate::{
    ledger::{TABLE, make_table},
    objects::{BUCKET, LOCKED, make_buckets},
};

/// Slow enough that the seed can be killed.
const CONFIG: &str = "  seed: {max_bytes_per_second_per_broker: 1MiB, segment_max_bytes: 1MiB}
  ledger: {dynamodb_table: krossing}
  aws: {region: eu-west-1, s3_path_style: true}
";

async fn keys(client: &Client, bucket: &str, prefix: &str) -> Result<Vec<String>> {
    let mut pages = client.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page?.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    Ok(keys)
}

async fn segments_stored(client: &Client) -> Result<usize> {
    Ok(keys(client, BUCKET, "").await?.iter().filter(|key| key.ends_with(".log")).count())
}

async fn until_segments(client: &Client, wanted: usize) -> Result<()> {
    while segments_stored(client).await? < wanted {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Brings the evidence here, key by key, as `aws s3 cp --recursive` would.
async fn bring_evidence(client: &Client, rehearsal: &Rehearsal) -> Result<std::path::PathBuf> {
    let folder = rehearsal.folder.join("brought");
    for key in keys(client, LOCKED, "lab/").await? {
        let file = folder.join(&key);
        std::fs::create_dir_all(file.parent().context("a key has a folder")?)?;
        let object = client.get_object().bucket(LOCKED).key(&key).send().await?;
        std::fs::write(file, object.body.collect().await?.into_bytes())?;
    }
    Ok(folder)
}

#[test]
fn a_migration_kept_on_aws_is_exact_and_its_evidence_cannot_be_deleted() {
    in_lab("aws-migration", async |lab| {
        let servers = lab.aws().await?;
        let s3 = make_buckets(&servers).await?;
        make_table(&servers).await?;
        ensure!(CONFIG.contains(TABLE));
        let spec = RehearsalSpec { scale: Scale::Tiny, config: CONFIG.to_owned(), seed: 8, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let folder = rehearsal.folder.display().to_string();
        let (segments, evidence) = (format!("s3_bucket: {BUCKET}, s3_prefix: kept"), format!("s3_bucket: {LOCKED}"));
        rehearsal.reconfigure(&format!("directory: \"{folder}/segments\""), &segments)?;
        rehearsal.reconfigure(&format!("directory: \"{folder}/evidence\""), &evidence)?;
        let owner = servers.owner();
        rehearsal.migration.env = vec![
            ("AWS_ACCESS_KEY_ID", owner.id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", owner.secret.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://127.0.0.1:{}", servers.dynamodb_port())),
            ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", servers.s3_port())),
        ];

        rehearsal.start("precheck", &[])?.finish().await?.expect_code(0)?;
        let none = rehearsal.run("status").await?.expect_code(1)?;
        ensure!(none.stderr.contains("there is no migration lab in the DynamoDB table krossing"), "{}", none.stderr);

        let mut execute = rehearsal.begin("execute")?;
        execute.until(until_segments(&s3, 3)).await?;
        let second = rehearsal.run("resume").await?.expect_code(1)?;
        ensure!(second.stderr.contains("another command drives this migration"), "{}", second.stderr);
        // One that stands still for longer than its lock and its leases is taken for dead, and ends when it wakes up.
        execute.signal("STOP")?;
        let mut resume = rehearsal.begin("resume")?;
        let stored = segments_stored(&s3).await?;
        // More than what may have been on its way.
        let taken_over = resume.until(until_segments(&s3, stored + 6)).await;
        execute.signal("CONT")?;
        taken_over?;
        let woken = execute.finish().await?.expect_code(1)?;
        ensure!(woken.stderr.contains("another command drives this migration by now"), "{}", woken.stderr);
        resume.kill().await?;
        rehearsal.reconfigure("1MiB, segment_max_bytes", "100MiB, segment_max_bytes")?;
        rehearsal.run("resume").await?.expect_done()?;
        let status = rehearsal.run("status").await?.expect_code(0)?;
        ensure!(status.stdout.contains("state: drain_ready"), "{}", status.stdout);
        rehearsal.run("cutover").await?.expect_done()?;
        rehearsal.groups.stop_live().await?;
        rehearsal.run("cutover-ack").await?.expect_code(0)?;
        let ended = rehearsal.run("finalize").await?.expect_code(0)?;
        ensure!(ended.stdout.contains("evidence=s3://evidence/lab/evidence.json"), "{}", ended.stdout);
        ensure!(!rehearsal.folder.join("evidence").exists() && !rehearsal.folder.join("segments").exists());

        rehearsal.is_exact().await?;

        let brought = bring_evidence(&s3, &rehearsal).await?;
        let (document, objects) = (brought.join("lab/evidence.json"), brought.display().to_string());
        let verified = std::process::Command::new(lab::rehearsal::command_file()?)
            .args(["evidence", "verify"])
            .arg(document)
            .args(["--objects", &objects])
            .output()?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

        let versions = s3.list_object_versions().bucket(LOCKED).prefix("lab/evidence.json").send().await?;
        let version = versions.versions().first().and_then(|version| version.version_id()).context("a version")?;
        let deleted = s3.delete_object().bucket(LOCKED).key("lab/evidence.json").version_id(version).send().await;
        ensure!(deleted.is_err(), "signed evidence was deleted");
        Ok(())
    });
}
