//! Changes that do not affect the content of a file: rename, edit metadata, copy.

use std::sync::Arc;

use osproxy_storage::Category;
use osproxy_types::{content_type, tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AnnouncedContent, EventKind, FileDb, FileState, Invalidation, KnownContent, NewFile, NodeStores,
    access::quotas::{ChargeOutcome, Quotas, record_bytes},
    blobs, boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent, stored_blob},
    files::{
        create::{record_created, stored_row},
        listing::{self, FileMetadata, name_start},
    },
    objects::bind::{BoundFile, NewObject, ObjectBinder, ObjectRefusal},
    processing,
};

/// Edits metadata in place. Returns `false` if the edited metadata is invalid and must not be
/// saved.
pub type MetadataEdit = Arc<dyn Fn(&mut FileMetadata) -> bool + Send + Sync>;

/// Outcome of updating a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// Updated.
    Updated,
    /// The new metadata is not valid.
    InvalidMetadata,
    /// The change would exceed the tenant's quota.
    OverQuota,
    /// The file is in this state: deleted or expired.
    Gone(FileState),
    /// The tenant has no file with this uid.
    Unknown,
}

/// Outcome of copying a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOutcome {
    /// Copied.
    Copied,
    /// The source's blob was replaced concurrently; read the source again and retry.
    Conflict,
    /// The uid of the copy is already in use.
    UidTaken,
    /// The copy would exceed the tenant's quota.
    OverQuota,
    /// The copy cannot become the object that was asked for.
    Refused(ObjectRefusal),
    /// The source is in this state and has no stored content.
    NotStored(FileState),
    /// The tenant has no file with this uid.
    Unknown,
}

impl FileDb {
    /// Renames a tenant's file if `name` is given, and edits the metadata if `edit` is given. The
    /// object keeps its key.
    #[boxed_future]
    pub async fn update(
        &self,
        tenant: Tenant,
        uid: Uid,
        name: Option<String>,
        edit: Option<MetadataEdit>,
    ) -> Result<UpdateOutcome, MetaError> {
        let (quotas, recorder) = (self.db.quotas.clone(), self.db.event_recorder());
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (tenant, change) =
                    (tenant.clone(), FileChange { name: name.clone(), edit: edit.clone() });
                let (quotas, recorder) = (quotas.clone(), recorder.clone());
                Box::pin(async move {
                    Ok(match update(transaction, &tenant, uid, change, &quotas, &recorder).await? {
                        UpdateOutcome::Updated => TxEnd::Commit(UpdateOutcome::Updated),
                        other => TxEnd::Rollback(other),
                    })
                })
            })
            .await;
        self.db.invalidate_everywhere(Invalidation::File(uid));
        outcome
    }

    /// Creates a file that shares the content of the tenant's file `uid`. An object with the key of
    /// the copy that another transaction creates at the same moment counts as `UidTaken` too.
    #[boxed_future]
    pub async fn copy(&self, tenant: Tenant, uid: Uid, copy: NewCopy) -> Result<CopyOutcome, MetaError> {
        let (quotas, recorder) = (self.db.quotas.clone(), self.db.event_recorder());
        let node_stores = self.db.node_stores.clone();
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let copied = self.db.write_or_rollback(move |transaction| {
            let (tenant, quotas, recorder) = (tenant.clone(), quotas.clone(), recorder.clone());
            let (node_stores, copy, binder) = (node_stores.clone(), copy.clone(), binder.clone());
            Box::pin(async move {
                let context = CopyContext {
                    node_stores: &node_stores,
                    quotas: &quotas,
                    recorder: &recorder,
                    binder: &binder,
                };
                Ok(match copy_file(transaction, &tenant, uid, copy, context).await? {
                    CopyOutcome::Copied => TxEnd::Commit(CopyOutcome::Copied),
                    other => TxEnd::Rollback(other),
                })
            })
        });
        let copied = copied.await;
        evicting.evict_replaced(&self.db);
        match copied {
            Err(MetaError::Conflict(_)) => Ok(CopyOutcome::UidTaken),
            outcome => outcome,
        }
    }
}

/// A change of a file's name and metadata.
struct FileChange {
    name: Option<String>,
    edit: Option<MetadataEdit>,
}

async fn update(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    uid: Uid,
    FileChange { name, edit }: FileChange,
    quotas: &Quotas,
    recorder: &EventRecorder,
) -> Result<UpdateOutcome, DbErr> {
    // Lock the row, so that a concurrent metadata edit starts from the result of this edit.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(mut file) = file.filter(|file| file.tenant == tenant.as_str()) else {
        return Ok(UpdateOutcome::Unknown);
    };
    if matches!(file.state, FileState::Expired | FileState::Deleted) {
        return Ok(UpdateOutcome::Gone(file.state));
    }
    let mut metadata = listing::decode_metadata(&file)?;
    if let Some(edit) = edit
        && !edit(&mut metadata)
    {
        return Ok(UpdateOutcome::InvalidMetadata);
    }
    let old_charge = record_bytes(&file.name, file.metadata.as_deref());
    let old_name = file.name.clone();
    file.name = name.unwrap_or(file.name);
    file.metadata = listing::encode_metadata(&metadata);
    Category::of_name(&file.name).as_str().clone_into(&mut file.category);
    // Older versions of osproxy did not charge for rows. A row that such a version created has a
    // charge of 0, and only its growth is charged.
    let row_charge =
        (file.record_bytes + record_bytes(&file.name, file.metadata.as_deref()) - old_charge).max(0);
    file::Entity::update_many()
        .col_expr(file::Column::Category, Expr::value(&file.category))
        .col_expr(file::Column::NameStart, Expr::value(name_start(&file.name)))
        .col_expr(file::Column::Name, Expr::value(&file.name))
        .col_expr(file::Column::Metadata, Expr::value(file.metadata.clone()))
        .col_expr(file::Column::RecordBytes, Expr::value(row_charge))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    if file.name != old_name {
        record_renamed(transaction, &file, &old_name, recorder).await?;
    }
    Ok(match quotas.charge(transaction, tenant.as_str(), row_charge - file.record_bytes).await? {
        ChargeOutcome::Allowed => UpdateOutcome::Updated,
        ChargeOutcome::OverQuota => UpdateOutcome::OverQuota,
    })
}

async fn record_renamed(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    old_name: &str,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    if !recorder.is_enabled() || file.state == FileState::Partial {
        return Ok(());
    }
    let blob = stored_blob(transaction, file).await?;
    let content = blob.as_ref().map_or(EventContent::announced(file), EventContent::of_blob);
    let renamed = FileEvent::new(EventKind::FileRenamed, file, content);
    recorder.record_files(transaction, [FileEvent { old_name: Some(old_name), ..renamed }]).await
}

/// A copy to be created.
#[derive(Clone, Debug)]
pub struct NewCopy {
    /// Uid of the copy.
    pub uid: Uid,
    /// Defaults to the name of the source.
    pub name: Option<String>,
    /// Defaults to the metadata of the source.
    pub metadata: Option<FileMetadata>,
    /// Defaults to the MIME type of the source or, with another name, to the one that is detected.
    pub content_type: Option<String>,
    /// The object that the copy becomes, and its `ETag`.
    pub object: Option<(Arc<NewObject>, String)>,
}

/// What [`copy_file`] needs besides the files.
struct CopyContext<'a> {
    node_stores: &'a NodeStores,
    quotas: &'a Quotas,
    recorder: &'a EventRecorder,
    binder: &'a ObjectBinder,
}

async fn copy_file(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    uid: Uid,
    NewCopy { uid: copy, name, metadata, content_type, object }: NewCopy,
    CopyContext { node_stores, quotas, recorder, binder }: CopyContext<'_>,
) -> Result<CopyOutcome, DbErr> {
    // Lock the row, so that the source keeps its blob until the copy refers to the blob too.
    let source = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(source) = source.filter(|file| file.tenant == tenant.as_str()) else {
        return Ok(CopyOutcome::Unknown);
    };
    let (FileState::Stored, Some(blob_id)) = (source.state, source.blob_id) else {
        return Ok(CopyOutcome::NotStored(source.state));
    };
    if !blobs::add_references(transaction, blob_id, 1, None).await? {
        return Ok(CopyOutcome::Conflict);
    }
    let metadata = match metadata {
        Some(metadata) => listing::encode_metadata(&metadata),
        None => source.metadata,
    };
    let is_renamed = name.as_ref().is_some_and(|name| *name != source.name);
    let content_type = match &name {
        _ if content_type.is_some() => content_type.unwrap_or_default(),
        Some(name) if is_renamed => {
            let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
            content_type::mime_type_of(blob.and_then(|blob| blob.sniffed).as_deref(), name)
        }
        _ => source.content_type,
    };
    let (tenant, name) = (Tenant::from_db(&source.tenant), name.unwrap_or(source.name));
    let announced =
        AnnouncedContent { object: object.as_ref().map(|it| it.0.clone()), ..AnnouncedContent::default() };
    let file = NewFile { uid: copy, tenant, name, announced, grant: None };
    let content = KnownContent { blob_id, size: source.charged.cast_unsigned(), content_type };
    // Processing has accepted the content under its first name.
    let state = if is_renamed { node_stores.processing.completed_state() } else { FileState::Stored };
    let stored = stored_row(&file, &content, state);
    let object_charge = object.as_ref().map_or(0, |(object, _)| object.charge());
    let row_charge = record_bytes(&file.name, metadata.as_deref()).saturating_add(object_charge);
    let row = file::ActiveModel { metadata: Set(metadata), record_bytes: Set(row_charge), ..stored };
    file::Entity::insert(row.clone()).exec_without_returning(transaction).await?;
    record_created(transaction, vec![row], recorder).await?;
    if is_renamed {
        processing::enqueue_first(transaction, node_stores, copy, blob_id).await?;
    }
    if let Some((object, etag)) = &object {
        let (size, tenant) = (content.size, file.tenant.as_str());
        let bound = BoundFile { uid: copy.get(), tenant, size, etag, owns_file: true };
        let refusal = if state == FileState::Stored {
            binder.bind(transaction, object, bound).await?
        } else {
            binder.complete(transaction, object, bound, node_stores).await?
        };
        if let Some(refusal) = refusal {
            return Ok(CopyOutcome::Refused(refusal));
        }
    }
    let charge = source.charged.saturating_add(row_charge);
    Ok(match quotas.charge(transaction, file.tenant.as_str(), charge).await? {
        ChargeOutcome::Allowed => CopyOutcome::Copied,
        ChargeOutcome::OverQuota => CopyOutcome::OverQuota,
    })
}
