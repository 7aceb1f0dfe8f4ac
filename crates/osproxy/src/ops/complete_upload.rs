//! Complete an upload: make a file of its parts.

use std::{ops::RangeInclusive, sync::Arc};

use osproxy_api::ErrorCode;

pub use crate::meta::{Claims, Completion};

use super::{Terms, closed, too_large, unknown_uid, wrong_type};
use crate::{
    Error, Result,
    app::App,
    meta::{Completed, Conditions, NativeUpload},
    tasks::handlers::{complete_uploads, merge_parts},
    uid::Uid,
};

/// How often to read parts again that change while they are read.
const ROUNDS: usize = 3;

/// Makes the parts of `uid` its content, if they match the client's request and `terms`. The file
/// can be read when this returns, however large it is; a task merges its parts later. Expected
/// digests are verified before for content up to `uploads.verify_up_to` bytes, and by the task
/// beyond that. Can be repeated.
pub async fn complete_upload(
    app: &Arc<App>,
    uid: Uid,
    request: Completion,
    constraints: &Terms,
) -> Result<()> {
    let (max_parts, max_size) = (app.limits.max_parts, app.limits.max_size);
    if request.parts.is_some_and(|parts| !(1..=max_parts).contains(&parts)) {
        return Err(Error::invalid(format!("an upload must have 1 to {max_parts} parts")));
    }
    if request.size.is_some_and(|size| size > max_size) {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    match complete(app, uid, request, constraints).await? {
        Completed::Multipart(native) => {
            // Spawned, so that it runs to its end if the client disconnects.
            let completing = complete_native(app.clone(), uid, request, constraints.clone(), native);
            app.background.spawn(completing).await.map_err(Error::internal)?
        }
        other => answer(other),
    }
}

/// Completes an upload, or begins to. Reads its parts before, if necessary.
async fn complete(app: &Arc<App>, uid: Uid, said: Completion, terms: &Terms) -> Result<Completed> {
    let mut conditions = Conditions {
        max_size: terms.max_size,
        content_type: terms.content_type.clone(),
        verify_up_to: app.limits.verify_up_to,
        inspected: None,
    };
    for _ in 0..ROUNDS {
        let merge = merge_parts::merging(app, app.next_uid().await?);
        match app.meta.complete_upload(uid, said, conditions.clone(), merge).await? {
            Completed::NeedsInspection(inspection) => conditions.inspected = app.inspect(&inspection).await?,
            completed => {
                if completed == Completed::Completed {
                    app.task_enqueued();
                }
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed while they were read"))
}

/// Returns the result for the client, if the upload was not completed just now.
fn answer(completed: Completed) -> Result<()> {
    match completed {
        Completed::Completed | Completed::Multipart(_) | Completed::AlreadyCompleted => Ok(()),
        Completed::AlreadyCompletedMismatch => {
            Err(Error::new(ErrorCode::AlreadyStored, "this file is already complete, with other content"))
        }
        Completed::AlreadyCompletedUnverified => Err(Error::new(
            ErrorCode::AlreadyStored,
            "this file is already complete; its digest is not computed yet, so it cannot be compared",
        )),
        Completed::PartsMismatch { there, wanted, missing } => {
            let message = explain(there, &missing, wanted);
            Err(Error::new(ErrorCode::PartsMissing, message).with_missing(&missing))
        }
        Completed::SizeMismatch(found, said) => {
            let message = format!("the parts have {found} bytes in total, not {said}");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        Completed::DigestMismatch(name, found) => {
            let message = format!("the {name} of the content is {found}, not the expected one");
            Err(Error::new(ErrorCode::DigestMismatch, message))
        }
        Completed::TypeMismatch { wanted, found } => Err(wrong_type(&wanted, &found)),
        Completed::TooLarge(max) => Err(too_large(max)),
        Completed::NeedsInspection(_) => Err(Error::unavailable("the parts changed while they were read")),
        Completed::OverQuota => Err(Error::over_quota()),
        Completed::NotOpen(state) => Err(closed(state)),
        Completed::Unknown => Err(unknown_uid()),
    }
}

/// Completes the multipart upload in the store, then the file. If it fails in between, a repetition
/// continues.
async fn complete_native(
    app: Arc<App>,
    uid: Uid,
    said: Completion,
    terms: Terms,
    upload: NativeUpload,
) -> Result<()> {
    match complete_uploads::complete(&app, uid, &upload).await? {
        Completed::NotOpen(_) | Completed::Unknown => {}
        completed => return answer(completed),
    }
    // Another request completed the upload, the file was removed, or parts got lost: look again.
    match complete(&app, uid, said, &terms).await? {
        Completed::Multipart(_) => {
            Err(Error::unavailable("the parts changed while the upload was completed"))
        }
        other => answer(other),
    }
}

/// Continues the completion of an upload that another request has started. Afterwards the upload is
/// complete, or accepts parts again.
pub(super) async fn go_on(app: &Arc<App>, uid: Uid) -> Result<()> {
    let Some(native) = app.meta.completing_upload(uid).await? else {
        return Ok(());
    };
    let app = app.clone();
    let completing =
        app.clone().background.spawn(async move { complete_uploads::complete(&app, uid, &native).await });
    completing.await.map_err(Error::internal)?.map(|_| ())
}

/// Maximum ranges of missing parts in a message. Programs get more in a field of the error.
const NAMED: usize = 10;

fn explain(present: u64, missing: &[RangeInclusive<u32>], expected: u32) -> String {
    if missing.is_empty() {
        return format!("there are {present} parts, more than the expected {expected}");
    }
    let name = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let names: Vec<_> = missing.iter().take(NAMED).map(name).collect();
    let more = if missing.len() > NAMED { ", and more" } else { "" };
    let plural = if expected == 1 { "" } else { "s" };
    format!("of {expected} expected part{plural}, these are missing: {}{more}", names.join(", "))
}
