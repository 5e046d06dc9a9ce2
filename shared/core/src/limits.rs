//! Every bound in one place: its unit, where it comes from, and what breaks when it is larger or smaller.

use std::time::Duration;

/// Partitions of one lane. One transaction fences a lane: 1,000 names of 249 bytes stay below
/// [`MARK_NAME_BYTES_MAX`]; a larger lane would need two transactions and a rule for what happens between them.
pub const LANE_PARTITIONS_MAX: usize = 1_000;

/// Bytes of topic names in one AddPartitionsToTxn: the broker stores them in one record of `__transaction_state`, whose
/// batches are limited to 1 MiB by default (measured: about 10,000 names of 100 bytes are answered with -1).
pub const MARK_NAME_BYTES_MAX: usize = 500_000;

/// Bytes of records, uncompressed, in a batch that we make: below the 1 MB (1,048,588) that brokers accept by default,
/// with room for what compression adds to data that does not compress.
pub const PACKED_BATCH_BYTES_MAX: usize = 900_000;

/// Batches smaller than this, as they lie in the log, are packed together; larger ones are passed as they are.
/// Measured: passing one-record batches costs the copier 4 and the target's broker 6 times the CPU of packing them.
pub const PACK_BELOW_COMPRESSED_BYTES: usize = 32 * 1024;

/// The same for batches that are not compressed, which cost nothing to unpack.
pub const PACK_BELOW_PLAIN_BYTES: usize = 64 * 1024;

/// Bytes that one batch may decompress to before it is refused by name. Brokers accept requests of up to 100 MiB
/// (`socket.request.max.bytes`), so that no honest batch is larger before compression than its producer's buffer.
pub const BATCH_UNCOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a zstd decompressor that a thread keeps for its next batch. Covers the 2 MiB windows that producers leave at
/// the default level; with a larger one each batch would keep up to 128 MiB, with none each costs 15 µs.
pub const ZSTD_CONTEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of record data that one worker process holds at once: fetched, in segments being filled, being produced.
/// With the connections' buffers and the map this keeps a worker below 512 MB.
pub const WORKER_DATA_BYTES_MAX: usize = 192 * 1024 * 1024;

/// Bytes asked of one partition in one Fetch while seeding. A larger batch still comes whole.
pub const SEED_FETCH_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes asked of one partition in one Fetch while tailing, and of all partitions together.
pub const TAIL_FETCH_PARTITION_BYTES: u32 = 1024 * 1024;
/// See [`TAIL_FETCH_PARTITION_BYTES`].
pub const TAIL_FETCH_BYTES: u32 = 8 * 1024 * 1024;

/// How long a broker may wait for new records while tailing: bounds how late we notice a deadline or a stop.
pub const TAIL_FETCH_WAIT: Duration = Duration::from_millis(250);

/// Runs of the offset map that a partition's progress carries before they move into a chunk object of their own.
/// DynamoDB items end at 400 KB; 256 runs are about 12 KB of JSON.
pub const PROGRESS_RUNS_MAX: usize = 256;

/// Runs in one chunk object of the offset map: the memory that translation needs at once.
pub const MAP_CHUNK_RUNS_MAX: usize = 65_536;

/// Source records announced in one write-ahead window of a lane, in bytes of records.
pub const TAIL_WINDOW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Runs announced in one write-ahead window of a lane: about 64 bytes of JSON each, so that a window stays below the
/// 400 KB of a DynamoDB item. Heavily compacted or transactional sources reach this before the bytes.
pub const TAIL_WINDOW_RUNS_MAX: usize = 4_096;

/// How long a lane's lease runs from its last renewal. Longer: a lane waits longer for its next owner after a crash.
/// Shorter: a long pause of a healthy worker costs it the lane.
pub const LEASE: Duration = Duration::from_secs(10);

/// How often a lease is renewed.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(2);

/// What a taker waits beyond [`LEASE`], on its own clock, and what an owner stops short of it: covers the time between
/// the owner's look at its clock and its bytes reaching the broker.
pub const LEASE_MARGIN: Duration = Duration::from_secs(3);

/// How often one session of a lane is started over after an outcome that is not known, before the lane gives up.
pub const SESSION_RESTARTS_MAX: u32 = 20;

/// Pause before a session is started over; doubled each time up to [`SESSION_PAUSE_MAX`].
pub const SESSION_PAUSE: Duration = Duration::from_millis(200);
/// See [`SESSION_PAUSE`].
pub const SESSION_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a control batch may take from the commit of its transaction until it can be read. Measured: 60–90 ms for
/// 3,000 partitions; brokers that restart take seconds.
pub const MARK_VISIBLE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a source partition may give nothing although it has records for us, before the session starts over: longer
/// than an election or a broker's restart.
pub const SOURCE_SILENCE_MAX: Duration = Duration::from_secs(120);

/// How often the source is asked for topics and partitions that appeared.
pub const INVENTORY_REFRESH: Duration = Duration::from_secs(5);

/// Groups asked for their positions at the same time.
pub const GROUPS_IN_FLIGHT_MAX: usize = 32;

/// Clients of the checking library that read at the same time; each holds up to [`WITNESS_QUEUE_BYTES_MAX`] and one
/// answer. More gain nothing: two saturate a core.
pub const WITNESS_READERS_MAX: usize = 2;

/// Bytes that one reader of the checking library fetches ahead, without what it keeps beside each record. Smaller: it
/// waits for the network between answers. Larger: memory, times [`WITNESS_READERS_MAX`] and both sides.
pub const WITNESS_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records that it fetches ahead: it keeps hundreds of bytes beside each, however small they are.
pub const WITNESS_QUEUE_RECORDS_MIN: usize = 5_000;

/// Bytes that it asks of a partition in one Fetch. Spot checks throw most of an answer away.
pub const WITNESS_FETCH_BYTES: usize = 512 * 1024;

/// How long it waits for an event before it looks at its bounds.
pub const WITNESS_POLL: Duration = Duration::from_millis(100);

/// How long a range may bring nothing new before it is an error: longer than an election or a broker's restart, and
/// than reading over a few gigabytes of aborted data, which shows no progress.
pub const WITNESS_SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long the freeze webhook may take for one answer: it flushes and closes producers before it gives it.
pub const WEBHOOK_ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long it is asked in all, answers and pauses together; a freeze also ends with its own deadline.
pub const WEBHOOK_TOTAL_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long it is asked in all to switch producers: READY is reached, and the operator waits for it at a terminal.
pub const WEBHOOK_SWITCH_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause before it is asked again; doubled each time up to [`WEBHOOK_PAUSE_MAX`].
pub const WEBHOOK_PAUSE: Duration = Duration::from_millis(200);
/// See [`WEBHOOK_PAUSE`].
pub const WEBHOOK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Bytes of its answer that are read: a state is 18.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a wrong password or certificate must be refused before it is believed: one broker of several may be behind.
pub const WITNESS_REFUSAL_WAIT: Duration = Duration::from_secs(5);

/// Bytes of one answer from a broker. Fetches ask for far less; a topic with larger records needs this much.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long reaching a broker may take: name, TCP, TLS and SASL together. A broker that accepts and then says nothing
/// (a fault that load balancers like) costs this much and no more.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a broker may take to answer, beyond what the request itself lets it wait. Kafka's own clients say 30 s.
pub const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a call goes on trying while brokers answer with codes that pass with time, or not at all. Shorter: a broker
/// restart becomes an error. Longer: an operator waits for a message about a cluster that is gone.
pub const CALL_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a call waits for a topic that a broker does not know: brokers learn of a new topic some time after the
/// controller has made it.
pub const UNKNOWN_TOPIC_WAIT_MAX: Duration = Duration::from_secs(3);

/// Pause before a call is tried again; doubled each time up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE`].
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest pause that a broker can ask for (throttle). Kafka's quotas look at 11 windows of a second by default.
pub const THROTTLE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Least time between two questions for the same topics' leaders: a moving leader takes at least this long.
pub const METADATA_PAUSE: Duration = Duration::from_millis(50);

/// Requests that wait for one connection's writer. Callers wait for room beyond it.
pub const CONNECTION_QUEUE_MAX: usize = 64;

/// A connection unused for longer is not used again: brokers close theirs after `connections.max.idle.ms` (10 minutes),
/// load balancers after 350 s, and a request sent at that moment would be lost.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(180);

/// Bytes of memory that an answer gets before they have arrived: a size that is only claimed costs no more than this.
pub const ANSWER_STEP_BYTES: usize = 8 * 1024 * 1024;

/// Connections to one broker for Fetch. A broker works on one request of a connection at a time, and a Fetch may wait
/// there for new records, so that each has a connection to itself; callers beyond wait for one.
pub const FETCH_CONNECTIONS_PER_BROKER: usize = 8;

/// Connections to one broker for Produce; a partition keeps to one. Measured with replication factor 3: 8 gave 242 MB/s,
/// 4 nearly as much, 2 gave 98.
pub const PRODUCE_CONNECTIONS_PER_BROKER: usize = 4;

/// Bytes of record batches in one Produce request: below `socket.request.max.bytes` (100 MiB) by far, large enough that
/// many partitions share one replication round trip. One larger batch travels alone.
pub const PRODUCE_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Batches that wait for one connection's Produce requests; callers wait for room beyond it.
pub const PRODUCE_QUEUE_MAX: usize = 1_024;

/// How long a broker may wait for the replicas of a Produce before it answers 7.
pub const PRODUCE_REPLICAS_WAIT_MAX: Duration = Duration::from_secs(30);

/// Topics in one request for settings or for new topics: bounds answers to a few megabytes (about 40 settings of 100
/// bytes each), and what a controller writes as one batch.
pub const TOPICS_PER_REQUEST_MAX: usize = 200;

/// Access rules, or clients with quotas, in one request: a controller writes a request as one batch and refuses more than
/// 10,000 changes in one.
pub const ACCESS_CHANGES_PER_REQUEST_MAX: usize = 500;

/// How long topics and settings that were made may take until brokers show them: the controller answers before brokers
/// have heard of it. Shorter: a busy controller becomes an error.
pub const TOPICS_READ_BACK_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a group's unfinished transactional commits are waited for.
pub const UNSTABLE_OFFSETS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Failures and notes that a validation check shows; all are counted. More would bury the first.
pub const FINDINGS_SHOWN_MAX: usize = 100;

/// Sampled records of a partition that a validation report names; all are compared.
pub const SAMPLES_SHOWN_MAX: usize = 100;

/// Partitions validated at the same time.
pub const VALIDATION_PARTITIONS_IN_FLIGHT: usize = 4;

/// Keys of a compacted partition compared in one pass, at about 100 bytes each; just below where their table doubles. More keys are compared in slices, each
/// of which reads the partition again on both sides. Larger: memory, times [`VALIDATION_PARTITIONS_IN_FLIGHT`].
pub const COMPARE_KEYS_MAX: usize = 450_000;

/// Slices of a partition's keys before a comparison is given up: half a billion keys in one partition.
pub const COMPARE_KEY_SLICES_MAX: u64 = 1_024;

/// Visible markers that are being written at the same time: enough to fill the requests to all brokers.
pub const SENTINELS_IN_FLIGHT_MAX: usize = 1_000;

/// How often the source's log ends are looked at while they must stand still. One request a leader each time.
pub const STANDSTILL_LOOK: Duration = Duration::from_millis(250);

/// Bytes of stragglers of one partition that one decision covers; what is beyond it is left to the next. Larger: memory,
/// times [`STRAGGLER_PARTITIONS_IN_FLIGHT`]. Smaller: a producer that was forgotten for long needs more decisions.
pub const STRAGGLERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Partitions whose stragglers are held at the same time.
pub const STRAGGLER_PARTITIONS_IN_FLIGHT: usize = 4;

/// How often a batch of stragglers that was surely not appended is sent again.
pub const STRAGGLER_TRIES_MAX: u32 = 10;

/// Timeout of a fencing or marking transaction, after which its coordinator aborts it: longer than a mark may take,
/// shorter than `transaction.max.timeout.ms` (15 minutes by default).
pub const MARK_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a file's lock is waited for: holders need milliseconds, and a process that was stopped (SIGSTOP) holds its
/// lock on. Shorter: a slow disk becomes an error. Longer: a lease runs out while its renewal waits.
pub const LOCAL_LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of a lane's progress file in a folder before it is folded into one line. Larger: a start reads more. Smaller:
/// saves that rewrite the file come more often.
pub const LOCAL_PROGRESS_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of content in one item of the ledger's table: DynamoDB ends items at 400 KB (409,600 bytes), names and keys
/// included; a key has at most 1,024 + 2,048 bytes. Larger content is cut into parts. Larger: nothing is left for what an
/// item may have to hold besides. Smaller: more writes for the same content.
pub const LEDGER_ITEM_BYTES_MAX: usize = 256 * 1024;

/// Bytes of one document, journal line or save in the table, as stored: 64 parts. Larger: a write takes seconds, for a
/// table gives one partition key 1,000 writes of 1 KB a second, and [`LEDGER_CALL_WAIT_MAX`] is not enough.
pub const LEDGER_CONTENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that a save of a lane or a document may unpack to: 1,000 partitions of 250 KB.
pub const LEDGER_UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Parts written, read or deleted at the same time.
pub const LEDGER_PARTS_IN_FLIGHT: usize = 8;

/// Saves that a lane's head names before they are folded into one. Larger: a start reads more items. Smaller: all of
/// the lane is written more often.
pub const LEDGER_SAVES_MAX: usize = 64;

/// Bytes of saves beside the first before they are folded, where that is not more than the first itself.
pub const LEDGER_SAVES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How often a read or a write of the ledger begins again because somebody else wrote meanwhile.
pub const LEDGER_TRIES_MAX: usize = 10;

/// How long one request to DynamoDB may take before it is sent again: answers come within 10 ms; the rest is failure.
pub const LEDGER_ATTEMPT_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long one request to DynamoDB may take with all its repeats. Longer: a lease runs out while its renewal waits.
pub const LEDGER_OPERATION_WAIT_MAX: Duration = Duration::from_secs(8);

/// How long a whole call of the ledger may take: large content is many requests.
pub const LEDGER_CALL_WAIT_MAX: Duration = Duration::from_secs(60);

/// How often a request to AWS is sent in all, where it was throttled or not answered.
pub const AWS_ATTEMPTS_MAX: u32 = 5;

/// Pause before a request to AWS is sent again; doubled each time (and drawn by lot) up to [`AWS_PAUSE_MAX`].
pub const AWS_PAUSE: Duration = Duration::from_millis(50);
/// See [`AWS_PAUSE`].
pub const AWS_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long one request to Secrets Manager, KMS or MSK may take before it is sent again: answers come within a second.
pub const AWS_API_ATTEMPT_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long one request to them may take with all its repeats. Longer: a command seems to hang before it says why.
pub const AWS_API_OPERATION_WAIT_MAX: Duration = Duration::from_secs(30);

/// Secrets that are asked for at the same time; a configuration names a handful.
pub const AWS_SECRETS_IN_FLIGHT: usize = 8;

/// Pages of nodes or of secrets of one cluster: a page has 100, and no cluster more than 60 brokers or 1,000 secrets.
pub const MSK_PAGES_MAX: usize = 50;

/// How long a token for brokers of MSK is valid; they take none that is valid for longer.
pub const IAM_TOKEN_LIFE: Duration = Duration::from_secs(900);

/// How long one token serves new connections before another is made: a cluster of many brokers is not many requests for
/// credentials. Longer: sessions begin with that much less of their life.
pub const IAM_TOKEN_REUSE: Duration = Duration::from_secs(60);

/// How long reaching AWS may take: name, TCP and TLS.
pub const AWS_CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Bytes of one part of an object, and of one request that reads: S3 takes 5 MiB and more, and 10,000 parts. Smaller:
/// requests cost more than bytes. Larger: memory, times [`OBJECT_PARTS_IN_FLIGHT`].
pub const OBJECT_PART_BYTES: usize = 8 * 1024 * 1024;

/// Parts of one object on their way at the same time: S3 gives some 85 MB/s a connection.
pub const OBJECT_PARTS_IN_FLIGHT: usize = 4;

/// How long one request to S3 may take before it is sent again: a part at 0.5 MB/s.
pub const OBJECT_ATTEMPT_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long one request to S3 may take with all its repeats.
pub const OBJECT_OPERATION_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a whole call of the object store may take: an object of a gigabyte at 2 MB/s.
pub const OBJECT_CALL_WAIT_MAX: Duration = Duration::from_secs(600);

/// How often the body of an answer is asked for again after it broke off.
pub const OBJECT_BODY_TRIES_MAX: u32 = 3;

const _: () = assert!(LEDGER_OPERATION_WAIT_MAX.as_millis() < LEASE.as_millis());
const _: () = assert!(LEDGER_ITEM_BYTES_MAX + 3_072 + 1_024 < 400 * 1_024);
const _: () = assert!(OBJECT_PART_BYTES >= 5 * 1024 * 1024);
const _: () = assert!(LOCAL_LOCK_WAIT_MAX.as_millis() < LEASE.as_millis());
const _: () = assert!(LANE_PARTITIONS_MAX * 249 <= MARK_NAME_BYTES_MAX);
const _: () = assert!(PACK_BELOW_PLAIN_BYTES < PACKED_BATCH_BYTES_MAX);
const _: () = assert!(LEASE.as_millis() > 2 * LEASE_RENEWAL.as_millis());
const _: () = assert!(LEASE.as_millis() > LEASE_MARGIN.as_millis() + LEASE_RENEWAL.as_millis());
const _: () = assert!(TAIL_WINDOW_BYTES_MAX * 4 <= WORKER_DATA_BYTES_MAX);
const _: () = assert!(COMPARE_KEYS_MAX * VALIDATION_PARTITIONS_IN_FLIGHT * 100 <= 256 * 1024 * 1024);
