//! A memory budget that all transfers share.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the budget, in bytes.
const UNIT: u64 = 4096;

/// A budget of buffer memory that all transfers of the process share. Clones share the same budget.
#[derive(Clone)]
pub struct BufferBudget {
    units: Arc<Semaphore>,
    total: u32,
}

/// Memory taken from a [`BufferBudget`]. Dropping this value returns the memory.
pub struct BufferReservation(OwnedSemaphorePermit);

impl BufferBudget {
    /// Creates a budget of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let total = units(bytes);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Takes `bytes` bytes, or the whole budget if `bytes` is larger. Waits in FIFO order until
    /// other transfers return enough memory. Returns `None` if the memory is not available within
    /// `wait`.
    pub async fn reserve(&self, bytes: u64, wait: Duration) -> Option<BufferReservation> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Some(reservation);
        }
        let waiting = self.units.clone().acquire_many_owned(units(bytes).min(self.total));
        tokio::time::timeout(wait, waiting).await.ok()?.ok().map(BufferReservation)
    }

    /// Takes `bytes` bytes, or the whole budget if `bytes` is larger. Returns `None` if the memory
    /// is not available now.
    pub fn try_reserve(&self, bytes: u64) -> Option<BufferReservation> {
        let requested = units(bytes).min(self.total);
        self.units.clone().try_acquire_many_owned(requested).ok().map(BufferReservation)
    }
}

impl BufferReservation {
    /// Adds the memory in `other`, which must be from the same budget.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

impl fmt::Debug for BufferBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available = self.units.available_permits() as u64 * UNIT;
        f.debug_struct("BufferBudget").field("bytes_left", &available).finish_non_exhaustive()
    }
}

impl fmt::Debug for BufferReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.num_permits() as u64 * UNIT;
        f.debug_struct("BufferReservation").field("bytes", &bytes).finish()
    }
}

/// Converts bytes to units, rounding up. The maximum is 16 TiB.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_is_never_exceeded_and_released_memory_can_be_reserved_again() {
        let budget = BufferBudget::new(10 * UNIT);
        let first = budget.reserve(6 * UNIT, Duration::ZERO).await.unwrap();
        assert!(budget.try_reserve(5 * UNIT).is_none());
        assert!(budget.reserve(5 * UNIT, Duration::ZERO).await.is_none(), "nothing was given back");
        let second = budget.try_reserve(3 * UNIT + 1).unwrap();
        let release = async { drop((first, second)) };
        let (all, ()) = tokio::join!(budget.reserve(1000 * UNIT, Duration::from_mins(1)), release);
        assert!(all.is_some(), "a request is capped at the whole budget");
        assert!(budget.try_reserve(1).is_none());
    }
}
