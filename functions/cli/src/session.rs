//! A migration for as long as one command drives it: its configuration, its lock, and what is driven.
//!
//! Invariants: whoever writes the journal holds the lock beside it; a command that the state does not allow touches
//! nothing.

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
    journal::{EntryKind, Journal, JournalEntry},
    ports::Clock,
    transition::{self, State},
};
use krossing_runtime::{
    Migration,
    connect::{Local, connect, journal_folder, owner, reach, read_config, remove_if_unused},
};

use crate::{
    arguments::{Common, Existing},
    drive::{Drive, Planned},
    show::Voice,
};

/// A migration that this command drives.
pub(crate) struct Session {
    pub(crate) drive: Drive<Local>,
    common: Common,
    lock: Option<CommandLock>,
}

/// The ports of a command that only looks. Leaves no folder behind for a migration that is not begun.
pub(crate) struct Look {
    pub(crate) migration: Migration<Local>,
    folder: PathBuf,
}

impl Look {
    pub(crate) fn open(common: &Common, config: Config, id: MigrationId) -> anyhow::Result<Self> {
        let folder = journal_folder(&config, common.journal_dir.as_deref(), &id);
        Ok(Self { migration: connect(config, id, common.journal_dir.clone())?, folder })
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        remove_if_unused(&self.folder);
    }
}

impl Session {
    /// A migration that may be new; drives it if `execute` is allowed where it stands, with `again` also one that has
    /// failed on the way to `drain_ready`.
    pub(crate) async fn begin(common: &Common, id: MigrationId, again: bool) -> anyhow::Result<Self> {
        let config = read_config(&common.config)?;
        let folder = journal_folder(&config, common.journal_dir.as_deref(), &id);
        // A new migration has no folder before it is begun.
        let lock = if folder.is_dir() { Some(CommandLock::take(&folder)?) } else { None };
        let has_begun = folder.join(JOURNAL_FILE).is_file();
        let command = if again && has_begun { transition::Command::Resume } else { transition::Command::Execute };
        let session = Self::open(common, config, id, lock, command).await?;
        let standing = session.drive.journal.standing();
        if standing.working_state().is_some_and(|state| !state.is_before_cutover()) {
            bail!("the cutover is over: go on with {}", session.next_command(transition::Command::Resume));
        }
        Ok(session)
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
        let begun = journal_folder(&config, common.journal_dir.as_deref(), &id).join(JOURNAL_FILE).is_file();
        let migration = Arc::new(connect(config, id, common.journal_dir.clone())?);
        if begun {
            // Of a new one, precheck says what cannot be reached, with all else that stands in its way.
            reach(&migration).await?;
        }
        let drive = Drive::open(migration, owner(), Voice::Terminal, command).await?;
        Ok(Self { drive, common: common.clone(), lock })
    }

    /// Where journal, leases and checkpoints are.
    pub(crate) fn folder(&self) -> PathBuf {
        journal_folder(&self.drive.migration.config, self.common.journal_dir.as_deref(), &self.drive.migration.id)
    }

    /// Plans, checks, and begins a migration that had no folder before.
    pub(crate) async fn begin_new(&mut self) -> anyhow::Result<Planned> {
        let (folder, lock) = (self.folder(), &mut self.lock);
        let take = || {
            if lock.is_none() {
                *lock = Some(CommandLock::take(&folder)?);
            }
            Ok(())
        };
        self.drive.begin(take).await
    }

    /// Waits until no other command drives the migration, locks it, and answers where it stands now.
    pub(crate) async fn when_free(&mut self) -> anyhow::Result<State> {
        while self.lock.is_none() {
            self.drive.migration.clock.sleep(LOCK_LOOK).await;
            self.lock = CommandLock::take_if_free(&self.folder())?;
        }
        self.drive.reload().await?;
        self.drive.show_entries();
        self.drive.journal.tip().context("the journal is empty")
    }

    /// Lets other commands drive the migration while this one goes on copying.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
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
            self.drive.migration.id
        )
    }

    /// Now, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> i64 {
        self.drive.migration.clock.unix_ms()
    }
}

/// What follows an acknowledgement: a decision about records that were left behind, or the end.
pub(crate) fn after_acknowledgement(journal: &Journal) -> transition::Command {
    let acknowledged = |entry: &&JournalEntry| entry.kind == EntryKind::Transition && entry.to == State::Validating;
    let left_behind = journal.entries().iter().find(acknowledged).is_some_and(|entry| {
        entry.detail["records_behind_marker"].as_array().is_some_and(|records| !records.is_empty())
    });
    let decided = journal.last(EntryKind::Decision).is_some();
    if left_behind && !decided { transition::Command::Stragglers } else { transition::Command::Finalize }
}

/// The migrations whose journals are in a folder.
pub(crate) fn begun_in(folder: &Path) -> Vec<String> {
    let mut begun: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join(JOURNAL_FILE).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    begun.sort();
    begun
}

/// Refuses an id that no journal knows, naming those that there are.
fn known(folder: &Path, id: &MigrationId) -> anyhow::Result<()> {
    if folder.join(JOURNAL_FILE).is_file() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    let others = begun_in(parent);
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

/// Ends when the operator or the system wants the process to end; answers with what.
pub(crate) async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without a handler the signal ends the process at once, which is allowed at any moment.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// The answer of what is being done, or an error where the process is to end before that. Nothing is journaled then: the
/// state is still being worked on, and its leases run out by themselves.
pub(crate) async fn unless_interrupted<T>(doing: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = doing => done,
        signal = interrupted() => bail!("interrupted by {signal}; `krossing resume` goes on from here"),
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
