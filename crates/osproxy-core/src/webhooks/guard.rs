//! Protection against server-side request forgery: which addresses may be connected to.
//!
//! The check happens after name resolution, on the addresses that the connection then uses. So a
//! name that changes its addresses between a check and the connection does not get around it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use osproxy_types::tenant::Tenant;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::lookups::Lookups;

tokio::task_local! {
    /// The tenant whose message the current task sends. `reqwest` calls the resolver in that task.
    pub(super) static SENDER: Tenant;
}

/// Networks of IPv4 that are not on the public Internet.
const FORBIDDEN_V4: [(Ipv4Addr, u8); 16] = [
    // "This" network, private networks, and shared addresses of carriers.
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Link-local, with the metadata services of clouds.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, reserved, and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    // The metadata service of Alibaba Cloud is in 100.64.0.0/10; that of Azure is public.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Networks within the global unicast addresses of IPv6 (`2000::/3`) that are not on the public
/// Internet, or that lead to addresses of IPv4.
const FORBIDDEN_V6: [(Ipv6Addr, u8); 4] = [
    // Protocol assignments, with Teredo and the documentation of ORCHID.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Which addresses may be connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressGuard {
    /// Networks that are allowed although they are not public.
    allowed: Vec<IpNet>,
}

impl AddressGuard {
    pub(super) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether `address` may be connected to.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        // `::ffff:10.0.0.1` is the address 10.0.0.1.
        let address = address.to_canonical();
        self.allowed.iter().any(|network| network.contains(&address)) || is_public(address)
    }

    /// Returns the address in a URL whose host is an address, if it may not be connected to. Hosts
    /// that are addresses are not resolved, so the resolver does not see them.
    pub(super) fn forbidden_literal(&self, url: &Url) -> Option<IpAddr> {
        let host = url.host_str()?;
        let address: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        (!self.allows(address)).then_some(address)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !FORBIDDEN_V4.iter().any(|(network, bits)| {
            let shift = 32 - u32::from(*bits);
            address.to_bits() >> shift == network.to_bits() >> shift
        }),
        IpAddr::V6(address) => {
            let is_in = |network: Ipv6Addr, bits: u8| {
                let shift = 128 - u32::from(bits);
                address.to_bits() >> shift == network.to_bits() >> shift
            };
            is_in(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
                && !FORBIDDEN_V6.iter().any(|(network, bits)| is_in(*network, *bits))
        }
    }
}

/// The host of an endpoint has no address that may be connected to. Says neither whether the host has
/// addresses nor which, since tenants read this: they would learn about names in internal networks.
#[derive(Debug, thiserror::Error)]
#[error("the host has no address that messages may be sent to; see `webhooks.allowed_networks`")]
pub(super) struct ForbiddenHost;

/// Resolves names to the addresses that may be connected to.
pub(super) struct GuardedResolver {
    guard: Arc<AddressGuard>,
    lookups: Lookups,
}

impl GuardedResolver {
    pub(super) fn new(guard: Arc<AddressGuard>) -> Self {
        Self { guard, lookups: Lookups::new() }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookups) = (self.guard.clone(), self.lookups.clone());
        let tenant = SENDER.try_with(Clone::clone).unwrap_or_default();
        Box::pin(async move {
            let host = name.as_str();
            let found = match lookups.look_up(&tenant, host).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::info!(%tenant, host, %error, "cannot look up the host of a webhook");
                    return Err(ForbiddenHost.into());
                }
            };
            let allowed: Vec<_> = found.iter().copied().filter(|address| guard.allows(*address)).collect();
            if allowed.is_empty() {
                tracing::warn!(%tenant, host, addresses = ?found, "refused the addresses of a webhook");
                return Err(ForbiddenHost.into());
            }
            Ok(Box::new(allowed.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_allowed() {
        let guard = AddressGuard::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
        ] {
            assert!(!guard.allows(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2003::1",
        ] {
            assert!(guard.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn allowed_networks_are_exceptions() {
        let guard = AddressGuard::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"] {
            assert!(guard.allows(address.parse().unwrap()), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "fc00::1"] {
            assert!(!guard.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_in_urls_are_seen_in_every_spelling() {
        let guard = AddressGuard::default();
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1:80/",
            "http://0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]:80/x",
            "http://[::ffff:7f00:1]/",
            "http://user@10.0.0.1/",
            "http://１２７.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
        ] {
            assert!(guard.forbidden_literal(&Url::parse(url).unwrap()).is_some(), "{url}");
        }
        for url in
            ["http://1.1.1.1/", "http://example.org/", "http://[2606:4700:4700::1111]/", "http://localhost/"]
        {
            assert_eq!(guard.forbidden_literal(&Url::parse(url).unwrap()), None, "{url}");
        }
    }

    #[tokio::test]
    async fn names_are_resolved_to_allowed_addresses_only() {
        let resolver = GuardedResolver::new(Arc::default());
        let Err(error) = resolver.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost is allowed")
        };
        assert!(error.downcast_ref::<ForbiddenHost>().is_some(), "{error}");
        let known = error.to_string();
        let Err(error) = resolver.resolve("no-such-host.invalid".parse().unwrap()).await else {
            panic!("there is such a host")
        };
        assert_eq!(error.to_string(), known, "the errors tell which names exist");
        let networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let resolver = GuardedResolver::new(Arc::new(AddressGuard::new(networks)));
        let addresses = resolver.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(addresses.count() >= 1);
    }
}
