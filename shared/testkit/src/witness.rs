//! The independent client over a [`FakeCluster`]: what an application that reads committed would see.

use krossing_core::ports::{ClusterResult, ReadRange, VisibleRecord, Witness};

use crate::cluster::FakeCluster;

/// Reads a fake cluster as applications do.
#[derive(Debug, Clone)]
pub struct FakeWitness {
    cluster: FakeCluster,
}

impl FakeWitness {
    /// A client of `cluster`.
    pub fn new(cluster: FakeCluster) -> Self {
        Self { cluster }
    }
}

impl Witness for FakeWitness {
    async fn read(
        &self,
        range: ReadRange,
        mut see: impl FnMut(VisibleRecord) -> bool + Send + 'static,
    ) -> ClusterResult<()> {
        let records = self.cluster.visible_records(&range.partition);
        let within = records.into_iter().filter(|record| (range.from..range.to).contains(&record.offset));
        for record in within.take(range.records_max) {
            if !see(record) {
                break;
            }
        }
        Ok(())
    }
}
