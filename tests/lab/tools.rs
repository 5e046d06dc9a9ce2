//! Kafka's own Java tools, for what librdkafka's binding lacks: SCRAM users, ACLs, dumping a log.
//!
//! A JVM's start costs a second, so this is for set-up and for looking at the end, not for loops.

use std::{
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{
    cluster::{Cluster, Listener, Version},
    repository,
};

/// For processes of a few minutes, many on two cores: what the second compiler and the parallel collector cost they never
/// earn back.
pub(crate) const SHORT_LIVED: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// `java` with the jars of a version, up to the main class.
pub(crate) fn java(version: Version, heap_mb: u32, log_level: &str, class: &str) -> Command {
    java_with(version, &[], heap_mb, log_level, class)
}

/// The same with more folders of classes.
pub(crate) fn java_with(version: Version, more: &[PathBuf], heap_mb: u32, log_level: &str, class: &str) -> Command {
    let jars = version.jars();
    let classes: Vec<_> = iter::once(&jars.join("*")).chain(more).map(|folder| folder.display().to_string()).collect();
    let mut command = Command::new("java");
    command
        .args(SHORT_LIVED)
        // `setup.sh` writes it; where it is not there, or of another Java, classes are loaded as ever.
        .arg(format!("-XX:SharedArchiveFile={}", jars.join("classes.jsa").display()))
        // On its standard output is what a tool says, and not what the JVM has to remark.
        .args(["-Xlog:disable", "-Xlog:all=warning:stderr"])
        .arg(format!("-Xmx{heap_mb}m"))
        .arg(format!("-Dorg.slf4j.simpleLogger.defaultLogLevel={log_level}"))
        .args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"])
        .args(["-Dorg.slf4j.simpleLogger.logFile=System.err", "-Djava.net.preferIPv4Stack=true"])
        .arg("-cp")
        .arg(classes.join(":"))
        .arg(class);
    command
}

/// Compiles a file of the lab against the jars of a version.
pub(crate) fn compile(version: Version, file: &str, folder: &Path) -> Result<()> {
    let output = Command::new("javac")
        .arg("-cp")
        .arg(version.jars().join("*"))
        .arg("-d")
        .arg(folder)
        .arg(repository().join("tests/lab").join(file))
        .output()?;
    ensure!(output.status.success(), "javac {file}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs one of Kafka's tools to its end and answers its standard output.
pub async fn run(version: Version, class: &str, arguments: &[&str]) -> Result<String> {
    let mut command = java(version, 256, "warn", class);
    command.args(arguments);
    let (class, arguments) = (class.to_owned(), arguments.join(" "));
    tokio::task::spawn_blocking(move || {
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{class} {arguments}: {}\n{said}{complained}", output.status);
        Ok(said)
    })
    .await?
}

/// Every batch and record of a log segment or of one of Krossing's segments, as Kafka's dump tool prints them.
pub async fn dump_log(file: &Path) -> Result<String> {
    let file = file.to_string_lossy();
    run(Version::V3_9, "kafka.tools.DumpLogSegments", &["--deep-iteration", "--files", &file]).await
}

impl Cluster {
    /// Runs a tool against this cluster: `--bootstrap-server` is put in front of `arguments`.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let bootstrap = self.bootstrap(Listener::Plaintext);
        run(Version::V3_9, class, &[&["--bootstrap-server", &bootstrap], arguments].concat()).await
    }

    /// Adds or lists ACLs, as `kafka-acls` takes them: `["--add", "--allow-principal", "User:alice", …]`.
    pub async fn acls(&self, arguments: &[&str]) -> Result<String> {
        self.tool("kafka.admin.AclCommand", arguments).await
    }

    /// Sets or describes configs, quotas and users, as `kafka-configs` takes them.
    pub async fn configs(&self, arguments: &[&str]) -> Result<String> {
        self.tool("kafka.admin.ConfigCommand", arguments).await
    }
}
