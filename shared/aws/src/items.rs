//! The table's items: how one is read and written, and how content that is larger than an item is kept.
//!
//! Everything that can change is one item, the *head*, written on a condition. Content that fits stands in the head;
//! larger content is cut into *parts*, items of their own under a name that is used once (`part/<order>/<write>/<n>`).
//! Parts are written first and never changed, and the head that names them makes them visible, all at once. So a process
//! that stops half way leaves parts that no head names, and a reader of one head always reads one write.
//!
//! Invariants: each call's write has an id of its own, which the head carries, so that a call whose answer was lost
//! (the SDK sends again, and meets its own write) recognises it; `order` rises with the writes of one head, so that
//! parts of an order that can no longer become visible are known and may be deleted. Reads are consistent ones.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    operation::put_item::PutItemError,
    primitives::Blob,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use krossing_core::{
    limits::{LEDGER_CONTENT_BYTES_MAX, LEDGER_ITEM_BYTES_MAX, LEDGER_PARTS_IN_FLIGHT},
    ports::{StoreError, StoreResult},
};
use uuid::Uuid;

use crate::{
    config::Site,
    failure::{Place, damaged, failed},
};

/// Name of the table's partition key (a string): what an item is about.
pub const SCOPE_KEY: &str = "scope";
/// Name of the table's sort key (a string): which item of it.
pub const ITEM_KEY: &str = "item";

/// The version of the stored items that this code writes.
const FORMAT: u64 = 1;

const FORMAT_ATTRIBUTE: &str = "format";
const CONTENT_ATTRIBUTE: &str = "content";

/// Begins the sort key of every part.
pub(crate) const PARTS: &str = "part/";

/// An item as the SDK has it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// A table, with what to call it in messages.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    client: Client,
    name: Arc<str>,
    place: Place,
}

/// What came of a write on a condition.
#[derive(Debug)]
pub(crate) enum Put {
    /// Written; what stood there before.
    Done(Option<Item>),
    /// The condition did not hold; what stands there.
    Refused(Option<Item>),
}

/// When an item may be written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// There is none of that key.
    Absent,
    /// The number of that name still is this.
    Unchanged(&'static str, u64),
}

/// Where content is: enough to read it and to see that it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The call that wrote it.
    pub(crate) write: String,
    /// Which of the writes of its head; see the module.
    pub(crate) order: u64,
    bytes: usize,
    crc32c: u32,
    /// How many parts; none where the content stands in the head.
    pub(crate) parts: usize,
}

impl Stored {
    /// Of content that `order` is about to write.
    pub(crate) fn of(order: u64, content: &[u8], placed: Placed) -> Self {
        let parts = match placed {
            Placed::IfLarge if content.len() <= LEDGER_ITEM_BYTES_MAX => 0,
            Placed::IfLarge | Placed::Always => content.len().div_ceil(LEDGER_ITEM_BYTES_MAX),
        };
        let write = Uuid::new_v4().to_string();
        Self { write, order, bytes: content.len(), crc32c: crc32c::crc32c(content), parts }
    }

    /// Bytes as stored.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn part_key(&self, number: usize) -> String {
        format!("{PARTS}{:020}/{}/{number:04}", self.order, self.write)
    }

    /// Whether a part of this key belongs to it.
    pub(crate) fn owns(&self, key: &str) -> bool {
        key.starts_with(&format!("{PARTS}{:020}/{}/", self.order, self.write))
    }

    /// As attributes of a head.
    pub(crate) fn attributes(&self) -> Item {
        [
            ("write", AttributeValue::S(self.write.clone())),
            ("order", number(self.order)),
            ("bytes", number(self.bytes as u64)),
            ("crc32c", number(u64::from(self.crc32c))),
            ("parts", number(self.parts as u64)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// From attributes of a head; the error says which is missing.
    pub(crate) fn from_attributes(item: &Item) -> Result<Self, String> {
        let size = |name| usize::try_from(read_number(item, name)?).map_err(|_| format!("{name} is too large"));
        Ok(Self {
            write: read_text(item, "write")?.to_owned(),
            order: read_number(item, "order")?,
            bytes: size("bytes")?,
            crc32c: u32::try_from(read_number(item, "crc32c")?).map_err(|_| "crc32c is too large".to_owned())?,
            parts: size("parts")?,
        })
    }

    fn is_whole(&self, content: &[u8]) -> bool {
        content.len() == self.bytes && crc32c::crc32c(content) == self.crc32c
    }
}

/// Where content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Into the head, and into parts where it is larger.
    IfLarge,
    /// Into parts whatever its size: the head names several.
    Always,
}

/// The order that a part's key carries.
pub(crate) fn order_of(part_key: &str) -> Option<u64> {
    part_key.strip_prefix(PARTS)?.split('/').next()?.parse().ok()
}

pub(crate) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn read_number(item: &Item, name: &str) -> Result<u64, String> {
    let value = item.get(name).and_then(|value| value.as_n().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| format!("its {name} is not a whole number"))
}

pub(crate) fn read_text<'a>(item: &'a Item, name: &str) -> Result<&'a str, String> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or_else(|| format!("it has no {name}"))
}

/// Text where it is text, so that a console shows it.
fn content_attribute(content: &[u8]) -> AttributeValue {
    match std::str::from_utf8(content) {
        Ok(text) => AttributeValue::S(text.to_owned()),
        Err(_) => AttributeValue::B(Blob::new(content)),
    }
}

fn content_of(item: &Item) -> Result<Bytes, String> {
    match item.get(CONTENT_ATTRIBUTE) {
        Some(AttributeValue::S(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some(AttributeValue::B(blob)) => Ok(Bytes::copy_from_slice(blob.as_ref())),
        _ => Err("it has no content".to_owned()),
    }
}

/// A head that holds or names one content.
pub(crate) fn head(stored: &Stored, content: &[u8]) -> Item {
    let mut item = stored.attributes();
    if stored.parts == 0 {
        item.insert(CONTENT_ATTRIBUTE.to_owned(), content_attribute(content));
    }
    item
}

impl Table {
    pub(crate) fn new(client: Client, name: Arc<str>, site: Site) -> Self {
        let place = Place::Table { name: name.clone(), site };
        Self { client, name, place }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// An error for an item that cannot be what we wrote.
    pub(crate) fn damaged(&self, attempt: &str, scope: &str, key: &str, what: &str) -> StoreError {
        damaged(attempt, &self.place, format!("item {key:?} of {scope:?}: {what}"))
    }

    // ── Items ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) async fn get(&self, attempt: &str, scope: &str, key: &str) -> StoreResult<Option<Item>> {
        let request = self.client.get_item().table_name(&*self.name).consistent_read(true);
        let request = request.key(SCOPE_KEY, text(scope)).key(ITEM_KEY, text(key));
        let answer = request.send().await.map_err(|error| failed(attempt, &self.place, &error))?;
        answer.item.map(|item| self.understood(attempt, scope, key, item)).transpose()
    }

    /// Writes an item where `when` holds.
    pub(crate) async fn put(&self, attempt: &str, scope: &str, key: &str, item: Item, when: When) -> StoreResult<Put> {
        let request = self.put_request(scope, key, item).return_values(ReturnValue::AllOld);
        let request = match when {
            When::Absent => {
                request.condition_expression("attribute_not_exists(#key)").expression_attribute_names("#key", ITEM_KEY)
            }
            When::Unchanged(name, value) => request
                .condition_expression("#counter = :counter")
                .expression_attribute_names("#counter", name)
                .expression_attribute_values(":counter", number(value)),
        };
        let request = request.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(answer) => Ok(Put::Done(answer.attributes)),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                    let there = refused.item().cloned();
                    let there = there.map(|item| self.understood(attempt, scope, key, item)).transpose()?;
                    Ok(Put::Refused(there))
                }
                _ => Err(failed(attempt, &self.place, &error)),
            },
        }
    }

    fn put_request(
        &self,
        scope: &str,
        key: &str,
        item: Item,
    ) -> aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder {
        let request = self.client.put_item().table_name(&*self.name).set_item(Some(item));
        request.item(SCOPE_KEY, text(scope)).item(ITEM_KEY, text(key)).item(FORMAT_ATTRIBUTE, number(FORMAT))
    }

    /// All items of a scope whose key begins with `prefix`, by key; or only their keys.
    pub(crate) async fn query(
        &self,
        attempt: &str,
        scope: &str,
        prefix: &str,
        wanted: Wanted,
    ) -> StoreResult<Vec<(String, Item)>> {
        let mut request = self
            .client
            .query()
            .table_name(&*self.name)
            .consistent_read(true)
            .key_condition_expression("#scope = :scope AND begins_with(#item, :prefix)")
            .expression_attribute_names("#scope", SCOPE_KEY)
            .expression_attribute_names("#item", ITEM_KEY)
            .expression_attribute_values(":scope", text(scope))
            .expression_attribute_values(":prefix", text(prefix));
        if wanted == Wanted::Keys {
            request = request.projection_expression("#scope, #item");
        }
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed(attempt, &self.place, &error))?;
            for item in page.items.unwrap_or_default() {
                let key = read_text(&item, ITEM_KEY).map_err(|what| self.damaged(attempt, scope, prefix, &what))?;
                let key = key.to_owned();
                let item = match wanted {
                    Wanted::Keys => item,
                    Wanted::Items => self.understood(attempt, scope, &key, item)?,
                };
                found.push((key, item));
            }
        }
        Ok(found)
    }

    fn understood(&self, attempt: &str, scope: &str, key: &str, item: Item) -> StoreResult<Item> {
        match read_number(&item, FORMAT_ATTRIBUTE) {
            Ok(FORMAT) => Ok(item),
            Ok(other) => {
                let what = format!("it has format {other}, not {FORMAT}: it was written by a later version");
                Err(self.damaged(attempt, scope, key, &what))
            }
            Err(what) => Err(self.damaged(attempt, scope, key, &what)),
        }
    }

    // ── Content ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Writes the parts of a content; nobody sees them before a head names them.
    pub(crate) async fn put_parts(
        &self,
        attempt: &str,
        scope: &str,
        stored: &Stored,
        content: &Bytes,
    ) -> StoreResult<()> {
        if content.len() > LEDGER_CONTENT_BYTES_MAX {
            let detail = format!(
                "{}: {} bytes are more than the {LEDGER_CONTENT_BYTES_MAX} that one content of the ledger may have",
                self.place,
                content.len()
            );
            return Err(StoreError::Refused { attempt: attempt.to_owned(), detail });
        }
        let writes = (0..stored.parts).map(|number| {
            let from = number * LEDGER_ITEM_BYTES_MAX;
            let part = content.slice(from..content.len().min(from + LEDGER_ITEM_BYTES_MAX));
            // Cut anywhere, so never as text.
            let item = Item::from([(CONTENT_ATTRIBUTE.to_owned(), AttributeValue::B(Blob::new(part)))]);
            let request = self.put_request(scope, &stored.part_key(number), item);
            async move { request.send().await.map_err(|error| failed(attempt, &self.place, &error)) }
        });
        stream::iter(writes).buffer_unordered(LEDGER_PARTS_IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await
    }

    /// The content of a head: none where a part is gone, because another head has taken its place meanwhile.
    pub(crate) async fn content(
        &self,
        attempt: &str,
        scope: &str,
        key: &str,
        stored: &Stored,
        head: &Item,
    ) -> StoreResult<Option<Bytes>> {
        let whole = match stored.parts {
            0 if stored.bytes > 0 || head.contains_key(CONTENT_ATTRIBUTE) => {
                content_of(head).map_err(|what| self.damaged(attempt, scope, key, &what))?
            }
            _ => {
                let reads = (0..stored.parts).map(|number| {
                    let key = stored.part_key(number);
                    async move { self.get(attempt, scope, &key).await }
                });
                let parts: Vec<_> = stream::iter(reads).buffered(LEDGER_PARTS_IN_FLIGHT).try_collect().await?;
                let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
                let mut whole = BytesMut::new();
                for part in &parts {
                    whole
                        .extend_from_slice(&content_of(part).map_err(|what| self.damaged(attempt, scope, key, &what))?);
                }
                whole.freeze()
            }
        };
        if !stored.is_whole(&whole) {
            return Err(self.damaged(attempt, scope, key, "its length or checksum is not that of what was written"));
        }
        Ok(Some(whole))
    }

    /// Deletes those parts of a scope that `is_garbage` says. What cannot be deleted costs a little and does no harm.
    pub(crate) async fn delete_parts(&self, scope: &str, is_garbage: impl Fn(&str) -> bool) {
        let keys = match self.query("look for parts that nobody needs", scope, PARTS, Wanted::Keys).await {
            Ok(keys) => keys,
            Err(error) => return tracing::debug!(scope, %error, "parts that nobody needs stay"),
        };
        let deletes = keys.into_iter().map(|(key, _)| key).filter(|key| is_garbage(key)).map(|key| {
            let request = self.client.delete_item().table_name(&*self.name);
            let request = request.key(SCOPE_KEY, text(scope)).key(ITEM_KEY, text(&key));
            async move {
                if let Err(error) = request.send().await {
                    let error = failed("delete a part that nobody needs", &self.place, &error);
                    tracing::debug!(scope, key, %error, "a part that nobody needs stays");
                }
            }
        });
        stream::iter(deletes).buffer_unordered(LEDGER_PARTS_IN_FLIGHT).collect::<()>().await;
    }
}

/// How much of each item a query brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Items,
    /// Only its keys.
    Keys,
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: usize, placed: Placed, parts: usize) {
        assert_eq!(Stored::of(1, &vec![7; bytes], placed).parts, parts, "{bytes} bytes, {placed:?}");
    }

    #[test]
    fn content_is_cut_where_an_item_ends() {
        check(0, Placed::IfLarge, 0);
        check(LEDGER_ITEM_BYTES_MAX, Placed::IfLarge, 0);
        check(LEDGER_ITEM_BYTES_MAX + 1, Placed::IfLarge, 2);
        check(0, Placed::Always, 0);
        check(1, Placed::Always, 1);
        check(2 * LEDGER_ITEM_BYTES_MAX, Placed::Always, 2);
    }

    #[test]
    fn where_content_is_comes_back_from_attributes() {
        let stored = Stored::of(u64::MAX, b"content", Placed::Always);
        assert_eq!(Stored::from_attributes(&stored.attributes()), Ok(stored.clone()));
        let mut item = stored.attributes();
        item.remove("crc32c");
        assert!(Stored::from_attributes(&item).expect_err("one is missing").contains("crc32c"));
    }

    #[test]
    fn parts_are_known_by_their_write_and_their_order() {
        let (one, other) = (Stored::of(7, b"a", Placed::Always), Stored::of(7, b"a", Placed::Always));
        assert!(one.owns(&one.part_key(0)) && !one.owns(&other.part_key(0)));
        assert_eq!(order_of(&one.part_key(3)), Some(7));
        assert_eq!(order_of("head"), None);
    }

    #[test]
    fn content_that_is_text_is_stored_as_text() {
        assert!(content_attribute(b"{}").is_s());
        assert!(content_attribute(&[0xff]).is_b());
    }
}
