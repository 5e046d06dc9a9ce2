//! The cutover: producers stand still, the source is closed with markers, the target is completed and closed, and every
//! group's position is carried over. Then clients may switch.
//!
//! Everything that can be done before producers stand still is done before (`prepare`); from then on one budget runs
//! (`standstill`). The journal entry `awaiting_client_switch` ends it: every failure before that lets producers go on, reads
//! that back, opens the lanes again and returns to `drain_ready`; the next cutover is a new decision. Behind it nothing in
//! here lets producers go on, only the operator's rollback does. Nothing here decides: the rules are in `krossing_core`.

mod close;
mod error;
mod groups;
mod mark;
mod prepare;
mod standstill;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use krossing_core::{
    ErrorClass,
    cutover::CutoverReport,
    journal::{EntryKind, Journal},
    plan::Scope,
    ports::{Clock, Ports, ProducerFreeze},
    transition::State,
};
use krossing_replication::{Crew, LaneContext, LanePlan, open_transactions, reopen_lane};
use krossing_runtime::{ForStep, Migration};
use serde_json::json;

pub use error::CutoverError;

/// Everything a cutover works with.
pub struct Cutover<'a, P: Ports> {
    /// The migration.
    pub migration: &'a Migration<P>,
    /// Its topics.
    pub scope: &'a Scope,
    /// Its lanes.
    pub lanes: &'a [LanePlan],
    /// What lanes work with in this process.
    pub ctx: Arc<LaneContext<P>>,
    /// What is being done, for displays and for the reason of a failure.
    pub step: Step,
    /// When producers are asked to stand still.
    pub freeze: FreezeTime,
}

/// When producers are asked to stand still, and from when their time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeTime {
    /// Once everything is prepared that needs no standstill.
    OncePrepared,
    /// The same, before this time or not at all: the process is ended at some time, whatever it does.
    OncePreparedBy(Instant),
    /// They stand still since then: an operator had them do so before this process began.
    Since(Instant),
}

/// The step a cutover is at.
#[derive(Debug, Clone, Default)]
pub struct Step(Arc<Mutex<&'static str>>);

impl Step {
    /// In words.
    pub fn name(&self) -> &'static str {
        *self.0.lock().expect("no holder panics")
    }

    fn begin(&self, name: &'static str) {
        *self.0.lock().expect("no holder panics") = name;
        tracing::info!(step = name, "cutover");
    }
}

/// Runs a cutover from `drain_ready` to `awaiting_client_switch`, or back to `drain_ready` with the reason.
pub async fn run<P: Ports>(cutover: &Cutover<'_, P>, journal: &mut Journal) -> Result<CutoverReport, CutoverError> {
    let migration = cutover.migration;
    let mut crew = Crew::new(cutover.ctx.clone());
    let mut ready = OnItsWay::Nothing;
    let error = match attempt(cutover, journal, &mut crew, &mut ready).await {
        Ok(report) => {
            let announced = announce_switch(migration, journal).await;
            // READY it is all the same; a resume tells producers again.
            return announced.map(|()| report).map_err(|error| CutoverError::ReadyUnseen { source: Box::new(error) });
        }
        Err(error) => error,
    };
    // An entry may have been stored whose answer was lost, also the first and the last; and one that is still on its way
    // may be stored while this is looked at: then it is looked at again.
    let mut looks = 0;
    loop {
        *journal = migration.journal().await?;
        match journal.tip() {
            Some(State::AwaitingClientSwitch) => return Err(CutoverError::ReadyUnseen { source: Box::new(error) }),
            Some(State::Cutover) => {}
            // It has not begun.
            _ => return Err(error),
        }
        // Before lanes come to rest, which may take as long as brokers take to answer.
        match unfreeze(migration, journal, ready).await {
            Err(late) if late.class() == ErrorClass::Fenced && looks < JOURNAL_LOOKS_MAX => looks += 1,
            released => break released?,
        }
    }
    // Whatever the lanes still say, they are brought to rest before they are opened again.
    if let Err(lane) = crew.stop().await {
        tracing::warn!(error = %error::chain(&lane), "a lane stopped during the failed cutover");
    }
    reopen(cutover).await?;
    let error = name_transactions(migration, error).await;
    let reason = format!("the cutover failed: {}", error::chain(&error));
    migration.enter(journal, State::DrainReady, reason, json!({})).await?;
    Err(error)
}

/// After READY: has producers told that they go on on the target, unless the journal says that they were; a process that
/// dies in between has them told again. That it could not be told changes nothing about READY: it is journaled, for the
/// operator to do by hand. Nothing is told once a rollback lets them go on on the source.
pub async fn announce_switch<P: Ports>(migration: &Migration<P>, journal: &mut Journal) -> Result<(), CutoverError> {
    let asked = journal.last_since(State::AwaitingClientSwitch, EntryKind::SwitchAsked).is_some();
    if asked || journal.is_being_given_up() {
        return Ok(());
    }
    let (confirmed, reason) = match migration.freeze.switch(&migration.config.target.bootstrap_servers).await {
        Ok(answer) if answer.confirmed => (true, format!("producers go on on the target: {}", answer.detail)),
        Ok(answer) => {
            (false, format!("producers are to go on on the target, which nobody confirmed: {}", answer.detail))
        }
        Err(error) => (false, format!("producers could not be told to go on on the target, do it by hand: {error}")),
    };
    Ok(migration.note(journal, EntryKind::SwitchAsked, reason, json!({ "confirmed": confirmed })).await?)
}

/// Says whose transactions held a cutover back. Asked once producers may go on again, which nothing may delay.
async fn name_transactions<P: Ports>(migration: &Migration<P>, mut error: CutoverError) -> CutoverError {
    if let CutoverError::HeldBack { partitions, transactions, .. } = &mut error {
        *transactions = match open_transactions(&migration.source, &migration.clock, partitions).await {
            Ok(open) => open.iter().map(|open| open.sentence(migration.clock.unix_ms())).collect(),
            Err(why) => {
                tracing::warn!(error = %why, "open transactions could not be looked at");
                partitions.iter().map(|partition| format!("{partition} waits for a transaction")).collect()
            }
        };
    }
    error
}

/// Lets producers go on if they may stand still. Needs the journal and nothing that could be missing or damaged.
pub async fn release<P: Ports>(migration: &Migration<P>, journal: &mut Journal) -> Result<(), CutoverError> {
    unfreeze(migration, journal, OnItsWay::Nothing).await
}

/// After a killed cutover: lets producers go on, opens the lanes again, and returns to `drain_ready`.
pub async fn abandon<P: Ports>(cutover: &Cutover<'_, P>, journal: &mut Journal) -> Result<(), CutoverError> {
    let migration = cutover.migration;
    release(migration, journal).await?;
    reopen(cutover).await?;
    if journal.tip() == Some(State::Cutover) {
        migration.enter(journal, State::Failed, "the cutover was interrupted", json!({})).await?;
    }
    let reason = "an interrupted cutover was taken back; a new one is the operator's decision";
    migration.enter(journal, State::DrainReady, reason, json!({})).await?;
    Ok(())
}

/// Opens closed lanes.
async fn reopen<P: Ports>(cutover: &Cutover<'_, P>) -> Result<(), CutoverError> {
    for lane in cutover.lanes {
        reopen_lane(&cutover.migration.ledger, lane.id).await.during("open the lanes again")?;
    }
    Ok(())
}

/// How often the journal is looked at again because an entry came in between: this process had one on its way at most.
const JOURNAL_LOOKS_MAX: usize = 3;

/// What this process has sent to the journal without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnItsWay {
    /// Nothing that matters.
    Nothing,
    /// READY: it may be stored at any time, unless its place is taken.
    Ready,
}

/// Lets producers go on if they were asked to stand still since the cutover began.
///
/// The journal's next place is taken first: READY, of this process or of one that has died, then finds it taken, and can
/// not be stored once producers go on. A journal that cannot be written to (its disk is full) keeps nobody standing still,
/// unless READY is on its way there.
async fn unfreeze<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    on_its_way: OnItsWay,
) -> Result<(), CutoverError> {
    if !journal.producers_may_stand_still() {
        return Ok(());
    }
    match migration.note(journal, EntryKind::UnfreezeAsked, "producers are let go on", json!({})).await {
        Ok(()) => {}
        Err(error) if on_its_way == OnItsWay::Ready || error.class() == ErrorClass::Fenced => return Err(error.into()),
        Err(error) => tracing::warn!(error = %error::chain(&error), "producers are let go on all the same"),
    }
    let answer = migration.freeze.unfreeze().await.map_err(|source| CutoverError::NotReleased { source })?;
    let reason = if answer.confirmed {
        format!("producers may go on: {}", answer.detail)
    } else {
        format!("producers were told that they may go on, which nobody confirmed: {}", answer.detail)
    };
    migration.note(journal, EntryKind::Unfrozen, reason, json!({ "confirmed": answer.confirmed })).await?;
    Ok(())
}

async fn attempt<P: Ports>(
    cutover: &Cutover<'_, P>,
    journal: &mut Journal,
    crew: &mut Crew<P>,
    on_its_way: &mut OnItsWay,
) -> Result<CutoverReport, CutoverError> {
    cutover.migration.enter(journal, State::Cutover, "the operator asked for the cutover", json!({})).await?;
    let clock = &cutover.migration.clock;
    let budget = cutover.migration.config.cutover.max_producer_freeze;
    let at = |time: Instant| clock.sleep(time.saturating_duration_since(clock.now()));
    let out_of_time = || CutoverError::OutOfTime { budget, step: cutover.step.name() };
    let (frozen, prepared, until) = match cutover.freeze {
        FreezeTime::Since(since) => {
            let frozen = standstill::freeze(cutover, journal, Some(since)).await?;
            let until = since + budget;
            tokio::select! {
                biased;
                () = at(until) => return Err(out_of_time()),
                prepared = prepare::prepare(cutover, crew) => (Some(frozen), prepared?, until),
            }
        }
        FreezeTime::OncePreparedBy(by) => tokio::select! {
            biased;
            () = at(by) => return Err(CutoverError::TooLate { step: cutover.step.name() }),
            prepared = prepare::prepare(cutover, crew) => (None, prepared?, clock.now() + budget),
        },
        FreezeTime::OncePrepared => (None, prepare::prepare(cutover, crew).await?, clock.now() + budget),
    };
    let board = crew.board();
    let report = tokio::select! {
        done = standstill::standstill(cutover, journal, crew, prepared, frozen, until) => done?,
        () = at(until) => {
            let partitions = prepare::held_back(&board);
            return Err(if partitions.is_empty() {
                out_of_time()
            } else {
                CutoverError::HeldBack { budget, step: cutover.step.name(), partitions, transactions: Vec::new() }
            });
        }
    };
    // Outside the budget: an entry that is cut off could be stored after producers were told to go on.
    *on_its_way = OnItsWay::Ready;
    standstill::ready(cutover, journal, &report).await?;
    Ok(report)
}
