//! Serves one connection: TLS if configured, then HTTP/1 or HTTP/2 as the client chooses.

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
    MAX_BUFFERED, RemoteAddr,
    coalesced_writes::CoalescedWrites,
    head_error::HeadErrorResponder,
    interim::{InterimResponses, InterimWriter},
    timeouts::{ConnTimeouts, MinRateBody, ObservedIo, PendingWrite, TimeoutKind, Timeouts},
    tls::Tls,
};
use crate::{middleware::ProbeSchedule, rate_check::MinRateCheck, settings::ListenerSettings};

/// Maximum amount of unsent data in the socket buffer of the kernel, in bytes. Without this limit,
/// the kernel buffers megabytes for a client that reads nothing, and the service notices only
/// minutes later that the client is slow.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 << 10;

/// Maximum number of concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Flow control window of an HTTP/2 stream, in bytes. With half the size, gRPC uploads reach only
/// 60% of the speed; a larger window gains nothing. The window of the connection has room for the
/// windows of all streams, so a stream that waits for the store does not block the others.
const STREAM_WINDOW: u32 = 256 << 10;

/// Maximum number of streams that the client has reset and that hyper has not accepted yet. Beyond
/// this number, the connection is closed (rapid reset attack).
const MAX_RESET_STREAMS: usize = 20;
/// Maximum number of streams that the service resets because of errors of the client. Beyond this
/// number, the connection is closed.
const MAX_LOCAL_RESET_STREAMS: usize = 128;

/// Interval of HTTP/2 keep-alive pings. A connection is closed if the client does not answer a ping
/// within `PING_TIMEOUT`.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of header fields, as in `check_head`.
const MAX_FIELDS: u32 = 100;
/// Bytes that HTTP/2 counts for each header field, in addition to the name and the value.
const FIELD_OVERHEAD: u32 = 32;

/// Serves the connections of a listener, all with the same settings.
pub(super) struct ConnectionServer {
    http: auto::Builder<StreamExecutor>,
    router: Router,
    tls: Option<Arc<Tls>>,
    timeouts: Timeouts,
    rate_check: MinRateCheck,
}

impl ConnectionServer {
    pub(super) fn new(router: Router, settings: &ListenerSettings, tls: Option<Arc<Tls>>) -> Self {
        let timeouts = Timeouts {
            head: settings.header_timeout,
            idle: settings.idle_timeout,
            write: settings.write_timeout,
        };
        let max_head = settings.max_head_bytes.max(u32::try_from(MAX_BUFFERED).unwrap_or(u32::MAX));
        let mut http = auto::Builder::new(StreamExecutor { write_timeout: timeouts.write });
        http.http1()
            .timer(TokioTimer::new())
            // `ConnTimeouts` enforces the timeout for heads. On an idle connection, that timeout
            // starts with the first byte of the next head.
            .header_read_timeout(None)
            // A client may close its write side after the request, and still wait for the response.
            .half_close(true)
            .max_buf_size(MAX_BUFFERED.max(settings.max_head_bytes as usize));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_STREAMS * STREAM_WINDOW)
            .max_send_buf_size(MAX_BUFFERED)
            // This limit is higher than the limit of `check_head`. So a head that is only
            // moderately too large still reaches `check_head`, which rejects the request with an
            // error code, as with HTTP/1.
            .max_header_list_size(max_head + MAX_FIELDS * FIELD_OVERHEAD)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_LOCAL_RESET_STREAMS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let rate_check = MinRateCheck::new(settings.min_rate, settings.min_rate_window);
        Self { http, router, tls, timeouts, rate_check }
    }

    /// Serves a connection until it ends. After `draining` is cancelled, the connection ends when
    /// its running requests have ended.
    pub(super) async fn serve(&self, stream: TcpStream, peer: SocketAddr, draining: CancellationToken) {
        set_socket_options(&stream, peer);
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer, draining).await;
        };
        match tokio::time::timeout(self.timeouts.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream, peer, draining).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
        }
    }

    async fn serve_http(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
        draining: CancellationToken,
    ) {
        let timeouts = Arc::new(ConnTimeouts::new());
        let head_error = HeadErrorResponder::new(self.router.clone(), peer);
        let io = CoalescedWrites::new(io, timeouts.is_multiplexed.clone());
        let interim = Arc::new(InterimResponses::default());
        let interim_writer = InterimWriter::new(interim.clone());
        let io = TokioIo::new(ObservedIo { io, timeouts: timeouts.clone(), head_error, interim_writer });
        let (router, rate_check, shared_timeouts) = (self.router.clone(), self.rate_check, timeouts.clone());
        let probes = ProbeSchedule::default();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let multiplexed = request.version() == Version::HTTP_2;
            let guard = shared_timeouts.begin_request(multiplexed);
            let interim = (request.version() == Version::HTTP_11).then(|| interim.clone());
            let mut request = request.map(Body::new);
            if let Some(interim) = &interim {
                request.extensions_mut().insert(interim.begin_request());
            }
            request.extensions_mut().insert(RemoteAddr(peer));
            request.extensions_mut().insert(probes.clone());
            let (router, connection_write) = (router.clone(), shared_timeouts.pending_write.clone());
            async move {
                let pending_write = STREAM_WRITE.try_with(Arc::clone).unwrap_or(connection_write);
                let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
                if let Some(interim) = interim {
                    interim.end_request();
                }
                let response = response
                    .map(|body| MinRateBody::new(body, pending_write, rate_check, multiplexed, guard));
                Ok::<Response<MinRateBody>, Infallible>(response)
            }
        });
        let mut connection = std::pin::pin!(self.http.serve_connection(io, service));
        let mut is_last = false;
        loop {
            tokio::select! {
                // Poll the connection first, so that `ConnTimeouts` has the latest state of the
                // connection.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection failed");
                    }
                    return;
                }
                kind = timeouts.expired(self.timeouts) => {
                    if kind != TimeoutKind::Idle || is_last || !timeouts.is_multiplexed() {
                        tracing::debug!(%peer, ?kind, "connection timed out");
                        return;
                    }
                    // HTTP/2 can announce the end (GOAWAY), so requests that the client has already
                    // sent are not lost.
                    timeouts.restart_idle();
                }
                () = draining.cancelled(), if !is_last => {}
            }
            is_last = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

fn set_socket_options(stream: &TcpStream, peer: SocketAddr) {
    // With Nagle's algorithm, a body that is sent after the head would wait for the delayed ACK of
    // the client.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot disable Nagle's algorithm");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%peer, %error, "cannot limit unsent data in the socket buffer");
    }
}

tokio::task_local! {
    /// The pending write of the HTTP/2 stream that this task serves.
    static STREAM_WRITE: Arc<PendingWrite>;
}

/// Runs each HTTP/2 stream as a task. Resets a stream if the client reads its response too slowly;
/// the other streams of the connection continue.
#[derive(Clone)]
struct StreamExecutor {
    write_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let (timeout, pending_write) = (self.write_timeout, Arc::<PendingWrite>::default());
        let observed = pending_write.clone();
        tokio::spawn(STREAM_WRITE.scope(pending_write, async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = observed.stalled(timeout) => tracing::debug!("response timed out; resetting its stream"),
            }
        }));
    }
}
