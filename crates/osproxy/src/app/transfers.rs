//! How many bodies with content are on their way.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use osproxy_api::ErrorCode;

use crate::{Error, Result, config::LimitsSection, tenant::Tenant};

/// Counts transfers, and refuses those beyond a limit: each of them holds memory, a connection and perhaps a file.
#[derive(Debug)]
pub struct Transfers {
    max: u32,
    max_of_tenant: Option<u32>,
    running: AtomicU32,
    /// Those of each tenant, where that is limited.
    of_tenants: Mutex<HashMap<Tenant, u32>>,
}

/// One that runs until this is dropped.
#[derive(Debug)]
pub struct Transfer {
    transfers: Arc<Transfers>,
    tenant: Option<Tenant>,
}

impl Transfers {
    pub(super) fn new(limits: &LimitsSection) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_transfers,
            max_of_tenant: limits.max_tenant_transfers,
            running: AtomicU32::new(0),
            of_tenants: Mutex::default(),
        })
    }

    /// Begins one, if there may be one more.
    pub fn begin(self: &Arc<Self>) -> Result<Transfer> {
        let one_more = |running| (running < self.max).then_some(running + 1);
        match self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Transfer { transfers: self.clone(), tenant: None }),
            Err(_) => Err(too_many("as much is being sent as this service takes on, try again in a moment")),
        }
    }
}

impl Transfer {
    /// Says whose content it is, which may have as many as it has already.
    pub fn of(&mut self, tenant: &Tenant) -> Result<()> {
        let Some(max) = self.transfers.max_of_tenant else {
            return Ok(());
        };
        let mut of_tenants = self.transfers.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let running = of_tenants.entry(tenant.clone()).or_default();
        if *running >= max {
            return Err(too_many("as much is being sent as may be at the same time, try again in a moment"));
        }
        *running += 1;
        self.tenant = Some(tenant.clone());
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.transfers.running.fetch_sub(1, Ordering::Relaxed);
        let Some(tenant) = self.tenant.take() else {
            return;
        };
        let mut of_tenants = self.transfers.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = of_tenants.get_mut(&tenant) {
            *running -= 1;
            if *running == 0 {
                of_tenants.remove(&tenant);
            }
        }
    }
}

fn too_many(message: &'static str) -> Error {
    Error::new(ErrorCode::Overloaded, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_may_be_and_each_gives_its_place_back() {
        let limits = LimitsSection { max_transfers: 3, max_tenant_transfers: Some(2), ..Default::default() };
        let transfers = Transfers::new(&limits);
        let (one, two): (Tenant, Tenant) = ("one".parse().unwrap(), "two".parse().unwrap());
        let begin = |tenant| {
            let mut transfer = transfers.begin()?;
            transfer.of(tenant).map(|()| transfer)
        };
        let (first, second) = (begin(&one).unwrap(), begin(&one).unwrap());
        assert_eq!(begin(&one).unwrap_err().code, ErrorCode::Overloaded);
        let third = begin(&two).unwrap();
        assert!(begin(&two).is_err());
        drop((first, third));
        let _again = (begin(&one).unwrap(), begin(&two).unwrap());
        assert!(begin(&two).is_err());
        drop(second);
        assert!(begin(&two).is_ok());
    }
}
