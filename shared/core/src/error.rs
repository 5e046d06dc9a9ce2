//! What went wrong, in the two vocabularies that matter: Kafka's error codes, and the classes an orchestrator acts on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error code of the Kafka protocol. Zero never appears here: it means that nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KafkaCode(pub i16);

macro_rules! kafka_codes {
    ($($code:literal $constant:ident $name:literal;)*) => {
        #[allow(missing_docs, reason = "Kafka's own names say it")]
        impl KafkaCode {
            $(pub const $constant: KafkaCode = KafkaCode($code);)*

            /// Kafka's own name of the code, as its documentation lists it.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => $name,)*
                    _ => "an error code this version of Krossing does not know",
                }
            }
        }
    };
}

// https://kafka.apache.org/protocol#protocol_error_codes
kafka_codes! {
    -1 UNKNOWN_SERVER_ERROR "UNKNOWN_SERVER_ERROR";
    1 OFFSET_OUT_OF_RANGE "OFFSET_OUT_OF_RANGE";
    2 CORRUPT_MESSAGE "CORRUPT_MESSAGE";
    3 UNKNOWN_TOPIC_OR_PARTITION "UNKNOWN_TOPIC_OR_PARTITION";
    5 LEADER_NOT_AVAILABLE "LEADER_NOT_AVAILABLE";
    6 NOT_LEADER_OR_FOLLOWER "NOT_LEADER_OR_FOLLOWER";
    7 REQUEST_TIMED_OUT "REQUEST_TIMED_OUT";
    8 BROKER_NOT_AVAILABLE "BROKER_NOT_AVAILABLE";
    9 REPLICA_NOT_AVAILABLE "REPLICA_NOT_AVAILABLE";
    10 MESSAGE_TOO_LARGE "MESSAGE_TOO_LARGE";
    13 NETWORK_EXCEPTION "NETWORK_EXCEPTION";
    14 COORDINATOR_LOAD_IN_PROGRESS "COORDINATOR_LOAD_IN_PROGRESS";
    15 COORDINATOR_NOT_AVAILABLE "COORDINATOR_NOT_AVAILABLE";
    16 NOT_COORDINATOR "NOT_COORDINATOR";
    17 INVALID_TOPIC_EXCEPTION "INVALID_TOPIC_EXCEPTION";
    19 NOT_ENOUGH_REPLICAS "NOT_ENOUGH_REPLICAS";
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND "NOT_ENOUGH_REPLICAS_AFTER_APPEND";
    22 ILLEGAL_GENERATION "ILLEGAL_GENERATION";
    25 UNKNOWN_MEMBER_ID "UNKNOWN_MEMBER_ID";
    27 REBALANCE_IN_PROGRESS "REBALANCE_IN_PROGRESS";
    29 TOPIC_AUTHORIZATION_FAILED "TOPIC_AUTHORIZATION_FAILED";
    30 GROUP_AUTHORIZATION_FAILED "GROUP_AUTHORIZATION_FAILED";
    31 CLUSTER_AUTHORIZATION_FAILED "CLUSTER_AUTHORIZATION_FAILED";
    32 INVALID_TIMESTAMP "INVALID_TIMESTAMP";
    33 UNSUPPORTED_SASL_MECHANISM "UNSUPPORTED_SASL_MECHANISM";
    35 UNSUPPORTED_VERSION "UNSUPPORTED_VERSION";
    36 TOPIC_ALREADY_EXISTS "TOPIC_ALREADY_EXISTS";
    37 INVALID_PARTITIONS "INVALID_PARTITIONS";
    38 INVALID_REPLICATION_FACTOR "INVALID_REPLICATION_FACTOR";
    40 INVALID_CONFIG "INVALID_CONFIG";
    41 NOT_CONTROLLER "NOT_CONTROLLER";
    42 INVALID_REQUEST "INVALID_REQUEST";
    44 POLICY_VIOLATION "POLICY_VIOLATION";
    45 OUT_OF_ORDER_SEQUENCE_NUMBER "OUT_OF_ORDER_SEQUENCE_NUMBER";
    46 DUPLICATE_SEQUENCE_NUMBER "DUPLICATE_SEQUENCE_NUMBER";
    47 INVALID_PRODUCER_EPOCH "INVALID_PRODUCER_EPOCH";
    48 INVALID_TXN_STATE "INVALID_TXN_STATE";
    49 INVALID_PRODUCER_ID_MAPPING "INVALID_PRODUCER_ID_MAPPING";
    51 CONCURRENT_TRANSACTIONS "CONCURRENT_TRANSACTIONS";
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED "TRANSACTIONAL_ID_AUTHORIZATION_FAILED";
    54 SECURITY_DISABLED "SECURITY_DISABLED";
    55 OPERATION_NOT_ATTEMPTED "OPERATION_NOT_ATTEMPTED";
    56 KAFKA_STORAGE_ERROR "KAFKA_STORAGE_ERROR";
    58 SASL_AUTHENTICATION_FAILED "SASL_AUTHENTICATION_FAILED";
    59 UNKNOWN_PRODUCER_ID "UNKNOWN_PRODUCER_ID";
    68 NON_EMPTY_GROUP "NON_EMPTY_GROUP";
    69 GROUP_ID_NOT_FOUND "GROUP_ID_NOT_FOUND";
    74 FENCED_LEADER_EPOCH "FENCED_LEADER_EPOCH";
    75 UNKNOWN_LEADER_EPOCH "UNKNOWN_LEADER_EPOCH";
    76 UNSUPPORTED_COMPRESSION_TYPE "UNSUPPORTED_COMPRESSION_TYPE";
    78 OFFSET_NOT_AVAILABLE "OFFSET_NOT_AVAILABLE";
    87 INVALID_RECORD "INVALID_RECORD";
    88 UNSTABLE_OFFSET_COMMIT "UNSTABLE_OFFSET_COMMIT";
    90 PRODUCER_FENCED "PRODUCER_FENCED";
    100 UNKNOWN_TOPIC_ID "UNKNOWN_TOPIC_ID";
    103 INCONSISTENT_TOPIC_ID "INCONSISTENT_TOPIC_ID";
}

impl KafkaCode {
    /// `None` where the broker answered zero: no error.
    pub fn from_wire(code: i16) -> Option<Self> {
        (code != 0).then_some(Self(code))
    }
}

impl fmt::Display for KafkaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} {}", self.0, self.name())
    }
}

/// What an orchestrator may do about an error. The names are those that the Step Functions definition catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Nothing is wrong with what was asked: try again after a pause.
    Retryable,
    /// The operator has to put something right first; nothing was left half done.
    Refused,
    /// Data is not as it must be; going on would make it worse.
    DataAtRisk,
    /// Another owner holds what this one believed to own: stop quietly, the other goes on.
    Fenced,
    /// A mistake of Krossing itself.
    Internal,
}

impl ErrorClass {
    /// The name that Step Functions catches.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::Retryable => "Krossing.Retryable",
            ErrorClass::Refused => "Krossing.Refused",
            ErrorClass::DataAtRisk => "Krossing.DataAtRisk",
            ErrorClass::Fenced => "Krossing.Fenced",
            ErrorClass::Internal => "Krossing.Internal",
        }
    }
}
