//! Who looks after a group or a transactional id.
//!
//! Looked up in bulk where brokers can, remembered, and looked up again when a broker says that it is somebody else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
};

use kafka_protocol::messages::FindCoordinatorRequest;
use krossing_core::{error::KafkaCode, ports::ClusterResult, types::BrokerId};

use crate::{
    api::Api,
    cluster::{CoordinatorKind, Inner, Retry, check_code, coordinator_moved, wire_str},
    connection::{CallError, Connection},
};

impl Inner {
    fn remembered(&self) -> MutexGuard<'_, HashMap<(CoordinatorKind, String), BrokerId>> {
        self.coordinators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The coordinators of many keys, each or its code.
    pub(crate) async fn coordinators_of(
        &self,
        kind: CoordinatorKind,
        keys: &[String],
    ) -> Result<BTreeMap<String, Result<BrokerId, CallError>>, CallError> {
        let (mut found, unknown) = {
            let remembered = self.remembered();
            let look = |key: &String| (key.clone(), remembered.get(&(kind, key.clone())).copied());
            let (found, unknown): (Vec<_>, Vec<_>) = keys.iter().map(look).partition(|(_, broker)| broker.is_some());
            let found: BTreeMap<_, _> =
                found.into_iter().filter_map(|(key, broker)| Some((key, Ok(broker?)))).collect();
            (found, unknown.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
        };
        if !unknown.is_empty() {
            let asked = self.find_coordinators(kind, &unknown).await?;
            // A coordinator may be a broker that joined since metadata was last read.
            if asked.values().flatten().any(|id| self.broker(*id).is_err()) {
                self.metadata(Some(&[])).await?;
            }
            let mut remembered = self.remembered();
            for (key, broker) in &asked {
                if let Ok(broker) = broker {
                    remembered.insert((kind, key.clone()), *broker);
                }
            }
            found.extend(asked);
        }
        match keys.iter().find(|key| !found.contains_key(*key)) {
            Some(missing) => Err(CallError::NotUnderstood(format!("no coordinator is named for {missing:?}"))),
            None => Ok(found),
        }
    }

    async fn find_coordinators(
        &self,
        kind: CoordinatorKind,
        keys: &[String],
    ) -> Result<BTreeMap<String, Result<BrokerId, CallError>>, CallError> {
        let connection = self.any_connection().await?;
        let key_type = match kind {
            CoordinatorKind::Group => 0,
            CoordinatorKind::Transaction => 1,
        };
        let request = FindCoordinatorRequest::default().with_key_type(key_type);
        let mut found = BTreeMap::new();
        if connection.version::<FindCoordinatorRequest>()? >= 4 {
            let request = request.with_coordinator_keys(keys.iter().map(|key| wire_str(key)).collect());
            for c in connection.call(&request).await?.coordinators {
                let broker = check_code(c.error_code, c.error_message.as_ref()).map(|()| BrokerId(c.node_id.0));
                found.insert(c.key.as_str().to_owned(), broker);
            }
        } else {
            for key in keys {
                let c = connection.call(&request.clone().with_key(wire_str(key))).await?;
                let broker = check_code(c.error_code, c.error_message.as_ref()).map(|()| BrokerId(c.node_id.0));
                found.insert(key.clone(), broker);
            }
        }
        Ok(found)
    }

    pub(crate) fn forget_coordinator(&self, kind: CoordinatorKind, key: &str) {
        self.remembered().remove(&(kind, key.to_owned()));
    }

    async fn coordinator(&self, kind: CoordinatorKind, key: &str) -> Result<Arc<Connection>, CallError> {
        let key = key.to_owned();
        let mut found = self.coordinators_of(kind, std::slice::from_ref(&key)).await?;
        let none = || Err(CallError::Code(KafkaCode::COORDINATOR_NOT_AVAILABLE, String::new()));
        self.connection(found.remove(&key).unwrap_or_else(none)?).await
    }

    /// One call to the coordinator of `key`, tried again while it cannot be answered. `check` looks at the answer's
    /// codes.
    pub(crate) async fn ask_coordinator<R: Api + Sync>(
        &self,
        kind: CoordinatorKind,
        key: &str,
        mut retry: Retry,
        request: &R,
        check: impl Fn(&R::Response) -> Result<(), CallError> + Send + Sync,
    ) -> ClusterResult<R::Response>
    where
        R::Response: Send + Sync,
    {
        loop {
            let asked = async {
                let answer = self.coordinator(kind, key).await?.call(request).await?;
                check(&answer)?;
                Ok(answer)
            };
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let elsewhere = match &error {
                        CallError::NotSent(_) | CallError::Lost(_) => true,
                        CallError::Code(code, _) => coordinator_moved(*code),
                        CallError::NotAllowed(_) | CallError::NotOffered(_) | CallError::NotUnderstood(_) => false,
                    };
                    if elsewhere {
                        self.forget_coordinator(kind, key);
                    }
                    retry.again(error).await?;
                }
            }
        }
    }
}
