//! The command `krossing`: the phases of a migration, driven from a terminal.
//!
//! One file a command below `commands`; what they share is here: a `session` that holds a migration for as long as a
//! command drives it, and what is shown (`show`). What a command does is in `krossing_drive`: the sequence without the
//! terminal, which `tests/crash` runs on fakes.
//!
//! Exit codes: 0 done, 1 failed (also a command that is not understood), 10 waiting for the operator.
//!
//! Invariants: what is wrong with the configuration is all said before anything is touched; one command drives a
//! migration at a time; an error is printed once, with all its causes; events go to stdout, advice to stderr.

mod arguments;
mod commands;
mod progress;
mod runbook;
mod session;
mod show;
mod stack;
mod status;

use std::process::ExitCode;

use arguments::{Arguments, Command, EvidenceCommand};
use clap::Parser;
use krossing_core::transition;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// It found what stands in the way, and has said so.
    Blocked,
    /// The operator is to decide.
    Waiting,
}

/// Reads the arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way, too. That the terminal is gone is nobody's to hear.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    show::speak(arguments.output);
    krossing_runtime::start_tracing();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(anyhow::Error::new(error).context("could not start"))),
    };
    let ended = runtime.block_on(run(arguments.command));
    // Connections may still be waiting for brokers that do not answer; nothing of them matters any more.
    runtime.shutdown_background();
    end(ended)
}

fn end(ended: anyhow::Result<Outcome>) -> ExitCode {
    let code = match ended {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Blocked) => 1,
        Ok(Outcome::Waiting) => 10,
        Err(error) => {
            show::error(&error);
            1
        }
    };
    show::for_programs("end", &serde_json::json!({ "exit_code": code }));
    ExitCode::from(code)
}

async fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Plan(arguments) => commands::plan::run(arguments).await,
        Command::Precheck(arguments) => commands::precheck::run(arguments).await,
        Command::Stragglers(arguments) => commands::stragglers::run(arguments).await,
        Command::Evidence(EvidenceCommand::Verify(arguments)) => commands::evidence::run(&arguments),
        Command::Execute(arguments) => match stack::named(&arguments.common).await? {
            Some(stack) => stack::execute(&stack, arguments).await,
            None => commands::execute::run(arguments).await,
        },
        Command::Status(arguments) => match stack::named(&arguments.existing.common).await? {
            Some(stack) => commands::status::run_for_stack(&stack, &arguments).await,
            None => commands::status::run(arguments).await,
        },
        Command::Resume(existing) => match stack::named(&existing.common).await? {
            Some(stack) => stack::resume(&stack, &existing).await,
            None => commands::resume::run(existing).await,
        },
        Command::Cutover(decision) => match stack::named(&decision.existing.common).await? {
            Some(stack) => stack::decide(&stack, &decision, transition::Command::Cutover).await,
            None => commands::cutover::run(decision).await,
        },
        Command::CutoverAck(decision) => match stack::named(&decision.existing.common).await? {
            Some(stack) => stack::decide(&stack, &decision, transition::Command::CutoverAck).await,
            None => commands::cutover_ack::run(decision).await,
        },
        Command::Finalize(existing) => match stack::named(&existing.common).await? {
            Some(stack) => stack::finalize(&stack, &existing).await,
            None => commands::finalize::run(existing).await,
        },
        Command::Rollback(arguments) => match stack::named(&arguments.decision.existing.common).await? {
            Some(stack) => stack::rollback(&stack, &arguments).await,
            None => commands::rollback::run(arguments).await,
        },
        Command::ClientSwitch(existing) => match stack::named(&existing.common).await? {
            Some(stack) => {
                anyhow::bail!("the worker of stack {stack} keeps groups in step; `krossing status` shows it")
            }
            None => commands::client_switch::run(existing).await,
        },
    }
}
