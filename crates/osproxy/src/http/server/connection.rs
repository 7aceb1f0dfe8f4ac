//! Serves a connection: TLS if there is any, then HTTP/1 or HTTP/2, as the client likes.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, Version},
};
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    MAX_BUFFERED, Peer,
    refusal::Refusal,
    tls::Tls,
    watch::{Lapse, Paced, Patience, Taking, Watch, Watched},
};
use crate::{
    config::ServerSection,
    http::{middleware::Probes, pace::Pace},
};

/// How much of an answer the system holds that was not sent yet, in bytes. Without a limit it takes megabytes for a client
/// that reads nothing, and nobody sees for minutes how slowly they go.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 << 10;

/// How many requests there are on one HTTP/2 connection at the same time at most.
const MAX_STREAMS: u32 = 100;

/// How much of a body comes on an HTTP/2 stream before it is read, in bytes. Uploads over gRPC go at six tenths of the speed with half of
/// it, and no faster with twice as much. All streams together may have that, so that none waits for one that waits for the store.
const STREAM_WINDOW: u32 = 256 << 10;

/// How many streams that a client opened and reset at once may wait to be forgotten, before its connection is closed.
const MAX_RESET_STREAMS: usize = 20;
/// How many streams with errors of the client's there may be.
const MAX_FAULTY_STREAMS: usize = 128;

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// What HTTP/2 adds to the length of each field of a head when it is held against a limit, in bytes.
const FIELD_OVERHEAD: u32 = 32;

/// How connections are served.
pub(super) struct Protocol {
    http: auto::Builder<Streams>,
    router: Router,
    tls: Option<Arc<Tls>>,
    patience: Patience,
    pace: Pace,
}

impl Protocol {
    pub(super) fn new(router: Router, config: &ServerSection, tls: Option<Arc<Tls>>) -> Self {
        let patience = Patience {
            head: Duration::from_secs(config.header_timeout),
            idle: Duration::from_secs(config.idle_timeout),
            write: Duration::from_secs(config.write_timeout),
        };
        let max_head = config.max_header_bytes.max(u32::try_from(MAX_BUFFERED).unwrap_or(u32::MAX));
        let mut http = auto::Builder::new(Streams { patience: patience.write });
        http.http1()
            .timer(TokioTimer::new())
            // The connection's watch does that, from the first byte on.
            .header_read_timeout(None)
            // A client may close its side when it has sent everything, and still wants the answer.
            .half_close(true)
            .max_buf_size(MAX_BUFFERED.max(config.max_header_bytes as usize));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_STREAMS * STREAM_WINDOW)
            .max_send_buf_size(MAX_BUFFERED)
            // What is too large, but not by far, is refused with a code, as with HTTP/1.
            .max_header_list_size(max_head + MAX_STREAMS * FIELD_OVERHEAD)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_FAULTY_STREAMS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        Self { http, router, tls, patience, pace: Pace::of(config) }
    }

    /// Serves a connection until it ends. When `draining` is cancelled, requests that run are the last ones.
    pub(super) async fn serve(&self, stream: TcpStream, peer: SocketAddr, draining: CancellationToken) {
        prepare(&stream, peer);
        let Some(tls) = &self.tls else {
            return self.drive(stream, peer, draining).await;
        };
        match tokio::time::timeout(self.patience.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.drive(stream, peer, draining).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => tracing::debug!(%peer, "TLS took too long to begin"),
        }
    }

    async fn drive(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
        draining: CancellationToken,
    ) {
        let watch = Arc::new(Watch::new());
        let refusal = Refusal::new(self.router.clone(), peer);
        let io = TokioIo::new(Watched { io, watch: watch.clone(), refusal });
        let (router, pace, seen) = (self.router.clone(), self.pace, watch.clone());
        let probes = Probes::default();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let multiplexed = request.version() == Version::HTTP_2;
            let running = seen.request(multiplexed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(probes.clone());
            let (router, one) = (router.clone(), seen.taking.clone());
            async move {
                let taking = TAKING.try_with(Arc::clone).unwrap_or(one);
                let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
                let answer = answer.map(|body| Paced::new(body, taking, pace, multiplexed, running));
                Ok::<Response<Paced>, Infallible>(answer)
            }
        });
        let mut connection = std::pin::pin!(self.http.serve_connection(io, service));
        let mut is_last = false;
        loop {
            tokio::select! {
                // First, so that the watch sees what became of it.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "the connection broke");
                    }
                    return;
                }
                lapse = watch.lapse(self.patience) => {
                    if lapse != Lapse::Idle || is_last || !watch.is_multiplexed() {
                        tracing::debug!(%peer, ?lapse, "the connection was given up");
                        return;
                    }
                    // With HTTP/2 a client can be told, and loses nothing that is on its way.
                    watch.renew();
                }
                () = draining.cancelled(), if !is_last => {}
            }
            is_last = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// Settings of the system for a connection.
fn prepare(stream: &TcpStream, peer: SocketAddr) {
    // Without this, a body that is not ready with the head waits for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot switch off Nagle's algorithm");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%peer, %error, "cannot limit what was not sent yet");
    }
}

tokio::task_local! {
    /// How the answer on this task's stream is taken.
    static TAKING: Arc<Taking>;
}

/// Runs the streams of HTTP/2, each as a task, and resets those whose answer is taken too slowly. The others of their
/// connection go on.
#[derive(Clone)]
struct Streams {
    patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (patience, taking) = (self.patience, Arc::<Taking>::default());
        let watched = taking.clone();
        tokio::spawn(TAKING.scope(taking, async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = watched.stalls(patience) => tracing::debug!("an answer was given up"),
            }
        }));
    }
}
