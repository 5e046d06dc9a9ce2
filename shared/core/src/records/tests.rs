//! The whole way of a batch, against models that know only records: cut, filtered, repacked, sealed, read again; bytes of
//! real clients; and bytes of nobody.

#![allow(clippy::unwrap_used)]

use std::io::Read;

use bytes::{BufMut, Bytes};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::{batch::HEADER_BYTES, codec::Decompressor, *};
use crate::{
    limits,
    ports::AbortedTransaction,
    progress::SourceRun,
    types::{LeaderEpoch, Offset, Producer, SourceOffset},
};

const OURS: Producer = Producer { id: 4711, epoch: 3 };

fn golden(hex: &str) -> Bytes {
    let digits: String = hex.split_whitespace().collect();
    hex::decode(digits).unwrap().into()
}

fn parse(bytes: &Bytes) -> RawBatch {
    RawBatch::parse(bytes.clone()).unwrap()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn plain_record(offset: Offset, timestamp_ms: i64, value: &Bytes) -> Record {
    Record { offset, timestamp_ms, key: None, value: Some(value.clone()), headers: Vec::new() }
}

fn batch(codec: Codec, records: Vec<Record>) -> RawBatch {
    parse(&BatchBuilder { codec, records: records.clone(), ..BatchBuilder::new(records[0].offset) }.build().unwrap())
}

// ── Bytes of real clients ──────────────────────────────────────────────────────────────────────────────────────────

/// What `golden/Golden.java` writes.
fn java_records(with_big: bool) -> Vec<Record> {
    let headers = vec![(text("h"), Some(text("1"))), (text("h"), None), (text(""), Some(text("")))];
    let record = |offset, timestamp_ms, key, value| Record { offset, timestamp_ms, key, value, headers: vec![] };
    let mut records = vec![
        Record { headers, ..record(100, 1000, None, Some(text("v0"))) },
        record(101, 999, Some(text("k1")), Some(text(""))),
        record(102, 5_000_000_000_000, Some(text("")), None),
    ];
    if with_big {
        records.push(record(103, 1001, Some(text("big")), Some("krossing ".repeat(8000).into())));
    }
    records
}

#[test]
fn batches_of_kafkas_own_client_are_read_in_every_codec() {
    for (codec, hex) in [
        (Codec::None, include_str!("golden/java-none.hex")),
        (Codec::Gzip, include_str!("golden/java-gzip.hex")),
        (Codec::Snappy, include_str!("golden/java-snappy.hex")),
        (Codec::Lz4, include_str!("golden/java-lz4.hex")),
        (Codec::Zstd, include_str!("golden/java-zstd.hex")),
    ] {
        let batch = parse(&golden(hex));
        let records = java_records(codec != Codec::None);
        let header = &batch.header;
        assert_eq!((header.codec, header.base_offset, header.is_dense()), (codec, 100, true));
        assert_eq!((header.base_sequence, header.leader_epoch), (42, LeaderEpoch(5)));
        assert_eq!((header.producer, header.max_timestamp), (Producer { id: 7, epoch: 3 }, 5_000_000_000_000));
        assert_eq!((header.last_offset(), header.is_control()), (records.last().unwrap().offset, false));
        assert_eq!(batch.records().unwrap(), records, "{codec}");
    }
}

#[test]
fn a_plain_batch_and_a_marker_are_built_byte_for_byte_as_kafka_builds_them() {
    let builder = BatchBuilder {
        leader_epoch: LeaderEpoch(5),
        producer: Producer { id: 7, epoch: 3 },
        base_sequence: 42,
        records: java_records(false),
        ..BatchBuilder::new(100)
    };
    assert_eq!(builder.build().unwrap(), golden(include_str!("golden/java-none.hex")));

    let abort = golden(include_str!("golden/java-abort.hex"));
    let producer = Producer { id: 9, epoch: 2 };
    assert_eq!(control_batch(producer, ControlType::Abort, 11, 7, LeaderEpoch(5), 1234), abort);
    assert_eq!(control_type(&parse(&abort)), Ok(Some(ControlType::Abort)));
}

fn decompress(codec: Codec, compressed: Bytes) -> Vec<u8> {
    let mut plain = Vec::new();
    Decompressor::new(codec, compressed, usize::MAX).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn lz4_frames_with_linked_blocks_or_checksums_are_read() {
    for hex in [include_str!("golden/lz4-linked.hex"), include_str!("golden/lz4-checksums.hex")] {
        assert!(decompress(Codec::Lz4, golden(hex)) == "krossing ".repeat(20_000).as_bytes());
    }
}

#[test]
fn snappy_is_read_as_one_raw_block_and_as_joined_streams() {
    let plain = b"krossing ".repeat(20_000);
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    assert!(decompress(Codec::Snappy, raw.into()) == plain);

    let mut framed = Vec::new();
    codec::compress(Codec::Snappy, &plain, &mut framed).unwrap();
    assert!(framed.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
    assert!(decompress(Codec::Snappy, framed.clone().into()) == plain);
    framed.extend_from_within(..);
    assert!(decompress(Codec::Snappy, framed.into()) == plain.repeat(2));
}

#[test]
fn lz4_is_written_as_the_java_client_demands() {
    let mut frame = Vec::new();
    codec::compress(Codec::Lz4, &[7; 200_000], &mut frame).unwrap();
    // Version 1, independent blocks, no checksums, no content size; blocks of 64 KiB.
    assert_eq!(frame[4..6], [0b0110_0000, 0x40]);
}

// ── Cutting ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_answer_is_cut_into_its_whole_batches() {
    let first = batch(Codec::None, java_records(false)).bytes;
    let second = batch(Codec::Zstd, vec![plain_record(103, 1, &text("v"))]).bytes;
    let answer: Bytes = [&first[..], &second[..]].concat().into();
    for end in 0..=answer.len() {
        let mut batches = Batches::new(answer.slice(..end));
        let whole: Vec<_> = batches.by_ref().map(|b| b.unwrap().bytes).collect();
        let expected = [&first, &second][..usize::from(end >= first.len()) + usize::from(end == answer.len())].to_vec();
        assert_eq!(whole.iter().collect::<Vec<_>>(), expected);
        assert_eq!(batches.whole_bytes(), expected.iter().map(|b| b.len()).sum::<usize>());
    }
}

#[test]
fn what_cannot_be_read_names_its_offset_and_ends_the_answer() {
    fn check(change: impl FnOnce(&mut Vec<u8>), said: &str) {
        let good = batch(Codec::None, java_records(false)).bytes;
        let mut bad = good.to_vec();
        change(&mut bad);
        let answer = [&good[..], &bad, &good].concat();
        let answers: Vec<_> = Batches::new(answer.into()).collect();
        assert_eq!(answers.len(), 2);
        let message = answers[1].as_ref().unwrap_err().to_string();
        assert!(message.contains("offset 100: ") && message.contains(said), "{message}");
    }
    check(|bytes| bytes[16] = 1, "message format 1");
    check(|bytes| bytes[16] = 0, "message format 0");
    check(|bytes| bytes[70] ^= 1, "checksum");
    check(|bytes| bytes[8..12].copy_from_slice(&(-5i32).to_be_bytes()), "length -5");
    check(|bytes| bytes[22] = 6, "codec 6");
    check(|bytes| bytes[57..61].copy_from_slice(&4i32.to_be_bytes()), "4 records in 3 offsets");
    check(|bytes| bytes[57..61].copy_from_slice(&(-1i32).to_be_bytes()), "-1 records");
    check(|bytes| bytes[23..27].copy_from_slice(&(-1i32).to_be_bytes()), "offsets from 100 over -1");
}

#[test]
fn a_batch_that_compaction_has_emptied_has_no_records() {
    let builder = BatchBuilder { last_offset: Some(9), codec: Codec::None, ..BatchBuilder::new(5) };
    let empty = parse(&builder.build().unwrap());
    assert!(!empty.header.is_dense());
    assert_eq!((empty.records().unwrap(), empty.header.source_end()), (vec![], SourceOffset(10)));
    let mut repacker = Repacker::new(RepackLimits::default());
    assert_eq!(repacker.push(&empty, SourceOffset(0)), Ok(vec![]));
    assert_eq!(repacker.finish(), Ok(None));
}

#[test]
fn more_or_fewer_records_than_the_header_counts_are_an_error() {
    let good = batch(Codec::None, java_records(false));
    for (count, said) in [(2, "more behind the last record"), (1, "more behind")] {
        let error = with_fixed_checksum(&good.bytes, |b| b[60] = count).unwrap().records().unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = with_fixed_checksum(&good.bytes, |b| {
        b[60] = 4;
        b[26] = 3;
    });
    assert!(error.unwrap().records().unwrap_err().to_string().contains("record number 3"));
}

/// Changes a batch and makes length and checksum right again, so that what lies behind them is reached.
fn with_fixed_checksum(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Result<RawBatch, RecordError> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let length = (bytes.len() - batch::PREFIX_BYTES) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[batch::CHECKED_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    RawBatch::parse(bytes.into())
}

#[test]
fn a_small_batch_that_decompresses_to_too_much_is_refused_by_name() {
    let mut plain = Vec::new();
    varint::put(&mut plain, 1 << 30);
    plain.resize(8 << 20, 0);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut payload = Vec::new();
        codec::compress(codec, &plain, &mut payload).unwrap();
        let good = batch(codec, vec![plain_record(77, 1, &text("v"))]).bytes;
        let bomb = with_fixed_checksum(&good, |bytes| {
            bytes.truncate(HEADER_BYTES);
            bytes.put_slice(&payload);
        });
        let bytes_max = 1 << 20;
        let error = RawRecords::with_bytes_max(&bomb.unwrap(), bytes_max).unwrap().next_record().unwrap_err();
        assert_eq!(error, RecordError { offset: 77, problem: RecordProblem::TooLarge { bytes_max } }, "{codec}");
    }
    // One raw block says how much it is, and is not believed.
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    let good = batch(Codec::Snappy, vec![plain_record(77, 1, &text("v"))]).bytes;
    let bomb = with_fixed_checksum(&good, |bytes| {
        bytes.truncate(HEADER_BYTES);
        bytes.put_slice(&raw);
    });
    let error = RawRecords::with_bytes_max(&bomb.unwrap(), 1 << 20).unwrap().next_record().unwrap_err();
    assert_eq!(error.problem, RecordProblem::TooLarge { bytes_max: 1 << 20 });
}

// ── Repacking ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn repack(limits: RepackLimits, batches: &[RawBatch], from: Offset) -> Vec<OutBatch> {
    let mut repacker = Repacker::new(limits);
    let mut out: Vec<_> = batches.iter().flat_map(|batch| repacker.push(batch, SourceOffset(from)).unwrap()).collect();
    out.extend(repacker.finish().unwrap());
    out
}

fn numbers(out: &[OutBatch]) -> Vec<(u32, u32, u32, u32)> {
    out.iter().map(|out| (out.records, out.passed, out.packed, out.rewritten)).collect()
}

#[test]
fn a_large_dense_batch_is_passed_with_its_bytes_and_small_neighbours_are_packed() {
    for codec in Codec::ALL {
        // Bytes that do not compress, so that it is large in every codec.
        let mut state = 1u64;
        let noise: Vec<u8> = (0..80_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let large = batch(codec, vec![plain_record(10, 5, &noise.into())]);
        let small = |offset| batch(codec, vec![plain_record(offset, offset, &text("small"))]);
        let batches = [small(8), small(9), large.clone(), small(11), small(12), small(13), small(15)];
        let out = repack(RepackLimits::default(), &batches, 0);
        assert_eq!(numbers(&out), [(2, 0, 2, 0), (1, 1, 0, 0), (4, 0, 4, 0)], "{codec}");
        assert_eq!(parse(&out[1].seal(OURS, 0)).payload(), large.payload());
        let run = |first, count| SourceRun { source_first: SourceOffset(first), count, epoch: LeaderEpoch(0) };
        assert_eq!(out[2].runs, [run(11, 3), run(15, 1)]);
        assert_eq!(out[2].source_end, SourceOffset(16));
    }
}

#[test]
fn a_small_batch_without_a_neighbour_is_passed() {
    let one = |codec, offset| batch(codec, vec![plain_record(offset, 1, &text("v"))]);
    let batches = [one(Codec::Lz4, 1), one(Codec::Zstd, 2), one(Codec::Lz4, 3)];
    assert_eq!(numbers(&repack(RepackLimits::default(), &batches, 0)), [(1, 1, 0, 0); 3]);
}

#[test]
fn a_marker_is_never_data() {
    let marker = control_batch(OURS, ControlType::Commit, 0, 3, LeaderEpoch(0), 1);
    let error = Repacker::new(RepackLimits::default()).push(&parse(&marker), SourceOffset(0)).unwrap_err();
    assert_eq!(error.problem, RecordProblem::ControlAsData);
    assert_eq!(error.class(), crate::ErrorClass::DataAtRisk);
}

#[test]
fn timestamps_too_far_apart_for_one_batch_get_two() {
    let records = |timestamps: &[i64]| -> Vec<Record> {
        timestamps.iter().zip(0..).map(|(t, offset)| plain_record(offset, *t, &text("v"))).collect()
    };
    let given = records(&[-1, i64::MAX, i64::MAX - 1, 0, -1]);
    let source = BatchBuilder { transactional: true, records: given.clone(), ..BatchBuilder::new(0) };
    let out = repack(RepackLimits::default(), &[parse(&source.build().unwrap())], 0);
    assert_eq!(numbers(&out), [(1, 0, 0, 0), (4, 0, 0, 1)]);
    let max: Vec<_> = out.iter().map(|out| out.max_timestamp_ms).collect();
    assert_eq!(max, [-1, i64::MAX]);
    let arrived: Vec<_> = out.iter().flat_map(|out| parse(&out.seal(OURS, 0)).records().unwrap()).collect();
    assert!(arrived.iter().map(|r| r.timestamp_ms).eq(given.iter().map(|r| r.timestamp_ms)));
}

#[test]
fn a_record_larger_than_a_batch_may_be_gets_one_of_its_own() {
    let value = Bytes::from(vec![7; limits::PACKED_BATCH_BYTES_MAX]);
    let records = vec![
        plain_record(0, 1, &text("v")),
        plain_record(1, 1, &value),
        plain_record(3, 1, &text("v")),
        plain_record(4, 1, &text("v")),
    ];
    for codec in Codec::ALL {
        let out = repack(RepackLimits::default(), &[batch(codec, records.clone())], 0);
        assert_eq!(numbers(&out), [(1, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 1)]);
    }
}

#[test]
fn sequence_numbers_go_on_from_zero_after_the_largest() {
    assert_eq!(next_sequence(0, 5), 5);
    assert_eq!(next_sequence(i32::MAX - 4, 4), i32::MAX);
    assert_eq!(next_sequence(i32::MAX - 4, 5), 0);
    assert_eq!(next_sequence(i32::MAX, 1), 0);
    assert_eq!(next_sequence(i32::MAX, 3), 2);
}

fn bytes_of(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(prop_oneof![Just(0u8), any::<u8>()], length).prop_map(Bytes::from)
}

fn timestamps() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1_700_000_000_000i64..1_700_000_001_000,
        1 => Just(-1),
        1 => Just(0),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MAX - 1), 0..=i64::MAX],
    ]
}

/// A record without its offset, and how many offsets are missing before it.
fn records() -> impl Strategy<Value = (i64, Record)> {
    let headers = vec((prop_oneof![Just(text("same")), bytes_of(0..4)], option::of(bytes_of(0..5))), 0..4);
    let value = prop_oneof![9 => bytes_of(0..20), 1 => bytes_of(200..600)];
    (prop_oneof![6 => Just(0), 1 => 1i64..5], timestamps(), option::of(bytes_of(0..6)), option::of(value), headers)
        .prop_map(|(gap, timestamp_ms, key, value, headers)| {
            (gap, Record { offset: 0, timestamp_ms, key, value, headers })
        })
}

fn source_batches() -> impl Strategy<Value = BatchBuilder> {
    let attributes = (
        prop::sample::select(&Codec::ALL[..]),
        prop_oneof![6 => Just(0), 1 => 1i64..4],
        prop::bool::weighted(0.15),
        option::weighted(0.15, timestamps()),
        option::weighted(0.15, timestamps()),
        0..3,
    );
    (attributes, prop_oneof![vec(records(), 1..3), vec(records(), 1..25)]).prop_map(
        |((codec, tail_gap, transactional, log_append_time_ms, delete_horizon_ms, epoch), records)| {
            let mut offset = 0;
            let records: Vec<_> = records
                .into_iter()
                .map(|(gap, record)| {
                    offset += gap + 1;
                    Record { offset: offset - 1, ..record }
                })
                .collect();
            BatchBuilder {
                codec,
                last_offset: Some(offset - 1 + tail_gap),
                transactional,
                log_append_time_ms,
                delete_horizon_ms,
                leader_epoch: LeaderEpoch(epoch),
                records,
                ..BatchBuilder::new(0)
            }
        },
    )
}

/// Puts batches behind one another.
fn log(batches: Vec<BatchBuilder>) -> Vec<BatchBuilder> {
    let mut next = 1_000;
    batches
        .into_iter()
        .map(|mut batch| {
            batch.base_offset = next;
            for record in &mut batch.records {
                record.offset += next;
            }
            let last = batch.last_offset.unwrap() + next;
            batch.last_offset = Some(last);
            next = last + 1;
            batch
        })
        .collect()
}

proptest! {
    #[test]
    fn repacking_keeps_every_record_and_names_its_offset(
        batches in vec(source_batches(), 1..12),
        start in option::weighted(0.5, any::<Index>()),
        flushes in vec(prop::bool::weighted(0.2), 12),
        (batch_bytes_max, pack_below) in prop_oneof![Just((500, 150)), Just((900_000, 150)), Just((900_000, 32_768))],
    ) {
        let batches = log(batches);
        let end = batches.last().unwrap().last_offset.unwrap() + 2;
        let from = start.map_or(0, |start| 999 + start.index((end - 999) as usize) as i64);
        let limits = RepackLimits {
            batch_bytes_max,
            pack_below_compressed: pack_below,
            pack_below_plain: pack_below * 2,
            ..RepackLimits::default()
        };

        let mut repacker = Repacker::new(limits);
        let mut out = Vec::new();
        for (builder, flush) in batches.iter().zip(&flushes) {
            out.extend(repacker.push(&parse(&builder.build().unwrap()), SourceOffset(from)).unwrap());
            if *flush {
                out.extend(repacker.finish().unwrap());
                prop_assert_eq!(repacker.open_bytes(), 0);
            }
        }
        out.extend(repacker.finish().unwrap());

        // What must arrive, record by record, with the epoch it was read under.
        let expected: Vec<(Record, LeaderEpoch)> = batches
            .iter()
            .flat_map(|batch| batch.records.iter().map(move |record| {
                let timestamp_ms = batch.log_append_time_ms.unwrap_or(record.timestamp_ms);
                (Record { timestamp_ms, ..record.clone() }, batch.leader_epoch)
            }))
            .filter(|(record, _)| record.offset >= from)
            .collect();
        let mut arrived = Vec::new();
        let mut sequence = i32::MAX - 7;
        for out in &out {
            let sealed = out.seal(OURS, sequence);
            prop_assert_eq!(sealed.len(), out.size());
            let batch = parse(&sealed);
            let header = &batch.header;
            prop_assert!(header.is_dense() && header.base_offset == 0 && header.attributes == header.codec.bits());
            prop_assert_eq!((header.producer, header.base_sequence), (OURS, sequence));
            prop_assert_eq!((header.leader_epoch, header.records_count), (LeaderEpoch(-1), out.records as i32));
            let records = batch.records().unwrap();
            let max_timestamp = records.iter().map(|r| r.timestamp_ms).max().unwrap();
            prop_assert_eq!((header.max_timestamp, out.max_timestamp_ms), (max_timestamp, max_timestamp));
            if out.passed == 1 {
                prop_assert_eq!((out.packed, out.rewritten), (0, 0));
            } else if out.records > 1 {
                let plain = decompress(header.codec, batch.payload());
                prop_assert!(HEADER_BYTES + plain.len() <= batch_bytes_max);
            }

            let offsets: Vec<_> = out.runs.iter().flat_map(|run| {
                (0..run.count).map(|i| (run.source_first.plus(i).0, run.epoch))
            }).collect();
            prop_assert_eq!(offsets.len(), records.len());
            prop_assert_eq!(out.source_end.0, offsets.last().unwrap().0 + 1);
            for pair in out.runs.windows(2) {
                prop_assert!(pair[0].source_end() != pair[1].source_first || pair[0].epoch != pair[1].epoch);
            }
            for (i, (record, (offset, epoch))) in records.into_iter().zip(offsets).enumerate() {
                prop_assert_eq!(record.offset, i as i64);
                arrived.push((Record { offset, ..record }, epoch));
            }
            sequence = next_sequence(sequence, out.records);
        }
        prop_assert_eq!(arrived, expected);

        let with_records = batches.iter().filter(|b| b.records.iter().any(|r| r.offset >= from)).count();
        prop_assert_eq!(out.iter().map(|o| o.passed + o.packed + o.rewritten).sum::<u32>() as usize, with_records);
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_nothing_worse(bytes in vec(any::<u8>(), 0..200)) {
        for batch in Batches::new(bytes.into()).flatten() {
            let _read = batch.records();
        }
    }

    #[test]
    fn a_batch_with_any_bytes_changed_is_read_or_refused_and_nothing_worse(
        builder in source_batches(),
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
        keep in option::weighted(0.3, any::<Index>()),
    ) {
        let good = builder.build().unwrap();
        let changed = with_fixed_checksum(&good, |bytes| {
            for (at, byte) in &changes {
                // Never the format and the length: those are looked at first.
                let at = 21 + at.index(bytes.len() - 21);
                bytes[at] = *byte;
            }
            if let Some(keep) = keep {
                bytes.truncate(HEADER_BYTES + keep.index(bytes.len() - HEADER_BYTES));
            }
        });
        if let Ok(batch) = changed {
            if let Ok(records) = batch.records() {
                prop_assert_eq!(records.len(), batch.header.records_count as usize);
                prop_assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
            }
            let _verdict = AbortFilter::new([]).verdict(&batch);
            let mut repacker = Repacker::new(RepackLimits { batch_bytes_max: 500, ..RepackLimits::default() });
            let _pushed = repacker.push(&batch, SourceOffset(2));
            let _control = control_type(&batch);
        }
    }
}

// ── Aborted transactions ───────────────────────────────────────────────────────────────────────────────────────────

/// One step of a producer; a transaction begins with its first data.
#[derive(Debug, Clone, Copy)]
enum Step {
    Data { producer: i64, transactional: bool, records: i64 },
    End { producer: i64, end: ControlType },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4i64, prop::bool::weighted(0.8), 1..4i64)
            .prop_map(|(producer, transactional, records)| Step::Data { producer, transactional, records }),
        1 => (0..4i64, prop::bool::ANY).prop_map(|(producer, abort)| Step::End {
            producer,
            end: if abort { ControlType::Abort } else { ControlType::Commit },
        }),
    ]
}

/// What a broker knows of an aborted transaction, and the model's verdict of every batch of a log.
struct TransactionLog {
    batches: Vec<(RawBatch, Verdict)>,
    aborted: Vec<(AbortedTransaction, Offset)>,
}

fn transaction_log(mut steps: Vec<Step>) -> TransactionLog {
    steps.extend((0..4).map(|producer| Step::End { producer, end: ControlType::Commit }));
    let mut log = TransactionLog { batches: Vec::new(), aborted: Vec::new() };
    let mut open: [Vec<usize>; 4] = Default::default();
    let mut next = 0;
    for step in steps {
        match step {
            Step::Data { producer, transactional, records } => {
                // A producer with a transaction open writes nothing beside it.
                let transactional = transactional || !open[producer as usize].is_empty();
                if transactional {
                    open[producer as usize].push(log.batches.len());
                }
                let builder = BatchBuilder {
                    producer: Producer { id: producer, epoch: 0 },
                    transactional,
                    records: (next..next + records).map(|o| plain_record(o, 1, &text("v"))).collect(),
                    ..BatchBuilder::new(next)
                };
                log.batches.push((parse(&builder.build().unwrap()), Verdict::Data));
                next += records;
            }
            Step::End { producer, end } => {
                let batches = std::mem::take(&mut open[producer as usize]);
                if let (Some(first), ControlType::Abort) = (batches.first(), end) {
                    let first_offset = log.batches[*first].0.header.base_offset;
                    log.aborted.push((AbortedTransaction { producer_id: producer, first_offset }, next));
                    for batch in batches {
                        log.batches[batch].1 = Verdict::Aborted;
                    }
                }
                let marker = control_batch(Producer { id: producer, epoch: 0 }, end, 0, next, LeaderEpoch(0), 1);
                log.batches.push((parse(&marker), Verdict::Control));
                next += 1;
            }
        }
    }
    log
}

proptest! {
    #[test]
    fn aborted_data_is_told_as_the_record_by_record_model_tells_it(
        steps in vec(steps(), 1..40),
        begin in any::<Index>(),
        cuts in vec(any::<Index>(), 0..5),
    ) {
        let log = transaction_log(steps);
        let begin = begin.index(log.batches.len());
        let offset_of = |i: usize| log.batches.get(i).map_or(i64::MAX, |(batch, _)| batch.header.base_offset);
        let mut bounds: Vec<usize> = cuts.iter().map(|c| begin + c.index(log.batches.len() - begin)).collect();
        bounds.extend([begin, log.batches.len()]);
        bounds.sort_unstable();

        // What a broker lists for each Fetch: transactions that end in or after the range and begin before its end.
        let listed = bounds.windows(2).flat_map(|range| {
            let (from, to) = (offset_of(range[0]), offset_of(range[1]));
            log.aborted.iter().filter(move |(t, marker)| *marker >= from && t.first_offset < to).map(|(t, _)| *t)
        });
        let mut filter = AbortFilter::new(listed);
        for (batch, expected) in &log.batches[begin..] {
            prop_assert_eq!(filter.verdict(batch), Ok(*expected));
        }
    }
}
