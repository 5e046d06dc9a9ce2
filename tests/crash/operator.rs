//! The operator: gives the command that the journal asks for, again after whatever went wrong, until the end.
//!
//! Each command is a process. Its ports fail as its [`Faults`] say; one that crashes makes no call any more, and the
//! next command is another process.

use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};

use anyhow::Result;
use krossing_core::{
    ports::Clock,
    stragglers::Choice,
    transition::{Command, Decision, NoResumePoint, Position, ResumePoint, State, permit, resume_point},
};
use krossing_drive::{Drive, SILENT};
use krossing_testkit::{Call, Fault, Faults};
use rand::RngExt;
use tokio::task::{JoinHandle, spawn_local};

use crate::{
    checks::Watch,
    world::{Scene, Spec, random},
};

/// A command that takes longer hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(2 * 3600);

/// Commands until the end. More mean that a healthy process does not get there.
const COMMANDS_MAX: usize = 40;

/// What becomes of the calls of a process.
pub(crate) type Decide = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// What is to go wrong.
pub(crate) enum Plan {
    /// One fault; whatever comes after it must be in order.
    Once(Decide),
    /// In so many commands, one after another, faults drawn with the seed.
    BySeed { seed: u64, commands: usize },
}

/// How a run went.
pub(crate) struct Run {
    /// One sentence for each thing that was done.
    pub(crate) told: Vec<String>,
    /// The journal's entries.
    pub(crate) journal: Vec<String>,
    /// All calls, of one process after another.
    pub(crate) calls: Vec<Call>,
    /// What was wrong.
    pub(crate) verdict: Result<(), String>,
}

impl Run {
    /// Everything that can be told of it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for line in self.told.iter().chain(&self.journal) {
            writeln!(text, "    {line}").expect("a text takes any line");
        }
        text
    }
}

/// A whole migration.
pub(crate) async fn migrate(spec: Spec, plan: Plan) -> Run {
    let scene = Scene::new(spec);
    let watch = Watch::new(&scene);
    let mut operator =
        Operator { scene: &scene, watch: &watch, told: Vec::new(), calls: Vec::new(), asleep: Vec::new() };
    let verdict = tokio::select! {
        verdict = operator.operate(plan) => verdict,
        never = scene.applications() => match never {},
    };
    operator.asleep.iter().for_each(|(_, process)| process.abort());
    let entry = |entry: &krossing_core::journal::JournalEntry| {
        format!("{:>3} {} {:?} {}", entry.sequence, entry.to, entry.kind, entry.reason)
    };
    let journal = watch.journal().entries().iter().map(entry).collect();
    Run { told: operator.told, journal, calls: operator.calls, verdict }
}

struct Operator<'a> {
    scene: &'a Scene,
    watch: &'a Watch,
    told: Vec<String>,
    calls: Vec<Call>,
    /// Processes that stood still while the operator went on without them, and wake up.
    asleep: Vec<(Faults, JoinHandle<Result<()>>)>,
}

/// How a command ended.
enum Ended {
    Done,
    Failed(String),
    Crashed,
    /// Another has to go on; this one will wake up.
    Stopped,
}

impl Operator<'_> {
    async fn operate(&mut self, plan: Plan) -> Result<(), String> {
        let (once, mut left, seed) = match plan {
            Plan::Once(decide) => (Some(decide), 0, 0),
            Plan::BySeed { seed, commands } => (None, commands, seed),
        };
        let single = once.is_some();
        let mut disturbed = once.map(|decide| self.faults(decide));
        let mut fates = random(seed, 1);
        for number in 0..COMMANDS_MAX {
            let Some(command) = self.next(&mut fates)? else {
                for (faults, mut process) in self.asleep.drain(..) {
                    // What it says once it has woken up is of no interest, only what it does.
                    tokio::select! {
                        ended = tokio::time::timeout(ENDS_WITHIN, &mut process) => {
                            ended.map_err(|_| "a process that was woken up does not end")?.ok();
                        }
                        () = faults.crashed() => process.abort(),
                    }
                }
                let end = self.watch.in_the_end().await;
                return self.verdict(end);
            };
            if left > 0 {
                left -= 1;
                let every = fates.random_range(20..400);
                let stops = seed.is_multiple_of(3) && self.asleep.is_empty() && self.copies();
                let stop_at = stops.then(|| fates.random_range(0..300));
                disturbed = Some(self.faults(decide_by_seed(seed * 64 + number as u64, every, stop_at)));
            }
            let process = disturbed.clone().unwrap_or_else(|| self.faults(Box::new(|_| None)));
            let before = process.calls().len();
            let ended = self.command(command, &process, number).await;
            let made = process.calls().len() - before;
            let how = match &ended {
                Ended::Done => "done".to_owned(),
                Ended::Failed(error) => format!("failed: {error}"),
                Ended::Crashed => "crashed".to_owned(),
                Ended::Stopped => "stands still".to_owned(),
            };
            self.told.push(format!("{command} ({made} calls): {how}"));
            self.calls.extend_from_slice(&process.calls()[before..]);
            let healthy = disturbed.is_none();
            match ended {
                Ended::Done => {}
                Ended::Failed(error) if self.may_be_refused(&error) => return self.verdict(Ok(())),
                Ended::Failed(_) if healthy && !self.may_fail_again(command) && self.asleep.is_empty() => {
                    return self.verdict(Err(format!("{command} of a healthy process failed")));
                }
                Ended::Failed(_) if single => {
                    self.a_failed_cutover_is_taken_back(command)?;
                    // It had its fault.
                    disturbed = None;
                }
                Ended::Failed(_) => {}
                Ended::Crashed => {
                    disturbed = None;
                    let happened = self.scene.nobody_migrates(&mut fates).await;
                    self.told.extend(happened);
                }
                Ended::Stopped => disturbed = None,
            }
            if left == 0 && !single {
                disturbed = None;
            }
            self.verdict(Ok(()))?;
        }
        self.verdict(Err(format!("{COMMANDS_MAX} commands were not enough")))
    }

    /// What was wrong at any moment comes first: the rest may follow from it.
    fn verdict(&self, end: Result<(), String>) -> Result<(), String> {
        let wrong = self.watch.wrong();
        if wrong.is_empty() { end } else { Err(wrong.join("\n")) }
    }

    fn faults(&self, mut decide: Decide) -> Faults {
        let (watch, mut stood_still) = (self.watch.clone(), false);
        Faults::deciding(move |call| {
            // A lease is looked at once more where the bytes go out, and a coordinator refuses an older epoch, both behind
            // this: what one that stood still has achieved is looked for in the logs.
            let judged_there = ["target.produce", "target.mark", "target.open_producer"].contains(&&*call.name);
            if !(stood_still && judged_there) {
                watch.before(call);
            }
            let fault = decide(call);
            stood_still |= matches!(fault, Some(Fault::Stop));
            fault
        })
    }

    /// The command that goes on from here; none at the end.
    fn next(&self, fates: &mut rand_chacha::ChaCha8Rng) -> Result<Option<Command>, String> {
        let journal = self.watch.journal();
        let execute = permit(Command::Execute, journal.standing()).decision == Decision::Allowed;
        Ok(Some(match resume_point(journal.states()) {
            Err(NoResumePoint::Unborn) => Command::Execute,
            Err(error @ NoResumePoint::FailedTooOften { .. }) => return Err(error.to_string()),
            Ok(ResumePoint::Run { .. }) if execute && fates.random_bool(0.3) => Command::Execute,
            Ok(ResumePoint::Run { .. }) => Command::Resume,
            Ok(ResumePoint::AbandonCutover) => Command::Resume,
            // Finalize tries again by itself.
            Ok(ResumePoint::Wait { next, .. }) if journal.tip() == Some(State::Failed) && next != Command::Finalize => {
                Command::Resume
            }
            Ok(ResumePoint::Wait { next: Command::CutoverAck, .. }) if !self.scene.switched() => Command::ClientSwitch,
            Ok(ResumePoint::Wait { next, .. }) => next,
            Ok(ResumePoint::Finished { .. }) => return Ok(None),
        }))
    }

    async fn command(&mut self, command: Command, faults: &Faults, number: usize) -> Ended {
        self.asleep.retain(|(faults, process)| !process.is_finished() && !faults.is_dead());
        let mut process = spawn_local(process(self.scene.clone(), command, faults.clone(), number));
        tokio::select! {
            ended = tokio::time::timeout(ENDS_WITHIN, &mut process) => match ended {
                Ok(Ok(Ok(()))) => Ended::Done,
                Ok(Ok(Err(error))) => Ended::Failed(format!("{error:#}")),
                Ok(Err(panicked)) => Ended::Failed(panicked.to_string()),
                Err(_) => {
                    process.abort();
                    Ended::Failed("it does not end".to_owned())
                }
            },
            () = faults.crashed() => {
                process.abort();
                process.await.expect_err("it waits for an answer that never comes");
                Ended::Crashed
            }
            () = faults.stopped() => {
                self.asleep.push((faults.clone(), process));
                let (faults, seconds) = (faults.clone(), 1 + number as u64 * 7 % 60);
                spawn_local(async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    faults.wake();
                });
                Ended::Stopped
            }
        }
    }

    /// One fault in a cutover: it lets producers go on and is back at `drain_ready` before it says so, unless it was READY.
    fn a_failed_cutover_is_taken_back(&self, command: Command) -> Result<(), String> {
        let tip = self.watch.journal().tip();
        let frozen = self.scene.world.freeze.is_frozen();
        match tip {
            _ if command != Command::Cutover => Ok(()),
            Some(State::AwaitingClientSwitch) => Ok(()),
            Some(State::DrainReady) if !frozen => Ok(()),
            _ => Err(format!("the failed cutover left {tip:?}, frozen: {frozen}")),
        }
    }

    /// A topic that appears just before a cutover is refused by it, and taken in by the next.
    fn may_fail_again(&self, command: Command) -> bool {
        command == Command::Cutover && self.scene.spec.appears_in.is_some()
    }

    /// Whether a second process may begin while one stands still. The command line's lock keeps it away, workers on other
    /// machines know no lock; from the cutover on there is one process.
    fn copies(&self) -> bool {
        matches!(self.watch.journal().tip(), Some(State::Seed | State::Tail))
    }

    /// What a log that moved may rightly be refused for.
    fn may_be_refused(&self, error: &str) -> bool {
        self.scene.spec.logs_move && error.contains("B42") && self.watch.keys_differ()
    }
}

fn decide_by_seed(seed: u64, every: u32, stop_at: Option<u64>) -> Decide {
    let mut random = random(seed, 2);
    let (mut stop_at, mut runs_lanes) = (stop_at, false);
    Box::new(move |call| {
        // What only the driver does is under the lock, which one that stands still keeps.
        runs_lanes |= call.name == "ledger.put_document" && call.subject.starts_with("leases/");
        if runs_lanes && stop_at.is_some_and(|at| call.number >= at) {
            stop_at = None;
            return Some(Fault::Stop);
        }
        random.random_ratio(1, every).then(|| Fault::ALL[random.random_range(0..Fault::ALL.len())])
    })
}

/// What `doing` answers, while applications go on.
pub(crate) async fn in_time<T>(scene: &Scene, doing: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        ended = tokio::time::timeout(ENDS_WITHIN, doing) => ended?,
        never = scene.applications() => match never {},
    }
}

/// What the command line does for each command.
pub(crate) async fn process(scene: Scene, command: Command, faults: Faults, number: usize) -> Result<()> {
    let migration = Arc::new(scene.migration(&faults));
    let permitted = if command == Command::ClientSwitch { Command::Status } else { command };
    let mut drive = Drive::open(migration, format!("process {number}"), SILENT, permitted).await?;
    match command {
        Command::Execute => {
            let mut planned = match drive.journal.standing() {
                Position::Unborn => drive.begin(async || Ok(())).await?,
                _ => drive.planned().await?,
            };
            drive.caught_up(&mut planned).await?.stop().await?;
        }
        Command::Resume => {
            drive.resume().await?;
        }
        Command::Cutover => {
            let planned = drive.before_cutover().await?;
            drive.cutover(&planned, krossing_drive::FreezeTime::OncePrepared).await?;
        }
        Command::ClientSwitch => {
            if let Decision::Refused(why) = permit(command, drive.journal.standing()).decision {
                anyhow::bail!("{why}");
            }
            let stop = async {
                while !scene.switched() && scene.tip() == Some(State::AwaitingClientSwitch) {
                    scene.world.clock.sleep(Duration::from_millis(100)).await;
                }
            };
            drive.follow(stop, |_| {}).await?;
        }
        Command::CutoverAck => {
            drive.acknowledge().await?;
        }
        Command::Finalize => {
            drive.finalize().await?;
        }
        Command::Stragglers => {
            drive.decide_stragglers(Choice::Append, &BTreeSet::new()).await?;
        }
        Command::Rollback => {
            drive.rollback(false).await?;
        }
        Command::Status => unreachable!("the operator does not ask for {command}"),
    }
    Ok(())
}
