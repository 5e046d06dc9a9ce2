//! What must hold before a change is pushed. All stages run, whatever one of them says: a developer wants the whole
//! list at once. The cheap ones come first.

use std::{env, process::Command, time::Instant};

use anyhow::{Context, bail};

use crate::tidy;

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
        let begun = Instant::now();
        let outcome = stage();
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("check {name:<8} {verdict:<6} {:6.1} s", begun.elapsed().as_secs_f32());
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

fn cargo(arguments: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<()> {
    // The cargo that runs us, so that a toolchain chosen on the command line is used throughout.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let line = format!("cargo {}", arguments.join(" "));
    let status = Command::new(cargo)
        .args(arguments)
        .envs(settings.iter().copied())
        .current_dir(tidy::repository())
        .status()
        .with_context(|| format!("starting {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}
