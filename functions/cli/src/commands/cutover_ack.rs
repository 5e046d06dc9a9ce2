//! `krossing cutover-ack`: the operator says that all clients have switched.

use krossing_core::{
    decision::{Answer, Gate},
    transition::Command,
};

use crate::{
    Outcome,
    arguments::DecisionArguments,
    commands::client_switch::show_report,
    session::{Session, after_acknowledgement},
    show,
};

pub(crate) async fn run(DecisionArguments { existing, reason }: DecisionArguments) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::CutoverAck).await?;
    session.journal_why(Gate::AcknowledgeSwitch, Answer::Switched, reason).await?;
    let report = session.drive.acknowledge().await?;
    show_report(&report, &[], &session.next_command(Command::Stragglers));
    show::next_command(&session.next_command(after_acknowledgement(&session.drive.journal)));
    Ok(Outcome::Done)
}
