//! `krossing precheck`: what stands in the way. Changes nothing on either cluster.

use krossing_core::{
    limits::CALL_RETRY_MAX,
    precheck::{Severity, blocks},
};
use krossing_runtime::connect::{new_migration_id, saying_what_is_waited_for};
use serde_json::json;

use crate::{
    Outcome,
    arguments::{FindingsFormat, PrecheckArguments},
    session::{Look, warn_of_others},
    show,
};

pub(crate) async fn run(arguments: PrecheckArguments) -> anyhow::Result<Outcome> {
    let look = Look::open(&arguments.common, new_migration_id()).await?;
    let looked = krossing_precheck::run(&look.migration, None);
    let findings = saying_what_is_waited_for(&look.migration, CALL_RETRY_MAX, show::advice, looked).await?.findings;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (blockers, warnings) = (count(Severity::Blocker), count(Severity::Warning));
    let text = match arguments.format {
        FindingsFormat::Text => {
            format!("{}blockers={blockers} warnings={warnings}", krossing_precheck::render_text(&findings))
        }
        FindingsFormat::Json => krossing_precheck::render_json(&findings),
    };
    show::event("findings", &json!({ "findings": findings }), &text);
    if blocks(&findings) {
        warn_of_others(&look.place, "precheck looks as if nothing had begun");
    }
    Ok(if blocks(&findings) { Outcome::Blocked } else { Outcome::Done })
}
