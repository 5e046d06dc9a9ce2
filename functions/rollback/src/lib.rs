//! A migration that is given up before the point of no return: producers go on, what is left is said, nothing is deleted.
//!
//! What a rollback could destroy it leaves to the operator, as commands: topics on the target may be wanted for a look,
//! and a deletion that was not asked for cannot be taken back.
//!
//! Invariants: no migration is rolled back while producers may stand still because of it; the report and the evidence
//! are stored before the journal says `rolled_back`; nothing is written to either cluster.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use krossing_core::{
    GroupId, MigrationId, TopicName,
    canonical::canonical_json,
    config::Config,
    cutover::{MarkerKind, SENTINEL_HEADER},
    journal::{EntryKind, Journal},
    ports::{AclBinding, Clock, Groups, Inventory, Ports, ProducerFreeze},
    transition::{Command, Decision, Position, State, permit},
};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The version of [`RollbackReport`] that this code writes.
const REPORT_VERSION: u32 = 1;

/// What a rollback found and left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// Of this format.
    pub version: u32,
    /// The migration.
    pub migration_id: MigrationId,
    /// When this was written, in milliseconds since 1970.
    pub written_unix_ms: i64,
    /// The state it was given up in, looking behind failures.
    pub given_up_in: State,
    /// What became of producers.
    pub producers: String,
    /// How many cutovers were begun: each has left at most one marker in each partition of the source, or none.
    pub cutovers_begun: usize,
    /// What they closed partitions with.
    pub marker: MarkerKind,
    /// The migration's topics that are on the target.
    pub topics_left: Vec<TopicName>,
    /// Groups that have positions in them there.
    pub groups_left: Vec<GroupId>,
    /// Access rules that the migration made there.
    #[serde(default)]
    pub acls_left: Vec<AclBinding>,
    /// What would remove them, to be run on purpose.
    pub commands: Vec<String>,
}

/// Gives the migration up. With `producers_released` the operator says that producers go on, where Krossing was not able
/// to make sure of it.
pub async fn run<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    producers_released: bool,
) -> MigrationResult<RollbackReport> {
    let standing = journal.standing();
    if let Decision::Refused(sentence) = permit(Command::Rollback, standing).decision {
        return Err(MigrationError::Refused { sentence });
    }
    if standing == Position::At(State::RolledBack) {
        return rolled_back_before(migration, journal).await;
    }
    let given_up_in = standing.working_state().unwrap_or(State::Planned);
    let producers = release(migration, journal, producers_released).await?;
    if standing == Position::At(State::Cutover) {
        migration.enter(journal, State::Failed, "the cutover was interrupted", json!({})).await?;
    }
    let (topics_left, groups_left) = left_on_target(migration, journal).await?;
    let acls_left = acls_left(migration).await?;
    let report = RollbackReport {
        version: REPORT_VERSION,
        migration_id: migration.id.clone(),
        written_unix_ms: migration.clock.unix_ms(),
        given_up_in,
        producers,
        marker: migration.config.cutover.marker,
        cutovers_begun: journal.states().iter().filter(|state| **state == State::Cutover).count(),
        commands: commands(&migration.config, &topics_left, &groups_left, &acls_left),
        topics_left,
        groups_left,
        acls_left,
    };
    let text = canonical_json(&report).expect("a report holds whole numbers and texts, which have a canonical form");
    let stored = migration.store_evidence(report_key(&migration.id), Bytes::from(text), false).await?;
    let place = migration.config.evidence.place.of(&stored.key);
    let reason = format!("given up in {given_up_in}: nothing was deleted; {place} says what is left");
    let detail = json!({ "report": stored });
    krossing_evidence::end(migration, journal, State::RolledBack, reason, detail, &[stored]).await?;
    Ok(report)
}

/// The report of a rollback that came to its end; its evidence gets its alias, which it may lack.
async fn rolled_back_before<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<RollbackReport> {
    krossing_evidence::publish(migration, journal).await?;
    migration.stored_report(&report_key(&migration.id), "read the rollback's report").await
}

fn report_key(migration: &MigrationId) -> String {
    format!("{migration}/rollback-report.json")
}

/// Lets producers go on if the last cutover asked them to stand still and nobody has let them go on since.
async fn release<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    producers_released: bool,
) -> MigrationResult<String> {
    if !journal.producers_may_stand_still() {
        return Ok("were not standing still".to_owned());
    }
    // First, so that READY of a process that has died finds its place taken, if it is still on its way.
    migration.note(journal, EntryKind::UnfreezeAsked, "producers are let go on", json!({})).await?;
    let (said, confirmed) = if producers_released {
        ("go on, says the operator".to_owned(), true)
    } else {
        match migration.freeze.unfreeze().await {
            Ok(answer) if answer.confirmed => (format!("go on: {}", answer.detail), true),
            Ok(answer) => (format!("were told that they may go on, which nobody confirmed: {}", answer.detail), false),
            Err(error) => {
                return Err(MigrationError::Refused {
                    sentence: format!(
                        "producers could not be let go on ({error}), and a migration is not given up while they may \
                         stand still: let them go on yourself, then run `krossing rollback --producers-released`"
                    ),
                });
            }
        }
    };
    migration
        .note(journal, EntryKind::Unfrozen, format!("producers {said}"), json!({ "confirmed": confirmed }))
        .await?;
    Ok(said)
}

async fn left_on_target<P: Ports>(
    migration: &Migration<P>,
    journal: &Journal,
) -> MigrationResult<(Vec<TopicName>, Vec<GroupId>)> {
    let plan = krossing_plan::load(migration, journal).await?;
    let amendments = krossing_plan::load_amendments(migration, journal).await?;
    let scope = plan.scope(&amendments);
    let names: Vec<TopicName> = scope.topics.iter().map(|topic| topic.name.clone()).collect();
    let target = &migration.target;
    let there = target.describe_topics(Some(&names)).await.during("describe the topics on the target")?;
    let topics: Vec<TopicName> = there.into_iter().map(|topic| topic.name).collect();
    let groups: Vec<GroupId> = target.list_groups().await.during("list the groups on the target")?;
    let positions = target.group_offsets(&groups).await.during("read the groups' positions on the target")?;
    let of_ours: BTreeSet<&TopicName> = topics.iter().collect();
    let groups = positions
        .into_iter()
        .filter(|(_, offsets)| offsets.keys().any(|partition| of_ours.contains(&partition.topic)))
        .map(|(group, _)| group)
        .collect();
    Ok((topics, groups))
}

/// Those of the access rules that were made that are still there.
async fn acls_left<P: Ports>(migration: &Migration<P>) -> MigrationResult<Vec<AclBinding>> {
    let mut made = krossing_topology::acls_made(migration).await?;
    if !made.is_empty() {
        let there = migration.target.acls().await.during("read the access rules on the target")?.unwrap_or_default();
        made.retain(|rule| there.contains(rule));
    }
    Ok(made)
}

/// Kafka's own tools, which the operator has; names are quoted for a shell.
fn commands(config: &Config, topics: &[TopicName], groups: &[GroupId], acls: &[AclBinding]) -> Vec<String> {
    let quoted = |name: &str| format!("'{}'", name.replace('\'', r"'\''"));
    let servers = config.target.bootstrap_servers.join(",");
    let on_target = format!("--bootstrap-server {} --command-config target.properties", quoted(&servers));
    let topics =
        topics.iter().map(|topic| format!("kafka-topics.sh {on_target} --delete --topic {}", quoted(topic.as_str())));
    let groups = groups
        .iter()
        .map(|group| format!("kafka-consumer-groups.sh {on_target} --delete --group {}", quoted(group.as_str())));
    let acls = acls.iter().map(|rule| {
        let AclBinding { resource_type, resource_name, pattern_type, principal, host, operation, permission } = rule;
        let resource = match resource_type.as_str() {
            "Cluster" => "--cluster".to_owned(),
            "TransactionalId" => format!("--transactional-id {}", quoted(resource_name)),
            "DelegationToken" => format!("--delegation-token {}", quoted(resource_name)),
            "User" => format!("--user-principal {}", quoted(resource_name)),
            kind => format!("--{} {}", kind.to_lowercase(), quoted(resource_name)),
        };
        let permission = permission.to_lowercase();
        format!(
            "kafka-acls.sh {on_target} --remove --{permission}-principal {} --{permission}-host {} --operation {operation} \
             {resource} --resource-pattern-type {}",
            quoted(principal),
            quoted(host),
            pattern_type.to_lowercase()
        )
    });
    groups.chain(topics).chain(acls).collect()
}

/// The report as lines for a terminal.
impl fmt::Display for RollbackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "migration={} given_up_in={}", self.migration_id, self.given_up_in)?;
        writeln!(f, "producers: {}", self.producers)?;
        match (self.marker, self.cutovers_begun) {
            (MarkerKind::None, _) | (_, 0) => writeln!(f, "source: unchanged")?,
            (MarkerKind::Control, times) => writeln!(
                f,
                "source: unchanged, but for at most {times} marker(s) in each partition, which no consumer sees \
                 (and Kafka's own __transaction_state, where there was none)"
            )?,
            (MarkerKind::Record, times) => writeln!(
                f,
                "source: unchanged, but for at most {times} marker(s) in each partition: records with the header \
                 {SENTINEL_HEADER}"
            )?,
        }
        writeln!(
            f,
            "target: topics_left={} groups_left={} acls_left={}; nothing was deleted",
            self.topics_left.len(),
            self.groups_left.len(),
            self.acls_left.len()
        )?;
        if !self.commands.is_empty() {
            writeln!(f, "to remove them, on purpose (target.properties: your own credentials):")?;
        }
        for command in &self.commands {
            writeln!(f, "  {command}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
