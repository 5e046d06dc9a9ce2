//! What must be so at every moment, and what must be so in the end, seen from outside of the process that migrates.
//!
//! Before each call of a port: the journal is whole and legal, no effect comes before the entry that it needs, producers
//! stand still only while a cutover is open or READY, and what was committed for groups is within the boundary and no
//! client's. In the end: the reference model, the offset map, the writers that the target's logs show, every group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use krossing_core::{
    GroupId, LaneId, Offset, SourceOffset, TargetOffset, TopicPartition,
    cutover::{CutoverReport, MarkerKind, cutover_report_key, is_sentinel_record},
    journal::{EntryKind, Journal},
    ports::{Inventory, Ledger, Objects},
    transition::State,
};
use krossing_replication::load_map;
use krossing_testkit::{Call, model};

use crate::world::{ARRIVING, MOVED, STAYING, Scene, quota, rule};

#[derive(Debug, Default)]
struct Seen {
    lines: Vec<String>,
    journal: Journal,
    /// The target's ends when the journal last said that it is closed.
    boundaries: BTreeMap<TopicPartition, Offset>,
    commits: usize,
    wrong: Vec<String>,
}

/// Looks on, over all processes of a run.
#[derive(Clone)]
pub(crate) struct Watch {
    scene: Scene,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self { scene: scene.clone(), seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics with it")
    }

    /// The journal as it was last seen.
    pub(crate) fn journal(&self) -> Journal {
        self.look();
        self.seen().journal.clone()
    }

    /// What was wrong at some moment; empty where nothing was.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.look();
        self.seen().wrong.clone()
    }

    /// Looks at everything before a process makes a call.
    pub(crate) fn before(&self, call: &Call) {
        self.look();
        let mut seen = self.seen();
        if let Err(rule) = allowed(call, &seen.journal, self.scene.spec.marker) {
            let tip = seen.journal.tip();
            seen.wrong.push(format!("call {} ({} {}) at {tip:?}: {rule}", call.number, call.name, call.subject));
        }
    }

    fn look(&self) {
        let mut seen = self.seen();
        let fresh = self.scene.world.ledger.journal_from(seen.lines.len());
        if !fresh.is_empty() {
            seen.lines.extend(fresh);
            match Journal::parse(&seen.lines) {
                Ok(journal) => self.take_in(&mut seen, journal),
                Err(error) => seen.wrong.push(format!("the journal: {error}")),
            }
        }
        let working = seen.journal.standing().working_state();
        if self.scene.world.freeze.is_frozen() && working.is_none_or(|state| state < State::Cutover) {
            seen.wrong.push(format!("producers stand still at {working:?}"));
        }
        self.look_at_commits(&mut seen);
    }

    fn take_in(&self, seen: &mut Seen, journal: Journal) {
        let closed = |entry: &krossing_core::journal::JournalEntry| entry.kind == EntryKind::TargetBoundary;
        if journal.entries()[seen.journal.position()..].iter().any(closed) {
            let target = &self.scene.world.target;
            seen.boundaries = target.partitions().into_iter().map(|at| (at.clone(), target.ends(&at).2)).collect();
        }
        seen.journal = journal;
    }

    fn look_at_commits(&self, seen: &mut Seen) {
        let commits = self.scene.world.target.commits_through_port(seen.commits);
        seen.commits += commits.len();
        let set_by_clients = self.scene.set_by_clients.lock().expect("nobody panics with it");
        for (group, offsets) in commits.into_iter().filter(|(_, offsets)| !offsets.is_empty()) {
            if !closed(&seen.journal) {
                seen.wrong.push(format!("positions of {group} were committed at {:?}", seen.journal.tip()));
            }
            for (at, committed) in offsets {
                let boundary = seen.boundaries.get(&at).copied().unwrap_or(-1);
                if committed.offset > boundary {
                    seen.wrong.push(format!("{group} was set to {} in {at}, beyond {boundary}", committed.offset));
                }
                if set_by_clients.contains(&(group.clone(), at.clone())) {
                    seen.wrong.push(format!("the position that a client of {group} set in {at} was overwritten"));
                }
            }
        }
    }

    // ── The end ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everything that must be so once the migration is finalized.
    pub(crate) async fn in_the_end(&self) -> Result<(), String> {
        let boundaries = self.seen().boundaries.clone();
        let Scene { world, .. } = &self.scene;
        let mut progress = BTreeMap::new();
        for lane in 0..100 {
            let lane = world.ledger.lane_progress(LaneId(lane)).await.map_err(|error| error.to_string())?;
            progress.extend(lane.into_iter().map(|progress| (progress.partition.clone(), progress)));
        }
        let id = "m".parse().expect("a valid id");
        let ready = self.seen().journal.ready().map(|ready| ready.detail["report_sha256"].clone());
        let digest = ready.as_ref().and_then(|digest| digest.as_str()).ok_or("READY names no report")?;
        let report = world.evidence.get(&cutover_report_key(&id, digest)).await.map_err(|error| error.to_string())?;
        let report: CutoverReport = serde_json::from_slice(&report.ok_or("there is no report of the cutover")?)
            .map_err(|error| error.to_string())?;
        let closed_from = report.closed_from();
        let mut pairings = BTreeMap::new();
        for at in world.source.partitions() {
            let boundary = *boundaries.get(&at).ok_or_else(|| format!("{at} has no boundary"))?;
            let (mut ever, mut surviving) = (world.source.ever_visible(&at), world.source.visible_records(&at));
            for records in [&mut ever, &mut surviving] {
                // A marker of a cutover that was taken back may arrive behind the one that closed the partition.
                records.retain(|record| record.offset < closed_from[&at].0 || !is_sentinel_record(record, &id));
            }
            let mut target = world.target.visible_records(&at);
            target.retain(|record| record.offset < boundary);
            let pairing = model::pair(&ever, &surviving, &target).map_err(|wrong| format!("{at}: {wrong}"))?;
            let progress = progress.get(&at).ok_or_else(|| format!("{at} has no progress"))?;
            // What was trimmed may have been a key's last record: where it had not been read that is told as a gap, where
            // it had been nobody can tell it from what retention takes, also from the target in the end.
            if at.topic.as_str() == "table" && progress.gaps.is_empty() && world.source.ends(&at).0 == 0 {
                model::resurrected(&ever, &target).map_err(|wrong| format!("{at}: {wrong}"))?;
            }
            let map = load_map(&world.evidence, progress).await.map_err(|error| format!("{at}: {error}"))?;
            let mapped: Vec<_> = map.records().collect();
            if mapped != pairing.pairs {
                return Err(format!("{at}: the map says {:?} where {:?} is so", map.runs(), pairing.pairs));
            }
            self.one_writer(&at, boundary)?;
            pairings.insert(at, pairing);
        }
        self.groups_are_where_they_belong(&pairings, &boundaries)?;
        let (acls, quotas) = (world.target.acls().await, world.target.client_quotas().await);
        if acls != Ok(Some(["others", "plain", "table"].map(rule).into())) || quotas != Ok(vec![quota(1024.0)]) {
            return Err(format!("the target has access rules {acls:?} and quotas {quotas:?}"));
        }
        if world.freeze.is_frozen() { Ok(()) } else { Err("producers were let loose after READY".to_owned()) }
    }

    /// Every record stands behind a fence of its own producer and epoch, and behind no later one.
    fn one_writer(&self, at: &TopicPartition, boundary: Offset) -> Result<(), String> {
        let mut fence = None;
        let mut ours = BTreeSet::new();
        for batch in self.scene.world.target.batches(at) {
            let header = batch.header;
            if header.base_offset >= boundary {
                if !header.is_control() && ours.contains(&header.producer.id) {
                    return Err(format!("{at}: the batch at {} came when the lane was closed", header.base_offset));
                }
                continue;
            }
            ours.insert(header.producer.id);
            if header.is_control() {
                fence = Some(header.producer);
            } else if fence != Some(header.producer) {
                let offset = header.base_offset;
                return Err(format!(
                    "{at}: the batch at {offset} is of {:?}, behind the fence of {fence:?}",
                    header.producer
                ));
            }
        }
        Ok(())
    }

    fn groups_are_where_they_belong(
        &self,
        pairings: &BTreeMap<TopicPartition, model::Pairing>,
        boundaries: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<(), String> {
        let (source, target) = (&self.scene.world.source, &self.scene.world.target);
        for group in STAYING {
            let there = target.committed(group);
            for (at, committed) in source.committed(group) {
                let boundary = TargetOffset(boundaries[&at]);
                // A group that has only the visible marker before it goes on behind it.
                let left = pairings[&at].pairs.iter().filter(|(copied, _)| copied.0 >= committed.offset).count();
                let only_marker = self.scene.spec.marker == MarkerKind::Record && left == 1;
                let next = || pairings[&at].resume(SourceOffset(committed.offset), boundary);
                let expected = if only_marker { boundary } else { next() };
                let found = there.get(&at).map(|found| (found.offset, found.metadata.as_str()));
                if found != Some((expected.0, committed.metadata.as_str())) {
                    return Err(format!("{group} is at {found:?} in {at}, not at {expected}"));
                }
            }
        }
        for group in [ARRIVING, MOVED].map(GroupId::new) {
            for (at, found) in target.committed(group.as_str()) {
                if found.metadata != "a client's" {
                    return Err(format!("{group} is at {} in {at}, which its client did not set", found.offset));
                }
            }
        }
        Ok(())
    }

    /// Whether a key that was deleted on the source is on the target.
    pub(crate) fn keys_differ(&self) -> bool {
        let (at, world) = (TopicPartition::new("table", 0), &self.scene.world);
        model::resurrected(&world.source.ever_visible(&at), &world.target.visible_records(&at)).is_err()
    }
}

/// Whether lanes are closed: nothing may be copied, and positions may be committed.
fn closed(journal: &Journal) -> bool {
    match journal.tip() {
        Some(State::Cutover) => journal.last_since(State::Cutover, EntryKind::TargetBoundary).is_some(),
        Some(state) => state >= State::AwaitingClientSwitch && state != State::Failed,
        None => false,
    }
}

/// Which call may be made when: the entries that must stand in the journal before it.
fn allowed(call: &Call, journal: &Journal, marker: MarkerKind) -> Result<(), &'static str> {
    let tip = journal.tip();
    let working = journal.standing().working_state();
    let since_cutover = |kind| working == Some(State::Cutover) && journal.last_since(State::Cutover, kind).is_some();
    let within = |from, to| tip.is_some_and(|tip| from <= tip && tip <= to);
    let (holds, rule) = match call.name.as_str() {
        "source.create_topics"
        | "source.create_partitions"
        | "source.alter_topic_configs"
        | "source.create_acls"
        | "source.set_client_quotas"
        | "source.commit_group_offsets" => (false, "the source is never changed"),
        "source.open_producer" => {
            let marks = marker == MarkerKind::Control && call.subject.starts_with("krossing.");
            (tip == Some(State::Cutover) && marks, "only a cutover marks the source")
        }
        "source.mark" | "source.produce" => (
            since_cutover(EntryKind::FreezeConfirmed)
                && !since_cutover(EntryKind::Unfrozen)
                && marker == if call.name == "source.mark" { MarkerKind::Control } else { MarkerKind::Record },
            "the source is marked while producers stand still, in the way that is set",
        ),
        "target.create_topics" | "target.create_partitions" => {
            (within(State::TopologyCopy, State::DrainReady), "topics are made from topology_copy on")
        }
        "target.alter_topic_configs" => (
            within(State::TopologyCopy, State::Cutover)
                || (tip == Some(State::Validating)
                    && journal.last_since(State::AwaitingClientSwitch, EntryKind::Finalizing).is_some()),
            "topics get settings while they are made, and planned ones at the end",
        ),
        "target.create_acls" => (within(State::TopologyCopy, State::TopologyCopy), "access rules are made with topics"),
        "target.set_client_quotas" => (
            tip == Some(State::Validating)
                && journal.last_since(State::AwaitingClientSwitch, EntryKind::Finalizing).is_some(),
            "quotas would slow the copy",
        ),
        // Also while another process has journaled that it failed: whose lane it is, the log shows in the end.
        "target.produce" | "target.open_producer" | "target.mark" => (
            working.is_some_and(|state| State::Seed <= state && state <= State::Cutover) && !closed(journal),
            "a closed lane writes nothing",
        ),
        "target.commit_group_offsets" => {
            (within(State::Cutover, State::AwaitingClientSwitch), "positions are committed by a cutover and after it")
        }
        "freeze.freeze" => (
            since_cutover(EntryKind::FreezeAsked) && !since_cutover(EntryKind::Unfrozen),
            "a freeze is journaled before it is asked for",
        ),
        "freeze.switch" => (
            tip == Some(State::AwaitingClientSwitch) && !journal.is_being_given_up(),
            "producers are switched once READY is journaled",
        ),
        "freeze.unfreeze" => (
            (since_cutover(EntryKind::FreezeAsked) && tip != Some(State::AwaitingClientSwitch))
                || journal.is_being_given_up(),
            "only what was asked for is taken back, and once it is READY only by a rollback that is journaled",
        ),
        _ => (true, ""),
    };
    if holds { Ok(()) } else { Err(rule) }
}
