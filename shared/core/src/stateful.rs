//! Applications that keep source offsets, or state made from them, where Krossing cannot reach: what they look like, and
//! what their owners must do.
//!
//! Told by names, by what a group's members call themselves, and by topics that such applications make. It is a guess
//! that errs on the side of telling: a group that only looks like one costs its owner a look.
//!
//! Does not: change what is migrated.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::types::TopicName;

/// What kind of application it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatefulKind {
    /// Kafka Streams: local stores, and topics of their own.
    Streams,
    /// Kafka Connect: a sink's group, or the workers'.
    Connect,
    /// Flink: positions are in checkpoints and savepoints.
    Flink,
    /// Spark: positions are in checkpoints.
    Spark,
}

impl StatefulKind {
    /// What it looks like, and what its owner must do.
    pub fn texts(self) -> (&'static str, &'static str) {
        match self {
            StatefulKind::Streams => (
                "it looks like a Kafka Streams application, whose local state remembers source offsets",
                "stop it before the cutover, delete its local state folder, and start it against the target: it restores \
                 from its changelog topics",
            ),
            StatefulKind::Connect => (
                "it looks like Kafka Connect, whose source connectors keep positions in a topic of their own",
                "migrate the worker's config, offset and status topics with the rest, stop the workers before the cutover, \
                 and start them against the target; a connector that reads this cluster keeps its offsets in there, and has \
                 to be reset",
            ),
            StatefulKind::Flink => (
                "it looks like Flink, whose checkpoints and savepoints hold source offsets that are not those of the target",
                "start it without its last checkpoint or savepoint, from the group's positions on the target \
                 (OffsetsInitializer.committedOffsets), or give its sources another uid",
            ),
            StatefulKind::Spark => (
                "it looks like Spark, whose checkpoints hold source offsets that are not those of the target",
                "start it with a new checkpoint folder, and with startingOffsets taken from where it stood",
            ),
        }
    }
}

/// What a group looks like: by its name, its protocol, what its members call themselves, and the topics there are.
pub fn keeps_state(
    group: &str,
    protocol_type: &str,
    client_ids: &[String],
    topics: &BTreeSet<&TopicName>,
) -> Option<StatefulKind> {
    let called = |part: &str| client_ids.iter().any(|id| id.to_ascii_lowercase().contains(part));
    let name = group.to_ascii_lowercase();
    let own = |topic: &&TopicName| {
        let rest = topic.as_str().strip_prefix(group).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(of_streams)
    };
    if protocol_type == "streams" || called("-streamthread-") || topics.iter().any(own) {
        Some(StatefulKind::Streams)
    } else if protocol_type == "connect" || name.starts_with("connect-") || called("connector-consumer-") {
        Some(StatefulKind::Connect)
    } else if name.contains("flink") || called("flink") {
        Some(StatefulKind::Flink)
    } else if name.starts_with("spark-") || called("spark") {
        Some(StatefulKind::Spark)
    } else {
        None
    }
}

fn of_streams(topic: &str) -> bool {
    topic.ends_with("-changelog") || topic.ends_with("-repartition")
}

/// Topics that such applications make, without those of the groups that are named themselves.
pub fn topics_of_state(topics: &BTreeSet<&TopicName>, groups: &BTreeSet<&str>) -> BTreeMap<TopicName, StatefulKind> {
    let named =
        |topic: &str| groups.iter().any(|group| topic.strip_prefix(group).is_some_and(|rest| rest.starts_with('-')));
    let streams = topics.iter().filter(|topic| of_streams(topic.as_str()) && !named(topic.as_str()));
    let mut found: BTreeMap<TopicName, StatefulKind> =
        streams.map(|topic| ((*topic).clone(), StatefulKind::Streams)).collect();
    // One of the three may be anybody's; all three with one beginning are a Connect cluster's.
    let mut workers: BTreeMap<&str, BTreeMap<&str, &TopicName>> = BTreeMap::new();
    for topic in topics {
        if let Some((beginning, last)) = topic.as_str().rsplit_once(['-', '_', '.'])
            && let Some(kind) = CONNECT_TOPICS.iter().find(|kind| last.starts_with(**kind))
        {
            workers.entry(beginning).or_default().insert(kind, topic);
        }
    }
    for topics in workers.into_values().filter(|topics| topics.len() == CONNECT_TOPICS.len()) {
        found.extend(topics.into_values().map(|topic| (topic.clone(), StatefulKind::Connect)));
    }
    found
}

/// How the topics of a Connect cluster end, also in the plural.
const CONNECT_TOPICS: [&str; 3] = ["config", "offset", "status"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_known_by_name_protocol_members_or_topics() {
        use StatefulKind::*;
        let topic = TopicName::new("app-store-changelog");
        let topics = BTreeSet::from([&topic]);
        let check = |group: &str, protocol: &str, client: &str, expected| {
            let clients: Vec<String> = (!client.is_empty()).then(|| client.to_owned()).into_iter().collect();
            assert_eq!(keeps_state(group, protocol, &clients, &topics), expected, "{group} {protocol} {client}");
        };
        check("app", "consumer", "", Some(Streams));
        check("other", "streams", "", Some(Streams));
        check("other", "consumer", "other-1f-StreamThread-1-consumer", Some(Streams));
        check("workers", "connect", "", Some(Connect));
        check("connect-sink", "consumer", "", Some(Connect));
        check("renamed", "consumer", "connector-consumer-sink-0", Some(Connect));
        check("Flink-job", "", "", Some(Flink));
        check("job", "consumer", "my-flink-0", Some(Flink));
        check("spark-kafka-source-1", "", "", Some(Spark));
        check("orders", "consumer", "rdkafka", None);
        check("application", "consumer", "", None);
    }

    #[test]
    fn topics_are_named_where_their_group_is_not_and_connects_only_all_three_together() {
        let names = [
            "app-store-changelog",
            "lost-by-key-repartition",
            "my_connect_configs",
            "my_connect_offsets",
            "my_connect_statuses",
            "order-status",
        ]
        .map(TopicName::new);
        let found = topics_of_state(&names.iter().collect(), &BTreeSet::from(["app"]));
        let found: Vec<_> = found.iter().map(|(topic, kind)| (topic.as_str(), *kind)).collect();
        use StatefulKind::*;
        let connect = |name| (name, Connect);
        let expected = [
            ("lost-by-key-repartition", Streams),
            connect("my_connect_configs"),
            connect("my_connect_offsets"),
            connect("my_connect_statuses"),
        ];
        assert_eq!(found, expected);
    }
}
