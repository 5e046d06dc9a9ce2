//! The same commands against a stack: executions are started, gates answered, and what happens is read from the ledger.
//!
//! Neither cluster is asked anything from here, nor MSK for their brokers, nor anybody for their secrets, so that it works
//! from wherever AWS can be reached, by whoever may decide. Who answers a gate is who AWS says signs the calls.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use krossing_core::{
    MigrationId,
    decision::{Answer, Decided, Gate, OpenGate},
    journal::{Actor, KnownBy},
    ports::{Clock, StoreError},
    transition::{Command, State},
};
use krossing_drive::{
    execution,
    gate::{answer, last_gate},
};
use krossing_runtime::{
    Migration,
    aws::{Aws, Execution, Workflow, caller},
    connect::{LedgerPlace, NamedSecrets, Real, connect_to_ledger, new_migration_id, read_config},
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    arguments::{Common, DecisionArguments, ExecuteArguments, Existing, RollbackArguments},
    session::unless_interrupted,
    show,
    status::answering,
};

/// How often ledger and execution are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many executions of one migration are looked for.
const ATTEMPTS_MAX: u32 = 1_000;

/// A migration of a stack.
pub(crate) struct Stack {
    /// With the stack's name, whoever has named it.
    common: Common,
    pub(crate) migration: Arc<Migration<Real>>,
    pub(crate) place: LedgerPlace,
    pub(crate) workflow: Workflow,
    state_machine: String,
    who: Actor,
    /// How many entries of the journal have been shown.
    shown: usize,
    /// Why the operator decides as they do; empty where they do not say.
    reason: String,
    /// Whether the operator says, with a rollback, that they have let producers go on.
    producers_released: bool,
}

/// Where following came to an end.
enum Reached {
    /// The workflow waits for an operator.
    Asked(OpenGate),
    /// It waits for nothing any more.
    Ended(Execution),
}

impl Stack {
    /// The migration `id` of the stack `name`.
    pub(crate) async fn open(name: &str, common: &Common, id: MigrationId) -> anyhow::Result<Self> {
        let config = read_config(&common.config, NamedSecrets::LeftAlone).await?;
        let place = LedgerPlace::of(&config, common.journal_dir.as_deref(), &id)?;
        if place.folder().is_some() {
            bail!("ledger.dynamodb_table: give the stack's table: the journal of a stack is in no folder");
        }
        let aws = Aws::load(config.aws.region.as_deref()).await;
        let (account, arn) = caller(&aws).await?;
        let partition = arn.split(':').nth(1).unwrap_or("aws").to_owned();
        let state_machine = format!("arn:{partition}:states:{}:{account}:stateMachine:krossing-{name}", aws.region());
        let who = Actor { who: arn, known_by: KnownBy::AwsIdentity };
        let mut migration = connect_to_ledger(config, id, &place).await?;
        migration.by = who.clone();
        let shown = migration.journal().await?.position();
        let (migration, common) = (Arc::new(migration), Common { stack: Some(name.to_owned()), ..common.clone() });
        let workflow = Workflow::new(&aws);
        Ok(Self {
            common,
            migration,
            place,
            workflow,
            state_machine,
            who,
            shown,
            reason: String::new(),
            producers_released: false,
        })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        self.common.stack.as_deref().unwrap_or_default()
    }

    /// The command line of `command` for this migration.
    pub(crate) fn next_command(&self, command: Command) -> String {
        self.common.command_line(command, &self.migration.id)
    }

    /// What is said to whoever interrupts a command.
    fn goes_on(&self) -> String {
        format!(
            "nothing is followed any more, and an execution that runs goes on; {}",
            self.next_command(Command::Status)
        )
    }

    /// The gate that is open, if the execution that opened it still waits there.
    async fn gate(&self) -> anyhow::Result<Option<OpenGate>> {
        let (_, gate) = last_gate(&self.migration).await?;
        let Some(gate) = gate.filter(|gate| gate.decided.is_none()) else { return Ok(None) };
        let execution = self.workflow.execution(&gate.execution).await?;
        Ok(execution.is_some_and(|execution| execution.is_running()).then_some(gate))
    }

    /// Whether the gate that was opened last is open, or has an answer that its execution may not have been told.
    async fn waits_or_was_not_told(&self) -> anyhow::Result<bool> {
        let Some(gate) = last_gate(&self.migration).await?.1 else { return Ok(false) };
        let open = gate.decided.is_none() || gate.decided.is_some_and(|decided| decided.answer == Answer::Rollback);
        let execution = self.workflow.execution(&gate.execution).await?;
        Ok(open && execution.is_some_and(|execution| execution.is_running()))
    }

    /// Starts an execution with this input.
    async fn start(&self, input: &Value) -> anyhow::Result<String> {
        let id = &self.migration.id;
        for attempt in 1..=ATTEMPTS_MAX {
            let name = format!("{id}-{attempt}");
            match self.workflow.start(&self.state_machine, &name, input).await {
                Ok(execution) => {
                    show::event("execution", &json!({ "execution": execution }), &format!("execution: {execution}"));
                    return Ok(execution);
                }
                // It has ended: its name is taken for 90 days.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error).context("the stack's workflow was not started"),
            }
        }
        bail!("{ATTEMPTS_MAX} executions of {id} have ended; begin a new migration under another id")
    }

    /// What an execution is started with.
    fn input(&self) -> Value {
        json!({ "migration_id": self.migration.id })
    }

    /// Where nothing is asked and no execution is at work: starts one that asks before it does anything.
    async fn be_asked(&mut self) -> anyhow::Result<()> {
        let journal = self.migration.journal().await?;
        match journal.tip() {
            None => bail!("{} has not begun: there is nothing to give up", self.migration.id),
            Some(state) if state.is_terminal() => bail!("{} is {state}: nothing follows", self.migration.id),
            Some(_) => {}
        }
        if let Some(driving) = execution::driving(&self.migration).await?.1
            && self.workflow.execution(&driving).await?.is_some_and(|execution| execution.is_running())
        {
            bail!(
                "{driving} is at work and asks nothing: answer where it asks, or stop it first with `aws stepfunctions \
                 stop-execution --execution-arn {driving}`"
            );
        }
        let mut input = self.input();
        input["ask_first"] = json!(true);
        let execution = self.start(&input).await?;
        match self.follow(&execution, None).await? {
            Reached::Asked(_) => Ok(()),
            ended @ Reached::Ended(_) => self.outcome(ended).map(drop),
        }
    }

    /// Shows what the journal gets, until the operator is asked something new, or the execution has ended.
    async fn follow(&mut self, execution: &str, answered: Option<&str>) -> anyhow::Result<Reached> {
        loop {
            self.show_entries().await?;
            let (_, gate) = last_gate(&self.migration).await?;
            let new = |gate: &OpenGate| {
                gate.execution == execution && gate.decided.is_none() && Some(gate.token.as_str()) != answered
            };
            if let Some(gate) = gate.filter(new) {
                self.show_entries().await?;
                return Ok(Reached::Asked(gate));
            }
            let now = self.workflow.execution(execution).await?;
            let now = now.ok_or_else(|| anyhow!("there is no execution {execution}"))?;
            if !now.is_running() {
                self.show_entries().await?;
                return Ok(Reached::Ended(now));
            }
            self.migration.clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn show_entries(&mut self) -> anyhow::Result<()> {
        let journal = self.migration.journal().await?;
        for entry in &journal.entries()[self.shown.min(journal.position())..] {
            show::TERMINAL.entry(entry);
        }
        self.shown = journal.position();
        Ok(())
    }

    /// Says what is asked, or how it ended.
    fn outcome(&self, reached: Reached) -> anyhow::Result<Outcome> {
        match reached {
            Reached::Asked(OpenGate { gate, facts, .. }) => {
                let of_facts: String = facts.iter().map(|fact| format!("\n  {fact}")).collect();
                let text = format!("{gate}: {}{of_facts}", gate.question());
                show::event("asked", &json!({ "gate": gate, "facts": facts }), &text);
                show::next_command(&self.next_command(answering(gate)));
                Ok(match gate {
                    Gate::ApproveCutover | Gate::AcknowledgeSwitch => Outcome::Done,
                    Gate::FreezeProducers => Outcome::Waiting,
                    Gate::AfterFailure => Outcome::Blocked,
                })
            }
            Reached::Ended(Execution { status, .. }) if status == "SUCCEEDED" => Ok(Outcome::Done),
            Reached::Ended(Execution { arn, status, error, cause }) => {
                bail!(
                    "the execution {arn} has ended: {status}: {}: {}; go on with {}",
                    error.unwrap_or_default(),
                    cause.unwrap_or_default(),
                    self.next_command(Command::Resume)
                )
            }
        }
    }

    async fn is_before(&self, state: State) -> anyhow::Result<bool> {
        Ok(self.migration.journal().await?.standing().working_state().is_none_or(|at| at < state))
    }

    /// Answers the open gate, which must be one of `gates`.
    async fn decide(&self, gates: &[Gate], what: Answer) -> anyhow::Result<OpenGate> {
        // One that was answered in the same way and never told is told again.
        let answered = |gate: &OpenGate| gate.decided.as_ref().is_some_and(|decided| decided.answer == what);
        let again = last_gate(&self.migration).await?.1.filter(answered);
        let Some(gate) = self.gate().await?.or(again) else {
            bail!("nothing is asked of {} now; see {}", self.migration.id, self.next_command(Command::Status));
        };
        if !gates.contains(&gate.gate) {
            let answers: Vec<_> = gate.gate.answers().iter().map(|answer| answer.name()).collect();
            bail!("{}: {} It takes {}, and not {what}", gate.gate, gate.gate.question(), answers.join(" or "));
        }
        let now_unix_ms = self.migration.clock.unix_ms();
        let decided = Decided {
            producers_released: self.producers_released,
            ..Decided::new(what, self.who.clone(), self.reason.clone(), now_unix_ms)
        };
        answer(&self.migration, &self.workflow, decided).await?;
        show::event(
            "decided",
            &json!({ "gate": gate.gate, "decision": what, "by": self.who.who }),
            &format!("{}: {what}, by {}", gate.gate, self.who.who),
        );
        Ok(gate)
    }
}

/// The stack that a command is for; none where it does the work itself.
pub(crate) async fn named(common: &Common) -> anyhow::Result<Option<String>> {
    match &common.stack {
        Some(name) => Ok(Some(name.clone())),
        None => Ok(read_config(&common.config, NamedSecrets::LeftAlone).await?.aws.stack),
    }
}

/// `execute`: starts an execution and follows it until the target has kept up.
pub(crate) async fn execute(name: &str, arguments: ExecuteArguments) -> anyhow::Result<Outcome> {
    for (given, flag) in [(arguments.keep_tailing, "--keep-tailing"), (arguments.force_restart, "--force-restart")] {
        if given {
            bail!("{flag}: a stack tails until the cutover and takes up what failed in any case; leave it out");
        }
    }
    let id = arguments.migration_id.unwrap_or_else(new_migration_id);
    show::event("migration", &json!({ "migration_id": id }), &format!("migration_id: {id}"));
    let mut stack = Stack::open(name, &arguments.common, id).await?;
    unless_interrupted(&stack.goes_on(), async {
        // Precheck is asked once more by the same command, as where it is no stack.
        let stopped = stack.gate().await?.is_some_and(|gate| gate.gate == Gate::AfterFailure);
        if stopped && stack.migration.journal().await?.tip().is_none() {
            return resumed(&mut stack).await;
        }
        let execution = stack.start(&stack.input()).await?;
        let reached = stack.follow(&execution, None).await?;
        stack.outcome(reached)
    })
    .await
}

/// `resume`: goes on where something failed, or with a new execution.
pub(crate) async fn resume(name: &str, existing: &Existing) -> anyhow::Result<Outcome> {
    let mut stack = Stack::open(name, &existing.common, existing.migration_id.clone()).await?;
    unless_interrupted(&stack.goes_on(), resumed(&mut stack)).await
}

async fn resumed(stack: &mut Stack) -> anyhow::Result<Outcome> {
    let (execution, answered) = match stack.gate().await? {
        Some(gate) if gate.gate == Gate::AfterFailure => {
            let gate = stack.decide(&[Gate::AfterFailure], Answer::Retry).await?;
            (gate.execution, Some(gate.token))
        }
        Some(gate) => return stack.outcome(Reached::Asked(gate)).map(|_| Outcome::Waiting),
        None => (stack.start(&stack.input()).await?, None),
    };
    let reached = stack.follow(&execution, answered.as_deref()).await?;
    // Behind READY, as where it is no stack, nothing was done but to look.
    let waits = matches!(&reached, Reached::Asked(gate) if gate.gate == Gate::AcknowledgeSwitch);
    stack.outcome(reached).map(|outcome| if waits { Outcome::Waiting } else { outcome })
}

/// What whoever sits at the terminal says. Nobody there says nothing: the gate stays open.
async fn do_producers_stand_still() -> anyhow::Result<Answer> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "standard input is no terminal, so that nobody can say that producers stand still: run it on a terminal, or \
             answer `frozen` by the decide function"
        );
    }
    krossing_runtime::terminal::forget_what_was_typed().context("the terminal could not be used")?;
    show::advice(Gate::FreezeProducers.question());
    show::advice("type `frozen` once they do; anything else gives up");
    let said = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let said = said.await.context("the question was not asked")?.context("nobody could be asked")?;
    Ok(if said.trim() == "frozen" { Answer::Frozen } else { Answer::Cancel })
}

/// `finalize`: goes on with a validation, or has it tried again.
pub(crate) async fn finalize(name: &str, existing: &Existing) -> anyhow::Result<Outcome> {
    let mut stack = Stack::open(name, &existing.common, existing.migration_id.clone()).await?;
    unless_interrupted(&stack.goes_on(), decided(&mut stack, Command::Finalize)).await
}

/// `cutover` and `cutover-ack`: an answer, and what comes of it.
pub(crate) async fn decide(name: &str, decision: &DecisionArguments, command: Command) -> anyhow::Result<Outcome> {
    let DecisionArguments { existing, reason } = decision;
    let mut stack = Stack::open(name, &existing.common, existing.migration_id.clone()).await?;
    stack.reason.clone_from(reason);
    unless_interrupted(&stack.goes_on(), decided(&mut stack, command)).await
}

/// `rollback`: the same, with what the operator says of producers.
pub(crate) async fn rollback(name: &str, arguments: &RollbackArguments) -> anyhow::Result<Outcome> {
    let RollbackArguments { decision: DecisionArguments { existing, reason }, producers_released } = arguments;
    let mut stack = Stack::open(name, &existing.common, existing.migration_id.clone()).await?;
    stack.reason.clone_from(reason);
    stack.producers_released = *producers_released;
    unless_interrupted(&stack.goes_on(), decided(&mut stack, Command::Rollback)).await
}

async fn decided(stack: &mut Stack, command: Command) -> anyhow::Result<Outcome> {
    let mut gate = match command {
        Command::Cutover => match stack.gate().await? {
            Some(gate) if gate.gate == Gate::FreezeProducers => {
                stack.decide(&[Gate::FreezeProducers], do_producers_stand_still().await?).await?
            }
            _ => stack.decide(&[Gate::ApproveCutover], Answer::Cutover).await?,
        },
        Command::CutoverAck => stack.decide(&[Gate::AcknowledgeSwitch], Answer::Switched).await?,
        Command::Rollback => {
            let gates = [Gate::ApproveCutover, Gate::AcknowledgeSwitch, Gate::AfterFailure];
            if !stack.waits_or_was_not_told().await? {
                stack.be_asked().await?;
            }
            stack.decide(&gates, Answer::Rollback).await?
        }
        _ => match last_gate(&stack.migration).await?.1 {
            Some(gate) if gate.gate == Gate::AfterFailure && gate.decided.is_none() => {
                stack.decide(&[Gate::AfterFailure], Answer::Retry).await?
            }
            // A bare token leaves no word in the gate's document: the journal says whether it is past it.
            Some(gate) if gate.decided.is_none() && stack.is_before(State::Validating).await? => {
                let next = stack.next_command(answering(gate.gate));
                bail!("{} is asked first: {} Answer it with {next}", gate.gate, gate.gate.question())
            }
            Some(gate) => gate,
            None => {
                bail!("{} has not begun: begin it with {}", stack.migration.id, stack.next_command(Command::Execute))
            }
        },
    };
    loop {
        let reached = stack.follow(&gate.execution, Some(&gate.token)).await?;
        match reached {
            // Nobody else is there to be asked whether producers stand still.
            Reached::Asked(open) if open.gate == Gate::FreezeProducers && command == Command::Cutover => {
                gate = stack.decide(&[Gate::FreezeProducers], do_producers_stand_still().await?).await?;
            }
            // Not now, says the terminal: no cutover was made.
            Reached::Asked(open) if command == Command::Cutover && open.gate == Gate::ApproveCutover => {
                return stack.outcome(Reached::Asked(open)).map(|_| Outcome::Blocked);
            }
            // Refused: clients have come to the target. The journal has said why, and the gate asks again.
            Reached::Asked(open) if command == Command::Rollback && open.gate == Gate::AcknowledgeSwitch => {
                return stack.outcome(Reached::Asked(open)).map(|_| Outcome::Blocked);
            }
            reached => return stack.outcome(reached),
        }
    }
}
