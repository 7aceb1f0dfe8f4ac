//! Describe an upload grant.

use osproxy_api::ErrorCode;
use osproxy_types::uid::Uid;

use super::{Tenant, UploadOps};
use crate::{Error, Result, auth::UploadGrant, boxed_future};

/// Returns a grant of a tenant, even if it has expired or is revoked. Fails with `GrantNotFound`.
#[boxed_future]
pub async fn describe_upload_grant(uploads: &UploadOps, tenant: &Tenant, id: Uid) -> Result<UploadGrant> {
    let record = uploads.meta.access.grant(id).await?;
    let record = record.filter(|record| record.tenant == *tenant).ok_or_else(unknown_grant_error)?;
    UploadGrant::from_record(record)
}

/// The error for the id of a grant that does not exist.
pub(super) fn unknown_grant_error() -> Error {
    Error::new(ErrorCode::GrantNotFound, "there is no upload grant with this id")
}
