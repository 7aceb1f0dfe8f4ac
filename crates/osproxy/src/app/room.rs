//! What uploads may hold before they are complete: rows of the database, and room on the disks of this machine.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use osproxy_api::ErrorCode;
use osproxy_storage::DiskSpace;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::App;
use crate::{
    Error, Result,
    config::{Config, DatabaseLocation, StoreKind},
    tenant::Tenant,
};

/// How long a measured disk is taken to be as it was.
const MEASURED: Duration = Duration::from_secs(1);
/// How long a disk may take to be measured; after that, uploads find out for themselves.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what a tenant's uploads hold is taken to be what was counted, and what was begun here since.
const COUNTED: Duration = Duration::from_secs(10);
/// How long a refusal is based on the same count.
const REFUSED: Duration = Duration::from_secs(1);
/// Of how many tenants it is known.
const TENANTS: usize = 10_000;

/// Bounds on what uploads hold.
pub(super) struct Room {
    disks: Vec<Disk>,
    /// Most uploads of a tenant that are not complete.
    max_uploads: u64,
    tenants: Cache<Tenant, Arc<Held>>,
    /// Held while a tenant's uploads are counted: one is, however many requests there are.
    counting: Mutex<()>,
    /// Bytes that are reserved for uploads of all tenants.
    reserved: AtomicU64,
    /// Per cent of the objects' disk that may be reserved, and for one tenant.
    share: u64,
    tenant_share: u64,
}

/// A disk of this machine.
struct Disk {
    folder: PathBuf,
    has_objects: bool,
    /// What uploads must leave free, in bytes.
    keep_free: u64,
    measured: Mutex<Option<(Instant, DiskSpace)>>,
}

/// What the uploads of a tenant hold that are not complete.
struct Held {
    counted: Instant,
    uploads: AtomicU64,
    /// Bytes.
    reserved: AtomicU64,
}

impl Room {
    pub(super) fn new(config: &Config, database: &DatabaseLocation) -> Self {
        let local = &config.local;
        let disk = |folder, has_objects| Disk {
            folder,
            has_objects,
            keep_free: local.keep_free,
            measured: Mutex::default(),
        };
        let mut disks = Vec::new();
        if let DatabaseLocation::File(path) = database {
            // A bare file name lies in the working directory.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            disks.push(disk(folder.map_or_else(|| PathBuf::from("."), Into::into), false));
        }
        if config.stores().contains(&StoreKind::Local) {
            disks.push(disk(config.objects_root(), true));
        }
        Self {
            disks,
            max_uploads: config.limits.max_tenant_uploads.into(),
            tenants: Cache::new(TENANTS),
            counting: Mutex::default(),
            reserved: AtomicU64::new(0),
            share: local.reserve_percent.into(),
            tenant_share: local.reserve_tenant_percent.into(),
        }
    }
}

impl Disk {
    /// How much room there is; `None` if the disk does not answer.
    async fn space(&self) -> Option<DiskSpace> {
        let mut measured = self.measured.lock().await;
        if let Some((at, space)) = *measured
            && at.elapsed() < MEASURED
        {
            return Some(space);
        }
        let folder = self.folder.clone();
        let measuring = tokio::task::spawn_blocking(move || DiskSpace::of(&folder));
        let space = tokio::time::timeout(PATIENCE, measuring).await.ok()?.ok()?.ok()?;
        *measured = Some((Instant::now(), space));
        Some(space)
    }
}

impl App {
    /// Returns `StorageFull` unless there is room for `bytes` of content beside `local.keep_free`, and for the rows of the
    /// database that lies on a disk of this machine.
    pub async fn must_leave_free(&self, bytes: u64) -> Result<()> {
        for disk in self.room.disks.iter().filter(|disk| disk.keep_free > 0) {
            let needed = if disk.has_objects { disk.keep_free.saturating_add(bytes) } else { disk.keep_free };
            if disk.space().await.is_some_and(|space| space.free < needed) {
                return Err(Error::storage_full("a disk has no more room than is kept free"));
            }
        }
        Ok(())
    }

    /// Returns `QuotaExceeded` unless a tenant may have `more` uploads that are not complete. What other nodes have begun is known
    /// some seconds later.
    pub async fn must_complete_uploads(&self, tenant: &Tenant, more: u64) -> Result<()> {
        let max = self.room.max_uploads;
        let mut held = self.held(tenant, COUNTED).await?;
        if held.uploads.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= max {
            return Ok(());
        }
        held.uploads.fetch_sub(more, Ordering::Relaxed);
        held = self.held(tenant, REFUSED).await?;
        if held.uploads.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= max {
            return Ok(());
        }
        held.uploads.fetch_sub(more, Ordering::Relaxed);
        let message =
            format!("there must be at most {max} uploads that are not complete; complete or abort some");
        Err(Error::new(ErrorCode::QuotaExceeded, message))
    }

    /// Whether room on the disk may be reserved for an upload of a tenant that has `bytes`.
    pub(super) async fn may_reserve(&self, tenant: &Tenant, bytes: u64) -> Result<bool> {
        let room = &self.room;
        let Some(disk) = room.disks.iter().find(|disk| disk.has_objects) else {
            return Ok(true);
        };
        let Some(space) = disk.space().await else {
            return Ok(false);
        };
        let fits = |reserved: &AtomicU64, share: u64| {
            reserved.load(Ordering::Relaxed).saturating_add(bytes) <= space.total / 100 * share
        };
        let held = self.held(tenant, COUNTED).await?;
        if !fits(&held.reserved, room.tenant_share) || !fits(&room.reserved, room.share) {
            return Ok(false);
        }
        held.reserved.fetch_add(bytes, Ordering::Relaxed);
        room.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    /// What the uploads of a tenant hold, counted not longer than this ago.
    async fn held(&self, tenant: &Tenant, age: Duration) -> Result<Arc<Held>> {
        let room = &self.room;
        let known = || room.tenants.get(tenant).filter(|held| held.counted.elapsed() < age);
        if let Some(held) = known() {
            return Ok(held);
        }
        let _counting = room.counting.lock().await;
        if let Some(held) = known() {
            return Ok(held);
        }
        let counted = Instant::now();
        let open = self.meta.open_uploads(tenant).await?;
        room.reserved.store(open.reserved_by_all, Ordering::Relaxed);
        let (uploads, reserved) = (AtomicU64::new(open.uploads), AtomicU64::new(open.reserved));
        let held = Arc::new(Held { counted, uploads, reserved });
        room.tenants.insert(tenant.clone(), held.clone());
        Ok(held)
    }
}
