//! A whole migration whose processes die and fail at any call, on fakes: the seed, the tail, `drain_ready`, the cutover,
//! the clients' switch, the acknowledgement, validation and the end.
//!
//! Every call of a port has a number. A run without faults says how many there are; then one run for each number and
//! kind of [`Fault`]: the operator goes on with the command that the journal asks for, as the command line would, and
//! what comes out is compared with the reference model and looked at from outside (`checks`). Other runs draw the
//! world, the faults of one process after another, and what happens to logs in between, from a seed. Nothing waits: the
//! clock is turned by hand.
//!
//! In `make test` a part of the calls and a few seeds; `KROSSING_LONG=1` is the whole sweep. `cargo xtask crash` plays
//! many seeds, or one again; a failing run prints the line that plays it again.

mod checks;
mod commands;
mod operator;
mod world;

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use krossing_core::cutover::MarkerKind;
use krossing_testkit::{Call, Fault};
use operator::{Plan, Run, migrate};
use world::Spec;

/// In the quick form one call in so many, for each kind of fault another.
const EVERY: usize = 6;

/// Seeds of the quick form.
const SEEDS: u64 = 400;

/// One run.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// Nothing goes wrong.
    Undisturbed,
    /// One call fails in one way.
    Once { number: u64, fault: Fault },
    /// Drawn.
    Seed(u64),
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Undisturbed => write!(f, "without faults"),
            Case::Once { number, fault } => {
                let kind = Fault::ALL.iter().position(|kind| kind == fault).unwrap_or_default();
                write!(f, "cargo xtask crash --call {number} --fault {kind}")
            }
            Case::Seed(seed) => write!(f, "cargo xtask crash --seed {seed}"),
        }
    }
}

impl Case {
    fn run(self) -> Run {
        let (spec, plan) = match self {
            Case::Undisturbed => (Spec::fixed(), Plan::Once(Box::new(|_| None))),
            Case::Once { number, fault } => {
                (Spec::fixed(), Plan::Once(Box::new(move |call| (call.number == number).then_some(fault))))
            }
            Case::Seed(seed) => (Spec::random(seed), Plan::BySeed { seed, commands: (seed % 9) as usize }),
        };
        played(spec, plan)
    }
}

fn played(spec: Spec, plan: Plan) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be built"), migrate(spec, plan))
}

/// Runs all cases on all processors; those that are wrong are told, and how to play them again.
fn play(cases: &[Case]) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = case.run();
                    if cases.len() == 1 {
                        eprintln!("{}", run.text());
                    }
                    if let Err(sentence) = &run.verdict {
                        wrong
                            .lock()
                            .expect("nobody panics with it")
                            .push((*case, format!("{sentence}\n{}", run.text())));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics with it");
    for (case, text) in wrong.iter().take(3) {
        eprintln!("\n{case}\n{text}");
    }
    let lines: Vec<_> =
        wrong.iter().map(|(case, text)| format!("{case}   # {}", text.lines().next().unwrap_or(""))).collect();
    assert!(wrong.is_empty(), "{} of {} runs are wrong:\n{}", wrong.len(), cases.len(), lines.join("\n"));
    eprintln!("{} runs", cases.len());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
}

/// The calls of a run in which nothing goes wrong.
fn calls() -> usize {
    let run = Case::Undisturbed.run();
    assert_eq!(run.verdict, Ok(()), "{}", run.text());
    run.calls.len()
}

/// A run in which the first call that `is_it` fails in one way.
fn played_with(is_it: impl Fn(&Call) -> bool + Send + 'static, fault: Fault) -> Run {
    let mut left = Some(fault);
    let plan = Plan::Once(Box::new(move |call| if is_it(call) { left.take() } else { None }));
    played(Spec::fixed(), plan)
}

#[test]
fn a_cutover_whose_first_entry_has_no_answer_is_taken_back_at_once() {
    let entry = |call: &Call| call.name == "ledger.append_journal" && call.subject.contains("\"to\":\"cutover\"");
    let run = played_with(entry, Fault::FailAfter);
    assert_eq!(run.verdict, Ok(()), "{}", run.text());
    assert_eq!(run.told.iter().filter(|told| told.starts_with("cutover ")).count(), 2, "{}", run.text());
}

#[test]
fn a_lost_answer_while_the_source_is_closed_is_recovered_from_whatever_closes_it() {
    for marker in [MarkerKind::Control, MarkerKind::Record, MarkerKind::None] {
        let spec = || Spec { marker, ..Spec::fixed() };
        let quiet = played(spec(), Plan::Once(Box::new(|_| None)));
        assert_eq!(quiet.verdict, Ok(()), "{marker:?}\n{}", quiet.text());
        let closing =
            |call: &Call| ["source.produce", "source.mark", "freeze.freeze", "freeze.switch"].contains(&&*call.name);
        let wanted: Vec<u64> = quiet.calls.iter().filter(|call| closing(call)).map(|call| call.number).collect();
        assert!(wanted.len() >= 2, "{marker:?}: {wanted:?}");
        for (number, fault) in wanted.into_iter().flat_map(|number| Fault::ALL.map(|fault| (number, fault))) {
            let plan = Plan::Once(Box::new(move |call| (call.number == number).then_some(fault)));
            let run = played(spec(), plan);
            assert_eq!(run.verdict, Ok(()), "{marker:?}, call {number}, {fault:?}\n{}", run.text());
        }
    }
}

#[test]
fn a_crash_or_failure_at_any_call_is_recovered_from() {
    if let (Some(number), Some(kind)) = (setting("KROSSING_CRASH_CALL"), setting("KROSSING_CRASH_FAULT")) {
        return play(&[Case::Once { number, fault: Fault::ALL[kind as usize] }]);
    }
    let calls = calls();
    let every = if setting("KROSSING_LONG").is_some() { 1 } else { EVERY };
    let of = |(kind, fault): (usize, Fault)| {
        (kind % every..calls).step_by(every).map(move |number| Case::Once { number: number as u64, fault })
    };
    let cases: Vec<_> = Fault::ALL.into_iter().enumerate().flat_map(of).collect();
    eprintln!("{calls} calls");
    play(&cases);
}

#[test]
fn faults_and_logs_that_move_at_random_are_recovered_from() {
    let cases: Vec<_> = match (setting("KROSSING_CRASH_SEED"), setting("KROSSING_CRASH_SEEDS")) {
        (Some(seed), _) => vec![Case::Seed(seed)],
        (None, Some(many)) => {
            let first = u64::from(rand::random::<u32>());
            (first..first + many).map(Case::Seed).collect()
        }
        (None, None) => (0..SEEDS).map(Case::Seed).collect(),
    };
    play(&cases);
}
