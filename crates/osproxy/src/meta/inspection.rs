//! What must hold of the bytes of an upload before it is complete: the type that its links demand, and digests that the
//! client claims. Where the rows of the parts do not tell, the parts have to be read first.

use osproxy_storage::{Digests, Wanted};
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{
    Claims,
    entities::{blob, file, part},
    pieces,
};
use crate::content_type::{self, HEAD};

/// What the completion of an upload is held to, beside what the client says.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Largest content, in bytes, if the link says so.
    pub max_size: Option<u64>,
    /// MIME type of the content, or a family such as `image/*`, if the link says so.
    pub content_type: Option<String>,
    /// The claimed digests of content up to so many bytes are verified first.
    pub verify_up_to: u64,
    /// What reading the parts has shown.
    pub inspected: Option<Inspected>,
}

/// Parts that have to be read before their upload is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The blob that the parts are of.
    pub blob_id: i64,
    /// The store that they lie in.
    pub store: String,
    /// The first part is too short to tell the type of the content.
    pub head: bool,
    /// Digests of the whole content that have to be known.
    pub digests: Option<Wanted>,
}

/// What reading the parts of an upload has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Numbers of the attempts that sent the parts that were read, in the order of the parts.
    pub attempts: Vec<i64>,
    /// MIME type that the first bytes of the content speak of.
    pub sniffed: Option<&'static str>,
    /// Digests of the whole content, if it was read.
    pub digests: Option<Digests>,
}

/// An upload whose parts are all there.
pub(super) struct Subject<'a> {
    pub(super) file: &'a file::Model,
    pub(super) blob: &'a blob::Model,
    /// How many parts there are.
    pub(super) parts: u32,
    /// Bytes of all of them.
    pub(super) size: u64,
    /// What is said that the digests are.
    pub(super) claims: Claims,
}

/// Whether an upload is what it must be.
pub(super) enum Judgement {
    /// It is. The MIME type that its first bytes speak of.
    Passed(Option<String>),
    /// These parts have to be read first.
    Inspect(Inspection),
    /// This digest is another one.
    Digest(&'static str, String),
    /// The content has another type than the links of the upload demand.
    Type { wanted: String, found: String },
}

/// Judges an upload. What was read counts only if the same attempts still are its parts.
pub(super) async fn judge(
    transaction: &DatabaseTransaction,
    subject: Subject<'_>,
    conditions: &Conditions,
) -> Result<Judgement, DbErr> {
    let Subject { file, blob, parts, size, claims } = subject;
    let first = part::Entity::find()
        .select_only()
        .columns([part::Column::Size, part::Column::Sniffed])
        .filter(part::Column::BlobId.eq(blob.id))
        .filter(part::Column::Number.eq(1))
        .filter(part::Column::State.eq(part::State::Stored));
    let first: Option<(i64, Option<String>)> = first.into_tuple().one(transaction).await?;
    let (first_size, mut sniffed) = first.unwrap_or_default();
    let head = parts > 1 && first_size.unsigned_abs() < HEAD as u64;
    let is_unverified = conditions.verify_up_to > 0
        && size <= conditions.verify_up_to
        && (claims.need_reading()
            || claims.blake3.is_some() && pieces::combined(transaction, blob).await?.is_none());
    let digests = is_unverified.then(|| claims.wanted());
    if head || digests.is_some() {
        let inspection = Inspection { blob_id: blob.id, store: blob.backend.clone(), head, digests };
        let Some(inspected) = &conditions.inspected else {
            return Ok(Judgement::Inspect(inspection));
        };
        let is_enough = digests.is_none()
            || inspected.digests.is_some() && inspected.attempts.len() as u64 == u64::from(parts);
        if !is_enough || !are_parts(transaction, blob.id, &inspected.attempts).await? {
            return Ok(Judgement::Inspect(inspection));
        }
        if let Some((name, found)) = inspected.digests.as_ref().and_then(|digests| claims.refuted_by(digests))
        {
            return Ok(Judgement::Digest(name, found));
        }
        if head {
            sniffed = inspected.sniffed.map(str::to_owned);
        }
    }
    let found = content_type::of_file(sniffed.as_deref(), &file.name);
    for wanted in [&file.required_type, &conditions.content_type].into_iter().flatten() {
        if !content_type::fits(wanted, &found) {
            return Ok(Judgement::Type { wanted: wanted.clone(), found });
        }
    }
    Ok(Judgement::Passed(sniffed))
}

/// Whether these attempts sent the first parts of a blob, in their order.
async fn are_parts(transaction: &DatabaseTransaction, blob_id: i64, attempts: &[i64]) -> Result<bool, DbErr> {
    let ids = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .order_by_asc(part::Column::Number)
        .limit(attempts.len() as u64);
    let ids: Vec<i64> = ids.into_tuple().all(transaction).await?;
    Ok(ids == attempts)
}
