//! What is said while a migration is driven.

use std::sync::Arc;

use krossing_core::{journal::JournalEntry, precheck::Finding};
use krossing_worker::View;

/// Whoever watches.
pub trait Voice: Send + Sync {
    /// An entry of the journal is stored.
    fn entry(&self, entry: &JournalEntry);
    /// Precheck found something.
    fn finding(&self, finding: &Finding);
    /// A step of the cutover begins.
    fn step(&self, at_unix_ms: i64, step: &str);
    /// Something that a person should know.
    fn advice(&self, text: &str);
    /// Lanes run: shows how far they are until what is answered is dropped.
    fn progress(&self, view: Arc<View>, watched: Watched) -> Shown;
    /// Whether anybody watches at all.
    fn is_heard(&self) -> bool {
        true
    }
}

/// Goes on showing until it is dropped.
pub type Shown = Box<dyn Send>;

/// What is being watched.
#[derive(Debug, Clone, Copy)]
pub enum Watched {
    /// The seed: bytes on the source's disks in all, and those that earlier attempts have copied.
    Seed {
        /// Bytes on the source's disks.
        bytes_total: u64,
        /// Bytes that earlier attempts have copied.
        bytes_before: u64,
    },
    /// The tail.
    Tail,
}

/// Nobody watches: whoever drives reads the journal.
pub const SILENT: &dyn Voice = &Silent;

struct Silent;

impl Voice for Silent {
    fn entry(&self, _: &JournalEntry) {}
    fn finding(&self, finding: &Finding) {
        tracing::info!(code = %finding.code, subject = %finding.subject, problem = %finding.problem, "finding");
    }
    fn step(&self, _: i64, _: &str) {}
    fn advice(&self, text: &str) {
        tracing::info!(text, "advice");
    }
    fn progress(&self, _: Arc<View>, _: Watched) -> Shown {
        Box::new(())
    }
    fn is_heard(&self) -> bool {
        false
    }
}

/// An error and its causes in one sentence each, none twice.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
