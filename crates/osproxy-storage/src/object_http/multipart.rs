//! The multipart uploads of a store.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::Method;

use super::{
    HttpStore, Vendor,
    client::{Client, ErrorResponse, Request},
    sizes, writer, xml,
};
use crate::{Error, ErrorKind, Key, ListedUpload, Multipart, ObjectWriter, PartLayout, Result, UploadList};

/// Begins a multipart upload and returns its id.
pub(super) async fn begin<V: Vendor>(client: &Client<V>, key: &Key) -> Result<String> {
    let begin = Request::to_object(Method::POST, key, "begin upload").query("uploads", "");
    let response: xml::Initiated = xml::parse::<V, _>("begin upload", &client.fetch_document(begin).await?)?;
    if response.upload_id.is_empty() {
        return Err(Error::new(ErrorKind::Other, V::NAME, "begin upload")
            .with_message("the response has no upload id"));
    }
    Ok(response.upload_id)
}

/// Completes an upload. A store may report a failure in the body of a response with status 200.
pub(super) async fn complete<V: Vendor>(
    client: &Client<V>,
    key: &Key,
    upload: &str,
    parts: &[(u32, String)],
) -> Result<()> {
    let operation = "complete upload";
    let mut complete = Request::to_object(Method::POST, key, operation).query("uploadId", upload);
    complete.headers.insert(http::header::CONTENT_TYPE, "application/xml".to_owned());
    complete.body = xml::completion_document(parts).into();
    let text = client.fetch_document(complete).await?;
    if text.contains("<Error") {
        let response = ErrorResponse::from_parts(http::StatusCode::INTERNAL_SERVER_ERROR, &text);
        return Err(response.into_error(V::NAME, operation));
    }
    if !text.contains("CompleteMultipartUploadResult") {
        // The response was cut off.
        let error = Error::new(ErrorKind::Other, V::NAME, operation);
        return Err(error.with_message("the response has no result").mark_retryable());
    }
    Ok(())
}

/// Drops an upload. An upload that does not exist counts as dropped.
pub(super) async fn abort<V: Vendor>(client: &Client<V>, key: &Key, upload: &str) -> Result<()> {
    let abort = Request::to_object(Method::DELETE, key, "abort upload").query("uploadId", upload);
    match client.send(abort).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[async_trait]
impl<V: Vendor> Multipart for HttpStore<V> {
    fn min_part_size(&self) -> u64 {
        sizes::MIN_PART
    }

    fn max_part_size(&self) -> u64 {
        sizes::MAX_PART
    }

    async fn begin(&self, key: &Key, _layout: Option<PartLayout>) -> Result<String> {
        begin(&self.client, key).await
    }

    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>> {
        let (client, upload) = (self.client.clone(), upload.to_owned());
        Ok(Box::new(writer::Writer::part(client, key.clone(), upload, number, size)))
    }

    async fn complete(&self, key: &Key, upload: &str, parts: &[(u32, String)], _end: u64) -> Result<()> {
        complete(&self.client, key, upload, parts).await
    }

    async fn abort(&self, key: &Key, upload: &str) -> Result<()> {
        abort(&self.client, key, upload).await
    }

    async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>> {
        let (mut parts, mut marker) = (Vec::new(), String::new());
        loop {
            let mut list = Request::to_object(Method::GET, key, "list parts").query("uploadId", upload);
            if !marker.is_empty() {
                list = list.query("part-number-marker", marker);
            }
            let page: xml::Parts =
                xml::parse::<V, _>("list parts", &self.client.fetch_document(list).await?)?;
            parts.extend(page.part.iter().map(|part| (part.part_number, xml::tag(&part.e_tag))));
            if !page.is_truncated || page.next_part_number_marker.is_empty() {
                parts.sort_unstable();
                return Ok(parts);
            }
            marker = page.next_part_number_marker;
        }
    }

    async fn list_uploads(&self, key: Option<&Key>) -> Result<UploadList> {
        let buckets = key.map_or_else(|| self.buckets(), |key| vec![self.client.bucket_of(key).to_owned()]);
        let prefix = key.map(|key| self.client.name_of(key));
        let client = self.client.clone();
        let uploads =
            stream::iter(buckets).map(move |bucket| uploads_in(client.clone(), bucket, prefix.clone()));
        Ok(Box::pin(uploads.flatten()))
    }
}

/// Where the next page of uploads starts: object name and id of the last upload on the previous
/// page.
#[derive(Default)]
struct Marker {
    key: String,
    upload: String,
}

/// Lists the uploads in a bucket, page by page. If `prefix` is set, lists only uploads for the
/// object with exactly this name.
fn uploads_in<V: Vendor>(
    client: Arc<Client<V>>,
    bucket: String,
    prefix: Option<String>,
) -> impl Stream<Item = Result<ListedUpload>> + Send {
    let pages = stream::try_unfold(Some(Marker::default()), move |marker| {
        let (client, bucket, prefix) = (client.clone(), bucket.clone(), prefix.clone());
        async move {
            let Some(marker) = marker else {
                return Ok(None);
            };
            let mut list = Request::to_bucket(Method::GET, &bucket, "list uploads").query("uploads", "");
            if let Some(prefix) = &prefix {
                list = list.query("prefix", prefix);
            }
            if !marker.key.is_empty() {
                list = list.query("key-marker", marker.key).query("upload-id-marker", marker.upload);
            }
            let text = match client.fetch_document(list).await {
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
                text => text?,
            };
            let page: xml::Uploads = xml::parse::<V, _>("list uploads", &text)?;
            let in_one_bucket = client.bucket.is_some();
            // The prefix also matches longer names.
            let has_name = |upload: &xml::Upload| prefix.as_ref().is_none_or(|name| upload.key == *name);
            let uploads: Vec<_> = page.upload.into_iter().filter(has_name).collect();
            let uploads = uploads.into_iter().map(move |upload| {
                let name = if in_one_bucket { upload.key } else { format!("{bucket}/{}", upload.key) };
                Ok(ListedUpload { name, id: upload.upload_id })
            });
            let has_next = page.is_truncated && !page.next_key_marker.is_empty();
            let next = Marker { key: page.next_key_marker, upload: page.next_upload_id_marker };
            Ok(Some((stream::iter(uploads), has_next.then_some(next))))
        }
    });
    pages.try_flatten()
}
