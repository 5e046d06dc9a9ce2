#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use krossing_core::{
    MigrationId, Producer, SourceOffset, TargetOffset, TopicPartition,
    client_switch::{CLIENT_SWITCH_DOCUMENT, ClientSwitchRecord, GroupRecord, Switched, Written},
    cutover::{Boundary, CUTOVER_REPORT_VERSION, CutoverReport, CutoverTimings, cutover_report_key},
    evidence::{alias_key, attempts_prefix, verify},
    offset_map::sha256_hex,
    ports::{FreezeError, Ledger, Objects, ProducerFreeze},
    records::{BatchBuilder, Codec},
    stragglers::AppendStep,
};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, FreezeCall, record, tester};

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
    let digest = ready(&migration).await;
    for next in State::ALL.into_iter().skip(1).take_while(|next| *next <= state) {
        migration.enter(&mut journal, next, "on its way", json!({ "report_sha256": digest })).await.unwrap();
        if next == State::Cutover && state > State::Cutover {
            frozen(&world, &mut journal).await;
        }
    }
    world.target.create_topic("it's", 1, &[]);
    world.target.append(&partition(), Codec::None, vec![record("k", "copied")]);
    world.target.commit("readers", &partition(), 1, "");
    (world, journal)
}

fn partition() -> TopicPartition {
    TopicPartition::new("it's", 0)
}

/// What a cutover leaves: its report, whose digest is answered, and what was written for groups.
async fn ready(migration: &Migration<FakePorts>) -> String {
    let report = CutoverReport {
        version: CUTOVER_REPORT_VERSION,
        ready_unix_ms: 1,
        freeze: "the fake did".to_owned(),
        marker_kind: MarkerKind::None,
        markers: Vec::new(),
        boundaries: vec![Boundary { partition: partition(), target_offset: TargetOffset(1) }],
        groups: Vec::new(),
        warnings: Vec::new(),
        timings: CutoverTimings::default(),
    };
    let report = Bytes::from(canonical_json(&report).unwrap());
    let digest = sha256_hex(&report);
    migration.evidence.put(&cutover_report_key(&migration.id, &digest), vec![report]).await.unwrap();
    let written = Written { source: SourceOffset(1), target: TargetOffset(1), unconfirmed_over: None };
    switched(migration, GroupRecord { written: [(partition(), written)].into(), ..GroupRecord::default() }).await;
    digest
}

/// What is known of the group `readers`.
async fn switched(migration: &Migration<FakePorts>, group: GroupRecord) {
    let record = ClientSwitchRecord { groups: [("readers".into(), group)].into(), ..ClientSwitchRecord::default() };
    let version = migration.client_switch().await.unwrap().0;
    let content = serde_json::to_vec(&record).unwrap().into();
    migration.ledger.put_document(CLIENT_SWITCH_DOCUMENT, version, content).await.unwrap();
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
async fn until_clients_have_come_it_says_what_is_left_and_deletes_nothing() {
    for state in State::ALL.into_iter().filter(|state| *state <= State::AwaitingClientSwitch) {
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
async fn once_the_switch_is_acknowledged_it_is_refused() {
    let (world, journal) = at(State::Validating).await;
    let refused = rollback(&world, false).await.unwrap_err();
    assert!(matches!(refused, MigrationError::Refused { .. }), "{refused:?}");
    assert_eq!(migration(&world, &Faults::none()).journal().await.unwrap(), journal);
}

#[tokio::test(start_paused = true)]
async fn after_ready_producers_go_on_on_the_source_also_where_it_has_failed_there() {
    for failed in [false, true] {
        let (world, mut journal) = at(State::AwaitingClientSwitch).await;
        if failed {
            let migration = migration(&world, &Faults::none());
            migration.enter(&mut journal, State::Failed, "something", json!({})).await.unwrap();
        }
        let report = rollback(&world, false).await.unwrap();
        assert!(report.producers.starts_with("go on: ") && report.written_meanwhile.is_empty(), "{report:?}");
        assert_eq!(report.given_up_in, State::AwaitingClientSwitch);
        assert_eq!(world.freeze.calls().last(), Some(&FreezeCall::Unfreeze));
        assert!(!world.freeze.is_frozen());
    }
}

/// Refused in one sentence that names who it is, with nothing done.
async fn check_refused(world: &FakeWorld, journal: &Journal, named: &str) {
    let calls = world.freeze.calls().len();
    let refused = rollback(world, false).await.unwrap_err().to_string();
    assert!(refused.contains(named) && refused.contains("krossing cutover-ack"), "{refused}");
    assert_eq!(&migration(world, &Faults::none()).journal().await.unwrap(), journal);
    assert!(world.freeze.is_frozen() && world.freeze.calls().len() == calls);
}

#[tokio::test(start_paused = true)]
async fn after_ready_it_is_refused_once_a_client_has_come_to_the_target() {
    let (world, journal) = at(State::AwaitingClientSwitch).await;
    world.target.append(&partition(), Codec::None, vec![record("k", "a client's")]);
    check_refused(&world, &journal, "it's-0 was written to from target offset 1 on").await;

    let (world, journal) = at(State::AwaitingClientSwitch).await;
    world.target.set_members("readers", 1, "consumer");
    check_refused(&world, &journal, "group readers has switched").await;

    // Seen some time ago, and gone since.
    let (world, journal) = at(State::AwaitingClientSwitch).await;
    let gone = GroupRecord { switched: Some(Switched::MembersSeen { members: 1 }), ..GroupRecord::default() };
    switched(&migration(&world, &Faults::none()), gone).await;
    check_refused(&world, &journal, "group readers has switched").await;
}

#[tokio::test(start_paused = true)]
async fn records_that_the_operator_had_appended_are_no_clients() {
    for and_a_client in [false, true] {
        let (world, mut journal) = at(State::AwaitingClientSwitch).await;
        let producer = Producer { id: 4711, epoch: 0 };
        let records = vec![record("k", "late")];
        let appended = BatchBuilder { producer, base_sequence: 0, records, ..BatchBuilder::new(0) };
        world.target.append_batch(&partition(), appended);
        let (process, step) = (migration(&world, &Faults::none()), AppendStep { append: 1, producer, done: true });
        process.note(&mut journal, EntryKind::StragglersAppend, "appended", step).await.unwrap();
        if and_a_client {
            world.target.append(&partition(), Codec::None, vec![record("k", "a client's")]);
            check_refused(&world, &journal, "it's-0 was written to from target offset 2 on").await;
        } else {
            let report = rollback(&world, false).await.unwrap();
            assert!(report.written_meanwhile.is_empty(), "{report:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn once_the_release_is_asked_it_goes_on_and_says_what_has_come_meanwhile() {
    let (world, _) = at(State::AwaitingClientSwitch).await;
    let broken = FreezeError { attempt: "POST".to_owned(), detail: "no answer".to_owned() };
    world.freeze.answer_next(Err(broken));
    let refused = rollback(&world, false).await.unwrap_err().to_string();
    assert!(refused.contains("--producers-released"), "{refused}");
    let journal = migration(&world, &Faults::none()).journal().await.unwrap();
    assert!(journal.is_being_given_up() && journal.tip() == Some(State::AwaitingClientSwitch));
    for command in [Command::CutoverAck, Command::ClientSwitch, Command::Stragglers] {
        assert!(matches!(journal.permit(command).decision, Decision::Refused(_)), "{command}");
    }

    world.target.append(&partition(), Codec::None, vec![record("k", "late to hear of it")]);
    world.target.set_members("readers", 1, "consumer");
    let report = rollback(&world, true).await.unwrap();
    assert_eq!(report.producers, "go on, says the operator");
    let (from, to) = (TargetOffset(1), TargetOffset(2));
    assert_eq!(report.written_meanwhile, [WrittenTo { partition: partition(), from, to }]);
    assert_eq!(report.switched_meanwhile, [GroupId::new("readers")]);
    let said = report.to_string();
    assert!(said.contains("it's-0, target offsets 1 to 1") && said.contains("meanwhile: readers"), "{said}");
    assert_eq!(tip(&world).await, Some(State::RolledBack));
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
    for state in [State::Cutover, State::AwaitingClientSwitch] {
        dies_at_any_call(state).await;
    }
}

/// A migration in this state, whose producers stand still.
async fn standing_still(state: State) -> FakeWorld {
    let (world, mut journal) = at(state).await;
    if state == State::Cutover {
        frozen(&world, &mut journal).await;
    }
    assert!(world.freeze.is_frozen());
    world
}

async fn dies_at_any_call(state: State) {
    let calls = {
        let world = standing_still(state).await;
        let faults = Faults::none();
        let migration = migration(&world, &faults);
        run(&migration, &mut migration.journal().await.unwrap(), false).await.unwrap();
        faults.calls().len() as u64
    };
    assert!(calls > 10);
    for number in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let world = standing_still(state).await;
            let faults = Faults::at(number, fault);
            let dying = migration(&world, &faults);
            let attempt = async { run(&dying, &mut dying.journal().await?, false).await };
            tokio::select! {
                _ = attempt => {}
                () = faults.crashed() => {}
            }
            let report = rollback(&world, false).await.unwrap();
            assert_eq!(tip(&world).await, Some(State::RolledBack), "{state} {number} {fault:?}");
            assert!(!world.freeze.is_frozen(), "{state} {number} {fault:?}");
            assert!(report.producers.starts_with("go on: ") || state == State::Cutover, "{number} {fault:?}: {report}");
            let document = world.evidence.get(&alias_key(&"m".parse().unwrap())).await.unwrap().unwrap();
            assert_eq!(verify(&document, None).unwrap().outcome, State::RolledBack);
        }
    }
}
