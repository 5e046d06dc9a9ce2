//! Objects in a bucket of S3, below a prefix.
//!
//! An object larger than one part is uploaded in parts and appears when the last of them is named; S3 replaces whole
//! objects only, so that a reader sees one write. Every request that writes carries a CRC-32C that S3 checks; the whole
//! object's CRC-32C and the id of the call that wrote it go along as metadata, so that a whole read is checked end to
//! end, and a `put_new` that meets its own write (the SDK sends again what was not answered) is a success.
//! Reads ask for ranges of one version (`If-Match`), so that a replaced object is never read half and half.
//!
//! With [`Retention`] each object is locked (Object Lock, compliance mode: nobody can delete or replace that version
//! before its time, the account's owner included). Where the bucket has no Object Lock precheck is told when it asks, the
//! log once when something is to be locked, and objects are stored without.
//!
//! Does not: delete, or tidy up after a process that died while uploading: give the bucket a lifecycle rule that aborts
//! incomplete uploads.

use std::{collections::HashMap, fmt::Write as _, future::Future, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        create_multipart_upload::CreateMultipartUploadOutput, get_object::GetObjectOutput,
        get_object_lock_configuration::GetObjectLockConfigurationError,
    },
    primitives::{ByteStream, DateTime},
    types::{
        ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectLockEnabled, ObjectLockMode,
        ServerSideEncryption,
    },
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use krossing_core::{
    limits::{
        AWS_ATTEMPTS_MAX, AWS_PAUSE, OBJECT_BODY_TRIES_MAX, OBJECT_CALL_WAIT_MAX, OBJECT_OPERATION_WAIT_MAX,
        OBJECT_PART_BYTES, OBJECT_PARTS_IN_FLIGHT,
    },
    ports::{Clock, ObjectLock, Objects, StoreError, StoreResult},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    config::Aws,
    failure::{Place, damaged, failed, within},
};

/// Metadata: the call that wrote the object.
const WRITE: &str = "krossing-write";
/// Metadata: CRC-32C of the whole object, in hex.
const CRC32C: &str = "krossing-crc32c";

/// Where objects are kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    /// The bucket's name.
    pub bucket: String,
    /// Begins every key; a `/` follows it. Empty: keys begin at the top.
    pub prefix: String,
    /// The KMS key that objects are encrypted with; none: as the bucket says.
    pub kms_key: Option<String>,
    /// Whether the bucket is named in the path and not in the host: for S3 servers that are not Amazon's.
    pub path_style: bool,
    /// Whether objects are locked.
    pub retention: Retention,
}

/// How long nobody can delete an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Not locked.
    None,
    /// Locked for this long from when it is stored.
    Compliance(Duration),
}

/// Objects in a bucket.
#[derive(Debug, Clone)]
pub struct S3Objects<C> {
    inner: Arc<Inner<C>>,
}

#[derive(Debug)]
struct Inner<C> {
    client: Client,
    options: BucketOptions,
    place: Place,
    clock: C,
    /// Whether the bucket has Object Lock: asked once, for it cannot be taken away again.
    locks: OnceCell<bool>,
}

impl<C: Clock> S3Objects<C> {
    /// The objects below a bucket's prefix. Asks nothing yet.
    pub fn new(aws: &Aws, options: BucketOptions, clock: C) -> Self {
        let site = aws.site();
        let client = aws.s3(&site, options.path_style);
        let place = Place::Bucket { name: options.bucket.as_str().into(), site };
        Self { inner: Arc::new(Inner { client, options, place, clock, locks: OnceCell::new() }) }
    }

    async fn call<T>(&self, attempt: &str, call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        within(attempt, &self.inner.place, OBJECT_CALL_WAIT_MAX, call).await
    }
}

// ── Keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The key below the prefix as S3 has it, or the beginning of it.
///
/// Letters, digits, `-`, `_` and `.` stay as they are, so do ordinary keys; every other byte becomes `%` and two hex
/// digits. So does a dot that begins a part: proxies and file systems make something else of `..`. A part that is
/// empty and has ended is `%`. The beginning of a key becomes the beginning of what the key becomes.
fn encoded(key: &str, whole: Whole) -> String {
    let parts: Vec<_> = key.split('/').collect();
    let mut encoded = String::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            encoded.push('/');
        }
        let ended = whole == Whole::Key || at + 1 < parts.len();
        if part.is_empty() && ended {
            encoded.push('%');
        }
        for (position, byte) in part.bytes().enumerate() {
            match byte {
                b'.' if position > 0 => encoded.push('.'),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
                other => write!(encoded, "%{other:02x}").expect("text takes every write"),
            }
        }
    }
    encoded
}

/// Whether a text is a key or may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Key,
    Beginning,
}

/// The key that was encoded; none where it is none of ours.
fn decoded(stored: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in stored.split('/') {
        let mut bytes = Vec::with_capacity(part.len());
        let mut rest = if part == "%" { "" } else { part }.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            });
        }
        parts.push(String::from_utf8(bytes).ok()?);
    }
    let key = parts.join("/");
    (encoded(&key, Whole::Key) == stored).then_some(key)
}

impl<C: Clock> Inner<C> {
    fn root(&self) -> String {
        match self.options.prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    fn full_key(&self, key: &str) -> String {
        self.root() + &encoded(key, Whole::Key)
    }
}

// ── Writing ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What may stand under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    Keep,
}

/// One call's write.
struct Upload {
    key: String,
    parts: Vec<Bytes>,
    bytes: usize,
    write: String,
    metadata: HashMap<String, String>,
    retain_until: Option<DateTime>,
    existing: Existing,
}

impl Upload {
    /// Bytes of the object; copied only where they come from several parts.
    fn slice(&self, from: usize, count: usize) -> Bytes {
        let mut found = BytesMut::new();
        let mut begins = 0;
        for part in &self.parts {
            let (first, end) = (from.max(begins), (from + count).min(begins + part.len()));
            if first < end {
                let piece = part.slice(first - begins..end - begins);
                if piece.len() == count {
                    return piece;
                }
                found.extend_from_slice(&piece);
            }
            begins += part.len();
        }
        found.freeze()
    }
}

/// Whether S3 says that the name is taken.
fn is_taken<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("PreconditionFailed") || error.raw_response().is_some_and(|raw| raw.status().as_u16() == 412)
}

/// Whether S3 was doing something else with this name at that moment, and asks to be asked again.
fn is_racing<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("ConditionalRequestConflict")
}

/// What came of one try to write.
enum Tried {
    Written,
    Taken,
    Racing,
}

impl<C: Clock> Inner<C> {
    async fn write(&self, attempt: &str, key: &str, parts: Vec<Bytes>, existing: Existing) -> StoreResult<()> {
        let write = Uuid::new_v4().to_string();
        let crc32c = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let upload = Upload {
            key: self.full_key(key),
            bytes: parts.iter().map(Bytes::len).sum(),
            parts,
            metadata: [(WRITE.to_owned(), write.clone()), (CRC32C.to_owned(), format!("{crc32c:08x}"))].into(),
            write,
            retain_until: self.retain_until(attempt).await?,
            existing,
        };
        let mut pause = AWS_PAUSE;
        for _ in 0..AWS_ATTEMPTS_MAX {
            let tried = if upload.bytes <= OBJECT_PART_BYTES {
                self.put_at_once(attempt, &upload).await?
            } else {
                self.put_in_parts(attempt, &upload).await?
            };
            match tried {
                Tried::Written => return Ok(()),
                Tried::Taken if self.is_ours(attempt, &upload).await? => return Ok(()),
                Tried::Taken => return Err(StoreError::Conflict { attempt: attempt.to_owned() }),
                Tried::Racing => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        let detail = format!("{}: others write the same name", self.place);
        Err(StoreError::Unavailable { attempt: attempt.to_owned(), detail })
    }

    async fn put_at_once(&self, attempt: &str, upload: &Upload) -> StoreResult<Tried> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.options.bucket)
            .key(&upload.key)
            .body(ByteStream::from(upload.slice(0, upload.bytes)))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .set_metadata(Some(upload.metadata.clone()))
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.options.kms_key.clone());
        if upload.existing == Existing::Keep {
            request = request.if_none_match("*");
        }
        if let Some(until) = upload.retain_until {
            request = request.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
        }
        self.tried(attempt, request.send().await)
    }

    async fn put_in_parts(&self, attempt: &str, upload: &Upload) -> StoreResult<Tried> {
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.options.bucket)
            .key(&upload.key)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_type(ChecksumType::Composite)
            .set_metadata(Some(upload.metadata.clone()))
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.options.kms_key.clone());
        if let Some(until) = upload.retain_until {
            request = request.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
        }
        let begun = request.send().await.map_err(|error| failed(attempt, &self.place, &error))?;
        let outcome = self.parts_and_end(attempt, upload, &begun).await;
        if !matches!(outcome, Ok(Tried::Written)) {
            self.abort(upload, &begun).await;
        }
        outcome
    }

    async fn parts_and_end(
        &self,
        attempt: &str,
        upload: &Upload,
        begun: &CreateMultipartUploadOutput,
    ) -> StoreResult<Tried> {
        let count = upload.bytes.div_ceil(OBJECT_PART_BYTES);
        let sent = (0..count).map(|at| self.put_part(attempt, upload, begun, at));
        let parts: Vec<_> = stream::iter(sent).buffered(OBJECT_PARTS_IN_FLIGHT).try_collect().await?;
        let mut request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.options.bucket)
            .key(&upload.key)
            .set_upload_id(begun.upload_id.clone())
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        if upload.existing == Existing::Keep {
            request = request.if_none_match("*");
        }
        match request.send().await {
            // The SDK has sent it twice, or the end was answered and the answer lost: what stands there tells.
            Err(error) if error.code() == Some("NoSuchUpload") && self.is_ours(attempt, upload).await? => {
                Ok(Tried::Written)
            }
            outcome => self.tried(attempt, outcome),
        }
    }

    async fn put_part(
        &self,
        attempt: &str,
        upload: &Upload,
        begun: &CreateMultipartUploadOutput,
        at: usize,
    ) -> StoreResult<CompletedPart> {
        let from = at * OBJECT_PART_BYTES;
        let body = upload.slice(from, OBJECT_PART_BYTES.min(upload.bytes - from));
        let number = i32::try_from(at + 1).expect("memory holds fewer parts");
        let request = self
            .client
            .upload_part()
            .bucket(&self.options.bucket)
            .key(&upload.key)
            .set_upload_id(begun.upload_id.clone())
            .part_number(number)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .body(ByteStream::from(body));
        let part = request.send().await.map_err(|error| failed(attempt, &self.place, &error))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(part.e_tag)
            .set_checksum_crc32_c(part.checksum_crc32_c)
            .build())
    }

    async fn abort(&self, upload: &Upload, begun: &CreateMultipartUploadOutput) {
        let request = self.client.abort_multipart_upload().bucket(&self.options.bucket).key(&upload.key);
        if let Err(error) = request.set_upload_id(begun.upload_id.clone()).send().await {
            let error = failed("abort an upload", &self.place, &error);
            tracing::debug!(key = upload.key, %error, "parts of an upload stay until the bucket's lifecycle removes them");
        }
    }

    fn tried<T, E>(&self, attempt: &str, outcome: Result<T, SdkError<E>>) -> StoreResult<Tried>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match outcome {
            Ok(_) => Ok(Tried::Written),
            Err(error) if is_taken(&error) => Ok(Tried::Taken),
            Err(error) if is_racing(&error) => Ok(Tried::Racing),
            Err(error) => Err(failed(attempt, &self.place, &error)),
        }
    }

    /// Whether what stands under the name is what this call wrote.
    async fn is_ours(&self, attempt: &str, upload: &Upload) -> StoreResult<bool> {
        let answer = self.client.head_object().bucket(&self.options.bucket).key(&upload.key).send().await;
        match answer {
            Ok(there) => Ok(there.metadata().and_then(|all| all.get(WRITE)) == Some(&upload.write)),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
            Err(error) => Err(failed(attempt, &self.place, &error)),
        }
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.options.kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms)
    }

    /// Until when an object that is stored now is locked.
    async fn retain_until(&self, attempt: &str) -> StoreResult<Option<DateTime>> {
        let Retention::Compliance(kept) = self.options.retention else { return Ok(None) };
        if !*self.locks.get_or_try_init(|| self.locks_or_warning(attempt)).await? {
            return Ok(None);
        }
        let now = Duration::from_millis(u64::try_from(self.clock.unix_ms()).unwrap_or_default());
        let until = i64::try_from((now + kept).as_secs()).unwrap_or(i64::MAX);
        Ok(Some(DateTime::from_secs(until)))
    }

    async fn locks_or_warning(&self, attempt: &str) -> StoreResult<bool> {
        let locks = self.ask_for_locks(attempt).await?;
        if !locks {
            tracing::warn!(
                bucket = self.options.bucket,
                "the bucket has no Object Lock: whoever may write to it can delete or replace what is stored there"
            );
        }
        Ok(locks)
    }

    async fn object_lock(&self, attempt: &str) -> StoreResult<ObjectLock> {
        match self.options.retention {
            Retention::None => Ok(ObjectLock::NotWanted),
            Retention::Compliance(_) if self.ask_for_locks(attempt).await? => Ok(ObjectLock::On),
            Retention::Compliance(_) => Ok(ObjectLock::Missing),
        }
    }

    async fn ask_for_locks(&self, attempt: &str) -> StoreResult<bool> {
        let answer = self.client.get_object_lock_configuration().bucket(&self.options.bucket).send().await;
        let has_none = |error: &SdkError<GetObjectLockConfigurationError>| {
            error.code() == Some("ObjectLockConfigurationNotFoundError")
        };
        match answer {
            Ok(answer) => {
                let found = answer.object_lock_configuration.and_then(|found| found.object_lock_enabled);
                Ok(found == Some(ObjectLockEnabled::Enabled))
            }
            Err(error) if has_none(&error) => Ok(false),
            Err(error) => Err(failed(attempt, &self.place, &error)),
        }
    }
}

// ── Reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One answer with bytes of an object.
struct Piece {
    bytes: Bytes,
    /// Bytes of the whole object.
    total: u64,
    /// The version they are of.
    etag: Option<String>,
    /// CRC-32C of the whole object, where we wrote it.
    crc32c: Option<String>,
}

/// What there was to read.
enum Read {
    Piece(Piece),
    /// The object ends before.
    Beyond,
    /// There is no object.
    Missing,
    /// It was replaced meanwhile.
    Replaced,
}

/// The size of the whole object, out of `bytes 0-9/10`.
fn total_of(answer: &GetObjectOutput) -> Option<u64> {
    match answer.content_range() {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        // A server that has answered with all of it.
        None => answer.content_length().and_then(|length| u64::try_from(length).ok()),
    }
}

impl<C: Clock> Inner<C> {
    /// Asks for some bytes; what breaks off on the way is asked for again.
    async fn read(&self, attempt: &str, key: &str, from: u64, count: u64, etag: Option<&str>) -> StoreResult<Read> {
        let mut last = String::new();
        for _ in 0..OBJECT_BODY_TRIES_MAX {
            let request = self
                .client
                .get_object()
                .bucket(&self.options.bucket)
                .key(key)
                .range(format!("bytes={from}-{}", from.saturating_add(count - 1)))
                .set_if_match(etag.map(str::to_owned));
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) if error.code() == Some("NoSuchKey") => return Ok(Read::Missing),
                Err(error) if error.code() == Some("InvalidRange") => return Ok(Read::Beyond),
                Err(error) if is_taken(&error) => return Ok(Read::Replaced),
                Err(error) => return Err(failed(attempt, &self.place, &error)),
            };
            let total = total_of(&answer);
            let etag = answer.e_tag.clone();
            let crc32c = answer.metadata().and_then(|all| all.get(CRC32C)).cloned();
            let expected = answer.content_length().and_then(|length| u64::try_from(length).ok());
            match tokio::time::timeout(OBJECT_OPERATION_WAIT_MAX, answer.body.collect()).await {
                Ok(Ok(body)) => {
                    let bytes = body.into_bytes();
                    if let Some(total) = total
                        && expected == Some(bytes.len() as u64)
                    {
                        return Ok(Read::Piece(Piece { bytes, total, etag, crc32c }));
                    }
                    last = format!("{} bytes came where {expected:?} were announced", bytes.len());
                }
                Ok(Err(error)) => last = format!("the answer broke off ({error})"),
                Err(_) => last = format!("the answer took more than {} s", OBJECT_OPERATION_WAIT_MAX.as_secs()),
            }
        }
        let detail = format!("{}: {last}", self.place);
        Err(StoreError::Unavailable { attempt: attempt.to_owned(), detail })
    }

    /// Up to `count` bytes from `from`, all of one version; none where there is no object.
    async fn read_span(&self, attempt: &str, key: &str, from: u64, count: u64) -> StoreResult<Option<Bytes>> {
        let part = OBJECT_PART_BYTES as u64;
        for _ in 0..OBJECT_BODY_TRIES_MAX {
            // At least one byte: whether there is an object must be asked for nevertheless.
            let first = match self.read(attempt, key, from, count.clamp(1, part), None).await? {
                Read::Piece(first) => first,
                Read::Beyond => return Ok(Some(Bytes::new())),
                Read::Missing => return Ok(None),
                Read::Replaced => continue,
            };
            let wanted = count.min(first.total.saturating_sub(from));
            if wanted <= first.bytes.len() as u64 {
                let wanted = usize::try_from(wanted).expect("no more than came");
                let bytes = first.bytes.slice(..wanted);
                self.check_whole(attempt, key, from, &first, &bytes)?;
                return Ok(Some(bytes));
            }
            if let Some(bytes) = self.read_rest(attempt, key, from, wanted, &first).await? {
                self.check_whole(attempt, key, from, &first, &bytes)?;
                return Ok(Some(bytes));
            }
        }
        let detail = format!("{}: {key} was replaced each time while it was read", self.place);
        Err(StoreError::Unavailable { attempt: attempt.to_owned(), detail })
    }

    /// What follows the first piece; none where the object was replaced meanwhile.
    async fn read_rest(
        &self,
        attempt: &str,
        key: &str,
        from: u64,
        wanted: u64,
        first: &Piece,
    ) -> StoreResult<Option<Bytes>> {
        let part = OBJECT_PART_BYTES as u64;
        let begun = first.bytes.len() as u64;
        let reads = (0..(wanted - begun).div_ceil(part)).map(|at| async move {
            let skipped = begun + at * part;
            self.read(attempt, key, from + skipped, part.min(wanted - skipped), first.etag.as_deref()).await
        });
        let mut whole = BytesMut::from(&first.bytes[..]);
        let mut reads = stream::iter(reads).buffered(OBJECT_PARTS_IN_FLIGHT);
        while let Some(read) = reads.try_next().await? {
            match read {
                Read::Piece(piece) => whole.extend_from_slice(&piece.bytes),
                Read::Beyond | Read::Missing | Read::Replaced => return Ok(None),
            }
        }
        Ok((whole.len() as u64 == wanted).then(|| whole.freeze()))
    }

    /// Holds a whole object against the checksum that was stored with it.
    fn check_whole(&self, attempt: &str, key: &str, from: u64, first: &Piece, bytes: &Bytes) -> StoreResult<()> {
        let Some(expected) = &first.crc32c else { return Ok(()) };
        let is_whole = from == 0 && bytes.len() as u64 == first.total;
        if is_whole && *expected != format!("{:08x}", crc32c::crc32c(bytes)) {
            return Err(damaged(attempt, &self.place, format!("{key} does not have the checksum it was stored with")));
        }
        Ok(())
    }

    async fn list(&self, attempt: &str, prefix: &str) -> StoreResult<Vec<String>> {
        let root = self.root();
        let request = self.client.list_objects_v2().bucket(&self.options.bucket);
        let request = request.prefix(format!("{root}{}", encoded(prefix, Whole::Beginning)));
        let mut pages = request.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed(attempt, &self.place, &error))?;
            let stored = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&root));
            keys.extend(stored.filter_map(decoded).filter(|key| key.starts_with(prefix)));
        }
        keys.sort();
        Ok(keys)
    }
}

// ── The port ───────────────────────────────────────────────────────────────────────────────────────────────────────

impl<C: Clock> Objects for S3Objects<C> {
    async fn put(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        let attempt = format!("store the object {key}");
        self.call(&attempt, self.inner.write(&attempt, key, parts, Existing::Replace)).await
    }

    async fn put_new(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        let attempt = format!("store the new object {key}");
        self.call(&attempt, self.inner.write(&attempt, key, parts, Existing::Keep)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Option<Bytes>> {
        let attempt = format!("read the object {key}");
        self.call(&attempt, self.inner.read_span(&attempt, &self.inner.full_key(key), 0, u64::MAX)).await
    }

    async fn get_range(&self, key: &str, from: u64, bytes: u64) -> StoreResult<Bytes> {
        let attempt = format!("read {bytes} bytes at {from} of the object {key}");
        let read = self.call(&attempt, self.inner.read_span(&attempt, &self.inner.full_key(key), from, bytes)).await?;
        read.ok_or(StoreError::Missing { attempt })
    }

    async fn list(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let attempt = format!("list the objects {prefix}*");
        self.call(&attempt, self.inner.list(&attempt, prefix)).await
    }

    async fn object_lock(&self) -> StoreResult<ObjectLock> {
        let attempt = "ask whether the bucket has Object Lock";
        self.call(attempt, self.inner.object_lock(attempt)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, stored: &str) {
        assert_eq!(encoded(key, Whole::Key), stored, "{key:?}");
        assert_eq!(decoded(stored).as_deref(), Some(key), "{stored:?}");
    }

    #[test]
    fn keys_become_keys_that_every_s3_takes_and_come_back() {
        check("m-1/segments/Orders.v2_x/3/00042.log", "m-1/segments/Orders.v2_x/3/00042.log");
        check("n/../x", "n/%2e./x");
        check("n/a b", "n/a%20b");
        check("", "%");
        check("a//b/", "a/%/b/%");
        check("100%", "100%25");
        check("grün", "gr%c3%bcn");
        check(".hidden", "%2ehidden");
    }

    #[test]
    fn a_beginning_of_a_key_begins_what_the_key_becomes() {
        for key in ["m/a/1", "n/../x", "a//b/", ".a/%/ü", "/"] {
            for end in (0..=key.len()).filter(|&end| key.is_char_boundary(end)) {
                let beginning = encoded(&key[..end], Whole::Beginning);
                assert!(encoded(key, Whole::Key).starts_with(&beginning), "{:?} of {key:?}", &key[..end]);
            }
        }
    }

    #[test]
    fn what_is_not_a_key_of_ours_is_left_out() {
        for stored in ["a b", "a//b", "%zz", "a/%2", "%41", "a/.b"] {
            assert_eq!(decoded(stored), None, "{stored}");
        }
    }

    #[test]
    fn bytes_are_cut_out_of_several_parts() {
        let parts = ["two ", "", "parts", " more"].map(|part| Bytes::from_static(part.as_bytes())).to_vec();
        let upload = Upload {
            key: String::new(),
            bytes: 14,
            parts,
            write: String::new(),
            metadata: HashMap::new(),
            retain_until: None,
            existing: Existing::Replace,
        };
        for (from, count, expected) in [(0, 14, "two parts more"), (4, 5, "parts"), (2, 4, "o pa"), (9, 5, " more")] {
            assert_eq!(upload.slice(from, count), expected, "{count} at {from}");
        }
        assert_eq!(upload.slice(0, 0), "");
    }
}
