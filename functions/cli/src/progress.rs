//! Progress: a bar on a terminal, a line every few seconds elsewhere.
//!
//! Only shows; nothing is decided on these figures.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use krossing_core::ports::Clock;
use krossing_drive::Watched;
use krossing_runtime::SystemClock;
use krossing_worker::{Snapshot, View};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::show::{self, Output};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// For how long the rate is watched before it says when the seed will end.
const ETA_AFTER: Duration = Duration::from_secs(10);

/// For how long nothing may arrive before that is said in place of an end: what is expected from a rate that goes down
/// while brokers are away is no expectation.
const STALLED_AFTER: Duration = Duration::from_secs(4);

/// Shows progress until it is dropped.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn start(view: Arc<View>, watched: Watched) -> Self {
        let bar = (std::io::stderr().is_terminal() && show::output() == Output::Text).then(|| bar(watched));
        Self { task: tokio::spawn(watch(view, watched, bar.clone())), bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(watched: Watched) -> ProgressBar {
    let (bar, template) = match watched {
        Watched::Seed { bytes_total, .. } => (ProgressBar::new(bytes_total), "{wide_bar} {msg}"),
        Watched::Tail => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

async fn watch(view: Arc<View>, watched: Watched, bar: Option<ProgressBar>) {
    let clock = SystemClock;
    let (started, first) = (clock.now(), view.snapshot());
    let mut rate = Rate::new(started, first.bytes_written);
    loop {
        clock.sleep(if bar.is_some() { DRAW_EVERY } else { LINE_EVERY }).await;
        let snapshot = view.snapshot();
        rate.look(clock.now(), snapshot.bytes_written);
        let text = match watched {
            Watched::Seed { bytes_total, bytes_before } => {
                let copied = bytes_before.saturating_add(snapshot.bytes_written).min(bytes_total);
                if let Some(bar) = &bar {
                    bar.set_position(copied);
                }
                seed_text(&snapshot, &rate, copied, bytes_total)
            }
            Watched::Tail => tail_text(&snapshot, first.records_written, rate.per_second),
        };
        match &bar {
            Some(bar) => bar.set_message(text),
            None => {
                let at_unix_ms = clock.unix_ms();
                show::event(
                    "progress",
                    &figures(at_unix_ms, watched, &snapshot, rate.per_second),
                    &format!("{} {text}", show::time(at_unix_ms)),
                );
            }
        }
    }
}

/// The same for programs.
fn figures(at_unix_ms: i64, watched: Watched, snapshot: &Snapshot, per_second: f64) -> Value {
    let mut figures = json!({
        "at_unix_ms": at_unix_ms,
        "phase": match watched { Watched::Seed { .. } => "seed", Watched::Tail => "tail" },
        "partitions": snapshot.partitions,
        "partitions_seeded": snapshot.partitions_seeded,
        "records_written": snapshot.records_written,
        "bytes_read": snapshot.bytes_read,
        "bytes_written": snapshot.bytes_written,
        "bytes_per_second": per_second as u64,
        "lag_records_total": snapshot.lag_records_total,
        "lag_records_max": snapshot.lag_records_max,
    });
    if let Watched::Seed { bytes_total, bytes_before } = watched {
        figures["bytes_total"] = bytes_total.into();
        figures["bytes_before"] = bytes_before.into();
    }
    figures
}

/// Bytes per second, smoothed over about ten seconds.
struct Rate {
    /// When the first bytes were seen, since the beginning or since they last stood still.
    began: Option<Instant>,
    /// When the last bytes were seen.
    grew: Instant,
    at: Instant,
    bytes: u64,
    per_second: f64,
}

impl Rate {
    fn new(now: Instant, bytes: u64) -> Self {
        Self { began: None, grew: now, at: now, bytes, per_second: 0.0 }
    }

    fn look(&mut self, now: Instant, bytes: u64) {
        if bytes > self.bytes {
            self.began.get_or_insert(self.at);
            self.grew = now;
        } else if now - self.grew >= STALLED_AFTER {
            (self.began, self.per_second) = (None, 0.0);
        }
        let seconds = (now - self.at).as_secs_f64().max(0.001);
        let present = bytes.saturating_sub(self.bytes) as f64 / seconds;
        let weight = if self.per_second == 0.0 { 1.0 } else { (seconds / 10.0).min(1.0) };
        self.per_second += (present - self.per_second) * weight;
        (self.at, self.bytes) = (now, bytes);
    }

    /// How long so many bytes more will take; none before it can be told.
    fn time_for(&self, bytes: u64) -> Option<Duration> {
        let watched = self.at.saturating_duration_since(self.began?);
        let told = watched >= ETA_AFTER && self.per_second >= 1.0;
        told.then(|| Duration::from_secs((bytes as f64 / self.per_second) as u64))
    }
}

fn seed_text(snapshot: &Snapshot, rate: &Rate, copied: u64, total: u64) -> String {
    let eta = match total.saturating_sub(copied) {
        0 => "0s".to_owned(),
        left => rate.time_for(left).map_or_else(|| "unknown".to_owned(), show::duration),
    };
    format!(
        "seed partitions={}/{} read={} written={} of {} rate={:.1} MB/s eta={eta}",
        snapshot.partitions_seeded,
        snapshot.partitions,
        show::bytes(snapshot.bytes_read),
        show::bytes(copied),
        show::bytes(total),
        rate.per_second / 1e6,
    )
}

/// `records_before`: what was written before the tail, by the seed.
fn tail_text(snapshot: &Snapshot, records_before: u64, per_second: f64) -> String {
    let mut text = format!(
        "tail partitions={} lag={} max_partition_lag={} records_replayed={} rate={:.1} MB/s",
        snapshot.partitions,
        snapshot.lag_records_total,
        snapshot.lag_records_max,
        snapshot.records_written.saturating_sub(records_before),
        per_second / 1e6,
    );
    if let Some((partition, lag)) = snapshot.laggards.first() {
        text.push_str(&format!(" worst={partition} ({lag})"));
    }
    if let Some(partition) = snapshot.open_transactions.first() {
        let others = snapshot.open_transactions.len() - 1;
        let more = if others == 0 { String::new() } else { format!(" and {others} more") };
        text.push_str(&format!(" open_transaction={partition}{more}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use krossing_core::TopicPartition;

    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            partitions: 306,
            partitions_seeded: 12,
            bytes_read: 2_000_000,
            bytes_written: 1_000_000,
            records_written: 77,
            lag_records_total: 9,
            lag_records_max: 5,
            laggards: vec![(TopicPartition::new("orders", 3), 5)],
            open_transactions: vec![TopicPartition::new("orders", 1), TopicPartition::new("orders", 2)],
        }
    }

    #[test]
    fn a_seed_line_says_how_long_it_will_take() {
        let began = SystemClock.now();
        let mut rate = Rate::new(began, 0);
        rate.look(began + Duration::from_secs(2), 1_000_000);
        let text = seed_text(&snapshot(), &rate, 1_000_000, 31_000_000);
        assert!(text.ends_with("rate=0.5 MB/s eta=unknown"), "the first moments tell nothing: {text}");
        rate.look(began + Duration::from_secs(10), 5_000_000);
        let text = seed_text(&snapshot(), &rate, 1_000_000, 31_000_000);
        assert_eq!(text, "seed partitions=12/306 read=2.0 MB written=1.0 MB of 31.0 MB rate=0.5 MB/s eta=1m00s");
    }

    #[test]
    fn a_seed_that_stands_still_has_no_end_in_sight_and_then_the_one_it_had() {
        let began = SystemClock.now();
        let mut rate = Rate::new(began, 0);
        let at = |seconds| began + Duration::from_secs(seconds);
        (1..=6).for_each(|look| rate.look(at(look * 5), look * 5_000_000));
        let before = rate.time_for(60_000_000);
        assert_eq!(before, Some(Duration::from_secs(60)));
        rate.look(at(35), 30_000_000);
        assert_eq!(rate.time_for(60_000_000), None, "brokers are away");
        (8..=10).for_each(|look| rate.look(at(look * 5), (look - 1) * 5_000_000));
        assert_eq!(rate.time_for(60_000_000), before);
    }

    #[test]
    fn a_tail_line_counts_what_the_tail_has_written() {
        assert!(tail_text(&snapshot(), 70, 0.0).contains(" records_replayed=7 "), "77 in all, 70 by the seed");
    }

    #[test]
    fn a_tail_line_names_the_worst_partition_and_what_holds_it_back() {
        let text = tail_text(&snapshot(), 0, 0.0);
        assert!(text.ends_with("worst=orders-3 (5) open_transaction=orders-1 and 1 more"), "{text}");
    }
}
