//! Content, as streams of messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt, future,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use osproxy_api::{
    ErrorCode,
    grpc::v1::{
        DownloadFileResponse, UploadFileHeader, UploadFileRequest, UploadPartHeader, UploadPartRequest,
        download_file_response, upload_file_request, upload_part_request,
    },
};
use tonic::{Status, Streaming};

use crate::{
    Error, Result,
    app::{App, Caller, Transfer},
    error,
    metrics::Running,
};

/// A message of a stream that sends content.
pub(super) trait Sent {
    /// What stands before the content.
    type Header;

    /// What is in it, if there is anything.
    fn split(self) -> Option<Piece<Self::Header>>;
}

/// What a message has.
pub(super) enum Piece<H> {
    Header(H),
    Data(Bytes),
}

macro_rules! sent {
    ($($request:ident, $header:ident, $module:ident;)*) => {$(
        impl Sent for $request {
            type Header = $header;

            fn split(self) -> Option<Piece<$header>> {
                Some(match self.part? {
                    $module::Part::Header(header) => Piece::Header(header),
                    $module::Part::Data(data) => Piece::Data(data),
                })
            }
        }
    )*};
}

sent! {
    UploadFileRequest, UploadFileHeader, upload_file_request;
    UploadPartRequest, UploadPartHeader, upload_part_request;
}

/// What stands before the content.
pub(super) async fn header<M: Sent>(messages: &mut Streaming<M>) -> Result<M::Header> {
    match messages.message().await.map_err(|status| broken(&status))?.and_then(Sent::split) {
        Some(Piece::Header(header)) => Ok(header),
        _ => Err(Error::invalid("the first message must be the header").with_field("header")),
    }
}

/// The content that follows.
pub(super) fn body<M: Sent + Send + 'static>(
    messages: Streaming<M>,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin {
    let pieces = messages.map(|message| match message.map_err(|status| broken(&status))?.split() {
        Some(Piece::Data(data)) => Ok(data),
        _ => Err(Error::invalid("all messages but the first must have data").with_field("data")),
    });
    // Of what has no byte there may be any number.
    pieces.filter(|piece| future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty)))
}

/// The same content, which breaks off when the key of its caller is revoked or expires.
pub(super) fn until_revoked(
    app: Arc<App>,
    caller: Caller,
    content: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let revoked = Box::pin(async move { app.revocation(&caller).await });
    let next = |state: Option<_>| async move {
        let (mut content, mut revoked) = state?;
        let piece = tokio::select! {
            biased;
            error = &mut revoked => return Some((Err(error), None)),
            piece = StreamExt::next(&mut content) => piece?,
        };
        Some((piece, Some((content, revoked))))
    };
    stream::unfold(Some((content, revoked)), next).boxed()
}

/// The client went away, was too slow, or sent what is no message.
fn broken(status: &Status) -> Error {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Error::new(ErrorCode::TooLarge, "a message has more than 1 MiB; send the content in smaller ones")
        }
        tonic::Code::Internal => Error::invalid("a message cannot be read"),
        _ => cut(),
    }
}

/// Says of a request whose body breaks off that it does, in a way that is never taken for its end: tonic takes some errors of
/// connections for that.
pub(super) async fn tell_cut(request: Request, next: Next) -> Response {
    next.run(request.map(|body| axum::body::Body::new(body.map_err(|_| Status::from(cut()))))).await
}

/// The client went away, or does not keep to what it announced.
pub(super) fn cut() -> Error {
    Error::new(ErrorCode::IncompleteBody, "the stream ended before it was complete")
}

/// A file that is read.
pub(super) struct Download {
    /// What is told before the content.
    pub(super) first: Option<DownloadFileResponse>,
    /// What follows.
    pub(super) content: BoxStream<'static, Result<Bytes>>,
    /// Counts it as long as it lasts.
    pub(super) _running: Option<(Transfer, Running)>,
}

impl Stream for Download {
    type Item = Result<DownloadFileResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let next = ready!(self.content.poll_next_unpin(cx));
        Poll::Ready(next.map(|read| {
            let data = read.inspect_err(|error| {
                tracing::error!(error = error::chain(error), "the answer broke off");
            })?;
            let part = Some(download_file_response::Part::Data(data));
            Ok(DownloadFileResponse { part })
        }))
    }
}
