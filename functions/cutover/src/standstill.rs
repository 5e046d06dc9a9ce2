//! The steps while producers stand still, in the order of the design.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use krossing_core::{
    canonical::canonical_json,
    client_switch::{CLIENT_SWITCH_DOCUMENT, ClientSwitchRecord, Written},
    cutover::{
        Boundary, CUTOVER_REPORT_VERSION, ClosingMarker, CutoverReport, CutoverTimings, MarkerKind, cutover_report_key,
    },
    journal::{EntryKind, Journal},
    offset_map::sha256_hex,
    ports::{Clock, Ledger, Objects, Ports, ProducerFreeze},
    transition::State,
};
use krossing_replication::Crew;
use krossing_runtime::ForStep;
use serde_json::json;

use crate::{Cutover, CutoverError, close, groups, mark, prepare, prepare::Prepared};

/// Measures step after step.
struct Watch<C> {
    clock: C,
    began: Instant,
    last: Instant,
}

impl<C: Clock> Watch<C> {
    fn start(clock: C) -> Self {
        let began = clock.now();
        Self::of_what_began(clock, began)
    }

    /// The total is from `began` on, the first lap from now on.
    fn of_what_began(clock: C, began: Instant) -> Self {
        let last = clock.now();
        Self { clock, began, last }
    }

    /// Milliseconds since the last lap.
    fn lap_ms(&mut self) -> u64 {
        let now = self.clock.now();
        let lap = now - std::mem::replace(&mut self.last, now);
        u64::try_from(lap.as_millis()).unwrap_or(u64::MAX)
    }

    fn total_ms(&self) -> u64 {
        u64::try_from((self.clock.now() - self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// That producers stand still.
pub(crate) struct Frozen {
    /// How they were found to.
    how: String,
    /// Since when.
    since: Instant,
    /// How long asking took, in milliseconds.
    asked_ms: u64,
}

/// Has producers stand still, who do so since `since` already or are asked now.
pub(crate) async fn freeze<P: Ports>(
    cutover: &Cutover<'_, P>,
    journal: &mut Journal,
    since: Option<Instant>,
) -> Result<Frozen, CutoverError> {
    let clock = &cutover.migration.clock;
    let mut asking = Watch::start(clock.clone());
    cutover.step.begin("asking producers to stand still");
    let stood = since.map_or(Duration::ZERO, |since| clock.now().saturating_duration_since(since));
    let how = ask_to_freeze(cutover, journal, stood).await?;
    Ok(Frozen { how, asked_ms: asking.lap_ms(), since: since.unwrap_or_else(|| clock.now()) })
}

/// From the request that producers stand still, or behind it where they are `frozen`, to READY. The budget ends at
/// `until`.
pub(crate) async fn standstill<P: Ports>(
    cutover: &Cutover<'_, P>,
    journal: &mut Journal,
    crew: &mut Crew<P>,
    prepared: Prepared,
    frozen: Option<Frozen>,
    until: Instant,
) -> Result<CutoverReport, CutoverError> {
    let migration = cutover.migration;
    let frozen = match frozen {
        Some(frozen) => frozen,
        None => freeze(cutover, journal, None).await?,
    };
    let mut timings = CutoverTimings { freeze_ms: frozen.asked_ms, ..CutoverTimings::default() };

    let mut watch = Watch::of_what_began(migration.clock.clone(), frozen.since);
    let marker_kind = migration.config.cutover.marker;
    cutover.step.begin(match marker_kind {
        MarkerKind::Control | MarkerKind::Record => "marking the source",
        MarkerKind::None => "seeing the source stand still",
    });
    let markers = mark::mark(cutover, &prepared, until).await?;
    let closed_from: BTreeMap<_, _> =
        markers.iter().map(|(partition, marker)| (partition.clone(), marker_kind.closed_from(*marker))).collect();
    timings.mark_ms = watch.lap_ms();

    cutover.step.begin("copying up to the markers");
    close::drain(crew, &closed_from).await?;
    mark::nothing_behind_markers(cutover, &prepared, &closed_from).await?;
    timings.drain_ms = watch.lap_ms();

    cutover.step.begin("closing the lanes");
    let closed = close::close(cutover, &closed_from).await?;
    let boundaries = close::boundaries(&closed);
    let boundary_list: Vec<_> = boundaries
        .iter()
        .map(|(partition, offset)| Boundary { partition: partition.clone(), target_offset: *offset })
        .collect();
    let digest = sha256_hex(canonical_json(&boundary_list).expect("boundaries are whole numbers").as_bytes());
    let reason = format!("{} partitions are closed on the target", boundaries.len());
    migration.note(journal, EntryKind::TargetBoundary, reason, json!({ "sha256": digest })).await?;
    timings.close_ms = watch.lap_ms();

    cutover.step.begin("translating the groups' positions");
    let snapshot = groups::snapshot(cutover, &prepared.groups, &closed).await?;
    let translated = groups::translate(cutover, &snapshot, &closed, &markers).await?;
    timings.translate_ms = watch.lap_ms();

    cutover.step.begin("committing the groups' positions");
    close::guard_floor(cutover, &closed).await?;
    groups::commit(cutover, &translated).await?;
    close::guard_floor(cutover, &closed).await?;
    mark::nothing_behind_markers(cutover, &prepared, &closed_from).await?;
    prepare::nothing_appeared(cutover, &prepared.partitions).await?;
    timings.commit_ms = watch.lap_ms();
    timings.frozen_ms = watch.total_ms();

    cutover.step.begin("journaling READY");
    let report = CutoverReport {
        version: CUTOVER_REPORT_VERSION,
        ready_unix_ms: migration.clock.unix_ms(),
        freeze: frozen.how,
        marker_kind,
        markers: markers
            .into_iter()
            .map(|(partition, source_offset)| ClosingMarker { partition, source_offset })
            .collect(),
        boundaries: boundary_list,
        groups: translated,
        warnings: Vec::new(),
        timings,
    };
    let content = bytes_of(&report);
    let key = cutover_report_key(&migration.id, &sha256_hex(&content));
    migration.evidence.put(&key, vec![content]).await.during("store the cutover's report")?;
    remember_groups(cutover, &report, &prepared).await?;
    Ok(report)
}

/// Asks producers to stand still for what is left of their time: they have `stood` for some of it.
async fn ask_to_freeze<P: Ports>(
    cutover: &Cutover<'_, P>,
    journal: &mut Journal,
    stood: Duration,
) -> Result<String, CutoverError> {
    let migration = cutover.migration;
    let left = migration.config.cutover.max_producer_freeze.saturating_sub(stood);
    let budget_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
    let expires_at_unix_ms = migration.clock.unix_ms().saturating_add(budget_ms);
    let detail = json!({ "expires_at_unix_ms": expires_at_unix_ms });
    migration.note(journal, EntryKind::FreezeAsked, "producers are asked to stand still", detail).await?;
    let answer = migration.freeze.freeze(expires_at_unix_ms).await.map_err(CutoverError::NotFrozen)?;
    if !answer.confirmed {
        return Err(CutoverError::FreezeNotConfirmed { detail: answer.detail });
    }
    let reason = format!("producers stand still: {}", answer.detail);
    migration.note(journal, EntryKind::FreezeConfirmed, reason, json!({})).await?;
    Ok(answer.detail)
}

/// What was written for each group, so that it can be kept in step, and left alone once its clients have moved it.
async fn remember_groups<P: Ports>(
    cutover: &Cutover<'_, P>,
    report: &CutoverReport,
    prepared: &Prepared,
) -> Result<(), CutoverError> {
    let ledger = &cutover.migration.ledger;
    let mut record = ClientSwitchRecord::default();
    for translated in &report.groups {
        let written =
            Written { source: translated.source_offset, target: translated.target_offset, unconfirmed_over: None };
        let group = record.groups.entry(translated.group.clone()).or_default();
        group.written.insert(translated.partition.clone(), written);
    }
    for group in &prepared.groups_used {
        record.groups.entry(group.clone()).or_default().used_before = true;
    }
    let content = Bytes::from(serde_json::to_vec(&record).expect("a record is plain data"));
    let attempt = "write down the groups' positions";
    // Over one that a cutover that was taken back has left, and over no other: a process that stood still and wakes up
    // must not take back who has switched meanwhile.
    ledger.put_document(CLIENT_SWITCH_DOCUMENT, prepared.earlier_record, content).await.during(attempt)?;
    Ok(())
}

fn bytes_of(report: &CutoverReport) -> Bytes {
    Bytes::from(canonical_json(report).expect("a report holds whole numbers and texts, which have a canonical form"))
}

/// Journals READY: from here on only the operator's rollback lets producers go on on the source.
pub(crate) async fn ready<P: Ports>(
    cutover: &Cutover<'_, P>,
    journal: &mut Journal,
    report: &CutoverReport,
) -> Result<(), CutoverError> {
    let digest = sha256_hex(&bytes_of(report));
    let mut groups: Vec<_> = report.groups.iter().map(|translated| &translated.group).collect();
    groups.dedup();
    let reason = format!(
        "READY_FOR_CLIENT_SWITCH: groups_translated={} offsets_committed={} warnings={} frozen_ms={}",
        groups.len(),
        report.groups.len(),
        report.warnings.len(),
        report.timings.frozen_ms
    );
    let detail = json!({ "report_sha256": digest, "timings": report.timings });
    Ok(cutover.migration.enter(journal, State::AwaitingClientSwitch, reason, detail).await?)
}
