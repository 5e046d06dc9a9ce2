//! Ledger and objects in memory. Clones share what is stored, as two processes share a folder.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use krossing_core::{
    Generation, LaneId, TopicPartition,
    ports::{Ledger, ObjectLock, Objects, StoreError, StoreResult, Version},
    progress::PartitionProgress,
};

#[derive(Debug, Default)]
struct LedgerContent {
    journal: Vec<String>,
    documents: BTreeMap<String, (Version, Bytes)>,
    progress: BTreeMap<LaneId, (Generation, BTreeMap<TopicPartition, PartitionProgress>)>,
}

/// The migration's memory, in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    content: Arc<Mutex<LedgerContent>>,
}

impl MemoryLedger {
    fn content(&self) -> std::sync::MutexGuard<'_, LedgerContent> {
        self.content.lock().expect("no test goes on after a panic within a fake")
    }

    /// The journal's lines from `position` on, as they are at this moment.
    pub fn journal_from(&self, position: usize) -> Vec<String> {
        let content = self.content();
        content.journal.get(position..).map(<[String]>::to_vec).unwrap_or_default()
    }

    /// The names of all documents.
    pub fn document_names(&self) -> Vec<String> {
        self.content().documents.keys().cloned().collect()
    }
}

fn conflict(attempt: String) -> StoreError {
    StoreError::Conflict { attempt }
}

impl Ledger for MemoryLedger {
    async fn journal(&self) -> StoreResult<Vec<String>> {
        Ok(self.content().journal.clone())
    }

    async fn append_journal(&self, position: usize, line: &str) -> StoreResult<()> {
        assert!(!line.contains(['\n', '\0']), "a journal entry is one line of text");
        let journal = &mut self.content().journal;
        if journal.len() != position {
            return Err(conflict(format!("append line {} to the journal", position + 1)));
        }
        journal.push(line.to_owned());
        Ok(())
    }

    async fn document(&self, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        Ok(self.content().documents.get(name).cloned())
    }

    async fn put_document(&self, name: &str, expected: Option<Version>, content: Bytes) -> StoreResult<Version> {
        let documents = &mut self.content().documents;
        let stored = documents.get(name).map(|(version, _)| *version);
        if stored != expected {
            return Err(conflict(format!("write the document {name}")));
        }
        let version = stored.unwrap_or(0) + 1;
        documents.insert(name.to_owned(), (version, content));
        Ok(version)
    }

    async fn lane_progress(&self, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        let content = self.content();
        Ok(content.progress.get(&lane).map(|(_, lane)| lane.values().cloned().collect()).unwrap_or_default())
    }

    async fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        let mut content = self.content();
        let (last, stored) = content.progress.entry(lane).or_insert((generation, BTreeMap::new()));
        if *last > generation {
            return Err(conflict(format!("save the progress of {lane} as generation {generation}")));
        }
        *last = generation;
        stored.extend(progress.iter().map(|progress| (progress.partition.clone(), progress.clone())));
        Ok(())
    }
}

/// Objects in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryObjects {
    content: Arc<Mutex<BTreeMap<String, Bytes>>>,
    lacks_lock: Arc<AtomicBool>,
}

impl MemoryObjects {
    fn content(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.content.lock().expect("no test goes on after a panic within a fake")
    }

    /// Changes an object behind everybody's back; none takes it away.
    pub fn tamper(&self, key: &str, content: Option<Bytes>) {
        match content {
            Some(content) => self.content().insert(key.to_owned(), content),
            None => self.content().remove(key),
        };
    }

    /// From now on a bucket that was made without Object Lock, where what is signed is to be locked.
    pub fn take_object_lock_away(&self) {
        self.lacks_lock.store(true, Ordering::Relaxed);
    }
}

fn joined(parts: Vec<Bytes>) -> Bytes {
    parts.concat().into()
}

impl Objects for MemoryObjects {
    async fn put(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        self.content().insert(key.to_owned(), joined(parts));
        Ok(())
    }

    async fn put_new(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        let mut content = self.content();
        if content.contains_key(key) {
            return Err(conflict(format!("store the new object {key}")));
        }
        content.insert(key.to_owned(), joined(parts));
        Ok(())
    }

    async fn get(&self, key: &str) -> StoreResult<Option<Bytes>> {
        Ok(self.content().get(key).cloned())
    }

    async fn get_range(&self, key: &str, from: u64, bytes: u64) -> StoreResult<Bytes> {
        let content = self.content();
        let Some(object) = content.get(key) else {
            return Err(StoreError::Missing { attempt: format!("read {bytes} bytes at {from} of the object {key}") });
        };
        let length = object.len() as u64;
        let range = from.min(length) as usize..from.saturating_add(bytes).min(length) as usize;
        Ok(object.slice(range))
    }

    async fn list(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let content = self.content();
        Ok(content
            .range(prefix.to_owned()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect())
    }

    async fn object_lock(&self) -> StoreResult<ObjectLock> {
        Ok(if self.lacks_lock.load(Ordering::Relaxed) { ObjectLock::Missing } else { ObjectLock::NotWanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{ledger_suite, objects_suite};

    #[tokio::test]
    async fn the_ledger_in_memory_keeps_to_the_port() {
        ledger_suite(|| async { MemoryLedger::default() }).await;
    }

    #[tokio::test]
    async fn objects_in_memory_keep_to_the_port() {
        objects_suite(|| async { MemoryObjects::default() }).await;
    }
}
