//! The end of an attempt: everything that was done is signed and stored, then the journal says that it ended.
//!
//! In this order, so that no migration is ever said to have ended without evidence of it. The entry that ends the
//! attempt is made first, signed as part of the journal, and only then appended: evidence whose entry was never appended
//! is left by a process that died in between, and the next attempt leaves its own beside it. The alias comes last.
//!
//! Invariants: what is stored was read back and verified; nothing is stored over an earlier attempt.
//!
//! Does not: decide how a migration ends.

use bytes::Bytes;
use krossing_core::{
    evidence::{
        Bundle, EVIDENCE_VERSION, PartitionEvidence, StoredObject, alias_key, attempt_key, attempts_prefix, verify,
    },
    journal::{EntryKind, Journal},
    plan::Scope,
    ports::{Clock, Objects, Ports, Signer},
    transition::State,
};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::Serialize;

/// Signs and stores what was done, journals that the attempt ended in `state`, and points the alias to it. `objects`
/// are what is stored beside it.
pub async fn end<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    state: State,
    reason: impl Into<String>,
    detail: impl Serialize,
    objects: &[StoredObject],
) -> MigrationResult<StoredObject> {
    let sealed = migration.seal(journal, state, reason, detail)?;
    let mut ended = journal.clone();
    ended.push(sealed.0.clone()).map_err(MigrationError::Journal)?;
    let document = sign(migration, &ended, state, objects).await?;
    let key = attempt_key(&migration.id, migration.clock.unix_ms(), state, &document);
    let stored = migration.store_evidence(key, document.clone(), true).await?;
    migration.append(journal, sealed).await?;
    migration.store_evidence(alias_key(&migration.id), document, false).await?;
    Ok(stored)
}

/// Points the alias to the evidence of the attempt that the journal says ended last, for a process may have died just
/// before it did. Answers where that evidence is.
pub async fn publish<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<StoredObject> {
    let attempts = migration.evidence.list(&attempts_prefix(&migration.id)).await.during("list the evidence")?;
    for key in attempts.into_iter().rev() {
        let document = migration.evidence.get(&key).await.during("read the evidence")?.unwrap_or_default();
        let of_this_journal = verify(&document, None).is_ok_and(|verified| verified.journal_hash == journal.tip_hash());
        if of_this_journal {
            let stored = migration.store_evidence(alias_key(&migration.id), document, false).await?;
            return Ok(StoredObject { key, ..stored });
        }
    }
    Err(MigrationError::Refused {
        sentence: format!(
            "no evidence below {} is of the journal as it stands: restore the evidence from a copy",
            attempts_prefix(&migration.id)
        ),
    })
}

async fn sign<P: Ports>(
    migration: &Migration<P>,
    journal: &Journal,
    outcome: State,
    objects: &[StoredObject],
) -> MigrationResult<Bytes> {
    let plan = krossing_plan::load(migration, journal).await?;
    let amendments = krossing_plan::load_amendments(migration, journal).await?;
    let scope: Scope = plan.scope(&amendments);
    let progress = migration.progress(&scope).await?;
    let reached_ready = journal.states().contains(&State::AwaitingClientSwitch);
    let (cutover, switched) = if reached_ready {
        (Some(migration.cutover_report(journal).await?), Some(migration.client_switch().await?.1))
    } else {
        (None, None)
    };
    let validation = match journal.last(EntryKind::Validated) {
        Some(_) => Some(migration.validation_report().await?),
        None => None,
    };
    let bundle = Bundle {
        version: EVIDENCE_VERSION,
        migration_id: &migration.id,
        tool_version: env!("CARGO_PKG_VERSION"),
        signed_unix_ms: migration.clock.unix_ms(),
        outcome,
        fingerprint: journal.fingerprint().unwrap_or_default(),
        journal: journal.entries(),
        plan: &plan,
        amendments: &amendments,
        copied: progress.values().map(|progress| progress.counts).sum(),
        partitions: progress
            .values()
            .map(|progress| PartitionEvidence {
                partition: &progress.partition,
                source_next: progress.source_next,
                target_next: progress.target_next,
                copied: progress.counts,
                gaps: &progress.gaps,
            })
            .collect(),
        cutover: cutover.as_ref(),
        client_switch: switched.as_ref(),
        validation: validation.as_ref(),
        objects,
    };
    let text = bundle.text().expect("evidence holds whole numbers and texts, which have a canonical form");
    let signed = migration.signer.sign(text).await.map_err(MigrationError::Sign)?;
    let document = Bytes::from(serde_json::to_vec(&signed).expect("a document is made of texts"));
    // What is handed out must hold for whoever checks it: better to know now.
    verify(&document, None).map_err(|error| MigrationError::NotReadBack {
        what: "the evidence".to_owned(),
        detail: format!("it does not verify: {error}"),
    })?;
    Ok(document)
}

#[cfg(test)]
mod tests;
