//! Child processes that cannot outlive their lab.
//!
//! Each lab has one process group. Its leader is a shell that waits for the end of a pipe whose other end only this
//! process holds: when this process ends, however it ends, the pipe closes and the shell kills the whole group. (A
//! parent-death signal would need `unsafe`.) The leader lives as long as the lab, so the group's number cannot come to
//! mean someone else's processes. Terminal interrupts do not reach the group; they reach us, and the pipe does the rest.

use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result};

/// How often a condition of a child process or a broker is looked at while we wait for it.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// The leader of the group, and the pipe whose end it waits for.
pub(crate) struct ProcessGroup {
    leader: Mutex<Child>,
    id: u32,
}

impl ProcessGroup {
    /// Starts the leader of a new group.
    pub(crate) fn start() -> Result<Self> {
        let leader = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 -$$"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the shell that watches over the lab's processes")?;
        Ok(Self { id: leader.id(), leader: Mutex::new(leader) })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Starts a process of the group; its output is appended to `log`.
    pub(crate) fn spawn(&self, mut command: Command, log: &Path) -> Result<Process> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(i32::try_from(self.id).expect("process ids are below 2^31"))
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// Closes the pipe and waits until the leader has killed the group.
    pub(crate) fn end(&self) {
        let mut leader = self.leader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(leader.stdin.take());
        _ = leader.wait();
    }
}

/// One child process. Killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; none while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            match self.ended()? {
                Some(status) => return Ok(status),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Ends it at once (SIGKILL): what it had not written is lost.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM). The child is not reaped yet, so its number is still its own.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            Command::new("sh").args(["-c", &format!("kill -TERM {}", self.id())]).status()?;
        }
        Ok(())
    }

    /// The last lines of its log, for an error.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
