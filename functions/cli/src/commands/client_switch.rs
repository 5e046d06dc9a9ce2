//! `krossing client-switch`: keeps groups in step that still work on the source, until the acknowledgement.
//!
//! Writes no journal and holds no lock, so that the acknowledgement can be given meanwhile.

use std::time::Duration;

use anyhow::bail;
use krossing_client_switch::{LeftBehind, SwitchError, SwitchReport, left_behind, on_both};
use krossing_core::{
    journal::Journal,
    ports::Clock,
    transition::{Command, Decision, State},
};
use krossing_runtime::{Migration, connect::Real};

use crate::{
    Outcome,
    arguments::Existing,
    session::{Session, interrupted},
    show,
};

/// How often the journal is looked at for another state.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let session = Session::watch(&existing).await?;
    if let Decision::Refused(why) = session.drive.journal.permit(Command::ClientSwitch).decision {
        bail!("{why}");
    }
    krossing_plan::check_identity(&session.drive.migration, &session.drive.journal).await?;
    show::advice(&format!("until: {}", session.next_command(Command::CutoverAck)));
    follow(&session).await?;
    Ok(Outcome::Done)
}

/// Keeps groups in step until the state is another, or the process is to end.
pub(crate) async fn follow(session: &Session) -> anyhow::Result<()> {
    let migration = &session.drive.migration;
    let stop = async {
        tokio::select! {
            () = until(migration, has_ended) => {}
            _ = interrupted() => {}
        }
    };
    let (mut last, mut behind) = (None, Vec::new());
    let stragglers = session.next_command(Command::Stragglers);
    // Only what is new is worth a line.
    let show = |round: Result<&SwitchReport, &SwitchError>| {
        let said = round.cloned().map_err(|error| show::chain(error));
        if last.as_ref() != Some(&said) {
            match &said {
                Ok(report) => {
                    show_report(report, &behind, &stragglers);
                    behind.clone_from(&report.records_behind_marker);
                }
                Err(why) => show::advice(&format!("warning: groups were not looked at: {why}; looking again")),
            }
            last = Some(said);
        }
    };
    session.drive.follow(stop, show).await
}

/// Whether there is nothing to be kept in step any more.
fn has_ended(journal: &Journal) -> bool {
    journal.tip().is_some_and(|state| state != State::AwaitingClientSwitch) || journal.is_being_given_up()
}

/// Ends when the journal is as `reached` wants it.
async fn until(migration: &Migration<Real>, reached: impl Fn(&Journal) -> bool) {
    loop {
        match migration.journal().await {
            Ok(journal) => {
                if reached(&journal) {
                    return;
                }
            }
            Err(error) => tracing::warn!(error = %error, "the journal could not be read; looking again"),
        }
        migration.clock.sleep(LOOK_EVERY).await;
    }
}

/// Who has switched, and what somebody has to look at. Records left behind that were `said` already are not said again;
/// `stragglers` is the command that decides about them.
pub(crate) fn show_report(report: &SwitchReport, said: &[LeftBehind], stragglers: &str) {
    let mut text = format!(
        "groups switched={} not_switched={} positions_moved={}",
        report.switched.len(),
        report.not_switched.len(),
        report.positions_moved
    );
    if !report.not_switched.is_empty() {
        let names: Vec<&str> = report.not_switched.iter().map(|group| group.as_str()).collect();
        text.push_str(&format!("\nnot switched: {}", names.join(", ")));
    }
    show::event("groups", report, &text);
    for (group, partition) in &report.went_back {
        show::advice(&format!(
            "warning: group {group} was set back on the source in {partition}; its position on the target was left as it is"
        ));
    }
    for group in &report.on_both {
        show::advice(&format!("warning: {}", on_both(group)));
    }
    for partition in &report.not_looked_behind {
        show::advice(&format!("warning: whether a producer was left behind is not known of {partition}"));
    }
    if report.records_behind_marker.len() != said.len()
        && let Some(warning) = left_behind(&report.records_behind_marker, stragglers)
    {
        show::advice(&format!("warning: {warning}"));
    }
}
