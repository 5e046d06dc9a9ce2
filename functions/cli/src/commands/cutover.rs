//! `krossing cutover`: from `drain_ready` to `awaiting_client_switch`, or back with the reason.

use std::{collections::BTreeSet, io::IsTerminal as _};

use anyhow::bail;
use krossing_core::{
    config::FreezeConfig,
    decision::{Answer, Gate},
    transition::{Command, State},
};
use serde_json::json;

use crate::{
    Outcome,
    arguments::DecisionArguments,
    session::{RESUME_GOES_ON, Session, interrupted, unless_interrupted},
    show,
};

pub(crate) async fn run(DecisionArguments { existing, reason }: DecisionArguments) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Cutover).await?;
    if session.drive.migration.config.cutover.freeze == FreezeConfig::Confirmation && !std::io::stdin().is_terminal() {
        bail!(
            "standard input is no terminal, so that nobody can say that producers stand still: run it on a terminal, or \
             configure cutover.producer_freeze_webhook"
        );
    }
    session.journal_why(Gate::ApproveCutover, Answer::Cutover, reason).await?;
    let planned = unless_interrupted(RESUME_GOES_ON, session.drive.before_cutover()).await?;
    let report = tokio::select! {
        report = session.drive.cutover(&planned, krossing_drive::FreezeTime::OncePrepared) => report?,
        signal = interrupted() => {
            show::advice(&format!("interrupted by {signal}: the cutover is taken back"));
            session.drive.reload().await?;
            if session.drive.journal.tip() == Some(State::Cutover) {
                session.drive.abandon_cutover().await?;
            }
            session.drive.show_entries();
            bail!("the cutover was interrupted; {}", session.drive.after_cutover());
        }
    };
    let groups: BTreeSet<_> = report.groups.iter().map(|position| &position.group).collect();
    let text = format!(
        "producers stood still for {} ms from when that was said (mark {}, drain {}, close {}, translate {}, commit {}); \
         asking took {} ms\ngroups carried over: {} with {} positions{}",
        report.timings.frozen_ms,
        report.timings.mark_ms,
        report.timings.drain_ms,
        report.timings.close_ms,
        report.timings.translate_ms,
        report.timings.commit_ms,
        report.timings.freeze_ms,
        groups.len(),
        report.groups.len(),
        show::groups_without_positions(planned.plan.groups.len(), groups.len())
    );
    let ready = json!({
        "timings": report.timings,
        "groups": groups.len(),
        "positions": report.groups.len(),
        "warnings": report.warnings,
    });
    show::event("ready", &ready, &text);
    for warning in &report.warnings {
        show::advice(&format!("warning: {warning}"));
    }
    show::advice(&format!(
        "switch the clients to the target, consumers first; while consumers still work off the source, keep their groups in \
         step with: {}",
        session.next_command(Command::ClientSwitch)
    ));
    show::next_command(&session.next_command(Command::CutoverAck));
    Ok(Outcome::Done)
}
