//! The listener: accepts, serves, drains.

mod addresses;
mod connection;
mod refusal;
mod tls;
mod watch;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use addresses::{AddressPlace, Addresses};
use connection::Protocol;

use crate::config::ServerSection;

pub use refusal::Unreadable;
pub use tls::Tls;

/// How long to wait when the system has no descriptors left for new connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much of a request is read, or of an answer collected, before it is passed on. With hyper's default of 408 KiB,
/// 32 uploads and 32 downloads at once take 57 MiB more; with 128 KiB downloads cost a fifth more CPU time.
const MAX_BUFFERED: usize = 64 << 10;

/// How many connections may be in the system's queue.
const BACKLOG: usize = 4096;

/// How long handshakes that have begun when no new ones are let in may take.
const HANDSHAKES: Duration = Duration::from_millis(100);

/// Who is at the other end of the connection. An extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves until `shutdown` is cancelled; then accepts nothing more, lets requests that are running end within
/// `server.shutdown_grace`, and cuts what still runs.
///
/// A client that has a connection by then, and sends its first request within `last_requests`, is answered. With zero it
/// may see its connection reset: an idle connection cannot be told from one with a request on its way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServerSection,
    tls: Option<Tls>,
    shutdown: CancellationToken,
    last_requests: Duration,
) {
    let tls = tls.map(Arc::new);
    let connections = Connections::new(router, &config, tls.clone());
    let places = Arc::new(Semaphore::new(config.max_connections.into()));
    let closing = async {
        shutdown.cancelled().await;
        if !last_requests.is_zero() {
            refuse_handshakes(&listener);
            tokio::time::sleep(HANDSHAKES).await;
        }
    };
    tokio::select! {
        () = accept(&listener, &connections, &places) => {}
        () = renew(tls.as_deref()) => {}
        () = closing => {}
    }
    if last_requests.is_zero() {
        drop(listener);
    } else {
        accept_rest(listener, &connections);
    }
    connections.tasks.close();
    tokio::select! {
        () = tokio::time::sleep(last_requests) => {}
        () = connections.tasks.wait() => {}
    }
    connections.end(Duration::from_secs(config.shutdown_grace)).await;
}

/// Keeps the certificate up to date, for ever.
async fn renew(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.renew().await,
        None => std::future::pending().await,
    }
}

/// Takes connections for ever. Beyond the limit they wait in the system's queue; those of an address that has too many are
/// closed.
async fn accept(listener: &TcpListener, connections: &Connections, places: &Arc<Semaphore>) {
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(of_address) = connections.addresses.take(peer.ip()) {
                    connections.take(stream, peer, Some((place, of_address)));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes the connections that are still in the queue. The system would reset them.
fn accept_rest(listener: TcpListener, connections: &Connections) {
    let Ok(listener) = listener.into_std() else { return };
    // Where handshakes cannot be refused there may always be one more.
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        match stream {
            Ok(stream) => connections.take(stream, peer, None),
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
    }
}

/// What a connection has as long as it lasts: a place among all, and one among those of its address.
type Place = (OwnedSemaphorePermit, AddressPlace);

/// Connections that are being served.
struct Connections {
    protocol: Arc<Protocol>,
    addresses: Arc<Addresses>,
    tasks: TaskTracker,
    draining: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    fn new(router: Router, config: &ServerSection, tls: Option<Arc<Tls>>) -> Self {
        let protocol = Arc::new(Protocol::new(router, config, tls));
        let (draining, cut) = (CancellationToken::new(), CancellationToken::new());
        Self { protocol, addresses: Addresses::new(config), tasks: TaskTracker::new(), draining, cut }
    }

    /// Serves a connection, which has its `place` as long as it lasts.
    fn take(&self, stream: TcpStream, peer: SocketAddr, place: Option<Place>) {
        let (protocol, draining, cut) = (self.protocol.clone(), self.draining.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = protocol.serve(stream, peer, draining) => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// Lets requests that are running end within `grace`, and cuts what still runs.
    async fn end(self, grace: Duration) {
        self.draining.cancel();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "cutting requests that did not end in time");
            self.cut.cancel();
        }
        self.tasks.wait().await;
    }
}

/// Lets no new connection begin, so that none is in the queue when the listener is closed: the system would reset it, and
/// a proxy that has sent part of a body by then cannot send it elsewhere. Its system tries again, and is refused then.
#[cfg(target_os = "linux")]
fn refuse_handshakes(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    // In the language of the system's packet filters: drop segments with SYN, take all others.
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&filter) {
        tracing::debug!(%error, "connections that begin at the last moment may be reset");
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_handshakes(_listener: &TcpListener) {}
