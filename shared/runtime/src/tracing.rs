//! Where log lines go: to standard error, so that standard output stays what was asked for.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Sends log lines to standard error, as `RUST_LOG` selects them; warnings and errors where it is not set. What it
/// cannot understand in `RUST_LOG` is said and left out. A second call changes nothing.
pub fn start_tracing() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    // An error here means that a subscriber is in place already.
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
