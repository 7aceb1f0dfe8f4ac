//! Create new links for an upload whose earlier links have expired or are lost.

use osproxy_api::v1::{Constraints, UploadLinks};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{
    UploadOps, check_expire, state_error,
    upload_status::{FileState, UploadProgress, own_upload_status},
};
use crate::{Caller, Result, boxed_future, links::LinkPeriod, upload_constraints};

/// New links of an upload.
#[derive(Debug)]
pub struct NewLinks {
    /// Signed URLs of the upload, valid until `expires_at`.
    pub links: UploadLinks,
    /// When the links expire, in milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// Status of the upload.
    pub status: UploadProgress,
}

/// Creates links to an upload of the caller's tenant that are valid for `expires_in` seconds. If
/// the upload session expires earlier, extends it to the same time. The new links have these
/// `constraints`, within the limits of the caller's key; they do not inherit the constraints of
/// earlier links. Earlier links and received parts stay valid.
#[boxed_future]
pub async fn create_upload_links(
    uploads: &UploadOps,
    caller: &Caller,
    uid: Uid,
    expires_in: i64,
    constraints: Option<Constraints>,
) -> Result<NewLinks> {
    check_expire(&uploads.limits, expires_in)?;
    let status = own_upload_status(uploads, &caller.tenant, uid).await?;
    let link_constraints = upload_constraints(caller, status.size, constraints)?;
    // A link that is dated before the latest revocation would count as revoked.
    let now = OffsetDateTime::now_utc();
    let from = OffsetDateTime::from_unix_timestamp(uploads.meta.access.links_valid_from(uid, false).await?);
    let date = from.map_or(now, |from| now.max(from));
    let expires_at = date.unix_timestamp().saturating_add(expires_in).saturating_mul(1000);
    let period = LinkPeriod { date, lifetime_secs: expires_in };
    let is_renewed = uploads.meta.uploads.renew(caller.tenant.clone(), uid, expires_at).await?;
    if !is_renewed && !status.state.is_complete() {
        // The upload was completed, aborted or expired in the meantime.
        let status = own_upload_status(uploads, &caller.tenant, uid).await?;
        if !status.state.is_complete() {
            return Err(state_error(FileState::Expired));
        }
    }
    Ok(NewLinks { links: uploads.links.upload_links(uid, period, &link_constraints), expires_at, status })
}
