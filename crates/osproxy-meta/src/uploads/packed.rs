//! Uploads of small content that goes to a pack. The content needs no write intent: content in a
//! pack without a row is dead space, not an orphan. So one transaction, after the content is
//! durable, inserts the blob and completes the file.

use std::sync::Arc;

use osproxy_storage::{Digests, Key};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, TryIntoModel};

use crate::MetaError;
use crate::{
    EventKind, ExpectedDigests, FileRecord, KnownContent, NewFile, NodeStores, StoreOutcome, UploadDb,
    blobs::{self, encode_digest},
    boxed_future,
    db::{
        entities::{blob, event, file},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::{
        create::{row_charge, stored_row},
        listing::record_from_row,
        rows::expected_digests,
    },
    objects::{
        ObjectName,
        bind::{self, BoundFile, ObjectBinder, ObjectRefusal},
        names::name_of_key,
    },
    processing,
    uploads::whole::{NewContent, StoreContext, store_file},
};

/// An upload that accepts its whole content and has not received a part.
#[derive(Clone, Debug)]
pub struct OpenUpload {
    /// The owner of the file.
    pub tenant: Tenant,
    /// The name of the file.
    pub name: String,
    /// The announced size, in bytes.
    pub size: Option<u64>,
    /// The announced MIME type.
    pub content_type: Option<String>,
    /// The digests expected by the client.
    pub expected: ExpectedDigests,
    /// Size of each part except the last, in bytes; `None` if no size was announced.
    pub part_size: Option<u64>,
    /// Whether nothing was ever written for this file, so that a blob may have the id of the file.
    pub is_pending: bool,
}

/// Content in a pack that becomes a blob.
#[derive(Clone, Debug)]
pub struct PackedBlob {
    /// An unused blob id. The record in the pack has it too.
    pub id: i64,
    /// Name of the store.
    pub store: String,
    /// Key of the object, which is durable.
    pub key: Key,
    /// Computed digests.
    pub digests: Digests,
    /// MIME type detected from the first bytes.
    pub sniffed: Option<&'static str>,
}

/// Outcome of [`UploadDb::create_packed`].
#[derive(Clone, Debug)]
pub enum CreatePackedOutcome {
    /// The file is created and complete.
    Created(Box<FileRecord>),
    /// There is a blob with the same content, or the uid or the blob id is taken.
    Conflict,
    /// The content would exceed the tenant's quota.
    OverQuota,
    /// The file cannot become the object that it is created as.
    Refused(ObjectRefusal),
}

impl UploadDb {
    /// Returns an upload that accepts its whole content and has no blob yet; `None` if there is no
    /// such upload.
    #[boxed_future]
    pub async fn open_upload(&self, uid: Uid) -> Result<Option<OpenUpload>, MetaError> {
        let file = file::Entity::find_by_id(uid.get())
            .filter(file::Column::State.is_in([file::State::Pending, file::State::Receiving]))
            .filter(file::Column::BlobId.is_null());
        Ok(file.one(&self.db.lookups).await?.map(|file| OpenUpload {
            size: file.announced_size.and_then(|size| u64::try_from(size).ok()),
            part_size: file.part_size.map(i64::unsigned_abs),
            expected: expected_digests(&file),
            is_pending: file.state == file::State::Pending,
            content_type: Some(file.content_type).filter(|announced| !announced.is_empty()),
            tenant: Tenant::from_db(&file.tenant),
            name: file.name,
        }))
    }

    /// Makes packed content the content of the file. Returns `Conflict` if there is a blob with the
    /// same id or the same content.
    #[boxed_future]
    pub async fn finish_packed(
        &self,
        uid: Uid,
        tenant: Tenant,
        content: PackedBlob,
        content_type: String,
    ) -> Result<StoreOutcome, MetaError> {
        let (node_stores, quotas) = (self.db.node_stores.clone(), self.db.quotas.clone());
        let recorder = self.db.event_recorder();
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (content, content_type) = (content.clone(), content_type.clone());
                let (tenant, node_stores, quotas) = (tenant.clone(), node_stores.clone(), quotas.clone());
                let (recorder, binder) = (recorder.clone(), binder.clone());
                Box::pin(async move {
                    let row = blob_row(tenant.as_str(), &content, &node_stores);
                    let PackedBlob { id, digests, .. } = content;
                    blob::Entity::insert(row).exec_without_returning(transaction).await?;
                    let content = NewContent { blob_id: id, digests, content_type: &content_type };
                    let shared = StoreContext {
                        node_stores: &node_stores,
                        quotas: &quotas,
                        recorder: &recorder,
                        binder: &binder,
                    };
                    store_file(transaction, uid, &tenant, content, shared).await
                })
            })
            .await;
        self.db.content_completed();
        evicting.evict_replaced(&self.db);
        match outcome {
            Err(MetaError::Conflict(_)) => Ok(StoreOutcome::Conflict),
            outcome => outcome,
        }
    }

    /// Creates a file with packed content.
    #[boxed_future]
    pub async fn create_packed(
        &self,
        file: NewFile,
        content: PackedBlob,
        content_type: String,
    ) -> Result<CreatePackedOutcome, MetaError> {
        let (id, size) = (content.id, content.digests.size);
        let known = KnownContent { blob_id: id, size, content_type };
        let file_row = file::ActiveModel {
            stored_by: Set(Some(self.db.node_stores.node.clone())),
            received_as: Set(Some(id)),
            ..stored_row(&file, &known, self.db.node_stores.processing.completed_state())
        };
        let blob_row = blob::ActiveModel {
            // Both rows are created together. A blob that is older than its file counts as shared.
            created_at: file_row.created_at.clone(),
            ..blob_row(file.tenant.as_str(), &content, &self.db.node_stores)
        };
        let record =
            record_from_row(file_row.clone().try_into_model()?, Some(blob_row.clone().try_into_model()?))?;
        let charge = row_charge(&file).saturating_add_unsigned(size);
        let (uid, node_stores) = (file.uid, self.db.node_stores.clone());
        let recorder = self.db.event_recorder();
        let name = match file.announced.object.as_deref().filter(|_| recorder.is_enabled()) {
            Some(object) => {
                name_of_key(&self.db.lookups, object.bucket_id.get(), object.key.as_bytes()).await?
            }
            None => None,
        };
        let events = created_events(&recorder, &file_row, &content.digests, name.as_ref())?;
        let etag = bind::etag_of(&content.digests);
        let object = file.announced.object.clone().map(|object| (object, etag));
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let rows = Arc::new((file.tenant, file_row, blob_row, events, object));
        let quotas = self.db.quotas.clone();
        let created = self
            .db
            .write_or_rollback(move |transaction| {
                let (rows, quotas, recorder) = (rows.clone(), quotas.clone(), recorder.clone());
                let (node_stores, binder) = (node_stores.clone(), binder.clone());
                Box::pin(async move {
                    let (tenant, file_row, blob_row, events, object) = &*rows;
                    blob::Entity::insert(blob_row.clone()).exec_without_returning(transaction).await?;
                    file::Entity::insert(file_row.clone()).exec_without_returning(transaction).await?;
                    recorder.insert(transaction, events.clone()).await?;
                    processing::enqueue_first(transaction, &node_stores, uid, id).await?;
                    if let Some((object, etag)) = object {
                        let (uid, tenant) = (uid.get(), tenant.as_str());
                        let bound = BoundFile { uid, tenant, size, etag, owns_file: true };
                        let refusal = binder.complete(transaction, object, bound, &node_stores).await?;
                        if let Some(refusal) = refusal {
                            return Ok(TxEnd::Rollback(Packed::Refused(refusal)));
                        }
                    }
                    let charged = quotas.charge(transaction, tenant.as_str(), charge).await?;
                    Ok(charged.commit_or_roll_back(Packed::Created, Packed::OverQuota))
                })
            })
            .await;
        self.db.content_completed();
        evicting.evict_replaced(&self.db);
        match created {
            Ok(Packed::Created) => Ok(CreatePackedOutcome::Created(Box::new(record))),
            Ok(Packed::OverQuota) => Ok(CreatePackedOutcome::OverQuota),
            Ok(Packed::Refused(refusal)) => Ok(CreatePackedOutcome::Refused(refusal)),
            Err(MetaError::Conflict(_)) => Ok(CreatePackedOutcome::Conflict),
            Err(error) => Err(error),
        }
    }
}

/// How the transaction that creates a packed file ended.
enum Packed {
    Created,
    OverQuota,
    Refused(ObjectRefusal),
}

/// Rows of the events of a file that is created with its content.
fn created_events(
    recorder: &EventRecorder,
    file: &file::ActiveModel,
    digests: &Digests,
    name: Option<&ObjectName>,
) -> Result<Vec<event::ActiveModel>, DbErr> {
    if !recorder.is_enabled() {
        return Ok(Vec::new());
    }
    let file = file.clone().try_into_model()?;
    let content = EventContent::of_digests(digests);
    let created = FileEvent::new(EventKind::FileCreated, &file, content);
    let created = recorder.file_row(FileEvent { object: name, ..created })?;
    if file.state != file::State::Stored {
        return Ok(vec![created]);
    }
    let kind = Set(EventKind::FileCompleted.name().to_owned());
    let completed = event::ActiveModel { kind, ..created.clone() };
    Ok(vec![created, completed])
}

/// Row of a blob in a pack that one file refers to.
fn blob_row(tenant: &str, content: &PackedBlob, node_stores: &NodeStores) -> blob::ActiveModel {
    let PackedBlob { id, store, key, digests, sniffed } = content;
    blob::ActiveModel {
        state: Set(blob::State::Stored),
        refs: Set(1),
        size: Set(digests.size.cast_signed()),
        md5: Set(encode_digest(digests.md5)),
        sha256: Set(encode_digest(digests.sha256)),
        blake3: Set(Some(digests.blake3.to_vec())),
        sniffed: Set(sniffed.map(str::to_owned)),
        ..blobs::intent_row(*id, tenant, store, key.to_string(), node_stores)
    }
}
