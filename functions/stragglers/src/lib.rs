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
//! topic they come after what clients have written for the same keys since.

mod append;
mod read;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    ErrorClass, SourceOffset, TargetOffset, TopicPartition,
    journal::{EntryKind, Journal},
    limits::STRAGGLER_PARTITIONS_IN_FLIGHT,
    ports::{LogEnd, LogReader, PerPartition, Ports},
    records::RecordError,
    stragglers::{Choice, Decided, StragglerDecision, Stragglers, kept_key},
};
use krossing_replication::{LanePlan, ScanFrom};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};

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
            StragglersError::AppendUnfinished { .. } => ErrorClass::Refused,
            StragglersError::NotAppended { .. } => ErrorClass::Retryable,
            StragglersError::NotUnderstood { .. } | StragglersError::NotReadBack { .. } => ErrorClass::DataAtRisk,
        }
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
}

/// Looks for committed records that nobody has decided about. Changes nothing.
pub async fn find<P: Ports>(
    migration: &Migration<P>,
    lanes: &[LanePlan],
    journal: &Journal,
) -> Result<Vec<Undecided>, StragglersError> {
    let found = each(migration, lanes, journal, async |committed| Ok(undecided(&committed))).await?;
    Ok(found)
}

fn undecided(committed: &Committed) -> Undecided {
    let Committed { start, to, records, producers, .. } = committed;
    Undecided {
        partition: start.partition.clone(),
        from: SourceOffset(start.offset),
        to: *to,
        records: *records,
        producers: producers.clone(),
    }
}

/// Decides about everything that is found, journals it, and carries it out. Answers what was decided; none where there
/// was nothing.
pub async fn decide<P: Ports>(
    migration: &Migration<P>,
    lanes: &[LanePlan],
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
    let mut partitions =
        each(migration, lanes, journal, async |committed| keep(migration, number, committed).await).await?;
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

/// Does something with the undecided committed records of each partition that has some, a few at a time.
async fn each<P: Ports, T>(
    migration: &Migration<P>,
    lanes: &[LanePlan],
    journal: &Journal,
    work: impl AsyncFn(Committed) -> Result<T, StragglersError>,
) -> Result<Vec<T>, StragglersError> {
    let cutover = migration.cutover_report().await?;
    let undecided = Decided::of(journal).undecided_from(cutover.closed_from());
    let partitions: Vec<_> = undecided.keys().cloned().collect();
    let source = &migration.source;
    let (starts, ends) = futures::try_join!(
        source.log_ends(&partitions, LogEnd::Earliest),
        source.log_ends(&partitions, LogEnd::LatestStable)
    )
    .during("read where the source's logs begin and end")?;
    let starts = known(starts, "read the source's log start")?;
    let ends = known(ends, "read the source's end")?;
    let planned = lanes.iter().flat_map(|lane| &lane.partitions);
    let ids: BTreeMap<_, _> = planned.map(|planned| (&planned.partition, planned.topic_id)).collect();
    let behind: Vec<_> = undecided
        .into_iter()
        // What retention has taken meanwhile cannot be decided about any more.
        .map(|(partition, from)| {
            let from = from.max(SourceOffset(starts[&partition]));
            (partition, from)
        })
        .filter(|(partition, from)| ends[partition] > from.0)
        .map(|(partition, from)| {
            let topic_id = ids.get(&partition).copied().flatten();
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
    let Undecided { partition, from, to, records, producers } = undecided(&committed);
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
