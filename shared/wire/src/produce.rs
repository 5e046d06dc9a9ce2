//! Appending to logs.
//!
//! Why senders: with replicas a broker answers a Produce only when all are in step, and takes the next of a connection
//! after that; what decides is how much travels in one request. So each broker has a few connections with a sender
//! each, a partition keeps to one of them, and a sender takes everything that has come together since its last request
//! was answered, one batch a partition.
//!
//! Invariants: one request in flight per connection, so batches of a partition never overtake each other. No batch is
//! sent after its `send_before`, looked at when the bytes are handed to the socket. Nothing is sent twice: what became
//! of a batch is one of four outcomes, and `NotAppended` is said only where it is certain. An answer must name exactly
//! the partitions asked.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use kafka_protocol::messages::{
    ProduceRequest as WireProduceRequest, ProduceResponse,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{LogWriter, ProduceOutcome, ProduceRequest},
    types::TopicPartition,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    broker::Broker,
    cluster::{WireCluster, by_topic, text, wire_topic},
    connection::{CallError, CallOptions, Connection},
    read::{exactly, millis},
};

/// The queues of one broker's senders.
pub(crate) type Senders = Vec<mpsc::Sender<Item>>;

/// One batch on its way.
pub(crate) struct Item {
    request: ProduceRequest,
    outcome: oneshot::Sender<ProduceOutcome>,
}

impl LogWriter for WireCluster {
    async fn produce(&self, request: ProduceRequest) -> ProduceOutcome {
        let partition = request.partition.clone();
        let outcome = match self.sender_for(&partition).await {
            Ok(sender) => {
                let (reply, outcome) = oneshot::channel();
                match sender.send(Item { request, outcome: reply }).await {
                    Ok(()) => outcome.await.unwrap_or_else(|_| unknown("the sender has ended")),
                    Err(_) => not_appended("the sender has ended"),
                }
            }
            Err(reason) => not_appended(reason),
        };
        match &outcome {
            ProduceOutcome::Appended { .. } => {}
            // Whatever it was, the leader may be another by now.
            ProduceOutcome::NotAppended { .. } | ProduceOutcome::Unknown { .. } | ProduceOutcome::Refused { .. } => {
                self.0.forget_leaders(&partition.topic);
            }
        }
        outcome
    }
}

impl WireCluster {
    async fn sender_for(&self, partition: &TopicPartition) -> Result<mpsc::Sender<Item>, String> {
        let attempt = format!("find the leader of {partition}");
        let leaders = self.0.leaders_of(&attempt, std::slice::from_ref(partition), false).await;
        let leader = match leaders.map(|mut leaders| leaders.remove(partition)) {
            Ok(Some(Ok(leader))) => leader,
            Ok(Some(Err(code))) => return Err(format!("{attempt}: {code}")),
            Ok(None) => return Err(format!("{attempt}: nothing is said about it")),
            Err(error) => return Err(error.to_string()),
        };
        let broker = self.0.broker(leader.broker).map_err(|error| format!("{attempt}: {error:?}"))?;
        let senders = broker.senders.get_or_init(async || start_senders(&broker)).await;
        let mut hasher = DefaultHasher::new();
        partition.hash(&mut hasher);
        let index = (hasher.finish() % limits::PRODUCE_CONNECTIONS_PER_BROKER as u64) as usize;
        Ok(senders[index].clone())
    }
}

fn start_senders(broker: &Arc<Broker>) -> Senders {
    let start = |_| {
        let (sender, queue) = mpsc::channel(limits::PRODUCE_QUEUE_MAX);
        // Weak: the queues live in the broker, and end with it.
        tokio::spawn(send(Arc::downgrade(broker), queue));
        sender
    };
    (0..limits::PRODUCE_CONNECTIONS_PER_BROKER).map(start).collect()
}

async fn send(broker: std::sync::Weak<Broker>, mut queue: mpsc::Receiver<Item>) {
    let mut waiting: VecDeque<Item> = VecDeque::new();
    let mut connection: Option<Connection> = None;
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(item) => waiting.push_back(item),
                None => return,
            }
        }
        while waiting.len() < limits::PRODUCE_QUEUE_MAX
            && let Ok(item) = queue.try_recv()
        {
            waiting.push_back(item);
        }
        let items = take_request(&mut waiting);
        if connection.as_ref().is_none_or(|connection| !connection.usable()) {
            let opened = match broker.upgrade() {
                Some(broker) => broker.dial().await,
                None => Err(CallError::NotSent("the broker has moved".to_owned())),
            };
            match opened {
                Ok(opened) => connection = Some(opened),
                Err(error) => {
                    // Nothing was sent, whatever the reason.
                    settle_all(items, &not_appended(format!("{error:?}")));
                    continue;
                }
            }
        }
        if let Some(ready) = &connection {
            append(ready, items).await;
        }
    }
}

/// What travels together: the oldest batches first, one a partition, up to the request's size.
fn take_request(waiting: &mut VecDeque<Item>) -> Vec<Item> {
    let mut taken = Vec::new();
    let mut left = VecDeque::new();
    let mut partitions = HashSet::new();
    let mut bytes = 0;
    for item in waiting.drain(..) {
        let size = item.request.batch.len();
        let fits = taken.is_empty() || bytes + size <= limits::PRODUCE_REQUEST_BYTES_MAX;
        // A partition whose earlier batch stays behind stays behind too: they must not change places.
        if partitions.insert(item.request.partition.clone()) && fits {
            bytes += size;
            taken.push(item);
        } else {
            left.push_back(item);
        }
    }
    *waiting = left;
    taken
}

/// A caller that has gone away no longer owns its partition: what it left here would be a stray batch.
fn still_wanted(items: Vec<Item>) -> Vec<Item> {
    items.into_iter().filter(|item| !item.outcome.is_closed()).collect()
}

async fn append(connection: &Connection, items: Vec<Item>) {
    let now = Instant::now();
    let items = still_wanted(items);
    let (items, late): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| now < item.request.send_before);
    settle_all(late, &not_appended("its lease ended before it was sent"));
    let Some(send_before) = items.iter().map(|item| item.request.send_before).min() else { return };
    let options = CallOptions {
        send_before: Some(send_before),
        wait_max: limits::PRODUCE_REPLICAS_WAIT_MAX + limits::REQUEST_WAIT_MAX,
        ..CallOptions::default()
    };
    let answer = connection.call_with(&wire_produce(&items), options).await;
    let outcomes = answer.and_then(|answer| outcomes(&items, answer));
    match outcomes {
        Ok(mut outcomes) => {
            for item in items {
                let outcome = outcomes.remove(&item.request.partition);
                settle(item, outcome.unwrap_or_else(|| unknown("nothing is said about it")));
            }
        }
        Err(CallError::NotSent(reason)) => settle_all(items, &not_appended(reason)),
        Err(error) => settle_all(items, &unknown(format!("{error:?}"))),
    }
}

fn wire_produce(items: &[Item]) -> WireProduceRequest {
    let batches = items.iter().map(|item| (&item.request.partition, &item.request.batch));
    let topics = by_topic(batches).into_iter().map(|(topic, batches)| {
        let batches = batches.into_iter().map(|(number, batch)| {
            PartitionProduceData::default().with_index(number).with_records(Some(batch.clone()))
        });
        TopicProduceData::default().with_name(wire_topic(topic)).with_partition_data(batches.collect())
    });
    WireProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(millis(limits::PRODUCE_REPLICAS_WAIT_MAX))
        .with_topic_data(topics.collect())
}

fn outcomes(items: &[Item], answer: ProduceResponse) -> Result<BTreeMap<TopicPartition, ProduceOutcome>, CallError> {
    let mut outcomes = BTreeMap::new();
    for topic in answer.responses {
        for p in topic.partition_responses {
            let partition = TopicPartition::new(topic.name.as_str(), p.index);
            let detail = text(p.error_message.as_ref());
            outcomes.insert(partition, outcome(p.error_code, p.base_offset, detail));
        }
    }
    exactly(items.iter().map(|item| &item.request.partition), &outcomes)?;
    Ok(outcomes)
}

/// What a broker's answer about one batch means (acks=all).
fn outcome(code: i16, base_offset: i64, detail: String) -> ProduceOutcome {
    let Some(code) = KafkaCode::from_wire(code) else {
        return if base_offset >= 0 {
            ProduceOutcome::Appended { base_offset }
        } else {
            unknown(format!("appended at offset {base_offset}"))
        };
    };
    match code {
        // Looked at before anything is appended; every other code that passes with time may come after.
        KafkaCode::NOT_ENOUGH_REPLICAS => not_appended(code.to_string()),
        KafkaCode::CORRUPT_MESSAGE
        | KafkaCode::MESSAGE_TOO_LARGE
        | KafkaCode::INVALID_TOPIC_EXCEPTION
        | RECORD_LIST_TOO_LARGE
        | KafkaCode::TOPIC_AUTHORIZATION_FAILED
        | KafkaCode::CLUSTER_AUTHORIZATION_FAILED
        | KafkaCode::INVALID_TIMESTAMP
        | KafkaCode::UNSUPPORTED_VERSION
        | KafkaCode::INVALID_REQUEST
        | UNSUPPORTED_FOR_MESSAGE_FORMAT
        | KafkaCode::POLICY_VIOLATION
        | KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | KafkaCode::INVALID_PRODUCER_EPOCH
        | KafkaCode::INVALID_TXN_STATE
        | KafkaCode::INVALID_PRODUCER_ID_MAPPING
        | KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | KafkaCode::UNKNOWN_PRODUCER_ID
        | KafkaCode::INVALID_RECORD
        | KafkaCode::PRODUCER_FENCED => ProduceOutcome::Refused { code, detail },
        _ if detail.is_empty() => unknown(code.to_string()),
        _ => unknown(format!("{code}: {detail}")),
    }
}

/// The batch is larger than a segment of the log.
const RECORD_LIST_TOO_LARGE: KafkaCode = KafkaCode(18);
/// The log is kept in an old message format.
const UNSUPPORTED_FOR_MESSAGE_FORMAT: KafkaCode = KafkaCode(43);

fn not_appended(reason: impl Into<String>) -> ProduceOutcome {
    ProduceOutcome::NotAppended { reason: reason.into() }
}

fn unknown(reason: impl Into<String>) -> ProduceOutcome {
    ProduceOutcome::Unknown { reason: reason.into() }
}

fn settle_all(items: Vec<Item>, outcome: &ProduceOutcome) {
    items.into_iter().for_each(|item| settle(item, outcome.clone()));
}

fn settle(item: Item, outcome: ProduceOutcome) {
    // A caller that has gone away wants no outcome.
    let _ = item.outcome.send(outcome);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_a_code_that_is_looked_at_before_appending_says_not_appended() {
        for code in [3, 5, 6, 7, 13, 20, 56, 74, 75, 76, -1, 46, 9999] {
            assert!(matches!(outcome(code, -1, String::new()), ProduceOutcome::Unknown { .. }), "{code}");
        }
        for code in [2, 10, 29, 31, 32, 45, 47, 53, 87, 90] {
            assert!(matches!(outcome(code, -1, String::new()), ProduceOutcome::Refused { .. }), "{code}");
        }
        assert!(matches!(outcome(19, -1, String::new()), ProduceOutcome::NotAppended { .. }));
        assert_eq!(outcome(0, 7, String::new()), ProduceOutcome::Appended { base_offset: 7 });
        assert!(matches!(outcome(0, -1, String::new()), ProduceOutcome::Unknown { .. }));
    }

    fn item(partition: i32, bytes: usize) -> Item {
        let request = ProduceRequest {
            partition: TopicPartition::new("t", partition),
            batch: Bytes::from(vec![0; bytes]),
            send_before: Instant::now(),
        };
        Item { request, outcome: oneshot::channel().0 }
    }

    #[test]
    fn a_batch_whose_caller_has_gone_is_not_sent() {
        let (outcome, waits) = oneshot::channel();
        let kept = Item { outcome, ..item(0, 1) };
        let sent = still_wanted(vec![item(1, 2), kept, item(2, 3)]);
        assert_eq!(sent.iter().map(|item| item.request.batch.len()).collect::<Vec<_>>(), [1]);
        drop(waits);
        assert!(still_wanted(sent).is_empty());
    }

    fn taken(waiting: &mut VecDeque<Item>) -> Vec<(i32, usize)> {
        take_request(waiting).iter().map(|i| (i.request.partition.partition.0, i.request.batch.len())).collect()
    }

    #[test]
    fn a_request_holds_one_batch_a_partition_and_never_changes_their_order() {
        let large = limits::PRODUCE_REQUEST_BYTES_MAX;
        let mut waiting = VecDeque::from([item(0, 1), item(0, 2), item(1, large), item(1, 3), item(2, 4)]);
        assert_eq!(taken(&mut waiting), [(0, 1), (2, 4)]);
        assert_eq!(taken(&mut waiting), [(0, 2)]);
        assert_eq!(taken(&mut waiting), [(1, large)], "alone, whatever its size");
        assert_eq!(taken(&mut waiting), [(1, 3)]);
        assert!(waiting.is_empty());
    }
}
