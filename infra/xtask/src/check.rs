//! What must hold before a change is pushed. All stages run, whatever one of them says: a developer wants the whole
//! list at once. The cheap ones come first.

use anyhow::bail;

use crate::{
    stage::{cargo, line, timed},
    tidy,
};

/// Runs every stage and prints its seconds.
pub(crate) fn check() -> anyhow::Result<()> {
    let stages: [(&str, &dyn Fn() -> anyhow::Result<()>); 4] = [
        ("fmt", &|| cargo(&["fmt", "--all", "--check"], &[])),
        ("tidy", &tidy::tidy),
        ("clippy", &|| cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])),
        ("doc", &|| cargo(&["doc", "--quiet", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])),
    ];
    let mut failed = Vec::new();
    for (name, stage) in stages {
        let (outcome, took) = timed(stage);
        println!("{}", line("check", name, &outcome, took));
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not in order: {}", failed.join(", "));
    }
    Ok(())
}
