//! Limits that tenants share fairly.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use osproxy_types::tenant::Tenant;
use tokio::sync::oneshot;

/// Maximum number of concurrent attempts of endpoints that answer quickly.
const MAX_ATTEMPTS: usize = 1024;
/// Maximum number of concurrent attempts of endpoints that failed or were slow in their latest
/// attempt. They have separate slots, so that they do not hold up the others.
const MAX_SUSPECT_ATTEMPTS: usize = 256;

/// Slots for the attempts of all endpoints together.
pub(super) struct AttemptSlots {
    healthy: FairSlots,
    suspect: FairSlots,
}

impl AttemptSlots {
    pub(super) fn new() -> Self {
        Self { healthy: FairSlots::new(MAX_ATTEMPTS), suspect: FairSlots::new(MAX_SUSPECT_ATTEMPTS) }
    }

    /// Waits until an endpoint of a tenant has a slot.
    pub(super) async fn acquire(&self, tenant: &Tenant, is_suspect: bool) -> Option<Slot> {
        let slots = if is_suspect { &self.suspect } else { &self.healthy };
        slots.acquire(tenant).await
    }
}

/// Slots that tenants share. A tenant gets a slot only while more slots are free than it holds. So
/// one tenant gets at most half of them, and `n` tenants that take all they can get leave
/// `1 / (n + 1)` of them to others. Tenants that wait take turns.
#[derive(Clone)]
pub(super) struct FairSlots(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// The tenants that hold slots or wait for one.
    tenants: HashMap<Tenant, Share>,
    /// The tenants that wait, in the order of their turns.
    turns: VecDeque<Tenant>,
}

#[derive(Default)]
struct Share {
    held: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// A slot. It is free again when this is dropped.
pub(super) struct Slot {
    slots: FairSlots,
    tenant: Tenant,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.free += 1;
        if let Some(share) = state.tenants.get_mut(&self.tenant) {
            share.held = share.held.saturating_sub(1);
            if share.held == 0 && share.waiting.is_empty() {
                state.tenants.remove(&self.tenant);
            }
        }
        drop(state);
        self.slots.grant();
    }
}

impl FairSlots {
    pub(super) fn new(number: usize) -> Self {
        let state = State { free: number, tenants: HashMap::new(), turns: VecDeque::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot for a tenant.
    pub(super) async fn acquire(&self, tenant: &Tenant) -> Option<Slot> {
        let (sender, slot) = oneshot::channel();
        self.lock().wait(tenant, sender);
        self.grant();
        // The sender waits in the state until it has sent a slot.
        slot.await.ok()
    }

    fn grant(&self) {
        let granted = self.lock().grant();
        for (sender, tenant) in granted {
            // If nobody waits any more, this drops the slot, which locks the state.
            drop(sender.send(Slot { slots: self.clone(), tenant }));
        }
    }
}

impl State {
    fn wait(&mut self, tenant: &Tenant, sender: oneshot::Sender<Slot>) {
        let share = self.tenants.entry(tenant.clone()).or_default();
        if share.waiting.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        share.waiting.push_back(sender);
    }

    /// Gives free slots to tenants that wait. Returns who gets one.
    fn grant(&mut self) -> Vec<(oneshot::Sender<Slot>, Tenant)> {
        let mut granted = Vec::new();
        // Tenants in a row that hold too many slots for another one.
        let mut passed = 0;
        while self.free > 0
            && passed < self.turns.len()
            && let Some(tenant) = self.turns.pop_front()
        {
            let Some(share) = self.tenants.get_mut(&tenant) else { continue };
            share.waiting.retain(|sender| !sender.is_closed());
            if share.held >= self.free && !share.waiting.is_empty() {
                self.turns.push_back(tenant);
                passed += 1;
                continue;
            }
            if let Some(sender) = share.waiting.pop_front() {
                share.held += 1;
                self.free -= 1;
                granted.push((sender, tenant.clone()));
            }
            if !share.waiting.is_empty() {
                self.turns.push_back(tenant);
            } else if share.held == 0 {
                self.tenants.remove(&tenant);
            }
            passed = 0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::from_db(name)
    }

    /// Takes slots until the tenant has to wait.
    fn take_all(slots: &FairSlots, name: &str) -> Vec<Slot> {
        let mut taken = Vec::new();
        while let Some(slot) = slots.acquire(&tenant(name)).now_or_never() {
            taken.push(slot.unwrap());
        }
        taken
    }

    #[test]
    fn greedy_tenants_leave_slots_to_others() {
        let slots = FairSlots::new(100);
        let first = take_all(&slots, "a");
        assert_eq!(first.len(), 50);
        let second = take_all(&slots, "b");
        assert_eq!(second.len(), 25);
        let third = take_all(&slots, "c");
        assert_eq!(third.len(), 13);
        assert!(take_all(&slots, "a").is_empty());
        drop(first);
        assert_eq!(take_all(&slots, "d").len(), 31);
        drop((second, third));
        let state = slots.lock();
        assert_eq!((state.free, state.tenants.len(), state.turns.len()), (100, 0, 0));
    }

    #[test]
    fn the_last_slot_is_for_a_tenant_without_any() {
        let slots = FairSlots::new(1);
        assert_eq!(take_all(&slots, "a").len(), 1);
        let slots = FairSlots::new(2);
        let one = take_all(&slots, "a");
        assert_eq!((one.len(), take_all(&slots, "b").len()), (1, 1));
    }

    #[tokio::test]
    async fn tenants_that_wait_take_turns() {
        let slots = FairSlots::new(1);
        let held = slots.acquire(&tenant("x")).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for name in ["a", "a", "a", "b", "c", "b"] {
            let (slots, order) = (slots.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let slot = slots.acquire(&tenant(name)).await;
                order.lock().unwrap().push(name);
                drop(slot);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        futures_util::future::join_all(waiting).await;
        assert_eq!(*order.lock().unwrap(), ["a", "b", "c", "a", "b", "a"]);
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_takes_no_slot() {
        let slots = FairSlots::new(1);
        let held = slots.acquire(&tenant("x")).await;
        let (a, b) = (tenant("a"), tenant("b"));
        let (mut first, mut second) = (Box::pin(slots.acquire(&a)), Box::pin(slots.acquire(&b)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        // One gives up before it has a slot, the other one after.
        drop(first);
        drop(held);
        drop(second);
        assert!(slots.acquire(&a).now_or_never().is_some());
        let state = slots.lock();
        assert_eq!((state.free, state.tenants.len(), state.turns.len()), (1, 0, 0));
    }
}
