//! Rules that the compiler does not know. Each says why it is there, and each is tested on a sample that breaks it.
//!
//! Two kinds: [`arrows`] looks at which crate may depend on which, [`text`] at the lines of the sources. All findings
//! are shown at once, sorted. Long files are remarked upon and break nothing.

mod arrows;
mod text;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cargo_metadata::MetadataCommand;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// `file:line`, or a crate.
    place: String,
    /// What is wrong, and why it matters.
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// The folder of the checkout.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).expect("xtask is two folders below the repository").to_owned()
}

/// Looks at the whole workspace.
pub(crate) fn tidy() -> anyhow::Result<()> {
    let repository = repository();
    let metadata = MetadataCommand::new().current_dir(&repository).no_deps().exec().context("asking cargo")?;
    let mut findings = arrows::findings(&arrows::crates(&metadata, &repository)?);
    let mut long = Vec::new();
    for path in text::source_files(&repository)? {
        let name = path.strip_prefix(&repository).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let content = std::fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        findings.extend(text::findings(&name, &content));
        long.extend(text::too_long(&name, &content));
    }
    for remark in long {
        println!("remark: {remark}");
    }
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_workspace_is_tidy() {
        super::tidy().expect("the findings are printed above");
    }
}
