//! How one process that tails lets another have the lanes.
//!
//! `execute --keep-tailing` goes on copying until a cutover wants the lanes for itself: an owner that is alive is never
//! taken from, so that it has to be asked. The question is a document of the ledger whose version rises with each
//! asking; the answer is that the leases are released.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use krossing_core::{
    ErrorClass, LaneId,
    lease::{LeaseState, Observation},
    limits::{CALL_RETRY_MAX, LEASE_RENEWAL, MARK_VISIBLE_WAIT_MAX, PRODUCE_REPLICAS_WAIT_MAX, REQUEST_WAIT_MAX},
    ports::{Clock, Ledger, Ports, StoreError, Version},
};
use krossing_replication::{LanePlan, read_lease};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};

const DOCUMENT: &str = "hand-over";

/// How often leases and the question are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An owner that has not renewed for this long is dead, or as good as: whoever takes its lanes waits as long as the
/// lease demands.
const SILENT_AFTER: Duration = LEASE_RENEWAL.saturating_mul(2).saturating_add(Duration::from_secs(1));

/// How long an owner that is alive may take to bring its lanes to rest: what is in flight has to be answered first, and a
/// fence begun has to be seen. Brokers that restart meanwhile make it as long as each of these may be. Nobody stands
/// still for it.
const HAND_OVER_WAIT_MAX: Duration = PRODUCE_REPLICAS_WAIT_MAX
    .saturating_add(REQUEST_WAIT_MAX)
    .saturating_add(CALL_RETRY_MAX.saturating_mul(2))
    .saturating_add(MARK_VISIBLE_WAIT_MAX);

/// The question as it stands: a higher one later means that somebody has asked.
pub async fn question<P: Ports>(migration: &Migration<P>) -> MigrationResult<Option<Version>> {
    let document = migration.ledger.document(DOCUMENT).await.during("look whether a cutover wants the lanes")?;
    Ok(document.map(|(version, _)| version))
}

/// Ends when somebody asks for the lanes after `seen`. A ledger that does not answer for now is asked again.
pub async fn asked<P: Ports>(migration: &Migration<P>, seen: Option<Version>) -> MigrationResult<()> {
    loop {
        match question(migration).await {
            Ok(now) if now != seen => return Ok(()),
            Ok(_) => {}
            Err(error) if error.class() == ErrorClass::Retryable => tracing::warn!(%error, "looking again"),
            Err(error) => return Err(error),
        }
        migration.clock.sleep(LOOK_EVERY).await;
    }
}

/// Asks whoever runs lanes to let go of them, and waits until nobody does that is alive.
pub async fn ask<P: Ports>(migration: &Migration<P>, lanes: &[LanePlan], owner: &str) -> MigrationResult<()> {
    // Also whoever is only about to take one: nobody may be alive just now, and somebody in a moment.
    tell(migration, owner).await?;
    let started = migration.clock.now();
    let mut seen: BTreeMap<LaneId, Seen> = BTreeMap::new();
    loop {
        let holders = alive(migration, lanes, &mut seen).await?;
        if holders.is_empty() {
            return Ok(());
        }
        if migration.clock.now() - started > HAND_OVER_WAIT_MAX {
            return Err(MigrationError::Refused {
                sentence: format!(
                    "lanes are run by {}, which does not let go of them: stop that process, then run the command again",
                    holders.join(", ")
                ),
            });
        }
        migration.clock.sleep(LOOK_EVERY).await;
    }
}

/// Tells whoever runs lanes to let go of them, and does not wait until that is done.
pub async fn tell<P: Ports>(migration: &Migration<P>, owner: &str) -> MigrationResult<()> {
    let expected = question(migration).await?;
    let content = owner.as_bytes().to_vec().into();
    match migration.ledger.put_document(DOCUMENT, expected, content).await {
        // Another has told them in the same moment.
        Err(StoreError::Conflict { .. }) => Ok(()),
        told => told.map(drop).during("ask for the lanes"),
    }
}

struct Seen {
    lease: Observation,
    since: Instant,
}

/// The owners of held lanes that may be alive.
async fn alive<P: Ports>(
    migration: &Migration<P>,
    lanes: &[LanePlan],
    seen: &mut BTreeMap<LaneId, Seen>,
) -> MigrationResult<Vec<String>> {
    let mut holders = Vec::new();
    for lane in lanes {
        let lease = read_lease(&migration.ledger, lane.id).await.during("read who runs the lanes")?;
        let Some((_, record)) = lease.filter(|(_, record)| record.state == LeaseState::Held) else { continue };
        let now = migration.clock.now();
        let known = seen.entry(lane.id).or_insert_with(|| Seen { lease: Observation::new(&record, now), since: now });
        if !known.lease.unchanged(&record) {
            *known = Seen { lease: Observation::new(&record, now), since: now };
        }
        if now - known.since < SILENT_AFTER && !holders.contains(&record.owner) {
            holders.push(record.owner);
        }
    }
    Ok(holders)
}
