//! Admission of transfers: concurrency limits and buffer memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use osproxy_api::ErrorCode;
use osproxy_storage::{BufferBudget, BufferReservation, SizeHint, UNKNOWN_PART};
use osproxy_types::tenant::Tenant;

use crate::{
    Error, Result,
    links::{CountedLimit, LinkConstraints},
    settings::TransferLimits,
};

/// Buffer memory of each transfer, in bytes. Content of unknown length needs more: see
/// [`buffered_bytes`].
const BUFFER_BYTES: u64 = 1 << 20;
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// Limits concurrent transfers, because each holds memory, a connection and perhaps an open file.
#[derive(Debug)]
pub struct Transfers {
    limits: TransferLimits,
    running: AtomicU32,
    buffers: BufferBudget,
    /// How long a transfer waits for memory.
    wait: Duration,
    /// Running transfers by payer.
    running_by_payer: Mutex<HashMap<Payer, u32>>,
}

/// A tenant or API key whose concurrency limit a transfer counts against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Payer {
    Tenant(Tenant),
    /// The id of an API key.
    Key(String),
}

/// A running transfer. When it is dropped, it no longer counts against the concurrency limits, and
/// its memory is freed.
#[derive(Debug)]
pub struct Transfer {
    transfers: Arc<Transfers>,
    payers: Vec<Payer>,
    buffers: Option<Arc<BufferReservation>>,
}

impl Transfers {
    pub(crate) fn new(limits: TransferLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            running: AtomicU32::new(0),
            buffers: BufferBudget::new(limits.max_buffer_memory),
            wait: MEMORY_WAIT,
            running_by_payer: Mutex::default(),
        })
    }

    /// The memory that the buffers of all transfers share.
    pub(crate) fn buffers(&self) -> &BufferBudget {
        &self.buffers
    }

    /// Admits a transfer through a link with these constraints. `buffered` is the memory for
    /// content that must be buffered, in bytes, on top of the fixed buffers of a transfer. Fails
    /// with `Overloaded` at a concurrency limit, or if not enough memory becomes free within 10
    /// seconds.
    pub async fn admit(self: &Arc<Self>, terms: &LinkConstraints, buffered: u64) -> Result<Transfer> {
        let one_more = |running| (running < self.limits.max).then_some(running + 1);
        let begun = self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.map_err(|_| too_many_transfers())?;
        let mut transfer = Transfer { transfers: self.clone(), payers: Vec::new(), buffers: None };
        if let Some(CountedLimit { id, max }) = &terms.transfers {
            transfer.charge_payer(Payer::Key(id.clone()), *max)?;
        }
        let reserved = self.buffers.reserve(BUFFER_BYTES + buffered, self.wait).await;
        let reserved = reserved.ok_or_else(|| too_many("all memory for transfers is in use; retry later"))?;
        transfer.buffers = Some(Arc::new(reserved));
        Ok(transfer)
    }
}

/// Returns the memory, in bytes, for buffering content of this length. Needed if a store must know
/// the length of a part in advance.
pub(crate) fn buffered_bytes(size: SizeHint) -> u64 {
    match size {
        SizeHint::Exact(_) => 0,
        // One part, and the bytes that arrive while that part is sent to the store.
        SizeHint::AtMost(_) | SizeHint::Unknown => {
            size.at_most().unwrap_or(u64::MAX).min(UNKNOWN_PART) + BUFFER_BYTES
        }
    }
}

impl Transfer {
    /// Returns the buffer memory of this transfer. Code that uses the buffers after the transfer is
    /// dropped must keep the returned value.
    pub fn buffers(&self) -> Option<Arc<BufferReservation>> {
        self.buffers.clone()
    }

    /// Charges this transfer to `tenant`. Fails with `Overloaded` at the concurrency limit of the
    /// tenant.
    pub fn charge(&mut self, tenant: &Tenant) -> Result<()> {
        match self.transfers.limits.max_per_tenant {
            Some(max) => self.charge_payer(Payer::Tenant(tenant.clone()), max),
            None => Ok(()),
        }
    }

    /// Charges this transfer to a payer, once.
    fn charge_payer(&mut self, payer: Payer, max: u32) -> Result<()> {
        if self.payers.contains(&payer) {
            return Ok(());
        }
        let mut counted = self.transfers.running_by_payer.lock().unwrap_or_else(PoisonError::into_inner);
        let running = counted.get(&payer).copied().unwrap_or(0);
        if running >= max {
            return Err(too_many("too many concurrent transfers for this tenant or API key; retry later"));
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
        let mut counted = self.transfers.running_by_payer.lock().unwrap_or_else(PoisonError::into_inner);
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

/// The error when the service has too many transfers.
pub fn too_many_transfers() -> Error {
    too_many("too many concurrent transfers; retry later")
}

fn too_many(message: &'static str) -> Error {
    Error::new(ErrorCode::Overloaded, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TransferLimits =
        TransferLimits { max: 1024, max_per_tenant: None, max_buffer_memory: 1 << 30 };

    async fn begin(transfers: &Arc<Transfers>, tenant: &Tenant) -> Result<Transfer> {
        let mut transfer = transfers.admit(&LinkConstraints::default(), 0).await?;
        transfer.charge(tenant).map(|()| transfer)
    }

    #[tokio::test]
    async fn there_are_no_more_than_may_be_and_each_gives_its_place_back() {
        let limits = TransferLimits { max: 3, max_per_tenant: Some(2), ..LIMITS };
        let transfers = Transfers::new(limits);
        let (one, two): (Tenant, Tenant) = ("one".parse().unwrap(), "two".parse().unwrap());
        let (first, second) =
            (begin(&transfers, &one).await.unwrap(), begin(&transfers, &one).await.unwrap());
        assert_eq!(begin(&transfers, &one).await.unwrap_err().code, ErrorCode::Overloaded);
        let third = begin(&transfers, &two).await.unwrap();
        assert!(begin(&transfers, &two).await.is_err());
        drop((first, third));
        let _again = (begin(&transfers, &one).await.unwrap(), begin(&transfers, &two).await.unwrap());
        assert!(begin(&transfers, &two).await.is_err());
        drop(second);
        assert!(begin(&transfers, &two).await.is_ok());
        assert_eq!(transfers.running_by_payer.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn links_of_a_key_that_has_a_limit_share_it() {
        let transfers = Transfers::new(LIMITS);
        let of = |id: &str| LinkConstraints {
            transfers: Some(CountedLimit { id: id.to_owned(), max: 1 }),
            ..LinkConstraints::default()
        };
        let first = transfers.admit(&of("a"), 0).await.unwrap();
        assert_eq!(transfers.admit(&of("a"), 0).await.unwrap_err().code, ErrorCode::Overloaded);
        let others = (
            transfers.admit(&of("b"), 0).await.unwrap(),
            transfers.admit(&LinkConstraints::default(), 0).await.unwrap(),
        );
        drop(first);
        let _again = transfers.admit(&of("a"), 0).await.unwrap();
        drop(others);
        assert_eq!(
            (transfers.running.load(Ordering::Relaxed), transfers.running_by_payer.lock().unwrap().len()),
            (1, 1)
        );
    }

    #[tokio::test]
    async fn one_waits_for_memory_and_is_refused_when_none_becomes_free() {
        let mut transfers = Transfers::new(TransferLimits { max_buffer_memory: 16 << 20, ..LIMITS });
        Arc::get_mut(&mut transfers).unwrap().wait = Duration::ZERO;
        let unknown = buffered_bytes(SizeHint::Unknown);
        assert_eq!(
            (unknown, buffered_bytes(SizeHint::AtMost(1000)), buffered_bytes(SizeHint::Exact(1 << 40))),
            (9 << 20, (1 << 20) + 1000, 0)
        );
        let first = transfers.admit(&LinkConstraints::default(), unknown).await.unwrap();
        let refused = transfers.admit(&LinkConstraints::default(), unknown).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        let small = transfers
            .admit(&LinkConstraints::default(), buffered_bytes(SizeHint::Exact(1 << 40)))
            .await
            .unwrap();
        // Buffers of content that is still being stored count towards the buffer budget, even
        // after the request has ended.
        let outlives = first.buffers();
        drop((first, small));
        assert!(transfers.admit(&LinkConstraints::default(), unknown).await.is_err());
        drop(outlives);
        assert!(transfers.admit(&LinkConstraints::default(), unknown).await.is_ok());
        assert_eq!(transfers.running.load(Ordering::Relaxed), 0);
    }
}
