//! A migration for as long as one command drives it: its lock, its ports, its journal, its plan.
//!
//! Invariants: whoever writes the journal holds the lock beside it; a command that the state does not allow touches
//! nothing; what the journal got is shown, in order and once.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use krossing_core::{
    MigrationId,
    config::Config,
    journal::Journal,
    plan::{Amendment, MigrationPlan, Scope},
    ports::Clock,
    transition::{self, Decision, Position, State, permit},
};
use krossing_replication::LanePlan;
use krossing_runtime::{
    Migration,
    connect::{Local, connect, journal_folder, owner, read_config, remove_if_unused},
};
use serde::Serialize;

use crate::{
    arguments::{Common, Existing},
    commands::cutover,
    show,
};

/// A migration that this command drives.
pub(crate) struct Session {
    pub(crate) migration: Arc<Migration<Local>>,
    pub(crate) journal: Journal,
    /// Names this process in leases.
    pub(crate) owner: String,
    /// How many entries of the journal have been shown.
    pub(crate) shown: usize,
    common: Common,
    lock: Option<CommandLock>,
}

/// The plan with what was added to it.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: MigrationPlan,
    pub(crate) amendments: Vec<Amendment>,
}

impl Planned {
    pub(crate) fn scope(&self) -> Scope {
        self.plan.scope(&self.amendments)
    }

    pub(crate) fn lanes(&self) -> Vec<LanePlan> {
        krossing_plan::lanes(&self.plan, &self.amendments)
    }
}

/// The ports of a command that only looks. Leaves no folder behind for a migration that is not begun.
pub(crate) struct Look {
    pub(crate) migration: Migration<Local>,
    folder: PathBuf,
}

impl Look {
    pub(crate) async fn connect(common: &Common, config: Config, id: MigrationId) -> anyhow::Result<Self> {
        let folder = journal_folder(&config, common.journal_dir.as_deref(), &id);
        Ok(Self { migration: connect(config, id, common.journal_dir.clone()).await?, folder })
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        remove_if_unused(&self.folder);
    }
}

impl Session {
    /// A migration that may be new; drives it if `execute` is allowed where it stands.
    pub(crate) async fn begin(common: &Common, id: MigrationId) -> anyhow::Result<Self> {
        let config = read_config(&common.config)?;
        let folder = journal_folder(&config, common.journal_dir.as_deref(), &id);
        // A new migration has no folder before both clusters have been looked at.
        let lock = if folder.is_dir() { Some(CommandLock::take(&folder)?) } else { None };
        Self::open(common, config, id, lock, transition::Command::Execute).await
    }

    /// A migration that has begun; drives it if `command` is allowed where it stands.
    pub(crate) async fn resume(existing: &Existing, command: transition::Command) -> anyhow::Result<Self> {
        let (config, id) = (read_config(&existing.common.config)?, existing.migration_id.clone());
        let folder = journal_folder(&config, existing.common.journal_dir.as_deref(), &id);
        known(&folder, &id)?;
        let lock = CommandLock::take(&folder)?;
        Self::open(&existing.common, config, id, Some(lock), command).await
    }

    /// A migration that has begun, to be watched while another command may drive it.
    pub(crate) async fn watch(existing: &Existing) -> anyhow::Result<Self> {
        let (config, id) = (read_config(&existing.common.config)?, existing.migration_id.clone());
        known(&journal_folder(&config, existing.common.journal_dir.as_deref(), &id), &id)?;
        Self::open(&existing.common, config, id, None, transition::Command::Status).await
    }

    async fn open(
        common: &Common,
        config: Config,
        id: MigrationId,
        lock: Option<CommandLock>,
        command: transition::Command,
    ) -> anyhow::Result<Self> {
        let migration = Arc::new(connect(config, id, common.journal_dir.clone()).await?);
        let journal = migration.journal().await?;
        let shown = journal.position();
        let mut session = Self { migration, journal, owner: owner(), common: common.clone(), shown, lock };
        let verdict = permit(command, session.journal.standing());
        if let (Decision::Refused(why), false) = (&verdict.decision, verdict.abandon_cutover_first) {
            bail!("{why}");
        }
        if session.journal.standing() != Position::Unborn && command != transition::Command::Status {
            krossing_plan::check_identity(&session.migration, &session.journal).await?;
        }
        if verdict.abandon_cutover_first {
            show::advice("the last cutover was interrupted: letting producers go on");
            let abandoned = cutover::abandon(&mut session).await;
            session.show_entries();
            abandoned.context("could not take back the interrupted cutover")?;
        }
        match verdict.decision {
            Decision::Allowed => Ok(session),
            Decision::Refused(why) => bail!("{why}"),
        }
    }

    /// Reads the journal again, after another may have written it.
    pub(crate) async fn reload(&mut self) -> anyhow::Result<()> {
        self.journal = self.migration.journal().await?;
        self.shown = self.shown.min(self.journal.position());
        Ok(())
    }

    /// Where journal, leases and checkpoints are.
    pub(crate) fn folder(&self) -> PathBuf {
        journal_folder(&self.migration.config, self.common.journal_dir.as_deref(), &self.migration.id)
    }

    /// Locks a migration that had no folder before.
    pub(crate) fn lock(&mut self) -> anyhow::Result<()> {
        if self.lock.is_none() {
            self.lock = Some(CommandLock::take(&self.folder())?);
        }
        Ok(())
    }

    /// Waits until no other command drives the migration, locks it, and answers where it stands now.
    pub(crate) async fn when_free(&mut self) -> anyhow::Result<State> {
        while self.lock.is_none() {
            self.migration.clock.sleep(LOCK_LOOK).await;
            self.lock = CommandLock::take_if_free(&self.folder())?;
        }
        self.reload().await?;
        self.show_entries();
        self.journal.tip().context("the journal is empty")
    }

    /// Lets other commands drive the migration while this one goes on copying.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// The stored plan and its amendments.
    pub(crate) async fn planned(&self) -> anyhow::Result<Planned> {
        let plan = krossing_plan::load(&self.migration, &self.journal).await?;
        let amendments = krossing_plan::load_amendments(&self.migration, &self.journal).await?;
        Ok(Planned { plan, amendments })
    }

    /// Journals a change of state, and shows it.
    pub(crate) async fn enter(
        &mut self,
        state: State,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> anyhow::Result<()> {
        self.migration.enter(&mut self.journal, state, reason, detail).await?;
        self.show_entries();
        Ok(())
    }

    /// Shows what the journal got since the last time.
    pub(crate) fn show_entries(&mut self) {
        for entry in &self.journal.entries()[self.shown..] {
            show::line(&show::entry(entry));
        }
        self.shown = self.journal.position();
    }

    /// Journals that the present state failed, unless that is what the journal says already.
    pub(crate) async fn fail(&mut self, error: &anyhow::Error) {
        self.show_entries();
        let standing = self.journal.standing();
        if matches!(standing, Position::At(state) if state.successors().contains(&State::Failed))
            && let Err(unwritten) = self.enter(State::Failed, show::chain(error), serde_json::json!({})).await
        {
            show::advice(&format!("the failure could not be journaled: {}", show::chain(&unwritten)));
        }
    }

    /// The command line of `command` for this migration.
    pub(crate) fn next_command(&self, command: transition::Command) -> String {
        let journal_dir = self
            .common
            .journal_dir
            .as_ref()
            .map_or_else(String::new, |dir| format!(" --journal-dir {}", dir.display()));
        format!(
            "krossing {command} --config {} --migration-id {}{journal_dir}",
            self.common.config.display(),
            self.migration.id
        )
    }

    /// Now, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> i64 {
        self.migration.clock.unix_ms()
    }
}

/// Refuses an id that no journal knows, naming those that there are.
fn known(folder: &Path, id: &MigrationId) -> anyhow::Result<()> {
    if folder.join(JOURNAL_FILE).is_file() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    let mut others: Vec<String> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join(JOURNAL_FILE).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    others.sort();
    let there = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    bail!(
        "there is no migration {id} in {} (there is {there}): check --migration-id and --journal-dir, or begin one with \
         `krossing execute`",
        parent.display()
    )
}

/// The journal's name in its folder.
const JOURNAL_FILE: &str = "journal.jsonl";

/// The lock's name in the journal's folder. The file stays; what counts is the lock on it, which the system releases
/// when the process ends, however it ends.
const LOCK_FILE: &str = "command.lock";

/// How often a lock that another command holds is looked at.
const LOCK_LOOK: Duration = Duration::from_millis(200);

/// Held by the command that drives a migration.
#[derive(Debug)]
pub(crate) struct CommandLock {
    _file: File,
}

impl CommandLock {
    fn take(folder: &Path) -> anyhow::Result<Self> {
        Self::take_if_free(folder)?.with_context(|| {
            format!(
                "another command drives this migration (it holds {}): wait until it ends or stop it; `krossing status` \
                 shows where it stands",
                folder.join(LOCK_FILE).display()
            )
        })
    }

    fn take_if_free(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(LOCK_FILE);
        let file = File::create(&path).with_context(|| format!("could not open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("could not lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commands_cannot_drive_one_migration() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let held = CommandLock::take(folder.path()).expect("nobody else has it");
        let refused = CommandLock::take(folder.path()).expect_err("the first still holds it");
        assert!(refused.to_string().contains("another command drives this migration"), "{refused}");
        drop(held);
        CommandLock::take(folder.path()).expect("the first has let go");
    }
}
