//! `krossing status`: where a migration stands, who copies, how far the target is behind, and what comes next.
//!
//! Reads only, and holds no lock: it may be asked at any time.

use std::{io::IsTerminal, time::Duration};

use krossing_core::{Side, ports::Clock};

use crate::{
    Outcome,
    arguments::StatusArguments,
    session::{Session, interrupted},
    show::{self, Output},
    status,
};

/// How long it rests between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Clears the screen and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) async fn run(arguments: StatusArguments) -> anyhow::Result<Outcome> {
    let (mut session, unnamed) = Session::look(&arguments.existing).await?;
    if !arguments.follow {
        let status = status::look(&mut session, &unnamed).await?;
        show::event("status", &status, &status.to_string());
        return Ok(Outcome::Done);
    }
    tokio::select! {
        ended = follow(&mut session, &unnamed) => ended?,
        _ = interrupted() => {}
    }
    Ok(Outcome::Done)
}

async fn follow(session: &mut Session, unnamed: &[(Side, String)]) -> anyhow::Result<()> {
    let clear = std::io::stdout().is_terminal() && show::output() == Output::Text;
    loop {
        match status::look(session, unnamed).await {
            Ok(status) => {
                let before = if clear { CLEAR.to_owned() } else { format!("{}\n", status.clock_time()) };
                show::event("status", &status, &format!("{before}{status}"));
                if status.has_ended() {
                    return Ok(());
                }
            }
            // Whoever watches through a night wants to see what failed come back.
            Err(error) => show::error(&error),
        }
        session.drive.migration.clock.sleep(LOOK_EVERY).await;
    }
}
