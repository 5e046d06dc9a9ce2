//! Why a lane that runs in a process of its own has failed last: where many run, the workflow tells only that some did.

use bytes::Bytes;
use krossing_core::{
    LaneId,
    ports::{Ledger, Ports, StoreError},
};
use krossing_replication::LanePlan;
use krossing_runtime::{ForStep, Migration, MigrationResult};

fn document(lane: LaneId) -> String {
    format!("lane-failure/{lane}")
}

/// Writes down why a lane failed; nothing where it begins anew. Only to be told: that it cannot be written ends nothing.
pub async fn note_lane_failure<P: Ports>(migration: &Migration<P>, lane: LaneId, why: &str) {
    let written = async {
        let stored = migration.ledger.document(&document(lane)).await?;
        if stored.as_ref().map_or("".as_bytes(), |(_, content)| content) == why.as_bytes() {
            return Ok(());
        }
        let version = stored.map(|(version, _)| version);
        let put = migration.ledger.put_document(&document(lane), version, Bytes::from(why.to_owned())).await;
        put.map(drop)
    };
    let written: Result<(), StoreError> = written.await;
    if let Err(error) = written {
        tracing::warn!(%error, %lane, why, "why the lane failed could not be written down");
    }
}

/// Why lanes failed last, those that have not begun anew since.
pub async fn lane_failures<P: Ports>(migration: &Migration<P>, lanes: &[LanePlan]) -> MigrationResult<Vec<String>> {
    let mut failures = Vec::new();
    for lane in lanes {
        let stored = migration.ledger.document(&document(lane.id)).await.during("read why lanes failed")?;
        let why = stored.map(|(_, content)| String::from_utf8_lossy(&content).into_owned()).unwrap_or_default();
        if !why.is_empty() {
            failures.push(format!("{}: {why}", lane.id));
        }
    }
    Ok(failures)
}
