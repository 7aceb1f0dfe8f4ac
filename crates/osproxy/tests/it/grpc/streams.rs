//! Streams that break, stall, or are abandoned.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use osproxy_api::grpc::v1::{
    CompleteUploadRequest, DownloadFileRequest, FileState, GetUploadRequest, UploadFileHeader,
};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;

use super::{create, endless, nothing_is_left, part_header, parts_of, read, store};
use crate::support::{MESSAGE, Service, content, error_reason, eventually, file_messages, part_messages};

#[tokio::test]
async fn an_upload_that_is_cancelled_leaves_nothing() {
    let mut service = Service::start().await;
    let mut grpc = service.grpc();
    let uid = create(&mut grpc).await;
    let (file, part) = endless(&uid);
    let mut other = grpc.clone();
    let whole = tokio::spawn(async move {
        other.files.upload_file(stream::iter(file).chain(stream::pending())).await.map(drop)
    });
    eventually("the object is being written", async || (service.open_objects() == 1).then_some(())).await;
    whole.abort();
    nothing_is_left(&service).await;
    let mut other = grpc.clone();
    let part = tokio::spawn(async move {
        other.files.upload_part(stream::iter(part).chain(stream::pending())).await.map(drop)
    });
    eventually("the object is being written", async || (service.open_objects() == 1).then_some(())).await;
    part.abort();
    nothing_is_left(&service).await;
    assert!(parts_of(&mut grpc, &uid).await.is_empty());
    // The upload still accepts its content.
    let bytes = content(2, 100_000);
    let messages = part_messages(part_header(&uid, 1), &bytes);
    grpc.files.upload_part(stream::iter(messages)).await.unwrap();
    let request = CompleteUploadRequest { uid: uid.clone(), ..CompleteUploadRequest::default() };
    grpc.files.complete_upload(request).await.unwrap();
    assert!(read(&mut grpc, &uid, 0).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_stream_that_is_reset_without_an_error_is_not_taken_for_whole() {
    let mut service = Service::start().await;
    let mut grpc = service.grpc();
    // A reset as a proxy sends it when its client is gone. Batches of 256 KiB are written when
    // full, so no write is pending.
    for (round, messages) in [0, 4, 8].into_iter().enumerate() {
        let uid = create(&mut grpc).await;
        let header = UploadFileHeader { uid: uid.clone(), ..UploadFileHeader::default() };
        let bytes = content(round as u64, messages * MESSAGE);
        let (mut client, connection) =
            h2::client::handshake(TcpStream::connect(service.address).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post("http://localhost/osproxy.v1.FileService/UploadFile")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {}", service.key().unwrap()));
        let (answer, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
        for message in file_messages(header, &bytes) {
            let message = prost::Message::encode_to_vec(&message);
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            stream.send_data([&[0], &length[..], &message].concat().into(), false).unwrap();
        }
        let written = (messages * MESSAGE) as u64;
        let writing = "SELECT count(*) FROM blobs WHERE state = 'writing'";
        let has_come =
            async || (service.sql(writing).await == ["1"] && service.open_bytes() == written).then_some(());
        eventually("the message has arrived", has_come).await;
        stream.send_reset(h2::Reason::NO_ERROR);
        drop(answer);
        nothing_is_left(&service).await;
        let request = GetUploadRequest { uid: uid.clone() };
        let state = grpc.files.get_upload(request).await.unwrap().into_inner().state();
        assert_ne!(state, FileState::Stored, "{messages}");
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_what_it_was_at() {
    let service = Service::start().await;
    let mut grpc = service.grpc();
    let uid = create(&mut grpc).await;
    let (file, _) = endless(&uid);
    let mut request = Request::new(stream::iter(file).chain(stream::pending()));
    request.set_timeout(Duration::from_millis(1500));
    let ended = grpc.files.upload_file(request).await.unwrap_err();
    assert_eq!(
        (ended.code(), error_reason(&ended).0.as_str()),
        (Code::DeadlineExceeded, "deadline_exceeded")
    );
    nothing_is_left(&service).await;
    // The same for a streaming answer.
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(Duration::from_millis(500));
    let mut watched = grpc.health.watch(request).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(watched.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(!service.log().contains("ERROR"), "{}", service.log());
}

#[tokio::test]
async fn who_sends_nothing_or_takes_nothing_is_dropped() {
    let service = Service::start_with(&[
        ("SERVER__BODY_TIMEOUT", "1"),
        ("SERVER__WRITE_TIMEOUT", "1"),
        ("SERVER__MIN_RATE", "1000000"),
    ])
    .await;
    let mut grpc = service.grpc();
    let uid = create(&mut grpc).await;
    let (file, _) = endless(&uid);
    let dropped = grpc.files.upload_file(stream::iter(file).chain(stream::pending())).await.unwrap_err();
    assert_eq!((dropped.code(), error_reason(&dropped).0.as_str()), (Code::Aborted, "incomplete_body"));
    // The client may repeat the call.
    assert!(dropped.get_details_retry_info().is_some());
    nothing_is_left(&service).await;
    let bytes = content(3, 24 << 20);
    let uid = service.store("large.bin", &bytes).await;
    let request = DownloadFileRequest { uid: uid.clone(), offset: 0, length: None };
    let mut messages = grpc.files.download_file(request).await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
    eventually("the object is open", async || (service.open_objects() == 1).then_some(())).await;
    eventually("the object is closed", async || (service.open_objects() == 0).then_some(())).await;
    let rest: Vec<_> = messages.collect().await;
    assert!(rest.last().unwrap().is_err(), "the cut answer looks complete");
    // Other calls on the connection continue.
    assert!(read(&mut grpc, &uid, (24 << 20) - 5).await == bytes[(24 << 20) - 5..]);
}

#[tokio::test]
async fn memory_does_not_grow_with_content() {
    let service = Service::start().await;
    let mut grpc = service.grpc();
    let small = content(1, 1 << 20);
    store(&mut grpc, &small).await;
    let before = service.peak_memory();
    let bytes = content(2, 96 << 20);
    let both = [1, 2].map(|_| {
        let (mut grpc, bytes) = (grpc.clone(), bytes.clone());
        async move {
            let uid = store(&mut grpc, &bytes).await;
            assert!(read(&mut grpc, &uid, 0).await == bytes);
        }
    });
    futures_util::future::join_all(both).await;
    let grown = service.peak_memory() - before;
    assert!(grown < 40 << 20, "{grown}");
}

#[tokio::test]
async fn content_breaks_off_when_its_key_is_revoked() {
    let mut service = Service::start().await;
    let stored = store(&mut service.grpc(), &content(1, 40_000_000)).await;
    let key = service.create_key(&["--scopes", "upload,read"]).await;
    let mut grpc = service.with_key(&key).grpc();
    let uid = create(&mut grpc).await;
    let header = UploadFileHeader { uid: uid.clone(), ..UploadFileHeader::default() };
    // The stream never ends.
    let beginning = stream::iter(file_messages(header, &content(2, 100_000)));
    let mut other = grpc.clone();
    let sending =
        tokio::spawn(async move { other.files.upload_file(beginning.chain(stream::pending())).await });
    // The client reads only the beginning.
    let request = DownloadFileRequest { uid: stored, offset: 0, length: None };
    let mut reading = grpc.files.download_file(request).await.unwrap().into_inner();
    assert!(reading.message().await.unwrap().is_some());
    let writing = async || service.sql("SELECT count(*) FROM blobs WHERE state = 'writing'").await;
    eventually("both have started", async || (writing().await == ["1"]).then_some(())).await;
    let (code, said) = service.cli(&["key", "revoke", &key]).await;
    assert_eq!(code, 0, "{said}");
    let refused = sending.await.unwrap().unwrap_err();
    assert_eq!(error_reason(&refused).0, "unauthenticated");
    // A client that resumes reading gets the error after the messages in transit.
    let refused = loop {
        match reading.message().await {
            Ok(message) => assert!(message.is_some(), "the download was complete"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
    eventually("nothing is left behind", async || (writing().await == ["0"]).then_some(())).await;
    service.assert_consistent().await;
}
