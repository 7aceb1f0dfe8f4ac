//! Responses that several operations share, for the `OpenAPI` document: one response for each error
//! status, with an example for each error code. API v0 returns envelopes, API v1 returns problem
//! documents.

use std::collections::BTreeMap;

use osproxy_api::{
    ERROR_HEADER, ErrorCode, schema,
    v0::ErrorEnvelope,
    v1::{PROBLEM, Problem},
};
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, ToResponse, ToSchema,
    openapi::{
        Content, Header, Object, Ref, RefOr, Response,
        example::ExampleBuilder,
        schema::{SchemaType, Type},
    },
};

/// Format of errors in a version of the API.
struct ErrorFormat {
    media_type: &'static str,
    schema: fn() -> Ref,
    example: fn(ErrorCode, &str) -> Value,
}

const V0: ErrorFormat = ErrorFormat {
    media_type: "application/json",
    schema: || Ref::from_schema_name(ErrorEnvelope::name()),
    example: |code, message| json!({"code": code.v0_status(), "message": message, "data": ""}),
};

const V1: ErrorFormat = ErrorFormat {
    media_type: PROBLEM,
    schema: || Ref::from_schema_name(Problem::name()),
    example: |code, message| {
        json!({
            "type": format!("urn:osproxy:error:{code}"), "title": code.title(), "status": code.v1_status(),
            "detail": message, "code": code.as_str(), "request_id": "5f1c2a9e00000001",
        })
    },
};

/// Declares error responses of one format. Each entry has a name, a description, additional headers
/// (name and description), and examples (error code and message).
macro_rules! responses {
    ($format:ident: $($name:ident, $description:literal, $headers:expr, $examples:expr;)*) => {$(
        #[doc = $description]
        pub(crate) enum $name {}

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), response(&$format, $description, &$headers, &$examples).into())
            }
        }
    )*};
}

responses! { V0:
    Keyless, "The API key is missing or invalid.",
        [("www-authenticate", "Authentication scheme to use.")],
        [(ErrorCode::Unauthenticated, "this request requires an API key; send it as `Authorization: Bearer KEY`")];
    Unscoped, "The API key lacks the required scope.", [],
        [(ErrorCode::PermissionDenied, "this request requires an API key with the scope `read`")];
    TooMany, "Too many requests.", [("retry-after", "Seconds to wait before retrying.")],
        [(ErrorCode::RateLimited, "too many requests; retry later")];
    Forbidden, "The request claims to be forwarded by a node, but its peer token is invalid.", [],
        [(ErrorCode::PermissionDenied, "the request has an invalid peer token; only nodes of this cluster may forward requests")];
    NotFound, "No file has this uid, or its content is not stored.", [],
        [
            (ErrorCode::FileNotFound, "there is no file with this uid"),
            (
                ErrorCode::FileCorrupt,
                "the content did not match the expected digests or MIME type and was removed",
            ),
            (
                ErrorCode::FileProcessing,
                "this file is complete and is being checked; it cannot be read or changed yet",
            ),
        ];
    PreconditionFailed, "`If-Match` or `If-Unmodified-Since` does not hold.", [],
        [(ErrorCode::PreconditionFailed, "the precondition `If-Match` or `If-Unmodified-Since` does not hold")];
    TooLarge, "The body, or the resulting file, is too large.", [],
        [(ErrorCode::TooLarge, "a file must not be larger than 5497558138880 bytes")];
    Encoded, "The body has a content coding.", [],
        [(ErrorCode::UnsupportedMediaType, "`Content-Encoding` is not supported: send the content unencoded")];
    RangeNotSatisfiable, "The range contains no byte of the file.",
        [("content-range", "`bytes */`, followed by the size of the file.")],
        [(ErrorCode::RangeNotSatisfiable, "the range lies outside the file, which has 1000 bytes")];
    Invalid, "A parameter, the link or the content is invalid, or conflicts with the state of the upload.", [],
        [
            (ErrorCode::InvalidArgument, "the lifetime of a link must be 1 to 31536000 seconds"),
            (ErrorCode::InvalidSignature, "the signature does not match this link"),
            (ErrorCode::LinkExpired, "the link has expired"),
            (ErrorCode::LinkRevoked, "this link was revoked; request a new link"),
            (ErrorCode::LinkUsedUp, "this link has no uses left"),
            (ErrorCode::AlreadyStored, "this file is already complete, with other content"),
            (ErrorCode::DigestMismatch, "the md5 of the content is 5d41402abc4b2a76b9719d911017c592, which differs from the expected digest"),
            (ErrorCode::SizeMismatch, "the parts have 1000 bytes in total, not 999"),
            (ErrorCode::PartsMissing, "of 3 expected parts, these are missing: 2"),
        ];
    Interrupted, "The body was incomplete, or arrived too slowly. Retrying the same request may succeed.",
        [("retry-after", "Seconds to wait before retrying.")],
        [(ErrorCode::IncompleteBody, "the body was not received in time: the client sent no data for too long")];
    Coded, "The body has a transfer coding other than `chunked`.", [],
        [(ErrorCode::NotImplemented, "`Transfer-Encoding` other than `chunked` is not supported: send the content unencoded")];
    Internal, "An internal error of the service.", [],
        [(ErrorCode::Internal, "internal error (request id 5f1c2a9e00000001)")];
    Full, "The quota of the tenant is exhausted, or the store is full.", [],
        [
            (ErrorCode::QuotaExceeded, "the storage quota is exceeded; delete files to free space"),
            (ErrorCode::StorageFull, "the storage is full; uploads work again once the operator has freed space (request id 5f1c2a9e00000001)"),
        ];
    Unavailable, "A dependency of the service is unavailable, or the service is overloaded. Retrying the same request may succeed.",
        [("retry-after", "Seconds to wait before retrying.")],
        [
            (
                ErrorCode::Unavailable,
                "the service is temporarily unavailable; retry later (request id 5f1c2a9e00000001)",
            ),
            (
                ErrorCode::NodeUnavailable,
                "the node that has the content of this file is unreachable; retry later \
                 (request id 5f1c2a9e00000001)",
            ),
            (ErrorCode::Overloaded, "too many concurrent requests; retry later"),
        ];
}

/// Responses of API v0 to missing keys, missing scopes and exceeded rate limits, by status.
pub(super) const V0_ACCESS: [(&str, &str); 3] = [("401", "Keyless"), ("403", "Unscoped"), ("429", "TooMany")];
/// Responses of API v1 to missing keys, missing scopes and exceeded rate limits, by status.
pub(super) const V1_ACCESS: [(&str, &str); 3] =
    [("401", "Unauthenticated"), ("403", "Refused"), ("429", "Limited")];

responses! { V1:
    Unauthenticated, "The API key is missing or invalid.",
        [("www-authenticate", "Authentication scheme to use.")],
        [(ErrorCode::Unauthenticated, "this request requires an API key; send it as `Authorization: Bearer KEY`")];
    Limited, "Too many requests.", [("retry-after", "Seconds to wait before retrying.")],
        [(ErrorCode::RateLimited, "too many requests; retry later")];
    BadRequest, "A parameter, a header or the body is invalid; `field` names it.", [],
        [
            (ErrorCode::InvalidArgument, "the lifetime of a link must be 1 to 31536000 seconds"),
        ];
    BrokenOff, "The body was incomplete, or arrived too slowly. Retrying the same request may succeed.",
        [("retry-after", "Seconds to wait before retrying.")],
        [(ErrorCode::IncompleteBody, "the body was not received in time: the client sent no data for too long")];
    Refused, "The link is not valid, or the API key lacks the required scope.", [],
        [
            (ErrorCode::InvalidSignature, "the signature does not match this link"),
            (ErrorCode::LinkExpired, "the link has expired"),
            (ErrorCode::LinkRevoked, "this link was revoked; request a new link"),
            (ErrorCode::LinkUsedUp, "this link has no uses left"),
            (ErrorCode::PermissionDenied, "this request requires an API key with the scope `read`"),
        ];
    Missing, "No file has this uid, no bucket this name, or no task, webhook or upload grant this id.", [],
        [
            (ErrorCode::FileNotFound, "there is no file with this uid"),
            (ErrorCode::BucketNotFound, "there is no bucket with this name"),
            (ErrorCode::GrantNotFound, "there is no upload grant with this id"),
            (ErrorCode::TaskNotFound, "there is no task with this id"),
            (ErrorCode::WebhookNotFound, "there is no webhook with this id"),
            (ErrorCode::UnknownRoute, "the path is not valid UTF-8"),
        ];
    Conflict, "The request conflicts with the state of the file, the upload, the bucket, the task or the webhook.", [],
        [
            (ErrorCode::NotStored, "the upload of this file is not complete"),
            (ErrorCode::AlreadyStored, "this file is already complete, with other content"),
            (ErrorCode::PartsMissing, "of 3 expected parts, these are missing: 2"),
            (
                ErrorCode::FileProcessing,
                "this file is complete and is being checked; it cannot be read or changed yet",
            ),
            (ErrorCode::InProgress, "the first request with this idempotency key is still running; retry later"),
            (ErrorCode::BucketTaken, "another tenant has a bucket with this name"),
            (ErrorCode::BucketNotEmpty, "the bucket has objects; delete them first"),
            (ErrorCode::TooManyBuckets, "a tenant can have at most 1000 buckets"),
            (ErrorCode::FileIsObject, "the file is the object of another key"),
            (ErrorCode::TaskNotDead, "only a dead task can be retried; this one is queued"),
            (ErrorCode::WebhookConfigured, "this webhook is in the configuration file; change it there"),
            (
                ErrorCode::WebhookSecretRotating,
                "the secret before still signs until 2026-12-01T12:00:00.000Z; wait until then, or end it now with the `overlap` 0",
            ),
            (ErrorCode::TooManyWebhooks, "a tenant must have at most 100 webhooks; delete one that is not used"),
        ];
    Gone, "The file, its content, the challenge or the events no longer exist.", [],
        [
            (ErrorCode::FileGone, "this file was deleted"),
            (
                ErrorCode::FileCorrupt,
                "the content did not match the expected digests or MIME type and was removed",
            ),
            (
                ErrorCode::FileRejected,
                "this file was checked and not accepted; its content was removed",
            ),
            (
                ErrorCode::FileQuarantined,
                "this file is in quarantine, because its content may be dangerous",
            ),
            (
                ErrorCode::ChallengeGone,
                "the challenge was already answered or has expired; send the content",
            ),
            (
                ErrorCode::CursorExpired,
                "events after this one were removed; start again with 0",
            ),
        ];
    Unmet, "`If-Match` or `If-Unmodified-Since` does not hold.", [],
        [(ErrorCode::PreconditionFailed, "the precondition `If-Match` or `If-Unmodified-Since` does not hold")];
    Oversized, "The body, or the resulting file, is too large.", [],
        [(ErrorCode::TooLarge, "a file must not be larger than 5497558138880 bytes")];
    UnsupportedType, "The content type or content coding of the body is not supported.", [],
        [(ErrorCode::UnsupportedMediaType, "the content type must be application/json")];
    OutOfRange, "The range contains no byte of the file.",
        [("content-range", "`bytes */`, followed by the size of the file.")],
        [(ErrorCode::RangeNotSatisfiable, "the range lies outside the file, which has 1000 bytes")];
    Mismatch, "The content does not match its expected digests or size, or the idempotency key was already used for a different request.", [],
        [
            (ErrorCode::DigestMismatch, "the md5 of the content is 5d41402abc4b2a76b9719d911017c592, which differs from the expected digest"),
            (ErrorCode::SizeMismatch, "the parts have 1000 bytes in total, not 999"),
            (ErrorCode::KeyReused, "the idempotency key was already used for a different request"),
        ];
    Unimplemented, "The body has a transfer coding other than `chunked`.", [],
        [(ErrorCode::NotImplemented, "`Transfer-Encoding` other than `chunked` is not supported: send the content unencoded")];
    Fault, "An internal error of the service.", [],
        [(ErrorCode::Internal, "internal error (request id 5f1c2a9e00000001)")];
    Exhausted, "The quota of the tenant is exhausted, or the store is full.", [],
        [
            (ErrorCode::QuotaExceeded, "the storage quota is exceeded; delete files to free space"),
            (ErrorCode::StorageFull, "the storage is full; uploads work again once the operator has freed space (request id 5f1c2a9e00000001)"),
        ];
    Away, "A dependency of the service is unavailable, or the service is overloaded. Retrying the same request may succeed.",
        [("retry-after", "Seconds to wait before retrying.")],
        [
            (
                ErrorCode::Unavailable,
                "the service is temporarily unavailable; retry later (request id 5f1c2a9e00000001)",
            ),
            (
                ErrorCode::NodeUnavailable,
                "the node that has the content of this file is unreachable; retry later \
                 (request id 5f1c2a9e00000001)",
            ),
            (ErrorCode::Overloaded, "too many concurrent requests; retry later"),
        ];
}

/// Declares groups of error responses of API v1 that several operations share.
macro_rules! groups {
    ($($(#[$doc:meta])* $group:ident: $($status:literal $name:ident),*;)*) => {$(
        $(#[$doc])*
        pub(crate) enum $group {}

        impl IntoResponses for $group {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let responses = [$(($status, stringify!($name))),*];
                responses.map(|(status, name)| (status.to_owned(), Ref::from_response_name(name).into())).into()
            }
        }
    )*};
}

groups! {
    /// Error responses of every operation.
    CommonErrors: "400" BadRequest, "500" Fault, "503" Away;
    /// Error responses of operations on a file.
    FileErrors: "404" Missing, "410" Gone;
    /// Error responses of operations that read content.
    ReadErrors: "409" Conflict;
    /// Error responses of operations by signed link.
    LinkErrors: "403" Refused, "404" Missing, "410" Gone;
    /// Error responses of operations with a JSON body.
    JsonBodyErrors: "408" BrokenOff, "413" Oversized, "415" UnsupportedType, "501" Unimplemented;
    /// Error responses of operations that receive content.
    ContentBodyErrors: "408" BrokenOff, "409" Conflict, "413" Oversized, "415" UnsupportedType, "422" Mismatch,
        "501" Unimplemented;
    /// Error responses of operations that need storage.
    StorageErrors: "507" Exhausted;
    /// Error responses of operations with `Idempotency-Key`.
    IdempotencyErrors: "409" Conflict, "422" Mismatch;
}

/// Responses of operations that read content, except error responses: 200, 206 and 304.
pub(crate) enum ContentResponses {}

impl IntoResponses for ContentResponses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        const ETAG: (&str, &str) = ("etag", "A strong entity tag. The content of a uid never changes.");
        const MODIFIED: (&str, &str) = ("last-modified", "Time at which the file was stored.");
        const LENGTH: (&str, &str) = ("content-length", "Length of the body in bytes.");
        const NAME: (&str, &str) =
            ("content-disposition", "Whether to display or to save the file, and its name.");
        const RANGES: (&str, &str) = ("accept-ranges", "`bytes`.");
        const CACHING: (&str, &str) = (
            "cache-control",
            "`private` or `public` until the link expires; `no-store` if the link has a limit on uses.",
        );
        const DIGEST: (&str, &str) = ("repr-digest", "Known digests of the whole file (RFC 9530).");
        let response = |description: &str, has_content: bool, headers: &[(&str, &str)]| {
            let mut response = Response::builder().description(description);
            if has_content {
                let schema = Ref::from_schema_name(schema::Content::name());
                response = response.content("*/*", Content::builder().schema(Some(schema)).build());
            }
            let headers = headers.iter().map(|(name, description)| (*name, text_header(description, None)));
            headers.fold(response, |response, (name, header)| response.header(name, header)).build().into()
        };
        let range = ("content-range", "The range of the body, and the size of the file.");
        BTreeMap::from([
            (
                "200".to_owned(),
                response(
                    "The content of the file.",
                    true,
                    &[RANGES, NAME, LENGTH, ETAG, MODIFIED, CACHING, DIGEST],
                ),
            ),
            (
                "206".to_owned(),
                response(
                    "The range of the content.",
                    true,
                    &[NAME, LENGTH, range, ETAG, MODIFIED, CACHING, DIGEST],
                ),
            ),
            ("304".to_owned(), response("The client's copy is current.", false, &[ETAG, MODIFIED, CACHING])),
        ])
    }
}

/// Describes a header with a text value.
pub(super) fn text_header(description: &str, values: Option<&[&str]>) -> Header {
    let schema = Object::builder().schema_type(SchemaType::new(Type::String));
    let schema = schema.enum_values(values.map(|values| values.iter().copied()));
    Header::builder().schema(Some(schema)).description(Some(description)).build()
}

fn response(
    format: &ErrorFormat,
    description: &str,
    headers: &[(&str, &str)],
    examples: &[(ErrorCode, &str)],
) -> Response {
    let codes: Vec<_> = examples.iter().map(|(code, _)| code.as_str()).collect();
    let named = examples.iter().map(|(code, message)| {
        let example = (format.example)(*code, message);
        (code.as_str(), ExampleBuilder::new().value(Some(example)).build())
    });
    let body = Content::builder().schema(Some((format.schema)())).examples_from_iter(named).build();
    let response = Response::builder()
        .description(description)
        .content(format.media_type, body)
        .header(ERROR_HEADER, text_header("The error code.", Some(&codes)));
    let more = headers.iter().map(|(name, description)| (*name, text_header(description, None)));
    more.fold(response, |response, (name, header)| response.header(name, header)).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_the_status_of_its_response() {
        for (expected, (name, response)) in [
            (401, Keyless::response()),
            (403, Forbidden::response()),
            (403, Unscoped::response()),
            (429, TooMany::response()),
            (404, NotFound::response()),
            (412, PreconditionFailed::response()),
            (408, Interrupted::response()),
            (413, TooLarge::response()),
            (415, Encoded::response()),
            (416, RangeNotSatisfiable::response()),
            (422, Invalid::response()),
            (500, Internal::response()),
            (501, Coded::response()),
            (503, Unavailable::response()),
            (507, Full::response()),
        ] {
            let response = serde_json::to_value(response).unwrap();
            let examples = response["content"]["application/json"]["examples"].as_object().unwrap();
            for (code, example) in examples {
                assert_eq!(example["value"]["code"], expected, "{name}: {code}");
            }
        }
        for (expected, (name, response)) in [
            (400, BadRequest::response()),
            (401, Unauthenticated::response()),
            (403, Refused::response()),
            (429, Limited::response()),
            (404, Missing::response()),
            (408, BrokenOff::response()),
            (409, Conflict::response()),
            (410, Gone::response()),
            (412, Unmet::response()),
            (413, Oversized::response()),
            (415, UnsupportedType::response()),
            (416, OutOfRange::response()),
            (422, Mismatch::response()),
            (500, Fault::response()),
            (501, Unimplemented::response()),
            (503, Away::response()),
            (507, Exhausted::response()),
        ] {
            let response = serde_json::to_value(response).unwrap();
            let examples = response["content"][PROBLEM]["examples"].as_object().unwrap();
            for (code, example) in examples {
                assert_eq!(example["value"]["status"], expected, "{name}: {code}");
            }
        }
    }
}
