//! The workload's topics.

use anyhow::{Result, anyhow};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

/// A topic to make.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Its own settings.
    pub settings: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with the broker's defaults.
    pub fn new(name: &str, partitions: i32) -> Self {
        Self { name: name.to_owned(), partitions, settings: Vec::new() }
    }

    /// With a setting of its own.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The compacted topics and their partitions.
pub(super) const COMPACTED: [(&str, i32); 2] = [("compacted", 3), ("compacted-transactions", 1)];

/// The topics that live producers write to, and their partitions.
pub(super) const LIVE: [(&str, i32); 3] = [("live-plain", 2), ("live-idempotent", 2), ("live-transactions", 2)];

/// The longest name that Kafka takes, different from the other one in its last character alone.
pub(super) fn long_name(last: char) -> String {
    format!("{}{last}", "long-name.".repeat(25).split_at(248).0)
}

pub(super) fn all() -> Vec<TopicSpec> {
    const TWENTY_YEARS_MS: &str = "630720000000";
    let mut topics = vec![
        TopicSpec::new("bulk", 4),
        TopicSpec::new("dense-lz4", 4),
        TopicSpec::new("idempotent", 2),
        TopicSpec::new("one-record-batches", 2),
        TopicSpec::new("records-900k", 2),
        TopicSpec::new("records-3m", 2).with("max.message.bytes", "4194304"),
        TopicSpec::new("deleted-head", 3),
        TopicSpec::new("transactions", 4),
        TopicSpec::new("log-append-time", 2).with("message.timestamp.type", "LogAppendTime"),
        // Segments roll by the records' own time, which here jumps by twenty years from one batch to the next.
        TopicSpec::new("old-and-future", 2).with("retention.ms", TWENTY_YEARS_MS).with("segment.ms", TWENTY_YEARS_MS),
        TopicSpec::new("empty", 3),
        TopicSpec::new("hundred-partitions", 100),
        TopicSpec::new(&long_name('a'), 2),
        TopicSpec::new(&long_name('b'), 2),
    ];
    topics.extend(["none", "gzip", "snappy", "lz4", "zstd"].map(|codec| TopicSpec::new(&format!("codec-{codec}"), 3)));
    // 1 MiB is the smallest segment that 4.x accepts; what is in the active segment is never cleaned.
    topics.extend(COMPACTED.map(|(name, partitions)| {
        TopicSpec::new(name, partitions)
            .with("cleanup.policy", "compact")
            .with("segment.bytes", "1048576")
            .with("min.cleanable.dirty.ratio", "0.01")
    }));
    topics.extend(LIVE.map(|(name, partitions)| TopicSpec::new(name, partitions)));
    topics
}

/// Makes topics in one request.
pub async fn create_topics(client: &ClientConfig, topics: &[TopicSpec], replication: usize) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let replication = i32::try_from(replication)?;
    let wanted: Vec<_> = topics
        .iter()
        .map(|topic| {
            let plain = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(replication));
            topic.settings.iter().fold(plain, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    for outcome in admin.create_topics(&wanted, &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| anyhow!("creating {topic}: {code}"))?;
    }
    Ok(())
}
