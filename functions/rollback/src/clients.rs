//! Whether clients have come to the target since READY: who has written to its logs, and which groups work there.
//!
//! What is written behind a partition's boundary is a client's, whoever it is, except records that the operator had
//! appended (`krossing stragglers`): those are on the source. A log that ends before its boundary, or a topic that is
//! gone, has lost what was copied, which the source still has: nothing of a client's is in the way.
//!
//! A group counts as `krossing client-switch` counts it, from a look that is made now and from what was ever seen. One
//! that is on the target only, and never was on the source, takes nothing along that the source would lack.
//!
//! Does not: keep clients away while it looks. What comes between the first look and the release of producers is found
//! by the second, which stands in the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
};

use krossing_client_switch::{ClientSwitch, SwitchError};
use krossing_core::{
    GroupId, KafkaCode, Side, TargetOffset, TopicPartition,
    client_switch::Switched,
    journal::Journal,
    limits::MARK_VISIBLE_WAIT_MAX,
    ports::{ClusterError, LogEnd, LogReader, Ports},
    records::{RawBatch, RecordError},
    stragglers::Decided,
};
use krossing_replication::{ScanFrom, scan};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};

/// How many partitions and groups a sentence names.
const NAMED: usize = 5;

const ATTEMPT: &str = "read what clients have written to the target";

/// A partition of the target that clients have written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenTo {
    /// Where.
    pub partition: TopicPartition,
    /// The offset of the first batch that is a client's.
    pub from: TargetOffset,
    /// The offset behind the log's last record.
    pub to: TargetOffset,
}

/// Everything of clients that is on the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    /// By partition.
    pub(crate) written: Vec<WrittenTo>,
    /// How it is known, by group.
    pub(crate) groups: BTreeMap<GroupId, Switched>,
}

impl Clients {
    pub(crate) fn have_come(&self) -> bool {
        !self.written.is_empty() || !self.groups.is_empty()
    }

    /// Why the migration cannot be given up any more, and what can be done.
    pub(crate) fn refusal(&self) -> String {
        let wayback = if self.written.is_empty() {
            "how far they have got there is not known on the source"
        } else {
            "what they have written there is not on the source"
        };
        format!(
            "rollback is not possible any more: clients have come to the target ({self}); {wayback}, so that the migration \
             can only go forward: switch the others, then run `krossing cutover-ack`. Who has to go back all the same \
             points clients at the source by hand, which is as it was, and settles with their owners what stays on the \
             target"
        )
    }
}

/// The first partitions and groups, as a part of a sentence.
impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = self.written.iter().map(|WrittenTo { partition, from, .. }| {
            format!("{partition} was written to from target offset {from} on", from = from.0)
        });
        let groups = self.groups.keys().map(|group| format!("group {group} has switched"));
        let more = |all: usize, what: &str| (all > NAMED).then(|| format!("{} more {what}", all - NAMED));
        let named = written
            .take(NAMED)
            .chain(more(self.written.len(), "partitions"))
            .chain(groups.take(NAMED))
            .chain(more(self.groups.len(), "groups"));
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

/// Looks at everything. Reads only. For a migration that has been READY.
pub(crate) async fn look<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<Clients> {
    let boundaries = migration.cutover_report(journal).await?.boundary_of();
    let written = written(migration, &boundaries, &Decided::of(journal).producers()).await?;
    let plan = krossing_plan::load(migration, journal).await?;
    let lanes = krossing_plan::lanes(&plan, &krossing_plan::load_amendments(migration, journal).await?);
    let arrived = async { ClientSwitch::load(migration, &lanes).await?.arrived().await };
    let groups = arrived.await.map_err(|error| match error {
        SwitchError::Migration(error) => error,
        other => MigrationError::Refused { sentence: format!("who has switched is not known: {other}") },
    })?;
    Ok(Clients { written, groups })
}

async fn written<P: Ports>(
    migration: &Migration<P>,
    boundaries: &BTreeMap<TopicPartition, TargetOffset>,
    ours: &BTreeSet<i64>,
) -> MigrationResult<Vec<WrittenTo>> {
    let partitions: Vec<_> = boundaries.keys().cloned().collect();
    let mut behind = BTreeMap::new();
    for (partition, end) in migration.target.log_ends(&partitions, LogEnd::Latest).await.during(ATTEMPT)? {
        match end {
            Ok(end) if end > boundaries[&partition].0 => {
                behind.insert(partition, end);
            }
            Ok(_) | Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION) => {}
            Err(code) => {
                let detail = format!("{partition}: {code}");
                let unread = ClusterError::Unavailable { side: Side::Target, attempt: ATTEMPT.to_owned(), detail };
                return Err(unread).during(ATTEMPT);
            }
        }
    }
    let from = if ours.is_empty() {
        behind.keys().map(|partition| (partition.clone(), boundaries[partition])).collect()
    } else {
        first_of_others(migration, boundaries, &behind, ours).await?
    };
    let written = from.into_iter().map(|(partition, from)| {
        let to = TargetOffset(behind[&partition]);
        WrittenTo { partition, from, to }
    });
    Ok(written.collect())
}

/// The first batch of each partition that none of `ours` has written.
async fn first_of_others<P: Ports>(
    migration: &Migration<P>,
    boundaries: &BTreeMap<TopicPartition, TargetOffset>,
    behind: &BTreeMap<TopicPartition, i64>,
    ours: &BTreeSet<i64>,
) -> MigrationResult<BTreeMap<TopicPartition, TargetOffset>> {
    let start = |partition: &TopicPartition| ScanFrom {
        partition: partition.clone(),
        topic_id: None,
        offset: boundaries[partition].0,
    };
    let starts: Vec<_> = behind.keys().map(start).collect();
    let mut others: BTreeMap<TopicPartition, TargetOffset> = BTreeMap::new();
    let mut damaged: Option<(TopicPartition, RecordError)> = None;
    let see = |partition: &TopicPartition, batch: Result<&RawBatch, &RecordError>| {
        let header = match batch {
            Ok(batch) => &batch.header,
            Err(error) => {
                damaged.get_or_insert((partition.clone(), error.clone()));
                return ControlFlow::Break(());
            }
        };
        if !ours.contains(&header.producer.id) {
            others.insert(partition.clone(), TargetOffset(header.base_offset));
            return ControlFlow::Break(());
        }
        if header.last_offset() + 1 >= behind[partition] { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let scanned = scan(&migration.target, &migration.clock, starts, MARK_VISIBLE_WAIT_MAX, see).await;
    let unseen = scanned.during(ATTEMPT)?;
    let unread = |detail| ClusterError::Unavailable { side: Side::Target, attempt: ATTEMPT.to_owned(), detail };
    if let Some((partition, error)) = damaged {
        return Err(unread(format!("{partition}: {error}"))).during(ATTEMPT);
    }
    if let Some((partition, next)) = unseen.first_key_value() {
        return Err(unread(format!("{partition} gives nothing from offset {next} on"))).during(ATTEMPT);
    }
    Ok(others)
}
