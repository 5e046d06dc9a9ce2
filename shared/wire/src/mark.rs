//! Transactions without records: what fences a producer and marks the end of a partition.
//!
//! `AddPartitionsToTxn` 3 and `EndTxn` 3 are the versions in which a client names the partitions itself and the epoch
//! stays as it is; later ones (KIP-890) raise the epoch with every transaction.
//!
//! Invariants: a transaction names at most `limits::MARK_NAME_BYTES_MAX` of topic names. Every step may be repeated: a
//! second EndTxn of a transaction that is already complete is answered as the first.

use std::collections::BTreeMap;

use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProducerId, TransactionalId,
    add_partitions_to_txn_request::AddPartitionsToTxnTopic,
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{ClusterResult, Marker},
    types::{Producer, TopicPartition},
};

use crate::{
    cluster::{CoordinatorKind, WireCluster, by_topic, check_code, coordinator_moved, wire_str, wire_topic},
    connection::CallError,
    read::{exactly, millis},
};

impl Marker for WireCluster {
    async fn open_producer(&self, transactional_id: &str) -> ClusterResult<Producer> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(wire_id(transactional_id)))
            .with_transaction_timeout_ms(millis(limits::MARK_TRANSACTION_TIMEOUT))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let retry = self.0.retry(format!("take over transactional id {transactional_id:?}"));
        let answer = self
            .0
            .ask_coordinator(CoordinatorKind::Transaction, transactional_id, retry, &request, |answer| {
                check_code(answer.error_code, None)
            })
            .await?;
        Ok(Producer { id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    async fn mark(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        let mut refused = BTreeMap::new();
        for chunk in chunks(partitions) {
            let mut chunk = chunk.to_vec();
            // One bad partition fails the others with 55: they are added again without it.
            while !chunk.is_empty() {
                let bad = self.add_partitions(transactional_id, producer, &chunk).await?;
                if bad.is_empty() {
                    self.commit(transactional_id, producer).await?;
                    break;
                }
                chunk.retain(|partition| !bad.contains_key(partition));
                refused.extend(bad);
            }
        }
        Ok(refused)
    }
}

impl WireCluster {
    /// Adds partitions to the transaction, all or none; answers those that are in the way.
    async fn add_partitions(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        let topics = by_topic(partitions.iter().map(|p| (p, ()))).into_iter().map(|(topic, numbers)| {
            AddPartitionsToTxnTopic::default()
                .with_name(wire_topic(topic))
                .with_partitions(numbers.into_iter().map(|(number, ())| number).collect())
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(wire_id(transactional_id))
            .with_v3_and_below_producer_id(ProducerId(producer.id))
            .with_v3_and_below_producer_epoch(producer.epoch)
            .with_v3_and_below_topics(topics.collect());
        let attempt = format!("mark {} partitions under {transactional_id:?}", partitions.len());
        let retry = self.0.retry(attempt);
        let answer = self
            .0
            .ask_coordinator(CoordinatorKind::Transaction, transactional_id, retry, &request, |answer| {
                let mut codes = BTreeMap::new();
                for topic in &answer.results_by_topic_v3_and_below {
                    for p in &topic.results_by_partition {
                        codes.insert(
                            TopicPartition::new(topic.name.as_str(), p.partition_index),
                            p.partition_error_code,
                        );
                    }
                }
                exactly(partitions.iter(), &codes)?;
                let of_the_transaction =
                    codes.values().filter_map(|code| KafkaCode::from_wire(*code)).find(|code| concerns_all(*code));
                of_the_transaction.map_or(Ok(()), |code| Err(CallError::Code(code, String::new())))
            })
            .await?;
        let mut bad = BTreeMap::new();
        for topic in &answer.results_by_topic_v3_and_below {
            for p in &topic.results_by_partition {
                let code = KafkaCode::from_wire(p.partition_error_code);
                if let Some(code) = code.filter(|code| *code != KafkaCode::OPERATION_NOT_ATTEMPTED) {
                    bad.insert(TopicPartition::new(topic.name.as_str(), p.partition_index), code);
                }
            }
        }
        let held_back = answer.results_by_topic_v3_and_below.iter().flat_map(|t| &t.results_by_partition);
        if bad.is_empty() && held_back.clone().any(|p| p.partition_error_code != 0) {
            let retry = self.0.retry("mark partitions");
            let detail = "partitions held back, and none that holds them back".to_owned();
            return Err(retry.error(CallError::NotUnderstood(detail)));
        }
        Ok(bad)
    }

    async fn commit(&self, transactional_id: &str, producer: Producer) -> ClusterResult<()> {
        let request = EndTxnRequest::default()
            .with_transactional_id(wire_id(transactional_id))
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_committed(true);
        let retry = self.0.retry(format!("commit the markers under {transactional_id:?}"));
        self.0
            .ask_coordinator(CoordinatorKind::Transaction, transactional_id, retry, &request, |answer| {
                check_code(answer.error_code, None)
            })
            .await?;
        Ok(())
    }
}

fn wire_id(transactional_id: &str) -> TransactionalId {
    TransactionalId(wire_str(transactional_id))
}

/// Codes that speak of the transaction, whichever partition they stand at.
fn concerns_all(code: KafkaCode) -> bool {
    coordinator_moved(code)
        || matches!(
            code,
            KafkaCode::CONCURRENT_TRANSACTIONS
                | KafkaCode::INVALID_PRODUCER_EPOCH
                | KafkaCode::PRODUCER_FENCED
                | KafkaCode::INVALID_TXN_STATE
                | KafkaCode::INVALID_PRODUCER_ID_MAPPING
                | KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        )
}

/// Partitions whose names fit into one transaction's record.
fn chunks(partitions: &[TopicPartition]) -> Vec<&[TopicPartition]> {
    let mut chunks = Vec::new();
    let mut first = 0;
    let mut bytes = 0;
    for (at, partition) in partitions.iter().enumerate() {
        let size = partition.topic.as_str().len();
        if bytes + size > limits::MARK_NAME_BYTES_MAX {
            chunks.push(&partitions[first..at]);
            (first, bytes) = (at, 0);
        }
        bytes += size;
    }
    if first < partitions.len() {
        chunks.push(&partitions[first..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_names_no_more_than_its_record_can_hold_and_none_is_left_out() {
        let name = "n".repeat(249);
        let partitions: Vec<_> = (0..5_000).map(|n| TopicPartition::new(&name, n)).collect();
        let chunks = chunks(&partitions);
        assert_eq!(chunks.len(), 3);
        assert!(chunks.iter().all(|chunk| chunk.len() * 249 <= limits::MARK_NAME_BYTES_MAX));
        assert_eq!(chunks.concat(), partitions);
        assert!(super::chunks(&[]).is_empty());
    }
}
