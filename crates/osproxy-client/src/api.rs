//! The routes of API v1 that are one request each.

use std::{collections::VecDeque, fmt::Display};

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::v1::{
    AttachObjectRequest, Bucket, BucketSettings, BucketSummary, Buckets, CopiedFile, CopyFileRequest,
    CreateLinkRequest, CreateLinksRequest, CreateUploadGrantRequest, CreateUploadLinksRequest,
    CreateUploadRequest, CreateWebhookRequest, CreatedLink, CreatedLinks, CreatedUpload, CreatedUploadLinks,
    Event, EventType, Events, File, FileState, Files, Node, Nodes, ReplayWebhookRequest,
    RotateWebhookSecretRequest, Stats, Task, TaskDetails, TaskState, Tasks, UpdateFileRequest,
    UpdateWebhookRequest, UploadGrant, UploadGrants, UploadStatus, Webhook, WebhookDeliveries,
    WebhookDelivery, WebhookDeliveryState, WebhookReplay, WebhookTest, Webhooks,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Client, Result, client::Call};

/// Characters that are encoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Selects files of a list. Empty, it selects all except expired and deleted ones.
#[derive(Clone, Debug, Default)]
pub struct FileFilter {
    /// Only names that begin with this.
    pub prefix: Option<String>,
    /// Only this category: `image`, `video`, `audio`, `doc`, `archive` or `unknown`.
    pub category: Option<String>,
    /// Only files in this state.
    pub state: Option<FileState>,
    /// Only files created at this time or later, such as `2026-11-22T12:00:00.000Z`.
    pub created_after: Option<String>,
    /// Only files created before this time.
    pub created_before: Option<String>,
    /// Only files created under the upload grant with this id.
    pub grant: Option<String>,
}

/// Selects tasks of a list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Only tasks of this kind, such as `sweep`.
    pub kind: Option<String>,
}

/// A page of a list.
trait Page: DeserializeOwned {
    type Item;

    /// The entries, and the cursor of the next page.
    fn into_parts(self) -> (Vec<Self::Item>, Option<String>);
}

macro_rules! pages {
    ($($page:ident . $entries:ident: $item:ident,)*) => {
        $(impl Page for $page {
            type Item = $item;

            fn into_parts(self) -> (Vec<$item>, Option<String>) {
                (self.$entries, self.next_cursor)
            }
        })*
    };
}

pages! {
    Buckets.buckets: BucketSummary,
    Files.files: File,
    Tasks.tasks: Task,
    UploadGrants.grants: UploadGrant,
    WebhookDeliveries.deliveries: WebhookDelivery,
    Webhooks.webhooks: Webhook,
}

fn segment(text: &str) -> impl Display {
    utf8_percent_encode(text, SEGMENT)
}

impl Client {
    /// Describes a file.
    pub async fn file(&self, uid: &str) -> Result<File> {
        self.get(&format!("/files/{}", segment(uid))).await
    }

    /// Lists files in the order of their creation; with `prefix`, by name. Requests a page at a
    /// time.
    pub fn list_files(&self, filter: FileFilter) -> impl Stream<Item = Result<File>> + Send + use<> {
        self.pages::<Files>("/files", move |call| {
            call.query_opt("prefix", filter.prefix.as_ref())
                .query_opt("category", filter.category.as_ref())
                .query_opt("state", filter.state.map(FileState::as_str))
                .query_opt("created_after", filter.created_after.as_ref())
                .query_opt("created_before", filter.created_before.as_ref())
                .query_opt("grant", filter.grant.as_ref())
        })
    }

    /// Changes the name or the metadata of a file. Returns `None` if the API key lacks the scope
    /// `read`.
    pub async fn update_file(&self, uid: &str, changes: &UpdateFileRequest) -> Result<Option<File>> {
        let call = self.call(Method::PATCH, &format!("/files/{}", segment(uid)));
        self.send_opt(call.json(changes)?).await
    }

    /// Deletes a file, or an upload with its parts.
    pub async fn delete_file(&self, uid: &str) -> Result<()> {
        self.delete(&format!("/files/{}", segment(uid))).await
    }

    /// Creates a second file with the same content.
    pub async fn copy_file(&self, uid: &str, copy: &CopyFileRequest) -> Result<CopiedFile> {
        self.create_once(&format!("/files/{}/copy", segment(uid)), copy).await
    }

    /// Creates a download link. [`Client::link_url`] makes it absolute.
    pub async fn create_link(&self, uid: &str, link: &CreateLinkRequest) -> Result<CreatedLink> {
        self.create_once(&format!("/files/{}/links", segment(uid)), link).await
    }

    /// Creates download links of up to 100 files.
    pub async fn create_links(&self, links: &CreateLinksRequest) -> Result<CreatedLinks> {
        // A link that is created again does no harm: no one has the first one.
        self.send(self.call(Method::POST, "/links").json(links)?.repeatable()).await
    }

    /// Revokes all links of a file that were issued so far.
    pub async fn revoke_links(&self, uid: &str) -> Result<()> {
        self.delete(&format!("/files/{}/links", segment(uid))).await
    }

    /// Creates an upload whose links are for another program, such as a web page. To send content
    /// from here, use [`Client::upload`].
    pub async fn create_upload(&self, upload: &CreateUploadRequest) -> Result<CreatedUpload> {
        self.create_once("/uploads", upload).await
    }

    /// Creates up to 100 uploads of one lifetime, all or none.
    pub async fn create_uploads(&self, uploads: &[CreateUploadRequest]) -> Result<Vec<CreatedUpload>> {
        self.send(self.call(Method::POST, "/uploads").json(&uploads)?).await
    }

    /// Returns the state of an upload.
    pub async fn upload_status(&self, uid: &str) -> Result<UploadStatus> {
        self.get(&format!("/uploads/{}", segment(uid))).await
    }

    /// Creates new links for an upload.
    pub async fn create_upload_links(
        &self,
        uid: &str,
        links: &CreateUploadLinksRequest,
    ) -> Result<CreatedUploadLinks> {
        let call = self.call(Method::POST, &format!("/uploads/{}/links", segment(uid)));
        self.send(call.json(links)?.repeatable()).await
    }

    /// Creates an upload grant.
    pub async fn create_upload_grant(&self, grant: &CreateUploadGrantRequest) -> Result<UploadGrant> {
        self.send(self.call(Method::POST, "/upload-grants").json(grant)?).await
    }

    /// Describes an upload grant.
    pub async fn upload_grant(&self, id: &str) -> Result<UploadGrant> {
        self.get(&format!("/upload-grants/{}", segment(id))).await
    }

    /// Lists upload grants, newest first.
    pub fn list_upload_grants(&self) -> impl Stream<Item = Result<UploadGrant>> + Send + use<> {
        self.pages::<UploadGrants>("/upload-grants", |call| call)
    }

    /// Revokes an upload grant.
    pub async fn revoke_upload_grant(&self, id: &str) -> Result<()> {
        self.delete(&format!("/upload-grants/{}", segment(id))).await
    }

    /// Returns a page of up to `limit` events (1 to 200), oldest first. `after` is the id of the
    /// last event that you have seen, or 0; of the next page, it is [`Events::next`]. Without
    /// types, events of all types are returned.
    pub async fn events(&self, after: &str, types: &[EventType], limit: u32) -> Result<Events> {
        let names: Vec<_> = types.iter().filter_map(|kind| serde_json::to_value(kind).ok()).collect();
        let names: Vec<_> = names.iter().filter_map(|name| name.as_str()).collect();
        let names = (!names.is_empty()).then(|| names.join(","));
        let call = self.call(Method::GET, "/events").query("after", after).query("limit", limit);
        self.send(call.query_opt("types", names)).await
    }

    /// Returns all events after `after` that there are now, oldest first. Requests a page at a
    /// time. Keep the id of the last event to continue later.
    pub fn list_events(
        &self,
        after: &str,
        types: Vec<EventType>,
    ) -> impl Stream<Item = Result<Event>> + Send + use<> {
        let start = (self.clone(), types, VecDeque::new(), Some(after.to_owned()));
        stream::try_unfold(start, async |(client, types, mut ready, mut next)| {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Ok(Some((event, (client, types, ready, next))));
                }
                let Some(after) = next else { return Ok(None) };
                let page = client.events(&after, &types, 200).await?;
                next = page.has_more.then_some(page.next);
                ready = page.events.into();
            }
        })
    }

    /// Creates a webhook. The response contains its secret.
    pub async fn create_webhook(&self, webhook: &CreateWebhookRequest) -> Result<Webhook> {
        self.send(self.call(Method::POST, "/webhooks").json(webhook)?).await
    }

    /// Describes a webhook.
    pub async fn webhook(&self, id: &str) -> Result<Webhook> {
        self.get(&format!("/webhooks/{}", segment(id))).await
    }

    /// Lists webhooks, newest first.
    pub fn list_webhooks(&self) -> impl Stream<Item = Result<Webhook>> + Send + use<> {
        self.pages::<Webhooks>("/webhooks", |call| call)
    }

    /// Changes a webhook.
    pub async fn update_webhook(&self, id: &str, changes: &UpdateWebhookRequest) -> Result<Webhook> {
        let call = self.call(Method::PATCH, &format!("/webhooks/{}", segment(id)));
        self.send(call.json(changes)?).await
    }

    /// Deletes a webhook.
    pub async fn delete_webhook(&self, id: &str) -> Result<()> {
        self.delete(&format!("/webhooks/{}", segment(id))).await
    }

    /// Replaces the secret of a webhook.
    pub async fn rotate_webhook_secret(
        &self,
        id: &str,
        rotation: &RotateWebhookSecretRequest,
    ) -> Result<Webhook> {
        let call = self.call(Method::POST, &format!("/webhooks/{}/rotate-secret", segment(id)));
        self.send(call.json(rotation)?).await
    }

    /// Sends a test message now.
    pub async fn test_webhook(&self, id: &str) -> Result<WebhookTest> {
        self.send(self.call(Method::POST, &format!("/webhooks/{}/test", segment(id)))).await
    }

    /// Lists the deliveries of a webhook, newest event first.
    pub fn list_webhook_deliveries(
        &self,
        id: &str,
        state: Option<WebhookDeliveryState>,
    ) -> impl Stream<Item = Result<WebhookDelivery>> + Send + use<> {
        let state = state.map(|state| match state {
            WebhookDeliveryState::Delivered => "delivered",
            WebhookDeliveryState::Retrying => "retrying",
            WebhookDeliveryState::Dead => "dead",
        });
        let path = format!("/webhooks/{}/deliveries", segment(id));
        self.pages::<WebhookDeliveries>(&path, move |call| call.query_opt("state", state))
    }

    /// Delivers events again.
    pub async fn replay_webhook(&self, id: &str, replay: &ReplayWebhookRequest) -> Result<WebhookReplay> {
        let call = self.call(Method::POST, &format!("/webhooks/{}/replay", segment(id)));
        self.send(call.json(replay)?).await
    }

    /// Describes a bucket.
    pub async fn bucket(&self, name: &str) -> Result<Bucket> {
        self.get(&format!("/buckets/{}", segment(name))).await
    }

    /// Lists buckets by name.
    pub fn list_buckets(&self) -> impl Stream<Item = Result<BucketSummary>> + Send + use<> {
        self.pages::<Buckets>("/buckets", |call| call)
    }

    /// Creates a bucket, or replaces all its settings.
    pub async fn put_bucket(&self, name: &str, settings: &BucketSettings) -> Result<Bucket> {
        let call = self.call(Method::PUT, &format!("/buckets/{}", segment(name)));
        self.send(call.json(settings)?).await
    }

    /// Deletes a bucket without objects.
    pub async fn delete_bucket(&self, name: &str) -> Result<()> {
        self.delete(&format!("/buckets/{}", segment(name))).await
    }

    /// Gives a key in a bucket to a stored file. Returns `None` if the API key lacks the scope
    /// `read`.
    pub async fn attach_object(&self, bucket: &str, key: &str, uid: &str) -> Result<Option<File>> {
        let path = format!("/buckets/{}/objects/{}", segment(bucket), segment(key));
        let call = self.call(Method::PUT, &path);
        self.send_opt(call.json(&AttachObjectRequest { uid: uid.to_owned() })?).await
    }

    /// Lists background tasks, newest first.
    pub fn list_tasks(&self, filter: TaskFilter) -> impl Stream<Item = Result<Task>> + Send + use<> {
        self.pages::<Tasks>("/tasks", move |call| {
            let call = call.query_opt("state", filter.state.map(TaskState::as_str));
            call.query_opt("kind", filter.kind.as_ref())
        })
    }

    /// Describes a background task and its attempts.
    pub async fn task(&self, id: &str) -> Result<TaskDetails> {
        self.get(&format!("/tasks/{}", segment(id))).await
    }

    /// Retries a dead task.
    pub async fn retry_task(&self, id: &str) -> Result<Task> {
        self.send(self.call(Method::POST, &format!("/tasks/{}/retry", segment(id)))).await
    }

    /// Lists the nodes with a recent heartbeat.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        Ok(self.get::<Nodes>("/nodes").await?.nodes)
    }

    /// Counts files, blobs, bytes and tasks.
    pub async fn stats(&self) -> Result<Stats> {
        self.get("/stats").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.call(Method::GET, path)).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.send_empty(self.call(Method::DELETE, path)).await
    }

    /// Posts to a route that accepts an idempotency key.
    async fn create_once<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(self.call(Method::POST, path).json(body)?.idempotent()?).await
    }

    /// The entries of all pages.
    fn pages<P: Page + Send>(
        &self,
        path: &str,
        filter: impl Fn(Call) -> Call + Send + 'static,
    ) -> BoxStream<'static, Result<P::Item>>
    where
        P::Item: Send + 'static,
    {
        let next = Some(self.call(Method::GET, path));
        let state = (self.clone(), path.to_owned(), filter, VecDeque::new(), next);
        stream::try_unfold(state, async |(client, path, filter, mut ready, mut next)| {
            loop {
                if let Some(entry) = ready.pop_front() {
                    return Ok(Some((entry, (client, path, filter, ready, next))));
                }
                let Some(call) = next else { return Ok(None) };
                let (entries, cursor) = client.send::<P>(filter(call)).await?.into_parts();
                ready = entries.into();
                next = cursor.map(|cursor| client.call(Method::GET, &path).query("cursor", cursor));
            }
        })
        .boxed()
    }
}
