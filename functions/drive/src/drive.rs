//! A migration that is driven: each command's phases in their order, and the journal between them.
//!
//! Generic over the ports, so that what a command does can be run on fakes that crash at any call. A process that dies
//! anywhere in here is gone on with by the same call: each turn does what the journal's state asks for and journals the
//! next state once it is done. Which command may run in which state is the table in `krossing_core::transition`; nothing
//! here decides it again.
//!
//! Does not: hold the lock that keeps a second command away, hear signals, or connect.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use krossing_client_switch::{ClientSwitch, SwitchError, SwitchReport};
use krossing_core::{
    ErrorClass, TopicName,
    cutover::CutoverReport,
    journal::{EntryKind, Journal},
    plan::{Amendment, LeftOutReason, LeftOutTopic, MigrationPlan, Scope, Selection},
    ports::{Clock, Ports, Signer},
    stragglers::{Choice, StragglerDecision},
    transition::{Command, Decision, Position, ResumePoint, State, resume_point},
};
use krossing_cutover::{Cutover, FreezeTime, Step};
use krossing_finalize::FinalizeReport;
use krossing_replication::{LaneError, LanePlan, Notice};
use krossing_rollback::RollbackReport;
use krossing_runtime::{Migration, MigrationResult};
use krossing_stragglers::{Undecided, Wanted};
use krossing_worker::{Workers, journal_notice, lane_context};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    hand_over, phases,
    voice::{Voice, chain},
};

/// How often a cutover's step is looked at, to show a new one.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A migration, where it stands, and who drives it.
pub struct Drive<P: Ports> {
    /// Its ports and its configuration.
    pub migration: Arc<Migration<P>>,
    /// Its journal.
    pub journal: Journal,
    /// Names this process in leases.
    pub owner: String,
    pub(crate) voice: &'static dyn Voice,
    /// How many entries of the journal have been shown.
    shown: usize,
}

/// The plan with what was added to it.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: MigrationPlan,
    /// What appeared later, in order.
    pub amendments: Vec<Amendment>,
}

impl Planned {
    /// All topics and lanes.
    pub fn scope(&self) -> Scope {
        self.plan.scope(&self.amendments)
    }

    /// Topics that the plan leaves out, and that the selection names by now.
    fn named_since(&self, selection: &Selection) -> Vec<&TopicName> {
        let scope = self.scope();
        let by_selection = |topic: &&LeftOutTopic| {
            matches!(topic.reason, LeftOutReason::Excluded | LeftOutReason::NotIncluded)
                && selection.names(&topic.name)
                && scope.topic(&topic.name).is_none()
        };
        self.plan.topics_left_out.iter().filter(by_selection).map(|topic| &topic.name).collect()
    }

    /// The lanes as workers take them.
    pub fn lanes(&self) -> Vec<LanePlan> {
        krossing_plan::lanes(&self.plan, &self.amendments)
    }
}

impl<P: Ports> Drive<P> {
    /// A migration for `command`, if that is allowed where it stands. An interrupted cutover is taken back first.
    /// `owner` names this process in leases.
    pub async fn open(
        migration: Arc<Migration<P>>,
        owner: String,
        voice: &'static dyn Voice,
        command: Command,
    ) -> anyhow::Result<Self> {
        let journal = migration.journal().await?;
        let shown = journal.position();
        let mut drive = Self { migration, journal, owner, voice, shown };
        let verdict = drive.journal.permit(command);
        if let (Decision::Refused(why), false) = (&verdict.decision, verdict.abandon_cutover_first) {
            bail!("{why}");
        }
        if drive.journal.standing() != Position::Unborn && command != Command::Status {
            krossing_plan::check_identity(&drive.migration, &drive.journal).await?;
        }
        if verdict.abandon_cutover_first {
            voice.advice("the last cutover was interrupted: letting producers go on");
            let abandoned = drive.abandon_cutover().await;
            drive.show_entries();
            abandoned.context("could not take back the interrupted cutover")?;
        }
        match verdict.decision {
            Decision::Allowed => {}
            Decision::Refused(why) => bail!("{why}"),
        }
        if drive.journal.standing() != Position::Unborn && command != Command::Status {
            // Only to be told: what is to let producers go on must not wait for it.
            if let Err(error) = drive.say_what_stays_planned().await {
                tracing::warn!(error = %format!("{error:#}"), "whether topics are left out by now could not be read");
            }
        }
        Ok(drive)
    }

    /// Topics may come to a plan and not go from it: says so where the configuration leaves some out by now.
    async fn say_what_stays_planned(&self) -> anyhow::Result<()> {
        let selection = &self.migration.config.topics;
        let scope = self.planned().await?.scope();
        let left_out: Vec<_> = scope.topics.iter().filter(|topic| !selection.names(&topic.name)).collect();
        if let Some(first) = left_out.first() {
            self.voice.advice(&format!(
                "warning: topics.include and topics.exclude leave out {} topic(s) that are in this migration's plan, {} \
                 among them: they are migrated all the same; without them it takes a new migration under another id",
                left_out.len(),
                first.name
            ));
        }
        Ok(())
    }

    /// Plans and checks; then, and only then, locks, stores the plan and begins the journal.
    pub async fn begin(&mut self, lock: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<Planned> {
        let checked = krossing_precheck::run(&self.migration, None).await?;
        let file = phases::show_findings(&self.migration, self.voice, &checked.findings).await?;
        let plan = checked.plan.context("both clusters were read, so that there is a plan")?;
        // A key that cannot be used is better known now than when everything is done.
        self.migration.signer.key_id().await.context("evidence could not be signed")?;
        lock().await?;
        if self.migration.journal().await?.tip().is_some() {
            bail!("another command has begun this migration meanwhile: go on with `krossing resume`");
        }
        krossing_plan::store(&self.migration, &mut self.journal, &plan).await?;
        self.show_entries();
        self.enter(State::Precheck, "", json!({})).await?;
        phases::enter_topology(self, &checked.findings, file).await?;
        Ok(Planned { plan, amendments: Vec::new() })
    }

    /// Runs the phases until the target has kept up; where it had already, it catches up once more. Answers the lanes,
    /// which go on copying until they are stopped.
    pub async fn caught_up(&mut self, planned: &mut Planned) -> anyhow::Result<Workers<P>> {
        if let Some(workers) = phases::to_drain_ready(self, planned).await? {
            return Ok(workers);
        }
        let again = async {
            let mut workers = phases::lanes_of_all(self, planned).await?;
            phases::tail(self, planned, &mut workers).await?;
            Ok(workers)
        };
        match again.await {
            Ok(workers) => Ok(workers),
            Err(error) => {
                self.fail(&error).await;
                Err(error)
            }
        }
    }

    /// Goes on with the state that failed, where one has.
    pub async fn resume_what_failed(&mut self) -> anyhow::Result<()> {
        match self.journal.standing() {
            Position::FailedIn(state) => self.enter(state, "resumed", json!({})).await,
            Position::Unborn | Position::At(_) | Position::FailedTooOften(_) => Ok(()),
        }
    }

    /// Up to `topology_copy`, from the beginning or from where it stands before that. The caller holds the lock.
    pub async fn to_topology_copy(&mut self) -> anyhow::Result<()> {
        if self.journal.standing() == Position::Unborn {
            return self.begin(async || Ok(())).await.map(drop);
        }
        self.resume_what_failed().await?;
        if self.journal.tip() == Some(State::Planned) {
            self.enter(State::Precheck, "", json!({})).await?;
        }
        if self.journal.tip() == Some(State::Precheck) {
            let planned = self.planned().await?;
            phases::precheck(self, &planned).await?;
        }
        Ok(())
    }

    /// Makes on the target what is missing there of everything that is planned or has appeared: behind `topology_copy`
    /// when it returns. Answers all there is to copy.
    pub async fn topology(&mut self) -> anyhow::Result<Planned> {
        self.resume_what_failed().await?;
        let mut planned = self.planned().await?;
        if self.journal.tip() == Some(State::TopologyCopy) {
            phases::topology(self, &planned).await?;
        }
        phases::take_in_what_appeared(self, &mut planned).await?;
        Ok(planned)
    }

    /// Adds to the plan what has appeared on the source, and makes it on the target.
    pub async fn take_in_what_appeared(&mut self, planned: &mut Planned) -> anyhow::Result<()> {
        phases::take_in_what_appeared(self, planned).await
    }

    /// Goes on from the journal's last entry, as far as no decision of the operator is needed. Answers where that was.
    /// A rollback that has begun after READY is decided: it is ended.
    pub async fn resume(&mut self) -> anyhow::Result<ResumePoint> {
        if self.journal.is_being_given_up() && !self.journal.tip().is_some_and(State::is_terminal) {
            self.rollback(false).await?;
        }
        let point = resume_point(self.journal.states())?;
        match &point {
            ResumePoint::Run { .. } => {
                let mut planned = self.planned().await?;
                if let Some(mut workers) = phases::to_drain_ready(self, &mut planned).await? {
                    workers.stop().await?;
                }
            }
            ResumePoint::Wait { state, .. } => {
                self.announce_switch().await?;
                // Finalize journals itself that it tries again.
                if matches!(self.journal.standing(), Position::FailedIn(failed) if failed != State::Validating) {
                    self.enter(*state, "resumed", json!({})).await?;
                }
            }
            ResumePoint::AbandonCutover => bail!("the interrupted cutover was not taken back"),
            ResumePoint::Finished { .. } => {}
        }
        Ok(point)
    }

    /// Takes in what has appeared, and has whoever runs the lanes let go of them. Then a cutover may begin.
    pub async fn before_cutover(&mut self) -> anyhow::Result<Planned> {
        let mut planned = self.planned().await?;
        // A whole topic is not copied on the way into a cutover because somebody has taken another file.
        let named = planned.named_since(&self.migration.config.topics);
        if let Some(first) = named.first() {
            bail!(
                "topics.include and topics.exclude name {} topic(s) that this migration's plan leaves out, {first} among \
                 them: have them copied first, by `krossing execute`, or give the configuration that it was planned with",
                named.len()
            );
        }
        phases::take_in_what_appeared(self, &mut planned).await?;
        hand_over::ask(&self.migration, &planned.lanes(), &self.owner).await?;
        // Whoever still holds some is dead, and the cutover waits for that to be sure.
        phases::say_who_holds_lanes(self, &planned).await?;
        Ok(planned)
    }

    /// From `drain_ready` to `awaiting_client_switch`, or back with the reason.
    pub async fn cutover(&mut self, planned: &Planned, freeze: FreezeTime) -> anyhow::Result<CutoverReport> {
        let (scope, lanes) = (planned.scope(), planned.lanes());
        let migration = self.migration.clone();
        let (mut cutover, mut notices) = cutover(&migration, &self.owner, &scope, &lanes);
        cutover.freeze = freeze;
        let ended = tokio::select! {
            ended = krossing_cutover::run(&cutover, &mut self.journal) => ended,
            never = show_steps(&migration, self.voice, &cutover.step, &mut self.shown) => match never {},
        };
        while let Ok(notice) = notices.try_recv() {
            if let Err(error) = journal_notice(&migration, &mut self.journal, notice).await {
                // How the cutover ended counts for more; a gap is also in the progress and in the report.
                self.voice.advice(&format!("could not be journaled: {}", chain(&error)));
            }
        }
        self.show_entries();
        ended.map_err(|error| anyhow!(error).context(self.after_cutover()))
    }

    /// Where a cutover that did not reach READY leaves the operator.
    pub fn after_cutover(&self) -> &'static str {
        match self.journal.tip() {
            Some(State::DrainReady) if self.release_unconfirmed() => {
                "producers were told that they may go on and NOBODY CONFIRMED IT: see to it by hand; the migration is at \
                 drain_ready again, and the next cutover is yours to begin"
            }
            Some(State::DrainReady) => {
                "producers may go on and the migration is at drain_ready again; the next cutover is yours to begin"
            }
            Some(State::AwaitingClientSwitch) => "READY: the target is complete and clients are to be switched",
            _ => "the cutover has not ended; `krossing status` shows how it stands",
        }
    }

    /// Whether the last cutover asked producers to stand still, and nobody confirmed that they go on.
    fn release_unconfirmed(&self) -> bool {
        let released = self.journal.last_since(State::Cutover, EntryKind::Unfrozen);
        released.is_some_and(|entry| entry.detail["confirmed"] == false)
    }

    /// Takes back a cutover that was killed.
    pub async fn abandon_cutover(&mut self) -> anyhow::Result<()> {
        let migration = self.migration.clone();
        // Before the plan is read: that it cannot be must keep nobody standing still.
        krossing_cutover::release(&migration, &mut self.journal).await?;
        let planned = self.planned().await?;
        let (scope, lanes) = (planned.scope(), planned.lanes());
        let (cutover, _notices) = cutover(&migration, &self.owner, &scope, &lanes);
        Ok(krossing_cutover::abandon(&cutover, &mut self.journal).await?)
    }

    /// After READY, has producers told that they go on on the target, unless they were: a cutover may have been killed
    /// right behind READY.
    pub async fn announce_switch(&mut self) -> anyhow::Result<()> {
        if self.journal.tip() == Some(State::AwaitingClientSwitch) {
            krossing_cutover::announce_switch(&self.migration, &mut self.journal).await?;
            self.show_entries();
        }
        Ok(())
    }

    /// Keeps groups in step until `stop`; each round is shown.
    pub async fn follow(
        &self,
        stop: impl Future<Output = ()> + Send,
        show: impl FnMut(Result<&SwitchReport, &SwitchError>) + Send,
    ) -> anyhow::Result<()> {
        let lanes = self.planned().await?.lanes();
        Ok(ClientSwitch::load(&self.migration, &lanes).await?.follow(stop, show).await?)
    }

    /// The operator says that all clients have switched. A group that moved on the source since the last round is
    /// brought into step once more.
    pub async fn acknowledge(&mut self) -> anyhow::Result<SwitchReport> {
        let lanes = self.planned().await?.lanes();
        let report = ClientSwitch::load(&self.migration, &lanes).await?.contested_round().await?;
        let reason = format!(
            "clients have switched, says the operator: groups_switched={} groups_not_seen={} positions_moved={}",
            report.switched.len(),
            report.not_switched.len(),
            report.positions_moved
        );
        self.enter(State::Validating, reason, &report).await?;
        Ok(report)
    }

    /// Records behind where the source was closed that nobody has decided about, of these topics, or of all.
    pub async fn stragglers(&self, topics: &BTreeSet<TopicName>) -> anyhow::Result<Vec<Undecided>> {
        let scope = self.planned().await?.scope();
        Ok(krossing_stragglers::find(&self.migration, Wanted { scope: &scope, topics }, &self.journal).await?)
    }

    /// Decides about them, and carries it out.
    pub async fn decide_stragglers(
        &mut self,
        choice: Choice,
        topics: &BTreeSet<TopicName>,
    ) -> anyhow::Result<Option<StragglerDecision>> {
        let scope = self.planned().await?.scope();
        let migration = self.migration.clone();
        let wanted = Wanted { scope: &scope, topics };
        let ended = krossing_stragglers::decide(&migration, wanted, &mut self.journal, choice).await;
        self.show_entries();
        Ok(ended?)
    }

    /// Checks everything, sets the planned topic settings, writes the report.
    pub async fn finalize(&mut self) -> anyhow::Result<FinalizeReport> {
        let planned = self.planned().await?;
        let migration = self.migration.clone();
        let ended = krossing_finalize::run(&migration, &planned.plan, &planned.scope(), &mut self.journal).await;
        self.show_entries();
        match ended {
            Ok(report) => Ok(report),
            Err(error) => {
                let error = anyhow!(error);
                self.fail(&error).await;
                Err(error)
            }
        }
    }

    /// Gives the migration up, once nobody copies any more. `producers_released`: the operator says that producers go on.
    pub async fn rollback(&mut self, producers_released: bool) -> anyhow::Result<RollbackReport> {
        // A cutover had the lanes for itself, and its producers are not to wait for anything; behind READY lanes are closed.
        if !self.journal.standing().cutover_is_open() && self.journal.ready().is_none() {
            let lanes = self.planned().await?.lanes();
            hand_over::ask(&self.migration, &lanes, &self.owner).await?;
        }
        let migration = self.migration.clone();
        let ended = krossing_rollback::run(&migration, &mut self.journal, producers_released).await;
        self.show_entries();
        Ok(ended?)
    }

    /// The stored plan and its amendments.
    pub async fn planned(&self) -> anyhow::Result<Planned> {
        Ok(load_planned(&self.migration, &self.journal).await?)
    }

    /// Reads the journal again, after another may have written it.
    pub async fn reload(&mut self) -> anyhow::Result<()> {
        self.journal = self.migration.journal().await?;
        self.shown = self.shown.min(self.journal.position());
        Ok(())
    }

    /// Journals a change of state, and shows it.
    pub async fn enter(
        &mut self,
        state: State,
        reason: impl Into<String>,
        detail: impl Serialize,
    ) -> anyhow::Result<()> {
        self.migration.enter(&mut self.journal, state, reason, detail).await?;
        self.show_entries();
        Ok(())
    }

    /// Shows what the journal got since the last time, in order and once.
    pub fn show_entries(&mut self) {
        for entry in &self.journal.entries()[self.shown.min(self.journal.position())..] {
            self.voice.entry(entry);
        }
        self.shown = self.journal.position().max(self.shown);
    }

    /// Journals that the present state failed, unless that is what the journal says already, or another process has
    /// taken over: then what failed here says nothing of the migration, and the journal is for the other to write.
    pub async fn fail(&mut self, error: &anyhow::Error) {
        self.show_entries();
        if is_fenced(error) {
            self.voice.advice("another process goes on with this migration; nothing more is written by this one");
            return;
        }
        let standing = self.journal.standing();
        if matches!(standing, Position::At(state) if state.successors().contains(&State::Failed))
            && let Err(unwritten) = self.enter(State::Failed, chain(error.as_ref()), json!({})).await
        {
            self.voice.advice(&format!("the failure could not be journaled: {}", chain(unwritten.as_ref())));
        }
    }
}

/// The stored plan and its amendments, held against the journal.
pub async fn load_planned<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<Planned> {
    let plan = krossing_plan::load(migration, journal).await?;
    let amendments = krossing_plan::load_amendments(migration, journal).await?;
    Ok(Planned { plan, amendments })
}

/// Whether another owner was why it ended.
fn is_fenced(error: &anyhow::Error) -> bool {
    let lane = error.chain().find_map(|cause| cause.downcast_ref::<LaneError>());
    lane.is_some_and(|lane| lane.class() == ErrorClass::Fenced)
}

fn cutover<'a, P: Ports>(
    migration: &'a Migration<P>,
    owner: &str,
    scope: &'a Scope,
    lanes: &'a [LanePlan],
) -> (Cutover<'a, P>, mpsc::UnboundedReceiver<Notice>) {
    let (sender, notices) = mpsc::unbounded_channel();
    let ctx = lane_context(migration, owner, sender);
    (Cutover { migration, scope, lanes, ctx, step: Step::default(), freeze: FreezeTime::OncePrepared }, notices)
}

/// Shows each step as it begins, and what is journaled as it is stored. Never ends.
async fn show_steps<P: Ports>(
    migration: &Migration<P>,
    voice: &'static dyn Voice,
    step: &Step,
    shown: &mut usize,
) -> Infallible {
    if !voice.is_heard() {
        return std::future::pending().await;
    }
    let mut last = "";
    loop {
        // What cannot be read now is shown at the end.
        if let Ok(journal) = migration.journal().await {
            for entry in &journal.entries()[(*shown).min(journal.position())..] {
                voice.entry(entry);
            }
            *shown = journal.position().max(*shown);
        }
        let now = step.name();
        if now != last {
            voice.step(migration.clock.unix_ms(), now);
            last = now;
        }
        migration.clock.sleep(LOOK_EVERY).await;
    }
}
