//! What must not stand in a source file.
//!
//! Why plain text search: it is quick, it is understood at once, and what it cannot see (a macro that hides a clock)
//! nobody writes by accident. A line's comment is left out where a rule is about code.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Finding;

/// A text that must not appear.
struct Rule {
    /// What is searched for; any of them.
    texts: &'static [&'static str],
    /// Where it may stand nevertheless: files whose name begins so.
    except: &'static [&'static str],
    /// Whether comments count too.
    comments: bool,
    /// Whether tests count too.
    tests: bool,
    /// Why.
    why: &'static str,
}

// The searched texts are put together from two halves, so that this file does not break its own rules.
const RULES: &[Rule] = &[
    Rule {
        // A test may be told which seed or crash to play again.
        texts: &[concat!("std::env", "::"), concat!("env::", "var"), concat!("env::", "args")],
        except: &["shared/runtime/", "functions/cli/", "infra/xtask/", "tests/"],
        comments: false,
        tests: false,
        why: "only runtime and the command line read the environment: elsewhere it is an input that no test sees",
    },
    Rule {
        texts: &[
            concat!("SystemTime::", "now"),
            concat!("Timestamp::", "now"),
            concat!("Zoned::", "now"),
            concat!("UNIX_EPOCH.", "elapsed"),
        ],
        except: &["shared/runtime/", "infra/xtask/", "tests/"],
        comments: false,
        tests: true,
        why: "only runtime reads the wall clock: take a Clock, so that tests can turn it by hand",
    },
    Rule {
        // Adapters count their own timeouts; a worker's leases and budgets go by the port. A test of those needs some
        // instant to count from, and the type has no other.
        texts: &[concat!("Instant::", "now")],
        except: &[
            "shared/runtime/",
            "shared/wire/",
            "shared/witness/",
            "shared/local/",
            // Its instants are tokio's, of a clock that tests turn.
            "shared/testkit/",
            "functions/cli/",
            "infra/xtask/",
            "tests/",
        ],
        comments: false,
        tests: false,
        why: "leases and budgets are counted by the Clock port; only adapters time themselves",
    },
    Rule {
        texts: &[
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("XX", "X:"),
            concat!("todo", "!("),
            concat!("To be ", "written"),
        ],
        except: &[],
        comments: true,
        tests: true,
        why: "what is missing belongs to an issue, where somebody looks for it",
    },
    Rule {
        texts: &[concat!("/home", "/"), concat!("/Users", "/"), concat!("/root", "/"), concat!("/work", "/")],
        except: &[],
        comments: true,
        tests: true,
        why: "a path of one machine is wrong on every other",
    },
];

/// Lines of a source file above which it is remarked upon: more is rarely one thing.
const LINES_MAX: usize = 900;

/// Folders without sources of ours.
const SKIPPED: &[&str] = &["target", "node_modules", ".git", ".lab", ".mirror"];

/// Every Rust file of the repository, sorted.
pub(super) fn source_files(repository: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![repository.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                let name = entry.file_name();
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What is wrong in a file.
pub(super) fn findings(name: &str, content: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code_lines = if is_test_file(name) { 0 } else { lines_before_tests(content) };
    for rule in RULES.iter().filter(|rule| !rule.except.iter().any(|start| name.starts_with(start))) {
        let lines = if rule.tests { usize::MAX } else { code_lines };
        for (number, line) in content.lines().enumerate().take(lines) {
            let looked_at = if rule.comments { line } else { code(line) };
            if let Some(text) = rule.texts.iter().find(|text| holds(looked_at, text)) {
                let place = format!("{name}:{}", number + 1);
                findings.push(Finding { place, what: format!("{text:?}: {}", rule.why) });
            }
        }
    }
    findings
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// The tests of a file stand at its end.
fn lines_before_tests(content: &str) -> usize {
    content.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// A remark where a file is long.
pub(super) fn too_long(name: &str, content: &str) -> Option<Finding> {
    let lines = content.lines().count();
    (lines > LINES_MAX && name.contains("src/")).then(|| Finding {
        place: name.to_owned(),
        what: format!("{lines} lines: a file above {LINES_MAX} is rarely one thing"),
    })
}

/// The line without its comment; `//` behind a colon is a URL.
fn code(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Whether the text stands there as a whole: `MyInstant::now` is another thing than `Instant::now`, a path begins a
/// word. What follows does not matter.
fn holds(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.:/}".contains(c)))
        || line.contains(&format!("::{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a rule is broken by `line` in `name`.
    fn check(name: &str, line: &str, broken: usize) {
        let findings = findings(name, line);
        assert_eq!(findings.len(), broken, "{name}: {line}: {findings:?}");
    }

    #[test]
    fn the_environment_is_read_at_the_edge_only() {
        let line = concat!("let home = std::env", "::var(\"HOME\");");
        check("shared/core/src/plan.rs", line, 1);
        check("functions/plan/src/lib.rs", concat!("use std::env; env::", "var(\"A\")"), 1);
        check("shared/runtime/src/boot.rs", line, 0);
        check("functions/cli/src/main.rs", line, 0);
        check("shared/core/src/plan.rs", concat!("// unlike std::env", "::var"), 0);
        check("shared/core/src/plan.rs", concat!("env", "!(\"CARGO_MANIFEST_DIR\")"), 0);
    }

    #[test]
    fn the_wall_clock_is_read_at_the_edge_only() {
        for line in [
            concat!("let now = SystemTime::", "now();"),
            concat!("let now = std::time::SystemTime::", "now();"),
            concat!("jiff::Timestamp::", "now()"),
        ] {
            check("shared/wire/src/connection.rs", line, 1);
            check("shared/runtime/src/clock.rs", line, 0);
        }
    }

    #[test]
    fn leases_are_not_counted_by_a_clock_of_their_own() {
        let line = concat!("let begun = Instant::", "now();");
        check("shared/replication/src/lease.rs", line, 1);
        check("functions/cutover/src/lib.rs", concat!("tokio::time::Instant::", "now()"), 1);
        check("shared/wire/src/connection.rs", line, 0);
        check("functions/cutover/src/tests/world.rs", line, 0);
        check("shared/core/src/lease.rs", concat!("#[cfg(test)]\nmod tests {\n    Instant::", "now();\n}"), 0);
        check("shared/core/src/types.rs", concat!("let begun = MyInstant::", "now();"), 0);
    }

    #[test]
    fn what_is_missing_is_found_in_comments_too() {
        check("shared/core/src/plan.rs", concat!("// TO", "DO: later"), 1);
        check("shared/core/src/plan.rs", concat!("    todo", "!()"), 1);
        check("shared/core/src/plan.rs", concat!("//! To be ", "written."), 1);
        check("shared/core/src/plan.rs", "let mastodon = 1; // nothing", 0);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        check("tests/lab/lib.rs", concat!("let jars = \"/home", "/me/jars\";"), 1);
        check("tests/lab/lib.rs", concat!("let jars = \"", "/work", "/jars\";"), 1);
        check("tests/lab/lib.rs", "// https://host/root/and/work/", 0);
    }

    #[test]
    fn long_files_are_remarked_upon() {
        let long = "\n".repeat(LINES_MAX + 1);
        assert!(too_long("shared/core/src/plan.rs", &long).is_some());
        assert!(too_long("tests/hard/main.rs", &long).is_none());
        assert!(too_long("shared/core/src/plan.rs", &"\n".repeat(LINES_MAX)).is_none());
    }
}
