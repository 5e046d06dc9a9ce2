//! Which crate may depend on which: the layers of the design, as one table.
//!
//! Why a table and not habit: that the rules take no clock and no network is proved by what they cannot name. Edges
//! for tests only (dev-dependencies) may also lead to the fakes.

use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata};

use super::Finding;

/// A crate as the rules see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Crate {
    /// Its package name.
    name: String,
    /// Its folder below the repository.
    folder: String,
    /// What it is built with.
    dependencies: Vec<String>,
    /// What its tests are built with in addition.
    test_dependencies: Vec<String>,
}

/// A layer: whom it means, whom of ours it may use, which libraries it may not.
struct Layer {
    folder: &'static str,
    may_use: &'static [&'static str],
    must_not: &'static [&'static str],
    why: &'static str,
}

/// Libraries that act: each would let a rule wait, read the world or speak to a cluster.
const ACTING: &[&str] = &["tokio", "rdkafka", "kafka-protocol", "aws-*", "hyper*", "reqwest", "futures"];
/// Clients and SDKs.
const CLIENTS: &[&str] = &["rdkafka", "kafka-protocol", "aws-*", "hyper*", "reqwest"];

/// What every phase may use.
const PHASE: &[&str] = &["krossing-core", "krossing-replication", "krossing-runtime"];
const ONE_PHASE: &str = "a phase acts through ports, and phases meet in the ledger, not in code";

/// A row a crate: who adds a crate decides where it belongs. `*` stands for the rest of a name.
const LAYERS: &[Layer] = &[
    Layer {
        folder: "shared/core",
        may_use: &[],
        must_not: ACTING,
        why: "the rules are pure: no clock, no network, no async runtime",
    },
    Layer {
        folder: "shared/replication",
        may_use: &["krossing-core"],
        must_not: CLIENTS,
        why: "the data path knows ports only, so that it runs on fakes, on a laptop and in the cloud",
    },
    Layer {
        folder: "shared/testkit",
        may_use: &["krossing-core"],
        must_not: CLIENTS,
        why: "fakes stand beside the real adapters, not on them",
    },
    Layer {
        folder: "shared/wire",
        may_use: &["krossing-core"],
        must_not: &["rdkafka"],
        why: "an adapter serves one capability; the two Kafka clients share nothing",
    },
    Layer {
        folder: "shared/witness",
        may_use: &["krossing-core"],
        must_not: &["kafka-protocol"],
        why: "a bug in the copier must not be able to hide in the checker",
    },
    Layer {
        folder: "shared/runtime",
        may_use: &["krossing-core", "krossing-aws", "krossing-local", "krossing-wire", "krossing-witness"],
        must_not: &[],
        why: "the edge chooses adapters and knows no phase",
    },
    Layer {
        folder: "shared/local",
        may_use: &["krossing-core"],
        must_not: CLIENTS,
        why: "an adapter serves one capability and knows no other",
    },
    Layer {
        folder: "shared/aws",
        may_use: &["krossing-core"],
        must_not: &["rdkafka", "kafka-protocol", "reqwest"],
        why: "an adapter serves one capability and knows no other",
    },
    Layer {
        folder: "functions/drive",
        may_use: &["krossing-core", "krossing-replication", "krossing-runtime", PHASES],
        must_not: CLIENTS,
        why: "the sequence of phases has one home, whoever runs it",
    },
    Layer {
        folder: "functions/cli",
        may_use: &["krossing-core", "krossing-replication", "krossing-runtime", PHASES],
        must_not: CLIENTS,
        why: "the command line runs phases; it has no way of its own to a cluster",
    },
    Layer { folder: "functions/plan", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer {
        folder: "functions/precheck",
        may_use: &["krossing-core", "krossing-replication", "krossing-runtime", "krossing-plan"],
        must_not: CLIENTS,
        why: "what is checked is the plan as it would be made now, and making it has one home",
    },
    Layer { folder: "functions/topology", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer { folder: "functions/worker", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer {
        folder: "functions/cutover",
        may_use: &["krossing-core", "krossing-replication", "krossing-runtime", "krossing-validate"],
        must_not: CLIENTS,
        why: "what is validated before producers stand still is validated in one place",
    },
    Layer { folder: "functions/client_switch", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer { folder: "functions/stragglers", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer { folder: "functions/validate", may_use: PHASE, must_not: CLIENTS, why: ONE_PHASE },
    Layer {
        folder: "functions/evidence",
        may_use: &["krossing-core", "krossing-runtime", "krossing-plan"],
        must_not: CLIENTS,
        why: "what is signed holds the plan, which is held against the journal in one place",
    },
    Layer {
        folder: "functions/finalize",
        may_use: &["krossing-core", "krossing-runtime", "krossing-evidence", "krossing-topology", "krossing-validate"],
        must_not: CLIENTS,
        why: "the end of a migration is a validation, the topics' planned settings and evidence, each with one home",
    },
    Layer {
        folder: "functions/rollback",
        may_use: &[
            "krossing-core",
            "krossing-replication",
            "krossing-runtime",
            "krossing-client-switch",
            "krossing-evidence",
            "krossing-plan",
            "krossing-topology",
        ],
        must_not: CLIENTS,
        why: "a migration that is given up ends with evidence like any other, and says what was made and who has switched",
    },
    Layer {
        folder: "functions/serverless",
        may_use: &["krossing-core", "krossing-replication", "krossing-runtime", PHASES],
        must_not: CLIENTS,
        why: "what runs on AWS drives phases by the same sequence as the command",
    },
    Layer { folder: "tests", may_use: &["*"], must_not: &[], why: "tests look at everything" },
    Layer { folder: "infra/xtask", may_use: &[], must_not: &[], why: "checks must build when the rest does not" },
];

/// In a row of [`LAYERS`]: every crate below `functions`.
const PHASES: &str = "(phases)";

/// The workspace's crates.
pub(super) fn crates(metadata: &Metadata, repository: &Path) -> anyhow::Result<Vec<Crate>> {
    let names = |package: &cargo_metadata::Package, test: bool| {
        let wanted = |kind| (kind == DependencyKind::Development) == test;
        package.dependencies.iter().filter(|d| wanted(d.kind)).map(|d| d.name.clone()).collect()
    };
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let folder = package.manifest_path.parent().context("a manifest has a folder")?.as_std_path();
            let folder = folder.strip_prefix(repository).context("a member outside the repository")?;
            Ok(Crate {
                name: package.name.to_string(),
                folder: folder.to_string_lossy().replace('\\', "/"),
                dependencies: names(package, false),
                test_dependencies: names(package, true),
            })
        })
        .collect()
}

/// Every edge that no layer allows.
pub(super) fn findings(crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in crates {
        let mut say = |what: String| findings.push(Finding { place: member.name.clone(), what });
        let Some(layer) = LAYERS.iter().find(|layer| fits(layer.folder, &member.folder)) else {
            say(format!("{} belongs to no layer; give it a row in arrows.rs", member.folder));
            continue;
        };
        for dependency in &member.dependencies {
            let ours = crates.iter().find(|other| &other.name == dependency);
            let refused = match ours {
                Some(ours) => !may_use(layer, ours),
                None => layer.must_not.iter().any(|pattern| fits(pattern, dependency)),
            };
            if refused {
                say(format!("must not depend on {dependency}: {}", layer.why));
            }
        }
        // Tests may use the fakes, and may be asynchronous.
        for dependency in &member.test_dependencies {
            let ours = crates.iter().find(|other| &other.name == dependency);
            if ours.is_some_and(|ours| ours.name != "krossing-testkit" && !may_use(layer, ours)) {
                say(format!("must not depend on {dependency}, not even in tests: {}", layer.why));
            }
        }
    }
    findings
}

fn may_use(layer: &Layer, other: &Crate) -> bool {
    layer.may_use.iter().any(|&pattern| match pattern {
        PHASES => fits("functions/*", &other.folder),
        pattern => fits(pattern, &other.name),
    })
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, dependencies: &[&str], test_dependencies: &[&str]) -> Crate {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let name = match folder {
            "infra/xtask" => "xtask".to_owned(),
            folder => format!("krossing-{}", folder.rsplit('/').next().expect("a last part")),
        };
        Crate {
            name,
            folder: folder.to_owned(),
            dependencies: owned(dependencies),
            test_dependencies: owned(test_dependencies),
        }
    }

    /// Whether `folder` may depend on these.
    fn check(folder: &str, dependencies: &[&str], test_dependencies: &[&str], allowed: bool) {
        let mut crates: Vec<_> = [
            "shared/core",
            "shared/wire",
            "shared/witness",
            "shared/local",
            "shared/runtime",
            "shared/replication",
            "shared/testkit",
            "functions/plan",
            "functions/precheck",
            "functions/topology",
            "functions/worker",
            "functions/cutover",
            "functions/validate",
            "functions/finalize",
            "functions/cli",
            "tests",
            "infra/xtask",
        ]
        .into_iter()
        .map(|folder| member(folder, &[], &[]))
        .collect();
        crates.retain(|other| other.folder != folder);
        crates.push(member(folder, dependencies, test_dependencies));
        let findings = findings(&crates);
        assert_eq!(findings.is_empty(), allowed, "{folder} -> {dependencies:?} {test_dependencies:?}: {findings:?}");
    }

    #[test]
    fn arrows_of_the_design_are_allowed() {
        check("shared/core", &["serde", "zstd"], &["proptest"], true);
        check("shared/replication", &["krossing-core", "tokio"], &["krossing-testkit"], true);
        check("shared/runtime", &["krossing-core", "krossing-wire", "krossing-witness", "krossing-local"], &[], true);
        check("functions/plan", &["krossing-core", "krossing-replication", "krossing-runtime"], &[], true);
        check("functions/cli", &["krossing-plan", "krossing-worker", "krossing-runtime"], &[], true);
        check("functions/cli", &["krossing-replication"], &[], true);
        check("tests", &["krossing-core", "krossing-wire", "rdkafka"], &["krossing-witness"], true);
    }

    #[test]
    fn a_phase_that_is_part_of_another_is_allowed_one_way() {
        check("functions/precheck", &["krossing-plan"], &[], true);
        check("functions/plan", &["krossing-precheck"], &[], false);
        check("functions/finalize", &["krossing-validate", "krossing-topology"], &[], true);
        check("functions/validate", &["krossing-finalize"], &[], false);
        check("functions/worker", &["krossing-cli"], &[], false);
    }

    #[test]
    fn rules_that_could_act_are_found() {
        for library in ["tokio", "rdkafka", "kafka-protocol", "aws-sdk-s3", "hyper-util"] {
            check("shared/core", &[library], &[], false);
        }
        check("shared/core", &["krossing-wire"], &[], false);
        check("shared/core", &[], &["krossing-wire"], false);
    }

    #[test]
    fn a_data_path_that_names_a_client_is_found() {
        for dependency in ["rdkafka", "kafka-protocol", "krossing-wire", "krossing-runtime"] {
            check("shared/replication", &[dependency], &[], false);
        }
    }

    #[test]
    fn clients_that_know_each_other_are_found() {
        check("shared/witness", &["krossing-wire"], &[], false);
        check("shared/witness", &["kafka-protocol"], &[], false);
        check("shared/wire", &["rdkafka"], &[], false);
    }

    #[test]
    fn phases_that_know_each_other_are_found() {
        check("functions/cutover", &["krossing-plan"], &[], false);
        check("functions/cutover", &["krossing-wire"], &[], false);
        check("functions/cli", &["krossing-wire"], &[], false);
        check("shared/runtime", &["krossing-plan"], &[], false);
        check("shared/local", &["krossing-wire"], &[], false);
    }

    #[test]
    fn fakes_in_a_build_and_crates_without_a_layer_are_found() {
        check("functions/plan", &["krossing-testkit"], &[], false);
        check("functions/plan", &[], &["krossing-testkit"], true);
        check("elsewhere/thing", &[], &[], false);
        check("functions/new", &[], &[], false);
    }
}
