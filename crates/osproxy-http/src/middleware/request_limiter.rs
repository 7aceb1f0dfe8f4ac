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
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use osproxy_api::ErrorCode;
use osproxy_core::{ClientAddr, Error, too_many_transfers};
use tokio::sync::Semaphore;

use crate::{respond::error::Rejection, settings::RequestLimits};

/// Number of requests between two evictions of idle addresses.
const EVICTION_INTERVAL: u32 = 4096;

/// Maximum number of concurrent requests for metrics.
const MAX_METRICS_REQUESTS: usize = 4;

/// Limits the requests of a node. All listeners of the node share the limits.
pub struct RequestLimiter {
    requests: Semaphore,
    /// Permits for requests that may change something: half as many as for all requests. Changes
    /// wait for the disk, but reads do not. Without this limit, waiting changes could hold all
    /// permits, and reads would be rejected.
    changes: Semaphore,
    /// Separate permits for metrics, so that an overloaded service can still be observed.
    metrics: Semaphore,
    /// Permits for gRPC calls that stream content. The limits on transfers apply to a call only
    /// after its first message, which names the file. These permits limit the memory for first
    /// messages.
    transfers: Semaphore,
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
            requests: Semaphore::new(limits.max_requests as usize),
            changes: Semaphore::new(limits.max_requests.div_ceil(2) as usize),
            metrics: Semaphore::new(MAX_METRICS_REQUESTS),
            transfers: Semaphore::new(limits.max_transfers as usize),
            addresses: rate.map(|rate| AddressRateLimiter {
                limiter: RateLimiter::hashmap(Quota::per_second(rate)),
                requests: AtomicU32::new(0),
            }),
        })
    }
}

/// Rejects requests beyond the rate limit of their address. Each node counts only its own requests.
pub(crate) async fn limit_addresses(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(addresses) = &limiter.addresses
        && let Some(ClientAddr(address)) = request.extensions().get()
    {
        if addresses.requests.fetch_add(1, Ordering::Relaxed) % EVICTION_INTERVAL == 0 {
            addresses.limiter.retain_recent();
        }
        if let Err(wait) = addresses.limiter.check_key(&client_network(*address)) {
            let wait = wait.wait_time_from(addresses.limiter.clock().now());
            return Rejection(Error::rate_limited(wait)).into_response();
        }
    }
    next.run(request).await
}

/// Rejects requests beyond the concurrency limit. A request holds its permit until the response
/// begins. Requests with a safe method, such as GET, count as reads; all others as changes.
pub(crate) async fn limit_requests(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    let changes = !request.method().is_safe();
    limit(&limiter, changes, request, next).await
}

/// Like [`limit_requests`], but counts every request as a change, even one with a safe method.
pub(crate) async fn limit_changes(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    limit(&limiter, true, request, next).await
}

/// Like [`limit_requests`], but counts every request as a read. For gRPC calls, which always use
/// POST.
pub(crate) async fn limit_reads(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    limit(&limiter, false, request, next).await
}

/// Rejects transfers with an API key beyond [`RequestLimits::max_transfers`].
pub(crate) async fn limit_transfers(
    State(limiter): State<Arc<RequestLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = limiter.transfers.try_acquire() else {
        return Rejection(too_many_transfers()).into_response();
    };
    next.run(request).await
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

async fn limit(limiter: &RequestLimiter, changes: bool, request: Request, next: Next) -> Response {
    let permit = limiter.requests.try_acquire();
    let change_permit = changes.then(|| limiter.changes.try_acquire()).transpose();
    let (Ok(_permit), Ok(_change_permit)) = (permit, change_permit) else {
        let message = "too many concurrent requests; retry later";
        return Rejection(Error::new(ErrorCode::Overloaded, message)).into_response();
    };
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
