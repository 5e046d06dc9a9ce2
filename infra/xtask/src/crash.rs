//! Plays `tests/crash` as asked: the arguments become the variables that its tests read.

use clap::{Args, value_parser};

use crate::stage::cargo;

/// What is to be played; without arguments the whole sweep: every call, each kind of fault.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Plays one seed, and prints what was done, the journal and what was wrong
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "call"])]
    seed: Option<u64>,
    /// Plays so many seeds from a random one on
    #[arg(long, value_name = "M", conflicts_with = "call")]
    seeds: Option<u64>,
    /// Plays the run of the sweep in which this call fails, and prints it as --seed does
    #[arg(long, value_name = "NUMBER", requires = "fault")]
    call: Option<u64>,
    /// How it fails: 0 crash before the call, 1 crash after it, 2 no answer and no effect, 3 no answer and an effect,
    /// 4 a produce that was not sent, 5 and 6 a produce that happens later
    #[arg(long, value_name = "KIND", requires = "call", value_parser = value_parser!(u64).range(0..7))]
    fault: Option<u64>,
}

pub(crate) fn crash(arguments: &Arguments) -> anyhow::Result<()> {
    let (test, settings) = played(arguments);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    cargo(&["test", "--workspace", "--test", "crash", "--", "--nocapture", test], &settings)
}

/// The test, and the variables that tell it what to play.
fn played(arguments: &Arguments) -> (&'static str, Vec<(&'static str, String)>) {
    const SWEEP: &str = "a_crash_or_failure_at_any_call";
    const RANDOM: &str = "faults_and_logs_that_move_at_random";
    match *arguments {
        Arguments { seed: Some(seed), .. } => (RANDOM, vec![("KROSSING_CRASH_SEED", seed.to_string())]),
        Arguments { seeds: Some(seeds), .. } => (RANDOM, vec![("KROSSING_CRASH_SEEDS", seeds.to_string())]),
        Arguments { call: Some(call), fault: Some(fault), .. } => {
            (SWEEP, vec![("KROSSING_CRASH_CALL", call.to_string()), ("KROSSING_CRASH_FAULT", fault.to_string())])
        }
        Arguments { .. } => (SWEEP, vec![("KROSSING_LONG", "1".to_owned())]),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn each_run_can_be_asked_for_and_no_two_at_once() {
        let asked = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| played(&line.arguments));
        assert_eq!(asked("crash").expect("the sweep").1, [("KROSSING_LONG", "1".to_owned())]);
        assert_eq!(asked("crash --seed 7").expect("one").1, [("KROSSING_CRASH_SEED", "7".to_owned())]);
        assert_eq!(asked("crash --call 9 --fault 6").expect("one call").1.len(), 2);
        for refused in ["crash --call 9", "crash --fault 1", "crash --call 9 --fault 7", "crash --seed 1 --seeds 2"] {
            assert!(asked(refused).is_err(), "{refused}");
        }
    }
}
