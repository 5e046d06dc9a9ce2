//! Tokens of IAM for both Kafka clients.
//!
//! One is used for a while, by all connections of a cluster: brokers end a session with its token, so that both clients
//! come for the next one in time (`wire` before its connection retires, librdkafka after four fifths of its life).

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use krossing_aws::{IamToken, IamTokens};
use krossing_core::{limits::IAM_TOKEN_REUSE, ports::Clock as _};
use tokio::{runtime::Handle, sync::Mutex};

use crate::SystemClock;

/// A cluster's tokens. Clones share them.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<Shared>);

struct Shared {
    tokens: IamTokens,
    /// The last one, and when it was made.
    last: Mutex<Option<(IamToken, i64)>>,
    /// For librdkafka, which asks from a thread that knows no runtime.
    runtime: Handle,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tokens").field(&self.0.tokens).finish()
    }
}

impl Tokens {
    /// Must be called within a runtime.
    pub(crate) fn new(tokens: IamTokens) -> Self {
        Self(Arc::new(Shared { tokens, last: Mutex::default(), runtime: Handle::current() }))
    }

    async fn current(&self) -> Result<IamToken, String> {
        let mut last = self.0.last.lock().await;
        let now = SystemClock.unix_ms();
        let reuse = i64::try_from(IAM_TOKEN_REUSE.as_millis()).expect("a minute");
        match &*last {
            Some((token, made)) if (0..reuse).contains(&(now - made)) && token.expires_unix_ms - now > reuse => {
                Ok(token.clone())
            }
            Some(_) | None => {
                let token = self.0.tokens.token(now).await?;
                *last = Some((token.clone(), now));
                Ok(token)
            }
        }
    }
}

impl krossing_wire::TokenSource for Tokens {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async { self.current().await.map(|token| token.text) })
    }
}

impl krossing_witness::TokenSource for Tokens {
    fn token(&self) -> Result<krossing_witness::Token, String> {
        let token = self.0.runtime.block_on(self.current())?;
        Ok(krossing_witness::Token { text: token.text, expires_unix_ms: token.expires_unix_ms })
    }
}
