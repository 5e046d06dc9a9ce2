//! The journal: what was decided and done, one line an entry, each carrying the hash of the one before.
//!
//! An entry is written before its effects are relied on, so that a process that dies leaves either an entry or nothing
//! that matters. Lines are canonical JSON ([`canonical_json`]): a line that spells the same entry differently is a
//! changed line. The chain makes an edit visible to whoever still has the last hash; it keeps nobody out.
//!
//! Invariants: sequence counts from 0 without a gap; `previous` is the hash of the entry before, or 64 zeros; an entry
//! of another kind than [`EntryKind::Transition`] changes no state (`from` and `to` are the state it was made in); every
//! transition is one that the [table](crate::transition) allows; the first entry, and only it, carries the fingerprint.
//!
//! Does not: store anything, or know the time.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    canonical::{NotCanonical, canonical_digest, canonical_json},
    transition::{Command, Decision, Position, State, Verdict, permit},
    types::MigrationId,
};

/// The version of the entries written now.
pub const JOURNAL_VERSION: u32 = 1;

/// What the first entry follows.
const NO_ENTRY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What an entry is about. All but the first leave the state as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The state changes.
    Transition,
    /// The plan grows by topics or partitions that appeared.
    Amendment,
    /// Records of the source were gone before they were read.
    SourceGap,
    /// The target's log ended below the checkpoint and map and position were rolled back.
    TargetRolledBack,
    /// The operator decided something: which, is in the detail.
    Decision,
    /// The operator answered what a gate asks, at the gate or by a command: which, how and why is in the detail.
    GateAnswered,
    /// Producers were asked to stand still; the detail has the deadline.
    FreezeAsked,
    /// Producers were said to stand still.
    FreezeConfirmed,
    /// Producers are about to be let go on: takes the place that a READY which is still on its way would need.
    UnfreezeAsked,
    /// Producers may go on; the detail says whether that was read back.
    Unfrozen,
    /// READY: producers were told to go on on the target; the detail says whether that was confirmed.
    SwitchAsked,
    /// Closing markers stand on the source; the detail has their positions' digest.
    SourceMarked,
    /// Lanes are fenced for the last time and closed; the detail has the target boundary, or its digest and place.
    TargetBoundary,
    /// Group positions were written to the target and read back.
    GroupsCommitted,
    /// Validation ran; the detail has the verdicts and the report's digest.
    Validated,
    /// A topic got its planned settings, or another step of finalizing was done.
    Finalizing,
    /// A step of appending records that were left behind; the detail says which.
    StragglersAppend,
    /// Something odd that a person should know.
    Notice,
}

/// On whose behalf an entry was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// `alice@host`, the ARN of an AWS identity, or what somebody said of themselves.
    pub who: String,
    /// How that is known.
    pub known_by: KnownBy,
}

/// How it is known who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBy {
    /// The process ran as that user.
    OperatingSystem,
    /// AWS said whose signature the call bore.
    AwsIdentity,
    /// It is not: somebody said so.
    Nobody,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known_by {
            KnownBy::OperatingSystem | KnownBy::AwsIdentity => f.write_str(&self.who),
            KnownBy::Nobody => write!(f, "{} (unattested)", self.who),
        }
    }
}

/// When an entry is made, and on whose behalf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub at_unix_ms: i64,
    /// On whose behalf.
    pub by: Actor,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// Of this format.
    pub version: u32,
    /// Its number; the first is 0.
    pub sequence: u64,
    /// When it was made, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// On whose behalf.
    pub by: Actor,
    /// What it is about.
    pub kind: EntryKind,
    /// The state before; none in the first.
    pub from: Option<State>,
    /// The state after.
    pub to: State,
    /// Why, in words.
    pub reason: String,
    /// The facts: counts, digests, positions. Whole numbers only.
    pub detail: Value,
    /// What the migration was begun with; in the first entry.
    pub fingerprint: Option<String>,
    /// The hash of the entry before.
    pub previous: String,
    /// SHA-256 of the canonical JSON of all of the above, in hex.
    pub hash: String,
}

impl JournalEntry {
    /// The detail as what it was made from; none where it is something else.
    pub fn detail_as<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(&self.detail).ok()
    }

    fn computed_hash(&self) -> Result<String, NotCanonical> {
        let mut fields = serde_json::to_value(self).map_err(|e| NotCanonical::NotJson { detail: e.to_string() })?;
        if let Value::Object(fields) = &mut fields {
            fields.remove("hash");
        }
        canonical_digest(&fields)
    }
}

/// Why lines are not a journal, or an entry cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The last line is not whole: a process died while it wrote it.
    #[error(
        "the journal's last line (entry {sequence}) is cut off: a process died while writing it, and nothing was done \
         on account of it. Keep a copy, remove that line, and run the command again"
    )]
    LastLineCutOff {
        /// The number the entry would have had; as many lines before it are whole.
        sequence: u64,
    },
    /// A line that is no entry.
    #[error("entry {sequence} of the journal cannot be read ({detail}): restore the journal from a copy")]
    NotAnEntry {
        /// Its number.
        sequence: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// An entry of a later format.
    #[error(
        "entry {sequence} of the journal is of format {version}: go on with the Krossing that wrote it, or a later one"
    )]
    LaterVersion {
        /// Its number.
        sequence: u64,
        /// Its format.
        version: u32,
    },
    /// An entry that was changed, moved, left out or put in.
    #[error("the journal's chain is broken at entry {sequence} ({detail}): it was edited, restore it from a copy")]
    ChainBroken {
        /// The first entry that does not fit.
        sequence: u64,
        /// What does not fit.
        detail: &'static str,
    },
    /// A change of state that is not in the table.
    #[error("entry {sequence} of the journal goes from {} to {to}, which is not allowed", state_name(.from))]
    IllegalTransition {
        /// Its number.
        sequence: u64,
        /// The state before.
        from: Option<State>,
        /// The state after.
        to: State,
    },
    /// A detail that cannot be hashed.
    #[error("the detail of a journal entry cannot be written")]
    Detail(#[source] NotCanonical),
    /// The migration was begun with another configuration.
    #[error(
        "the configuration is not the one this migration was begun with (fingerprint {configured} instead of \
         {journaled}): clusters, ARNs, segment and evidence locations must be as they were"
    )]
    OtherFingerprint {
        /// What the journal has.
        journaled: String,
        /// What the configuration gives.
        configured: String,
    },
}

fn state_name(state: &Option<State>) -> &'static str {
    state.map_or("nothing", State::name)
}

/// A journal whose chain has been checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    entries: Vec<JournalEntry>,
    states: Vec<State>,
}

impl Journal {
    /// Checks lines as a ledger gives them; no line is an empty journal.
    pub fn parse<L: AsRef<str>>(lines: &[L]) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        for (index, line) in lines.iter().enumerate() {
            let sequence = index as u64;
            let line = line.as_ref();
            let value: Value = match serde_json::from_str(line) {
                Ok(value) => value,
                Err(e) if e.is_eof() && index + 1 == lines.len() => {
                    return Err(JournalError::LastLineCutOff { sequence });
                }
                Err(e) => return Err(JournalError::NotAnEntry { sequence, detail: e.to_string() }),
            };
            if let Some(version) = value.get("version").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok())
                && version > JOURNAL_VERSION
            {
                return Err(JournalError::LaterVersion { sequence, version });
            }
            let entry: JournalEntry = serde_json::from_value(value)
                .map_err(|e| JournalError::NotAnEntry { sequence, detail: e.to_string() })?;
            if canonical_json(&entry).map_err(JournalError::Detail)? != line {
                return Err(JournalError::ChainBroken {
                    sequence,
                    detail: "the line is not spelled as it was written",
                });
            }
            journal.push(entry)?;
        }
        Ok(journal)
    }

    /// The first entry: the migration is planned. Answers it and its line; nothing is appended before [`Self::push`].
    pub fn begin(
        &self,
        fingerprint: String,
        stamp: Stamp,
        reason: impl Into<String>,
        detail: Value,
    ) -> Result<(JournalEntry, String), JournalError> {
        self.seal(EntryKind::Transition, State::Planned, stamp, reason.into(), detail, Some(fingerprint))
    }

    /// The next entry, as a change of state. Answers it and its line; nothing is appended before [`Self::push`].
    pub fn transition(
        &self,
        to: State,
        stamp: Stamp,
        reason: impl Into<String>,
        detail: Value,
    ) -> Result<(JournalEntry, String), JournalError> {
        self.seal(EntryKind::Transition, to, stamp, reason.into(), detail, None)
    }

    /// The next entry, of another kind: the state stays. Answers it and its line; nothing is appended before
    /// [`Self::push`].
    pub fn note(
        &self,
        kind: EntryKind,
        stamp: Stamp,
        reason: impl Into<String>,
        detail: Value,
    ) -> Result<(JournalEntry, String), JournalError> {
        let state = self.tip().unwrap_or(State::Planned);
        self.seal(kind, state, stamp, reason.into(), detail, None)
    }

    fn seal(
        &self,
        kind: EntryKind,
        to: State,
        Stamp { at_unix_ms, by }: Stamp,
        reason: String,
        detail: Value,
        fingerprint: Option<String>,
    ) -> Result<(JournalEntry, String), JournalError> {
        let mut entry = JournalEntry {
            version: JOURNAL_VERSION,
            sequence: self.entries.len() as u64,
            at_unix_ms,
            by,
            kind,
            from: self.tip(),
            to,
            reason,
            detail,
            fingerprint,
            previous: self.tip_hash().to_owned(),
            hash: String::new(),
        };
        entry.hash = entry.computed_hash().map_err(JournalError::Detail)?;
        self.check(&entry)?;
        let line = canonical_json(&entry).map_err(JournalError::Detail)?;
        Ok((entry, line))
    }

    /// Takes an entry in, once it is stored at [`Self::position`] or read from there.
    pub fn push(&mut self, entry: JournalEntry) -> Result<(), JournalError> {
        self.check(&entry)?;
        if entry.kind == EntryKind::Transition {
            self.states.push(entry.to);
        }
        self.entries.push(entry);
        Ok(())
    }

    fn check(&self, entry: &JournalEntry) -> Result<(), JournalError> {
        let sequence = self.entries.len() as u64;
        let broken = |detail| Err(JournalError::ChainBroken { sequence, detail });
        if entry.sequence != sequence {
            return broken("its number is another");
        }
        if entry.previous != self.tip_hash() {
            return broken("it does not carry the hash of the entry before");
        }
        if entry.hash != entry.computed_hash().map_err(JournalError::Detail)? {
            return broken("its own hash is another");
        }
        if entry.from != self.tip() {
            return broken("it does not begin in the state before");
        }
        if entry.fingerprint.is_some() != (sequence == 0) {
            return broken("the fingerprint belongs to the first entry and to no other");
        }
        let allowed = match entry.kind {
            EntryKind::Transition => self.standing().allows(entry.to),
            EntryKind::Amendment
            | EntryKind::SourceGap
            | EntryKind::TargetRolledBack
            | EntryKind::Decision
            | EntryKind::GateAnswered
            | EntryKind::FreezeAsked
            | EntryKind::FreezeConfirmed
            | EntryKind::UnfreezeAsked
            | EntryKind::Unfrozen
            | EntryKind::SwitchAsked
            | EntryKind::SourceMarked
            | EntryKind::TargetBoundary
            | EntryKind::GroupsCommitted
            | EntryKind::Validated
            | EntryKind::Finalizing
            | EntryKind::StragglersAppend
            | EntryKind::Notice => Some(entry.to) == self.tip(),
        };
        if !allowed {
            return Err(JournalError::IllegalTransition { sequence, from: self.tip(), to: entry.to });
        }
        Ok(())
    }

    /// Whether the configuration is the one the migration was begun with.
    pub fn check_fingerprint(&self, configured: &str) -> Result<(), JournalError> {
        match self.fingerprint() {
            Some(journaled) if journaled != configured => Err(JournalError::OtherFingerprint {
                journaled: journaled.to_owned(),
                configured: configured.to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// What the migration was begun with; none in an empty journal.
    pub fn fingerprint(&self) -> Option<&str> {
        self.entries.first()?.fingerprint.as_deref()
    }

    /// The state at the end; none in an empty journal.
    pub fn tip(&self) -> Option<State> {
        self.states.last().copied()
    }

    /// Where the migration stands, looking behind failures.
    pub fn standing(&self) -> Position {
        Position::of(&self.states)
    }

    /// The hash of the last entry, or of nothing.
    pub fn tip_hash(&self) -> &str {
        self.entries.last().map_or(NO_ENTRY, |entry| &entry.hash)
    }

    /// The states that the transitions lead to, in order.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[JournalEntry] {
        &self.entries
    }

    /// Which line the next entry is.
    pub fn position(&self) -> usize {
        self.entries.len()
    }

    /// The last entry of a kind.
    pub fn last(&self, kind: EntryKind) -> Option<&JournalEntry> {
        self.entries.iter().rev().find(|entry| entry.kind == kind)
    }

    /// The entry of READY: the cutover's end, which comes once.
    pub fn ready(&self) -> Option<&JournalEntry> {
        let is_ready = |entry: &&JournalEntry| {
            entry.kind == EntryKind::Transition
                && entry.from == Some(State::Cutover)
                && entry.to == State::AwaitingClientSwitch
        };
        self.entries.iter().find(is_ready)
    }

    /// Whether the last cutover asked producers to stand still, and nobody has written down that they may go on.
    pub fn producers_may_stand_still(&self) -> bool {
        let noted = |kind| self.last_since(State::Cutover, kind).is_some();
        noted(EntryKind::FreezeAsked) && !noted(EntryKind::Unfrozen)
    }

    /// Whether a rollback has begun after READY: producers may be writing to the source again, so that the target is
    /// complete no more, and nothing but that rollback goes on.
    pub fn is_being_given_up(&self) -> bool {
        let Some(ready) = self.ready() else { return false };
        let mut behind = self.entries.iter().rev().take_while(|entry| entry.sequence > ready.sequence);
        behind.any(|entry| entry.kind == EntryKind::UnfreezeAsked)
    }

    /// Whether `command` may run: what the [table](permit) says, and after READY what a rollback that has begun leaves.
    pub fn permit(&self, command: Command) -> Verdict {
        let verdict = permit(command, self.standing());
        let goes_on = matches!(command, Command::Rollback | Command::Resume | Command::Status);
        if goes_on || verdict.decision != Decision::Allowed || !self.is_being_given_up() {
            return verdict;
        }
        let sentence = format!(
            "{command} is not possible: a rollback has begun to let producers go on on the source, so that the target is \
             not complete any more: `krossing rollback` ends it"
        );
        Verdict { decision: Decision::Refused(sentence), ..verdict }
    }

    /// The last entry of a kind since `state` was last entered; none where it never was.
    pub fn last_since(&self, state: State, kind: EntryKind) -> Option<&JournalEntry> {
        let entered = self.entries.iter().rposition(|e| e.kind == EntryKind::Transition && e.to == state)?;
        self.entries[entered..].iter().rev().find(|entry| entry.kind == kind)
    }
}

/// What a migration is tied to: a resume under another configuration would continue a different migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity<'a> {
    /// The migration.
    pub migration_id: &'a MigrationId,
    /// The id the source gave itself.
    pub source_cluster_id: &'a str,
    /// The id the target gave itself.
    pub target_cluster_id: &'a str,
    /// The source's ARN, where given.
    pub source_cluster_arn: Option<&'a str>,
    /// The target's ARN, where given.
    pub target_cluster_arn: Option<&'a str>,
    /// Where segments are: a folder, or bucket and prefix.
    pub segments: &'a str,
    /// Where evidence is.
    pub evidence: &'a str,
}

/// The fingerprint of a migration: never of bootstrap strings, which may change without being another cluster.
pub fn fingerprint(identity: &Identity<'_>) -> String {
    canonical_digest(identity).expect("an identity is made of texts, which always have a canonical form")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at(at_unix_ms: i64) -> Stamp {
        Stamp { at_unix_ms, by: Actor { who: "alice@here".to_owned(), known_by: KnownBy::OperatingSystem } }
    }

    fn sample() -> Vec<String> {
        let mut journal = Journal::default();
        let mut lines = Vec::new();
        let mut add = |journal: &mut Journal, made: Result<(JournalEntry, String), JournalError>| {
            let (entry, line) = made.unwrap();
            journal.push(entry).unwrap();
            lines.push(line);
        };
        let made = journal.begin("f1".into(), at(1), "begun", json!({"plan": "p1"}));
        add(&mut journal, made);
        for (time, to) in [(2, State::Precheck), (3, State::TopologyCopy), (4, State::Seed)] {
            let made = journal.transition(to, at(time), "done", json!({}));
            add(&mut journal, made);
        }
        let made = journal.note(EntryKind::Amendment, at(5), "a topic appeared", json!({"number": 1}));
        add(&mut journal, made);
        for (time, to) in [(6, State::Failed), (7, State::Seed), (8, State::Tail)] {
            let made = journal.transition(to, at(time), "so it went", json!({"n": time}));
            add(&mut journal, made);
        }
        lines
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(line in 0usize..8, at in 0.0f64..1.0, to in 32u8..127) {
            let mut lines = sample();
            let mut bytes = lines[line].clone().into_bytes();
            let at = (at * bytes.len() as f64) as usize;
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            lines[line] = String::from_utf8(bytes).unwrap();
            prop_assert!(Journal::parse(&lines).is_err());
        }

        #[test]
        fn dropped_swapped_and_inserted_entries_are_noticed(a in 0usize..8, b in 0usize..8) {
            prop_assume!(a != b);
            let lines = sample();
            let mut swapped = lines.clone();
            swapped.swap(a, b);
            prop_assert!(Journal::parse(&swapped).is_err());
            let mut inserted = lines.clone();
            inserted.insert(a, lines[b].clone());
            prop_assert!(Journal::parse(&inserted).is_err());
            // The last one dropped leaves a shorter journal that is right: only whoever knows its hash can tell.
            let mut dropped = lines.clone();
            dropped.remove(a.min(6));
            prop_assert!(Journal::parse(&dropped).is_err());
        }

        #[test]
        fn a_last_line_that_was_cut_off_is_told_from_an_edit(keep in 0.0f64..1.0) {
            let mut lines = sample();
            let last = lines.pop().unwrap();
            lines.push(last[..(keep * last.len() as f64) as usize].to_owned());
            prop_assert_eq!(Journal::parse(&lines), Err(JournalError::LastLineCutOff { sequence: 7 }));
            prop_assert!(Journal::parse(&lines[..7]).is_ok());
        }
    }

    #[test]
    fn a_journal_comes_back_as_it_was_written() {
        let journal = Journal::parse(&sample()).unwrap();
        assert_eq!(journal.standing(), Position::At(State::Tail));
        assert_eq!(journal.position(), 8);
        assert_eq!(journal.fingerprint(), Some("f1"));
        assert_eq!(journal.last(EntryKind::Amendment).unwrap().detail, json!({"number": 1}));
        assert_eq!(journal.last_since(State::Tail, EntryKind::Amendment), None);
        assert!(journal.check_fingerprint("f1").is_ok());
        assert!(matches!(journal.check_fingerprint("f2"), Err(JournalError::OtherFingerprint { .. })));
    }

    #[test]
    fn a_transition_that_is_not_in_the_table_cannot_be_made() {
        let journal = Journal::parse(&sample()).unwrap();
        for to in [State::Cutover, State::Planned, State::Finalized, State::Tail] {
            let refused = journal.transition(to, at(9), "", json!({}));
            assert!(matches!(refused, Err(JournalError::IllegalTransition { .. })), "{to}");
        }
        assert!(Journal::default().transition(State::Seed, at(0), "", json!({})).is_err());
        assert!(Journal::default().note(EntryKind::Notice, at(0), "", json!({})).is_err());
    }

    #[test]
    fn behind_ready_nothing_but_a_rollback_goes_on_once_producers_are_let_go_on() {
        let mut journal = Journal::parse(&sample()).unwrap();
        let note = |journal: &mut Journal, kind| {
            let (entry, _) = journal.note(kind, at(9), "", json!({})).unwrap();
            journal.push(entry).unwrap();
        };
        let enter = |journal: &mut Journal, to| {
            let (entry, _) = journal.transition(to, at(9), "", json!({})).unwrap();
            journal.push(entry).unwrap();
        };
        enter(&mut journal, State::DrainReady);
        enter(&mut journal, State::Cutover);
        // A cutover that was taken back has let producers go on, too.
        note(&mut journal, EntryKind::UnfreezeAsked);
        enter(&mut journal, State::DrainReady);
        enter(&mut journal, State::Cutover);
        enter(&mut journal, State::AwaitingClientSwitch);
        assert!(!journal.is_being_given_up());
        assert_eq!(journal.permit(Command::CutoverAck).decision, Decision::Allowed);
        note(&mut journal, EntryKind::UnfreezeAsked);
        for failed in [false, true] {
            if failed {
                enter(&mut journal, State::Failed);
                enter(&mut journal, State::AwaitingClientSwitch);
            }
            assert!(journal.is_being_given_up());
            for command in Command::ALL {
                let goes_on = [Command::Rollback, Command::Resume, Command::Status].contains(&command);
                assert_eq!(journal.permit(command).decision == Decision::Allowed, goes_on, "{command}");
            }
        }
    }

    #[test]
    fn a_line_with_another_spelling_of_the_same_entry_is_noticed() {
        let mut lines = sample();
        lines[2] = lines[2].replace(",\"", ", \"");
        assert!(matches!(Journal::parse(&lines), Err(JournalError::ChainBroken { sequence: 2, .. })));
    }

    #[test]
    fn an_entry_of_a_later_format_is_left_to_a_later_krossing() {
        let mut lines = sample();
        lines[3] = lines[3].replace("\"version\":1", "\"version\":2");
        assert_eq!(Journal::parse(&lines), Err(JournalError::LaterVersion { sequence: 3, version: 2 }));
    }

    #[test]
    fn the_fingerprint_changes_with_each_of_its_parts() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let base = Identity {
            migration_id: &a,
            source_cluster_id: "s",
            target_cluster_id: "t",
            source_cluster_arn: None,
            target_cluster_arn: None,
            segments: "x",
            evidence: "y",
        };
        let others = [
            Identity { migration_id: &b, ..base.clone() },
            Identity { source_cluster_id: "u", ..base.clone() },
            Identity { target_cluster_id: "u", ..base.clone() },
            Identity { source_cluster_arn: Some("arn"), ..base.clone() },
            Identity { target_cluster_arn: Some("arn"), ..base.clone() },
            Identity { segments: "z", ..base.clone() },
            Identity { evidence: "z", ..base.clone() },
        ];
        let mut seen: Vec<String> = others.iter().chain([&base]).map(fingerprint).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 8);
    }
}
