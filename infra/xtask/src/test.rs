//! Everything that is claimed, tested: checks, unit tests, then each binary of `tests/` on real clusters.
//!
//! Unlike [`check`](crate::check) it ends at the first stage that fails: what follows takes minutes and relies on it.
//! The binaries come from cargo, in the order of `tests/Cargo.toml`, so that a new one is not forgotten; they run one
//! after the other, and so do the tests in them, because each starts brokers that want the machine for themselves. What
//! mostly waits runs two at a time: faults, for brokers that start and for what brokers forget, what is kept and run on
//! AWS, and migrations of small data. What mostly waits for packages of others, or never waits at all, runs beside other
//! stages, and its own stage is its end.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use crate::{
    check::check,
    stage::{cargo, cargo_command, line, timed},
    tidy,
};

/// The package of the tests on real clusters.
const REAL: &str = "krossing-tests";

/// Run beside the checks, as they need no build of ours: what tests of AWS need, and what judges what is deployed.
const BESIDE_CHECKS: [(&str, &str); 2] = [("setup", "tests/lab/setup.sh"), ("infra", "infra/check.sh")];

/// Uses one core for minutes and waits for nothing: runs beside the first tests on real clusters, which mostly wait.
const CRASH: &str = "crash";

/// What a stage runs.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    /// `cargo xtask check`, in this process.
    Check,
    /// The end of what was begun before under the stage's name, with what it has said.
    End,
    /// A cargo command.
    Cargo(Vec<String>),
}

/// Runs the stages, with the seconds of each as it ends and of all at the end.
pub(crate) fn test() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().current_dir(tidy::repository()).no_deps().exec().context("asking cargo")?;
    let mut lines = Vec::new();
    let mut failed = None;
    let mut beside = BTreeMap::new();
    for (name, script) in BESIDE_CHECKS {
        let mut command = Command::new("bash");
        beside.insert(name, Beside::begin(command.arg(tidy::repository().join(script)))?);
    }
    let (_, total) = timed(|| {
        for (name, work) in stages(&metadata)? {
            println!("\n=== {name}");
            let (outcome, took) = timed(|| match &work {
                Work::Check => check(),
                Work::Cargo(arguments) => cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]),
                Work::End => beside.remove(name.as_str()).with_context(|| format!("{name} was not begun"))?.end(),
            });
            let line = line("test", &name, &outcome, took);
            println!("{line}");
            lines.push(line);
            if name == "build" && outcome.is_ok() {
                let arguments = ["test", "--workspace", "--test", CRASH, "--", "--test-threads=1"];
                beside.insert(CRASH, Beside::begin(&mut cargo_command(&arguments))?);
            }
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

/// A command that runs beside the stages, and is stopped where they end before it.
struct Beside {
    line: String,
    running: Child,
    said: File,
}

impl Beside {
    fn begin(command: &mut Command) -> anyhow::Result<Self> {
        let line = format!("{command:?}");
        let said = tempfile::tempfile().context("making a temporary file")?;
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        let running = command.spawn().with_context(|| format!("starting {line}"))?;
        Ok(Self { line, running, said })
    }

    /// Waits for its end, and shows what it has said.
    fn end(&mut self) -> anyhow::Result<()> {
        let status = self.running.wait().with_context(|| format!("waiting for {}", self.line))?;
        self.said.rewind()?;
        io::copy(&mut self.said, &mut io::stdout())?;
        if status.success() { Ok(()) } else { bail!("{}: {status}", self.line) }
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
        let threads = match name.as_str() {
            // Mostly waits: for leases, for gates, for each other's processes.
            "serverless" => 3,
            "faults" | "aws" => 2,
            "migration" if small => 2,
            _ => 1,
        };
        stages.push(match name.as_str() {
            CRASH => (CRASH.to_owned(), Work::End),
            name => cargo(name, &format!("test --workspace --test {name} -- --test-threads={threads}")),
        });
    }
    let beside = BESIDE_CHECKS.map(|(name, _)| (name.to_owned(), Work::End));
    stages.splice(1..1, beside);
    if stages.len() == fixed + BESIDE_CHECKS.len() {
        bail!("{REAL} has no tests: nothing would be shown on real brokers");
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_ends_as_its_command_does_and_is_stopped_where_nobody_waits_for_it() {
        let bash = |line: &str| Beside::begin(Command::new("bash").args(["-c", line])).expect("bash is there");
        assert!(bash("echo said; true").end().is_ok());
        let error = bash("false").end().expect_err("it failed");
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        // Waited for it would be until it ends.
        drop(bash("exec sleep infinity"));
    }

    #[test]
    fn every_binary_on_real_clusters_is_a_stage_and_checks_come_first() {
        let metadata = MetadataCommand::new().current_dir(tidy::repository()).no_deps().exec().expect("a workspace");
        let stages = stages(&metadata).expect("stages");
        let names: Vec<_> = stages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.starts_with(&["check", "setup", "infra", "unit", "doctests", "build"]), "{names:?}");
        for name in ["lab", "wire", "witness", "migration", CRASH] {
            assert!(names.contains(&name), "{name} is not run: {names:?}");
        }
    }
}
