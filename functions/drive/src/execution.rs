//! Which execution of a workflow drives a migration, as the ledger has it.
//!
//! Written by the first turn of an execution, and read by every later one, so that a late turn of an execution that has
//! ended does not meet its successor's. Whether the execution still runs the ledger cannot know: its service does.

use krossing_core::ports::{Ledger, Ports, StoreError, Version};
use krossing_runtime::{ForStep, Migration, MigrationResult};
use serde::{Deserialize, Serialize};

/// The document that names it.
const DOCUMENT: &str = "driver";

/// What is in it.
#[derive(Debug, Serialize, Deserialize)]
struct Driver {
    execution: String,
}

/// The execution that has claimed the migration last, and the version of its document; none before the first.
pub async fn driving<P: Ports>(migration: &Migration<P>) -> MigrationResult<(Option<Version>, Option<String>)> {
    let attempt = "read which execution drives this migration";
    let Some((version, content)) = migration.ledger.document(DOCUMENT).await.during(attempt)? else {
        return Ok((None, None));
    };
    let driver = serde_json::from_slice::<Driver>(&content)
        .map_err(|error| StoreError::Damaged { attempt: DOCUMENT.to_owned(), detail: error.to_string() });
    Ok((Some(version), Some(driver.during(attempt)?.execution)))
}

/// Claims the migration for `execution`, where its document is still as it was at `version`.
pub async fn claim<P: Ports>(
    migration: &Migration<P>,
    version: Option<Version>,
    execution: &str,
) -> MigrationResult<()> {
    let content = serde_json::to_vec(&Driver { execution: execution.to_owned() }).expect("a driver is plain data");
    let written = migration.ledger.put_document(DOCUMENT, version, content.into()).await;
    written.map(drop).during("write down which execution drives this migration")
}
