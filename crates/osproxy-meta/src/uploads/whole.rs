//! Uploads of a whole file in one request. Each write has a row, the write intent, which is
//! committed before the object is written. Several writes may run concurrently. The first one that
//! finishes determines the content of the file.

use osproxy_storage::{Digests, Key};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    EventKind, ExpectedDigests, FileState, NodeStores, UploadDb,
    access::quotas::Quotas,
    blobs::{self, encode_digest},
    boxed_future,
    db::{
        entities::{blob, file, part},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::rows::{expected_digests, has_blob},
    now_ms,
    objects::bind::{self, ObjectBinder, ObjectRefusal},
    processing,
    tasks::kind::{TaskKind, TaskSeed},
};

/// The write intent of an object. Its row is committed, so the caller can write the object.
#[derive(Clone, Debug)]
pub struct WriteIntent {
    /// Id of the blob.
    pub blob_id: i64,
    /// The store to write to.
    pub store: String,
    /// Key to write to. No other write uses this key.
    pub key: Key,
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
    /// The blob that was created to receive parts of the file, if any. This write has marked that
    /// blob for deletion.
    pub released: Option<ReleasedReservation>,
}

/// A blob that was created to receive parts but has none. It is marked for deletion, because the
/// content arrives as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleasedReservation {
    /// This node has the blob's store. The caller removes the blob with this id before the content
    /// arrives, to free its disk space.
    Local(i64),
    /// Another node has the blob's store. A task on that node removes the blob.
    OtherNode,
}

/// Outcome of [`UploadDb::begin`].
#[derive(Clone, Debug)]
pub enum BeginUploadOutcome {
    /// The caller can write the object.
    Ready(Box<WriteIntent>),
    /// The file is stored already.
    Stored,
    /// The file is in this state and takes no content.
    Closed(FileState),
    /// No such uid.
    Unknown,
}

/// Outcome of storing content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The file has the content now.
    Stored,
    /// The file takes no content any more. Another write has finished first, or the file was
    /// deleted or expired.
    Superseded,
    /// The blob to share is no longer stored, or another blob with the same content appeared.
    Conflict,
    /// The sweep removed the write intent: the write took too long.
    Swept,
    /// The content would exceed the tenant's quota.
    OverQuota,
    /// The file cannot become the object that it was created as.
    Refused(ObjectRefusal),
}

impl UploadDb {
    /// Starts a write of the whole content of `uid`: records a write intent. The first write uses a
    /// key derived from the uid. Later writes use a key derived from `fallback_id`, because no key
    /// is written twice.
    ///
    /// If the file has a blob for parts of known size but no part has begun, marks that blob for
    /// deletion. If the blob is in a store of another node, also enqueues the task that deletes the
    /// blob; `task_id` is an unused id for that task.
    #[boxed_future]
    pub async fn begin(
        &self,
        uid: Uid,
        fallback_id: Uid,
        task_id: Uid,
    ) -> Result<BeginUploadOutcome, MetaError> {
        let (node_stores, delete_task) = (self.db.node_stores.clone(), self.db.task_seed(task_id));
        self.db
            .write(move |transaction| {
                let node_stores = node_stores.clone();
                Box::pin(async move { begin(transaction, uid, fallback_id, &node_stores, delete_task).await })
            })
            .await
    }

    /// Makes the object of a write intent the content of the file. The object must be published and
    /// durable.
    #[boxed_future]
    pub async fn finish(
        &self,
        uid: Uid,
        tenant: Tenant,
        intent_id: i64,
        digests: Digests,
        sniffed: Option<&'static str>,
        content_type: String,
    ) -> Result<StoreOutcome, MetaError> {
        let (node_stores, quotas) = (self.db.node_stores.clone(), self.db.quotas.clone());
        let recorder = self.db.event_recorder();
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (content_type, node_stores) = (content_type.clone(), node_stores.clone());
                let (tenant, quotas, recorder) = (tenant.clone(), quotas.clone(), recorder.clone());
                let binder = binder.clone();
                Box::pin(async move {
                    let stored = blob::Entity::update_many()
                        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
                        .col_expr(blob::Column::Refs, Expr::value(1))
                        .col_expr(blob::Column::Size, Expr::value(digests.size.cast_signed()))
                        .col_expr(blob::Column::Md5, Expr::value(encode_digest(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(encode_digest(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
                        .filter(blob::Column::Id.eq(intent_id))
                        .filter(blob::Column::State.eq(blob::State::Writing))
                        .exec(transaction)
                        .await?;
                    if stored.rows_affected == 0 {
                        return Ok(TxEnd::Rollback(StoreOutcome::Swept));
                    }
                    let content = NewContent { blob_id: intent_id, digests, content_type: &content_type };
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

    /// Makes a stored blob with these digests the content of the file. `unpublished` is the id of a
    /// write intent whose object was never published; the row of that intent is deleted.
    #[boxed_future]
    pub async fn share_blob(
        &self,
        uid: Uid,
        tenant: Tenant,
        blob_id: i64,
        digests: Digests,
        unpublished: Option<i64>,
        content_type: String,
    ) -> Result<StoreOutcome, MetaError> {
        let (node_stores, quotas) = (self.db.node_stores.clone(), self.db.quotas.clone());
        let recorder = self.db.event_recorder();
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (content_type, node_stores) = (content_type.clone(), node_stores.clone());
                let (tenant, quotas, recorder) = (tenant.clone(), quotas.clone(), recorder.clone());
                let binder = binder.clone();
                Box::pin(async move {
                    if !blobs::add_references(transaction, blob_id, 1, Some(&digests)).await? {
                        return Ok(TxEnd::Rollback(StoreOutcome::Conflict));
                    }
                    if let Some(intent_id) = unpublished {
                        blob::Entity::delete_many()
                            .filter(blob::Column::Id.eq(intent_id))
                            .filter(blob::Column::State.eq(blob::State::Writing))
                            .exec(transaction)
                            .await?;
                    }
                    let content = NewContent { blob_id, digests, content_type: &content_type };
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
            // An object with the same key was created at the same moment.
            Err(MetaError::Conflict(_)) => Ok(StoreOutcome::Conflict),
            outcome => outcome,
        }
    }
}

async fn begin(
    transaction: &DatabaseTransaction,
    uid: Uid,
    fallback_id: Uid,
    node_stores: &NodeStores,
    delete_task: TaskSeed,
) -> Result<BeginUploadOutcome, DbErr> {
    let Some(file) = file::Entity::find_by_id(uid.get()).one(transaction).await? else {
        return Ok(BeginUploadOutcome::Unknown);
    };
    let blob_id = match file.state {
        file::State::Stored | file::State::Processing => return Ok(BeginUploadOutcome::Stored),
        file::State::Pending => {
            let first = file::Entity::update_many()
                .col_expr(file::Column::State, Expr::value(file::State::Receiving))
                .filter(file::Column::Uid.eq(uid.get()))
                .filter(file::Column::State.eq(file::State::Pending))
                .exec(transaction)
                .await?;
            // A concurrent write may have changed the state first.
            if first.rows_affected == 1 { uid.get() } else { fallback_id.get() }
        }
        file::State::Receiving => fallback_id.get(),
        closed => return Ok(BeginUploadOutcome::Closed(closed)),
    };
    let released = match release_reservation(transaction, &file).await? {
        Some((blob_id, store)) if node_stores.store(&store).is_none() => {
            delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
            Some(ReleasedReservation::OtherNode)
        }
        released => released.map(|(blob_id, _)| ReleasedReservation::Local(blob_id)),
    };
    let store = node_stores.default_store();
    let key = node_stores.whole_key(store, &file.name, blob_id);
    let row = blobs::intent_row(blob_id, &file.tenant, store, key.to_string(), node_stores);
    blob::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(BeginUploadOutcome::Ready(Box::new(WriteIntent {
        blob_id,
        store: store.to_owned(),
        key,
        size: file.announced_size.and_then(|size| u64::try_from(size).ok()),
        expected: expected_digests(&file),
        content_type: Some(file.content_type).filter(|announced| !announced.is_empty()),
        tenant: Tenant::from_db(&file.tenant),
        name: file.name,
        released,
    })))
}

/// Marks the blob that receives the parts of a file for deletion, if the part size is known and no
/// part has begun. Returns the id and store of the blob; `None` if no blob was marked.
pub(crate) async fn release_reservation(
    transaction: &DatabaseTransaction,
    file: &file::Model,
) -> Result<Option<(i64, String)>, DbErr> {
    let Some(blob_id) = file.blob_id else {
        return Ok(None);
    };
    let part = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.is_in([part::State::Writing, part::State::Partial, part::State::Stored]))
        .limit(1);
    let is_empty = part.into_tuple::<i64>().one(transaction).await?.is_none();
    if !is_empty {
        return Ok(None);
    }
    // A part that begins concurrently may not be visible here. `finish_part` then returns `Closed`,
    // because the file no longer refers to this blob.
    let marked = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(blob::Column::PartSize.is_not_null())
        .exec(transaction)
        .await?;
    if marked.rows_affected == 0 {
        return Ok(None);
    }
    file::Entity::update_many()
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .filter(file::Column::Uid.eq(file.uid))
        .filter(file::Column::BlobId.eq(blob_id))
        .exec(transaction)
        .await?;
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    Ok(blob.map(|blob| (blob_id, blob.backend)))
}

/// New content of a file.
#[derive(Clone, Copy)]
pub(super) struct NewContent<'a> {
    pub(super) blob_id: i64,
    pub(super) digests: Digests,
    pub(super) content_type: &'a str,
}

/// What [`store_file`] needs besides the file and its content.
#[derive(Clone, Copy)]
pub(super) struct StoreContext<'a> {
    pub(super) node_stores: &'a NodeStores,
    pub(super) quotas: &'a Quotas,
    pub(super) recorder: &'a EventRecorder,
    pub(super) binder: &'a ObjectBinder,
}

/// Makes `content` the content of the file, unless the file takes no content any more.
pub(super) async fn store_file(
    transaction: &DatabaseTransaction,
    uid: Uid,
    tenant: &Tenant,
    content: NewContent<'_>,
    StoreContext { node_stores, quotas, recorder, binder }: StoreContext<'_>,
) -> Result<TxEnd<StoreOutcome>, DbErr> {
    let charged = quotas.lock_charge(transaction, tenant.as_str(), uid).await?;
    if !set_content(transaction, uid, None, content, node_stores).await? {
        // A concurrent write of a part may have given the file a blob that receives parts.
        let receiving_blob = file::Entity::find_by_id(uid.get()).select_only().column(file::Column::BlobId);
        let receiving_blob: Option<Option<i64>> = receiving_blob.into_tuple().one(transaction).await?;
        let Some(receiving_blob) = receiving_blob.flatten() else {
            return Ok(TxEnd::Rollback(StoreOutcome::Superseded));
        };
        if !set_content(transaction, uid, Some(receiving_blob), content, node_stores).await? {
            return Ok(TxEnd::Rollback(StoreOutcome::Superseded));
        }
        // The parts are no longer needed; the sweep removes them.
        blob::Entity::update_many()
            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
            .filter(blob::Column::Id.eq(receiving_blob))
            .filter(blob::Column::State.eq(blob::State::Receiving))
            .exec(transaction)
            .await?;
    }
    if let Some(file) = file::Entity::find_by_id(uid.get()).one(transaction).await? {
        if node_stores.processing.blocking.is_empty() {
            let completed = EventContent::of_digests(&content.digests);
            let completed = FileEvent::new(EventKind::FileCompleted, &file, completed);
            recorder.record_files(transaction, [completed]).await?;
        }
        let (size, etag) = (content.digests.size, Some(bind::etag_of(&content.digests)));
        let refusal = binder.complete_upload(transaction, &file, size, etag, node_stores).await?;
        if let Some(refusal) = refusal {
            return Ok(TxEnd::Rollback(StoreOutcome::Refused(refusal)));
        }
    }
    processing::enqueue_first(transaction, node_stores, uid, content.blob_id).await?;
    let charge = content.digests.size.cast_signed() - charged;
    let charged = quotas.charge(transaction, tenant.as_str(), charge).await?;
    Ok(charged.commit_or_roll_back(StoreOutcome::Stored, StoreOutcome::OverQuota))
}

/// Sets the content of an open upload, and moves the file to state `stored` or `processing`. Changes nothing and
/// returns `false` if the file is in another state, or its blob is not `current_blob`.
async fn set_content(
    transaction: &DatabaseTransaction,
    uid: Uid,
    current_blob: Option<i64>,
    NewContent { blob_id, digests, content_type }: NewContent<'_>,
    node_stores: &NodeStores,
) -> Result<bool, DbErr> {
    let stored = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(node_stores.processing.completed_state()))
        .col_expr(file::Column::BlobId, Expr::value(blob_id))
        .col_expr(file::Column::ContentType, Expr::value(content_type))
        .col_expr(file::Column::StoredAt, Expr::value(now_ms()))
        .col_expr(file::Column::StoredBy, Expr::value(node_stores.node.as_str()))
        .col_expr(file::Column::ReceivedAs, Expr::value(blob_id))
        .col_expr(file::Column::Charged, Expr::value(digests.size.cast_signed()))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.is_in([file::State::Pending, file::State::Receiving]))
        .filter(has_blob(current_blob))
        .exec(transaction)
        .await?;
    Ok(stored.rows_affected == 1)
}
