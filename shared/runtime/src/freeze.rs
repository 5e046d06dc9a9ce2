//! Producers' standstill, by whichever way the operator has configured.

use krossing_aws::Workflow;
use krossing_core::ports::{FreezeAnswer, FreezeError, ProducerFreeze};

use crate::{terminal::TerminalFreeze, webhook::WebhookFreeze};

/// Who has producers stand still.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum FreezeBy {
    /// A program of the operator's.
    Webhook(WebhookFreeze),
    /// The operator.
    Terminal(TerminalFreeze),
    /// The operator, who is not here now: what was decided at a gate.
    Gate(GateFreeze),
}

/// The configured way.
pub struct Freeze {
    /// Who is asked.
    pub by: FreezeBy,
    /// Asked to freeze only while this goes on: whoever has stopped it does not expect that any more.
    pub during: Option<RunningExecution>,
}

impl From<FreezeBy> for Freeze {
    fn from(by: FreezeBy) -> Self {
        Self { by, during: None }
    }
}

/// An execution, which may end meanwhile.
#[derive(Debug)]
pub struct RunningExecution {
    /// Where executions are.
    pub workflow: Workflow,
    /// Its ARN.
    pub execution: String,
}

impl RunningExecution {
    async fn goes_on(&self) -> Result<(), FreezeError> {
        let not = |detail| FreezeError { attempt: "having producers stand still".to_owned(), detail };
        match self.workflow.execution(&self.execution).await {
            Ok(Some(execution)) if execution.is_running() => Ok(()),
            Ok(_) => Err(not(format!("the execution {} has ended", self.execution))),
            Err(error) => Err(not(error.to_string())),
        }
    }
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
        match &self.by {
            FreezeBy::Webhook(webhook) => webhook.reach().await,
            FreezeBy::Terminal(terminal) => terminal.reach().await,
            FreezeBy::Gate(gate) => gate.reach().await,
        }
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        if let Some(execution) = &self.during {
            execution.goes_on().await?;
        }
        match &self.by {
            FreezeBy::Webhook(webhook) => webhook.freeze(expires_at_unix_ms).await,
            FreezeBy::Terminal(terminal) => terminal.freeze(expires_at_unix_ms).await,
            FreezeBy::Gate(gate) => gate.freeze(expires_at_unix_ms).await,
        }
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        match &self.by {
            FreezeBy::Webhook(webhook) => webhook.switch(bootstrap_servers).await,
            FreezeBy::Terminal(terminal) => terminal.switch(bootstrap_servers).await,
            FreezeBy::Gate(gate) => gate.switch(bootstrap_servers).await,
        }
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        match &self.by {
            FreezeBy::Webhook(webhook) => webhook.unfreeze().await,
            FreezeBy::Terminal(terminal) => terminal.unfreeze().await,
            FreezeBy::Gate(gate) => gate.unfreeze().await,
        }
    }
}
