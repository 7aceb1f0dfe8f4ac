//! Content as a stream of messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream::BoxStream};
use http_body_util::BodyExt;
use osproxy_api::{
    ErrorCode,
    grpc::v1::{
        DownloadFileResponse, StoreFileHeader, StoreFileRequest, UploadFileHeader, UploadFileRequest,
        UploadPartHeader, UploadPartRequest, download_file_response, store_file_request, upload_file_request,
        upload_part_request,
    },
};
use osproxy_core::{Error, Result};
use osproxy_types::error_chain;
use tonic::{Status, Streaming};

use super::status::to_status;

/// A message of a stream in which a client sends content. The first message contains a header, and
/// every other message contains data.
pub(super) trait ContentMessage {
    /// The header in the first message.
    type Header;

    /// Returns the header or the data in the message; `None` if it has neither.
    fn split(self) -> Option<MessagePart<Self::Header>>;
}

/// What a message contains.
pub(super) enum MessagePart<H> {
    Header(H),
    Data(Bytes),
}

macro_rules! sent {
    ($($request:ident, $header:ident, $module:ident;)*) => {$(
        impl ContentMessage for $request {
            type Header = $header;

            fn split(self) -> Option<MessagePart<$header>> {
                Some(match self.part? {
                    $module::Part::Header(header) => MessagePart::Header(header),
                    $module::Part::Data(data) => MessagePart::Data(data),
                })
            }
        }
    )*};
}

sent! {
    StoreFileRequest, StoreFileHeader, store_file_request;
    UploadFileRequest, UploadFileHeader, upload_file_request;
    UploadPartRequest, UploadPartHeader, upload_part_request;
}

/// Reads the header, which must be the first message.
pub(super) async fn read_header<M: ContentMessage>(messages: &mut Streaming<M>) -> Result<M::Header> {
    match messages.message().await.map_err(|status| stream_error(&status))?.and_then(ContentMessage::split) {
        Some(MessagePart::Header(header)) => Ok(header),
        _ => Err(Error::invalid("the first message must contain the header").with_field("header")),
    }
}

/// Returns the content: the data of all messages after the header.
pub(super) fn data_stream<M: ContentMessage + Send + 'static>(
    messages: Streaming<M>,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin {
    let chunks = messages.map(|message| match message.map_err(|status| stream_error(&status))?.split() {
        Some(MessagePart::Data(data)) => Ok(data),
        _ => Err(Error::invalid("all messages except the first must contain data").with_field("data")),
    });
    // Clients may send any number of messages with empty data; drop them.
    chunks.filter(|piece| future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty)))
}

/// Converts the error of a request stream. The code is `TooLarge` for a message that is too large,
/// `InvalidArgument` for a message that cannot be decoded, and `IncompleteBody` if the client
/// disconnected or was too slow.
fn stream_error(status: &Status) -> Error {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Error::new(ErrorCode::TooLarge, "a message exceeds 1 MiB; send the content in smaller messages")
        }
        tonic::Code::Internal => Error::invalid("a message could not be decoded"),
        _ => incomplete_stream(),
    }
}

/// Converts errors of the request body to a gRPC status. Without this middleware, tonic would treat
/// a request that the client reset with `CANCEL` as finished, and a truncated upload would look
/// complete.
pub(super) async fn report_body_errors(request: Request, next: Next) -> Response {
    next.run(request.map(|body| axum::body::Body::new(body.map_err(|_| to_status(incomplete_stream())))))
        .await
}

/// Returns the error for a client that disconnected or sent less than it announced.
pub(super) fn incomplete_stream() -> Error {
    Error::new(ErrorCode::IncompleteBody, "the stream ended before it was complete")
}

/// The response stream of a download.
pub(super) struct Download {
    /// The message that describes the file; `None` after this message was sent.
    pub(super) first: Option<DownloadFileResponse>,
    /// The content that follows.
    pub(super) content: BoxStream<'static, Result<Bytes>>,
}

impl Stream for Download {
    type Item = Result<DownloadFileResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let next = ready!(self.content.poll_next_unpin(cx));
        Poll::Ready(next.map(|read| {
            let data = read.map_err(|error| {
                tracing::error!(error = error_chain(&error), "download failed after the response started");
                to_status(error)
            })?;
            let part = Some(download_file_response::Part::Data(data));
            Ok(DownloadFileResponse { part })
        }))
    }
}
