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
}
