//! What is told of requests that are not served: one response for each status, with an example for each code. API v0 has an
//! envelope, API v1 problem documents.

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

/// How a version of the API tells errors.
struct Telling {
    media_type: &'static str,
    schema: fn() -> Ref,
    example: fn(ErrorCode, &str) -> Value,
}

const V0: Telling = Telling {
    media_type: "application/json",
    schema: || Ref::from_schema_name(ErrorEnvelope::name()),
    example: |code, message| json!({"code": code.v0_status(), "message": message, "data": ""}),
};

const V1: Telling = Telling {
    media_type: PROBLEM,
    schema: || Ref::from_schema_name(Problem::name()),
    example: |code, message| {
        json!({
            "type": format!("urn:osproxy:error:{code}"), "title": code.title(), "status": code.v1_status(),
            "detail": message, "code": code.as_str(), "request_id": "5f1c2a9e00000001",
        })
    },
};

/// Declares responses by name: how they are told, what they mean, further headers with their meaning, and which codes with what sentences.
macro_rules! responses {
    ($telling:ident: $($name:ident, $description:literal, $headers:expr, $examples:expr;)*) => {$(
        #[doc = $description]
        pub(in crate::http) enum $name {}

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), response(&$telling, $description, &$headers, &$examples).into())
            }
        }
    )*};
}

responses! { V0:
    Keyless, "There is no API key, or one that is worth nothing.",
        [("www-authenticate", "How to show one.")],
        [(ErrorCode::Unauthenticated, "this takes an API key, as `Authorization: Bearer KEY`")];
    Unscoped, "The API key has not the scope.", [],
        [(ErrorCode::PermissionDenied, "this takes an API key with the scope `read`")];
    TooMany, "There were too many requests.", [("retry-after", "After how many seconds to try again.")],
        [(ErrorCode::RateLimited, "there were too many requests, try again later")];
    Forbidden, "The request says that another node forwarded it, and none did.", [],
        [(ErrorCode::PermissionDenied, "only nodes of this service forward requests")];
    NotFound, "There is no such file, or none that is complete.", [],
        [
            (ErrorCode::FileNotFound, "there is no file with this uid"),
            (
                ErrorCode::FileCorrupt,
                "the content of this file has not the md5 that was announced when it was merged",
            ),
        ];
    PreconditionFailed, "`If-Match` or `If-Unmodified-Since` does not hold.", [],
        [(ErrorCode::PreconditionFailed, "the file is not the one that the precondition names")];
    TooLarge, "The body, or what it would become, is larger than the service takes.", [],
        [(ErrorCode::TooLarge, "a file must not be larger than 5497558138880 bytes")];
    Encoded, "The body is compressed.", [],
        [(ErrorCode::UnsupportedMediaType, "`Content-Encoding` is not supported: send the bytes as they are")];
    RangeNotSatisfiable, "No byte of the file lies in the range.",
        [("content-range", "`bytes */` and the size of the file.")],
        [(ErrorCode::RangeNotSatisfiable, "the file has 1000 bytes, none of them in this range")];
    Invalid, "The parameters, the link or the bytes are not what they must be.", [],
        [
            (ErrorCode::InvalidArgument, "links must hold 1 to 31536000 seconds"),
            (ErrorCode::InvalidSignature, "the signature does not fit this link"),
            (ErrorCode::LinkExpired, "the link has expired"),
            (ErrorCode::LinkRevoked, "the links of this file were revoked"),
            (ErrorCode::LinkUsedUp, "the link was used as often as it may be"),
            (ErrorCode::AlreadyStored, "this uid already has other content, which never changes"),
            (ErrorCode::DigestMismatch, "the content has not the md5 that was announced"),
            (ErrorCode::SizeMismatch, "the parts have 1000 bytes together, not 999"),
            (ErrorCode::PartsMissing, "of 3 parts these are missing: 2"),
        ];
    Interrupted, "The body broke off, or came too slowly. The same request may succeed when it is repeated.",
        [("retry-after", "After how many seconds to try again.")],
        [(ErrorCode::IncompleteBody, "the body was given up: the client has sent nothing for too long")];
    Coded, "The body has a transfer coding other than `chunked`.", [],
        [(ErrorCode::NotImplemented, "`Transfer-Encoding` other than `chunked` is not supported: send the bytes as they are")];
    Internal, "A fault of the service itself.", [],
        [(ErrorCode::Internal, "internal error (request id 5f1c2a9e00000001)")];
    Full, "There is not so much room left, of the tenant's quota or in the store.", [],
        [
            (ErrorCode::QuotaExceeded, "there is not so much left of what may be stored; remove something first"),
            (ErrorCode::StorageFull, "the store has no room for this; it goes on once the operator has made room (request id 5f1c2a9e00000001)"),
        ];
    Unavailable, "Something that the service depends on is away, or as much is being done as it takes on. The same request may succeed later.",
        [("retry-after", "After how many seconds to try again.")],
        [
            (
                ErrorCode::Unavailable,
                "the service cannot do this right now, try again later (request id 5f1c2a9e00000001)",
            ),
            (
                ErrorCode::NodeUnavailable,
                "the node that holds the bytes of this file cannot be asked for them, try again later \
                 (request id 5f1c2a9e00000001)",
            ),
            (ErrorCode::Overloaded, "as much is being done as this service takes on, try again in a moment"),
        ];
}

/// In API v0.
pub(super) const V0_ACCESS: [(&str, &str); 3] = [("401", "Keyless"), ("403", "Unscoped"), ("429", "TooMany")];
/// In API v1.
pub(super) const V1_ACCESS: [(&str, &str); 3] =
    [("401", "Unauthenticated"), ("403", "Refused"), ("429", "Limited")];

responses! { V1:
    Unauthenticated, "There is no API key, or one that is worth nothing.",
        [("www-authenticate", "How to show one.")],
        [(ErrorCode::Unauthenticated, "this takes an API key, as `Authorization: Bearer KEY`")];
    Limited, "There were too many requests.", [("retry-after", "After how many seconds to try again.")],
        [(ErrorCode::RateLimited, "there were too many requests, try again later")];
    BadRequest, "A parameter, a header or the body is not what it must be; `field` says which.", [],
        [
            (ErrorCode::InvalidArgument, "`expires_in` must be 1 to 31536000 seconds"),
        ];
    BrokenOff, "The body broke off, or came too slowly. The same request may succeed when it is repeated.",
        [("retry-after", "After how many seconds to try again.")],
        [(ErrorCode::IncompleteBody, "the body was given up: the client has sent nothing for too long")];
    Refused, "The link does not hold, or the API key has not the scope.", [],
        [
            (ErrorCode::InvalidSignature, "the signature does not fit this link"),
            (ErrorCode::LinkExpired, "the link has expired"),
            (ErrorCode::LinkRevoked, "the links of this file were revoked"),
            (ErrorCode::LinkUsedUp, "the link was used as often as it may be"),
            (ErrorCode::PermissionDenied, "this takes an API key with the scope `read`"),
        ];
    Missing, "There is no such file or task.", [],
        [
            (ErrorCode::FileNotFound, "there is no file with this uid"),
            (ErrorCode::TaskNotFound, "there is no task with this number"),
            (ErrorCode::UnknownRoute, "the path is not UTF-8"),
        ];
    Conflict, "It does not go with what is there, or with what is being done.", [],
        [
            (ErrorCode::NotStored, "the upload of this file is not complete"),
            (ErrorCode::AlreadyStored, "this uid already has other content, which never changes"),
            (ErrorCode::PartsMissing, "of 3 parts these are missing: 2"),
            (ErrorCode::InProgress, "the first request with this key has not ended yet"),
            (ErrorCode::TaskNotDead, "only a task that was given up can be tried again"),
        ];
    Gone, "It was there, and is no more.", [],
        [
            (ErrorCode::FileGone, "this file was deleted"),
            (
                ErrorCode::FileCorrupt,
                "the content of this file has not the md5 that was announced when it was merged",
            ),
            (
                ErrorCode::ChallengeGone,
                "there is no challenge to answer: it was answered, or is older than a minute; send the content",
            ),
        ];
    Unmet, "`If-Match` or `If-Unmodified-Since` does not hold.", [],
        [(ErrorCode::PreconditionFailed, "the file is not the one that the precondition names")];
    Oversized, "The body, or what it would become, is larger than the service takes.", [],
        [(ErrorCode::TooLarge, "a file must not be larger than 5497558138880 bytes")];
    UnsupportedType, "The body is of another type.", [],
        [(ErrorCode::UnsupportedMediaType, "the content type must be application/json")];
    OutOfRange, "No byte of the file lies in the range.",
        [("content-range", "`bytes */` and the size of the file.")],
        [(ErrorCode::RangeNotSatisfiable, "the file has 1000 bytes, none of them in this range")];
    Mismatch, "The bytes are not those that were announced, or the key was another request's.", [],
        [
            (ErrorCode::DigestMismatch, "the content has not the md5 that was announced"),
            (ErrorCode::SizeMismatch, "the parts have 1000 bytes together, not 999"),
            (ErrorCode::KeyReused, "this key was used before, with another request"),
        ];
    Unimplemented, "The body has a transfer coding other than `chunked`.", [],
        [(ErrorCode::NotImplemented, "`Transfer-Encoding` other than `chunked` is not supported: send the bytes as they are")];
    Fault, "A fault of the service itself.", [],
        [(ErrorCode::Internal, "internal error (request id 5f1c2a9e00000001)")];
    Exhausted, "There is not so much room left, of the tenant's quota or in the store.", [],
        [
            (ErrorCode::QuotaExceeded, "there is not so much left of what may be stored; remove something first"),
            (ErrorCode::StorageFull, "the store has no room for this; it goes on once the operator has made room (request id 5f1c2a9e00000001)"),
        ];
    Away, "Something that the service depends on is away, or as much is being done as it takes on. The same request may succeed later.",
        [("retry-after", "After how many seconds to try again.")],
        [
            (
                ErrorCode::Unavailable,
                "the service cannot do this right now, try again later (request id 5f1c2a9e00000001)",
            ),
            (
                ErrorCode::NodeUnavailable,
                "the node that holds the bytes of this file cannot be asked for them, try again later \
                 (request id 5f1c2a9e00000001)",
            ),
            (ErrorCode::Overloaded, "as much is being done as this service takes on, try again in a moment"),
        ];
}

/// Declares responses of API v1 that operations have in common, by a name for all of them.
macro_rules! groups {
    ($($(#[$meaning:meta])* $group:ident: $($status:literal $name:ident),*;)*) => {$(
        $(#[$meaning])*
        pub(in crate::http) enum $group {}

        impl IntoResponses for $group {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let all = [$(($status, stringify!($name))),*];
                all.map(|(status, name)| (status.to_owned(), Ref::from_response_name(name).into())).into()
            }
        }
    )*};
}

groups! {
    /// Of every operation.
    Failures: "400" BadRequest, "500" Fault, "503" Away;
    /// Of those on a file.
    OfFile: "404" Missing, "410" Gone;
    /// Of those that read content.
    OfStored: "409" Conflict;
    /// Of those by a signed link.
    OfLink: "403" Refused, "404" Missing, "410" Gone;
    /// Of those with a body of JSON.
    OfBody: "408" BrokenOff, "413" Oversized, "415" UnsupportedType, "501" Unimplemented;
    /// Of those that take content.
    OfContent: "408" BrokenOff, "409" Conflict, "413" Oversized, "415" UnsupportedType, "422" Mismatch,
        "501" Unimplemented;
    /// Of those that make something larger.
    OfRoom: "507" Exhausted;
    /// Of those that are done once for a key.
    OfKey: "409" Conflict, "422" Mismatch;
}

/// A file, or a range of it.
pub(in crate::http) enum Reading {}

impl IntoResponses for Reading {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        const ETAG: (&str, &str) = ("etag", "Strong; the content of a uid never changes.");
        const MODIFIED: (&str, &str) = ("last-modified", "When the file was stored.");
        const LENGTH: (&str, &str) = ("content-length", "How many bytes follow.");
        const NAME: (&str, &str) = ("content-disposition", "Whether to show or to save it, and its name.");
        const RANGES: (&str, &str) = ("accept-ranges", "`bytes`.");
        const CACHING: (&str, &str) = (
            "cache-control",
            "`private` and for how long the link holds; `no-store` if its uses are counted.",
        );
        const DIGEST: (&str, &str) =
            ("repr-digest", "What the whole file hashes to, as far as known (RFC 9530).");
        let told = |description: &str, has_content: bool, headers: &[(&str, &str)]| {
            let mut response = Response::builder().description(description);
            if has_content {
                let schema = Ref::from_schema_name(schema::Content::name());
                response = response.content("*/*", Content::builder().schema(Some(schema)).build());
            }
            let headers = headers.iter().map(|(name, meaning)| (*name, text_header(meaning, None)));
            headers.fold(response, |response, (name, header)| response.header(name, header)).build().into()
        };
        let range = ("content-range", "Which bytes these are, of how many.");
        BTreeMap::from([
            (
                "200".to_owned(),
                told("The content.", true, &[RANGES, NAME, LENGTH, ETAG, MODIFIED, CACHING, DIGEST]),
            ),
            (
                "206".to_owned(),
                told("The range.", true, &[NAME, LENGTH, range, ETAG, MODIFIED, CACHING, DIGEST]),
            ),
            ("304".to_owned(), told("The client has it.", false, &[ETAG, MODIFIED, CACHING])),
        ])
    }
}

/// A header that holds text.
pub(super) fn text_header(description: &str, values: Option<&[&str]>) -> Header {
    let schema = Object::builder().schema_type(SchemaType::new(Type::String));
    let schema = schema.enum_values(values.map(|values| values.iter().copied()));
    Header::builder().schema(Some(schema)).description(Some(description)).build()
}

fn response(
    telling: &Telling,
    description: &str,
    headers: &[(&str, &str)],
    examples: &[(ErrorCode, &str)],
) -> Response {
    let codes: Vec<_> = examples.iter().map(|(code, _)| code.as_str()).collect();
    let named = examples.iter().map(|(code, message)| {
        let told = (telling.example)(*code, message);
        (code.as_str(), ExampleBuilder::new().value(Some(told)).build())
    });
    let body = Content::builder().schema(Some((telling.schema)())).examples_from_iter(named).build();
    let response = Response::builder()
        .description(description)
        .content(telling.media_type, body)
        .header(ERROR_HEADER, text_header("Which error it is, for programs.", Some(&codes)));
    let more = headers.iter().map(|(name, meaning)| (*name, text_header(meaning, None)));
    more.fold(response, |response, (name, header)| response.header(name, header)).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_response_has_its_status() {
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
