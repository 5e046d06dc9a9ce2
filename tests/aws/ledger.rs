//! The ledger on DynamoDB Local.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use bytes::Bytes;
use krossing_aws::{Aws, DynamoLedger, ITEM_KEY, SCOPE_KEY};
use krossing_core::{
    Generation, LaneId, MigrationId, SourceOffset, TargetOffset, TopicPartition,
    limits::{
        LANE_PARTITIONS_MAX, LEDGER_CONTENT_BYTES_MAX, LEDGER_ITEM_BYTES_MAX, LEDGER_OPERATION_WAIT_MAX,
        LEDGER_SAVES_MAX,
    },
    ports::{Ledger, StoreError},
    progress::{PartitionProgress, Run},
};
use krossing_testkit::ledger_suite;
use lab::{AwsServers, in_lab};

use crate::{
    fresh_migration,
    front::{Fate, Front},
    refused_naming, sdk, unavailable,
};

pub(crate) const TABLE: &str = "krossing";
const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn make_table(servers: &AwsServers) -> Result<aws_sdk_dynamodb::Client> {
    let client = aws_sdk_dynamodb::Client::new(&sdk(servers.dynamodb_port(), servers.owner()).await);
    let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let text =
        |name| AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
    client
        .create_table()
        .table_name(TABLE)
        .key_schema(key(SCOPE_KEY, KeyType::Hash)?)
        .key_schema(key(ITEM_KEY, KeyType::Range)?)
        .attribute_definitions(text(SCOPE_KEY)?)
        .attribute_definitions(text(ITEM_KEY)?)
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await?;
    Ok(client)
}

async fn ledger(servers: &AwsServers, port: u16, migration: &MigrationId) -> DynamoLedger {
    DynamoLedger::new(&Aws::of(sdk(port, servers.owner()).await), TABLE, migration)
}

fn progress(partition: usize, source_next: i64) -> PartitionProgress {
    let partition = TopicPartition::new("orders", i32::try_from(partition).unwrap());
    let mut progress =
        PartitionProgress::begin(partition, None, SourceOffset(0), SourceOffset(100), TargetOffset(0), 0);
    progress.source_next = SourceOffset(source_next);
    progress
}

/// As much as a partition's progress usually holds at most, and hard to pack.
fn large_progress(partition: usize, source_next: i64) -> PartitionProgress {
    let mut progress = progress(partition, source_next);
    progress.map_runs = (0..256)
        .map(|_| Run {
            source_first: SourceOffset(rand::random_range(0..i64::MAX)),
            target_first: TargetOffset(rand::random_range(0..i64::MAX)),
            count: rand::random_range(1..1_000),
        })
        .collect();
    progress
}

async fn items(client: &aws_sdk_dynamodb::Client, scope: &str) -> Result<HashSet<String>> {
    let mut pages = client
        .query()
        .table_name(TABLE)
        .key_condition_expression("#scope = :scope")
        .expression_attribute_names("#scope", SCOPE_KEY)
        .expression_attribute_values(":scope", AttributeValue::S(scope.to_owned()))
        .into_paginator()
        .items()
        .send();
    let mut keys = HashSet::new();
    while let Some(item) = pages.next().await {
        keys.insert(item?[ITEM_KEY].as_s().unwrap().clone());
    }
    Ok(keys)
}

#[test]
fn a_ledger_in_dynamodb_keeps_to_the_port() {
    in_lab("aws-ledger", async |lab| {
        let servers = lab.aws().await?;
        make_table(&servers).await?;
        let begun = Instant::now();
        ledger_suite(|| async { ledger(&servers, servers.dynamodb_port(), &fresh_migration()).await }).await;
        println!("the suite took {:?}", begun.elapsed());
        Ok(())
    });
}

#[test]
fn what_is_large_is_kept_whole() {
    in_lab("aws-ledger-large", async |lab| {
        let servers = lab.aws().await?;
        let client = make_table(&servers).await?;
        let migration = fresh_migration();
        let ledger = ledger(&servers, servers.dynamodb_port(), &migration).await;

        let begun = Instant::now();
        for position in 0..2_000 {
            ledger
                .append_journal(position, &format!("{{\"entry\":{position},\"text\":\"{}\"}}", "x".repeat(900)))
                .await?;
        }
        println!("2,000 lines appended in {:?}", begun.elapsed());
        let begun = Instant::now();
        let journal = ledger.journal().await?;
        println!("and read, over several pages, in {:?}", begun.elapsed());
        ensure!(journal.len() == 2_000 && journal[1_999].starts_with(r#"{"entry":1999,"#));
        let long = "y".repeat(900_000);
        ledger.append_journal(2_000, &long).await?;
        ensure!(ledger.journal().await?.pop() == Some(long));

        let random = |bytes: usize| Bytes::from((0..bytes).map(|_| rand::random()).collect::<Vec<u8>>());
        // The largest content that stands in its head, under a long name.
        let (name, edge) = ("n".repeat(1_900), random(LEDGER_ITEM_BYTES_MAX));
        ledger.put_document(&name, None, edge.clone()).await?;
        ensure!(ledger.document(&name).await? == Some((1, edge)));
        let first = random(2 * 1024 * 1024);
        let version = ledger.put_document("large", None, first.clone()).await?;
        ensure!(ledger.document("large").await? == Some((version, first)));
        let second = random(3 * 1024 * 1024 - 4096);
        let parts_wanted = second.len().div_ceil(LEDGER_ITEM_BYTES_MAX);
        let version = ledger.put_document("large", Some(version), second.clone()).await?;
        ensure!(ledger.document("large").await? == Some((version, second)));
        let parts = items(&client, &format!("{migration}/document/large")).await?;
        ensure!(parts.len() == 1 + parts_wanted, "the parts of the version before are gone: {parts:?}");
        let version = ledger.put_document("large", Some(version), Bytes::from_static(b"small")).await?;
        ensure!(items(&client, &format!("{migration}/document/large")).await?.len() == 1);
        // Ten thousand groups in ten partitions each: what a cutover writes while producers stand still.
        let group = |number| format!(r#"{{"group":"orders-{number}","source":{number},"target":{number}}}"#);
        let groups = Bytes::from((0..100_000).map(group).collect::<String>());
        let name = "client-switch";
        ensure!(groups.len() > 4 * 1024 * 1024);
        ledger.put_document(name, None, groups.clone()).await?;
        ensure!(ledger.document(name).await? == Some((1, groups)));
        let parts = items(&client, &format!("{migration}/document/{name}")).await?.len();
        ensure!(parts <= 6, "{parts} items");
        let lost = ledger.put_document("large", Some(version - 1), random(1024 * 1024)).await;
        ensure!(matches!(lost, Err(StoreError::Conflict { .. })), "{lost:?}");
        ensure!(items(&client, &format!("{migration}/document/large")).await?.len() == 1, "a loser leaves nothing");
        let too_large = ledger.put_document("large", Some(version), random(LEDGER_CONTENT_BYTES_MAX + 1)).await;
        refused_naming(too_large, &["large", TABLE, "more than"]);
        Ok(())
    });
}

#[test]
fn a_lane_of_a_thousand_partitions_is_saved_all_or_none() {
    in_lab("aws-ledger-lane", async |lab| {
        let servers = lab.aws().await?;
        let client = make_table(&servers).await?;
        let migration = fresh_migration();
        let ledger = ledger(&servers, servers.dynamodb_port(), &migration).await;
        let (lane, scope) = (LaneId(7), format!("{migration}/progress/lane-7"));

        let mut expected: Vec<_> = (0..LANE_PARTITIONS_MAX).map(|number| large_progress(number, 1)).collect();
        expected.sort_by(|one, other| one.partition.cmp(&other.partition));
        let begun = Instant::now();
        ledger.save_lane_progress(lane, Generation(1), &expected).await?;
        println!("1,000 partitions with 256 runs each saved in {:?}", begun.elapsed());
        let begun = Instant::now();
        ensure!(ledger.lane_progress(lane).await? == expected);
        println!("and read in {:?}, out of {} items", begun.elapsed(), items(&client, &scope).await?.len());

        // The process ends between the parts and the head that would name them.
        let front = Front::before(servers.dynamodb_port()).await?;
        let dying = self::ledger(&servers, front.port(), &migration).await;
        front.decide(|head, body| match names_head(head, body) {
            true => Fate::Lose,
            false => Fate::Forward,
        });
        let newer: Vec<_> = (0..LANE_PARTITIONS_MAX).map(|number| large_progress(number, 2)).collect();
        let before = items(&client, &scope).await?.len();
        unavailable(dying.save_lane_progress(lane, Generation(1), &newer).await, &["lane-7", TABLE]);
        ensure!(front.broken() > 1, "the request was tried again");
        ensure!(items(&client, &scope).await?.len() > before + 1, "its parts were written");
        ensure!(ledger.lane_progress(lane).await? == expected, "nothing of it is seen");

        // Saves of single partitions, until they are folded by a later generation; then what died leaves nothing.
        for next in 0..i64::try_from(LEDGER_SAVES_MAX)? + 3 {
            ledger.save_lane_progress(lane, Generation(2), &[progress(0, next)]).await?;
            ensure!(ledger.lane_progress(lane).await?[0] == progress(0, next), "save {next}");
        }
        expected[0] = progress(0, i64::try_from(LEDGER_SAVES_MAX)? + 2);
        ensure!(ledger.lane_progress(lane).await? == expected, "folding loses nothing");
        let left = items(&client, &scope).await?.len();
        ensure!(left < before + 6, "{left} items are left, {before} were needed for one save of all");
        let older = ledger.save_lane_progress(lane, Generation(1), &[progress(0, 9)]).await;
        ensure!(matches!(older, Err(StoreError::Conflict { .. })), "folding keeps the generation: {older:?}");
        Ok(())
    });
}

#[test]
fn readers_see_whole_saves_while_a_lane_is_saved_and_folded() {
    in_lab("aws-ledger-readers", async |lab| {
        let servers = lab.aws().await?;
        make_table(&servers).await?;
        let ledger = ledger(&servers, servers.dynamodb_port(), &fresh_migration()).await;
        let lane = LaneId(0);
        let writer = {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for next in 0..3 * i64::try_from(LEDGER_SAVES_MAX).unwrap() {
                    let all: Vec<_> = (0..20).map(|number| progress(number, next)).collect();
                    ledger.save_lane_progress(lane, Generation(1), &all).await.unwrap();
                }
            })
        };
        let (mut reads, mut last) = (0, -1);
        while !writer.is_finished() {
            let read = ledger.lane_progress(lane).await?;
            let nexts: HashSet<_> = read.iter().map(|progress| progress.source_next.0).collect();
            ensure!(nexts.len() <= 1, "a mixture of saves: {nexts:?}");
            let next = nexts.into_iter().next().unwrap_or(-1);
            ensure!(next >= last, "{next} after {last}");
            (reads, last) = (reads + 1, next);
        }
        writer.await?;
        println!("{reads} reads beside {} saves", 3 * LEDGER_SAVES_MAX);
        ensure!(reads > 10);
        Ok(())
    });
}

#[test]
fn a_write_whose_answer_was_lost_is_a_success() {
    in_lab("aws-ledger-lost", async |lab| {
        let servers = lab.aws().await?;
        make_table(&servers).await?;
        let front = Front::before(servers.dynamodb_port()).await?;
        let ledger = ledger(&servers, front.port(), &fresh_migration()).await;
        let lose_next_answer = || {
            let lost = AtomicBool::new(false);
            front.decide(move |head, _| {
                let first = head.contains(".PutItem") && !lost.swap(true, Ordering::Relaxed);
                if first { Fate::LoseAnswer } else { Fate::Forward }
            });
        };
        lose_next_answer();
        ledger.append_journal(0, "line").await?;
        ensure!(front.broken() == 1);
        ensure!(ledger.journal().await? == ["line"]);
        let again = ledger.append_journal(0, "line").await;
        ensure!(matches!(again, Err(StoreError::Conflict { .. })), "another call with the same line: {again:?}");

        lose_next_answer();
        let version = ledger.put_document("lease", None, Bytes::from_static(b"1")).await?;
        lose_next_answer();
        let version = ledger.put_document("lease", Some(version), Bytes::from_static(b"1")).await?;
        ensure!(front.broken() == 1);
        ensure!(ledger.document("lease").await? == Some((version, Bytes::from_static(b"1"))));

        let head_answer_lost = AtomicBool::new(false);
        front.decide(move |head, body| {
            let lose = names_head(head, body) && !head_answer_lost.swap(true, Ordering::Relaxed);
            if lose { Fate::LoseAnswer } else { Fate::Forward }
        });
        ledger.save_lane_progress(LaneId(0), Generation(1), &[progress(0, 5)]).await?;
        ensure!(front.broken() == 1);
        ensure!(ledger.lane_progress(LaneId(0)).await? == [progress(0, 5)]);
        Ok(())
    });
}

/// Whether a request writes a head.
fn names_head(head: &str, body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    head.contains(".PutItem") && body.contains(r#"{"S":"head"}"#)
}

#[test]
fn what_cannot_be_done_says_why_within_a_bound() {
    in_lab("aws-ledger-refused", async |lab| {
        let servers = lab.aws().await?;
        let front = Front::before(servers.dynamodb_port()).await?;
        let ledger = ledger(&servers, front.port(), &fresh_migration()).await;
        let region = lab::aws::REGION;
        refused_naming(ledger.journal().await, &["read the journal", TABLE, region, "deploy"]);
        refused_naming(ledger.append_journal(0, "x").await, &["line 1", TABLE, region, "deploy"]);

        let error = |code: &'static str| {
            front.decide(move |_, _| Fate::Answer {
                status: 400,
                content_type: "application/x-amz-json-1.0",
                body: format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"as scripted"}}"#),
            });
        };
        error("AccessDeniedException");
        refused_naming(ledger.document("lease").await, &["lease", TABLE, "as scripted", "dynamodb:GetItem"]);
        error("UnrecognizedClientException");
        refused_naming(ledger.document("lease").await, &[TABLE, "credentials"]);

        error("ProvisionedThroughputExceededException");
        let begun = Instant::now();
        unavailable(ledger.put_document("lease", None, Bytes::new()).await, &["lease", TABLE, "as scripted"]);
        println!("throttled {} times in {:?}", front.broken(), begun.elapsed());
        ensure!(front.broken() > 1 && begun.elapsed() < LEDGER_OPERATION_WAIT_MAX + SECOND);

        front.decide(|_, _| Fate::Lose);
        let begun = Instant::now();
        unavailable(ledger.document("lease").await, &["lease", TABLE]);
        println!("cut {} times in {:?}", front.broken(), begun.elapsed());
        ensure!(front.broken() > 1 && begun.elapsed() < LEDGER_OPERATION_WAIT_MAX + SECOND);

        front.decide(|_, _| Fate::Hang);
        let begun = Instant::now();
        unavailable(ledger.document("lease").await, &["lease", TABLE]);
        println!("silent {} times in {:?}", front.broken(), begun.elapsed());
        ensure!(front.broken() > 1 && begun.elapsed() < LEDGER_OPERATION_WAIT_MAX + SECOND);

        let gone = front.port();
        drop(front);
        let nobody = self::ledger(&servers, gone, &fresh_migration()).await;
        unavailable(nobody.document("lease").await, &["lease", TABLE]);
        Ok(())
    });
}
