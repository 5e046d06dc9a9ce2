//! A migration as every phase sees it: its ports, its configuration, and its journal.
//!
//! Generic over the ports, so that the phases' tests run on fakes what the command runs on clusters.

use std::ops::Deref;

use krossing_core::{
    ErrorClass, MigrationId,
    config::Config,
    journal::{Actor, EntryKind, Journal, JournalEntry, JournalError, Stamp},
    ports::{Clock, ClusterError, Ledger, PortSet, Ports, SignError, StoreError},
    transition::State,
};
use serde::Serialize;

/// The ports of one migration, and what the operator has set.
pub struct Migration<P: Ports> {
    /// Its id.
    pub id: MigrationId,
    /// What the operator has set.
    pub config: Config,
    /// On whose behalf its journal is written.
    pub by: Actor,
    /// Each phase is a process with an AWS role of its own, so that what this one may do says nothing of the others.
    pub role_per_phase: bool,
    /// What it works on.
    pub ports: PortSet<P>,
}

impl<P: Ports> Deref for Migration<P> {
    type Target = PortSet<P>;

    fn deref(&self) -> &PortSet<P> {
        &self.ports
    }
}

/// Why a step of a migration could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A cluster did not do what it was asked.
    #[error("could not {attempt}")]
    Cluster {
        /// What the step was for.
        attempt: &'static str,
        /// What was asked and what came back.
        #[source]
        source: ClusterError,
    },
    /// Ledger or objects did not do what they were asked.
    #[error("could not {attempt}")]
    Store {
        /// What the step was for.
        attempt: &'static str,
        /// What was asked and what came back.
        #[source]
        source: StoreError,
    },
    /// Evidence could not be signed.
    #[error("could not sign the evidence")]
    Sign(#[source] SignError),
    /// The journal is damaged, of another migration, or does not allow the step.
    #[error("the journal does not allow this")]
    Journal(#[source] JournalError),
    /// Another command drives it.
    #[error(
        "another command drives this migration (it holds {held_by}): wait until it ends or stop it; `krossing status` \
         shows where it stands"
    )]
    Busy {
        /// What it holds.
        held_by: String,
    },
    /// A rule says no; the sentence says why and what to do.
    #[error("{sentence}")]
    Refused {
        /// Why, and what to do.
        sentence: String,
    },
    /// What was written reads back as something else.
    #[error("{what} is not as it was written: {detail}")]
    NotReadBack {
        /// What was written.
        what: String,
        /// What was read.
        detail: String,
    },
}

impl MigrationError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            MigrationError::Cluster { source, .. } => source.class(),
            MigrationError::Store { source, .. } => source.class(),
            MigrationError::Sign(_) | MigrationError::Journal(_) | MigrationError::Refused { .. } => {
                ErrorClass::Refused
            }
            MigrationError::Busy { .. } => ErrorClass::Retryable,
            MigrationError::NotReadBack { .. } => ErrorClass::DataAtRisk,
        }
    }
}

/// The answer of a step.
pub type MigrationResult<T> = Result<T, MigrationError>;

/// Says what a call on a cluster was for.
pub trait ForStep<T> {
    /// Names the step that failed.
    fn during(self, attempt: &'static str) -> MigrationResult<T>;
}

impl<T> ForStep<T> for Result<T, ClusterError> {
    fn during(self, attempt: &'static str) -> MigrationResult<T> {
        self.map_err(|source| MigrationError::Cluster { attempt, source })
    }
}

impl<T> ForStep<T> for Result<T, StoreError> {
    fn during(self, attempt: &'static str) -> MigrationResult<T> {
        self.map_err(|source| MigrationError::Store { attempt, source })
    }
}

impl<P: Ports> Migration<P> {
    fn stamp(&self) -> Stamp {
        Stamp { at_unix_ms: self.clock.unix_ms(), by: self.by.clone() }
    }

    /// The journal as it is stored, its chain checked.
    pub async fn journal(&self) -> MigrationResult<Journal> {
        let lines = self.ledger.journal().await.during("read the journal")?;
        Journal::parse(&lines).map_err(MigrationError::Journal)
    }

    /// Journals the first entry.
    pub async fn begin(
        &self,
        journal: &mut Journal,
        fingerprint: String,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> MigrationResult<()> {
        let sealed = journal.begin(fingerprint, self.stamp(), reason, json(detail));
        self.append(journal, sealed.map_err(MigrationError::Journal)?).await
    }

    /// Journals a change of state. Its effects may be relied on once this returns.
    pub async fn enter(
        &self,
        journal: &mut Journal,
        state: State,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> MigrationResult<()> {
        let sealed = self.seal(journal, state, reason, detail)?;
        self.append(journal, sealed).await
    }

    /// Journals a fact within a state.
    pub async fn note(
        &self,
        journal: &mut Journal,
        kind: EntryKind,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> MigrationResult<()> {
        self.note_by(self.by.clone(), journal, kind, reason, detail).await
    }

    /// Journals a fact within a state on behalf of somebody else.
    pub async fn note_by(
        &self,
        by: Actor,
        journal: &mut Journal,
        kind: EntryKind,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> MigrationResult<()> {
        let sealed = journal.note(kind, Stamp { by, ..self.stamp() }, reason, json(detail));
        self.append(journal, sealed.map_err(MigrationError::Journal)?).await
    }

    /// The entry of a change of state, not yet journaled.
    pub fn seal(
        &self,
        journal: &Journal,
        state: State,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> MigrationResult<(JournalEntry, String)> {
        journal.transition(state, self.stamp(), reason, json(detail)).map_err(MigrationError::Journal)
    }

    /// Journals an entry that was made for the journal as it stands.
    pub async fn append(&self, journal: &mut Journal, (entry, line): (JournalEntry, String)) -> MigrationResult<()> {
        self.ledger.append_journal(journal.position(), &line).await.during("write the journal")?;
        tracing::info!(state = %entry.to, kind = ?entry.kind, reason = entry.reason, "journaled");
        journal.push(entry).map_err(MigrationError::Journal)
    }
}

fn json(detail: impl Serialize) -> serde_json::Value {
    serde_json::to_value(detail).expect("details are plain data")
}
