//! Complete an upload: make a file of its parts.

use std::{ops::RangeInclusive, sync::Arc};

use osproxy_api::ErrorCode;

pub use osproxy_meta::{CompleteRequest, ExpectedDigests};

use super::{
    LinkConstraints, UploadOps, content_type_error, state_error, too_large_error, unknown_uid_error,
};
use crate::{Error, Result};
use osproxy_meta::{CompleteOutcome, CompletePreconditions, MultipartUpload};
use osproxy_types::uid::Uid;

/// Maximum attempts to read parts that change while they are read.
const MAX_TRIES: usize = 3;

/// Makes the parts of `uid` its content, if they match `request` and `constraints`. The file can be
/// read when this returns, whatever its size; a task merges its parts later. Expected digests of
/// content up to `uploads.max_inline_verification_size` bytes are verified first, those of larger content by the
/// task. Idempotent.
pub async fn complete_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    request: CompleteRequest,
    constraints: &LinkConstraints,
) -> Result<()> {
    let (max_parts, max_size) = (uploads.limits.max_parts, uploads.limits.max_size);
    if request.parts.is_some_and(|parts| !(1..=max_parts).contains(&parts)) {
        return Err(Error::invalid(format!("an upload must have 1 to {max_parts} parts")));
    }
    if request.size.is_some_and(|size| size > max_size) {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    match try_complete(uploads, uid, request, constraints).await? {
        CompleteOutcome::Multipart(native) => {
            // Spawned, so that it runs to its end if the client disconnects.
            let completing = complete_multipart(uploads.clone(), uid, request, constraints.clone(), native);
            uploads.detached_work.spawn(completing).await.map_err(Error::internal)?
        }
        other => into_result(other),
    }
}

/// Completes an upload, or starts to. Reads its parts first if necessary.
async fn try_complete(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    said: CompleteRequest,
    terms: &LinkConstraints,
) -> Result<CompleteOutcome> {
    let mut conditions = CompletePreconditions {
        max_size: terms.max_size,
        content_type: terms.content_type.clone(),
        max_inline_verification_size: uploads.limits.max_inline_verification_size,
        inspected: None,
    };
    for _ in 0..MAX_TRIES {
        let task_id = uploads.uids.next().await?;
        match uploads.meta.uploads.complete(uid, said, conditions.clone(), task_id).await? {
            CompleteOutcome::NeedsInspection(inspection) => {
                conditions.inspected = uploads.objects.inspect(&inspection).await?;
            }
            completed => {
                if completed == CompleteOutcome::Completed {
                    uploads.task_notifier.notify_node();
                }
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed during completion; retry"))
}

/// Returns the result for the client, if the upload was not completed just now.
fn into_result(completed: CompleteOutcome) -> Result<()> {
    match completed {
        CompleteOutcome::Completed | CompleteOutcome::Multipart(_) | CompleteOutcome::AlreadyCompleted => {
            Ok(())
        }
        CompleteOutcome::AlreadyCompletedMismatch => Err(Error::new(
            ErrorCode::AlreadyStored,
            "this file is already complete and has different content",
        )),
        CompleteOutcome::AlreadyCompletedUnverified => Err(Error::new(
            ErrorCode::AlreadyStored,
            "this file is already complete; its digest is not computed yet, so it cannot be compared",
        )),
        CompleteOutcome::PartsMismatch { there, wanted, missing } => {
            let message = part_count_message(there, &missing, wanted);
            Err(Error::new(ErrorCode::PartsMissing, message).with_missing_parts(&missing))
        }
        CompleteOutcome::SizeMismatch(found, expected) => {
            let message = format!("the parts have {found} bytes in total, but {expected} were declared");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        CompleteOutcome::DigestMismatch(name, found) => {
            let message =
                format!("the {name} of the content is {found}, which differs from the expected digest");
            Err(Error::new(ErrorCode::DigestMismatch, message))
        }
        CompleteOutcome::TypeMismatch { wanted, found } => Err(content_type_error(&wanted, &found)),
        CompleteOutcome::TooLarge(max) => Err(too_large_error(max)),
        CompleteOutcome::NeedsInspection(_) => {
            Err(Error::unavailable("the parts changed during completion; retry"))
        }
        CompleteOutcome::OverQuota => Err(Error::quota_exceeded()),
        CompleteOutcome::NotOpen(state) => Err(state_error(state)),
        CompleteOutcome::Unknown => Err(unknown_uid_error()),
    }
}

/// Completes the multipart upload in the store, then the file. If it fails in between, a retry
/// resumes it.
async fn complete_multipart(
    uploads: Arc<UploadOps>,
    uid: Uid,
    said: CompleteRequest,
    terms: LinkConstraints,
    upload: MultipartUpload,
) -> Result<()> {
    match uploads.objects.finish_completion(uid, &upload).await? {
        CompleteOutcome::NotOpen(_) | CompleteOutcome::Unknown => {}
        completed => return into_result(completed),
    }
    // Another request completed the upload, the file was removed, or parts were lost: check again.
    match try_complete(&uploads, uid, said, &terms).await? {
        CompleteOutcome::Multipart(_) => {
            Err(Error::unavailable("the parts changed during completion; retry"))
        }
        other => into_result(other),
    }
}

/// Continues the completion of an upload that another request has started. Afterwards the upload is
/// complete, or accepts parts again.
pub(crate) async fn resume_completion(uploads: &Arc<UploadOps>, uid: Uid) -> Result<()> {
    let Some(native) = uploads.meta.uploads.completing_multipart(uid).await? else {
        return Ok(());
    };
    let uploads = uploads.clone();
    let completing = uploads
        .clone()
        .detached_work
        .spawn(async move { uploads.objects.finish_completion(uid, &native).await });
    completing.await.map_err(Error::internal)?.map(|_| ())
}

/// Maximum ranges of missing parts in a message. A field of the error lists more.
const MAX_NAMED_RANGES: usize = 10;

fn part_count_message(present: u64, missing: &[RangeInclusive<u32>], expected: u32) -> String {
    if missing.is_empty() {
        return format!("there are {present} parts, more than the expected {expected}");
    }
    let name = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let names: Vec<_> = missing.iter().take(MAX_NAMED_RANGES).map(name).collect();
    let more = if missing.len() > MAX_NAMED_RANGES { ", and more" } else { "" };
    let plural = if expected == 1 { "" } else { "s" };
    format!("of {expected} expected part{plural}, these are missing: {}{more}", names.join(", "))
}
