use osproxy_storage::{Digests, Key};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr, sea_query::Expr,
};

use super::{
    Blob, Change, Claims, FileState, Here, Meta,
    blobs::{self, to_record},
    entities::{blob, file, part},
    files::{claims, is_blob},
    now_ms,
    quotas::Quotas,
    tasks::{self, TaskForBlob},
    write_queue::Verdict,
};
use crate::{tenant::Tenant, uid::Uid};

/// An object that may be written now: its row is committed.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Number of the blob to be.
    pub blob_id: i64,
    /// The store to write to.
    pub store: String,
    /// Where to write there; no other attempt writes there.
    pub key: Key,
    /// The file's owner.
    pub tenant: Tenant,
    /// The file's name.
    pub name: String,
    /// How many bytes are to come, if that was announced.
    pub size: Option<u64>,
    /// The MIME type, if that was announced.
    pub content_type: Option<String>,
    /// What was said that the digests are.
    pub claims: Claims,
    /// The room that was kept for parts of this content, if it was.
    pub released: Option<Released>,
}

/// A blob that was to collect parts and has none, because its content comes in one piece: it is condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is at hand: the room is to be freed before the content comes.
    Here(i64),
    /// A task frees it where it lies.
    Elsewhere,
}

/// What became of the wish to send content.
#[derive(Clone, Debug)]
pub enum Begun {
    /// Go on.
    Ready(Box<Intent>),
    /// The file has its content already.
    Stored,
    /// The file takes no content: it is in this state.
    Closed(FileState),
    /// No such uid.
    Unknown,
}

/// What became of content that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The file has it now.
    Stored,
    /// Another attempt was first; the file has what that one sent.
    Beaten,
    /// The blob with the same content is no longer there, or a blob with the same content appeared.
    Changed,
    /// The intent was swept away: the attempt took too long to finish.
    Swept,
    /// The tenant's quota has not so much left.
    OverQuota,
}

impl Meta {
    /// Begins an attempt to send the content of `uid` in one piece. Records what will be written: the first attempt
    /// under the uid's own number, every later one under `spare`, so that no key is ever written twice. Where another node
    /// keeps room for its parts, `removal` is enqueued, which gets the number of that blob.
    pub async fn begin_upload(&self, uid: Uid, spare: Uid, removal: TaskForBlob) -> Result<Begun, DbErr> {
        let (here, now) = (self.here.clone(), self.clock.now_ms());
        self.write(move |transaction| {
            let (here, removal) = (here.clone(), removal.clone());
            Box::pin(async move { begin(transaction, uid, spare, &here, (&removal, now)).await })
        })
        .await
    }

    /// Makes the object of an intent, published and durable, the content of `uid`, which is a tenant's.
    pub async fn finish_upload(
        &self,
        (uid, tenant): (Uid, Tenant),
        intent_id: i64,
        digests: Digests,
        sniffed: Option<&'static str>,
        content_type: String,
    ) -> Result<Finished, DbErr> {
        let (here, quotas) = (self.here.clone(), self.quotas.clone());
        let finished = self
            .write_or_undo(move |transaction| {
                let (content_type, here) = (content_type.clone(), here.clone());
                let (tenant, quotas) = (tenant.clone(), quotas.clone());
                Box::pin(async move {
                    let stored = blob::Entity::update_many()
                        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
                        .col_expr(blob::Column::Refs, Expr::value(1))
                        .col_expr(blob::Column::Size, Expr::value(digests.size.cast_signed()))
                        .col_expr(blob::Column::Md5, Expr::value(to_record(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(to_record(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
                        .filter(blob::Column::Id.eq(intent_id))
                        .filter(blob::Column::State.eq(blob::State::Writing))
                        .exec(transaction)
                        .await?;
                    if stored.rows_affected == 0 {
                        return Ok(Verdict::Rollback(Finished::Swept));
                    }
                    let content =
                        Taken { blob_id: intent_id, size: digests.size, content_type: &content_type };
                    store_file(transaction, (uid, &tenant), content, &here.node, &quotas).await
                })
            })
            .await;
        match finished {
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Ok(Finished::Changed)
            }
            finished => finished,
        }
    }

    /// Gives a blob whose object was lost or damaged the object of `intent_id`, published and durable, with the same
    /// content. The intent then names what is left of the damaged one, to be removed.
    /// `Changed`: the blob is gone, or was mended by another.
    pub async fn mend_blob(&self, damaged: &Blob, intent_id: i64) -> Result<Finished, DbErr> {
        let (id, place) = (damaged.id, (damaged.backend.clone(), damaged.key.to_string()));
        let mending =
            self.write_or_undo(move |transaction| Box::pin(mend(transaction, id, place.clone(), intent_id)));
        let mended = mending.await?;
        self.changed(Change::Blob(id));
        Ok(mended)
    }

    /// Makes a blob that is stored already, and has these digests, the content of `uid`, which is a tenant's. With `unpublished`, the number of an intent
    /// whose object was never published, forgets that intent.
    pub async fn share_blob(
        &self,
        (uid, tenant): (Uid, Tenant),
        (blob_id, digests): (i64, Digests),
        unpublished: Option<i64>,
        content_type: String,
    ) -> Result<Finished, DbErr> {
        let (here, quotas) = (self.here.clone(), self.quotas.clone());
        self.write_or_undo(move |transaction| {
            let (content_type, here) = (content_type.clone(), here.clone());
            let (tenant, quotas) = (tenant.clone(), quotas.clone());
            Box::pin(async move {
                if !blobs::take_references(transaction, blob_id, 1, Some(&digests)).await? {
                    return Ok(Verdict::Rollback(Finished::Changed));
                }
                if let Some(intent_id) = unpublished {
                    blob::Entity::delete_many()
                        .filter(blob::Column::Id.eq(intent_id))
                        .filter(blob::Column::State.eq(blob::State::Writing))
                        .exec(transaction)
                        .await?;
                }
                let content = Taken { blob_id, size: digests.size, content_type: &content_type };
                store_file(transaction, (uid, &tenant), content, &here.node, &quotas).await
            })
        })
        .await
    }
}

async fn begin(
    transaction: &DatabaseTransaction,
    uid: Uid,
    spare: Uid,
    here: &Here,
    (removal, now): (&TaskForBlob, i64),
) -> Result<Begun, DbErr> {
    let Some(file) = file::Entity::find_by_id(uid.get()).one(transaction).await? else {
        return Ok(Begun::Unknown);
    };
    let blob_id = match file.state {
        file::State::Stored => return Ok(Begun::Stored),
        file::State::Pending => {
            let first = file::Entity::update_many()
                .col_expr(file::Column::State, Expr::value(file::State::Receiving))
                .filter(file::Column::Uid.eq(uid.get()))
                .filter(file::Column::State.eq(file::State::Pending))
                .exec(transaction)
                .await?;
            // Through another node somebody may have begun at the same moment.
            if first.rows_affected == 1 { uid.get() } else { spare.get() }
        }
        file::State::Receiving => spare.get(),
        closed => return Ok(Begun::Closed(closed)),
    };
    let released = match release(transaction, &file).await? {
        Some((blob_id, store)) if here.store(&store).is_none() => {
            tasks::enqueue(transaction, removal(blob_id), Some(store), now).await?;
            Some(Released::Elsewhere)
        }
        released => released.map(|(blob_id, _)| Released::Here(blob_id)),
    };
    let store = here.for_new();
    let key = here.whole_key(store, &file.name, blob_id);
    let row = blobs::writing_row((blob_id, &file.tenant), store, key.to_string(), here);
    blob::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(Begun::Ready(Box::new(Intent {
        blob_id,
        store: store.to_owned(),
        key,
        size: file.announced_size.and_then(|size| u64::try_from(size).ok()),
        claims: claims(&file),
        content_type: Some(file.content_type).filter(|announced| !announced.is_empty()),
        tenant: Tenant::from_recorded(&file.tenant),
        name: file.name,
        released,
    })))
}

/// Condemns a blob that keeps room for the parts of a file and has none, because the content comes in one piece. Gives its
/// number and store.
pub(super) async fn release(
    transaction: &DatabaseTransaction,
    file: &file::Model,
) -> Result<Option<(i64, String)>, DbErr> {
    let Some(blob_id) = file.blob_id else {
        return Ok(None);
    };
    let attempt = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.is_in([part::State::Writing, part::State::Stored]))
        .limit(1);
    let is_empty = attempt.into_tuple::<i64>().one(transaction).await?.is_none();
    if !is_empty {
        return Ok(None);
    }
    // A part that is begun at this moment has taken the row, or finds the blob gone.
    let condemned = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(blob::Column::PartSize.is_not_null())
        .exec(transaction)
        .await?;
    if condemned.rows_affected == 0 {
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

async fn mend(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    (damaged_store, damaged_key): (String, String),
    intent_id: i64,
) -> Result<Verdict<Finished>, DbErr> {
    let Some(intent) = blob::Entity::find_by_id(intent_id).one(transaction).await? else {
        return Ok(Verdict::Rollback(Finished::Swept));
    };
    let mended = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(intent.object_key))
        .col_expr(blob::Column::Backend, Expr::value(intent.backend))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::ObjectKey.eq(&damaged_key))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    if mended.rows_affected == 0 {
        return Ok(Verdict::Rollback(Finished::Changed));
    }
    let exchanged = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(damaged_key))
        .col_expr(blob::Column::Backend, Expr::value(damaged_store))
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        .filter(blob::Column::Id.eq(intent_id))
        .filter(blob::Column::State.eq(blob::State::Writing))
        .exec(transaction)
        .await?;
    if exchanged.rows_affected == 0 {
        return Ok(Verdict::Rollback(Finished::Swept));
    }
    Ok(Verdict::Commit(Finished::Stored))
}

/// What becomes the content of a file.
#[derive(Clone, Copy)]
struct Taken<'a> {
    blob_id: i64,
    size: u64,
    content_type: &'a str,
}

/// The step that decides which of several attempts wins.
async fn store_file(
    transaction: &DatabaseTransaction,
    (uid, tenant): (Uid, &Tenant),
    content: Taken<'_>,
    node: &str,
    quotas: &Quotas,
) -> Result<Verdict<Finished>, DbErr> {
    let charged = quotas.charged(transaction, tenant.as_str(), uid).await?;
    if !take_file(transaction, uid, None, content, node).await? {
        // Parts may have arrived beside it.
        let collecting = file::Entity::find_by_id(uid.get()).select_only().column(file::Column::BlobId);
        let collecting: Option<Option<i64>> = collecting.into_tuple().one(transaction).await?;
        let Some(collecting) = collecting.flatten() else {
            return Ok(Verdict::Rollback(Finished::Beaten));
        };
        if !take_file(transaction, uid, Some(collecting), content, node).await? {
            return Ok(Verdict::Rollback(Finished::Beaten));
        }
        // They are of no use any more; the sweep takes them.
        blob::Entity::update_many()
            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
            .filter(blob::Column::Id.eq(collecting))
            .filter(blob::Column::State.eq(blob::State::Receiving))
            .exec(transaction)
            .await?;
    }
    let charge = content.size.cast_signed() - charged;
    let charged = quotas.charge(transaction, tenant.as_str(), charge).await?;
    Ok(charged.commit_or(Finished::Stored, Finished::OverQuota))
}

/// Gives a file that is not complete its content. `false`: it is, or it names another blob than `before`.
async fn take_file(
    transaction: &DatabaseTransaction,
    uid: Uid,
    before: Option<i64>,
    Taken { blob_id, size, content_type }: Taken<'_>,
    node: &str,
) -> Result<bool, DbErr> {
    let stored = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Stored))
        .col_expr(file::Column::BlobId, Expr::value(blob_id))
        .col_expr(file::Column::ContentType, Expr::value(content_type))
        .col_expr(file::Column::StoredAt, Expr::value(now_ms()))
        .col_expr(file::Column::StoredBy, Expr::value(node))
        .col_expr(file::Column::ReceivedAs, Expr::value(blob_id))
        .col_expr(file::Column::Charged, Expr::value(size.cast_signed()))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(file::State::Receiving))
        .filter(is_blob(before))
        .exec(transaction)
        .await?;
    Ok(stored.rows_affected == 1)
}
