//! The decision whether a request may start: backpressure, disk space, concurrency and quota.

use std::sync::Arc;

use osproxy_storage::{BufferReservation, SizeHint};
use osproxy_types::tenant::Tenant;

use super::{
    Admission,
    backpressure::WorkKind,
    transfers::{Transfer, buffered_bytes},
};
use crate::{Error, Result, links::LinkConstraints, metrics::InFlightGuard};

/// An admitted transfer. Until it is dropped, it counts against the concurrency limits and holds
/// its buffer memory.
#[derive(Debug)]
pub struct AdmissionGuard {
    transfer: Transfer,
    _running: InFlightGuard,
}

impl Admission {
    /// Decides whether `count` new upload sessions of `tenant` may be created. Fails under
    /// backpressure, if a local disk is full, or at the tenant's limit of incomplete uploads.
    pub async fn admit_uploads(&self, tenant: &Tenant, count: u64) -> Result<()> {
        self.check_backpressure(WorkKind::Upload)?;
        self.check_free_space(0).await?;
        self.charge_incomplete_uploads(tenant, count).await
    }

    /// Decides whether files of known content may be created. Fails under backpressure, or if a
    /// local disk is full.
    pub async fn admit_instant_uploads(&self) -> Result<()> {
        self.check_backpressure(WorkKind::Upload)?;
        self.check_free_space(0).await
    }

    /// Admits a body of this size, sent through a link with these constraints. Fails under
    /// backpressure, if a local disk is full, at a concurrency limit, or if not enough buffer
    /// memory becomes free within 10 seconds. The tenant is not known yet: call
    /// [`check_tenant_limits`](AdmissionGuard::check_tenant_limits) before streaming.
    pub async fn admit_content(
        &self,
        constraints: &LinkConstraints,
        size: SizeHint,
    ) -> Result<AdmissionGuard> {
        self.check_backpressure(WorkKind::Content)?;
        self.check_free_space(0).await?;
        let buffered = if self.stores.needs_part_lengths() { buffered_bytes(size) } else { 0 };
        let transfer = self.transfers.admit(constraints, buffered).await?;
        Ok(AdmissionGuard { transfer, _running: self.metrics.uploads.begin() })
    }

    /// Admits a download of a file of `tenant`, through a link with these constraints. Fails at a
    /// concurrency limit, or if not enough buffer memory becomes free within 10 seconds.
    pub async fn admit_download(
        &self,
        constraints: &LinkConstraints,
        tenant: &Tenant,
    ) -> Result<AdmissionGuard> {
        let mut transfer = self.transfers.admit(constraints, 0).await?;
        transfer.charge(tenant)?;
        Ok(AdmissionGuard { transfer, _running: self.metrics.downloads.begin() })
    }
}

impl AdmissionGuard {
    /// Charges the transfer to the tenant of its file. Fails at the tenant's concurrency limit, or
    /// if the content would exceed the tenant's quota.
    ///
    /// `uncharged` is the size of content that is not charged to the quota yet; `None` means that
    /// nothing remains to be charged. Only an exact size is checked here. The check ignores other
    /// running uploads, which are charged when they end.
    pub async fn check_tenant_limits(
        &mut self,
        admission: &Admission,
        tenant: &Tenant,
        uncharged: Option<SizeHint>,
    ) -> Result<()> {
        self.transfer.charge(tenant)?;
        match uncharged {
            Some(SizeHint::Exact(size)) if !admission.meta.tenants.has_quota_left(tenant, size).await? => {
                Err(Error::quota_exceeded())
            }
            _ => Ok(()),
        }
    }

    /// Returns the buffer memory of this transfer. Code that uses the buffers after the transfer is
    /// dropped must keep the returned value.
    pub(crate) fn buffers(&self) -> Option<Arc<BufferReservation>> {
        self.transfer.buffers()
    }
}
