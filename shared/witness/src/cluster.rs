//! A cluster as its users see it: ranges of committed records, read by a few clients that are kept and used again.
//!
//! How the end of a range is found: librdkafka gives no event for control records, aborted data and gaps, so a range
//! is over at the first record at or behind its end, or when the partition's stable end is reported at or behind it.
//! An end before it means that the log (or an open transaction) stops short of the range: waited for, then an error.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use krossing_core::{
    KafkaCode, Offset,
    limits::{WITNESS_POLL, WITNESS_READERS_MAX, WITNESS_REFUSAL_WAIT, WITNESS_SILENCE_MAX},
    ports::{ClusterError, ClusterResult, ReadRange, VisibleRecord, Witness},
};
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Semaphore;

use crate::{
    client::Client,
    config::WitnessConfig,
    partition::{Event, Partition},
};

/// A cluster, read by librdkafka. Clones share their clients.
#[derive(Clone)]
pub struct WitnessCluster {
    shared: Arc<Shared>,
    silence_max: Duration,
}

struct Shared {
    config: WitnessConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Client>>,
}

impl WitnessCluster {
    /// Checks the configuration and starts a first client. The cluster itself is contacted by the first read.
    pub fn connect(config: WitnessConfig) -> ClusterResult<Self> {
        let idle = Mutex::new(vec![Client::start(&config)?]);
        let permits = Arc::new(Semaphore::new(WITNESS_READERS_MAX));
        Ok(Self { shared: Arc::new(Shared { config, permits, idle }), silence_max: WITNESS_SILENCE_MAX })
    }

    /// The same cluster and clients with another bound for how long a range may bring nothing new.
    pub fn with_silence_max(&self, silence_max: Duration) -> Self {
        Self { silence_max, ..self.clone() }
    }
}

impl Witness for WitnessCluster {
    async fn read(
        &self,
        range: ReadRange,
        mut see: impl FnMut(VisibleRecord) -> bool + Send + 'static,
    ) -> ClusterResult<()> {
        let shared = Arc::clone(&self.shared);
        let attempt = format!("reading {} from {} to {}", range.partition, range.from, range.to);
        let permit = Arc::clone(&shared.permits).acquire_owned().await.expect("the semaphore is never closed");
        // Dropping this future cannot stop a blocking thread; the flag does.
        let abandoned = AbandonOnDrop::default();
        let is_abandoned = Arc::clone(&abandoned.0);
        let (side, silence_max) = (shared.config.side, self.silence_max);
        let reading = tokio::task::spawn_blocking({
            let attempt = attempt.clone();
            move || {
                let _permit = permit;
                shared.with_client(|client| {
                    Reading { shared: &shared, client, range, attempt, is_abandoned: &is_abandoned, silence_max }
                        .run(&mut see)
                })
            }
        });
        match reading.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(ClusterError::Unavailable { side, attempt, detail: error.to_string() }),
        }
    }
}

#[derive(Default)]
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Lends a client. One that failed is given up: a new one asks for addresses and leaders afresh.
    fn with_client(&self, read: impl FnOnce(&Client) -> ClusterResult<()>) -> ClusterResult<()> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let client = match kept {
            Some(client) => client,
            None => Client::start(&self.config)?,
        };
        // While a client was not used nobody has given it tokens: what it complained of meanwhile is over with the next.
        client.listen();
        client.forget_complaints();
        read(&client)?;
        idle().push(client);
        Ok(())
    }
}

/// One range being read.
struct Reading<'a> {
    shared: &'a Shared,
    client: &'a Client,
    range: ReadRange,
    attempt: String,
    is_abandoned: &'a AtomicBool,
    silence_max: Duration,
}

impl Reading<'_> {
    fn run(self, see: &mut dyn FnMut(VisibleRecord) -> bool) -> ClusterResult<()> {
        let ReadRange { ref partition, from, to, records_max } = self.range;
        let mut next = from;
        let mut records_left = records_max;
        let mut quiet_since = Instant::now();
        let mut asked_since = None;
        let mut seen = Sightings::default();
        // Each turn starts to read at `next`: once, and again whenever the log start has passed it.
        while next < to && records_left > 0 {
            let mut reading = Partition::start(self.client, partition, next)
                .map_err(|code| self.failure(code, code.to_string(), &seen, next))?;
            loop {
                if self.is_abandoned.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.client.listen();
                self.check_patience(quiet_since, &seen, next)?;
                match reading.next(WITNESS_POLL) {
                    None if quiet_since.elapsed() >= WITNESS_REFUSAL_WAIT && asked_since != Some(quiet_since) => {
                        // librdkafka waits in silence for a topic that does not exist.
                        asked_since = Some(quiet_since);
                        self.ask_leader(&mut seen, next)?;
                    }
                    None => {}
                    Some(Event::Record(record)) if record.offset >= to => return Ok(()),
                    Some(Event::Record(record)) => {
                        // Never seen to happen; a wrong order here would be reported as a wrong copy.
                        if record.offset < next {
                            return Err(self.not_understood(format!("offset {} after {next}", record.offset)));
                        }
                        next = record.offset + 1;
                        records_left -= 1;
                        if !see(record) || records_left == 0 || next >= to {
                            return Ok(());
                        }
                        quiet_since = Instant::now();
                    }
                    Some(Event::End(end)) if end >= to => return Ok(()),
                    Some(Event::End(end)) => {
                        quiet_since = if seen.end == Some(end) { quiet_since } else { Instant::now() };
                        seen.end = Some(end);
                    }
                    Some(Event::Trouble(code, text)) if is_out_of_range(code) => {
                        drop(reading);
                        seen.note(text);
                        next = self.log_start_at_least(next, &mut seen)?;
                        break;
                    }
                    Some(Event::Trouble(code, text)) if is_definite(code) => {
                        return Err(self.failure(code, text, &seen, next));
                    }
                    Some(Event::Trouble(_, text)) => seen.note(text),
                }
            }
        }
        Ok(())
    }

    /// Where to go on when the log does not have `next`: its start, if that is later. An end before `next` is left as
    /// it is: the log may be catching up.
    fn log_start_at_least(&self, next: Offset, seen: &mut Sightings) -> ClusterResult<Offset> {
        let start = self.ask_leader(seen, next)?;
        if start.is_none_or(|start| start <= next) {
            std::thread::sleep(WITNESS_POLL);
        }
        Ok(start.unwrap_or(next).max(next))
    }

    /// The log start, if the leader answers; where the log ends is noted.
    fn ask_leader(&self, seen: &mut Sightings, next: Offset) -> ClusterResult<Option<Offset>> {
        match self.client.log_ends(&self.range.partition, WITNESS_REFUSAL_WAIT) {
            Ok((start, end)) => {
                seen.end = Some(end);
                Ok(Some(start))
            }
            Err(code) if is_definite(code) => Err(self.failure(code, code.to_string(), seen, next)),
            Err(code) => {
                seen.note(code.to_string());
                Ok(None)
            }
        }
    }

    fn check_patience(&self, quiet_since: Instant, seen: &Sightings, next: Offset) -> ClusterResult<()> {
        let quiet = quiet_since.elapsed();
        if quiet >= WITNESS_REFUSAL_WAIT
            && let Some(refusal) = self.client.refusal()
        {
            let detail = self.shared.config.redact(&refusal);
            return Err(ClusterError::NotAllowed {
                side: self.shared.config.side,
                attempt: self.attempt.clone(),
                detail,
            });
        }
        if quiet >= self.silence_max {
            return Err(self.unavailable(seen, next, quiet));
        }
        Ok(())
    }

    fn unavailable(&self, seen: &Sightings, next: Offset, quiet: Duration) -> ClusterError {
        let mut detail = format!("nothing new at {} offset {next} for {} s", self.range.partition, quiet.as_secs());
        if let Some(end) = seen.end {
            detail += &format!(", committed records end at {end}");
        }
        let complaint = self.client.last_complaint();
        for trouble in seen.troubles.keys().chain(&complaint) {
            detail += &format!("; {}", self.shared.config.redact(trouble));
        }
        ClusterError::Unavailable { side: self.shared.config.side, attempt: self.attempt.clone(), detail }
    }

    fn failure(&self, code: RDKafkaErrorCode, text: String, seen: &Sightings, next: Offset) -> ClusterError {
        let side = self.shared.config.side;
        let attempt = self.attempt.clone();
        let detail = self.shared.config.redact(&format!("{text}, at offset {next}"));
        match code {
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                ClusterError::NotAllowed { side, attempt, detail }
            }
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition => {
                ClusterError::Refused { side, attempt, code: KafkaCode::UNKNOWN_TOPIC_OR_PARTITION, detail }
            }
            RDKafkaErrorCode::InvalidTopic => {
                ClusterError::Refused { side, attempt, code: KafkaCode::INVALID_TOPIC_EXCEPTION, detail }
            }
            RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::NotImplemented => self.not_understood(detail),
            _ => self.unavailable(seen, next, Duration::ZERO),
        }
    }

    fn not_understood(&self, detail: String) -> ClusterError {
        ClusterError::NotUnderstood { side: self.shared.config.side, attempt: self.attempt.clone(), detail }
    }
}

/// What has been seen while nothing came: the material of an error.
#[derive(Default)]
struct Sightings {
    end: Option<Offset>,
    /// Text to how often.
    troubles: BTreeMap<String, u32>,
}

impl Sightings {
    fn note(&mut self, trouble: String) {
        // A few texts are enough to understand, and bound the memory.
        if self.troubles.len() < 5 || self.troubles.contains_key(&trouble) {
            *self.troubles.entry(trouble).or_default() += 1;
        }
    }
}

fn is_out_of_range(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)
}

/// Waiting does not help.
fn is_definite(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::NotImplemented
    )
}
