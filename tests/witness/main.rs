//! The checking client on real brokers: it reads exactly what an application may see, ends where it should, and leaves
//! a source as it found it.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use krossing_core::{
    KafkaCode, Offset, Side, TopicPartition,
    ports::{ClusterError, ClusterResult, ReadRange, VisibleRecord, Witness},
};
use krossing_witness::{Sasl, SaslMechanism, Security, Tls, WitnessCluster, WitnessConfig};
use lab::{Cluster, ClusterSpec, Listener, cluster::KROSSING, in_lab};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
    topic_partition_list::{Offset as ListOffset, TopicPartitionList},
};

const NONE: [Offset; 0] = [];
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn it_reads_what_an_application_may_see_and_changes_nothing() {
    in_lab("witness", async |lab| {
        let spec = ClusterSpec::default()
            .with("log.cleaner.backoff.ms", "200")
            .with("log.cleaner.min.cleanable.ratio", "0.01")
            .with("auto.create.topics.enable", "true");
        let cluster = lab.zookeeper_cluster(spec).await?;
        let witness = connect(&cluster, Listener::Plaintext, Security::default())?;

        fields_arrive_as_they_were_written(&cluster, &witness).await?;
        only_committed_records_are_seen_and_trailing_markers_end_a_range(&cluster, &witness).await?;
        an_open_transaction_is_an_error_that_names_its_place(&cluster, &witness).await?;
        compacted_and_deleted_records_are_passed_over(&cluster, &witness).await?;
        large_records_and_many_ranges_at_once(&cluster, &witness).await?;
        a_topic_that_does_not_exist_is_refused_and_not_made(&cluster, &witness).await?;
        no_coordinator_was_asked(&cluster).await
    });
}

#[test]
fn it_reads_through_tls_and_says_why_it_may_not() {
    in_lab("witness-tls", async |lab| {
        let spec = ClusterSpec { security: lab::Security::Tls, authorizer: true, ..ClusterSpec::default() };
        let cluster = lab.zookeeper_cluster(spec).await?;
        let admin: AdminClient<DefaultClientContext> = cluster.client_by(Listener::Scram, KROSSING).create()?;
        create(&admin, NewTopic::new("t", 1, TopicReplication::Fixed(1))).await?;
        let producer: FutureProducer = cluster.client_by(Listener::Scram, KROSSING).create()?;
        send(&producer, "t", Some("k"), Some("v")).await?;

        let ca_pem = Some(std::fs::read_to_string(cluster.ca_file())?);
        let scram = |password: &str| Security {
            tls: Some(Tls { ca_pem: ca_pem.clone(), ..Tls::default() }),
            sasl: Some(Sasl::Password {
                mechanism: SaslMechanism::ScramSha512,
                username: KROSSING.name.to_owned(),
                password: password.to_owned(),
            }),
        };
        let pair = cluster.key_pair(KROSSING);
        let mutual = Security {
            tls: Some(Tls {
                ca_pem: ca_pem.clone(),
                cert_pem: Some(std::fs::read_to_string(pair.cert_file)?),
                key_pem: Some(std::fs::read_to_string(pair.key_file)?),
            }),
            sasl: None,
        };
        for (listener, security) in [(Listener::Scram, scram(KROSSING.password)), (Listener::MutualTls, mutual)] {
            let witness = connect(&cluster, listener, security)?;
            assert_eq!(offsets(&witness, "t", 0, 1).await?, [0]);
        }

        let begun = Instant::now();
        let refused = offsets(&connect(&cluster, Listener::Scram, scram("wrong-password"))?, "t", 0, 1).await;
        assert!(matches!(refused, Err(ClusterError::NotAllowed { .. })), "{refused:?}");
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        assert!(!format!("{refused:?}").contains("wrong-password"), "{refused:?}");

        let no_authority = Security { tls: Some(Tls::default()), sasl: scram(KROSSING.password).sasl };
        let refused = offsets(&connect(&cluster, Listener::Scram, no_authority)?, "t", 0, 1).await;
        assert!(matches!(refused, Err(ClusterError::NotAllowed { .. })), "{refused:?}");
        Ok(())
    });
}

async fn fields_arrive_as_they_were_written(cluster: &Cluster, witness: &WitnessCluster) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create()?;
    // The lab's brokers look for what is past its retention every second, and one record is of 1970.
    create(&admin, NewTopic::new("fields", 1, TopicReplication::Fixed(1)).set("retention.ms", "-1")).await?;
    let producer: FutureProducer = cluster.client().create()?;
    let headers = OwnedHeaders::new()
        .insert(Header { key: "twice", value: Some("1") })
        .insert(Header { key: "none", value: None::<&str> })
        .insert(Header { key: "twice", value: Some("") });
    let full = FutureRecord::to("fields").key("k").payload("v").headers(headers).timestamp(-5 + 1_000);
    producer.send(full, PATIENCE).await.map_err(|(error, _)| error)?;
    send(&producer, "fields", None, Some("")).await?;
    send(&producer, "fields", Some(""), None).await?;

    let seen = read(witness, "fields", 0, 3, usize::MAX).await?;
    let bytes = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    assert_eq!((seen[0].key.clone(), seen[0].value.clone(), seen[0].timestamp_ms), (bytes("k"), bytes("v"), 995));
    let name = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(seen[0].headers, [(name("twice"), bytes("1")), (name("none"), None), (name("twice"), bytes(""))]);
    assert_eq!((seen[1].key.clone(), seen[1].value.clone()), (None, bytes("")));
    assert_eq!((seen[2].key.clone(), seen[2].value.clone()), (bytes(""), None));

    assert_eq!(read(witness, "fields", 0, 3, 2).await?.len(), 2, "records_max");
    assert_eq!(offsets(witness, "fields", 1, 2).await?, [1], "a range inside");
    assert_eq!(offsets(witness, "fields", 2, 2).await?, NONE, "an empty range");
    Ok(())
}

async fn only_committed_records_are_seen_and_trailing_markers_end_a_range(
    cluster: &Cluster,
    witness: &WitnessCluster,
) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create()?;
    create(&admin, NewTopic::new("transactions", 1, TopicReplication::Fixed(1))).await?;
    let one = transactional(cluster, "one")?;
    let two = transactional(cluster, "two")?;

    // 0–4 committed, 5 marker; 6 and 8 aborted with 7 committed between them, 9 and 10 markers; 11 and 12 aborted, 13.
    one.begin_transaction()?;
    for _ in 0..5 {
        send(&one, "transactions", None, Some("committed")).await?;
    }
    one.commit_transaction(PATIENCE)?;
    one.begin_transaction()?;
    two.begin_transaction()?;
    send(&one, "transactions", None, Some("aborted")).await?;
    send(&two, "transactions", None, Some("committed")).await?;
    send(&one, "transactions", None, Some("aborted")).await?;
    one.abort_transaction(PATIENCE)?;
    two.commit_transaction(PATIENCE)?;
    one.begin_transaction()?;
    send(&one, "transactions", None, Some("aborted")).await?;
    send(&one, "transactions", None, Some("aborted")).await?;
    one.abort_transaction(PATIENCE)?;

    let all = [0, 1, 2, 3, 4, 7];
    assert_eq!(offsets(witness, "transactions", 0, 14).await?, all, "ends in a marker behind aborted data");
    assert_eq!(
        offsets(witness, "transactions", 0, 14).await?,
        all,
        "the same partition again, by a client used before"
    );
    for end in 8..14 {
        assert_eq!(offsets(witness, "transactions", 0, end).await?, all, "an end that no record follows: {end}");
    }
    assert_eq!(offsets(witness, "transactions", 0, 6).await?, all[..5], "ends in a marker that records follow");
    assert_eq!(offsets(witness, "transactions", 5, 7).await?, NONE, "a marker and aborted data alone");
    Ok(())
}

async fn an_open_transaction_is_an_error_that_names_its_place(
    cluster: &Cluster,
    witness: &WitnessCluster,
) -> Result<()> {
    let open = transactional(cluster, "open")?;
    open.begin_transaction()?;
    send(&open, "transactions", None, Some("undecided")).await?;
    let impatient = witness.with_silence_max(Duration::from_secs(2));
    let error = offsets(&impatient, "transactions", 0, 15).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ClusterError::Unavailable { .. }), "{text}");
    assert!(text.contains("transactions-0 offset 8") && text.contains("committed records end at 14"), "{text}");

    // A reader that is waiting when the transaction ends goes on by itself.
    let waiting = tokio::spawn({
        let witness = witness.clone();
        async move { offsets(&witness, "transactions", 0, 16).await }
    });
    open.commit_transaction(PATIENCE)?;
    assert_eq!(waiting.await??, [0, 1, 2, 3, 4, 7, 14]);
    Ok(())
}

async fn compacted_and_deleted_records_are_passed_over(cluster: &Cluster, witness: &WitnessCluster) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create()?;
    let compacted = NewTopic::new("compacted", 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "2000");
    create(&admin, compacted).await?;
    let producer: FutureProducer = cluster.client().create()?;
    let filler = "x".repeat(100);
    for number in 0..200 {
        send(&producer, "compacted", Some(&format!("key-{}", number % 10)), Some(&filler)).await?;
    }
    // What a client of its own sees, once compaction has run.
    let expected = until(async || {
        let seen = plain_offsets(cluster, "compacted", 200)?;
        Ok((seen.len() < 100).then_some(seen))
    })
    .await?;
    let seen = offsets(witness, "compacted", 0, 200).await?;
    // Compaction may have gone on in between, never backwards.
    assert!(seen.len() <= expected.len() && seen.iter().all(|offset| expected.contains(offset)), "{seen:?}");
    assert_eq!(seen.last(), Some(&199));
    let first = seen[0];
    assert_eq!(offsets(witness, "compacted", 0, first).await?, NONE, "a range that compaction has emptied");

    create(&admin, NewTopic::new("deleted", 1, TopicReplication::Fixed(1))).await?;
    for _ in 0..20 {
        send(&producer, "deleted", None, Some("v")).await?;
    }
    let mut before = TopicPartitionList::new();
    before.add_partition_offset("deleted", 0, ListOffset::Offset(15))?;
    admin.delete_records(&before, &AdminOptions::new()).await?;
    assert_eq!(offsets(witness, "deleted", 0, 20).await?, [15, 16, 17, 18, 19]);
    assert_eq!(offsets(witness, "deleted", 3, 10).await?, NONE, "a range that is gone");
    let beyond = offsets(&witness.with_silence_max(Duration::from_secs(2)), "deleted", 30, 40).await;
    assert!(matches!(beyond, Err(ClusterError::Unavailable { .. })), "a range that is not there yet: {beyond:?}");
    Ok(())
}

async fn large_records_and_many_ranges_at_once(cluster: &Cluster, witness: &WitnessCluster) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create()?;
    let large = NewTopic::new("large", 2, TopicReplication::Fixed(1)).set("max.message.bytes", "8000000");
    create(&admin, large).await?;
    let producer: FutureProducer = cluster.client().set_clone("message.max.bytes", "8000000").create()?;
    let value = vec![7u8; 3_000_000];
    for partition in [0, 1] {
        for _ in 0..5 {
            let record = FutureRecord::<(), _>::to("large").partition(partition).payload(&value);
            producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
        }
    }
    let readers: Vec<_> = (0..12)
        .map(|number| {
            let witness = witness.clone();
            tokio::spawn(async move {
                let range = range_of("large", number % 2, 0, 5);
                let bytes = Arc::new(Mutex::new(0));
                let sum = bytes.clone();
                witness
                    .read(range, move |record| {
                        *sum.lock().unwrap() += record.value.map_or(0, |value| value.len());
                        true
                    })
                    .await?;
                let bytes = *bytes.lock().unwrap();
                ClusterResult::Ok(bytes)
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await??, 15_000_000);
    }
    Ok(())
}

async fn a_topic_that_does_not_exist_is_refused_and_not_made(
    cluster: &Cluster,
    witness: &WitnessCluster,
) -> Result<()> {
    let refused = offsets(witness, "missing", 0, 10).await;
    let code = KafkaCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert!(matches!(&refused, Err(ClusterError::Refused { code: c, .. }) if *c == code), "{refused:?}");
    assert!(!topics(cluster)?.contains(&"missing".to_owned()));
    Ok(())
}

async fn no_coordinator_was_asked(cluster: &Cluster) -> Result<()> {
    assert!(!topics(cluster)?.contains(&"__consumer_offsets".to_owned()), "{:?}", topics(cluster)?);
    // That this would show: a client with a group, which is never joined, makes the topic appear.
    let with_group: BaseConsumer = cluster.client().set_clone("group.id", "never-joined").create()?;
    until(async || {
        with_group.poll(Duration::from_millis(50));
        Ok(topics(cluster)?.contains(&"__consumer_offsets".to_owned()).then_some(()))
    })
    .await
}

// ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn connect(cluster: &Cluster, listener: Listener, security: Security) -> Result<WitnessCluster> {
    let bootstrap = cluster.bootstrap(listener).split(',').map(str::to_owned).collect();
    Ok(WitnessCluster::connect(WitnessConfig { side: Side::Source, bootstrap, security })?)
}

fn range_of(topic: &str, partition: i32, from: Offset, to: Offset) -> ReadRange {
    ReadRange { partition: TopicPartition::new(topic, partition), from, to, records_max: usize::MAX }
}

async fn read(
    witness: &WitnessCluster,
    topic: &str,
    from: Offset,
    to: Offset,
    records_max: usize,
) -> ClusterResult<Vec<VisibleRecord>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let range = ReadRange { records_max, ..range_of(topic, 0, from, to) };
    witness
        .read(range, move |record| {
            sink.lock().unwrap().push(record);
            true
        })
        .await?;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    Ok(seen)
}

async fn offsets(witness: &WitnessCluster, topic: &str, from: Offset, to: Offset) -> ClusterResult<Vec<Offset>> {
    let seen = read(witness, topic, from, to, usize::MAX).await?;
    Ok(seen.into_iter().map(|record| record.offset).collect())
}

/// The offsets below `to`, by a client that shares no code with the witness.
fn plain_offsets(cluster: &Cluster, topic: &str, to: Offset) -> Result<Vec<Offset>> {
    // Another cluster's clients could not be told apart from this one's if it asked for a coordinator: so no group,
    // and therefore the log as the broker's own tool shows it.
    let folder = cluster.data_folder(1).join(format!("{topic}-0"));
    let mut offsets = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            offsets.extend(offsets_in(&std::fs::read(path)?));
        }
    }
    offsets.sort_unstable();
    offsets.retain(|offset| *offset < to);
    Ok(offsets)
}

/// One record a batch is what was produced, so a batch's base and last offset are its record's.
fn offsets_in(log: &[u8]) -> Vec<Offset> {
    let mut offsets = Vec::new();
    let mut rest = log;
    while rest.len() >= 61 {
        let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
        let length = i32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        let records = i32::from_be_bytes(rest[57..61].try_into().unwrap());
        if records > 0 {
            offsets.push(base);
        }
        rest = rest.get(12 + length..).unwrap_or_default();
    }
    offsets
}

async fn create(admin: &AdminClient<DefaultClientContext>, topic: NewTopic<'_>) -> Result<()> {
    for made in admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await? {
        made.map_err(|(name, code)| anyhow::anyhow!("making {name}: {code}"))?;
    }
    Ok(())
}

async fn send(producer: &FutureProducer, topic: &str, key: Option<&str>, value: Option<&str>) -> Result<()> {
    let mut record = FutureRecord::<str, str>::to(topic);
    record.key = key;
    record.payload = value;
    producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
    Ok(())
}

fn transactional(cluster: &Cluster, id: &str) -> Result<FutureProducer> {
    let producer: FutureProducer = cluster.client().set_clone("transactional.id", id).create()?;
    producer.init_transactions(PATIENCE)?;
    Ok(producer)
}

fn topics(cluster: &Cluster) -> Result<Vec<String>> {
    let client: BaseConsumer = cluster.client().create()?;
    let metadata = client.fetch_metadata(None, PATIENCE)?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}

async fn until<T>(mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `ClientConfig` is set in place; a copy with one more setting reads better here.
trait SetClone {
    fn set_clone(self, name: &str, value: &str) -> Self;
}

impl SetClone for rdkafka::ClientConfig {
    fn set_clone(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }
}
