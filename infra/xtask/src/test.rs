//! Everything that is claimed, tested: checks, unit tests, then each binary of `tests/` on real clusters.
//!
//! Unlike [`check`](crate::check) it ends at the first stage that fails: what follows takes minutes and relies on it.
//! The binaries come from cargo, in the order of `tests/Cargo.toml`, so that a new one is not forgotten; they run one
//! after the other, and so do the tests in them, because each starts brokers that want the machine for themselves. What
//! mostly waits runs two at a time: faults, for brokers that start and for what brokers forget, what is kept and run on
//! AWS, and migrations of small data.

use std::{
    fs::File,
    io::{self, Seek as _},
    process::{Child, Stdio},
};

use anyhow::{Context, bail};
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use crate::{
    check::check,
    stage::{cargo, line, timed},
    tidy,
};

/// The package of the tests on real clusters.
const REAL: &str = "krossing-tests";

/// Judges what is deployed. Mostly waits for packages of others, and needs no build of ours: it runs beside the checks.
const INFRA: &str = "infra/check.sh";

/// What a stage runs.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    /// `cargo xtask check`, in this process.
    Check,
    /// The end of what was begun at the beginning, with what it has said.
    Infra,
    /// A cargo command.
    Cargo(Vec<String>),
}

/// Runs the stages, with the seconds of each as it ends and of all at the end.
pub(crate) fn test() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().current_dir(tidy::repository()).no_deps().exec().context("asking cargo")?;
    let mut lines = Vec::new();
    let mut failed = None;
    let mut infra = Beside::begin(INFRA)?;
    let (_, total) = timed(|| {
        for (name, work) in stages(&metadata)? {
            println!("\n=== {name}");
            let (outcome, took) = timed(|| match &work {
                Work::Check => check(),
                Work::Cargo(arguments) => cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]),
                Work::Infra => infra.end(),
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

/// A script of the repository that runs beside the stages, and is stopped where they end before it.
struct Beside {
    script: &'static str,
    running: Child,
    said: File,
}

impl Beside {
    fn begin(script: &'static str) -> anyhow::Result<Self> {
        let said = tempfile::tempfile().context("making a temporary file")?;
        let running = std::process::Command::new("bash")
            .arg(tidy::repository().join(script))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("running {script}"))?;
        Ok(Self { script, running, said })
    }

    /// Waits for its end, and shows what it has said.
    fn end(&mut self) -> anyhow::Result<()> {
        let status = self.running.wait().with_context(|| format!("waiting for {}", self.script))?;
        self.said.rewind()?;
        io::copy(&mut self.said, &mut io::stdout())?;
        if status.success() { Ok(()) } else { bail!("{} ended with {status}", self.script) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Of one that has ended there is nothing left to stop.
        _ = self.running.kill();
        _ = self.running.wait();
    }
}

/// The stages, in order.
///
/// Each selects `--workspace`, never one package: cargo gives libraries the features that the selected packages ask for,
/// and with another selection it would build most of them again (measured: minutes a stage on 2 cores).
fn stages(metadata: &Metadata) -> anyhow::Result<Vec<(String, Work)>> {
    let tests_of = |real: bool| {
        let packages = metadata.packages.iter().filter(move |package| (package.name == REAL) == real);
        let targets = packages.flat_map(|package| &package.targets);
        targets.filter(|target| target.test && target.kind.contains(&TargetKind::Test)).map(|target| &target.name)
    };
    let cargo = |name: &str, line: &str| (name.to_owned(), Work::Cargo(line.split(' ').map(str::to_owned).collect()));
    let near: String = tests_of(false).map(|name| format!(" --test {name}")).collect();
    let mut stages = vec![
        ("check".to_owned(), Work::Check),
        cargo("unit", &format!("test --workspace --lib --bins{near}")),
        cargo("doctests", "test --workspace --doc"),
        // The command, which the tests below run as a user does, and these tests: their seconds are then their own.
        cargo("build", "build --workspace --bins --tests"),
    ];
    let fixed = stages.len();
    for name in tests_of(true) {
        if tests_of(false).any(|other| other == name) {
            bail!("two test binaries are called {name}: the one in {REAL} needs a name of its own");
        }
        let small = std::env::var("KROSSING_SCALE").is_ok_and(|scale| scale == "small");
        let threads = if matches!(name.as_str(), "faults" | "aws" | "serverless") || (name == "migration" && small) {
            2
        } else {
            1
        };
        stages.push(cargo(name, &format!("test --workspace --test {name} -- --test-threads={threads}")));
    }
    stages.insert(1, ("infra".to_owned(), Work::Infra));
    if stages.len() == fixed + 1 {
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
        assert!(names.starts_with(&["check", "infra", "unit", "doctests", "build"]), "{names:?}");
        for name in ["lab", "wire", "witness", "migration"] {
            assert!(names.contains(&name), "{name} is not run: {names:?}");
        }
    }
}
