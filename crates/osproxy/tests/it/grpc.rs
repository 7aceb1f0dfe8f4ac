//! Behavior specific to gRPC: broken streams, deadlines, health, its own listener, other nodes, and
//! the reference.

mod store_file;
mod streams;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use osproxy_api::grpc::v1::{
    CompleteUploadRequest, CreateUploadLinkRequest, CreateUploadRequest, Digests, DownloadFileRequest,
    GetFileRequest, GetUploadRequest, ListFilesRequest, UploadFileHeader, UploadFileRequest,
    UploadPartHeader, UploadPartRequest, download_file_response::Part as Downloaded, upload_file_request,
    upload_part_request,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::support::{
    Grpc, Http2Client, MESSAGE, Service, content, error_reason, eventually, file_messages, md5_hex,
    part_messages,
};

async fn create(grpc: &mut Grpc) -> String {
    let request = CreateUploadRequest { name: "x.bin".to_owned(), ..CreateUploadRequest::default() };
    grpc.files.create_upload(request).await.unwrap().into_inner().uid
}

async fn parts_of(grpc: &mut Grpc, uid: &str) -> Vec<u32> {
    let request = GetUploadRequest { uid: uid.to_owned() };
    grpc.files.get_upload(request).await.unwrap().into_inner().parts
}

/// Stores content and returns its uid.
pub async fn store(grpc: &mut Grpc, bytes: &[u8]) -> String {
    let uid = create(grpc).await;
    let header = UploadFileHeader { uid: uid.clone(), ..UploadFileHeader::default() };
    grpc.files.upload_file(stream::iter(file_messages(header, bytes))).await.unwrap();
    uid
}

/// The content of a file from `offset` on.
pub async fn read(grpc: &mut Grpc, uid: &str, offset: u64) -> Vec<u8> {
    let request = DownloadFileRequest { uid: uid.to_owned(), offset, length: None };
    let mut messages = grpc.files.download_file(request).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(message) = messages.next().await {
        if let Some(Downloaded::Data(data)) = message.unwrap().part {
            content.extend_from_slice(&data);
        }
    }
    content
}

fn part_header(uid: &str, number: u32) -> UploadPartHeader {
    UploadPartHeader { uid: uid.to_owned(), number, ..UploadPartHeader::default() }
}

/// Endless streams without an announced size.
fn endless(uid: &str) -> (Vec<UploadFileRequest>, Vec<UploadPartRequest>) {
    let bytes = content(1, 4 * MESSAGE);
    let header = UploadFileHeader { uid: uid.to_owned(), ..UploadFileHeader::default() };
    (file_messages(header, &bytes), part_messages(part_header(uid, 1), &bytes))
}

/// Waits until nothing of an unfinished upload is left.
async fn nothing_is_left(service: &Service) {
    eventually("nothing is left behind", async || {
        let rows = service.sql("SELECT count(*) FROM blobs WHERE state = 'writing'").await;
        let parts = service.sql("SELECT count(*) FROM parts WHERE state IN ('writing', 'stored')").await;
        (service.objects().is_empty() && rows == ["0"] && parts == ["0"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_that_are_none_are_refused_and_leave_nothing() {
    let service = Service::start().await;
    let mut grpc = service.grpc();
    let uid = create(&mut grpc).await;
    let header = || UploadFileHeader { uid: uid.clone(), ..UploadFileHeader::default() };
    let message = |part| UploadFileRequest { part: Some(part) };
    let data = |len: usize| message(upload_file_request::Part::Data(vec![0; len].into()));
    let head = || message(upload_file_request::Part::Header(header()));
    let size =
        |size| message(upload_file_request::Part::Header(UploadFileHeader { size: Some(size), ..header() }));
    let digest = message(upload_file_request::Part::Header(UploadFileHeader {
        digests: Some(Digests { md5: vec![0; 15].into(), ..Digests::default() }),
        ..header()
    }));
    let cases = [
        (vec![], "invalid_argument", Some("header")),
        (vec![data(5)], "invalid_argument", Some("header")),
        (vec![head(), data(5), head()], "invalid_argument", Some("data")),
        (vec![head(), UploadFileRequest { part: None }], "invalid_argument", Some("data")),
        (vec![digest], "invalid_argument", Some("digests.md5")),
        (vec![head(), data(2 << 20)], "too_large", None),
        (vec![size(6), data(5)], "incomplete_body", None),
        (vec![size(4), data(5)], "size_mismatch", None),
    ];
    for (messages, code, field) in cases {
        let refused = grpc.files.upload_file(stream::iter(messages)).await.unwrap_err();
        assert_eq!(error_reason(&refused), (code.to_owned(), field.map(str::to_owned)));
        nothing_is_left(&service).await;
    }
    let number = upload_part_request::Part::Header(part_header(&uid, 0));
    let refused =
        grpc.files.upload_part(stream::iter([UploadPartRequest { part: Some(number) }])).await.unwrap_err();
    assert_eq!(error_reason(&refused).0, "invalid_argument");
    // A message may be empty, and may have 1 MiB.
    let bytes = content(1, 1 << 20);
    let whole = message(upload_file_request::Part::Data(bytes.clone().into()));
    grpc.files.upload_file(stream::iter([head(), data(0), whole])).await.unwrap();
    assert!(read(&mut grpc, &uid, 0).await == bytes);
}

#[tokio::test]
async fn what_is_no_message_is_the_clients_fault() {
    let service = Service::start().await;
    let mut client = Http2Client::connect(service.address).await;
    let long = [&[0_u8][..], &(2_u32 << 20).to_be_bytes(), &vec![b'x'; 2 << 20]].concat();
    let garbage = vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff];
    let reflected = [&[0_u8][..], &(8_u32 << 10).to_be_bytes(), &vec![b'x'; 8 << 10]].concat();
    let request = hyper::Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .body(reflected.into());
    assert_eq!(
        client.send(request.unwrap()).await.unwrap().headers()["grpc-status"],
        "3",
        "a call without a key"
    );
    for (body, encoding, status) in [
        (garbage, "identity", "3"),
        (long, "identity", "3"),
        (vec![0], "identity", "3"),
        (vec![1, 0, 0, 0, 0], "gzip", "12"),
    ] {
        let request = hyper::Request::post("http://localhost/osproxy.v1.FileService/GetFile")
            .header("content-type", "application/grpc")
            .header("grpc-encoding", encoding)
            .header("authorization", format!("Bearer {}", service.key().unwrap()))
            .body(body.into());
        let answer = client.send(request.unwrap()).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["grpc-status"]),
            (200, &status.parse().unwrap())
        );
    }
    assert!(!service.log().contains("ERROR"), "{}", service.log());
    // A client without gRPC gets an HTTP error.
    let request = hyper::Request::post("http://localhost/osproxy.v1.FileService/GetFile")
        .header("authorization", format!("Bearer {}", service.key().unwrap()))
        .body(Bytes::new().into());
    let answer = client.send(request.unwrap()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["osproxy-error"]),
        (415, &"unsupported_media_type".parse().unwrap())
    );
}

#[tokio::test]
async fn an_upload_begun_over_grpc_is_finished_over_v0_and_v1() {
    let mut service = Service::start().await;
    let mut grpc = service.grpc();
    for is_v0 in [true, false] {
        let bytes = content(u64::from(is_v0), 250_000);
        let uid = create(&mut grpc).await;
        let messages = part_messages(part_header(&uid, 1), &bytes[..100_000]);
        grpc.files.upload_part(stream::iter(messages)).await.unwrap();
        let request = CreateUploadLinkRequest { uid: uid.clone(), ..CreateUploadLinkRequest::default() };
        let links = grpc.files.create_upload_link(request).await.unwrap().into_inner();
        let md5 = md5_hex(&bytes[100_000..]);
        let (part, complete) = if is_v0 {
            let (_, signed) = links.complete.split_once('?').unwrap();
            let v0 = format!("/api/storage/v0/upload/{{}}?uid={uid}&{signed}");
            let (size, whole) = (bytes.len(), md5_hex(&bytes));
            (
                v0.replace("{}", "multi") + &format!("&chunkNum=2&md5={md5}"),
                v0.replace("{}", "merge") + &format!("&num=2&size={size}&md5={whole}"),
            )
        } else {
            (links.part.replace("{number}", "2"), links.complete)
        };
        assert!(service.put(&part, &bytes[100_000..]).await.status().is_success());
        let url = service.url(&complete);
        let completing = if is_v0 { service.client().put(url) } else { service.client().post(url) };
        assert_eq!(completing.send().await.unwrap().status(), 200);
        assert!(service.read(&uid).await == bytes);
        assert!(read(&mut grpc, &uid, 7).await == bytes[7..]);
        service.wait_until_merged(&uid).await;
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn calls_are_written_down_and_counted_as_requests_are() {
    let service = Service::start_with(&[("LOG__FORMAT", "json")]).await;
    let mut grpc = service.grpc();
    let uid = store(&mut grpc, &content(1, 5_000)).await;
    assert_eq!(read(&mut grpc, &uid, 1_000).await.len(), 4_000);
    let missing = GetFileRequest { uid: "7".to_owned() };
    let answer = grpc.files.get_file(missing).await.unwrap_err();
    assert_eq!(answer.metadata().get("osproxy-error").unwrap(), "file_not_found");
    let id = answer.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let lines = eventually("all lines are logged", async || {
        let log = service.log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let served: Vec<_> = lines.filter(|line| line["message"] == "served").collect();
        (served.len() == 4).then_some(served)
    })
    .await;
    let expected = [
        ("CreateUpload", None, 200, None),
        ("UploadFile", Some(uid.as_str()), 200, None),
        ("DownloadFile", Some(uid.as_str()), 200, None),
        ("GetFile", Some("7"), 404, Some("file_not_found")),
    ];
    for (line, (method, uid, status, error)) in lines.iter().zip(expected) {
        let route = format!("/osproxy.v1.FileService/{method}");
        assert_eq!((&line["method"], &line["route"]), (&json!("POST"), &json!(route)), "{line}");
        assert_eq!((&line["uid"], &line["status"]), (&json!(uid), &json!(status)), "{line}");
        assert_eq!((&line["error"], &line["complete"]), (&json!(error), &json!(true)), "{line}");
        assert_eq!(line["why"].is_string(), error.is_some(), "{line}");
    }
    assert!(lines[1]["bytes_received"].as_u64().unwrap() > 5_000);
    assert!(lines[2]["bytes_sent"].as_u64().unwrap() > 4_000);
    assert_eq!(lines[3]["spans"][0]["request_id"], id);
    let page = service.get("/metrics").await.text().await.unwrap();
    for (method, status) in [("UploadFile", 200), ("GetFile", 404)] {
        let counted = page.lines().any(|line| {
            line.contains("_requests_total{")
                && line.contains(&format!("route=\"/osproxy.v1.FileService/{method}\""))
                && line.contains(&format!("status=\"{status}\""))
                && line.ends_with(" 1")
        });
        assert!(counted, "{method} {status}: {page}");
    }
}

#[tokio::test]
async fn a_node_says_how_it_is_and_that_it_stops() {
    let mut service = Service::start_with(&[("SERVER__DRAIN_DELAY", "3")]).await;
    let mut grpc = service.grpc();
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for name in ["", "osproxy.v1.FileService", "osproxy.v1.TaskService", "osproxy.v1.ClusterService"] {
        let status = grpc.health.check(of(name)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{name}");
    }
    assert_eq!(grpc.health.check(of("nothing")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = grpc.health.watch(of("nothing")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watched = grpc.health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    service.signal(Signal::TERM);
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    // The shutdown does not wait for health watchers either.
    assert!(watched.message().await.unwrap().is_none());
    assert!(service.exit_status().await.success());
}

#[tokio::test]
async fn links_hold_no_longer_than_is_allowed() {
    let service = Service::start().await;
    let mut grpc = service.grpc();
    let uid = create(&mut grpc).await;
    for seconds in [0, -1, 3_000_000_000] {
        let expires_in = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = CreateUploadLinkRequest { uid: uid.clone(), expires_in, constraints: None };
        let refused = grpc.files.create_upload_link(request).await.unwrap_err();
        assert_eq!(error_reason(&refused), ("invalid_argument".to_owned(), Some("expires_in".to_owned())));
    }
}

#[tokio::test]
async fn other_apis_have_their_own_errors_whatever_is_sent_to_them() {
    let service = Service::start().await;
    let grpc =
        |path: &str| service.client().put(service.url(path)).header("content-type", "application/grpc");
    let answer = grpc("/api/v1/uploads/1/content?date=x&expire=1&signature=x").send().await.unwrap();
    assert!(answer.status().is_client_error(), "{}", answer.status());
    let answer = grpc("/api/storage/v0/upload?uid=1").send().await.unwrap();
    assert_eq!(answer.status(), 422);
}

#[tokio::test]
async fn keys_are_asked_for_and_health_is_not() {
    let service = Service::start().await;
    let mut grpc = service.without_key().grpc();
    let refused = grpc.files.list_files(ListFilesRequest::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), error_reason(&refused).0.as_str()),
        (Code::Unauthenticated, "unauthenticated")
    );
    let health = grpc.health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn unary_calls_have_the_places_that_requests_have() {
    let service = Service::start_with(&[("LIMITS__MAX_REQUESTS", "2")]).await;
    let mut grpc = service.grpc();
    // Half a request occupies the only permit for changes from the moment its body is read.
    let mut half = service.connect().await;
    let fields = "Content-Type: application/json\r\nContent-Length: 35\r\nExpect: 100-continue\r\n";
    half.send_head("POST", "/api/storage/v0/link/upload", &(service.authorization() + fields)).await;
    assert!(half.read_some().await.starts_with(b"HTTP/1.1 100"));
    let create = CreateUploadRequest { name: "x".to_owned(), ..CreateUploadRequest::default() };
    let refused = grpc.files.create_upload(create).await.unwrap_err();
    assert_eq!((refused.code(), error_reason(&refused).0.as_str()), (Code::Unavailable, "overloaded"));
    grpc.files.list_files(ListFilesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn streams_without_a_word_have_the_places_of_transfers() {
    let service = Service::start_with(&[("LIMITS__MAX_TRANSFERS", "2")]).await;
    let silent: Vec<tokio::task::JoinHandle<()>> = (0..2)
        .map(|_| {
            let mut grpc = service.grpc();
            // Refused while another request has the permit.
            tokio::spawn(async move {
                loop {
                    let _ = grpc.files.upload_file(stream::pending()).await;
                }
            })
        })
        .collect();
    let mut other = service.grpc();
    let full = async || {
        let sent = other.files.upload_file(stream::empty()).await;
        sent.err().map(|refused| error_reason(&refused).0).filter(|code| code == "overloaded")
    };
    eventually("the call is refused", full).await;
    silent.iter().for_each(tokio::task::JoinHandle::abort);
    let free = async || {
        let sent = other.files.upload_file(stream::empty()).await;
        sent.err().map(|refused| error_reason(&refused).0).filter(|code| code == "invalid_argument")
    };
    eventually("the stream is admitted", free).await;
}

#[tokio::test]
async fn a_listener_of_its_own_serves_grpc_and_nothing_else() {
    let settings = [("GRPC__LISTEN", "127.0.0.1:0")];
    let service = Service::start_with(&settings).await;
    let address = service.logged_address("gRPC listener started").await;
    assert_ne!(address, service.address);
    let mut grpc = Grpc::with_key(address, service.key());
    let bytes = content(1, 100_000);
    let uid = store(&mut grpc, &bytes).await;
    assert!(read(&mut grpc, &uid, 0).await == bytes);
    // Each service serves only its own protocol.
    let mut other = service.grpc();
    let refused = other.files.list_files(ListFilesRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), error_reason(&refused).0.as_str()), (Code::Unimplemented, "unknown_route"));
    assert_eq!(service.get("/health/ready").await.status(), 200);
    let answer = service.client().get(format!("http://{address}/health/ready")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    let stranger = format!("http://{address}/api/storage/v0/link/upload");
    assert_eq!(service.client().post(stranger).send().await.unwrap().status(), 404);
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn any_node_takes_any_part_and_reads_any_file() {
    // Each node has its own disk.
    let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &[]).await;
    let two = one.start_second_node(&[]).await;
    let (mut first, mut second) = (one.grpc(), two.grpc());
    let bytes = content(1, 3_000_000);
    let uid = create(&mut first).await;
    let part = |number: u32, digests: Option<Digests>| {
        let from = (number as usize - 1) * 1_000_000;
        let header = UploadPartHeader { size: Some(1_000_000), digests, ..part_header(&uid, number) };
        stream::iter(part_messages(header, &bytes[from..from + 1_000_000]))
    };
    first.files.upload_part(part(1, None)).await.unwrap();
    assert!(two.objects().is_empty());
    // The other node forwards the parts, and passes their errors on.
    let digest = |bytes: &[u8]| {
        Some(Digests { blake3: blake3::hash(bytes).as_bytes().to_vec().into(), ..Digests::default() })
    };
    let wrong = second.files.upload_part(part(2, digest(b"other"))).await.unwrap_err();
    assert_eq!(error_reason(&wrong).0, "digest_mismatch");
    let short = UploadPartHeader { size: Some(9), ..part_header(&uid, 2) };
    let cut = second.files.upload_part(stream::iter(part_messages(short, b"12345"))).await.unwrap_err();
    assert_eq!(error_reason(&cut).0, "incomplete_body");
    let long = UploadPartHeader { size: Some(3), ..part_header(&uid, 2) };
    let cut = second.files.upload_part(stream::iter(part_messages(long, b"12345"))).await.unwrap_err();
    assert_eq!(error_reason(&cut).0, "size_mismatch");
    for size in [3, 0] {
        let header = UploadPartHeader { size: Some(size), ..part_header(&uid, 2) };
        let rest =
            UploadPartRequest { part: Some(upload_part_request::Part::Data(Bytes::from_static(b"45"))) };
        let sent = part_messages(header, &b"123"[..usize::try_from(size).unwrap()]);
        let long = second.files.upload_part(stream::iter(sent.into_iter().chain([rest]))).await.unwrap_err();
        assert_eq!(error_reason(&long).0, "size_mismatch", "{size}");
    }
    let (_, endless) = endless(&uid);
    let mut other = second.clone();
    let cancelled = tokio::spawn(async move {
        let mut endless = endless;
        if let Some(upload_part_request::Part::Header(header)) = &mut endless[0].part {
            header.number = 2;
        }
        other.files.upload_part(stream::iter(endless).chain(stream::pending())).await.map(drop)
    });
    eventually("the object is being written", async || (one.open_objects() == 1).then_some(())).await;
    cancelled.abort();
    eventually("the object is closed", async || (one.open_objects() == 0).then_some(())).await;
    assert_eq!(parts_of(&mut second, &uid).await, [1]);
    second.files.upload_part(part(2, digest(&bytes[1_000_000..2_000_000]))).await.unwrap();
    let complete = CompleteUploadRequest { uid: uid.clone(), size: Some(3_000_000), ..Default::default() };
    let missing = second.files.complete_upload(complete.clone()).await.unwrap_err();
    assert!(["parts_missing", "size_mismatch"].contains(&error_reason(&missing).0.as_str()));
    second.files.upload_part(part(3, None)).await.unwrap();
    let complete = CompleteUploadRequest { digests: digest(&bytes), parts: Some(3), ..complete };
    second.files.complete_upload(complete).await.unwrap();
    assert!(read(&mut second, &uid, 0).await == bytes);
    assert!(read(&mut second, &uid, 2_999_999).await == bytes[2_999_999..]);
    assert!(two.objects().is_empty());
    one.kill().await;
    let request = DownloadFileRequest { uid, offset: 0, length: None };
    let gone = second.files.download_file(request).await.unwrap_err();
    assert_eq!((gone.code(), error_reason(&gone).0.as_str()), (Code::Unavailable, "node_unavailable"));
}
