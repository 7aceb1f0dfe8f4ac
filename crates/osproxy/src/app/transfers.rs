//! How many bodies with content are on their way.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use osproxy_api::ErrorCode;

use crate::{
    Error, Result,
    config::LimitsSection,
    link::{Limit, Terms},
    tenant::Tenant,
};

/// Counts transfers, and refuses those beyond a limit: each of them holds memory, a connection and perhaps a file.
#[derive(Debug)]
pub struct Transfers {
    max: u32,
    max_of_tenant: Option<u32>,
    running: AtomicU32,
    /// Those that are counted for somebody.
    counted: Mutex<HashMap<Payer, u32>>,
}

/// Whom a transfer is counted for, where that is limited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Payer {
    Tenant(Tenant),
    /// An API key, by its id.
    Key(String),
}

/// One that runs until this is dropped.
#[derive(Debug)]
pub struct Transfer {
    transfers: Arc<Transfers>,
    payers: Vec<Payer>,
}

impl Transfers {
    pub(super) fn new(limits: &LimitsSection) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_transfers,
            max_of_tenant: limits.max_tenant_transfers,
            running: AtomicU32::new(0),
            counted: Mutex::default(),
        })
    }

    /// Begins one by a link with these terms, if there may be one more.
    pub fn begin(self: &Arc<Self>, terms: &Terms) -> Result<Transfer> {
        let one_more = |running| (running < self.max).then_some(running + 1);
        let begun = self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.map_err(|_| too_many_transfers())?;
        let mut transfer = Transfer { transfers: self.clone(), payers: Vec::new() };
        if let Some(Limit { id, max }) = &terms.transfers {
            transfer.count(Payer::Key(id.clone()), *max)?;
        }
        Ok(transfer)
    }
}

impl Transfer {
    /// Says whose content it is, which may have as many as it has already.
    pub fn of(&mut self, tenant: &Tenant) -> Result<()> {
        match self.transfers.max_of_tenant {
            Some(max) => self.count(Payer::Tenant(tenant.clone()), max),
            None => Ok(()),
        }
    }

    fn count(&mut self, payer: Payer, max: u32) -> Result<()> {
        let mut counted = self.transfers.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let running = counted.get(&payer).copied().unwrap_or(0);
        if running >= max {
            return Err(too_many("as much is being sent as may be at the same time, try again in a moment"));
        }
        counted.insert(payer.clone(), running + 1);
        self.payers.push(payer);
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.transfers.running.fetch_sub(1, Ordering::Relaxed);
        if self.payers.is_empty() {
            return;
        }
        let mut counted = self.transfers.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for payer in self.payers.drain(..) {
            match counted.get_mut(&payer) {
                Some(running) if *running > 1 => *running -= 1,
                _ => {
                    counted.remove(&payer);
                }
            }
        }
    }
}

/// The answer when there are as many as there may be at all.
pub fn too_many_transfers() -> Error {
    too_many("as much is being sent as this service takes on, try again in a moment")
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
            let mut transfer = transfers.begin(&Terms::default())?;
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
        assert_eq!(transfers.counted.lock().unwrap().len(), 2);
    }

    #[test]
    fn links_of_a_key_that_has_a_limit_share_it() {
        let transfers = Transfers::new(&LimitsSection::default());
        let of =
            |id: &str| Terms { transfers: Some(Limit { id: id.to_owned(), max: 1 }), ..Terms::default() };
        let first = transfers.begin(&of("a")).unwrap();
        assert_eq!(transfers.begin(&of("a")).unwrap_err().code, ErrorCode::Overloaded);
        let others = (transfers.begin(&of("b")).unwrap(), transfers.begin(&Terms::default()).unwrap());
        drop(first);
        let _again = transfers.begin(&of("a")).unwrap();
        drop(others);
        assert_eq!(
            (transfers.running.load(Ordering::Relaxed), transfers.counted.lock().unwrap().len()),
            (1, 1)
        );
    }
}
