//! Producers' standstill by a person at a terminal.
//!
//! Invariants: without a terminal nothing is asked and nothing is assumed. Freezing waits for an answer until the
//! deadline, never longer. Letting producers go waits for nobody: it happens in runs that fail, which must not hang.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    sync::Mutex,
    time::Duration,
};

use krossing_core::{
    MigrationId,
    ports::{Clock, FreezeAnswer, FreezeError, ProducerFreeze},
};
use rustix::termios::{QueueSelector, tcflush};

use crate::clock::SystemClock;

/// Asks whoever started the command.
pub struct TerminalFreeze {
    migration: MigrationId,
    /// What was answered by somebody who did not have producers stand still.
    given_up: Mutex<Option<FreezeAnswer>>,
}

impl TerminalFreeze {
    /// For this migration.
    pub fn new(migration: MigrationId) -> Self {
        Self { migration, given_up: Mutex::default() }
    }
}

impl ProducerFreeze for TerminalFreeze {
    /// The terminal of the cutover is another one than that of whoever asks now.
    async fn reach(&self) -> Result<(), FreezeError> {
        Ok(())
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        let attempt = "asking on the terminal whether producers stand still";
        let error = |detail: String| FreezeError { attempt: attempt.to_owned(), detail };
        if !io::stdin().is_terminal() {
            return Err(error(
                "standard input is no terminal: configure cutover.producer_freeze_webhook, or run on a terminal".into(),
            ));
        }
        let left_ms = expires_at_unix_ms.saturating_sub(SystemClock.unix_ms()).max(0);
        let left = Duration::from_millis(left_ms.unsigned_abs());
        let question = question(&self.migration, left);
        let (say, answer) = tokio::sync::oneshot::channel();
        // A thread of its own, not the runtime's: a read of standard input cannot be given up, and the process must
        // be able to end while it waits.
        std::thread::spawn(move || {
            let asked =
                forget_what_was_typed().and_then(|()| confirm(&question, &mut io::stdin().lock(), &mut io::stderr()));
            _ = say.send(asked);
        });
        match tokio::time::timeout(left, answer).await {
            Ok(Ok(Ok(answer))) => {
                let given_up = (!answer.confirmed).then(|| answer.clone());
                *self.given_up.lock().expect("no holder panics") = given_up;
                Ok(answer)
            }
            Ok(Ok(Err(cause))) => Err(error(cause.to_string())),
            Ok(Err(_)) => Err(error("the asking thread ended without an answer".into())),
            Err(_) => Err(error(format!("nobody answered within {} s", left.as_secs()))),
        }
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        let servers = bootstrap_servers.join(",");
        let told = writeln!(
            io::stderr(),
            "{}: READY: point consumers, then producers, to the target: {servers}",
            self.migration
        );
        told.map_err(|cause| FreezeError {
            attempt: "telling on the terminal where producers go on".to_owned(),
            detail: cause.to_string(),
        })?;
        Ok(FreezeAnswer { confirmed: false, detail: "told on the terminal".to_owned() })
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        // Whoever was asked a moment ago and gave up has said that they go on.
        if let Some(answer) = self.given_up.lock().expect("no holder panics").take() {
            return Ok(FreezeAnswer { confirmed: true, detail: format!("they never stood still: {}", answer.detail) });
        }
        let told = writeln!(io::stderr(), "{}: producers may go on writing to the source.", self.migration);
        told.map_err(|cause| FreezeError {
            attempt: "telling on the terminal that producers may go on".to_owned(),
            detail: cause.to_string(),
        })?;
        Ok(FreezeAnswer { confirmed: false, detail: "told on the terminal".to_owned() })
    }
}

/// Forgets what was typed on the terminal before now: it is no answer to what is asked next.
pub fn forget_what_was_typed() -> io::Result<()> {
    Ok(tcflush(io::stdin(), QueueSelector::IFlush)?)
}

fn question(migration: &MigrationId, left: Duration) -> String {
    format!(
        "{migration}: stop every producer of the source now (flushed and closed; what consumes, processes and produces \
         is a producer too).\nWithin {} s, type frozen and Enter when they stand still, anything else to give up.\n",
        left.as_secs()
    )
}

fn confirm(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<FreezeAnswer> {
    write!(output, "{question}")?;
    output.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let said = line.trim();
    Ok(FreezeAnswer { confirmed: said == "frozen", detail: format!("{said:?} was typed on the terminal") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, confirmed: bool) {
        let mut shown = Vec::new();
        let answer = confirm("ready? ", &mut typed.as_bytes(), &mut shown).expect("memory can be read and written");
        assert_eq!(answer.confirmed, confirmed, "{typed:?}");
        assert_eq!(shown, b"ready? ");
    }

    #[test]
    fn only_the_word_itself_confirms() {
        check("frozen\n", true);
        check("  frozen \r\n", true);
        check("Frozen\n", false);
        check("no\n", false);
        check("\n", false);
        check("", false);
    }

    #[tokio::test]
    async fn without_a_terminal_it_says_what_to_configure() {
        // `cargo test` in a terminal has one, and nobody to answer.
        if io::stdin().is_terminal() {
            return;
        }
        let terminal = TerminalFreeze::new("orders".parse().expect("a valid id"));
        let error = terminal.freeze(i64::MAX).await.expect_err("there is no terminal");
        assert!(error.detail.contains("cutover.producer_freeze_webhook"), "{error}");
    }

    #[tokio::test]
    async fn letting_go_waits_for_nobody_and_claims_nothing() {
        let terminal = TerminalFreeze::new("orders".parse().expect("a valid id"));
        let answer = terminal.unfreeze().await.expect("standard error can be written");
        assert!(!answer.confirmed);
        assert_eq!(answer.detail, "told on the terminal");
    }
}
