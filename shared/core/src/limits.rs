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

/// Bytes of one answer from a broker. Fetches ask for far less; a topic with larger records needs this much.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

const _: () = assert!(LANE_PARTITIONS_MAX * 249 <= MARK_NAME_BYTES_MAX);
const _: () = assert!(PACK_BELOW_PLAIN_BYTES < PACKED_BATCH_BYTES_MAX);
const _: () = assert!(LEASE.as_millis() > 2 * LEASE_RENEWAL.as_millis());
const _: () = assert!(LEASE.as_millis() > LEASE_MARGIN.as_millis() + LEASE_RENEWAL.as_millis());
const _: () = assert!(TAIL_WINDOW_BYTES_MAX * 4 <= WORKER_DATA_BYTES_MAX);
