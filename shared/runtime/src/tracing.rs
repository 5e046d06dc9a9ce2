//! Where log lines go: to standard error, so that standard output stays what was asked for.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Sends log lines to standard error, as `RUST_LOG` selects them; warnings and errors where it is not set. What it
/// cannot understand in `RUST_LOG` is said and left out. Colours are for a terminal only, and a line begins with its time
/// and level: which module wrote it is told to whoever has set `RUST_LOG`. A second call changes nothing.
pub fn start_tracing() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(std::env::var_os(EnvFilter::DEFAULT_ENV).is_some());
    // An error here means that a subscriber is in place already.
    _ = lines.try_init();
}
