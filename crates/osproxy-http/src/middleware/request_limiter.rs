//! Rate limits by address and concurrency limits, checked before authentication.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use osproxy_api::ErrorCode;
use osproxy_core::{ClientAddr, Error, Result, too_many_transfers};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::RequestLimits;

/// Number of requests between two evictions of idle addresses.
const EVICTION_INTERVAL: u32 = 4096;

/// Maximum number of concurrent requests for metrics.
const MAX_METRICS_REQUESTS: usize = 4;

/// Limits the requests of a node. All listeners of the node share the limits.
pub struct RequestLimiter {
    requests: Arc<Semaphore>,
    /// Permits for requests that may change something: half as many as for all requests. Changes
    /// wait for the disk, but reads do not. Without this limit, waiting changes could hold all
    /// permits, and reads would be rejected.
    changes: Arc<Semaphore>,
    /// Separate permits for metrics, so that an overloaded service can still be observed.
    metrics: Semaphore,
    /// Permits for gRPC calls that stream content. The limits on transfers apply to a call only
    /// after its first message, which names the file. These permits limit the memory for first
    /// messages.
    transfers: Arc<Semaphore>,
    addresses: Option<AddressRateLimiter>,
}

/// Limits the request rate of each address.
struct AddressRateLimiter {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    requests: AtomicU32,
}

impl RequestLimiter {
    /// Creates a limiter.
    pub fn new(limits: RequestLimits) -> Arc<Self> {
        let rate = limits.max_address_rate.and_then(NonZeroU32::new);
        Arc::new(Self {
            requests: Arc::new(Semaphore::new(limits.max_requests as usize)),
            changes: Arc::new(Semaphore::new(limits.max_requests.div_ceil(2) as usize)),
            metrics: Semaphore::new(MAX_METRICS_REQUESTS),
            transfers: Arc::new(Semaphore::new(limits.max_transfers as usize)),
            addresses: rate.map(|rate| AddressRateLimiter {
                limiter: RateLimiter::hashmap(Quota::per_second(rate)),
                requests: AtomicU32::new(0),
            }),
        })
    }
}

/// The concurrency limit of a group of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// No limit. The operations limit the number of transfers themselves.
    Unlimited,
    /// Requests with a safe method, such as GET, count as reads; all others as changes.
    ByMethod,
    /// Every request counts as a read. For gRPC calls, which always use POST.
    Reads,
    /// Every request counts as a change.
    Changes,
    /// Every request counts as a transfer with an API key.
    Transfers,
    /// PUT and POST, which may have content, count as transfers; all others as with `ByMethod`.
    TransfersByMethod,
}

/// Permits that a request holds until its response begins.
pub(crate) struct RequestPermits {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl RequestLimiter {
    /// Fails with `RateLimited` if the address of a request is beyond its rate limit. Each node
    /// counts only its own requests.
    pub(super) fn check_rate(&self, request: &Request) -> Result<()> {
        if let Some(addresses) = &self.addresses
            && let Some(ClientAddr(address)) = request.extensions().get()
        {
            if addresses.requests.fetch_add(1, Ordering::Relaxed) % EVICTION_INTERVAL == 0 {
                addresses.limiter.retain_recent();
            }
            if let Err(wait) = addresses.limiter.check_key(&client_network(*address)) {
                return Err(Error::rate_limited(wait.wait_time_from(addresses.limiter.clock().now())));
            }
        }
        Ok(())
    }

    /// Fails with `Overloaded` if the request is beyond a concurrency limit.
    pub(super) fn acquire(&self, concurrency: Concurrency, method: &Method) -> Result<RequestPermits> {
        let concurrency = match concurrency {
            Concurrency::TransfersByMethod if matches!(*method, Method::PUT | Method::POST) => {
                Concurrency::Transfers
            }
            other => other,
        };
        let changes = match concurrency {
            Concurrency::Unlimited => return Ok(RequestPermits { _permits: [None, None] }),
            Concurrency::Transfers => {
                let permit = self.transfers.clone().try_acquire_owned().map_err(|_| too_many_transfers())?;
                return Ok(RequestPermits { _permits: [Some(permit), None] });
            }
            Concurrency::ByMethod | Concurrency::TransfersByMethod => !method.is_safe(),
            Concurrency::Reads => false,
            Concurrency::Changes => true,
        };
        let permit = self.requests.clone().try_acquire_owned();
        let change_permit = changes.then(|| self.changes.clone().try_acquire_owned()).transpose();
        let (Ok(permit), Ok(change_permit)) = (permit, change_permit) else {
            let message = "too many concurrent requests; retry later";
            return Err(Error::new(ErrorCode::Overloaded, message));
        };
        Ok(RequestPermits { _permits: [Some(permit), change_permit] })
    }
}

/// Delays a request for metrics while [`MAX_METRICS_REQUESTS`] others are running. Anybody can send
/// such requests, and each of them costs the lookup of an API key.
pub(crate) async fn limit_metrics(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    let _permit = limiter.metrics.acquire().await;
    next.run(request).await
}

/// Returns the address under which limits count a client: its IPv4 address, or its IPv6 network
/// (/64).
pub(crate) fn client_network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ] {
            assert_eq!(client_network(address.parse().unwrap()).to_string(), expected);
        }
    }
}
