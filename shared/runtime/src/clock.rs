//! Real time: the one place where a clock is read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use krossing_core::ports::Clock;

/// The machine's clocks, and tokio's timer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> i64 {
        // Before 1970 or after the year 292 million the machine's clock is broken, and no deadline can be kept.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the machine's clock stands before 1970");
        i64::try_from(since.as_millis()).expect("the machine's clock stands far beyond any deadline")
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
