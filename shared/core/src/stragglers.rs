//! Records that reached the source behind where it was closed.

use serde::{Deserialize, Serialize};

use crate::types::{Offset, Producer};

/// The first record behind where a partition was closed, and who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayRecord {
    /// Its offset on the source.
    pub offset: Offset,
    /// Its producer; none where its batch carries no producer's id.
    pub producer: Option<Producer>,
}

impl StrayRecord {
    /// Who wrote it, as the end of a sentence.
    pub fn by(&self) -> String {
        self.producer.map_or_else(String::new, |producer| format!(" (of {producer})"))
    }
}
