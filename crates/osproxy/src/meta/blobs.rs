use osproxy_storage::{Digests, Key};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};

use super::{
    DEFAULT_TENANT, Meta, NewFile,
    entities::{blob, file},
    files::{recorded_key, stored_row},
};

/// Content that is whole, durable and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its number.
    pub id: i64,
    /// Name of the backend that holds it.
    pub backend: String,
    /// Where it lies there.
    pub key: Key,
    /// What osproxy computed of it.
    pub digests: Digests,
    /// MIME type that its first bytes speak of.
    pub sniffed: Option<String>,
}

/// A blob that is no content: an upload that runs or died, or a removal that did not end.
#[derive(Clone, Debug)]
pub struct UnfinishedBlob {
    /// Its number.
    pub id: i64,
    /// Where an object may lie, as it was recorded.
    pub object_key: String,
}

pub(super) fn verified(blob: blob::Model) -> Result<Blob, DbErr> {
    let damaged = || DbErr::Custom(format!("blob {} is stored without size or digests", blob.id));
    let md5 = blob.md5.as_deref().and_then(|md5| md5.try_into().ok());
    let blake3 = blob.blake3.as_deref().and_then(|blake3| blake3.try_into().ok());
    Ok(Blob {
        id: blob.id,
        key: recorded_key(&blob.object_key)?,
        digests: Digests {
            size: u64::try_from(blob.size).map_err(|_| damaged())?,
            md5: md5.ok_or_else(damaged)?,
            blake3: blake3.ok_or_else(damaged)?,
        },
        backend: blob.backend,
        sniffed: blob.sniffed,
    })
}

/// Counts one more file of a blob. `false`: the blob is no longer, or not yet, to be had.
pub(super) async fn take_reference(transaction: &DatabaseTransaction, id: i64) -> Result<bool, DbErr> {
    let taken = blob::Entity::update_many()
        .col_expr(blob::Column::Refs, Expr::col(blob::Column::Refs).add(1))
        .filter(blob::Column::Id.eq(id))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    Ok(taken.rows_affected == 1)
}

impl Meta {
    /// Stored content with this md5, the oldest if there are several.
    pub async fn blob_by_md5(&self, md5: [u8; 16]) -> Result<Option<Blob>, DbErr> {
        self.find_blob(blob::Column::Md5.eq(md5.to_vec())).await
    }

    /// Stored content with this BLAKE3.
    pub async fn blob_by_blake3(&self, blake3: [u8; 32]) -> Result<Option<Blob>, DbErr> {
        self.find_blob(blob::Column::Blake3.eq(blake3.to_vec())).await
    }

    async fn find_blob(&self, digest: Expr) -> Result<Option<Blob>, DbErr> {
        let found = blob::Entity::find()
            .filter(blob::Column::Tenant.eq(DEFAULT_TENANT))
            .filter(digest)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .order_by_asc(blob::Column::Id)
            .one(&self.reader)
            .await?;
        found.map(verified).transpose()
    }

    /// Records files that share blobs from the start: each with the blob's number and the file's content type.
    /// Says of each whether the blob was still there; those whose blob was not are not recorded.
    pub async fn create_stored_files(&self, files: Vec<(NewFile, i64, String)>) -> Result<Vec<bool>, DbErr> {
        self.write(move |transaction| {
            let files = files.clone();
            Box::pin(async move {
                let mut created = Vec::with_capacity(files.len());
                for (file, blob_id, content_type) in &files {
                    let taken = take_reference(transaction, *blob_id).await?;
                    if taken {
                        let row = stored_row(file, *blob_id, content_type);
                        file::Entity::insert(row).exec_without_returning(transaction).await?;
                    }
                    created.push(taken);
                }
                Ok(created)
            })
        })
        .await
    }

    /// Up to `limit` blobs beyond number `after` that are no content and were begun before a moment (milliseconds
    /// since the Unix epoch), in the order of their numbers.
    pub async fn unfinished_blobs(
        &self,
        begun_before: i64,
        after: i64,
        limit: u64,
    ) -> Result<Vec<UnfinishedBlob>, DbErr> {
        let unfinished = blob::Entity::find()
            .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
            .filter(blob::Column::CreatedAt.lt(begun_before))
            .filter(blob::Column::Id.gt(after))
            .order_by_asc(blob::Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let known = |blob: blob::Model| UnfinishedBlob { id: blob.id, object_key: blob.object_key };
        Ok(unfinished.into_iter().map(known).collect())
    }

    /// Decides that a blob which is no content never becomes any. `false`: it became content meanwhile, or is gone.
    /// After `true` the caller removes the object and then calls [`forget_blob`](Self::forget_blob).
    pub async fn condemn_blob(&self, id: i64) -> Result<bool, DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                let condemned = blob::Entity::update_many()
                    .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
                    .filter(blob::Column::Id.eq(id))
                    .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                    .exec(transaction)
                    .await?;
                Ok(condemned.rows_affected == 1)
            })
        })
        .await
    }

    /// Removes the row of a blob whose object is gone.
    pub async fn forget_blob(&self, id: i64) -> Result<(), DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                blob::Entity::delete_many()
                    .filter(blob::Column::Id.eq(id))
                    .filter(blob::Column::State.eq(blob::State::Deleting))
                    .exec(transaction)
                    .await?;
                Ok(())
            })
        })
        .await
    }
}
