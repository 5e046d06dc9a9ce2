//! Carrying out a decision to append.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    Producer, TopicPartition,
    journal::{EntryKind, Journal},
    limits::{
        MARK_VISIBLE_WAIT_MAX, REQUEST_WAIT_MAX, RETRY_PAUSE_MAX, STRAGGLER_PARTITIONS_IN_FLIGHT, STRAGGLER_TRIES_MAX,
    },
    offset_map::sha256_hex,
    ports::{Clock, LogWriter, Marker, Objects, Ports, ProduceOutcome, ProduceRequest},
    records::{OutBatch, next_sequence},
    stragglers::{AppendStep, Decided, StragglerDecision, Stragglers, append_transactional_id, still_to_append},
};
use krossing_replication::{ScanFrom, scan};
use krossing_runtime::{ForStep, Migration, MigrationError};

use crate::StragglersError;

/// Appends what of a decision is not yet on the target, reads it back, and journals that.
pub(crate) async fn carry_out<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    decision: &StragglerDecision,
) -> Result<(), StragglersError> {
    let id = append_transactional_id(&migration.id);
    let producer = migration.target.open_producer(&id).await.during("open the producer that appends")?;
    let step = AppendStep { append: decision.number, producer, done: false };
    let reason = format!("{producer} goes on with decision {}", decision.number);
    migration.note(journal, EntryKind::StragglersAppend, reason, step).await?;
    let ours = Decided::of(journal).producers_of(decision.number);
    let there = fence(migration, &id, producer, &ours, decision).await?;
    stream::iter(&decision.partitions)
        .map(|stragglers| append(migration, producer, stragglers, there[&stragglers.partition]))
        .buffer_unordered(STRAGGLER_PARTITIONS_IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await?;
    read_back(migration, &ours, decision).await?;
    let reason = format!("decision {} was carried out and read back", decision.number);
    Ok(migration.note(journal, EntryKind::StragglersAppend, reason, AppendStep { done: true, ..step }).await?)
}

fn starts(decision: &StragglerDecision) -> Vec<ScanFrom> {
    let start = |stragglers: &Stragglers| {
        let offset = stragglers.target_from.map_or(0, |from| from.0);
        ScanFrom { partition: stragglers.partition.clone(), topic_id: None, offset }
    };
    decision.partitions.iter().map(start).collect()
}

/// Shuts out whoever appended before, and counts how many records stand there.
async fn fence<P: Ports>(
    migration: &Migration<P>,
    id: &str,
    producer: Producer,
    ours: &BTreeSet<i64>,
    decision: &StragglerDecision,
) -> Result<BTreeMap<TopicPartition, u64>, StragglersError> {
    let target = &migration.target;
    let partitions: Vec<_> = decision.partitions.iter().map(|stragglers| stragglers.partition.clone()).collect();
    let refused = target.mark(id, producer, &partitions).await.during("fence whoever appended before")?;
    if let Some((partition, code)) = refused.into_iter().next() {
        return Err(StragglersError::NotAppended { partition, why: format!("it takes no fence: {code}") });
    }
    let mut there: BTreeMap<_, u64> = partitions.into_iter().map(|partition| (partition, 0)).collect();
    let attempt = "read what was appended before";
    let unseen = scan(target, &migration.clock, starts(decision), MARK_VISIBLE_WAIT_MAX, |partition, batch| {
        let Ok(batch) = batch else { return ControlFlow::Continue(()) };
        let header = &batch.header;
        if header.is_control() && header.producer == producer {
            return ControlFlow::Break(());
        }
        if !header.is_control() && ours.contains(&header.producer.id) {
            *there.entry(partition.clone()).or_default() += u64::from(header.records_count.unsigned_abs());
        }
        ControlFlow::Continue(())
    })
    .await
    .during(attempt)?;
    match unseen.into_iter().next() {
        None => Ok(there),
        Some((partition, offset)) => {
            Err(StragglersError::NotAppended { partition, why: format!("no fence was seen up to offset {offset}") })
        }
    }
}

async fn append<P: Ports>(
    migration: &Migration<P>,
    producer: Producer,
    stragglers: &Stragglers,
    there: u64,
) -> Result<(), StragglersError> {
    let (partition, kept) = (&stragglers.partition, &stragglers.kept);
    let content = migration.evidence.get(&kept.key).await.during("read the records that are to be appended")?;
    let content = content.filter(|content| sha256_hex(content) == kept.sha256).ok_or_else(|| {
        let (what, detail) = (kept.key.clone(), "its digest is not the journal's; restore it from a copy".to_owned());
        MigrationError::NotReadBack { what, detail }
    })?;
    let left = still_to_append(&content, there)
        .map_err(|source| StragglersError::NotUnderstood { partition: partition.clone(), source })?;
    let too_many =
        StragglersError::NotReadBack { partition: partition.clone(), found: there, kept: stragglers.records };
    let mut sequence = 0;
    for out in left.ok_or(too_many)? {
        send(migration, partition, &out, producer, sequence).await?;
        sequence = next_sequence(sequence, out.records);
    }
    Ok(())
}

/// Appends one batch. What may be on the target is not sent again: the next command counts it there.
async fn send<P: Ports>(
    migration: &Migration<P>,
    partition: &TopicPartition,
    out: &OutBatch,
    producer: Producer,
    sequence: i32,
) -> Result<(), StragglersError> {
    let mut tries = 0;
    loop {
        let send_before = migration.clock.now() + REQUEST_WAIT_MAX;
        let request = ProduceRequest { partition: partition.clone(), batch: out.seal(producer, sequence), send_before };
        let why = match migration.target.produce(request).await {
            ProduceOutcome::Appended { .. } => return Ok(()),
            ProduceOutcome::NotAppended { reason } if tries < STRAGGLER_TRIES_MAX => {
                tracing::debug!(%partition, reason, "stragglers are sent again");
                tries += 1;
                migration.clock.sleep(RETRY_PAUSE_MAX).await;
                continue;
            }
            ProduceOutcome::NotAppended { reason } | ProduceOutcome::Unknown { reason } => reason,
            ProduceOutcome::Refused { code, detail } => format!("{code} {detail}").trim_end().to_owned(),
        };
        return Err(StragglersError::NotAppended { partition: partition.clone(), why });
    }
}

/// Every record stands on the target, each once.
async fn read_back<P: Ports>(
    migration: &Migration<P>,
    ours: &BTreeSet<i64>,
    decision: &StragglerDecision,
) -> Result<(), StragglersError> {
    let kept: BTreeMap<_, _> = decision.partitions.iter().map(|s| (s.partition.clone(), s.records)).collect();
    let mut found: BTreeMap<TopicPartition, u64> = BTreeMap::new();
    scan(&migration.target, &migration.clock, starts(decision), MARK_VISIBLE_WAIT_MAX, |partition, batch| {
        let found = found.entry(partition.clone()).or_default();
        if let Ok(batch) = batch
            && !batch.header.is_control()
            && ours.contains(&batch.header.producer.id)
        {
            *found += u64::from(batch.header.records_count.unsigned_abs());
        }
        if *found >= kept[partition] { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await
    .during("read back what was appended")?;
    for (partition, kept) in kept {
        let found = found.get(&partition).copied().unwrap_or(0);
        if found != kept {
            return Err(StragglersError::NotReadBack { partition, found, kept });
        }
    }
    Ok(())
}
