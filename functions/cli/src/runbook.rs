//! The plan as a runbook: what an operator does, step by step, with the commands as they are to be typed.

use std::path::Path;

use krossing_core::{
    config::{Config, FreezeConfig},
    plan::MigrationPlan,
};

use crate::{commands::finalize::check_it, show};

/// The runbook, in Markdown.
pub(crate) fn runbook(plan: &MigrationPlan, config: &Path, settings: &Config) -> String {
    let freeze = &settings.cutover.freeze;
    let id = &plan.migration_id;
    let command = |name: &str| format!("    krossing {name} --config {} --migration-id {id}\n", config.display());
    let scope = plan.scope(&[]);
    let mut text = format!(
        "# Runbook of migration {id}\n\n\
         Source {} → target {}: {} topics with {} partitions, {} of records, {} groups.\n\n\
         Whatever dies or fails on the way: `krossing resume` goes on where the journal ends, and never freezes \
         producers. While no client has come to the target, `krossing rollback` gives the migration up; it deletes nothing.\n\n",
        plan.source_cluster_id,
        plan.target_cluster_id,
        plan.topics.len(),
        scope.partitions().count(),
        show::bytes(plan.bytes),
        plan.groups.len(),
    );
    text.push_str("## 1. Before\n\nEvery blocker has to be put right; nothing is changed by this.\n\n");
    text.push_str(&format!("    krossing precheck --config {}\n\n", config.display()));
    if !plan.scram_users.is_empty() {
        text.push_str(&format!(
            "Make these SCRAM users on the target, their passwords cannot be read: {}.\n\n",
            plan.scram_users.join(", ")
        ));
    }
    if !plan.topics_left_out.is_empty() {
        text.push_str("These topics stay behind:\n\n");
        for left in &plan.topics_left_out {
            text.push_str(&format!("- {}: {}\n", left.name, left.reason.text()));
        }
        text.push('\n');
    }
    let stateful: Vec<_> = plan.groups.iter().filter_map(|group| Some((&group.id, group.keeps_state?))).collect();
    if !stateful.is_empty() {
        text.push_str("These groups belong to applications that keep positions or state of their own:\n\n");
        for (group, kind) in stateful {
            let (problem, remedy) = kind.texts();
            text.push_str(&format!("- {group}: {problem}; {remedy}\n"));
        }
        text.push('\n');
    }
    text.push_str("## 2. Copy\n\nProducers and consumers go on as they are.\n\n");
    text.push_str(&command("execute"));
    text.push_str(&command("status --follow"));
    text.push_str(
        "\nIt ends at `drain_ready`, and then nothing is copied until the cutover, which catches up first. With \
         `--keep-tailing` it goes on copying until the cutover, so that the cutover has less to do.\n\n## 3. Cutover\n\nGo when `status` says drain_ready, lag near 0, and nothing under \
         `failed`. Producers stand still for a moment; if anything fails, they are let go on and the migration is at \
         `drain_ready` again. ",
    );
    text.push_str(match freeze {
        FreezeConfig::Webhook { .. } => "The webhook is asked to have them stand still.\n\n",
        FreezeConfig::Confirmation => {
            "You are asked on the terminal: type `frozen` once every producer has flushed and closed; anything else gives \
             up.\n\n"
        }
    });
    text.push_str(&command("cutover"));
    text.push_str("\nIf the command dies, producers may stand still until this lets them go on:\n\n");
    text.push_str(&command("resume"));
    text.push_str("\nUntil the first client writes to the target, or a group switches to it, the migration can be given up, also at READY; \
         producers then go on on the source:\n\n");
    text.push_str(&command("rollback"));
    text.push_str(
        "\nAt READY the target is complete. Begin this in another terminal, it keeps groups in step that still work off the \
         source, and runs until the acknowledgement; then point consumers at the target, then producers:\n\n",
    );
    text.push_str(&command("client-switch"));
    text.push_str(
        "\nA group must not run on both clusters at the same time. The way back, until a client \
         writes to the target or a group switches, is `krossing rollback`; later clients can be pointed at the source by \
         hand, and what they wrote to the target stays there.\n\n## 4. When all clients have switched\n\n\
         If producers were left behind, decide about their records first (`stragglers` lists them, with `--append` or \
         `--leave`).\n\n",
    );
    text.push_str(&command("stragglers"));
    text.push_str(&command("cutover-ack"));
    text.push_str(&command("finalize"));
    text.push_str("\n## 5. For the auditors\n\nThe key id is what `finalize` prints.\n\n");
    for (_, command) in check_it(&settings.evidence.place, id, "KEY_ID") {
        text.push_str(&format!("    {command}\n"));
    }
    text
}
