//! A target that is not a copy any more: each damage done to the files of a real broker, and named by `finalize` with its
//! topic and its check.
//!
//! The broker is killed, batches of its logs are built anew with another content, and it starts again on them: its own
//! recovery makes the indexes. Every record is sampled; the default of three in each partition would find a changed one
//! only by chance.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use krossing_core::records::{BatchBuilder, RawBatch, Record, batch::Batches};
use lab::{
    Cluster, in_lab,
    rehearsal::Pair,
    workload::{Group, NewRecord, RecordingProducer, TopicSpec, create_topics},
};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};

use crate::{numbered::ends, owners::pair};

/// A damage: its topic, the check that must name it, and what is done to the batches.
type Damage = (&'static str, &'static str, fn(&mut Vec<RawBatch>) -> Result<()>);

const DAMAGES: [Damage; 7] = [
    ("changed", "spot_check_records", |log| records(log, |records| records[5].value = Some("another".into()))),
    ("header", "spot_check_records", |log| records(log, |records| records[5].headers[0].1 = Some("b".into()))),
    ("swapped", "spot_check_records", |log| {
        records(log, |records| {
            let (first, second) = (records[5].value.clone(), records[6].value.clone());
            (records[5].value, records[6].value) = (second, first);
        })
    }),
    ("dropped", "spot_check_records", |log| {
        records(log, |records| {
            records.remove(5);
        })
    }),
    ("doubled", "spot_check_records", |log| {
        records(log, |records| {
            let twice = Record { offset: records[6].offset, ..records[5].clone() };
            records[6] = twice;
        })
    }),
    ("table", "compacted_keys", |log| records(log, |records| records[39].value = Some("another".into()))),
    ("fence", "counts_and_offsets", |log| {
        log.pop().context("a log ends with a fence")?;
        Ok(())
    }),
];

/// Topics of which something else than a log is damaged, and one that is left as it is.
const OTHERS: [&str; 3] = ["wider", "group", "whole"];

/// Changes the records of the largest batch.
fn records(log: &mut [RawBatch], change: impl FnOnce(&mut Vec<Record>)) -> Result<()> {
    let batch = log.iter_mut().max_by_key(|batch| batch.header.records_count).context("a log has batches")?;
    let header = batch.header;
    let mut records = batch.records()?;
    ensure!(records.len() == 40, "a batch of {} records", records.len());
    change(&mut records);
    let changed = BatchBuilder {
        last_offset: Some(header.last_offset()),
        leader_epoch: header.leader_epoch,
        producer: header.producer,
        base_sequence: header.base_sequence,
        records,
        ..BatchBuilder::new(header.base_offset)
    };
    *batch = RawBatch::parse(changed.build()?)?;
    Ok(())
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let client = cluster.client();
    let topics = DAMAGES.iter().map(|(topic, ..)| *topic).chain(OTHERS);
    let specs: Vec<_> = topics
        .map(|topic| match topic {
            "table" => TopicSpec::new(topic, 1).with("cleanup.policy", "compact"),
            topic => TopicSpec::new(topic, 1),
        })
        .collect();
    create_topics(&client, &specs, 1).await?;
    for spec in &specs {
        // All of a topic in one batch.
        let producer = RecordingProducer::new(&client, &Default::default(), &spec.name, &[("linger.ms", "200")])?;
        tokio::task::block_in_place(|| {
            for number in 0..40 {
                let (key, value) = (format!("key-{number}"), format!("{} {number}", spec.name));
                producer.send(&NewRecord {
                    partition: 0,
                    key: Some(key.as_bytes()),
                    value: Some(value.as_bytes()),
                    headers: vec![("a", Some(b"a"))],
                    ..NewRecord::default()
                })?;
            }
            producer.settle()
        })?;
    }
    tokio::task::block_in_place(|| at("group", 20).commit(&client))
}

fn at(topic: &str, offset: i64) -> Group {
    Group { name: "readers".to_owned(), positions: vec![(topic.to_owned(), 0, offset)], metadata: String::new() }
}

/// Builds the log of a topic anew; its broker does not run. What it had derived from it is removed.
fn tamper(cluster: &Cluster, topic: &str, damage: fn(&mut Vec<RawBatch>) -> Result<()>) -> Result<()> {
    let folder = cluster.data_folder(1).join(format!("{topic}-0"));
    let files: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let of = |ending: &'static str| files.iter().filter(move |file| file.extension().is_some_and(|it| it == ending));
    let log = of("log").next().context("a log")?;
    let mut batches: Vec<RawBatch> = Batches::new(Bytes::from(fs::read(log)?)).collect::<Result<_, _>>()?;
    damage(&mut batches)?;
    fs::write(log, batches.iter().flat_map(|batch| batch.bytes.to_vec()).collect::<Vec<u8>>())?;
    for derived in ["index", "timeindex", "txnindex", "snapshot"].into_iter().flat_map(of) {
        fs::remove_file(derived)?;
    }
    Ok(())
}

async fn add_a_partition(cluster: &Cluster, topic: &str) -> Result<()> {
    let admin: AdminClient<_> = cluster.client().create()?;
    let added = admin.create_partitions([&NewPartitions::new(topic, 2)], &AdminOptions::new()).await?;
    added.into_iter().try_for_each(|one| one.map(drop).map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}")))
}

async fn every_damage_is_named(pair: &Pair) -> Result<()> {
    fill(&pair.source).await?;
    let config = "  validation: {spot_check_records_per_partition: 1000, count_tolerance: 0}\n";
    let names: Vec<&str> = DAMAGES.iter().map(|(topic, ..)| *topic).chain(OTHERS).collect();
    let migration = pair.migration("tampered", &names, config)?;
    for command in ["execute", "cutover", "cutover-ack"] {
        migration.run(command).await?.expect_code(0)?;
    }
    let end_before = ends(&pair.target.client(), "whole", 1)?;

    pair.target.kill_broker(1)?;
    for (topic, _, damage) in DAMAGES {
        tamper(&pair.target, topic, damage).with_context(|| format!("damaging {topic}"))?;
    }
    pair.target.start_broker(1).await?;
    ensure!(ends(&pair.target.client(), "whole", 1)? == end_before, "the broker has lost a log that was left alone");
    add_a_partition(&pair.target, "wider").await?;
    tokio::task::block_in_place(|| at("group", 20).commit(&pair.target.client()))?;

    let refused = migration.run("finalize").await?.expect_code(1)?;
    let named =
        |topic: &str, check: &str| refused.stdout.lines().any(|line| line.starts_with(&format!("{check}: {topic}")));
    for (topic, check, _) in DAMAGES {
        ensure!(named(topic, check), "{check} does not name {topic}:\n{}", refused.stdout);
    }
    ensure!(named("wider", "topic_parity"), "{}", refused.stdout);
    ensure!(named("group readers", "consumer_group_reconciliation"), "{}", refused.stdout);
    ensure!(!refused.stdout.contains("whole"), "a topic that is as it was is complained of:\n{}", refused.stdout);
    ensure!(refused.stderr.contains("validation failed"), "{refused:?}");
    let signed = migration.ledger_folder().join("evidence.json");
    let signed: serde_json::Value = serde_json::from_slice(&fs::read(signed)?)?;
    let bundle = signed["bundle_json"].as_str().context("a bundle")?;
    ensure!(bundle.contains("\"outcome\":\"failed\""), "a failed validation is evidence, too");
    Ok(())
}

#[test]
fn every_damage_to_the_target_is_named_by_its_check() {
    in_lab("tampered", async |lab| {
        let pair = pair(lab, lab::Version::V3_9).await?;
        every_damage_is_named(&pair).await
    });
}
