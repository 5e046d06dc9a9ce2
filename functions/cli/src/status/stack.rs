//! The status of a migration that a workflow drives: the ledger's, which execution drives and what it asks, and what
//! workers have journaled. Neither cluster is asked anything.
//!
//! Who drives is the execution, for as long as it runs and asks nothing: a function or worker of it that dies is gone on
//! with or taken back by the definition. Where it waits at a gate, or has ended, nobody drives but who holds the lock.

use std::fmt;

use anyhow::bail;
use krossing_core::{
    LaneId,
    decision::{Answer, Gate, OpenGate},
    journal::Journal,
    ports::Clock,
    transition::{Command, State},
};
use krossing_drive::{execution::driving, gate::last_gate, load_planned};
use krossing_runtime::{aws::Execution, lock::Driver};
use krossing_worker::{LagNow, lag_now, lane_failures};
use serde::Serialize;

use super::{Owners, RUN, Seen, Status, from_ledger, owners};
use crate::{session::after_acknowledgement, show, stack::Stack};

/// What only a migration has that a workflow drives.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StackStatus {
    /// The ARN of the execution that drives the migration, or was the last to.
    execution: Option<String>,
    /// `RUNNING`, or how it ended; none where its service knows it no more.
    execution_status: Option<String>,
    execution_error: Option<String>,
    execution_cause: Option<String>,
    /// Where it waits for an operator, what it asks, and since when.
    gate: Option<Gate>,
    question: Option<&'static str>,
    asked_unix_ms: Option<i64>,
    /// Where things stood when it was asked, and after a failure what failed.
    facts: Vec<String>,
    /// How far these are behind is not known.
    lanes_that_nobody_tails: Vec<LaneId>,
    /// What keeps the others from having kept up for long enough.
    drain_causes: Vec<String>,
    /// Why lanes failed last, those that have not begun anew since.
    lane_failures: Vec<String>,
}

/// The command that answers a gate so that the migration goes on.
pub(crate) fn answering(gate: Gate) -> Command {
    match gate {
        Gate::ApproveCutover | Gate::FreezeProducers => Command::Cutover,
        Gate::AcknowledgeSwitch => Command::CutoverAck,
        Gate::AfterFailure => Command::Resume,
    }
}

/// The execution that drives a migration, or was the last to; none before the first.
struct Driving {
    arn: String,
    /// None where its service knows it no more.
    now: Option<Execution>,
}

impl Driving {
    async fn look(stack: &Stack) -> anyhow::Result<Option<Self>> {
        let Some(arn) = driving(&stack.migration).await?.1 else { return Ok(None) };
        let now = stack.workflow.execution(&arn).await?;
        Ok(Some(Self { arn, now }))
    }

    fn is_running(&self) -> bool {
        self.now.as_ref().is_some_and(Execution::is_running)
    }
}

/// Looks at everything that can be seen without the clusters.
pub(crate) async fn look_at_stack(stack: &Stack) -> anyhow::Result<Seen> {
    let migration = &stack.migration;
    let journal = migration.journal().await?;
    if journal.tip().is_none() {
        return Ok(Seen::NotBegun(Box::new(not_begun(stack).await?)));
    }
    let planned = load_planned(migration, &journal).await?;
    let lanes = planned.lanes();
    let Owners { before, after, driver: lock } = owners(migration, &stack.place, &lanes).await?;
    let execution = Driving::look(stack).await?;
    // The journal after it was seen who is at work: a cutover that has ended meanwhile is not one that nobody drives. And
    // between two looks at the gate: one that was answered meanwhile, or has just opened, is none that waits where the
    // journal stands.
    let gate = asked(stack, execution.as_ref()).await?;
    let journal = migration.journal().await?;
    let gate = gate.zip(asked(stack, execution.as_ref()).await?);
    let gate = gate.and_then(|(before, after)| (before == after).then_some(after));
    let driver = driver(execution.as_ref(), gate.as_ref(), lock);
    let mut status = from_ledger(migration, &journal, &planned, &Owners { before, after, driver }).await?;
    let mut of_stack = StackStatus::of(execution.as_ref(), gate.as_ref());
    of_stack.lane_failures = lane_failures(migration, &lanes).await?;
    let runs = |id| status.lanes.iter().any(|lane| lane.lane == id && lane.status == RUN);
    let (alive, silent): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|lane| runs(lane.id));
    let mut lag = lag_now(migration, &alive).await?;
    lag.nobody_tails.extend(silent.iter().map(|lane| lane.id));
    lag.nobody_tails.sort();
    status.add_lag(&lag, &journal);
    of_stack.lanes_that_nobody_tails = lag.nobody_tails;
    of_stack.drain_causes = lag.causes;
    status.stack = Some(of_stack);
    status.say_what_next(&journal, |command| stack.next_command(command));
    Ok(Seen::Begun(Box::new(status)))
}

/// Refuses a migration that no execution has begun.
pub(crate) async fn check_begun(stack: &Stack) -> anyhow::Result<()> {
    if stack.migration.journal().await?.tip().is_none() && Driving::look(stack).await?.is_none() {
        bail!(
            "there is no migration {} in {}, the ledger of stack {}: begin one with {}",
            stack.migration.id,
            stack.place,
            stack.name(),
            stack.next_command(Command::Execute)
        )
    }
    Ok(())
}

/// A migration of which nothing is journaled: its plan is being made, or was refused.
#[derive(Debug, Serialize)]
pub(crate) struct NotBegun {
    migration_id: String,
    at_unix_ms: i64,
    /// None: that is what is told.
    state: Option<State>,
    #[serde(flatten)]
    stack: StackStatus,
    /// None while an execution is at work.
    next_command: Option<String>,
}

async fn not_begun(stack: &Stack) -> anyhow::Result<NotBegun> {
    let execution = Driving::look(stack).await?;
    let gate = asked(stack, execution.as_ref()).await?;
    let next = match (driver(execution.as_ref(), gate.as_ref(), Driver::Nobody), &gate) {
        (Driver::AtWork(_) | Driver::Silent(_), _) => None,
        (Driver::Nobody, Some(gate)) => Some(answering(gate.gate)),
        (Driver::Nobody, None) => Some(Command::Resume),
    };
    Ok(NotBegun {
        migration_id: stack.migration.id.to_string(),
        at_unix_ms: stack.migration.clock.unix_ms(),
        state: None,
        stack: StackStatus::of(execution.as_ref(), gate.as_ref()),
        next_command: next.map(|command| stack.next_command(command)),
    })
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: nothing is journaled yet", self.migration_id)?;
        self.stack.fmt(f)?;
        match &self.next_command {
            Some(command) => write!(f, "next_command: {command}"),
            None => f.write_str("the execution is at work: wait until it asks, or has ended"),
        }
    }
}

/// The gate at which the execution waits.
async fn asked(stack: &Stack, execution: Option<&Driving>) -> anyhow::Result<Option<OpenGate>> {
    let Some(execution) = execution.filter(|execution| execution.is_running()) else { return Ok(None) };
    let gate = last_gate(&stack.migration).await?.1;
    Ok(gate.filter(|gate| gate.decided.is_none() && gate.execution == execution.arn))
}

fn driver(execution: Option<&Driving>, gate: Option<&OpenGate>, lock: Driver) -> Driver {
    match (execution, gate) {
        (Some(execution), None) if execution.is_running() => Driver::AtWork(execution.arn.clone()),
        // A function may outlive its execution, and a command from elsewhere hold the lock.
        (Some(_) | None, _) => lock,
    }
}

impl Status {
    /// How far the target is behind, as workers have said last; from READY on the source is closed.
    fn add_lag(&mut self, lag: &LagNow, journal: &Journal) {
        let told = lag.nobody_tails.len() < self.lanes.len();
        if journal.ready().is_some() || self.has_ended() || !told {
            return;
        }
        self.lag_records_total = Some(lag.records_total);
        self.lag_records_max = Some(lag.records_max);
        self.lag_unknown.extend(lag.nobody_tails.iter().map(|lane| format!("{lane}: lag unknown: nobody tails it")));
    }
}

impl StackStatus {
    fn of(execution: Option<&Driving>, gate: Option<&OpenGate>) -> Self {
        let now = execution.and_then(|execution| execution.now.as_ref());
        Self {
            execution: execution.map(|execution| execution.arn.clone()),
            execution_status: now.map(|now| now.status.clone()),
            execution_error: now.and_then(|now| now.error.clone()),
            execution_cause: now.and_then(|now| now.cause.clone()),
            gate: gate.map(|gate| gate.gate),
            question: gate.map(|gate| gate.gate.question()),
            asked_unix_ms: gate.map(|gate| gate.asked_unix_ms),
            facts: gate.map(|gate| gate.facts.clone()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// What keeps lanes from having kept up.
    pub(super) fn causes(&self) -> &[String] {
        &self.drain_causes
    }

    /// Whether somebody is asked who may give this answer.
    pub(super) fn takes(&self, answer: Answer) -> bool {
        self.gate.is_some_and(|gate| gate.answers().contains(&answer))
    }

    /// What goes on where no execution is at work: an answer to the one that waits, or another execution.
    pub(super) fn next(&self, journal: &Journal) -> Command {
        match self.gate {
            None => Command::Resume,
            Some(_) if journal.is_being_given_up() => Command::Rollback,
            Some(Gate::AfterFailure)
                if journal.standing().working_state() == Some(State::Validating)
                    && after_acknowledgement(journal) == Command::Stragglers =>
            {
                Command::Stragglers
            }
            Some(gate) => answering(gate),
        }
    }
}

impl fmt::Display for StackStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.execution, &self.execution_status) {
            (None, _) => writeln!(f, "execution: none has driven this migration")?,
            (Some(arn), None) => writeln!(f, "execution: {arn}: it has ended, and how is not known any more")?,
            (Some(arn), Some(status)) => {
                let why = [&self.execution_error, &self.execution_cause].into_iter().flatten();
                let why: String = why.map(|why| format!(": {why}")).collect();
                writeln!(f, "execution: {arn}: {status}{why}")?;
            }
        }
        if let (Some(gate), Some(question), Some(since)) = (self.gate, self.question, self.asked_unix_ms) {
            writeln!(f, "asked: {gate} since {}: {question}", show::time(since))?;
        }
        for fact in &self.facts {
            writeln!(f, "  {fact}")?;
        }
        for failure in self.lane_failures.iter().filter(|failure| !self.facts.contains(failure)) {
            writeln!(f, "  {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use krossing_core::journal::{Actor, EntryKind, KnownBy, Stamp};
    use serde_json::json;

    use super::{
        super::tests::{cut_over, line, status, told},
        *,
    };

    const ARN: &str = "arn:aws:states:eu-west-1:123456789012:execution:krossing-lab:orders-1";

    fn execution(status: &str) -> Driving {
        let failed = status == "FAILED";
        let now = Execution {
            arn: ARN.to_owned(),
            status: status.to_owned(),
            error: failed.then(|| "Krossing.Refused".to_owned()),
            cause: failed.then(|| "no route".to_owned()),
        };
        Driving { arn: ARN.to_owned(), now: Some(now) }
    }

    fn open(gate: Gate) -> OpenGate {
        let (token, execution) = ("t".to_owned(), ARN.to_owned());
        let facts = vec!["lag_records_total=3 groups=2".to_owned()];
        OpenGate { gate, token, execution, asked_unix_ms: 60_000, facts, decided: None, before: Vec::new() }
    }

    /// The status of such an execution, with what is to be done.
    fn of_stack(journal: &Journal, execution: &Driving, gate: Option<Gate>, lock: Driver) -> Status {
        let gate = gate.map(open);
        let mut status = status(journal, &driver(Some(execution), gate.as_ref(), lock));
        status.stack = Some(StackStatus::of(Some(execution), gate.as_ref()));
        status.say_what_next(journal, line);
        status
    }

    fn failed_validation(behind: serde_json::Value) -> Journal {
        let mut journal = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        for (state, detail) in [(State::Validating, behind), (State::Failed, json!({}))] {
            let by = Actor { who: ARN.to_owned(), known_by: KnownBy::AwsIdentity };
            let stamp = Stamp { at_unix_ms: 20_000, by };
            let (entry, _) = journal.transition(state, stamp, "", detail).expect("the table allows it");
            journal.push(entry).expect("it is the next");
        }
        journal
    }

    #[test]
    fn what_comes_next_is_an_answer_where_it_is_asked_nothing_where_it_works_and_a_resume_where_it_has_ended() {
        let kept_up = cut_over(&[Ok((State::DrainReady, "the cutover failed"))]);
        let ready = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        let given_up = cut_over(&[Ok((State::AwaitingClientSwitch, "READY")), Err(EntryKind::UnfreezeAsked)]);
        let stragglers = failed_validation(json!({ "records_behind_marker": [{ "partition": "orders-0" }] }));
        let check = |journal: &Journal, now: &str, gate: Option<Gate>, expected: Option<Command>| {
            let next = of_stack(journal, &execution(now), gate, Driver::Nobody).next_command;
            assert_eq!(next, expected.map(line), "{now} {gate:?}");
        };
        check(&kept_up, "RUNNING", None, None);
        check(&kept_up, "RUNNING", Some(Gate::ApproveCutover), Some(Command::Cutover));
        check(&kept_up, "RUNNING", Some(Gate::FreezeProducers), Some(Command::Cutover));
        check(&kept_up, "RUNNING", Some(Gate::AfterFailure), Some(Command::Resume));
        check(&kept_up, "ABORTED", None, Some(Command::Resume));
        check(&ready, "RUNNING", Some(Gate::AcknowledgeSwitch), Some(Command::CutoverAck));
        check(&ready, "TIMED_OUT", None, Some(Command::Resume));
        check(&given_up, "RUNNING", Some(Gate::AfterFailure), Some(Command::Rollback));
        check(&given_up, "FAILED", None, Some(Command::Resume));
        check(&stragglers, "RUNNING", Some(Gate::AfterFailure), Some(Command::Stragglers));
        check(&stragglers, "FAILED", None, Some(Command::Resume));
        check(&failed_validation(json!({})), "RUNNING", Some(Gate::AfterFailure), Some(Command::Resume));
    }

    #[test]
    fn no_step_names_a_command_that_the_stack_would_refuse() {
        let ready = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        let asked = of_stack(&ready, &execution("RUNNING"), Some(Gate::AcknowledgeSwitch), Driver::Nobody);
        let said = asked.to_string();
        assert!(said.contains("krossing cutover-ack …") && said.contains("krossing rollback …"), "{said}");
        assert!(!said.contains("client-switch"), "its worker keeps groups in step: {said}");
        for gate in [None, Some(Gate::AfterFailure)] {
            let now = if gate.is_none() { "FAILED" } else { "RUNNING" };
            let said = of_stack(&ready, &execution(now), gate, Driver::Nobody).to_string();
            assert!(said.contains("next_command: krossing resume …"), "{said}");
            assert!(!said.contains("krossing cutover-ack"), "nobody waits for it: {said}");
            assert_eq!(said.contains("krossing rollback …"), gate.is_some(), "{said}");
        }
        let said =
            of_stack(&failed_validation(json!({})), &execution("RUNNING"), Some(Gate::AfterFailure), Driver::Nobody);
        assert!(!said.to_string().contains("rollback"), "clients have switched: {said}");
    }

    #[test]
    fn a_cutover_is_driven_by_the_execution_that_runs_and_dead_once_that_has_ended_or_asks_what_to_do() {
        let open = cut_over(&[]);
        let at_work = of_stack(&open, &execution("RUNNING"), None, Driver::Silent("function:1".to_owned()));
        assert!(at_work.dead_cutover.is_none() && at_work.to_string().contains(&format!("at work: {ARN}: wait")));
        let recovering = of_stack(&open, &execution("ABORTED"), None, Driver::AtWork("function:2".to_owned()));
        assert!(recovering.dead_cutover.is_none() && recovering.next_command.is_none(), "{recovering}");
        for (now, gate) in [("FAILED", None), ("RUNNING", Some(Gate::AfterFailure))] {
            let dead = of_stack(&open, &execution(now), gate, Driver::Nobody).to_string();
            for expected in ["NOBODY DRIVES IT", "stand still since 00:00:08 UTC", "`krossing resume …` NOW"] {
                assert!(dead.contains(expected), "{expected} is missing in {dead}");
            }
        }
    }

    #[test]
    fn how_the_execution_stands_is_told_with_its_arn_and_what_it_asks() {
        let kept_up = cut_over(&[Ok((State::DrainReady, "the cutover failed"))]);
        let asked = of_stack(&kept_up, &execution("RUNNING"), Some(Gate::ApproveCutover), Driver::Nobody).to_string();
        let expected = format!(
            "execution: {ARN}: RUNNING\nasked: approve_cutover since 1970-01-01T00:01:00.000000Z: The target has kept up. \
             May the cutover begin?\n  lag_records_total=3 groups=2\n"
        );
        assert!(asked.contains(&expected), "{asked}");
        let ended = of_stack(&kept_up, &execution("FAILED"), None, Driver::Nobody).to_string();
        assert!(ended.contains(&format!("{ARN}: FAILED: Krossing.Refused: no route")), "{ended}");
        let forgotten = of_stack(&kept_up, &Driving { arn: ARN.to_owned(), now: None }, None, Driver::Nobody);
        assert!(forgotten.to_string().contains("not known any more"), "{forgotten}");
        let value = serde_json::to_value(&forgotten).unwrap_or_default();
        assert_eq!((&value["execution"], &value["execution_status"]), (&json!(ARN), &json!(null)));
        let of_commands = serde_json::to_value(status(&kept_up, &Driver::Nobody)).unwrap_or_default();
        assert!(of_commands.get("execution").is_none(), "no stack, no execution: {of_commands}");
    }

    #[test]
    fn a_lag_that_no_worker_tells_is_not_told_as_none() {
        let kept_up = cut_over(&[Ok((State::DrainReady, "the cutover failed"))]);
        let lane = |id| super::super::LaneStatus { lane: LaneId(id), partitions: 1, owner: None, status: RUN };
        let with = |lag: LagNow, journal: &Journal| {
            let mut status = of_stack(journal, &execution("RUNNING"), Some(Gate::ApproveCutover), Driver::Nobody);
            status.lanes = vec![lane(0), lane(1)];
            status.add_lag(&lag, journal);
            status
        };
        let lag = |nobody: &[u32]| LagNow {
            records_total: 7,
            records_max: 5,
            nobody_tails: nobody.iter().copied().map(LaneId).collect(),
            ..LagNow::default()
        };
        let all = told(with(lag(&[]), &kept_up), &kept_up);
        assert!(all.contains("lag=7 max_partition_lag=5") && !all.contains("unknown"), "{all}");
        let some = told(with(lag(&[1]), &kept_up), &kept_up);
        assert!(some.contains("lag=7") && some.contains("lane-1: lag unknown"), "{some}");
        let none = with(lag(&[0, 1]), &kept_up);
        assert_eq!((none.lag_records_total, none.lag_records_max), (None, None));
        let ready = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        assert_eq!(with(lag(&[]), &ready).lag_records_total, None, "the source is closed");
    }
}
