//! Gates: where a workflow waits for an operator, what may be decided there, and what an answer is worth.
//!
//! A gate is a document of the ledger while it is open. Whoever answers writes the answer into it before the workflow is
//! told, so that two answers cannot both count, and that the journal can say who decided, when and why. Whoever holds
//! only the workflow's token can answer as well; then nobody vouches for who that was.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::journal::{Actor, EntryKind, Journal, JournalEntry, KnownBy};

/// The document that the open gate is in.
pub const GATE_DOCUMENT: &str = "gate";

/// Where a workflow waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The target has kept up: may the cutover begin?
    ApproveCutover,
    /// No webhook: do all producers stand still?
    FreezeProducers,
    /// READY: have all clients switched?
    AcknowledgeSwitch,
    /// Something failed: again, back, or not at all?
    AfterFailure,
}

/// What an operator may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Begin the cutover.
    Cutover,
    /// Give the migration up.
    Rollback,
    /// Every producer has flushed and closed.
    Frozen,
    /// No cutover now.
    Cancel,
    /// All clients have switched to the target.
    Switched,
    /// What stood in the way is put right: go on from there.
    Retry,
    /// End the execution; the migration stays where it is.
    Stop,
}

impl Gate {
    /// All gates.
    pub const ALL: [Gate; 4] =
        [Gate::ApproveCutover, Gate::FreezeProducers, Gate::AcknowledgeSwitch, Gate::AfterFailure];

    /// Its name in the workflow.
    pub fn name(self) -> &'static str {
        match self {
            Gate::ApproveCutover => "approve_cutover",
            Gate::FreezeProducers => "freeze_producers",
            Gate::AcknowledgeSwitch => "acknowledge_switch",
            Gate::AfterFailure => "after_failure",
        }
    }

    /// What may be said at it.
    pub fn answers(self) -> &'static [Answer] {
        match self {
            Gate::ApproveCutover => &[Answer::Cutover, Answer::Rollback],
            Gate::FreezeProducers => &[Answer::Frozen, Answer::Cancel],
            Gate::AcknowledgeSwitch => &[Answer::Switched, Answer::Rollback],
            Gate::AfterFailure => &[Answer::Retry, Answer::Rollback, Answer::Stop],
        }
    }

    /// What is asked, as a sentence.
    pub fn question(self) -> &'static str {
        match self {
            Gate::ApproveCutover => "The target has kept up. May the cutover begin?",
            Gate::FreezeProducers => "Have every producer flush and close now. Do all of them stand still?",
            Gate::AcknowledgeSwitch => {
                "READY: point consumers, then producers, to the target. Have all clients switched, or, while none has, is the \
                 migration given up?"
            }
            Gate::AfterFailure => "Put right what is named. Go on from there, give the migration up, or stop?",
        }
    }
}

impl Answer {
    /// All answers.
    pub const ALL: [Answer; 7] = [
        Answer::Cutover,
        Answer::Rollback,
        Answer::Frozen,
        Answer::Cancel,
        Answer::Switched,
        Answer::Retry,
        Answer::Stop,
    ];

    /// Its name in the workflow.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Cutover => "cutover",
            Answer::Rollback => "rollback",
            Answer::Frozen => "frozen",
            Answer::Cancel => "cancel",
            Answer::Switched => "switched",
            Answer::Retry => "retry",
            Answer::Stop => "stop",
        }
    }

    /// What it does.
    pub fn meaning(self) -> &'static str {
        match self {
            Answer::Cutover => "begin the cutover",
            Answer::Rollback => "give the migration up; nothing is deleted",
            Answer::Frozen => "every producer has flushed and closed",
            Answer::Cancel => "no cutover now; producers go on",
            Answer::Switched => "all clients work on the target",
            Answer::Retry => "go on from where it failed",
            Answer::Stop => "end this execution; the migration stays where it is",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A gate at which a workflow waits, or waited last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenGate {
    /// Which.
    pub gate: Gate,
    /// What the workflow is to be answered with.
    pub token: String,
    /// The execution that waits.
    pub execution: String,
    /// Since when, in milliseconds since 1970.
    pub asked_unix_ms: i64,
    /// Where things stood then, for whoever is to decide.
    #[serde(default)]
    pub facts: Vec<String>,
    /// The answer, once there is one.
    pub decided: Option<Decided>,
    /// Answers to gates before it, the newest last: whoever drives the migration next journals those that are not yet.
    #[serde(default)]
    pub before: Vec<Answered>,
}

/// An answer, and what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The gate.
    pub gate: Gate,
    /// The answer.
    #[serde(flatten)]
    pub decided: Decided,
}

/// How many earlier answers a gate carries along. Between two that are asked somebody drives the migration.
const BEFORE_MAX: usize = 20;

impl OpenGate {
    /// All answers that it knows of, the newest last.
    pub fn answers(&self) -> Vec<Answered> {
        let own = self.decided.iter().map(|decided| Answered { gate: self.gate, decided: decided.clone() });
        let all: Vec<_> = self.before.iter().cloned().chain(own).collect();
        all[all.len().saturating_sub(BEFORE_MAX)..].to_vec()
    }

    /// Forgets an answer that the workflow did not take; not one that another has told it again. Answers whether there
    /// was one.
    pub fn forget(&mut self, refused: &Decided) -> bool {
        let before = self.before.len();
        self.before.retain(|answered| answered.decided != *refused);
        let own = self.decided.take_if(|decided| decided == refused);
        own.is_some() || self.before.len() < before
    }

    /// Those of them that the journal does not have yet.
    pub fn to_be_journaled(&self, journal: &Journal) -> Vec<Answered> {
        let known: Vec<Answered> = journal
            .entries()
            .iter()
            .filter(|entry| entry.kind == EntryKind::GateAnswered)
            .filter_map(JournalEntry::detail_as)
            .collect();
        let own =
            |answered: Answered| Answered { decided: Decided { told_again: false, ..answered.decided }, ..answered };
        self.answers().into_iter().map(own).filter(|answered| !known.contains(answered)).collect()
    }
}

/// An answer, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The answer.
    pub answer: Answer,
    /// Who gave it, and how that is known.
    pub by: Actor,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Of a rollback: they have let producers go on themselves, because Krossing was not able to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub producers_released: bool,
    /// Somebody else has given the same answer since, and has told the workflow: whoever gave it first cannot know any
    /// more whether it was taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told_again: bool,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: i64,
}

impl Decided {
    /// An answer that says nothing of producers.
    pub fn new(answer: Answer, by: Actor, reason: String, at_unix_ms: i64) -> Self {
        Self { answer, by, reason, producers_released: false, told_again: false, at_unix_ms }
    }
}

/// The gate that `answer` may be given at now, or why it may not.
pub fn may_answer(gate: Option<&OpenGate>, answer: Answer) -> Result<&OpenGate, String> {
    let Some(open) = gate else {
        return Err(format!(
            "nothing is asked of this migration now, so that {answer} answers nothing: its status shows where it stands"
        ));
    };
    if let Some(decided) = &open.decided {
        return Err(format!(
            "{} was answered already: {} by {}; {answer} changes nothing",
            open.gate, decided.answer, decided.by
        ));
    }
    let answers = open.gate.answers();
    if !answers.contains(&answer) {
        let names: Vec<_> = answers.iter().map(|answer| answer.name()).collect();
        return Err(format!("{answer} is no answer to {}: it takes {}", open.gate, names.join(" or ")));
    }
    Ok(open)
}

/// Who gave the answer that a workflow brings from `gate`. An answer that is not in the gate's document came with the
/// bare token.
pub fn decided_by(stored: Option<&OpenGate>, gate: Gate, answer: Answer) -> Decided {
    let kept = stored.filter(|open| open.gate == gate).and_then(|open| open.decided.clone());
    kept.filter(|decided| decided.answer == answer).unwrap_or_else(|| {
        let by = Actor { who: "whoever had the task token".to_owned(), known_by: KnownBy::Nobody };
        Decided::new(answer, by, String::new(), stored.map_or(0, |open| open.asked_unix_ms))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(gate: Gate) -> OpenGate {
        OpenGate {
            gate,
            token: "t".to_owned(),
            execution: "e".to_owned(),
            asked_unix_ms: 1,
            facts: Vec::new(),
            decided: None,
            before: Vec::new(),
        }
    }

    fn alice(answer: Answer) -> Decided {
        let by = Actor { who: "arn:alice".to_owned(), known_by: KnownBy::AwsIdentity };
        Decided::new(answer, by, "agreed".to_owned(), 2)
    }

    #[test]
    fn only_what_is_asked_can_be_answered() {
        for gate in Gate::ALL {
            for answer in Answer::ALL {
                let verdict = may_answer(Some(&open(gate)), answer).map(|_| ());
                assert_eq!(verdict.is_ok(), gate.answers().contains(&answer), "{gate} {answer}");
                let why = may_answer(None, answer).expect_err("nothing is open");
                assert!(why.contains(answer.name()), "{why}");
            }
        }
    }

    #[test]
    fn a_second_answer_is_refused_and_told_of_the_first() {
        let answered = OpenGate { decided: Some(alice(Answer::Cutover)), ..open(Gate::ApproveCutover) };
        let why = may_answer(Some(&answered), Answer::Rollback).expect_err("it was answered");
        assert!(why.contains("cutover by arn:alice"), "{why}");
    }

    #[test]
    fn an_answer_that_nobody_wrote_down_is_nobodys() {
        let answered = OpenGate { decided: Some(alice(Answer::Cutover)), ..open(Gate::ApproveCutover) };
        assert_eq!(decided_by(Some(&answered), Gate::ApproveCutover, Answer::Cutover), alice(Answer::Cutover));
        for (gate, answer) in [(Gate::ApproveCutover, Answer::Rollback), (Gate::AfterFailure, Answer::Cutover)] {
            assert_eq!(decided_by(Some(&answered), gate, answer).by.known_by, KnownBy::Nobody);
        }
        assert_eq!(decided_by(None, Gate::ApproveCutover, Answer::Cutover).by.known_by, KnownBy::Nobody);
    }

    #[test]
    fn an_answer_that_came_too_late_is_forgotten_at_its_gate_and_behind_it() {
        let mut late = OpenGate { decided: Some(alice(Answer::Cutover)), ..open(Gate::ApproveCutover) };
        let mut next = OpenGate { before: late.answers(), ..open(Gate::AfterFailure) };
        for gate in [&mut late, &mut next] {
            assert!(!gate.forget(&alice(Answer::Rollback)));
            assert!(gate.forget(&alice(Answer::Cutover)));
            assert_eq!((gate.answers(), gate.decided.clone()), (Vec::new(), None));
        }
        let told_again = Decided { told_again: true, ..alice(Answer::Cutover) };
        let mut told = OpenGate { decided: Some(told_again), ..open(Gate::ApproveCutover) };
        assert!(!told.forget(&alice(Answer::Cutover)), "the workflow may have taken it from the other");
        assert_eq!(told.to_be_journaled(&Journal::default())[0].decided, alice(Answer::Cutover));
    }

    #[test]
    fn every_answer_is_journaled_once_also_those_of_gates_before() {
        use crate::journal::Stamp;
        let first = Answered { gate: Gate::ApproveCutover, decided: alice(Answer::Cutover) };
        let gate = OpenGate {
            before: vec![first.clone()],
            decided: Some(Decided { at_unix_ms: 3, ..alice(Answer::Frozen) }),
            ..open(Gate::FreezeProducers)
        };
        let stamp = || Stamp { at_unix_ms: 9, by: alice(Answer::Cutover).by };
        let mut journal = Journal::default();
        let begun = journal.begin("f".to_owned(), stamp(), "planned", serde_json::json!({}));
        journal.push(begun.expect("it begins").0).expect("it fits");
        assert_eq!(gate.to_be_journaled(&journal).len(), 2);
        let detail = serde_json::to_value(&first).expect("plain data");
        let noted = journal.note(EntryKind::GateAnswered, stamp(), "cutover", detail).expect("a note");
        journal.push(noted.0).expect("it fits");
        let left = gate.to_be_journaled(&journal);
        assert_eq!(left.iter().map(|one| one.decided.answer).collect::<Vec<_>>(), [Answer::Frozen]);
    }

    #[test]
    fn names_are_those_that_are_stored() {
        for gate in Gate::ALL {
            assert_eq!(serde_json::to_value(gate).ok(), Some(gate.name().into()));
        }
        for answer in Answer::ALL {
            assert_eq!(serde_json::to_value(answer).ok(), Some(answer.name().into()));
        }
    }
}
