//! Producers that go on while a migration runs, until they are frozen: flushed, their transactions ended, closed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::ClientConfig;

use super::{NewRecord, Recorder, RecordingProducer};
use crate::process::POLL;

/// How long producers that were let go may take to have produced: librdkafka looks for a broker first.
const RECORDED_WAIT_MAX: Duration = Duration::from_secs(180);

/// Each producer's pace: a burst of a few records each time. Slow enough that a migration catches up on two slow cores
/// beside the brokers, fast enough that every phase of one meets new records.
const PACE: Duration = Duration::from_millis(60);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Idempotent,
    Transactional(u32),
}

/// What runs: one plain producer, one idempotent, and two transactional ones on the same partitions.
const KINDS: [Kind; 4] = [Kind::Plain, Kind::Idempotent, Kind::Transactional(0), Kind::Transactional(1)];

/// The live producers of a workload.
pub struct LiveProducers {
    kinds: &'static [Kind],
    client: ClientConfig,
    recorder: Arc<Recorder>,
    running: Mutex<Vec<JoinHandle<Result<()>>>>,
    stop: Arc<AtomicBool>,
    frozen_for: Mutex<(Option<Instant>, Duration)>,
}

impl LiveProducers {
    /// Starts them. The workload's topics must be there.
    pub fn start(client: &ClientConfig, recorder: &Arc<Recorder>) -> Arc<Self> {
        let it = Self::of(&KINDS, client, recorder);
        it.spawn();
        Arc::new(it)
    }

    /// Nobody: for migrations whose test produces by itself.
    pub fn none(client: &ClientConfig) -> Arc<Self> {
        Arc::new(Self::of(&[], client, &Arc::default()))
    }

    fn of(kinds: &'static [Kind], client: &ClientConfig, recorder: &Arc<Recorder>) -> Self {
        Self {
            kinds,
            client: client.clone(),
            recorder: recorder.clone(),
            running: Mutex::default(),
            stop: Arc::default(),
            frozen_for: Mutex::default(),
        }
    }

    fn spawn(&self) {
        self.stop.store(false, Ordering::Relaxed);
        let mut running = self.running.lock().expect("no panic while held");
        running.extend(self.kinds.iter().map(|&kind| {
            let (client, recorder, stop) = (self.client.clone(), self.recorder.clone(), self.stop.clone());
            std::thread::spawn(move || produce(kind, &client, &recorder, &stop))
        }));
    }

    /// Returns when every producer has flushed and closed; an error where one could not. Harmless when repeated.
    pub async fn freeze(self: &Arc<Self>) -> Result<()> {
        let it = self.clone();
        tokio::task::spawn_blocking(move || {
            it.stop.store(true, Ordering::Relaxed);
            let mut running = it.running.lock().expect("no panic while held");
            let outcomes: Vec<_> = running.drain(..).map(JoinHandle::join).collect();
            it.frozen_for.lock().expect("no panic while held").0.get_or_insert_with(Instant::now);
            outcomes.into_iter().try_for_each(|outcome| outcome.map_err(|_| anyhow!("a live producer panicked"))?)
        })
        .await?
    }

    /// Starts them again. Harmless when repeated.
    pub fn unfreeze(&self) {
        if !self.is_frozen() {
            return;
        }
        let mut frozen = self.frozen_for.lock().expect("no panic while held");
        if let Some(since) = frozen.0.take() {
            frozen.1 += since.elapsed();
        }
        self.spawn();
    }

    /// Waits until `more` records than now are acknowledged: until they really go on.
    pub async fn until_recorded(&self, more: u64) -> Result<()> {
        let goal = self.recorder.count() + more;
        let reached = async {
            while self.recorder.count() < goal {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(RECORDED_WAIT_MAX, reached).await.context("producers do not go on")
    }

    /// Whether none is running.
    pub fn is_frozen(&self) -> bool {
        self.running.lock().expect("no panic while held").is_empty()
    }

    /// For how long they have stood still, in all.
    pub fn frozen_for(&self) -> Duration {
        let (since, before) = *self.frozen_for.lock().expect("no panic while held");
        before + since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for LiveProducers {
    fn drop(&mut self) {
        // Their threads must not outlive the brokers' lab; what they could not deliver is nobody's concern any more.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn produce(kind: Kind, client: &ClientConfig, recorder: &Arc<Recorder>, stop: &AtomicBool) -> Result<()> {
    let producer = match kind {
        Kind::Plain => RecordingProducer::new(client, recorder, "live-plain", &[("linger.ms", "5")])?,
        Kind::Idempotent => {
            let settings = [("enable.idempotence", "true"), ("compression.codec", "lz4"), ("linger.ms", "5")];
            RecordingProducer::new(client, recorder, "live-idempotent", &settings)?
        }
        Kind::Transactional(number) => {
            let id = format!("lab-live-{number}");
            RecordingProducer::transactional(client, recorder, "live-transactions", &id)?
        }
    };
    let in_transactions = matches!(kind, Kind::Transactional(_));
    let began = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
    let mut burst = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        if in_transactions {
            producer.begin()?;
        }
        for number in 0..1 + burst % 7 {
            // No two records of a workload are alike, so that none can stand for another.
            let (key, value) = (format!("{kind:?}-{burst}"), format!("{began}-{burst}-{number}"));
            producer.send(&NewRecord {
                partition: i32::try_from((burst + number) % 2)?,
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: vec![("live", None)],
                ..NewRecord::default()
            })?;
        }
        match in_transactions {
            true if burst % 5 == 3 => producer.abort()?,
            true => producer.commit()?,
            false if burst % 20 == 19 => producer.settle()?,
            false => {}
        }
        burst += 1;
        std::thread::sleep(PACE);
    }
    producer.settle()
}
