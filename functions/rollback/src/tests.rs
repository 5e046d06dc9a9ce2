#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use krossing_core::{
    MigrationId, TopicPartition,
    evidence::{alias_key, attempts_prefix, verify},
    ports::{FreezeError, Objects, ProducerFreeze},
};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, FreezeCall, tester};

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

/// A migration that has come to `state`, with a topic and a group's position on the target.
async fn at(state: State) -> (FakeWorld, Journal) {
    let world = FakeWorld::new(1);
    world.source.create_topic("it's", 1, &[]);
    let migration = migration(&world, &Faults::none());
    let mut journal = Journal::default();
    let (source, target) = krossing_plan::collect(&migration).await.unwrap();
    let plan = krossing_plan::make(&migration, &source, &target);
    krossing_plan::store(&migration, &mut journal, &plan).await.unwrap();
    for next in State::ALL.into_iter().skip(1).take_while(|next| *next <= state) {
        migration.enter(&mut journal, next, "on its way", json!({})).await.unwrap();
    }
    world.target.create_topic("it's", 1, &[]);
    world.target.commit("readers", &TopicPartition::new("it's", 0), 1, "");
    (world, journal)
}

async fn rollback(world: &FakeWorld, producers_released: bool) -> MigrationResult<RollbackReport> {
    let migration = migration(world, &Faults::none());
    let mut journal = migration.journal().await?;
    run(&migration, &mut journal, producers_released).await
}

async fn frozen(world: &FakeWorld, journal: &mut Journal) {
    let migration = migration(world, &Faults::none());
    migration.note(journal, EntryKind::FreezeAsked, "stand still", json!({})).await.unwrap();
    migration.freeze.freeze(1).await.unwrap();
}

async fn tip(world: &FakeWorld) -> Option<State> {
    migration(world, &Faults::none()).journal().await.unwrap().tip()
}

#[tokio::test(start_paused = true)]
async fn from_every_state_before_the_point_of_no_return_it_says_what_is_left_and_deletes_nothing() {
    for state in State::ALL.into_iter().filter(|state| *state <= State::Cutover) {
        let (world, _) = at(state).await;
        let report = rollback(&world, false).await.unwrap();
        assert_eq!(report.given_up_in, state);
        assert_eq!(report.topics_left, [TopicName::new("it's")]);
        assert_eq!(report.groups_left, [GroupId::new("readers")]);
        assert!(report.commands[1].ends_with(r"--delete --topic 'it'\''s'"), "{:?}", report.commands);
        assert_eq!(tip(&world).await, Some(State::RolledBack), "{state}");
        assert!(world.target.topic_id("it's").is_some());

        let id: MigrationId = "m".parse().unwrap();
        let document = world.evidence.get(&alias_key(&id)).await.unwrap().unwrap();
        let verified = verify(&document, None).unwrap();
        assert_eq!((verified.outcome, verified.objects.len()), (State::RolledBack, 1), "{state}");
        assert_eq!(rollback(&world, false).await.unwrap(), report, "a repetition says the same");
        assert_eq!(world.evidence.list(&attempts_prefix(&id)).await.unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn access_rules_that_were_made_and_are_still_there_are_left_with_the_command_that_removes_them() {
    let rule = |principal: &str, prefix: &str, permission: &str| AclBinding {
        resource_type: "Topic".into(),
        resource_name: prefix.into(),
        pattern_type: "Prefixed".into(),
        principal: principal.into(),
        host: "*".into(),
        operation: "Read".into(),
        permission: permission.into(),
    };
    let [there, made, removed] =
        [rule("User:a", "x", "Allow"), rule("User:it's", "x", "Deny"), rule("User:z", "x", "Allow")];
    let (world, journal) = at(State::TopologyCopy).await;
    world.target.set_acls(Some(vec![there.clone()]));
    let migration = migration(&world, &Faults::none());
    let mut plan = krossing_plan::load(&migration, &journal).await.unwrap();
    plan.acls = Some(vec![there.clone(), made.clone(), removed]);
    krossing_topology::make_acls(&migration, &plan).await.unwrap();
    world.target.set_acls(Some(vec![there, made.clone()]));
    let report = rollback(&world, false).await.unwrap();
    assert_eq!(report.acls_left, [made]);
    let command = report.commands.last().unwrap();
    let rule = r"--remove --deny-principal 'User:it'\''s' --deny-host '*' --operation Read --topic 'x' --resource-pattern-type prefixed";
    assert!(command.starts_with("kafka-acls.sh ") && command.ends_with(rule), "{command}");
}

#[tokio::test(start_paused = true)]
async fn behind_the_point_of_no_return_it_is_refused() {
    for state in [State::AwaitingClientSwitch, State::Validating] {
        let (world, journal) = at(state).await;
        let refused = rollback(&world, false).await.unwrap_err();
        assert!(matches!(refused, MigrationError::Refused { .. }), "{refused:?}");
        assert_eq!(migration(&world, &Faults::none()).journal().await.unwrap(), journal);
    }
}

#[tokio::test(start_paused = true)]
async fn producers_that_may_stand_still_are_let_go_on_first() {
    let (world, mut journal) = at(State::Cutover).await;
    frozen(&world, &mut journal).await;
    let broken = FreezeError { attempt: "POST".to_owned(), detail: "no answer".to_owned() };
    world.freeze.answer_next(Err(broken));
    let refused = rollback(&world, false).await.unwrap_err().to_string();
    assert!(refused.contains("no answer") && refused.contains("--producers-released"), "{refused}");
    assert_eq!(tip(&world).await, Some(State::Cutover));

    let report = rollback(&world, false).await.unwrap();
    assert!(report.producers.starts_with("go on: "), "{}", report.producers);
    assert_eq!(world.freeze.calls().last(), Some(&FreezeCall::Unfreeze));
    assert!(!world.freeze.is_frozen());
}

#[tokio::test(start_paused = true)]
async fn the_operator_may_say_that_producers_go_on() {
    let (world, mut journal) = at(State::Cutover).await;
    frozen(&world, &mut journal).await;
    let asked = world.freeze.calls().len();
    let report = rollback(&world, true).await.unwrap();
    assert_eq!((report.producers.as_str(), world.freeze.calls().len()), ("go on, says the operator", asked));
    assert_eq!(tip(&world).await, Some(State::RolledBack));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_call_is_followed_by_one_that_ends_it() {
    let calls = {
        let (world, mut journal) = at(State::Cutover).await;
        frozen(&world, &mut journal).await;
        let faults = Faults::none();
        let migration = migration(&world, &faults);
        run(&migration, &mut migration.journal().await.unwrap(), false).await.unwrap();
        faults.calls().len() as u64
    };
    assert!(calls > 10);
    for number in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let (world, mut journal) = at(State::Cutover).await;
            frozen(&world, &mut journal).await;
            let faults = Faults::at(number, fault);
            let dying = migration(&world, &faults);
            let attempt = async { run(&dying, &mut dying.journal().await?, false).await };
            tokio::select! {
                _ = attempt => {}
                () = faults.crashed() => {}
            }
            rollback(&world, false).await.unwrap();
            assert_eq!(tip(&world).await, Some(State::RolledBack), "{number} {fault:?}");
            assert!(!world.freeze.is_frozen(), "{number} {fault:?}");
            let document = world.evidence.get(&alias_key(&"m".parse().unwrap())).await.unwrap().unwrap();
            assert_eq!(verify(&document, None).unwrap().outcome, State::RolledBack);
        }
    }
}
