//! `krossing plan`: what a migration would do. Changes nothing.

use krossing_core::{canonical::canonical_json, plan::MigrationPlan};
use krossing_runtime::connect::{new_migration_id, reach, read_config};

use crate::{
    Outcome,
    arguments::{PlanArguments, PlanFormat},
    session::Look,
    show,
};

pub(crate) async fn run(arguments: PlanArguments) -> anyhow::Result<Outcome> {
    let id = arguments.migration_id.unwrap_or_else(new_migration_id);
    let config = read_config(&arguments.common.config)?;
    let look = Look::open(&arguments.common, config, id)?;
    reach(&look.migration).await?;
    let (source, target) = krossing_plan::collect(&look.migration).await?;
    let plan = krossing_plan::make(&look.migration, &source, &target);
    match arguments.format {
        PlanFormat::Json => show::line(&canonical_json(&plan)?),
        PlanFormat::Text => show::line(&summary(&plan)),
    }
    Ok(Outcome::Done)
}

fn summary(plan: &MigrationPlan) -> String {
    let scope = plan.scope(&[]);
    let mut lines = vec![
        format!("migration_id={} plan_sha256={}", plan.migration_id, plan.digest()),
        format!("source={} target={}", plan.source_cluster_id, plan.target_cluster_id),
        format!("topics_to_create={}", plan.topics.len()),
        format!("partitions_to_create={}", scope.partitions().count()),
        format!("estimated_seed_bytes={} ({})", plan.bytes, show::bytes(plan.bytes)),
        format!("lanes={}", plan.lanes.len()),
        format!("groups={}", plan.groups.len()),
        format!(
            "acls={}",
            plan.acls.as_ref().map_or_else(|| "no authorizer".to_owned(), |acls| acls.len().to_string())
        ),
        "topics:".to_owned(),
    ];
    lines.extend(plan.topics.iter().map(|topic| {
        let compacted = if topic.compacted { " compacted" } else { "" };
        format!(
            "  {} partitions={} rf={} bytes={}{compacted}",
            topic.name,
            topic.partitions,
            topic.replication_factor,
            show::bytes(topic.bytes)
        )
    }));
    let stateful: Vec<_> =
        plan.groups.iter().filter_map(|group| Some((&group.id, group.keeps_state?.texts()))).collect();
    if !stateful.is_empty() {
        lines.push("groups whose owners have something to do:".to_owned());
        lines.extend(stateful.iter().map(|(group, (problem, remedy))| format!("  {group}: {problem}; {remedy}")));
    }
    if !plan.topics_left_out.is_empty() {
        lines.push("left out:".to_owned());
        lines.extend(plan.topics_left_out.iter().map(|left| format!("  {}: {}", left.name, left.reason.text())));
    }
    lines.join("\n")
}
