//! Client quotas: what is to be set on the target, and what it has otherwise.
//!
//! They are set when a migration is finalized, with the settings of topics: before that a quota of the source's
//! applications would only slow the copy down, and a cutover while producers stand still.
//!
//! Invariant: a limit that the source does not have is never touched.

use std::collections::BTreeMap;

use crate::{
    config::ConfigDrift,
    plan::PlannedQuota,
    ports::{ClientQuota, QuotaEntity},
    precheck::{Finding, Findings, few},
    types::Side,
};

/// What planned quotas need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuotaChanges {
    /// Limits to set.
    pub set: Vec<ClientQuota>,
    /// Limits that the target has with another value: `user=alice: producer_byte_rate is 1 and not 2`.
    pub differing: Vec<String>,
}

/// What to set so that the target has the planned quotas. What it has otherwise is kept where that is wanted.
pub fn changes(planned: &[PlannedQuota], there: &[ClientQuota], on_drift: ConfigDrift) -> QuotaChanges {
    let there: BTreeMap<_, _> = there.iter().map(|quota| (&quota.entity, &quota.limits)).collect();
    let mut changes = QuotaChanges::default();
    for quota in planned {
        let mut limits = BTreeMap::new();
        for (key, wanted) in &quota.limits {
            let wanted: f64 = wanted.parse().expect("a plan's limits were written from numbers, and its digest holds");
            let found = there.get(&quota.entity).and_then(|limits| limits.get(key)).copied();
            if found == Some(wanted) {
                continue;
            }
            if let Some(found) = found {
                changes.differing.push(format!("{}: {key} is {found} and not {wanted}", entity(&quota.entity)));
            }
            match (on_drift, found) {
                (ConfigDrift::Keep, Some(_)) => {}
                (ConfigDrift::Keep, None) | (ConfigDrift::OverwriteWithSource | ConfigDrift::Refuse, _) => {
                    limits.insert(key.clone(), wanted);
                }
            }
        }
        if !limits.is_empty() {
            changes.set.push(ClientQuota { entity: quota.entity.clone(), limits });
        }
    }
    changes
}

/// Who a quota is for: `user=alice client-id=<default>`.
pub fn entity(entity: &QuotaEntity) -> String {
    let part = |(kind, name): (&String, &Option<String>)| format!("{kind}={}", name.as_deref().unwrap_or("<default>"));
    entity.iter().map(part).collect::<Vec<_>>().join(" ")
}

/// Everything there is to say about them before a migration.
pub fn findings(planned: &[PlannedQuota], there: &[ClientQuota], on_drift: ConfigDrift) -> Vec<Finding> {
    let mut found = Findings::default();
    let QuotaChanges { set, differing } = changes(planned, there, on_drift);
    let differing: Vec<&str> = differing.iter().map(String::as_str).collect();
    match (on_drift, differing.is_empty()) {
        (ConfigDrift::OverwriteWithSource | ConfigDrift::Keep | ConfigDrift::Refuse, true) => {}
        (ConfigDrift::Refuse, false) => found.blocker(
            "B34",
            "client quotas",
            format!("they are other ones on the target: {}", few(&differing)),
            "make them equal, or set topology.on_config_drift to overwrite_with_source or keep",
        ),
        (ConfigDrift::OverwriteWithSource | ConfigDrift::Keep, false) => {
            let becomes = if on_drift == ConfigDrift::Keep { "they stay so" } else { "they become the source's" };
            let problem = format!("some are other ones there, and {becomes}: {}", few(&differing));
            found.info("I28", "client quotas", problem, "nothing: topology.on_config_drift says so");
        }
    }
    if !set.is_empty() {
        let clients: Vec<String> = set.iter().map(|quota| entity(&quota.entity)).collect();
        let clients: Vec<&str> = clients.iter().map(String::as_str).collect();
        let problem = format!("quotas will be set there when the migration is finalized: {}", few(&clients));
        found.info("I29", Side::Target, problem, "nothing: the plan lists them");
    }
    found.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(user: &str, limits: &[(&str, f64)]) -> ClientQuota {
        let limits = limits.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        ClientQuota { entity: [("user".to_owned(), Some(user.to_owned()))].into(), limits }
    }

    fn planned(quota: &ClientQuota) -> PlannedQuota {
        let limits = quota.limits.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
        PlannedQuota { entity: quota.entity.clone(), limits }
    }

    /// Planned: producers 0.1, consumers 20. There: producers 5, requests 9.
    fn check(on_drift: ConfigDrift, set: &[(&str, f64)], codes: &[&str]) {
        let wanted = planned(&quota("a", &[("producer_byte_rate", 0.1), ("consumer_byte_rate", 20.0)]));
        let there =
            [quota("a", &[("producer_byte_rate", 5.0), ("request_percentage", 9.0)]), quota("b", &[("x", 1.0)])];
        let changes = changes(std::slice::from_ref(&wanted), &there, on_drift);
        assert_eq!(changes.set, [quota("a", set)]);
        assert_eq!(changes.differing, ["user=a: producer_byte_rate is 5 and not 0.1"]);
        let found = findings(&[wanted], &there, on_drift);
        assert_eq!(found.iter().map(|finding| finding.code.as_str()).collect::<Vec<_>>(), codes);
    }

    #[test]
    fn limits_are_added_and_become_what_the_policy_says() {
        let both = [("consumer_byte_rate", 20.0), ("producer_byte_rate", 0.1)];
        check(ConfigDrift::OverwriteWithSource, &both, &["I28", "I29"]);
        check(ConfigDrift::Keep, &both[..1], &["I28", "I29"]);
        check(ConfigDrift::Refuse, &both, &["B34", "I29"]);
    }

    #[test]
    fn what_is_there_as_planned_needs_nothing() {
        let quotas = [quota("a", &[("producer_byte_rate", 1_048_576.5)])];
        let wanted = [planned(&quotas[0])];
        assert_eq!(changes(&wanted, &quotas, ConfigDrift::OverwriteWithSource), QuotaChanges::default());
        assert_eq!(findings(&wanted, &quotas, ConfigDrift::Refuse), []);
    }
}
