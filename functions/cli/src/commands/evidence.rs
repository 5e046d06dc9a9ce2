//! `krossing evidence verify`: checks a signed document without a cluster, a network or a configuration.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use krossing_core::{
    evidence::{StoredObject, Verified, verify},
    offset_map::sha256_hex,
};
use krossing_runtime::path_of;
use serde_json::json;

use crate::{Outcome, arguments::VerifyArguments, show};

pub(crate) fn run(arguments: &VerifyArguments) -> anyhow::Result<Outcome> {
    let file = &arguments.file;
    let document = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    let verified =
        verify(&document, arguments.key_id.as_deref()).with_context(|| format!("{} proves nothing", file.display()))?;
    show::event("verified", &verified, &lines(&verified, arguments.key_id.is_some()).join("\n"));
    if let Some(folder) = &arguments.objects {
        check_objects(folder, &verified.objects)?;
        let objects = verified.objects.len();
        let text = format!("objects: {objects} beside it are as they were signed");
        show::event("objects", &json!({ "as_signed": objects }), &text);
    }
    Ok(Outcome::Done)
}

fn lines(verified: &Verified, trusted: bool) -> Vec<String> {
    let signer = if trusted { "the key that was asked for" } else { "compare it with the key you trust" };
    let mut lines = vec![
        format!("signature: good, by {} ({signer})", verified.key_id),
        format!("migration: {} ended as {}", verified.migration_id, verified.outcome),
        format!("signed_at: {}", show::time(verified.signed_unix_ms)),
        format!(
            "journal: {} entries, whole and chained, last hash {}",
            verified.journal_entries, verified.journal_hash
        ),
    ];
    lines.extend(
        verified
            .decisions
            .iter()
            .map(|decided| format!("decided: {} by {}, {}", show::time(decided.at_unix_ms), decided.by, decided.what)),
    );
    if let Some(validation) = &verified.validation {
        lines.push(format!("validation: {validation}"));
    }
    lines.extend(verified.objects.iter().map(|object| format!("object: {} sha256 {}", object.key, object.sha256)));
    lines
}

/// An object as a folder keeps it, where capitals are spelled otherwise, or as it was brought from a bucket.
fn read(folder: &Path, key: &str) -> std::io::Result<Vec<u8>> {
    let kept = fs::read(folder.join(path_of(key)));
    kept.or_else(|error| fs::read(folder.join(key)).map_err(|_| error))
}

fn check_objects(folder: &Path, objects: &[StoredObject]) -> anyhow::Result<()> {
    let wrong: Vec<String> = objects
        .iter()
        .filter_map(|object| match read(folder, &object.key) {
            Ok(content) if sha256_hex(&content) == object.sha256 => None,
            Ok(content) => Some(format!("{} is another: its SHA-256 is {}", object.key, sha256_hex(&content))),
            Err(error) => Some(format!("{} cannot be read: {error}", object.key)),
        })
        .collect();
    if !wrong.is_empty() {
        bail!("what is stored beside it is not as it was signed: {}", wrong.join("; "));
    }
    Ok(())
}
