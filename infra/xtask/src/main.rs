//! The developers' commands: `cargo xtask check` before every push, and in `make check`; `cargo xtask test` is
//! `make test`; `cargo xtask crash` plays crashes on fakes.

mod check;
mod crash;
mod stage;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// Commands for those who work on Krossing.
#[derive(Parser)]
enum Command {
    /// Formatting, lints, documentation and tidiness of the whole workspace, with the seconds of each.
    Check,
    /// The checks, unit tests, then real clusters; ends at the first stage that fails.
    Test,
    /// A whole migration on fakes whose processes crash and fail: many seeds, or one run again, told call by call.
    Crash(crash::Arguments),
    /// Tidiness alone: a second, without compiling anything.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Check => check::check(),
        Command::Test => test::test(),
        Command::Crash(arguments) => crash::crash(&arguments),
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
