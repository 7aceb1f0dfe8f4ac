//! Uploads in parts that the store itself puts together. The blob that collects the parts names the key of the object to
//! be and the store's upload; a part that the store has in that upload bears the store's tag, all others are objects.
//!
//! What the store is asked to put together is never known before the client says that all parts are there, and the store
//! refuses small parts in the middle. So no part goes into the upload that would make one of them the wrong one: the
//! upload is, at every moment, a list that the store takes.

use osproxy_storage::{Key, Shape};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{CaseStatement, Condition, Expr},
};

use super::{
    Meta, PartSizes, dialect,
    entities::{blob, file, part},
    files::recorded_key,
    quotas::Quotas,
};

/// Highest number of a part that stores know.
const HIGHEST: u32 = 10_000;

/// A place in an upload of the store's.
#[derive(Clone, Debug)]
pub struct NativePlace {
    /// The key of the object that the parts will be.
    pub key: Key,
    /// What the store calls the upload; `None`: it is still to be begun.
    pub upload: Option<String>,
    /// How the content is divided, if that was settled before.
    pub shape: Option<Shape>,
}

/// An upload of the store's that is to be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeUpload {
    /// The blob that its parts are of.
    pub blob_id: i64,
    /// The store.
    pub store: String,
    /// The key of the object to be.
    pub key: Key,
    /// What the store calls the upload.
    pub upload: String,
    /// Numbers and tags of the parts, in their order.
    pub parts: Vec<(u32, String)>,
    /// Bytes of these parts together.
    pub size: u64,
}

/// Which parts the store has lost.
#[derive(Clone, Debug)]
pub enum Lost {
    /// These: the upload goes on.
    Parts(Vec<u32>),
    /// All, with the upload. Another one may be begun.
    Upload,
    /// All: the store does not take them as they are. The client sends them again, as objects.
    Refused,
}

impl Meta {
    /// Records what the store calls the upload of a blob, unless one was recorded before. Says which one counts; `None`:
    /// nothing is collected under this blob any more.
    pub async fn name_upload(&self, blob_id: i64, upload: String) -> Result<Option<String>, DbErr> {
        self.write(move |transaction| {
            let upload = upload.clone();
            Box::pin(async move {
                blob::Entity::update_many()
                    .col_expr(blob::Column::UploadId, Expr::value(upload))
                    .filter(blob::Column::Id.eq(blob_id))
                    .filter(blob::Column::State.eq(blob::State::Receiving))
                    .filter(blob::Column::UploadId.eq(""))
                    .exec(transaction)
                    .await?;
                named(transaction, blob_id).await
            })
        })
        .await
    }

    /// What the store calls the upload of a blob that collects parts, if that is recorded.
    pub async fn named_upload(&self, blob_id: i64) -> Result<Option<String>, DbErr> {
        named(&self.reader, blob_id).await
    }

    /// Forgets parts that the store has not got any more, and lets the client send them again. Nothing happens when the
    /// blob collects under another upload meanwhile.
    pub async fn lose_native_parts(&self, blob_id: i64, upload: String, lost: Lost) -> Result<(), DbErr> {
        let quotas = self.quotas.clone();
        self.write(move |transaction| {
            let (upload, lost, quotas) = (upload.clone(), lost.clone(), quotas.clone());
            Box::pin(async move { lose(transaction, blob_id, &upload, &lost, &quotas).await })
        })
        .await
    }

    /// The same of an upload that a part found gone. Returns `false`, and changes nothing, unless its file takes parts at this
    /// moment: a store that has put the parts together has no upload any more either.
    pub async fn lose_upload_of_parts(&self, blob_id: i64, upload: String) -> Result<bool, DbErr> {
        let quotas = self.quotas.clone();
        self.write(move |transaction| {
            let (upload, quotas) = (upload.clone(), quotas.clone());
            Box::pin(async move {
                let receiving = file::Entity::find()
                    .filter(file::Column::BlobId.eq(blob_id))
                    .filter(file::Column::State.eq(file::State::Receiving))
                    .lock_exclusive();
                let is_receiving = receiving.one(transaction).await?.is_some();
                if !is_receiving || named(transaction, blob_id).await?.as_ref() != Some(&upload) {
                    return Ok(false);
                }
                lose(transaction, blob_id, &upload, &Lost::Upload, &quotas).await?;
                Ok(true)
            })
        })
        .await
    }
}

async fn named(connection: &impl ConnectionTrait, blob_id: i64) -> Result<Option<String>, DbErr> {
    let named = blob::Entity::find_by_id(blob_id)
        .select_only()
        .column(blob::Column::UploadId)
        .filter(blob::Column::State.eq(blob::State::Receiving));
    let named: Option<Option<String>> = named.into_tuple().one(connection).await?;
    Ok(named.flatten().filter(|upload| !upload.is_empty()))
}

async fn lose(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    upload: &str,
    lost: &Lost,
    quotas: &Quotas,
) -> Result<(), DbErr> {
    // The file first, as everybody does.
    let file = file::Entity::find().filter(file::Column::BlobId.eq(blob_id)).lock_exclusive();
    let Some(file) = file.one(transaction).await? else {
        return Ok(());
    };
    let mut forgotten = blob::Entity::update_many()
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(blob::Column::UploadId.eq(upload));
    forgotten = match lost {
        Lost::Parts(_) => forgotten.col_expr(blob::Column::UploadId, Expr::value(upload)),
        Lost::Upload => forgotten
            .col_expr(blob::Column::UploadId, Expr::value(""))
            .col_expr(blob::Column::NativeHighest, Expr::value(None::<i32>))
            .col_expr(blob::Column::NativeSmall, Expr::value(None::<i32>)),
        // No number is below it: nothing goes into an upload any more.
        Lost::Refused => forgotten.col_expr(blob::Column::NativeSmall, Expr::value(0)),
    };
    if forgotten.exec(transaction).await?.rows_affected == 0 {
        return Ok(());
    }
    // There is no object of theirs to remove.
    let mut parts = part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Gone))
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Tag.is_not_null())
        .filter(part::Column::State.is_in([part::State::Writing, part::State::Stored]));
    if let Lost::Parts(numbers) = lost {
        let numbers = numbers.iter().map(|number| number.cast_signed());
        parts = parts.filter(part::Column::Number.is_in(numbers));
    }
    parts.exec(transaction).await?;
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Receiving))
        .filter(file::Column::BlobId.eq(blob_id))
        .filter(file::Column::State.eq(file::State::Completing))
        .exec(transaction)
        .await?;
    let received = received(transaction, blob_id).await?;
    let charged = if file.announced_size.is_some() { file.charged } else { received };
    file::Entity::update_many()
        .col_expr(file::Column::Received, Expr::value(received))
        .col_expr(file::Column::Charged, Expr::value(charged))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    quotas.charge(transaction, &file.tenant, charged - file.charged).await?;
    Ok(())
}

/// Bytes of the parts of a blob that count.
async fn received(transaction: &DatabaseTransaction, blob_id: i64) -> Result<i64, DbErr> {
    let sum = part::Entity::find()
        .select_only()
        .column_as(dialect::whole_sum(transaction.get_database_backend(), part::Column::Size), "sum")
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored));
    let sum: Option<Option<i64>> = sum.into_tuple().one(transaction).await?;
    Ok(sum.flatten().unwrap_or(0))
}

/// Takes a place for a part of `size` bytes in the upload of a blob that collects parts, which is begun under `key` if none
/// was. `None`: it must be an object.
pub(super) async fn claim(
    transaction: &DatabaseTransaction,
    key: Key,
    blob_id: i64,
    number: u32,
    size: u64,
    sizes: PartSizes,
) -> Result<Option<NativePlace>, DbErr> {
    if number > HIGHEST || size == 0 || size > sizes.max {
        return Ok(None);
    }
    let (n, is_small) = (number.cast_signed(), size < sizes.min);
    let highest = CaseStatement::new()
        .case(Condition::all().add(blob::Column::NativeHighest.gt(n)), Expr::col(blob::Column::NativeHighest))
        .finally(n);
    let unnamed = CaseStatement::new()
        .case(Condition::all().add(blob::Column::UploadId.is_null()), "")
        .finally(Expr::col(blob::Column::UploadId));
    // The file may have been renamed since the first part came: the object keeps the key that it was begun under.
    let named = CaseStatement::new()
        .case(Condition::all().add(blob::Column::ObjectKey.eq("")), key.as_str())
        .finally(Expr::col(blob::Column::ObjectKey));
    // A small part is the last one, and nothing comes behind it.
    let no_small_before =
        Condition::any().add(blob::Column::NativeSmall.is_null()).add(blob::Column::NativeSmall.gte(n));
    let mut claimed = blob::Entity::update_many()
        .col_expr(blob::Column::NativeHighest, highest.into())
        .col_expr(blob::Column::UploadId, unnamed.into())
        .col_expr(blob::Column::ObjectKey, named.into())
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(no_small_before);
    if is_small {
        let none_behind = Condition::any()
            .add(blob::Column::NativeHighest.is_null())
            .add(blob::Column::NativeHighest.lte(n));
        claimed = claimed.col_expr(blob::Column::NativeSmall, Expr::value(n)).filter(none_behind);
    }
    if claimed.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    // The row is taken until the end. Two that are sent at the same time must not meet under one number of the store's, and
    // what counts stays until something else does.
    let another = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(n))
        .filter(part::Column::State.is_in([part::State::Writing, part::State::Stored]));
    if another.into_tuple::<i64>().one(transaction).await?.is_some() {
        return Ok(None);
    }
    let place = blob::Entity::find_by_id(blob_id)
        .select_only()
        .columns([blob::Column::ObjectKey, blob::Column::UploadId]);
    let place: Option<(String, Option<String>)> = place.into_tuple().one(transaction).await?;
    let Some((key, upload)) = place else {
        return Ok(None);
    };
    let key = recorded_key(&key)?;
    let upload = upload.filter(|upload| !upload.is_empty());
    Ok(Some(NativePlace { key, upload, shape: None }))
}

/// What the store has to put together of a blob that is complete; `None`: nothing.
pub(super) async fn upload_of(
    connection: &impl ConnectionTrait,
    blob: &blob::Model,
) -> Result<Option<NativeUpload>, DbErr> {
    let Some(upload) = blob.upload_id.as_ref().filter(|upload| !upload.is_empty()) else {
        return Ok(None);
    };
    let rows = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob.id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Tag.is_not_null())
        .order_by_asc(part::Column::Number)
        .all(connection)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let size = rows.iter().map(|part| part.size.unsigned_abs()).sum();
    let tagged = |part: part::Model| (part.number.cast_unsigned(), part.tag.unwrap_or_default());
    Ok(Some(NativeUpload {
        blob_id: blob.id,
        store: blob.backend.clone(),
        key: recorded_key(&blob.object_key)?,
        upload: upload.clone(),
        parts: rows.into_iter().map(tagged).collect(),
        size,
    }))
}
