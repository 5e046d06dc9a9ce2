//! Producers' standstill, by whichever way the operator has configured.

use krossing_core::ports::{FreezeAnswer, FreezeError, ProducerFreeze};

use crate::{terminal::TerminalFreeze, webhook::WebhookFreeze};

/// The configured way.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Freeze {
    /// A program of the operator's.
    Webhook(WebhookFreeze),
    /// The operator.
    Terminal(TerminalFreeze),
}

impl ProducerFreeze for Freeze {
    async fn reach(&self) -> Result<(), FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.reach().await,
            Freeze::Terminal(terminal) => terminal.reach().await,
        }
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.freeze(expires_at_unix_ms).await,
            Freeze::Terminal(terminal) => terminal.freeze(expires_at_unix_ms).await,
        }
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.switch(bootstrap_servers).await,
            Freeze::Terminal(terminal) => terminal.switch(bootstrap_servers).await,
        }
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.unfreeze().await,
            Freeze::Terminal(terminal) => terminal.unfreeze().await,
        }
    }
}
