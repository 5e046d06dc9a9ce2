//! The command line where no cluster is needed: what is wrong is said once, with exit code 1, and nothing is left behind.

use std::{
    path::Path,
    process::{Command, Output},
};

fn krossing(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_krossing"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .expect("the command can be started")
}

fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::write(folder.path().join("m.yaml"), config).expect("the configuration can be written");
    folder
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder can be listed");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Ports on which nothing listens.
const NOWHERE: &str = "migration:
  source: {bootstrap_servers: '127.0.0.1:1'}
  target: {bootstrap_servers: '127.0.0.1:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
";

fn check(config: &str, arguments: &[&str], said: &[&str]) {
    let folder = folder_with(config);
    let output = krossing(folder.path(), arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    for expected in said {
        assert_eq!(stderr.matches(expected).count(), 1, "{arguments:?}: {expected:?} once in {stderr}");
    }
    assert_eq!(files(folder.path()), ["m.yaml"], "{arguments:?} left something behind");
}

#[test]
fn all_problems_of_a_configuration_are_said_at_once_with_their_lines() {
    let config = "migration:\n  source: {bootstrap_servers: here}\n  tpoics: {}\n  seed: {lanes: 0}\n";
    for command in ["plan", "precheck", "execute"] {
        check(
            config,
            &[command, "--config", "m.yaml"],
            &["line 2:", "line 3:", "line 4:", "backup.directory", "krossing:"],
        );
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    check(NOWHERE, &["plan", "--config", "other.yaml"], &["krossing: could not read the configuration other.yaml"]);
}

#[test]
fn a_migration_that_nobody_began_is_refused_before_any_cluster_is_asked() {
    for command in ["resume", "status", "cutover", "cutover-ack", "client-switch", "finalize"] {
        let arguments = [command, "--config", "m.yaml", "--migration-id", "m-1"];
        check(NOWHERE, &arguments, &["there is no migration m-1 in evidence", "krossing:"]);
    }
}

#[test]
fn an_id_is_needed_by_every_command_that_goes_on_with_a_migration() {
    check(NOWHERE, &["resume", "--config", "m.yaml"], &["required arguments were not provided"]);
    check(NOWHERE, &["status", "--config", "m.yaml", "--migration-id", "../x"], &["\"../x\""]);
}

#[test]
fn what_is_not_a_command_has_exit_code_1_and_help_has_0() {
    check(NOWHERE, &["frobnicate"], &["unrecognized subcommand"]);
    let folder = folder_with(NOWHERE);
    let help = krossing(folder.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("10 waiting for the operator"));
}

#[test]
#[ignore = "30 seconds: as long as brokers that do not answer are tried"]
fn brokers_that_cannot_be_reached_are_both_named_at_once() {
    let folder = folder_with(NOWHERE);
    std::thread::scope(|both| {
        for command in ["execute", "precheck"] {
            let folder = folder.path();
            both.spawn(move || {
                let output = krossing(folder, &[command, "--config", "m.yaml"]);
                let [stdout, stderr] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
                assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
                assert!(
                    stdout.contains("B09 blocker: source: ") && stdout.contains("B10 blocker: target: "),
                    "{stdout}"
                );
                // Nobody sits in front of a silent command.
                assert!(stderr.contains("connecting to source 127.0.0.1:1 for up to"), "{stderr}");
            });
        }
    });
}
