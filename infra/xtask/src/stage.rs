//! Commands of cargo, run and timed.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::tidy;

/// Runs a cargo command in the checkout. Its output is shown as it comes.
pub(crate) fn cargo(arguments: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let line = format!("cargo {}", arguments.join(" "));
    let mut command = cargo_command(arguments);
    let status = command.envs(settings.iter().copied()).status().with_context(|| format!("starting {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// A cargo command in the checkout, to be run.
pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    // The cargo that runs us, so that a toolchain chosen on the command line is used throughout.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(tidy::repository());
    command
}

/// What a stage said, and how long it took.
pub(crate) fn timed(stage: impl FnOnce() -> anyhow::Result<()>) -> (anyhow::Result<()>, Duration) {
    let begun = Instant::now();
    (stage(), begun.elapsed())
}

/// One stage in a line, as `check clippy   ok       12.3 s`.
pub(crate) fn line(command: &str, name: &str, outcome: &anyhow::Result<()>, took: Duration) -> String {
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    format!("{command} {name:<10} {verdict:<6} {:8.1} s", took.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_failed_and_how_long_it_took() {
        let (outcome, _) = timed(|| bail!("no"));
        assert_eq!(line("test", "wire", &outcome, Duration::from_millis(61_250)), "test wire       FAILED     61.2 s");
        assert_eq!(line("test", "unit", &Ok(()), Duration::from_secs(5)), "test unit       ok          5.0 s");
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let error = cargo(&["no-such-command"], &[]).expect_err("cargo knows no such command");
        assert!(error.to_string().starts_with("cargo no-such-command: exit"), "{error}");
    }
}
