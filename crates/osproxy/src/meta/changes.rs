//! Changes to a file that leave its content alone: rename, metadata, copy.

use std::sync::Arc;

use osproxy_storage::Category;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr,
    sea_query::Expr,
};

use super::{
    Announced, Change, FileState, Meta, NewFile, blobs,
    entities::{blob, file},
    files::stored_row,
    listing::{self, Metadata, name_start},
    quotas::{Charged, Quotas, record_bytes},
    write_queue::Verdict,
};
use crate::{content_type, tenant::Tenant, uid::Uid};

/// Edits metadata in place; returns `false` if the result must not be saved.
pub type MetadataChange = Arc<dyn Fn(&mut Metadata) -> bool + Send + Sync>;

/// Outcome of updating a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// Updated.
    Updated,
    /// The new metadata is not valid.
    InvalidMetadata,
    /// The change would exceed the tenant's quota.
    OverQuota,
    /// The file was deleted or expired.
    Gone(FileState),
    /// No such uid.
    Unknown,
}

/// Outcome of copying a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Copied.
    Copied,
    /// The source's blob was replaced at the same time; read the source again and retry.
    Conflict,
    /// The uid of the copy is already in use.
    UidTaken,
    /// The tenant's quota is exceeded.
    OverQuota,
    /// The source has no content; it is in this state.
    NotStored(FileState),
    /// No such uid.
    Unknown,
}

impl Meta {
    /// Renames a tenant's file and edits its metadata. The content keeps its key.
    pub async fn update_file(
        &self,
        tenant: Tenant,
        uid: Uid,
        name: Option<String>,
        change: Option<MetadataChange>,
    ) -> Result<Updated, DbErr> {
        let quotas = self.quotas.clone();
        let updated = self
            .write_or_undo(move |transaction| {
                let (tenant, name, change) = (tenant.clone(), name.clone(), change.clone());
                let quotas = quotas.clone();
                Box::pin(async move {
                    Ok(match update(transaction, &tenant, uid, name, change, &quotas).await? {
                        Updated::Updated => Verdict::Commit(Updated::Updated),
                        other => Verdict::Rollback(other),
                    })
                })
            })
            .await;
        self.changed(Change::File(uid));
        updated
    }

    /// Creates a file with uid `copy` that shares the content of `uid`, within the same tenant.
    /// Name and metadata default to those of the source.
    pub async fn copy_file(
        &self,
        tenant: Tenant,
        uid: Uid,
        copy: Uid,
        name: Option<String>,
        metadata: Option<Metadata>,
    ) -> Result<Copied, DbErr> {
        let quotas = self.quotas.clone();
        let copying = self.write_or_undo(move |transaction| {
            let (tenant, name, metadata) = (tenant.clone(), name.clone(), metadata.clone());
            let quotas = quotas.clone();
            Box::pin(async move {
                Ok(match copy_file(transaction, &tenant, (uid, copy), name, metadata, &quotas).await? {
                    Copied::Copied => Verdict::Commit(Copied::Copied),
                    other => Verdict::Rollback(other),
                })
            })
        });
        match copying.await {
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Ok(Copied::UidTaken)
            }
            copied => copied,
        }
    }
}

async fn update(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    uid: Uid,
    name: Option<String>,
    change: Option<MetadataChange>,
    quotas: &Quotas,
) -> Result<Updated, DbErr> {
    // Lock the row, so that concurrent metadata edits see each other's result.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(file) = file.filter(|file| file.tenant == tenant.as_str()) else {
        return Ok(Updated::Unknown);
    };
    if matches!(file.state, FileState::Expired | FileState::Deleted) {
        return Ok(Updated::Gone(file.state));
    }
    let mut metadata = listing::metadata(&file)?;
    if let Some(change) = change
        && !change(&mut metadata)
    {
        return Ok(Updated::InvalidMetadata);
    }
    let before = record_bytes(&file.name, file.metadata.as_deref());
    let (name, metadata) = (name.unwrap_or(file.name), listing::text(&metadata));
    // A row from before rows were charged starts at 0 and is charged only for its growth.
    let record = (file.record_bytes + record_bytes(&name, metadata.as_deref()) - before).max(0);
    file::Entity::update_many()
        .col_expr(file::Column::Category, Expr::value(Category::of_name(&name).as_str()))
        .col_expr(file::Column::NameStart, Expr::value(name_start(&name)))
        .col_expr(file::Column::Name, Expr::value(name))
        .col_expr(file::Column::Metadata, Expr::value(metadata))
        .col_expr(file::Column::RecordBytes, Expr::value(record))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    Ok(match quotas.charge(transaction, tenant.as_str(), record - file.record_bytes).await? {
        Charged::Allowed => Updated::Updated,
        Charged::OverQuota => Updated::OverQuota,
    })
}

async fn copy_file(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    (uid, copy): (Uid, Uid),
    name: Option<String>,
    metadata: Option<Metadata>,
    quotas: &Quotas,
) -> Result<Copied, DbErr> {
    // Lock the row, so that the source keeps its content until the copy has a reference to it.
    let source = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(source) = source.filter(|file| file.tenant == tenant.as_str()) else {
        return Ok(Copied::Unknown);
    };
    let (FileState::Stored, Some(blob_id)) = (source.state, source.blob_id) else {
        return Ok(Copied::NotStored(source.state));
    };
    if !blobs::take_references(transaction, blob_id, 1, None).await? {
        return Ok(Copied::Conflict);
    }
    let metadata = match metadata {
        Some(metadata) => listing::text(&metadata),
        None => source.metadata,
    };
    let content_type = match &name {
        Some(name) if Some(name) != Some(&source.name) => {
            let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
            content_type::of_file(blob.and_then(|blob| blob.sniffed).as_deref(), name)
        }
        _ => source.content_type,
    };
    let (tenant, name) = (Tenant::from_recorded(&source.tenant), name.unwrap_or(source.name));
    let file = NewFile { uid: copy, tenant, name, announced: Announced::default() };
    let stored = stored_row(&file, (blob_id, source.charged), &content_type);
    let record = record_bytes(&file.name, metadata.as_deref());
    let row = file::ActiveModel { metadata: Set(metadata), record_bytes: Set(record), ..stored };
    file::Entity::insert(row).exec_without_returning(transaction).await?;
    let charge = source.charged.saturating_add(record);
    Ok(match quotas.charge(transaction, file.tenant.as_str(), charge).await? {
        Charged::Allowed => Copied::Copied,
        Charged::OverQuota => Copied::OverQuota,
    })
}
