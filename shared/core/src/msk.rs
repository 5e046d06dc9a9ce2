//! What Amazon MSK's own API says of a cluster, and what follows from it.
//!
//! Brokers tell much of themselves; MSK besides what they are made of, what is being done to them, and how one logs in.
//! No field of it says how a cluster keeps its metadata: that is put together from what only one kind has.
//!
//! Does not: ask. What could not be asked is said with the answer, and is never taken for a no.

mod findings;

use std::{collections::BTreeSet, fmt};

use crate::{config::Auth, ports::MetadataMode};

pub use findings::{MskFacts, findings};

/// An Amazon Resource Name, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arn<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: &'a str,
    /// `kafka`, `kms`, `secretsmanager`.
    pub service: &'a str,
    /// `eu-west-1`.
    pub region: &'a str,
    /// Twelve digits.
    pub account: &'a str,
    /// `cluster/orders/1a2b…`.
    pub resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Takes a text apart; none where it is no ARN.
    pub fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts.as_slice() {
            ["arn", partition, service, region, account, resource] if !resource.is_empty() => {
                Some(Self { partition, service, region, account, resource })
            }
            _ => None,
        }
    }

    /// Whether it names an MSK cluster.
    pub fn is_cluster(&self) -> bool {
        let named: Vec<&str> = self.resource.split('/').collect();
        let whole = matches!(named.as_slice(), ["cluster", name, uuid] if !name.is_empty() && !uuid.is_empty());
        self.service == "kafka" && !self.region.is_empty() && !self.account.is_empty() && whole
    }
}

/// The region of a cluster, as its ARN or its brokers' names tell it.
pub fn region_of<'a>(cluster_arn: Option<&'a str>, bootstrap_servers: &'a [String]) -> Option<&'a str> {
    let of_arn = cluster_arn.and_then(Arn::parse).map(|arn| arn.region);
    // b-1.orders.a1b2c3.c4.kafka.eu-west-1.amazonaws.com:9098
    let of_broker = |server: &'a String| {
        let name = server.rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
        let (_, rest) = name.split_once(".kafka.").or_else(|| name.split_once(".kafka-serverless."))?;
        rest.split_once(".amazonaws.com").map(|(region, _)| region)
    };
    of_arn.or_else(|| bootstrap_servers.iter().find_map(of_broker))
}

/// A cluster, as MSK describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MskCluster {
    /// Its name.
    pub name: String,
    /// `ACTIVE`, `UPDATING`, ….
    pub state: String,
    /// The ARN of what is being done to it.
    pub active_operation: Option<String>,
    /// What it is made of.
    pub make: Make,
    /// What MSK was asked for and did not tell, and why.
    pub not_told: Vec<String>,
}

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Make {
    /// Brokers of its own.
    Provisioned(Provisioned),
    /// None that anybody sees.
    Serverless,
}

/// A cluster with brokers of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// `3.6.0`, `3.9.x.kraft`.
    pub kafka_version: Option<String>,
    /// `kafka.m7g.large`.
    pub instance_type: Option<String>,
    /// How many brokers.
    pub brokers: u64,
    /// Disk of each broker; none where it is not of a fixed size.
    pub volume_gib: Option<u64>,
    /// Whether old records are moved to cheaper storage.
    pub tiered: bool,
    /// Whether MSK gives an address of ZooKeeper.
    pub zookeeper_address: bool,
    /// What other nodes it has; none where they could not be listed.
    pub nodes: Option<Nodes>,
    /// How one may log in.
    pub logins: Logins,
    /// Secrets whose users may log in with SCRAM, by ARN; none where they could not be listed.
    pub scram_secrets: Option<BTreeSet<String>>,
}

/// Nodes that are no brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Of ZooKeeper.
    pub zookeeper: bool,
    /// Controllers.
    pub controllers: bool,
}

/// How one may log in to a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Logins {
    /// Not at all.
    pub unauthenticated: bool,
    /// With SCRAM-SHA-512.
    pub scram: bool,
    /// With a client certificate.
    pub mtls: bool,
    /// With IAM.
    pub iam: bool,
}

impl Logins {
    /// Whether one may log in like this.
    pub fn allow(&self, auth: &Auth) -> bool {
        match auth {
            Auth::None => self.unauthenticated,
            Auth::ScramSha512 { .. } => self.scram,
            Auth::Mtls(_) => self.mtls,
            Auth::Iam => self.iam,
        }
    }
}

impl fmt::Display for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes =
            [(self.unauthenticated, "none"), (self.scram, "scram-sha-512"), (self.mtls, "mtls"), (self.iam, "iam")];
        let allowed: Vec<&str> = modes.into_iter().filter(|(allowed, _)| *allowed).map(|(_, mode)| mode).collect();
        f.write_str(if allowed.is_empty() { "nothing" } else { "" })?;
        f.write_str(&allowed.join(", "))
    }
}

/// What `auth.mode` calls it.
pub fn mode_name(auth: &Auth) -> &'static str {
    match auth {
        Auth::None => "none",
        Auth::ScramSha512 { .. } => "scram-sha-512",
        Auth::Mtls(_) => "mtls",
        Auth::Iam => "iam",
    }
}

impl Provisioned {
    /// How it keeps its metadata, and what that is seen by; unknown where the signs disagree or there are none.
    pub fn metadata_mode(&self) -> (MetadataMode, String) {
        let version = self.kafka_version.as_deref().unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let nodes = self.nodes.unwrap_or_default();
        // That there is no address of ZooKeeper proves nothing: it can be switched off.
        let signs = [
            (version.ends_with(".kraft") || major.is_some_and(|major| major >= 4), true, "its version"),
            (nodes.controllers, true, "its controllers"),
            (nodes.zookeeper, false, "its ZooKeeper nodes"),
            (self.zookeeper_address, false, "its address of ZooKeeper"),
        ];
        let seen = |kraft: bool| {
            let seen = signs.iter().filter(|(is_seen, sign_of, _)| *is_seen && *sign_of == kraft);
            seen.map(|(_, _, sign)| *sign).collect::<Vec<_>>().join(" and ")
        };
        match (seen(true), seen(false)) {
            (kraft, zookeeper) if kraft.is_empty() && zookeeper.is_empty() => (
                MetadataMode::Unknown,
                format!("version {version:?} says nothing, and it shows neither controllers nor ZooKeeper nodes"),
            ),
            (kraft, zookeeper) if zookeeper.is_empty() => (MetadataMode::Kraft, kraft),
            (kraft, zookeeper) if kraft.is_empty() => (MetadataMode::ZooKeeper, zookeeper),
            (kraft, zookeeper) => {
                (MetadataMode::Unknown, format!("{kraft} (KRaft) and {zookeeper} (ZooKeeper) contradict each other"))
            }
        }
    }
}

/// Addresses to begin with, as MSK gives them: by how one logs in, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerAddresses {
    /// Without TLS.
    pub plaintext: Addresses,
    /// With TLS: nobody in particular, or client certificates.
    pub tls: Addresses,
    /// With SCRAM.
    pub scram: Addresses,
    /// With IAM.
    pub iam: Addresses,
}

/// The same brokers, from different places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// From the cluster's own VPC.
    pub private: Option<String>,
    /// From VPCs that are connected to it (multi-VPC connectivity).
    pub connected_vpcs: Option<String>,
    /// From everywhere.
    pub public: Option<String>,
}

impl BrokerAddresses {
    /// Those for this way to log in, from the nearest place; none where there are none.
    pub fn of(&self, auth: &Auth, tls: bool) -> Option<Vec<String>> {
        let addresses = match auth {
            Auth::None if !tls => &self.plaintext,
            Auth::None | Auth::Mtls(_) => &self.tls,
            Auth::ScramSha512 { .. } => &self.scram,
            Auth::Iam => &self.iam,
        };
        let found = [&addresses.private, &addresses.connected_vpcs, &addresses.public].into_iter().flatten().next()?;
        let servers: Vec<String> = found.split(',').map(|server| server.trim().to_owned()).collect();
        Some(servers)
    }
}

/// How many partitions, replicas counted, a broker of a type is recommended to hold, and with how many it may still be
/// updated (Amazon MSK: "Standard brokers: right-size your cluster").
pub fn partitions_per_broker(instance_type: &str) -> Option<(u64, u64)> {
    let (family, size) = instance_type.strip_prefix("kafka.")?.split_once('.')?;
    match (family, size) {
        ("t3", "small") => Some((300, 300)),
        ("m5" | "m7g", "large" | "xlarge") => Some((1_000, 1_500)),
        ("m5" | "m7g", "2xlarge") => Some((2_000, 3_000)),
        ("m5" | "m7g", _) => Some((4_000, 6_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_told_by_the_arn_or_by_the_names_of_brokers() {
        let servers = |name: &str| vec!["10.0.0.1:9098".to_owned(), name.to_owned()];
        let by_name = |name| region_of(None, &servers(name)).map(str::to_owned);
        assert_eq!(by_name("b-1.orders.a1b2c3.c4.kafka.eu-west-1.amazonaws.com:9098").as_deref(), Some("eu-west-1"));
        assert_eq!(by_name("boot-a1.c1.kafka-serverless.us-east-2.amazonaws.com:9098").as_deref(), Some("us-east-2"));
        assert_eq!(by_name("b-1.a.b.kafka.cn-north-1.amazonaws.com.cn:9098").as_deref(), Some("cn-north-1"));
        assert_eq!(by_name("kafka.example.com:9098"), None);
        let arn = "arn:aws:kafka:eu-north-1:123456789012:cluster/orders/1a-2b";
        assert_eq!(region_of(Some(arn), &servers("b-1.a.b.kafka.eu-west-1.amazonaws.com:9098")), Some("eu-north-1"));
    }

    #[test]
    fn only_a_whole_arn_of_a_cluster_names_one() {
        let is_cluster = |text| Arn::parse(text).is_some_and(|arn| arn.is_cluster());
        assert!(is_cluster("arn:aws:kafka:eu-west-1:123456789012:cluster/orders/1a-2b"));
        for text in [
            "arn:aws:kafka:eu-west-1:123456789012:cluster/orders",
            "arn:aws:kafka:eu-west-1:123456789012:topic/orders/1a-2b/t",
            "arn:aws:kafka::123456789012:cluster/orders/1a-2b",
            "arn:aws:kms:eu-west-1:123456789012:key/1a",
            "cluster/orders/1a-2b",
        ] {
            assert!(!is_cluster(text), "{text}");
        }
    }

    #[test]
    fn the_metadata_mode_is_told_by_what_only_one_kind_has() {
        let check = |version: &str, nodes: Option<(bool, bool)>, zookeeper_address: bool, expected: MetadataMode| {
            let nodes = nodes.map(|(zookeeper, controllers)| Nodes { zookeeper, controllers });
            let kafka_version = Some(version.to_owned());
            let cluster = Provisioned { kafka_version, nodes, zookeeper_address, ..Provisioned::default() };
            assert_eq!(cluster.metadata_mode().0, expected, "{cluster:?}");
        };
        use MetadataMode::{Kraft, Unknown, ZooKeeper};
        check("3.9.x.kraft", None, false, Kraft);
        check("4.1.x", Some((false, false)), false, Kraft);
        check("3.7.x.kraft", Some((false, true)), false, Kraft);
        check("3.6.0", Some((true, false)), true, ZooKeeper);
        check("3.6.0", Some((true, false)), false, ZooKeeper);
        check("2.8.1", None, true, ZooKeeper);
        // No address of ZooKeeper, and nodes that could not be listed or are not told.
        check("3.9.x", None, false, Unknown);
        check("3.9.x", Some((false, false)), false, Unknown);
        check("3.9.x.kraft", Some((true, false)), false, Unknown);
        check("3.9.x", Some((true, true)), false, Unknown);
        check("", None, false, Unknown);
    }

    #[test]
    fn brokers_are_those_of_the_way_to_log_in_from_the_nearest_place() {
        let only = |private: &str, public: &str| Addresses {
            private: (!private.is_empty()).then(|| private.to_owned()),
            connected_vpcs: None,
            public: (!public.is_empty()).then(|| public.to_owned()),
        };
        let addresses = BrokerAddresses {
            plaintext: only("a:9092,b:9092", ""),
            tls: only("a:9094", "p:9194"),
            scram: only("", "p:9196"),
            iam: Addresses { connected_vpcs: Some("v:14001".to_owned()), ..Addresses::default() },
        };
        let of = |auth: &Auth, tls| addresses.of(auth, tls).map(|servers| servers.join(" "));
        assert_eq!(of(&Auth::None, false).as_deref(), Some("a:9092 b:9092"));
        assert_eq!(of(&Auth::None, true).as_deref(), Some("a:9094"));
        let password = crate::config::Secret::new("p");
        assert_eq!(of(&Auth::ScramSha512 { username: "u".into(), password }, true).as_deref(), Some("p:9196"));
        assert_eq!(of(&Auth::Iam, true).as_deref(), Some("v:14001"));
        assert_eq!(BrokerAddresses::default().of(&Auth::Iam, true), None);
    }
}
