//! Records that reached the source behind where it was closed, after READY: found, kept, and appended or left out.
//!
//! The rules are in `krossing_core::stragglers`. Appending is exactly once without anything that is remembered: the
//! decision names the target's ends before anything is sent; whoever goes on raises the epoch of one producer, reads
//! from there up to its own fence what that producer has appended so far, and sends the rest of the batches that were
//! kept. Clients write to the same logs meanwhile, so that no offset can be expected; records are told by their
//! producer's id.
//!
//! Invariants: a decision is journaled before its effects, and so is each producer before it sends; what stands on the
//! target is read from its log. A decision that has begun to be carried out is ended before another is made.
//!
//! Does not: look for the producer that was left behind, or move groups: the records come as new ones. On a compacted
//! topic they are refused where clients have given one of their keys another value since ([`NewerKey`]).

mod append;
mod newer;
mod read;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    ErrorClass, SourceOffset, TargetOffset, TopicName, TopicPartition,
    journal::{EntryKind, Journal},
    limits::STRAGGLER_PARTITIONS_IN_FLIGHT,
    plan::Scope,
    ports::{LogEnd, LogReader, PerPartition, Ports},
    records::RecordError,
    stragglers::{Choice, Decided, StragglerDecision, StragglerRecord, Stragglers, kept_key},
};
use krossing_replication::ScanFrom;
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};

pub use newer::NewerKey;
use read::Committed;
use serde::Serialize;

/// Why it could not be decided or carried out. The same command goes on.
#[derive(Debug, thiserror::Error)]
pub enum StragglersError {
    /// A step failed.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// An append has begun.
    #[error("decision {number} to append records has begun to be carried out: `krossing stragglers --append` ends it")]
    AppendUnfinished {
        /// Its number.
        number: u64,
    },
    /// A batch that cannot be read.
    #[error("records of {partition} behind where it was closed cannot be read")]
    NotUnderstood {
        /// Where.
        partition: TopicPartition,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The target did not take a batch, or did not say so.
    #[error(
        "it is not known whether records were appended to {partition} on the target ({why}): give the command again, it \
         reads back what is there before it goes on"
    )]
    NotAppended {
        /// Where.
        partition: TopicPartition,
        /// What was seen.
        why: String,
    },
    /// Clients have given keys of compacted topics other values since.
    #[error(
        "clients have written newer values for the same keys to the target ({}): appended behind them, older values would \
         take their place. Leave these topics' records out (`--leave --topic NAME`) and append the others (`--append \
         --topic NAME`); nothing was decided yet",
        newer_keys(keys)
    )]
    NewerOnTarget {
        /// The first such key of each partition.
        keys: Vec<NewerKey>,
    },
    /// The target holds another number of our records than were kept.
    #[error(
        "{partition} on the target holds {found} appended records where {kept} were kept: find out who wrote there"
    )]
    NotReadBack {
        /// Where.
        partition: TopicPartition,
        /// How many are there.
        found: u64,
        /// How many there may be.
        kept: u64,
    },
}

impl StragglersError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            StragglersError::Migration(error) => error.class(),
            StragglersError::AppendUnfinished { .. } | StragglersError::NewerOnTarget { .. } => ErrorClass::Refused,
            StragglersError::NotAppended { .. } => ErrorClass::Retryable,
            StragglersError::NotUnderstood { .. } | StragglersError::NotReadBack { .. } => ErrorClass::DataAtRisk,
        }
    }
}

fn newer_keys(keys: &[NewerKey]) -> String {
    let say = |newer: &NewerKey| {
        let NewerKey { partition, key, target_offset } = newer;
        format!("{partition}: key {key} at target offset {}", target_offset.0)
    };
    keys.iter().map(say).collect::<Vec<_>>().join("; ")
}

/// Whose stragglers are meant.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The migration's topics and lanes.
    pub scope: &'a Scope,
    /// These topics only; all where none is named.
    pub topics: &'a BTreeSet<TopicName>,
}

impl Wanted<'_> {
    fn includes(&self, partition: &TopicPartition) -> bool {
        self.topics.is_empty() || self.topics.contains(&partition.topic)
    }

    fn check(&self) -> MigrationResult<()> {
        let unknown: Vec<_> = self.topics.iter().filter(|name| self.scope.topic(name).is_none()).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let sentence =
            format!("--topic {first}: this migration has no such topic; `krossing stragglers` lists those it has");
        Err(MigrationError::Refused { sentence })
    }

    fn is_compacted(&self, partition: &TopicPartition) -> bool {
        self.scope.topic(&partition.topic).is_some_and(|topic| topic.compacted)
    }
}

/// Records of one partition that nobody has decided about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// Where.
    pub partition: TopicPartition,
    /// The first source offset.
    pub from: SourceOffset,
    /// The offset behind the last one that was looked at.
    pub to: SourceOffset,
    /// How many committed records lie between.
    pub records: u64,
    /// Ids of the producers that wrote them, where their batches say it.
    pub producers: BTreeSet<i64>,
    /// The first few of them.
    pub first_records: Vec<StragglerRecord>,
}

/// Looks for committed records that nobody has decided about. Changes nothing.
pub async fn find<P: Ports>(
    migration: &Migration<P>,
    wanted: Wanted<'_>,
    journal: &Journal,
) -> Result<Vec<Undecided>, StragglersError> {
    let found = each(migration, wanted, journal, async |committed| Ok(undecided(&committed))).await?;
    Ok(found)
}

fn undecided(committed: &Committed) -> Undecided {
    let Committed { start, to, records, producers, first_records, .. } = committed;
    Undecided {
        partition: start.partition.clone(),
        from: SourceOffset(start.offset),
        to: *to,
        records: *records,
        producers: producers.clone(),
        first_records: first_records.clone(),
    }
}

/// Decides about everything that is wanted and found, journals it, and carries it out. Answers what was decided; none
/// where there was nothing.
pub async fn decide<P: Ports>(
    migration: &Migration<P>,
    wanted: Wanted<'_>,
    journal: &mut Journal,
    choice: Choice,
) -> Result<Option<StragglerDecision>, StragglersError> {
    if let Some(unfinished) = Decided::of(journal).unfinished().cloned() {
        if choice == Choice::Leave {
            return Err(StragglersError::AppendUnfinished { number: unfinished.number });
        }
        append::carry_out(migration, journal, &unfinished).await?;
    }
    let number = Decided::of(journal).next_number();
    let (boundaries, ours) = (migration.cutover_report(journal).await?.boundary_of(), Decided::of(journal).producers());
    // What is checked is what is kept and appended: whoever was left behind may go on writing meanwhile.
    let checked = each(migration, wanted, journal, async |committed| {
        let partition = &committed.start.partition;
        if choice == Choice::Append && wanted.is_compacted(partition) {
            let from = boundaries.get(partition).copied().unwrap_or(TargetOffset(0));
            let batches = committed.batches.clone();
            if let Some(newer) = newer::newer_key(migration, partition, batches, from, &ours).await? {
                return Ok(Err(newer));
            }
        }
        keep(migration, number, committed).await.map(Ok)
    });
    let (mut partitions, mut newer) = (Vec::new(), Vec::new());
    for one in checked.await? {
        match one {
            Ok(kept) => partitions.push(kept),
            Err(key) => newer.push(key),
        }
    }
    if !newer.is_empty() {
        return Err(StragglersError::NewerOnTarget { keys: newer });
    }
    if partitions.is_empty() {
        return Ok(None);
    }
    if choice == Choice::Append {
        let ends = target_ends(migration, &partitions).await?;
        partitions.iter_mut().for_each(|stragglers| stragglers.target_from = Some(ends[&stragglers.partition]));
    }
    let decision = StragglerDecision { stragglers: choice, number, partitions };
    let records: u64 = decision.partitions.iter().map(|stragglers| stragglers.records).sum();
    let what = match choice {
        Choice::Append => "are to be appended at the target's end",
        Choice::Leave => "are left out of the target",
    };
    let reason = format!("the operator decided: {records} records behind where the source was closed {what}");
    migration.note(journal, EntryKind::Decision, reason, &decision).await?;
    if choice == Choice::Append {
        append::carry_out(migration, journal, &decision).await?;
    }
    Ok(Some(decision))
}

/// Does something with the wanted, undecided, committed records of each partition that has some, a few at a time.
async fn each<P: Ports, T>(
    migration: &Migration<P>,
    wanted: Wanted<'_>,
    journal: &Journal,
    work: impl AsyncFn(Committed) -> Result<T, StragglersError>,
) -> Result<Vec<T>, StragglersError> {
    wanted.check()?;
    let cutover = migration.cutover_report(journal).await?;
    let mut undecided = Decided::of(journal).undecided_from(cutover.closed_from());
    undecided.retain(|partition, _| wanted.includes(partition));
    let partitions: Vec<_> = undecided.keys().cloned().collect();
    let source = &migration.source;
    let (starts, ends) = futures::try_join!(
        source.log_ends(&partitions, LogEnd::Earliest),
        source.log_ends(&partitions, LogEnd::LatestStable)
    )
    .during("read where the source's logs begin and end")?;
    let starts = known(starts, "read the source's log start")?;
    let ends = known(ends, "read the source's end")?;
    let behind: Vec<_> = undecided
        .into_iter()
        // What retention has taken meanwhile cannot be decided about any more.
        .map(|(partition, from)| {
            let from = from.max(SourceOffset(starts[&partition]));
            (partition, from)
        })
        .filter(|(partition, from)| ends[partition] > from.0)
        .map(|(partition, from)| {
            let topic_id = wanted.scope.topic(&partition.topic).and_then(|topic| topic.source_topic_id);
            let end = ends[&partition];
            (ScanFrom { partition, topic_id, offset: from.0 }, end)
        })
        .collect();
    let work = &work;
    let done = stream::iter(behind)
        .map(|(start, end)| async move {
            let committed = read::committed(migration, start, end).await?;
            if committed.records == 0 { Ok(None) } else { work(committed).await.map(Some) }
        })
        .buffered(STRAGGLER_PARTITIONS_IN_FLIGHT)
        .try_collect::<Vec<Option<T>>>()
        .await?;
    Ok(done.into_iter().flatten().collect())
}

/// Stores the source's batches among the evidence: what is appended is appended from there.
async fn keep<P: Ports>(
    migration: &Migration<P>,
    number: u64,
    committed: Committed,
) -> Result<Stragglers, StragglersError> {
    let Undecided { partition, from, to, records, producers, .. } = undecided(&committed);
    let key = kept_key(&migration.id, number, &partition);
    let kept = migration.store_evidence(key, committed.batches, false).await?;
    Ok(Stragglers { partition, from, to, records, producers, kept, target_from: None })
}

async fn target_ends<P: Ports>(
    migration: &Migration<P>,
    partitions: &[Stragglers],
) -> Result<BTreeMap<TopicPartition, TargetOffset>, StragglersError> {
    let partitions: Vec<_> = partitions.iter().map(|stragglers| stragglers.partition.clone()).collect();
    let ends = migration.target.log_ends(&partitions, LogEnd::Latest).await.during("read the target's ends")?;
    let ends = known(ends, "read the target's end")?;
    Ok(ends.into_iter().map(|(partition, end)| (partition, TargetOffset(end))).collect())
}

/// Every answer, or the error of the first partition without one.
fn known<T>(answers: PerPartition<T>, attempt: &str) -> MigrationResult<BTreeMap<TopicPartition, T>> {
    let known = answers.into_iter().map(|(partition, answer)| match answer {
        Ok(answer) => Ok((partition, answer)),
        Err(code) => Err(MigrationError::Refused {
            sentence: format!("could not {attempt} of {partition}: {code}; see that the cluster's brokers are well"),
        }),
    });
    known.collect()
}

#[cfg(test)]
mod tests;
