//! Copy a file without copying its bytes.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use osproxy_meta::{CopyOutcome, FileMetadata, FileRecord, FileState, NewCopy};
use osproxy_types::uid::Uid;

use super::{
    FileOps, describe_file::describe_file, file_name, object_refusal_error, state_error, too_large_error,
    unknown_uid_error,
};
use crate::{Caller, Error, HeldIdempotencyKey, Result, boxed_future, check_metadata};

/// Maximum attempts when the content moves during the copy.
const MAX_TRIES: usize = 4;

/// Creates a complete file that shares the content of the file `uid`. That file must be complete,
/// belong to the caller's tenant and be no larger than `caller.max_size`. If `name` or `metadata`
/// is `None`, the copy inherits the value. Repeated calls with one idempotency key return the same
/// copy.
#[boxed_future]
pub async fn copy_file(
    files: &Arc<FileOps>,
    caller: &Caller,
    uid: Uid,
    name: Option<&str>,
    metadata: Option<FileMetadata>,
    key: Option<&HeldIdempotencyKey>,
) -> Result<FileRecord> {
    files.admission.check_database_space()?;
    let name = name.map(file_name).transpose().map_err(|error| error.with_field("name"))?;
    if let Some(metadata) = &metadata {
        check_metadata(metadata)?;
    }
    files.admission.check_free_space(0).await?;
    let tenant = &caller.tenant;
    if let Some(max) = caller.max_size
        && describe_file(files, tenant, uid).await?.size.is_some_and(|size| size > max)
    {
        return Err(too_large_error(max));
    }
    let mut copy = match key {
        Some(key) => key.uid(),
        None => files.uids.next().await?,
    };
    for _ in 0..MAX_TRIES {
        let name = name.map(str::to_owned);
        let new = NewCopy { uid: copy, name, metadata: metadata.clone(), content_type: None, object: None };
        match files.meta.files.copy(tenant.clone(), uid, new).await? {
            CopyOutcome::Copied => return describe_file(files, tenant, copy).await,
            CopyOutcome::Conflict => {}
            CopyOutcome::UidTaken => {
                let key = key.ok_or_else(|| Error::internal("a uid was issued twice"))?;
                // An earlier request with this key created the copy. If that copy was deleted,
                // create a new one.
                match describe_file(files, tenant, copy).await {
                    Err(gone) if gone.code == ErrorCode::FileGone => {
                        copy = files.idempotency.reserve_uid(key).await?;
                    }
                    made => return made,
                }
            }
            CopyOutcome::Refused(refusal) => return Err(object_refusal_error(refusal)),
            CopyOutcome::OverQuota => return Err(Error::quota_exceeded()),
            CopyOutcome::NotStored(FileState::Stored) => {
                return Err(Error::internal("the file is stored but has no content"));
            }
            CopyOutcome::NotStored(state) => return Err(state_error(state)),
            CopyOutcome::Unknown => return Err(unknown_uid_error()),
        }
    }
    Err(Error::unavailable("the content of the file moved during the copy; retry"))
}
