//! A migration for as long as one command drives it: its configuration, its lock, and what is driven.
//!
//! Invariants: whoever writes the journal holds the lock beside it; a command that the state does not allow touches
//! nothing.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use krossing_core::{
    MigrationId, Side,
    config::Config,
    decision::{Answer, Answered, Decided, Gate},
    journal::{EntryKind, Journal, JournalEntry},
    limits::CALL_RETRY_MAX,
    ports::{Clock, Ledger},
    transition::{self, Position, State},
};
use krossing_drive::{Drive, Planned, gate::journal_answer};
use krossing_runtime::{
    Migration,
    connect::{
        LedgerPlace, NamedSecrets, Real, connect, connect_to_look, owner, reach, read_config, remove_if_unused,
        saying_what_is_waited_for,
    },
    lock::CommandLock,
};

use crate::{
    arguments::{Common, Existing},
    show::{TERMINAL, advice},
};

/// A migration that this command drives.
pub(crate) struct Session {
    pub(crate) drive: Drive<Real>,
    pub(crate) place: LedgerPlace,
    common: Common,
    lock: Option<CommandLock>,
}

/// The ports of a command that only looks. Leaves no folder behind for a migration that is not begun.
pub(crate) struct Look {
    pub(crate) migration: Migration<Real>,
    pub(crate) place: LedgerPlace,
    /// Whether its folder was there before.
    was_there: bool,
}

impl Look {
    pub(crate) async fn open(common: &Common, id: MigrationId) -> anyhow::Result<Self> {
        let config = read_config(&common.config, NamedSecrets::Read).await?;
        let place = LedgerPlace::of(&config, common.journal_dir.as_deref(), &id)?;
        let was_there = place.folder().is_some_and(Path::is_dir);
        if let Some(stack) = common.stack.as_ref().or(config.aws.stack.as_ref()) {
            advice(&format!(
                "the clusters are asked from this machine and over its network, not from stack {stack}; there \
                 `krossing execute` looks for what stands in the way, and changes nothing where it finds something"
            ));
        }
        Ok(Self { migration: connect(config, id, &place).await?, place, was_there })
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !self.was_there {
            remove_if_unused(&self.place);
        }
    }
}

impl Session {
    /// A migration that may be new; drives it if `execute` is allowed where it stands, with `again` also one that has
    /// failed on the way to `drain_ready`.
    pub(crate) async fn begin(common: &Common, id: MigrationId, again: bool) -> anyhow::Result<Self> {
        let config = read_config(&common.config, NamedSecrets::Read).await?;
        let place = LedgerPlace::of(&config, common.journal_dir.as_deref(), &id)?;
        // A new migration has no folder before it is begun.
        let there = place.folder().is_none_or(Path::is_dir);
        let migration = Arc::new(connect(config, id, &place).await?);
        let begun = has_begun(&migration).await?;
        let owner = owner();
        let lock = match begun || (there && place.folder().is_some()) {
            true => Some(CommandLock::take(&place, &migration, &owner, advice).await?),
            false => None,
        };
        let command = if again && begun { transition::Command::Resume } else { transition::Command::Execute };
        let mut session = Self::open(common, place, migration, owner, lock, command).await?;
        if session.lock.is_none() && session.drive.journal.standing() != Position::Unborn {
            // Another command has begun it since it was looked for.
            session.when_free().await?;
        }
        let standing = session.drive.journal.standing();
        if standing.working_state().is_some_and(|state| !state.is_before_cutover()) {
            bail!("the cutover is over: go on with {}", session.next_command(transition::Command::Resume));
        }
        Ok(session)
    }

    /// A migration that has begun; drives it if `command` is allowed where it stands.
    pub(crate) async fn resume(existing: &Existing, command: transition::Command) -> anyhow::Result<Self> {
        let (place, migration) = begun_before(existing).await?;
        let owner = owner();
        let lock = CommandLock::take(&place, &migration, &owner, advice).await?;
        Self::open(&existing.common, place, migration, owner, Some(lock), command).await
    }

    /// Journals an answer of the operator with its reason, where they give one. Behind the end of a migration nothing is
    /// journaled: a command that is given once more then only publishes what was signed.
    pub(crate) async fn journal_why(&mut self, gate: Gate, answer: Answer, reason: String) -> anyhow::Result<()> {
        let Drive { migration, journal, .. } = &mut self.drive;
        if reason.is_empty() || journal.tip().is_none_or(State::is_terminal) {
            return Ok(());
        }
        let decided = Decided::new(answer, migration.by.clone(), reason, migration.clock.unix_ms());
        journal_answer(migration, journal, &Answered { gate, decided }).await?;
        self.drive.show_entries();
        Ok(())
    }

    /// A migration that has begun, to be watched while another command may drive it.
    pub(crate) async fn watch(existing: &Existing) -> anyhow::Result<Self> {
        let (place, migration) = begun_before(existing).await?;
        Self::open(&existing.common, place, migration, owner(), None, transition::Command::Status).await
    }

    /// The same, where neither cluster need be there. Answers also of which no broker is known, and why.
    pub(crate) async fn look(existing: &Existing) -> anyhow::Result<(Self, Vec<(Side, String)>)> {
        let (config, place) = begun_at(existing).await?;
        let (migration, unnamed) = connect_to_look(config, existing.migration_id.clone(), &place).await?;
        check_begun(&migration, &place).await?;
        let drive = Drive::open(Arc::new(migration), owner(), TERMINAL, transition::Command::Status).await?;
        Ok((Self { drive, place, common: existing.common.clone(), lock: None }, unnamed))
    }

    async fn open(
        common: &Common,
        place: LedgerPlace,
        migration: Arc<Migration<Real>>,
        owner: String,
        lock: Option<CommandLock>,
        command: transition::Command,
    ) -> anyhow::Result<Self> {
        if has_begun(&migration).await? {
            // Of a new one, precheck says what cannot be reached, with all else that stands in its way.
            reach(&migration, advice).await?;
        }
        let drive = Drive::open(migration, owner, TERMINAL, command).await?;
        Ok(Self { drive, place, common: common.clone(), lock })
    }

    /// Plans, checks, and begins a migration that had no journal before.
    pub(crate) async fn begin_new(&mut self) -> anyhow::Result<Planned> {
        let (place, migration, owner) = (self.place.clone(), self.drive.migration.clone(), self.drive.owner.clone());
        let lock = &mut self.lock;
        let take = async || {
            if lock.is_none() {
                *lock = Some(CommandLock::take(&place, &migration, &owner, advice).await?);
            }
            Ok(())
        };
        saying_what_is_waited_for(&migration, CALL_RETRY_MAX, advice, self.drive.begin(take)).await
    }

    /// Waits until no other command drives the migration, locks it, and answers where it stands now.
    pub(crate) async fn when_free(&mut self) -> anyhow::Result<State> {
        while self.lock.is_none() {
            self.drive.migration.clock.sleep(LOCK_LOOK).await;
            self.lock =
                CommandLock::take_when_free(&self.place, &self.drive.migration, &self.drive.owner, advice).await?;
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
        self.common.command_line(command, &self.drive.migration.id)
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

/// Says that findings may be about what another migration has made. `why` they are looked for.
pub(crate) fn warn_of_others(place: &LedgerPlace, why: &str) {
    // A table holds what has begun by id only.
    let mut begun = place.folder().and_then(Path::parent).map_or_else(Vec::new, begun_in);
    let own = place.folder().and_then(Path::file_name);
    begun.retain(|other| own.is_none_or(|own| own != other.as_str()));
    if !begun.is_empty() {
        advice(&format!(
            "warning: {why}, and these have begun here: {}. What they have made on the target is found as if it were \
             foreign: delete nothing because of it; `krossing status` shows where they stand",
            begun.join(", ")
        ));
    }
}

/// Whether the migration has a journal. A folder without one is not read, so that damage in it is told by whoever
/// reads it next.
async fn has_begun(migration: &Migration<Real>) -> anyhow::Result<bool> {
    Ok(!migration.ledger.journal().await.context("could not read the journal")?.is_empty())
}

/// Connects to a migration that has begun; refuses an id that no journal knows, naming those that there are.
async fn begun_before(existing: &Existing) -> anyhow::Result<(LedgerPlace, Arc<Migration<Real>>)> {
    let (config, place) = begun_at(existing).await?;
    let migration = Arc::new(connect(config, existing.migration_id.clone(), &place).await?);
    check_begun(&migration, &place).await?;
    Ok((place, migration))
}

/// Where the migration's journal is; where that is a folder, one that is there.
async fn begun_at(existing: &Existing) -> anyhow::Result<(Config, LedgerPlace)> {
    let (config, id) = (read_config(&existing.common.config, NamedSecrets::Read).await?, &existing.migration_id);
    let place = LedgerPlace::of(&config, existing.common.journal_dir.as_deref(), id)?;
    if let Some(folder) = place.folder().filter(|folder| !folder.join(JOURNAL_FILE).is_file()) {
        let parent = folder.parent().unwrap_or(folder);
        let others = begun_in(parent);
        let there = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        bail!(
            "there is no migration {id} in {} (there is {there}): check --migration-id and --journal-dir, or begin one \
             with `krossing execute`",
            parent.display()
        )
    }
    Ok((config, place))
}

/// Refuses an id that no journal in a table knows.
async fn check_begun(migration: &Migration<Real>, place: &LedgerPlace) -> anyhow::Result<()> {
    let id = &migration.id;
    if place.folder().is_none() && !has_begun(migration).await? {
        bail!("there is no migration {id} in {place}: check --migration-id, or begin one with `krossing execute`");
    }
    Ok(())
}

/// The journal's name in its folder.
const JOURNAL_FILE: &str = "journal.jsonl";

/// How often a lock that another command holds is looked at.
const LOCK_LOOK: Duration = Duration::from_millis(200);

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

/// What is said to whoever interrupts a command that works itself. Nothing is journaled then: the state is still being
/// worked on, and its leases run out by themselves.
pub(crate) const RESUME_GOES_ON: &str = "`krossing resume` goes on from here";

/// The answer of what is being done, or an error that says `then` where the process is to end before that. From the first
/// call on a signal counts only while one of these waits: all that takes time belongs into one.
pub(crate) async fn unless_interrupted<T>(
    then: &str,
    doing: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = doing => done,
        signal = interrupted() => bail!("interrupted by {signal}; {then}"),
    }
}
