//! Everything that is claimed, tested: checks, unit tests, then each binary of `tests/` on real clusters.
//!
//! Unlike [`check`](crate::check) it ends at the first stage that fails: what follows takes minutes and relies on it.
//! The binaries come from cargo, in the order of `tests/Cargo.toml`, so that a new one is not forgotten; they run one
//! after the other, and so do the tests in them, because each starts brokers that want the machine for themselves.

use anyhow::{Context, bail};
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use crate::{
    check::check,
    stage::{cargo, line, timed},
    tidy,
};

/// The package of the tests on real clusters.
const REAL: &str = "krossing-tests";

/// What a stage runs.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    /// `cargo xtask check`, in this process.
    Check,
    /// A cargo command.
    Cargo(Vec<String>),
}

/// Runs the stages, with the seconds of each as it ends and of all at the end.
pub(crate) fn test() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().current_dir(tidy::repository()).no_deps().exec().context("asking cargo")?;
    let mut lines = Vec::new();
    let mut failed = None;
    let (_, total) = timed(|| {
        for (name, work) in stages(&metadata)? {
            println!("\n=== {name}");
            let (outcome, took) = timed(|| match &work {
                Work::Check => check(),
                Work::Cargo(arguments) => cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]),
            });
            let line = line("test", &name, &outcome, took);
            println!("{line}");
            lines.push(line);
            if let Err(error) = outcome {
                failed = Some((name, error));
                break;
            }
        }
        Ok(())
    });
    println!("\n{}\nin all {:.1} s", lines.join("\n"), total.as_secs_f32());
    match failed {
        Some((name, error)) => Err(error.context(format!("stage {name} failed"))),
        None => Ok(()),
    }
}

/// The stages, in order.
fn stages(metadata: &Metadata) -> anyhow::Result<Vec<(String, Work)>> {
    let cargo = |name: &str, line: &str| (name.to_owned(), Work::Cargo(line.split(' ').map(str::to_owned).collect()));
    let mut stages = vec![
        ("check".to_owned(), Work::Check),
        cargo("unit", &format!("test --workspace --exclude {REAL}")),
        // The tests run the command as a user does; cargo builds it for them only when asked.
        cargo("command", "build --package krossing-cli"),
    ];
    let package = metadata.packages.iter().find(|package| package.name == REAL);
    let package = package.with_context(|| format!("the workspace has no {REAL}"))?;
    let fixed = stages.len();
    for target in package.targets.iter().filter(|target| target.test) {
        if target.kind.contains(&TargetKind::Lib) {
            stages.push(cargo("real-lib", &format!("test --package {REAL} --lib")));
        } else if target.kind.contains(&TargetKind::Test) {
            let line = format!("test --package {REAL} --test {} -- --test-threads=1", target.name);
            stages.push(cargo(&target.name, &line));
        }
    }
    if stages.len() == fixed {
        bail!("{REAL} has no tests: nothing would be shown on real brokers");
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_on_real_clusters_is_a_stage_and_checks_come_first() {
        let metadata = MetadataCommand::new().current_dir(tidy::repository()).no_deps().exec().expect("a workspace");
        let stages = stages(&metadata).expect("stages");
        let names: Vec<_> = stages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.starts_with(&["check", "unit", "command"]), "{names:?}");
        for name in ["lab", "wire", "witness", "migration"] {
            assert!(names.contains(&name), "{name} is not run: {names:?}");
        }
    }
}
