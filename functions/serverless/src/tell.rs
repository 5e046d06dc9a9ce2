//! What others are told: an event for each change of state with a copy of the journal beside the evidence, what is asked
//! of an operator, and figures.
//!
//! What was told last is a document of the ledger, so that what a process which died did not tell is told by the next.
//! An event may come twice, and none is lost. That it cannot be told ends nothing.

use std::time::Duration;

use krossing_core::{
    MigrationId,
    decision::{Answer, Gate},
    journal::{EntryKind, Journal, JournalEntry},
    ports::{Clock, Ledger, Objects, StoreError},
    transition::State,
};
use krossing_runtime::{Migration, MigrationError, SystemClock, aws::Event, connect::Real};
use serde_json::{Value, json};

use crate::{Environment, Failure, failure::cut};

/// The document that holds how many entries of the journal have been told.
const TOLD_DOCUMENT: &str = "told";

/// Of a reason, the whole of which is in the journal.
const REASON_BYTES_MAX: usize = 4 * 1024;

/// Of what is shown in a chat. What Amazon Q takes is not documented; a block of text in Slack has 3,000 characters. The
/// whole is in the event.
const DESCRIPTION_BYTES_MAX: usize = 2_900;

/// Of this format.
const DETAIL_VERSION: u32 = 1;

/// How long telling may take: no longer than a turn, a task or a question can wait for it.
pub(crate) const TELL_WAIT_MAX: Duration = Duration::from_secs(20);

/// Tells what the journal got since it was told last. What could not be told is told by the next process.
pub(crate) async fn new_entries(environment: &Environment, migration: &Migration<Real>, execution: Option<&str>) {
    match tokio::time::timeout(TELL_WAIT_MAX, tell_new_entries(environment, migration, execution)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::warn!(failure.sentence, "changes of state could not be told"),
        Err(_) => tracing::warn!("changes of state could not be told in {} s", TELL_WAIT_MAX.as_secs()),
    }
}

async fn tell_new_entries(
    environment: &Environment,
    migration: &Migration<Real>,
    execution: Option<&str>,
) -> Result<(), Failure> {
    let lines = migration.ledger.journal().await?;
    let journal = Journal::parse(&lines).map_err(MigrationError::Journal)?;
    let (version, told) = match migration.ledger.document(TOLD_DOCUMENT).await? {
        None => (None, 0),
        Some((version, content)) => {
            let told: usize = serde_json::from_slice(&content).map_err(|error| StoreError::Damaged {
                attempt: format!("read the ledger's document {TOLD_DOCUMENT}"),
                detail: error.to_string(),
            })?;
            (Some(version), told)
        }
    };
    let new = journal.entries().get(told..).unwrap_or_default();
    if new.is_empty() {
        return Ok(());
    }
    // For whoever reads evidence without a table; the table's is the one that counts.
    let mirror = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
    migration.evidence.put(&format!("{}/journal.jsonl", migration.id), vec![mirror.into()]).await?;
    for entry in new.iter().filter(|entry| entry.kind == EntryKind::Transition) {
        environment.bus.put(&changed(&migration.id, entry, execution)).await?;
    }
    let content = serde_json::to_vec(&journal.position()).expect("a number");
    match migration.ledger.put_document(TOLD_DOCUMENT, version, content.into()).await {
        // Another tells the same.
        Err(StoreError::Conflict { .. }) => Ok(()),
        put => Ok(put.map(drop)?),
    }
}

/// What Amazon Q in chat applications shows.
fn chat(title: &str, description: &str, next_steps: &[String]) -> Value {
    let description = cut(description.to_owned(), DESCRIPTION_BYTES_MAX);
    let mut content = json!({ "textType": "client-markdown", "title": title, "description": description });
    if !next_steps.is_empty() {
        content["nextSteps"] = json!(next_steps);
    }
    json!({ "version": "1.0", "source": "custom", "content": content })
}

/// The event of a change of state.
fn changed(id: &MigrationId, entry: &JournalEntry, execution: Option<&str>) -> Event {
    let failed = entry.to == State::Failed;
    let title = if failed { format!("{id}: failed") } else { format!("{id}: {}", entry.to) };
    let reason = cut(entry.reason.clone(), REASON_BYTES_MAX);
    let shown = if reason.is_empty() { "the next step has begun" } else { &reason };
    Event {
        detail_type: if failed { "Krossing Failed" } else { "Krossing State Changed" },
        detail: json!({
            "version": DETAIL_VERSION,
            "migration_id": id,
            "state": entry.to,
            "position": entry.sequence,
            "at_unix_ms": entry.at_unix_ms,
            "reason": reason,
            "by": entry.by.to_string(),
            "execution": execution,
            "chat": chat(&title, shown, &[]),
        }),
    }
}

/// The event of a failure that the journal does not have as a state: a cutover that was taken back, no answer in time.
pub(crate) fn failed(id: &MigrationId, state: &str, class: &str, cause: &str, execution: Option<&str>) -> Event {
    let cause = &cut(cause.to_owned(), REASON_BYTES_MAX);
    Event {
        detail_type: "Krossing Failed",
        detail: json!({
            "version": DETAIL_VERSION,
            "migration_id": id,
            "state": state,
            "at_unix_ms": SystemClock.unix_ms(),
            "reason": format!("{class}: {cause}"),
            "execution": execution,
            "chat": chat(&format!("{id}: failed in {state}"), cause, &[]),
        }),
    }
}

/// The event of something that somebody has to look at while all goes on.
pub(crate) fn warned(id: &MigrationId, state: State, warning: &str, execution: &str) -> Event {
    let warning = &cut(warning.to_owned(), REASON_BYTES_MAX);
    Event {
        detail_type: "Krossing Warning",
        detail: json!({
            "version": DETAIL_VERSION,
            "migration_id": id,
            "state": state,
            "at_unix_ms": SystemClock.unix_ms(),
            "reason": warning,
            "execution": execution,
            "chat": chat(&format!("{id}: look at this"), warning, &[]),
        }),
    }
}

/// What is asked at a gate.
pub(crate) struct Question<'a> {
    pub(crate) id: &'a MigrationId,
    pub(crate) gate: Gate,
    pub(crate) token: &'a str,
    pub(crate) execution: &'a str,
    /// Where things stand: lag, groups, what failed.
    pub(crate) facts: &'a [String],
}

/// The event that asks an operator.
pub(crate) fn asked(question: &Question<'_>) -> Event {
    let Question { id, gate, token, execution, facts } = question;
    let answers: Vec<String> =
        gate.answers().iter().map(|answer| format!("`{answer}`: {}", answer.meaning())).collect();
    let mut description = format!("{}\n\n{}", gate.question(), answers.join("\n"));
    for fact in *facts {
        description = format!("{description}\n\n{fact}");
    }
    let next_steps: Vec<String> = gate
        .answers()
        .iter()
        .filter_map(|answer| command(*answer))
        .map(|command| format!("`krossing {command} --config operator.yaml --migration-id {id}`"))
        .chain(gate.answers().iter().map(|answer| {
            format!("decide function: `{{\"migration_id\":\"{id}\",\"decision\":\"{answer}\",\"by\":\"…\"}}`")
        }))
        .collect();
    Event {
        detail_type: "Krossing Decision Needed",
        detail: json!({
            "version": DETAIL_VERSION,
            "migration_id": id,
            "gate": gate,
            "answers": gate.answers(),
            "at_unix_ms": SystemClock.unix_ms(),
            "execution": execution,
            "facts": facts,
            "send_task_success": send_task_success(token, gate.answers()[0]),
            "chat": chat(&format!("{id}: {gate}"), &description, &next_steps),
        }),
    }
}

/// The command that gives an answer, where there is one of its own.
fn command(answer: Answer) -> Option<&'static str> {
    match answer {
        Answer::Cutover | Answer::Frozen => Some("cutover"),
        Answer::Rollback => Some("rollback"),
        Answer::Switched => Some("cutover-ack"),
        Answer::Retry => Some("resume"),
        Answer::Cancel | Answer::Stop => None,
    }
}

/// The line for whoever has nothing but the AWS command line. The journal then says that nobody vouches for who it was.
fn send_task_success(token: &str, answer: Answer) -> String {
    format!("aws stepfunctions send-task-success --task-token '{token}' --task-output '{{\"decision\":\"{answer}\"}}'")
}

/// How long producers stood still in the last cutover, or have been by now: of one that did not come to READY.
pub(crate) fn standstill(id: &MigrationId, journal: &Journal) {
    if let Some(frozen_ms) = stood_still_ms(journal, SystemClock.unix_ms()) {
        metrics(id, None, &[("frozen_ms", frozen_ms as f64, "Milliseconds")]);
    }
}

fn stood_still_ms(journal: &Journal, now_unix_ms: i64) -> Option<i64> {
    let asked = journal.last_since(State::Cutover, EntryKind::FreezeAsked)?;
    let released = journal.last_since(State::Cutover, EntryKind::Unfrozen);
    Some(released.map_or(now_unix_ms, |released| released.at_unix_ms) - asked.at_unix_ms)
}

/// Figures, in CloudWatch's embedded metric format: a line on standard output.
pub(crate) fn metrics(id: &MigrationId, lane: Option<u32>, figures: &[(&str, f64, &str)]) {
    println!("{}", embedded(SystemClock.unix_ms(), id, lane, figures));
}

fn embedded(at_unix_ms: i64, id: &MigrationId, lane: Option<u32>, figures: &[(&str, f64, &str)]) -> Value {
    let mut dimensions = vec![vec!["migration_id"]];
    if lane.is_some() {
        dimensions.push(vec!["migration_id", "lane"]);
    }
    let metrics: Vec<_> = figures.iter().map(|(name, _, unit)| json!({ "Name": name, "Unit": unit })).collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": at_unix_ms,
            "CloudWatchMetrics": [{ "Namespace": "Krossing", "Dimensions": dimensions, "Metrics": metrics }],
        },
        "migration_id": id,
    });
    if let Some(lane) = lane {
        line["lane"] = json!(lane.to_string());
    }
    for (name, value, _) in figures {
        line[name] = json!(value);
    }
    line
}

#[cfg(test)]
mod tests {
    use krossing_core::journal::{Actor, KnownBy, Stamp};

    use super::*;

    fn id() -> MigrationId {
        "orders".parse().expect("an id")
    }

    #[test]
    fn a_question_says_how_it_can_be_answered_in_three_ways() {
        let facts = ["lag_records_max=3".to_owned()];
        let event =
            asked(&Question { id: &id(), gate: Gate::ApproveCutover, token: "t-1", execution: "arn:e", facts: &facts });
        let text = event.detail["chat"]["content"].to_string();
        for expected in ["krossing cutover", "krossing rollback", "decision", "lag_records_max=3"] {
            assert!(text.contains(expected), "{expected} is missing in {text}");
        }
        let line = event.detail["send_task_success"].as_str().expect("a line");
        assert!(line.contains("--task-token 't-1'") && line.contains(r#"{"decision":"cutover"}"#), "{line}");
        assert!(!text.contains("t-1"), "a chat room is no place for a token");
        let failed =
            asked(&Question { id: &id(), gate: Gate::AfterFailure, token: "t-1", execution: "arn:e", facts: &facts });
        let text = failed.detail["chat"]["content"].to_string();
        assert!(text.contains(r#"\"decision\":\"stop\""#) && !text.contains("krossing stop"), "{text}");
    }

    #[test]
    fn a_standstill_is_told_up_to_the_release_or_up_to_now_where_there_was_none() {
        let stamp = |at_unix_ms| Stamp { at_unix_ms, by: Actor { who: "alice".to_owned(), known_by: KnownBy::Nobody } };
        let mut journal = Journal::default();
        let begun = journal.begin("f1".to_owned(), stamp(0), "", json!({})).expect("nothing was there").0;
        journal.push(begun).expect("the first");
        for state in State::ALL.into_iter().skip(1).take_while(|state| *state <= State::Cutover) {
            let entry = journal.transition(state, stamp(1_000), "", json!({})).expect("the next").0;
            journal.push(entry).expect("the next");
        }
        assert_eq!(stood_still_ms(&journal, 9_000), None);
        let note = |journal: &mut Journal, kind, at_unix_ms| {
            let entry = journal.note(kind, stamp(at_unix_ms), "", json!({})).expect("a note").0;
            journal.push(entry).expect("a note");
        };
        note(&mut journal, EntryKind::FreezeAsked, 2_000);
        assert_eq!(stood_still_ms(&journal, 9_000), Some(7_000));
        note(&mut journal, EntryKind::Unfrozen, 5_000);
        assert_eq!(stood_still_ms(&journal, 9_000), Some(3_000));
    }

    #[test]
    fn a_question_about_ten_thousand_groups_fits_an_event() {
        let facts = crate::gates::tests::facts_of_many_groups(10_000);
        assert_eq!(facts[0], "groups switched=3334 not_switched=6666");
        let event = asked(&Question {
            id: &id(),
            gate: Gate::AcknowledgeSwitch,
            token: &"t".repeat(2_048),
            execution: &"e".repeat(300),
            facts: &facts,
        });
        let bytes = event.detail.to_string().len();
        assert!(bytes < 32 * 1024, "{bytes} bytes: EventBridge takes 256 KB");
        let shown = event.detail["chat"]["content"]["description"].as_str().unwrap_or_default();
        assert!(shown.starts_with(Gate::AcknowledgeSwitch.question()) && shown.len() < 3_100, "{}", shown.len());
    }

    #[test]
    fn figures_are_said_for_the_migration_and_for_the_lane() {
        let line = embedded(5, &id(), Some(2), &[("lag_records_max", 7.0, "Count")]);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Dimensions"], json!([["migration_id"], ["migration_id", "lane"]]));
        assert_eq!((line["lag_records_max"].as_f64(), line["lane"].as_str()), (Some(7.0), Some("2")));
    }
}
