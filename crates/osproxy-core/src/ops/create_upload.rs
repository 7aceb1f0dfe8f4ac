//! Create upload sessions.

use std::{sync::Arc, time::Duration};

use osproxy_api::ErrorCode;
use osproxy_storage::PartLayout;
use osproxy_types::error_chain;
use time::OffsetDateTime;

pub use super::prove_possession::PossessionChallenge;
pub use osproxy_meta::{AnnouncedContent, ExpectedDigests, FileMetadata};

use super::{
    UploadOps, abort_upload::abort_upload, check_content_type, check_expire, delete_file::delete_file,
    file_name, prove_possession::create_challenge, too_large_error,
};
use crate::{
    Caller, Error, HeldIdempotencyKey, Result,
    auth::{GrantTerms, upload_grant::grant_error},
    boxed_future, check_metadata,
    metadata::check_partial_metadata,
    metrics::DedupSource,
};
use osproxy_meta::{
    Blob, CreateOutcome, FileGrant, FileState, GrantRefusal, KnownContent, NewFile, NewUpload,
};
use osproxy_types::{content_type, uid::Uid};

/// Default part size in bytes, for content of up to [`DEFAULT_MAX_PARTS`] parts. A part of this
/// size takes about a second on a slow line, and no store rejects it as too small.
pub(crate) const DEFAULT_PART_SIZE: u64 = 8 << 20;
/// Content that would need more than this many parts of [`DEFAULT_PART_SIZE`] gets larger parts by
/// default, within the limits.
const DEFAULT_MAX_PARTS: u64 = 1000;
/// Minimum part size that a client may request, in bytes.
const MIN_PART_SIZE: u64 = 64 << 10;
/// Maximum attempts to create an upload for one idempotency key. An attempt fails if an earlier
/// request with the key has undone its upload.
const MAX_TRIES: usize = 3;
/// Maximum length of a MIME type, in bytes.
const MAX_MIME_LEN: usize = 255;

/// What a client asks for when it creates an upload session.
#[derive(Clone, Debug)]
pub struct UploadRequest {
    /// Path on the client; the last component becomes the name.
    pub path: String,
    /// What the client announces. A part size requires a size, must be a power of two, and must be
    /// within the limits. With a size and no part size, osproxy chooses the part size.
    pub announced: AnnouncedContent,
    /// Whether the bytes arrive in order, in requests of any size. Then osproxy chooses smaller
    /// parts: a remote store keeps the bytes of an incomplete part at a cost.
    pub arrives_in_order: bool,
}

/// A new upload, or a file that is complete already.
#[derive(Debug)]
pub struct NewUploadSession {
    /// Uid of the file.
    pub uid: Uid,
    /// Size of every part but the last, in bytes; `None` if the size of the content was not
    /// announced.
    pub part_size: Option<u64>,
    /// The state of a file that is complete already, `stored` or `processing`; `None` if the client
    /// must send the content.
    pub completed: Option<FileState>,
    /// If set, the client can prove possession with this challenge instead of sending the content.
    pub challenge: Option<PossessionChallenge>,
}

/// New uploads.
#[derive(Debug)]
pub struct CreatedUploads {
    /// In the order of the requests.
    pub uploads: Vec<NewUploadSession>,
    /// Whether this request created the uploads; `false` if an earlier request with the same
    /// idempotency key did.
    pub is_new: bool,
    /// When the uploads were created, by this request or by an earlier one with the same
    /// idempotency key. The links get this date.
    pub created_at: OffsetDateTime,
}

/// An upload that is not recorded yet.
struct PlannedUpload {
    file: NewFile,
    /// Stored content with the expected digests.
    known: Option<Blob>,
}

/// Creates one file of the caller's tenant for each request, in state `pending`. The uploads expire
/// after `expire` seconds. Durably records all of them, or none.
///
/// Announced sizes are charged to the tenant's quota; fails with `QuotaExceeded` if the quota does
/// not suffice. If stored content has the expected digests, that content becomes the content of the
/// file immediately. With `uploads.require_possession_proof`, this happens after the client has
/// answered a challenge.
///
/// In a store that preallocates files, reserves disk space for announced content of several parts,
/// unless the client gets a challenge or the limits on reserved space are reached. If there is not
/// enough space, fails with `StorageFull` and undoes the uploads.
///
/// Under an upload grant, the files get the prefix and the metadata of the grant. Fails with
/// `LinkExpired`, `LinkRevoked` or `LinkUsedUp` if the grant does not allow the uploads.
///
/// With an idempotency key, `requests` must have one element, and the file gets the uid that is
/// reserved for the key. A repeated call returns the same upload.
#[boxed_future]
pub async fn create_upload(
    uploads: &Arc<UploadOps>,
    caller: &Caller,
    requests: Vec<UploadRequest>,
    expire: i64,
    key: Option<&HeldIdempotencyKey>,
) -> Result<CreatedUploads> {
    check_expire(&uploads.limits, expire)?;
    let validated = validate(uploads, caller, requests)?;
    if let Some(grant) = caller.grant() {
        // Before the uploads count as uploads of the tenant.
        let record = uploads.meta.access.grant(grant.record.id).await?;
        let refusal = record.map_or(Some(GrantRefusal::Revoked), |it| it.ended(uploads.meta.now_ms()));
        // A repeated request may find the upload that the first request has created.
        if let Some(refusal) = refusal.filter(|_| key.is_none()) {
            return Err(grant_error(refusal));
        }
    }
    uploads.admission.admit_uploads(&caller.tenant, validated.len() as u64).await?;
    let created_at = OffsetDateTime::now_utc();
    let expires = created_at + Duration::from_secs(expire.unsigned_abs());
    let mut plans = Vec::with_capacity(validated.len());
    for (name, announced) in validated {
        let uid = match key {
            Some(key) => key.uid(),
            None => uploads.uids.next().await?,
        };
        let grant = file_grant(caller);
        let file = NewFile { uid, tenant: caller.tenant.clone(), name, announced, grant };
        let AnnouncedContent { expected, size, .. } = &file.announced;
        let known = uploads.objects.find_known_content(&file.tenant, expected, *size).await?;
        // A challenge reveals the size of the content, so only clients that announced the size get
        // a challenge.
        let known =
            known.filter(|_| !uploads.limits.require_possession_proof || file.announced.size.is_some());
        if let (Some(max), Some(blob)) = (caller.max_size, &known)
            && blob.digests.size > max
        {
            return Err(too_large_error(max));
        }
        if let (Some(_), Some(blob)) = (caller.grant(), &known) {
            // The application trusts itself, but not the holders of its grants.
            check_content_type(&caller.upload_constraints(), blob.detected_type.as_deref(), &file.name)?;
        }
        plans.push(PlannedUpload { file, known });
    }
    if plans.is_empty() {
        return Ok(CreatedUploads { uploads: Vec::new(), is_new: true, created_at });
    }
    let RecordedUploads { completed, created_before: before } =
        record(uploads, &mut plans, expires, key).await?;
    let plan_of = |(plan, completed): (&PlannedUpload, &Option<FileState>)| NewUploadSession {
        uid: plan.file.uid,
        part_size: plan.file.announced.part_size,
        completed: *completed,
        challenge: None,
    };
    let mut created: Vec<_> = plans.iter().zip(&completed).map(plan_of).collect();
    for (plan, upload) in plans.iter().zip(&mut created).filter(|(_, upload)| upload.completed.is_none()) {
        match prepare(uploads, plan).await {
            Ok(challenge) => upload.challenge = challenge,
            Err(error) => {
                undo(uploads, &plans, &completed, key).await;
                return Err(error);
            }
        }
    }
    Ok(CreatedUploads {
        uploads: created,
        is_new: before.is_none(),
        created_at: before.unwrap_or(created_at),
    })
}

/// The upload grant of a file that the caller creates.
pub(super) fn file_grant(caller: &Caller) -> Option<FileGrant> {
    let grant = caller.grant()?;
    Some(FileGrant { id: grant.record.id, required_types: grant.required_types() })
}

/// Checks the request for a file that is created together with its content. Returns the file name
/// and the announced content. The file does not count as an incomplete upload.
pub(super) async fn admit_new_file(
    uploads: &UploadOps,
    caller: &Caller,
    request: UploadRequest,
) -> Result<(String, AnnouncedContent)> {
    uploads.admission.admit_instant_uploads().await?;
    let validated = validate(uploads, caller, vec![request])?;
    validated.into_iter().next().ok_or_else(|| Error::internal("a validated request is missing"))
}

/// Checks the requests. Returns the file name and the announced content of each request. Chooses
/// the part size if the client did not.
pub(super) fn validate(
    uploads: &UploadOps,
    caller: &Caller,
    wishes: Vec<UploadRequest>,
) -> Result<Vec<(String, AnnouncedContent)>> {
    let (limits, mut validated) = (&uploads.limits, Vec::with_capacity(wishes.len()));
    for UploadRequest { path, mut announced, arrives_in_order } in wishes {
        let mut name = file_name(&path)?.to_owned();
        if let Some(grant) = caller.grant() {
            let GrantTerms { name_prefix, metadata, content_types, .. } = &grant.terms;
            name.insert_str(0, name_prefix);
            file_name(&name)?;
            check_partial_metadata(&announced.metadata)?;
            announced.metadata.extend(metadata.clone());
            if !content_types.is_empty() {
                // The type that is stored must be the one that is checked.
                announced.content_type = None;
            }
        }
        check_metadata(&announced.metadata)?;
        if announced.content_type.as_deref().is_some_and(|given| !is_mime_type(given)) {
            let message = format!("`content_type` must be a MIME type of at most {MAX_MIME_LEN} bytes");
            return Err(Error::invalid(message).with_field("content_type"));
        }
        // All partial uploads of a file together must not have too many parts.
        let may_have_small_parts = arrives_in_order && !announced.is_partial;
        let default_max_parts =
            if may_have_small_parts { limits.max_parts.into() } else { DEFAULT_MAX_PARTS };
        announced.part_size = part_size(uploads, caller, &announced, default_max_parts)?;
        validated.push((name, announced));
    }
    Ok(validated)
}

/// Result of recording plans.
struct RecordedUploads {
    /// For each plan, the state of its file if it is complete already.
    completed: Vec<Option<FileState>>,
    /// When an earlier request with the same idempotency key created the upload; `None` if this
    /// request did.
    created_before: Option<OffsetDateTime>,
}

/// Records all plans, or none.
async fn record(
    uploads: &Arc<UploadOps>,
    plans: &mut [PlannedUpload],
    expires: OffsetDateTime,
    key: Option<&HeldIdempotencyKey>,
) -> Result<RecordedUploads> {
    for _ in 0..MAX_TRIES {
        let new = plans.iter().map(|plan| new_upload(uploads, plan)).collect();
        match uploads.meta.files.create(new, expires.unix_timestamp() * 1000).await? {
            CreateOutcome::Created(stored) => {
                count_instant_uploads(uploads, plans, &stored);
                let state = uploads.meta.processing.completed_state();
                let completed = stored.into_iter().map(|is_complete| is_complete.then_some(state));
                return Ok(RecordedUploads { completed: completed.collect(), created_before: None });
            }
            CreateOutcome::OverQuota => return Err(Error::quota_exceeded()),
            CreateOutcome::Refused(refusal) => return Err(grant_error(refusal)),
            CreateOutcome::UidTaken => {}
        }
        let (Some(key), [PlannedUpload { file, .. }]) = (key, &mut *plans) else {
            return Err(Error::internal("a uid was issued twice"));
        };
        // An earlier request with this key created an upload. Return that upload, unless the
        // earlier request has undone it.
        match find_earlier(uploads, file).await? {
            Some(recorded) => return Ok(recorded),
            None => file.uid = uploads.idempotency.reserve_uid(key).await?,
        }
    }
    Err(Error::unavailable("the upload was undone repeatedly; retry"))
}

/// Returns the upload that an earlier request created under the uid of `file`; `None` if it is
/// gone.
async fn find_earlier(uploads: &UploadOps, file: &mut NewFile) -> Result<Option<RecordedUploads>> {
    let found = uploads.meta.files.record(file.uid).await?;
    let status = uploads.meta.uploads.status(file.uid).await?;
    let Some((found, status)) = found.filter(|found| found.tenant == file.tenant).zip(status) else {
        return Ok(None);
    };
    if matches!(found.state, FileState::Expired | FileState::Deleted) {
        return Ok(None);
    }
    // The part size was determined when the upload was created; the configuration may have changed
    // since.
    file.announced.part_size = status.part_size;
    let before = OffsetDateTime::from_unix_timestamp(found.created_at.div_euclid(1000));
    let before = Some(before.map_err(Error::internal)?);
    let completed = vec![Some(found.state).filter(|state| state.is_complete())];
    Ok(Some(RecordedUploads { completed, created_before: before }))
}

fn new_upload(uploads: &UploadOps, PlannedUpload { file, known }: &PlannedUpload) -> NewUpload {
    let known = known.as_ref().filter(|_| !uploads.limits.require_possession_proof).map(|blob| {
        let content_type = file.announced.content_type.clone();
        let content_type = content_type
            .unwrap_or_else(|| content_type::mime_type_of(blob.detected_type.as_deref(), &file.name));
        KnownContent { blob_id: blob.id, size: blob.digests.size, content_type }
    });
    NewUpload { file: file.clone(), known_content: known }
}

/// Counts instant uploads, and misses: expected digests that no stored content has.
fn count_instant_uploads(uploads: &UploadOps, plans: &[PlannedUpload], stored: &[bool]) {
    for (PlannedUpload { file, known }, is_stored) in plans.iter().zip(stored) {
        match known {
            Some(blob) if *is_stored => {
                uploads.metrics.count_deduplicated(DedupSource::Instant, blob.digests.size);
            }
            // This upload is counted when the client has proven possession of the content.
            Some(_) if uploads.limits.require_possession_proof => {}
            _ if file.announced.expected != ExpectedDigests::default() => {
                uploads.metrics.count_instant_miss();
            }
            _ => {}
        }
    }
}

/// Prepares a recorded file for its content: creates a challenge, or else reserves disk space. A
/// client with a challenge will probably not send the content. If the client does send the content,
/// the first part reserves the space.
async fn prepare(
    uploads: &Arc<UploadOps>,
    PlannedUpload { file, known }: &PlannedUpload,
) -> Result<Option<PossessionChallenge>> {
    if let Some(blob) = known.as_ref().filter(|_| uploads.limits.require_possession_proof) {
        return create_challenge(uploads, file.uid, blob).await.map(Some);
    }
    if let Some(size) = file.announced.size.filter(|_| uploads.stores.preallocates()) {
        uploads.admission.check_free_space(size).await?;
    }
    if has_several_parts(file) && !file.announced.is_partial {
        uploads.objects.preallocate(file.uid, &file.tenant).await?;
    }
    Ok(None)
}

/// Removes recorded uploads when the client gets an error, unless another request with the same
/// idempotency key has taken them over. If an open upload cannot be removed now, it expires later.
async fn undo(
    uploads: &Arc<UploadOps>,
    plans: &[PlannedUpload],
    completed: &[Option<FileState>],
    key: Option<&HeldIdempotencyKey>,
) {
    let is_ours = match key {
        Some(key) => uploads.idempotency.is_held(key).await,
        None => Ok(true),
    };
    for (PlannedUpload { file, .. }, completed) in plans.iter().zip(completed) {
        let taken_back = match &is_ours {
            Ok(false) => return,
            Ok(true) if completed.is_some() => undo_stored(uploads, file).await,
            Ok(true) => abort_upload(uploads, file.uid).await,
            Err(error) => {
                tracing::warn!(uid = %file.uid, error = error_chain(error), "cannot undo an upload yet");
                return;
            }
        };
        if let Err(left) = taken_back {
            tracing::warn!(uid = %file.uid, error = error_chain(&left), "cannot undo an upload yet");
        }
    }
}

async fn undo_stored(uploads: &UploadOps, file: &NewFile) -> Result<()> {
    delete_file(&uploads.files, &file.tenant, file.uid).await?;
    // The deletion of a stored file does not count it less, other than that of an open upload.
    match &file.grant {
        Some(grant) => Ok(uploads.meta.access.release_granted_upload(grant.id).await?),
        None => Ok(()),
    }
}

fn has_several_parts(file: &NewFile) -> bool {
    let AnnouncedContent { size, part_size, .. } = file.announced;
    size.zip(part_size).is_some_and(|(size, part_size)| PartLayout { size, part_size }.parts() > 1)
}

/// Returns the part size in bytes; `None` if no size is announced. Fails if the announced size or
/// part size is not within the limits.
fn part_size(
    uploads: &UploadOps,
    caller: &Caller,
    announced: &AnnouncedContent,
    default_max_parts: u64,
) -> Result<Option<u64>> {
    let limits = &uploads.limits;
    let Some(size) = announced.size else {
        let alone = Error::invalid("`part_size` requires `size`").with_field("part_size");
        return if announced.part_size.is_some() { Err(alone) } else { Ok(None) };
    };
    let max_size = caller.max_size.map_or(limits.max_size, |max| max.min(limits.max_size));
    if size > max_size {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    let smallest = uploads.stores.min_part_size().max(MIN_PART_SIZE);
    let largest = prev_power_of_two(limits.max_part_size);
    let fewest = |parts: u64| size.div_ceil(parts.max(1)).next_power_of_two();
    let least = smallest.next_power_of_two().max(fewest(limits.max_parts.into()));
    if least > largest {
        let message = "the content is too large for the allowed number and size of parts";
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    match announced.part_size {
        None => Ok(Some(DEFAULT_PART_SIZE.max(fewest(default_max_parts)).clamp(least, largest))),
        Some(wanted) if wanted.is_power_of_two() && (least..=largest).contains(&wanted) => Ok(Some(wanted)),
        Some(_) => {
            let message =
                format!("for this `size`, `part_size` must be a power of two from {least} to {largest}");
            Err(Error::invalid(message).with_field("part_size"))
        }
    }
}

fn prev_power_of_two(number: u64) -> u64 {
    number.checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

/// Whether `text` is a valid MIME type that can be copied verbatim into a header.
pub fn is_mime_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let has_form = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    has_form && text.len() <= MAX_MIME_LEN && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mime_types_are_taken() {
        for good in ["text/plain", "text/plain; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_mime_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/plain", "a b/c", "text/plain\r\nx: y", "text/plain; a=\u{e9}"] {
            assert!(!is_mime_type(bad), "{bad:?}");
        }
    }
}
