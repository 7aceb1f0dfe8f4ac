//! Limits on uploads that are not complete: their number, and the disk space reserved for them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use osproxy_api::ErrorCode;
use osproxy_meta::DatabaseLocation;
use osproxy_storage::DiskSpace;
use osproxy_types::tenant::Tenant;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use crate::{
    Error, Result,
    cached::Cached,
    settings::{DiskSettings, ReservationLimits},
};

/// How long a measurement of a disk is reused.
const DISK_TTL: Duration = Duration::from_secs(1);
/// How long measuring a disk may take. After that, uploads proceed without a measurement, and fail
/// if the disk is full.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a tenant's upload count is cached. Uploads that this node starts meanwhile are added to
/// the cached count.
const USAGE_TTL: Duration = Duration::from_secs(10);
/// Maximum age of a cached count that may cause a refusal. An older count is refreshed first.
const REFUSAL_TTL: Duration = Duration::from_secs(1);
/// Maximum number of cached tenants.
const CACHED_TENANTS: usize = 10_000;

/// Limits on uploads that are not complete.
pub(crate) struct DiskReservations {
    disks: Vec<LocalDisk>,
    limits: ReservationLimits,
    tenants: Cache<Tenant, Arc<UploadUsage>>,
    /// Held while the uploads of a tenant are counted, so that concurrent requests share one count.
    counting: Mutex<()>,
    /// Bytes reserved for uploads of all tenants.
    reserved: AtomicU64,
}

/// A disk of this machine.
struct LocalDisk {
    folder: Arc<Path>,
    has_objects: bool,
    /// Space that uploads must leave free, in bytes.
    min_free_space: u64,
    space: Cached<DiskSpace>,
}

/// Number of a tenant's incomplete uploads, and the disk space reserved for them.
struct UploadUsage {
    counted_at: Instant,
    uploads: AtomicU64,
    /// In bytes.
    reserved: AtomicU64,
}

impl DiskReservations {
    pub(crate) fn new(
        limits: ReservationLimits,
        settings: &DiskSettings,
        database: &DatabaseLocation,
    ) -> Self {
        let disk = |folder: &Path, has_objects| LocalDisk {
            folder: folder.into(),
            has_objects,
            min_free_space: settings.min_free_space,
            space: Cached::new(DISK_TTL).with_timeout(MEASURE_TIMEOUT),
        };
        let mut disks = Vec::new();
        if let DatabaseLocation::File(path) = database {
            // A bare file name is relative to the working directory.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            disks.push(disk(folder.unwrap_or(Path::new(".")), false));
        }
        disks.extend(settings.object_folder.as_deref().map(|folder| disk(folder, true)));
        Self {
            disks,
            limits,
            tenants: Cache::new(CACHED_TENANTS),
            counting: Mutex::default(),
            reserved: AtomicU64::new(0),
        }
    }
}

impl LocalDisk {
    /// Returns the space on the disk; `None` if it does not answer.
    async fn space(&self) -> Option<DiskSpace> {
        let folder = self.folder.clone();
        let measure = async move {
            let measurement = tokio::task::spawn_blocking(move || DiskSpace::of(&folder));
            measurement.await.map_err(Error::internal)?.map_err(Error::internal)
        };
        self.space.get(measure).await.ok()
    }
}

impl super::Admission {
    /// Returns `StorageFull` if a local disk has less than `local.min_free_space` free. The disk of
    /// the objects must have `bytes` free in addition. Checks nothing if `local.min_free_space` is
    /// 0, and ignores disks that do not answer.
    pub async fn check_free_space(&self, bytes: u64) -> Result<()> {
        for disk in self.reservations.disks.iter().filter(|disk| disk.min_free_space > 0) {
            let needed = if disk.has_objects {
                disk.min_free_space.saturating_add(bytes)
            } else {
                disk.min_free_space
            };
            if disk.space().await.is_some_and(|space| space.free < needed) {
                return Err(Error::storage_full(
                    "too little disk space is free: `local.min_free_space` must stay free",
                ));
            }
        }
        Ok(())
    }

    /// Charges `more` uploads to a tenant. Returns `QuotaExceeded` if the tenant would exceed its
    /// limit of incomplete uploads. Uploads that other nodes create are counted some seconds later.
    pub async fn charge_incomplete_uploads(&self, tenant: &Tenant, more: u64) -> Result<()> {
        let max = self.reservations.limits.max_tenant_uploads;
        for max_age in [USAGE_TTL, REFUSAL_TTL] {
            let usage = self.upload_usage(tenant, max_age).await?;
            if usage.uploads.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= max {
                return Ok(());
            }
            usage.uploads.fetch_sub(more, Ordering::Relaxed);
        }
        let message =
            format!("at most {max} uploads may be incomplete at the same time; complete or abort some");
        Err(Error::new(ErrorCode::QuotaExceeded, message))
    }

    /// Counts `bytes` of disk space as reserved for an upload of `tenant`. Returns `false`, and
    /// counts nothing, if the tenant or all tenants together would exceed their share of the disk,
    /// or if the disk does not answer.
    pub(crate) async fn try_reserve(&self, tenant: &Tenant, bytes: u64) -> Result<bool> {
        let reservations = &self.reservations;
        let Some(disk) = reservations.disks.iter().find(|disk| disk.has_objects) else {
            return Ok(true);
        };
        let Some(space) = disk.space().await else {
            return Ok(false);
        };
        let fits = |reserved: &AtomicU64, share: u64| {
            reserved.load(Ordering::Relaxed).saturating_add(bytes) <= space.total / 100 * share
        };
        let usage = self.upload_usage(tenant, USAGE_TTL).await?;
        if !fits(&usage.reserved, reservations.limits.max_reserved_tenant_percent)
            || !fits(&reservations.reserved, reservations.limits.max_reserved_percent)
        {
            return Ok(false);
        }
        usage.reserved.fetch_add(bytes, Ordering::Relaxed);
        reservations.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    /// Returns the usage of a tenant, counted at most `max_age` ago.
    async fn upload_usage(&self, tenant: &Tenant, max_age: Duration) -> Result<Arc<UploadUsage>> {
        let reservations = &self.reservations;
        let cached = || reservations.tenants.get(tenant).filter(|usage| usage.counted_at.elapsed() < max_age);
        if let Some(usage) = cached() {
            return Ok(usage);
        }
        let _counting = reservations.counting.lock().await;
        if let Some(usage) = cached() {
            return Ok(usage);
        }
        let counted_at = Instant::now();
        let open = self.meta.uploads.open_uploads(tenant).await?;
        reservations.reserved.store(open.reserved_total, Ordering::Relaxed);
        let (uploads, reserved) = (AtomicU64::new(open.uploads), AtomicU64::new(open.reserved));
        let usage = Arc::new(UploadUsage { counted_at, uploads, reserved });
        reservations.tenants.insert(tenant.clone(), usage.clone());
        Ok(usage)
    }
}
