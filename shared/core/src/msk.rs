//! What Amazon MSK's own API says of a cluster, and what follows from it.

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
}
