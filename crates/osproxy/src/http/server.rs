//! The listener: accepts, serves, drains.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::config::ServerSection;

/// How long to wait when the system has no descriptors left for new connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much of a request is read, or of an answer collected, before it is passed on. With hyper's default of 408 KiB,
/// 32 uploads and 32 downloads at once take 57 MiB more; with 128 KiB downloads cost a fifth more CPU time.
const MAX_BUFFERED: usize = 64 << 10;

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
    config: &ServerSection,
    shutdown: CancellationToken,
    last_requests: Duration,
) {
    let closing = async {
        shutdown.cancelled().await;
        if !last_requests.is_zero() {
            refuse_handshakes(&listener);
            tokio::time::sleep(HANDSHAKES).await;
        }
    };
    let mut closing = Box::pin(closing);
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(config.header_timeout))
        // A client may close its side when it has sent everything, and still wants the answer.
        .half_close(true)
        .max_buf_size(MAX_BUFFERED);
    let places = Arc::new(Semaphore::new(config.max_connections.into()));
    loop {
        // Beyond the limit, connections wait in the system's queue.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = &mut closing => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut closing => break,
        };
        let connection = connection(&http, stream, peer, router.clone());
        let connection = graceful.watch(connection);
        let cut = cut.clone();
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "the connection broke");
                },
                () = cut.cancelled() => {}
            }
        });
    }
    drop(closing);
    drop(listener);
    connections.close();
    tokio::select! {
        () = tokio::time::sleep(last_requests) => {}
        () = connections.wait() => {}
    }
    let grace = Duration::from_secs(config.shutdown_grace);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting requests that did not end in time");
        cut.cancel();
    }
    connections.wait().await;
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

fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> impl GracefulConnection<Error = hyper::Error> + Send + use<> {
    // Without this, a body that is not ready with the head waits for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot switch off Nagle's algorithm");
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer));
        let router = router.clone();
        async move {
            Ok::<Response, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
        }
    });
    http.serve_connection(TokioIo::new(stream), service)
}
