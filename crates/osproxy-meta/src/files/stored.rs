//! Stored files with everything that readers need, from the cache where possible.

use std::{collections::HashMap, sync::Arc};

use osproxy_storage::{Category, Digests, Key, extension};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use time::OffsetDateTime;

use crate::MetaError;
use crate::{
    FileDb, FileState, boxed_future,
    db::{
        database::Database,
        entities::{blob, file},
    },
    files::rows::file_from_row,
};

/// A stored file, with everything needed to read it. The bytes of the file never change, but they
/// can move to another object.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name.
    pub name: String,
    /// MIME type.
    pub content_type: String,
    /// When the content became complete, in milliseconds since the Unix epoch.
    pub stored_at: i64,
    /// Links issued before this time are revoked. In seconds since the Unix epoch; `None`: no link
    /// is revoked.
    pub links_valid_from: Option<i64>,
    /// Width and height in pixels, as the image or film is shown, if processing has found them.
    pub dimensions: Option<(u32, u32)>,
    /// Content.
    pub content: StoredContent,
}

/// The content of a file.
#[derive(Clone, Debug)]
pub struct StoredContent {
    /// Blob id.
    pub blob_id: i64,
    /// Size in bytes.
    pub size: u64,
    /// Name of the store.
    pub store: String,
    /// Location in the store.
    pub layout: ContentLayout,
    /// Computed digests; `None` until all bytes are verified.
    pub digests: Option<Digests>,
    /// The MD5 that the client claimed.
    pub claimed_md5: Option<[u8; 16]>,
    /// Whether the content was detected as UTF-8 text while it was received.
    pub is_utf8: bool,
}

impl StoredContent {
    /// Returns the computed MD5, or else the MD5 that the client claimed.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.digests.and_then(|digests| digests.md5).or(self.claimed_md5)
    }
}

/// Location of content within a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentLayout {
    /// One object.
    Whole(Key),
    /// Several parts, see [`BlobDb::parts`](crate::BlobDb::parts).
    Parts,
}

impl StoredFile {
    /// Category of the file for object keys and API v0 links, by the rules of the Go program.
    pub fn object_category(&self) -> Category {
        Category::of_object(&self.name)
    }

    /// Returns the issue date for a new link: `now`, or `links_valid_from` if that is later. A link
    /// with a date before `links_valid_from` would count as revoked.
    pub fn link_date(&self, now: OffsetDateTime) -> OffsetDateTime {
        let from = self.links_valid_from.and_then(|from| OffsetDateTime::from_unix_timestamp(from).ok());
        from.map_or(now, |from| now.max(from))
    }

    /// The extension of the file name, as used in object keys.
    pub fn extension(&self) -> Option<String> {
        extension(&self.name)
    }
}

impl FileDb {
    /// Returns a stored file, possibly from the cache; `None` if the uid is unknown or the file is
    /// not stored.
    #[boxed_future]
    pub async fn stored(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, MetaError> {
        Ok(stored_among(&self.db, &[uid]).await?.pop())
    }

    /// Reads a stored file from the database, bypassing the cache; `None` if the uid is unknown or
    /// the file is not stored.
    #[boxed_future]
    pub async fn stored_uncached(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, MetaError> {
        let row = file::Entity::find_by_id(uid.get())
            .find_also_related(blob::Entity)
            .filter(file::Column::State.eq(file::State::Stored))
            .one(&self.db.lookups)
            .await?;
        Ok(row.map(|(file, blob)| file_from_row(file, blob)).transpose()?.map(Arc::new))
    }

    /// Reads a complete file from the database: a stored one, or one that is being processed and
    /// that only processing may read. `None` if the uid is unknown or the file is in another state.
    #[boxed_future]
    pub async fn complete_uncached(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, MetaError> {
        let row = file::Entity::find_by_id(uid.get())
            .find_also_related(blob::Entity)
            .filter(file::Column::State.is_in([file::State::Stored, file::State::Processing]))
            .one(&self.db.lookups)
            .await?;
        Ok(row.map(|(file, blob)| file_from_row(file, blob)).transpose()?.map(Arc::new))
    }

    /// Evicts a file from this node's cache.
    pub fn evict(&self, uid: Uid) {
        self.db.file_cache.evict_file(uid);
    }

    /// Reads the state of a file, bypassing the cache; `None` if the uid is unknown.
    #[boxed_future]
    pub async fn state(&self, uid: Uid) -> Result<Option<FileState>, MetaError> {
        let file = file::Entity::find_by_id(uid.get()).one(&self.db.lookups).await?;
        Ok(file.map(|file| file.state))
    }

    /// Returns the stored files among `uids`, in the same order; from the cache where possible.
    #[boxed_future]
    pub async fn stored_among(&self, uids: &[Uid]) -> Result<Vec<Arc<StoredFile>>, MetaError> {
        Ok(stored_among(&self.db, uids).await?)
    }
}

/// Returns the stored files among `uids`, in the same order; from the cache where possible.
pub(crate) async fn stored_among(db: &Database, uids: &[Uid]) -> Result<Vec<Arc<StoredFile>>, DbErr> {
    let mut files: HashMap<Uid, _> =
        uids.iter().filter_map(|uid| Some((*uid, db.file_cache.get(*uid)?))).collect();
    let missing: Vec<_> = uids.iter().filter(|uid| !files.contains_key(*uid)).map(|uid| uid.get()).collect();
    if !missing.is_empty() {
        let generation = db.file_cache.generation();
        let rows = file::Entity::find()
            .find_also_related(blob::Entity)
            .filter(file::Column::Uid.is_in(missing))
            .filter(file::Column::State.eq(file::State::Stored))
            .all(&db.lookups)
            .await?;
        for (file, blob) in rows {
            let stored = Arc::new(file_from_row(file, blob)?);
            // Don't cache unverified files: a merge moves their bytes without an invalidation.
            if stored.content.digests.is_some() {
                db.file_cache.insert(stored.clone(), generation);
            }
            files.insert(stored.uid, stored);
        }
    }
    Ok(uids.iter().filter_map(|uid| files.get(uid).cloned()).collect())
}
