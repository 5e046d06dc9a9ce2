//! The arguments, with the help that teaches them.

use std::{convert::Infallible, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use krossing_core::{MigrationId, TopicName, transition};

use crate::show::Output;

const AFTER_HELP: &str = "\
A migration, from beginning to end:
  krossing precheck --config m.yaml            what stands in the way; changes nothing
  krossing execute  --config m.yaml            topics, records, and new records until the target keeps up
  krossing cutover  --config m.yaml --migration-id ID     producers stand still, groups are carried over
  krossing client-switch …                     meanwhile: keeps groups in step that are still on the source
  krossing cutover-ack …                       all clients have switched
  krossing finalize …                          everything is checked, recorded and signed
Whatever dies on the way: krossing resume …
To give up, while no client has come to the target: krossing rollback …

Exit codes: 0 done, 1 failed, 10 waiting for the operator (stderr says for what).";

/// Moves a Kafka cluster in ZooKeeper mode to one in KRaft mode: every record, setting and consumer position.
#[derive(Debug, Parser)]
#[command(name = "krossing", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// How to spell what happens on stdout; docs/output.md lists the events of json
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what a migration would do. Changes nothing
    Plan(PlanArguments),
    /// Look for whatever stands in the way, on both clusters. Changes nothing
    Precheck(PrecheckArguments),
    /// Begin a migration, or go on with one, until the target keeps up (drain_ready)
    Execute(ExecuteArguments),
    /// Go on from the journal's last entry, as far as no decision is needed
    Resume(Existing),
    /// Show where a migration stands and how far the target is behind
    Status(StatusArguments),
    /// Let producers stand still, copy the last records, carry all groups over (awaiting_client_switch)
    Cutover(DecisionArguments),
    /// Say that all clients have switched to the target (validating)
    CutoverAck(DecisionArguments),
    /// Keep groups in step that still work on the source, until the acknowledgement
    ClientSwitch(Existing),
    /// Records that reached the source after the cutover: name them, append them to the target, or leave them out
    Stragglers(StragglersArguments),
    /// Give the migration up while no client has come to the target; deletes nothing (rolled_back)
    Rollback(RollbackArguments),
    /// Check everything, set the planned topic settings, sign the evidence (finalized)
    Finalize(Existing),
    /// Look at signed evidence; needs no cluster and no network
    #[command(subcommand)]
    Evidence(EvidenceCommand),
}

/// The file, and where the journal is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The configuration (YAML)
    #[arg(long, value_name = "PATH")]
    pub(crate) config: PathBuf,
    /// Folder for journal, leases and checkpoints [default: the evidence folder]
    #[arg(long, value_name = "PATH")]
    pub(crate) journal_dir: Option<PathBuf>,
    /// The stack on AWS that does the work, in place of this process [default: aws.stack of the configuration]
    #[arg(long, value_name = "NAME")]
    pub(crate) stack: Option<String>,
}

impl Common {
    /// The command line of `command` for a migration that is where this one was.
    pub(crate) fn command_line(&self, command: transition::Command, id: &MigrationId) -> String {
        let stack = self.stack.as_ref().map_or_else(String::new, |name| format!(" --stack {name}"));
        let journal_dir =
            self.journal_dir.as_ref().map_or_else(String::new, |dir| format!(" --journal-dir {}", dir.display()));
        format!("krossing {command} --config {}{stack} --migration-id {id}{journal_dir}", self.config.display())
    }
}

/// A migration that has begun.
#[derive(Debug, Clone, Args)]
pub(crate) struct Existing {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The migration, as `krossing execute` named it
    #[arg(long, value_name = "ID")]
    pub(crate) migration_id: MigrationId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  krossing status --config m.yaml --migration-id ID
  krossing status --config m.yaml --migration-id ID --follow        until it ends, or Ctrl-C
  krossing status --config m.yaml --migration-id ID --output json | jq .lag_records_max")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) existing: Existing,
    /// Go on showing, until the migration has ended
    #[arg(long)]
    pub(crate) follow: bool,
}

/// What an operator decides of a migration that has begun.
#[derive(Debug, Args)]
pub(crate) struct DecisionArguments {
    #[command(flatten)]
    pub(crate) existing: Existing,
    /// Why, for journal and evidence: the number of a change request, a sentence
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    pub(crate) decision: DecisionArguments,
    /// Producers do go on: give it where the webhook cannot be reached and you have let them go on yourself
    #[arg(long)]
    pub(crate) producers_released: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  krossing stragglers --config m.yaml --migration-id ID                       lists them, decides nothing
  krossing stragglers --config m.yaml --migration-id ID --append --topic orders
  krossing stragglers --config m.yaml --migration-id ID --leave               all that are left")]
pub(crate) struct StragglersArguments {
    #[command(flatten)]
    pub(crate) existing: Existing,
    /// Only records of this topic; may be given several times [default: all topics]
    #[arg(long, value_name = "NAME", value_parser = topic_name)]
    pub(crate) topic: Vec<TopicName>,
    /// Append them at the target's end, each once; on a compacted topic only where no client has written the key since
    #[arg(long, conflicts_with = "leave")]
    pub(crate) append: bool,
    /// Leave them out of the target; they are kept among the evidence
    #[arg(long)]
    pub(crate) leave: bool,
}

fn topic_name(given: &str) -> Result<TopicName, Infallible> {
    Ok(TopicName::new(given))
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Check signature, journal, digests and completeness of a document
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The document: evidence.json, or one of evidence-attempts
    pub(crate) file: PathBuf,
    /// The key it must be signed with, as `key_id` of a document you trust
    #[arg(long, value_name = "ID")]
    pub(crate) key_id: Option<String>,
    /// The evidence folder: offset map and reports in it are checked, too
    #[arg(long, value_name = "PATH")]
    pub(crate) objects: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The id to plan for: the same clusters and id give the same plan [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) migration_id: Option<MigrationId>,
    /// What to print, or to write to --out-dir
    #[arg(long, value_enum, default_value_t = PlanFormat::Json)]
    pub(crate) format: PlanFormat,
    /// Folder for the files: plan.json, runbook.md …; needed for `--format all`
    #[arg(long, value_name = "PATH")]
    pub(crate) out_dir: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long, requires = "out_dir")]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// The plan as it would be stored (plan.json)
    Json,
    /// A summary for people (plan.txt)
    Text,
    /// What the operator does, step by step, with the commands (runbook.md)
    Runbook,
    /// The source's access rules as IAM policies, for a target whose clients log in with IAM (access-map.json)
    AccessMap,
    /// Commands that set up what runs on AWS: not yet
    AwsCli,
    /// What the tool may do on AWS: not yet
    IamPolicy,
    /// What it will cost on AWS: not yet
    Cost,
    /// All of them that there are
    All,
}

#[derive(Debug, Args)]
pub(crate) struct PrecheckArguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = FindingsFormat::Text)]
    pub(crate) format: FindingsFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FindingsFormat {
    /// One line a finding
    Text,
    /// An array of findings
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ExecuteArguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The migration to go on with, or the name of a new one [default: a new one, printed first]
    #[arg(long, value_name = "ID")]
    pub(crate) migration_id: Option<MigrationId>,
    /// Do not stop at drain_ready: go on copying, and after the cutover keep groups in step until it is acknowledged
    #[arg(long)]
    pub(crate) keep_tailing: bool,
    /// Go on with a migration that has failed before its cutover, as `resume` does. Makes no duplicates: what was copied
    /// is read back from the target, and an owner before us is fenced
    #[arg(long, requires = "migration_id")]
    pub(crate) force_restart: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_of_arguments_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_rules_has_its_subcommand() {
        let known: Vec<String> = Arguments::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for command in krossing_core::transition::Command::ALL {
            assert!(known.iter().any(|name| name == command.name()), "{command}");
        }
    }

    #[test]
    fn an_id_that_could_leave_its_folder_is_refused() {
        let parse = |id: &str| Arguments::try_parse_from(["krossing", "status", "--config", "c", "--migration-id", id]);
        assert!(parse("m-1").is_ok());
        assert!(parse("../m").is_err());
    }
}
