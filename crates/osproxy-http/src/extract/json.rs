//! JSON request bodies. Errors name the invalid field, and speak of JSON types instead of Rust
//! types.

use osproxy_core::{Error, Result};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

/// Parses a body as a JSON object. Fails with `InvalidArgument`. The error names the invalid field
/// if the field is known.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    match body.trim_ascii_start().first() {
        None => return Err(Error::invalid("the body is empty: it must be a JSON object")),
        Some(b'{') => {}
        // Serde would also accept an array, and assign its elements to the fields of the struct in
        // order.
        Some(_) if is_json(body) => return Err(Error::invalid("the body must be a JSON object")),
        Some(_) => {}
    }
    let mut input = serde_json::Deserializer::from_slice(body);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut input);
    let parsed = parsed.map_err(|error| {
        let path = error.path().to_string();
        to_error(body, &error.into_inner(), Some(path).filter(|path| path != "."))
    })?;
    input.end().map_err(|error| to_error(body, &error, None))?;
    Ok(parsed)
}

/// Parses a body as an array of JSON objects. An error names the position of the invalid object,
/// beginning with 0.
pub(crate) fn parse_array<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>> {
    let objects: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| to_error(body, &error, None))?;
    let parse_one = |(position, object): (usize, &&RawValue)| {
        parse(object.get().as_bytes()).map_err(|mut error: Error| {
            error.message = format!("item {position}: {}", error.message).into();
            error
        })
    };
    objects.iter().enumerate().map(parse_one).collect()
}

/// Whether a body is valid JSON. Deep nesting, and numbers that fit no Rust type, are valid too.
fn is_json(body: &[u8]) -> bool {
    let mut input = serde_json::Deserializer::from_slice(body);
    let read: Result<IgnoredAny, _> = serde::Deserialize::deserialize(&mut input);
    read.is_ok() && input.end().is_ok() && std::str::from_utf8(body).is_ok()
}

fn to_error(body: &[u8], error: &serde_json::Error, path: Option<String>) -> Error {
    let message = error.to_string();
    if !error.is_data() && !is_json(body) {
        return Error::invalid(format!("the body is not JSON: {message}"));
    }
    // Leave out the line and column: programs write the bodies, so a position does not help.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    // Serde names missing, unknown and duplicate fields only in the message, not in the path.
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once('`'))
        .map(|(name, _)| name.to_owned());
    let is_named = named.is_some();
    let Some(field) = named.or(path) else {
        return Error::invalid(format!("the body has an unexpected value: {}", with_json_types(message)));
    };
    let message =
        if is_named { message.to_owned() } else { format!("`{field}`: {}", with_json_types(message)) };
    Error::invalid(message).with_field(field)
}

/// Replaces Rust types in a message of serde with JSON types.
fn with_json_types(message: &str) -> String {
    match message.split_once("expected ") {
        Some((what, kind)) if kind.starts_with("struct ") || kind.starts_with("a map") => {
            format!("{what}expected an object")
        }
        Some((what, kind)) if kind.starts_with("a sequence") => format!("{what}expected a list"),
        _ if message == "recursion limit exceeded" => "nested too deeply".to_owned(),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osproxy_api::v1::{CreateLinkRequest, CreateUploadRequest, MetadataChanges, UpdateFileRequest};
    use serde_json::json;

    fn field(error: &Error) -> Option<String> {
        let (_, value) = error.members().find(|(name, _)| *name == "field")?;
        value.as_str().map(str::to_owned)
    }

    #[test]
    fn errors_name_the_field() {
        for (body, wrong) in [
            (r#"{"name":5}"#, Some("name")),
            (r#"{"nmae":"x"}"#, Some("nmae")),
            (r#"{"name":null}"#, Some("name")),
            (r#"{"name":"x","name":"y"}"#, Some("name")),
            (r#"{"metadata":{"a":{}}}"#, Some("metadata.a")),
            (r#"{"metadata":{"a":"x","a":"y"}}"#, Some("metadata")),
            (r#"{"metadata":[]}"#, Some("metadata")),
            ("[]", None),
            (" [\"x\"]", None),
            ("7", None),
            ("null", None),
            ("", None),
            ("{} {}", None),
            ("{\"name\":\"\u{0}\"}", None),
        ] {
            let error = parse::<UpdateFileRequest>(body.as_bytes()).unwrap_err();
            assert_eq!(field(&error).as_deref(), wrong, "{body}: {error}");
            assert!(!error.message.contains("struct"), "{error}");
            if let Some(wrong) = wrong {
                assert!(error.message.contains(wrong), "{error}");
                assert!(!error.message.contains("line"), "{error}");
            }
        }
        let error = parse::<CreateLinkRequest>(b"{}").unwrap_err();
        assert_eq!(field(&error).as_deref(), Some("expires_in"));
    }

    #[test]
    fn valid_json_is_not_reported_as_malformed() {
        let nested = format!("{{\"name\":{}{}}}", "[".repeat(500), "]".repeat(500));
        for body in [
            r#"{"name":"x","size":1e400}"#,
            r#"{"name":"\ud800"}"#,
            r#"{"name":"x","constraints":7}"#,
            r#"{"name":"x","metadata":7}"#,
            &nested,
            "7",
            "[1e400]",
        ] {
            let error = parse::<CreateUploadRequest>(body.as_bytes()).unwrap_err();
            assert!(
                !error.message.contains("not JSON") && !error.message.contains("struct"),
                "{body}: {error}"
            );
        }
        for body in ["{", "{'name':1}", "nul", "{\"name\":\"x\"} x", "{\"name\":01}"] {
            let error = parse::<CreateUploadRequest>(body.as_bytes()).unwrap_err();
            assert!(error.message.starts_with("the body is not JSON: "), "{body}: {error}");
        }
        let error = parse::<CreateUploadRequest>(b" ").unwrap_err();
        assert!(error.message.contains("empty"), "{error}");
    }

    #[test]
    fn null_means_absent_except_in_a_patch() {
        let with_nulls = json!({
            "name": "x", "size": null, "content_type": null, "md5": null, "sha256": null, "blake3": null,
            "part_size": null, "metadata": null, "constraints": null, "expires_in": null,
        });
        let read: CreateUploadRequest = parse(with_nulls.to_string().as_bytes()).unwrap();
        let plain: CreateUploadRequest = parse(br#"{"name": "x"}"#).unwrap();
        assert_eq!(json!(read), json!(plain));
        let read: CreateUploadRequest =
            parse(br#"{"name":"x","metadata":{"b":"c"},"constraints":{"networks":null}}"#).unwrap();
        assert_eq!(json!(read.metadata), json!({"b": "c"}));
        let link: CreateLinkRequest =
            parse(br#"{"expires_in":5,"disposition":null,"networks":null,"filename":null,"max_uses":null}"#)
                .unwrap();
        assert!(link.networks.is_empty());
        let patch = |metadata| -> UpdateFileRequest {
            parse(json!({"metadata": metadata}).to_string().as_bytes()).unwrap()
        };
        assert_eq!(patch(json!(null)).metadata, Some(MetadataChanges::RemoveAll));
        let set = [("a".to_owned(), None), ("b".to_owned(), Some("c".to_owned()))];
        assert_eq!(patch(json!({"a": null, "b": "c"})).metadata, Some(MetadataChanges::Set(set.into())));
        assert_eq!(parse::<UpdateFileRequest>(b"{}").unwrap().metadata, None);
    }
}
