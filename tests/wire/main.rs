//! The Kafka client on real brokers: every call once against both kinds of cluster, and the answers of brokers that the
//! rest of the design relies on.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use krossing_core::{
    GroupId, KafkaCode, LeaderEpoch, Offset, Producer, Side, TopicId, TopicName, TopicPartition,
    ports::{
        ClusterError, ClusterResult, CommittedOffset, ConfigOrigin, EpochEnd, FetchPartition, FetchRequest, Fetched,
        GroupOffsets, Groups, Inventory, Isolation, LogEnd, LogReader, LogWriter, Marker, MetadataMode, NewTopic,
        ProduceOutcome, ProduceRequest, TopicAdmin,
    },
};
use krossing_wire::{Sasl, Security, TlsConfig, WireCluster, WireConfig};
use lab::{
    Cluster, ClusterSpec, Listener, Version,
    cluster::{ALICE, KROSSING},
    in_lab,
};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer as _},
};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn every_call_works_in_zookeeper_mode() {
    in_lab("wire-zookeeper", async |lab| {
        let cluster = lab.zookeeper_cluster(ClusterSpec::default()).await?;
        every_call(&cluster, MetadataMode::ZooKeeper).await
    });
}

#[test]
fn every_call_works_with_kraft() {
    in_lab("wire-kraft", async |lab| {
        let cluster = lab.kraft_cluster(ClusterSpec { version: Version::V4_1, ..ClusterSpec::default() }).await?;
        every_call(&cluster, MetadataMode::Kraft).await
    });
}

#[test]
fn it_is_let_in_by_password_and_by_certificate_and_says_why_not() {
    in_lab("wire-tls", async |lab| {
        let spec = |version| {
            let spec =
                ClusterSpec { security: lab::Security::Tls, authorizer: true, version, ..ClusterSpec::default() };
            // Sessions end while the test runs.
            spec.with("connections.max.reauth.ms", "2000")
        };
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(spec(Version::V3_9)), lab.kraft_cluster(spec(Version::V4_1)))?;
        tokio::try_join!(secured(&source), secured(&target))?;
        Ok(())
    });
}

#[test]
fn leaders_and_coordinators_that_move_are_found_again() {
    in_lab("wire-moves", async |lab| {
        let cluster =
            lab.kraft_cluster(ClusterSpec { brokers: 3, version: Version::V4_1, ..ClusterSpec::default() }).await?;
        moves(&cluster).await
    });
}

async fn connect(cluster: &Cluster, listener: Listener, security: Security) -> Result<WireCluster, ClusterError> {
    WireCluster::connect(WireConfig {
        side: Side::Source,
        bootstrap: cluster.bootstrap(listener).split(',').map(str::to_owned).collect(),
        security,
        client_id: "krossing-test".to_owned(),
    })
    .await
}

async fn every_call(cluster: &Cluster, mode: MetadataMode) -> Result<()> {
    let wire = connect(cluster, Listener::Plaintext, Security::default()).await?;
    let description = wire.describe_cluster().await?;
    ensure!(description.metadata_mode == mode && description.brokers.len() == 1, "{description:?}");
    ensure!(!description.cluster_id.is_empty() && description.fetch_version_max >= 17, "{description:?}");

    asking_about_groups_makes_no_topic(&wire).await?;
    topics_and_settings(&wire).await?;
    let producer = fences_and_produces(&wire).await?;
    reads(&wire, producer).await?;
    many_partitions_at_once(&wire).await?;
    groups(&wire).await?;
    unfinished_commits_are_waited_for(cluster, &wire).await?;
    if mode == MetadataMode::Kraft {
        groups_of_the_newer_protocol_are_seen(cluster, &wire).await?;
    }

    let sizes = wire.partition_sizes().await?;
    ensure!(sizes[&TopicPartition::new("log", 0)] > 0, "{sizes:?}");
    ensure!(wire.acls().await?.is_none(), "no authorizer, no rules");
    ensure!(wire.scram_users().await?.is_empty());
    ensure!(wire.client_quotas().await?.is_empty());
    cluster
        .configs(&[
            "--alter",
            "--add-config",
            "producer_byte_rate=1048576",
            "--entity-type",
            "clients",
            "--entity-default",
        ])
        .await?;
    let quotas = until(async || Ok(Some(wire.client_quotas().await?).filter(|quotas| !quotas.is_empty()))).await?;
    ensure!(quotas.len() == 1 && quotas[0].entity == BTreeMap::from([("client-id".to_owned(), None)]), "{quotas:?}");
    ensure!(quotas[0].limits == BTreeMap::from([("producer_byte_rate".to_owned(), 1_048_576.0)]), "{quotas:?}");
    Ok(())
}

async fn asking_about_groups_makes_no_topic(wire: &WireCluster) -> Result<()> {
    let nobody = GroupId::new("nobody");
    ensure!(wire.list_groups().await?.is_empty());
    let described = wire.describe_groups(std::slice::from_ref(&nobody)).await?;
    ensure!(described[0].state == "Dead" && described[0].members == 0, "{described:?}");
    ensure!(positions(wire, &nobody).await?.is_empty());
    ensure!(wire.describe_topics(None).await?.is_empty(), "asking made a topic");
    Ok(())
}

async fn positions(wire: &WireCluster, group: &GroupId) -> ClusterResult<GroupOffsets> {
    Ok(wire.group_offsets(std::slice::from_ref(group)).await?.remove(group).unwrap_or_default())
}

fn new_topic(name: &str, partitions: i32, replicas: i16) -> NewTopic {
    let configs = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
    NewTopic { name: TopicName::new(name), partitions, replication_factor: replicas, configs }
}

async fn topics_and_settings(wire: &WireCluster) -> Result<()> {
    let made = wire.create_topics(&[new_topic("log", 2, 1), new_topic("wide", 1, 9)]).await?;
    let (log, wide) = (TopicName::new("log"), TopicName::new("wide"));
    ensure!(made[&log].is_ok(), "{made:?}");
    ensure!(matches!(made[&wide], Err((KafkaCode::INVALID_REPLICATION_FACTOR, _))), "{made:?}");
    let again = wire.create_topics(&[new_topic("log", 2, 1)]).await?;
    ensure!(matches!(again[&log], Err((KafkaCode::TOPIC_ALREADY_EXISTS, _))), "{again:?}");
    wire.create_partitions(&log, 3).await?;
    wire.create_partitions(&log, 3).await?;
    let fewer = wire.create_partitions(&log, 1).await;
    ensure!(matches!(fewer, Err(ClusterError::Refused { code: KafkaCode::INVALID_PARTITIONS, .. })), "{fewer:?}");

    let topics = wire.describe_topics(Some(&[log.clone(), TopicName::new("missing")])).await?;
    ensure!(topics.len() == 1 && topics[0].partitions.len() == 3 && topics[0].id.is_some(), "{topics:?}");
    ensure!(topics[0].partitions.iter().all(|p| p.leader.is_some() && p.in_sync == p.replicas), "{topics:?}");

    let all = [log.clone()];
    let configs = wire.topic_configs(&all).await?;
    let retention = &configs[&log]["retention.ms"];
    ensure!(retention.value.as_deref() == Some("-1") && retention.origin == ConfigOrigin::Topic, "{retention:?}");
    let change = |name: &str, value: Option<&str>| {
        BTreeMap::from([(log.clone(), BTreeMap::from([(name.to_owned(), value.map(str::to_owned))]))])
    };
    ensure!(wire.alter_topic_configs(&change("max.message.bytes", Some("2000000"))).await?[&log].is_ok());
    ensure!(wire.alter_topic_configs(&change("retention.ms", None)).await?[&log].is_ok());
    let wrong = wire.alter_topic_configs(&change("max.message.bytes", Some("many"))).await?;
    ensure!(matches!(wrong[&log], Err((KafkaCode::INVALID_CONFIG, _))), "{wrong:?}");
    let settled = until(async || {
        let configs = wire.topic_configs(&all).await?;
        let set = configs[&log]["max.message.bytes"].value.as_deref() == Some("2000000");
        Ok((set && configs[&log]["retention.ms"].origin != ConfigOrigin::Topic).then_some(()))
    });
    settled.await?;
    let broker = wire.describe_cluster().await?.brokers[0].id;
    ensure!(wire.broker_configs(broker).await?.contains_key("log.dirs"));
    Ok(())
}

async fn fences_and_produces(wire: &WireCluster) -> Result<Producer> {
    let (log, missing) = (TopicPartition::new("log", 0), TopicPartition::new("missing", 0));
    let first = wire.open_producer("krossing.test.0").await?;
    let refused = wire.mark("krossing.test.0", first, &[missing.clone(), log.clone()]).await?;
    ensure!(refused == BTreeMap::from([(missing.clone(), KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)]), "{refused:?}");
    until_end(wire, &log, 1).await?;

    // Sequences begin at 0 after the fence; a repeat is answered with its old offset, a gap is refused.
    let send = async |producer, sequence, batch: fn(Batch) -> Batch| {
        let batch = batch(Batch::of(producer, sequence, 3)).bytes();
        wire.produce(ProduceRequest { partition: log.clone(), batch, send_before: Instant::now() + LONG }).await
    };
    let appended = |base_offset| ProduceOutcome::Appended { base_offset };
    expect(send(first, 0, |b| b).await, &appended(1))?;
    expect(send(first, 0, |b| b).await, &appended(1))?;
    expect(send(first, 3, |b| b).await, &appended(4))?;
    refuses(send(first, 30, |b| b).await, KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER)?;
    refuses(send(first, 6, |b| Batch { base_offset: 5, ..b }).await, KafkaCode::INVALID_RECORD)?;
    refuses(send(first, 6, |b| Batch { corrupt: true, ..b }).await, KafkaCode::CORRUPT_MESSAGE)?;
    refuses(
        send(first, 6, |b| Batch { transactional: true, ..b }).await,
        KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )?;
    until_end(wire, &log, 7).await?;

    let late =
        ProduceRequest { partition: log.clone(), batch: Batch::of(first, 6, 1).bytes(), send_before: Instant::now() };
    ensure!(matches!(wire.produce(late).await, ProduceOutcome::NotAppended { .. }));
    let nowhere = ProduceRequest {
        partition: missing,
        batch: Batch::of(first, 0, 1).bytes(),
        send_before: Instant::now() + LONG,
    };
    ensure!(matches!(wire.produce(nowhere).await, ProduceOutcome::NotAppended { .. }));

    // The second owner: once its mark stands in the log, the first is refused for good.
    let second = wire.open_producer("krossing.test.0").await?;
    ensure!(second.id == first.id && second.epoch > first.epoch, "{first} then {second}");
    ensure!(wire.mark("krossing.test.0", second, std::slice::from_ref(&log)).await?.is_empty());
    until_end(wire, &log, 8).await?;
    refuses(send(first, 6, |b| b).await, KafkaCode::INVALID_PRODUCER_EPOCH)?;
    expect(send(second, 0, |b| b).await, &appended(8))?;
    let stale = wire.mark("krossing.test.0", first, std::slice::from_ref(&log)).await;
    ensure!(matches!(&stale, Err(ClusterError::Refused { code, .. }) if [47, 90].contains(&code.0)), "{stale:?}");
    Ok(second)
}

async fn reads(wire: &WireCluster, producer: Producer) -> Result<()> {
    let log = TopicPartition::new("log", 0);
    let all = [log.clone(), TopicPartition::new("log", 1), TopicPartition::new("missing", 0)];
    let ends = wire.log_ends(&all, LogEnd::Latest).await?;
    ensure!(ends[&log] == Ok(11) && ends[&all[1]] == Ok(0), "{ends:?}");
    ensure!(ends[&all[2]] == Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION), "{ends:?}");
    ensure!(wire.log_ends(&all[..1], LogEnd::Earliest).await?[&log] == Ok(0));
    ensure!(wire.log_ends(&all[..1], LogEnd::LatestStable).await?[&log] == Ok(11));
    let leader = wire.leaders(&all[..1], true).await?[&log].unwrap();
    let epoch = leader.epoch.unwrap();

    let id = wire.describe_topics(Some(std::slice::from_ref(&log.topic))).await?[0].id;
    for id in [id, None] {
        let fetched = fetch(wire, &log, id, 0, None).await?.unwrap();
        ensure!(fetched.high_watermark == 11 && fetched.last_stable_offset == 11 && fetched.log_start == 0);
        ensure!(fetched.diverging.is_none() && base_offsets(&fetched.records) == [0, 1, 4, 7, 8], "{fetched:?}");
        let tail = fetch(wire, &log, id, 8, Some(epoch)).await?.unwrap();
        ensure!(tail.diverging.is_none() && base_offsets(&tail.records) == [8], "{tail:?}");

        // What the broker says where the log behind us is another: we claim more of this epoch than it has.
        let diverging = fetch(wire, &log, id, 20, Some(epoch)).await?.unwrap();
        ensure!(diverging.diverging == Some(EpochEnd { epoch, end: 11 }), "{diverging:?}");
        ensure!(diverging.records.is_empty(), "{diverging:?}");
        // Without an epoch to compare, and with one the broker has never had, there is only the offset.
        ensure!(fetch(wire, &log, id, 20, None).await? == Err(KafkaCode::OFFSET_OUT_OF_RANGE));
        let later = fetch(wire, &log, id, 8, Some(LeaderEpoch(epoch.0 + 5))).await?;
        println!("an epoch that never was: {later:?}");
        ensure!(later == Err(KafkaCode::OFFSET_OUT_OF_RANGE) || later.as_ref().is_ok_and(|f| f.diverging.is_some()));
    }
    let other = Some(TopicId(uuid(7)));
    let wrong = fetch(wire, &log, other, 0, None).await?;
    ensure!(wrong == Err(KafkaCode::UNKNOWN_TOPIC_ID), "{wrong:?}");

    ensure!(wire.epoch_end(&log, epoch).await? == Some(EpochEnd { epoch, end: 11 }));
    ensure!(wire.epoch_end(&log, LeaderEpoch(epoch.0 + 5)).await?.is_none());
    let producers = wire.producers(&all[..1]).await?;
    let known = producers[&log].clone().unwrap();
    ensure!(known.len() == 1 && known[0].producer == producer, "{known:?}");
    ensure!(known[0].open_transaction_from.is_none(), "{known:?}");
    Ok(())
}

async fn fetch(
    wire: &WireCluster,
    partition: &TopicPartition,
    topic_id: Option<TopicId>,
    offset: Offset,
    last_epoch: Option<LeaderEpoch>,
) -> Result<Result<Fetched, KafkaCode>> {
    let broker = wire.leaders(std::slice::from_ref(partition), false).await?[partition].unwrap().broker;
    let wanted = FetchPartition { partition: partition.clone(), topic_id, offset, last_epoch, bytes_max: 1 << 20 };
    let request = FetchRequest {
        broker,
        partitions: vec![wanted],
        isolation: Isolation::ReadCommitted,
        wait_max: Duration::from_millis(100),
        bytes_min: 1,
        bytes_max: 1 << 20,
    };
    Ok(wire.fetch(request).await?.remove(partition).unwrap())
}

async fn many_partitions_at_once(wire: &WireCluster) -> Result<()> {
    const PARTITIONS: i32 = 100;
    const BATCHES: i32 = 20;
    ensure!(wire.create_topics(&[new_topic("many", PARTITIONS, 1)]).await?[&TopicName::new("many")].is_ok());
    let all: Vec<_> = (0..PARTITIONS).map(|n| TopicPartition::new("many", n)).collect();
    let producer = wire.open_producer("krossing.test.1").await?;
    ensure!(wire.mark("krossing.test.1", producer, &all).await?.is_empty());
    until(async || {
        let ends = wire.log_ends(&all, LogEnd::Latest).await?;
        Ok(ends.values().all(|end| *end == Ok(1)).then_some(()))
    })
    .await?;
    let begun = Instant::now();
    let lanes = all.iter().map(async |partition| {
        for n in 0..BATCHES {
            let batch = Batch::of(producer, n * 2, 2).bytes();
            let request = ProduceRequest { partition: partition.clone(), batch, send_before: Instant::now() + LONG };
            expect(wire.produce(request).await, &ProduceOutcome::Appended { base_offset: i64::from(1 + n * 2) })?;
        }
        Ok::<_, anyhow::Error>(())
    });
    futures::future::try_join_all(lanes).await?;
    println!("{} batches in {:?}", PARTITIONS * BATCHES, begun.elapsed());
    Ok(())
}

async fn groups(wire: &WireCluster) -> Result<()> {
    let group = GroupId::new("readers");
    let at = |offset, metadata: &str| CommittedOffset { offset, metadata: metadata.to_owned() };
    let offsets = GroupOffsets::from([
        (TopicPartition::new("log", 0), at(5, "a note")),
        (TopicPartition::new("log", 2), at(0, "")),
        (TopicPartition::new("many", 7), at(41, "")),
    ]);
    let with_missing = {
        let mut offsets = offsets.clone();
        offsets.insert(TopicPartition::new("missing", 0), at(1, ""));
        offsets
    };
    let refused = wire.commit_group_offsets(&group, &with_missing).await?;
    ensure!(refused.keys().eq([&TopicPartition::new("missing", 0)]), "{refused:?}");
    ensure!(positions(wire, &group).await? == offsets);
    let listed = wire.list_groups().await?;
    ensure!(listed.len() == 1 && listed[0] == group, "{listed:?}");
    let described = wire.describe_groups(&[group, GroupId::new("nobody")]).await?;
    ensure!(described[0].state == "Empty" && described[0].members == 0, "{described:?}");
    ensure!(described[1].state == "Dead", "{described:?}");
    Ok(())
}

async fn unfinished_commits_are_waited_for(cluster: &Cluster, wire: &WireCluster) -> Result<()> {
    let group = GroupId::new("transactional");
    let producer: BaseProducer = cluster.client().set("transactional.id", "app").create()?;
    let consumer: BaseConsumer = cluster.client().set("group.id", group.as_str()).create()?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("log", 0, rdkafka::Offset::Offset(5))?;
    let metadata = consumer.group_metadata().unwrap();
    tokio::task::block_in_place(|| {
        producer.init_transactions(LONG)?;
        producer.begin_transaction()?;
        producer.send_offsets_to_transaction(&offsets, &metadata, LONG)
    })?;
    let hidden = positions(wire, &group).await;
    ensure!(matches!(hidden, Err(ClusterError::Unavailable { .. })), "{hidden:?}");
    ensure!(format!("{hidden:?}").contains("error 88"), "{hidden:?}");
    tokio::task::block_in_place(|| producer.commit_transaction(LONG))?;
    // A coordinator takes the position in a moment after the marker is in its log.
    let found = until(async || Ok(positions(wire, &group).await?.remove(&TopicPartition::new("log", 0)))).await?;
    ensure!(found.offset == 5);
    Ok(())
}

async fn groups_of_the_newer_protocol_are_seen(cluster: &Cluster, wire: &WireCluster) -> Result<()> {
    let group = GroupId::new("newer");
    let mut config = cluster.client();
    let consumer: BaseConsumer = config.set("group.id", group.as_str()).set("group.protocol", "consumer").create()?;
    consumer.subscribe(&["log"])?;
    let described = until(async || {
        tokio::task::block_in_place(|| consumer.poll(Duration::from_millis(100)));
        let described = wire.describe_groups(std::slice::from_ref(&group)).await?;
        Ok((described[0].state == "Stable").then(|| described[0].clone()))
    });
    let described = described.await?;
    ensure!(described.members == 1 && described.protocol_type == "consumer", "{described:?}");
    let offsets =
        GroupOffsets::from([(TopicPartition::new("log", 0), CommittedOffset { offset: 1, metadata: String::new() })]);
    let refused = wire.commit_group_offsets(&group, &offsets).await;
    println!("a commit for a group with members: {refused:?}");
    ensure!(refused.is_err() || refused.is_ok_and(|refused| refused.len() == 1));
    Ok(())
}

async fn secured(cluster: &Cluster) -> Result<()> {
    let ca_pem = Some(std::fs::read(cluster.ca_file())?);
    let tls = TlsConfig { ca_pem: ca_pem.clone(), ..TlsConfig::default() };
    let sasl = |user: lab::cluster::User, password: &str| {
        Some(Sasl::ScramSha512 { username: user.name.to_owned(), password: password.to_owned() })
    };
    let by_password =
        |user: lab::cluster::User, password| Security { tls: Some(tls.clone()), sasl: sasl(user, password) };
    let certificate = |user| {
        let pair = cluster.key_pair(user);
        let read = |file| Ok::<_, anyhow::Error>(Some(std::fs::read(file)?));
        let cert_pem = read(pair.cert_file)?;
        let tls = TlsConfig { ca_pem: ca_pem.clone(), cert_pem, key_pem: read(pair.key_file)? };
        Ok::<_, anyhow::Error>(Security { tls: Some(tls), sasl: None })
    };

    // Wrong in one thing each.
    for (listener, security, why) in [
        (Listener::Scram, by_password(ALICE, "wrong"), "error 58"),
        (Listener::Scram, Security { tls: Some(TlsConfig::default()), ..by_password(ALICE, ALICE.password) }, "TLS"),
        (Listener::MutualTls, by_password(ALICE, ALICE.password), "TLS"),
    ] {
        let begun = Instant::now();
        let refused = connect(cluster, listener, security).await;
        let said = format!("{refused:?}");
        println!("{said} after {:?}", begun.elapsed());
        ensure!(matches!(refused, Err(ClusterError::NotAllowed { .. })) && said.contains(why), "{said}");
        ensure!(!said.contains(ALICE.password) && !said.contains("wrong"), "{said}");
    }

    let admin = connect(cluster, Listener::Scram, by_password(KROSSING, KROSSING.password)).await?;
    ensure!(admin.create_topics(&[new_topic("open", 1, 1)]).await?[&TopicName::new("open")].is_ok());
    cluster.acls(&["--add", "--allow-principal", "User:alice", "--operation", "Read", "--topic", "open"]).await?;
    let rules = until(async || Ok(admin.acls().await?.filter(|rules| !rules.is_empty()))).await?;
    let rule = &rules[0];
    ensure!(
        rule.resource_type == "Topic" && rule.resource_name == "open" && rule.pattern_type == "Literal",
        "{rule:?}"
    );
    ensure!(rule.principal == "User:alice" && rule.operation == "Read" && rule.permission == "Allow", "{rule:?}");
    ensure!(admin.scram_users().await? == ["alice", "krossing"]);

    let open = TopicPartition::new("open", 0);
    let alice = connect(cluster, Listener::MutualTls, certificate(ALICE)?).await?;
    let by_password = connect(cluster, Listener::Scram, by_password(ALICE, ALICE.password)).await?;
    // Longer than a session: connections are retired and opened anew without a call noticing.
    let until = Instant::now() + Duration::from_secs(5);
    let mut calls = 0;
    while Instant::now() < until {
        ensure!(by_password.log_ends(std::slice::from_ref(&open), LogEnd::Latest).await?[&open] == Ok(0));
        ensure!(fetch(&by_password, &open, None, 0, None).await?.is_ok());
        calls += 1;
    }
    println!("{calls} rounds through ending sessions");
    ensure!(alice.log_ends(std::slice::from_ref(&open), LogEnd::Latest).await?[&open] == Ok(0));
    // What she may not do is said as such.
    let producer = Producer { id: -1, epoch: -1 };
    let batch = Batch::of(producer, -1, 1).bytes();
    let outcome = alice.produce(ProduceRequest { partition: open, batch, send_before: Instant::now() + LONG }).await;
    refuses(outcome, KafkaCode::TOPIC_AUTHORIZATION_FAILED)?;
    for refused in [alice.acls().await.err(), alice.partition_sizes().await.err(), alice.open_producer("x").await.err()]
    {
        ensure!(matches!(refused, Some(ClusterError::NotAllowed { .. })), "{refused:?}");
    }
    Ok(())
}

async fn moves(cluster: &Cluster) -> Result<()> {
    let wire = connect(cluster, Listener::Plaintext, Security::default()).await?;
    ensure!(wire.create_topics(&[new_topic("log", 6, 3)]).await?[&TopicName::new("log")].is_ok());
    let all: Vec<_> = (0..6).map(|n| TopicPartition::new("log", n)).collect();
    let group = GroupId::new("readers");
    let offsets: GroupOffsets =
        all.iter().map(|p| (p.clone(), CommittedOffset { offset: 0, metadata: String::new() })).collect();
    let producer = wire.open_producer("krossing.test.0").await?;
    ensure!(wire.mark("krossing.test.0", producer, &all).await?.is_empty());
    for stopped in 1..=2 {
        cluster.stop_broker(stopped).await?;
        let begun = Instant::now();
        // The broker may still be named as one of the cluster.
        ensure!(!wire.partition_sizes().await?.is_empty());
        wire.list_groups().await?;
        let ends = wire.log_ends(&all, LogEnd::Latest).await?;
        ensure!(ends.values().all(Result::is_ok), "{ends:?}");
        ensure!(wire.commit_group_offsets(&group, &offsets).await?.is_empty());
        ensure!(positions(&wire, &group).await? == offsets);
        let producer = wire.open_producer("krossing.test.0").await?;
        ensure!(wire.mark("krossing.test.0", producer, &all).await?.is_empty());
        for partition in &all {
            // A batch never goes out twice: what is not known is not tried again here either.
            let fetched = until(async || {
                let leader = wire.leaders(std::slice::from_ref(partition), true).await?[partition];
                if leader.is_err() {
                    return Ok(None);
                }
                Ok(fetch(&wire, partition, None, 0, None).await.ok().and_then(Result::ok))
            });
            ensure!(fetched.await?.high_watermark >= stopped as i64);
            let batch = Batch::of(producer, 0, 1).bytes();
            let request = ProduceRequest { partition: partition.clone(), batch, send_before: Instant::now() + LONG };
            let outcome = wire.produce(request).await;
            ensure!(matches!(outcome, ProduceOutcome::Appended { .. }), "{outcome:?}");
        }
        println!("without broker {stopped}: {:?}", begun.elapsed());
        cluster.start_broker(stopped).await?;
        until(async || {
            let topics = wire.describe_topics(Some(&[TopicName::new("log")])).await?;
            Ok(topics[0].partitions.iter().all(|p| p.in_sync.len() == 3).then_some(()))
        })
        .await?;
    }
    Ok(())
}

// ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn expect(outcome: ProduceOutcome, wanted: &ProduceOutcome) -> Result<()> {
    ensure!(outcome == *wanted, "{outcome:?} instead of {wanted:?}");
    Ok(())
}

fn refuses(outcome: ProduceOutcome, wanted: KafkaCode) -> Result<()> {
    match outcome {
        ProduceOutcome::Refused { code, .. } if code == wanted => Ok(()),
        other => bail!("{other:?} instead of {wanted}"),
    }
}

/// Asks until there is an answer.
async fn until<T>(ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + LONG;
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "waited for {LONG:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_end(wire: &WireCluster, partition: &TopicPartition, end: Offset) -> Result<()> {
    let found = until(async || {
        let found = wire.log_ends(std::slice::from_ref(partition), LogEnd::Latest).await?[partition];
        Ok(found.ok().filter(|found| *found >= end))
    });
    let found = found.await?;
    ensure!(found == end, "{partition} ends at {found} instead of {end}");
    Ok(())
}

fn uuid(n: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([n; 16])
}

/// A batch of records without key, value and headers.
struct Batch {
    producer: Producer,
    sequence: i32,
    records: i32,
    base_offset: i64,
    transactional: bool,
    corrupt: bool,
}

impl Batch {
    fn of(producer: Producer, sequence: i32, records: i32) -> Self {
        Self { producer, sequence, records, base_offset: 0, transactional: false, corrupt: false }
    }

    fn bytes(&self) -> Bytes {
        const NOW: i64 = 1_700_000_000_000;
        let mut body = BytesMut::new();
        body.put_i16(if self.transactional { 0x10 } else { 0 });
        body.put_i32(self.records - 1);
        body.put_i64(NOW);
        body.put_i64(NOW);
        body.put_i64(self.producer.id);
        body.put_i16(self.producer.epoch);
        body.put_i32(self.sequence);
        body.put_i32(self.records);
        for n in 0..self.records {
            // Length 6, attributes, timestamp delta, offset delta, no key, no value, no headers; numbers are zigzag.
            body.put_slice(&[12, 0, 0, u8::try_from(n * 2).unwrap(), 1, 1, 0]);
        }
        let mut crc = crc32c::crc32c(&body);
        if self.corrupt {
            crc ^= 1;
        }
        let mut batch = BytesMut::new();
        batch.put_i64(self.base_offset);
        batch.put_i32(i32::try_from(body.len()).unwrap() + 9);
        batch.put_i32(-1);
        batch.put_u8(2);
        batch.put_u32(crc);
        batch.put_slice(&body);
        batch.freeze()
    }
}

/// The base offsets of the batches in an answer.
fn base_offsets(records: &[u8]) -> Vec<i64> {
    let mut offsets = Vec::new();
    let mut rest = records;
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        offsets.push(i64::from_be_bytes(*head.first_chunk().unwrap()));
        let length = i32::from_be_bytes(*head.last_chunk().unwrap());
        rest = &after[usize::try_from(length).unwrap()..];
    }
    offsets
}
