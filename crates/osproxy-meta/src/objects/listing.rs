//! Lookup and listing of objects. A listing is a walk along the primary key: what is left of a common
//! prefix is skipped by seeking, so the number of rows that are read does not depend on what lies
//! below it.

use osproxy_types::uid::Uid;
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, FromQueryResult, JoinType, QueryFilter, QueryOrder, QuerySelect,
};

use super::{ObjectDb, ObjectRecord, bind, decode_key};
use crate::{
    FileMetadata, MetaError, boxed_future,
    db::entities::{file, object, object_upload},
    files::listing::parse_metadata,
};

/// Maximum number of rows to read in one query.
const PAGE: u64 = 1001;
/// How many rows to read for each entry that is expected, if common prefixes may follow.
const ROWS_PER_ENTRY: u64 = 16;

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

/// What a listing says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The key.
    pub key: String,
    /// The file that has the content.
    pub uid: Uid,
    /// Size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes.
    pub etag: String,
    /// When the key was last written, in milliseconds since the Unix epoch.
    pub modified_at: i64,
}

/// An element of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEntry {
    /// An object.
    Object(ListedObject),
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

/// An object that a file is, or will be when it is processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedUpload {
    /// Id of the bucket.
    pub bucket_id: Uid,
    /// The key.
    pub key: String,
    /// The `ETag`, without quotes.
    pub etag: String,
}

/// A row of objects with a column of the file.
#[derive(FromQueryResult)]
struct ObjectWithMetadata {
    #[sea_orm(nested)]
    object: object::Model,
    metadata: Option<String>,
}

impl ObjectDb {
    /// Returns the object with this key.
    #[boxed_future]
    pub async fn object(&self, bucket_id: Uid, key: &str) -> Result<Option<ObjectRecord>, MetaError> {
        let row = object::Entity::find_by_id((bucket_id.get(), key.as_bytes().to_vec()));
        Ok(row.one(&self.db.lookups).await?.map(ObjectRecord::from_row))
    }

    /// Returns the object with this key, and the metadata of its file.
    #[boxed_future]
    pub async fn object_and_metadata(
        &self,
        bucket_id: Uid,
        key: &str,
    ) -> Result<Option<(ObjectRecord, FileMetadata)>, MetaError> {
        let of_file =
            object::Entity::belongs_to(file::Entity).from(object::Column::Uid).to(file::Column::Uid).into();
        let row = object::Entity::find_by_id((bucket_id.get(), key.as_bytes().to_vec()))
            .join(JoinType::InnerJoin, of_file)
            .column_as(file::Column::Metadata, "metadata")
            .into_model::<ObjectWithMetadata>();
        let Some(ObjectWithMetadata { object, metadata }) = row.one(&self.db.lookups).await? else {
            return Ok(None);
        };
        let metadata = parse_metadata(object.uid, metadata.as_deref())?;
        Ok(Some((ObjectRecord::from_row(object), metadata)))
    }

    /// Returns the object that a complete file is, or will be when it is processed.
    #[boxed_future]
    pub async fn completed_upload(&self, uid: Uid) -> Result<Option<CompletedUpload>, MetaError> {
        let completed = |bucket_id, key, etag| CompletedUpload {
            bucket_id: Uid::from_db(bucket_id),
            key: decode_key(key),
            etag,
        };
        // In this order, so that a file that is accepted meanwhile is found.
        let waiting = object_upload::Entity::find_by_id(uid.get())
            .filter(object_upload::Column::IsMultipart.eq(0))
            .one(&self.db.lookups)
            .await?;
        if let Some(row) = waiting
            && let Some(etag) = row.etag
        {
            return Ok(Some(completed(row.bucket_id, row.object_key, etag)));
        }
        let object = object::Entity::find().filter(object::Column::Uid.eq(uid.get()));
        let object = object.one(&self.db.lookups).await?;
        Ok(object.map(|row| completed(row.bucket_id, row.object_key, row.etag)))
    }

    /// Returns the `ETag` of the last write of a key that was acknowledged: of the object, or of a file
    /// that will be the object when it is processed.
    #[boxed_future]
    pub async fn last_etag(&self, bucket_id: Uid, key: &str) -> Result<Option<String>, MetaError> {
        let last = bind::last_write(&self.db.lookups, bucket_id.get(), key).await?;
        Ok(last.map(|last| last.etag))
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
        // How many entries the next query probably finds. Without a delimiter, every row is one.
        let (mut expected, rows_per_entry) =
            if list.delimiter.is_empty() { (list.limit + 1, 1) } else { (1, ROWS_PER_ENTRY) };
        while let Some(start) = from.take() {
            let missing = list.limit + 1 - page.entries.len() as u64;
            let size = (expected.min(missing) * rows_per_entry).min(PAGE);
            let rows = self.read(bucket_id, &start, end.as_deref(), size).await?;
            let is_last = (rows.len() as u64) < size;
            let before = page.entries.len();
            // The last common prefix.
            let mut rolled_up: Option<Vec<u8>> = None;
            for row in rows {
                if rolled_up.as_ref().is_some_and(|prefix| row.key.starts_with(prefix)) {
                    continue;
                }
                if page.entries.len() as u64 == list.limit {
                    page.is_truncated = true;
                    return Ok(page);
                }
                rolled_up = common_prefix(&row.key, list);
                let entry = if let Some(prefix) = &rolled_up {
                    ObjectEntry::Prefix(decode_key(prefix.clone()))
                } else {
                    from = Some(Start::After(row.key.clone()));
                    ObjectEntry::Object(row.into_entry())
                };
                page.entries.push(entry);
            }
            if is_last {
                return Ok(page);
            }
            if let Some(prefix) = rolled_up {
                from = end_of_prefix(&prefix).map(Start::At);
            }
            // Long common prefixes are skipped by seeking, and many short ones are read at once.
            expected = (page.entries.len() - before) as u64;
        }
        Ok(page)
    }

    async fn read(
        &self,
        bucket_id: Uid,
        start: &Start,
        end: Option<&[u8]>,
        limit: u64,
    ) -> Result<Vec<ListedRow>, DbErr> {
        let key = object::Column::ObjectKey;
        let mut rows = object::Entity::find()
            .select_only()
            .columns([
                key,
                object::Column::Uid,
                object::Column::Size,
                object::Column::Etag,
                object::Column::ModifiedAt,
            ])
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
        let rows: Vec<(Vec<u8>, i64, i64, String, i64)> = rows.into_tuple().all(&self.db.lookups).await?;
        let row = |(key, uid, size, etag, modified_at)| ListedRow { key, uid, size, etag, modified_at };
        Ok(rows.into_iter().map(row).collect())
    }
}

/// The columns of a row that a listing reads.
struct ListedRow {
    key: Vec<u8>,
    uid: i64,
    size: i64,
    etag: String,
    modified_at: i64,
}

impl ListedRow {
    fn into_entry(self) -> ListedObject {
        ListedObject {
            key: decode_key(self.key),
            uid: Uid::from_db(self.uid),
            size: self.size.unsigned_abs(),
            etag: self.etag,
            modified_at: self.modified_at,
        }
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
