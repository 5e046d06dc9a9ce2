//! `krossing plan`: what a migration would do, on the terminal or in files. Changes nothing on either cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use krossing_core::{
    canonical::canonical_json,
    config::{Auth, Config},
    iam::access_map,
    plan::MigrationPlan,
};
use krossing_runtime::connect::{new_migration_id, reach};
use serde_json::json;

use crate::{
    Outcome,
    arguments::{PlanArguments, PlanFormat},
    runbook,
    session::Look,
    show,
};

/// What can be written, and under which name.
const FILES: [(PlanFormat, &str); 4] = [
    (PlanFormat::Json, "plan.json"),
    (PlanFormat::Text, "plan.txt"),
    (PlanFormat::Runbook, "runbook.md"),
    (PlanFormat::AccessMap, "access-map.json"),
];

pub(crate) async fn run(arguments: PlanArguments) -> anyhow::Result<Outcome> {
    let wanted = wanted(arguments.format)?;
    let files = match &arguments.out_dir {
        Some(folder) => Some(places(folder, &wanted, arguments.force)?),
        None if arguments.format == PlanFormat::All => bail!("--format all writes several files: give --out-dir, too"),
        None => None,
    };
    let id = arguments.migration_id.clone().unwrap_or_else(new_migration_id);
    let look = Look::open(&arguments.common, id).await?;
    reach(&look.migration, show::advice).await?;
    let (source, target) = krossing_plan::collect(&look.migration).await?;
    let plan = krossing_plan::make(&look.migration, &source, &target);
    let spelled = |format| spell(format, &plan, &arguments.common.config, &look.migration.config);
    let Some(files) = files else {
        show::event("plan", &plan, &spelled(arguments.format)?);
        return Ok(Outcome::Done);
    };
    if let Some(folder) = &arguments.out_dir {
        fs::create_dir_all(folder).with_context(|| format!("could not make the folder {}", folder.display()))?;
    }
    for ((format, _), file) in wanted.iter().zip(files) {
        if *format == PlanFormat::AccessMap && arguments.format == PlanFormat::All && !logs_in_with_iam(&look) {
            continue;
        }
        fs::write(&file, spelled(*format)?).with_context(|| format!("could not write {}", file.display()))?;
        show::event("written", &json!({ "file": file }), &format!("written: {}", file.display()));
    }
    if arguments.format == PlanFormat::All {
        show::advice(
            "not written, because nothing makes them yet: aws-cli.sh, iam-policy-templated.json, \
             iam-policy-concrete.json, cost-estimate.json; infra/README.md says what a stack may do and what it costs",
        );
    }
    Ok(Outcome::Done)
}

/// Whether access on the target is a matter of IAM.
fn logs_in_with_iam(look: &Look) -> bool {
    look.migration.config.target.auth == Auth::Iam
}

fn wanted(format: PlanFormat) -> anyhow::Result<Vec<(PlanFormat, &'static str)>> {
    match format {
        PlanFormat::All => Ok(FILES.to_vec()),
        PlanFormat::AwsCli | PlanFormat::IamPolicy | PlanFormat::Cost => {
            bail!(
                "nothing makes this format yet: infra/README.md says what a stack may do and what it costs; use json, \
                 text, runbook, access-map or all"
            )
        }
        PlanFormat::Json | PlanFormat::Text | PlanFormat::Runbook | PlanFormat::AccessMap => {
            Ok(FILES.into_iter().filter(|(of, _)| *of == format).collect())
        }
    }
}

/// Where the files will be; an error where one of them is there already, before any is written.
fn places(folder: &Path, wanted: &[(PlanFormat, &str)], force: bool) -> anyhow::Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = wanted.iter().map(|(_, name)| folder.join(name)).collect();
    let there: Vec<String> = files.iter().filter(|file| file.exists()).map(|file| file.display().to_string()).collect();
    if !there.is_empty() && !force {
        bail!("there already: {}; give --force to write over them, or another --out-dir", there.join(", "));
    }
    Ok(files)
}

fn spell(format: PlanFormat, plan: &MigrationPlan, file: &Path, config: &Config) -> anyhow::Result<String> {
    Ok(match format {
        PlanFormat::Runbook => runbook::runbook(plan, file, config),
        PlanFormat::Text => summary(plan),
        PlanFormat::AccessMap => {
            let map = access_map(plan.acls.as_deref().unwrap_or_default(), config.target.cluster_arn.as_deref());
            serde_json::to_string_pretty(&map)?
        }
        PlanFormat::Json | PlanFormat::AwsCli | PlanFormat::IamPolicy | PlanFormat::Cost | PlanFormat::All => {
            canonical_json(plan)?
        }
    })
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
        format!("quotas={}", plan.quotas.len()),
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
