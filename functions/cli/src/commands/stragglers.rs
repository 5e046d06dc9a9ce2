//! `krossing stragglers`: records that reached the source behind where it was closed: names them, or decides.

use std::collections::BTreeSet;

use krossing_core::{
    stragglers::{Choice, StragglerDecision, StragglerRecord, Stragglers},
    transition::{Command, State},
};
use krossing_stragglers::Undecided;
use serde_json::json;

use crate::{Outcome, arguments::StragglersArguments, session::Session, show};

pub(crate) async fn run(arguments: StragglersArguments) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&arguments.existing, Command::Stragglers).await?;
    let topics = arguments.topic.into_iter().collect();
    let choice = match (arguments.append, arguments.leave) {
        (true, _) => Choice::Append,
        (false, true) => Choice::Leave,
        (false, false) => {
            let found = session.drive.stragglers(&topics).await?;
            show_found(&session, &found);
            if found.is_empty() && topics.is_empty() {
                next_without_stragglers(&session);
            }
            return Ok(Outcome::Done);
        }
    };
    match session.drive.decide_stragglers(choice, &topics).await? {
        None => {
            let text = "there is no record left that nobody has decided about";
            show::event("stragglers", &json!({ "undecided": [] }), text);
        }
        Some(decision) => show_decision(&session, &decision),
    }
    // Of other topics there may be more.
    match session.drive.stragglers(&BTreeSet::new()).await.as_deref() {
        Ok([]) => next_without_stragglers(&session),
        Ok(more) => show_found(&session, more),
        // What was decided is done.
        Err(error) => show::advice(&format!("warning: whether there are others is not known: {error:#}")),
    }
    Ok(Outcome::Done)
}

fn producers(ids: &BTreeSet<i64>) -> String {
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    if names.is_empty() { "not told".to_owned() } else { names.join(", ") }
}

fn show_found(session: &Session, found: &[Undecided]) {
    let mut lines = Vec::new();
    for Undecided { partition, from, to, records, producers: ids, first_records } in found {
        let ids = producers(ids);
        lines.push(format!("{partition}: records={records} source_offsets={from}..{to} producer_ids={ids}"));
        for StragglerRecord { source_offset, timestamp_ms, key } in first_records {
            let (time, key) = (show::time(*timestamp_ms), key.as_deref().unwrap_or("none"));
            lines.push(format!("  offset={source_offset} time={time} key={key}"));
        }
        if let Some(more) = records.checked_sub(first_records.len() as u64).filter(|more| *more > 0) {
            lines.push(format!("  and {more} more"));
        }
    }
    lines.push(format!("partitions={} records={}", found.len(), found.iter().map(|one| one.records).sum::<u64>()));
    show::event("stragglers", &json!({ "undecided": found }), &lines.join("\n"));
    if !found.is_empty() {
        let command = session.next_command(Command::Stragglers);
        show::advice(&format!(
            "stop their producers or switch them to the target, then add these records at the target's end: {command} \
             --append; or leave them out of it: {command} --leave"
        ));
    }
}

/// What goes on where there is nothing to decide about.
fn next_without_stragglers(session: &Session) {
    let next = match session.drive.journal.tip() {
        Some(State::AwaitingClientSwitch) => Command::CutoverAck,
        _ => Command::Finalize,
    };
    show::next_command(&session.next_command(next));
}

fn show_decision(session: &Session, decision: &StragglerDecision) {
    let place = &session.drive.migration.config.evidence.place;
    let what = match decision.stragglers {
        Choice::Append => "appended at the target's end",
        Choice::Leave => "left out of the target",
    };
    let line = |one: &Stragglers| {
        let (ids, kept) = (producers(&one.producers), place.of(&one.kept.key));
        let Stragglers { partition, from, to, records, .. } = one;
        format!("{partition}: records={records} source_offsets={from}..{to} producer_ids={ids} {what}, kept in {kept}")
    };
    let lines: Vec<String> = decision.partitions.iter().map(line).collect();
    show::event("stragglers_decided", decision, &lines.join("\n"));
}
