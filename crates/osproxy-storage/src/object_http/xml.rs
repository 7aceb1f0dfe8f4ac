//! The XML documents of stores.

use std::sync::Arc;

use futures_util::{Stream, TryStreamExt, stream};
use http::Method;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Vendor,
    client::{Client, Request},
};
use crate::{Error, ErrorKind, Result};

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ErrorDocument {
    pub(super) code: String,
    pub(super) message: String,
}

/// Parses an error document; returns empty strings if the text is not one.
pub(super) fn error(text: &str) -> ErrorDocument {
    if !text.contains("<Error") {
        return ErrorDocument::default();
    }
    quick_xml::de::from_str(text).unwrap_or_default()
}

/// Whether the text is what a store returns for a list request.
pub(super) fn is_of_store(text: &str) -> bool {
    text.contains("<Error") || text.contains("<ListBucketResult")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Initiated {
    pub(super) upload_id: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Objects {
    is_truncated: bool,
    next_marker: String,
    contents: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Parts {
    pub(super) is_truncated: bool,
    pub(super) next_part_number_marker: String,
    pub(super) part: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Part {
    pub(super) part_number: u32,
    #[serde(rename = "ETag")]
    pub(super) e_tag: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Uploads {
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: String,
    pub(super) next_upload_id_marker: String,
    pub(super) upload: Vec<Upload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) upload_id: String,
}

pub(super) fn parse<V: Vendor, T: DeserializeOwned>(operation: &'static str, text: &str) -> Result<T> {
    quick_xml::de::from_str(text)
        .map_err(|error| Error::new(ErrorKind::Other, V::NAME, operation).with_source(error.into()))
}

/// An `ETag` without quotes.
pub(super) fn tag(quoted: &str) -> String {
    quoted.trim_matches('"').to_owned()
}

/// The request document that completes an upload with these parts.
pub(super) fn completion(parts: &[(u32, String)]) -> String {
    let mut text = String::from("<CompleteMultipartUpload>");
    for (number, tag) in parts {
        let tag = quick_xml::escape::escape(tag.as_str());
        let number = number.to_string();
        text.extend([
            "<Part><PartNumber>",
            &number,
            "</PartNumber><ETag>&quot;",
            &tag,
            "&quot;</ETag></Part>",
        ]);
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}

/// All objects of a bucket, page by page: bucket, name and size. A missing bucket has none.
pub(super) fn list_objects<V: Vendor>(
    client: Arc<Client<V>>,
    bucket: String,
) -> impl Stream<Item = Result<(String, String, u64)>> + Send {
    let pages = stream::try_unfold(Some(String::new()), move |marker| {
        let (client, bucket) = (client.clone(), bucket.clone());
        async move {
            let Some(marker) = marker else {
                return Ok(None);
            };
            let ask = Request::to_bucket(Method::GET, &bucket, "list").query("marker", marker);
            let page: Objects = match client.fetch_document(ask.query("max-keys", "1000")).await {
                Ok(text) => parse::<V, _>("list", &text)?,
                Err(error) if error.kind == ErrorKind::NotFound => Objects::default(),
                Err(error) => return Err(error),
            };
            let last = page.contents.last().map(|object| object.key.clone());
            let next = if page.next_marker.is_empty() { last } else { Some(page.next_marker) };
            let next = next.filter(|_| page.is_truncated);
            let found = page.contents.into_iter();
            let found: Vec<_> = found.map(|object| Ok((bucket.clone(), object.key, object.size))).collect();
            Ok(Some((stream::iter(found), next)))
        }
    });
    pages.try_flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_whatever_else_they_say() {
        let said = error(
            "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>it &lt;is&gt; gone</Message>\
             <Resource>/x</Resource></Error>",
        );
        assert_eq!((said.code.as_str(), said.message.as_str()), ("NoSuchKey", "it <is> gone"));
        assert_eq!(error("<html>Bad gateway</html>").code, "");
        assert_eq!(error("").code, "");
    }

    #[test]
    fn tags_are_unquoted_however_they_were_quoted() {
        for quoted in ["&quot;ab-1&quot;", "&#34;ab-1&#34;", "\"ab-1\"", "ab-1"] {
            let text = format!(
                "<ListPartsResult xmlns=\"x\"><IsTruncated>false</IsTruncated><Part><PartNumber>7</PartNumber>\
                 <ETag>{quoted}</ETag></Part></ListPartsResult>"
            );
            let parts: Parts = quick_xml::de::from_str(&text).unwrap();
            assert_eq!(tag(&parts.part[0].e_tag), "ab-1");
        }
        assert!(completion(&[(1, "a<b".to_owned())]).contains("&quot;a&lt;b&quot;"));
    }
}
