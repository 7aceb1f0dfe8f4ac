//! API keys, link keys, link revocation, idempotency keys, tenants and their quotas.

pub(crate) mod api_keys;
pub(crate) mod idempotency;
pub(crate) mod link_keys;
pub(crate) mod links;
pub(crate) mod quotas;
pub(crate) mod tenants;
