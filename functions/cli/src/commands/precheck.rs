//! `krossing precheck`: what stands in the way. Changes nothing on either cluster.

use krossing_core::precheck::blocks;
use krossing_runtime::connect::{new_migration_id, read_config};
use serde_json::json;

use crate::{
    Outcome,
    arguments::{FindingsFormat, PrecheckArguments},
    session::Look,
    show,
};

pub(crate) async fn run(arguments: PrecheckArguments) -> anyhow::Result<Outcome> {
    let config = read_config(&arguments.common.config)?;
    let look = Look::open(&arguments.common, config, new_migration_id())?;
    let findings = krossing_precheck::run(&look.migration, None).await?.findings;
    let text = match arguments.format {
        FindingsFormat::Text => krossing_precheck::render_text(&findings),
        FindingsFormat::Json => krossing_precheck::render_json(&findings),
    };
    show::event("findings", &json!({ "findings": findings }), &text);
    Ok(if blocks(&findings) { Outcome::Blocked } else { Outcome::Done })
}
