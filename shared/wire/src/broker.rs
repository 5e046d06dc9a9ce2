//! One broker, and the connections to it.
//!
//! Why several: a broker works on one request of a connection at a time. Ordinary calls share one; each Fetch, which may
//! wait at the broker for records, has one to itself; Produce has a few, each with a sender of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use krossing_core::{limits, types::BrokerId};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::{
    connection::{CallError, Connection},
    produce::Senders,
    security::Dialer,
};

pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    host: String,
    port: u16,
    dialer: Arc<Dialer>,
    control: tokio::sync::Mutex<Option<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<Dialing>,
    fetch_idle: Mutex<Vec<Connection>>,
    fetch_slots: Semaphore,
    pub(crate) senders: OnceCell<Senders>,
}

/// Back-off after a connection that could not be opened.
struct Dialing {
    not_before: Instant,
    pause: Duration,
}

impl Broker {
    pub(crate) fn new(id: BrokerId, host: String, port: u16, dialer: Arc<Dialer>) -> Self {
        Self {
            id,
            host,
            port,
            dialer,
            control: tokio::sync::Mutex::default(),
            dialing: tokio::sync::Mutex::new(Dialing { not_before: Instant::now(), pause: limits::RETRY_PAUSE }),
            fetch_idle: Mutex::default(),
            fetch_slots: Semaphore::new(limits::FETCH_CONNECTIONS_PER_BROKER),
            senders: OnceCell::new(),
        }
    }

    pub(crate) fn is_at(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port == port
    }

    /// The connection for ordinary calls, if there is one now.
    pub(crate) fn connected(&self) -> Option<Arc<Connection>> {
        self.control.try_lock().ok()?.clone().filter(|connection| connection.usable())
    }

    /// The connection for ordinary calls.
    pub(crate) async fn control(&self) -> Result<Arc<Connection>, CallError> {
        let mut control = self.control.lock().await;
        if let Some(connection) = control.as_ref().filter(|connection| connection.usable()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self.dial().await?);
        *control = Some(connection.clone());
        Ok(connection)
    }

    /// A new connection. After failures it waits a little first, so that a broker that is coming up is not stormed.
    pub(crate) async fn dial(&self) -> Result<Connection, CallError> {
        let not_before = self.dialing.lock().await.not_before;
        tokio::time::sleep_until(not_before.into()).await;
        let opened = Connection::open(&self.dialer, &self.host, self.port).await;
        let mut dialing = self.dialing.lock().await;
        match &opened {
            Ok(_) => dialing.pause = limits::RETRY_PAUSE,
            Err(error) => {
                tracing::debug!(broker = %self.id, ?error, "no connection");
                dialing.not_before = Instant::now() + dialing.pause;
                dialing.pause = (dialing.pause * 2).min(limits::RETRY_PAUSE_MAX);
            }
        }
        opened
    }

    /// A connection for one Fetch, nobody else's until it is given back. Not given back (an error, a caller that went
    /// away) it is closed.
    pub(crate) async fn fetch_connection(&self) -> Result<FetchConnection<'_>, CallError> {
        let closed = |_| CallError::NotSent("the client is shutting down".to_owned());
        let permit = self.fetch_slots.acquire().await.map_err(closed)?;
        let idle = {
            let mut idle = self.idle();
            idle.retain(Connection::usable);
            idle.pop()
        };
        let connection = match idle {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        Ok(FetchConnection { broker: self, connection, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.fetch_idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Broker::fetch_connection`].
pub(crate) struct FetchConnection<'a> {
    broker: &'a Broker,
    pub(crate) connection: Connection,
    _permit: SemaphorePermit<'a>,
}

impl FetchConnection<'_> {
    pub(crate) fn give_back(self) {
        self.broker.idle().push(self.connection);
    }
}
