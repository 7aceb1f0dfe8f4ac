use std::{collections::HashMap, sync::Arc};

use osproxy_storage::{Category, Digests, Key, Shape, extension};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, SqlErr, sea_query::Expr,
};

use super::{
    Claims, Meta, Metadata,
    blobs::{self, recorded_digest, to_record},
    entities::{blob, file, idempotency_key, part},
    listing, now_ms,
    quotas::{Quotas, record_bytes},
    write_queue::Verdict,
};
use time::OffsetDateTime;

use crate::{content_type, tenant::Tenant, uid::Uid};

pub use file::State as FileState;

/// A file about to be known.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Its name from now on.
    pub uid: Uid,
    /// Its owner.
    pub tenant: Tenant,
    /// What the client calls it.
    pub name: String,
    /// What else the client says of it.
    pub announced: Announced,
}

/// A file about to be known, and the content that it may have at once.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The file.
    pub file: NewFile,
    /// Stored content that becomes the file's, if it is still there.
    pub known: Option<KnownContent>,
}

/// Content that is stored already.
#[derive(Clone, Debug)]
pub struct KnownContent {
    /// Number of the blob.
    pub blob_id: i64,
    /// Length in bytes.
    pub size: u64,
    /// MIME type of the file.
    pub content_type: String,
}

/// What became of files that were to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreatedFiles {
    /// All are recorded; says of each whether it is stored.
    All(Vec<bool>),
    /// None is: a file has one of these uids already.
    Exists,
    /// None is: the tenant's quota has not so much left.
    OverQuota,
}

/// What a client says of content before it sends it.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// How many bytes it has.
    pub size: Option<u64>,
    /// How many bytes each part has but the last; with the size only.
    pub part_size: Option<u64>,
    /// MIME type; otherwise osproxy makes up its mind when the content has come.
    pub content_type: Option<String>,
    /// What the digests are.
    pub claims: Claims,
    /// What its owner notes of it.
    pub metadata: Metadata,
}

/// A complete file: all that reading it takes. Its bytes never change; where they lie may.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Its name.
    pub uid: Uid,
    /// Its owner.
    pub tenant: Tenant,
    /// What the client called it.
    pub name: String,
    /// MIME type.
    pub content_type: String,
    /// When it was complete, in milliseconds since the Unix epoch.
    pub stored_at: i64,
    /// Links that were issued before are worth nothing; in seconds since the Unix epoch.
    pub links_from: Option<i64>,
    /// Its content.
    pub content: Content,
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub struct Content {
    /// Number of the blob.
    pub blob_id: i64,
    /// Length in bytes.
    pub size: u64,
    /// The store that they lie in.
    pub store: String,
    /// Where the bytes lie.
    pub layout: Layout,
    /// What osproxy computed of them; `None` until a merge has seen every byte.
    pub digests: Option<Digests>,
    /// The md5 that the client said they have.
    pub claimed_md5: Option<[u8; 16]>,
    /// Whether they were found to be UTF-8 text when they came.
    pub is_utf8: bool,
}

impl Content {
    /// The md5: as osproxy computed it, else as the client says.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.digests.and_then(|digests| digests.md5).or(self.claimed_md5)
    }
}

/// Where bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In one object.
    Whole(Key),
    /// In the objects of the blob's parts, see [`Meta::parts`].
    Parts,
}

impl StoredFile {
    /// The category under which the Go program would store its object.
    pub fn object_category(&self) -> Category {
        Category::of_object(&self.name)
    }

    /// The date of a link that is issued now: no earlier than that from which on links are good.
    pub fn link_date(&self, now: OffsetDateTime) -> OffsetDateTime {
        let from = self.links_from.and_then(|from| OffsetDateTime::from_unix_timestamp(from).ok());
        from.map_or(now, |from| now.max(from))
    }

    /// The extension of its name, as it would stand in a key.
    pub fn extension(&self) -> Option<String> {
        extension(&self.name)
    }
}

/// How far apart the moment in a uid and the one at which its file is recorded may be, in milliseconds.
const CLOCKS: i64 = 10 * 60_000;

impl Meta {
    /// The highest number recorded so far, of files, blobs, parts and tasks, and of those reserved for a request.
    pub async fn newest_uid(&self) -> Result<Option<Uid>, DbErr> {
        let newest_file =
            file::Entity::find().select_only().column(file::Column::Uid).order_by_desc(file::Column::Uid);
        let newest_blob =
            blob::Entity::find().select_only().column(blob::Column::Id).order_by_desc(blob::Column::Id);
        let file: Option<i64> = newest_file.into_tuple().one(&self.reader).await?;
        let newest_part =
            part::Entity::find().select_only().column(part::Column::Id).order_by_desc(part::Column::Id);
        let blob: Option<i64> = newest_blob.into_tuple().one(&self.reader).await?;
        let part: Option<i64> = newest_part.into_tuple().one(&self.reader).await?;
        let newest_reserved = idempotency_key::Entity::find()
            .select_only()
            .column(idempotency_key::Column::Uid)
            .filter(idempotency_key::Column::Uid.is_not_null())
            .order_by_desc(idempotency_key::Column::Uid);
        let reserved: Option<i64> = newest_reserved.into_tuple().one(&self.reader).await?;
        let task = self.newest_task().await?;
        Ok(file.max(blob).max(part).max(task).max(reserved).map(Uid::from_recorded))
    }

    /// Records files of one tenant, all of them or none. A file whose known content is still stored has it at once; the others
    /// are `pending`, and their content may be sent until `expires_at` (milliseconds since the Unix epoch). The tenant is charged
    /// with what they have or announce.
    pub async fn create_files(
        &self,
        uploads: Vec<NewUpload>,
        expires_at: i64,
    ) -> Result<CreatedFiles, DbErr> {
        let (remembered, uids) = (self.stored.generation(), uploads.iter().map(|upload| upload.file.uid));
        let uids: Vec<_> = uids.collect();
        let quotas = self.quotas.clone();
        let created = self.write_or_undo(move |transaction| {
            let (uploads, quotas) = (uploads.clone(), quotas.clone());
            Box::pin(async move { create(transaction, &uploads, expires_at, &quotas).await })
        });
        let stored = match created.await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(CreatedFiles::OverQuota),
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                return Ok(CreatedFiles::Exists);
            }
            Err(error) => return Err(error),
        };
        for (uid, _) in uids.into_iter().zip(&stored).filter(|(_, is_stored)| !**is_stored) {
            self.stored.insert_links_from(uid, 0, remembered);
        }
        Ok(CreatedFiles::All(stored))
    }

    /// The complete file of a uid; `None` when the uid is unknown or not complete.
    pub async fn stored_file(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, DbErr> {
        Ok(self.stored_files(&[uid]).await?.pop())
    }

    /// The complete file of a uid as it is now, whatever is remembered of it.
    pub async fn stored_file_anew(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, DbErr> {
        let row = file::Entity::find_by_id(uid.get())
            .find_also_related(blob::Entity)
            .filter(file::Column::State.eq(file::State::Stored))
            .one(&self.reader)
            .await?;
        Ok(row.map(stored).transpose()?.map(Arc::new))
    }

    /// Reads this file's row anew when it is asked for next.
    pub fn forget_remembered(&self, uid: Uid) {
        self.stored.forget_file(uid);
    }

    /// Why a uid has no complete file. Looks at its row alone.
    pub async fn file_state(&self, uid: Uid) -> Result<Option<FileState>, DbErr> {
        let file = file::Entity::find_by_id(uid.get()).one(&self.reader).await?;
        Ok(file.map(|file| file.state))
    }

    /// The complete files among these uids, in their order.
    pub async fn stored_files(&self, uids: &[Uid]) -> Result<Vec<Arc<StoredFile>>, DbErr> {
        let mut found: HashMap<Uid, _> =
            uids.iter().filter_map(|uid| Some((*uid, self.stored.get(*uid)?))).collect();
        let missing: Vec<_> =
            uids.iter().filter(|uid| !found.contains_key(*uid)).map(|uid| uid.get()).collect();
        if !missing.is_empty() {
            let remembered = self.stored.generation();
            let rows = file::Entity::find()
                .find_also_related(blob::Entity)
                .filter(file::Column::Uid.is_in(missing))
                .filter(file::Column::State.eq(file::State::Stored))
                .all(&self.reader)
                .await?;
            for row in rows {
                let stored = Arc::new(stored(row)?);
                // Where the bytes of others lie is about to change, and nobody is told.
                if stored.content.digests.is_some() {
                    self.stored.insert(stored.clone(), remembered);
                }
                found.insert(stored.uid, stored);
            }
        }
        Ok(uids.iter().filter_map(|uid| found.get(uid).cloned()).collect())
    }
}

/// Records files and says of each whether it is stored; `None`: the tenant's quota has not so much left.
async fn create(
    transaction: &DatabaseTransaction,
    uploads: &[NewUpload],
    expires_at: i64,
    quotas: &Quotas,
) -> Result<Verdict<Option<Vec<bool>>>, DbErr> {
    let (mut rows, mut stored, mut charge, mut records) = (Vec::new(), Vec::new(), 0_u64, 0_i64);
    for NewUpload { file, known } in uploads {
        let known = match known {
            Some(known) if blobs::take_references(transaction, known.blob_id, 1, None).await? => Some(known),
            _ => None,
        };
        let size = known.map_or(file.announced.size, |known| Some(known.size));
        charge = charge.saturating_add(size.unwrap_or(0));
        records = records.saturating_add(record_of(file));
        stored.push(known.is_some());
        rows.push(match known {
            Some(known) => stored_row(file, (known.blob_id, known.size.cast_signed()), &known.content_type),
            None => row(file, expires_at),
        });
    }
    file::Entity::insert_many(rows).exec_without_returning(transaction).await?;
    let tenant = uploads.first().map_or("", |upload| upload.file.tenant.as_str());
    let charge = i64::try_from(charge).unwrap_or(i64::MAX).saturating_add(records);
    Ok(quotas.charge(transaction, tenant, charge).await?.commit_or(Some(stored), None))
}

/// What the row of a file says that its digests will be.
pub(super) fn claims(file: &file::Model) -> Claims {
    Claims {
        md5: recorded_digest(file.claimed_md5.as_ref()),
        sha256: recorded_digest(file.claimed_sha256.as_ref()),
        blake3: recorded_digest(file.claimed_blake3.as_ref()),
    }
}

/// How content is divided, by what was recorded of it.
pub(super) fn shape(size: Option<i64>, part_size: Option<i64>) -> Option<Shape> {
    let size = size.and_then(|size| u64::try_from(size).ok())?;
    Some(Shape { size, part_size: self::part_size(part_size)? })
}

/// A part size as it was recorded, if it is one.
pub(super) fn part_size(recorded: Option<i64>) -> Option<u64> {
    recorded.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0)
}

/// How many bytes a tenant is charged with for the row of a file.
pub(super) fn record_of(file: &NewFile) -> i64 {
    record_bytes(&file.name, listing::text(&file.announced.metadata).as_deref())
}

/// The moment at which a file is recorded. It keeps near to what the uid bears, by which files are listed, where the clock of
/// this machine is wrong or was ahead.
fn created_at(uid: Uid) -> i64 {
    let issued = uid.issued_ms().cast_signed();
    now_ms().clamp(issued.saturating_sub(CLOCKS), issued.saturating_add(CLOCKS))
}

/// A file that waits for its content.
pub(super) fn row(file: &NewFile, expires_at: i64) -> file::ActiveModel {
    file::ActiveModel {
        uid: Set(file.uid.get()),
        tenant: Set(file.tenant.to_string()),
        name: Set(file.name.clone()),
        state: Set(file::State::Pending),
        blob_id: Set(None),
        part_count: Set(None),
        content_type: Set(file.announced.content_type.clone().unwrap_or_default()),
        expires_at: Set(expires_at),
        created_at: Set(created_at(file.uid)),
        stored_at: Set(None),
        announced_size: Set(file.announced.size.map(u64::cast_signed)),
        part_size: Set(file.announced.part_size.map(u64::cast_signed)),
        claimed_md5: Set(to_record(file.announced.claims.md5)),
        claimed_sha256: Set(to_record(file.announced.claims.sha256)),
        claimed_blake3: Set(to_record(file.announced.claims.blake3)),
        listed: Set(1),
        category: Set(Category::of_name(&file.name).as_str().to_owned()),
        name_start: Set(Some(listing::name_start(&file.name))),
        metadata: Set(listing::text(&file.announced.metadata)),
        links_from: Set(None),
        stored_by: Set(None),
        received_as: Set(None),
        received_from: Set(None),
        received_until: Set(None),
        received_nodes: Set(None),
        charged: Set(file.announced.size.map_or(0, u64::cast_signed)),
        received: Set(0),
        required_type: Set(None),
        record_bytes: Set(record_of(file)),
    }
}

/// A file that has its content from the start: this blob, of so many bytes.
pub(super) fn stored_row(
    file: &NewFile,
    (blob_id, size): (i64, i64),
    content_type: &str,
) -> file::ActiveModel {
    let now = now_ms();
    file::ActiveModel {
        charged: Set(size),
        state: Set(file::State::Stored),
        blob_id: Set(Some(blob_id)),
        content_type: Set(content_type.to_owned()),
        stored_at: Set(Some(now)),
        ..row(file, now)
    }
}

fn stored((file, blob): (file::Model, Option<blob::Model>)) -> Result<StoredFile, DbErr> {
    let damaged = || DbErr::Custom(format!("file {} is stored without content", file.uid));
    let blob = blob.ok_or_else(damaged)?;
    Ok(StoredFile {
        uid: Uid::from_recorded(file.uid),
        tenant: Tenant::from_recorded(&file.tenant),
        content: content(blob)?,
        stored_at: file.stored_at.ok_or_else(damaged)?,
        links_from: file.links_from,
        name: file.name,
        content_type: file.content_type,
    })
}

pub(super) fn content(blob: blob::Model) -> Result<Content, DbErr> {
    Ok(Content {
        blob_id: blob.id,
        size: blobs::recorded_size(blob.id, blob.size)?,
        layout: match blob.layout {
            blob::Layout::Whole => Layout::Whole(recorded_key(&blob.object_key)?),
            blob::Layout::Parts => Layout::Parts,
        },
        digests: blobs::digests(&blob)?,
        is_utf8: content_type::is_utf8(blob.sniffed.as_deref()),
        store: blob.backend,
        claimed_md5: blob.claimed_md5.and_then(|md5| md5.try_into().ok()),
    })
}

/// Files that name this blob, or none.
pub(super) fn is_blob(blob_id: Option<i64>) -> Expr {
    blob_id.map_or_else(|| file::Column::BlobId.is_null(), |id| file::Column::BlobId.eq(id))
}

/// A key from the database, where only keys were put.
pub(super) fn recorded_key(key: &str) -> Result<Key, DbErr> {
    Key::parse(key).map_err(|error| DbErr::Custom(format!("{error}: {key:?}")))
}
