//! Uploads by tus 1.0.

use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::{Method, RequestBuilder, Response, header::HeaderMap};

use sha2::Digest;

use crate::support::{Api, RawConnection, Service, content, eventually, expect_json, expect_problem};

const MIB: usize = 1 << 20;

/// Default part size, in bytes.
pub(crate) const PART: usize = 8 * MIB;

pub(crate) fn request(api: &Api, method: Method, url: &str) -> RequestBuilder {
    api.client().request(method, api.url(url)).header("tus-resumable", "1.0.0")
}

pub(crate) fn with_content(request: RequestBuilder, content: &[u8]) -> RequestBuilder {
    request
        .header("content-type", "application/offset+octet-stream")
        .header("content-length", content.len())
        .body(content.to_vec())
}

/// Creates an upload with these headers, and returns its URL.
pub(crate) async fn create(api: &Api, headers: &[(&str, &str)]) -> String {
    let mut creation = request(api, Method::POST, "/tus");
    for (name, value) in headers {
        creation = creation.header(*name, *value);
    }
    let answer = creation.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    text(answer.headers(), "location").to_owned()
}

async fn create_of_size(api: &Api, size: usize) -> String {
    create(api, &[("upload-length", &size.to_string()), ("upload-metadata", "filename eC5iaW4=")]).await
}

pub(crate) async fn append(api: &Api, url: &str, offset: usize, bytes: &[u8]) -> Response {
    let patch = request(api, Method::PATCH, url).header("upload-offset", offset);
    with_content(patch, bytes).send().await.unwrap()
}

/// Appends bytes, and asserts the new offset.
pub(crate) async fn expect_append(api: &Api, url: &str, offset: usize, bytes: &[u8]) {
    let answer = append(api, url, offset, bytes).await;
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    assert_eq!(number(answer.headers(), "upload-offset"), offset + bytes.len());
}

pub(crate) async fn head(api: &Api, url: &str) -> HeaderMap {
    let answer = request(api, Method::HEAD, url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    answer.headers().clone()
}

pub(crate) async fn offset(api: &Api, url: &str) -> usize {
    number(&head(api, url).await, "upload-offset")
}

pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).unwrap_or_else(|| panic!("{name} is missing")).to_str().unwrap()
}

pub(crate) fn number(headers: &HeaderMap, name: &str) -> usize {
    text(headers, name).parse().unwrap()
}

pub(crate) fn uid(url: &str) -> &str {
    url.strip_prefix("/tus/").unwrap().split('?').next().unwrap()
}

/// Sends the head of a PATCH and the first `sent` bytes of its body.
pub(crate) async fn send_some(
    service: &Service,
    url: &str,
    offset: usize,
    body: &[u8],
    sent: usize,
) -> RawConnection {
    let mut connection = service.connect().await;
    let fields = format!(
        "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    connection.send_head("PATCH", url, &fields).await;
    connection.send(&body[..sent]).await;
    connection
}

/// Waits until this many bytes are recorded, without a request that would end the running one.
pub(crate) async fn wait_for_bytes(service: &Service, url: &str, count: usize) {
    let received = format!("SELECT received FROM files WHERE uid = {}", uid(url));
    eventually("the bytes are recorded", async || {
        (service.sql(&received).await == [count.to_string()]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn options_announces_what_is_supported() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1000000")]).await;
    for url in ["/tus", "/tus/", "/tus/1"] {
        let answer = service.without_key().client().request(Method::OPTIONS, service.url(url)).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(text(answer.headers(), "tus-version"), "1.0.0");
        assert_eq!(number(answer.headers(), "tus-max-size"), 1_000_000);
        let extensions = text(answer.headers(), "tus-extension");
        assert_eq!(
            extensions,
            "creation,creation-with-upload,creation-defer-length,checksum,concatenation,expiration,termination"
        );
        assert_eq!(text(answer.headers(), "tus-checksum-algorithm"), "md5,sha1,sha256,blake3");
    }
}

#[tokio::test]
async fn content_arrives_in_several_requests() {
    let mut service = Service::start().await;
    let bytes = content(1, 2 * PART + 12_345);
    let url = create_of_size(&service, bytes.len()).await;
    let cuts = [0, 1, 100_000, PART - 1, PART, PART + MIB, 2 * PART + 12_344, bytes.len()];
    for range in cuts.windows(2) {
        expect_append(&service, &url, range[0], &bytes[range[0]..range[1]]).await;
        let upload = head(&service, &url).await;
        assert_eq!(
            (number(&upload, "upload-offset"), number(&upload, "upload-length")),
            (range[1], bytes.len())
        );
        assert_eq!(text(&upload, "osproxy-uid"), uid(&url));
        assert_eq!(upload.contains_key("upload-expires"), range[1] < bytes.len());
        assert_eq!(text(&upload, "upload-metadata"), "filename eC5iaW4=");
    }
    assert!(service.read(uid(&url)).await == bytes);
    // The bytes were hashed while they arrived, so nothing is read again.
    let known = "SELECT count(*) FROM blobs WHERE layout = 'whole' AND blake3 IS NOT NULL";
    assert_eq!(service.sql(known).await, ["1"]);
    assert_eq!(service.sql("SELECT count(*) FROM tasks WHERE kind = 'merge_parts'").await, ["0"]);
    assert_eq!(service.describe(uid(&url)).await.name, "x.bin");
    // A second upload of the same content shares it.
    let again = create_of_size(&service, bytes.len()).await;
    expect_append(&service, &again, 0, &bytes).await;
    assert!(service.read(uid(&again)).await == bytes);
    service.database().wait_until_idle().await;
    eventually("the content is stored once", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
    })
    .await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_of_every_size_arrives_with_the_creation() {
    let mut service = Service::start().await;
    for (seed, size) in (10..).zip([0, 1, 5_000, 65_536, MIB, PART, PART + 1]) {
        let bytes = content(seed, size);
        let creation = request(&service, Method::POST, "/tus/").header("upload-length", size);
        let answer = with_content(creation, &bytes).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let headers = answer.headers();
        assert_eq!(number(headers, "upload-offset"), size);
        assert_eq!(text(headers, "osproxy-uid"), uid(text(headers, "location")));
        assert!(service.read(text(headers, "osproxy-uid")).await == bytes, "{size} bytes");
    }
    // An empty upload is complete without a body.
    let url = create_of_size(&service, 0).await;
    assert_eq!(service.read(uid(&url)).await, b"");
    // Only the first bytes.
    let bytes = content(20, 300_000);
    let creation = request(&service, Method::POST, "/tus").header("upload-length", bytes.len());
    let answer = with_content(creation, &bytes[..200_000]).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), number(answer.headers(), "upload-offset")), (201, 200_000));
    let url = text(answer.headers(), "location").to_owned();
    expect_append(&service, &url, 200_000, &bytes[200_000..]).await;
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn bytes_that_arrived_before_a_cut_stay() {
    let mut service = Service::start().await;
    let bytes = content(30, PART + 3 * MIB);
    for cut in [1, 300_000, PART - 1, PART, PART + 1, PART + 2 * MIB + 17] {
        let url = create_of_size(&service, bytes.len()).await;
        let connection = send_some(&service, &url, 0, &bytes, cut).await;
        drop(connection);
        wait_for_bytes(&service, &url, cut).await;
        assert_eq!(offset(&service, &url).await, cut);
        // The rest breaks off once more.
        let middle = usize::midpoint(cut, bytes.len());
        drop(send_some(&service, &url, cut, &bytes[cut..], middle - cut).await);
        wait_for_bytes(&service, &url, middle).await;
        expect_append(&service, &url, middle, &bytes[middle..]).await;
        assert!(service.read(uid(&url)).await == bytes, "cut at {cut}");
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_new_request_ends_the_one_that_stalls() {
    let mut service = Service::start().await;
    let bytes = content(40, 2 * MIB);
    let url = create_of_size(&service, bytes.len()).await;
    let stalled = send_some(&service, &url, 0, &bytes, 700_000).await;
    let ended = tokio::spawn(stalled.read_to_end());
    let mut received = 0;
    // The first question may arrive before the request that it ends.
    eventually("the request is ended", async || {
        let started = Instant::now();
        received = offset(&service, &url).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        ended.is_finished().then_some(())
    })
    .await;
    assert!(received <= 700_000, "{received}");
    let answer = ended.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("superseded"), "{answer}");
    // A request that appends does the same.
    let _stalled = send_some(&service, &url, received, &bytes[received..], 1).await;
    let mut at = received;
    let end = bytes.len();
    eventually("the upload continues", async || {
        let answer = append(&service, &url, at, &bytes[at..end]).await;
        if answer.status() == 204 {
            return Some(());
        }
        at = number(answer.headers(), "upload-offset");
        None
    })
    .await;
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn aborting_an_upload_ends_the_request_that_appends() {
    let mut service = Service::start().await;
    let bytes = content(43, 2 * PART);
    for is_tus in [true, false] {
        let created = service.create_upload(&serde_json::json!({"name": "x.bin", "size": bytes.len()})).await;
        let links = created.links.unwrap();
        let appending = send_some(&service, &links.tus, 0, &bytes, PART + 100_000).await;
        wait_for_bytes(&service, &links.tus, PART).await;
        let url = if is_tus { &links.tus } else { &links.state };
        assert_eq!(request(&service, Method::DELETE, url).send().await.unwrap().status(), 204);
        let answer = appending.read_to_end().await;
        assert!(answer.contains("superseded"), "{answer}");
        service.database().wait_until_idle().await;
        assert_eq!(service.objects(), [""; 0]);
    }
    service.assert_consistent().await;
}

/// A client that never stops to send is ended too.
#[tokio::test]
async fn a_new_request_ends_the_one_that_goes_on() {
    let mut service = Service::start().await;
    let size = 1_u64 << 40;
    let url = create(&service, &[("upload-defer-length", "1")]).await;
    let mut endless = service.connect().await;
    let fields = format!(
        "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n\
         Content-Length: {size}\r\n"
    );
    endless.send_head("PATCH", &url, &fields).await;
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 64 << 10];
        while endless.try_send(&chunk).await {
            // Not faster than a line of 500 Mbit/s, so that it does not fill the disk.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    eventually("a part is stored", async || {
        (service.sql("SELECT count(*) FROM parts WHERE state = 'stored'").await != ["0"]).then_some(())
    })
    .await;
    let started = Instant::now();
    let received = offset(&service, &url).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(received >= PART);
    sending.await.unwrap();
    assert_eq!(request(&service, Method::DELETE, &url).send().await.unwrap().status(), 204);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// Small content that arrives whole is stored in one step, but its request can be ended as well.
#[tokio::test]
async fn a_new_request_ends_a_small_one_that_stalls() {
    let service = Service::start_with(&[("LOCAL__PACK_BELOW", "64KiB")]).await;
    let url = create_of_size(&service, 1000).await;
    let stalled = tokio::spawn(send_some(&service, &url, 0, &[7; 1000], 10).await.read_to_end());
    let mut received = 0;
    eventually("the request is ended", async || {
        let started = Instant::now();
        received = offset(&service, &url).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        stalled.is_finished().then_some(())
    })
    .await;
    assert!(stalled.await.unwrap().contains("superseded"));
    // A node of a cluster has chosen the store of the parts by then, so the bytes stay.
    assert!([0, 10].contains(&received), "{received}");
    expect_append(&service, &url, received, &[7; 1000][received..]).await;
    assert_eq!(service.read(uid(&url)).await, [7; 1000]);
}

/// Bytes of a suspended part that a disk has damaged are not continued.
#[tokio::test]
async fn damaged_bytes_are_sent_again() {
    let mut service = Service::start().await;
    let bytes = content(110, 2 * PART);
    let url = create_of_size(&service, bytes.len()).await;
    expect_append(&service, &url, 0, &bytes[..PART + 300_000]).await;
    let name = service.objects().into_iter().find(|name| name.contains("/.")).unwrap();
    let file = std::fs::File::options().write(true).open(service.object_path(&name)).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"damaged", PART as u64 + 100).unwrap();
    let answer = append(&service, &url, PART + 300_000, &bytes[PART + 300_000..]).await;
    assert_eq!(number(answer.headers(), "upload-offset"), PART);
    expect_problem(answer, 409, "offset_mismatch").await;
    assert_eq!(offset(&service, &url).await, PART);
    expect_append(&service, &url, PART, &bytes[PART..]).await;
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn links_restrict_the_content() {
    let mut service = Service::start().await;
    let wish = serde_json::json!({
        "name": "x", "expires_in": 600, "constraints": {"max_size": 100_000, "content_type": "image/*"}
    });
    let url = service.create_upload(&wish).await.links.unwrap().tus;
    let text = b"this is not an image".repeat(1000);
    expect_problem(append(&service, &url, 0, &text).await, 415, "unsupported_media_type").await;
    assert_eq!(offset(&service, &url).await, 0);
    let mut image = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    image.resize(60_000, 7);
    expect_append(&service, &url, 0, &image).await;
    expect_problem(append(&service, &url, 60_000, &image).await, 413, "too_large").await;
    let patch = request(&service, Method::PATCH, &url).header("upload-offset", 60_000);
    let answer = with_content(patch.header("upload-length", 60_000), b"").send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    assert!(service.read(uid(&url)).await == image);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_continues_after_crashes() {
    let mut service = Service::start().await;
    let bytes = content(50, 3 * PART + 5);
    let url = create_of_size(&service, bytes.len()).await;
    let mut known = 0;
    for sent in [300_000, PART + 700_000, 2 * PART + 1] {
        let connection = send_some(&service, &url, known, &bytes[known..], sent - known).await;
        let parts = sent / PART;
        eventually("whole parts are recorded", async || {
            let stored = service.sql("SELECT count(*) FROM parts WHERE state = 'stored'").await;
            (stored.concat().parse::<usize>().unwrap() >= parts).then_some(())
        })
        .await;
        service.kill_and_restart().await;
        drop(connection);
        let received = offset(&service, &url).await;
        assert!((parts * PART..=sent).contains(&received) && received >= known, "{received} of {sent}");
        // This request ends within a part, so a suspended part is continued before the next crash.
        let more = (received + 100_000).min(bytes.len());
        expect_append(&service, &url, received, &bytes[received..more]).await;
        known = more;
    }
    expect_append(&service, &url, known, &bytes[known..]).await;
    assert!(service.read(uid(&url)).await == bytes);
    // In a shared store, the sweep removes what a crash leaves only after a minute.
    service.kill().await;
    let (code, said) = service.cli(&["fsck", "--deep", "--repair"]).await;
    assert!([0, 3].contains(&code), "{code}: {said}");
    let (code, said) = service.cli(&["fsck", "--deep"]).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn the_size_can_be_announced_later() {
    let mut service = Service::start().await;
    let bytes = content(60, PART + 500_000);
    let headers = [("upload-defer-length", "1"), ("upload-metadata", "name eC5iaW4=,empty")];
    for announced_at in [0, 1, 2] {
        let url = create(&service, &headers).await;
        let upload = head(&service, &url).await;
        assert_eq!(text(&upload, "upload-defer-length"), "1");
        assert!(!upload.contains_key("upload-length"));
        let cuts = [0, 200_000, PART + 400_000, bytes.len()];
        for (at, range) in cuts.windows(2).enumerate() {
            let mut patch = request(&service, Method::PATCH, &url).header("upload-offset", range[0]);
            if at == announced_at {
                patch = patch.header("upload-length", bytes.len());
            }
            let answer = with_content(patch, &bytes[range[0]..range[1]]).send().await.unwrap();
            assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
            assert_eq!(offset(&service, &url).await, range[1]);
        }
        assert!(service.read(uid(&url)).await == bytes);
    }
    // After all bytes.
    let url = create(&service, &headers).await;
    expect_append(&service, &url, 0, &bytes).await;
    assert!(service.download_link(uid(&url)).await.is_none());
    let announce = |size: usize| {
        let patch = request(&service, Method::PATCH, &url).header("upload-offset", bytes.len());
        with_content(patch.header("upload-length", size), b"").send()
    };
    expect_problem(announce(bytes.len() - 1).await.unwrap(), 422, "size_mismatch").await;
    assert_eq!(announce(bytes.len()).await.unwrap().status(), 204);
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_announced_size_does_not_change() {
    let service = Service::start().await;
    let url = create_of_size(&service, 100).await;
    let patch = |length: &'static str| {
        let patch = request(&service, Method::PATCH, &url).header("upload-offset", 0);
        with_content(patch.header("upload-length", length), b"hello").send()
    };
    expect_problem(patch("101").await.unwrap(), 422, "size_mismatch").await;
    assert_eq!(offset(&service, &url).await, 0);
    assert_eq!(patch("100").await.unwrap().status(), 204);
    assert_eq!(offset(&service, &url).await, 5);
}

#[tokio::test]
async fn an_upload_belongs_to_all_protocols() {
    let mut service = Service::start().await;
    let bytes = content(70, 3 * PART);
    let part = |number: usize| &bytes[(number - 1) * PART..][..PART];
    let wish = serde_json::json!({"name": "x.bin", "size": bytes.len(), "expires_in": 600});
    let upload = service.create_upload(&wish).await;
    let url = upload.links.as_ref().unwrap().tus.clone();
    assert_eq!(service.v1_put_part(&upload, 2, part(2)).await.status(), 204);
    assert_eq!(offset(&service, &url).await, 0, "the first part is missing");
    expect_append(&service, &url, 0, &bytes[..PART - 7]).await;
    assert_eq!(service.v1_status(&upload).await.parts, [2], "an incomplete part does not count");
    let answer = append(&service, &url, PART - 7, &bytes[PART - 7..PART]).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(offset(&service, &url).await, 2 * PART, "the second part was there already");
    expect_append(&service, &url, 2 * PART, &bytes[2 * PART..][..1000]).await;
    // The part replaces the bytes that tus has received of it.
    assert_eq!(service.v1_put_part(&upload, 3, part(3)).await.status(), 204);
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    assert_eq!(offset(&service, &url).await, bytes.len());
    assert!(service.read(&upload.uid).await == bytes);
    service.wait_until_merged(&upload.uid).await;
    assert!(service.read(&upload.uid).await == bytes);
    // Parts of API v0, of any size, then tus.
    let link = service.upload_link("y.bin").await;
    assert_eq!(service.put_part(&link, 1, &bytes[..100_000]).await.status(), 200);
    let renewed = format!("/uploads/{}/links", link.uid);
    let renewed = service.v1_post(&renewed, &serde_json::json!({"expires_in": 600})).await;
    let renewed: osproxy_api::v1::CreatedUploadLinks = expect_json(renewed, 201).await;
    expect_append(&service, &renewed.links.tus, 100_000, &bytes[100_000..150_000]).await;
    expect_append(&service, &renewed.links.tus, 150_000, &bytes[150_000..160_000]).await;
    let patch = request(&service, Method::PATCH, &renewed.links.tus).header("upload-length", 160_000);
    let answer = with_content(patch.header("upload-offset", 160_000), b"").send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    assert!(service.read(&link.uid).await == bytes[..160_000]);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn wrong_requests_store_nothing() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1000000")]).await;
    let post = |headers: &[(&'static str, &'static str)]| {
        let mut creation = request(&service, Method::POST, "/tus");
        for (name, value) in headers {
            creation = creation.header(*name, *value);
        }
        creation.send()
    };
    for (headers, status, code) in [
        (&[][..], 400, "invalid_argument"),
        (&[("upload-length", "-1")], 400, "invalid_argument"),
        (&[("upload-length", "1e3")], 400, "invalid_argument"),
        (&[("upload-length", "99999999999999999999")], 400, "invalid_argument"),
        (&[("upload-length", "1"), ("upload-length", "1")], 400, "invalid_argument"),
        (&[("upload-length", "1"), ("upload-defer-length", "1")], 400, "invalid_argument"),
        (&[("upload-defer-length", "2")], 400, "invalid_argument"),
        (&[("upload-length", "1000001")], 413, "too_large"),
        (&[("upload-length", "1"), ("upload-metadata", "a x")], 400, "invalid_argument"),
        (&[("upload-length", "1"), ("upload-metadata", "a eA==,a eA==")], 400, "invalid_argument"),
        (&[("upload-length", "1"), ("upload-metadata", "filename AA==")], 400, "invalid_argument"),
    ] {
        let answer = post(headers).await.unwrap();
        assert_eq!(text(answer.headers(), "tus-resumable"), "1.0.0");
        expect_problem(answer, status, code).await;
    }
    let long = format!("a {}", "eHh4".repeat(16 << 10));
    let creation = request(&service, Method::POST, "/tus").header("upload-length", 1);
    let answer = creation.header("upload-metadata", &long).send().await.unwrap();
    assert!([400, 431].contains(&answer.status().as_u16()), "{}", answer.status());
    let without_version = service.client().post(service.url("/tus")).header("upload-length", 1);
    let answer = without_version.send().await.unwrap();
    assert_eq!(text(answer.headers(), "tus-version"), "1.0.0");
    expect_problem(answer, 412, "precondition_failed").await;
    let without_key = request(&service.without_key(), Method::POST, "/tus").header("upload-length", 1);
    expect_problem(without_key.send().await.unwrap(), 401, "unauthenticated").await;
    let form = request(&service, Method::POST, "/tus").header("upload-length", 5).body("hello");
    expect_problem(form.send().await.unwrap(), 415, "unsupported_media_type").await;
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);

    let url = create_of_size(&service, 10).await;
    let patch = |headers: &[(&'static str, &'static str)], body: &'static str| {
        let mut patch = service.client().patch(service.url(&url)).body(body);
        for (name, value) in headers {
            patch = patch.header(*name, *value);
        }
        patch.send()
    };
    let version = ("tus-resumable", "1.0.0");
    let octets = ("content-type", "application/offset+octet-stream");
    for (headers, body, status, code) in [
        (&[octets, ("upload-offset", "0")][..], "hello", 412, "precondition_failed"),
        (&[("tus-resumable", "0.2.2"), octets, ("upload-offset", "0")], "hello", 412, "precondition_failed"),
        (&[version, ("upload-offset", "0")], "hello", 415, "unsupported_media_type"),
        (&[version, octets], "hello", 400, "invalid_argument"),
        (&[version, octets, ("upload-offset", "-1")], "hello", 400, "invalid_argument"),
        (&[version, octets, ("upload-offset", "x")], "hello", 400, "invalid_argument"),
        (&[version, octets, ("upload-offset", "5")], "hello", 409, "offset_mismatch"),
        (&[version, octets, ("upload-offset", "11")], "hello", 409, "offset_mismatch"),
        (&[version, octets, ("upload-offset", "0")], "hello hello", 413, "too_large"),
        (
            &[version, octets, ("upload-offset", "0"), ("content-encoding", "gzip")],
            "x",
            415,
            "unsupported_media_type",
        ),
    ] {
        expect_problem(patch(headers, body).await.unwrap(), status, code).await;
        assert_eq!(offset(&service, &url).await, 0, "{headers:?}");
    }
    expect_append(&service, &url, 0, b"0123456789").await;
    // Nothing is added to a complete upload.
    expect_append(&service, &url, 10, b"").await;
    expect_problem(append(&service, &url, 10, b"x").await, 409, "already_stored").await;
    expect_problem(append(&service, &url, 0, b"x").await, 409, "offset_mismatch").await;
    assert_eq!(service.read(uid(&url)).await, b"0123456789");
    for url in ["/tus/1", "/tus/x", "/tus/9223372036854775807"] {
        let answer = request(&service, Method::HEAD, url).send().await.unwrap();
        assert!([400, 404].contains(&answer.status().as_u16()), "{url}: {}", answer.status());
    }
    let forged = url.replace("signature=", "signature=x");
    let answer = request(&service, Method::PATCH, &forged).header("upload-offset", 0);
    expect_problem(with_content(answer, b"").send().await.unwrap(), 403, "invalid_signature").await;
}

#[tokio::test]
async fn nothing_is_kept_of_a_body_with_another_checksum() {
    let mut service = Service::start().await;
    let bytes = content(90, PART + 500_000);
    let url = create_of_size(&service, bytes.len()).await;
    let digests = |bytes: &[u8]| {
        let encode = |digest: &[u8]| BASE64_STANDARD.encode(digest);
        [
            format!("md5 {}", encode(&md5::Md5::digest(bytes))),
            format!("sha1 {}", encode(&sha1::Sha1::digest(bytes))),
            format!("sha256 {}", encode(&sha2::Sha256::digest(bytes))),
            format!("blake3 {}", encode(blake3::hash(bytes).as_bytes())),
        ]
    };
    let send = |offset: usize, checksum: String, bytes: Vec<u8>| {
        let patch = request(&service, Method::PATCH, &url).header("upload-offset", offset);
        with_content(patch.header("upload-checksum", checksum), &bytes).send()
    };
    expect_append(&service, &url, 0, &bytes[..100]).await;
    let cuts = [100, 200, 300_000, PART + 100_000, bytes.len()];
    let mut wrong = bytes.clone();
    for (at, range) in cuts.windows(2).enumerate() {
        let range = range[0]..range[1];
        let checksum = digests(&bytes[range.clone()])[at].clone();
        wrong[range.end - 1] ^= 1;
        let answer = send(range.start, checksum.clone(), wrong[range.clone()].to_vec()).await.unwrap();
        expect_problem(answer, 460, "digest_mismatch").await;
        assert_eq!(offset(&service, &url).await, range.start);
        let answer = send(range.start, checksum, bytes[range.clone()].to_vec()).await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
        assert_eq!(offset(&service, &url).await, range.end);
    }
    assert!(service.read(uid(&url)).await == bytes);
    // Nor of one that breaks off.
    let url = create_of_size(&service, 2 * PART).await;
    let mut broken = service.connect().await;
    let fields = format!(
        "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n\
         Upload-Checksum: sha1 {}\r\nContent-Length: {}\r\n",
        BASE64_STANDARD.encode([7; 20]),
        2 * PART
    );
    broken.send_head("PATCH", &url, &fields).await;
    broken.send(&bytes).await;
    broken.shutdown_write().await;
    broken.read_to_end().await;
    assert_eq!(offset(&service, &url).await, 0);
    let url = create_of_size(&service, 1).await;
    for malformed in ["", "sha1", "crc32 AAAAAA==", "sha1 AAAA"] {
        let patch = request(&service, Method::PATCH, &url).header("upload-offset", 0);
        let answer = with_content(patch.header("upload-checksum", malformed), b"x").send().await.unwrap();
        expect_problem(answer, 400, "invalid_argument").await;
    }
    assert_eq!(offset(&service, &url).await, 0);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_is_terminated_and_other_tenants_do_not_see_it() {
    let service = Service::start().await;
    let url = create_of_size(&service, 10).await;
    expect_append(&service, &url, 0, b"01234").await;
    let plain = format!("/tus/{}", uid(&url));
    assert_eq!(offset(&service, &plain).await, 5, "the API key is enough");
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    for method in [Method::HEAD, Method::DELETE] {
        let answer = request(&other, method, &plain).send().await.unwrap();
        assert_eq!(answer.status(), 404);
    }
    let terminated = request(&service, Method::POST, &url).header("x-http-method-override", "DELETE");
    assert_eq!(terminated.send().await.unwrap().status(), 204);
    assert_eq!(request(&service, Method::HEAD, &url).send().await.unwrap().status(), 410);
    let answer = append(&service, &url, 5, b"56789").await;
    expect_problem(answer, 410, "file_gone").await;
    eventually("its bytes are removed", async || service.objects().is_empty().then_some(())).await;
    // A complete file is not removed through the link of its upload.
    let url = create_of_size(&service, 1).await;
    let patch = request(&service, Method::POST, &url).header("x-http-method-override", "PATCH");
    let answer = with_content(patch.header("upload-offset", 0), b"x").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let answer = request(&service, Method::DELETE, &url).send().await.unwrap();
    expect_problem(answer, 409, "already_stored").await;
    assert_eq!(service.read(uid(&url)).await, b"x");
    let plain = format!("/tus/{}", uid(&url));
    let writer = service.with_key(&service.create_key(&["--scopes", "upload"]).await);
    let answer = request(&writer, Method::DELETE, &plain).send().await.unwrap();
    expect_problem(answer, 403, "permission_denied").await;
    assert_eq!(request(&service, Method::DELETE, &plain).send().await.unwrap().status(), 204);
    assert_eq!(request(&service, Method::HEAD, &plain).send().await.unwrap().status(), 410);
}

/// The link is still valid, but its upload has expired.
#[tokio::test]
async fn an_upload_that_has_expired_is_gone() {
    let mut service = Service::start().await;
    let bytes = content(120, 300_000);
    let url = create_of_size(&service, bytes.len()).await;
    expect_append(&service, &url, 0, &bytes[..200_000]).await;
    let other = create_of_size(&service, bytes.len()).await;
    // An hour after its end (`uploads.expired_retention`), an upload is removed.
    let ended = format!("UPDATE files SET expires_at = 1 WHERE uid = {}", uid(&url));
    service.sql(&ended).await;
    service.sql("UPDATE tasks SET run_at = 0 WHERE kind = 'expire_uploads'").await;
    let is_gone = async || {
        let answer = request(&service, Method::HEAD, &url).send().await.unwrap();
        (answer.status() == 410).then_some(answer)
    };
    let answer = eventually("the upload has expired", is_gone).await;
    assert_eq!(text(answer.headers(), "osproxy-error"), "file_gone");
    assert_eq!(text(answer.headers(), "tus-resumable"), "1.0.0");
    expect_problem(append(&service, &url, 200_000, &bytes[200_000..]).await, 410, "file_gone").await;
    let plain = format!("/tus/{}", uid(&url));
    for url in [&url, &plain] {
        let answer = request(&service, Method::DELETE, url).send().await.unwrap();
        expect_problem(answer, 410, "file_gone").await;
    }
    eventually("its bytes are removed", async || service.objects().is_empty().then_some(())).await;
    // Other uploads go on.
    expect_append(&service, &other, 0, &bytes).await;
    assert!(service.read(uid(&other)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// After 423, clients ask again. After any other error of HEAD, they start a new upload.
#[tokio::test]
async fn a_question_that_cannot_be_answered_yet_is_locked() {
    let service = Service::start_with(&[("LIMITS__MAX_REQUESTS", "1")]).await;
    let url = create_of_size(&service, 10).await;
    expect_append(&service, &url, 0, b"01234").await;
    // Half a request has the only permit, once its body is requested.
    let mut half = service.connect().await;
    let fields = "Content-Type: application/json\r\nContent-Length: 13\r\nExpect: 100-continue\r\n";
    half.send_head("POST", "/api/v1/uploads", &(service.authorization() + fields)).await;
    assert!(half.read_some().await.starts_with(b"HTTP/1.1 100"));
    let answer = request(&service, Method::HEAD, &url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), text(answer.headers(), "osproxy-error")), (423, "overloaded"));
    assert_eq!(text(answer.headers(), "retry-after"), "1");
    // The IETF draft has no such status.
    let draft = service.client().head(service.url(&url)).header("upload-draft-interop-version", "8");
    assert_eq!(draft.send().await.unwrap().status(), 503);
    half.send(br#"{"name": "x"}"#).await;
    half.read_some().await;
    assert_eq!(offset(&service, &url).await, 5);
    expect_append(&service, &url, 5, b"56789").await;
    assert_eq!(service.read(uid(&url)).await, b"0123456789");
}

/// A remote store receives parts of more than 16 MiB in another way.
#[tokio::test]
async fn large_parts_arrive_in_pieces() {
    let mut service = Service::start().await;
    let bytes = content(100, 70 * MIB);
    let wish = serde_json::json!({
        "name": "x.bin", "size": bytes.len(), "part_size": 32 * MIB, "expires_in": 600
    });
    let url = service.create_upload(&wish).await.links.unwrap().tus;
    let mut at = 0;
    for length in [10 * MIB + 1, 10 * MIB, 30 * MIB, 20 * MIB - 1] {
        expect_append(&service, &url, at, &bytes[at..at + length]).await;
        at += length;
        assert_eq!(offset(&service, &url).await, at);
    }
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn received_bytes_count_against_the_quota() {
    let mut service = Service::start().await;
    let (code, said) = service.cli(&["tenant", "set", "small", "--new", "--max-bytes", "1MB"]).await;
    assert_eq!(code, 0, "{said}");
    let small = service.with_key(&service.create_key(&["--tenant", "small"]).await);
    let creation = request(&small, Method::POST, "/tus").header("upload-length", 1_000_001);
    expect_problem(creation.send().await.unwrap(), 507, "quota_exceeded").await;
    let url = create(&small, &[("upload-defer-length", "1")]).await;
    let bytes = content(80, 1_200_000);
    expect_append(&small, &url, 0, &bytes[..600_000]).await;
    expect_problem(append(&small, &url, 600_000, &bytes[600_000..]).await, 507, "quota_exceeded").await;
    assert_eq!(offset(&small, &url).await, 600_000);
    let other = create(&small, &[("upload-defer-length", "1")]).await;
    expect_problem(append(&small, &other, 0, &bytes[..600_000]).await, 507, "quota_exceeded").await;
    assert_eq!(request(&small, Method::DELETE, &url).send().await.unwrap().status(), 204);
    expect_append(&small, &other, 0, &bytes[..600_000]).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn pages_of_other_origins_can_upload() {
    let service = Service::start().await;
    let preflight = service.client().request(Method::OPTIONS, service.url("/tus"));
    let preflight = preflight
        .header("origin", "https://app.example.net")
        .header("access-control-request-method", "PATCH")
        .header("access-control-request-headers", "tus-resumable,upload-offset,content-type");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(text(answer.headers(), "access-control-allow-methods").contains("PATCH"));
    assert!(text(answer.headers(), "access-control-allow-headers").contains("upload-offset"));
    for (headers, status) in [(&[("upload-length", "1")][..], 201), (&[], 400)] {
        let mut creation =
            request(&service, Method::POST, "/tus").header("origin", "https://app.example.net");
        for (name, value) in headers {
            creation = creation.header(*name, *value);
        }
        let answer = creation.send().await.unwrap();
        assert_eq!(answer.status(), status);
        let exposed = text(answer.headers(), "access-control-expose-headers").to_lowercase();
        let exposed: Vec<_> = exposed.split(',').map(str::trim).collect();
        for name in [
            "location",
            "upload-offset",
            "upload-length",
            "upload-defer-length",
            "upload-metadata",
            "upload-expires",
            "tus-resumable",
            "tus-version",
            "tus-extension",
            "tus-max-size",
            "tus-checksum-algorithm",
            "osproxy-uid",
            "osproxy-error",
        ] {
            assert!(exposed.contains(&name), "{name} is not in {exposed:?}");
        }
    }
}
