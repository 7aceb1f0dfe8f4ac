//! The header `Upload-Metadata`.

use base64::prelude::{BASE64_STANDARD, Engine};
use osproxy_core::{Error, Result, ops::create_upload::FileMetadata};

/// Keys of the file name, in the order of preference. Clients use different keys.
const NAME_KEYS: [&str; 2] = ["filename", "name"];
/// Keys of the MIME type.
const TYPE_KEYS: [&str; 2] = ["filetype", "type"];

/// Maximum length of the header, in bytes. Many clients reject responses with long heads.
const MAX_LENGTH: usize = 8192;

/// Parsed metadata.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UploadMetadata {
    /// Name of the file; never empty.
    pub name: Option<String>,
    /// MIME type of the file, as the client states it; never empty.
    pub content_type: Option<String>,
    /// All pairs, also those of the name and the type.
    pub pairs: FileMetadata,
}

/// Parses the header: pairs of a key and an optional Base64 value, separated by commas. Fails with
/// `InvalidArgument` if a key is not visible ASCII or occurs twice, or a value is not Base64 of UTF-8
/// text.
pub fn parse(header: &str) -> Result<UploadMetadata> {
    if header.len() > MAX_LENGTH {
        return Err(invalid(&format!("it must have at most {MAX_LENGTH} bytes")));
    }
    let mut pairs = FileMetadata::new();
    for pair in header.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = BASE64_STANDARD.decode(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let value =
            value.ok_or_else(|| invalid(&format!("the value of `{key}` is not Base64 of UTF-8 text")))?;
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("a key must be visible ASCII"));
        }
        if pairs.insert(key.to_owned(), value).is_some() {
            return Err(invalid(&format!("`{key}` occurs twice")));
        }
    }
    let first = |keys: [&str; 2]| {
        let mut values = keys.iter().filter_map(|key| pairs.get(*key));
        values.find(|value| !value.is_empty()).cloned()
    };
    Ok(UploadMetadata { name: first(NAME_KEYS), content_type: first(TYPE_KEYS), pairs })
}

/// Formats metadata as the header. `None` if there is none, or it is too long.
pub fn format(pairs: &FileMetadata) -> Option<String> {
    let encode = |(key, value): (&String, &String)| match &**value {
        "" => key.clone(),
        value => format!("{key} {}", BASE64_STANDARD.encode(value)),
    };
    // Metadata that was not set through this protocol may have keys that the header cannot carry.
    let fits =
        |(key, _): &(&String, &String)| key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let pairs: Vec<_> = pairs.iter().filter(fits).map(encode).collect();
    let text = pairs.join(",");
    (!text.is_empty() && text.len() <= MAX_LENGTH).then_some(text)
}

fn invalid(message: &str) -> Error {
    Error::invalid(format!("`Upload-Metadata` is invalid: {message}")).with_field("upload-metadata")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_parsed_with_and_without_values() {
        let parsed = parse("filename d29ybGQucGRm,is_confidential, name eA==,  filetype YS9i , 键 ").err();
        assert!(parsed.is_some(), "a key that is not ASCII");
        let parsed = parse("filename d29ybGQucGRm,is_confidential, name eA==,  filetype YS9i ").unwrap();
        assert_eq!(
            (parsed.name.as_deref(), parsed.content_type.as_deref()),
            (Some("world.pdf"), Some("a/b"))
        );
        let sent = "filename d29ybGQucGRm,filetype YS9i,is_confidential,name eA==";
        assert_eq!(format(&parsed.pairs).as_deref(), Some(sent));
        assert_eq!(parse("name eA==,type").unwrap().name.as_deref(), Some("x"));
        assert_eq!(parse("").unwrap(), UploadMetadata::default());
        for bad in ["a x", "a eA", "a eA==,a eA==", "a /w==", "a e A=="] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_parsed_again(pairs in proptest::collection::btree_map("[a-e]{1,9}", ".{0,99}", 1..4)) {
            let pairs = FileMetadata::from_iter(pairs);
            prop_assert_eq!(parse(&format(&pairs).unwrap()).unwrap().pairs, pairs);
        }
    }
}
