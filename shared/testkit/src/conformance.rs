//! What every ledger and every object store must do: one suite each, run on the fake and on the real ones alike.
//!
//! Each check begins with a store of its own from `make`. A check that fails panics and names itself by its line.

use std::{collections::BTreeMap, future::Future};

use bytes::Bytes;
use krossing_core::{
    Generation, LaneId, SourceOffset, TargetOffset, TopicPartition,
    ports::{Ledger, Objects, StoreError, StoreResult},
    progress::PartitionProgress,
};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn is_conflict<T: std::fmt::Debug>(answer: StoreResult<T>) -> bool {
    matches!(answer, Err(StoreError::Conflict { .. }))
}

// ── Ledger ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Everything a [`Ledger`] promises.
pub async fn ledger_suite<L: Ledger + Clone, F: Future<Output = L>>(make: impl Fn() -> F) {
    journal_is_appended_to_at_its_end_only(make().await).await;
    one_of_many_appenders_wins_each_line(make().await).await;
    documents_are_written_by_compare_and_swap(make().await).await;
    one_of_many_writers_wins_each_version(make().await).await;
    documents_have_any_name(make().await).await;
    progress_is_kept_by_partition(make().await).await;
    an_older_generation_saves_nothing(make().await).await;
    lanes_do_not_touch_each_other(make().await).await;
}

async fn journal_is_appended_to_at_its_end_only(ledger: impl Ledger) {
    assert_eq!(ledger.journal().await, Ok(vec![]));
    ledger.append_journal(0, r#"{"entry":"first ü"}"#).await.expect("an empty journal takes line 0");
    assert!(is_conflict(ledger.append_journal(0, "again").await), "a line that is there is not written again");
    assert!(is_conflict(ledger.append_journal(2, "too far").await), "no line is skipped");
    ledger.append_journal(1, "second").await.expect("the next line");
    assert_eq!(ledger.journal().await, Ok(vec![r#"{"entry":"first ü"}"#.to_owned(), "second".to_owned()]));
}

async fn one_of_many_appenders_wins_each_line<L: Ledger + Clone>(ledger: L) {
    const LINES: usize = 8;
    let writers = ["a", "b", "c"].map(|writer| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut won = Vec::new();
            for position in 0..LINES {
                match ledger.append_journal(position, writer).await {
                    Ok(()) => won.push(position),
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (writer, won)
        })
    });
    let mut expected = BTreeMap::new();
    for writer in writers {
        let (writer, won) = writer.await.expect("the writer ends");
        for position in won {
            assert_eq!(expected.insert(position, writer.to_owned()), None, "line {position} was won twice");
        }
    }
    let journal = ledger.journal().await.expect("readable");
    assert_eq!(journal, expected.into_values().collect::<Vec<_>>(), "who won a line is who wrote it");
}

async fn documents_are_written_by_compare_and_swap(ledger: impl Ledger) {
    assert_eq!(ledger.document("lease").await, Ok(None));
    assert!(is_conflict(ledger.put_document("lease", Some(1), bytes("x")).await), "there is none yet");
    let first = ledger.put_document("lease", None, bytes("one")).await.expect("there is none yet");
    assert_eq!(ledger.document("lease").await, Ok(Some((first, bytes("one")))));
    assert!(is_conflict(ledger.put_document("lease", None, bytes("x")).await), "there is one");
    let second = ledger.put_document("lease", Some(first), bytes("")).await.expect("nobody wrote meanwhile");
    assert!(second > first);
    assert!(is_conflict(ledger.put_document("lease", Some(first), bytes("x")).await), "the version is old");
    assert_eq!(ledger.document("lease").await, Ok(Some((second, bytes("")))));
}

async fn one_of_many_writers_wins_each_version<L: Ledger + Clone>(ledger: L) {
    const EACH: u64 = 8;
    let writers = [0, 1, 2].map(|_| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let stored = ledger.document("count").await.expect("readable");
                let (version, count) = match &stored {
                    Some((version, count)) => {
                        let count = std::str::from_utf8(count).ok().and_then(|count| count.parse::<u64>().ok());
                        (Some(*version), count.expect("a whole number, never a part of one"))
                    }
                    None => (None, 0),
                };
                match ledger.put_document("count", version, bytes(&(count + 1).to_string())).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let (_, count) = ledger.document("count").await.expect("readable").expect("written");
    assert_eq!(count, bytes(&(3 * EACH).to_string()), "no increment was lost");
}

async fn documents_have_any_name(ledger: impl Ledger) {
    let long = format!("lanes/{}/lease", "T".repeat(249));
    // A name may not go on behind another ("lanes/0" beside "lanes/0/lease"): a folder has no file where a folder is.
    let names = ["lanes/0/lease", "Lanes/0/lease", "../outside", ".", ".hidden", "a b%c", &long];
    for name in names {
        ledger.put_document(name, None, bytes(name)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in names {
        let stored = ledger.document(name).await.expect("readable").map(|(_, content)| content);
        assert_eq!(stored, Some(bytes(name)), "{name}");
    }
}

fn progress(partition: i32, source_next: i64) -> PartitionProgress {
    let mut progress = PartitionProgress::begin(
        TopicPartition::new("orders", partition),
        None,
        SourceOffset(0),
        SourceOffset(100),
        TargetOffset(0),
        0,
    );
    progress.source_next = SourceOffset(source_next);
    progress
}

async fn progress_is_kept_by_partition(ledger: impl Ledger) {
    let lane = LaneId(0);
    assert_eq!(ledger.lane_progress(lane).await, Ok(vec![]));
    ledger.save_lane_progress(lane, Generation(1), &[progress(1, 5), progress(0, 7)]).await.expect("saved");
    ledger.save_lane_progress(lane, Generation(1), &[progress(1, 6)]).await.expect("saved");
    ledger.save_lane_progress(lane, Generation(1), &[]).await.expect("nothing is a save too");
    assert_eq!(ledger.lane_progress(lane).await, Ok(vec![progress(0, 7), progress(1, 6)]));
}

async fn an_older_generation_saves_nothing(ledger: impl Ledger) {
    let lane = LaneId(0);
    ledger.save_lane_progress(lane, Generation(2), &[progress(0, 1)]).await.expect("saved");
    assert!(is_conflict(ledger.save_lane_progress(lane, Generation(1), &[progress(0, 9)]).await));
    ledger.save_lane_progress(lane, Generation(10), &[]).await.expect("a later generation takes over with nothing");
    assert!(is_conflict(ledger.save_lane_progress(lane, Generation(9), &[progress(0, 9)]).await));
    ledger.save_lane_progress(lane, Generation(10), &[progress(0, 2)]).await.expect("the same generation goes on");
    assert_eq!(ledger.lane_progress(lane).await, Ok(vec![progress(0, 2)]));
}

async fn lanes_do_not_touch_each_other(ledger: impl Ledger) {
    ledger.save_lane_progress(LaneId(1), Generation(9), &[progress(0, 1)]).await.expect("saved");
    ledger.save_lane_progress(LaneId(11), Generation(1), &[progress(1, 2)]).await.expect("another lane's generation");
    assert_eq!(ledger.lane_progress(LaneId(1)).await, Ok(vec![progress(0, 1)]));
    assert_eq!(ledger.lane_progress(LaneId(11)).await, Ok(vec![progress(1, 2)]));
}

// ── Objects ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Everything an [`Objects`] promises.
pub async fn objects_suite<O: Objects + Clone, F: Future<Output = O>>(make: impl Fn() -> F) {
    objects_come_back_whole(make().await).await;
    a_name_that_is_taken_is_not_taken_again(make().await).await;
    one_of_many_makers_wins_a_name(make().await).await;
    ranges_end_where_the_object_ends(make().await).await;
    keys_are_listed_by_prefix_in_order(make().await).await;
}

async fn objects_come_back_whole(objects: impl Objects) {
    assert_eq!(objects.get("m/a").await, Ok(None));
    objects.put("m/a", vec![bytes("two "), bytes(""), bytes("parts")]).await.expect("stored");
    assert_eq!(objects.get("m/a").await, Ok(Some(bytes("two parts"))));
    objects.put("m/a", vec![]).await.expect("replaced");
    assert_eq!(objects.get("m/a").await, Ok(Some(bytes(""))));
    assert_eq!(objects.get("m").await, Ok(None), "a folder is no object");
    assert_eq!(objects.get("m/a/b").await, Ok(None), "an object is no folder");
}

async fn a_name_that_is_taken_is_not_taken_again(objects: impl Objects) {
    objects.put_new("m/plan", vec![bytes("first")]).await.expect("the name is free");
    assert!(is_conflict(objects.put_new("m/plan", vec![bytes("second")]).await));
    assert_eq!(objects.get("m/plan").await, Ok(Some(bytes("first"))));
    objects.put("m/plan", vec![bytes("third")]).await.expect("replaced on purpose");
    assert_eq!(objects.get("m/plan").await, Ok(Some(bytes("third"))));
}

async fn one_of_many_makers_wins_a_name<O: Objects + Clone>(objects: O) {
    let makers = ["a", "b", "c", "d"].map(|maker| {
        let objects = objects.clone();
        tokio::spawn(async move {
            let made = objects.put_new("m/new", vec![bytes(maker)]).await;
            assert!(made.is_ok() || is_conflict(made.clone()), "{made:?}");
            made.is_ok().then_some(maker)
        })
    });
    let mut winners = Vec::new();
    for maker in makers {
        winners.extend(maker.await.expect("the maker ends"));
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(objects.get("m/new").await, Ok(Some(bytes(winners[0]))));
}

async fn ranges_end_where_the_object_ends(objects: impl Objects) {
    objects.put("m/range", vec![bytes("0123456789")]).await.expect("stored");
    for (from, count, expected) in
        [(0, 3, "012"), (8, 5, "89"), (10, 1, ""), (99, 1, ""), (0, 0, ""), (3, u64::MAX, "3456789")]
    {
        assert_eq!(objects.get_range("m/range", from, count).await, Ok(bytes(expected)), "{count} bytes at {from}");
    }
    assert!(matches!(objects.get_range("m/none", 0, 1).await, Err(StoreError::Missing { .. })));
    assert!(matches!(objects.get_range("m", 0, 1).await, Err(StoreError::Missing { .. })));
}

async fn keys_are_listed_by_prefix_in_order(objects: impl Objects) {
    let long = format!("m/segments/{}/0/00000000000000000000.log", "T".repeat(249));
    let keys = ["m/a-b", "m/a/1", "m/a/10", "m/a/2", "m/ab", "m/B", "n/../x", "n/a b", &long];
    for key in keys {
        objects.put(key, vec![bytes(key)]).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    for prefix in ["", "m/", "m/a", "m/a/", "m/a/1", "m/segments/TT", "m/segments/", "n/", "none", "m/a/1/"] {
        let mut expected: Vec<_> =
            keys.iter().filter(|key| key.starts_with(prefix)).map(|key| (*key).to_owned()).collect();
        expected.sort();
        assert_eq!(objects.list(prefix).await, Ok(expected), "{prefix:?}");
    }
    for key in keys {
        assert_eq!(objects.get(key).await, Ok(Some(bytes(key))), "{key}");
    }
}
