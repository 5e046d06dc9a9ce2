//! `krossing finalize`: checks everything, sets the planned topic settings, writes the report.

use krossing_core::transition::Command;

use crate::{Outcome, arguments::Existing, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Finalize).await?;
    let planned = session.planned().await?;
    let migration = session.migration.clone();
    let ended = krossing_finalize::run(&migration, &planned.plan, &planned.scope(), &mut session.journal).await;
    session.show_entries();
    match ended {
        Ok(report) => {
            show::line(&report.to_string());
            Ok(Outcome::Done)
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            session.fail(&error).await;
            Err(error)
        }
    }
}
