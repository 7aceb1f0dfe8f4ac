use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use osproxy_api::v1::{
    BucketSettings, CopiedFile, CopyFileRequest, CreateLinkRequest, CreateLinksRequest,
    CreateUploadGrantRequest, CreateUploadRequest, CreateWebhookRequest, Disposition, EventType, FileState,
    MetadataChanges, UpdateFileRequest, UpdateWebhookRequest, UploadGrantState, UploadState, WebhookState,
};
use osproxy_client::{Client, ErrorCode, FileFilter, TaskFilter};

use super::client;
use crate::support::Service;

async fn store(client: &Client, name: &str) -> String {
    client.upload(name.as_bytes().to_vec()).name(name).send().await.unwrap().uid
}

#[tokio::test]
async fn files_are_listed_changed_copied_and_deleted() {
    let service = Service::start().await;
    let client = client(&service);
    let first = store(&client, "report 1&2.txt").await;
    for number in 0..101 {
        store(&client, &format!("note {number}.txt")).await;
    }
    let list = async |filter| client.list_files(filter).try_collect::<Vec<_>>().await.unwrap();
    // Two pages.
    assert_eq!(list(FileFilter::default()).await.len(), 102);
    let filter = FileFilter { prefix: Some("report 1&".into()), ..FileFilter::default() };
    assert_eq!(list(filter).await[0].uid, first);
    let filter = FileFilter { state: Some(FileState::Corrupt), ..FileFilter::default() };
    assert!(list(filter).await.is_empty());
    let metadata = MetadataChanges::Set(BTreeMap::from([("owner".into(), Some("ann".into()))]));
    let edit = UpdateFileRequest { name: Some("new.txt".into()), metadata: Some(metadata) };
    let changed = client.update_file(&first, &edit).await.unwrap().unwrap();
    assert_eq!((changed.name.as_str(), changed.metadata["owner"].as_str()), ("new.txt", "ann"));
    let CopiedFile::Known(copy) = client.copy_file(&first, &CopyFileRequest::default()).await.unwrap() else {
        panic!("the key has the scope `read`")
    };
    client.delete_file(&first).await.unwrap();
    assert_eq!(client.file(&first).await.unwrap_err().code(), Some(ErrorCode::FileGone));
    assert_eq!(client.download(&copy.uid).bytes(100).await.unwrap(), "report 1&2.txt");
    let uploader = service.create_key(&["--tenant", "default", "--scopes", "upload"]).await;
    let uploader = super::client_at(service.address, &uploader);
    assert!(uploader.update_file(&copy.uid, &edit).await.unwrap().is_none());
    let stored = uploader.upload(b"x".to_vec()).name("x").send().await.unwrap();
    assert!(stored.file.is_none());
    assert_eq!(uploader.file(&stored.uid).await.unwrap_err().code(), Some(ErrorCode::PermissionDenied));
}

#[tokio::test]
async fn links_uploads_and_grants_work() {
    let service = Service::start().await;
    let client = client(&service);
    let uid = store(&client, "a.txt").await;
    let request = CreateLinkRequest {
        expires_in: 60,
        disposition: Disposition::Inline,
        filename: None,
        networks: vec![],
        max_uses: None,
    };
    let link = client.create_link(&uid, &request).await.unwrap();
    let read = async || reqwest::get(client.link_url(&link.url).unwrap()).await.unwrap().status();
    assert_eq!(read().await, 200);
    client.revoke_links(&uid).await.unwrap();
    assert_eq!(read().await, 403);
    let request = CreateLinksRequest {
        uids: vec![uid, "1".into()],
        expires_in: 60,
        disposition: Disposition::Inline,
        networks: vec![],
        max_uses: None,
    };
    let links = client.create_links(&request).await.unwrap().links;
    assert_eq!((links[0].error.as_deref(), links[1].error.as_deref()), (None, Some("file_not_found")));
    let upload =
        CreateUploadRequest { name: "b.txt".into(), expires_in: 60, ..CreateUploadRequest::default() };
    let created = client.create_uploads(&[upload.clone(), upload]).await.unwrap();
    assert_eq!(client.upload_status(&created[1].uid).await.unwrap().state, UploadState::Pending);
    let grant = serde_json::from_str::<CreateUploadGrantRequest>("{}").unwrap();
    let grant = client.create_upload_grant(&grant).await.unwrap();
    client.revoke_upload_grant(&grant.id).await.unwrap();
    assert_eq!(client.upload_grant(&grant.id).await.unwrap().state, UploadGrantState::Revoked);
    assert_eq!(client.list_upload_grants().try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

#[tokio::test]
async fn events_buckets_webhooks_and_tasks_are_typed() {
    let service = Service::start().await;
    let client = client(&service);
    for number in 0..201 {
        store(&client, &format!("{number}.txt")).await;
    }
    let uid = store(&client, "last.txt").await;
    let events = client.list_events("0", vec![EventType::FileCompleted]);
    let events: Vec<_> = events.try_collect().await.unwrap();
    assert_eq!((events.len(), events[201].data.uid.as_deref()), (202, Some(&*uid)));

    let settings = BucketSettings { public_read: true, ..BucketSettings::default() };
    assert!(client.put_bucket("photos", &settings).await.unwrap().public_read);
    let file = client.attach_object("photos", "2026/a b?.txt", &uid).await.unwrap().unwrap();
    assert_eq!(file.key.as_deref(), Some("2026/a b?.txt"));
    assert_eq!(client.bucket("photos").await.unwrap().name, "photos");
    assert_eq!(client.list_buckets().try_collect::<Vec<_>>().await.unwrap().len(), 1);
    let refused = client.delete_bucket("photos").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BucketNotEmpty));

    let request = CreateWebhookRequest {
        url: "https://hooks.example.org/".into(),
        secret: None,
        types: vec!["file.deleted".into()],
        categories: vec![],
        metadata: BTreeMap::new(),
    };
    let webhook = client.create_webhook(&request).await.unwrap();
    let edit =
        UpdateWebhookRequest { state: Some(WebhookState::Disabled), ..UpdateWebhookRequest::default() };
    let changed = client.update_webhook(&webhook.id, &edit).await.unwrap();
    assert_eq!(changed.state, WebhookState::Disabled);
    assert_eq!(client.webhook(&webhook.id).await.unwrap().url, request.url);
    assert!(client.list_webhook_deliveries(&webhook.id, None).try_next().await.unwrap().is_none());
    client.delete_webhook(&webhook.id).await.unwrap();
    assert!(client.list_webhooks().try_next().await.unwrap().is_none());

    let filter = TaskFilter { kind: Some("sweep".into()), ..TaskFilter::default() };
    let task = client.list_tasks(filter).try_next().await.unwrap().unwrap();
    assert_eq!(client.task(&task.id).await.unwrap().task.kind, "sweep");
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    assert!(client.stats().await.unwrap().blobs > 0);
}
