//! The folders of a migration on a bad day: a disk that takes no more, a folder that may not be written to, segments
//! that somebody has tidied away. One error that names the thing; nothing is lost, and `resume` goes on once it is put
//! right.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Result, ensure};
use lab::{
    Version, in_lab,
    rehearsal::{Migration, Outcome, Pair, Running},
    workload::create_topics,
};
use tokio::process::Command;

use crate::{
    numbered::{Log, kept, read, write},
    owners::pair,
};

/// Two partitions of 6 MB each.
const LARGE: std::ops::Range<u64> = 0..24_000;

/// All that a process may write into one file: the journal fits, a segment does not.
const FILE_KIB_MAX: u32 = 256;

/// A command of a migration, run by `runner`, which gets it as its last arguments.
async fn run_by(runner: &[&str], migration: &Migration, name: &str) -> Result<Outcome> {
    let inner = migration.command(name, &["--migration-id", &migration.id])?;
    let inner = inner.as_std();
    let mut command = Command::new(runner[0]);
    command.args(&runner[1..]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Running::start(command)?.finish().await
}

fn names(outcome: &Outcome, wanted: &[&str]) -> Result<()> {
    let last = outcome.stderr.lines().rfind(|line| line.starts_with("krossing: ")).unwrap_or_default();
    for words in wanted {
        ensure!(last.contains(words), "{words:?} is not in the error:\n{}{}", outcome.stdout, outcome.stderr);
    }
    Ok(())
}

async fn goes_on(pair: &Pair, migration: &Migration, topic: &str, code: i32) -> Result<()> {
    migration.run("resume").await?.expect_code(code)?;
    for partition in 0..2 {
        let (source, target) =
            (read(&pair.source.client(), topic, partition)?, read(&pair.target.client(), topic, partition)?);
        let digests = |log: Log| log.into_iter().map(|(_, digest)| digest);
        ensure!(digests(source).eq(digests(target)), "{topic}-{partition} is not what the source has");
    }
    Ok(())
}

async fn a_disk_that_takes_no_more(pair: &Pair) -> Result<()> {
    let migration = pair.migration("full", &["full"], "")?;
    // The signal that would end the process is ignored, as on a full disk there is none: writing fails.
    let limited = format!("trap '' XFSZ; ulimit -f {FILE_KIB_MAX}; exec \"$@\"");
    let full = run_by(&["bash", "-c", &limited, "bash"], &migration, "execute").await?.expect_code(1)?;
    names(&full, &["segment", "File too large"])?;
    ensure!(migration.journal()?.last().is_some_and(|entry| entry["to"] == "failed"), "{:?}", migration.journal());
    goes_on(pair, &migration, "full", 0).await
}

/// What root may write to although nobody may, it may no longer.
fn as_any_user() -> Result<Vec<&'static str>> {
    let root = fs::metadata("/proc/self")?.uid() == 0;
    let without = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"];
    Ok(if root { without.to_vec() } else { vec!["env"] })
}

async fn a_folder_that_may_not_be_written_to(pair: &Pair) -> Result<()> {
    let migration = pair.migration("locked", &["locked"], "")?;
    migration.run("execute").await?.expect_code(0)?;
    let ledger = migration.ledger_folder();
    let mode = |folder: &Path, mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    let files = || -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&ledger)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
    };
    let journal = fs::read(ledger.join("journal.jsonl"))?;
    files()?.iter().try_for_each(|file| mode(file, 0o444))?;
    mode(&ledger, 0o555)?;
    for command in ["cutover", "rollback"] {
        let locked = run_by(&as_any_user()?, &migration, command).await?.expect_code(1)?;
        names(&locked, &[&ledger.to_string_lossy(), "ermission denied"])?;
    }
    ensure!(fs::read(ledger.join("journal.jsonl"))? == journal, "the journal has changed");
    mode(&ledger, 0o755)?;
    files()?.iter().try_for_each(|file| mode(file, 0o644))?;
    goes_on(pair, &migration, "locked", 10).await
}

fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(segments(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    Ok(found)
}

async fn segments_that_are_gone(pair: &Pair) -> Result<()> {
    let slowly = "  seed: {max_bytes_per_second_per_broker: 1MiB, segment_max_bytes: 1MiB}\n";
    let migration = pair.migration("tidied", &["tidied"], slowly)?;
    let mut seeding = migration.begin("execute")?;
    seeding.until(migration.until_stored_segments(1)).await?;
    // What is stored from here on cannot be restored.
    pair.target.kill_broker(1)?;
    let stored = segments(&migration.folder.join("segments")).map_or(0, |segments| segments.len());
    seeding.until(migration.until_stored_segments(stored + 1)).await?;
    seeding.kill().await?;
    pair.target.start_broker(1).await?;

    let aside = migration.folder.join("aside");
    fs::create_dir(&aside)?;
    let all = segments(&migration.folder.join("segments"))?;
    let place = |number: usize| aside.join(number.to_string());
    for (number, segment) in all.iter().enumerate() {
        fs::rename(segment, place(number))?;
    }
    let tidied = migration.run("resume").await?.expect_code(1)?;
    names(&tidied, &["segment", "tidied"])?;
    for (number, segment) in all.iter().enumerate() {
        fs::rename(place(number), segment)?;
    }
    goes_on(pair, &migration, "tidied", 0).await
}

#[test]
fn folders_that_are_full_locked_or_tidied_are_named_and_nothing_is_lost() {
    in_lab("folders", async |lab| {
        let pair = pair(lab, Version::V3_9).await?;
        for topic in ["full", "locked", "tidied"] {
            create_topics(&pair.source.client(), &[kept(topic, 2)], 1).await?;
            write(&pair.source.client(), topic, 2, "seed", LARGE, None).await?;
        }
        a_disk_that_takes_no_more(&pair).await?;
        a_folder_that_may_not_be_written_to(&pair).await?;
        segments_that_are_gone(&pair).await
    });
}
