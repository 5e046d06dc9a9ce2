//! What our own user may do on both clusters, and would have to.
//!
//! Asked for even where a cluster could not be read, since a missing right may be why. Which topics and groups there are
//! is taken from what the source tells; where it does not tell all, the rules of [`krossing_core::rights`] ask in the
//! name of the selection.

use std::collections::BTreeSet;

use krossing_core::{
    GroupId, Side, TopicName,
    acl::is_clusters_own,
    config::AclDrift,
    plan::{MigrationPlan, Selection, SourceInventory, TargetInventory},
    ports::{AclBinding, ClusterError, ClusterResult, Groups, Inventory, Ports, TopicDescription},
    rights::{GovernedBy, MissingRight, Principal, Right, Rights},
};
use krossing_runtime::{ForStep, Migration, MigrationResult};

/// What the source lets us see.
struct Seen {
    topics: BTreeSet<TopicName>,
    groups: BTreeSet<GroupId>,
    /// Whether that is all there is.
    all: bool,
    /// Whether it has access rules, as far as it tells.
    has_acls: bool,
    /// Whether it has client quotas, as far as it tells.
    has_quotas: bool,
}

/// Our own user.
pub(crate) struct Ours<'a> {
    /// What it lacks, on either cluster.
    pub(crate) missing: Vec<MissingRight>,
    /// What it needs on the target.
    pub(crate) on_target: Rights<'a>,
    /// What of that it lacks.
    pub(crate) lacking_on_target: Vec<Right>,
    /// What access rules of the target call it.
    pub(crate) principal: Principal,
}

/// Asks both clusters. One that cannot be reached is a finding of its own.
pub(crate) async fn ours<'a, P: Ports>(
    migration: &'a Migration<P>,
    source: &ClusterResult<SourceInventory>,
    target: &ClusterResult<TargetInventory>,
    plan: Option<&MigrationPlan>,
) -> MigrationResult<Ours<'a>> {
    let selection = &migration.config.topics;
    let seen = match (source, plan) {
        (Ok(inventory), _) => of_inventory(selection, inventory, plan),
        (Err(error), _) if may_be_forbidden(error) => what_is_seen(&migration.source, selection).await,
        (Err(_), _) => {
            Seen { topics: BTreeSet::new(), groups: BTreeSet::new(), all: false, has_acls: true, has_quotas: true }
        }
    };
    let takes_acls = target.as_ref().map_or(true, |target| target.acls.is_some());
    let config = &migration.config;
    let rights = |side| Rights {
        side,
        migration: &migration.id,
        selection,
        topics: seen.topics.clone(),
        groups: seen.groups.clone(),
        marker: migration.config.cutover.marker,
        all_seen: seen.all,
        makes_acls: seen.has_acls && takes_acls && config.acl.on_drift != AclDrift::Refuse,
        sets_quotas: seen.has_quotas,
    };
    let (on_source, on_target) = (rights(Side::Source), rights(Side::Target));
    let (source_principal, principal) = (Principal::of(&config.source.auth), Principal::of(&config.target.auth));
    // Where each phase has a role of its own, ours cannot tell what theirs may do: the stack fixes that.
    let asked = |principal: &Principal, rights: &Rights<'_>| match principal.governed_by {
        GovernedBy::Policies if migration.role_per_phase => Vec::new(),
        GovernedBy::Policies | GovernedBy::AccessRules => rights.needed(),
    };
    let (lacking_on_source, lacking_on_target) = tokio::try_join!(
        lacking(&migration.source, asked(&source_principal, &on_source), source.as_ref().err()),
        lacking(&migration.target, asked(&principal, &on_target), target.as_ref().err()),
    )?;
    let mut missing = on_source.missing(&source_principal, &lacking_on_source);
    missing.extend(on_target.missing(&principal, &lacking_on_target));
    Ok(Ours { missing, on_target, lacking_on_target, principal })
}

async fn lacking(
    cluster: &impl Inventory,
    needed: Vec<Right>,
    unread: Option<&ClusterError>,
) -> MigrationResult<Vec<Right>> {
    if needed.is_empty() || unread.is_some_and(|error| !may_be_forbidden(error)) {
        return Ok(Vec::new());
    }
    match cluster.lacking(&needed).await {
        // A password that is not accepted, for one: why the cluster could not be read says it.
        Err(_) if unread.is_some() => Ok(Vec::new()),
        lacking => lacking.during("ask what our user may do"),
    }
}

/// Whether a missing right may be behind an error.
fn may_be_forbidden(error: &ClusterError) -> bool {
    match error {
        ClusterError::NotAllowed { .. } | ClusterError::Refused { .. } => true,
        ClusterError::Unavailable { .. } | ClusterError::NotOffered { .. } | ClusterError::NotUnderstood { .. } => {
            false
        }
    }
}

fn of_inventory(selection: &Selection, inventory: &SourceInventory, plan: Option<&MigrationPlan>) -> Seen {
    // Brokers tell sizes of all topics, also of those that our user may not see.
    let names = inventory.topics.iter().map(|topic| &topic.name);
    let names = names.chain(inventory.sizes.keys().map(|partition| &partition.topic));
    let groups = plan.into_iter().flat_map(|plan| &plan.groups).map(|group| group.id.clone());
    Seen {
        topics: wanted(selection, names),
        groups: groups.collect(),
        all: true,
        has_acls: carries_acls(inventory.acls.as_deref()),
        has_quotas: !inventory.quotas.is_empty(),
    }
}

/// What can be seen of a source that could not be read whole.
async fn what_is_seen(source: &(impl Inventory + Groups), selection: &Selection) -> Seen {
    let (topics, sizes, groups, acls, quotas) = tokio::join!(
        source.describe_topics(None),
        source.partition_sizes(),
        source.list_groups(),
        source.acls(),
        source.client_quotas(),
    );
    // Sizes and groups are told in full to whom they are told at all.
    let all = topics.is_ok() && sizes.is_ok() && groups.is_ok();
    let (topics, sizes) = (topics.unwrap_or_default(), sizes.unwrap_or_default());
    let names = topics.iter().map(|topic| &topic.name).chain(sizes.keys().map(|partition| &partition.topic));
    Seen {
        topics: wanted(selection, names),
        groups: groups.unwrap_or_default().into_iter().collect(),
        all,
        has_acls: acls.map_or(true, |acls| carries_acls(acls.as_deref())),
        has_quotas: quotas.map_or(true, |quotas| !quotas.is_empty()),
    }
}

fn carries_acls(acls: Option<&[AclBinding]>) -> bool {
    acls.is_some_and(|acls| !acls.iter().all(is_clusters_own))
}

fn wanted<'a>(selection: &Selection, names: impl Iterator<Item = &'a TopicName>) -> BTreeSet<TopicName> {
    let names: BTreeSet<&TopicName> = names.collect();
    let wanted = names.into_iter().filter(|name| {
        let named = TopicDescription { name: (*name).clone(), id: None, internal: false, partitions: Vec::new() };
        selection.reason_to_leave_out(&named).is_none()
    });
    wanted.cloned().collect()
}
