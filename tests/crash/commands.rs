//! Every command in every state, on the real phases: it does what it should, or is refused with the reason and changes
//! nothing.
//!
//! A state is reached as it is in life: by the commands before it, the last of which dies at its first call there.

use std::{sync::Arc, time::Duration};

use krossing_core::{
    journal::{EntryKind, JournalEntry},
    ports::Clock as _,
    records::Codec,
    transition::{Command, State},
};
use krossing_drive::{Drive, SILENT};
use krossing_testkit::{Fault, Faults, record};

use crate::{
    checks::Watch,
    operator::{in_time, process},
    world::{Scene, Spec, partition},
};

/// Right of each state: what may be asked there, and where that leads.
const TABLE: [(State, &[(Command, State)]); 11] = [
    (State::Planned, BEFORE),
    (State::Precheck, BEFORE),
    (State::TopologyCopy, BEFORE),
    (State::Seed, BEFORE),
    (State::Tail, BEFORE),
    (State::DrainReady, READY),
    // A killed cutover is taken back first.
    (State::Cutover, READY),
    (
        State::AwaitingClientSwitch,
        &[
            (Command::Resume, State::AwaitingClientSwitch),
            (Command::CutoverAck, State::Validating),
            (Command::ClientSwitch, State::AwaitingClientSwitch),
            (Command::Stragglers, State::AwaitingClientSwitch),
            (Command::Rollback, State::RolledBack),
        ],
    ),
    (
        State::Validating,
        &[
            (Command::Resume, State::Validating),
            (Command::Stragglers, State::Validating),
            (Command::Finalize, State::Finalized),
        ],
    ),
    (State::Finalized, &[(Command::Resume, State::Finalized), (Command::Finalize, State::Finalized)]),
    (State::RolledBack, &[(Command::Resume, State::RolledBack), (Command::Rollback, State::RolledBack)]),
];

const BEFORE: &[(Command, State)] = &[
    (Command::Execute, State::DrainReady),
    (Command::Resume, State::DrainReady),
    (Command::Rollback, State::RolledBack),
];

const READY: &[(Command, State)] = &[
    (Command::Execute, State::DrainReady),
    (Command::Resume, State::DrainReady),
    (Command::Cutover, State::AwaitingClientSwitch),
    (Command::Rollback, State::RolledBack),
];

const WAY: [Command; 4] = [Command::Execute, Command::Cutover, Command::CutoverAck, Command::Finalize];

/// A migration in this state.
async fn scene_in(state: State) -> Scene {
    let scene = Scene::new(Spec::fixed());
    let give_up = state == State::RolledBack;
    let way: &[Command] = if give_up { &[Command::Execute, Command::Rollback] } else { &WAY };
    for command in way {
        if scene.tip() == Some(state) {
            break;
        }
        let seen = scene.clone();
        let faults = Faults::deciding(move |_| (seen.tip() == Some(state)).then_some(Fault::CrashBefore));
        tokio::select! {
            ended = in_time(&scene, process(scene.clone(), *command, faults.clone(), 0)) => ended.expect("all is well"),
            () = faults.crashed() => {}
        }
    }
    assert_eq!(scene.tip(), Some(state));
    scene
}

fn journal(scene: &Scene) -> Vec<JournalEntry> {
    let lines = scene.world.ledger.journal_from(0);
    lines.iter().map(|line| serde_json::from_str(line).expect("an entry")).collect()
}

async fn check(state: State, allowed: &[(Command, State)], command: Command) {
    let scene = scene_in(state).await;
    let before = journal(&scene).len();
    let ended = in_time(&scene, process(scene.clone(), command, Faults::none(), 1)).await;
    match (allowed.iter().find(|(name, _)| *name == command), ended) {
        (Some((_, leads_to)), Ok(())) => assert_eq!(scene.tip(), Some(*leads_to), "{command} in {state}"),
        (Some(_), Err(error)) => panic!("{command} in {state}: {error:#}"),
        (None, Ok(())) => panic!("{command} in {state} was not refused"),
        (None, Err(error)) => {
            let why = error.to_string();
            assert!(why.contains(command.name()) && why.contains("not possible"), "{command} in {state}: {why}");
            // `client-switch` holds no lock, and so takes nothing back.
            let taken_back = state == State::Cutover && command != Command::ClientSwitch;
            assert!(taken_back || journal(&scene).len() == before, "{command} in {state} wrote to the journal");
            let released = scene.tip() == Some(State::DrainReady) && !scene.world.freeze.is_frozen();
            assert!(!taken_back || released, "{command} in {state}");
        }
    }
}

#[test]
fn every_command_in_every_state_does_what_it_should_or_is_refused_with_the_reason() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        for (state, allowed) in TABLE {
            for command in Command::ALL.into_iter().filter(|command| *command != Command::Status) {
                check(state, allowed, command).await;
            }
        }
    });
}

/// What the operator decides behind READY, with clients that come to the target or do not.
#[test]
fn a_rollback_behind_ready_is_refused_once_a_client_has_come_to_the_target() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        type Comes = fn(&Scene);
        let (writes, joins, moves): (Comes, Comes, Comes) = (
            |scene| {
                scene.world.target.append(&partition("plain", 1), Codec::None, vec![record("new", "on the target")]);
            },
            |scene| scene.world.target.set_members("arriving", 1, "consumer"),
            |scene| scene.world.target.commit("moved", &partition("plain", 1), 0, "a client's"),
        );
        for (comes, named) in [(writes, "plain-1"), (joins, "group arriving"), (moves, "group moved")] {
            let scene = scene_in(State::AwaitingClientSwitch).await;
            comes(&scene);
            let before = journal(&scene).len();
            let refused = process(scene.clone(), Command::Rollback, Faults::none(), 1).await;
            let why = refused.expect_err("a client has come").to_string();
            assert!(why.contains(named) && why.contains("krossing cutover-ack"), "{why}");
            assert_eq!((journal(&scene).len(), scene.tip()), (before, Some(State::AwaitingClientSwitch)));
            assert!(scene.world.freeze.is_frozen());
            in_time(&scene, process(scene.clone(), Command::CutoverAck, Faults::none(), 2))
                .await
                .expect("it goes forward");
        }
    });
}

/// One that dies at any call is ended by a resume or by the same command; in between nothing else goes on.
#[test]
fn a_rollback_behind_ready_that_dies_at_any_call_is_ended_by_the_next() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        let calls = {
            let (scene, faults) = (scene_in(State::AwaitingClientSwitch).await, Faults::none());
            process(scene, Command::Rollback, faults.clone(), 1).await.expect("no client has come");
            faults.calls().len() as u64
        };
        for (number, fault) in (0..calls).flat_map(|number| Fault::ALL.map(|fault| (number, fault))) {
            if matches!(fault, Fault::Stop | Fault::Slow(_)) {
                continue;
            }
            let scene = scene_in(State::AwaitingClientSwitch).await;
            let watch = Watch::new(&scene);
            let (seen, mut single) = (watch.clone(), Some(fault));
            let faults = Faults::deciding(move |call| {
                seen.before(call);
                if call.number == number { single.take() } else { None }
            });
            tokio::select! {
                _ = process(scene.clone(), Command::Rollback, faults.clone(), 1) => {}
                () = faults.crashed() => {}
            }
            if watch.journal().is_being_given_up() && scene.tip() == Some(State::AwaitingClientSwitch) {
                let acknowledged = process(scene.clone(), Command::CutoverAck, Faults::none(), 2).await;
                let why = acknowledged.expect_err("producers may be on the source").to_string();
                assert!(why.contains("a rollback has begun"), "{why}");
                process(scene.clone(), Command::Resume, Faults::none(), 3).await.expect("a resume ends it");
            } else {
                process(scene.clone(), Command::Rollback, Faults::none(), 3).await.expect("the same command ends it");
            }
            assert_eq!(scene.tip(), Some(State::RolledBack), "{number} {fault:?}");
            assert!(!scene.world.freeze.is_frozen(), "{number} {fault:?}");
            assert_eq!(watch.wrong(), Vec::<String>::new(), "{number} {fault:?}");
        }
    });
}

/// As where a Lambda has little of its time left: whoever would be ended while producers stand still does not begin.
#[test]
fn a_cutover_that_is_ready_too_late_asks_nobody_to_stand_still() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        let scene = scene_in(State::DrainReady).await;
        let migration = Arc::new(scene.migration(&Faults::none()));
        let ended = in_time(&scene, async {
            let mut drive = Drive::open(migration, "a Lambda".to_owned(), SILENT, Command::Cutover).await?;
            let planned = drive.before_cutover().await?;
            let now = scene.world.clock.now();
            drive.cutover(&planned, krossing_drive::FreezeTime::OncePreparedBy(now)).await
        });
        let error = format!("{:#}", ended.await.expect_err("it is too late"));
        assert!(error.contains("were not asked to stand still"), "{error}");
        assert_eq!(scene.tip(), Some(State::DrainReady));
        let journal = journal(&scene);
        assert!(journal.iter().all(|entry| entry.kind != EntryKind::FreezeAsked), "{journal:?}");
        let again = in_time(&scene, process(scene.clone(), Command::Cutover, Faults::none(), 2));
        again.await.expect("the next one has its time");
        assert_eq!(scene.tip(), Some(State::AwaitingClientSwitch));
    });
}

/// As where an operator has had producers stand still at a gate: their time runs while everything is prepared.
#[test]
fn a_standstill_counts_from_when_producers_were_stopped_and_ends_with_its_budget() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        let scene = scene_in(State::DrainReady).await;
        let budget = scene.migration(&Faults::none()).config.cutover.max_producer_freeze;
        scene.world.clock.sleep(budget * 2).await;
        let cut_over = async |stood: Duration| {
            let migration = Arc::new(scene.migration(&Faults::none()));
            let mut drive = Drive::open(migration, "a Lambda".to_owned(), SILENT, Command::Cutover).await?;
            let planned = drive.before_cutover().await?;
            let since = scene.world.clock.now() - stood;
            drive.cutover(&planned, krossing_drive::FreezeTime::Since(since)).await
        };
        let error = format!("{:#}", in_time(&scene, cut_over(budget)).await.expect_err("their time is over"));
        assert!(error.contains("max_producer_freeze"), "{error}");
        assert_eq!(scene.tip(), Some(State::DrainReady));
        assert!(!scene.world.freeze.is_frozen());
        let journal = journal(&scene);
        for kind in [EntryKind::FreezeAsked, EntryKind::Unfrozen] {
            assert!(journal.iter().any(|entry| entry.kind == kind), "no {kind:?} in {journal:?}");
        }
        let asked = journal.iter().find(|entry| entry.kind == EntryKind::FreezeAsked).expect("it was asked");
        let expires = asked.detail["expires_at_unix_ms"].as_i64().expect("a time");
        assert!(expires <= asked.at_unix_ms, "their time was over: {asked:?}");
        let stood = Duration::from_secs(5);
        let report = in_time(&scene, cut_over(stood)).await.expect("there is time left");
        assert_eq!(scene.tip(), Some(State::AwaitingClientSwitch));
        assert!(report.timings.frozen_ms >= 5_000, "{:?}", report.timings);
    });
}

/// The loop is suspended in the middle of a round, the acknowledgement is given, and the loop wakes up.
#[test]
fn an_acknowledgement_beside_a_round_fails_neither() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        for (slow, quick) in
            [(Command::ClientSwitch, Command::CutoverAck), (Command::CutoverAck, Command::ClientSwitch)]
        {
            let scene = scene_in(State::AwaitingClientSwitch).await;
            let mut first = true;
            let faults = Faults::deciding(move |call| {
                let write = call.name == "ledger.put_document" && call.subject.contains("client-switch");
                (write && std::mem::take(&mut first)).then_some(Fault::Slow(Duration::from_secs(5)))
            });
            let slow = process(scene.clone(), slow, faults.clone(), 1);
            let quick = process(scene.clone(), quick, Faults::none(), 2);
            let ended = in_time(&scene, async { Ok(tokio::join!(slow, quick)) }).await.expect("both end");
            assert!(faults.calls().iter().any(|call| call.name == "ledger.put_document"));
            ended.0.expect("the one that was suspended");
            ended.1.expect("the other");
            assert_eq!(scene.tip(), Some(State::Validating));
        }
    });
}

/// The loop is suspended between its look at a group and the write of its position; the group's clients come to the
/// target meanwhile, and go.
#[test]
fn a_group_that_came_and_went_while_a_round_stood_still_is_not_moved() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), async {
        let (group, at) = ("backlog", partition("table", 0));
        for suspended in [false, true] {
            let scene = scene_in(State::AwaitingClientSwitch).await;
            let position = || scene.world.target.committed(group).get(&at).map(|committed| committed.offset);
            let before = position();
            scene.advance(group, &at);
            let faults = Faults::deciding(move |call| {
                let write = call.name == "ledger.put_document" && call.subject.contains("client-switch");
                (write && suspended).then_some(Fault::Slow(Duration::from_secs(3)))
            });
            let meanwhile = async {
                scene.world.clock.sleep(Duration::from_secs(1)).await;
                if suspended {
                    scene.world.target.set_members(group, 1, "consumer");
                    scene.world.target.set_members(group, 0, "consumer");
                }
                scene.world.clock.sleep(Duration::from_secs(20)).await;
            };
            tokio::select! {
                ended = process(scene.clone(), Command::ClientSwitch, faults, 1) => panic!("{ended:?}"),
                () = meanwhile => {}
            }
            assert_eq!(position() == before, suspended, "{before:?} became {:?}", position());
        }
    });
}
