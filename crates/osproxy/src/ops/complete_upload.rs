//! Make a file of the parts that were sent.

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

/// How often parts that change while they are read are read again.
const ROUNDS: usize = 3;

/// Makes the parts of `uid` its content, if they are those that the client says and what `terms` demand. The file can be
/// read when this returns, however large it is; a task merges the parts behind it. Digests are verified before, up to
/// `uploads.verify_up_to` bytes, and beyond that by the task. Harmless when it is called again.
pub async fn complete_upload(app: &Arc<App>, uid: Uid, said: Completion, terms: &Terms) -> Result<()> {
    let (max_parts, max_size) = (app.limits.max_parts, app.limits.max_size);
    if said.parts.is_some_and(|parts| !(1..=max_parts).contains(&parts)) {
        return Err(Error::invalid(format!("there must be 1 to {max_parts} parts")));
    }
    if said.size.is_some_and(|size| size > max_size) {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    match complete(app, uid, said, terms).await? {
        Completed::Native(native) => {
            // Brought to its end even if the client is gone.
            let completing = complete_native(app.clone(), uid, said, terms.clone(), native);
            app.background.spawn(completing).await.map_err(Error::internal)?
        }
        other => answer(other),
    }
}

/// Completes an upload, or begins to, and reads its parts before if that is necessary.
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
            Completed::Inspect(inspection) => conditions.inspected = app.inspect(&inspection).await?,
            completed => {
                if completed == Completed::Now {
                    app.task_enqueued();
                }
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed while they were read"))
}

/// What is said to the client of an upload that was not completed just now.
fn answer(completed: Completed) -> Result<()> {
    match completed {
        Completed::Now | Completed::Native(_) | Completed::Before => Ok(()),
        Completed::Otherwise => {
            Err(Error::new(ErrorCode::AlreadyStored, "this file is complete, of other content than this"))
        }
        Completed::Unverified => Err(Error::new(
            ErrorCode::AlreadyStored,
            "this file is complete, and its digest, which was not given then, is not known yet",
        )),
        Completed::Parts { there, wanted, missing } => {
            let message = explain(there, &missing, wanted);
            Err(Error::new(ErrorCode::PartsMissing, message).with_missing(&missing))
        }
        Completed::Size(found, said) => {
            let message = format!("the parts have {found} bytes together, not {said}");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        Completed::Digest(name, found) => {
            let message = format!("the content's {name} is {found}, not the one announced");
            Err(Error::new(ErrorCode::DigestMismatch, message))
        }
        Completed::Type { wanted, found } => Err(wrong_type(&wanted, &found)),
        Completed::TooLarge(max) => Err(too_large(max)),
        Completed::Inspect(_) => Err(Error::unavailable("the parts changed while they were read")),
        Completed::OverQuota => Err(Error::over_quota()),
        Completed::Closed(state) => Err(closed(state)),
        Completed::Unknown => Err(unknown_uid()),
    }
}

/// Lets the store put its parts together, and makes that the file. When it fails in between, the same call goes on.
async fn complete_native(
    app: Arc<App>,
    uid: Uid,
    said: Completion,
    terms: Terms,
    native: NativeUpload,
) -> Result<()> {
    match complete_uploads::complete(&app, uid, &native).await? {
        Completed::Closed(_) | Completed::Unknown => {}
        completed => return answer(completed),
    }
    // Somebody else was faster, or the file was removed, or there are fewer parts now: it is as it is now.
    match complete(&app, uid, said, &terms).await? {
        Completed::Native(_) => Err(Error::unavailable("the parts changed while they were put together")),
        other => answer(other),
    }
}

/// Goes on with an upload that somebody began to complete, for those who find it so: afterwards it is complete, or takes
/// parts again.
pub(super) async fn go_on(app: &Arc<App>, uid: Uid) -> Result<()> {
    let Some(native) = app.meta.completing_upload(uid).await? else {
        return Ok(());
    };
    let app = app.clone();
    let completing =
        app.clone().background.spawn(async move { complete_uploads::complete(&app, uid, &native).await });
    completing.await.map_err(Error::internal)?.map(|_| ())
}

/// How many ranges of missing parts a message names. A program is told all.
const NAMED: usize = 10;

fn explain(there: u64, missing: &[RangeInclusive<u32>], wanted: u32) -> String {
    if missing.is_empty() {
        return format!("there are {there} parts, more than the {wanted} that there must be");
    }
    let name = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let names: Vec<_> = missing.iter().take(NAMED).map(name).collect();
    let more = if missing.len() > NAMED { ", and more" } else { "" };
    let plural = if wanted == 1 { "" } else { "s" };
    format!("of {wanted} part{plural} these are missing: {}{more}", names.join(", "))
}
