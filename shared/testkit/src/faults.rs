//! Which calls of a process fail, and how: by script or by seed, each call numbered.
//!
//! A [`Faults`] stands for one process. Its ports are wrapped ([`Faulty`](crate::Faulty)); every call takes the next
//! number and is decided upon before it happens. A crash is a call that never returns: from then on no call of the
//! process has an effect or returns. The test waits for [`Faults::crashed`] beside the process's future, drops that, and
//! starts another process on the same fakes with faults of its own. Run once without faults: [`Faults::calls`] then says
//! which numbers there are to crash at.

use std::{
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No usable answer, and nothing happened. A produce has an unknown outcome.
    FailBefore,
    /// It happened, and the answer was lost. A produce has an unknown outcome.
    FailAfter,
    /// A produce whose outcome is unknown, and which happens later; any other call: as [`Fault::FailBefore`].
    HappensLater(Duration),
    /// A produce that was surely not sent; any other call: as [`Fault::FailBefore`].
    NotSent,
    /// The process dies before the call has an effect.
    CrashBefore,
    /// The process dies when the call has had its effect.
    CrashAfter,
    /// It waits this long and then goes well, as on a broker that is slow.
    Slow(Duration),
    /// The process stands still before this call, as one that is stopped by a signal: it and all calls after it happen
    /// when somebody [wakes](Faults::wake) it.
    Stop,
}

impl Fault {
    /// One of every kind that a process does not survive or hears of, and a produce that happens sooner or later.
    pub const ALL: [Fault; 7] = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::NotSent,
        Fault::HappensLater(Duration::from_millis(50)),
        Fault::HappensLater(Duration::from_millis(400)),
    ];

    /// Whether the process dies of it.
    pub fn is_crash(self) -> bool {
        matches!(self, Fault::CrashBefore | Fault::CrashAfter)
    }
}

/// A call of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number in its process; the first is 0.
    pub number: u64,
    /// Which: `target.produce`, `ledger.put_document` …
    pub name: String,
    /// On what.
    pub subject: String,
}

type Decide = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct Content {
    calls: Vec<Call>,
    decide: Decide,
}

/// The faults of one process.
#[derive(Clone)]
pub struct Faults {
    content: Arc<Mutex<Content>>,
    dead: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("calls", &self.content().calls.len()).field("dead", &self.is_dead()).finish()
    }
}

impl Faults {
    /// Whatever `decide` says, call by call.
    pub fn deciding(decide: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> Self {
        let content = Content { calls: Vec::new(), decide: Box::new(decide) };
        Self {
            content: Arc::new(Mutex::new(content)),
            dead: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        }
    }

    /// None; the calls are counted.
    pub fn none() -> Self {
        Self::deciding(|_| None)
    }

    /// One, at the call with this number.
    pub fn at(number: u64, fault: Fault) -> Self {
        Self::deciding(move |call| (call.number == number).then_some(fault))
    }

    /// One, at the call of this name that follows `skipped` others of that name.
    pub fn on(name: &str, skipped: u64, fault: Fault) -> Self {
        let (name, mut left) = (name.to_owned(), Some(skipped));
        Self::deciding(move |call| match (call.name == name, left) {
            (true, Some(0)) => {
                left = None;
                Some(fault)
            }
            (true, Some(more)) => {
                left = Some(more - 1);
                None
            }
            _ => None,
        })
    }

    /// One call in `every`, drawn with the seed, fails in one of these ways.
    pub fn by_seed(seed: u64, every: u64, kinds: &'static [Fault]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self::deciding(move |_| {
            let drawn = random.next_u64();
            (drawn >> 8).is_multiple_of(every).then(|| kinds[drawn as usize % kinds.len()])
        })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test goes on after a panic within a fake")
    }

    /// All calls so far, in the order of their numbers.
    pub fn calls(&self) -> Vec<Call> {
        self.content().calls.clone()
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Returns when the process has died.
    pub async fn crashed(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|dead| *dead).await.expect("we hold the sender");
    }

    /// Kills the process between two calls.
    pub fn crash(&self) {
        self.dead.send_replace(true);
    }

    /// Returns when the process stands still.
    pub async fn stopped(&self) {
        self.until_stopped(true).await;
    }

    /// Lets a process that stands still go on.
    pub fn wake(&self) {
        self.stopped.send_replace(false);
    }

    async fn until_stopped(&self, stopped: bool) {
        let mut now = self.stopped.subscribe();
        now.wait_for(|now| *now == stopped).await.expect("we hold the sender");
    }

    /// Numbers a call and decides about it. Does not return to the dead.
    pub(crate) async fn begin(&self, name: String, subject: String) -> Option<Fault> {
        self.until_stopped(false).await;
        if self.is_dead() {
            return pending().await;
        }
        let fault = {
            let mut content = self.content();
            let call = Call { number: content.calls.len() as u64, name, subject };
            let fault = (content.decide)(&call);
            content.calls.push(call);
            fault
        };
        match fault {
            Some(Fault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                None
            }
            Some(Fault::Stop) => {
                self.stopped.send_replace(true);
                self.until_stopped(false).await;
                None
            }
            fault => fault,
        }
    }

    /// One call: `effect` is what it does, `lost` what its caller hears where there is no usable answer.
    pub(crate) async fn call<T>(
        &self,
        name: String,
        subject: String,
        effect: impl Future<Output = T>,
        lost: impl FnOnce() -> T,
    ) -> T {
        let fault = self.begin(name, subject).await;
        self.apply(fault, effect, lost).await
    }

    pub(crate) async fn apply<T>(
        &self,
        fault: Option<Fault>,
        effect: impl Future<Output = T>,
        lost: impl FnOnce() -> T,
    ) -> T {
        match fault {
            None | Some(Fault::Stop | Fault::Slow(_)) => self.answer(effect.await).await,
            Some(Fault::FailBefore | Fault::HappensLater(_) | Fault::NotSent) => lost(),
            Some(Fault::FailAfter) => {
                effect.await;
                self.answer(lost()).await
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                effect.await;
                self.die().await
            }
        }
    }

    /// An answer that reaches nobody where the process died meanwhile.
    async fn answer<T>(&self, answer: T) -> T {
        if self.is_dead() { pending().await } else { answer }
    }

    async fn die<T>(&self) -> T {
        self.crash();
        pending().await
    }
}
