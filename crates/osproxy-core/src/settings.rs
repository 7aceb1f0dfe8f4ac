//! Settings of a node. The binary reads them from the configuration.

use std::{path::PathBuf, time::Duration};

use osproxy_cluster::{ClusterTiming, RedisSettings};
use osproxy_meta::{CacheLimits, DatabaseLocation};

use crate::{auth::S3MasterKeys, processing::ProcessingSettings, webhooks::WebhookSettings};

/// All settings of a node except its stores, which the caller opens.
pub struct Settings {
    /// Where metadata is stored.
    pub database: DatabaseLocation,
    /// Limits of the metadata cache.
    pub cache: CacheLimits,
    /// Redis, through which nodes that share a database coordinate. Must be `None` if the database
    /// is a file.
    pub redis: Option<RedisSettings>,
    /// Timing of heartbeats in the node registry, and of leases on worker ids.
    pub cluster: ClusterTiming,
    /// Requests that are forwarded to other nodes.
    pub peers: PeerSettings,
    /// Limits of operations.
    pub limits: Limits,
    /// Limits of transfers.
    pub transfers: TransferLimits,
    /// Limits of uploads that are not complete.
    pub reservations: ReservationLimits,
    /// The disks of this machine.
    pub disks: DiskSettings,
    /// Whether callers without an API key are accepted.
    pub is_open: bool,
    /// Webhooks.
    pub webhooks: WebhookSettings,
    /// The keys that sign links: the first signs, all of them verify. If empty, the node uses the
    /// keys in the database; the first start creates a key there.
    pub link_keys: Vec<LinkKeySecret>,
    /// The master keys of the S3 API: the first makes new keys. Empty if the node has no S3 API.
    pub s3_master_keys: S3MasterKeys,
    /// The processing pipeline.
    pub processing: ProcessingSettings,
    /// The version of the program.
    pub build: BuildInfo,
}

impl Settings {
    /// Whether several nodes can share the database.
    pub fn is_clustered(&self) -> bool {
        self.redis.is_some()
    }
}

/// Settings of requests that are forwarded to other nodes.
pub struct PeerSettings {
    /// Secret that authenticates nodes to each other. If `None`, it is derived from the link keys.
    pub secret: Option<Vec<u8>>,
    /// Idle timeout of a forwarded request.
    pub timeout: Duration,
    /// Maximum concurrent forwarded requests.
    pub max_forwards: usize,
}

/// Limits of operations.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum size of a file, in bytes.
    pub max_size: u64,
    /// Maximum size of a part, in bytes.
    pub max_part_size: u64,
    /// Highest part number.
    pub max_parts: u32,
    /// How long an upload session is kept after it has expired, in milliseconds.
    pub expired_retention_ms: i64,
    /// Whether an instant upload requires a proof of possession.
    pub require_possession_proof: bool,
    /// Some expected digests can be verified only by reading all parts of an upload again. For
    /// content of up to this many bytes, this happens before the upload is complete. For larger
    /// content, a task does it later.
    pub max_inline_verification_size: u64,
    /// How long disk space stays reserved for an upload that has received nothing, in milliseconds.
    pub reservation_timeout_ms: i64,
    /// Maximum attempts of a task.
    pub max_task_attempts: u32,
    /// Whether changes record events.
    pub records_events: bool,
    /// How long events are kept, in milliseconds.
    pub event_retention_ms: i64,
    /// Maximum lifetime of a link, in seconds.
    pub max_link_lifetime_secs: i64,
    /// The dates of download links are rounded down to a multiple of this many seconds. All links
    /// to one file that are issued within such a window with the same lifetime have the same date,
    /// so a cache can serve one response for all of them. 0 turns rounding off.
    pub link_rounding_window_secs: i64,
    /// Whether shared caches may store content.
    pub public_links: bool,
    /// New uploads are refused while at least this many writes are pending. A pending write is a
    /// transaction that waits for the database, or received content that is not durable yet.
    pub max_pending_writes: u64,
    /// Memory for small content that is read often, in bytes; 0 turns the cache off.
    pub max_cached_content: u64,
    /// Maximum active upload grants of one tenant.
    pub max_tenant_upload_grants: u64,
}

/// Limits of transfers.
#[derive(Clone, Copy, Debug)]
pub struct TransferLimits {
    /// Maximum concurrent transfers.
    pub max: u32,
    /// Maximum concurrent transfers of one tenant. If `None`, only `max` applies.
    pub max_per_tenant: Option<u32>,
    /// Memory for the buffers of all transfers together, in bytes.
    pub max_buffer_memory: u64,
}

/// Limits of uploads that are not complete.
#[derive(Clone, Copy, Debug)]
pub struct ReservationLimits {
    /// Maximum incomplete uploads of one tenant.
    pub max_tenant_uploads: u64,
    /// Percentage of the object disk that may be reserved for uploads.
    pub max_reserved_percent: u64,
    /// Percentage of the object disk that may be reserved for the uploads of one tenant.
    pub max_reserved_tenant_percent: u64,
}

/// The folders whose disks a node needs, in addition to the folder of an `SQLite` database.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// Folder for all data that is kept on this machine.
    pub data_dir: PathBuf,
    /// Folder of the objects; `None` if this machine stores no objects.
    pub object_folder: Option<PathBuf>,
    /// Space that uploads must leave free, in bytes.
    pub min_free_space: u64,
}

/// Version of a build.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// Version number, as shown in the node registry and in metrics.
    pub version: &'static str,
    /// Commit of the build, with `-dirty` appended if the sources had uncommitted changes. Empty if
    /// unknown.
    pub commit: &'static str,
    /// Version number and commit in readable form: `1.0.0 (1c29f64abcde)`.
    pub full: &'static str,
}

/// A key that signs links.
pub struct LinkKeySecret {
    /// Identifies the key. It is part of every signature that the key makes.
    pub id: String,
    /// The secret, at least 16 random bytes.
    pub secret: Vec<u8>,
}
