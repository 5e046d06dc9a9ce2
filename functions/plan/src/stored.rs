//! The plan and its amendments as they are kept: objects of canonical JSON, their digests in the journal.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use krossing_core::{
    MigrationId, TopicPartition,
    canonical::{canonical_digest, canonical_json},
    journal::{EntryKind, Identity, Journal, fingerprint},
    lanes::transactional_id,
    plan::{Amendment, MigrationPlan, PLAN_VERSION, Scope, SourceInventory, TargetInventory},
    ports::{Inventory, Objects, Ports, StoreError},
};
use krossing_replication::{LanePartition, LanePlan};
use krossing_runtime::migration::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::inventory::{collect, input};

/// What the journal says of the plan, in its first entry.
#[derive(Debug, Serialize, Deserialize)]
struct PlanEntry {
    plan: String,
    plan_sha256: String,
    topics: usize,
    partitions: usize,
    groups: usize,
    lanes: usize,
    bytes: u64,
}

/// What the journal says of an amendment.
#[derive(Debug, Serialize, Deserialize)]
struct AmendmentEntry {
    number: u32,
    amendment: String,
    amendment_sha256: String,
    topics: usize,
    partitions: usize,
}

fn plan_key(migration: &MigrationId) -> String {
    format!("{migration}/plan.json")
}

/// By its content: a process that stood still and wakes up must not write over the one that another has journaled.
fn amendment_key(migration: &MigrationId, amendment: &Amendment) -> String {
    format!("{migration}/amendments/{}-{:.16}.json", amendment.number, amendment.digest())
}

/// Stores the plan and begins the journal with it.
pub async fn store<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    plan: &MigrationPlan,
) -> MigrationResult<()> {
    let key = plan_key(&migration.id);
    put_and_read_back(migration, &key, plan).await?;
    let scope = plan.scope(&[]);
    let detail = PlanEntry {
        plan: key,
        plan_sha256: plan.digest(),
        topics: plan.topics.len(),
        partitions: scope.partitions().count(),
        groups: plan.groups.len(),
        lanes: plan.lanes.len(),
        bytes: plan.bytes,
    };
    let identity = identify(migration, &plan.source_cluster_id, &plan.target_cluster_id);
    let reason = format!(
        "topics={} partitions={} groups={} lanes={} bytes={}",
        detail.topics, detail.partitions, detail.groups, detail.lanes, detail.bytes
    );
    migration.begin(journal, identity, reason, detail).await
}

/// The plan as it was stored, held against the journal.
pub async fn load<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<MigrationPlan> {
    let entry: PlanEntry = journal.entries().first().and_then(|entry| entry.detail_as()).ok_or_else(|| {
        refused("the journal's first entry names no plan: it was not begun by `krossing execute`".to_owned())
    })?;
    let plan: MigrationPlan = get_as_journaled(migration, "plan", &entry.plan, &entry.plan_sha256).await?;
    if plan.version > PLAN_VERSION || plan.migration_id != migration.id {
        return Err(refused(format!(
            "{} is of format {} and migration {}: go on with the Krossing that wrote it, and its own --migration-id",
            entry.plan, plan.version, plan.migration_id
        )));
    }
    Ok(plan)
}

/// What was added to the plan since, in order, held against the journal.
pub async fn load_amendments<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<Vec<Amendment>> {
    let mut amendments = Vec::new();
    for entry in journal.entries().iter().filter(|entry| entry.kind == EntryKind::Amendment) {
        let entry: AmendmentEntry = entry.detail_as().ok_or_else(|| {
            refused(format!("entry {} of the journal does not name the amendment it is about", entry.sequence))
        })?;
        let stored = get_as_journaled(migration, "amendment", &entry.amendment, &entry.amendment_sha256).await?;
        amendments.push(stored);
    }
    Ok(amendments)
}

/// Looks for topics and partitions that appeared on the source, stores them as an amendment, journals it and adds it to
/// `amendments`. Answers whether there were any; their topics are then to be made on the target.
pub async fn amend<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    plan: &MigrationPlan,
    amendments: &mut Vec<Amendment>,
) -> MigrationResult<bool> {
    let scope = plan.scope(amendments);
    if !may_have_grown(migration, &scope).await? {
        return Ok(false);
    }
    let (source, target) = collect(migration).await?;
    let Some(amendment) = appeared(migration, &scope, &source, &target)? else { return Ok(false) };
    let key = amendment_key(&migration.id, &amendment);
    put_and_read_back(migration, &key, &amendment).await?;
    let partitions = amendment.lanes.iter().map(|lane| lane.partitions.len()).sum();
    let detail = AmendmentEntry {
        number: amendment.number,
        amendment: key,
        amendment_sha256: amendment.digest(),
        topics: amendment.topics.len(),
        partitions,
    };
    let left_out: BTreeSet<_> = plan.topics_left_out.iter().map(|topic| &topic.name).collect();
    let named = amendment.topics.iter().filter(|topic| left_out.contains(&topic.name)).count();
    let mut reason = format!("appeared on the source: topics={} partitions={partitions}", detail.topics);
    if named > 0 {
        reason.push_str(&format!(
            "; {named} of the topics were there, and topics.include or topics.exclude left them out"
        ));
    }
    migration.note(journal, EntryKind::Amendment, reason, detail).await?;
    amendments.push(amendment);
    Ok(true)
}

/// Makes sure that the configuration still means the clusters and places that the migration was begun with.
pub async fn check_identity<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<()> {
    let source = async { migration.source.describe_cluster().await.during("ask the source who it is") };
    let target = async { migration.target.describe_cluster().await.during("ask the target who it is") };
    let (source, target) = tokio::try_join!(source, target)?;
    let configured = identify(migration, &source.cluster_id, &target.cluster_id);
    journal.check_fingerprint(&configured).map_err(MigrationError::Journal)
}

/// The lanes of the plan and of all amendments, as workers take them.
pub fn lanes(plan: &MigrationPlan, amendments: &[Amendment]) -> Vec<LanePlan> {
    let scope = plan.scope(amendments);
    let topics: BTreeMap<_, _> = scope.topics.iter().map(|topic| (&topic.name, topic)).collect();
    let planned = |partition: &TopicPartition| {
        let topic = topics.get(&partition.topic);
        LanePartition {
            partition: partition.clone(),
            topic_id: topic.and_then(|topic| topic.source_topic_id),
            tombstones_kept_ms: topic.filter(|topic| topic.compacted).map(|topic| topic.tombstones_kept_ms()),
        }
    };
    scope
        .lanes
        .iter()
        .map(|lane| LanePlan {
            id: lane.id,
            transactional_id: transactional_id(&plan.migration_id, lane.id),
            partitions: lane.partitions.iter().map(planned).collect(),
        })
        .collect()
}

fn identify<P: Ports>(migration: &Migration<P>, source_cluster_id: &str, target_cluster_id: &str) -> String {
    let config = &migration.config;
    fingerprint(&Identity {
        migration_id: &migration.id,
        source_cluster_id,
        target_cluster_id,
        source_cluster_arn: config.source.cluster_arn.as_deref(),
        target_cluster_arn: config.target.cluster_arn.as_deref(),
        segments: &config.backup.place.to_string(),
        evidence: &config.evidence.place.to_string(),
    })
}

/// Whether a look at topic names, identities and partition counts alone shows something new. Asked every few seconds,
/// so that it must not read the whole cluster.
async fn may_have_grown<P: Ports>(migration: &Migration<P>, scope: &Scope) -> MigrationResult<bool> {
    let topics = migration.source.describe_topics(None).await.during("look for topics that appeared on the source")?;
    let selection = &migration.config.topics;
    Ok(topics.iter().filter(|topic| selection.reason_to_leave_out(topic).is_none()).any(|topic| {
        scope.topic(&topic.name).is_none_or(|known| {
            let grown = topic.partitions.len() > usize::try_from(known.partitions).unwrap_or(0);
            let anew = known.source_topic_id.is_some() && topic.id.is_some() && topic.id != known.source_topic_id;
            grown || anew
        })
    }))
}

fn appeared<P: Ports>(
    migration: &Migration<P>,
    scope: &Scope,
    source: &SourceInventory,
    target: &TargetInventory,
) -> MigrationResult<Option<Amendment>> {
    scope.amend(&input(migration, source, target)).map_err(|anew| refused(anew.to_string()))
}

/// An object of this name without a journal entry is what a process left that died in between: nothing relied on it,
/// and the caller, who alone drives the migration, replaces it.
async fn put_and_read_back<P: Ports>(
    migration: &Migration<P>,
    key: &str,
    value: &impl Serialize,
) -> MigrationResult<()> {
    let text = canonical_json(value).map_err(|not| refused(format!("{key} cannot be stored: {not}")))?;
    let content = Bytes::from(text);
    match migration.evidence.put_new(key, vec![content.clone()]).await {
        Ok(()) => {}
        Err(StoreError::Conflict { .. }) => {
            migration.evidence.put(key, vec![content.clone()]).await.during("store what is planned")?;
        }
        Err(source) => return Err(MigrationError::Store { attempt: "store what is planned", source }),
    }
    let stored = migration.evidence.get(key).await.during("read back what is planned")?;
    if stored.as_ref() == Some(&content) {
        return Ok(());
    }
    let detail = stored.map_or("there is nothing".to_owned(), |stored| format!("{} bytes are there", stored.len()));
    Err(MigrationError::NotReadBack { what: key.to_owned(), detail })
}

async fn get_as_journaled<P: Ports, T: DeserializeOwned + Serialize>(
    migration: &Migration<P>,
    what: &str,
    key: &str,
    journaled: &str,
) -> MigrationResult<T> {
    let stored = migration.evidence.get(key).await.during("read what is planned")?;
    let Some(stored) = stored else {
        return Err(refused(format!("the {what} {key} is gone from the evidence: restore it from a copy")));
    };
    let changed = |how: String| {
        refused(format!("the {what} {key} is not the one that the journal names ({how}): restore it from a copy"))
    };
    let value: T = serde_json::from_slice(&stored).map_err(|error| changed(error.to_string()))?;
    let spelled = canonical_json(&value).map_err(|error| changed(error.to_string()))?;
    let digest = canonical_digest(&value).map_err(|error| changed(error.to_string()))?;
    if spelled.as_bytes() != stored || digest != journaled {
        return Err(changed(format!("its digest is {digest} and not {journaled}")));
    }
    Ok(value)
}

fn refused(sentence: String) -> MigrationError {
    MigrationError::Refused { sentence }
}
