//! Access rules and client quotas, written; and how rules are spelled on the wire.
//!
//! There is no call here that takes a rule or a limit away.

use std::collections::BTreeMap;

use kafka_protocol::messages::{
    AlterClientQuotasRequest, CreateAclsRequest, DescribeAclsResponse,
    alter_client_quotas_request::{EntityData, EntryData, OpData},
    create_acls_request::AclCreation,
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{AccessAdmin, AclBinding, ClientQuota, ClusterResult, QuotaEntity, Refusals},
};

use crate::{
    cluster::{WireCluster, passes, text, wire_str},
    connection::CallError,
};

/// What is said of each thing that was asked for, in its order.
type Answers = Vec<Result<(), (KafkaCode, String)>>;

impl AccessAdmin for WireCluster {
    async fn create_acls(&self, rules: &[AclBinding]) -> ClusterResult<Refusals<AclBinding>> {
        let attempt = format!("make {} access rules", rules.len());
        // A rule that cannot be spelled is found before the first is made.
        let creations: Vec<(AclBinding, AclCreation)> = rules
            .iter()
            .map(|rule| Ok((rule.clone(), creation(rule)?)))
            .collect::<Result<_, _>>()
            .map_err(|error| self.0.retry(attempt.clone()).error(error))?;
        let mut refused = Vec::new();
        for chunk in creations.chunks(limits::ACCESS_CHANGES_PER_REQUEST_MAX) {
            let create = |left: Vec<(AclBinding, AclCreation)>| async move {
                let creations = left.into_iter().map(|(_, creation)| creation).collect();
                let request = CreateAclsRequest::default().with_creations(creations);
                let answer = self.0.any_connection().await?.call(&request).await?;
                let results = answer.results.iter();
                Ok(results.map(|result| said(result.error_code, text(result.error_message.as_ref()))).collect())
            };
            let settled = self.until_settled(&attempt, chunk.to_vec(), create).await?;
            refused.extend(settled.into_iter().map(|((rule, _), code, detail)| (rule, code, detail)));
        }
        Ok(refused)
    }

    async fn set_client_quotas(&self, quotas: &[ClientQuota]) -> ClusterResult<Refusals<QuotaEntity>> {
        let attempt = format!("set the quotas of {} clients", quotas.len());
        let mut refused = Vec::new();
        for chunk in quotas.chunks(limits::ACCESS_CHANGES_PER_REQUEST_MAX) {
            let set = |left: Vec<ClientQuota>| async move {
                let request = AlterClientQuotasRequest::default().with_entries(left.iter().map(quota_entry).collect());
                let answer = self.0.any_connection().await?.call(&request).await?;
                // Brokers answer in an order of their own.
                let mut results: BTreeMap<QuotaEntity, (i16, String)> = BTreeMap::new();
                for entry in &answer.entries {
                    let entity = entry.entity.iter().map(|part| {
                        (part.entity_type.as_str().to_owned(), part.entity_name.as_ref().map(|n| n.as_str().to_owned()))
                    });
                    results.insert(entity.collect(), (entry.error_code, text(entry.error_message.as_ref())));
                }
                let of = |quota: &ClientQuota| {
                    let nothing = || CallError::NotUnderstood(format!("nothing is said about {:?}", quota.entity));
                    let (code, detail) = results.get(&quota.entity).cloned().ok_or_else(nothing)?;
                    Ok(said(code, detail))
                };
                left.iter().map(of).collect()
            };
            let settled = self.until_settled(&attempt, chunk.to_vec(), set).await?;
            refused.extend(settled.into_iter().map(|(quota, code, detail)| (quota.entity, code, detail)));
        }
        Ok(refused)
    }
}

impl WireCluster {
    /// Asks again for what was answered with codes that pass with time. Answers what was refused for good.
    async fn until_settled<T, F, Fut>(&self, attempt: &str, mut left: Vec<T>, ask: F) -> ClusterResult<Refusals<T>>
    where
        T: Clone + Send,
        F: Fn(Vec<T>) -> Fut + Send,
        Fut: Future<Output = Result<Answers, CallError>> + Send,
    {
        let mut retry = self.0.retry(attempt);
        let mut refused = Vec::new();
        while !left.is_empty() {
            let answers = match ask(left.clone()).await {
                Ok(answers) => answers,
                Err(error) => {
                    retry.again(error).await?;
                    continue;
                }
            };
            if answers.len() != left.len() {
                let detail = format!("{} answers to {} questions", answers.len(), left.len());
                return Err(retry.error(CallError::NotUnderstood(detail)));
            }
            let (mut again, mut passing) = (Vec::new(), None);
            for (item, answer) in left.into_iter().zip(answers) {
                match answer {
                    Ok(()) => {}
                    Err((KafkaCode::CLUSTER_AUTHORIZATION_FAILED, detail)) => {
                        return Err(retry.error(CallError::Code(KafkaCode::CLUSTER_AUTHORIZATION_FAILED, detail)));
                    }
                    Err((code, detail)) if passes(code) => {
                        passing = Some(CallError::Code(code, detail));
                        again.push(item);
                    }
                    Err((code, detail)) => refused.push((item, code, detail)),
                }
            }
            if let Some(code) = passing {
                retry.again(code).await?;
            }
            left = again;
        }
        Ok(refused)
    }
}

fn said(code: i16, detail: String) -> Result<(), (KafkaCode, String)> {
    KafkaCode::from_wire(code).map_or(Ok(()), |code| Err((code, detail)))
}

fn quota_entry(quota: &ClientQuota) -> EntryData {
    let entity = quota.entity.iter().map(|(kind, name)| {
        EntityData::default().with_entity_type(wire_str(kind)).with_entity_name(name.as_deref().map(wire_str))
    });
    let limits = quota.limits.iter().map(|(key, value)| OpData::default().with_key(wire_str(key)).with_value(*value));
    EntryData::default().with_entity(entity.collect()).with_ops(limits.collect())
}

// ── How rules are spelled ──────────────────────────────────────────────────────────────────────────────────────────

/// Kafka's numbers of the parts of an access rule, from 2 on (0 is unknown, 1 any).
const RESOURCE_TYPES: [&str; 6] = ["Topic", "Group", "Cluster", "TransactionalId", "DelegationToken", "User"];
/// From 2 on; 2 is a kind of filter that no rule has.
const PATTERN_TYPES: [&str; 3] = ["Match", "Literal", "Prefixed"];
/// See [`RESOURCE_TYPES`].
const OPERATIONS: [&str; 14] = [
    "All",
    "Read",
    "Write",
    "Create",
    "Delete",
    "Alter",
    "Describe",
    "ClusterAction",
    "DescribeConfigs",
    "AlterConfigs",
    "IdempotentWrite",
    "CreateTokens",
    "DescribeTokens",
    "TwoPhaseCommit",
];
/// See [`RESOURCE_TYPES`].
const PERMISSIONS: [&str; 2] = ["Deny", "Allow"];

fn name_of(names: &[&str], number: i8) -> String {
    let name = usize::try_from(number).ok().and_then(|n| n.checked_sub(2)).and_then(|n| names.get(n));
    name.map_or_else(|| format!("Unknown({number})"), |name| (*name).to_owned())
}

fn number_of(names: &[&str], name: &str) -> Option<i8> {
    names.iter().position(|known| *known == name).and_then(|at| i8::try_from(at + 2).ok())
}

/// All rules of an answer, sorted.
pub(crate) fn read_rules(answer: &DescribeAclsResponse) -> Vec<AclBinding> {
    let mut rules = Vec::new();
    for r in &answer.resources {
        rules.extend(r.acls.iter().map(|acl| AclBinding {
            resource_type: name_of(&RESOURCE_TYPES, r.resource_type),
            resource_name: r.resource_name.as_str().to_owned(),
            pattern_type: name_of(&PATTERN_TYPES, r.pattern_type),
            principal: acl.principal.as_str().to_owned(),
            host: acl.host.as_str().to_owned(),
            operation: name_of(&OPERATIONS, acl.operation),
            permission: name_of(&PERMISSIONS, acl.permission_type),
        }));
    }
    rules.sort();
    rules
}

fn creation(rule: &AclBinding) -> Result<AclCreation, CallError> {
    let number = |names: &[&str], name: &str| {
        let unknown = || CallError::NotUnderstood(format!("{name} in the access rule ({rule}) is not known here"));
        number_of(names, name).ok_or_else(unknown)
    };
    Ok(AclCreation::default()
        .with_resource_type(number(&RESOURCE_TYPES, &rule.resource_type)?)
        .with_resource_name(wire_str(&rule.resource_name))
        .with_resource_pattern_type(number(&PATTERN_TYPES, &rule.pattern_type)?)
        .with_principal(wire_str(&rule.principal))
        .with_host(wire_str(&rule.host))
        .with_operation(number(&OPERATIONS, &rule.operation)?)
        .with_permission_type(number(&PERMISSIONS, &rule.permission)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_rule_have_one_number_each_and_what_has_none_is_refused() {
        for names in [&RESOURCE_TYPES[..], &PATTERN_TYPES, &OPERATIONS, &PERMISSIONS] {
            for name in names {
                assert_eq!(number_of(names, name).map(|number| name_of(names, number)).as_deref(), Some(*name));
            }
        }
        assert_eq!(name_of(&OPERATIONS, 99), "Unknown(99)");
        let rule = AclBinding {
            resource_type: "Topic".into(),
            resource_name: "orders".into(),
            pattern_type: "Literal".into(),
            principal: "User:a".into(),
            host: "*".into(),
            operation: "Unknown(99)".into(),
            permission: "Allow".into(),
        };
        let refused = creation(&rule).expect_err("nobody knows operation 99");
        assert!(format!("{refused:?}").contains("Unknown(99) in the access rule"), "{refused:?}");
    }
}
