//! The world of a run: what is on the source, and what applications do there and on the target while it is migrated.
//!
//! Applications act at their own pace, whoever migrates and however often that dies: producers stand still while they
//! are asked to, consumers go on. From READY on they switch: one group works off its backlog on the source first, one
//! is seen on the target as a member, one is only seen by what it has committed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use krossing_core::{
    GroupId, MigrationId, TopicPartition,
    config::Config,
    cutover::MarkerKind,
    ports::{AclBinding, ClientQuota, Clock},
    records::Codec,
    transition::State,
};
use krossing_runtime::Migration;
use krossing_testkit::{FakePorts, FakeWorld, Faults, clock::BEGINNING_UNIX_MS, record, record_at, tester, tombstone};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CONFIG: &str = "migration:
  source: {bootstrap_servers: 'a:1'}
  target: {bootstrap_servers: 'b:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
  cutover: {drain_stable_window: 500ms}
";

const YEARS_MS: i64 = 10 * 365 * 24 * 3_600_000;

/// How often applications act.
const STEP: Duration = Duration::from_millis(150);

/// Groups that stay on the source until all clients have switched.
pub(crate) const STAYING: [&str; 3] = ["worker", "backlog", "idle"];
/// Seen as a member on the target.
pub(crate) const ARRIVING: &str = "arriving";
/// Seen on the target by its position alone, while somebody forgot to stop it on the source.
pub(crate) const MOVED: &str = "moved";

/// What is to be migrated, and how.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) brokers: i32,
    pub(crate) lanes: u32,
    pub(crate) segment_bytes_max: u64,
    /// Batches on each partition before anything begins.
    pub(crate) batches: i64,
    /// How often producers write while it is migrated.
    pub(crate) rounds: i64,
    pub(crate) marker_delay: Duration,
    /// What closes the source.
    pub(crate) marker: MarkerKind,
    /// A topic appears and one grows, in this round.
    pub(crate) appears_in: Option<i64>,
    /// Logs move between two processes: compacted, trimmed, cut off, forgotten.
    pub(crate) logs_move: bool,
}

impl Spec {
    /// The one of the sweep over all calls: small, with everything that a crash may fall between.
    pub(crate) fn fixed() -> Self {
        Self {
            brokers: 2,
            lanes: 2,
            segment_bytes_max: 600,
            batches: 3,
            rounds: 14,
            marker_delay: Duration::ZERO,
            marker: MarkerKind::Control,
            appears_in: None,
            logs_move: false,
        }
    }

    pub(crate) fn random(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            brokers: random.random_range(1..4),
            lanes: random.random_range(1..4),
            segment_bytes_max: random.random_range(200..3_000),
            batches: random.random_range(0..8),
            rounds: random.random_range(0..25),
            marker_delay: Duration::from_millis(random.random_range(0..3) * 40),
            marker: [MarkerKind::Control, MarkerKind::Record, MarkerKind::None][(seed / 2 % 3) as usize],
            appears_in: random.random_bool(0.3).then(|| random.random_range(0..12)),
            logs_move: random.random_bool(0.7),
        }
    }
}

/// What applications have done so far.
#[derive(Debug, Default)]
struct Done {
    rounds: i64,
    steps_since_ready: u64,
}

/// A world with its applications.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) spec: Spec,
    pub(crate) world: FakeWorld,
    done: Arc<Mutex<Done>>,
    /// Positions that clients have set on the target.
    pub(crate) set_by_clients: Arc<Mutex<BTreeSet<(GroupId, TopicPartition)>>>,
}

pub(crate) fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number)
}

/// That somebody may read a topic.
pub(crate) fn rule(topic: &str) -> AclBinding {
    AclBinding {
        resource_type: "Topic".into(),
        resource_name: topic.into(),
        pattern_type: "Literal".into(),
        principal: "User:reader".into(),
        host: "*".into(),
        operation: "Read".into(),
        permission: "Allow".into(),
    }
}

/// How fast all clients together may produce.
pub(crate) fn quota(bytes_per_second: f64) -> ClientQuota {
    ClientQuota {
        entity: [("client-id".to_owned(), None)].into(),
        limits: [("producer_byte_rate".to_owned(), bytes_per_second)].into(),
    }
}

impl Scene {
    pub(crate) fn new(spec: Spec) -> Self {
        let world = FakeWorld::new(spec.brokers);
        let scene = Self { spec, world, done: Arc::default(), set_by_clients: Arc::default() };
        scene.fill();
        scene
    }

    fn fill(&self) {
        let source = &self.world.source;
        source.create_topic("plain", 2, &[]);
        source.create_topic("transactions", 1, &[]);
        source.create_topic("table", 1, &[("cleanup.policy", "compact")]);
        source.create_topic("headless", 1, &[]);
        source.create_topic("old", 1, &[]);
        for round in 0..self.spec.batches {
            self.produce(-1 - round);
        }
        let table = partition("table", 0);
        source.append(&table, Codec::None, vec![record("deleted", "once"), record("kept", "once")]);
        source.append(&table, Codec::None, vec![tombstone("deleted"), record("last", "")]);
        source.compact(&table, false);
        let (_, end, _) = source.ends(&partition("headless", 0));
        source.delete_records(&partition("headless", 0), end / 2);
        source.delay_markers(self.spec.marker_delay);
        self.world.target.delay_markers(self.spec.marker_delay);
        for group in STAYING {
            source.commit(group, &partition("plain", 0), 0, "noted");
        }
        source.set_acls(Some(["plain", "table", "__consumer_offsets"].map(rule).into()));
        self.world.target.set_acls(Some(["table", "others"].map(rule).into()));
        source.set_quotas(vec![quota(1024.0)]);
        self.world.target.set_quotas(vec![quota(1.0)]);
        source.commit("backlog", &table, 0, "");
        source.commit("idle", &partition("transactions", 0), source.ends(&partition("transactions", 0)).1, "");
        source.commit(ARRIVING, &partition("plain", 0), 1, "");
        source.commit(MOVED, &partition("plain", 1), 1, "");
    }

    /// What a process with these faults has of it.
    pub(crate) fn migration(&self, faults: &Faults) -> Migration<FakePorts> {
        let mut config = Config::parse(CONFIG, |_| None).expect("the configuration is right");
        config.seed.segment_max_bytes = self.spec.segment_bytes_max;
        config.seed.lanes = self.spec.lanes as _;
        config.cutover.marker = self.spec.marker;
        let id: MigrationId = "m".parse().expect("a valid id");
        Migration { id, config, by: tester(), role_per_phase: false, ports: self.world.process(faults) }
    }

    /// The state at the journal's end.
    pub(crate) fn tip(&self) -> Option<State> {
        let line = self.world.ledger.journal_from(0).pop()?;
        let entry: krossing_core::journal::JournalEntry = serde_json::from_str(&line).expect("an entry");
        Some(entry.to)
    }

    /// Whether applications have switched.
    pub(crate) fn switched(&self) -> bool {
        self.done.lock().expect("nobody panics with it").steps_since_ready >= 14
    }

    /// What applications do, for as long as it is polled.
    pub(crate) async fn applications(&self) -> std::convert::Infallible {
        loop {
            self.world.clock.sleep(STEP).await;
            self.step();
        }
    }

    fn step(&self) {
        let mut done = self.done.lock().expect("nobody panics with it");
        match self.tip() {
            Some(State::AwaitingClientSwitch) => {
                done.steps_since_ready += 1;
                self.switch(done.steps_since_ready);
            }
            // Nobody is on the source any more.
            Some(State::Validating | State::Finalized) => {}
            // Failing after READY looks the same in the journal's last entry as before it.
            Some(State::Failed) if done.steps_since_ready > 0 => {}
            _ => {
                if !self.world.freeze.is_frozen() && done.rounds < self.spec.rounds {
                    self.produce(done.rounds);
                    self.happen(done.rounds);
                    done.rounds += 1;
                }
                self.consume();
            }
        }
    }

    /// One round of all producers.
    fn produce(&self, round: i64) {
        let source = &self.world.source;
        let label = |what: &str| format!("{what} {round}");
        let plain = |number: i32| {
            let records = (0..3).map(|n| record(&format!("{n}"), &format!("plain {number} {round} {n}"))).collect();
            source.append(&partition("plain", number), [Codec::Lz4, Codec::None][number as usize], records);
        };
        plain(0);
        if round % 2 == 0 {
            plain(1);
        }
        let transactions = partition("transactions", 0);
        let mut producer = source.transactional_producer("application");
        producer.append(&transactions, Codec::None, vec![record("t", &label("first")), record("t", &label("second"))]);
        source.append(&transactions, Codec::None, vec![record("t", &label("outside"))]);
        if round % 3 == 0 {
            producer.abort()
        } else {
            producer.commit()
        }
        let table = partition("table", 0);
        let key = format!("{}", round.rem_euclid(3));
        source.append(&table, Codec::Zstd, vec![record(&key, &label("value")), record("same", &label("value"))]);
        if round % 4 == 3 {
            source.append(
                &table,
                Codec::None,
                vec![record_at(BEGINNING_UNIX_MS + round, &key, ""), tombstone_at(round, &key)],
            );
        }
        source.append(
            &partition("headless", 0),
            Codec::Snappy,
            vec![record("h", &label("a")), record("h", &label("b"))],
        );
        let old = record_at(BEGINNING_UNIX_MS - YEARS_MS + round, "old", &label("old"));
        source.append(&partition("old", 0), Codec::None, vec![old]);
        if source.topic_id("late").is_some() {
            source.append(&partition("late", 0), Codec::None, vec![record("late", &label("late"))]);
            source.append(&partition("old", 1), Codec::None, vec![record("grown", &label("grown"))]);
        }
    }

    /// What happens to clusters meanwhile.
    fn happen(&self, round: i64) {
        let (source, target) = (&self.world.source, &self.world.target);
        if self.spec.appears_in == Some(round) {
            source.create_topic("late", 1, &[]);
            source.grow_topic("old", 2);
        }
        if round % 3 == 1 {
            let broker = 1 + (round as i32 / 3) % self.spec.brokers;
            source.partitions().iter().for_each(|partition| source.move_leader(partition, broker));
            target.partitions().iter().for_each(|partition| target.move_leader(partition, broker));
        }
    }

    /// One round of all consumers on the source.
    fn consume(&self) {
        let source = &self.world.source;
        for number in 0..2 {
            let at = partition("plain", number);
            source.commit("worker", &at, source.ends(&at).1, "noted");
        }
        self.advance("backlog", &partition("table", 0));
        self.advance("backlog", &partition("plain", 0));
    }

    /// A group consumes one more.
    pub(crate) fn advance(&self, group: &str, at: &TopicPartition) {
        let source = &self.world.source;
        let position = source.committed(group).get(at).map_or(0, |committed| committed.offset);
        source.commit(group, at, (position + 1).min(source.ends(at).1).max(position), "noted");
    }

    /// From READY on.
    fn switch(&self, step: u64) {
        let (source, target) = (&self.world.source, &self.world.target);
        let end = |at: &TopicPartition| target.ends(at).2;
        let sets = |group: &str, at: TopicPartition| {
            target.commit(group, &at, end(&at), "a client's");
            self.set_by_clients.lock().expect("nobody panics with it").insert((group.into(), at));
        };
        match step {
            2 | 3 | 10 => {
                self.advance("backlog", &partition("table", 0));
                source.commit("backlog", &partition("plain", 0), source.ends(&partition("plain", 0)).1, "noted");
            }
            4 => {
                // Producers are the first on the target.
                for at in target.partitions() {
                    target.append(&at, Codec::None, vec![record("new", "on the target"), record("new", "too")]);
                }
            }
            5 => target.set_members(ARRIVING, 1, "consumer"),
            6 => sets(ARRIVING, partition("plain", 0)),
            8 => sets(MOVED, partition("plain", 1)),
            9 => target.set_members(ARRIVING, 0, "consumer"),
            11 => {
                self.advance(MOVED, &partition("plain", 1));
                self.advance(ARRIVING, &partition("plain", 0));
            }
            _ => {}
        }
    }

    /// What happens while nobody migrates: one process has died and the next has not begun.
    pub(crate) async fn nobody_migrates(&self, random: &mut ChaCha8Rng) -> Vec<String> {
        let mut told = Vec::new();
        if !self.spec.logs_move {
            return told;
        }
        let (source, target) = (&self.world.source, &self.world.target);
        let table = partition("table", 0);
        let before_ready = matches!(
            self.tip(),
            None | Some(
                State::Planned | State::Precheck | State::TopologyCopy | State::Seed | State::Tail | State::DrainReady
            )
        );
        let partitions = source.partitions();
        let any = |random: &mut ChaCha8Rng| partitions[random.random_range(0..partitions.len())].clone();
        for _ in 0..random.random_range(0..3) {
            match random.random_range(0..7) {
                0 => {
                    target.restart_brokers();
                    source.restart_brokers();
                    told.push("brokers restarted".to_owned());
                }
                1 => {
                    source.compact(&table, false);
                    told.push("the source was compacted".to_owned());
                }
                2 => {
                    let at = any(random);
                    let (start, stable, _) = source.ends(&at);
                    let to = random.random_range(start..=stable);
                    source.delete_records(&at, to);
                    told.push(format!("{at} was trimmed up to {to}"));
                }
                3 => {
                    let at = any(random);
                    let broker = random.random_range(1..=self.spec.brokers);
                    source.move_leader(&at, broker);
                    if target.partitions().contains(&at) {
                        target.move_leader(&at, broker);
                    }
                    told.push(format!("broker {broker} leads {at}"));
                }
                4 if before_ready => {
                    // Markers on their way land first: what a log that was cut off gets from before is not told apart.
                    self.world.clock.skip(Duration::from_secs(1)).await;
                    let at = any(random);
                    if target.partitions().contains(&at) {
                        let (start, _, end) = target.ends(&at);
                        let to = (end - random.random_range(0..6)).max(start);
                        target.replace_tail(&at, to);
                        told.push(format!("the target lost {at} from {to} on"));
                    }
                }
                5 => {
                    // As long as tombstones are kept, and brokers remember producers.
                    let day = Duration::from_secs(25 * 3600);
                    self.world.clock.skip(day).await;
                    source.compact(&table, true);
                    target.restart_brokers();
                    told.push("a day passed: tombstones were cleaned, producers forgotten".to_owned());
                }
                _ => {
                    let minutes = random.random_range(0..40);
                    self.world.clock.skip(Duration::from_secs(minutes * 60)).await;
                    told.push(format!("{minutes} minutes passed"));
                }
            }
        }
        told
    }
}

fn tombstone_at(round: i64, key: &str) -> krossing_core::records::Record {
    let mut tombstone = tombstone(key);
    tombstone.timestamp_ms += round;
    tombstone
}

/// A number generator of its own for each purpose of a seed.
pub(crate) fn random(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(purpose);
    let _ = random.next_u64();
    random
}
