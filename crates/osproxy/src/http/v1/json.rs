use axum::{
    body::Body,
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use osproxy_api::ErrorCode;
use serde::de::DeserializeOwned;

use crate::{Error, Result, http::body};

/// Largest JSON body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The type of a JSON body.
const JSON: &str = "application/json";

/// The type of a merge patch.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Reads a body of this type that is JSON, for those who need its bytes besides: see [`parse`].
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    read_of(&[JSON], headers, body).await
}

/// Reads a body that is a merge patch.
pub(super) async fn read_patch(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    read_of(&[MERGE_PATCH, JSON], headers, body).await
}

async fn read_of(types: &[&str], headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    let essence = given.split(';').next().unwrap_or_default().trim();
    if !types.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        let message = format!("the content type must be {}", types.join(" or "));
        return Err(Error::new(ErrorCode::UnsupportedMediaType, message));
    }
    body::small(headers, body, MAX_BODY).await
}

/// The JSON of a body. What is wrong is told with the field that is.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    // Left to itself, serde takes a list for an object whose fields have lost their names.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::invalid("the body must be an object"));
    }
    let mut input = serde_json::Deserializer::from_slice(body);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut input);
    let parsed = parsed.map_err(|error| {
        let path = error.path().to_string();
        explain(&error.into_inner(), Some(path).filter(|path| path != "."))
    })?;
    input.end().map_err(|error| explain(&error, None))?;
    Ok(parsed)
}

fn explain(error: &serde_json::Error, path: Option<String>) -> Error {
    let message = error.to_string();
    if !error.is_data() {
        return Error::invalid(format!("the body is not JSON: {message}"));
    }
    // Where in the text it stands helps nobody who writes JSON by a program.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    // A field that is not there, or should not be, is named in the message alone.
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once('`'))
        .map(|(name, _)| name.to_owned());
    let is_named = named.is_some();
    let Some(field) = named.or(path) else {
        return Error::invalid(format!("the body is not what is expected here: {message}"));
    };
    let message = if is_named { message.to_owned() } else { format!("`{field}`: {message}") };
    Error::invalid(message).with_field(field)
}

/// Refuses a body where there must be none.
pub(super) fn must_be_empty(request: &Parts) -> Result<()> {
    let length = request.headers.get(header::CONTENT_LENGTH);
    let has_length = length.is_some_and(|length| length.as_bytes() != b"0");
    if has_length || request.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Error::invalid("this request takes no body"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use osproxy_api::v1::{CreateLinkRequest, UpdateFileRequest};
    use serde_json::json;

    fn field(error: &Error) -> Option<String> {
        let (_, value) = error.members().find(|(name, _)| *name == "field")?;
        value.as_str().map(str::to_owned)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, wrong) in [
            (r#"{"name":5}"#, Some("name")),
            (r#"{"nmae":"x"}"#, Some("nmae")),
            (r#"{"name":null}"#, Some("name")),
            (r#"{"name":"x","name":"y"}"#, Some("name")),
            (r#"{"metadata":{"a":{}}}"#, Some("metadata.a")),
            (r#"{"metadata":[]}"#, Some("metadata")),
            ("[]", None),
            (" [\"x\"]", None),
            ("7", None),
            ("", None),
            ("{} {}", None),
            ("{\"name\":\"\u{0}\"}", None),
        ] {
            let error = parse::<UpdateFileRequest>(body.as_bytes()).unwrap_err();
            assert_eq!(field(&error).as_deref(), wrong, "{body}: {error}");
            if let Some(wrong) = wrong {
                assert!(error.message.contains(wrong), "{error}");
                assert!(!error.message.contains("line"), "{error}");
            }
        }
        let error = parse::<CreateLinkRequest>(b"{}").unwrap_err();
        assert_eq!(field(&error).as_deref(), Some("expires_in"));
        let patch: UpdateFileRequest =
            parse(json!({"metadata": {"a": null, "b": "c"}}).to_string().as_bytes()).unwrap();
        assert!(patch.name.is_none());
        assert_eq!(patch.metadata.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn only_json_is_taken_and_not_too_much_of_it() {
        let headers = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            headers
        };
        for given in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(read(&headers(given), Body::from("{}")).await.unwrap(), "{}");
        }
        let patch = headers("application/merge-patch+json");
        assert_eq!(read_patch(&patch, Body::from("{}")).await.unwrap(), "{}");
        for wrong in [HeaderMap::new(), headers("text/plain"), headers("application/jsonp"), patch] {
            let error = read(&wrong, Body::from("{}")).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedMediaType);
        }
        let large = Body::from(vec![b' '; MAX_BODY + 1]);
        let error = read(&headers("application/json"), large).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
    }
}
