//! The developers' commands: `cargo xtask check` before every push, and in `make check`.

mod check;
mod tidy;

use clap::Parser;

/// Commands for those who work on Krossing.
#[derive(Parser)]
enum Command {
    /// Formatting, lints, documentation and tidiness of the whole workspace, with the seconds of each.
    Check,
    /// Tidiness alone: a second, without compiling anything.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Check => check::check(),
        Command::Tidy => tidy::tidy(),
    }
}
