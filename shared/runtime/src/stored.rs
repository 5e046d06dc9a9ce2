//! What phases leave for each other in the ledger and the evidence, read in one place.
//!
//! Something that is there and cannot be read is never taken for something that is not there.

use std::collections::BTreeMap;

use bytes::Bytes;
use krossing_core::{
    TopicPartition,
    client_switch::{CLIENT_SWITCH_DOCUMENT, ClientSwitchRecord},
    cutover::{CutoverReport, cutover_report_key},
    evidence::StoredObject,
    journal::Journal,
    offset_map::sha256_hex,
    plan::Scope,
    ports::{Ledger, Objects, Ports, StoreError, Version},
    progress::PartitionProgress,
    validation::{ValidationReport, validation_report_key},
};
use serde::de::DeserializeOwned;

use crate::{ForStep, Migration, MigrationError, MigrationResult};

impl<P: Ports> Migration<P> {
    /// How far each partition was copied.
    pub async fn progress(&self, scope: &Scope) -> MigrationResult<BTreeMap<TopicPartition, PartitionProgress>> {
        let mut progress = BTreeMap::new();
        for lane in &scope.lanes {
            let lane = self.ledger.lane_progress(lane.id).await.during("read how far lanes have copied")?;
            progress.extend(lane.into_iter().map(|progress| (progress.partition.clone(), progress)));
        }
        Ok(progress)
    }

    /// What the cutover that reached READY left behind, held against the journal.
    pub async fn cutover_report(&self, journal: &Journal) -> MigrationResult<CutoverReport> {
        let attempt = "read the cutover's report";
        let named = journal.ready().and_then(|ready| ready.detail["report_sha256"].as_str());
        let digest = named.ok_or_else(|| MigrationError::Refused {
            sentence: "no cutover has reached READY, says the journal, so that none has left a report".to_owned(),
        })?;
        let key = cutover_report_key(&self.id, digest);
        let stored = self.evidence.get(&key).await.during(attempt)?;
        let stored = stored.ok_or_else(|| StoreError::Missing { attempt: format!("read {key}") }).during(attempt)?;
        let found = sha256_hex(&stored);
        if found != digest {
            let detail = format!("its digest is {found} and not {digest}, as READY names it; restore it from a copy");
            return Err(MigrationError::NotReadBack { what: key, detail });
        }
        parse(&key, &stored).during(attempt)
    }

    /// What the last validation found.
    pub async fn validation_report(&self) -> MigrationResult<ValidationReport> {
        self.stored_report(&validation_report_key(&self.id), "read the validation's report").await
    }

    /// What was written for which group, and which have switched, with the version to write over; nothing before a
    /// cutover.
    pub async fn client_switch(&self) -> MigrationResult<(Option<Version>, ClientSwitchRecord)> {
        let attempt = "read which groups have switched";
        match self.ledger.document(CLIENT_SWITCH_DOCUMENT).await.during(attempt)? {
            None => Ok((None, ClientSwitchRecord::default())),
            Some((version, content)) => Ok((Some(version), parse(CLIENT_SWITCH_DOCUMENT, &content).during(attempt)?)),
        }
    }

    /// A report of the evidence, which must be there.
    pub async fn stored_report<T: DeserializeOwned>(&self, key: &str, attempt: &'static str) -> MigrationResult<T> {
        let stored = self.evidence.get(key).await.during(attempt)?;
        let gone = || StoreError::Missing { attempt: format!("read {key}") };
        stored.ok_or_else(gone).and_then(|stored| parse(key, &stored)).during(attempt)
    }

    /// Stores an object in the evidence and reads it back. With `new`, nothing of another content is stored over.
    pub async fn store_evidence(&self, key: String, content: Bytes, new: bool) -> MigrationResult<StoredObject> {
        let parts = vec![content.clone()];
        let put = if new { self.evidence.put_new(&key, parts).await } else { self.evidence.put(&key, parts).await };
        match put {
            // An answer was lost, or a process died behind it: whether it is ours is seen below.
            Err(StoreError::Conflict { .. }) if new => {}
            put => put.during("store evidence")?,
        }
        let read_back = self.evidence.get(&key).await.during("read back evidence")?;
        if read_back.as_ref() != Some(&content) {
            let read = read_back.map_or(0, |read| read.len());
            let detail = format!("{} bytes were written, {read} read", content.len());
            return Err(MigrationError::NotReadBack { what: key, detail });
        }
        Ok(StoredObject { key, sha256: sha256_hex(&content) })
    }
}

fn parse<T: DeserializeOwned>(name: &str, content: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(content).map_err(|error| StoreError::Damaged {
        attempt: format!("read {name}"),
        detail: format!("{error}; restore it from a copy"),
    })
}
