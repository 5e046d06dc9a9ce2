//! `krossing cutover`: from `drain_ready` to `awaiting_client_switch`, or back with the reason.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use anyhow::anyhow;
use krossing_core::{
    plan::Scope,
    ports::Clock,
    transition::{Command, State},
};
use krossing_cutover::{Cutover, Step};
use krossing_replication::{LanePlan, Notice};
use krossing_runtime::{Migration, connect::Local};
use krossing_worker::lane_context;
use tokio::sync::mpsc;

use crate::{Outcome, arguments::Existing, hand_over, phases, session::Session, show};

/// How often the step is looked at, to show a new one.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Cutover).await?;
    let mut planned = session.planned().await?;
    phases::take_in_what_appeared(&mut session, &mut planned).await?;
    let (scope, lanes) = (planned.scope(), planned.lanes());
    hand_over::ask(&session.migration, &lanes, &session.owner).await?;
    let migration = session.migration.clone();
    let (cutover, mut notices) = cutover(&migration, &session.owner, &scope, &lanes);
    let ended = tokio::select! {
        ended = krossing_cutover::run(&cutover, &mut session.journal) => Some(ended),
        never = show_steps(&migration, &cutover.step, &mut session.shown) => match never {},
        signal = phases::interrupted() => {
            show::advice(&format!("interrupted by {signal}: the cutover is taken back"));
            None
        }
    };
    while let Ok(notice) = notices.try_recv() {
        show::advice(&format!("noticed while copying: {notice:?}"));
    }
    let Some(ended) = ended else {
        session.reload().await?;
        if session.journal.tip() == Some(State::Cutover) {
            abandon(&mut session).await?;
        }
        session.show_entries();
        return Err(anyhow!("the cutover was interrupted; {}", next(&session)));
    };
    session.show_entries();
    let report = match ended {
        Ok(report) => report,
        Err(error) => return Err(anyhow::Error::new(error).context(next(&session))),
    };
    let groups: BTreeSet<_> = report.groups.iter().map(|position| &position.group).collect();
    show::line(&format!(
        "producers stood still for {} ms (freeze {}, mark {}, drain {}, close {}, translate {}, commit {})",
        report.timings.frozen_ms,
        report.timings.freeze_ms,
        report.timings.mark_ms,
        report.timings.drain_ms,
        report.timings.close_ms,
        report.timings.translate_ms,
        report.timings.commit_ms
    ));
    show::line(&format!("groups carried over: {} with {} positions", groups.len(), report.groups.len()));
    for warning in &report.warnings {
        show::advice(&format!("warning: {warning}"));
    }
    show::advice(&format!(
        "switch the clients to the target; while consumers still work off the source, keep their groups in step with: {}",
        session.next_command(Command::ClientSwitch)
    ));
    show::advice(&format!("next_command: {}", session.next_command(Command::CutoverAck)));
    Ok(Outcome::Done)
}

/// Takes back a cutover that was killed.
pub(crate) async fn abandon(session: &mut Session) -> anyhow::Result<()> {
    let planned = session.planned().await?;
    let (scope, lanes) = (planned.scope(), planned.lanes());
    let migration = session.migration.clone();
    let (cutover, _notices) = cutover(&migration, &session.owner, &scope, &lanes);
    Ok(krossing_cutover::abandon(&cutover, &mut session.journal).await?)
}

fn cutover<'a>(
    migration: &'a Migration<Local>,
    owner: &str,
    scope: &'a Scope,
    lanes: &'a [LanePlan],
) -> (Cutover<'a, Local>, mpsc::UnboundedReceiver<Notice>) {
    let (sender, notices) = mpsc::unbounded_channel();
    let ctx = lane_context(migration, owner, sender);
    (Cutover { migration, scope, lanes, ctx, step: Step::default() }, notices)
}

/// Shows each step as it begins, and what is journaled as it is stored. Never ends.
async fn show_steps(migration: &Migration<Local>, step: &Step, shown: &mut usize) -> Infallible {
    let mut last = "";
    loop {
        // What cannot be read now is shown at the end.
        if let Ok(journal) = migration.journal().await {
            for entry in &journal.entries()[(*shown).min(journal.position())..] {
                show::line(&show::entry(entry));
            }
            *shown = journal.position().max(*shown);
        }
        let now = step.name();
        if now != last {
            show::line_at(migration.clock.unix_ms(), &format!("cutover: {now}"));
            last = now;
        }
        migration.clock.sleep(LOOK_EVERY).await;
    }
}

fn next(session: &Session) -> String {
    match session.journal.tip() {
        Some(State::DrainReady) => {
            "producers may go on and the migration is at drain_ready again; the next cutover is yours to begin"
                .to_owned()
        }
        _ => format!("see {}", session.next_command(Command::Status)),
    }
}
