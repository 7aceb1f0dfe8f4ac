//! Completes an upload in parts: compares the stored parts with the client's announcement and
//! completion request, and makes the file readable. If the store must complete a multipart upload
//! first, returns that upload to the caller.

use std::ops::RangeInclusive;

use osproxy_storage::PartLayout;
use osproxy_types::{content_type, uid::Uid};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{self, Expr},
};

use crate::MetaError;
use crate::{
    CompletePreconditions, EventKind, ExpectedDigests, FileState, Inspection, NodeStores, TaskKind, UploadDb,
    access::quotas::{ChargeOutcome, Quotas},
    blobs::{blake3_tree, encode_digest},
    boxed_future,
    db::{
        dialect,
        entities::{blob, file, part},
        retry::retry_conflicts,
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files, now_ms,
    objects::{
        bind::{ObjectBinder, ObjectRefusal},
        multipart::{multipart_etag, select_parts},
    },
    processing,
    tasks::kind::TaskSeed,
    uploads::{
        inspection::{InspectedUpload, InspectionVerdict, inspect},
        multipart::{self, MultipartUpload},
        parts::{counts_as_received, is_single},
    },
};

/// Maximum attempts to complete an upload if objects with the same key are created meanwhile.
const MAX_ATTEMPTS: u32 = 5;
/// Maximum number of ranges in a list of missing parts.
const MAX_MISSING_RANGES: usize = 1000;

/// The client's request to complete an upload.
#[derive(Clone, Copy, Debug)]
pub struct CompleteRequest {
    /// Number of parts. Defaults to the announced number, or else to the highest number of a stored
    /// part. A number below the announced number is ignored.
    pub parts: Option<u32>,
    /// Total size in bytes. Defaults to the announced size, or else to the total size of the stored
    /// parts.
    pub size: Option<u64>,
    /// Expected digests of the whole content. They take precedence over announced digests.
    pub expected: ExpectedDigests,
}

/// Outcome of completing an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompleteOutcome {
    /// The file is stored and can be read.
    Completed,
    /// The file takes no more parts. The caller lets the store complete this multipart upload, and
    /// then calls [`UploadDb::finish_multipart`].
    Multipart(MultipartUpload),
    /// The file was already complete and matches the request.
    AlreadyCompleted,
    /// The file was already complete and does not match the request.
    AlreadyCompletedMismatch,
    /// The file was already complete. Whether it matches the request is unknown until a digest is
    /// computed.
    AlreadyCompletedUnverified,
    /// This selected part is missing, or has another MD5.
    PartMissing(u32),
    /// This selected part is not the last and is smaller than the minimum.
    PartTooSmall(u32),
    /// The numbers of the stored parts are not exactly 1 to `wanted`.
    PartsMismatch {
        /// How many parts are stored.
        there: u64,
        /// How many parts are expected.
        wanted: u32,
        /// Ranges of missing part numbers; at most the first thousand ranges.
        missing: Vec<RangeInclusive<u32>>,
    },
    /// The total size of the parts differs from the expected size: actual and expected bytes.
    SizeMismatch(u64, u64),
    /// A digest does not match: its name, and the computed value in hexadecimal.
    DigestMismatch(&'static str, String),
    /// The content does not have the MIME type that the upload's links require.
    TypeMismatch {
        /// Required type.
        wanted: String,
        /// Detected type.
        found: String,
    },
    /// The total size of the parts exceeds this limit, in bytes.
    TooLarge(u64),
    /// The caller must read these parts first, then repeat the call with the result.
    NeedsInspection(Inspection),
    /// The content would exceed the tenant's quota.
    OverQuota,
    /// The file cannot become the object that it was created as.
    Refused(ObjectRefusal),
    /// The file is in this state and cannot be completed.
    NotOpen(FileState),
    /// No such uid.
    Unknown,
}

impl UploadDb {
    /// Completes an upload if its stored parts match `request` and `preconditions`. On `Completed`,
    /// also enqueues the task that merges the parts; `task_id` is an unused id for that task. The
    /// number of SQL statements does not depend on the number of parts.
    #[boxed_future]
    pub async fn complete(
        &self,
        uid: Uid,
        request: CompleteRequest,
        preconditions: CompletePreconditions,
        task_id: Uid,
    ) -> Result<CompleteOutcome, MetaError> {
        // An object with the same key may be created at the same moment.
        retry_conflicts(MAX_ATTEMPTS, || self.try_complete(uid, request, preconditions.clone(), task_id))
            .await
    }

    async fn try_complete(
        &self,
        uid: Uid,
        request: CompleteRequest,
        preconditions: CompletePreconditions,
        task_id: Uid,
    ) -> Result<CompleteOutcome, MetaError> {
        let (node_stores, quotas) = (self.db.node_stores.clone(), self.db.quotas.clone());
        let (merge_task, recorder) = (self.db.task_seed(task_id), self.db.event_recorder());
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let completed = self
            .db
            .write_or_rollback(move |transaction| {
                let (node_stores, quotas) = (node_stores.clone(), quotas.clone());
                let (preconditions, recorder) = (preconditions.clone(), recorder.clone());
                let binder = binder.clone();
                Box::pin(async move {
                    let context = CompleteContext {
                        uid,
                        request,
                        preconditions: &preconditions,
                        merge_task,
                        node_stores: &node_stores,
                        recorder: &recorder,
                        binder: &binder,
                    };
                    Ok(match complete(transaction, context, &quotas).await? {
                        started @ (CompleteOutcome::Completed | CompleteOutcome::Multipart(_)) => {
                            TxEnd::Commit(started)
                        }
                        other => TxEnd::Rollback(other),
                    })
                })
            })
            .await;
        evicting.evict_replaced(&self.db);
        completed
    }
}

/// Converts an inspection verdict to an outcome.
pub(crate) fn outcome_of(verdict: InspectionVerdict) -> CompleteOutcome {
    match verdict {
        InspectionVerdict::Passed(_) => CompleteOutcome::Completed,
        InspectionVerdict::NeedsInspection(inspection) => CompleteOutcome::NeedsInspection(inspection),
        InspectionVerdict::DigestMismatch(name, computed) => CompleteOutcome::DigestMismatch(name, computed),
        InspectionVerdict::TypeMismatch { required, detected } => {
            CompleteOutcome::TypeMismatch { wanted: required, found: detected }
        }
    }
}

/// A request to complete an upload.
struct CompleteContext<'a> {
    uid: Uid,
    request: CompleteRequest,
    preconditions: &'a CompletePreconditions,
    merge_task: TaskSeed,
    node_stores: &'a NodeStores,
    recorder: &'a EventRecorder,
    binder: &'a ObjectBinder,
}

async fn complete(
    transaction: &DatabaseTransaction,
    completing: CompleteContext<'_>,
    quotas: &Quotas,
) -> Result<CompleteOutcome, DbErr> {
    let CompleteContext { uid, request, preconditions, merge_task, node_stores, recorder, binder } =
        completing;
    // Lock the row until the end of the transaction, so that concurrent part uploads and a second
    // completion wait.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(file) = file else {
        return Ok(CompleteOutcome::Unknown);
    };
    let blob = match file.blob_id {
        Some(blob_id) => blob::Entity::find_by_id(blob_id).one(transaction).await?,
        None => None,
    };
    let blob = match (file.state, blob) {
        (state, Some(blob)) if state.is_complete() => return Ok(compare_repeated(&file, &blob, &request)),
        (file::State::Receiving | file::State::Completing, Some(blob)) => blob,
        (file::State::Pending | file::State::Receiving, None) => {
            let expected_parts = expected_part_count(&file, &request).unwrap_or(1);
            return Ok(CompleteOutcome::PartsMismatch {
                there: 0,
                wanted: expected_parts,
                missing: missing_ranges(&[], expected_parts),
            });
        }
        (closed, _) => return Ok(CompleteOutcome::NotOpen(closed)),
    };
    let blob_id = blob.id;
    if let Some(refusal) = select_parts(transaction, &file, blob_id, preconditions).await? {
        return Ok(refusal);
    }
    let parts = total_parts(transaction, blob_id).await?;
    let expected_parts = match &preconditions.selection {
        // Their numbers may have gaps.
        Some(selection) => u32::try_from(selection.parts.len()).unwrap_or(u32::MAX),
        None => expected_part_count(&file, &request).unwrap_or(parts.highest.max(1)),
    };
    let has_gaps = preconditions.selection.is_none() && parts.highest != expected_parts;
    if has_gaps || parts.count != u64::from(expected_parts) {
        return parts_mismatch(transaction, blob_id, &parts, expected_parts).await;
    }
    let size = request.size.or(file.announced_size.map(i64::unsigned_abs)).unwrap_or(parts.size);
    if parts.size != size {
        return Ok(CompleteOutcome::SizeMismatch(parts.size, size));
    }
    if let Some(max) = preconditions.max_size.filter(|max| parts.size > *max) {
        return Ok(CompleteOutcome::TooLarge(max));
    }
    let expected = request.expected.or(files::rows::expected_digests(&file));
    if let Some(found) = other_blake3(transaction, &blob, &expected).await? {
        return Ok(CompleteOutcome::DigestMismatch("blake3", hex::encode(found)));
    }
    let multipart_upload = multipart::upload_to_complete(transaction, &blob, node_stores).await?;
    let upload = InspectedUpload { file: &file, blob: &blob, parts: expected_parts, size, expected };
    let sniffed = match inspect(transaction, upload, preconditions).await? {
        InspectionVerdict::Passed(passed) => DetectedType::Known(passed.sniffed),
        // A remote multipart upload cannot be read before the store has completed it. The content
        // of an upload with a part layout is inspected after that on every store.
        InspectionVerdict::NeedsInspection(_) if multipart_upload.is_some() && blob.slot_size.is_none() => {
            DetectedType::Unknown
        }
        verdict => return Ok(outcome_of(verdict)),
    };
    let content = CompletedContent {
        parts: expected_parts,
        size,
        expected,
        received: parts.received,
        node_stores,
        multipart: multipart_upload,
        sniffed,
        required_type: required_type(preconditions, &file),
    };
    let (tenant, charge) = (file.tenant.clone(), size.cast_signed() - file.charged);
    // Before the rows of the parts may be removed.
    let object = CompletedObject::read(transaction, &file, size).await?;
    let outcome = complete_locked(transaction, file, &blob, content, merge_task, recorder).await?;
    if let Some(refusal) = bind(transaction, object, &outcome, node_stores, binder).await? {
        return Ok(CompleteOutcome::Refused(refusal));
    }
    let is_completed = matches!(outcome, CompleteOutcome::Completed | CompleteOutcome::Multipart(_));
    if is_completed && quotas.charge(transaction, &tenant, charge).await? == ChargeOutcome::OverQuota {
        return Ok(CompleteOutcome::OverQuota);
    }
    Ok(outcome)
}

/// The outcome for an upload that does not have the expected number of parts.
async fn parts_mismatch(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    parts: &PartTotals,
    expected_parts: u32,
) -> Result<CompleteOutcome, DbErr> {
    let numbers = stored_numbers(transaction, blob_id).await?;
    Ok(CompleteOutcome::PartsMismatch {
        there: parts.count,
        wanted: expected_parts,
        missing: missing_ranges(&numbers, expected_parts),
    })
}

/// Returns the BLAKE3 that the parts combine to, if it is not the expected one.
async fn other_blake3(
    transaction: &DatabaseTransaction,
    blob: &blob::Model,
    expected: &ExpectedDigests,
) -> Result<Option<[u8; 32]>, DbErr> {
    match expected.blake3 {
        Some(blake3) => {
            let combined = blake3_tree::combined_blake3(transaction, blob).await?;
            Ok(combined.filter(|combined| *combined != blake3))
        }
        None => Ok(None),
    }
}

/// The MIME type that the content must have.
fn required_type(preconditions: &CompletePreconditions, file: &file::Model) -> Option<String> {
    let of_link = preconditions.content_type.clone().filter(|types| is_single(types));
    of_link.or_else(|| file.required_type.clone())
}

/// A completed file that is to become an object.
struct CompletedObject {
    file: file::Model,
    size: u64,
    etag: Option<String>,
}

impl CompletedObject {
    async fn read(
        transaction: &DatabaseTransaction,
        file: &file::Model,
        size: u64,
    ) -> Result<Option<Self>, DbErr> {
        let (Some(_), Some(blob_id)) = (file.bucket_id, file.blob_id) else {
            return Ok(None);
        };
        let etag = multipart_etag(transaction, blob_id).await?;
        Ok(Some(Self { file: file.clone(), size, etag }))
    }
}

/// Gives the key to the file, now or when it is processed. If the store must complete the upload
/// first, checks that the file could have the key.
async fn bind(
    transaction: &DatabaseTransaction,
    object: Option<CompletedObject>,
    outcome: &CompleteOutcome,
    node_stores: &NodeStores,
    binder: &ObjectBinder,
) -> Result<Option<ObjectRefusal>, DbErr> {
    let Some(CompletedObject { file, size, etag }) = object else {
        return Ok(None);
    };
    match outcome {
        CompleteOutcome::Completed => {
            binder.complete_upload(transaction, &file, size, etag, node_stores).await
        }
        CompleteOutcome::Multipart(_) => binder.begin_completion(transaction, &file, etag).await,
        _ => Ok(None),
    }
}

/// The MIME type detected from the first bytes of an upload.
enum DetectedType {
    /// The bytes were read; `None` if they match no known type.
    Known(Option<String>),
    Unknown,
}

/// The values to store when an upload is completed.
struct CompletedContent<'a> {
    parts: u32,
    size: u64,
    expected: ExpectedDigests,
    received: ReceiveSpan,
    node_stores: &'a NodeStores,
    /// The multipart upload that the store must complete first.
    multipart: Option<MultipartUpload>,
    sniffed: DetectedType,
    /// MIME type that the content must have.
    required_type: Option<String>,
}

/// Completes an upload whose parts have been checked. The caller holds the lock on the file's row.
async fn complete_locked(
    transaction: &DatabaseTransaction,
    mut file: file::Model,
    blob: &blob::Model,
    content: CompletedContent<'_>,
    merge_task: TaskSeed,
    recorder: &EventRecorder,
) -> Result<CompleteOutcome, DbErr> {
    let CompletedContent {
        parts,
        size,
        expected,
        received,
        node_stores,
        multipart: multipart_upload,
        sniffed,
        required_type,
    } = content;
    let blob_id = blob.id;
    if let DetectedType::Known(sniffed) = &sniffed
        && file.content_type.is_empty()
    {
        file.content_type = content_type::mime_type_of(sniffed.as_deref(), &file.name);
    }
    let stored_at = now_ms();
    file.stored_at = Some(stored_at);
    let sniffed = match sniffed {
        DetectedType::Known(sniffed) => sniffed,
        DetectedType::Unknown => None,
    };
    let (file_state, blob_state, refs) = match multipart_upload {
        Some(_) => (file::State::Completing, blob::State::Receiving, 0),
        None => (node_stores.processing.completed_state(), blob::State::Stored, 1),
    };
    let stored = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob_state))
        .col_expr(blob::Column::Refs, Expr::value(refs))
        .col_expr(blob::Column::Size, Expr::value(size.cast_signed()))
        .col_expr(blob::Column::ClaimedMd5, Expr::value(encode_digest(expected.md5)))
        .col_expr(blob::Column::ClaimedSha256, Expr::value(encode_digest(expected.sha256)))
        .col_expr(blob::Column::ClaimedBlake3, Expr::value(encode_digest(expected.blake3)))
        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .exec(transaction)
        .await?;
    if stored.rows_affected == 0 {
        return Ok(CompleteOutcome::NotOpen(file.state));
    }
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file_state))
        .col_expr(file::Column::PartCount, Expr::value(parts.cast_signed()))
        .col_expr(file::Column::ContentType, Expr::value(&file.content_type))
        .col_expr(file::Column::RequiredType, Expr::value(required_type))
        .col_expr(file::Column::StoredAt, Expr::value(stored_at))
        .col_expr(file::Column::StoredBy, Expr::value(node_stores.node.as_str()))
        .col_expr(file::Column::ReceivedAs, Expr::value(blob_id))
        .col_expr(file::Column::ReceivedFrom, Expr::value(received.from))
        .col_expr(file::Column::ReceivedUntil, Expr::value(received.until))
        .col_expr(file::Column::ReceivedNodes, Expr::value(received.nodes))
        .col_expr(file::Column::Charged, Expr::value(size.cast_signed()))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    // The sweep removes the bytes of suspended parts, which are not content.
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(counts_as_received())
        .filter(part::Column::State.ne(part::State::Stored))
        .exec(transaction)
        .await?;
    if let Some(multipart_upload) = multipart_upload {
        return Ok(CompleteOutcome::Multipart(multipart_upload));
    }
    merge_task.enqueue(transaction, TaskKind::MergeParts, blob_id, blob.backend.clone()).await?;
    file.state = file_state;
    if file_state == file::State::Stored {
        // No digest of the whole content has been computed yet.
        let content = EventContent { size: Some(size), ..EventContent::default() };
        let completed = FileEvent::new(EventKind::FileCompleted, &file, content);
        recorder.record_files(transaction, [completed]).await?;
    }
    processing::enqueue_first(transaction, node_stores, Uid::from_db(file.uid), blob_id).await?;
    Ok(CompleteOutcome::Completed)
}

/// Returns the numbers of the stored parts of a blob, ascending.
async fn stored_numbers(transaction: &DatabaseTransaction, blob_id: i64) -> Result<Vec<i32>, DbErr> {
    let numbers = part::Entity::find()
        .select_only()
        .column(part::Column::Number)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .order_by_asc(part::Column::Number);
    numbers.into_tuple().all(transaction).await
}

struct PartTotals {
    count: u64,
    highest: u32,
    size: u64,
    received: ReceiveSpan,
}

/// When the parts were received (milliseconds since the Unix epoch), and by how many nodes. Kept in
/// the file's row because the part rows are deleted later.
struct ReceiveSpan {
    from: Option<i64>,
    until: Option<i64>,
    nodes: Option<i32>,
}

/// Count, highest number and total bytes of the stored parts; start of the earliest write; end of
/// the latest write; and number of nodes that received the parts.
type PartTotalsRow = (i64, Option<i32>, Option<i64>, Option<i64>, Option<i64>, i64);

/// Sums up the stored parts of a blob. The numbers of stored parts are unique, so parts 1 to n are
/// all there if both the count and the highest number are n.
async fn total_parts(transaction: &DatabaseTransaction, blob_id: i64) -> Result<PartTotals, DbErr> {
    let totals = part::Entity::find()
        .select_only()
        .column_as(part::Column::Id.count(), "count")
        .column_as(part::Column::Number.max(), "highest")
        .column_as(dialect::integer_sum(transaction.get_database_backend(), part::Column::Size), "size")
        .column_as(part::Column::CreatedAt.min(), "first_start")
        .column_as(part::Column::StoredAt.max(), "last_end")
        .column_as(sea_query::ExprTrait::count_distinct(Expr::col(part::Column::WrittenBy)), "nodes")
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored));
    let totals: Option<PartTotalsRow> = totals.into_tuple().one(transaction).await?;
    let (count, highest, size, from, until, nodes) = totals.unwrap_or_default();
    Ok(PartTotals {
        count: count.unsigned_abs(),
        highest: highest.unwrap_or(0).cast_unsigned(),
        size: size.unwrap_or(0).unsigned_abs(),
        received: ReceiveSpan { from, until, nodes: i32::try_from(nodes).ok().filter(|nodes| *nodes > 0) },
    })
}

/// Compares a file that is already complete with a repeated request.
fn compare_repeated(file: &file::Model, blob: &blob::Model, request: &CompleteRequest) -> CompleteOutcome {
    let is_same_count =
        request.parts.zip(file.part_count).is_none_or(|(parts, count)| count.cast_unsigned() == parts);
    if !is_same_count || request.size.is_some_and(|size| blob.size != size.cast_signed()) {
        return CompleteOutcome::AlreadyCompletedMismatch;
    }
    let md5 = (blob.md5.as_ref().or(blob.claimed_md5.as_ref()), encode_digest(request.expected.md5));
    let sha256 =
        (blob.sha256.as_ref().or(blob.claimed_sha256.as_ref()), encode_digest(request.expected.sha256));
    let blake3 =
        (blob.blake3.as_ref().or(blob.claimed_blake3.as_ref()), encode_digest(request.expected.blake3));
    let (mut is_compared, mut is_unverified) = (false, false);
    for (stored, expected) in [md5, sha256, blake3] {
        let Some(expected) = expected else { continue };
        is_compared = true;
        match stored {
            Some(stored) if *stored != expected => return CompleteOutcome::AlreadyCompletedMismatch,
            Some(_) => {}
            None => is_unverified = true,
        }
    }
    // A file that was not uploaded in parts has no part count. Only a digest can then show that the
    // file matches a request with a part count.
    if !is_compared && file.part_count.is_none() && request.parts.is_some() {
        return CompleteOutcome::AlreadyCompletedMismatch;
    }
    if is_unverified {
        CompleteOutcome::AlreadyCompletedUnverified
    } else {
        CompleteOutcome::AlreadyCompleted
    }
}

/// Returns how many parts the upload must have, if announced or requested. A request cannot lower
/// the announced number, because the object may be preallocated at the announced size.
fn expected_part_count(file: &file::Model, request: &CompleteRequest) -> Option<u32> {
    let announced = files::rows::part_layout(file.announced_size, file.part_size).map(PartLayout::parts);
    request.parts.max(announced.and_then(|parts| u32::try_from(parts).ok()))
}

/// Returns the ranges of numbers from 1 to `count` that are not in `stored`; at most the first
/// `MAX_MISSING_RANGES` of them. `stored` must be sorted.
fn missing_ranges(stored: &[i32], count: u32) -> Vec<RangeInclusive<u32>> {
    let end = count.saturating_add(1);
    let numbers = stored.iter().map(|number| number.cast_unsigned()).take_while(|number| *number <= count);
    let mut next = 1;
    let gaps = numbers.chain([end]).filter_map(|number| {
        let gap = next..=number - 1;
        next = number + 1;
        (!gap.is_empty()).then_some(gap)
    });
    gaps.take(MAX_MISSING_RANGES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_listed_as_ranges() {
        for (numbers, count, expected) in [
            (&[][..], 9_999, &[1..=9_999][..]),
            (&[], 1, &[1..=1]),
            (&[1, 2, 3], 3, &[]),
            (&[1, 2, 3, 4], 3, &[]),
            (&[2, 3, 7], 9, &[1..=1, 4..=6, 8..=9]),
            (&[10], 10, &[1..=9]),
        ] {
            assert_eq!(missing_ranges(numbers, count), expected, "{numbers:?} of {count}");
        }
        let even: Vec<i32> = (1..=5_000).map(|number| 2 * number).collect();
        assert_eq!(missing_ranges(&even, 10_000).len(), MAX_MISSING_RANGES);
    }
}
