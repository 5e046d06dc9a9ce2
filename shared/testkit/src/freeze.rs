//! Producers' standstill, as the operator's side would play it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use krossing_core::ports::{FreezeAnswer, FreezeError, ProducerFreeze};

/// What was asked of the operator's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeCall {
    /// Producers were to stand still until then.
    Freeze {
        /// In milliseconds since 1970.
        expires_at_unix_ms: i64,
    },
    /// Producers were to go on on the target.
    Switch,
    /// Producers were to go on.
    Unfreeze,
}

#[derive(Debug, Default)]
struct Content {
    frozen: bool,
    calls: Vec<FreezeCall>,
    answers: VecDeque<Result<FreezeAnswer, FreezeError>>,
}

/// A webhook or a person; confirms everything unless told otherwise.
#[derive(Debug, Clone, Default)]
pub struct FakeFreeze {
    content: Arc<Mutex<Content>>,
}

impl FakeFreeze {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test goes on after a panic within a fake")
    }

    /// The next call is answered with this; where it is not a confirmation, producers stay as they were.
    pub fn answer_next(&self, answer: Result<FreezeAnswer, FreezeError>) {
        self.content().answers.push_back(answer);
    }

    /// Whether producers stand still.
    pub fn is_frozen(&self) -> bool {
        self.content().frozen
    }

    /// Everything that was asked, in order.
    pub fn calls(&self) -> Vec<FreezeCall> {
        self.content().calls.clone()
    }

    fn ask(&self, call: FreezeCall) -> Result<FreezeAnswer, FreezeError> {
        let mut content = self.content();
        content.calls.push(call);
        let confirmed = || Ok(FreezeAnswer { confirmed: true, detail: "confirmed by the fake".to_owned() });
        let answer = content.answers.pop_front().unwrap_or_else(confirmed);
        if answer.as_ref().is_ok_and(|answer| answer.confirmed) {
            // Who has switched stands still on the source for good.
            content.frozen = matches!(call, FreezeCall::Freeze { .. } | FreezeCall::Switch);
        }
        answer
    }
}

impl ProducerFreeze for FakeFreeze {
    async fn reach(&self) -> Result<(), FreezeError> {
        Ok(())
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        self.ask(FreezeCall::Freeze { expires_at_unix_ms })
    }

    async fn switch(&self, _bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        self.ask(FreezeCall::Switch)
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        self.ask(FreezeCall::Unfreeze)
    }
}
