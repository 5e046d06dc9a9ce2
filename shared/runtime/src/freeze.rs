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
    /// The operator, who is not here now: what was decided at a gate.
    Gate(GateFreeze),
}

/// What an operator said at a gate: in a process that nobody watches, nothing else can be asked.
#[derive(Debug, Default)]
pub struct GateFreeze {
    /// Who said that producers stand still; none where nobody did.
    pub frozen_by: Option<String>,
}

impl GateFreeze {
    fn told(what: &str) -> FreezeAnswer {
        FreezeAnswer { confirmed: false, detail: format!("the operator is told that {what}") }
    }
}

impl ProducerFreeze for GateFreeze {
    async fn reach(&self) -> Result<(), FreezeError> {
        Ok(())
    }

    async fn freeze(&self, _: i64) -> Result<FreezeAnswer, FreezeError> {
        match &self.frozen_by {
            Some(by) => Ok(FreezeAnswer { confirmed: true, detail: format!("says {by}") }),
            None => Err(FreezeError {
                attempt: "having producers stand still".to_owned(),
                detail: "nobody has said that they do: answer `frozen` at the gate, or configure \
                         cutover.producer_freeze_webhook"
                    .to_owned(),
            }),
        }
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        Ok(Self::told(&format!("clients are to go on on {}", bootstrap_servers.join(","))))
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        Ok(Self::told("producers may go on"))
    }
}

impl ProducerFreeze for Freeze {
    async fn reach(&self) -> Result<(), FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.reach().await,
            Freeze::Terminal(terminal) => terminal.reach().await,
            Freeze::Gate(gate) => gate.reach().await,
        }
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.freeze(expires_at_unix_ms).await,
            Freeze::Terminal(terminal) => terminal.freeze(expires_at_unix_ms).await,
            Freeze::Gate(gate) => gate.freeze(expires_at_unix_ms).await,
        }
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.switch(bootstrap_servers).await,
            Freeze::Terminal(terminal) => terminal.switch(bootstrap_servers).await,
            Freeze::Gate(gate) => gate.switch(bootstrap_servers).await,
        }
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        match self {
            Freeze::Webhook(webhook) => webhook.unfreeze().await,
            Freeze::Terminal(terminal) => terminal.unfreeze().await,
            Freeze::Gate(gate) => gate.unfreeze().await,
        }
    }
}
