//! `krossing stragglers`: records that reached the source behind where it was closed: names them, or decides.

use krossing_core::{
    stragglers::{Choice, StragglerDecision},
    transition::Command,
};
use krossing_stragglers::Undecided;

use crate::{Outcome, arguments::StragglersArguments, session::Session, show};

pub(crate) async fn run(arguments: StragglersArguments) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&arguments.existing, Command::Stragglers).await?;
    let choice = match (arguments.append, arguments.leave) {
        (true, _) => Choice::Append,
        (false, true) => Choice::Leave,
        (false, false) => {
            show_found(&session, &session.drive.stragglers().await?);
            return Ok(Outcome::Done);
        }
    };
    match session.drive.decide_stragglers(choice).await? {
        None => show::line("there is no record left that nobody has decided about"),
        Some(decision) => show_decision(&decision),
    }
    Ok(Outcome::Done)
}

fn producers(ids: &std::collections::BTreeSet<i64>) -> String {
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    if names.is_empty() { "not told".to_owned() } else { names.join(", ") }
}

fn show_found(session: &Session, found: &[Undecided]) {
    for Undecided { partition, from, to, records, producers: ids } in found {
        let ids = producers(ids);
        show::line(&format!("{partition}: records={records} source_offsets={from}..{to} producer_ids={ids}"));
    }
    show::line(&format!("partitions={} records={}", found.len(), found.iter().map(|one| one.records).sum::<u64>()));
    if !found.is_empty() {
        let command = session.next_command(Command::Stragglers);
        show::advice(&format!(
            "stop their producers or switch them to the target, then decide: {command} --append | --leave"
        ));
    }
}

fn show_decision(decision: &StragglerDecision) {
    let what = match decision.stragglers {
        Choice::Append => "appended at the target's end",
        Choice::Leave => "left out of the target",
    };
    for stragglers in &decision.partitions {
        show::line(&format!(
            "{}: records={} source_offsets={}..{} producer_ids={} {what}, kept in {}",
            stragglers.partition,
            stragglers.records,
            stragglers.from,
            stragglers.to,
            producers(&stragglers.producers),
            stragglers.kept.key
        ));
    }
}
