//! Files that are created and stored in one call.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use osproxy_api::grpc::v1::{
    Digests, File, FileState, StoreFileHeader, StoreFileRequest, store_file_request::Part,
};
use tonic::Code;

use super::read;
use crate::support::{MESSAGE, Service, content, error_reason, eventually};

fn header(name: &str) -> StoreFileHeader {
    StoreFileHeader { name: name.to_owned(), ..StoreFileHeader::default() }
}

fn blake3(bytes: &[u8]) -> Digests {
    Digests { blake3: blake3::hash(bytes).as_bytes().to_vec().into(), ..Digests::default() }
}

fn messages(header: StoreFileHeader, content: &[u8]) -> Vec<StoreFileRequest> {
    let data = content.chunks(MESSAGE).map(|chunk| Part::Data(chunk.to_vec().into()));
    let parts = std::iter::once(Part::Header(header)).chain(data);
    parts.map(|part| StoreFileRequest { part: Some(part) }).collect()
}

/// Waits until no file is left, and asserts that no object is.
async fn no_file_is_left(service: &Service) {
    eventually("no file is left", async || {
        let files = service.sql("SELECT count(*) FROM files WHERE listed = 1").await;
        (files == ["0"] && service.objects().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_is_created_and_stored_in_one_call() {
    let mut service = Service::start().await;
    let mut grpc = service.grpc();
    for (seed, size) in [(1, 0), (2, 5000), (3, 3_000_000)] {
        let bytes = content(seed, size);
        for announced in [None, Some(size as u64)] {
            let metadata = HashMap::from([("case".to_owned(), "17".to_owned())]);
            let content_type = "application/pdf".to_owned();
            let header =
                StoreFileHeader { size: announced, content_type, metadata, ..header("a/report.pdf") };
            let stored = grpc.files.store_file(stream::iter(messages(header, &bytes))).await.unwrap();
            let file: File = stored.into_inner();
            assert_eq!((file.state(), file.size), (FileState::Stored, Some(size as u64)));
            assert_eq!((&*file.name, &*file.content_type), ("report.pdf", "application/pdf"));
            assert_eq!((&*file.metadata["case"], file.digests), ("17", Some(blake3(&bytes))));
            assert!(read(&mut grpc, &file.uid, 0).await == bytes);
            assert_eq!(service.describe(&file.uid).await.name, "report.pdf");
        }
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn known_content_need_not_be_sent() {
    let service = Service::start().await;
    let mut grpc = service.grpc();
    let bytes = content(1, 1_000_000);
    let uid = service.store("x.bin", &bytes).await;
    let header = StoreFileHeader { digests: Some(blake3(&bytes)), ..header("y.bin") };
    let unsent = stream::iter(messages(header.clone(), b"")).chain(stream::pending());
    let file = grpc.files.store_file(unsent).await.unwrap().into_inner();
    assert_ne!(file.uid, uid);
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["2"]);
    assert!(read(&mut grpc, &file.uid, 0).await == bytes);
    // Content of another length is not the known content.
    let header = StoreFileHeader { size: Some(5), ..header };
    let refused = grpc.files.store_file(stream::iter(messages(header, b"other"))).await.unwrap_err();
    assert_eq!(error_reason(&refused).0, "digest_mismatch");
}

#[tokio::test]
async fn what_is_refused_or_breaks_off_leaves_nothing() {
    let mut service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1000000")]).await;
    let mut grpc = service.grpc();
    let digest = |bytes| StoreFileHeader { digests: Some(blake3(bytes)), ..header("x") };
    let sized = |size| StoreFileHeader { size: Some(size), ..header("x") };
    let twice = [messages(header("x"), b"content"), messages(header("x"), b"")].concat();
    let cases = [
        (vec![], "invalid_argument", Some("header")),
        (messages(header("x"), b"content").split_off(1), "invalid_argument", Some("header")),
        (twice, "invalid_argument", Some("data")),
        (messages(header(""), b"content"), "invalid_argument", Some("name")),
        (messages(digest(b"other"), b"content"), "digest_mismatch", None),
        (messages(digest(b"other"), &content(1, 300_000)), "digest_mismatch", None),
        (messages(sized(8), b"content"), "incomplete_body", None),
        (messages(sized(6), b"content"), "size_mismatch", None),
        (messages(sized(1_000_001), b""), "too_large", None),
        (messages(header("x"), &content(1, 1_000_001)), "too_large", None),
    ];
    for (messages, code, field) in cases {
        let refused = grpc.files.store_file(stream::iter(messages)).await.unwrap_err();
        assert_eq!(error_reason(&refused), (code.to_owned(), field.map(str::to_owned)));
        no_file_is_left(&service).await;
    }
    for size in [0, 5000, 300_000] {
        let sent = stream::iter(messages(header("x"), &content(1, size))).chain(stream::pending());
        let mut other = grpc.clone();
        let call = tokio::spawn(async move { other.files.store_file(sent).await.map(drop) });
        let running = async |count: &str| {
            let line = format!("osproxy_transfers_in_flight{{direction=\"upload\"}} {count}");
            let page = service.get("/metrics").await.text().await.unwrap();
            page.lines().any(|found| found == line).then_some(())
        };
        eventually("the upload is running", async || running("1.0").await).await;
        call.abort();
        eventually("the upload has ended", async || running("0.0").await).await;
        no_file_is_left(&service).await;
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn scopes_are_those_of_the_http_api() {
    let service = Service::start().await;
    let mut uploader = service.with_key(&service.create_key(&["--scopes", "upload"]).await).grpc();
    let stored = uploader.files.store_file(stream::iter(messages(header("x"), b"content"))).await.unwrap();
    let file = stored.into_inner();
    assert_eq!(file, File { uid: file.uid.clone(), ..File::default() });
    let mut reader = service.with_key(&service.create_key(&["--scopes", "read"]).await).grpc();
    let refused = reader.files.store_file(stream::iter(messages(header("x"), b"content"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(read(&mut reader, &file.uid, 0).await, b"content");
}
