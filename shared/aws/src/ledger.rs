//! The ledger in one table of DynamoDB, which serves many migrations.
//!
//! ```text
//! scope (partition key)         item (sort key)
//! <migration>/journal           line/0000000000 …             one a line; never changed, never deleted
//! <migration>/document/<name>   head                          version, content (packed where it is larger than an item)
//! <migration>/progress/<lane>   head                          generation, counter, the saves in order
//! any of them                   part/<order>/<write>/<n>      content that is larger than an item (see `items`)
//! ```
//!
//! *Journal.* Line N is written where there is none, after line N-1 was seen: lines are never deleted, so that what was
//! seen is still so, no line is skipped, and no transaction is needed.
//!
//! *Progress.* A save is one packed content, however many partitions it covers, and becomes visible when the head names
//! it: all or none, without the 100 actions of a transaction. A reader takes the saves that one head names, oldest first,
//! the last of each partition. When a head names many, the next save holds all of the lane and takes their place (it is
//! folded). Heads are written by compare-and-swap on a counter, and not where their generation is later.
//!
//! *Lost answers.* A write whose condition fails is a success where what stands there carries this call's own id: the
//! SDK had sent it twice. For a document that somebody has replaced since, this cannot be told any more and is answered
//! as the conflict that it has become.
//!
//! Does not: delete what a migration has left; a scope is found by its name, and never by a scan.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, try_join};
use krossing_core::{
    Generation, LaneId, MigrationId,
    limits::{
        LEDGER_CALL_WAIT_MAX, LEDGER_ITEM_BYTES_MAX, LEDGER_PARTS_IN_FLIGHT, LEDGER_SAVES_BYTES_MAX, LEDGER_SAVES_MAX,
        LEDGER_TRIES_MAX, LEDGER_UNPACKED_BYTES_MAX,
    },
    ports::{Ledger, StoreError, StoreResult, Version},
    progress::PartitionProgress,
};

pub use crate::items::{ITEM_KEY, SCOPE_KEY};
use crate::{
    config::Aws,
    failure::within,
    items::{self, Item, Placed, Put, Stored, Table, Wanted, When},
};

const HEAD: &str = "head";
const LINES: &str = "line/";

/// Says of a head that its content is packed.
const PACKED_ATTRIBUTE: &str = "packed";

/// How hard content is packed: at zstd's default, JSON of progress shrinks to a tenth.
const PACK_LEVEL: i32 = 3;

/// A migration's memory in a table.
#[derive(Debug, Clone)]
pub struct DynamoLedger {
    table: Table,
    migration: Arc<str>,
}

impl DynamoLedger {
    /// The ledger of a migration in a table with the string keys [`SCOPE_KEY`] and [`ITEM_KEY`]. Asks nothing yet.
    pub fn new(aws: &Aws, table: &str, migration: &MigrationId) -> Self {
        let site = aws.site();
        let client = aws.dynamodb(&site);
        Self { table: Table::new(client, table.into(), site), migration: migration.as_str().into() }
    }

    fn scope(&self, what: &str) -> String {
        format!("{}/{what}", self.migration)
    }

    fn conflict(attempt: &str) -> StoreError {
        StoreError::Conflict { attempt: attempt.to_owned() }
    }

    /// Others write all the time: the next try may find a pause.
    fn busy(&self, attempt: &str) -> StoreError {
        let detail = format!("{}: others wrote it {LEDGER_TRIES_MAX} times meanwhile", self.table.place());
        StoreError::Unavailable { attempt: attempt.to_owned(), detail }
    }

    fn read_stored(&self, attempt: &str, scope: &str, key: &str, item: &Item) -> StoreResult<Stored> {
        Stored::from_attributes(item).map_err(|what| self.table.damaged(attempt, scope, key, &what))
    }
}

// ── Journal ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn line_key(position: usize) -> String {
    format!("{LINES}{position:010}")
}

/// The first line that does not stand in its place.
fn gap(lines: &[(String, Item)]) -> Option<(usize, &String)> {
    lines.iter().map(|(key, _)| key).enumerate().find(|(position, key)| **key != line_key(*position))
}

impl DynamoLedger {
    async fn read_journal(&self, attempt: &str) -> StoreResult<Vec<String>> {
        let scope = &self.scope("journal");
        let mut items = self.table.query(attempt, scope, LINES, Wanted::Items).await?;
        if gap(&items).is_some() {
            // A query is no snapshot: of two lines that come while it runs it may see the second only.
            items = self.table.query(attempt, scope, LINES, Wanted::Items).await?;
        }
        if let Some((position, key)) = gap(&items) {
            let what = format!("it stands where line {} should: lines are missing", position + 1);
            return Err(self.table.damaged(attempt, scope, key, &what));
        }
        let lines = items.into_iter().map(|(key, item)| async move {
            let key = &key;
            let stored = self.read_stored(attempt, scope, key, &item)?;
            let content = self.table.content(attempt, scope, key, &stored, &item).await?;
            // A line's parts are never deleted once it is there.
            let content = content.ok_or_else(|| self.table.damaged(attempt, scope, key, "a part of it is missing"))?;
            String::from_utf8(content.into()).map_err(|_| self.table.damaged(attempt, scope, key, "it is not text"))
        });
        stream::iter(lines).buffered(LEDGER_PARTS_IN_FLIGHT).try_collect().await
    }

    async fn append(&self, attempt: &str, position: usize, line: &str) -> StoreResult<()> {
        let scope = &self.scope("journal");
        if let Some(before) = position.checked_sub(1)
            && self.table.get(attempt, scope, &line_key(before)).await?.is_none()
        {
            return Err(Self::conflict(attempt));
        }
        let content = Bytes::copy_from_slice(line.as_bytes());
        let stored = Stored::of(position as u64, &content, Placed::IfLarge);
        self.table.put_parts(attempt, scope, &stored, &content).await?;
        let item = items::head(&stored, &content);
        match self.table.put(attempt, scope, &line_key(position), item, When::Absent).await? {
            Put::Done(_) => Ok(()),
            Put::Refused(there) if is_ours(there.as_ref(), &stored) => Ok(()),
            Put::Refused(_) => {
                if stored.parts > 0 {
                    self.table.delete_parts(scope, |key| stored.owns(key)).await;
                }
                Err(Self::conflict(attempt))
            }
        }
    }
}

/// Whether what stands there was written by this very call.
fn is_ours(there: Option<&Item>, stored: &Stored) -> bool {
    there.is_some_and(|item| items::read_text(item, "write") == Ok(&stored.write))
}

// ── Documents ──────────────────────────────────────────────────────────────────────────────────────────────────────

impl DynamoLedger {
    async fn read_document(&self, attempt: &str, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        let scope = &self.scope(&format!("document/{name}"));
        for _ in 0..LEDGER_TRIES_MAX {
            let Some(head) = self.table.get(attempt, scope, HEAD).await? else { return Ok(None) };
            let stored = self.read_stored(attempt, scope, HEAD, &head)?;
            if let Some(content) = self.table.content(attempt, scope, HEAD, &stored, &head).await? {
                let content = match head.contains_key(PACKED_ATTRIBUTE) {
                    true => unpacked(&content).map_err(|why| self.table.damaged(attempt, scope, HEAD, &why))?.into(),
                    false => content,
                };
                return Ok(Some((stored.order, content)));
            }
            // Parts go when another version has taken their place, and only then.
            let now = self.table.get(attempt, scope, HEAD).await?;
            if is_ours(now.as_ref(), &stored) {
                return Err(self.table.damaged(attempt, scope, HEAD, "a part of it is missing"));
            }
        }
        Err(self.busy(attempt))
    }

    async fn write_document(
        &self,
        attempt: &str,
        name: &str,
        expected: Option<Version>,
        content: Bytes,
    ) -> StoreResult<Version> {
        let scope = &self.scope(&format!("document/{name}"));
        let (version, when) = match expected {
            Some(version) => (version + 1, When::Unchanged("order", version)),
            None => (1, When::Absent),
        };
        // What fits an item stays readable in a console.
        let pack = content.len() > LEDGER_ITEM_BYTES_MAX;
        let content = if pack { packed(&content) } else { content };
        let stored = Stored::of(version, &content, Placed::IfLarge);
        self.table.put_parts(attempt, scope, &stored, &content).await?;
        let mut head = items::head(&stored, &content);
        if pack {
            head.insert(PACKED_ATTRIBUTE.to_owned(), AttributeValue::Bool(true));
        }
        let replaced = match self.table.put(attempt, scope, HEAD, head, when).await? {
            Put::Done(replaced) => replaced,
            Put::Refused(there) if is_ours(there.as_ref(), &stored) => None,
            Put::Refused(_) => {
                if stored.parts > 0 {
                    self.table.delete_parts(scope, |key| stored.owns(key)).await;
                }
                return Err(Self::conflict(attempt));
            }
        };
        let had_parts = replaced.is_some_and(|item| items::read_number(&item, "parts").is_ok_and(|parts| parts > 0));
        if had_parts || stored.parts > 0 {
            // Whoever wrote parts for this version or an earlier one has lost, and cannot win any more.
            let is_garbage =
                |key: &str| !stored.owns(key) && items::order_of(key).is_some_and(|order| order <= version);
            self.table.delete_parts(scope, is_garbage).await;
        }
        Ok(version)
    }
}

// ── Progress ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a lane's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LaneHead {
    /// The latest that has written.
    generation: Generation,
    /// Rises with each write of the head.
    counter: u64,
    /// The write that made it.
    write: String,
    /// Oldest first.
    saves: Vec<Stored>,
}

impl LaneHead {
    fn attributes(&self) -> Item {
        let saves = self.saves.iter().map(|save| AttributeValue::M(save.attributes())).collect();
        [
            ("generation", items::number(self.generation.0)),
            ("counter", items::number(self.counter)),
            ("write", AttributeValue::S(self.write.clone())),
            ("saves", AttributeValue::L(saves)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn from_attributes(item: &Item) -> Result<Self, String> {
        let saves = item.get("saves").and_then(|saves| saves.as_l().ok()).ok_or("it has no saves")?;
        let stored = |save: &AttributeValue| Stored::from_attributes(save.as_m().map_err(|_| "a save is not a map")?);
        Ok(Self {
            generation: Generation(items::read_number(item, "generation")?),
            counter: items::read_number(item, "counter")?,
            write: items::read_text(item, "write")?.to_owned(),
            saves: saves.iter().map(stored).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the next save is to take the place of all.
    fn is_long(&self) -> bool {
        let later: u64 = self.saves.iter().skip(1).map(Stored::bytes).sum();
        let first = self.saves.first().map_or(0, Stored::bytes);
        self.saves.len() >= LEDGER_SAVES_MAX || later > LEDGER_SAVES_BYTES_MAX.max(first)
    }
}

fn packed(content: &[u8]) -> Bytes {
    zstd::encode_all(content, PACK_LEVEL).expect("memory takes every write").into()
}

fn unpacked(content: &[u8]) -> Result<Vec<u8>, String> {
    let decoder = zstd::Decoder::new(content).map_err(|error| format!("it does not unpack ({error})"))?;
    let mut unpacked = Vec::new();
    let limit = LEDGER_UNPACKED_BYTES_MAX as u64;
    let read = decoder.take(limit + 1).read_to_end(&mut unpacked);
    read.map_err(|error| format!("it does not unpack ({error})"))?;
    if unpacked.len() as u64 > limit {
        return Err(format!("it unpacks to more than {limit} bytes"));
    }
    Ok(unpacked)
}

fn packed_progress(progress: &[PartitionProgress]) -> Bytes {
    packed(&serde_json::to_vec(progress).expect("plain structs with text keys have a JSON form"))
}

fn unpacked_progress(content: &[u8]) -> Result<Vec<PartitionProgress>, String> {
    serde_json::from_slice(&unpacked(content)?).map_err(|error| format!("a save is not progress ({error})"))
}

/// The last of each partition, by partition.
fn folded(saves: impl IntoIterator<Item = Vec<PartitionProgress>>) -> Vec<PartitionProgress> {
    let mut latest = BTreeMap::new();
    for progress in saves.into_iter().flatten() {
        latest.insert(progress.partition.clone(), progress);
    }
    latest.into_values().collect()
}

impl DynamoLedger {
    fn lane_scope(&self, lane: LaneId) -> String {
        self.scope(&format!("progress/{lane}"))
    }

    async fn lane_head(&self, attempt: &str, scope: &str) -> StoreResult<Option<LaneHead>> {
        let head = self.table.get(attempt, scope, HEAD).await?;
        head.map(|head| self.understood_head(attempt, scope, &head)).transpose()
    }

    fn understood_head(&self, attempt: &str, scope: &str, item: &Item) -> StoreResult<LaneHead> {
        LaneHead::from_attributes(item).map_err(|what| self.table.damaged(attempt, scope, HEAD, &what))
    }

    /// What the saves of a head come to; none where another head has folded them meanwhile.
    async fn read_saves(
        &self,
        attempt: &str,
        scope: &str,
        head: &LaneHead,
    ) -> StoreResult<Option<Vec<PartitionProgress>>> {
        let reads = head
            .saves
            .iter()
            .cloned()
            .map(|save| async move { self.table.content(attempt, scope, HEAD, &save, &Item::new()).await });
        let contents: Vec<_> = stream::iter(reads).buffered(LEDGER_PARTS_IN_FLIGHT).try_collect().await?;
        let Some(contents) = contents.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let saves: Result<Vec<_>, _> = contents.iter().map(|content| unpacked_progress(content)).collect();
        saves.map(folded).map(Some).map_err(|what| self.table.damaged(attempt, scope, HEAD, &what))
    }

    async fn read_progress(&self, attempt: &str, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        let scope = &self.lane_scope(lane);
        for _ in 0..LEDGER_TRIES_MAX {
            let Some(head) = self.lane_head(attempt, scope).await? else { return Ok(Vec::new()) };
            if let Some(progress) = self.read_saves(attempt, scope, &head).await? {
                return Ok(progress);
            }
            if self.lane_head(attempt, scope).await?.is_some_and(|now| now.counter == head.counter) {
                return Err(self.table.damaged(attempt, scope, HEAD, "a part of a save is missing"));
            }
        }
        Err(self.busy(attempt))
    }

    async fn save_progress(
        &self,
        attempt: &str,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        let scope = &self.lane_scope(lane);
        let content = packed_progress(progress);
        let save = Stored::of(generation.0, &content, Placed::Always);
        let write_parts = async {
            match progress {
                [] => Ok(()),
                _ => self.table.put_parts(attempt, scope, &save, &content).await,
            }
        };
        let (mut head, ()) = try_join!(self.lane_head(attempt, scope), write_parts)?;
        for _ in 0..LEDGER_TRIES_MAX {
            // The write of a call that met itself: it is the last, or a later head of our generation names it.
            if head.as_ref().is_some_and(|head| head.write == save.write || head.saves.contains(&save)) {
                return Ok(());
            }
            if head.as_ref().is_some_and(|head| head.generation > generation) {
                self.table.delete_parts(scope, |key| save.owns(key)).await;
                return Err(Self::conflict(attempt));
            }
            let long = head.as_ref().filter(|head| head.is_long() && !progress.is_empty());
            let saves = match (long, &head) {
                (Some(head), _) => match self.fold(attempt, scope, head, generation, progress).await? {
                    Some(whole) => vec![whole],
                    None => Vec::new(),
                },
                (None, Some(head)) if progress.is_empty() => head.saves.clone(),
                (None, Some(head)) => [head.saves.clone(), vec![save.clone()]].concat(),
                (None, None) if progress.is_empty() => Vec::new(),
                (None, None) => vec![save.clone()],
            };
            if long.is_some() && saves.is_empty() {
                // Somebody else has folded what we were about to.
                head = self.lane_head(attempt, scope).await?;
                continue;
            }
            let next = LaneHead {
                generation,
                counter: head.as_ref().map_or(1, |head| head.counter + 1),
                write: save.write.clone(),
                saves,
            };
            let when = head.as_ref().map_or(When::Absent, |head| When::Unchanged("counter", head.counter));
            match self.table.put(attempt, scope, HEAD, next.attributes(), when).await? {
                Put::Done(_) => {
                    if let (Some(replaced), [whole]) = (long, &*next.saves) {
                        let gone = [replaced.saves.as_slice(), std::slice::from_ref(&save)].concat();
                        self.clean_up(scope, generation, &gone, whole).await;
                    }
                    return Ok(());
                }
                Put::Refused(there) => {
                    head = there.map(|there| self.understood_head(attempt, scope, &there)).transpose()?;
                }
            }
        }
        Err(self.busy(attempt))
    }

    /// Writes all of a lane as one save, `progress` included; none where the head is not the newest any more.
    async fn fold(
        &self,
        attempt: &str,
        scope: &str,
        head: &LaneHead,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<Option<Stored>> {
        let Some(earlier) = self.read_saves(attempt, scope, head).await? else { return Ok(None) };
        let content = packed_progress(&folded([earlier, progress.to_vec()]));
        let whole = Stored::of(generation.0, &content, Placed::Always);
        self.table.put_parts(attempt, scope, &whole, &content).await?;
        Ok(Some(whole))
    }

    /// Deletes what a fold has replaced, and what processes of earlier generations left: they cannot write the head.
    async fn clean_up(&self, scope: &str, generation: Generation, replaced: &[Stored], whole: &Stored) {
        let is_garbage = |key: &str| {
            !whole.owns(key)
                && (replaced.iter().any(|save| save.owns(key))
                    || items::order_of(key).is_some_and(|order| order < generation.0))
        };
        self.table.delete_parts(scope, is_garbage).await;
    }
}

// ── The port ───────────────────────────────────────────────────────────────────────────────────────────────────────

impl Ledger for DynamoLedger {
    async fn journal(&self) -> StoreResult<Vec<String>> {
        let attempt = "read the journal";
        within(attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, self.read_journal(attempt)).await
    }

    async fn append_journal(&self, position: usize, line: &str) -> StoreResult<()> {
        assert!(!line.contains(['\n', '\0']), "a journal entry is one line of text");
        let attempt = format!("append line {} to the journal", position + 1);
        within(&attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, self.append(&attempt, position, line)).await
    }

    async fn document(&self, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        let attempt = format!("read the document {name}");
        within(&attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, self.read_document(&attempt, name)).await
    }

    async fn put_document(&self, name: &str, expected: Option<Version>, content: Bytes) -> StoreResult<Version> {
        let attempt = format!("write the document {name}");
        let call = self.write_document(&attempt, name, expected, content);
        within(&attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, call).await
    }

    async fn lane_progress(&self, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        let attempt = format!("read the progress of {lane}");
        within(&attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, self.read_progress(&attempt, lane)).await
    }

    async fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        let attempt = format!("save the progress of {lane} as generation {generation}");
        let call = self.save_progress(&attempt, lane, generation, progress);
        within(&attempt, self.table.place(), LEDGER_CALL_WAIT_MAX, call).await
    }
}

#[cfg(test)]
mod tests {
    use krossing_core::{SourceOffset, TargetOffset, TopicPartition};

    use super::*;

    fn progress(partition: i32, source_next: i64) -> PartitionProgress {
        let partition = TopicPartition::new("orders", partition);
        let mut progress =
            PartitionProgress::begin(partition, None, SourceOffset(0), SourceOffset(100), TargetOffset(0), 0);
        progress.source_next = SourceOffset(source_next);
        progress
    }

    fn save_of(bytes: usize) -> Stored {
        Stored::of(1, &vec![0; bytes], Placed::Always)
    }

    fn head(saves: Vec<Stored>) -> LaneHead {
        LaneHead { generation: Generation(3), counter: 9, write: "w".to_owned(), saves }
    }

    #[test]
    fn a_lanes_head_comes_back_from_attributes() {
        let head = head(vec![save_of(1), save_of(900_000)]);
        assert_eq!(LaneHead::from_attributes(&head.attributes()), Ok(head));
    }

    #[test]
    fn a_full_head_fits_into_an_item() {
        let item = head(vec![save_of(900_000); LEDGER_SAVES_MAX]).attributes();
        // As DynamoDB counts, roughly: names and values, and a few bytes each.
        let bytes = format!("{item:?}").len();
        assert!(bytes < 400 * 1024 / 4, "{bytes} bytes");
    }

    #[test]
    fn saves_come_back_and_the_last_of_each_partition_counts() {
        let saves = [vec![progress(1, 5), progress(0, 7)], vec![progress(1, 6)]];
        let read = saves.iter().map(|save| unpacked_progress(&packed_progress(save)).expect("as packed"));
        assert_eq!(folded(read), vec![progress(0, 7), progress(1, 6)]);
    }

    #[test]
    fn a_save_that_is_cut_off_says_so() {
        let content = packed_progress(&[progress(0, 1)]);
        assert!(unpacked_progress(&content[..content.len() - 4]).expect_err("cut off").contains("unpack"));
    }

    #[test]
    fn a_head_is_long_by_number_or_by_bytes() {
        let large = usize::try_from(LEDGER_SAVES_BYTES_MAX).expect("small") + 1;
        assert!(!head(vec![]).is_long());
        assert!(!head(vec![save_of(1); LEDGER_SAVES_MAX - 1]).is_long());
        assert!(head(vec![save_of(1); LEDGER_SAVES_MAX]).is_long());
        assert!(!head(vec![save_of(large)]).is_long(), "the first alone is what a fold would make");
        assert!(head(vec![save_of(1), save_of(large)]).is_long());
    }
}
