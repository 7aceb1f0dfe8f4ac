//! Binding of files to keys, within the transaction that makes the file readable.

use std::sync::{Arc, Mutex, PoisonError};

use osproxy_storage::Digests;
use osproxy_types::uid::Uid;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, JoinType,
    QueryFilter, QueryOrder, QuerySelect, Select, sea_query::Expr,
};

use crate::{
    FileState, Invalidation, NodeStores,
    access::quotas::{Quotas, object_bytes},
    db::{
        database::Database,
        entities::{bucket, file, object, object_upload},
    },
    events::record::EventRecorder,
    files::delete::{self, FileTransition, RemoveContext},
    tasks::kind::TaskSeed,
};

use super::{ObjectName, names::name_of_key};

/// The object that a new file becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// Id of the bucket.
    pub bucket_id: Uid,
    /// The key; at most [`MAX_OBJECT_KEY`](super::MAX_OBJECT_KEY) bytes.
    pub key: String,
    /// What must hold for the object that has the key, when the new file gets it.
    pub condition: Option<ObjectCondition>,
    /// Headers, tags and checksums, in a format of the caller.
    pub attributes: Option<String>,
    /// Whether the content arrives in the parts of a multipart upload, which is listed until it is
    /// complete.
    pub is_multipart: bool,
    /// An unused id for the task that deletes the content of the object that is replaced.
    pub task_id: Uid,
}

impl NewObject {
    /// Bytes charged for the key and the attributes, as a part of the charge for the row of the file.
    pub(crate) fn charge(&self) -> i64 {
        object_bytes(&self.key, self.attributes.as_deref())
    }
}

/// A condition on the object that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectCondition {
    /// There is no object.
    Absent,
    /// The object has this `ETag`, or any if it is `*`. Without quotes.
    Matches(String),
}

impl ObjectCondition {
    pub(super) fn to_column(&self) -> String {
        match self {
            Self::Absent => String::new(),
            Self::Matches(etag) => etag.clone(),
        }
    }

    fn from_column(text: String) -> Self {
        if text.is_empty() { Self::Absent } else { Self::Matches(text) }
    }

    /// Returns why the condition does not hold for the object with this `ETag`; with `None`, if there
    /// is no object.
    pub fn refusal(&self, current: Option<&str>) -> Option<ObjectRefusal> {
        match (self, current) {
            (Self::Absent, None) => None,
            (Self::Matches(etag), Some(current)) if etag == "*" || etag == current => None,
            (Self::Matches(_), None) => Some(ObjectRefusal::NoObject),
            (Self::Absent | Self::Matches(_), Some(_)) => Some(ObjectRefusal::ConditionFailed),
        }
    }
}

/// Why a file cannot become an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectRefusal {
    /// The bucket was deleted.
    NoBucket,
    /// There is no object with the key, and the condition requires one.
    NoObject,
    /// The condition does not hold.
    ConditionFailed,
    /// The key was written after the file had become complete, while the file was processed.
    Superseded,
}

/// A file that is to become an object.
struct PendingObject {
    object: NewObject,
    /// Set when the content is complete.
    etag: Option<String>,
    /// When the upload began or, if the file waits for processing, when the key was written; in
    /// milliseconds since the Unix epoch.
    since: i64,
}

/// The last write of a key that was acknowledged: that of the object, or of a file that waits for
/// processing.
pub(super) struct LastWrite {
    pub(super) etag: String,
    /// In milliseconds since the Unix epoch.
    at: i64,
}

impl LastWrite {
    fn of(object: &object::Model) -> Self {
        Self { etag: object.etag.clone(), at: object.modified_at }
    }
}

/// What becomes of an accepted file that cannot become an object any more.
#[derive(Clone, Copy)]
pub(crate) enum WithoutKey {
    Delete,
    /// It is a file without a key.
    Keep,
}

/// Which of two writes of a key wins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The one that is committed last.
    Commit,
    /// The one that was acknowledged last; this one at this time. The file was processed meanwhile.
    Acknowledgement(i64),
}

/// Binds files to keys. Create it before the transaction, and call
/// [`evict_replaced`](Self::evict_replaced) after it.
#[derive(Clone)]
pub(crate) struct ObjectBinder {
    quotas: Arc<Quotas>,
    recorder: EventRecorder,
    max_task_attempts: u32,
    /// The time of the database's clock, in milliseconds since the Unix epoch.
    now: i64,
    /// Uids of files that were replaced.
    replaced: Arc<Mutex<Vec<i64>>>,
}

/// A complete file that becomes an object.
#[derive(Clone, Copy)]
pub(crate) struct BoundFile<'a> {
    pub(crate) uid: i64,
    pub(crate) tenant: &'a str,
    pub(crate) size: u64,
    /// Without quotes.
    pub(crate) etag: &'a str,
    /// Whether the file is deleted with the object.
    pub(crate) owns_file: bool,
}

impl ObjectBinder {
    pub(crate) fn new(db: &Database, recorder: EventRecorder) -> Self {
        Self {
            quotas: db.quotas.clone(),
            recorder,
            max_task_attempts: db.max_task_attempts,
            now: db.clock.now_ms(),
            replaced: Arc::default(),
        }
    }

    /// Evicts the files that were replaced from the caches of all nodes.
    pub(crate) fn evict_replaced(&self, db: &Database) {
        let replaced = std::mem::take(&mut *self.replaced.lock().unwrap_or_else(PoisonError::into_inner));
        for uid in replaced {
            db.invalidate_everywhere(Invalidation::File(Uid::from_db(uid)));
        }
    }

    /// Binds a file that has become complete. If it must be processed first, decides that it gets the
    /// key afterwards: from now on it counts for the conditions of other writes.
    pub(crate) async fn complete(
        &self,
        transaction: &DatabaseTransaction,
        object: &NewObject,
        file: BoundFile<'_>,
        node_stores: &NodeStores,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        if node_stores.processing.blocking.is_empty() {
            self.bind(transaction, object, file).await
        } else {
            self.wait(transaction, object, file).await
        }
    }

    /// Like [`complete`](Self::complete), for a file whose row says whether it is to become an object.
    /// `etag` is `None` if it is recorded, or unknown.
    pub(crate) async fn complete_upload(
        &self,
        transaction: &DatabaseTransaction,
        file: &file::Model,
        size: u64,
        etag: Option<String>,
        node_stores: &NodeStores,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        let Some(pending) = pending(transaction, file).await? else {
            return Ok(None);
        };
        let etag = etag.or(pending.etag).unwrap_or_else(|| opaque_etag(file.uid));
        let bound = BoundFile { uid: file.uid, tenant: &file.tenant, size, etag: &etag, owns_file: true };
        delete_upload(transaction, file.uid).await?;
        self.complete(transaction, &pending.object, bound, node_stores).await
    }

    /// Records the `ETag` of an upload that the store must complete. Returns why the object that it is
    /// to become cannot be written now.
    pub(crate) async fn begin_completion(
        &self,
        transaction: &DatabaseTransaction,
        file: &file::Model,
        etag: Option<String>,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        let Some(pending) = pending(transaction, file).await? else {
            return Ok(None);
        };
        object_upload::Entity::update_many()
            .col_expr(object_upload::Column::Etag, Expr::value(etag))
            .filter(object_upload::Column::Uid.eq(file.uid))
            .exec(transaction)
            .await?;
        Ok(self.check(transaction, &pending.object, &file.tenant).await?.1)
    }

    /// Decides that a file gets the key when processing accepts it.
    async fn wait(
        &self,
        transaction: &DatabaseTransaction,
        object: &NewObject,
        file: BoundFile<'_>,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        // One after the other, so that each sees the writes before it.
        let bucket = find_bucket(object.bucket_id.get()).filter(bucket::Column::Tenant.eq(file.tenant));
        if bucket.lock_exclusive().into_tuple::<i64>().one(transaction).await?.is_none() {
            return Ok(Some(ObjectRefusal::NoBucket));
        }
        let last = last_write(transaction, object.bucket_id.get(), &object.key).await?;
        let etag = last.as_ref().map(|last| last.etag.as_str());
        if let Some(refusal) = object.condition.as_ref().and_then(|condition| condition.refusal(etag)) {
            return Ok(Some(refusal));
        }
        // The condition is decided. The times of the writes of a key ascend.
        let decided = NewObject { condition: None, is_multipart: false, ..object.clone() };
        let since = last.map_or(self.now, |last| self.now.max(last.at + 1));
        let mut row = upload_row(Uid::from_db(file.uid), &decided, since);
        row.etag = Set(Some(file.etag.to_owned()));
        object_upload::Entity::insert(row).exec_without_returning(transaction).await?;
        Ok(None)
    }

    /// Binds a file that processing has accepted, if it is to become an object.
    pub(crate) async fn bind_accepted(
        &self,
        transaction: &DatabaseTransaction,
        file: &file::Model,
        without_key: WithoutKey,
    ) -> Result<(), DbErr> {
        let Some(PendingObject { object, etag, since }) = pending(transaction, file).await? else {
            return Ok(());
        };
        let etag = etag.unwrap_or_else(|| opaque_etag(file.uid));
        let size = file.charged.unsigned_abs();
        let bound = BoundFile { uid: file.uid, tenant: &file.tenant, size, etag: &etag, owns_file: true };
        delete_upload(transaction, file.uid).await?;
        let order = Order::Acknowledgement(since);
        if self.bind_in_order(transaction, &object, bound, order).await?.is_none() {
            return Ok(());
        }
        match without_key {
            WithoutKey::Keep => self.detach(transaction, file, object.charge()).await,
            WithoutKey::Delete => {
                let transition = FileTransition::delete_with_object();
                self.remove(transaction, file.uid, object.task_id, transition, None).await
            }
        }
    }

    /// Deletes the files that wait for processing to get this key.
    pub(super) async fn cancel_waiting(
        &self,
        transaction: &DatabaseTransaction,
        bucket_id: i64,
        key: &str,
    ) -> Result<(), DbErr> {
        let waiting = waiting(bucket_id).filter(object_upload::Column::ObjectKey.eq(key.as_bytes().to_vec()));
        for row in waiting.all(transaction).await? {
            let task_id = Uid::from_db(row.task_id);
            self.remove(transaction, row.uid, task_id, FileTransition::delete_with_object(), None).await?;
        }
        Ok(())
    }

    /// Gives the key to the file, and deletes the file that had it, if that was created as an object.
    pub(crate) async fn bind(
        &self,
        transaction: &DatabaseTransaction,
        object: &NewObject,
        file: BoundFile<'_>,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        self.bind_in_order(transaction, object, file, Order::Commit).await
    }

    async fn bind_in_order(
        &self,
        transaction: &DatabaseTransaction,
        object: &NewObject,
        file: BoundFile<'_>,
        order: Order,
    ) -> Result<Option<ObjectRefusal>, DbErr> {
        let (current, refusal) = self.check(transaction, object, file.tenant).await?;
        if refusal.is_some() {
            return Ok(refusal);
        }
        let modified_at = match order {
            Order::Commit => self.now,
            Order::Acknowledgement(at) if current.as_ref().is_some_and(|it| it.modified_at >= at) => {
                return Ok(Some(ObjectRefusal::Superseded));
            }
            Order::Acknowledgement(at) => at,
        };
        let Some(current) = current else {
            let row = object::ActiveModel {
                bucket_id: Set(object.bucket_id.get()),
                object_key: Set(object.key.clone().into_bytes()),
                uid: Set(file.uid),
                size: Set(file.size.cast_signed()),
                etag: Set(file.etag.to_owned()),
                modified_at: Set(modified_at),
                attributes: Set(object.attributes.clone()),
                owns_file: Set(i32::from(file.owns_file)),
            };
            object::Entity::insert(row).exec_without_returning(transaction).await?;
            return Ok(None);
        };
        object::Entity::update_many()
            .col_expr(object::Column::Uid, Expr::value(file.uid))
            .col_expr(object::Column::Size, Expr::value(file.size.cast_signed()))
            .col_expr(object::Column::Etag, Expr::value(file.etag))
            .col_expr(object::Column::ModifiedAt, Expr::value(modified_at))
            .col_expr(object::Column::Attributes, Expr::value(object.attributes.clone()))
            .col_expr(object::Column::OwnsFile, Expr::value(i32::from(file.owns_file)))
            .filter(object::Column::BucketId.eq(current.bucket_id))
            .filter(object::Column::ObjectKey.eq(current.object_key.clone()))
            .exec(transaction)
            .await?;
        if current.uid != file.uid {
            self.release(transaction, &current, object.task_id, FileTransition::delete_with_object()).await?;
        }
        Ok(None)
    }

    /// Locks the bucket and the object. Returns the object, and why the key cannot be written.
    async fn check(
        &self,
        transaction: &DatabaseTransaction,
        object: &NewObject,
        tenant: &str,
    ) -> Result<(Option<object::Model>, Option<ObjectRefusal>), DbErr> {
        let bucket = find_bucket(object.bucket_id.get()).filter(bucket::Column::Tenant.eq(tenant));
        if bucket.lock_shared().into_tuple::<i64>().one(transaction).await?.is_none() {
            return Ok((None, Some(ObjectRefusal::NoBucket)));
        }
        let current = find_locked(transaction, object.bucket_id.get(), &object.key).await?;
        let Some(condition) = &object.condition else {
            return Ok((current, None));
        };
        let waiting = last_waiting(transaction, object.bucket_id.get(), &object.key).await?;
        let last = later(waiting, current.as_ref().map(LastWrite::of));
        let refusal = condition.refusal(last.as_ref().map(|last| last.etag.as_str()));
        Ok((current, refusal))
    }

    /// Records that a locked file has no key any more, which was charged with these bytes.
    async fn detach(
        &self,
        transaction: &DatabaseTransaction,
        file: &file::Model,
        charge: i64,
    ) -> Result<(), DbErr> {
        let charge = charge.min(file.record_bytes);
        file::Entity::update_many()
            .col_expr(file::Column::BucketId, Expr::value(None::<i64>))
            .col_expr(file::Column::RecordBytes, Expr::value(file.record_bytes - charge))
            .filter(file::Column::Uid.eq(file.uid))
            .exec(transaction)
            .await?;
        self.quotas.charge(transaction, &file.tenant, -charge).await?;
        Ok(())
    }

    /// Ends the relation of a file to its key: deletes the file if it was created as an object. The
    /// row of the object no longer refers to the file.
    pub(super) async fn release(
        &self,
        transaction: &DatabaseTransaction,
        object: &object::Model,
        task_id: Uid,
        transition: FileTransition,
    ) -> Result<(), DbErr> {
        if object.owns_file != 0 {
            let name = if self.recorder.is_enabled() {
                name_of_key(transaction, object.bucket_id, &object.object_key).await?
            } else {
                None
            };
            return self.remove(transaction, object.uid, task_id, transition, name).await;
        }
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(object.uid);
        let file = file::Entity::find_by_id(object.uid).lock_exclusive().one(transaction).await?;
        let key = super::decode_key(object.object_key.clone());
        let charge = object_bytes(&key, object.attributes.as_deref());
        match file {
            Some(file) => self.detach(transaction, &file, charge).await,
            None => Ok(()),
        }
    }

    /// Removes a file. `task_id` is an unused id for the task that deletes its content, and `name` the
    /// key that the file had, if it no longer has it.
    async fn remove(
        &self,
        transaction: &DatabaseTransaction,
        uid: i64,
        task_id: Uid,
        transition: FileTransition,
        name: Option<ObjectName>,
    ) -> Result<(), DbErr> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(uid);
        let delete_task = TaskSeed { id: task_id, max_attempts: self.max_task_attempts, now: self.now };
        let (transition, name) = (&transition, name.as_ref());
        let context = RemoveContext { transition, delete_task, recorder: &self.recorder, name };
        delete::remove_row(transaction, None, Uid::from_db(uid), context, &self.quotas).await?;
        Ok(())
    }
}

/// Returns the object with this key, locked.
pub(super) async fn find_locked(
    transaction: &DatabaseTransaction,
    bucket_id: i64,
    key: &str,
) -> Result<Option<object::Model>, DbErr> {
    let object = object::Entity::find_by_id((bucket_id, key.as_bytes().to_vec())).lock_exclusive();
    object.one(transaction).await
}

/// Returns why the last write of a key does not meet a condition. No other write of the key is
/// decided until the transaction ends.
pub(super) async fn decide(
    transaction: &DatabaseTransaction,
    bucket_id: i64,
    key: &str,
    condition: &ObjectCondition,
) -> Result<Option<ObjectRefusal>, DbErr> {
    find_bucket(bucket_id).lock_exclusive().into_tuple::<i64>().one(transaction).await?;
    let last = last_write(transaction, bucket_id, key).await?;
    Ok(condition.refusal(last.as_ref().map(|last| last.etag.as_str())))
}

/// The row to lock for writes to a bucket.
fn find_bucket(bucket_id: i64) -> Select<bucket::Entity> {
    bucket::Entity::find_by_id(bucket_id).select_only().column(bucket::Column::Id)
}

/// Complete files that are to become objects of a bucket when they are processed, or released from
/// quarantine.
fn waiting(bucket_id: i64) -> Select<object_upload::Entity> {
    object_upload::Entity::find()
        .filter(object_upload::Column::BucketId.eq(bucket_id))
        .filter(object_upload::Column::IsMultipart.eq(0))
        .filter(object_upload::Column::Etag.is_not_null())
}

/// Like [`waiting`], without files in quarantine.
pub(super) fn in_process(bucket_id: i64) -> Select<object_upload::Entity> {
    waiting(bucket_id)
        .join(
            JoinType::InnerJoin,
            object_upload::Entity::belongs_to(file::Entity)
                .from(object_upload::Column::Uid)
                .to(file::Column::Uid)
                .into(),
        )
        .filter(file::Column::State.eq(FileState::Processing))
}

/// The last write of a key by a file that is processed now.
async fn last_waiting(
    connection: &impl ConnectionTrait,
    bucket_id: i64,
    key: &str,
) -> Result<Option<LastWrite>, DbErr> {
    let last = in_process(bucket_id)
        .select_only()
        .columns([object_upload::Column::Etag, object_upload::Column::CreatedAt])
        .filter(object_upload::Column::ObjectKey.eq(key.as_bytes().to_vec()))
        .order_by_desc(object_upload::Column::CreatedAt)
        .limit(1);
    let last: Option<(String, i64)> = last.into_tuple().one(connection).await?;
    Ok(last.map(|(etag, at)| LastWrite { etag, at }))
}

/// Returns the last acknowledged write of a key; `None` if the key was never written, or was deleted.
pub(super) async fn last_write(
    connection: &impl ConnectionTrait,
    bucket_id: i64,
    key: &str,
) -> Result<Option<LastWrite>, DbErr> {
    // In this order, so that a file that is accepted meanwhile is found.
    let waiting = last_waiting(connection, bucket_id, key).await?;
    let object = object::Entity::find_by_id((bucket_id, key.as_bytes().to_vec())).one(connection).await?;
    Ok(later(waiting, object.as_ref().map(LastWrite::of)))
}

fn later(waiting: Option<LastWrite>, bound: Option<LastWrite>) -> Option<LastWrite> {
    match (waiting, bound) {
        (Some(waiting), Some(bound)) => Some(if waiting.at > bound.at { waiting } else { bound }),
        (waiting, bound) => waiting.or(bound),
    }
}

/// Returns the object that the file is to become.
async fn pending(
    connection: &impl ConnectionTrait,
    file: &file::Model,
) -> Result<Option<PendingObject>, DbErr> {
    if file.bucket_id.is_none() {
        return Ok(None);
    }
    let row = object_upload::Entity::find_by_id(file.uid).one(connection).await?;
    Ok(row.map(|row| {
        let object = NewObject {
            bucket_id: Uid::from_db(row.bucket_id),
            key: super::decode_key(row.object_key),
            condition: row.condition.map(ObjectCondition::from_column),
            attributes: row.attributes,
            is_multipart: row.is_multipart != 0,
            task_id: Uid::from_db(row.task_id),
        };
        PendingObject { object, etag: row.etag, since: row.created_at }
    }))
}

/// Row of a file that is to become an object.
pub(crate) fn upload_row(uid: Uid, object: &NewObject, now: i64) -> object_upload::ActiveModel {
    object_upload::ActiveModel {
        uid: Set(uid.get()),
        bucket_id: Set(object.bucket_id.get()),
        object_key: Set(object.key.clone().into_bytes()),
        condition: Set(object.condition.as_ref().map(ObjectCondition::to_column)),
        attributes: Set(object.attributes.clone()),
        etag: Set(None),
        is_multipart: Set(i32::from(object.is_multipart)),
        task_id: Set(object.task_id.get()),
        created_at: Set(now),
    }
}

/// Removes the key of a file that is deleted, or that will not become an object.
pub(crate) async fn unbind(transaction: &DatabaseTransaction, file: &file::Model) -> Result<(), DbErr> {
    if file.bucket_id.is_none() {
        return Ok(());
    }
    object::Entity::delete_many().filter(object::Column::Uid.eq(file.uid)).exec(transaction).await?;
    delete_upload(transaction, file.uid).await
}

async fn delete_upload(transaction: &DatabaseTransaction, uid: i64) -> Result<(), DbErr> {
    object_upload::Entity::delete_by_id(uid).exec(transaction).await?;
    Ok(())
}

/// The `ETag` of content that was received in one request: its MD5.
pub(crate) fn etag_of(digests: &Digests) -> String {
    digests.md5.map_or_else(|| format!("{}-1", hex::encode(&digests.blake3[..16])), hex::encode)
}

/// An `ETag` for content whose digests are unknown. It has the form of the `ETag` of a multipart
/// upload, so clients do not compare it with an MD5.
pub(crate) fn opaque_etag(uid: i64) -> String {
    format!("{uid:032x}-1")
}
