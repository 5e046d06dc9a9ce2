//! Objects on an S3 server that enforces Object Lock.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_s3::{
    Client,
    primitives::DateTime,
    types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode},
};
use bytes::Bytes;
use krossing_aws::{Aws, BucketOptions, Retention, S3Objects};
use krossing_core::{
    limits::{OBJECT_OPERATION_WAIT_MAX, OBJECT_PART_BYTES},
    ports::{ObjectLock, Objects, StoreError},
};
use krossing_runtime::SystemClock;
use krossing_testkit::objects_suite;
use lab::{AwsServers, aws::AccessKey, in_lab};

use crate::{
    fresh_migration,
    front::{Fate, Front},
    refused_naming, sdk, unavailable,
};

pub(crate) const BUCKET: &str = "segments";
pub(crate) const LOCKED: &str = "evidence";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) async fn make_buckets(servers: &AwsServers) -> Result<Client> {
    let config = sdk(servers.s3_port(), servers.owner()).await;
    let client = Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build());
    client.create_bucket().bucket(BUCKET).send().await?;
    client.create_bucket().bucket(LOCKED).object_lock_enabled_for_bucket(true).send().await?;
    Ok(client)
}

async fn objects(port: u16, who: AccessKey, bucket: &str, retention: Retention) -> S3Objects<SystemClock> {
    let options = BucketOptions {
        bucket: bucket.to_owned(),
        prefix: fresh_migration().to_string(),
        kms_key: None,
        path_style: true,
        retention,
    };
    S3Objects::new(&Aws::of(sdk(port, who).await), options, SystemClock)
}

fn text(text: &str) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(text.as_bytes())]
}

#[test]
fn objects_in_a_bucket_keep_to_the_port() {
    in_lab("aws-objects", async |lab| {
        let servers = lab.aws().await?;
        make_buckets(&servers).await?;
        let begun = Instant::now();
        objects_suite(|| objects(servers.s3_port(), servers.owner(), BUCKET, Retention::None)).await;
        println!("the suite took {:?}", begun.elapsed());
        objects_suite(|| objects(servers.s3_port(), servers.owner(), LOCKED, Retention::Compliance(DAY))).await;
        Ok(())
    });
}

#[test]
fn a_large_object_goes_in_parts_and_comes_back() {
    in_lab("aws-objects-large", async |lab| {
        let servers = lab.aws().await?;
        let client = make_buckets(&servers).await?;
        let objects = objects(servers.s3_port(), servers.owner(), BUCKET, Retention::None).await;
        let block: Vec<u8> = (0..1024 * 1024).map(|_| rand::random()).collect();
        // Pieces that end nowhere near a part.
        let pieces: Vec<_> = (0..100).map(|at| Bytes::copy_from_slice(&block[..block.len() - at])).collect();
        let whole = Bytes::from(pieces.concat());
        let begun = Instant::now();
        objects.put("large", pieces.clone()).await?;
        let stored = begun.elapsed();
        let begun = Instant::now();
        ensure!(objects.get("large").await? == Some(whole.clone()));
        println!("{} bytes stored in {stored:?}, read in {:?}", whole.len(), begun.elapsed());
        let (from, count) = (30_000_001, 20_000_000);
        ensure!(objects.get_range("large", from as u64, count as u64).await? == whole.slice(from..from + count));
        let taken = objects.put_new("large", pieces).await;
        ensure!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
        let open = client.list_multipart_uploads().bucket(BUCKET).send().await?;
        ensure!(open.uploads().is_empty(), "what lost was aborted: {open:?}");
        for number in 0..1_100 {
            objects.put(&format!("many/{number:04}"), vec![]).await?;
        }
        ensure!(objects.list("many/").await?.len() == 1_100, "over two pages");
        Ok(())
    });
}

#[test]
fn evidence_cannot_be_deleted_before_its_time() {
    in_lab("aws-objects-locked", async |lab| {
        let servers = lab.aws().await?;
        let client = make_buckets(&servers).await?;
        let options = BucketOptions {
            bucket: LOCKED.to_owned(),
            prefix: "proof".to_owned(),
            kms_key: None,
            path_style: true,
            retention: Retention::Compliance(DAY),
        };
        let aws = Aws::of(sdk(servers.s3_port(), servers.owner()).await);
        let locked = S3Objects::new(&aws, options.clone(), SystemClock);
        ensure!(locked.object_lock().await? == ObjectLock::On);
        locked.put_new("evidence.json", text("signed")).await?;
        let large = Bytes::from(vec![7; 20 * 1024 * 1024]);
        locked.put("large", vec![large.clone()]).await?;
        for key in ["proof/evidence.json", "proof/large"] {
            let head = client.head_object().bucket(LOCKED).key(key).send().await?;
            ensure!(head.object_lock_mode() == Some(&ObjectLockMode::Compliance), "{head:?}");
            let version = head.version_id().expect("locked buckets have versions");
            let delete = client.delete_object().bucket(LOCKED).key(key).version_id(version);
            ensure!(delete.clone().send().await.is_err(), "{key} is deleted");
            ensure!(delete.bypass_governance_retention(true).send().await.is_err(), "{key} is deleted by force");
            let until = head.object_lock_retain_until_date().expect("locked").secs();
            let shorter = ObjectLockRetention::builder()
                .mode(ObjectLockRetentionMode::Compliance)
                .retain_until_date(DateTime::from_secs(until - 3_600))
                .build();
            let shorten = client.put_object_retention().bucket(LOCKED).key(key).version_id(version).retention(shorter);
            ensure!(shorten.send().await.is_err(), "the retention of {key} is shortened");
        }
        ensure!(locked.get("evidence.json").await? == Some(Bytes::from_static(b"signed")));
        ensure!(locked.get("large").await? == Some(large));

        // A bucket without Object Lock: stored, and said, before to whoever asks.
        let unkept = BucketOptions { retention: Retention::None, ..options.clone() };
        ensure!(S3Objects::new(&aws, unkept, SystemClock).object_lock().await? == ObjectLock::NotWanted);
        let bare = S3Objects::new(&aws, BucketOptions { bucket: BUCKET.to_owned(), ..options }, SystemClock);
        ensure!(bare.object_lock().await? == ObjectLock::Missing);
        bare.put_new("evidence.json", text("signed")).await?;
        ensure!(bare.get("evidence.json").await? == Some(Bytes::from_static(b"signed")));
        let head = client.head_object().bucket(BUCKET).key("proof/evidence.json").send().await?;
        ensure!(head.object_lock_mode().is_none(), "{head:?}");
        Ok(())
    });
}

/// What the requests that begin an object say of encryption: of one put at once, then of one in parts.
async fn encryption_asked(kms_key: Option<&str>) -> Result<Vec<Vec<String>>> {
    // No server of the lab has keys: what is sent is looked at, and answered as S3 does.
    let front = Front::before(0).await?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    front.decide(move |head, _| {
        let line = head.lines().next().unwrap_or_default();
        let in_parts = line.contains("?uploads");
        if in_parts || line.contains("x-id=PutObject") {
            let headers = head.lines().map(str::to_lowercase);
            let mut said: Vec<_> = headers.filter(|line| line.starts_with("x-amz-server-side-encryption")).collect();
            said.sort();
            seen.lock().expect("no panic while held").push(said);
        }
        let body = if in_parts {
            "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        } else if line.starts_with("POST") {
            "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        } else {
            ""
        };
        Fate::Answer { status: 200, content_type: "application/xml", body: body.to_owned() }
    });
    let options = BucketOptions {
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        kms_key: kms_key.map(str::to_owned),
        path_style: true,
        retention: Retention::None,
    };
    let who = AccessKey { id: "krossing", secret: "krossing-secret" };
    let objects = S3Objects::new(&Aws::of(sdk(front.port(), who).await), options, SystemClock);
    objects.put("small", text("x")).await?;
    objects.put("large", vec![Bytes::from(vec![7; OBJECT_PART_BYTES + 1])]).await?;
    Ok(asked.lock().expect("no panic while held").clone())
}

#[tokio::test]
async fn a_key_encrypts_objects_that_are_put_at_once_and_in_parts() -> Result<()> {
    let key = "arn:aws:kms:eu-west-1:111122223333:key/mine";
    let by_key = vec![
        format!("x-amz-server-side-encryption-aws-kms-key-id: {key}"),
        "x-amz-server-side-encryption: aws:kms".to_owned(),
    ];
    assert_eq!(encryption_asked(Some(key)).await?, [by_key.clone(), by_key]);
    assert_eq!(encryption_asked(None).await?, [Vec::<String>::new(), Vec::new()], "as the bucket says");
    Ok(())
}

#[test]
fn a_new_object_whose_answer_was_lost_is_a_success() {
    in_lab("aws-objects-lost", async |lab| {
        let servers = lab.aws().await?;
        make_buckets(&servers).await?;
        let front = Front::before(servers.s3_port()).await?;
        let objects = objects(front.port(), servers.owner(), BUCKET, Retention::None).await;
        let lose_next = |begins: &'static str, holds: &'static str| {
            let lost = AtomicBool::new(false);
            front.decide(move |head, _| {
                let line = head.lines().next().unwrap_or_default();
                let meant = line.starts_with(begins) && line.to_lowercase().contains(holds);
                if meant && !lost.swap(true, Ordering::Relaxed) { Fate::LoseAnswer } else { Fate::Forward }
            });
        };
        lose_next("PUT", "plan");
        objects.put_new("plan", text("mine")).await?;
        ensure!(front.broken() == 1);
        let taken = objects.put_new("plan", text("mine")).await;
        ensure!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");

        lose_next("POST", "uploadid");
        let large = Bytes::from(vec![7; 20 * 1024 * 1024]);
        objects.put_new("large", vec![large.clone()]).await?;
        ensure!(front.broken() == 1);
        ensure!(objects.get("large").await? == Some(large.clone()));
        lose_next("POST", "uploadid");
        objects.put("large", vec![large]).await?;
        ensure!(front.broken() == 1);
        Ok(())
    });
}

#[test]
fn what_cannot_be_done_says_why_within_a_bound() {
    in_lab("aws-objects-refused", async |lab| {
        let servers = lab.aws().await?;
        make_buckets(&servers).await?;
        let (owner, stranger) = (servers.owner(), servers.s3_stranger());
        let nowhere = objects(servers.s3_port(), owner, "nowhere", Retention::None).await;
        for answer in
            [nowhere.put("a", text("x")).await, nowhere.get("a").await.map(drop), nowhere.list("").await.map(drop)]
        {
            refused_naming(answer, &["nowhere", "deploy"]);
        }
        let nowhere = objects(servers.s3_port(), owner, "nowhere", Retention::Compliance(DAY)).await;
        refused_naming(nowhere.put("a", text("x")).await, &["nowhere", "deploy"]);
        let not_mine = objects(servers.s3_port(), stranger, BUCKET, Retention::None).await;
        for answer in
            [not_mine.put("a", text("x")).await, not_mine.get("a").await.map(drop), not_mine.list("").await.map(drop)]
        {
            refused_naming(answer, &[BUCKET, "s3:GetObject"]);
        }
        let not_mine = objects(servers.s3_port(), stranger, LOCKED, Retention::Compliance(DAY)).await;
        refused_naming(not_mine.object_lock().await, &[LOCKED, "s3:GetBucketObjectLockConfiguration"]);
        let impostor = AccessKey { secret: "wrong", ..owner };
        let impostor = objects(servers.s3_port(), impostor, BUCKET, Retention::None).await;
        refused_naming(impostor.get("a").await, &[BUCKET, "credentials"]);

        let front = Front::before(servers.s3_port()).await?;
        let objects = objects(front.port(), owner, BUCKET, Retention::None).await;
        let error = |status, code: &'static str| {
            front.decide(move |_, _| Fate::Answer {
                status,
                content_type: "application/xml",
                body: format!("<Error><Code>{code}</Code><Message>as scripted</Message></Error>"),
            });
        };
        error(301, "PermanentRedirect");
        refused_naming(objects.get("a").await, &[BUCKET, lab::aws::REGION, "another region"]);
        error(503, "SlowDown");
        let begun = Instant::now();
        unavailable(objects.put("a", text("x")).await, &[BUCKET, "SlowDown"]);
        println!("throttled {} times in {:?}", front.broken(), begun.elapsed());
        ensure!(front.broken() > 1 && begun.elapsed() < OBJECT_OPERATION_WAIT_MAX);
        front.decide(|_, _| Fate::Lose);
        unavailable(objects.list("").await, &[BUCKET]);

        // What was changed on the way, or on the disk, is not taken for what was stored.
        front.decide(|_, _| Fate::Forward);
        objects.put("a", text("whole")).await?;
        front.decide(|head, _| match head.starts_with("GET") {
            true => Fate::Answer {
                status: 206,
                content_type: "text/plain\r\nContent-Range: bytes 0-4/5\r\nx-amz-meta-krossing-crc32c: 00000000",
                body: "whale".to_owned(),
            },
            false => Fate::Forward,
        });
        let damaged = objects.get("a").await;
        ensure!(matches!(damaged, Err(StoreError::Damaged { .. })), "{damaged:?}");
        Ok(())
    });
}
