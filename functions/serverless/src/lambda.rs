//! A Lambda: JSON in, JSON out, an error by the name of its class.

use std::{pin::Pin, process::ExitCode, sync::Arc};

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{Environment, Failure};

/// Answers invocations with `handle` until the platform ends the process.
pub fn serve<F, R>(handle: F) -> ExitCode
where
    F: Fn(Arc<Environment>, Value) -> R,
    R: Future<Output = Result<Value, Failure>>,
{
    krossing_runtime::start_tracing();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "could not start");
            return ExitCode::FAILURE;
        }
    };
    // Read with the first invocation, so that what is wrong with it is an answer and not a process that will not start.
    let environment: OnceCell<Arc<Environment>> = OnceCell::new();
    let (environment, handle) = (&environment, &handle);
    let answer = service_fn(|event: LambdaEvent<Value>| async move {
        let read = async || Environment::read().await.map(Arc::new);
        let environment = environment.get_or_try_init(read).await?.clone();
        // Boxed: the compiler gives up on futures that are nested as deeply as a phase's.
        let turn: Pin<Box<dyn Future<Output = Result<Value, Failure>>>> = Box::pin(handle(environment, event.payload));
        let answer = turn.await;
        if let Err(failure) = &answer {
            tracing::warn!(class = failure.class.name(), failure.sentence, "failed");
        }
        answer
    });
    match runtime.block_on(lambda_runtime::run(answer)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the runtime interface of Lambda cannot be used");
            ExitCode::FAILURE
        }
    }
}
