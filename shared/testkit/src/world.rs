//! Two clusters, a ledger, objects and a freeze: everything a migration touches, and what one process has of it.

use krossing_core::{
    Side,
    journal::{Actor, KnownBy},
    ports::{PortSet, Ports},
};

use crate::{
    clock::HandClock, cluster::FakeCluster, faults::Faults, faulty::Faulty, freeze::FakeFreeze, memory::MemoryLedger,
    memory::MemoryObjects, msk::FakeMsk, signer::FakeSigner, witness::FakeWitness,
};

/// What outlives every process.
#[derive(Debug, Clone)]
pub struct FakeWorld {
    /// The source cluster.
    pub source: FakeCluster,
    /// The target cluster.
    pub target: FakeCluster,
    /// Journal, leases, progress.
    pub ledger: MemoryLedger,
    /// Segments.
    pub segments: MemoryObjects,
    /// Offset map, plan, reports.
    pub evidence: MemoryObjects,
    /// Producers' standstill.
    pub freeze: FakeFreeze,
    /// Who hosts the clusters.
    pub msk: FakeMsk,
    /// Everybody's time.
    pub clock: HandClock,
}

/// What one process has of the world.
pub type FakeProcess = PortSet<FakePorts>;

/// The ports of a [`FakeProcess`], as one type parameter.
#[derive(Debug, Clone, Copy)]
pub struct FakePorts;

impl Ports for FakePorts {
    type Source = Faulty<FakeCluster>;
    type Target = Faulty<FakeCluster>;
    type SourceWitness = Faulty<FakeWitness>;
    type TargetWitness = Faulty<FakeWitness>;
    type Ledger = Faulty<MemoryLedger>;
    type Objects = Faulty<MemoryObjects>;
    type Clock = HandClock;
    type Freeze = Faulty<FakeFreeze>;
    type Signer = Faulty<FakeSigner>;
    type Msk = Faulty<FakeMsk>;
}

impl FakeWorld {
    /// Empty, with `brokers` brokers on either side.
    pub fn new(brokers: i32) -> Self {
        let clock = HandClock::default();
        Self {
            source: FakeCluster::new(Side::Source, brokers, clock),
            target: FakeCluster::new(Side::Target, brokers, clock),
            ledger: MemoryLedger::default(),
            segments: MemoryObjects::default(),
            evidence: MemoryObjects::default(),
            freeze: FakeFreeze::default(),
            msk: FakeMsk::default(),
            clock,
        }
    }

    /// The ports of a process with these faults.
    pub fn process(&self, faults: &Faults) -> FakeProcess {
        FakeProcess {
            source: Faulty::source(self.source.clone(), faults),
            target: Faulty::target(self.target.clone(), faults),
            source_witness: Faulty::source(FakeWitness::new(self.source.clone()), faults),
            target_witness: Faulty::target(FakeWitness::new(self.target.clone()), faults),
            ledger: Faulty::named("ledger", self.ledger.clone(), faults),
            segments: Faulty::named("segments", self.segments.clone(), faults),
            evidence: Faulty::named("evidence", self.evidence.clone(), faults),
            freeze: Faulty::named("freeze", self.freeze.clone(), faults),
            clock: self.clock,
            signer: Faulty::named("signer", FakeSigner::default(), faults),
            msk: Faulty::named("msk", self.msk.clone(), faults),
        }
    }
}

/// On whose behalf fakes are migrated.
pub fn tester() -> Actor {
    Actor { who: "tester@here".to_owned(), known_by: KnownBy::OperatingSystem }
}
