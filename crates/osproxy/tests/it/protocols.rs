//! Behavior that all protocols share: one list of cases, each run over HTTP and over gRPC.

use md5::{Digest, Md5};
use reqwest::Method;

use crate::support::{CallError, Client, FileInfo, Protocol, Service, UploadSpec, content, eventually};

/// Runs each case over each protocol.
macro_rules! cases {
    ($($case:ident,)*) => {
        mod over_http {
            $(#[tokio::test] async fn $case() { super::$case(crate::support::Protocol::Http).await; })*
        }
        mod over_grpc {
            $(#[tokio::test] async fn $case() { super::$case(crate::support::Protocol::Grpc).await; })*
        }
    };
}

cases! {
    content_comes_back_byte_for_byte,
    parts_come_in_any_order_and_again,
    ranges_are_exact,
    a_wrong_digest_is_refused_and_leaves_nothing,
    what_misses_parts_stays_completable,
    what_is_given_up_is_gone,
    content_that_is_known_need_not_be_sent,
    content_never_changes_once_stored,
    files_are_described_and_listed,
    a_copy_outlives_its_original,
    what_is_wrong_is_named,
    too_much_is_refused,
    nobody_does_more_than_their_key_allows,
    a_stranger_finds_out_nothing,
    a_tenant_has_no_more_than_its_quota,
    an_address_asks_no_more_often_than_it_may,
    tasks_and_nodes_are_told,
}

const MIB: usize = 1 << 20;

fn refused<T>(code: &str, field: Option<&str>) -> Result<T, CallError> {
    Err((code.to_owned(), field.map(str::to_owned)))
}

fn md5(content: &[u8]) -> [u8; 16] {
    Md5::digest(content).into()
}

/// Stores content of announced size, and returns its uid.
async fn store(client: &mut Client, name: &str, bytes: &[u8]) -> String {
    let wish = UploadSpec { name, size: Some(bytes.len() as u64), ..UploadSpec::default() };
    let (uid, state, _) = client.create(&wish).await.unwrap();
    assert_eq!(state, "pending");
    client.send(&uid, bytes, Some(md5(bytes))).await.unwrap();
    uid
}

async fn content_comes_back_byte_for_byte(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    for (seed, size) in (1..).zip([1, 65_535, 65_536, 65_537, 3 * MIB + 5]) {
        let bytes = content(seed, size);
        let uid = store(&mut client, "any.bin", &bytes).await;
        assert!(client.read(&uid, 0, None).await.unwrap() == bytes, "{size}");
    }
    // A file may be empty.
    let uid = store(&mut client, "empty.bin", b"").await;
    assert_eq!(client.describe(&uid).await.unwrap().size, Some(0));
    service.assert_consistent().await;
}

async fn parts_come_in_any_order_and_again(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 2 * MIB + 7);
    let wish = UploadSpec {
        name: "film.mp4",
        size: Some(bytes.len() as u64),
        part_size: Some(MIB as u64),
        ..UploadSpec::default()
    };
    let (uid, _, part_size) = client.create(&wish).await.unwrap();
    assert_eq!(part_size, Some(MIB as u64));
    let part = |number: usize| bytes.chunks(MIB).nth(number - 1).unwrap();
    client.send_part(&uid, 3, part(3), Some(md5(part(3)))).await.unwrap();
    // A part that is sent again replaces the first one.
    client.send_part(&uid, 1, &content(9, MIB), None).await.unwrap();
    client.send_part(&uid, 1, part(1), Some(md5(part(1)))).await.unwrap();
    let standing = client.upload_status(&uid).await.unwrap();
    assert_eq!((standing.state.as_str(), &standing.parts[..]), ("receiving", &[1, 3][..]));
    assert_eq!((standing.received, standing.part_size), (MIB as u64 + 7, Some(MIB as u64)));
    client.send_part(&uid, 2, part(2), None).await.unwrap();
    client.complete(&uid, 3, &bytes).await.unwrap();
    // Repeating it does no harm.
    client.complete(&uid, 3, &bytes).await.unwrap();
    assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
    assert_eq!(client.upload_status(&uid).await.unwrap().state, "stored");
    service.wait_until_merged(&uid).await;
    assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
    service.assert_consistent().await;
}

async fn ranges_are_exact(protocol: Protocol) {
    let service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 300_000);
    let uid = store(&mut client, "x.bin", &bytes).await;
    for (offset, length) in [(0, 1), (0, 300_000), (1, 299_999), (65_535, 2), (299_999, 1), (299_999, 500)] {
        let wanted = &bytes[offset..(offset + length).min(bytes.len())];
        let read = client.read(&uid, offset as u64, Some(length as u64)).await.unwrap();
        assert!(read == wanted, "{offset} {length}");
    }
    assert!(client.read(&uid, 7, None).await.unwrap() == bytes[7..]);
    let (code, _) = client.read(&uid, 300_001, None).await.unwrap_err();
    assert_eq!(code, "range_not_satisfiable");
}

async fn a_wrong_digest_is_refused_and_leaves_nothing(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let (bytes, other) = (content(1, 100_000), content(2, 100_000));
    let (uid, ..) = client.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    assert_eq!(client.send(&uid, &bytes, Some(md5(&other))).await, refused("digest_mismatch", None));
    let (in_parts, ..) = client.create(&UploadSpec { name: "y.bin", ..UploadSpec::default() }).await.unwrap();
    assert_eq!(
        client.send_part(&in_parts, 1, &bytes, Some(md5(&other))).await,
        refused("digest_mismatch", None)
    );
    let standing = client.upload_status(&in_parts).await.unwrap();
    assert_eq!((standing.parts.len(), standing.received), (0, 0));
    eventually("nothing is left behind", async || (service.allocated() == 0).then_some(())).await;
    client.send(&uid, &bytes, Some(md5(&bytes))).await.unwrap();
    client.send_part(&in_parts, 1, &bytes, Some(md5(&bytes))).await.unwrap();
    client.complete(&in_parts, 1, &bytes).await.unwrap();
    for uid in [uid, in_parts] {
        assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
    }
    service.assert_consistent().await;
}

async fn what_misses_parts_stays_completable(protocol: Protocol) {
    let service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 300_000);
    let (uid, ..) = client.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    client.send_part(&uid, 1, &bytes[..100_000], None).await.unwrap();
    client.send_part(&uid, 3, &bytes[200_000..], None).await.unwrap();
    assert_eq!(client.complete(&uid, 3, &bytes).await.unwrap_err().0, "parts_missing");
    let (code, _) = client.read(&uid, 0, None).await.unwrap_err();
    assert_eq!(code, "not_stored");
    client.send_part(&uid, 2, &bytes[100_000..200_000], None).await.unwrap();
    assert_eq!(client.complete(&uid, 3, &bytes[1..]).await.unwrap_err().0, "size_mismatch");
    client.complete(&uid, 3, &bytes).await.unwrap();
    assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
}

async fn what_is_given_up_is_gone(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let (uid, ..) = client.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    client.send_part(&uid, 1, &content(1, 100_000), None).await.unwrap();
    client.abort(&uid).await.unwrap();
    assert_eq!(client.send_part(&uid, 2, b"x", None).await.unwrap_err().0, "file_gone");
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
    service.assert_consistent().await;
}

async fn content_that_is_known_need_not_be_sent(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 200_000);
    store(&mut client, "first.bin", &bytes).await;
    let blake3 = Some(*blake3::hash(&bytes).as_bytes());
    let wish = UploadSpec { name: "second.bin", size: Some(200_000), blake3, ..UploadSpec::default() };
    let (uid, state, _) = client.create(&wish).await.unwrap();
    assert_eq!(state, "stored");
    assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
    assert_eq!(service.objects().len(), 1);
    service.assert_consistent().await;
}

async fn content_never_changes_once_stored(protocol: Protocol) {
    let service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 100_000);
    let uid = store(&mut client, "x.bin", &bytes).await;
    // A repeated upload of the same content succeeds: the client may have missed the answer.
    client.send(&uid, &bytes, None).await.unwrap();
    assert_eq!(client.send(&uid, &content(2, 100_000), None).await.unwrap_err().0, "already_stored");
    assert!(client.read(&uid, 0, None).await.unwrap() == bytes);
}

async fn files_are_described_and_listed(protocol: Protocol) {
    let service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let mut uids = Vec::new();
    for number in 0..5 {
        let name = format!("many/../list {number} ü.png");
        let wish = UploadSpec {
            name: &name,
            metadata: &[("case", "7")],
            content_type: "image/x-own",
            ..UploadSpec::default()
        };
        let (uid, ..) = client.create(&wish).await.unwrap();
        client.send(&uid, &content(number, 1000), None).await.unwrap();
        uids.push(uid);
    }
    store(&mut client, "other.bin", b"other").await;
    let known = client.describe(&uids[0]).await.unwrap();
    assert_eq!(
        known,
        FileInfo {
            uid: uids[0].clone(),
            name: "list 0 ü.png".to_owned(),
            state: "stored".to_owned(),
            size: Some(1000),
            content_type: Some("image/x-own".to_owned()),
            category: "image".to_owned(),
            metadata: [("case".to_owned(), "7".to_owned())].into(),
            blake3: Some(blake3::hash(&content(0, 1000)).to_hex().to_string()),
        }
    );
    let (mut listed, mut token, mut pages) = (Vec::new(), None, 0);
    loop {
        let (files, next) = client.list("list", 2, token.as_deref()).await.unwrap();
        listed.extend(files.into_iter().map(|file| file.uid));
        (token, pages) = (next, pages + 1);
        if token.is_none() {
            break;
        }
    }
    assert_eq!((listed, pages), (uids, 3));
    // A page token is valid only for its own query.
    let (_, token) = client.list("list", 2, None).await.unwrap();
    assert_eq!(client.list("lis", 2, token.as_deref()).await.unwrap_err().0, "invalid_argument");
}

async fn a_copy_outlives_its_original(protocol: Protocol) {
    let mut service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 100_000);
    let uid = store(&mut client, "x.bin", &bytes).await;
    let copy = client.copy(&uid, "copy.bin").await.unwrap();
    assert_eq!((copy.name.as_str(), copy.state.as_str(), copy.size), ("copy.bin", "stored", Some(100_000)));
    client.delete(&uid).await.unwrap();
    assert_eq!(client.read(&uid, 0, None).await.unwrap_err().0, "file_gone");
    assert_eq!(client.delete(&uid).await.unwrap_err().0, "file_gone");
    assert!(client.read(&copy.uid, 0, None).await.unwrap() == bytes);
    client.delete(&copy.uid).await.unwrap();
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
    service.assert_consistent().await;
}

async fn what_is_wrong_is_named(protocol: Protocol) {
    let service = Service::start().await;
    let mut client = Client::for_service(&service, protocol);
    let long = "x".repeat(1025);
    let refusals = [
        (UploadSpec { name: "", ..UploadSpec::default() }, Some("name")),
        (UploadSpec { name: &long, ..UploadSpec::default() }, Some("name")),
        (
            UploadSpec { name: "x", size: Some(5), part_size: Some(3), ..UploadSpec::default() },
            Some("part_size"),
        ),
        (UploadSpec { name: "x", part_size: Some(MIB as u64), ..UploadSpec::default() }, Some("part_size")),
        (UploadSpec { name: "x", content_type: "nonsense", ..UploadSpec::default() }, Some("content_type")),
        (UploadSpec { name: "x", expires_in: Some(0), ..UploadSpec::default() }, Some("expires_in")),
        (UploadSpec { name: "x", expires_in: Some(-1), ..UploadSpec::default() }, Some("expires_in")),
    ];
    for (wish, field) in refusals {
        let created = client.create(&wish).await.map(|_| ());
        assert_eq!(created, refused("invalid_argument", field), "{wish:?}");
    }
    let (uid, ..) = client.create(&UploadSpec { name: "x", ..UploadSpec::default() }).await.unwrap();
    for number in [0, 10_001] {
        let sent = client.send_part(&uid, number, b"x", None).await;
        assert_eq!(sent.unwrap_err().0, "invalid_argument", "{number}");
    }
    assert_eq!(client.describe("1").await, refused("file_not_found", None));
    assert_eq!(client.describe("x").await.unwrap_err().0, "invalid_argument");
    assert_eq!(client.list("", 1001, None).await.unwrap_err().0, "invalid_argument");
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);
}

async fn too_much_is_refused(protocol: Protocol) {
    let mut service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1048576")]).await;
    let mut client = Client::for_service(&service, protocol);
    let wish = UploadSpec { name: "x.bin", size: Some(MIB as u64 + 1), ..UploadSpec::default() };
    assert_eq!(client.create(&wish).await.unwrap_err().0, "too_large");
    let (uid, ..) = client.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    assert_eq!(client.send(&uid, &content(1, MIB + 1), None).await.unwrap_err().0, "too_large");
    client.send(&uid, &content(1, MIB), None).await.unwrap();
    service.assert_consistent().await;
}

async fn nobody_does_more_than_their_key_allows(protocol: Protocol) {
    let service = Service::start().await;
    let key = service.create_key(&["--scopes", "upload", "--max-size", "100kB"]).await;
    let mut uploader = Client::new(&service.with_key(&key), protocol);
    let wish = UploadSpec { name: "x.bin", size: Some(100_001), ..UploadSpec::default() };
    assert_eq!(uploader.create(&wish).await.unwrap_err().0, "too_large");
    let (uid, ..) = uploader.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    assert_eq!(uploader.send(&uid, &content(1, 100_001), None).await.unwrap_err().0, "too_large");
    uploader.send(&uid, b"content", None).await.unwrap();
    assert_eq!(uploader.describe(&uid).await, refused("permission_denied", None));
    assert_eq!(uploader.delete(&uid).await, refused("permission_denied", None));
    assert_eq!(uploader.tasks().await, refused("permission_denied", None));
    assert_eq!(uploader.nodes().await, refused("permission_denied", None));
    for api in [service.without_key(), service.with_key("osk_nonsense")] {
        let mut stranger = Client::new(&api, protocol);
        assert_eq!(stranger.describe(&uid).await, refused("unauthenticated", None));
        let created = stranger.create(&UploadSpec { name: "x", ..UploadSpec::default() }).await;
        assert_eq!(created.map(drop), refused("unauthenticated", None));
        assert_eq!(stranger.read(&uid, 0, None).await, refused("unauthenticated", None));
    }
}

async fn a_stranger_finds_out_nothing(protocol: Protocol) {
    let service = Service::start().await;
    let ours = service.create_key(&["--tenant", "ours"]).await;
    let theirs = service.create_key(&["--tenant", "theirs"]).await;
    let mut ours = Client::new(&service.with_key(&ours), protocol);
    let mut theirs = Client::new(&service.with_key(&theirs), protocol);
    let bytes = content(1, 100_000);
    let uid = store(&mut ours, "x.bin", &bytes).await;
    assert_eq!(theirs.describe(&uid).await, refused("file_not_found", None));
    assert_eq!(theirs.read(&uid, 0, None).await, refused("file_not_found", None));
    assert_eq!(theirs.delete(&uid).await, refused("file_not_found", None));
    assert_eq!(theirs.copy(&uid, "mine").await, refused("file_not_found", None));
    assert!(theirs.list("", 10, None).await.unwrap().0.is_empty());
    // Nor by instant upload.
    let blake3 = Some(*blake3::hash(&bytes).as_bytes());
    let wish = UploadSpec { name: "x.bin", size: Some(100_000), blake3, ..UploadSpec::default() };
    assert_eq!(theirs.create(&wish).await.unwrap().1, "pending");
    assert!(ours.read(&uid, 0, None).await.unwrap() == bytes);
}

async fn a_tenant_has_no_more_than_its_quota(protocol: Protocol) {
    let service = Service::start().await;
    let (code, said) = service.cli(&["tenant", "set", "small", "--new", "--max-bytes", "150kB"]).await;
    assert_eq!(code, 0, "{said}");
    let key = service.create_key(&["--tenant", "small"]).await;
    let mut client = Client::new(&service.with_key(&key), protocol);
    let uid = store(&mut client, "x.bin", &content(1, 100_000)).await;
    let wish = UploadSpec { name: "x.bin", size: Some(100_000), ..UploadSpec::default() };
    assert_eq!(client.create(&wish).await.unwrap_err().0, "quota_exceeded");
    let (unannounced, ..) =
        client.create(&UploadSpec { name: "x.bin", ..UploadSpec::default() }).await.unwrap();
    let bytes = content(2, 100_000);
    assert_eq!(client.send(&unannounced, &bytes, None).await.unwrap_err().0, "quota_exceeded");
    client.delete(&uid).await.unwrap();
    client.send(&unannounced, &bytes, None).await.unwrap();
}

async fn an_address_asks_no_more_often_than_it_may(protocol: Protocol) {
    let service = Service::start_with(&[("LIMITS__MAX_ADDRESS_RATE", "2")]).await;
    let mut client = Client::for_service(&service, protocol);
    let refusal = async || client.describe("1").await.err().filter(|(code, _)| code == "rate_limited");
    eventually("the request is refused", refusal).await;
}

async fn tasks_and_nodes_are_told(protocol: Protocol) {
    let mut service = Service::start_with(&[("TASKS__MAX_ATTEMPTS", "1")]).await;
    let mut client = Client::for_service(&service, protocol);
    let bytes = content(1, 200_000);
    let uid = service.store_in_parts("x.bin", &bytes, 50_000).await;
    service.wait_until_merged(&uid).await;
    let merged = |(_, kind, state): &&(String, String, String)| kind == "merge_parts" && state == "done";
    let done = async || client.tasks().await.unwrap().iter().find(merged).cloned();
    let (id, ..) = eventually("the task is done", done).await;
    assert_eq!(client.retry(&id).await, refused("task_not_dead", None));
    assert_eq!(client.retry("999999").await, refused("task_not_found", None));
    assert_eq!(client.retry("x").await, refused("invalid_argument", Some("id")));
    service.sql(&format!("UPDATE tasks SET state = 'dead' WHERE id = {id}")).await;
    client.retry(&id).await.unwrap();
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    // Whichever protocol stored it, HTTP serves it.
    assert_eq!(service.v1(Method::GET, &format!("/files/{uid}"), None).await.status(), 200);
    service.assert_consistent().await;
}
