//! Empty topics that are on the target already with other settings, where the operator wants to hear of them.

use krossing_core::{
    config::ConfigDrift,
    plan::{MigrationPlan, PlannedTopic, TargetInventory},
    precheck::{Finding, Severity},
};

/// One blocker a topic that differs, if `topology.on_config_drift` is `refuse`.
pub(crate) fn decide(on_drift: ConfigDrift, plan: &MigrationPlan, target: &TargetInventory) -> Vec<Finding> {
    match on_drift {
        ConfigDrift::OverwriteWithSource | ConfigDrift::Keep => Vec::new(),
        ConfigDrift::Refuse => plan.topics.iter().filter_map(|topic| differing(topic, target)).collect(),
    }
}

fn differing(topic: &PlannedTopic, target: &TargetInventory) -> Option<Finding> {
    if !target.has(&topic.name) {
        return None;
    }
    let own = target.own_configs(&topic.name);
    let settings = topic.final_configs.keys().chain(own.keys());
    let mut names: Vec<&str> =
        settings.filter(|name| own.get(*name) != topic.final_configs.get(*name)).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| Finding {
        severity: Severity::Blocker,
        code: "B34".to_owned(),
        subject: topic.name.to_string(),
        problem: format!("it exists on the target with other settings: {}", names.join(", ")),
        remedy: "make them equal, or set topology.on_config_drift to overwrite_with_source or keep".to_owned(),
    })
}
