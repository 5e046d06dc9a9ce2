//! What people get wrong, and what is done to the files of a migration: one clear error that names the thing and says
//! what to do, a code other than 0, nothing half done, and no secret shown.
//!
//! Files that were put back go on where they were.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, ClusterSpec, Lab, Listener, Security,
    certificates::KeyPair,
    cluster::KROSSING,
    in_lab,
    rehearsal::{Migration, Outcome, Pair},
    workload::create_topics,
};

use crate::{
    numbered::{kept, until, write},
    owners::pair,
};

/// A password that must never be seen.
const SECRET: &str = "hunter2-hunter2";

/// A configuration whose clusters are as given, one line each below `migration:`.
fn configuration(source: &str, target: &str) -> String {
    format!(
        "migration:\n  source: {source}\n  target: {target}\n  backup: {{directory: \"{{folder}}/segments\"}}\n  \
         evidence: {{directory: \"{{folder}}/evidence\", signing_key_file: \"{{folder}}/key.pem\"}}\n"
    )
}

fn scram(cluster: &Cluster, password: &str, ca: &Path) -> String {
    format!(
        "{{bootstrap_servers: \"{}\", auth: {{mode: scram-sha-512, username: {}, password: \"{password}\"}}, \
         tls: {{ca_file: \"{}\"}}}}",
        cluster.bootstrap(Listener::Scram),
        KROSSING.name,
        ca.display()
    )
}

fn mtls(cluster: &Cluster, pair: &KeyPair, ca: &Path) -> String {
    format!(
        "{{bootstrap_servers: \"{}\", auth: {{mode: mtls, cert_file: \"{}\", key_file: \"{}\"}}, \
         tls: {{ca_file: \"{}\"}}}}",
        cluster.bootstrap(Listener::MutualTls),
        pair.cert_file.display(),
        pair.key_file.display(),
        ca.display()
    )
}

/// Everything a command said.
fn said(outcome: &Outcome) -> String {
    format!("{}{}", outcome.stdout, outcome.stderr)
}

/// `execute` with this configuration ends with 1, says each of `wanted`, shows no secret and leaves no journal.
async fn refused(lab: &Lab, name: &str, config: &str, wanted: &[&str]) -> Result<()> {
    let migration = Migration::configure("m", lab.folder().join("mistakes").join(name), config)?;
    let outcome = migration.run("execute").await?.expect_code(1).context(name.to_owned())?;
    let said = said(&outcome);
    for words in wanted {
        ensure!(said.contains(words), "{name}: {words:?} is not in what was said:\n{said}");
    }
    for secret in [SECRET, KROSSING.password] {
        ensure!(!said.contains(secret), "{name}: a secret is shown:\n{said}");
    }
    ensure!(outcome.stderr.lines().filter(|line| line.starts_with("krossing: ")).count() <= 1, "{name}: {said}");
    ensure!(!migration.ledger_folder().exists(), "{name}: a journal was left behind");
    Ok(())
}

#[test]
fn a_wrong_configuration_is_refused_with_one_clear_error_and_leaves_nothing_behind() {
    in_lab("mistakes", async |lab| {
        let spec = ClusterSpec { security: Security::Tls, ..ClusterSpec::default() };
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(spec.clone()), lab.kraft_cluster(spec))?;
        create_topics(&source.client(), &[kept("orders", 1)], 1).await?;
        let right_source = scram(&source, "${LAB_PASSWORD}", source.ca_file());
        let right_target = scram(&target, "${LAB_PASSWORD}", target.ca_file());
        let from = |source: &str| configuration(source, &right_target);
        let expired = source.expired_pair()?;
        let no_such = Path::new("/no/such/ca.pem");
        let unknown = from(&right_source).replace("  backup:", "  cutover: {drain_timout: 5m}\n  backup:");
        let unreachable = from("{bootstrap_servers: \"127.0.0.1:1\"}");
        let wrong_key = KeyPair { key_file: target.key_pair(KROSSING).key_file, ..source.key_pair(KROSSING) };
        let cases: Vec<(&str, String, &[&str])> = vec![
            ("no-yaml", "migration: [".to_owned(), &["line", "write it as YAML"]),
            ("unknown-key", unknown, &["line 4", "drain_timout", "did you mean cutover.drain_timeout"]),
            (
                "no-variable",
                from(&right_source.replace("LAB_PASSWORD", "NO_SUCH_VARIABLE")),
                &["line 2", "source.auth.password", "NO_SUCH_VARIABLE is not set"],
            ),
            ("unreachable", unreachable, &["B09", "source", "127.0.0.1:1", "check bootstrap_servers"]),
            ("wrong-password", from(&scram(&source, SECRET, source.ca_file())), &["B09", "source", "krossing"]),
            (
                "wrong-authority",
                from(&scram(&source, "${LAB_PASSWORD}", target.ca_file())),
                &["B09", "source", "ertificate"],
            ),
            (
                "no-authority",
                from(&scram(&source, "${LAB_PASSWORD}", no_such)),
                &["source.tls.ca_file", "/no/such/ca.pem"],
            ),
            ("expired", from(&mtls(&source, &expired, source.ca_file())), &["B09", "source", "ertificate"]),
            (
                "wrong-key",
                from(&mtls(&source, &wrong_key, source.ca_file())),
                &["source.auth", "keys may not be consistent"],
            ),
            (
                "same-cluster",
                configuration(&right_source, &right_source),
                &["B20", "same cluster", "B04", "not in KRaft mode"],
            ),
        ];
        for (name, config, wanted) in cases {
            refused(lab, name, &config, wanted).await?;
        }
        Ok(())
    });
}

/// A command that is refused, what it says of `wanted`, and the journal as it was.
async fn fails(migration: &Migration, command: &str, wanted: &[&str]) -> Result<()> {
    let journal = migration.ledger_folder().join("journal.jsonl");
    let before = fs::read(&journal).ok();
    let outcome = migration.run(command).await?.expect_code(1)?;
    for words in wanted {
        ensure!(outcome.stderr.contains(words), "{words:?} is not in what {command} said: {outcome:?}");
    }
    ensure!(fs::read(&journal).ok() == before, "{command} has changed the journal");
    Ok(())
}

/// Does something to a file, sees what the commands say of it, and puts the file back.
async fn spoiled(
    file: &Path,
    spoil: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    look: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let whole = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    match spoil(&whole) {
        Some(spoiled) => fs::write(file, spoiled)?,
        None => fs::remove_file(file)?,
    }
    look().await.with_context(|| format!("with another {}", file.display()))?;
    Ok(fs::write(file, whole)?)
}

/// Whether somebody holds a lock on a file.
fn is_locked(file: &Path) -> Result<bool> {
    let inode = format!(":{} ", fs::metadata(file)?.ino());
    Ok(fs::read_to_string("/proc/locks")?.lines().any(|lock| lock.contains("FLOCK") && lock.contains(&inode)))
}

async fn files_that_were_changed(pair: &Pair) -> Result<()> {
    create_topics(&pair.source.client(), &[kept("files", 2)], 1).await?;
    write(&pair.source.client(), "files", 2, "seed", 0..2_000, None).await?;
    let migration = pair.migration("files", &["files"], "")?;
    migration.run("execute").await?.expect_code(0)?;
    let folder = migration.ledger_folder();
    let journal = folder.join("journal.jsonl");

    // The last line was being written when the disk was full: it is not an entry, and nothing is lost.
    let torn = |whole: &[u8]| Some([whole, b"{\"sequence\":"].concat());
    spoiled(&journal, torn, async || {
        migration.run("status").await?.expect_code(0)?;
        migration.run("resume").await?.expect_code(10).map(drop)
    })
    .await?;
    let changed =
        |whole: &[u8]| Some(String::from_utf8_lossy(whole).replacen("drain_ready", "cutover", 1).into_bytes());
    spoiled(&journal, changed, async || fails(&migration, "cutover", &["journal"]).await).await?;
    spoiled(
        &folder.join("plan.json"),
        |_| Some(b"{}".to_vec()),
        async || fails(&migration, "cutover", &["plan"]).await,
    )
    .await?;
    spoiled(&folder.join("plan.json"), |_| None, async || fails(&migration, "cutover", &["plan"]).await).await?;

    // Two at once: the first is suspended while it holds the lock.
    let lock = folder.join("command.lock");
    let mut first = migration.begin("execute")?;
    first.until(until(|| is_locked(&lock))).await?;
    first.signal("STOP")?;
    fails(&migration, "execute", &["another command drives this migration"]).await?;
    let status = migration.run("status").await?.expect_code(0)?;
    ensure!(status.stdout.contains("at work: ") && !status.stdout.contains("next_command"), "{status:?}");
    first.signal("CONT")?;
    first.finish().await?.expect_code(0)?;

    // What the ledger knows is told without a cluster, and which one gives no answer.
    let there = pair.target.bootstrap(Listener::Plaintext);
    migration.reconfigure(&there, "127.0.0.2:1")?;
    let status = migration.run("status").await?.expect_code(0)?;
    let told =
        status.stdout.contains("state: drain_ready") && status.stdout.contains("the target could not be reached");
    ensure!(told && status.stderr.contains("connecting to target 127.0.0.2:1 for up to 10 s"), "{status:?}");
    migration.reconfigure("127.0.0.2:1", &there)?;

    // Another configuration is another migration's, and an id that nobody knows is named with those there are.
    let target = pair.target.bootstrap(Listener::Plaintext);
    let source = pair.source.bootstrap(Listener::Plaintext);
    migration.reconfigure(&target, &source)?;
    fails(&migration, "cutover", &["fingerprint", "must be as they were"]).await?;
    migration.reconfigure(
        &format!("target:\n    bootstrap_servers: \"{source}\""),
        &format!("target:\n    bootstrap_servers: \"{target}\""),
    )?;
    let unknown = migration.start("status", &["--migration-id", "nobody"])?.finish().await?.expect_code(1)?;
    ensure!(unknown.stderr.contains("there is no migration nobody") && unknown.stderr.contains("files"), "{unknown:?}");
    let nowhere = migration.start("execute", &["--migration-id", "new", "--journal-dir", "/dev/null/journal"])?;
    let nowhere = nowhere.finish().await?.expect_code(1)?;
    ensure!(nowhere.stderr.contains("--journal-dir") && nowhere.stderr.contains("/dev/null/journal"), "{nowhere:?}");
    migration.run("cutover").await?.expect_code(0)?;
    migration.run("cutover-ack").await?.expect_code(0)?;
    migration.run("finalize").await?.expect_code(0).map(drop)
}

#[test]
fn files_that_were_changed_are_named_and_a_migration_goes_on_when_they_are_put_back() {
    in_lab("files", async |lab| {
        let pair = pair(lab, lab::Version::V3_9).await?;
        files_that_were_changed(&pair).await
    });
}
