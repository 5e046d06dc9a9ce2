//! Both clusters, read whole, and the plan that follows from them.

use krossing_core::{
    plan::{MigrationPlan, PlanInput, Selection, SourceInventory, TargetInventory, plan},
    ports::{ClusterResult, Configs, GroupDescription, Groups, Inventory, Ports},
};
use krossing_runtime::migration::{ForStep, Migration, MigrationResult};

/// Reads what both clusters are made of. Nothing is written.
pub async fn collect<P: Ports>(migration: &Migration<P>) -> MigrationResult<(SourceInventory, TargetInventory)> {
    let source = async { source(migration).await.during("read what the source is made of") };
    let target = async { target(migration).await.during("read what the target is made of") };
    tokio::try_join!(source, target)
}

/// Reads what the source is made of. Nothing is written.
pub async fn source<P: Ports>(migration: &Migration<P>) -> ClusterResult<SourceInventory> {
    read_source(&migration.source, &migration.config.topics).await
}

/// Reads what the target is made of. Nothing is written.
pub async fn target<P: Ports>(migration: &Migration<P>) -> ClusterResult<TargetInventory> {
    read_target(&migration.target).await
}

/// The plan for what was read.
pub fn make<P: Ports>(migration: &Migration<P>, source: &SourceInventory, target: &TargetInventory) -> MigrationPlan {
    plan(&input(migration, source, target))
}

pub(crate) fn input<'a, P: Ports>(
    migration: &'a Migration<P>,
    source: &'a SourceInventory,
    target: &'a TargetInventory,
) -> PlanInput<'a> {
    PlanInput {
        migration_id: &migration.id,
        selection: &migration.config.topics,
        lanes: migration.config.seed.lanes,
        source,
        target,
        on_config_drift: migration.config.topology.on_config_drift,
    }
}

async fn read_source<C: Inventory + Groups>(cluster: &C, selection: &Selection) -> ClusterResult<SourceInventory> {
    // The first call says whether the cluster can be reached at all; the rest travels together.
    let description = cluster.describe_cluster().await?;
    let topics = async {
        let topics = cluster.describe_topics(None).await?;
        // Settings of topics that stay behind are nobody's business here, and need rights of their own.
        let wanted = topics.iter().filter(|topic| selection.reason_to_leave_out(topic).is_none());
        let names: Vec<_> = wanted.map(|topic| topic.name.clone()).collect();
        let configs = cluster.topic_configs(&names).await?;
        Ok((topics, configs))
    };
    let ((topics, configs), sizes, groups, acls, quotas, scram_users) = tokio::try_join!(
        topics,
        cluster.partition_sizes(),
        groups(cluster),
        cluster.acls(),
        cluster.client_quotas(),
        cluster.scram_users(),
    )?;
    Ok(SourceInventory { cluster: description, topics, configs, sizes, groups, acls, quotas, scram_users })
}

async fn read_target<C: Inventory + Groups>(cluster: &C) -> ClusterResult<TargetInventory> {
    let description = cluster.describe_cluster().await?;
    let topics = async {
        let topics = cluster.describe_topics(None).await?;
        let names: Vec<_> = topics.iter().map(|topic| topic.name.clone()).collect();
        let configs = cluster.topic_configs(&names).await?;
        Ok((topics, configs))
    };
    let broker_configs = async {
        match description.brokers.first() {
            Some(broker) => cluster.broker_configs(broker.id).await,
            None => Ok(Configs::new()),
        }
    };
    let ((topics, configs), broker_configs, groups, acls, quotas) =
        tokio::try_join!(topics, broker_configs, groups(cluster), cluster.acls(), cluster.client_quotas())?;
    Ok(TargetInventory { cluster: description, topics, broker_configs, configs, groups, acls, quotas })
}

async fn groups<C: Groups>(cluster: &C) -> ClusterResult<Vec<GroupDescription>> {
    let ids = cluster.list_groups().await?;
    cluster.describe_groups(&ids).await
}
