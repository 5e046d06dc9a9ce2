//! Ledger, objects and signing key where the configuration puts them: in folders and files, or on AWS.
//!
//! One type for either, chosen when a migration is connected: with a type parameter each, everything above would be
//! compiled once more for each pairing. Calls of AWS are boxed: the SDK's futures are kilobytes, and nested so deeply
//! that the compiler gives up on what holds them.

use bytes::Bytes;
use krossing_aws::{DynamoLedger, KmsSigner, MskApi, S3Objects};
use krossing_core::{
    Generation, LaneId, Side,
    evidence::{SignedEvidence, is_signed},
    ports::{Ledger, Msk, MskResult, ObjectLock, Objects, SignError, Signer, StoreResult, Version},
    progress::PartitionProgress,
};
use krossing_local::{LocalLedger, LocalObjects, SigningKeyFile};

use crate::SystemClock;

/// The migration's memory.
#[derive(Debug, Clone)]
pub enum AnyLedger {
    /// In a folder.
    Folder(LocalLedger),
    /// In a DynamoDB table.
    Table(DynamoLedger),
}

impl Ledger for AnyLedger {
    async fn journal(&self) -> StoreResult<Vec<String>> {
        match self {
            AnyLedger::Folder(ledger) => ledger.journal().await,
            AnyLedger::Table(ledger) => Box::pin(ledger.journal()).await,
        }
    }

    async fn append_journal(&self, position: usize, line: &str) -> StoreResult<()> {
        match self {
            AnyLedger::Folder(ledger) => ledger.append_journal(position, line).await,
            AnyLedger::Table(ledger) => Box::pin(ledger.append_journal(position, line)).await,
        }
    }

    async fn document(&self, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        match self {
            AnyLedger::Folder(ledger) => ledger.document(name).await,
            AnyLedger::Table(ledger) => Box::pin(ledger.document(name)).await,
        }
    }

    async fn put_document(&self, name: &str, expected: Option<Version>, content: Bytes) -> StoreResult<Version> {
        match self {
            AnyLedger::Folder(ledger) => ledger.put_document(name, expected, content).await,
            AnyLedger::Table(ledger) => Box::pin(ledger.put_document(name, expected, content)).await,
        }
    }

    async fn lane_progress(&self, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        match self {
            AnyLedger::Folder(ledger) => ledger.lane_progress(lane).await,
            AnyLedger::Table(ledger) => Box::pin(ledger.lane_progress(lane)).await,
        }
    }

    async fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        match self {
            AnyLedger::Folder(ledger) => ledger.save_lane_progress(lane, generation, progress).await,
            AnyLedger::Table(ledger) => Box::pin(ledger.save_lane_progress(lane, generation, progress)).await,
        }
    }
}

/// Segments, or evidence.
#[derive(Debug, Clone)]
pub enum AnyObjects {
    /// In a folder.
    Folder(LocalObjects),
    /// In a bucket.
    Bucket {
        /// As the bucket keeps them.
        objects: S3Objects<SystemClock>,
        /// The same bucket, where signed documents are locked for as long as evidence is kept. Nothing else is: a
        /// probe of precheck would stay for years.
        signed: S3Objects<SystemClock>,
    },
}

impl Objects for AnyObjects {
    async fn put(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        match self {
            AnyObjects::Folder(objects) => objects.put(key, parts).await,
            AnyObjects::Bucket { signed, .. } if is_signed(key) => Box::pin(signed.put(key, parts)).await,
            AnyObjects::Bucket { objects, .. } => Box::pin(objects.put(key, parts)).await,
        }
    }

    async fn put_new(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        match self {
            AnyObjects::Folder(objects) => objects.put_new(key, parts).await,
            AnyObjects::Bucket { signed, .. } if is_signed(key) => Box::pin(signed.put_new(key, parts)).await,
            AnyObjects::Bucket { objects, .. } => Box::pin(objects.put_new(key, parts)).await,
        }
    }

    async fn get(&self, key: &str) -> StoreResult<Option<Bytes>> {
        match self {
            AnyObjects::Folder(objects) => objects.get(key).await,
            AnyObjects::Bucket { objects, .. } => Box::pin(objects.get(key)).await,
        }
    }

    async fn get_range(&self, key: &str, from: u64, bytes: u64) -> StoreResult<Bytes> {
        match self {
            AnyObjects::Folder(objects) => objects.get_range(key, from, bytes).await,
            AnyObjects::Bucket { objects, .. } => Box::pin(objects.get_range(key, from, bytes)).await,
        }
    }

    async fn list(&self, prefix: &str) -> StoreResult<Vec<String>> {
        match self {
            AnyObjects::Folder(objects) => objects.list(prefix).await,
            AnyObjects::Bucket { objects, .. } => Box::pin(objects.list(prefix)).await,
        }
    }

    async fn object_lock(&self) -> StoreResult<ObjectLock> {
        match self {
            AnyObjects::Folder(objects) => objects.object_lock().await,
            AnyObjects::Bucket { signed, .. } => Box::pin(signed.object_lock()).await,
        }
    }
}

/// The key that signs evidence.
#[derive(Debug, Clone)]
pub enum AnySigner {
    /// In a file.
    File(SigningKeyFile),
    /// In KMS.
    Kms(KmsSigner),
}

impl Signer for AnySigner {
    async fn key_id(&self) -> Result<String, SignError> {
        match self {
            AnySigner::File(key) => key.key_id().await,
            AnySigner::Kms(key) => Box::pin(key.key_id()).await,
        }
    }

    async fn sign(&self, bundle_json: String) -> Result<SignedEvidence, SignError> {
        match self {
            AnySigner::File(key) => key.sign(bundle_json).await,
            AnySigner::Kms(key) => Box::pin(key.sign(bundle_json)).await,
        }
    }
}

/// MSK's own API, where a cluster's ARN is given.
#[derive(Debug, Clone)]
pub struct BoxedMsk(pub MskApi);

impl Msk for BoxedMsk {
    async fn describe(&self, side: Side) -> MskResult {
        Box::pin(self.0.describe(side)).await
    }
}
