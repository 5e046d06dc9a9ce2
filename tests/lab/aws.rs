//! Stand-ins for AWS as processes of a lab: DynamoDB Local, and versitygw as S3 with Object Lock.
//!
//! Both listen on the loopback, keep what they store in the lab's folder or in memory, and go when the lab goes. They
//! check who asks where S3 does: [`AwsServers::s3_stranger`] is somebody without rights. DynamoDB Local knows no rights.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Inner, Lab,
    cluster::free_ports,
    process::{POLL, Process},
    repository,
    tools::SHORT_LIVED,
};

/// Longer than a JVM takes on a machine that is busy with something else.
const START_WAIT_MAX: Duration = Duration::from_secs(180);

/// A name and the secret that goes with it.
#[derive(Debug, Clone, Copy)]
pub struct AccessKey {
    /// Its name.
    pub id: &'static str,
    /// Its secret.
    pub secret: &'static str,
}

/// May do everything.
const OWNER: AccessKey = AccessKey { id: "krossing", secret: "krossing-secret" };
/// Is known and may do nothing.
const STRANGER: AccessKey = AccessKey { id: "stranger", secret: "stranger-secret" };

/// The region that both servers say they are in.
pub const REGION: &str = "eu-west-1";

/// Both servers.
pub struct AwsServers {
    dynamodb_port: u16,
    s3_port: u16,
    buckets: PathBuf,
    // Processes end before the lab that watches over them.
    _processes: [Process; 2],
    _lab: Arc<Inner>,
}

impl Lab {
    /// Starts both servers, and waits until they answer. Fails where `setup.sh` has not been run.
    pub async fn aws(&self) -> Result<AwsServers> {
        let (jars, gateway) = (jars(), gateway());
        ensure!(jars.join("pom.cksum").exists(), "DynamoDB Local is missing: run tests/lab/setup.sh");
        ensure!(gateway.exists(), "versitygw is missing: run tests/lab/setup.sh");
        let folder = self.folder_for_cluster("aws")?;
        let ports = free_ports(2)?;
        let (dynamodb_port, s3_port) = (ports[0], ports[1]);

        let dynamodb = self.inner.processes.spawn(dynamodb(&jars, dynamodb_port), &folder.join("dynamodb.log"))?;
        let s3 = self.inner.processes.spawn(s3(&gateway, s3_port, &folder)?, &folder.join("s3.log"))?;
        let (buckets, processes) = (buckets(&folder), [dynamodb, s3]);
        let mut servers =
            AwsServers { dynamodb_port, s3_port, buckets, _processes: processes, _lab: self.inner.clone() };
        for (at, port) in [dynamodb_port, s3_port].into_iter().enumerate() {
            until_answering(port, &mut servers._processes[at]).await?;
        }
        servers.add_stranger(&gateway)?;
        Ok(servers)
    }
}

fn jars() -> PathBuf {
    repository().join(".lab/dynamodb-2.6.1")
}

fn gateway() -> PathBuf {
    repository().join(".lab/versitygw-1.8.0/versitygw")
}

fn dynamodb(jars: &Path, port: u16) -> Command {
    let mut command = Command::new("java");
    // Its native SQLite lies among the jars.
    command.args(SHORT_LIVED).arg("-Xmx512m").arg(format!("-Djava.library.path={}", jars.display()));
    command.arg("-cp").arg(jars.join("*")).arg(repository().join("tests/lab/dynamodb/Loopback.java"));
    command.args(["-port", &port.to_string(), "-inMemory", "-sharedDb", "-disableTelemetry"]);
    command
}

/// The S3 server's buckets, each a folder with a file an object.
fn buckets(folder: &Path) -> PathBuf {
    folder.join("data/buckets")
}

fn s3(gateway: &Path, port: u16, folder: &Path) -> Result<Command> {
    let [versions, users] = ["data/versions", "data/users"].map(|name| folder.join(name));
    let buckets = buckets(folder);
    for folder in [&buckets, &versions, &users] {
        std::fs::create_dir_all(folder)?;
    }
    let mut command = Command::new(gateway);
    command.args(["--port", &format!("127.0.0.1:{port}"), "--region", REGION, "--quiet"]);
    command.args(["--access", OWNER.id, "--secret", OWNER.secret]).arg("--iam-dir").arg(users);
    command.args(["posix", "--versioning-dir"]).arg(versions).arg(buckets);
    Ok(command)
}

pub(crate) async fn until_answering(port: u16, process: &mut Process) -> Result<()> {
    let begun = Instant::now();
    loop {
        if answers(port).await {
            return Ok(());
        }
        if let Some(status) = process.ended()? {
            bail!("a stand-in for AWS ended with {status}:\n{}", process.log_tail());
        }
        ensure!(begun.elapsed() < START_WAIT_MAX, "a stand-in for AWS does not answer:\n{}", process.log_tail());
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a request gets any answer: a port that is open is not enough.
async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut first = [0; 5];
        stream.read_exact(&mut first).await?;
        Ok::<_, std::io::Error>(&first == b"HTTP/")
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

impl AwsServers {
    /// The port that DynamoDB Local listens on.
    pub fn dynamodb_port(&self) -> u16 {
        self.dynamodb_port
    }

    /// The port that S3 listens on.
    pub fn s3_port(&self) -> u16 {
        self.s3_port
    }

    /// A bucket as it is on disk: a file an object, in its newest version.
    pub fn bucket_on_disk(&self, name: &str) -> PathBuf {
        self.buckets.join(name)
    }

    /// Who may do everything.
    pub fn owner(&self) -> AccessKey {
        OWNER
    }

    /// Whom S3 knows and who may do nothing there.
    pub fn s3_stranger(&self) -> AccessKey {
        STRANGER
    }

    fn add_stranger(&self, gateway: &Path) -> Result<()> {
        let url = format!("http://127.0.0.1:{}", self.s3_port);
        let output = Command::new(gateway)
            .args(["admin", "--access", OWNER.id, "--secret", OWNER.secret, "--region", REGION, "--endpoint-url", &url])
            .args(["create-user", "--access", STRANGER.id, "--secret", STRANGER.secret, "--role", "user"])
            .output()
            .context("adding a user to S3")?;
        ensure!(output.status.success(), "adding a user to S3: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
