//! Step Functions: task tokens and executions. And STS, which says who calls.

use aws_config::retry::RetryConfig;
use aws_sdk_sfn::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::ExecutionStatus,
};
use krossing_core::ports::{StoreError, StoreResult};
use serde_json::Value;

use crate::{
    Aws,
    config::Site,
    failure::{Kind, Place, failed},
};

/// The longest `cause` that Step Functions takes, in bytes.
const CAUSE_BYTES_MAX: usize = 32_768;

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// Nobody waits for this task any more: it was answered, it ran out of time, or its execution has ended.
    #[error("{attempt}: nobody waits for this task any more ({code})")]
    TokenGone {
        /// What was attempted.
        attempt: String,
        /// What Step Functions calls it.
        code: String,
    },
    /// Anything else.
    #[error(transparent)]
    Call(#[from] StoreError),
}

/// An execution, as Step Functions describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Its ARN.
    pub arn: String,
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED` or `PENDING_REDRIVE`.
    pub status: String,
    /// With what error it ended.
    pub error: Option<String>,
    /// Why.
    pub cause: Option<String>,
}

impl Execution {
    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.status == ExecutionStatus::Running.as_str()
    }
}

/// Executions and their tasks.
#[derive(Debug, Clone)]
pub struct Workflow {
    client: Client,
    site: Site,
}

impl Workflow {
    /// Where `aws` leads.
    pub fn new(aws: &Aws) -> Self {
        let site = aws.site();
        Self { client: aws.sfn(&site), site }
    }

    /// The task is still being worked on.
    pub async fn heartbeat(&self, token: &str) -> Result<(), WorkflowError> {
        let sent = self.client.send_task_heartbeat().task_token(token).send().await;
        sent.map(drop).map_err(|error| self.of_token("send a heartbeat", &error))
    }

    /// The task is done.
    pub async fn succeed(&self, token: &str, output: &Value) -> Result<(), WorkflowError> {
        let sent = self.client.send_task_success().task_token(token).output(output.to_string()).send().await;
        sent.map(drop).map_err(|error| self.of_token("answer a task", &error))
    }

    /// As `succeed`, asked only once: only so is it known of a task that nobody waits for any more that it has not taken
    /// this output.
    pub async fn succeed_once(&self, token: &str, output: &Value) -> Result<(), WorkflowError> {
        let once = aws_sdk_sfn::config::Builder::new().retry_config(RetryConfig::disabled());
        let request = self.client.send_task_success().task_token(token).output(output.to_string());
        let sent = request.customize().config_override(once).send().await;
        sent.map(drop).map_err(|error| self.of_token("answer a task", &error))
    }

    /// The task has failed. `error` is the name that the definition catches.
    pub async fn fail(&self, token: &str, error: &str, cause: &str) -> Result<(), WorkflowError> {
        let cause = &cause[..cause.floor_char_boundary(CAUSE_BYTES_MAX)];
        let sent = self.client.send_task_failure().task_token(token).error(error).cause(cause).send().await;
        sent.map(drop).map_err(|error| self.of_token("say that a task has failed", &error))
    }

    /// Starts an execution; `Conflict` where one of this name with another input was started before.
    pub async fn start(&self, state_machine: &str, name: &str, input: &Value) -> StoreResult<String> {
        let attempt = format!("start the execution {name} of {state_machine}");
        let request = self.client.start_execution().state_machine_arn(state_machine).name(name);
        match request.input(input.to_string()).send().await {
            Ok(started) => Ok(started.execution_arn().to_owned()),
            Err(error) if error.code() == Some("ExecutionAlreadyExists") => Err(StoreError::Conflict { attempt }),
            Err(error) => Err(failed(&attempt, &self.place(state_machine), &error)),
        }
    }

    /// How an execution stands; none where there is none.
    pub async fn execution(&self, arn: &str) -> StoreResult<Option<Execution>> {
        match self.client.describe_execution().execution_arn(arn).send().await {
            Ok(found) => Ok(Some(Execution {
                arn: arn.to_owned(),
                status: found.status().as_str().to_owned(),
                error: found.error().map(str::to_owned),
                cause: found.cause().map(str::to_owned),
            })),
            Err(error) if error.code() == Some("ExecutionDoesNotExist") => Ok(None),
            Err(error) => Err(failed("look at an execution", &self.place(arn), &error)),
        }
    }

    /// What an error is about: an execution, a state machine, or a task.
    fn place(&self, name: &str) -> Place {
        Place::Other { kind: Kind::Workflow, name: name.into(), site: self.site.clone() }
    }

    fn of_token<E>(&self, attempt: &str, error: &SdkError<E>) -> WorkflowError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error.code() {
            Some(code @ ("TaskTimedOut" | "TaskDoesNotExist" | "InvalidToken")) => {
                WorkflowError::TokenGone { attempt: attempt.to_owned(), code: code.to_owned() }
            }
            _ => WorkflowError::Call(failed(attempt, &self.place("a task"), error)),
        }
    }
}

/// Whose signature our calls bear: account and ARN, as STS says.
pub async fn caller(aws: &Aws) -> StoreResult<(String, String)> {
    let site = aws.site();
    let client = aws.sts(&site);
    let place = Place::Other { kind: Kind::Identity, name: "GetCallerIdentity".into(), site };
    let attempt = "ask who calls";
    let said = client.get_caller_identity().send().await.map_err(|error| failed(attempt, &place, &error))?;
    match (said.account(), said.arn()) {
        (Some(account), Some(arn)) => Ok((account.to_owned(), arn.to_owned())),
        _ => Err(StoreError::Damaged { attempt: attempt.to_owned(), detail: format!("{place}: no account or ARN") }),
    }
}
