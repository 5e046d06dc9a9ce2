//! `krossing precheck`: what stands in the way. Changes nothing on either cluster.

use krossing_core::precheck::{Severity, blocks};
use krossing_runtime::connect::{new_migration_id, read_config};
use serde_json::json;

use crate::{
    Outcome,
    arguments::{FindingsFormat, PrecheckArguments},
    session::{Look, begun_in},
    show,
};

pub(crate) async fn run(arguments: PrecheckArguments) -> anyhow::Result<Outcome> {
    let config = read_config(&arguments.common.config)?;
    let look = Look::open(&arguments.common, config, new_migration_id())?;
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
    let begun = begun_in(arguments.common.journal_dir.as_ref().unwrap_or(&look.migration.config.evidence.directory));
    if blocks(&findings) && !begun.is_empty() {
        show::advice(&format!(
            "warning: precheck looks as if nothing had begun, and these have begun here: {}. What they have made on the \
             target is found as if it were foreign: delete nothing because of it; `krossing status` shows where they stand",
            begun.join(", ")
        ));
    }
    Ok(if blocks(&findings) { Outcome::Blocked } else { Outcome::Done })
}
