//! All of a cluster that can be changed by a client and must not have been: compared before and after.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    Cluster,
    compare::{Positions, committed, for_each},
    reading::{self, ANSWER_MAX, Isolation, PartitionReader},
};

/// What must not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterState {
    /// Topics with their number of partitions.
    pub topics: BTreeMap<String, i32>,
    /// The settings of each topic that are its own.
    pub configs: BTreeMap<String, BTreeMap<String, String>>,
    /// First and last offset of each partition.
    pub bounds: BTreeMap<(String, i32), (i64, i64)>,
    /// Each access rule with what it is for, as Kafka's own tool prints them.
    pub acls: Vec<String>,
    /// The positions of each group, with what is stored beside them.
    pub positions: BTreeMap<String, Positions>,
}

impl ClusterState {
    /// What a cluster is now. Kafka's own topics are left out.
    pub async fn read(cluster: &Cluster) -> Result<Self> {
        let client = cluster.client();
        let topics: BTreeMap<String, i32> = reading::partitions(&client)?.into_iter().collect();
        let (configs, acls) = (configs(&client, &topics).await?, acls(cluster).await?);
        let (bounds, positions) = {
            let topics = topics.clone();
            tokio::task::spawn_blocking(move || {
                Ok::<_, anyhow::Error>((bounds(&client, &topics)?, positions(&client, &topics)?))
            })
            .await??
        };
        Ok(Self { topics, configs, bounds, acls, positions })
    }
}

async fn configs(
    client: &ClientConfig,
    topics: &BTreeMap<String, i32>,
) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let admin: AdminClient<_> = client.create()?;
    let asked: Vec<_> = topics.keys().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let mut configs = BTreeMap::new();
    if asked.is_empty() {
        return Ok(configs);
    }
    for (topic, answer) in topics.keys().zip(admin.describe_configs(&asked, &AdminOptions::new()).await?) {
        let answer = answer.map_err(|code| anyhow!("describing {topic}: {code}"))?;
        let own = answer.entries.into_iter().filter(|entry| !entry.is_default && entry.value.is_some());
        configs.insert(topic.clone(), own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect());
    }
    Ok(configs)
}

fn bounds(client: &ClientConfig, topics: &BTreeMap<String, i32>) -> Result<BTreeMap<(String, i32), (i64, i64)>> {
    let reader = PartitionReader::new(client, Isolation::Committed)?;
    let all = topics.iter().flat_map(|(topic, count)| (0..*count).map(move |number| (topic.clone(), number)));
    all.map(|(topic, number)| {
        let bounds = reader.bounds(&topic, number)?;
        Ok(((topic, number), bounds))
    })
    .collect()
}

async fn acls(cluster: &Cluster) -> Result<Vec<String>> {
    if !cluster.authorizes() {
        return Ok(Vec::new());
    }
    let (mut resource, mut rules) = (String::new(), Vec::new());
    for line in cluster.acls(&["--list"]).await?.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('(') {
            rules.push(format!("{resource} {line}"));
        } else {
            line.clone_into(&mut resource);
        }
    }
    rules.sort();
    Ok(rules)
}

fn positions(client: &ClientConfig, topics: &BTreeMap<String, i32>) -> Result<BTreeMap<String, Positions>> {
    let consumer: BaseConsumer = client.create()?;
    let groups = consumer.fetch_group_list(None, ANSWER_MAX)?;
    let names: Vec<String> = groups.groups().iter().map(|group| group.name().to_owned()).collect();
    let found = for_each(names, || Ok(()), |(), group| Ok((group.clone(), committed(client, group, topics)?)))?;
    Ok(found.into_iter().collect())
}
