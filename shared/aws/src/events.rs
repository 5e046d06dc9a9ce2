//! What others are told: events on a bus of EventBridge.

use std::sync::Arc;

use aws_sdk_eventbridge::{Client, types::PutEventsRequestEntry};
use krossing_core::ports::{StoreError, StoreResult};

use crate::{
    Aws,
    failure::{Kind, Place, failed},
};

/// All events are of this source.
const SOURCE: &str = "krossing";

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What kind, as rules match it.
    pub detail_type: &'static str,
    /// What happened.
    pub detail: serde_json::Value,
}

/// A bus.
#[derive(Debug, Clone)]
pub struct EventBus {
    client: Client,
    name: Arc<str>,
    place: Place,
}

impl EventBus {
    /// The bus of this name.
    pub fn new(aws: &Aws, name: &str) -> Self {
        let site = aws.site();
        let client = aws.eventbridge(&site);
        Self { client, name: name.into(), place: Place::Other { kind: Kind::Bus, name: name.into(), site } }
    }

    /// Puts an event on the bus. It may arrive twice where an answer was lost.
    pub async fn put(&self, event: &Event) -> StoreResult<()> {
        let attempt = "put an event".to_owned();
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&*self.name)
            .source(SOURCE)
            .detail_type(event.detail_type)
            .detail(event.detail.to_string())
            .build();
        let put = self.client.put_events().entries(entry).send().await;
        let put = put.map_err(|error| failed(&attempt, &self.place, &error))?;
        match put.entries().iter().find(|entry| entry.error_code().is_some()) {
            None => Ok(()),
            Some(entry) => {
                let said = |text: Option<&str>| text.unwrap_or_default().to_owned();
                let detail = format!("{}: {} {}", self.place, said(entry.error_code()), said(entry.error_message()));
                Err(StoreError::Unavailable { attempt, detail })
            }
        }
    }
}
