//! The calls in use: which version of each, and what its answer looks like.
//!
//! One version is pinned per call wherever one works on brokers from 2.8 to 4.1, so that what was tested is what runs;
//! a second is listed only where no single one does. The first that the broker offers is taken. The answers' schemas
//! (`schema.rs` says how to read them) were derived from the decoders of `kafka-protocol`, and a test holds them equal.

use kafka_protocol::{
    messages::{
        AddPartitionsToTxnRequest, AlterClientQuotasRequest, ApiVersionsRequest, ConsumerGroupDescribeRequest,
        CreateAclsRequest, CreatePartitionsRequest, CreateTopicsRequest, DescribeAclsRequest,
        DescribeClientQuotasRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
        DescribeProducersRequest, DescribeUserScramCredentialsRequest, EndTxnRequest, FetchRequest,
        FindCoordinatorRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, ListGroupsRequest,
        ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest,
        ProduceRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
    },
    protocol::Request,
};

/// A call, with what is known about it beyond `kafka-protocol`.
pub(crate) trait Api: Request {
    /// Kafka's name of the call.
    const NAME: &'static str;
    /// Versions in order of preference, each with its answer's schema.
    const ANSWERS: &'static [(i16, &'static str)];
    /// For how long the broker asks us to stay quiet.
    fn throttle_ms(answer: &Self::Response) -> i32;
}

macro_rules! apis {
    ($($request:ident $name:literal $throttle:ident { $($version:literal $schema:literal)+ })+) => {
        $(impl Api for $request {
            const NAME: &'static str = $name;
            const ANSWERS: &'static [(i16, &'static str)] = &[$(($version, $schema)),+];
            fn throttle_ms(answer: &Self::Response) -> i32 {
                apis!(@$throttle answer)
            }
        })+

        /// Every answer in use, for tests that must leave none out.
        #[cfg(test)]
        pub(crate) fn all_answers() -> Vec<crate::schema::tests::AnswerKind> {
            vec![$($(crate::schema::tests::AnswerKind::of::<$request>($version, $schema)),+),+]
        }
    };
    (@throttled $answer:ident) => { $answer.throttle_time_ms };
    (@never $answer:ident) => {{ let _ = $answer; 0 }};
}

apis! {
    ApiVersionsRequest "ApiVersions" throttled {
        3 "2 [2 2 2] 4 <0:[s 2 2] 1:8 2:[s 2 2] 3:1>"
        0 "2 [2 2 2]"
    }
    SaslHandshakeRequest "SaslHandshake" never { 1 "2 *s" }
    SaslAuthenticateRequest "SaslAuthenticate" never { 2 "2 s b 8" }
    MetadataRequest "Metadata" throttled { 10 "4 [4 s 4 s] s 4 [2 s u 1 [2 4 4 4 *4 *4 *4] 4] 4" }
    // 13 names topics by id; brokers have it since 3.1.
    FetchRequest "Fetch" throttled {
        13 "4 2 4 [u [4 2 8 8 8 [8 8] 4 b <0:(4 8) 1:(4 4) 2:(8 4)>]] <0:[]>"
        12 "4 2 4 [s [4 2 8 8 8 [8 8] 4 b <0:(4 8) 1:(4 4) 2:(8 4)>]] <0:[]>"
    }
    ListOffsetsRequest "ListOffsets" throttled { 6 "4 [s [4 2 8 8 4]]" }
    OffsetForLeaderEpochRequest "OffsetForLeaderEpoch" throttled { 4 "4 [s [2 4 4 8]]" }
    DescribeProducersRequest "DescribeProducers" throttled { 0 "4 [s [4 2 s [8 4 4 8 4 8]]]" }
    ProduceRequest "Produce" throttled { 8 "[s [4 2 8 8 8 [4 s] s]] 4" }
    // 4 asks for many keys at once; brokers have it since 3.0.
    FindCoordinatorRequest "FindCoordinator" throttled {
        4 "4 [s 4 s 4 2 s]"
        3 "4 2 s 4 s 4"
    }
    InitProducerIdRequest "InitProducerId" throttled { 4 "4 2 8 2" }
    AddPartitionsToTxnRequest "AddPartitionsToTxn" throttled { 3 "4 [s [4 2]]" }
    EndTxnRequest "EndTxn" throttled { 3 "4 2" }
    ListGroupsRequest "ListGroups" throttled { 4 "4 2 [s s s]" }
    DescribeGroupsRequest "DescribeGroups" throttled { 5 "4 [2 s s s s [s s s s b b] 4]" }
    ConsumerGroupDescribeRequest "ConsumerGroupDescribe" throttled {
        0 "4 [2 s s s 4 4 s [s s s 4 s s *s s ([u s *4]) ([u s *4])] 4]"
    }
    OffsetFetchRequest "OffsetFetch" throttled { 7 "4 [s [4 8 4 s 2]] 2" }
    OffsetCommitRequest "OffsetCommit" throttled { 8 "4 [s [4 2]]" }
    CreateTopicsRequest "CreateTopics" throttled { 7 "4 [s u 2 s 4 2 [s s 1 1 1] <0:2>]" }
    CreatePartitionsRequest "CreatePartitions" throttled { 3 "4 [s 2 s]" }
    DescribeConfigsRequest "DescribeConfigs" throttled { 4 "4 [2 s 1 s [s s 1 1 1 [s s 1] 1 s]]" }
    IncrementalAlterConfigsRequest "IncrementalAlterConfigs" throttled { 1 "4 [2 s 1 s]" }
    CreateAclsRequest "CreateAcls" throttled { 2 "4 [2 s]" }
    AlterClientQuotasRequest "AlterClientQuotas" throttled { 1 "4 [2 s [s s]]" }
    DescribeAclsRequest "DescribeAcls" throttled { 2 "4 2 s [1 s 1 [s s 1 1]]" }
    DescribeLogDirsRequest "DescribeLogDirs" throttled { 2 "4 [2 s [s [4 8 8 1]]]" }
    DescribeClientQuotasRequest "DescribeClientQuotas" throttled { 1 "4 2 s [[s s] [s 8]]" }
    DescribeUserScramCredentialsRequest "DescribeUserScramCredentials" throttled { 0 "4 2 s [s 2 s [1 4]]" }
}
