//! The XML documents of stores.

use std::sync::Arc;

use futures_util::{Stream, TryStreamExt, stream};
use http::Method;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Vendor,
    client::{Client, Request},
};
use crate::{Error, ErrorKind, ListedObject, Result};

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ErrorDocument {
    pub(super) code: String,
    pub(super) message: String,
}

/// Parses an error document; returns empty strings for any other text.
pub(super) fn error(text: &str) -> ErrorDocument {
    if !text.contains("<Error") {
        return ErrorDocument::default();
    }
    quick_xml::de::from_str(text).unwrap_or_default()
}

/// Whether the text looks like the response of a store to a list request.
pub(super) fn is_store_response(text: &str) -> bool {
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

/// Response to a request that deletes objects.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeletionResult {
    pub(super) deleted: Vec<DeletedObject>,
    pub(super) error: Vec<DeletionFailure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeletedObject {
    pub(super) key: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeletionFailure {
    pub(super) key: String,
    pub(super) code: String,
}

pub(super) fn parse<V: Vendor, T: DeserializeOwned>(operation: &'static str, text: &str) -> Result<T> {
    quick_xml::de::from_str(text)
        .map_err(|error| Error::new(ErrorKind::Other, V::NAME, operation).with_source(error.into()))
}

/// Removes the quotes around an `ETag`.
pub(super) fn tag(quoted: &str) -> String {
    quoted.trim_matches('"').to_owned()
}

/// The request document that completes an upload with these parts.
pub(super) fn completion_document(parts: &[(u32, String)]) -> String {
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

/// The request document that deletes objects. The response lists the deleted objects: a quiet
/// response would list the others, in OSS with the same markup.
pub(super) fn deletion_document(names: impl Iterator<Item = String>) -> String {
    let mut text = String::from("<Delete><Quiet>false</Quiet>");
    for name in names {
        text.extend(["<Object><Key>", &quick_xml::escape::escape(&name), "</Key></Object>"]);
    }
    text.push_str("</Delete>");
    text
}

/// Lists all objects of a bucket, page by page. A missing bucket counts as empty.
pub(super) fn list_objects<V: Vendor>(
    client: Arc<Client<V>>,
    bucket: String,
) -> impl Stream<Item = Result<ListedObject>> + Send {
    let pages = stream::try_unfold(Some(String::new()), move |marker| {
        let (client, bucket) = (client.clone(), bucket.clone());
        async move {
            let Some(marker) = marker else {
                return Ok(None);
            };
            let list = Request::to_bucket(Method::GET, &bucket, "list").query("marker", marker);
            let page: Objects = match client.fetch_document(list.query("max-keys", "1000")).await {
                Ok(text) => parse::<V, _>("list", &text)?,
                Err(error) if error.kind == ErrorKind::NotFound => Objects::default(),
                Err(error) => return Err(error),
            };
            let last_key = page.contents.last().map(|object| object.key.clone());
            let next = if page.next_marker.is_empty() { last_key } else { Some(page.next_marker) };
            let next = next.filter(|_| page.is_truncated);
            let in_one_bucket = client.bucket.is_some();
            let objects = page.contents.into_iter().map(move |object| {
                let name = if in_one_bucket { object.key } else { format!("{bucket}/{}", object.key) };
                Ok(ListedObject { name, size: object.size })
            });
            Ok(Some((stream::iter(objects), next)))
        }
    });
    pages.try_flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_are_parsed_and_other_text_is_ignored() {
        let document = error(
            "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>it &lt;is&gt; gone</Message>\
             <Resource>/x</Resource></Error>",
        );
        assert_eq!((document.code.as_str(), document.message.as_str()), ("NoSuchKey", "it <is> gone"));
        assert_eq!(error("<html>Bad gateway</html>").code, "");
        assert_eq!(error("").code, "");
    }

    #[test]
    fn quotes_of_tags_are_removed() {
        for quoted in ["&quot;ab-1&quot;", "&#34;ab-1&#34;", "\"ab-1\"", "ab-1"] {
            let text = format!(
                "<ListPartsResult xmlns=\"x\"><IsTruncated>false</IsTruncated><Part><PartNumber>7</PartNumber>\
                 <ETag>{quoted}</ETag></Part></ListPartsResult>"
            );
            let parts: Parts = quick_xml::de::from_str(&text).unwrap();
            assert_eq!(tag(&parts.part[0].e_tag), "ab-1");
        }
        assert!(completion_document(&[(1, "a<b".to_owned())]).contains("&quot;a&lt;b&quot;"));
    }
}
