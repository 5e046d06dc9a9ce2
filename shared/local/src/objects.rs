//! Objects as files: the key is the path, so that a segment can be opened with Kafka's own tools.
//!
//! An object is written beside, in `.tmp`, synced, and renamed (or linked, where the name must be free). Invariants: a
//! file under its own name is whole; a key is the path of one file and no file's key is another's ([`names`](crate::names)).
//! What a killed process left in `.tmp` is removed when the folder is opened and nobody is writing. A key cannot be both
//! an object and the beginning of another's path: the second is refused. Files that are not ours are left alone.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use krossing_core::ports::{ObjectLock, Objects, StoreError, StoreResult};
use uuid::Uuid;

use crate::{
    files::{self, Existing, Share, blocking, failed},
    names,
};

/// Where objects are written before they get their name.
const TEMPORARY: &str = ".tmp";

/// Held, shared, by whoever writes; taken alone to clean up.
const LOCK: &str = ".tmp/lock";

/// Objects in a folder.
#[derive(Debug, Clone)]
pub struct LocalObjects {
    root: Arc<Path>,
}

impl LocalObjects {
    /// Opens a folder, and makes it if there is none.
    pub fn open(directory: impl Into<PathBuf>) -> StoreResult<Self> {
        let root = directory.into();
        let attempt = format!("open the folder {}", root.display());
        files::make_root(&attempt, &root)?;
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(&temporary).map_err(failed(&attempt, &temporary))?;
        clean_up(&attempt, &root)?;
        Ok(Self { root: root.into() })
    }

    async fn write(&self, attempt: String, key: &str, parts: Vec<Bytes>, existing: Existing) -> StoreResult<()> {
        let root = Arc::clone(&self.root);
        let path = names::path_of(key);
        blocking(attempt.clone(), move || {
            let _writing = files::lock(&attempt, &root.join(LOCK), Share::Shared)?;
            files::write_whole(&attempt, &root, &path, &temporary(&root), &parts, existing)
        })
        .await
    }
}

/// A name that no other writer uses: process ids repeat where containers share a folder.
fn temporary(root: &Path) -> PathBuf {
    root.join(TEMPORARY).join(Uuid::new_v4().to_string())
}

fn clean_up(attempt: &str, root: &Path) -> StoreResult<()> {
    let lock = root.join(LOCK);
    let Some(_alone) = files::lock_if_free(attempt, &lock)? else { return Ok(()) };
    for path in entries(attempt, &root.join(TEMPORARY))? {
        if path != lock {
            fs::remove_file(&path).map_err(failed(attempt, &path))?;
        }
    }
    Ok(())
}

fn entries(attempt: &str, folder: &Path) -> StoreResult<Vec<PathBuf>> {
    let refused = failed(attempt, folder);
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if files::is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(refused(error)),
    };
    listing.map(|entry| entry.map(|entry| entry.path()).map_err(&refused)).collect()
}

fn list_below(attempt: &str, root: &Path, prefix: &str) -> StoreResult<Vec<String>> {
    // The last part of the prefix may be the beginning of a name: list its folder and compare.
    let mut open = vec![match prefix.rsplit_once('/') {
        Some((folder, _)) => root.join(names::path_of(folder)),
        None => root.to_owned(),
    }];
    let mut keys = Vec::new();
    while let Some(folder) = open.pop() {
        for path in entries(attempt, &folder)? {
            if path.is_dir() {
                open.push(path);
            } else if let Some(key) = path.strip_prefix(root).ok().and_then(names::key_of)
                && key.starts_with(prefix)
            {
                keys.push(key);
            }
        }
    }
    keys.sort();
    Ok(keys)
}

fn read_range(attempt: &str, path: &Path, from: u64, bytes: u64) -> StoreResult<Bytes> {
    let refused = failed(attempt, path);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if files::is_absent(&error) => return Err(StoreError::Missing { attempt: attempt.to_owned() }),
        Err(error) => return Err(refused(error)),
    };
    file.seek(SeekFrom::Start(from)).map_err(&refused)?;
    let mut content = Vec::new();
    match file.take(bytes).read_to_end(&mut content) {
        Ok(_) => Ok(content.into()),
        Err(error) if files::is_absent(&error) => Err(StoreError::Missing { attempt: attempt.to_owned() }),
        Err(error) => Err(refused(error)),
    }
}

impl Objects for LocalObjects {
    async fn put(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        self.write(format!("store the object {key}"), key, parts, Existing::Replace).await
    }

    async fn put_new(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        self.write(format!("store the new object {key}"), key, parts, Existing::Keep).await
    }

    async fn get(&self, key: &str) -> StoreResult<Option<Bytes>> {
        let attempt = format!("read the object {key}");
        let path = self.root.join(names::path_of(key));
        blocking(attempt.clone(), move || Ok(files::read(&attempt, &path)?.map(Bytes::from))).await
    }

    async fn get_range(&self, key: &str, from: u64, bytes: u64) -> StoreResult<Bytes> {
        let attempt = format!("read {bytes} bytes at {from} of the object {key}");
        let path = self.root.join(names::path_of(key));
        blocking(attempt.clone(), move || read_range(&attempt, &path, from, bytes)).await
    }

    async fn list(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let attempt = format!("list the objects {prefix}*");
        let (root, prefix) = (Arc::clone(&self.root), prefix.to_owned());
        blocking(attempt.clone(), move || list_below(&attempt, &root, &prefix)).await
    }

    async fn object_lock(&self) -> StoreResult<ObjectLock> {
        Ok(ObjectLock::NotWanted)
    }
}

#[cfg(test)]
mod tests {
    use krossing_testkit::objects_suite;
    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn one(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[tokio::test]
    async fn objects_in_a_folder_keep_to_the_port() {
        objects_suite(|| async {
            let folder = folder().keep();
            LocalObjects::open(folder).expect("a fresh folder")
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_no_object_and_is_removed() {
        let folder = folder();
        let objects = LocalObjects::open(folder.path()).expect("a fresh folder");
        objects.put("a/b", one("whole")).await.expect("stored");
        let left = folder.path().join(".tmp/left-over");
        fs::write(&left, "half").expect("written");
        assert_eq!(objects.list("").await, Ok(vec!["a/b".to_owned()]));

        let again = LocalObjects::open(folder.path()).expect("opened again");
        assert!(!left.exists());
        assert_eq!(again.get("a/b").await, Ok(Some(Bytes::from_static(b"whole"))));
    }

    #[tokio::test]
    async fn opening_does_not_take_away_what_another_process_is_writing() {
        let folder = folder();
        LocalObjects::open(folder.path()).expect("a fresh folder");
        let writing = files::lock("write", &folder.path().join(LOCK), Share::Shared).expect("the lock is free");
        let half = folder.path().join(".tmp/half");
        fs::write(&half, "half").expect("written");
        LocalObjects::open(folder.path()).expect("opened again");
        assert!(half.exists());
        drop(writing);
    }

    #[tokio::test]
    async fn a_segment_lies_where_its_key_says() {
        let folder = folder();
        let objects = LocalObjects::open(folder.path()).expect("a fresh folder");
        objects.put("m/segments/orders/3/00000000000000000042.log", one("batches")).await.expect("stored");
        let path = folder.path().join("m/segments/orders/3/00000000000000000042.log");
        assert_eq!(fs::read(path).expect("it is there"), b"batches");
    }

    #[tokio::test]
    async fn files_of_others_are_left_alone() {
        let folder = folder();
        let objects = LocalObjects::open(folder.path()).expect("a fresh folder");
        fs::write(folder.path().join("README"), "mine").expect("written");
        assert_eq!(objects.list("").await, Ok(Vec::new()));
        assert!(folder.path().join("README").exists());
    }

    #[tokio::test]
    async fn a_name_below_an_object_is_refused_with_its_path() {
        let folder = folder();
        let objects = LocalObjects::open(folder.path()).expect("a fresh folder");
        objects.put("a", one("file")).await.expect("stored");
        let error = objects.put("a/b", one("below it")).await.expect_err("a is a file");
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains("/a"), "{error}");
        assert_eq!(objects.get("a/b").await, Ok(None));
        assert_eq!(objects.get("a").await, Ok(Some(Bytes::from_static(b"file"))));
    }

    #[test]
    fn a_path_that_is_not_a_folder_is_refused_with_its_path() {
        let folder = folder();
        let path = folder.path().join("file");
        fs::write(&path, "").expect("written");
        let error = LocalObjects::open(&path).expect_err("it is a file");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().expect("text")), "{error}");
    }
}
