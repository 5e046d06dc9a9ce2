//! The lab itself: what the other tests rely on without looking.
#![allow(missing_docs, reason = "tests say what they are by their names")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Call, ClusterSpec, Fault, Lab, Listener,
    compare::{compare, groups_resume_exactly},
    in_lab,
    workload::{
        Groups, LiveProducers, NewRecord, Offsets, Recorder, RecordingProducer, Scale, TopicSpec, Workload,
        create_topics,
    },
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[test]
fn everything_acknowledged_is_read_back_and_a_cluster_equals_itself() {
    load_and_read_back(Scale::Small);
}

#[test]
#[ignore = "a minute: shows what a full load takes"]
fn a_full_load_is_read_back() {
    load_and_read_back(Scale::Full);
}

fn load_and_read_back(scale: Scale) {
    in_lab("lab-load", async |lab| {
        let source = lab.zookeeper_cluster(ClusterSpec::default()).await?;
        let workload = Workload::load(&source, scale, 1).await?;
        println!("ZooKeeper mode up in {:.1?}", source.started_in);
        println!(
            "{} MiB, {} records in {:.1?}, then the cleaner {:.1?}",
            workload.bytes >> 20,
            workload.recorder.count(),
            workload.took,
            workload.cleaner_took
        );
        let large = partition_bytes(&source.data_folder(1)).filter(|&bytes| bytes > 100 << 20).count();
        let whole: u64 = partition_bytes(&source.data_folder(1)).sum();
        println!("{} MiB in the log, {large} partitions above 100 MiB", whole >> 20);
        let (bytes_min, large_min) = if scale == Scale::Full { (1 << 30, 8) } else { (30 << 20, 0) };
        ensure!(whole >= bytes_min && large >= large_min, "the load is smaller than it says");
        let live = LiveProducers::start(&source.client(), &workload.recorder);
        let begun = Instant::now();
        let mut groups = Groups::start(&source.client()).await?;
        ensure!(groups.names().len() == 30, "{} groups", groups.names().len());
        println!("30 groups in {:.1?}", begun.elapsed());
        for group in &groups.live {
            group.until_consumed(50).await?;
        }
        live.freeze().await?;
        let frozen_at = workload.recorder.count();
        live.unfreeze();
        groups.live[0].until_consumed(50).await?;
        live.freeze().await?;
        ensure!(workload.recorder.count() > frozen_at, "unfrozen producers do not produce");
        groups.stop_live().await?;

        let begun = Instant::now();
        let verified = workload.recorder.verify(&source.client(), Offsets::Same).await?;
        println!("read back {} records in {:.1?}", verified.records, begun.elapsed());
        ensure!(verified.missing.is_empty() && verified.extra == 0, "{verified:?}");
        let topics = workload.topic_names();
        let comparison = compare(&source.client(), &source.client(), &topics).await?;
        println!("compared {} MiB with themselves in {:.1?}", comparison.bytes >> 20, comparison.took);
        ensure!(comparison.differences.is_empty(), "{comparison:?}");
        ensure!(comparison.records == verified.records, "{} compared", comparison.records);
        let begun = Instant::now();
        let resumed = groups_resume_exactly(&source.client(), &source.client(), &groups.names()).await?;
        println!("{} positions in {:.1?}", resumed.len(), begun.elapsed());
        ensure!(resumed.iter().all(|position| position.problem.is_none()), "{resumed:?}");
        ensure!(resumed.len() > 200, "only {} positions", resumed.len());
        Ok(())
    });
}

/// The bytes of each partition's folder.
fn partition_bytes(data: &Path) -> impl Iterator<Item = u64> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(data.to_owned()).filter(|entry| entry.path().is_dir()).map(move |partition| {
        // Indexes are as large as they may become, on paper; the logs are the data.
        let logs = entries(partition.path()).filter(|file| file.path().extension().is_some_and(|it| it == "log"));
        logs.filter_map(|log| Some(log.metadata().ok()?.len())).sum()
    })
}

#[test]
fn a_comparison_names_what_differs() {
    in_lab("lab-compare", async |lab| {
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(ClusterSpec::default()), lab.kraft_cluster(ClusterSpec::default()))?;
        println!("ZooKeeper mode up in {:.1?}, KRaft beside it in {:.1?}", source.started_in, target.started_in);
        let topics = ["same", "shorter", "header", "time", "null"];
        for (client, is_target) in [(source.client(), false), (target.client(), true)] {
            // The lab's brokers delete within a second what their retention of a week does not keep.
            let specs = topics.map(|topic| TopicSpec::new(topic, 1).with("retention.ms", "-1"));
            create_topics(&client, &specs, 1).await?;
            for topic in topics {
                let client = client.clone();
                tokio::task::spawn_blocking(move || produce(&client, topic, is_target)).await??;
            }
        }
        let comparison = compare(&source.client(), &target.client(), &topics.map(str::to_owned).into()).await?;
        let found = comparison.differences.join("\n");
        for (topic, what) in [
            ("shorter", "the target ends"),
            ("header", "headers 1 differ"),
            ("time", "timestamps differ"),
            ("null", "values differ"),
        ] {
            let wanted = format!("{topic}-0, record {}", if topic == "shorter" { 9 } else { 7 });
            ensure!(found.lines().any(|line| line.starts_with(&wanted) && line.contains(what)), "{topic}: {found}");
        }
        ensure!(comparison.differences.len() == 4, "{found}");
        Ok(())
    });
}

/// Ten records; those for the target differ in one thing.
fn produce(client: &ClientConfig, topic: &str, is_target: bool) -> Result<()> {
    let producer = RecordingProducer::new(client, &std::sync::Arc::<Recorder>::default(), topic, &[])?;
    for number in 0..if is_target && topic == "shorter" { 9 } else { 10 } {
        let differs = is_target && number == 7;
        let (first, second) = if differs && topic == "header" { ("one", "other") } else { ("one", "two") };
        producer.send(&NewRecord {
            key: Some(b"key"),
            value: if differs && topic == "null" { None } else { Some(b"") },
            headers: vec![(first, None), (second, Some(b"2"))],
            timestamp_ms: Some(1_700_000_000_000 + if differs && topic == "time" { 1 } else { 0 }),
            ..NewRecord::default()
        })?;
    }
    producer.settle()
}

#[test]
fn a_killed_broker_comes_back_and_nothing_outlives_the_lab() {
    let mut group = 0;
    in_lab("lab-brokers", async |lab| {
        group = lab.process_group();
        let spec = ClusterSpec { brokers: 3, security: lab::Security::Tls, ..ClusterSpec::default() };
        let cluster = lab.kraft_cluster(spec).await?;
        println!("three secured KRaft nodes up in {:.1?}", cluster.started_in);
        cluster.kill_broker(2)?;
        cluster.start_broker(2).await?;
        cluster.stop_broker(1).await?;
        cluster.start_broker(1).await?;
        ensure!(processes_of(group).len() > 3, "{:?}", processes_of(group));
        Ok(())
    });
    assert!(group > 0 && processes_of(group).is_empty(), "{:?}", processes_of(group));
}

/// A request that every broker answers, as raw bytes: ApiVersions 0 with correlation id `number`.
async fn ask(connection: &mut TcpStream, number: i32) -> Result<()> {
    let mut request = vec![0, 0, 0, 10, 0, 18, 0, 0];
    request.extend_from_slice(&number.to_be_bytes());
    request.extend_from_slice(&(-1_i16).to_be_bytes());
    Ok(connection.write_all(&request).await?)
}

/// The correlation id of the next answer; none where the connection ends.
async fn answered(connection: &mut TcpStream) -> Result<Option<i32>> {
    let Ok(length) = connection.read_i32().await else { return Ok(None) };
    let mut frame = vec![0; usize::try_from(length)?];
    connection.read_exact(&mut frame).await?;
    Ok(Some(i32::from_be_bytes(frame[..4].try_into()?)))
}

#[test]
fn the_proxy_cuts_loses_delays_and_swallows_what_it_is_told_and_nothing_else() {
    in_lab("lab-proxy", async |lab| {
        let cluster = lab.zookeeper_cluster(ClusterSpec { proxied: true, ..ClusterSpec::default() }).await?;
        let proxy = cluster.proxy();
        let through = cluster.client_by(Listener::Proxied, lab::cluster::KROSSING);
        let asked = through.clone();
        let metadata = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = asked.create()?;
            consumer.fetch_metadata(None, Duration::from_secs(30))
        })
        .await??;
        let ports: Vec<_> = metadata.brokers().iter().map(|broker| broker.port()).collect();
        ensure!(ports == [i32::from(proxy.ports()[0])], "brokers are told to be at {ports:?}");

        let connect = || TcpStream::connect(("127.0.0.1", proxy.ports()[0]));
        let mut one = connect().await?;
        let lost = proxy.trap(&[Call::ApiVersions], 1, 1, Fault::AnswerLost);
        ask(&mut one, 1).await?;
        ensure!(answered(&mut one).await? == Some(1) && lost.met() == 0, "the first passes");
        ask(&mut one, 2).await?;
        ensure!(answered(&mut one).await?.is_none() && lost.met() == 1, "the second is cut");
        let mut one = connect().await?;
        ask(&mut one, 3).await?;
        ensure!(answered(&mut one).await? == Some(3) && lost.met() == 1, "the third passes");

        let mut other = connect().await?;
        // What the proxy has not yet accepted it does not cut.
        ask(&mut other, 4).await?;
        ensure!(answered(&mut other).await? == Some(4), "the fourth passes");
        proxy.cut_all();
        ensure!(answered(&mut one).await?.is_none() && answered(&mut other).await?.is_none(), "all are cut");

        let silence = proxy.trap(&[Call::ApiVersions], 0, 1, Fault::Silence);
        let (mut silent, mut late) = (connect().await?, connect().await?);
        ask(&mut silent, 4).await?;
        silence.until_met(1).await;
        let delay = Duration::from_millis(300);
        proxy.trap(&[Call::ApiVersions], 0, 1, Fault::Late(delay));
        let begun = Instant::now();
        ask(&mut late, 5).await?;
        ensure!(answered(&mut late).await? == Some(5) && begun.elapsed() >= delay, "the answer came too early");
        ask(&mut silent, 6).await?;
        let nothing = tokio::time::timeout(delay, answered(&mut silent)).await;
        ensure!(nothing.is_err(), "a silent connection gave {nothing:?}");
        proxy.heal();
        ensure!(answered(&mut silent).await?.is_none(), "what was silent is cut");

        // What the broker makes of it: after a lost answer it has the record, after a lost request it has not.
        create_topics(&cluster.client(), &[TopicSpec::new("proxied", 1).with("retention.ms", "-1")], 1).await?;
        let produces = proxy.seen(Call::Produce);
        for (fault, records) in [(Fault::AnswerLost, 1), (Fault::RequestLost, 1)] {
            let trap = proxy.trap(&[Call::Produce], 0, 1, fault);
            let config = through.clone();
            let outcome = tokio::task::spawn_blocking(move || produce_once(&config, "proxied")).await?;
            ensure!(outcome.is_err() && trap.met() == 1, "{fault:?}: {outcome:?}");
            let reader = lab::reading::PartitionReader::new(&cluster.client(), lab::reading::Isolation::Committed)?;
            ensure!(reader.bounds("proxied", 0)? == (0, records), "{fault:?}: {:?}", reader.bounds("proxied", 0)?);
        }
        ensure!(proxy.seen(Call::Produce) == produces + 2, "as many requests as were made");
        Ok(())
    });
}

/// One record, sent once.
fn produce_once(client: &ClientConfig, topic: &str) -> Result<()> {
    let producer = RecordingProducer::new(client, &std::sync::Arc::<Recorder>::default(), topic, &[("retries", "0")])?;
    producer.send(&NewRecord { value: Some(b"once"), ..NewRecord::default() })?;
    producer.settle()
}

#[test]
fn brokers_end_when_the_process_that_started_them_is_killed() {
    let me = std::env::current_exe().expect("tests run from a file");
    let mut child = Command::new(me)
        .args(["--ignored", "--exact", "start_a_cluster_and_hang", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test binary runs");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let said: String = lines
        .map(|line| line.expect("it writes text"))
        .find(|line| line.contains("process group "))
        .expect("it says its process group");
    let (group, folder) = said.split_once("process group ").expect("found above").1.split_once(' ').expect("two words");
    let group: u32 = group.parse().expect("a number");
    assert!(processes_of(group).len() >= 3, "ZooKeeper, a broker and their watchdog: {:?}", processes_of(group));
    child.kill().expect("it still runs");
    child.wait().expect("it was killed");
    let begun = Instant::now();
    while !processes_of(group).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "still there: {:?}", processes_of(group));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_dir_all(folder).expect("the killed process left its folder");
}

#[test]
#[ignore = "the other half of the test above, which kills it"]
fn start_a_cluster_and_hang() {
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    runtime.block_on(async {
        let lab = Lab::new("lab-killed").expect("a lab");
        let _cluster = lab.zookeeper_cluster(ClusterSpec::default()).await.expect("a cluster");
        println!("process group {} {}", lab.process_group(), lab.folder().display());
        std::future::pending::<()>().await;
    });
}

/// The processes of a group that still run, as `/proc` tells it; dead ones that nobody has reaped do not count.
fn processes_of(group: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // After the name in parentheses: state, parent, group.
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            matches!(fields[..], [state, _, of, ..] if state != "Z" && of == group.to_string())
        })
        .collect()
}
