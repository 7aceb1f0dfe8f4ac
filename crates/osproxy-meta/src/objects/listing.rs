//! Lookup and listing of objects. A listing is a walk along the primary key: common prefixes are
//! skipped by seeking, so the number of rows that are read does not depend on what lies below them.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{ObjectDb, ObjectName, ObjectRecord, decode_key};
use crate::{
    MetaError, boxed_future,
    db::entities::{bucket, object, object_upload},
};

/// Maximum number of rows to read in one query.
const PAGE: u64 = 1000;

/// Which objects of a bucket to list.
#[derive(Clone, Debug, Default)]
pub struct ListObjects {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that have this behind the prefix are rolled up to one common prefix. Empty: none.
    pub delimiter: String,
    /// Only keys and common prefixes behind this one.
    pub after: String,
    /// Maximum number of objects and common prefixes.
    pub limit: u64,
}

/// An element of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEntry {
    /// An object.
    Object(ObjectRecord),
    /// The common prefix of several keys.
    Prefix(String),
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// Objects and common prefixes, in bytewise order.
    pub entries: Vec<ObjectEntry>,
    /// Whether there is more behind the last entry.
    pub is_truncated: bool,
}

impl ObjectDb {
    /// Returns the object with this key.
    #[boxed_future]
    pub async fn object(&self, bucket_id: Uid, key: &str) -> Result<Option<ObjectRecord>, MetaError> {
        let row = object::Entity::find_by_id((bucket_id.get(), key.as_bytes().to_vec()));
        Ok(row.one(&self.db.lookups).await?.map(ObjectRecord::from_row))
    }

    /// Returns the name of a file as an object, if it has one.
    #[boxed_future]
    pub async fn name_of(&self, uid: Uid) -> Result<Option<ObjectName>, MetaError> {
        let row = object::Entity::find().filter(object::Column::Uid.eq(uid.get()));
        let Some(row) = row.one(&self.db.lookups).await? else {
            return Ok(None);
        };
        let bucket = bucket::Entity::find_by_id(row.bucket_id).one(&self.db.lookups).await?;
        Ok(bucket.map(|bucket| ObjectName {
            tenant: Tenant::from_db(&bucket.tenant),
            bucket: bucket.name,
            key: decode_key(row.object_key),
        }))
    }

    /// Returns the `ETag` of a file that is an object, or will be one when it is processed.
    #[boxed_future]
    pub async fn etag_of(&self, uid: Uid) -> Result<Option<String>, MetaError> {
        let row = object::Entity::find().filter(object::Column::Uid.eq(uid.get()));
        if let Some(row) = row.one(&self.db.lookups).await? {
            return Ok(Some(row.etag));
        }
        let waiting = object_upload::Entity::find_by_id(uid.get()).one(&self.db.lookups).await?;
        Ok(waiting.and_then(|row| row.etag))
    }

    /// Lists objects.
    #[boxed_future]
    pub async fn list(&self, bucket_id: Uid, list: &ListObjects) -> Result<ObjectPage, MetaError> {
        Ok(self.walk(bucket_id, list).await?)
    }

    async fn walk(&self, bucket_id: Uid, list: &ListObjects) -> Result<ObjectPage, DbErr> {
        let mut page = ObjectPage::default();
        if list.limit == 0 {
            return Ok(page);
        }
        let end = end_of_prefix(list.prefix.as_bytes());
        let mut from = start(list);
        // Without a delimiter every row is an entry. With one, a common prefix may follow: read few
        // rows first.
        let mut size = if list.delimiter.is_empty() { PAGE.min(list.limit + 1) } else { 2 };
        while let Some(start) = from.take() {
            let rows = self.read(bucket_id, &start, end.as_deref(), size).await?;
            let is_last = (rows.len() as u64) < size;
            for row in rows {
                if page.entries.len() as u64 == list.limit {
                    page.is_truncated = true;
                    return Ok(page);
                }
                let Some(common) = common_prefix(&row.object_key, list) else {
                    from = Some(Start::After(row.object_key.clone()));
                    page.entries.push(ObjectEntry::Object(ObjectRecord::from_row(row)));
                    continue;
                };
                // The rest of the rows probably has the same prefix.
                from = end_of_prefix(&common).map(Start::At);
                page.entries.push(ObjectEntry::Prefix(decode_key(common)));
                size = 2;
                break;
            }
            let skipped = matches!(from, Some(Start::At(_)));
            if is_last && !skipped {
                return Ok(page);
            }
            if !skipped {
                size = (size * 4).min(PAGE);
            }
        }
        Ok(page)
    }

    async fn read(
        &self,
        bucket_id: Uid,
        start: &Start,
        end: Option<&[u8]>,
        limit: u64,
    ) -> Result<Vec<object::Model>, DbErr> {
        let key = object::Column::ObjectKey;
        let mut rows = object::Entity::find()
            .filter(object::Column::BucketId.eq(bucket_id.get()))
            .filter(match start {
                Start::At(start) => key.gte(start.clone()),
                Start::After(start) => key.gt(start.clone()),
            })
            .order_by_asc(object::Column::ObjectKey)
            .limit(limit);
        if let Some(end) = end {
            rows = rows.filter(key.lt(end.to_vec()));
        }
        rows.all(&self.db.lookups).await
    }
}

/// Where to continue.
enum Start {
    At(Vec<u8>),
    After(Vec<u8>),
}

/// Where the listing starts; `None` if nothing can follow.
fn start(list: &ListObjects) -> Option<Start> {
    let (prefix, after) = (list.prefix.as_bytes(), list.after.as_bytes());
    if after < prefix {
        return Some(Start::At(prefix.to_vec()));
    }
    // Behind a common prefix is behind everything that has it.
    match common_prefix(after, list) {
        Some(common) if common == after => end_of_prefix(after).map(Start::At),
        _ => Some(Start::After(after.to_vec())),
    }
}

/// The key up to the first delimiter behind the prefix, inclusive.
fn common_prefix(key: &[u8], list: &ListObjects) -> Option<Vec<u8>> {
    let delimiter = list.delimiter.as_bytes();
    if delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(list.prefix.as_bytes())?;
    let position = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    key.get(..list.prefix.len() + position + delimiter.len()).map(<[u8]>::to_vec)
}

/// The first byte string behind all that start with `prefix`; `None` if there is none.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last != u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
