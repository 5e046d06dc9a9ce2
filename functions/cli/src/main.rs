//! `krossing`: boot, and one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    krossing_cli::main()
}
