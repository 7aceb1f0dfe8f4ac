//! Errors as S3 has them: a code, and XML.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response},
    response::Response,
};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, ProtocolOutcome, RequestId};
use osproxy_types::error_chain;
use s3s::{S3Error, S3ErrorCode};

use crate::context::Context;

const XML: HeaderValue = HeaderValue::from_static("application/xml");
/// Header with the request id, which clients of S3 show in their errors.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
/// End of the XML of an error.
const END: &str = "</Error>";

/// Renders an error of a layer around the routes of this crate.
pub fn render_error(error: &Error) -> Response {
    let mut rendered = render(&convert(error));
    if let Some(range) =
        error.file_size().and_then(|size| HeaderValue::try_from(format!("bytes */{size}")).ok())
    {
        rendered.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    rendered
}

/// Converts the error of an operation, and logs it if the service is at fault. Every error of an
/// operation must come here: see `request::invalid_body`.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn to_s3(error: Error) -> S3Error {
    let converted = convert(&error);
    let code = converted.code().as_str();
    if matches!(error.code, ErrorCode::Internal | ErrorCode::Unavailable | ErrorCode::NodeUnavailable) {
        tracing::error!(code, error = error_chain(&error), "the request failed");
        Context::current().set_logged();
    } else {
        tracing::debug!(code, why = &*error.message, "the request was refused");
    }
    converted
}

fn convert(error: &Error) -> S3Error {
    let (code, status) = code(error.code);
    let mut converted = S3Error::with_message(code, error.message.clone());
    if let Some(status) = status {
        converted.set_status_code(status);
    }
    if let Some(wait) = error.retry_after() {
        // These headers replace all others.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        converted.set_headers(HeaderMap::from_iter([
            (header::CONTENT_TYPE, XML),
            (header::RETRY_AFTER, seconds.max(1).into()),
        ]));
    }
    converted
}

/// Returns the code for an error, and the status if the code does not imply it.
fn code(code: ErrorCode) -> (S3ErrorCode, Option<StatusCode>) {
    use ErrorCode as E;
    use S3ErrorCode as S;
    let custom = |name: &'static str, status| (S::Custom(name.into()), Some(status));
    let code = match code {
        E::InvalidArgument | E::CursorExpired => S::InvalidArgument,
        E::InvalidSignature
        | E::LinkExpired
        | E::LinkRevoked
        | E::LinkUsedUp
        | E::PermissionDenied
        | E::FileRejected
        | E::FileQuarantined => S::AccessDenied,
        E::Unauthenticated => S::InvalidAccessKeyId,
        E::MethodNotAllowed => S::MethodNotAllowed,
        E::FileNotFound | E::NotStored | E::FileGone | E::ObjectNotFound => S::NoSuchKey,
        E::BucketNotFound => S::NoSuchBucket,
        E::BucketExists => S::BucketAlreadyOwnedByYou,
        E::BucketTaken => S::BucketAlreadyExists,
        E::BucketNotEmpty => S::BucketNotEmpty,
        E::TooManyBuckets => S::TooManyBuckets,
        E::PartTooSmall => S::EntityTooSmall,
        E::AlreadyStored | E::InProgress | E::Superseded => S::OperationAborted,
        E::PartsMissing => S::InvalidPart,
        E::DigestMismatch => S::BadDigest,
        E::IncompleteBody | E::SizeMismatch => S::IncompleteBody,
        E::DeadlineExceeded => S::RequestTimeout,
        E::PreconditionFailed => S::PreconditionFailed,
        E::RangeNotSatisfiable => S::InvalidRange,
        E::TooLarge => S::EntityTooLarge,
        E::QuotaExceeded => return custom("QuotaExceeded", StatusCode::FORBIDDEN),
        E::StorageFull => return custom("StorageFull", StatusCode::INSUFFICIENT_STORAGE),
        E::RateLimited | E::Overloaded => S::SlowDown,
        E::HeaderTooLarge => S::RequestHeaderSectionTooLarge,
        E::NodeUnavailable | E::Unavailable | E::FileProcessing => S::ServiceUnavailable,
        E::NotImplemented => S::NotImplemented,
        E::Internal | E::FileCorrupt => S::InternalError,
        E::UnknownRoute
        | E::GrantNotFound
        | E::WebhookNotFound
        | E::WebhookConfigured
        | E::WebhookSecretRotating
        | E::TooManyWebhooks
        | E::TaskNotFound
        | E::TaskNotDead
        | E::KeyReused
        | E::UnsupportedMediaType
        | E::ChallengeGone
        | E::FileIsObject
        | E::OffsetMismatch => S::InvalidRequest,
    };
    (code, None)
}

/// An error with a code that `s3s` does not know.
pub(crate) fn custom(
    code: &'static str,
    status: StatusCode,
    message: impl Into<Cow<'static, str>>,
) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// Renders an error that `s3s` has not rendered.
pub(crate) fn render(error: &S3Error) -> Response {
    let mut xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error>{END}");
    append(&mut xml, "Code", error.code().as_str());
    if let Some(message) = error.message() {
        append(&mut xml, "Message", message);
    }
    let mut rendered = Response::new(());
    *rendered.status_mut() = error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(headers) = error.headers() {
        *rendered.headers_mut() = headers.clone();
    }
    rendered.headers_mut().insert(header::CONTENT_TYPE, XML);
    complete(rendered.into_parts().0, xml.as_bytes())
}

/// Completes an error: adds a message, if there is none, and the request id. Tells the access log
/// what failed.
pub(crate) fn complete(mut head: response::Parts, xml: &[u8]) -> Response {
    let mut text = String::from_utf8_lossy(xml).into_owned();
    let code = element(&text, "Code").unwrap_or_default().to_owned();
    let mut message = element(&text, "Message").map(str::to_owned);
    if message.is_none() {
        append(&mut text, "Message", default_message(&code));
        message = Some(default_message(&code).to_owned());
    }
    if let Some(key) = Context::current().key().filter(|_| code == "NoSuchKey") {
        append(&mut text, "Key", key);
    }
    if let Some(RequestId(id)) = RequestId::current() {
        append(&mut text, "RequestId", &id);
    }
    head.extensions.insert(ProtocolOutcome { operation: None, error: Some(code), why: message });
    // The length has changed.
    head.headers.remove(header::CONTENT_LENGTH);
    let mut response = Response::from_parts(head, Body::from(text));
    insert_request_id(response.headers_mut());
    response
}

/// Adds the request id to the headers of a response.
pub(crate) fn insert_request_id(headers: &mut HeaderMap) {
    if let Some(id) = RequestId::current().and_then(|RequestId(id)| HeaderValue::try_from(&*id).ok()) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Returns a message for codes that `s3s` sends without one.
fn default_message(code: &str) -> &str {
    match code {
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and \
             signing method."
        }
        "InvalidBucketName" => "The specified bucket is not valid.",
        "KeyTooLongError" => "Your key is too long.",
        "InvalidURI" => "Could not parse the specified URI.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "IncompleteBody" => {
            "You did not provide the number of bytes specified by the Content-Length HTTP header."
        }
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "InternalError" => "We encountered an internal error. Please try again.",
        _ => code,
    }
}

/// Appends an element to the XML of an error.
fn append(xml: &mut String, name: &str, value: &str) {
    if xml.ends_with(END) {
        xml.insert_str(xml.len() - END.len(), &format!("<{name}>{}</{name}>", escape(value)));
    }
}

/// Returns the text of the first element with this name.
fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(['&', '<', '>', '"', '\'']) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        return escaped.replace('"', "&quot;").replace('\'', "&apos;").into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn errors_have_the_codes_of_s3() {
        let id = RequestId("id-1".into());
        let response = id.scope(async { render_error(&Error::invalid("a < b & c")) }).await;
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-amz-request-id"], "id-1");
        let outcome: ProtocolOutcome = response.extensions().get().cloned().unwrap();
        assert_eq!(outcome.error.as_deref(), Some("InvalidArgument"));
        let expected = "<Error><Code>InvalidArgument</Code><Message>a &lt; b &amp; c</Message>\
                        <RequestId>id-1</RequestId></Error>";
        assert!(text(response).await.ends_with(expected));
    }

    #[test]
    fn every_error_has_a_status() {
        for error in
            [ErrorCode::Internal, ErrorCode::QuotaExceeded, ErrorCode::StorageFull, ErrorCode::TooLarge]
        {
            let converted = convert(&Error::new(error, "x"));
            assert!(converted.status_code().is_some_and(|status| status.as_u16() >= 400), "{error:?}");
        }
        let busy = convert(&Error::new(ErrorCode::Overloaded, "x"));
        assert_eq!(busy.headers().unwrap()[header::RETRY_AFTER], "1");
        assert_eq!(busy.headers().unwrap()[header::CONTENT_TYPE], "application/xml");
    }
}
