//! Limit on the connections of each client address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::middleware::client_network;

/// Minimum interval between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Limits the connections of each IPv4 address or IPv6 network (/64).
pub(super) struct AddressLimit {
    max: usize,
    /// Networks of proxies. Their connections are not limited.
    trusted: Vec<IpNet>,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    counts: HashMap<IpAddr, usize>,
    warned_at: Option<Instant>,
}

/// Permit for one connection of an address. Dropping it returns the permit.
pub(super) struct AddressPermit {
    limit: Arc<AddressLimit>,
    /// `None` for a trusted proxy, which is not counted.
    network: Option<IpAddr>,
}

impl AddressLimit {
    pub(super) fn new(max: usize, trusted: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { max, trusted, open: Mutex::default() })
    }

    /// Counts one more connection of an address. Returns `None` if the address is at its limit.
    pub(super) fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Option<AddressPermit> {
        let address = address.to_canonical();
        if self.trusted.iter().any(|net| net.contains(&address)) {
            return Some(AddressPermit { limit: self.clone(), network: None });
        }
        let network = client_network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.counts.entry(network).or_default();
        if *count >= self.max {
            if open.warned_at.is_none_or(|warned_at| warned_at.elapsed() > WARNING_INTERVAL) {
                open.warned_at = Some(Instant::now());
                tracing::warn!(
                    address = %network, connections = self.max,
                    "too many connections from one address; closing new connections (see `server.max_connections_per_address`)"
                );
            }
            return None;
        }
        *count += 1;
        Some(AddressPermit { limit: self.clone(), network: Some(network) })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut open = self.limit.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                open.counts.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_proxies_do_not_count() {
        let addresses = AddressLimit::new(2, vec!["10.0.0.0/8".parse().unwrap()]);
        let acquire = |address: &str| addresses.try_acquire(address.parse().unwrap());
        let permits = [acquire("2001:db8::1"), acquire("2001:db8::ffff:2")];
        assert!(permits.iter().all(Option::is_some));
        assert!(acquire("2001:db8::3").is_none());
        assert!(acquire("2001:db8:0:1::1").is_some());
        let mapped = [acquire("192.0.2.1"), acquire("::ffff:192.0.2.1")];
        assert!(mapped.iter().all(Option::is_some) && acquire("192.0.2.1").is_none());
        let proxies: Vec<_> = (0..5).map(|_| acquire("10.1.1.1")).collect();
        assert!(proxies.iter().all(Option::is_some));
        drop(permits);
        assert!(acquire("2001:db8::3").is_some());
        drop((mapped, proxies));
        assert!(addresses.open.lock().unwrap().counts.is_empty());
    }
}
