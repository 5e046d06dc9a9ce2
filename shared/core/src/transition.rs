//! Which state a migration may be in, which may follow which, and which command may be given in which.
//!
//! The table, whole. Right of each state stands everything that may follow it:
//!
//! ```text
//! planned ................ precheck            rolled_back  failed
//! precheck ............... topology_copy       rolled_back  failed
//! topology_copy .......... seed                rolled_back  failed
//! seed ................... tail                rolled_back  failed
//! tail ................... drain_ready         rolled_back  failed
//! drain_ready ............ cutover             rolled_back  failed
//! cutover ................ awaiting_client_switch   drain_ready (it failed, all is released)   failed (it was killed)
//! awaiting_client_switch . validating          rolled_back (while no client has come to the target)   failed
//! validating ............. finalized           failed
//! failed ................. the state it failed in, or drain_ready where that was cutover;   rolled_back   failed
//! finalized, rolled_back . nothing
//! ```
//!
//! Up to `awaiting_client_switch` a migration can be given up, also after a cutover that failed half way through its
//! commits. Before that entry whatever fails lets producers go on by itself; behind it nothing does but the operator's
//! rollback, and that only while no client has come to the target: what is written there is not on the source. Whether
//! one has come the table cannot know; who rolls back looks. The acknowledgement ends it: from `validating` on there is
//! no rollback.
//!
//! Invariants: `failed` never leads further than the state that failed; a cutover is never entered again by a resume,
//! only by the operator's command. The command line, the functions and the workflow definition are held equal to this
//! table by tests.
//!
//! Does not: write the journal, or act.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The plan is stored; nothing has been touched.
    Planned,
    /// Both clusters are looked at.
    Precheck,
    /// Topics are made on the target.
    TopologyCopy,
    /// What the source holds is copied through segments.
    Seed,
    /// What arrives on the source is copied directly.
    Tail,
    /// The target has kept up for long enough; the operator decides when to cut over.
    DrainReady,
    /// Producers stand still; marks, last records, group positions.
    Cutover,
    /// The target is complete; clients are being switched by their owners.
    AwaitingClientSwitch,
    /// Clients have switched; the result is checked.
    Validating,
    /// Checked and recorded. The end.
    Finalized,
    /// Given up before clients have come to the target. The end.
    RolledBack,
    /// Something went wrong; the journal says in which state and why.
    Failed,
}

impl State {
    /// All states, in the order of the table.
    pub const ALL: [State; 12] = [
        State::Planned,
        State::Precheck,
        State::TopologyCopy,
        State::Seed,
        State::Tail,
        State::DrainReady,
        State::Cutover,
        State::AwaitingClientSwitch,
        State::Validating,
        State::Finalized,
        State::RolledBack,
        State::Failed,
    ];

    /// Its name in the journal, on the terminal and in the workflow.
    pub fn name(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Precheck => "precheck",
            State::TopologyCopy => "topology_copy",
            State::Seed => "seed",
            State::Tail => "tail",
            State::DrainReady => "drain_ready",
            State::Cutover => "cutover",
            State::AwaitingClientSwitch => "awaiting_client_switch",
            State::Validating => "validating",
            State::Finalized => "finalized",
            State::RolledBack => "rolled_back",
            State::Failed => "failed",
        }
    }

    /// Everything that may follow, as far as a single step tells; [`Position`] narrows what may follow `failed`.
    pub fn successors(self) -> &'static [State] {
        use State::*;
        match self {
            Planned => &[Precheck, RolledBack, Failed],
            Precheck => &[TopologyCopy, RolledBack, Failed],
            TopologyCopy => &[Seed, RolledBack, Failed],
            Seed => &[Tail, RolledBack, Failed],
            Tail => &[DrainReady, RolledBack, Failed],
            DrainReady => &[Cutover, RolledBack, Failed],
            Cutover => &[AwaitingClientSwitch, DrainReady, Failed],
            AwaitingClientSwitch => &[Validating, RolledBack, Failed],
            Validating => &[Finalized, Failed],
            Finalized => &[],
            RolledBack => &[],
            Failed => &[
                Planned,
                Precheck,
                TopologyCopy,
                Seed,
                Tail,
                DrainReady,
                AwaitingClientSwitch,
                Validating,
                RolledBack,
                Failed,
            ],
        }
    }

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        self.successors().is_empty()
    }

    /// Whether no cutover is under way or over (for `failed` the state before it counts).
    pub fn is_before_cutover(self) -> bool {
        self <= State::DrainReady
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many entries of `failed` in a row a resume looks behind. More mean that recovering itself goes wrong again and
/// again: a person must look. An attempt that ends before it journals anything does not count.
pub const FAILED_HOPS_MAX: usize = 4;

/// Where a migration stands, and what it was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// No journal yet.
    Unborn,
    /// In this state, which is not `failed`.
    At(State),
    /// In `failed`, reached from this state.
    FailedIn(State),
    /// In `failed`, more than [`FAILED_HOPS_MAX`] times in a row; the state before them.
    FailedTooOften(State),
}

impl Position {
    /// Reads the position from the states that the journal's transitions lead to, in order.
    pub fn of(states: &[State]) -> Self {
        let Some(tip) = states.last() else { return Position::Unborn };
        let hops = states.iter().rev().take_while(|state| **state == State::Failed).count();
        if hops == 0 {
            return Position::At(*tip);
        }
        // A journal begins with `planned`; one that begins with `failed` is read as such.
        let before = states.len().checked_sub(hops + 1).map_or(State::Planned, |index| states[index]);
        if hops <= FAILED_HOPS_MAX { Position::FailedIn(before) } else { Position::FailedTooOften(before) }
    }

    /// The state at the journal's end.
    pub fn tip(self) -> Option<State> {
        match self {
            Position::Unborn => None,
            Position::At(state) => Some(state),
            Position::FailedIn(_) | Position::FailedTooOften(_) => Some(State::Failed),
        }
    }

    /// The last state that was not `failed`.
    pub fn working_state(self) -> Option<State> {
        match self {
            Position::Unborn => None,
            Position::At(state) | Position::FailedIn(state) | Position::FailedTooOften(state) => Some(state),
        }
    }

    /// Whether `to` may be journaled next.
    pub fn allows(self, to: State) -> bool {
        match self {
            Position::Unborn => to == State::Planned,
            Position::At(from) => from.successors().contains(&to),
            Position::FailedIn(before) => failed_in_allows(before, to),
            Position::FailedTooOften(before) => to == State::RolledBack && failed_in_allows(before, to),
        }
    }

    /// Whether a cutover began and neither ended nor was taken back: producers may stand still.
    pub fn cutover_is_open(self) -> bool {
        self.working_state() == Some(State::Cutover)
    }
}

fn failed_in_allows(before: State, to: State) -> bool {
    match to {
        State::Failed => true,
        State::RolledBack => before <= State::AwaitingClientSwitch,
        State::DrainReady => before == State::DrainReady || before == State::Cutover,
        State::Cutover => false,
        State::Planned
        | State::Precheck
        | State::TopologyCopy
        | State::Seed
        | State::Tail
        | State::AwaitingClientSwitch
        | State::Validating => before == to,
        State::Finalized => false,
    }
}

/// What a resume does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumePoint {
    /// Go on with this state's work. Where the tip is `failed`, journal `failed → state` first.
    Run {
        /// The state.
        state: State,
    },
    /// Nothing to do before the operator decides: exit code 10. Where the tip is `failed`, journal it first, too.
    Wait {
        /// The state.
        state: State,
        /// The command that goes on.
        next: Command,
    },
    /// A cutover was killed: let producers go on, read that back, journal `cutover → failed` (if the tip is not yet
    /// `failed`) and `failed → drain_ready`, then wait for the operator: exit code 10.
    AbandonCutover,
    /// Nothing, ever again.
    Finished {
        /// How it ended.
        state: State,
    },
}

/// Why there is no resume point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoResumePoint {
    /// There is no journal.
    #[error("there is no migration to resume: the journal is empty; `krossing execute` begins one")]
    Unborn,
    /// Recovering failed too often.
    #[error(
        "{state} has failed and so have more than {FAILED_HOPS_MAX} attempts to recover from it: the last entries of \
         the journal say why; a rollback is possible while no client has come to the target"
    )]
    FailedTooOften {
        /// The state that failed.
        state: State,
    },
}

/// Where a resume goes on, from the states that the journal's transitions lead to.
pub fn resume_point(states: &[State]) -> Result<ResumePoint, NoResumePoint> {
    let state = match Position::of(states) {
        Position::Unborn => return Err(NoResumePoint::Unborn),
        Position::FailedTooOften(state) => return Err(NoResumePoint::FailedTooOften { state }),
        Position::At(state) | Position::FailedIn(state) => state,
    };
    Ok(match state {
        State::Planned | State::Precheck | State::TopologyCopy | State::Seed | State::Tail => {
            ResumePoint::Run { state }
        }
        State::DrainReady => ResumePoint::Wait { state, next: Command::Cutover },
        State::Cutover => ResumePoint::AbandonCutover,
        State::AwaitingClientSwitch => ResumePoint::Wait { state, next: Command::CutoverAck },
        State::Validating => ResumePoint::Wait { state, next: Command::Finalize },
        State::Finalized | State::RolledBack | State::Failed => ResumePoint::Finished { state },
    })
}

/// What an operator may ask of a migration. `plan` and `precheck` change nothing and are always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// From the beginning, or from where it stands, to `drain_ready`.
    Execute,
    /// From where it stands, as far as no decision is needed.
    Resume,
    /// Freeze, mark, drain, translate, commit.
    Cutover,
    /// The operator says that the clients have switched.
    CutoverAck,
    /// Keeps groups in step until the acknowledgement.
    ClientSwitch,
    /// Decide about records that reached the source behind where it was closed.
    Stragglers,
    /// Validate and record.
    Finalize,
    /// Give up before clients have come to the target.
    Rollback,
    /// Where does it stand?
    Status,
}

impl Command {
    /// All commands.
    pub const ALL: [Command; 9] = [
        Command::Execute,
        Command::Resume,
        Command::Cutover,
        Command::CutoverAck,
        Command::ClientSwitch,
        Command::Stragglers,
        Command::Finalize,
        Command::Rollback,
        Command::Status,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Command::Execute => "execute",
            Command::Resume => "resume",
            Command::Cutover => "cutover",
            Command::CutoverAck => "cutover-ack",
            Command::ClientSwitch => "client-switch",
            Command::Stragglers => "stragglers",
            Command::Finalize => "finalize",
            Command::Rollback => "rollback",
            Command::Status => "status",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a command may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allowed,
    /// It may not: why, and what to do instead.
    Refused(String),
}

/// What to do about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// A cutover was killed: whatever the decision, let producers go on and journal `… → drain_ready` first, as
    /// [`ResumePoint::AbandonCutover`] says.
    pub abandon_cutover_first: bool,
    /// Whether the command then runs.
    pub decision: Decision,
}

/// Whether `command` may run where the migration stands. The caller holds the journal's lock, so that an open cutover
/// is a killed one.
pub fn permit(command: Command, position: Position) -> Verdict {
    // A rollback lets producers go on by itself, and goes on without lanes.
    if matches!(command, Command::Status | Command::Rollback) {
        return Verdict { abandon_cutover_first: false, decision: decide(command, position) };
    }
    if position.cutover_is_open() && !matches!(position, Position::FailedTooOften(_)) {
        return Verdict { abandon_cutover_first: true, decision: decide(command, Position::At(State::DrainReady)) };
    }
    Verdict { abandon_cutover_first: false, decision: decide(command, position) }
}

fn decide(command: Command, position: Position) -> Decision {
    let allowed_if = |allowed: bool| {
        if allowed { Decision::Allowed } else { Decision::Refused(refusal(command, position)) }
    };
    let at = |state: State| position == Position::At(state);
    match command {
        Command::Status => Decision::Allowed,
        Command::Resume => allowed_if(!matches!(position, Position::Unborn | Position::FailedTooOften(_))),
        Command::Execute => allowed_if(match position {
            Position::Unborn => true,
            Position::At(state) => state.is_before_cutover(),
            Position::FailedIn(_) | Position::FailedTooOften(_) => false,
        }),
        Command::Cutover => allowed_if(at(State::DrainReady)),
        Command::CutoverAck | Command::ClientSwitch => allowed_if(at(State::AwaitingClientSwitch)),
        Command::Stragglers => allowed_if(match position {
            Position::At(state) => state == State::AwaitingClientSwitch || state == State::Validating,
            Position::FailedIn(state) => state == State::Validating,
            Position::Unborn | Position::FailedTooOften(_) => false,
        }),
        // What has come to its end is only published again.
        Command::Finalize => allowed_if(match position {
            Position::At(state) => state == State::Validating || state == State::Finalized,
            Position::FailedIn(state) => state == State::Validating,
            Position::Unborn | Position::FailedTooOften(_) => false,
        }),
        Command::Rollback => allowed_if(match position {
            Position::Unborn => false,
            Position::At(state) => state <= State::AwaitingClientSwitch || state == State::RolledBack,
            Position::FailedIn(state) | Position::FailedTooOften(state) => state <= State::AwaitingClientSwitch,
        }),
    }
}

/// What is left of a way back once clients are said to have switched.
const BACK_BY_HAND: &str = "clients have switched, as was acknowledged; they can be pointed back to the source by hand, \
                            where nothing of what they wrote on the target is";

fn refusal(command: Command, position: Position) -> String {
    let state = match position {
        Position::Unborn => {
            return format!(
                "{command} needs a migration and there is none in this journal: `krossing execute` begins one"
            );
        }
        Position::FailedTooOften(state) if state <= State::AwaitingClientSwitch => {
            return format!(
                "{command} is not possible: {state} and more than {FAILED_HOPS_MAX} attempts to recover have failed. \
                 Read the last entries of the journal; `krossing rollback` gives up and changes nothing on the source"
            );
        }
        Position::FailedTooOften(state) => {
            return format!(
                "{command} is not possible: {state} and more than {FAILED_HOPS_MAX} attempts to recover have failed. \
                 Read the last entries of the journal: a person has to put right what they name"
            );
        }
        Position::FailedIn(state) => {
            let next = match (command, state) {
                (Command::Rollback, _) => BACK_BY_HAND,
                (_, State::Validating) => "put right what validation named, then run `krossing finalize`",
                (_, _) => "put right what the journal's last entry names, then run `krossing resume`",
            };
            return format!("{command} is not possible after {state} has failed: {next}");
        }
        Position::At(state) => state,
    };
    let next = match state {
        State::Planned | State::Precheck | State::TopologyCopy | State::Seed | State::Tail => {
            "run `krossing resume` until it is drain_ready"
        }
        State::DrainReady => "the next step is `krossing cutover`",
        State::Cutover => "a cutover is under way: wait for it, or run `krossing resume` if its process has died",
        State::AwaitingClientSwitch => {
            "switch the clients, then run `krossing cutover-ack`; `krossing rollback` gives up while none has switched"
        }
        State::Validating | State::Finalized if command == Command::Rollback => BACK_BY_HAND,
        State::Validating => "the next step is `krossing finalize`",
        State::Finalized => "the migration is complete, nothing is left to do",
        State::RolledBack => "the migration was given up; begin a new one under another id",
        State::Failed => "run `krossing resume`",
    };
    format!("{command} is not possible in state {state}: {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    #[test]
    fn every_state_can_be_reached_and_only_two_are_ends() {
        let mut seen = vec![Planned];
        let mut index = 0;
        while index < seen.len() {
            for next in seen[index].successors() {
                if !seen.contains(next) {
                    seen.push(*next);
                }
            }
            index += 1;
        }
        for state in State::ALL {
            assert!(seen.contains(&state), "{state} cannot be reached");
            assert_eq!(state.is_terminal(), [Finalized, RolledBack].contains(&state), "{state}");
        }
    }

    #[test]
    fn a_rollback_is_possible_until_clients_are_said_to_have_switched_and_not_within_a_cutover() {
        for state in State::ALL {
            let allowed = state.successors().contains(&RolledBack);
            assert_eq!(allowed, state <= DrainReady || [AwaitingClientSwitch, Failed].contains(&state), "{state}");
        }
        for state in [AwaitingClientSwitch, Cutover, DrainReady, Seed] {
            assert!(Position::FailedIn(state).allows(RolledBack), "{state}");
        }
        assert!(!Position::FailedIn(Validating).allows(RolledBack));
    }

    #[test]
    fn every_working_state_may_fail_and_be_entered_again_but_never_skip_ahead() {
        for state in State::ALL.into_iter().filter(|s| !s.is_terminal() && *s != Failed) {
            assert!(state.successors().contains(&Failed), "{state}");
            let again = if state == Cutover { DrainReady } else { state };
            for next in State::ALL {
                let expected = next == again || next == Failed || (next == RolledBack && state <= AwaitingClientSwitch);
                assert_eq!(Position::FailedIn(state).allows(next), expected, "{state} failed, then {next}");
            }
        }
    }

    #[test]
    fn a_resume_goes_on_behind_at_most_four_failures() {
        let mut states = vec![Planned, Precheck, TopologyCopy, Seed];
        for _ in 0..FAILED_HOPS_MAX {
            states.push(Failed);
            assert_eq!(resume_point(&states), Ok(ResumePoint::Run { state: Seed }));
        }
        states.push(Failed);
        assert_eq!(resume_point(&states), Err(NoResumePoint::FailedTooOften { state: Seed }));
        assert!(Position::of(&states).allows(RolledBack) && !Position::of(&states).allows(Seed));
        assert_eq!(resume_point(&[]), Err(NoResumePoint::Unborn));
    }

    #[test]
    fn a_resume_waits_for_the_operator_where_a_decision_is_due() {
        let check = |states: &[State], expected| assert_eq!(resume_point(states), Ok(expected), "{states:?}");
        check(&[DrainReady], ResumePoint::Wait { state: DrainReady, next: Command::Cutover });
        check(&[DrainReady, Cutover], ResumePoint::AbandonCutover);
        check(&[DrainReady, Cutover, Failed], ResumePoint::AbandonCutover);
        check(
            &[DrainReady, Cutover, Failed, DrainReady],
            ResumePoint::Wait { state: DrainReady, next: Command::Cutover },
        );
        check(&[AwaitingClientSwitch], ResumePoint::Wait { state: AwaitingClientSwitch, next: Command::CutoverAck });
        check(&[Validating, Failed], ResumePoint::Wait { state: Validating, next: Command::Finalize });
        check(&[Finalized], ResumePoint::Finished { state: Finalized });
    }

    #[test]
    fn a_killed_cutover_is_taken_back_before_any_command_that_goes_on_with_it() {
        for command in Command::ALL {
            let verdict = permit(command, Position::At(Cutover));
            let expected = ![Command::Status, Command::Rollback].contains(&command);
            assert_eq!(verdict.abandon_cutover_first, expected, "{command}");
        }
        assert_eq!(permit(Command::Cutover, Position::FailedIn(Cutover)).decision, Decision::Allowed);
        assert_eq!(permit(Command::Rollback, Position::At(Cutover)).decision, Decision::Allowed);
        assert!(matches!(permit(Command::Finalize, Position::At(Cutover)).decision, Decision::Refused(_)));
    }

    #[test]
    fn commands_are_allowed_where_the_runbook_gives_them_and_refused_with_the_next_step() {
        let allowed = |command: Command| -> Vec<&str> {
            let at = State::ALL.into_iter().filter(|s| *s != Failed && *s != Cutover);
            at.filter(|s| permit(command, Position::At(*s)).decision == Decision::Allowed).map(State::name).collect()
        };
        let before = ["planned", "precheck", "topology_copy", "seed", "tail", "drain_ready"];
        assert_eq!(allowed(Command::Execute), before);
        assert_eq!(allowed(Command::Rollback), [&before[..], &["awaiting_client_switch", "rolled_back"]].concat());
        assert_eq!(permit(Command::Rollback, Position::FailedIn(AwaitingClientSwitch)).decision, Decision::Allowed);
        assert_eq!(allowed(Command::Cutover), ["drain_ready"]);
        assert_eq!(allowed(Command::CutoverAck), ["awaiting_client_switch"]);
        assert_eq!(allowed(Command::ClientSwitch), ["awaiting_client_switch"]);
        assert_eq!(allowed(Command::Stragglers), ["awaiting_client_switch", "validating"]);
        assert_eq!(allowed(Command::Finalize), ["validating", "finalized"]);
        assert_eq!(allowed(Command::Status).len(), 10);
        assert_eq!(permit(Command::Finalize, Position::FailedIn(Validating)).decision, Decision::Allowed);
        for state in State::ALL.into_iter().filter(|s| *s != Failed) {
            for command in Command::ALL {
                for position in [Position::At(state), Position::FailedIn(state), Position::FailedTooOften(state)] {
                    if let Decision::Refused(why) = permit(command, position).decision {
                        assert!(why.contains(command.name()) && why.len() > 40, "{why}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_those_that_are_stored() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).ok(), Some(state.name().into()));
        }
        for command in Command::ALL {
            assert_eq!(serde_json::to_value(command).ok(), Some(command.name().into()));
        }
    }
}
