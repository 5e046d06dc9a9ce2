//! Brokers that die, restart and lead no more, and connections that lose answers, while a migration runs; and cutovers
//! that fail after producers were asked to stand still.
//!
//! Each fault is seen to have happened: brokers are led without before they come back, traps count what met them, and
//! the state that a fault is meant for is asserted. What must hold: the run goes on by itself, nothing is lost, doubled
//! or reordered, and every group resumes at its record.
//!
//! `KROSSING_LONG=1` adds brokers that die on 3 + 3 (six JVMs: minutes on 2 cores), and many faults drawn from a seed
//! (`KROSSING_SEED`, printed), on 3 + 3 brokers behind proxies, also in cutovers, which may then fail but must release
//! producers; about ten minutes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Call, Cluster, Fault, Listener,
    compare::{committed, compare, groups_resume_exactly},
    in_lab,
    proxy::Trap,
    reading::partitions,
    rehearsal::{Rehearsal, RehearsalSpec, Running},
    workload::{NewRecord, Offsets, RecordingProducer, Scale},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Slow enough that brokers die while the seed goes on, and are missed.
const SLOW_SEED: &str = "  seed: {max_bytes_per_second_per_broker: 512KiB}\n";

fn entered(state: &str) -> impl Fn(&Value) -> bool {
    let state = state.to_owned();
    move |entry| entry["kind"] == "transition" && entry["to"] == state.as_str()
}

fn tip(rehearsal: &Rehearsal) -> Result<String> {
    let journal = rehearsal.journal()?;
    let last = journal.iter().rfind(|entry| entry["kind"] == "transition").context("the journal is empty")?;
    Ok(last["to"].as_str().unwrap_or_default().to_owned())
}

/// The target holds record for record what the source holds, the source holds what producers were told it holds, and
/// every group resumes at its record. (A plain producer that sends again when a broker dies leaves doubles on the source,
/// which belong on the target too.)
async fn exact(rehearsal: &Rehearsal) -> Result<()> {
    let (source, target) = (rehearsal.source.client(), rehearsal.target.client());
    let compared = compare(&source, &target, &rehearsal.topics()).await?;
    let acknowledged = rehearsal.workload.recorder.verify(&source, Offsets::Unsure).await?;
    eprintln!(
        "  {} records compared, {} acknowledged, {} that nobody was told of",
        compared.records, acknowledged.records, acknowledged.extra
    );
    ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
    ensure!(acknowledged.missing.is_empty(), "the source lost records: {:#?}", acknowledged.missing);
    ensure!(compared.records == acknowledged.records + acknowledged.extra, "{compared:?}, {acknowledged:?}");
    let resumptions = groups_resume_exactly(&source, &target, &rehearsal.groups.names()).await?;
    ensure!(resumptions.len() > 200, "only {} positions", resumptions.len());
    let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Clients switch: from READY to the acknowledgement.
async fn switch(rehearsal: &mut Rehearsal) -> Result<()> {
    rehearsal.groups.stop_live().await?;
    rehearsal.run("cutover-ack").await?.expect_code(0)?;
    exact(rehearsal).await
}

/// Kills a broker of several, and waits until others lead what it had led.
async fn die(cluster: &Cluster, id: usize) -> Result<()> {
    cluster.kill_broker(id)?;
    cluster.until_led_without(id).await
}

async fn come_back(cluster: &Cluster, id: usize) -> Result<()> {
    cluster.start_broker(id).await?;
    cluster.until_in_sync().await
}

async fn die_and_come_back(cluster: &Cluster, id: usize) -> Result<()> {
    die(cluster, id).await?;
    come_back(cluster, id).await
}

async fn restart_one_after_the_other(cluster: &Cluster) -> Result<()> {
    for id in 1..=cluster.brokers() {
        cluster.stop_broker(id).await?;
        cluster.start_broker(id).await?;
        cluster.until_in_sync().await?;
    }
    Ok(())
}

#[test]
fn brokers_that_die_restart_and_lead_no_more_do_not_end_a_run() {
    if std::env::var_os("KROSSING_LONG").is_none() {
        return;
    }
    in_lab("failover", async |lab| {
        let (scale, config) = (Scale::Tiny, SLOW_SEED.to_owned());
        let spec = RehearsalSpec { scale, brokers: 3, seed: 5, config, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let mut execute = rehearsal.start("execute", &["--migration-id", "lab", "--keep-tailing"])?;

        execute.until(rehearsal.until_stored_segments(2)).await?;
        let (source, target) = (&rehearsal.source, &rehearsal.target);
        let both = async {
            tokio::try_join!(die(source, 1), die(target, 2))?;
            ensure!(tip(&rehearsal)? == "seed", "the seed was over before the brokers were missed");
            tokio::try_join!(come_back(source, 1), come_back(target, 2))?;
            Ok(())
        };
        execute.until(both).await?;
        eprintln!("  a broker of each side died and came back, seen from the seed");

        execute.until(rehearsal.until_journaled(entered("tail"))).await?;
        let both = async {
            let on_source = async {
                die_and_come_back(source, 2).await?;
                source.move_leaders().await
            };
            tokio::try_join!(on_source, restart_one_after_the_other(target))?;
            Ok(())
        };
        execute.until(both).await?;
        eprintln!("  a source broker died and came back, leaders moved, and the target restarted broker by broker");
        execute.until(rehearsal.until_journaled(entered("drain_ready"))).await?;

        let cutover = rehearsal.run("cutover");
        let mut ended = None;
        let cutover = async {
            ended = Some(cutover.await?);
            Ok(())
        };
        execute.until(cutover).await?;
        ended.context("it has ended")?.expect_code(0)?;
        switch(&mut rehearsal).await?;
        execute.finish().await?.expect_code(0)?;
        rehearsal.run("finalize").await?.expect_code(0)?;
        exact(&rehearsal).await
    });
}

/// Traps in which something must have been caught at the end.
struct Traps(Vec<(&'static str, Trap, u64)>);

impl Traps {
    fn all_met(&self) -> Result<()> {
        for (name, trap, times) in &self.0 {
            ensure!(trap.met() == *times, "{name} was met {} times, not {times}", trap.met());
        }
        Ok(())
    }
}

/// What may happen to each call of a copy: its answer lost, its request lost, late, or nothing at all for ever.
fn traps_for_the_copy(source: &Cluster, target: &Cluster) -> Traps {
    use Call::{
        AddPartitionsToTxn, CreateTopics, EndTxn, Fetch, FindCoordinator, InitProducerId, ListOffsets, Metadata,
        Produce,
    };
    let late = Fault::Late(Duration::from_secs(2));
    let (source, target) = (source.proxy(), target.proxy());
    let on =
        |proxy: &lab::Proxy, name, call, pass, times, fault| (name, proxy.trap(&[call], pass, times, fault), times);
    Traps(vec![
        on(target, "the lost answer to CreateTopics", CreateTopics, 0, 1, Fault::AnswerLost),
        on(target, "the lost answer to InitProducerId", InitProducerId, 0, 2, Fault::AnswerLost),
        on(target, "the lost answer to AddPartitionsToTxn", AddPartitionsToTxn, 0, 2, Fault::AnswerLost),
        on(target, "the lost answer to EndTxn", EndTxn, 0, 2, Fault::AnswerLost),
        on(target, "the lost request EndTxn", EndTxn, 1, 1, Fault::RequestLost),
        on(target, "the lost answer to FindCoordinator", FindCoordinator, 0, 1, Fault::AnswerLost),
        on(target, "the lost answer to Metadata", Metadata, 3, 2, Fault::AnswerLost),
        on(target, "the lost answer to ListOffsets", ListOffsets, 1, 1, Fault::AnswerLost),
        on(target, "the lost answer to Produce", Produce, 3, 3, Fault::AnswerLost),
        on(target, "the lost request Produce", Produce, 12, 2, Fault::RequestLost),
        on(target, "the late answer to Produce", Produce, 16, 4, late),
        on(target, "the silence after Produce", Produce, 22, 1, Fault::Silence),
        on(source, "the lost answer to Fetch", Fetch, 3, 3, Fault::AnswerLost),
        on(source, "the lost request Fetch", Fetch, 8, 2, Fault::RequestLost),
        on(source, "the late answer to Fetch", Fetch, 12, 4, late),
        on(source, "the silence after Fetch", Fetch, 18, 1, Fault::Silence),
        on(source, "the lost answer to Metadata", Metadata, 3, 2, Fault::AnswerLost),
        on(source, "the lost answer to ListOffsets", ListOffsets, 1, 1, Fault::AnswerLost),
    ])
}

/// A cutover that fails after the freeze: it says why, producers may go on, and the migration is where it was.
async fn fails_and_releases(rehearsal: &Rehearsal, why: &str) -> Result<()> {
    let asked_before = rehearsal.webhook.requests().len();
    let outcome = rehearsal.run("cutover").await?.expect_code(1)?;
    taken_back(rehearsal, asked_before).await?;
    ensure!(outcome.stderr.contains(why), "{why:?} is not said:\n{}", outcome.stderr);
    let journal = rehearsal.journal()?;
    let reason = journal.last().context("an entry")?["reason"].to_string();
    ensure!(reason.contains("the cutover failed") && reason.contains(why), "{why:?} is not in {reason}");
    eprintln!("  taken back: {reason}");
    Ok(())
}

/// The freeze of a failed cutover was released, which was read back, and the journal stands at `drain_ready`.
async fn taken_back(rehearsal: &Rehearsal, asked_before: usize) -> Result<()> {
    let requests = rehearsal.webhook.requests().split_off(asked_before);
    let actions: Vec<_> = requests.iter().map(|request| request["action"].as_str().unwrap_or_default()).collect();
    ensure!(
        matches!(actions[..], ["freeze", .., "unfreeze", "unfreeze"]),
        "a freeze, and a release that is read back: {actions:?}"
    );
    let journal = rehearsal.journal()?;
    let released = journal.iter().rfind(|entry| entry["kind"] == "unfrozen").context("no release is journaled")?;
    ensure!(released["detail"]["confirmed"] == true, "{released}");
    ensure!(tip(rehearsal)? == "drain_ready", "the journal stands at {}", tip(rehearsal)?);
    ensure!(!rehearsal.producers.is_frozen(), "producers stand still");
    rehearsal.producers.until_recorded(20).await
}

/// How many groups have a position on the target.
async fn groups_on_target(rehearsal: &Rehearsal) -> Result<usize> {
    let (target, names) = (rehearsal.target.client(), rehearsal.groups.names());
    tokio::task::spawn_blocking(move || {
        let topics = partitions(&target)?;
        let mut found = 0;
        for name in names {
            found += usize::from(!committed(&target, &name, &topics)?.is_empty());
        }
        Ok(found)
    })
    .await?
}

/// Goes on producing although producers are said to stand still, until told to end.
struct LeftBehind(Arc<AtomicBool>);

impl LeftBehind {
    fn at_the_next_freeze(rehearsal: &Rehearsal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, recorder, until) = (rehearsal.source.client(), rehearsal.workload.recorder.clone(), stop.clone());
        rehearsal.webhook.when_frozen(move || {
            let producer = RecordingProducer::new(&client, &recorder, "live-idempotent", &[])?;
            std::thread::spawn(move || {
                for number in 0.. {
                    if until.load(Ordering::Relaxed) {
                        break;
                    }
                    let value = format!("left behind {number}");
                    producer.send(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() })?;
                    producer.settle()?;
                }
                anyhow::Ok(())
            });
            Ok(())
        });
        Self(stop)
    }

    fn end(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins a transaction while producers are said to stand still, and leaves it open.
fn leave_a_transaction_open(rehearsal: &Rehearsal) -> Arc<Mutex<Option<RecordingProducer>>> {
    let kept = Arc::new(Mutex::new(None));
    let (client, recorder, keep) = (rehearsal.source.client(), rehearsal.workload.recorder.clone(), kept.clone());
    rehearsal.webhook.when_frozen(move || {
        let producer = RecordingProducer::transactional(&client, &recorder, "live-transactions", "lab-left-open")?;
        producer.begin()?;
        producer.send(&NewRecord { value: Some(b"left open"), ..NewRecord::default() })?;
        producer.flush()?;
        *keep.lock().expect("no panic while held") = Some(producer);
        Ok(())
    });
    kept
}

#[test]
fn lost_late_and_swallowed_answers_change_nothing_and_a_failed_cutover_is_taken_back() {
    in_lab("proxied", async |lab| {
        // Of the cutover, whose lines come last: what is short here is lengthened when it must be.
        let config = "    max_producer_freeze: 5s\n".to_owned();
        let (scale, listener) = (Scale::Tiny, Listener::Proxied);
        let spec = RehearsalSpec { scale, listener, seed: 6, config, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let traps = traps_for_the_copy(&rehearsal.source, &rehearsal.target);
        let mut execute = rehearsal.begin("execute")?;
        execute.until(rehearsal.until_journaled(entered("tail"))).await?;
        rehearsal.source.proxy().cut_all();
        rehearsal.target.proxy().cut_all();
        execute.finish().await?.expect_code(0)?;
        ensure!(tip(&rehearsal)? == "drain_ready", "{}", tip(&rehearsal)?);
        traps.all_met()?;
        eprintln!("  the copy went on through {} kinds of faults", traps.0.len());
        let (source, target) = (rehearsal.source.proxy(), rehearsal.target.proxy());
        source.heal();
        target.heal();

        let swallowed = source.trap(&[Call::EndTxn], 0, u64::MAX, Fault::Silence);
        fails_and_releases(&rehearsal, "ended while marking the source").await?;
        ensure!(swallowed.met() > 0, "no EndTxn was swallowed");
        source.heal();

        let open = leave_a_transaction_open(&rehearsal);
        fails_and_releases(&rehearsal, "live-transactions-0: a transaction of producer").await?;
        let left_open = open.lock().expect("no panic while held").take().context("a transaction was left open")?;
        tokio::task::spawn_blocking(move || left_open.commit()).await??;

        rehearsal.reconfigure("max_producer_freeze: 5s", "max_producer_freeze: 20s")?;
        let left_behind = LeftBehind::at_the_next_freeze(&rehearsal);
        fails_and_releases(&rehearsal, "a producer of this topic was not standing still").await?;
        left_behind.end();

        ensure!(groups_on_target(&rehearsal).await? == 0, "groups were committed before");
        // The first commit names nobody: it warms up.
        let cut = target.trap(&[Call::OffsetCommit], 16, u64::MAX, Fault::RequestLost);
        fails_and_releases(&rehearsal, "ended while committing the groups' positions").await?;
        ensure!(cut.met() > 0, "no commit was cut");
        let half = groups_on_target(&rehearsal).await?;
        ensure!((8..=16).contains(&half), "{half} groups were committed");
        eprintln!("  {half} of {} groups had been committed", rehearsal.groups.names().len());
        target.heal();

        // The last one takes each call's answer once, and goes through all the same.
        rehearsal.reconfigure("max_producer_freeze: 20s", "max_producer_freeze: 60s")?;
        let lost = |proxy: &lab::Proxy, name, call, pass| (name, proxy.trap(&[call], pass, 2, Fault::AnswerLost), 2);
        let traps = Traps(vec![
            lost(source, "the source's AddPartitionsToTxn", Call::AddPartitionsToTxn, 0),
            lost(source, "the source's EndTxn", Call::EndTxn, 0),
            lost(source, "the source's OffsetFetch", Call::OffsetFetch, 0),
            lost(source, "the source's ListGroups", Call::ListGroups, 0),
            lost(target, "the target's AddPartitionsToTxn", Call::AddPartitionsToTxn, 0),
            lost(target, "the target's EndTxn", Call::EndTxn, 0),
            lost(target, "the target's OffsetCommit", Call::OffsetCommit, 3),
            lost(target, "the target's OffsetFetch", Call::OffsetFetch, 3),
            lost(target, "the target's Fetch", Call::Fetch, 3),
        ]);
        rehearsal.run("cutover").await?.expect_code(0)?;
        traps.all_met()?;
        source.heal();
        target.heal();
        switch(&mut rehearsal).await
    });
}

/// One fault of a long run.
async fn one_of_many(random: &mut ChaCha8Rng, rehearsal: &Rehearsal) -> Result<()> {
    let cluster = if random.random() { &rehearsal.source } else { &rehearsal.target };
    let side = if std::ptr::eq(cluster, &rehearsal.source) { "source" } else { "target" };
    let broker = random.random_range(1..=cluster.brokers());
    let calls = [Call::Produce, Call::Fetch, Call::EndTxn, Call::AddPartitionsToTxn, Call::Metadata, Call::ListOffsets];
    let call = calls[random.random_range(0..calls.len())];
    let (pass, times) = (random.random_range(0..20), random.random_range(1..5));
    match random.random_range(0..10) {
        0 => {
            eprintln!("  {side}: broker {broker} dies and comes back");
            die_and_come_back(cluster, broker).await
        }
        1 => {
            eprintln!("  {side}: broker {broker} dies and is back before others notice");
            cluster.kill_broker(broker)?;
            come_back(cluster, broker).await
        }
        2 => {
            eprintln!("  {side}: all brokers restart one after the other");
            restart_one_after_the_other(cluster).await
        }
        3 => {
            eprintln!("  {side}: leaders move");
            cluster.move_leaders().await?;
            cluster.until_in_sync().await
        }
        4 => {
            eprintln!("  {side}: all connections are cut");
            cluster.proxy().cut_all();
            Ok(())
        }
        kind => {
            let late = Fault::Late(Duration::from_millis(random.random_range(10..5_000)));
            let fault = [Fault::AnswerLost, Fault::AnswerLost, Fault::RequestLost, Fault::Silence, late][kind - 5];
            eprintln!("  {side}: {fault:?} for {times} {call:?} after {pass}");
            cluster.proxy().trap(&[call], pass, times, fault);
            Ok(())
        }
    }
}

/// The run goes on by itself, or where it ended `resume` takes it up.
async fn resumed_where_it_ended(rehearsal: &Rehearsal, execute: &mut Running) -> Result<()> {
    if !execute.ended()? {
        return Ok(());
    }
    let more = ["--migration-id", "lab", "--keep-tailing"];
    let ended = std::mem::replace(execute, rehearsal.start("execute", &more)?).finish().await?;
    eprintln!("  execute ended with {:?} and was started again: {}", ended.code, last_line(&ended.stderr));
    Ok(())
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn many_faults_by_seed_leave_a_migration_exact() {
    if std::env::var_os("KROSSING_LONG").is_none() {
        return;
    }
    in_lab("many-faults", async |lab| {
        let seed = std::env::var("KROSSING_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        eprintln!("KROSSING_SEED={seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let spec = RehearsalSpec {
            scale: Scale::Tiny,
            brokers: 3,
            listener: Listener::Proxied,
            seed,
            config: format!("    max_producer_freeze: 15s\n{SLOW_SEED}"),
            ..RehearsalSpec::default()
        };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let mut execute = rehearsal.start("execute", &["--migration-id", "lab", "--keep-tailing"])?;
        for _ in 0..40 {
            one_of_many(&mut random, &rehearsal).await?;
            let pause = Duration::from_millis(random.random_range(100..4_000));
            tokio::time::sleep(pause).await;
            resumed_where_it_ended(&rehearsal, &mut execute).await?;
        }
        let heal = |rehearsal: &Rehearsal| {
            rehearsal.source.proxy().heal();
            rehearsal.target.proxy().heal();
        };
        heal(&rehearsal);
        resumed_where_it_ended(&rehearsal, &mut execute).await?;
        execute.until(rehearsal.until_journaled(entered("drain_ready"))).await?;
        for attempt in 0.. {
            let asked_before = rehearsal.webhook.requests().len();
            let (cutover, faults) = (rehearsal.run("cutover"), async {
                for _ in 0..if attempt < 6 { 2 } else { 0 } {
                    one_of_many(&mut random, &rehearsal).await?;
                }
                Ok(())
            });
            let (outcome, ()) = tokio::try_join!(cutover, faults)?;
            match outcome.code {
                Some(0) if tip(&rehearsal)? == "awaiting_client_switch" => break,
                Some(1) if attempt < 6 => {
                    eprintln!("  taken back: {}", last_line(&outcome.stderr));
                    if rehearsal.webhook.requests().len() > asked_before {
                        taken_back(&rehearsal, asked_before).await?;
                    }
                    heal(&rehearsal);
                    resumed_where_it_ended(&rehearsal, &mut execute).await?;
                }
                _ => bail!("attempt {attempt}: {outcome:?}"),
            }
        }
        heal(&rehearsal);
        rehearsal.source.until_in_sync().await?;
        rehearsal.target.until_in_sync().await?;
        resumed_where_it_ended(&rehearsal, &mut execute).await?;
        switch(&mut rehearsal).await
    });
}
