//! The lab: real clusters as child processes, hard data in them, and a comparison that shares no code with Krossing.
//!
//! Demo, tests and benchmarks all start here. `setup.sh` fetches the jars; [`in_lab`] runs a test with a [`Lab`];
//! [`Lab::zookeeper_cluster`] and [`Lab::kraft_cluster`] start brokers; [`workload`] fills one; [`compare`] reads two.
//!
//! Invariants: no process outlives its lab, also when the test process is killed (see [`process`]); ports and folders
//! are a lab's own, so labs run side by side; nothing waits for a length of time where a condition can be awaited.
//! It speaks to brokers through librdkafka and Kafka's own tools, never through the client under test.

pub mod aws;
pub mod certificates;
pub mod cluster;
pub mod compare;
pub mod freeze;
pub mod process;
pub mod proxy;
pub mod reading;
pub mod rehearsal;
pub mod stack;
pub mod state;
pub mod tools;
pub mod workload;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, ensure};

pub use aws::AwsServers;
pub use certificates::Certificates;
pub use cluster::{Cluster, ClusterSpec, Listener, Security, User, Version};
pub use freeze::{FreezeWebhook, Misbehaviour};
use process::ProcessGroup;
pub use proxy::{Call, Fault, Proxy};
pub use stack::{Stack, StackSpec};

/// The folder of the checkout.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository")
}

/// A folder and a group of processes that go when the lab goes.
#[derive(Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

/// What a lab and its clusters share: the last of them to go cleans up.
pub(crate) struct Inner {
    pub(crate) folder: PathBuf,
    pub(crate) processes: ProcessGroup,
    pub(crate) keep: AtomicBool,
    clusters: AtomicU32,
}

impl Lab {
    /// A lab with an empty folder below `target/lab`. Fails where `setup.sh` has not been run.
    pub fn new(name: &str) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        for version in [Version::V3_9, Version::V4_1] {
            ensure!(version.jars().join("pom.cksum").exists(), "Kafka's jars are missing: run tests/lab/setup.sh");
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let folder = repository().join("target/lab").join(format!("{name}-{}-{number}", std::process::id()));
        // A process with our id may have died and left its folder.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).context("removing a stale lab folder")?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let inner = Inner {
            folder,
            processes: ProcessGroup::start()?,
            keep: AtomicBool::new(false),
            clusters: AtomicU32::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The lab's folder: for config files, journals and whatever else the test writes.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The id of the process group that every process of the lab belongs to.
    pub fn process_group(&self) -> u32 {
        self.inner.processes.id()
    }

    /// Keeps the folder (without the brokers' data), as a panic does.
    pub fn keep_logs(&self) {
        self.inner.keep.store(true, Ordering::Relaxed);
    }

    /// Starts ZooKeeper and Kafka 3.9 brokers that use it, and waits until they answer.
    pub async fn zookeeper_cluster(&self, spec: ClusterSpec) -> Result<Cluster> {
        Cluster::start_zookeeper(self.inner.clone(), self.folder_for_cluster("zookeeper")?, spec).await
    }

    /// Starts KRaft nodes, each broker and controller, and waits until they answer.
    pub async fn kraft_cluster(&self, spec: ClusterSpec) -> Result<Cluster> {
        Cluster::start_kraft(self.inner.clone(), self.folder_for_cluster("kraft")?, spec).await
    }

    fn folder_for_cluster(&self, mode: &str) -> Result<PathBuf> {
        let number = self.inner.clusters.fetch_add(1, Ordering::Relaxed);
        let folder = self.inner.folder.join(format!("{mode}-{number}"));
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.processes.end();
        if self.keep.load(Ordering::Relaxed) || std::thread::panicking() {
            for cluster in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                // Gigabytes, and rarely what one looks at; KROSSING_LAB_KEEP=1 keeps them for Kafka's dump tool.
                if std::env::var_os("KROSSING_LAB_KEEP").is_none() {
                    _ = std::fs::remove_dir_all(cluster.path().join("data"));
                }
            }
            eprintln!("the lab's logs are kept in {}", self.folder.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("could not remove {}: {error}", self.folder.display());
        }
    }
}

/// Runs a test in a lab of its own: the folder goes when `test` succeeds, and stays when it fails or panics.
pub fn in_lab(name: &str, test: impl AsyncFnOnce(&Lab) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the system gives threads");
    let lab = Lab::new(name).expect("a lab");
    let outcome = runtime.block_on(async { test(&lab).await });
    if let Err(error) = outcome {
        panic!("{name}: {error:#}");
    }
}
