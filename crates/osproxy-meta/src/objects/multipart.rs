//! Multipart uploads of objects.

use std::collections::HashMap;

use osproxy_storage::{DigestSelection, Digester};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};

use super::{ObjectCondition, ObjectDb, decode_key};
use crate::{
    CompleteOutcome, CompletePreconditions, FileState, MetaError, boxed_future,
    db::entities::{file, object_upload, part},
};

/// A multipart upload of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectUploadRecord {
    /// The file, whose uid is the id of the upload.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// State of the file.
    pub state: FileState,
    /// Id of the bucket.
    pub bucket_id: Uid,
    /// The key.
    pub key: String,
    /// Headers, tags and checksums, in a format of the caller.
    pub attributes: Option<String>,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A part of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// Part number, from 1.
    pub number: u32,
    /// Size in bytes.
    pub size: u64,
    /// MD5; `None` if it was not computed.
    pub md5: Option<[u8; 16]>,
    /// In milliseconds since the Unix epoch.
    pub stored_at: i64,
    /// Checksums that the client sent, in a format of the caller.
    pub checksums: Option<String>,
}

/// The parts that become the content of an object.
#[derive(Debug)]
pub struct PartSelection {
    /// Their numbers, ascending, and their MD5s. The others are removed.
    pub parts: Vec<(u32, [u8; 16])>,
    /// Minimum size of all but the last, in bytes.
    pub min_size: u64,
    /// What must hold for the object that has the key.
    pub condition: Option<ObjectCondition>,
    /// Headers, tags and checksums of the object, in a format of the caller.
    pub attributes: Option<String>,
}

impl ObjectDb {
    /// Returns a multipart upload that is not complete.
    #[boxed_future]
    pub async fn upload(&self, uid: Uid) -> Result<Option<ObjectUploadRecord>, MetaError> {
        let row = object_upload::Entity::find_by_id(uid.get())
            .filter(object_upload::Column::IsMultipart.eq(1))
            .one(&self.db.lookups)
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(self.with_files(vec![row]).await?.pop())
    }

    /// Returns up to `limit` multipart uploads of a bucket whose keys start with `prefix`, in the
    /// order of keys and ids, behind the key and id `after`.
    #[boxed_future]
    pub async fn uploads(
        &self,
        bucket_id: Uid,
        prefix: &str,
        after: (&str, Option<Uid>),
        limit: u64,
    ) -> Result<Vec<ObjectUploadRecord>, MetaError> {
        let (column, id) = (object_upload::Column::ObjectKey, object_upload::Column::Uid);
        let (key, uid) = (after.0.as_bytes().to_vec(), after.1);
        let behind = match uid {
            Some(uid) => Condition::any()
                .add(column.gt(key.clone()))
                .add(Condition::all().add(column.eq(key)).add(id.gt(uid.get()))),
            None => Condition::all().add(column.gt(key)),
        };
        let mut page = object_upload::Entity::find()
            .filter(object_upload::Column::BucketId.eq(bucket_id.get()))
            .filter(object_upload::Column::IsMultipart.eq(1))
            .filter(behind)
            .filter(column.gte(prefix.as_bytes().to_vec()))
            .order_by_asc(column)
            .order_by_asc(id)
            .limit(limit);
        if let Some(end) = super::listing::end_of_prefix(prefix.as_bytes()) {
            page = page.filter(column.lt(end));
        }
        let rows = page.all(&self.db.lookups).await?;
        Ok(self.with_files(rows).await?)
    }

    /// Adds owner and state of the files.
    async fn with_files(&self, rows: Vec<object_upload::Model>) -> Result<Vec<ObjectUploadRecord>, DbErr> {
        let files = file::Entity::find()
            .select_only()
            .columns([file::Column::Uid, file::Column::Tenant, file::Column::State])
            .filter(file::Column::Uid.is_in(rows.iter().map(|row| row.uid)));
        let files: Vec<(i64, String, FileState)> = files.into_tuple().all(&self.db.lookups).await?;
        let files: HashMap<_, _> =
            files.into_iter().map(|(uid, tenant, state)| (uid, (tenant, state))).collect();
        let uploads = rows.into_iter().filter_map(|row| {
            let (tenant, state) = files.get(&row.uid)?;
            Some(ObjectUploadRecord {
                uid: Uid::from_db(row.uid),
                tenant: Tenant::from_db(tenant),
                state: *state,
                bucket_id: Uid::from_db(row.bucket_id),
                key: decode_key(row.object_key),
                attributes: row.attributes,
                created_at: row.created_at,
            })
        });
        Ok(uploads.collect())
    }

    /// Returns up to `limit` stored parts of an upload with numbers above `after`, ascending.
    #[boxed_future]
    pub async fn parts(&self, uid: Uid, after: u32, limit: u64) -> Result<Vec<UploadedPart>, MetaError> {
        let file = file::Entity::find_by_id(uid.get()).one(&self.db.lookups).await?;
        let Some(blob_id) = file.and_then(|file| file.blob_id) else {
            return Ok(Vec::new());
        };
        Ok(stored_parts(&self.db.lookups, blob_id, after, limit).await?)
    }
}

/// Maximum number of ids in one statement.
const MAX_IDS: usize = 500;

/// Checks that the selected parts of a locked file are stored, marks the others for deletion by the
/// sweep, and records what the selection says about the object. Returns why the parts cannot become the
/// content. Does nothing without a selection.
pub(crate) async fn select_parts(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    blob_id: i64,
    preconditions: &CompletePreconditions,
) -> Result<Option<CompleteOutcome>, DbErr> {
    let Some(selection) = &preconditions.selection else {
        return Ok(None);
    };
    let stored = stored_parts(transaction, blob_id, 0, u64::MAX >> 1).await?;
    let mut by_number: HashMap<_, _> = stored.iter().map(|part| (part.number, part)).collect();
    for (index, (number, md5)) in selection.parts.iter().enumerate() {
        let Some(part) = by_number.remove(number).filter(|part| part.md5 == Some(*md5)) else {
            return Ok(Some(CompleteOutcome::PartMissing(*number)));
        };
        if part.size < selection.min_size && index + 1 < selection.parts.len() {
            return Ok(Some(CompleteOutcome::PartTooSmall(*number)));
        }
    }
    let mut unwanted: Vec<_> = by_number.into_keys().map(u32::cast_signed).collect();
    if file.state == FileState::Completing
        && let Some(number) = unwanted.pop()
    {
        // An earlier request has selected this part too.
        return Ok(Some(CompleteOutcome::PartMissing(number.cast_unsigned())));
    }
    for numbers in unwanted.chunks(MAX_IDS) {
        part::Entity::update_many()
            .col_expr(part::Column::State, Expr::value(part::State::Deleting))
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::Number.is_in(numbers.iter().copied()))
            .filter(part::Column::State.eq(part::State::Stored))
            .exec(transaction)
            .await?;
    }
    record_terms(transaction, file, selection).await
}

/// Records the condition and the attributes of a selection. Another request that has begun to complete
/// the upload must have had the same condition.
async fn record_terms(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    selection: &PartSelection,
) -> Result<Option<CompleteOutcome>, DbErr> {
    let condition = selection.condition.as_ref().map(ObjectCondition::to_column);
    if file.state == FileState::Completing {
        let row = object_upload::Entity::find_by_id(file.uid).one(transaction).await?;
        let is_same = row.is_some_and(|row| row.condition == condition);
        return Ok((!is_same).then_some(CompleteOutcome::NotOpen(file.state)));
    }
    object_upload::Entity::update_many()
        .col_expr(object_upload::Column::Condition, Expr::value(condition))
        .col_expr(object_upload::Column::Attributes, Expr::value(selection.attributes.clone()))
        .filter(object_upload::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    Ok(None)
}

async fn stored_parts(
    connection: &impl ConnectionTrait,
    blob_id: i64,
    after: u32,
    limit: u64,
) -> Result<Vec<UploadedPart>, DbErr> {
    let rows = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Number.gt(i64::from(after)))
        .order_by_asc(part::Column::Number)
        .limit(limit);
    let rows = rows.all(connection).await?;
    Ok(rows
        .into_iter()
        .map(|row| UploadedPart {
            number: row.number.cast_unsigned(),
            size: row.size.unsigned_abs(),
            md5: row.md5.and_then(|md5| md5.try_into().ok()),
            stored_at: row.stored_at.unwrap_or(row.created_at),
            checksums: row.checksums,
        })
        .collect())
}

/// The `ETag` of content that was received in parts with these MD5s, as AWS makes it: the MD5 of the
/// MD5s, and the number of parts.
pub fn etag_of_parts(md5s: &[[u8; 16]]) -> String {
    let mut digester = Digester::new(DigestSelection::MD5);
    digester.update(&md5s.concat());
    format!("{}-{}", hex::encode(digester.finish().md5.unwrap_or_default()), md5s.len())
}

/// The `ETag` of the stored parts of a blob. `None` if the MD5 of a part is unknown.
pub(crate) async fn multipart_etag(
    transaction: &DatabaseTransaction,
    blob_id: i64,
) -> Result<Option<String>, DbErr> {
    let parts = stored_parts(transaction, blob_id, 0, u64::MAX >> 1).await?;
    let Some(all) = parts.iter().map(|part| part.md5).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    Ok(Some(etag_of_parts(&all)))
}
