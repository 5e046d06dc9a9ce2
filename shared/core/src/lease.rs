//! Who owns a lane, and when another may take it.
//!
//! The record lives in the ledger and is only written by compare-and-swap. Clocks of two machines are never compared:
//! an owner renews by raising `beat`, and a taker takes only what it has seen unchanged for longer than a lease on its
//! own clock. A lease alone does not keep a paused owner from sending; the fence does. It keeps two owners from fencing
//! each other in turn, and says whose producers a lane's batches may be of.
//!
//! Invariants: the generation rises with every change of owner and with nothing else; producers are only added; a
//! closed lane is never taken, only opened again by a new decision of the operator.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{LEASE, LEASE_MARGIN},
    types::{Generation, Producer},
};

/// The version of records written now.
pub const LEASE_VERSION: u32 = 1;

/// A lane's lease, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Of this format.
    pub version: u32,
    /// How often the lane has changed hands.
    pub generation: Generation,
    /// Who has it, or had it last: host, process, start.
    pub owner: String,
    /// Raised with each renewal.
    pub beat: u64,
    /// Whether it is held.
    pub state: LeaseState,
    /// What the lane writes with.
    pub transactional_id: String,
    /// All producers that have ever written the lane, the newest last.
    pub producers: Vec<Producer>,
}

/// Whether a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// By its owner, as long as it renews.
    Held,
    /// By nobody: its owner gave it back with nothing on its way.
    Released,
    /// By nobody, and nobody may take it: the lane has been fenced for the last time.
    Closed,
}

impl LeaseRecord {
    /// The first lease of a lane, held by `owner`.
    pub fn first(owner: &str, transactional_id: &str) -> Self {
        Self {
            version: LEASE_VERSION,
            generation: Generation(1),
            owner: owner.to_owned(),
            beat: 0,
            state: LeaseState::Held,
            transactional_id: transactional_id.to_owned(),
            producers: Vec::new(),
        }
    }

    /// The lease after `owner` has taken it.
    pub fn taken_by(&self, owner: &str) -> Self {
        Self {
            generation: Generation(self.generation.0 + 1),
            owner: owner.to_owned(),
            beat: 0,
            state: LeaseState::Held,
            ..self.clone()
        }
    }

    /// Adds a producer, before it writes anything.
    pub fn remember(&mut self, producer: Producer) {
        if self.producers.last() != Some(&producer) {
            self.producers.retain(|known| *known != producer);
            self.producers.push(producer);
        }
    }
}

/// What a taker has seen of another's lease, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    generation: Generation,
    beat: u64,
    since: Instant,
}

impl Observation {
    /// A lease as it was read. `since` is a time *after* the answer came: the owner may have renewed until then.
    pub fn new(record: &LeaseRecord, since: Instant) -> Self {
        Self { generation: record.generation, beat: record.beat, since }
    }

    /// Whether nobody has renewed or taken it since.
    pub fn unchanged(&self, record: &LeaseRecord) -> bool {
        record.generation == self.generation && record.beat == self.beat
    }

    /// Whether an owner that was seen unchanged by a read begun at `now` has surely stopped sending.
    pub fn may_take(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= TAKE_AFTER
    }
}

/// How long a lease must have been seen unchanged.
pub const TAKE_AFTER: Duration = LEASE.saturating_add(LEASE_MARGIN);

/// Until when an owner may send, if it began the renewal that succeeded last at `renewal_begun`.
pub fn send_before(renewal_begun: Instant) -> Instant {
    renewal_begun + LEASE.saturating_sub(LEASE_MARGIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn producer(id: i64, epoch: i16) -> Producer {
        Producer { id, epoch }
    }

    #[test]
    fn a_change_of_owner_raises_the_generation_and_keeps_the_producers() {
        let mut record = LeaseRecord::first("a", "krossing.m.0");
        record.remember(producer(7, 0));
        record.beat = 9;
        record.state = LeaseState::Released;
        let taken = record.taken_by("b");
        assert_eq!((taken.generation, taken.owner.as_str(), taken.beat), (Generation(2), "b", 0));
        assert_eq!((taken.state, taken.producers), (LeaseState::Held, vec![producer(7, 0)]));
    }

    #[test]
    fn a_producer_is_remembered_once_with_the_newest_last() {
        let mut record = LeaseRecord::first("a", "t");
        for id in [1, 2, 1, 1, 3] {
            record.remember(producer(id, 0));
        }
        assert_eq!(record.producers, [producer(2, 0), producer(1, 0), producer(3, 0)]);
    }

    proptest! {
        #[test]
        fn nobody_takes_while_the_owner_may_still_send(
            renewal_begun in 0u64..60_000, write_took in 0u64..30_000, look_every in 1u64..20_000, offset in 0u64..60_000
        ) {
            // One true time for both; each reads only its own clock, whose zero does not matter.
            let zero = Instant::now();
            let at = |ms: u64| zero + Duration::from_millis(ms);
            let last_send = send_before(at(renewal_begun));
            let mut seen: Option<Observation> = None;
            let mut record = LeaseRecord::first("a", "t");
            for look in 0..40 {
                let now = offset + look * look_every;
                // The last renewal becomes visible when its write ends; the owner then dies.
                record.beat = u64::from(now >= renewal_begun + write_took);
                match seen {
                    Some(observed) if observed.unchanged(&record) => {
                        if observed.may_take(at(now)) {
                            // Either the lease has run out, or the renewal had not even been written: then the
                            // owner's compare-and-swap fails against the taker's and it never sends under it.
                            prop_assert!(at(now) > last_send || record.beat == 0);
                            break;
                        }
                    }
                    _ => seen = Some(Observation::new(&record, at(now))),
                }
            }
        }
    }
}
