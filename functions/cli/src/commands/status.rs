//! `krossing status`: where a migration stands, who copies, how far the target is behind, and what comes next.
//!
//! Reads only, and holds no lock: it may be asked at any time. Of a migration that a stack drives neither cluster is
//! asked, so that it can be asked from wherever AWS can be reached.

use std::{io::IsTerminal, time::Duration};

use krossing_core::ports::Clock;

use crate::{
    Outcome,
    arguments::StatusArguments,
    session::{Session, interrupted},
    show::{self, Output},
    stack::Stack,
    status::{self, Seen},
};

/// How long it rests between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Clears the screen and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) async fn run(arguments: StatusArguments) -> anyhow::Result<Outcome> {
    let (mut session, unnamed) = Session::look(&arguments.existing).await?;
    let clock = session.drive.migration.clock;
    let look = async || Ok(Seen::Begun(Box::new(status::look(&mut session, &unnamed).await?)));
    tell(arguments.follow, &clock, look).await
}

/// The same of a migration that the stack `name` drives.
pub(crate) async fn run_for_stack(name: &str, arguments: &StatusArguments) -> anyhow::Result<Outcome> {
    let existing = &arguments.existing;
    let stack = Stack::open(name, &existing.common, existing.migration_id.clone()).await?;
    status::check_begun(&stack).await?;
    tell(arguments.follow, &stack.migration.clock, async || status::look_at_stack(&stack).await).await
}

/// Tells what is seen: once, or until the migration has ended.
async fn tell(
    follow: bool,
    clock: &impl Clock,
    mut look: impl AsyncFnMut() -> anyhow::Result<Seen>,
) -> anyhow::Result<Outcome> {
    if !follow {
        let seen = look().await?;
        show::event("status", &seen, &seen.to_string());
        return Ok(Outcome::Done);
    }
    let clear = std::io::stdout().is_terminal() && show::output() == Output::Text;
    let until_ended = async {
        loop {
            match look().await {
                Ok(seen) => {
                    let time = || format!("{}\n", show::clock_time(clock.unix_ms()));
                    let before = if clear { CLEAR.to_owned() } else { time() };
                    show::event("status", &seen, &format!("{before}{seen}"));
                    if seen.has_ended() {
                        return;
                    }
                }
                // Whoever watches through a night wants to see what failed come back.
                Err(error) => show::error(&error),
            }
            clock.sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = until_ended => {}
        _ = interrupted() => {}
    }
    Ok(Outcome::Done)
}
