#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use krossing_core::{TopicPartition, config::Config, evidence::SignedEvidence, records::Codec};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, record, tester};
use serde_json::{Value, json};

use super::*;

const CONFIG: &str = "migration:
  source: {bootstrap_servers: 'a:1'}
  target: {bootstrap_servers: 'b:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
";

fn migration(world: &FakeWorld, faults: &Faults) -> Migration<FakePorts> {
    let config = Config::parse(CONFIG, |_| None).unwrap();
    Migration { id: "m".parse().unwrap(), config, by: tester(), role_per_phase: false, ports: world.process(faults) }
}

async fn begun() -> FakeWorld {
    let world = FakeWorld::new(1);
    world.source.create_topic("orders", 1, &[]);
    world.source.append(&TopicPartition::new("orders", 0), Codec::None, vec![record("k", "v")]);
    let migration = migration(&world, &Faults::none());
    let (source, target) = krossing_plan::collect(&migration).await.unwrap();
    let plan = krossing_plan::make(&migration, &source, &target);
    krossing_plan::store(&migration, &mut Journal::default(), &plan).await.unwrap();
    world
}

async fn give_up(migration: &Migration<FakePorts>) -> MigrationResult<StoredObject> {
    let mut journal = migration.journal().await?;
    end(migration, &mut journal, State::RolledBack, "enough", json!({}), &[]).await
}

async fn document(world: &FakeWorld, key: &str) -> Bytes {
    world.evidence.get(key).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_signed_is_the_whole_journal_with_its_last_entry_and_the_plan() {
    let world = begun().await;
    let migration = migration(&world, &Faults::none());
    let stored = give_up(&migration).await.unwrap();
    let journal = migration.journal().await.unwrap();
    let alias = document(&world, "m/evidence.json").await;
    assert_eq!(alias, document(&world, &stored.key).await);
    let verified = verify(&alias, Some(&migration.signer.key_id().await.unwrap())).unwrap();
    assert_eq!((verified.outcome, verified.journal_hash.as_str()), (State::RolledBack, journal.tip_hash()));
    let signed: SignedEvidence = serde_json::from_slice(&alias).unwrap();
    let bundle: Value = serde_json::from_str(&signed.bundle_json).unwrap();
    assert_eq!(bundle["plan"]["topics"][0]["name"], "orders");
    assert_eq!(bundle["journal"].as_array().unwrap().len(), journal.position());
    assert_eq!(bundle["cutover"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_says_the_end_has_evidence_of_it_whenever_the_process_died() {
    let calls = {
        let faults = Faults::none();
        give_up(&migration(&begun().await, &faults)).await.unwrap();
        faults.calls().len() as u64
    };
    for number in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::FailBefore, Fault::FailAfter] {
            let world = begun().await;
            let faults = Faults::at(number, fault);
            let dying = migration(&world, &faults);
            tokio::select! {
                _ = give_up(&dying) => {}
                () = faults.crashed() => {}
            }
            let healthy = migration(&world, &Faults::none());
            let journal = healthy.journal().await.unwrap();
            let attempts = world.evidence.list("m/evidence-attempts/").await.unwrap();
            if journal.tip() == Some(State::RolledBack) {
                let published = publish(&healthy, &journal).await.unwrap();
                assert!(attempts.contains(&published.key), "{number} {fault:?}");
            } else {
                assert!(world.evidence.get("m/evidence.json").await.unwrap().is_none(), "{number} {fault:?}");
                give_up(&healthy).await.unwrap();
            }
            let verified = verify(&document(&world, "m/evidence.json").await, None).unwrap();
            assert_eq!(verified.journal_hash, healthy.journal().await.unwrap().tip_hash(), "{number} {fault:?}");
        }
    }
}
