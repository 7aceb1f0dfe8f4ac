//! Create an upload grant.

use osproxy_api::v1::CreateUploadGrantRequest;
use time::OffsetDateTime;

use super::{UploadOps, check_expire, file_name};
use crate::{
    Caller, Error, Result,
    auth::{GrantRecord, GrantTerms, UploadGrant},
    boxed_future,
    links::constraints::{self, MAX_MIME_LEN},
    metadata::check_partial_metadata,
};

/// Maximum number of MIME types.
const MAX_TYPES: usize = 16;
/// Maximum length of the prefix of names, in bytes.
const MAX_PREFIX_LEN: usize = 255;
/// Maximum value of `max_uploads`.
const MAX_UPLOADS: u64 = 1_000_000;

/// Creates an upload grant of the caller's tenant. Durably records it. Fails with `InvalidArgument`
/// if the request is invalid.
#[boxed_future]
pub async fn create_upload_grant(
    uploads: &UploadOps,
    caller: &Caller,
    request: CreateUploadGrantRequest,
) -> Result<UploadGrant> {
    let CreateUploadGrantRequest {
        expires_in,
        max_uploads,
        max_size,
        content_types,
        networks,
        name_prefix,
        metadata,
    } = request;
    check_expire(&uploads.limits, expires_in)?;
    uploads.admission.admit_instant_uploads().await?;
    check_types(&content_types)?;
    check_partial_metadata(&metadata)?;
    let name_prefix = name_prefix.unwrap_or_default();
    if name_prefix.len() > MAX_PREFIX_LEN
        || (!name_prefix.is_empty() && file_name(&name_prefix).is_err())
        || name_prefix.contains('/')
    {
        let message =
            format!("`name_prefix` must have at most {MAX_PREFIX_LEN} bytes, and neither `/` nor NUL");
        return Err(Error::invalid(message).with_field("name_prefix"));
    }
    let terms = GrantTerms {
        max_size: max_size.into_iter().chain(caller.max_size).min(),
        content_types,
        networks: constraints::parse_networks("networks", &networks)?,
        name_prefix,
        metadata,
        transfers: caller.link_constraints().transfers,
    };
    // The date of a link is in whole seconds.
    let created_at = OffsetDateTime::now_utc().unix_timestamp();
    let record = GrantRecord {
        id: uploads.uids.next().await?,
        tenant: caller.tenant.clone(),
        created_at: created_at * 1000,
        expires_at: created_at.saturating_add(expires_in).saturating_mul(1000),
        revoked_at: None,
        max_uploads: max_uploads.map(check_max_uploads).transpose()?,
        uploads: 0,
        api_key: caller.key.clone(),
        terms: serde_json::to_string(&terms).map_err(Error::internal)?,
    };
    uploads.meta.access.create_grant(record.clone()).await?;
    Ok(UploadGrant { record, terms })
}

fn check_max_uploads(max: u64) -> Result<u32> {
    let fits = u32::try_from(max).ok().filter(|_| (1..=MAX_UPLOADS).contains(&max));
    fits.ok_or_else(|| {
        Error::invalid(format!("`max_uploads` must be 1 to {MAX_UPLOADS}")).with_field("max_uploads")
    })
}

fn check_types(types: &[String]) -> Result<()> {
    if types.len() <= MAX_TYPES && types.iter().all(|one| constraints::is_mime_pattern(one)) {
        return Ok(());
    }
    let message = format!(
        "`content_types` must have at most {MAX_TYPES} MIME types such as image/png or image/*, of at \
         most {MAX_MIME_LEN} bytes each"
    );
    Err(Error::invalid(message).with_field("content_types"))
}
