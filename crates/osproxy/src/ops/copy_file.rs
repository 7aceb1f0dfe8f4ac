//! Copy a file without copying its bytes.

use std::sync::Arc;

use osproxy_api::ErrorCode;

use super::{closed, describe_file::describe_file, name_of, too_large, unknown_uid};
use crate::{
    Error, Result,
    app::{App, Caller, TakenKey, check_metadata},
    meta::{Copied, FileRecord, FileState, Metadata},
    uid::Uid,
};

/// How often to follow content that moves during the copy.
const ROUNDS: usize = 4;

/// Creates a complete file that shares the content of `uid`. This must be a complete file of the
/// caller's tenant, no larger than the caller may create. Name and metadata are copied unless
/// given. With an idempotency key, the copy is created once, under the reserved uid.
pub async fn copy_file(
    app: &Arc<App>,
    caller: &Caller,
    uid: Uid,
    name: Option<&str>,
    metadata: Option<Metadata>,
    key: Option<&TakenKey>,
) -> Result<FileRecord> {
    app.must_have_room()?;
    let name = name.map(name_of).transpose().map_err(|error| error.with_field("name"))?;
    if let Some(metadata) = &metadata {
        check_metadata(metadata)?;
    }
    app.must_leave_free(0).await?;
    let tenant = &caller.tenant;
    if let Some(max) = caller.max_size
        && describe_file(app, tenant, uid).await?.size.is_some_and(|size| size > max)
    {
        return Err(too_large(max));
    }
    let mut copy = match key {
        Some(key) => key.uid(),
        None => app.next_uid().await?,
    };
    for _ in 0..ROUNDS {
        let name = name.map(str::to_owned);
        match app.meta.copy_file(tenant.clone(), uid, copy, name, metadata.clone()).await? {
            Copied::Copied => return describe_file(app, tenant, copy).await,
            Copied::Conflict => {}
            Copied::UidTaken => {
                let key = key.ok_or_else(|| Error::internal("a uid was issued twice"))?;
                // An earlier request with this key created the copy. If that is gone, a new one is
                // created.
                match describe_file(app, tenant, copy).await {
                    Err(gone) if gone.code == ErrorCode::FileGone => copy = app.reserve_uid(key).await?,
                    made => return made,
                }
            }
            Copied::OverQuota => return Err(Error::over_quota()),
            Copied::NotStored(FileState::Stored) => {
                return Err(Error::internal("a stored file without content"));
            }
            Copied::NotStored(state) => return Err(closed(state)),
            Copied::Unknown => return Err(unknown_uid()),
        }
    }
    Err(Error::unavailable("the content of the file moved too often during the copy"))
}
