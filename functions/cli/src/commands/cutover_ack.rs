//! `krossing cutover-ack`: the operator says that all clients have switched.

use krossing_client_switch::ClientSwitch;
use krossing_core::transition::{Command, State};

use crate::{Outcome, arguments::Existing, commands::client_switch::show_report, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::CutoverAck).await?;
    let lanes = session.planned().await?.lanes();
    let migration = session.migration.clone();
    // The last look: a group that moved on the source since the round before is brought into step once more.
    let report = ClientSwitch::load(&migration, &lanes).await?.round().await?;
    show_report(&report);
    let reason = format!(
        "clients have switched, says the operator: groups_switched={} groups_not_seen={} positions_moved={}",
        report.switched.len(),
        report.not_switched.len(),
        report.positions_moved
    );
    session.enter(State::Validating, reason, &report).await?;
    show::advice(&format!("next_command: {}", session.next_command(Command::Finalize)));
    Ok(Outcome::Done)
}
