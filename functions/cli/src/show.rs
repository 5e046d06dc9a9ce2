//! What is printed, and how figures and times are spelled.
//!
//! Whatever happens is an *event*: a text for people or, with `--output json`, an object on a line of its own, as
//! `docs/output.md` lists them. Advice goes to stderr either way.
//!
//! Does not fail: that the reader of a pipe is gone must not end a migration.

use std::{
    io::Write,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::ValueEnum;
use jiff::Timestamp;
use krossing_core::{
    journal::{EntryKind, Journal, JournalEntry},
    precheck::Finding,
    transition::State,
};
use krossing_drive::{Shown, Voice, Watched};
use krossing_worker::View;
use serde::Serialize;
use serde_json::{Value, json};

use crate::progress::Progress;

pub(crate) use krossing_drive::chain;

/// How events are spelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, for programs
    Json,
}

/// Said once, when the arguments are read; a process speaks one way.
static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Chooses how events are spelled from now on.
pub(crate) fn speak(output: Output) {
    OUTPUT.get_or_init(|| output);
}

pub(crate) fn output() -> Output {
    OUTPUT.get().copied().unwrap_or_default()
}

/// Words of a command go to stdout and stderr.
pub(crate) const TERMINAL: &dyn Voice = &Terminal;

struct Terminal;

impl Voice for Terminal {
    fn entry(&self, entry: &JournalEntry) {
        event("entry", entry, &entry_text(entry));
    }

    fn finding(&self, finding: &Finding) {
        event("finding", finding, &krossing_precheck::render_text(std::slice::from_ref(finding)));
    }

    fn step(&self, at_unix_ms: i64, step: &str) {
        let text = format!("{} cutover: {step}", time(at_unix_ms));
        event("step", &json!({ "at_unix_ms": at_unix_ms, "step": step }), &text);
    }

    fn advice(&self, text: &str) {
        advice(text);
    }

    fn progress(&self, view: Arc<View>, watched: Watched) -> Shown {
        Box::new(Progress::start(view, watched))
    }
}

/// Something happened: `text` for people, `value` with the event's name for programs.
pub(crate) fn event(name: &str, value: &impl Serialize, text: &str) {
    let text = match output() {
        Output::Text => text.trim_end().to_owned(),
        Output::Json => object(name, value).to_string(),
    };
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn object(name: &str, value: &impl Serialize) -> Value {
    let mut object = json!({ "event": name });
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields.into_iter().for_each(|(key, value)| object[key] = value),
        Ok(value) => object["value"] = value,
        // Nothing that is shown can fail to be written; if it could, that would be worth more than silence.
        Err(error) => object["unwritable"] = error.to_string().into(),
    }
    object
}

/// One line on stderr: advice, and what went wrong.
pub(crate) fn advice(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The command that goes on from here.
pub(crate) fn next_command(command: &str) {
    advice(&format!("next_command: {command}"));
    for_programs("next_command", &json!({ "command": command }));
}

/// Something that people are told elsewhere.
pub(crate) fn for_programs(name: &str, value: &impl Serialize) {
    if output() == Output::Json {
        event(name, value, "");
    }
}

/// An error with all its causes, once.
pub(crate) fn error(error: &anyhow::Error) {
    let error = chain(error.as_ref());
    advice(&format!("krossing: {error}"));
    for_programs("error", &json!({ "error": error }));
}

/// A journal entry in one line.
fn entry_text(entry: &JournalEntry) -> String {
    let what = match (entry.kind, entry.from) {
        (EntryKind::Transition, Some(from)) => format!("{from} -> {}", entry.to),
        (EntryKind::Transition, None) => entry.to.to_string(),
        (kind, _) => format!("{}: {}", entry.to, kind_name(kind)),
    };
    format!("{} {what} {}", time(entry.at_unix_ms), entry.reason).trim_end().to_owned()
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Transition => "transition",
        EntryKind::Amendment => "amendment",
        EntryKind::SourceGap => "source_gap",
        EntryKind::TargetRolledBack => "target_rolled_back",
        EntryKind::Decision => "decision",
        EntryKind::GateAnswered => "gate_answered",
        EntryKind::FreezeAsked => "freeze_asked",
        EntryKind::FreezeConfirmed => "freeze_confirmed",
        EntryKind::UnfreezeAsked => "unfreeze_asked",
        EntryKind::Unfrozen => "unfrozen",
        EntryKind::SwitchAsked => "switch_asked",
        EntryKind::SourceMarked => "source_marked",
        EntryKind::TargetBoundary => "target_boundary",
        EntryKind::GroupsCommitted => "groups_committed",
        EntryKind::Validated => "validated",
        EntryKind::Finalizing => "finalizing",
        EntryKind::StragglersAppend => "stragglers_append",
        EntryKind::Notice => "notice",
    }
}

/// A time as the journal's readers know it.
pub(crate) fn time(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).map_or_else(|_| unix_ms.to_string(), |time| format!("{time:.6}"))
}

/// The time of day, UTC.
pub(crate) fn clock_time(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| unix_ms.to_string(), |time| time.strftime("%H:%M:%S").to_string())
}

/// Why fewer groups were carried over than were planned; empty where none is missing.
pub(crate) fn groups_without_positions(planned: usize, carried_over: usize) -> String {
    match planned.saturating_sub(carried_over) {
        0 => String::new(),
        without => {
            format!(" (of {planned} planned; {without} had no position in a migrated topic, and nothing to carry over)")
        }
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration for people, in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// What the journal's end means for whoever reads it.
pub(crate) fn standing(journal: &Journal) -> &'static str {
    match journal.tip() {
        Some(state) if journal.is_being_given_up() && !state.is_terminal() => {
            "a rollback has begun: producers may be on the source again; nothing but the rollback goes on"
        }
        state => state.map_or("not begun", meaning),
    }
}

/// What a state means for whoever reads it.
pub(crate) fn meaning(state: State) -> &'static str {
    match state {
        State::Planned => "the plan is stored; nothing has been touched",
        State::Precheck => "both clusters are looked at",
        State::TopologyCopy => "topics are made on the target",
        State::Seed => "what the source holds is copied",
        State::Tail => "what arrives on the source is copied",
        State::DrainReady => "the target has kept up; the cutover is yours to begin",
        State::Cutover => {
            "a cutover is under way: while producers stand still, the last records and all groups are carried over"
        }
        State::AwaitingClientSwitch => {
            "READY: the target has all that the source had when it was closed; clients are to be switched, or a rollback \
             gives up, while none has come there"
        }
        State::Validating => "clients have switched; the result is to be checked",
        State::Finalized => "checked and recorded",
        State::RolledBack => "given up; the source was not changed, and nothing was deleted",
        State::Failed => "something went wrong; the journal's last entry says what",
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn figures_are_spelled_for_people() {
        assert_eq!([0, 999, 1_000, 86_128_640].map(bytes), ["0 B", "999 B", "1.0 KB", "86.1 MB"]);
        let shown = [7, 187, 7_320, 180_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["7s", "3m07s", "2h02m", "2d02h"]);
        assert_eq!(time(1_777_097_707_512), "2026-04-25T06:15:07.512000Z");
    }

    #[test]
    fn an_event_is_an_object_with_its_name() {
        let object = |value: Value| object("entry", &value).to_string();
        assert_eq!(object(json!({ "state": "seed" })), r#"{"event":"entry","state":"seed"}"#);
        assert_eq!(object(json!([1])), r#"{"event":"entry","value":[1]}"#);
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let inner: anyhow::Result<()> = Err(anyhow::anyhow!("no route")).context("could not read: no route");
        let error = inner.context("seed failed").expect_err("it is one");
        assert_eq!(chain(error.as_ref()), "seed failed: could not read: no route");
    }
}
