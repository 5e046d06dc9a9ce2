//! What our own user may not do and would have to, on both clusters.
//!
//! Asked for even where a cluster could not be read, since a missing right may be why. Which topics and groups there are
//! is taken from what the source tells; where it does not tell all, the rules of [`krossing_core::rights`] ask in the
//! name of the selection.

use std::collections::BTreeSet;

use krossing_core::{
    GroupId, Side, TopicName,
    config::{Auth, ClusterConfig},
    plan::{MigrationPlan, Selection, SourceInventory, TargetInventory},
    ports::{ClusterError, ClusterResult, Groups, Inventory, Ports, TopicDescription},
    rights::{MissingRight, Rights},
};
use krossing_runtime::{ForStep, Migration, MigrationResult};

/// What the source lets us see.
struct Seen {
    topics: BTreeSet<TopicName>,
    groups: BTreeSet<GroupId>,
    /// Whether that is all there is.
    all: bool,
}

/// Every right that is missing on either cluster. A cluster that cannot be reached is a finding of its own.
pub(crate) async fn missing<P: Ports>(
    migration: &Migration<P>,
    source: &ClusterResult<SourceInventory>,
    target: &ClusterResult<TargetInventory>,
    plan: Option<&MigrationPlan>,
) -> MigrationResult<Vec<MissingRight>> {
    let selection = &migration.config.topics;
    let seen = match (source, plan) {
        (Ok(inventory), _) => of_inventory(selection, inventory, plan),
        (Err(error), _) if may_be_forbidden(error) => what_is_seen(&migration.source, selection).await,
        (Err(_), _) => Seen { topics: BTreeSet::new(), groups: BTreeSet::new(), all: false },
    };
    let rights = |side| Rights {
        side,
        migration: &migration.id,
        selection,
        topics: seen.topics.clone(),
        groups: seen.groups.clone(),
        marker: migration.config.cutover.marker,
        all_seen: seen.all,
    };
    let config = &migration.config;
    let (on_source, on_target) = tokio::try_join!(
        on_one(&migration.source, &config.source, rights(Side::Source), source.as_ref().err()),
        on_one(&migration.target, &config.target, rights(Side::Target), target.as_ref().err()),
    )?;
    Ok([on_source, on_target].concat())
}

async fn on_one(
    cluster: &impl Inventory,
    config: &ClusterConfig,
    rights: Rights<'_>,
    unread: Option<&ClusterError>,
) -> MigrationResult<Vec<MissingRight>> {
    if unread.is_some_and(|error| !may_be_forbidden(error)) {
        return Ok(Vec::new());
    }
    match cluster.lacking(&rights.needed()).await {
        Ok(lacking) => Ok(rights.missing(&principal(&config.auth), &lacking)),
        // A password that is not accepted, for one: why the cluster could not be read says it.
        Err(_) if unread.is_some() => Ok(Vec::new()),
        Err(error) => Err(error).during("ask what our user may do"),
    }
}

/// Whether a missing right may be behind an error.
fn may_be_forbidden(error: &ClusterError) -> bool {
    match error {
        ClusterError::NotAllowed { .. } | ClusterError::Refused { .. } => true,
        ClusterError::Unavailable { .. } | ClusterError::NotUnderstood { .. } => false,
    }
}

fn of_inventory(selection: &Selection, inventory: &SourceInventory, plan: Option<&MigrationPlan>) -> Seen {
    // Brokers tell sizes of all topics, also of those that our user may not see.
    let names = inventory.topics.iter().map(|topic| &topic.name);
    let names = names.chain(inventory.sizes.keys().map(|partition| &partition.topic));
    let groups = plan.into_iter().flat_map(|plan| &plan.groups).map(|group| group.id.clone());
    Seen { topics: wanted(selection, names), groups: groups.collect(), all: true }
}

/// What can be seen of a source that could not be read whole.
async fn what_is_seen(source: &(impl Inventory + Groups), selection: &Selection) -> Seen {
    let (topics, sizes, groups) =
        tokio::join!(source.describe_topics(None), source.partition_sizes(), source.list_groups());
    // Sizes and groups are told in full to whom they are told at all.
    let all = topics.is_ok() && sizes.is_ok() && groups.is_ok();
    let (topics, sizes) = (topics.unwrap_or_default(), sizes.unwrap_or_default());
    let names = topics.iter().map(|topic| &topic.name).chain(sizes.keys().map(|partition| &partition.topic));
    Seen { topics: wanted(selection, names), groups: groups.unwrap_or_default().into_iter().collect(), all }
}

fn wanted<'a>(selection: &Selection, names: impl Iterator<Item = &'a TopicName>) -> BTreeSet<TopicName> {
    let names: BTreeSet<&TopicName> = names.collect();
    let wanted = names.into_iter().filter(|name| {
        let named = TopicDescription { name: (*name).clone(), id: None, internal: false, partitions: Vec::new() };
        selection.reason_to_leave_out(&named).is_none()
    });
    wanted.cloned().collect()
}

/// What access rules call our own user.
fn principal(auth: &Auth) -> String {
    match auth {
        Auth::ScramSha512 { username, .. } => format!("User:{username}"),
        // Brokers make the name from the certificate's subject by rules of their own.
        Auth::Mtls { cert_file, .. } => format!("User:<subject of {}>", cert_file.display()),
        Auth::None => "User:ANONYMOUS".to_owned(),
    }
}
