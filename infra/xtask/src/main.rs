//! The developers' commands: `cargo xtask check` before every push, and in `make check`.

mod check;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// Commands for those who work on Krossing.
#[derive(Parser)]
enum Command {
    /// Formatting, lints, documentation and tidiness of the whole workspace, with the seconds of each.
    Check,
    /// Tidiness alone: a second, without compiling anything.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Check => check::check(),
        Command::Tidy => tidy::tidy(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
