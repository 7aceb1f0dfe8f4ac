//! Converts the configuration to the settings of a node.

use std::time::Duration;

use osproxy_cluster::RedisSettings;
use osproxy_core::{
    settings::{
        DiskSettings, Limits, LinkKeySecret, PeerSettings, ReservationLimits, Settings, TransferLimits,
    },
    startup::{StartupError, context},
};
use osproxy_meta::{CacheLimits, DatabaseLocation, DatabaseOptions, NodeStores};

use crate::{
    config::{AuthMode, Config, LinkKeySection, StoreKind},
    version,
};

/// Returns the settings of a node. Fails if settings conflict or a secret cannot be read. Blocks
/// while it reads secrets from files.
pub fn node_settings(config: &Config) -> Result<Settings, StartupError> {
    let database = config.database_location().map_err(context("cannot use the database"))?;
    let redis = redis(config, &database)?;
    let link_keys = link_keys(config)?;
    let processing = config.processing_settings().map_err(|problems| problems.join("; "));
    let s3_master_keys = match config.s3_api.listen {
        Some(_) => {
            super::s3_master_key::existing_or_new(config).map_err(context("cannot serve the S3 API"))?
        }
        None => Vec::new(),
    };
    let secret = config.cluster.secret().map_err(context("cannot use the cluster secret"))?;
    Ok(Settings {
        database,
        cache: cache_limits(config),
        redis,
        cluster: config.cluster.timing(),
        peers: PeerSettings {
            secret,
            timeout: Duration::from_secs(config.cluster.forward_timeout),
            max_forwards: (config.server.max_connections / 2).max(1).into(),
        },
        limits: limits(config),
        transfers: TransferLimits {
            max: config.limits.max_transfers,
            max_per_tenant: config.limits.max_tenant_transfers,
            max_buffer_memory: config.limits.max_buffer_memory,
        },
        reservations: ReservationLimits {
            max_tenant_uploads: config.limits.max_tenant_uploads.into(),
            max_reserved_percent: config.local.max_reserved_percent.into(),
            max_reserved_tenant_percent: config.local.max_reserved_tenant_percent.into(),
        },
        disks: DiskSettings {
            data_dir: config.data_dir.clone(),
            object_folder: config.stores().contains(&StoreKind::Local).then(|| config.object_folder()),
            min_free_space: config.local.min_free_space,
        },
        is_open: config.auth.mode == AuthMode::Open,
        webhooks: config.webhooks.settings().map_err(context("cannot use the settings of webhooks"))?,
        link_keys,
        s3_master_keys: s3_master_keys.into(),
        processing: processing.map_err(context("cannot use the processing pipeline"))?,
        build: version::BUILD,
    })
}

/// Returns the options to open the database for a process that can access `node_stores`.
pub fn database_options(config: &Config, node_stores: NodeStores) -> DatabaseOptions {
    DatabaseOptions {
        node_stores,
        cache: cache_limits(config),
        max_task_attempts: config.tasks.max_attempts,
        records_events: config.events.enabled,
    }
}

/// Returns the configured size and lifetime of the metadata cache.
fn cache_limits(config: &Config) -> CacheLimits {
    CacheLimits {
        max_entries: usize::try_from(config.database.cache_entries).unwrap_or(usize::MAX),
        max_age: Duration::from_secs(config.database.cache_max_age),
    }
}

/// Returns the settings of Redis. `None` if Redis is not configured, or if the database is a file:
/// a single node needs no Redis.
fn redis(config: &Config, database: &DatabaseLocation) -> Result<Option<RedisSettings>, StartupError> {
    match database {
        DatabaseLocation::File(_) => Ok(None),
        DatabaseLocation::Server(_) => {
            let redis = config.redis.settings().map_err(|problems| problems.join("; "));
            redis.map_err(context("cannot use Redis"))
        }
    }
}

/// Returns the limits of operations.
pub fn limits(config: &Config) -> Limits {
    Limits {
        max_size: config.uploads.max_size,
        max_part_size: config.uploads.max_part_size,
        max_parts: config.uploads.max_parts,
        expired_retention_ms: config.uploads.expired_retention.saturating_mul(1000).cast_signed(),
        require_possession_proof: config.uploads.require_possession_proof,
        max_inline_verification_size: config.uploads.max_inline_verification_size,
        reservation_timeout_ms: config.local.reservation_timeout.saturating_mul(1000).cast_signed(),
        max_task_attempts: config.tasks.max_attempts,
        records_events: config.events.enabled,
        event_retention_ms: config.events.retention.saturating_mul(1000).cast_signed(),
        max_link_lifetime_secs: config.links.max_lifetime.cast_signed(),
        link_rounding_window_secs: config.links.rounding_window.cast_signed(),
        public_links: config.links.public_cache,
        max_pending_writes: config.limits.max_pending_writes.into(),
        max_cached_content: config.limits.max_cached_content,
        max_tenant_upload_grants: config.limits.max_tenant_upload_grants.into(),
    }
}

/// Returns the configured link keys, if there are any. Blocks while it reads secrets from files.
pub fn link_keys(config: &Config) -> Result<Vec<LinkKeySecret>, StartupError> {
    let key = |key: &LinkKeySection| {
        let secret = key.secret().map_err(context("cannot use the link keys"))?;
        Ok(LinkKeySecret { id: key.id.clone(), secret })
    };
    config.links.keys.iter().map(key).collect()
}
