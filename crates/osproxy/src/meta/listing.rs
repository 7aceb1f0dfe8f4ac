//! Files as applications look at them: one by one, and page by page.

use std::collections::BTreeMap;

use osproxy_storage::Category;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, Order, QueryFilter, QueryOrder, QuerySelect,
    Select, SelectTwo, sea_query::Expr,
};

use super::{
    Content, FileState, Meta, dialect,
    entities::{blob, file},
    files::content,
    removals,
};
use crate::{tenant::Tenant, uid::Uid};

/// How far apart the moment in a uid and the one at which its file was recorded may lie, in milliseconds: a node's clock,
/// and how long it took.
const DRIFT: i64 = 24 * 3_600_000;

/// What applications note of a file.
pub type Metadata = BTreeMap<String, String>;

/// A file in whatever state it is: all that is known of it.
#[derive(Clone, Debug)]
pub struct FileRecord {
    /// What it is known by.
    pub uid: Uid,
    /// Its owner.
    pub tenant: Tenant,
    /// What its owner calls it.
    pub name: String,
    /// Where it stands.
    pub state: FileState,
    /// MIME type; empty until it is stored.
    pub content_type: String,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When its upload lapses; once it is gone, when it went. In milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// When its content was complete, in milliseconds since the Unix epoch. A corrupt file has none: it never was.
    pub stored_at: Option<i64>,
    /// Bytes: of its content, of what was announced as long as its upload runs, or of what a corrupt file was sent.
    pub size: Option<u64>,
    /// Bytes of the parts that came, as long as its upload runs.
    pub received: Option<u64>,
    /// Its content, once it is stored.
    pub content: Option<Content>,
    /// What its owner notes of it.
    pub metadata: Metadata,
}

impl FileRecord {
    /// The category of its name.
    pub fn category(&self) -> Category {
        Category::of_name(&self.name)
    }
}

/// Which files are listed. Without a state, all that are not gone.
#[derive(Clone, Debug, Default)]
pub struct FileFilter {
    /// What their names begin with, byte for byte; not empty, and at most [`MAX_PREFIX`] bytes.
    pub prefix: Option<String>,
    /// The category of their names.
    pub category: Option<Category>,
    /// Where they stand.
    pub state: Option<FileState>,
    /// Recorded at this moment or later, in milliseconds since the Unix epoch.
    pub created_after: Option<i64>,
    /// Recorded before this moment, in milliseconds since the Unix epoch.
    pub created_before: Option<i64>,
}

/// Longest prefix that names are looked for by, in bytes.
pub const MAX_PREFIX: usize = dialect::NAME_START as usize;

/// The file that a page begins behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// Its uid.
    pub uid: Uid,
    /// The beginning of its name, by which files are ordered that are looked for by a prefix.
    pub name_start: Vec<u8>,
}

impl FilePosition {
    /// Behind this file.
    pub fn behind(file: &FileRecord) -> Self {
        Self { uid: file.uid, name_start: name_start(&file.name) }
    }
}

/// What of a name its file is ordered by.
pub(super) fn name_start(name: &str) -> Vec<u8> {
    name.bytes().take(MAX_PREFIX).collect()
}

impl Meta {
    /// All that is known of a file, whatever is remembered of it.
    pub async fn describe_file(&self, uid: Uid) -> Result<Option<FileRecord>, DbErr> {
        let row =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.reader).await?;
        row.map(record).transpose()
    }

    /// Up to `limit` files of a tenant behind a position: in ascending order of their uids or, where they are looked for by a prefix,
    /// of their names and then of their uids. Each such order has an index, of which a page reads what it returns; what a
    /// second filter leaves out is read besides.
    pub async fn list_files(
        &self,
        tenant: &Tenant,
        filter: &FileFilter,
        after: Option<&FilePosition>,
        limit: u64,
    ) -> Result<Vec<FileRecord>, DbErr> {
        let uid = || dialect::listed_uid(self.reader.get_database_backend());
        let chosen = |filter| chosen(tenant, filter, &uid());
        let Some(prefix) = filter.prefix.as_deref() else {
            let mut page = chosen(filter).order_by(uid(), Order::Asc).limit(limit);
            if let Some(after) = after {
                page = page.filter(uid().gt(after.uid.get()));
            }
            return self.records(page).await;
        };
        let by_name = || match successor(prefix.as_bytes()) {
            Some(end) => chosen(filter).filter(file::Column::NameStart.lt(end)),
            None => chosen(filter),
        };
        let mut files = Vec::new();
        let rest = match after {
            None => by_name().filter(file::Column::NameStart.gte(prefix.as_bytes().to_vec())),
            Some(after) => {
                // Any number of files may have names that begin alike: first those, then what comes behind. One condition
                // for both would make some databases read all of the former on every page.
                let alike = by_name()
                    .filter(file::Column::NameStart.eq(after.name_start.clone()))
                    .filter(uid().gt(after.uid.get()))
                    .order_by(uid(), Order::Asc)
                    .limit(limit);
                files = self.records(alike).await?;
                by_name().filter(file::Column::NameStart.gt(after.name_start.clone()))
            }
        };
        let left = limit.saturating_sub(files.len() as u64);
        if left > 0 {
            let rest = rest.order_by_asc(file::Column::NameStart).order_by(uid(), Order::Asc).limit(left);
            files.extend(self.records(rest).await?);
        }
        Ok(files)
    }

    async fn records(&self, page: SelectTwo<file::Entity, blob::Entity>) -> Result<Vec<FileRecord>, DbErr> {
        page.all(&self.reader).await?.into_iter().map(record).collect()
    }
}

/// The files of a tenant that a filter lets through, but for the prefix.
fn chosen(tenant: &Tenant, filter: &FileFilter, uid: &Expr) -> SelectTwo<file::Entity, blob::Entity> {
    let mut files: Select<file::Entity> =
        file::Entity::find().filter(file::Column::Tenant.eq(tenant.as_str()));
    let is_gone = matches!(filter.state, Some(FileState::Expired | FileState::Deleted));
    match filter.state {
        Some(state) => files = files.filter(file::Column::State.eq(state)),
        None => files = files.filter(file::Column::Listed.eq(1)),
    }
    if filter.state.is_some() && (filter.prefix.is_some() || filter.category.is_some()) {
        // It follows from the state, but not for whoever looks for an index.
        files = files.filter(file::Column::Listed.eq(i32::from(!is_gone)));
    }
    if let Some(category) = filter.category {
        files = files.filter(file::Column::Category.eq(category.as_str()));
    }
    if let Some(ms) = filter.created_after {
        // A uid tells when it was issued: what lies far before need not be looked at.
        let first = Uid::first_of(ms.saturating_sub(DRIFT));
        files = files.filter(file::Column::CreatedAt.gte(ms)).filter(uid.clone().gte(first.get()));
    }
    if let Some(ms) = filter.created_before {
        let end = Uid::first_of(ms.saturating_add(DRIFT));
        files = files.filter(file::Column::CreatedAt.lt(ms)).filter(uid.clone().lt(end.get()));
    }
    files.find_also_related(blob::Entity)
}

/// The least bytes that are greater than all that begin with these; `None`: there are none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

pub(super) fn record((file, blob): (file::Model, Option<blob::Model>)) -> Result<FileRecord, DbErr> {
    let metadata = metadata(&file)?;
    let content = blob.filter(|_| file.state == FileState::Stored).map(content).transpose()?;
    let received = u64::try_from(file.received).unwrap_or(0);
    let is_open = removals::OPEN.contains(&file.state);
    let size = match file.state {
        FileState::Corrupt => Some(received).filter(|size| *size > 0),
        _ if is_open => file.announced_size.map(i64::unsigned_abs),
        _ => content.as_ref().map(|content| content.size),
    };
    Ok(FileRecord {
        size,
        received: is_open.then_some(received),
        uid: Uid::from_recorded(file.uid),
        tenant: Tenant::from_recorded(&file.tenant),
        name: file.name,
        state: file.state,
        content_type: file.content_type,
        created_at: file.created_at,
        expires_at: file.expires_at,
        stored_at: file.stored_at.filter(|_| !is_open && file.state != FileState::Corrupt),
        content,
        metadata,
    })
}

/// What is noted of a file.
pub(super) fn metadata(file: &file::Model) -> Result<Metadata, DbErr> {
    let Some(text) = &file.metadata else {
        return Ok(Metadata::new());
    };
    serde_json::from_str(text)
        .map_err(|error| DbErr::Custom(format!("the metadata of file {} is damaged: {error}", file.uid)))
}

/// How metadata is recorded.
pub(super) fn text(metadata: &Metadata) -> Option<String> {
    // Text to text can always be written.
    (!metadata.is_empty()).then(|| serde_json::to_string(metadata).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_prefix_ends_before_its_successor() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(name_start(&"é".repeat(200)).len(), 255);
    }
}
