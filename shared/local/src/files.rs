//! Files that are durable, whole, and written by one at a time.
//!
//! Invariants: what [`write_whole`] names is the old content or the new, never a part; when a call returns, its bytes
//! and every folder entry on the way to them are on the disk. All of this blocks, so that callers run it through
//! [`blocking`].

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use krossing_core::{
    limits::LOCAL_LOCK_WAIT_MAX,
    ports::{StoreError, StoreResult},
};

/// Between two looks at a lock that somebody holds: flock cannot wait with a bound, and holders need milliseconds.
const LOCK_LOOK: Duration = Duration::from_millis(2);

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    attempt: String,
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(StoreError::Unavailable { attempt, detail: error.to_string() }),
    }
}

/// Says what was attempted, on which file.
pub(crate) fn failed<'a>(attempt: &'a str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |error| {
        let (attempt, detail) = (attempt.to_owned(), format!("{}: {error}", path.display()));
        match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory => StoreError::Refused { attempt, detail },
            _ => StoreError::Unavailable { attempt, detail },
        }
    }
}

/// Whether a lock keeps everybody else out, or only those who keep everybody else out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Share {
    /// For reading, or for work that others may do too.
    Shared,
    /// For changing what is there.
    Exclusive,
}

/// A held lock; given up when it is dropped or its process dies.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// Takes the lock that `path` stands for; waits for it within a bound.
pub(crate) fn lock(attempt: &str, path: &Path, share: Share) -> StoreResult<Held> {
    let refused = failed(attempt, path);
    let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(&refused)?;
    wait_for(attempt, path, file, share)
}

/// As [`lock`], shared, for one who only reads and may not be allowed to write; none where nobody ever wrote.
pub(crate) fn lock_to_read(attempt: &str, path: &Path) -> StoreResult<Option<Held>> {
    match File::open(path) {
        Ok(file) => wait_for(attempt, path, file, Share::Shared).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(attempt, path)(error)),
    }
}

/// Takes the lock only if it is free.
pub(crate) fn lock_if_free(attempt: &str, path: &Path) -> StoreResult<Option<Held>> {
    let refused = failed(attempt, path);
    let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(&refused)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Held { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

fn wait_for(attempt: &str, path: &Path, file: File, share: Share) -> StoreResult<Held> {
    let begun = Instant::now();
    loop {
        let tried = match share {
            Share::Shared => file.try_lock_shared(),
            Share::Exclusive => file.try_lock(),
        };
        match tried {
            Ok(()) => return Ok(Held { _file: file }),
            Err(TryLockError::Error(error)) => return Err(failed(attempt, path)(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCAL_LOCK_WAIT_MAX => thread::sleep(LOCK_LOOK),
            Err(TryLockError::WouldBlock) => {
                let detail = format!(
                    "{} is held by another process for more than {} s; it may be stopped",
                    path.display(),
                    LOCAL_LOCK_WAIT_MAX.as_secs()
                );
                return Err(StoreError::Unavailable { attempt: attempt.to_owned(), detail });
            }
        }
    }
}

/// What becomes of a file that is already there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Existing {
    /// It is replaced.
    Replace,
    /// It stays, and the write is a conflict.
    Keep,
}

/// Writes `root/path` whole or not at all, by way of `temporary`, which nobody else uses.
pub(crate) fn write_whole(
    attempt: &str,
    root: &Path,
    path: &Path,
    temporary: &Path,
    parts: &[Bytes],
    existing: Existing,
) -> StoreResult<()> {
    let written = fill(attempt, temporary, parts).and_then(|()| {
        make_folders(attempt, root, path)?;
        place(attempt, temporary, &root.join(path), existing)
    });
    if written.is_err() {
        // Whatever is left of it would only take space, most of all where there is none left. That it cannot be
        // removed either adds nothing to the error that is reported.
        fs::remove_file(temporary).ok();
    }
    written?;
    sync_folders(attempt, root, path)
}

fn fill(attempt: &str, temporary: &Path, parts: &[Bytes]) -> StoreResult<()> {
    let refused = failed(attempt, temporary);
    let mut file = File::create(temporary).map_err(&refused)?;
    for part in parts {
        file.write_all(part).map_err(&refused)?;
    }
    file.sync_all().map_err(&refused)
}

fn make_folders(attempt: &str, root: &Path, path: &Path) -> StoreResult<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = root.join(folder);
    fs::create_dir_all(&folder).map_err(failed(attempt, &folder))
}

fn place(attempt: &str, temporary: &Path, target: &Path, existing: Existing) -> StoreResult<()> {
    match existing {
        Existing::Replace => fs::rename(temporary, target).map_err(failed(attempt, target)),
        // A link fails where the name is taken, whoever took it; a look followed by a rename would not.
        Existing::Keep => match fs::hard_link(temporary, target) {
            Ok(()) => fs::remove_file(temporary).map_err(failed(attempt, temporary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(StoreError::Conflict { attempt: attempt.to_owned() })
            }
            Err(error) => Err(failed(attempt, target)(error)),
        },
    }
}

/// Syncs every folder from the file up to the root, also those that were there: another process may have made one and
/// not have synced it yet.
pub(crate) fn sync_folders(attempt: &str, root: &Path, path: &Path) -> StoreResult<()> {
    for folder in path.ancestors().skip(1) {
        let folder = root.join(folder);
        File::open(&folder).and_then(|open| open.sync_all()).map_err(failed(attempt, &folder))?;
    }
    Ok(())
}

/// Makes the root folder itself, durably.
pub(crate) fn make_root(attempt: &str, root: &Path) -> StoreResult<()> {
    fs::create_dir_all(root).map_err(failed(attempt, root))?;
    for folder in root.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        match File::open(folder).and_then(|open| open.sync_all()) {
            Ok(()) => {}
            // A folder above ours that we may pass through but not read was not made by us.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && folder != root => {}
            Err(error) => return Err(failed(attempt, folder)(error)),
        }
    }
    Ok(())
}

/// Whether there is no file of that name, also where the name is a folder's or goes on behind a file's.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

/// The content of a file; none where there is no such file.
pub(crate) fn read(attempt: &str, path: &Path) -> StoreResult<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failed(attempt, path)(error)),
    }
}

/// Appends one line to a file durably, at `end`, where everything after `end` is what is left of a line that was never
/// acknowledged. The caller holds the file's lock.
///
/// A line that could not be written or synced is cut off again, so that it does not appear later.
pub(crate) fn append_line(attempt: &str, root: &Path, path: &Path, end: u64, line: &[u8]) -> StoreResult<()> {
    let full = root.join(path);
    let refused = failed(attempt, &full);
    let mut file = OpenOptions::new().append(true).create(true).open(&full).map_err(&refused)?;
    file.set_len(end).map_err(&refused)?;
    let mut whole = Vec::with_capacity(line.len() + 1);
    whole.extend_from_slice(line);
    whole.push(b'\n');
    if let Err(error) = file.write_all(&whole).and_then(|()| file.sync_all()) {
        let mut answer = refused(error);
        if let (Err(second), StoreError::Unavailable { detail, .. } | StoreError::Refused { detail, .. }) =
            (file.set_len(end), &mut answer)
        {
            detail.push_str(&format!("; what was written could not be cut off again either: {second}"));
        }
        return Err(answer);
    }
    if end == 0 { sync_folders(attempt, root, path) } else { Ok(()) }
}
