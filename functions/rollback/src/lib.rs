//! A migration that is given up before clients have come to the target: producers go on, what is left is said, nothing is
//! deleted.
//!
//! What a rollback could destroy it leaves to the operator, as commands: topics on the target may be wanted for a look,
//! and a deletion that was not asked for cannot be taken back.
//!
//! **After READY** producers stand still on the source, or are told to go on on the target. There it is given up only
//! while nobody has written to the target and no group is known to have switched (`clients`), and in this order:
//!
//! 1. look whether clients have come, and whether whoever lets producers go on can be reached: nothing was done so far;
//! 2. journal that the release is asked. From here on nothing else goes on ([`Journal::is_being_given_up`]): producers may
//!    be on the source again, so that an acknowledgement would end in a target that lacks their records;
//! 3. let producers go on, which is read back, and journal that;
//! 4. look again. A client that came in between cannot be refused any more, for the source has gone on: what it wrote
//!    stands in the report, by partition and offset;
//! 5. store report and evidence, and journal `rolled_back`.
//!
//! Released first and journaled as rolled back last, because a process may die anywhere: between 2 and 5 the same command,
//! or a resume, goes on, and producers stand still for as long as that takes; the other way round they could stand still
//! for ever, in a migration that says it has ended.
//!
//! Invariants: no migration is rolled back while producers may stand still because of it; the report and the evidence
//! are stored before the journal says `rolled_back`; nothing is written to either cluster.

mod clients;

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use krossing_core::{
    GroupId, MigrationId, TopicName,
    canonical::canonical_json,
    config::Config,
    cutover::{MarkerKind, SENTINEL_HEADER},
    journal::{EntryKind, Journal},
    ports::{AclBinding, Clock, FreezeError, Groups, Inventory, Ports, ProducerFreeze},
    transition::{Command, Decision, Position, State},
};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};
use serde_json::json;

use clients::Clients;
pub use clients::WrittenTo;

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
    /// Where clients have written to the target while producers were let go on after READY: only there.
    #[serde(default)]
    pub written_meanwhile: Vec<WrittenTo>,
    /// Groups that have switched to the target meanwhile: how far they got is known only there.
    #[serde(default)]
    pub switched_meanwhile: Vec<GroupId>,
    /// What would remove them, to be run on purpose.
    pub commands: Vec<String>,
}

/// Gives the migration up. With `producers_released` the operator says that producers go on, where Krossing was not able
/// to make sure of it. Refused once clients have come to the target; given again, it goes on where it was.
pub async fn run<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    producers_released: bool,
) -> MigrationResult<RollbackReport> {
    let standing = journal.standing();
    if let Decision::Refused(sentence) = journal.permit(Command::Rollback).decision {
        return Err(MigrationError::Refused { sentence });
    }
    if standing == Position::At(State::RolledBack) {
        return rolled_back_before(migration, journal).await;
    }
    let given_up_in = standing.working_state().unwrap_or(State::Planned);
    let after_ready = given_up_in == State::AwaitingClientSwitch;
    if after_ready && !journal.is_being_given_up() {
        nothing_is_in_the_way(migration, journal, producers_released).await?;
    }
    let producers = release(migration, journal, producers_released).await?;
    if standing == Position::At(State::Cutover) {
        migration.enter(journal, State::Failed, "the cutover was interrupted", json!({})).await?;
    }
    let Clients { written, groups } =
        if after_ready { clients::look(migration, journal).await? } else { Clients::default() };
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
        written_meanwhile: written,
        switched_meanwhile: groups.into_keys().collect(),
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

/// After READY: that no client has come to the target, and that producers can be let go on. Changes nothing.
async fn nothing_is_in_the_way<P: Ports>(
    migration: &Migration<P>,
    journal: &Journal,
    producers_released: bool,
) -> MigrationResult<()> {
    let clients = clients::look(migration, journal).await?;
    if clients.have_come() {
        return Err(MigrationError::Refused { sentence: clients.refusal() });
    }
    if !producers_released && let Err(error) = migration.freeze.reach().await {
        return Err(not_released(&error));
    }
    Ok(())
}

fn not_released(error: &FreezeError) -> MigrationError {
    MigrationError::Refused {
        sentence: format!(
            "producers could not be let go on ({error}), and a migration is not given up while they may stand still: let \
             them go on yourself, then run `krossing rollback --producers-released`"
        ),
    }
}

/// Lets producers go on if the last cutover asked them to stand still and nobody has let them go on since.
async fn release<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    producers_released: bool,
) -> MigrationResult<String> {
    if !journal.producers_may_stand_still() {
        // Of an attempt that died behind it, which the report is to say all the same.
        let before = journal.last_since(State::Cutover, EntryKind::Unfrozen).filter(|_| journal.is_being_given_up());
        let said = before.and_then(|released| released.reason.strip_prefix(PRODUCERS));
        return Ok(said.unwrap_or("were not standing still").to_owned());
    }
    // First, so that READY of a process that has died finds its place taken, if it is still on its way.
    migration.note(journal, EntryKind::UnfreezeAsked, "producers are let go on", json!({})).await?;
    let (said, confirmed) = if producers_released {
        ("go on, says the operator".to_owned(), true)
    } else {
        match migration.freeze.unfreeze().await {
            Ok(answer) if answer.confirmed => (format!("go on: {}", answer.detail), true),
            Ok(answer) => (format!("were told that they may go on, which nobody confirmed: {}", answer.detail), false),
            Err(error) => return Err(not_released(&error)),
        }
    };
    migration
        .note(journal, EntryKind::Unfrozen, format!("{PRODUCERS}{said}"), json!({ "confirmed": confirmed }))
        .await?;
    Ok(said)
}

/// How the entry that producers go on begins.
const PRODUCERS: &str = "producers ";

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
        for WrittenTo { partition, from, to } in &self.written_meanwhile {
            writeln!(
                f,
                "CLIENTS HAVE WRITTEN TO THE TARGET while producers were let go on: {partition}, target offsets {from} to \
                 {}: only there",
                to.0 - 1,
                from = from.0
            )?;
        }
        if !self.switched_meanwhile.is_empty() {
            let names: Vec<_> = self.switched_meanwhile.iter().map(GroupId::as_str).collect();
            writeln!(f, "GROUPS HAVE SWITCHED TO THE TARGET meanwhile: {}: point them back", names.join(", "))?;
        }
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
