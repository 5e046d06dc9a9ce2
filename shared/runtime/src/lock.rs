//! Who drives a migration: one command at a time.
//!
//! Beside a journal in a folder it is a lock on a file, which the system releases when the process ends, however it
//! ends. Beside one in a table it is a document that its holder writes again and again: one that has surely stopped
//! doing so for as long as a lease runs is dead. Either way the journal itself refuses whoever writes at a place that
//! another has written, and lanes have their own leases and fences; the lock is so that a second command says so and
//! does not begin.
//!
//! A command whose document another has taken, because it could not write it for so long, ends at once: to die at any
//! moment is what everything here is made for, and to go on beside another is not.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use krossing_core::{
    limits::{LEASE, LEASE_MARGIN, LEASE_RENEWAL},
    ports::{Clock, Ledger, StoreError, StoreResult, Version},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    AnyLedger, ForStep, Migration, MigrationError, MigrationResult, SystemClock,
    connect::{LedgerPlace, Real},
};

/// The lock's name in the journal's folder. The file stays, with the name of who locked it last; what counts is the lock
/// on it.
const LOCK_FILE: &str = "command.lock";

/// The lock's name among the ledger's documents.
const LOCK_DOCUMENT: &str = "command-lock";

/// What the lock is read for.
const WHO: &str = "read who drives this migration";

/// How often a document that another holds is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When a file that was locked is tried once more: whoever only looks holds it for a moment (see [`look`]).
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Says something to whoever runs this process.
pub type Say = fn(&str);

/// Who drives a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// No command does.
    Nobody,
    /// This one is at work.
    AtWork(String),
    /// This one holds the lock, and has given no sign of life between two looks.
    Silent(String),
}

/// What one look at the lock has shown. It takes two to tell whether a holder in a table is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockSeen {
    holder: Option<String>,
    /// Of the document; a file that is locked has a holder that is there.
    version: Option<Version>,
}

impl LockSeen {
    /// Whether somebody holds the lock.
    pub fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Who drives the migration, where this was seen longer than a renewal after `before`.
    pub fn driver_since(&self, before: &LockSeen) -> Driver {
        match &self.holder {
            None => Driver::Nobody,
            Some(holder) if self.version.is_some() && self == before => Driver::Silent(holder.clone()),
            Some(holder) => Driver::AtWork(holder.clone()),
        }
    }
}

/// Looks who holds the lock, and takes it from nobody.
pub async fn look(place: &LedgerPlace, migration: &Migration<Real>) -> MigrationResult<LockSeen> {
    match place {
        LedgerPlace::Folder(folder) => holder_of_file(folder).during(WHO),
        LedgerPlace::Table(_) => {
            let (version, record) = read(&migration.ledger).await.during(WHO)?;
            let holder = record.and_then(|record| record.holder);
            Ok(LockSeen { version: version.filter(|_| holder.is_some()), holder })
        }
    }
}

/// Held by the command that drives a migration.
#[derive(Debug)]
pub enum CommandLock {
    /// Beside a journal in a folder.
    File {
        /// Locked for as long as it is open.
        _locked: File,
    },
    /// Beside a journal in a table.
    Document {
        /// Written again and again.
        _held: HeldDocument,
    },
}

impl CommandLock {
    /// Takes the lock, or says who has it.
    pub async fn take(
        place: &LedgerPlace,
        migration: &Migration<Real>,
        owner: &str,
        say: Say,
    ) -> MigrationResult<Self> {
        if let Some(lock) = Self::take_if_free(place, migration, owner, say).await? {
            return Ok(lock);
        }
        let held_by = match place {
            LedgerPlace::Folder(folder) => {
                let by = holder_of_file(folder).during(WHO)?.holder.map_or_else(String::new, |by| format!(" as {by}"));
                format!("{}{by}", folder.join(LOCK_FILE).display())
            }
            LedgerPlace::Table(_) => {
                let seconds = (LEASE + LEASE_MARGIN).as_secs();
                say(&format!("looking for up to {seconds} s whether the command that holds the lock is alive"));
                match taken_from_the_dead(migration, owner, say).await? {
                    Taken::Ours(held) => return Ok(CommandLock::Document { _held: held }),
                    Taken::Alive(holder) => format!("the lock as {holder}"),
                }
            }
        };
        Err(MigrationError::Busy { held_by })
    }

    /// Takes the lock where nobody holds it who is alive; looks for as long as that takes to tell.
    pub async fn take_when_free(
        place: &LedgerPlace,
        migration: &Migration<Real>,
        owner: &str,
        say: Say,
    ) -> MigrationResult<Option<Self>> {
        match (Self::take_if_free(place, migration, owner, say).await?, place) {
            (None, LedgerPlace::Table(_)) => Ok(match taken_from_the_dead(migration, owner, say).await? {
                Taken::Ours(held) => Some(CommandLock::Document { _held: held }),
                Taken::Alive(_) => None,
            }),
            (taken, _) => Ok(taken),
        }
    }

    /// Takes the lock where nobody holds it.
    async fn take_if_free(
        place: &LedgerPlace,
        migration: &Migration<Real>,
        owner: &str,
        say: Say,
    ) -> MigrationResult<Option<Self>> {
        match place {
            LedgerPlace::Folder(folder) => {
                let mut locked = lock_file(folder, owner).during("lock the migration")?;
                if locked.is_none() {
                    migration.clock.sleep(TRY_AGAIN_AFTER).await;
                    locked = lock_file(folder, owner).during("lock the migration")?;
                }
                Ok(locked.map(|file| CommandLock::File { _locked: file }))
            }
            LedgerPlace::Table(_) => {
                let (version, record) = read(&migration.ledger).await.during(WHO)?;
                if record.is_some_and(|record| record.holder.is_some()) {
                    return Ok(None);
                }
                Ok(hold(migration, owner, version, say).await?.map(|held| CommandLock::Document { _held: held }))
            }
        }
    }
}

/// The lock on the file, where nobody else has it.
fn lock_file(folder: &Path, owner: &str) -> StoreResult<Option<File>> {
    let path = folder.join(LOCK_FILE);
    // Not cut off when it is opened: it may name who has the lock.
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|error| refused("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => {
            // Only a name for whoever looks: a full disk keeps nobody from the lock.
            if let Err(error) = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())) {
                tracing::debug!(%error, "the lock does not name its owner");
            }
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(refused("lock", &path, error)),
    }
}

/// Who has the lock on the file. Shares it for a moment where nobody has.
fn holder_of_file(folder: &Path) -> StoreResult<LockSeen> {
    let path = folder.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LockSeen::default()),
        Err(error) => return Err(refused("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(LockSeen::default()),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let named = file.read_to_string(&mut owner).is_ok() && !owner.is_empty();
            let holder = if named { owner } else { "another command".to_owned() };
            Ok(LockSeen { holder: Some(holder), version: None })
        }
        Err(TryLockError::Error(error)) => Err(refused("look at the lock on", &path, error)),
    }
}

fn refused(what: &str, path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Refused { attempt: format!("{what} {}", path.display()), detail: error.to_string() }
}

/// The document, as stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Who holds it; none: nobody.
    holder: Option<String>,
}

async fn read(ledger: &AnyLedger) -> StoreResult<(Option<Version>, Option<Record>)> {
    let Some((version, content)) = ledger.document(LOCK_DOCUMENT).await? else { return Ok((None, None)) };
    let record = serde_json::from_slice(&content).map_err(|error| StoreError::Damaged {
        attempt: format!("read the ledger's document {LOCK_DOCUMENT}"),
        detail: error.to_string(),
    })?;
    Ok((Some(version), Some(record)))
}

async fn write(ledger: &AnyLedger, expected: Option<Version>, holder: Option<&str>) -> Result<Version, StoreError> {
    let record = Record { holder: holder.map(str::to_owned) };
    let content = Bytes::from(serde_json::to_vec(&record).expect("a record is plain data"));
    ledger.put_document(LOCK_DOCUMENT, expected, content).await
}

enum Taken {
    Ours(HeldDocument),
    Alive(String),
}

/// Waits for as long as a holder that is alive cannot be silent.
async fn taken_from_the_dead(migration: &Migration<Real>, owner: &str, say: Say) -> MigrationResult<Taken> {
    let (first, record) = read(&migration.ledger).await.during(WHO)?;
    // What is written over is what was judged, not what may stand there by then.
    let (mut seen, mut holder) = (first, record.and_then(|record| record.holder));
    let began = migration.clock.now();
    while holder.is_some() && migration.clock.now() - began < LEASE + LEASE_MARGIN {
        migration.clock.sleep(LOOK_EVERY).await;
        let (version, record) = read(&migration.ledger).await.during(WHO)?;
        (seen, holder) = (version, record.and_then(|record| record.holder));
        match holder {
            Some(alive) if version != first => return Ok(Taken::Alive(alive)),
            _ => {}
        }
    }
    match hold(migration, owner, seen, say).await? {
        Some(held) => Ok(Taken::Ours(held)),
        None => Ok(Taken::Alive(holder.unwrap_or_else(|| "another that was quicker".to_owned()))),
    }
}

/// Writes us into the document, unless another was quicker.
async fn hold(
    migration: &Migration<Real>,
    owner: &str,
    expected: Option<Version>,
    say: Say,
) -> MigrationResult<Option<HeldDocument>> {
    match write(&migration.ledger, expected, Some(owner)).await {
        Ok(version) => Ok(Some(HeldDocument::keep(migration.ledger.clone(), owner.to_owned(), version, say))),
        Err(StoreError::Conflict { .. }) => Ok(None),
        written => written.map(|_| None).during("write down who drives this migration"),
    }
}

/// A document that says who we are, written again until it is dropped.
#[derive(Debug)]
pub struct HeldDocument {
    ledger: AnyLedger,
    owner: String,
    version: Arc<Mutex<Version>>,
    renewing: JoinHandle<()>,
}

impl HeldDocument {
    fn keep(ledger: AnyLedger, owner: String, version: Version, say: Say) -> Self {
        let version = Arc::new(Mutex::new(version));
        let renewing = tokio::spawn(renew(ledger.clone(), owner.clone(), version.clone(), say));
        Self { ledger, owner, version, renewing }
    }
}

async fn renew(ledger: AnyLedger, owner: String, version: Arc<Mutex<Version>>, say: Say) {
    loop {
        SystemClock.sleep(LEASE_RENEWAL).await;
        let mut version = version.lock().await;
        match write(&ledger, Some(*version), Some(&owner)).await {
            Ok(next) => *version = next,
            Err(StoreError::Conflict { .. }) => match ours(&ledger, &owner).await {
                Ok(Some(stored)) => *version = stored,
                Ok(None) => {
                    say(
                        "another command drives this migration by now, for this one had been silent for too long: it ends \
                         here; `krossing status` shows where the migration stands",
                    );
                    std::process::exit(1);
                }
                Err(error) => {
                    tracing::warn!(%error, "could not read the lock of this migration")
                }
            },
            Err(error) => tracing::warn!(%error, "could not renew the lock of this migration"),
        }
    }
}

/// The version of the document where it is still ours: a write whose answer was lost may have arrived.
async fn ours(ledger: &AnyLedger, owner: &str) -> StoreResult<Option<Version>> {
    let (version, record) = read(ledger).await?;
    Ok(version.filter(|_| record.is_some_and(|record| record.holder.as_deref() == Some(owner))))
}

impl Drop for HeldDocument {
    fn drop(&mut self) {
        self.renewing.abort();
        // The next command need not wait until we have surely stopped.
        let released = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let version = *self.version.lock().await;
                match write(&self.ledger, Some(version), None).await {
                    Err(StoreError::Conflict { .. }) => match ours(&self.ledger, &self.owner).await? {
                        Some(stored) => write(&self.ledger, Some(stored), None).await.map(drop),
                        None => Ok(()),
                    },
                    written => written.map(drop),
                }
            })
        });
        let released: StoreResult<()> = released;
        if let Err(error) = released {
            tracing::warn!(%error, "the lock of this migration was not released: it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commands_cannot_hold_one_file() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let lock = || lock_file(folder.path(), "alice").expect("a folder to write to");
        let held = lock().expect("nobody else has it");
        assert!(lock().is_none(), "the first still holds it");
        drop(held);
        assert!(lock().is_some(), "the first has let go");
    }

    #[test]
    fn who_looks_at_a_file_is_told_who_has_it_and_takes_it_from_nobody() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let seen = || holder_of_file(folder.path()).expect("a folder to read from");
        let driver = || seen().driver_since(&seen());
        assert_eq!(driver(), Driver::Nobody, "there is no lock yet");
        let lock = |owner| lock_file(folder.path(), owner).expect("a folder to write to");
        drop(lock("somebody with a longer name"));
        assert_eq!(driver(), Driver::Nobody, "the name of the last one is no lock");
        let held = lock("alice").expect("nobody else has it");
        assert_eq!(driver(), Driver::AtWork("alice".to_owned()));
        assert!(lock("bob").is_none());
        assert_eq!(driver(), Driver::AtWork("alice".to_owned()), "who was refused has not signed it");
        drop(held);
        assert_eq!(driver(), Driver::Nobody);
    }

    #[test]
    fn who_holds_a_document_and_does_not_renew_it_is_silent() {
        let seen = |version| LockSeen { holder: Some("alice".to_owned()), version: Some(version) };
        assert_eq!(seen(1).driver_since(&seen(1)), Driver::Silent("alice".to_owned()));
        assert_eq!(seen(2).driver_since(&seen(1)), Driver::AtWork("alice".to_owned()));
        assert_eq!(seen(1).driver_since(&LockSeen::default()), Driver::AtWork("alice".to_owned()));
        assert_eq!(LockSeen::default().driver_since(&seen(1)), Driver::Nobody);
    }
}
