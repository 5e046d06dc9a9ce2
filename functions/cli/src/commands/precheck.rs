//! `krossing precheck`: what stands in the way. Changes nothing on either cluster.

use std::path::Path;

use krossing_core::precheck::{Severity, blocks};
use krossing_runtime::connect::new_migration_id;
use serde_json::json;

use crate::{
    Outcome,
    arguments::{FindingsFormat, PrecheckArguments},
    session::{Look, begun_in},
    show,
};

pub(crate) async fn run(arguments: PrecheckArguments) -> anyhow::Result<Outcome> {
    let look = Look::open(&arguments.common, new_migration_id()).await?;
    let findings = krossing_precheck::run(&look.migration, None).await?.findings;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (blockers, warnings) = (count(Severity::Blocker), count(Severity::Warning));
    let text = match arguments.format {
        FindingsFormat::Text => {
            format!("{}blockers={blockers} warnings={warnings}", krossing_precheck::render_text(&findings))
        }
        FindingsFormat::Json => krossing_precheck::render_json(&findings),
    };
    show::event("findings", &json!({ "findings": findings }), &text);
    // A table holds what has begun by id only.
    let beside = look.place.folder().and_then(Path::parent);
    let begun = beside.map_or_else(Vec::new, begun_in);
    if blocks(&findings) && !begun.is_empty() {
        show::advice(&format!(
            "warning: precheck looks as if nothing had begun, and these have begun here: {}. What they have made on the \
             target is found as if it were foreign: delete nothing because of it; `krossing status` shows where they stand",
            begun.join(", ")
        ));
    }
    Ok(if blocks(&findings) { Outcome::Blocked } else { Outcome::Done })
}
