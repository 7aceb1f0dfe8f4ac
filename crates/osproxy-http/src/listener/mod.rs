//! The HTTP listener: accepts connections, serves them, and drains on shutdown.

mod address_limit;
mod coalesced_writes;
mod connection;
mod handshakes;
mod head_error;
mod interim;
mod timeouts;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use address_limit::{AddressLimit, AddressPermit};
use axum::Router;
use connection::ConnectionServer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::settings::ListenerSettings;
use handshakes::drop_new_handshakes;

pub use head_error::UnparsableHead;
pub(crate) use interim::InterimSender;
pub use tls::{Tls, TlsFiles};

/// Pause after a failed accept, for example when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum size of hyper's buffers for reading and writing, in bytes. HTTP/1 uses
/// [`ListenerSettings::max_head_bytes`] instead if that value is larger. With hyper's default of
/// 408 KiB, 32 concurrent uploads and 32 downloads take 57 MiB more memory. With 128 KiB, downloads
/// take 20% more CPU time.
const MAX_BUFFERED: usize = 64 << 10;

/// Upper bound for the length of the kernel's accept queue.
const BACKLOG: usize = 4096;

/// Time in which TCP handshakes in progress can complete after new handshakes are blocked.
const HANDSHAKE_TIME: Duration = Duration::from_millis(100);

/// Request extension with the address of the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub SocketAddr);

/// Serves until `shutdown` is cancelled. Then stops accepting connections, waits up to
/// [`ListenerSettings::shutdown_grace`] for running requests, and aborts the requests that are
/// still running.
///
/// Before that wait, clients that are already connected have `first_request_grace` to send their
/// first request: the server cannot distinguish an idle connection from a connection whose request
/// is on the way. If `first_request_grace` is zero, a connection whose first request is on the way
/// may be reset.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: ListenerSettings,
    tls: Option<Tls>,
    shutdown: CancellationToken,
    first_request_grace: Duration,
) {
    let tls = tls.map(Arc::new);
    let connections = Connections::new(router, &settings, tls.clone());
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let closing = async {
        shutdown.cancelled().await;
        if !first_request_grace.is_zero() {
            drop_new_handshakes(&listener);
            tokio::time::sleep(HANDSHAKE_TIME).await;
        }
    };
    tokio::select! {
        () = accept(&listener, &connections, &permits) => {}
        () = reload_certificates(tls.as_deref()) => {}
        () = closing => {}
    }
    if first_request_grace.is_zero() {
        drop(listener);
    } else {
        accept_queued(listener, &connections);
    }
    connections.tasks.close();
    tokio::select! {
        () = tokio::time::sleep(first_request_grace) => {}
        () = connections.tasks.wait() => {}
    }
    connections.drain(settings.shutdown_grace).await;
}

/// Reloads the certificate when its files change. Never returns.
async fn reload_certificates(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.reload_on_change().await,
        None => std::future::pending().await,
    }
}

/// Accepts connections; never returns. Connections beyond the limit of the listener wait in the
/// kernel's accept queue. Connections beyond the limit of their address are closed.
async fn accept(listener: &TcpListener, connections: &Connections, permits: &Arc<Semaphore>) {
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(address_permit) = connections.addresses.try_acquire(peer.ip()) {
                    let permits = ConnectionPermits { _permit: permit, _address_permit: address_permit };
                    connections.spawn(stream, peer, Some(permits));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts the connections that are still in the queue. Closing the listener would reset them.
fn accept_queued(listener: TcpListener, connections: &Connections) {
    let Ok(listener) = listener.into_std() else { return };
    // The loop has a bound, because connections may keep arriving if new handshakes could not be
    // blocked.
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        match stream {
            Ok(stream) => connections.spawn(stream, peer, None),
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
    }
}

/// Permits that a connection holds until it ends.
struct ConnectionPermits {
    /// Permit from the limit on all connections of the listener.
    _permit: OwnedSemaphorePermit,
    /// Permit from the limit on the connections of the address.
    _address_permit: AddressPermit,
}

struct Connections {
    server: Arc<ConnectionServer>,
    addresses: Arc<AddressLimit>,
    tasks: TaskTracker,
    draining: CancellationToken,
    abort: CancellationToken,
}

impl Connections {
    fn new(router: Router, settings: &ListenerSettings, tls: Option<Arc<Tls>>) -> Self {
        Self {
            server: Arc::new(ConnectionServer::new(router, settings, tls)),
            addresses: AddressLimit::new(
                settings.max_connections_per_address,
                settings.trusted_proxies.clone(),
            ),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Serves a connection on its own task, which holds `permits` until the connection ends.
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, permits: Option<ConnectionPermits>) {
        let (server, draining, abort) = (self.server.clone(), self.draining.clone(), self.abort.clone());
        self.tasks.spawn(async move {
            let _permits = permits;
            tokio::select! {
                biased;
                () = server.serve(stream, peer, draining) => {}
                () = abort.cancelled() => {}
            }
        });
    }

    /// Waits up to `grace` for running requests, then aborts the remaining connections.
    async fn drain(self, grace: Duration) {
        self.draining.cancel();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.tasks.len(),
                "shutdown grace period is over; aborting the remaining connections"
            );
            self.abort.cancel();
        }
        self.tasks.wait().await;
    }
}
