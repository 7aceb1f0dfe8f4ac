//! What is told of requests that are not served: one response for each status, with an example for each code.

use osproxy_api::{ERROR_HEADER, ErrorCode, v0::ErrorEnvelope};
use serde_json::json;
use utoipa::{
    ToResponse, ToSchema,
    openapi::{
        Content, Header, Object, Ref, RefOr, Response,
        example::ExampleBuilder,
        schema::{SchemaType, Type},
    },
};

/// Declares responses by name: what they mean, further headers with their meaning, and which codes with what sentences.
macro_rules! responses {
    ($($name:ident, $description:literal, $headers:expr, $examples:expr;)*) => {$(
        #[doc = $description]
        pub(in crate::http) enum $name {}

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), response($description, &$headers, &$examples).into())
            }
        }
    )*};
}

responses! {
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
    RangeNotSatisfiable, "No byte of the file lies in the range.",
        [("content-range", "`bytes */` and the size of the file.")],
        [(ErrorCode::RangeNotSatisfiable, "the file has 1000 bytes, none of them in this range")];
    Invalid, "The parameters, the link or the bytes are not what they must be.", [],
        [
            (ErrorCode::InvalidArgument, "`expire` must be 1 to 31536000 seconds"),
            (ErrorCode::InvalidSignature, "the signature does not fit this link"),
            (ErrorCode::LinkExpired, "the link has expired"),
            (ErrorCode::AlreadyStored, "this uid already has other content, which never changes"),
            (ErrorCode::DigestMismatch, "the content has not the md5 that was announced"),
            (ErrorCode::SizeMismatch, "the parts have 1000 bytes together, not 999"),
            (ErrorCode::PartsMissing, "of 3 parts 1 is missing: 2"),
            (ErrorCode::IncompleteBody, "the body ended before it was complete"),
        ];
    Internal, "A fault of the service itself.", [],
        [(ErrorCode::Internal, "internal error (request id 5f1c2a9e00000001)")];
    Unavailable, "Something that the service depends on is away or full. The same request may succeed later.",
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
        ];
}

/// A header that holds text.
pub(super) fn text_header(description: &str, values: Option<&[&str]>) -> Header {
    let schema = Object::builder().schema_type(SchemaType::new(Type::String));
    let schema = schema.enum_values(values.map(|values| values.iter().copied()));
    Header::builder().schema(Some(schema)).description(Some(description)).build()
}

fn response(description: &str, headers: &[(&str, &str)], examples: &[(ErrorCode, &str)]) -> Response {
    let codes: Vec<_> = examples.iter().map(|(code, _)| code.as_str()).collect();
    let named = examples.iter().map(|(code, message)| {
        let envelope = json!({"code": code.v0_status(), "message": message, "data": ""});
        (code.as_str(), ExampleBuilder::new().value(Some(envelope)).build())
    });
    let schema = Ref::from_schema_name(ErrorEnvelope::name());
    let body = Content::builder().schema(Some(schema)).examples_from_iter(named).build();
    let response = Response::builder()
        .description(description)
        .content("application/json", body)
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
            (403, Forbidden::response()),
            (404, NotFound::response()),
            (412, PreconditionFailed::response()),
            (413, TooLarge::response()),
            (416, RangeNotSatisfiable::response()),
            (422, Invalid::response()),
            (500, Internal::response()),
            (503, Unavailable::response()),
        ] {
            let response = serde_json::to_value(response).unwrap();
            let examples = response["content"]["application/json"]["examples"].as_object().unwrap();
            for (code, example) in examples {
                assert_eq!(example["value"]["code"], expected, "{name}: {code}");
            }
        }
    }
}
