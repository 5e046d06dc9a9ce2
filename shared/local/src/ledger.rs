//! The ledger as files: `journal.jsonl`, one file a document, one file of JSON lines a lane.
//!
//! Journal and progress are only appended to, and a line is acknowledged when the whole of it is synced. So a last line
//! without its line end was never acknowledged: reading leaves it out (and says so), the next append cuts it off. Any
//! other damage is an error that names file and line; nothing is repaired by guessing.
//!
//! A lane's file is folded into one line when it has grown large, by rename. Invariants: appends, conditional writes
//! and folding hold the file's lock, so that what was looked at is still so when it is written; the last line of a
//! lane's file carries the highest generation that ever wrote it.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use krossing_core::{
    Generation, LaneId,
    limits::LOCAL_PROGRESS_FILE_BYTES_MAX,
    ports::{Ledger, StoreError, StoreResult, Version},
    progress::PartitionProgress,
};
use serde::{Deserialize, Serialize};

use crate::{
    files::{self, Existing, Share, blocking, failed},
    names,
};

/// The version of the stored formats that this code writes.
const FORMAT: u32 = 1;

const JOURNAL: &str = "journal.jsonl";
const JOURNAL_LOCK: &str = ".journal.lock";
const DOCUMENTS_LOCK: &str = ".documents.lock";
const DOCUMENT_TEMPORARY: &str = ".document.tmp";

/// The migration's memory in a folder.
#[derive(Debug, Clone)]
pub struct LocalLedger {
    root: Arc<Path>,
    /// From which size a lane's file is folded again: a large lane is not folded at each save.
    fold_at: Arc<Mutex<HashMap<LaneId, u64>>>,
    fold_bytes: u64,
}

impl LocalLedger {
    /// Opens a folder, and makes it if there is none.
    pub fn open(journal_dir: impl Into<PathBuf>) -> StoreResult<Self> {
        let root = journal_dir.into();
        let attempt = format!("open the folder {}", root.display());
        for folder in [root.clone(), root.join("documents"), root.join("progress")] {
            files::make_root(&attempt, &folder)?;
        }
        Ok(Self { root: root.into(), fold_at: Arc::default(), fold_bytes: LOCAL_PROGRESS_FILE_BYTES_MAX })
    }
}

// ── Lines ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The acknowledged lines of a file, and where they end.
struct Lines {
    lines: Vec<String>,
    end: u64,
}

fn read_lines(attempt: &str, path: &Path) -> StoreResult<Lines> {
    let mut content = files::read(attempt, path)?.unwrap_or_default();
    let end = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if end < content.len() {
        tracing::warn!(
            file = %path.display(),
            bytes = content.len() - end,
            "the last line is cut off: it was being written when its process died, was never acknowledged, and is left out"
        );
        content.truncate(end);
    }
    let mut lines = Vec::new();
    for (at, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let line = &line[..line.len() - 1];
        let line = std::str::from_utf8(line).map_err(|_| damaged(attempt, path, at, "is not text"))?;
        // A disk that lost power can leave zeros where a file had been extended.
        if line.contains('\0') {
            return Err(damaged(attempt, path, at, "holds zero bytes"));
        }
        lines.push(line.to_owned());
    }
    Ok(Lines { lines, end: end as u64 })
}

fn damaged(attempt: &str, path: &Path, at: usize, what: &str) -> StoreError {
    let detail = format!(
        "{}, line {} {what}; lines are only ever appended, so this was changed from outside or lost by the disk: \
         restore the file from a copy",
        path.display(),
        at + 1
    );
    StoreError::Damaged { attempt: attempt.to_owned(), detail }
}

fn append_journal(attempt: &str, root: &Path, position: usize, line: &str) -> StoreResult<()> {
    let _alone = files::lock(attempt, &root.join(JOURNAL_LOCK), Share::Exclusive)?;
    let stored = read_lines(attempt, &root.join(JOURNAL))?;
    if stored.lines.len() != position {
        return Err(StoreError::Conflict { attempt: attempt.to_owned() });
    }
    files::append_line(attempt, root, Path::new(JOURNAL), stored.end, line.as_bytes())
}

// ── Documents ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// The first line of a document's file; its content follows.
#[derive(Debug, Serialize, Deserialize)]
struct DocumentHead {
    format: u32,
    version: Version,
    bytes: usize,
}

fn document_path(name: &str) -> PathBuf {
    Path::new("documents").join(names::path_of(name))
}

fn read_document(attempt: &str, path: &Path) -> StoreResult<Option<(Version, Bytes)>> {
    let Some(stored) = files::read(attempt, path)? else { return Ok(None) };
    let stored = Bytes::from(stored);
    let head_end = stored.iter().position(|&byte| byte == b'\n');
    let head = head_end.and_then(|end| serde_json::from_slice::<DocumentHead>(&stored[..end]).ok());
    match (head_end, head) {
        (Some(end), Some(head)) if head.format == FORMAT && stored.len() == end + 1 + head.bytes => {
            Ok(Some((head.version, stored.slice(end + 1..))))
        }
        _ => {
            let detail = format!(
                "{} does not begin with a head of format {FORMAT} that fits its length: it was changed from outside, \
                 or written by a later version; restore it from a copy",
                path.display()
            );
            Err(StoreError::Damaged { attempt: attempt.to_owned(), detail })
        }
    }
}

fn put_document(
    attempt: &str,
    root: &Path,
    path: &Path,
    expected: Option<Version>,
    content: Bytes,
) -> StoreResult<Version> {
    let _alone = files::lock(attempt, &root.join(DOCUMENTS_LOCK), Share::Exclusive)?;
    let stored = read_document(attempt, &root.join(path))?.map(|(version, _)| version);
    if stored != expected {
        return Err(StoreError::Conflict { attempt: attempt.to_owned() });
    }
    let version = stored.unwrap_or(0) + 1;
    let mut head = json(&DocumentHead { format: FORMAT, version, bytes: content.len() });
    head.push(b'\n');
    let temporary = root.join(DOCUMENT_TEMPORARY);
    files::write_whole(attempt, root, path, &temporary, &[head.into(), content], Existing::Replace)?;
    Ok(version)
}

// ── Progress ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// One line of a lane's file: one save. The generation stands last, so that a save reads the end of the file only.
#[derive(Debug, Serialize, Deserialize)]
struct Save {
    format: u32,
    progress: Vec<PartitionProgress>,
    generation: Generation,
}

/// Bytes at the end of a line that are sure to hold its generation: 20 digits, a name, a brace.
const GENERATION_TAIL_BYTES: u64 = 48;

/// The end of a lane's file: where its acknowledged lines end, and who wrote the last.
struct Tail {
    end: u64,
    generation: Option<Generation>,
}

fn progress_path(lane: LaneId) -> PathBuf {
    Path::new("progress").join(format!("{lane}.jsonl"))
}

fn progress_lock(lane: LaneId) -> PathBuf {
    Path::new("progress").join(format!(".{lane}.lock"))
}

fn progress_temporary(lane: LaneId) -> PathBuf {
    Path::new("progress").join(format!(".{lane}.tmp"))
}

fn read_tail(attempt: &str, path: &Path) -> StoreResult<Tail> {
    let refused = failed(attempt, path);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if files::is_absent(&error) => return Ok(Tail { end: 0, generation: None }),
        Err(error) => return Err(refused(error)),
    };
    let length = file.metadata().map_err(&refused)?.len();
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(GENERATION_TAIL_BYTES))).map_err(&refused)?;
    file.read_to_end(&mut tail).map_err(&refused)?;
    match tail.strip_suffix(b"}\n").and_then(last_number) {
        Some(generation) => Ok(Tail { end: length, generation: Some(generation) }),
        // Cut off, or damaged: reading all of it tells which.
        None => {
            let (end, saves) = read_saves(attempt, path)?;
            Ok(Tail { end, generation: saves.last().map(|save| save.generation) })
        }
    }
}

fn last_number(text: &[u8]) -> Option<Generation> {
    let text = std::str::from_utf8(text).ok()?;
    text.rsplit_once(r#""generation":"#)?.1.parse().ok().map(Generation)
}

fn read_saves(attempt: &str, path: &Path) -> StoreResult<(u64, Vec<Save>)> {
    let Lines { lines, end } = read_lines(attempt, path)?;
    let mut saves = Vec::with_capacity(lines.len());
    for (at, line) in lines.iter().enumerate() {
        let save: Save = serde_json::from_str(line)
            .map_err(|error| damaged(attempt, path, at, &format!("is not a save of progress ({error})")))?;
        if save.format != FORMAT {
            return Err(damaged(attempt, path, at, &format!("has format {}, not {FORMAT}", save.format)));
        }
        saves.push(save);
    }
    Ok((end, saves))
}

fn folded(saves: Vec<Save>) -> Vec<PartitionProgress> {
    let mut latest = BTreeMap::new();
    for progress in saves.into_iter().flat_map(|save| save.progress) {
        latest.insert(progress.partition.clone(), progress);
    }
    latest.into_values().collect()
}

/// Folds a lane's file into one line, and answers its new length. The caller holds the lane's lock.
fn fold(attempt: &str, root: &Path, lane: LaneId) -> StoreResult<u64> {
    let path = progress_path(lane);
    let (_, saves) = read_saves(attempt, &root.join(&path))?;
    let Some(generation) = saves.last().map(|save| save.generation) else { return Ok(0) };
    let mut line = json(&Save { format: FORMAT, progress: folded(saves), generation });
    line.push(b'\n');
    let length = line.len() as u64;
    files::write_whole(attempt, root, &path, &root.join(progress_temporary(lane)), &[line.into()], Existing::Replace)?;
    Ok(length)
}

impl LocalLedger {
    fn save_progress(&self, attempt: &str, lane: LaneId, save: Save) -> StoreResult<()> {
        let root = &*self.root;
        let _alone = files::lock(attempt, &root.join(progress_lock(lane)), Share::Exclusive)?;
        let mut tail = read_tail(attempt, &root.join(progress_path(lane)))?;
        if tail.generation.is_some_and(|last| last > save.generation) {
            return Err(StoreError::Conflict { attempt: attempt.to_owned() });
        }
        // Before the append: a save that was acknowledged must not fail because of what came after it.
        if tail.end > self.fold_at(lane) {
            tail.end = fold(attempt, root, lane)?;
            self.sizes().insert(lane, self.fold_bytes.max(4 * tail.end));
        }
        files::append_line(attempt, root, &progress_path(lane), tail.end, &json(&save))
    }

    fn fold_at(&self, lane: LaneId) -> u64 {
        self.sizes().get(&lane).copied().unwrap_or(self.fold_bytes)
    }

    fn sizes(&self) -> std::sync::MutexGuard<'_, HashMap<LaneId, u64>> {
        // The sizes are a hint, right whatever a panicking thread left undone.
        self.fold_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with text keys have a JSON form")
}

// ── The port ───────────────────────────────────────────────────────────────────────────────────────────────────────

impl Ledger for LocalLedger {
    async fn journal(&self) -> StoreResult<Vec<String>> {
        let attempt = "read the journal".to_owned();
        let root = Arc::clone(&self.root);
        blocking(attempt.clone(), move || {
            let _steady = files::lock_to_read(&attempt, &root.join(JOURNAL_LOCK))?;
            Ok(read_lines(&attempt, &root.join(JOURNAL))?.lines)
        })
        .await
    }

    async fn append_journal(&self, position: usize, line: &str) -> StoreResult<()> {
        assert!(!line.contains(['\n', '\0']), "a journal entry is one line of text");
        let attempt = format!("append line {} to the journal", position + 1);
        let (root, line) = (Arc::clone(&self.root), line.to_owned());
        blocking(attempt.clone(), move || append_journal(&attempt, &root, position, &line)).await
    }

    async fn document(&self, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        let attempt = format!("read the document {name}");
        let path = self.root.join(document_path(name));
        blocking(attempt.clone(), move || read_document(&attempt, &path)).await
    }

    async fn put_document(&self, name: &str, expected: Option<Version>, content: Bytes) -> StoreResult<Version> {
        let attempt = format!("write the document {name}");
        let (root, path) = (Arc::clone(&self.root), document_path(name));
        blocking(attempt.clone(), move || put_document(&attempt, &root, &path, expected, content)).await
    }

    async fn lane_progress(&self, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        let attempt = format!("read the progress of {lane}");
        let root = Arc::clone(&self.root);
        blocking(attempt.clone(), move || {
            let _steady = files::lock_to_read(&attempt, &root.join(progress_lock(lane)))?;
            Ok(folded(read_saves(&attempt, &root.join(progress_path(lane)))?.1))
        })
        .await
    }

    async fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        let attempt = format!("save the progress of {lane} as generation {generation}");
        let save = Save { format: FORMAT, progress: progress.to_vec(), generation };
        let ledger = self.clone();
        blocking(attempt.clone(), move || ledger.save_progress(&attempt, lane, save)).await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::OpenOptions, io::Write};

    use krossing_core::{SourceOffset, TargetOffset, TopicPartition};
    use krossing_testkit::ledger_suite;
    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn open(folder: &TempDir) -> LocalLedger {
        LocalLedger::open(folder.path()).expect("a usable folder")
    }

    /// What a process that was killed while it wrote leaves behind.
    fn cut_off(path: PathBuf, part: &[u8]) {
        let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
        file.write_all(part).expect("written");
    }

    fn progress(partition: i32, source_next: i64) -> PartitionProgress {
        let partition = TopicPartition::new("orders", partition);
        let mut progress =
            PartitionProgress::begin(partition, None, SourceOffset(0), SourceOffset(100), TargetOffset(0), 0);
        progress.source_next = SourceOffset(source_next);
        progress
    }

    #[tokio::test]
    async fn a_ledger_in_a_folder_keeps_to_the_port() {
        let folders = folder();
        let next = std::cell::Cell::new(0);
        ledger_suite(|| {
            next.set(next.get() + 1);
            let folder = folders.path().join(next.get().to_string());
            async { LocalLedger::open(folder).expect("a fresh folder") }
        })
        .await;
    }

    #[tokio::test]
    async fn two_processes_never_write_the_same_journal_line() {
        const LINES: usize = 20;
        let folder = folder();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let ledger = open(&folder);
                tokio::spawn(async move {
                    let mut won = 0;
                    while let Ok(journal) = ledger.journal().await
                        && journal.len() < LINES
                    {
                        match ledger.append_journal(journal.len(), &format!("{writer} {}", journal.len())).await {
                            Ok(()) => won += 1,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    won
                })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            won += writer.await.expect("the writer ends");
        }
        let journal = open(&folder).journal().await.expect("readable");
        assert_eq!((won, journal.len()), (LINES, LINES), "every line was acknowledged to exactly one writer");
        for (position, line) in journal.iter().enumerate() {
            assert!(line.ends_with(&format!(" {position}")), "line {position} is {line:?}");
        }
    }

    #[tokio::test]
    async fn a_journal_line_without_its_end_was_never_acknowledged_and_gives_way() {
        let folder = folder();
        let ledger = open(&folder);
        ledger.append_journal(0, "first").await.expect("appended");
        cut_off(folder.path().join(JOURNAL), br#"{"half":"#);
        assert_eq!(ledger.journal().await, Ok(vec!["first".to_owned()]));
        ledger.append_journal(1, "second").await.expect("appended over the rest");
        assert_eq!(fs::read(folder.path().join(JOURNAL)).expect("it is there"), b"first\nsecond\n");
    }

    #[tokio::test]
    async fn a_journal_damaged_before_its_end_is_named_by_file_and_line() {
        let folder = folder();
        let ledger = open(&folder);
        for damage in [&b"first\n\xff\xfe\nthird\n"[..], b"first\n\0\0\0\n"] {
            fs::write(folder.path().join(JOURNAL), damage).expect("written");
            for answer in [ledger.journal().await.map(drop), ledger.append_journal(3, "x").await] {
                let Err(StoreError::Damaged { detail, .. }) = answer else { panic!("{answer:?}") };
                assert!(detail.contains("journal.jsonl, line 2"), "{detail}");
            }
        }
    }

    #[tokio::test]
    async fn a_document_that_was_edited_is_damaged_and_not_overwritten() {
        let folder = folder();
        let ledger = open(&folder);
        let version = ledger.put_document("leases/0", None, Bytes::from_static(b"content")).await.expect("written");
        cut_off(folder.path().join("documents/leases/0"), b"more");
        assert!(matches!(ledger.document("leases/0").await, Err(StoreError::Damaged { .. })));
        let written = ledger.put_document("leases/0", Some(version), Bytes::new()).await;
        assert!(matches!(written, Err(StoreError::Damaged { .. })), "{written:?}");
    }

    #[tokio::test]
    async fn a_document_whose_writer_died_is_the_old_one() {
        let folder = folder();
        let ledger = open(&folder);
        let version = ledger.put_document("lease", None, Bytes::from_static(b"old")).await.expect("written");
        fs::write(folder.path().join(DOCUMENT_TEMPORARY), "half of a new").expect("written");
        assert_eq!(ledger.document("lease").await, Ok(Some((version, Bytes::from_static(b"old")))));
        ledger.put_document("lease", Some(version), Bytes::from_static(b"new")).await.expect("written over the rest");
    }

    #[tokio::test]
    async fn a_save_that_was_cut_off_is_left_out_and_gives_way() {
        let folder = folder();
        let ledger = open(&folder);
        let (lane, path) = (LaneId(3), folder.path().join("progress/lane-3.jsonl"));
        ledger.save_lane_progress(lane, Generation(4), &[progress(0, 1)]).await.expect("saved");
        cut_off(path.clone(), br#"{"format":1,"progress":[],"generation":9}"#);
        assert_eq!(ledger.lane_progress(lane).await, Ok(vec![progress(0, 1)]));
        let older = ledger.save_lane_progress(lane, Generation(3), &[]).await;
        assert!(
            matches!(older, Err(StoreError::Conflict { .. })),
            "the last acknowledged generation counts: {older:?}"
        );
        ledger.save_lane_progress(lane, Generation(4), &[progress(0, 2)]).await.expect("saved over the rest");
        assert_eq!(ledger.lane_progress(lane).await, Ok(vec![progress(0, 2)]));
        assert_eq!(fs::read_to_string(path).expect("it is there").lines().count(), 2);
    }

    #[tokio::test]
    async fn progress_damaged_before_its_end_is_named_by_file_and_line() {
        let folder = folder();
        let ledger = open(&folder);
        let path = folder.path().join("progress/lane-0.jsonl");
        ledger.save_lane_progress(LaneId(0), Generation(1), &[progress(0, 1)]).await.expect("saved");
        let good = fs::read_to_string(&path).expect("it is there");
        fs::write(&path, format!("{good}{{}}\n{good}")).expect("written");
        let answer = ledger.lane_progress(LaneId(0)).await;
        let Err(StoreError::Damaged { detail, .. }) = answer else { panic!("{answer:?}") };
        assert!(detail.contains("lane-0.jsonl, line 2"), "{detail}");
    }

    #[tokio::test]
    async fn a_large_progress_file_is_folded_and_loses_nothing() {
        let folder = folder();
        let ledger = LocalLedger { fold_bytes: 2_000, ..open(&folder) };
        let other = open(&folder);
        for next in 0..40 {
            ledger
                .save_lane_progress(LaneId(0), Generation(2), &[progress(next % 2, i64::from(next))])
                .await
                .expect("saved");
        }
        let length = fs::metadata(folder.path().join("progress/lane-0.jsonl")).expect("it is there").len();
        assert!(length < 8_000, "{length} bytes");
        assert_eq!(other.lane_progress(LaneId(0)).await, Ok(vec![progress(0, 38), progress(1, 39)]));
        let older = other.save_lane_progress(LaneId(0), Generation(1), &[]).await;
        assert!(matches!(older, Err(StoreError::Conflict { .. })), "folding keeps the generation: {older:?}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_named_by_its_path() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let error = LocalLedger::open(file.join("below")).expect_err("a file has nothing below it");
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(file.to_str().expect("text")), "{error}");
    }

    /// A full disk without one: a device that refuses every byte, in place of the journal.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_an_error_with_its_path() {
        let folder = folder();
        let ledger = open(&folder);
        std::os::unix::fs::symlink("/dev/full", folder.path().join(DOCUMENT_TEMPORARY)).expect("linked");
        let error = ledger.put_document("lease", None, Bytes::from_static(b"x")).await.expect_err("no space");
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(".document.tmp"), "{error}");
        assert_eq!(ledger.document("lease").await, Ok(None));
        ledger.put_document("lease", None, Bytes::from_static(b"x")).await.expect("there is room again");
    }
}
