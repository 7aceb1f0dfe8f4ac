//! API keys, keys of the S3 API, link keys, link revocation, upload grants, idempotency keys,
//! tenants and their quotas.

pub(crate) mod api_keys;
pub(crate) mod idempotency;
pub(crate) mod link_keys;
pub(crate) mod links;
pub(crate) mod quotas;
pub(crate) mod s3_keys;
pub(crate) mod tenants;
pub(crate) mod upload_grants;

use std::sync::Arc;

use crate::db::database::Database;

/// API keys, keys of the S3 API, link keys, upload grants, and the revocation and use counts of
/// links.
#[derive(Clone)]
pub struct AccessDb {
    pub(crate) db: Arc<Database>,
}

/// Tenants, their usage and their quotas.
#[derive(Clone)]
pub struct TenantDb {
    pub(crate) db: Arc<Database>,
}

/// Idempotency keys and the recorded answers.
#[derive(Clone)]
pub struct IdempotencyDb {
    pub(crate) db: Arc<Database>,
}
