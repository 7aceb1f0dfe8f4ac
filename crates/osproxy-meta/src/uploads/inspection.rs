//! Inspection of an upload before its file becomes readable. Does the content have the MIME type
//! that the links require, and the digests that the client expects? If the part rows do not contain
//! the answer, the caller must read the parts first.

use std::{fmt, sync::Arc};

use osproxy_storage::{DigestSelection, Digests};
use osproxy_types::content_type::{self, HEAD};
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    ExpectedDigests, PartSelection,
    blobs::blake3_tree,
    db::entities::{blob, file, part},
};

/// Conditions that the content of an upload must satisfy, besides those in the client's completion
/// request.
#[derive(Clone, Debug, Default)]
pub struct CompletePreconditions {
    /// Maximum size in bytes, from the link.
    pub max_size: Option<u64>,
    /// Required MIME type, or a family such as `image/*`, from the link.
    pub content_type: Option<String>,
    /// Maximum size, in bytes, of content whose expected digests are verified before completion.
    /// For larger content, a task verifies them later.
    pub max_inline_verification_size: u64,
    /// Result of the [`Inspection`] that an earlier attempt to complete the upload requested;
    /// `None` on the first attempt.
    pub inspected: Option<InspectionResult>,
    /// For an object, the parts that become its content.
    pub selection: Option<Arc<PartSelection>>,
}

/// Parts to read before an upload can be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The blob that the parts belong to.
    pub blob_id: i64,
    /// Name of the store that holds the parts.
    pub store: String,
    /// How many parts the content has, from the first. The blob may have others.
    pub parts: u32,
    /// Whether to detect the MIME type from the first bytes of the content. Needed if the first
    /// part alone is too short.
    pub needs_first_bytes: bool,
    /// Digests to compute over the whole content; `None` if no digest is needed.
    pub digests: Option<DigestSelection>,
}

/// The result of reading the parts of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectionResult {
    /// Row ids of the parts that were read, ordered by part number.
    pub part_ids: Vec<i64>,
    /// MIME type detected from the first bytes.
    pub detected_type: Option<&'static str>,
    /// Digests of the whole content, if all parts were read.
    pub digests: Option<Digests>,
}

/// An upload whose parts are all stored.
pub(crate) struct InspectedUpload<'a> {
    pub(crate) file: &'a file::Model,
    pub(crate) blob: &'a blob::Model,
    /// Number of parts.
    pub(crate) parts: u32,
    /// Total size in bytes.
    pub(crate) size: u64,
    /// Expected digests.
    pub(crate) expected: ExpectedDigests,
}

/// Verdict of an inspection.
pub(crate) enum InspectionVerdict {
    /// The content is accepted.
    Passed(PassedInspection),
    /// These parts must be read first.
    NeedsInspection(Inspection),
    /// A digest does not match: its name, and the computed value in hexadecimal.
    DigestMismatch(&'static str, String),
    /// The content does not have the MIME type that the upload's links require.
    TypeMismatch { required: String, detected: String },
}

impl fmt::Display for InspectionVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(_) => f.write_str("the content is accepted"),
            Self::NeedsInspection(_) => f.write_str("the content is not inspected yet"),
            Self::DigestMismatch(name, computed) => write!(f, "the {name} of the content is {computed}"),
            Self::TypeMismatch { required, detected } => {
                write!(f, "the content is {detected}, not {required}")
            }
        }
    }
}

/// What an inspection that passed has found out.
pub(crate) struct PassedInspection {
    /// MIME type detected from the first bytes, if any.
    pub(crate) sniffed: Option<String>,
    /// Digests of the whole content, if it had to be read.
    pub(crate) digests: Option<Digests>,
}

/// Inspects an upload. Ignores an earlier result of reading parts if any of those parts has been
/// replaced since then.
pub(crate) async fn inspect(
    transaction: &DatabaseTransaction,
    upload: InspectedUpload<'_>,
    preconditions: &CompletePreconditions,
) -> Result<InspectionVerdict, DbErr> {
    let InspectedUpload { file, blob, parts, size, expected } = upload;
    let first = part::Entity::find()
        .select_only()
        .columns([part::Column::Size, part::Column::Sniffed])
        .filter(part::Column::BlobId.eq(blob.id))
        .filter(part::Column::Number.eq(1))
        .filter(part::Column::State.eq(part::State::Stored));
    let first: Option<(i64, Option<String>)> = first.into_tuple().one(transaction).await?;
    let (first_size, mut sniffed) = first.unwrap_or_default();
    let needs_first_bytes = parts > 1 && first_size.unsigned_abs() < HEAD as u64;
    let is_unverified = preconditions.max_inline_verification_size > 0
        && size <= preconditions.max_inline_verification_size
        && (expected.need_full_read()
            || expected.blake3.is_some() && blake3_tree::combined_blake3(transaction, blob).await?.is_none());
    let digests = is_unverified.then(|| expected.selection());
    let mut computed_digests = None;
    if needs_first_bytes || digests.is_some() {
        let inspection =
            Inspection { blob_id: blob.id, store: blob.backend.clone(), parts, needs_first_bytes, digests };
        let Some(inspected) = &preconditions.inspected else {
            return Ok(InspectionVerdict::NeedsInspection(inspection));
        };
        let is_complete = digests.is_none()
            || inspected.digests.is_some() && inspected.part_ids.len() as u64 == u64::from(parts);
        if !is_complete || !are_current_parts(transaction, blob.id, &inspected.part_ids).await? {
            return Ok(InspectionVerdict::NeedsInspection(inspection));
        }
        if let Some((name, computed)) =
            inspected.digests.as_ref().and_then(|digests| expected.first_mismatch(digests))
        {
            return Ok(InspectionVerdict::DigestMismatch(name, computed));
        }
        if needs_first_bytes {
            sniffed = inspected.detected_type.map(str::to_owned);
        }
        computed_digests = inspected.digests.filter(|_| digests.is_some());
    }
    let detected = content_type::mime_type_of(sniffed.as_deref(), &file.name);
    let required = [&file.required_type, &file.required_types, &preconditions.content_type];
    for required in required.into_iter().flatten() {
        if !content_type::matches_pattern(required, &detected) {
            return Ok(InspectionVerdict::TypeMismatch { required: required.clone(), detected });
        }
    }
    Ok(InspectionVerdict::Passed(PassedInspection { sniffed, digests: computed_digests }))
}

/// Whether `part_ids` are the row ids of the first stored parts of the blob, ordered by number.
async fn are_current_parts(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    part_ids: &[i64],
) -> Result<bool, DbErr> {
    let ids = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .order_by_asc(part::Column::Number)
        .limit(part_ids.len() as u64);
    let ids: Vec<i64> = ids.into_tuple().all(transaction).await?;
    Ok(ids == part_ids)
}
