//! The blob that collects the parts of a file, and what decides where a part goes.

use osproxy_storage::Shape;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, FromQueryResult,
    QueryFilter, QuerySelect, QueryTrait, sea_query::Expr,
};

use super::{
    BegunPart, FileState, Here, blobs,
    entities::{blob, file, part},
    files,
    native::{self, NativePlace},
};
use crate::uid::Uid;

/// What decides where a part goes.
#[derive(FromQueryResult)]
struct Destination {
    tenant: String,
    name: String,
    state: FileState,
    blob_id: Option<i64>,
    /// The store of the parts before.
    backend: Option<String>,
    /// Another attempt for this number.
    another: Option<i64>,
    announced_size: Option<i64>,
    part_size: Option<i64>,
    received: i64,
}

/// The blob that collects the parts of a file.
pub(super) struct Collecting {
    pub(super) tenant: String,
    pub(super) name: String,
    pub(super) blob_id: i64,
    /// Where it lies.
    pub(super) store: String,
    /// Another attempt for the number of the part.
    pub(super) another: Option<i64>,
    /// How the content is divided, if that was announced.
    pub(super) shape: Option<Shape>,
    /// Bytes of the parts that are there.
    pub(super) received: u64,
}

impl Collecting {
    /// The object that the parts have places in, if they have and it is known how they are divided.
    pub(super) async fn place(
        &self,
        transaction: &DatabaseTransaction,
        here: &Here,
    ) -> Result<Option<NativePlace>, DbErr> {
        let sizes = here.store(&self.store).and_then(|store| store.parts).filter(|sizes| sizes.placed);
        let (Some(shape), Some(sizes)) = (self.shape, sizes) else {
            return Ok(None);
        };
        let size = Ord::min(shape.part_size, shape.size);
        let key = here.whole_key(&self.store, &self.name, self.blob_id);
        let place = native::claim(transaction, key, self.blob_id, 1, size, sizes).await?;
        Ok(place.map(|place| NativePlace { shape: Some(shape), ..place }))
    }
}

/// Finds the blob that collects the parts of a file, which is at hand here, for a part of this number; makes it under
/// `spare`, or the uid's own number, if there is none yet. Else says what becomes of the part.
pub(super) async fn collect(
    transaction: &DatabaseTransaction,
    uid: Uid,
    number: u32,
    spare: i64,
    here: &Here,
) -> Result<Result<Collecting, BegunPart>, DbErr> {
    // Another attempt for this number, if there is one.
    let another = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(Expr::col((part::Entity, part::Column::BlobId)).equals((file::Entity, file::Column::BlobId)))
        .filter(part::Column::Number.eq(number.cast_signed()))
        .limit(1)
        .into_query();
    let found = file::Entity::find_by_id(uid.get())
        .left_join(blob::Entity)
        .select_only()
        .columns([file::Column::Tenant, file::Column::Name, file::Column::State, file::Column::BlobId])
        .columns([file::Column::AnnouncedSize, file::Column::PartSize, file::Column::Received])
        .column(blob::Column::Backend)
        .column_as(Expr::SubQuery(None, Box::new(another.into())), "another");
    let found: Option<Destination> = found.into_model().one(transaction).await?;
    let Some(destination) = found else {
        return Ok(Err(BegunPart::Unknown));
    };
    let Destination { tenant, name, state, blob_id, backend, another, announced_size, part_size, received } =
        destination;
    let shape = files::shape(announced_size, part_size);
    if let (file::State::Receiving, Some(there)) = (state, &backend)
        && here.store(there).is_none()
    {
        return Ok(Err(BegunPart::Elsewhere(there.clone())));
    }
    let store = backend.unwrap_or_else(|| here.for_new().to_owned());
    let known = blob_id;
    if known.is_none() && !begin_receiving(transaction, uid, state).await? {
        return Ok(Err(BegunPart::Changed));
    }
    let blob_id = match (state, blob_id) {
        (file::State::Receiving, Some(blob_id)) => blob_id,
        // An attempt to send it in one piece may have taken the uid's own number.
        (file::State::Receiving, None) => spare,
        (file::State::Pending, _) => uid.get(),
        (closed, _) => return Ok(Err(BegunPart::Closed(closed))),
    };
    if known.is_none() {
        blob::Entity::insert(receiving_blob((blob_id, &tenant), &store, here, shape))
            .exec_without_returning(transaction)
            .await?;
        file::Entity::update_many()
            .col_expr(file::Column::BlobId, Expr::value(blob_id))
            .filter(file::Column::Uid.eq(uid.get()))
            .exec(transaction)
            .await?;
    }
    let received = u64::try_from(received).unwrap_or(0);
    Ok(Ok(Collecting { tenant, name, blob_id, store, another, shape, received }))
}

/// Takes the row of a file in this state for the rest of the transaction. `false`: it is in another one now.
async fn begin_receiving(
    transaction: &DatabaseTransaction,
    uid: Uid,
    state: FileState,
) -> Result<bool, DbErr> {
    let taken = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Receiving))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(state))
        .filter(file::Column::BlobId.is_null())
        .exec(transaction)
        .await?;
    Ok(taken.rows_affected == 1)
}

fn receiving_blob(blob: (i64, &str), store: &str, here: &Here, shape: Option<Shape>) -> blob::ActiveModel {
    blob::ActiveModel {
        state: Set(blob::State::Receiving),
        layout: Set(blob::Layout::Parts),
        size: Set(shape.map_or(0, |shape| shape.size.cast_signed())),
        part_size: Set(shape.map(|shape| shape.part_size.cast_signed())),
        ..blobs::writing_row(blob, store, String::new(), here)
    }
}
