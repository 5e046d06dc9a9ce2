//! Where the workflow waits for an operator: `notify` asks, `decide` answers.

use krossing_core::{
    GroupId,
    client_switch::ClientSwitchRecord,
    config::FreezeConfig,
    decision::{Answer, Decided, Gate},
    journal::{Actor, EntryKind, Journal, KnownBy},
    plan::PlannedGroup,
    ports::Clock,
    transition::State,
};
use krossing_drive::gate;
use krossing_runtime::{Migration, SystemClock, connect::Real};
use krossing_worker::{lag_now, lane_failures};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{
    Environment, Failure,
    failure::cut,
    tell,
    turns::{Asked, migration, of_this_execution},
};

/// Of one thing that is said with a question; the whole is in the journal, or in the ledger.
const FACT_BYTES_MAX: usize = 8 * 1024;

/// Of all of them: an event holds them twice, and takes 256 KB.
const FACTS_BYTES_MAX: usize = 32 * 1024;

/// How many groups a question names.
const GROUPS_SHOWN: usize = 20;

/// What `notify` is asked for with, beside [`Asked`].
#[derive(Debug, Deserialize)]
struct AskedToAsk {
    gate: Gate,
    token: String,
    error: Option<Failed>,
}

/// What failed, as the definition caught it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failed {
    pub(crate) error: String,
    #[serde(default, deserialize_with = "sentence")]
    pub(crate) cause: String,
}

fn sentence<'de, D: Deserializer<'de>>(cause: D) -> Result<String, D::Error> {
    String::deserialize(cause).map(unwrapped)
}

/// A cause as people read it: Lambda wraps what a function says.
pub(crate) fn unwrapped(cause: String) -> String {
    let said = serde_json::from_str::<Value>(&cause)
        .ok()
        .and_then(|wrapped| Some(wrapped["errorMessage"].as_str()?.to_owned()));
    said.unwrap_or(cause)
}

/// Opens a gate and asks the operator. The answer comes by `decide`, by the command, or with the bare token.
pub(crate) async fn notify(environment: Environment, event: Value) -> Result<Value, Failure> {
    let wanted: AskedToAsk = serde_json::from_value(event.clone())
        .map_err(|error| Failure::refused_with(format!("the input is not understood: {error}")))?;
    let asked = Asked::of(event)?;
    let execution = asked.execution.clone().unwrap_or_default();
    let migration = migration(&environment, &asked).await?;
    of_this_execution(&migration, &execution).await?;
    let failed = wanted.error.map(|Failed { error, cause }| format!("{error}: {cause}"));
    let facts = fitting(failed.into_iter().chain(facts(&migration, wanted.gate).await?));
    gate::open(&migration, wanted.gate, &wanted.token, &execution, &facts).await?;
    let question = tell::Question {
        id: &migration.id,
        gate: wanted.gate,
        token: &wanted.token,
        execution: &execution,
        facts: &facts,
    };
    tell::new_entries(&environment, &migration, Some(&execution)).await;
    environment.bus.put(&tell::asked(&question)).await?;
    Ok(json!({ "migration_id": migration.id, "gate": wanted.gate }))
}

/// As many as a question can carry, and how many are left out: however many lanes have failed, it must be asked.
pub(crate) fn fitting(all: impl Iterator<Item = String>) -> Vec<String> {
    let (mut fitting, mut bytes, mut left_out) = (Vec::new(), 0, 0);
    for fact in all.map(|fact| cut(fact, FACT_BYTES_MAX)) {
        if bytes + fact.len() > FACTS_BYTES_MAX {
            left_out += 1;
        } else {
            bytes += fact.len();
            fitting.push(fact);
        }
    }
    fitting.extend((left_out > 0).then(|| format!("and {left_out} more")));
    fitting
}

/// Where things stand, for whoever is to decide.
async fn facts(migration: &Migration<Real>, gate: Gate) -> Result<Vec<String>, Failure> {
    let journal = migration.journal().await?;
    let state = journal.tip().map_or("not begun", State::name);
    let mut facts = vec![format!("state={state}")];
    if journal.is_being_given_up() {
        facts.push("a rollback has begun, producers may be on the source again: only `rollback` goes on".to_owned());
    }
    match gate {
        Gate::ApproveCutover | Gate::FreezeProducers => {
            let plan = krossing_drive::load_planned(migration, &journal).await?;
            let lag = lag_now(migration, &plan.lanes()).await?;
            facts.push(format!("lag_records_total={}", lag.records_total));
            facts.extend(who_is_ready(&plan.plan.groups));
            if !lag.nobody_tails.is_empty() {
                let lanes: Vec<_> = lag.nobody_tails.iter().map(ToString::to_string).collect();
                facts.push(format!(
                    "nobody tails {}: the cutover copies first what has arrived there",
                    lanes.join(", ")
                ));
            }
        }
        Gate::AcknowledgeSwitch => {
            facts.extend(who_has_switched(&migration.client_switch().await?.1));
            facts.push(format!("target={}", migration.config.target.bootstrap_servers.join(",")));
        }
        Gate::AfterFailure => {
            if journal.tip().is_none() {
                facts.push("nothing is there to be rolled back: `retry` once it is put right, or `stop`".to_owned());
                return Ok(facts);
            }
            facts.extend(producers(migration, &journal));
            let plan = krossing_drive::load_planned(migration, &journal).await?;
            facts.extend(lane_failures(migration, &plan.lanes()).await?);
        }
    }
    Ok(facts)
}

/// How many groups can be carried over as they are, and which not, as far as a message can say.
fn who_is_ready(groups: &[PlannedGroup]) -> Vec<String> {
    let (see_to, ready): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.keeps_state.is_some());
    let mut facts = vec![format!("groups ready={} see_to_first={}", ready.len(), see_to.len())];
    if !ready.is_empty() {
        facts.push(format!("ready: {}", named(ready.iter().map(|group| &group.id))));
    }
    facts.extend(see_to.iter().take(GROUPS_SHOWN).filter_map(|group| {
        let (what, what_to_do) = group.keeps_state?.texts();
        Some(format!("see to {} first: {what}: {what_to_do}", group.id))
    }));
    facts
}

/// The first of these groups.
fn named<'a>(groups: impl ExactSizeIterator<Item = &'a GroupId>) -> String {
    let more = if groups.len() > GROUPS_SHOWN { ", …" } else { "" };
    let names: Vec<_> = groups.take(GROUPS_SHOWN).map(GroupId::as_str).collect();
    format!("{}{more}", names.join(", "))
}

/// How many groups have switched, and which have not, as far as a message can say.
fn who_has_switched(record: &ClientSwitchRecord) -> Vec<String> {
    let concerned = record.groups.iter().filter(|(_, g)| g.switched.is_some() || !g.written.is_empty());
    let (switched, not): (Vec<_>, Vec<_>) = concerned.partition(|(_, group)| group.switched.is_some());
    let mut facts = vec![format!("groups switched={} not_switched={}", switched.len(), not.len())];
    if !not.is_empty() {
        facts.push(format!("not switched: {}", named(not.iter().map(|(group, _)| *group))));
    }
    facts
}

/// What somebody has to see to about producers, after a failure.
fn producers(migration: &Migration<Real>, journal: &Journal) -> Option<String> {
    let released = journal.last_since(State::Cutover, EntryKind::Unfrozen);
    if journal.producers_may_stand_still() {
        Some("PRODUCERS MAY STAND STILL: see to it by hand that they go on".to_owned())
    } else if released.is_some_and(|entry| entry.detail["confirmed"] == false) {
        Some("producers may go on and NOBODY CONFIRMED THAT THEY DO: see to it by hand".to_owned())
    } else if migration.config.cutover.freeze == FreezeConfig::Confirmation {
        Some("if you have had producers stand still: they may go on".to_owned())
    } else {
        None
    }
}

/// What `decide` is asked for with.
#[derive(Debug, Deserialize)]
struct Decision {
    migration_id: String,
    decision: Answer,
    /// Who says so, in their own words.
    by: Option<String>,
    #[serde(default)]
    reason: String,
    /// With a rollback: they have let producers go on themselves.
    #[serde(default)]
    producers_released: bool,
}

/// Answers the gate at which the migration waits, from a console's test event or a chat's action. The function cannot
/// know who invoked it (CloudTrail does): the journal keeps what they call themselves, as unattested.
pub(crate) async fn decide(environment: Environment, event: Value) -> Result<Value, Failure> {
    let decision: Decision = serde_json::from_value(event).map_err(|error| {
        Failure::refused_with(format!(
            "the input is not understood: {error}: give {{\"migration_id\": …, \"decision\": …, \"by\": …, \"reason\": …}}"
        ))
    })?;
    let asked = Asked { migration_id: decision.migration_id, execution: None, decision: None, lock_by: None };
    let who = decision.by.unwrap_or_else(|| "whoever invoked the decide function".to_owned());
    let by = Actor { who, known_by: KnownBy::Nobody };
    let migration = environment.ledger(asked.id()?, by.clone()).await?;
    let answer = decision.decision;
    let Decision { reason, producers_released, .. } = decision;
    let decided = Decided { producers_released, ..Decided::new(answer, by, reason, SystemClock.unix_ms()) };
    let gate = gate::answer(&migration, &environment.workflow, decided).await?;
    Ok(json!({ "migration_id": migration.id, "gate": gate, "decision": answer }))
}

#[cfg(test)]
pub(crate) mod tests {
    use krossing_core::{
        SourceOffset, TargetOffset, TopicPartition,
        client_switch::{GroupRecord, Switched, Written},
        stateful::StatefulKind,
    };

    use super::*;

    /// What is said where a third of so many groups have switched, their names as long as names may be.
    pub(crate) fn facts_of_many_groups(groups: usize) -> Vec<String> {
        let mut record = ClientSwitchRecord::default();
        for number in 0..groups {
            let switched = (number % 3 == 0).then_some(Switched::MembersSeen { members: 1 });
            let written = Written { source: SourceOffset(5), target: TargetOffset(5), unconfirmed_over: None };
            let written = [(TopicPartition::new("orders", 0), written)].into();
            let group = GroupRecord { switched, written, used_before: false };
            record.groups.insert(format!("{number:0>249}").as_str().into(), group);
        }
        who_has_switched(&record)
    }

    #[test]
    fn a_question_is_asked_however_many_lanes_have_failed() {
        let failed = |lane| format!("lane-{lane}: {}", "no route ".repeat(1_000));
        let facts = fitting(std::iter::once("Krossing.Retryable: first".to_owned()).chain((0..1_000).map(failed)));
        assert_eq!(
            (facts.len(), facts[0].as_str(), facts[4].as_str()),
            (5, "Krossing.Retryable: first", "and 997 more")
        );
        let bytes: usize = facts.iter().map(String::len).sum();
        assert!(bytes < FACTS_BYTES_MAX + 20, "{bytes}");
        assert_eq!(fitting(std::iter::once("one".to_owned())), ["one"]);
    }

    #[test]
    fn what_a_function_said_is_told_without_what_lambda_puts_around_it() {
        let cause = |cause: &str| {
            let failed: Failed = serde_json::from_value(json!({ "Error": "E", "Cause": cause })).expect("it is one");
            failed.cause
        };
        assert_eq!(cause(r#"{"errorType":"Krossing.Refused","errorMessage":"no \"topic\""}"#), r#"no "topic""#);
        for plain in ["the worker's task has stopped", r#"{"exitCode": 1}"#, ""] {
            assert_eq!(cause(plain), plain);
        }
    }

    #[test]
    fn a_group_whose_owner_has_something_to_do_first_is_named_with_it() {
        let group = |id: &str, keeps_state| PlannedGroup {
            id: GroupId::new(id),
            protocol_type: "consumer".to_owned(),
            keeps_state,
        };
        let facts = who_is_ready(&[group("billing", None), group("totals", Some(StatefulKind::Streams))]);
        assert_eq!(facts[..2], ["groups ready=1 see_to_first=1", "ready: billing"]);
        assert!(facts[2].starts_with("see to totals first: it looks like a Kafka Streams application"), "{}", facts[2]);
        assert_eq!(who_is_ready(&[]), ["groups ready=0 see_to_first=0"]);
    }

    #[test]
    fn groups_that_have_not_switched_are_counted_and_the_first_are_named() {
        assert_eq!(facts_of_many_groups(1), ["groups switched=1 not_switched=0"]);
    }
}
