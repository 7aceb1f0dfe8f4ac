//! Complete an upload: its parts become the content of a file.

use std::{ops::RangeInclusive, sync::Arc};

use osproxy_api::ErrorCode;

pub use osproxy_meta::{CompleteRequest, ExpectedDigests};

use super::{
    LinkConstraints, UploadOps, content_type_error, object_refusal_error, state_error, too_large_error,
    unknown_uid_error,
};
use crate::{Error, Result, boxed_future};
use osproxy_meta::{
    CompleteOutcome, CompletePreconditions, InspectionResult, MultipartUpload, ObjectRefusal, PartSelection,
};
use osproxy_types::uid::Uid;

/// Maximum attempts if parts change while they are inspected.
const MAX_TRIES: usize = 3;

/// Makes the parts of `uid` the content of the file, if they match `request` and `constraints`.
/// When this returns, the file can be read; if its parts must be merged, a task merges them later.
/// Idempotent.
///
/// An expected digest that can be checked only by reading more than
/// `uploads.max_inline_verification_size` bytes is verified later, by a task. All other expected
/// digests are verified before the file can be read.
#[boxed_future]
pub async fn complete_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    request: CompleteRequest,
    constraints: &LinkConstraints,
) -> Result<()> {
    complete(uploads, uid, request, Terms { constraints: constraints.clone(), selection: None }).await
}

/// What the content must meet besides the request.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) constraints: LinkConstraints,
    /// For an object, the parts that become its content.
    pub(super) selection: Option<Arc<PartSelection>>,
}

/// Like [`complete_upload`].
pub(super) async fn complete(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    request: CompleteRequest,
    terms: Terms,
) -> Result<()> {
    let (max_parts, max_size) = (uploads.limits.max_parts, uploads.limits.max_size);
    if request.parts.is_some_and(|parts| !(1..=max_parts).contains(&parts)) {
        return Err(Error::invalid(format!("an upload must have 1 to {max_parts} parts")));
    }
    if request.size.is_some_and(|size| size > max_size) {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    let Attempt { outcome, inspected } = try_complete(uploads, uid, request, &terms).await?;
    match outcome {
        CompleteOutcome::Multipart(upload) => {
            let upload = InspectedMultipart { upload, inspected };
            // Spawned: this must complete even if the client disconnects.
            let completing = complete_multipart(uploads.clone(), uid, request, terms, upload);
            uploads.detached_work.spawn(completing).await.map_err(Error::internal)?
        }
        other => into_result(other),
    }
}

/// An attempt to complete an upload.
struct Attempt {
    outcome: CompleteOutcome,
    /// Result of reading the parts, if they were read.
    inspected: Option<InspectionResult>,
}

/// Completes an upload, after inspecting its parts if necessary. Returns `Multipart` if the store
/// must complete a multipart upload before the file can be read.
async fn try_complete(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    said: CompleteRequest,
    Terms { constraints, selection }: &Terms,
) -> Result<Attempt> {
    let mut conditions = CompletePreconditions {
        max_size: constraints.max_size,
        content_type: constraints.content_type.clone(),
        selection: selection.clone(),
        max_inline_verification_size: uploads.limits.max_inline_verification_size,
        inspected: None,
    };
    for _ in 0..MAX_TRIES {
        let task_id = uploads.uids.next().await?;
        match uploads.meta.uploads.complete(uid, said, conditions.clone(), task_id).await? {
            CompleteOutcome::NeedsInspection(inspection) => {
                conditions.inspected = uploads.objects.inspect(&inspection).await?;
            }
            outcome => {
                if outcome == CompleteOutcome::Completed {
                    uploads.task_notifier.notify_node();
                }
                return Ok(Attempt { outcome, inspected: conditions.inspected });
            }
        }
    }
    Err(Error::unavailable("the parts changed during completion; retry"))
}

/// Converts an outcome to the result for the client.
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
            "this file is already complete; the content cannot be compared until its digest is known",
        )),
        CompleteOutcome::PartMissing(number) => {
            let message = format!("part {number} is missing or has another ETag");
            Err(Error::new(ErrorCode::PartsMissing, message))
        }
        CompleteOutcome::PartTooSmall(number) => {
            let message = format!("part {number} is too small; only the last part may be");
            Err(Error::new(ErrorCode::PartTooSmall, message))
        }
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
        CompleteOutcome::Refused(refusal) => Err(object_refusal_error(refusal)),
        CompleteOutcome::NotOpen(state) => Err(state_error(state)),
        CompleteOutcome::Unknown => Err(unknown_uid_error()),
    }
}

/// A multipart upload to complete.
struct InspectedMultipart {
    upload: MultipartUpload,
    /// Result of reading its parts, if they were read.
    inspected: Option<InspectionResult>,
}

/// Completes the multipart upload in the store, then the file. If the second step fails, a repeated
/// request or the task `complete_uploads` repeats that step.
async fn complete_multipart(
    uploads: Arc<UploadOps>,
    uid: Uid,
    said: CompleteRequest,
    terms: Terms,
    InspectedMultipart { upload, inspected }: InspectedMultipart,
) -> Result<()> {
    match uploads.objects.finish_completion(uid, &upload, inspected).await? {
        CompleteOutcome::NotOpen(_) | CompleteOutcome::Unknown => {}
        // The condition held when the completion began. The parts are used up.
        CompleteOutcome::Refused(ObjectRefusal::ConditionFailed | ObjectRefusal::NoObject) => {
            let message = "the key was written while the upload was completed; begin a new upload";
            return Err(Error::new(ErrorCode::Superseded, message));
        }
        completed => return into_result(completed),
    }
    // Another request completed the upload, the file was removed, or parts were lost. A new attempt
    // finds out which.
    match try_complete(&uploads, uid, said, &terms).await?.outcome {
        CompleteOutcome::Multipart(_) => {
            Err(Error::unavailable("the parts changed during completion; retry"))
        }
        other => into_result(other),
    }
}

/// Continues the completion of `uid` that another request has started. On success, the file is no
/// longer in state `completing`. Does nothing if the file is not in that state.
pub(crate) async fn resume_completion(uploads: &Arc<UploadOps>, uid: Uid) -> Result<()> {
    let Some(native) = uploads.meta.uploads.completing_multipart(uid).await? else {
        return Ok(());
    };
    let uploads = uploads.clone();
    let completing = uploads
        .clone()
        .detached_work
        .spawn(async move { uploads.objects.finish_completion(uid, &native, None).await });
    completing.await.map_err(Error::internal)?.map(|_| ())
}

/// Maximum number of ranges of missing parts in an error message. The `missing` member of the error
/// lists more.
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
