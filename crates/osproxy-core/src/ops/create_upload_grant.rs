//! Create an upload grant.

use osproxy_api::{ErrorCode, v1::CreateUploadGrantRequest};
use osproxy_meta::AccessDb;
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{Tenant, UploadOps, check_expire, file_name};
use crate::{
    Caller, Error, Result,
    auth::{GrantRecord, GrantTerms, UploadGrant},
    boxed_future,
    links::{
        CountedLimit,
        constraints::{self, MAX_MIME_LEN},
    },
    metadata::check_partial_metadata,
    settings::Limits,
};

/// Maximum number of MIME types.
const MAX_TYPES: usize = 16;
/// Maximum length of the prefix of names, in bytes.
const MAX_PREFIX_LEN: usize = 255;
/// Maximum value of `max_uploads`.
const MAX_UPLOADS: u64 = 1_000_000;

/// Who creates a grant, and what applies to all links of this creator.
#[derive(Clone, Debug)]
pub struct GrantCreator {
    /// Owner of the files that are created under the grant.
    pub tenant: Tenant,
    /// Id of the API key; `None` for an operator.
    pub key: Option<String>,
    /// Maximum size of a file, in bytes.
    pub max_size: Option<u64>,
    /// Maximum concurrent transfers.
    pub transfers: Option<CountedLimit>,
}

/// Creates an upload grant of the caller's tenant. Durably records it. Fails with `InvalidArgument`
/// if the request is invalid, and as [`record_grant`] does.
#[boxed_future]
pub async fn create_upload_grant(
    uploads: &UploadOps,
    caller: &Caller,
    request: CreateUploadGrantRequest,
) -> Result<UploadGrant> {
    let creator = GrantCreator {
        tenant: caller.tenant.clone(),
        key: caller.key.clone(),
        max_size: caller.max_size,
        transfers: caller.link_constraints().transfers,
    };
    uploads.admission.admit_instant_uploads().await?;
    let grant = new_grant(&uploads.limits, uploads.uids.next().await?, creator, request)?;
    record_grant(&uploads.meta.access, &uploads.limits, &grant).await?;
    Ok(grant)
}

/// Durably records a new grant. Fails with `QuotaExceeded` if the tenant has too many active grants.
pub async fn record_grant(db: &AccessDb, limits: &Limits, grant: &UploadGrant) -> Result<()> {
    let max = limits.max_tenant_upload_grants;
    if db.create_grant(grant.record.clone(), max).await? {
        return Ok(());
    }
    let message = format!("a tenant may have at most {max} active upload grants; revoke some");
    Err(Error::new(ErrorCode::QuotaExceeded, message))
}

/// Returns a new grant, which is not recorded yet. Fails with `InvalidArgument` if the request is
/// invalid.
pub fn new_grant(
    limits: &Limits,
    id: Uid,
    creator: GrantCreator,
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
    check_expire(limits, expires_in)?;
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
        max_size: max_size.into_iter().chain(creator.max_size).min(),
        content_types,
        networks: constraints::parse_networks("networks", &networks)?,
        name_prefix,
        metadata,
        transfers: creator.transfers,
    };
    // The date of a link is in whole seconds.
    let created_at = OffsetDateTime::now_utc().unix_timestamp();
    let record = GrantRecord {
        id,
        tenant: creator.tenant,
        created_at: created_at * 1000,
        expires_at: created_at.saturating_add(expires_in).saturating_mul(1000),
        revoked_at: None,
        max_uploads: max_uploads.map(check_max_uploads).transpose()?,
        uploads: 0,
        api_key: creator.key,
        terms: serde_json::to_string(&terms).map_err(Error::internal)?,
    };
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
