//! A clock that tests turn: tokio's paused time, so that leases, budgets and waits are exact and take no time.
//!
//! Begin a test with `#[tokio::test(start_paused = true)]`: when every task waits, time jumps to the end of the
//! shortest wait. [`HandClock::skip`] moves it while tasks are *not* waiting for it: a process that was stopped.

use std::time::{Duration, Instant};

use krossing_core::ports::Clock;

/// 2025-01-01T00:00:00Z, when every clock begins.
pub const BEGINNING_UNIX_MS: i64 = 1_735_689_600_000;

/// Tokio's clock, with a wall clock that follows it.
#[derive(Debug, Clone, Copy)]
pub struct HandClock {
    begun: tokio::time::Instant,
}

impl Default for HandClock {
    fn default() -> Self {
        Self { begun: tokio::time::Instant::now() }
    }
}

impl HandClock {
    /// Lets time pass at once, whatever anybody waits for.
    pub async fn skip(&self, duration: Duration) {
        tokio::time::advance(duration).await;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn unix_ms(&self) -> i64 {
        BEGINNING_UNIX_MS + self.begun.elapsed().as_millis() as i64
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_week_passes_at_once_on_both_clocks() {
        let clock = HandClock::default();
        let week = Duration::from_secs(7 * 24 * 3600);
        let (now, unix_ms) = (clock.now(), clock.unix_ms());
        clock.sleep(week).await;
        assert_eq!(clock.now() - now, week);
        assert_eq!(clock.unix_ms() - unix_ms, week.as_millis() as i64);
        clock.skip(week).await;
        assert_eq!(clock.now() - now, 2 * week);
    }
}
