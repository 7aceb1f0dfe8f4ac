//! Concatenate partial uploads to a final upload.

use std::{collections::HashSet, sync::Arc};

use osproxy_api::ErrorCode;
use osproxy_meta::{ConcatenateOutcome, FileState, NewFile, NewFinalUpload, PartialProblem};
use osproxy_types::{error_chain, uid::Uid};
use time::OffsetDateTime;

use super::{
    LinkConstraints, UploadOps,
    abort_upload::abort_upload,
    append_upload::complete,
    check_expire,
    create_upload::{UploadRequest, file_grant, validate},
    state_error, too_large_error, unknown_uid_error,
};
use crate::{Caller, Error, Result, auth::upload_grant::grant_error, boxed_future};

pub use osproxy_meta::Concatenation;

/// Maximum number of partial uploads. Their list must fit into the head of a response.
pub const MAX_PARTIAL_UPLOADS: usize = 250;

/// A final upload that has the parts of its partial uploads.
#[derive(Clone, Copy, Debug)]
pub struct FinalUpload {
    /// Uid of the file.
    pub uid: Uid,
    /// Size in bytes.
    pub size: u64,
    /// When it was created, by this or an earlier request. Its links get this date.
    pub created_at: OffsetDateTime,
    is_stored: bool,
}

/// Creates a file of the caller's tenant, and moves the parts of `partial_uids` to it, in this
/// order. The caller then calls [`complete_final_upload`] on a node that has the parts. Until then,
/// the upload expires after `expire` seconds.
///
/// If a partial upload is not finished, or cannot be used, changes nothing. A repeated call with
/// the same partial uploads returns the same final upload.
#[boxed_future]
pub async fn create_final_upload(
    uploads: &Arc<UploadOps>,
    caller: &Caller,
    request: UploadRequest,
    partial_uids: Vec<Uid>,
    expire: i64,
) -> Result<FinalUpload> {
    check_expire(&uploads.limits, expire)?;
    check_list(&partial_uids)?;
    // The open uploads of the tenant do not become more.
    uploads.admission.admit_instant_uploads().await?;
    let validated = validate(uploads, caller, vec![request])?;
    let (name, announced) =
        validated.into_iter().next().ok_or_else(|| Error::internal("a validated request is missing"))?;
    let created_at = OffsetDateTime::now_utc();
    let (uid, max) = (uploads.uids.next().await?, uploads.limits.max_size);
    let max_size = caller.max_size.map_or(max, |limit| limit.min(max));
    let upload = NewFinalUpload {
        file: NewFile { uid, tenant: caller.tenant.clone(), name, announced, grant: file_grant(caller) },
        partial_uids,
        expires_at: created_at.unix_timestamp().saturating_add(expire).saturating_mul(1000),
        max_size,
        max_parts: uploads.limits.max_parts,
    };
    match uploads.meta.uploads.concatenate(upload).await? {
        // Read from the row in both cases, so that a repeated request returns the same link.
        ConcatenateOutcome::Created(_) => recorded_final_upload(uploads, uid).await,
        ConcatenateOutcome::Exists(uid) => recorded_final_upload(uploads, uid).await,
        ConcatenateOutcome::Refused(uid, problem) => Err(refusal(uid, problem)),
        ConcatenateOutcome::SeveralStores(stores) => {
            let message = format!(
                "the partial uploads are on several nodes or stores ({}); send them again",
                stores.join(", ")
            );
            Err(Error::invalid(message).with_field("upload-concat"))
        }
        ConcatenateOutcome::TooManyParts(parts) => {
            let max = uploads.limits.max_parts;
            let message = format!("the partial uploads have {parts} parts together, but at most {max} fit");
            Err(Error::new(ErrorCode::TooLarge, message))
        }
        ConcatenateOutcome::TooLarge => Err(too_large_error(max_size)),
        ConcatenateOutcome::OverQuota => Err(Error::quota_exceeded()),
        ConcatenateOutcome::GrantRefused(refusal) => Err(grant_error(refusal)),
    }
}

/// Makes a final upload readable. Does nothing if it is already. If its content does not have the
/// MIME type that `constraints` require, removes it, and fails with `UnsupportedMediaType`.
#[boxed_future]
pub async fn complete_final_upload(
    uploads: &Arc<UploadOps>,
    upload: FinalUpload,
    constraints: LinkConstraints,
) -> Result<()> {
    if upload.is_stored {
        return Ok(());
    }
    let (uploads, detached_work) = (uploads.clone(), uploads.detached_work.clone());
    // Spawned: this must complete even if the client disconnects.
    let completing = detached_work.spawn(async move {
        let FinalUpload { uid, size, .. } = upload;
        let completed = complete(&uploads, uid, size, &constraints).await;
        if let Err(error) = &completed
            && error.code == ErrorCode::UnsupportedMediaType
            // If this fails, the upload expires later.
            && let Err(error) = abort_upload(&uploads, uid).await
        {
            tracing::warn!(%uid, error = error_chain(&error), "cannot abort an upload yet");
        }
        completed
    });
    completing.await.map_err(Error::internal)?
}

fn check_list(partial_uids: &[Uid]) -> Result<()> {
    if !(1..=MAX_PARTIAL_UPLOADS).contains(&partial_uids.len()) {
        let message = format!("a final upload must have 1 to {MAX_PARTIAL_UPLOADS} partial uploads");
        return Err(Error::invalid(message).with_field("upload-concat"));
    }
    let mut seen = HashSet::with_capacity(partial_uids.len());
    match partial_uids.iter().find(|uid| !seen.insert(**uid)) {
        Some(repeated) => {
            let message = format!("the partial upload {repeated} is listed twice");
            Err(Error::invalid(message).with_field("upload-concat"))
        }
        None => Ok(()),
    }
}

async fn recorded_final_upload(uploads: &UploadOps, uid: Uid) -> Result<FinalUpload> {
    let file = uploads.meta.files.record(uid).await?.ok_or_else(unknown_uid_error)?;
    let size = match file.state {
        FileState::Pending | FileState::Receiving | FileState::Processing => file.size,
        FileState::Stored => file.content.map(|content| content.size),
        state => return Err(state_error(state)),
    };
    let created_at = OffsetDateTime::from_unix_timestamp(file.created_at.div_euclid(1000));
    Ok(FinalUpload {
        uid,
        size: size.ok_or_else(|| Error::internal("a final upload has no size"))?,
        created_at: created_at.map_err(Error::internal)?,
        is_stored: file.state.is_complete(),
    })
}

fn refusal(uid: Uid, problem: PartialProblem) -> Error {
    let (code, problem) = match problem {
        PartialProblem::Unknown => (ErrorCode::FileNotFound, "does not exist"),
        PartialProblem::NotPartial => (ErrorCode::InvalidArgument, "is not a partial upload"),
        PartialProblem::Unfinished => (ErrorCode::NotStored, "is not finished"),
        PartialProblem::Gone => (ErrorCode::FileGone, "was terminated, or has expired"),
        PartialProblem::Used => (ErrorCode::AlreadyStored, "belongs to another final upload"),
    };
    Error::new(code, format!("the partial upload {uid} {problem}"))
}
