//! Who is let in at all, before anything is done for them.

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
use tokio::sync::Semaphore;

use crate::{
    Error,
    app::{ClientAddr, too_many_transfers},
    config::LimitsSection,
};

/// After how many requests those addresses are forgotten that have not asked for a while.
const FORGET_AFTER: u32 = 4096;

/// How many requests for metrics are served at the same time.
const COLLECTORS: usize = 4;

/// How much a node lets in, through all of its listeners.
pub struct Admission {
    requests: Semaphore,
    /// Places for those of them that may change something: half. They wait for the disk, and those that only read do not, but
    /// would be refused once such requests had all places.
    changes: Semaphore,
    /// Places for those who collect metrics. They have their own, to see a service that is overloaded.
    collectors: Semaphore,
    /// Places for those that send content, where it is the body that tells whose it is: each holds a message meanwhile.
    transfers: Semaphore,
    addresses: Option<Addresses>,
}

/// The rate of each address.
struct Addresses {
    rates: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    counted: AtomicU32,
}

impl Admission {
    /// As much as the settings say.
    pub fn new(limits: &LimitsSection) -> Arc<Self> {
        let rate = limits.max_address_rate.and_then(NonZeroU32::new);
        Arc::new(Self {
            requests: Semaphore::new(limits.max_requests as usize),
            changes: Semaphore::new(limits.max_requests.div_ceil(2) as usize),
            collectors: Semaphore::new(COLLECTORS),
            transfers: Semaphore::new(limits.max_transfers as usize),
            addresses: rate.map(|rate| Addresses {
                rates: RateLimiter::hashmap(Quota::per_second(rate)),
                counted: AtomicU32::new(0),
            }),
        })
    }
}

/// Refuses requests of an address that sends too many. Each node counts those that come to it.
pub(in crate::http) async fn limit_addresses(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(addresses) = &admission.addresses
        && let Some(ClientAddr(address)) = request.extensions().get()
    {
        if addresses.counted.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == 0 {
            addresses.rates.retain_recent();
        }
        if let Err(wait) = addresses.rates.check_key(&network(*address)) {
            let wait = wait.wait_time_from(addresses.rates.clock().now());
            return Error::rate_limited(wait).into_response();
        }
    }
    next.run(request).await
}

/// Refuses requests beyond those that are worked on at the same time. The body of an answer is none of that work.
pub(in crate::http) async fn limit_requests(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let changes = !request.method().is_safe();
    limit(&admission, changes, request, next).await
}

/// The same of requests that may change something, whatever their method.
pub(in crate::http) async fn limit_changes(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    limit(&admission, true, request, next).await
}

/// The same of requests that change nothing, whatever their method.
pub(in crate::http) async fn limit_reads(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    limit(&admission, false, request, next).await
}

/// Refuses requests beyond as many as there may be contents on their way.
pub(in crate::http) async fn limit_transfers(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_place) = admission.transfers.try_acquire() else {
        return too_many_transfers().into_response();
    };
    next.run(request).await
}

/// Makes requests for metrics wait for one of their places: each looks a key up, and anybody may send them.
pub(in crate::http) async fn limit_collectors(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let _place = admission.collectors.acquire().await;
    next.run(request).await
}

async fn limit(admission: &Admission, changes: bool, request: Request, next: Next) -> Response {
    let busy = |_| {
        let message = "as much is being done as this service takes on, try again in a moment";
        Error::new(ErrorCode::Overloaded, message).into_response()
    };
    let changes = changes.then(|| admission.changes.try_acquire());
    let _places = match (admission.requests.try_acquire(), changes.transpose()) {
        (Ok(place), Ok(change)) => (place, change),
        (Err(full), _) | (_, Err(full)) => return busy(full),
    };
    next.run(request).await
}

/// What one client has: an address, or, of IPv6, a whole network.
pub(in crate::http) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_one_address_of_the_old_kind_or_a_network_of_the_new() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ] {
            assert_eq!(network(address.parse().unwrap()).to_string(), expected);
        }
    }
}
