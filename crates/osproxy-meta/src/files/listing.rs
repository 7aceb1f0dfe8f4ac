//! Reads single files in any state, and lists the files of a tenant page by page.

use std::collections::{BTreeMap, BTreeSet};

use osproxy_storage::Category;
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, Order, QueryFilter, QueryOrder, QuerySelect,
    Select, SelectTwo, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    Concatenation, FileDb, FileState, StoredContent, boxed_future,
    db::{
        dialect,
        entities::{blob, file},
    },
    files::rows::content_from_row,
    uploads::expiry,
};

/// Tolerance for the difference between a file's `created_at` and the time in its uid, in
/// milliseconds. Covers the clock error of a node and the delay between issuing the uid and
/// creating the file. Exceeds `MAX_CLOCK_SKEW_MS` in `create.rs`, the limit for new files.
const MAX_CREATED_AT_SKEW_MS: i64 = 24 * 3_600_000;

/// Metadata set by the owner of a file.
pub type FileMetadata = BTreeMap<String, String>;

/// A file in any state.
#[derive(Clone, Debug)]
pub struct FileRecord {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name.
    pub name: String,
    /// Lifecycle state.
    pub state: FileState,
    /// MIME type; empty until known.
    pub content_type: String,
    /// When the file was created, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// For an open upload: when it expires. For an expired, deleted or corrupt file: when it
    /// entered that state. Unused for a stored file. In milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// When the content became complete, in milliseconds since the Unix epoch. `None` for open
    /// uploads, and for corrupt files even if they were readable before verification.
    pub stored_at: Option<i64>,
    /// Size in bytes: the announced size during the upload, the size of the content once stored,
    /// and the received bytes for a corrupt file. `None` if unknown.
    pub size: Option<u64>,
    /// Total size of the stored parts, in bytes; set only for an open upload.
    pub received: Option<u64>,
    /// Content, once stored.
    pub content: Option<StoredContent>,
    /// Metadata set by the owner.
    pub metadata: FileMetadata,
    /// What processing has found out about the content.
    pub media: Option<serde_json::Map<String, serde_json::Value>>,
    /// The upload grant under which the file was created.
    pub grant: Option<Uid>,
    /// The bucket in which the file is an object, or will be one when it is complete.
    pub bucket_id: Option<Uid>,
    /// Role of the upload in a concatenation, if any.
    pub concatenation: Option<Concatenation>,
}

impl FileRecord {
    /// The category of the file name.
    pub fn category(&self) -> Category {
        Category::of_name(&self.name)
    }
}

/// Filter of a listing. Without `state`, the listing includes files in all states but expired and
/// deleted.
#[derive(Clone, Debug, Default)]
pub struct FileFilter {
    /// Prefix of the name, compared bytewise; 1 to [`MAX_PREFIX`] bytes.
    pub prefix: Option<String>,
    /// Category of the name.
    pub category: Option<Category>,
    /// Lifecycle state.
    pub state: Option<FileState>,
    /// Created at this time or later, in milliseconds since the Unix epoch.
    pub created_after: Option<i64>,
    /// Created before this time, in milliseconds since the Unix epoch.
    pub created_before: Option<i64>,
    /// The upload grant under which the file was created.
    pub grant: Option<Uid>,
}

/// Longest supported name prefix, in bytes.
pub const MAX_PREFIX: usize = dialect::NAME_START as usize;

/// Position in a listing: the last file of the previous page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// Uid of the last file.
    pub uid: Uid,
    /// The first bytes of the last file's name. Listings with a prefix are ordered by these bytes.
    pub name_start: Vec<u8>,
}

impl FilePosition {
    /// The position after `file`.
    pub fn after(file: &FileRecord) -> Self {
        Self { uid: file.uid, name_start: name_start(&file.name) }
    }
}

/// The indexed bytes of a name.
pub(crate) fn name_start(name: &str) -> Vec<u8> {
    name.bytes().take(MAX_PREFIX).collect()
}

impl FileDb {
    /// Reads a file in any state, bypassing the cache; `None` if the uid is unknown.
    #[boxed_future]
    pub async fn record(&self, uid: Uid) -> Result<Option<FileRecord>, MetaError> {
        let row =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.db.lookups).await?;
        Ok(row.map(|(file, blob)| record_from_row(file, blob)).transpose()?)
    }

    /// Reads the files of a tenant among `uids`, in any state and any order, bypassing the cache.
    #[boxed_future]
    pub async fn records_among(
        &self,
        tenant: &Tenant,
        uids: BTreeSet<Uid>,
    ) -> Result<Vec<FileRecord>, MetaError> {
        if uids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = file::Entity::find()
            .find_also_related(blob::Entity)
            .filter(file::Column::Uid.is_in(uids.into_iter().map(Uid::get)))
            .filter(file::Column::Tenant.eq(tenant.as_str()))
            .all(&self.db.lookups)
            .await?;
        let records = rows.into_iter().map(|(file, blob)| record_from_row(file, blob));
        Ok(records.collect::<Result<_, _>>()?)
    }

    /// Returns up to `limit` files of a tenant after a position. Without a prefix, the files are
    /// ordered by uid; with a prefix, by the first [`MAX_PREFIX`] bytes of the name and then by
    /// uid. Each order has an index, so the database reads only the rows of the page. If the filter
    /// uses a column outside that index, the database also reads the rows that this column
    /// excludes.
    #[boxed_future]
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &FileFilter,
        after: Option<&FilePosition>,
        limit: u64,
    ) -> Result<Vec<FileRecord>, MetaError> {
        let uid = || dialect::listed_uid(self.db.reader.get_database_backend());
        let query = |filter| filtered(tenant, filter, &uid());
        let Some(prefix) = filter.prefix.as_deref() else {
            let mut page = query(filter).order_by(uid(), Order::Asc).limit(limit);
            if let Some(after) = after {
                page = page.filter(uid().gt(after.uid.get()));
            }
            return Ok(self.records(page).await?);
        };
        let by_name = || match prefix_upper_bound(prefix.as_bytes()) {
            Some(upper_bound) => query(filter).filter(file::Column::NameStart.lt(upper_bound)),
            None => query(filter),
        };
        let mut files = Vec::new();
        let after_start = match after {
            None => by_name().filter(file::Column::NameStart.gte(prefix.as_bytes().to_vec())),
            Some(after) => {
                // Many files may have the same `name_start`. First read the remaining files with
                // the `name_start` of the last file of the previous page, then the files with a
                // greater one. With a single condition for both groups, some databases would reread
                // the whole first group for every page.
                let same_start = by_name()
                    .filter(file::Column::NameStart.eq(after.name_start.clone()))
                    .filter(uid().gt(after.uid.get()))
                    .order_by(uid(), Order::Asc)
                    .limit(limit);
                files = self.records(same_start).await?;
                by_name().filter(file::Column::NameStart.gt(after.name_start.clone()))
            }
        };
        let remaining = limit.saturating_sub(files.len() as u64);
        if remaining > 0 {
            let after_start = after_start
                .order_by_asc(file::Column::NameStart)
                .order_by(uid(), Order::Asc)
                .limit(remaining);
            files.extend(self.records(after_start).await?);
        }
        Ok(files)
    }

    async fn records(&self, page: SelectTwo<file::Entity, blob::Entity>) -> Result<Vec<FileRecord>, DbErr> {
        page.all(&self.db.reader).await?.into_iter().map(|(file, blob)| record_from_row(file, blob)).collect()
    }
}

/// Selects the files of a tenant that match `filter`. Ignores the prefix.
fn filtered(tenant: &Tenant, filter: &FileFilter, uid: &Expr) -> SelectTwo<file::Entity, blob::Entity> {
    let mut files: Select<file::Entity> =
        file::Entity::find().filter(file::Column::Tenant.eq(tenant.as_str()));
    let is_removed = matches!(filter.state, Some(FileState::Expired | FileState::Deleted));
    match filter.state {
        Some(state) => files = files.filter(file::Column::State.eq(state)),
        None => files = files.filter(file::Column::Listed.eq(1)),
    }
    let has_other_index = filter.prefix.is_some() || filter.category.is_some() || filter.grant.is_some();
    if filter.state.is_some() && has_other_index {
        // The state implies this condition, but only the explicit condition lets the query planner
        // use the index.
        files = files.filter(file::Column::Listed.eq(i32::from(!is_removed)));
    }
    if filter.state == Some(FileState::Deleted) {
        // A partial upload whose parts were moved is not a deleted file.
        files = files.filter(file::Column::FinalUid.is_null());
    }
    if let Some(category) = filter.category {
        files = files.filter(file::Column::Category.eq(category.as_str()));
    }
    if let Some(grant) = filter.grant {
        files = files.filter(file::Column::GrantId.eq(grant.get()));
    }
    if let Some(ms) = filter.created_after {
        // A uid contains the time when it was issued, so the uid range can be limited too.
        let first = Uid::min_at_ms(ms.saturating_sub(MAX_CREATED_AT_SKEW_MS));
        files = files.filter(file::Column::CreatedAt.gte(ms)).filter(uid.clone().gte(first.get()));
    }
    if let Some(ms) = filter.created_before {
        let upper_bound = Uid::min_at_ms(ms.saturating_add(MAX_CREATED_AT_SKEW_MS));
        files = files.filter(file::Column::CreatedAt.lt(ms)).filter(uid.clone().lt(upper_bound.get()));
    }
    files.find_also_related(blob::Entity)
}

/// Returns the smallest byte string that is greater than all strings with this prefix; `None` if no
/// such byte string exists.
fn prefix_upper_bound(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut upper_bound = prefix.to_vec();
    while let Some(last) = upper_bound.pop() {
        if last < u8::MAX {
            upper_bound.push(last + 1);
            return Some(upper_bound);
        }
    }
    None
}

pub(crate) fn record_from_row(file: file::Model, blob: Option<blob::Model>) -> Result<FileRecord, DbErr> {
    let metadata = decode_metadata(&file)?;
    let concatenation = Concatenation::of(&file);
    let content = blob.filter(|_| file.state == FileState::Stored).map(content_from_row).transpose()?;
    let received = u64::try_from(file.received).unwrap_or(0);
    let is_open = expiry::OPEN_STATES.contains(&file.state);
    let is_unreadable = matches!(
        file.state,
        FileState::Corrupt | FileState::Processing | FileState::Rejected | FileState::Quarantined
    );
    let size = match file.state {
        FileState::Corrupt | FileState::Rejected => Some(received).filter(|size| *size > 0),
        FileState::Processing | FileState::Quarantined => u64::try_from(file.charged).ok(),
        _ if is_open => file.announced_size.map(i64::unsigned_abs),
        _ => content.as_ref().map(|content| content.size),
    };
    Ok(FileRecord {
        size,
        received: is_open.then_some(received),
        uid: Uid::from_db(file.uid),
        tenant: Tenant::from_db(&file.tenant),
        name: file.name,
        state: file.state,
        content_type: file.content_type,
        created_at: file.created_at,
        expires_at: file.expires_at,
        stored_at: file.stored_at.filter(|_| !is_open && !is_unreadable),
        content,
        metadata,
        media: file.media.and_then(|media| serde_json::from_str(&media).ok()),
        grant: file.grant_id.map(Uid::from_db),
        bucket_id: file.bucket_id.map(Uid::from_db),
        concatenation,
    })
}

/// Parses the metadata column of a file.
pub(crate) fn decode_metadata(file: &file::Model) -> Result<FileMetadata, DbErr> {
    parse_metadata(file.uid, file.metadata.as_deref())
}

/// Parses the metadata column of the file `uid`.
pub(crate) fn parse_metadata(uid: i64, column: Option<&str>) -> Result<FileMetadata, DbErr> {
    let Some(text) = column else {
        return Ok(FileMetadata::new());
    };
    serde_json::from_str(text)
        .map_err(|error| DbErr::Custom(format!("the metadata of file {uid} is corrupt: {error}")))
}

/// Serializes metadata for its column; `None` if empty.
pub(crate) fn encode_metadata(metadata: &FileMetadata) -> Option<String> {
    // Serializing a map of strings cannot fail.
    (!metadata.is_empty()).then(|| serde_json::to_string(metadata).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_bound_of_a_prefix_is_its_successor() {
        assert_eq!(prefix_upper_bound(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_upper_bound(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_upper_bound(b"\xff"), None);
        assert_eq!(name_start(&"é".repeat(200)).len(), 255);
    }
}
