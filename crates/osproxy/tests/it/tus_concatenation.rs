//! Concatenation of tus: partial uploads that become one file.

use std::time::Duration;

use osproxy_api::v1::{File, FileState};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    support::{Api, Random, Service, content, eventually, expect_json, expect_problem},
    tus::{
        PART, append, create, expect_append, head, number, offset, request, send_some, text, uid,
        wait_for_bytes, with_content,
    },
};

const PARTIAL: (&str, &str) = ("upload-concat", "partial");

/// Metadata of a final upload: the name `film.bin`.
const METADATA: (&str, &str) = ("upload-metadata", "filename ZmlsbS5iaW4=");

/// Creates a partial upload, and returns its URL.
async fn create_partial(api: &Api, size: usize) -> String {
    create(api, &[PARTIAL, ("upload-length", &size.to_string())]).await
}

/// Sends a partial upload, and returns its URL.
async fn send_partial(api: &Api, bytes: &[u8]) -> String {
    let url = create_partial(api, bytes.len()).await;
    expect_append(api, &url, 0, bytes).await;
    url
}

/// The header that concatenates these uploads.
fn list(urls: &[impl AsRef<str>]) -> String {
    let urls: Vec<_> = urls.iter().map(AsRef::as_ref).collect();
    format!("final;{}", urls.join(" "))
}

fn concatenation(api: &Api, list: &str) -> RequestBuilder {
    request(api, Method::POST, "/tus").header("upload-concat", list).header(METADATA.0, METADATA.1)
}

async fn concatenate(api: &Api, urls: &[impl AsRef<str>]) -> Response {
    concatenation(api, &list(urls)).send().await.unwrap()
}

/// Concatenates uploads, and returns the URL of the final upload.
async fn expect_final(api: &Api, urls: &[impl AsRef<str>]) -> String {
    let answer = concatenate(api, urls).await;
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    text(answer.headers(), "location").to_owned()
}

/// The list of files of the caller's tenant.
async fn listed(api: &Api, query: &str) -> Vec<File> {
    let page: Value = expect_json(api.v1_get(&format!("/files{query}")).await, 200).await;
    serde_json::from_value(page["files"].clone()).unwrap()
}

#[tokio::test]
async fn partial_uploads_become_one_file() {
    let mut service = Service::start().await;
    service.database().hold_merges().await;
    let bytes = content(1, 2 * PART + 3_000_000);
    let (first, rest) = bytes.split_at(PART + 1234);
    let (second, third) = rest.split_at(5);
    let mut urls = Vec::new();
    for piece in [first, second, third] {
        urls.push(create_partial(&service, piece.len()).await);
    }
    // They arrive in any order, and break off.
    expect_append(&service, &urls[2], 0, third).await;
    drop(send_some(&service, &urls[0], 0, first, 300_000).await);
    wait_for_bytes(&service, &urls[0], 300_000).await;
    assert_eq!(offset(&service, &urls[0]).await, 300_000);
    expect_append(&service, &urls[0], 300_000, &first[300_000..PART + 7]).await;
    expect_append(&service, &urls[1], 0, second).await;
    expect_append(&service, &urls[0], PART + 7, &first[PART + 7..]).await;
    for (url, piece) in urls.iter().zip([first, second, third]) {
        let upload = head(&service, url).await;
        assert_eq!(text(&upload, "upload-concat"), "partial");
        let sizes = (number(&upload, "upload-offset"), number(&upload, "upload-length"));
        assert_eq!(sizes, (piece.len(), piece.len()));
        assert!(upload.contains_key("upload-expires"));
    }

    let answer = concatenate(&service, &urls).await;
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    let headers = answer.headers();
    let plain: Vec<_> = urls.iter().map(|url| format!("/tus/{}", uid(url))).collect();
    assert_eq!(text(headers, "upload-concat"), list(&plain));
    assert_eq!(number(headers, "upload-offset"), bytes.len());
    assert!(!headers.contains_key("upload-expires"));
    let url = text(headers, "location").to_owned();
    assert_eq!(text(headers, "osproxy-uid"), uid(&url));
    // The file can be read before the merge.
    assert!(service.read(uid(&url)).await == bytes);
    let file = service.describe(uid(&url)).await;
    assert_eq!(
        (&*file.name, file.state, file.size),
        ("film.bin", FileState::Stored, Some(bytes.len() as u64))
    );
    assert_eq!(service.sql("SELECT DISTINCT state FROM parts").await, ["stored"]);
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["1"]);
    service.database().release_merges().await;
    service.wait_until_merged(uid(&url)).await;
    assert!(service.read(uid(&url)).await == bytes);

    let upload = head(&service, &url).await;
    assert_eq!(text(&upload, "upload-concat"), list(&plain));
    assert_eq!(
        (number(&upload, "upload-offset"), number(&upload, "upload-length")),
        (bytes.len(), bytes.len())
    );
    assert_eq!(text(&upload, METADATA.0), METADATA.1);
    // Clients that repeat their requests come to the end again.
    let upload = head(&service, &urls[0]).await;
    assert_eq!(text(&upload, "upload-concat"), "partial");
    assert_eq!(
        (number(&upload, "upload-offset"), number(&upload, "upload-length")),
        (first.len(), first.len())
    );
    for (url, state) in [(&url, "stored"), (&urls[1], "deleted")] {
        let (code, said) = service.cli(&["explain", uid(url), "--json"]).await;
        assert_eq!(code, 0, "{said}");
        let told: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(told["state"], state);
        match state {
            "stored" => {
                assert_eq!(told["made_of"], json!(urls.iter().map(|url| uid(url)).collect::<Vec<_>>()));
            }
            _ => assert_eq!(told["moved_to"], uid(text(headers, "location"))),
        }
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// The content is verified and deduplicated as any other.
#[tokio::test]
async fn equal_content_is_stored_once() {
    let mut service = Service::start().await;
    let bytes = content(2, PART + 500_000);
    let (first, second) = bytes.split_at(700_001);
    let mut uids = vec![service.store("x.bin", &bytes).await];
    for pieces in [&[first, second][..], &[first, &second[..9], &second[9..]], &[&bytes]] {
        let mut urls = Vec::new();
        for piece in pieces {
            urls.push(send_partial(&service, piece).await);
        }
        uids.push(uid(&expect_final(&service, &urls).await).to_owned());
    }
    service.database().wait_until_idle().await;
    eventually("the content is stored once", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
    })
    .await;
    for uid in &uids {
        assert!(service.read(uid).await == bytes);
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_partial_upload_is_no_file() {
    let mut service = Service::start().await;
    let bytes = content(3, 100_000);
    let url = send_partial(&service, &bytes).await;
    let open = create_partial(&service, 10).await;
    for query in ["", "?state=receiving", "?state=pending", "?prefix=file"] {
        assert_eq!(listed(&service, query).await.len(), 0, "{query}");
    }
    let file = service.describe(uid(&url)).await;
    assert_eq!((file.state, file.size, file.received), (FileState::Receiving, Some(100_000), Some(100_000)));
    assert!(service.download_link(uid(&url)).await.is_none());
    let wish = json!({"expires_in": 600});
    let links = service.v1_post(&format!("/files/{}/links", uid(&url)), &wish).await;
    expect_problem(links, 409, "not_stored").await;
    // No API makes it one.
    for (url, bytes) in [(&url, &bytes[..]), (&open, b"0123456789")] {
        let (upload, query) = (uid(url), url.split_once('?').unwrap().1);
        let complete = service.v1_post(&format!("/uploads/{upload}/complete?{query}"), &json!({})).await;
        expect_problem(complete, 409, "not_stored").await;
        let whole = service.put(&format!("/api/v1/uploads/{upload}/content?{query}"), bytes).await;
        expect_problem(whole, 409, "not_stored").await;
    }
    // New links extend it, as any other upload.
    let renewed = service.v1_post(&format!("/uploads/{}/links", uid(&open)), &wish).await;
    let renewed: osproxy_api::v1::CreatedUploadLinks = expect_json(renewed, 201).await;
    expect_append(&service, &renewed.links.tus, 0, b"01234").await;
    // It can be terminated.
    for url in [&url, &open] {
        assert_eq!(request(&service, Method::DELETE, url).send().await.unwrap().status(), 204);
        assert_eq!(request(&service, Method::HEAD, url).send().await.unwrap().status(), 410);
    }
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [""; 0]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_same_concatenation_gives_the_same_file() {
    let mut service = Service::start().await;
    let bytes = content(4, 900_000);
    let mut urls = Vec::new();
    for piece in bytes.chunks(300_000) {
        urls.push(send_partial(&service, piece).await);
    }
    let other = send_partial(&service, b"other").await;
    // At the same time, and again later.
    let (one, two) = tokio::join!(expect_final(&service, &urls), expect_final(&service, &urls));
    assert_eq!(one, two);
    assert_eq!(expect_final(&service, &urls).await, one);
    // Without signatures, the caller's key counts.
    let plain: Vec<_> = urls.iter().map(|url| format!("https://files.example/x/tus/{}", uid(url))).collect();
    assert_eq!(expect_final(&service, &plain).await, one);
    assert!(service.read(uid(&one)).await == bytes);
    // Any other list is another file, whose parts are not there any more.
    for list in [vec![&urls[1], &urls[0], &urls[2]], vec![&urls[0], &urls[1]], vec![&urls[0], &other]] {
        expect_problem(concatenate(&service, &list).await, 409, "already_stored").await;
    }
    expect_problem(append(&service, &urls[0], 300_000, b"").await, 410, "file_gone").await;
    let answer = request(&service, Method::DELETE, &urls[0]).send().await.unwrap();
    expect_problem(answer, 410, "file_gone").await;
    // A final upload takes no bytes, and is no partial upload.
    expect_problem(append(&service, &one, 900_000, b"").await, 403, "permission_denied").await;
    expect_problem(append(&service, &one, 0, b"x").await, 403, "permission_denied").await;
    expect_problem(concatenate(&service, &[&other, &one]).await, 400, "invalid_argument").await;
    assert_eq!(listed(&service, "").await.len(), 1);
    assert_eq!(listed(&service, "?state=deleted").await.len(), 0);

    let plain = format!("/tus/{}", uid(&one));
    assert_eq!(request(&service, Method::DELETE, &plain).send().await.unwrap().status(), 204);
    expect_problem(concatenate(&service, &urls).await, 410, "file_gone").await;
    assert!(service.read(uid(&expect_final(&service, &[other]).await)).await == b"other");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn one_of_two_concatenations_of_the_same_parts_wins() {
    let mut service = Service::start().await;
    for round in 0..10 {
        let [a, b, c] = [b"a", b"b", b"c"].map(|piece| send_partial(&service, piece));
        let (a, b, c) = (a.await, b.await, c.await);
        let (one, two) = ([&a, &b], [&c, &b]);
        let (one, two) = tokio::join!(concatenate(&service, &one), concatenate(&service, &two));
        let (won, lost, expected) = if one.status() == 201 { (one, two, b"ab") } else { (two, one, b"cb") };
        assert_eq!(won.status(), 201, "round {round}");
        expect_problem(lost, 409, "already_stored").await;
        assert_eq!(service.read(text(won.headers(), "osproxy-uid")).await, expected);
        // The third is free.
        let free = if expected == b"ab" { c } else { a };
        expect_final(&service, &[free]).await;
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn wrong_concatenations_change_nothing() {
    let settings = [("UPLOADS__MAX_SIZE", "1000000"), ("UPLOADS__MAX_PARTS", "2")];
    let mut service = Service::start_with(&settings).await;
    let (code, said) = service.cli(&["tenant", "set", "other", "--new", "--max-bytes", "1GB"]).await;
    assert_eq!(code, 0, "{said}");
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    let [a, b] = [content(5, 400_000), content(6, 400_000)];
    let (first, second) = (send_partial(&service, &a).await, send_partial(&service, &b).await);
    let third = send_partial(&service, &[3; 5]).await;
    let fourth = send_partial(&service, &vec![4; 300_000]).await;
    let unfinished = create_partial(&service, 10).await;
    expect_append(&service, &unfinished, 0, b"012").await;
    let unannounced = create(&service, &[PARTIAL, ("upload-defer-length", "1")]).await;
    expect_append(&service, &unannounced, 0, b"012").await;
    let foreign = send_partial(&other, b"foreign").await;
    let ordinary = create(&service, &[("upload-length", "10")]).await;
    let stored = create(&service, &[("upload-length", "0")]).await;
    let terminated = create_partial(&service, 0).await;
    assert_eq!(request(&service, Method::DELETE, &terminated).send().await.unwrap().status(), 204);
    let expired = create_partial(&service, 0).await;
    service.sql(&format!("UPDATE files SET state = 'expired' WHERE uid = {}", uid(&expired))).await;
    let forged = first.replace("expire=86400", "expire=86401");
    assert_ne!(forged, first);
    let all = "SELECT * FROM files ORDER BY uid";
    let before = service.sql(&all.replace('*', "uid || state || charged || coalesce(blob_id, 0)")).await;

    for (urls, status, code) in [
        (vec![&*first, &*unfinished], 409, "not_stored"),
        (vec![&*unannounced, &*first], 409, "not_stored"),
        (vec![&*first, &*foreign], 404, "file_not_found"),
        (vec![&*first, "/tus/1"], 404, "file_not_found"),
        (vec![&*first, "/tus/x"], 400, "invalid_argument"),
        (vec![&*first, &*second, &*first], 400, "invalid_argument"),
        (vec![&*first, &*ordinary], 400, "invalid_argument"),
        (vec![&*stored, &*first], 400, "invalid_argument"),
        (vec![&*first, &*terminated], 410, "file_gone"),
        (vec![&*first, &*expired], 410, "file_gone"),
        (vec![&*forged, &*second], 403, "invalid_signature"),
        (vec![&*first, "https://example.org/files/1"], 400, "invalid_argument"),
        (vec![], 400, "invalid_argument"),
        (vec![&*first; 251], 400, "invalid_argument"),
        (vec![&*first, &*second, &*fourth], 413, "too_large"),
        // Three parts.
        (vec![&*first, &*second, &*third], 413, "too_large"),
    ] {
        // A long list needs short URLs.
        let urls: Vec<_> = match urls.len() {
            251 => urls.iter().map(|url| url.split('?').next().unwrap()).collect(),
            _ => urls,
        };
        let answer = concatenate(&service, &urls).await;
        assert_eq!(answer.status(), status, "{urls:?}: {}", answer.text().await.unwrap());
        expect_problem(answer, status, code).await;
    }
    for header in ["", "final", "Partial", "final:/tus/1"] {
        expect_problem(concatenation(&service, header).send().await.unwrap(), 400, "invalid_argument").await;
    }
    let good = list(&[&first, &second]);
    for (name, value) in [("upload-length", "800000"), ("upload-defer-length", "1"), METADATA] {
        let answer = concatenation(&service, &good).header(name, value).send().await.unwrap();
        expect_problem(answer, 400, "invalid_argument").await;
    }
    let answer = with_content(concatenation(&service, &good), b"x").send().await.unwrap();
    expect_problem(answer, 400, "invalid_argument").await;
    expect_problem(concatenate(&other, &[&first, &second]).await, 404, "file_not_found").await;
    let answer = concatenate(&service.without_key(), &[&first, &second]).await;
    expect_problem(answer, 401, "unauthenticated").await;
    let small = service.with_key(&service.create_key(&["--max-size", "700000"]).await);
    expect_problem(concatenate(&small, &[&first, &second]).await, 413, "too_large").await;
    // A final upload needs all parts in one place.
    let store = async |name: &str| {
        service.sql(&format!("UPDATE blobs SET backend = '{name}' WHERE id = {}", uid(&second))).await;
    };
    store("local:other").await;
    expect_problem(concatenate(&service, &[&first, &second]).await, 400, "invalid_argument").await;
    store("local").await;
    let after = service.sql(&all.replace('*', "uid || state || charged || coalesce(blob_id, 0)")).await;
    assert_eq!(before, after);

    let url = expect_final(&service, &[&first, &second]).await;
    assert!(service.read(uid(&url)).await == [a, b].concat());
    for url in [third, fourth, unfinished, unannounced, foreign] {
        assert_eq!(request(&service, Method::DELETE, &url).send().await.unwrap().status(), 204);
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn partial_uploads_of_unknown_length_and_empty_ones() {
    let mut service = Service::start().await;
    let bytes = content(7, PART + 100);
    let late = create(&service, &[PARTIAL, ("upload-defer-length", "1")]).await;
    expect_append(&service, &late, 0, &bytes).await;
    let announce = request(&service, Method::PATCH, &late).header("upload-offset", bytes.len());
    let announced = with_content(announce.header("upload-length", bytes.len()), b"").send().await.unwrap();
    assert_eq!((announced.status().as_u16(), text(announced.headers(), "upload-concat")), (204, "partial"));
    let empty = create_partial(&service, 0).await;
    let at_once =
        request(&service, Method::POST, "/tus").header(PARTIAL.0, PARTIAL.1).header("upload-length", 3);
    let at_once = with_content(at_once, b"end").send().await.unwrap();
    assert_eq!((at_once.status().as_u16(), number(at_once.headers(), "upload-offset")), (201, 3));
    assert_eq!(text(at_once.headers(), "upload-concat"), "partial");
    let end = text(at_once.headers(), "location").to_owned();
    let url = expect_final(&service, &[&late, &empty, &end]).await;
    assert!(service.read(uid(&url)).await == [&bytes[..], b"end"].concat());

    let (one, two) = (create_partial(&service, 0).await, create_partial(&service, 0).await);
    let url = expect_final(&service, &[&one, &two]).await;
    assert_eq!(expect_final(&service, &[&one, &two]).await, url);
    assert_eq!(service.read(uid(&url)).await, b"");
    assert_eq!(number(&head(&service, &url).await, "upload-length"), 0);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// As many as fit into the list.
#[tokio::test]
async fn many_partial_uploads() {
    let mut service = Service::start().await;
    let bytes = content(8, 250 * 10);
    let mut urls = Vec::new();
    for piece in bytes.chunks(10) {
        let url = send_partial(&service, piece).await;
        urls.push(url.split('?').next().unwrap().to_owned());
    }
    let url = expect_final(&service, &urls).await;
    assert_eq!(service.read(uid(&url)).await, bytes);
    assert_eq!(text(&head(&service, &url).await, "upload-concat"), list(&urls));
    service.database().wait_until_idle().await;
    assert_eq!(service.read(uid(&url)).await, bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_quota_counts_the_bytes_once() {
    let mut service = Service::start().await;
    let (code, said) = service.cli(&["tenant", "set", "small", "--new", "--max-bytes", "1MB"]).await;
    assert_eq!(code, 0, "{said}");
    let small = service.with_key(&service.create_key(&["--tenant", "small"]).await);
    let bytes = content(9, 900_000);
    let mut urls = Vec::new();
    for piece in bytes.chunks(450_000) {
        urls.push(send_partial(&small, piece).await);
    }
    let refused = request(&small, Method::POST, "/tus").header(PARTIAL.0, PARTIAL.1);
    expect_problem(refused.header("upload-length", 100_000).send().await.unwrap(), 507, "quota_exceeded")
        .await;
    let url = expect_final(&small, &urls).await;
    let used = async || {
        let equal = "SELECT count(*) FROM tenants WHERE name = 'small' AND used = \
                     (SELECT sum(charged + record_bytes) FROM files WHERE tenant = 'small')";
        assert_eq!(service.sql(equal).await, ["1"]);
        let charged = service.sql("SELECT charged FROM files WHERE tenant = 'small'").await;
        charged.iter().map(|bytes| bytes.parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(used().await, 900_000);
    service.database().wait_until_idle().await;
    assert_eq!(used().await, 900_000);
    let plain = format!("/tus/{}", uid(&url));
    assert_eq!(request(&small, Method::DELETE, &plain).send().await.unwrap().status(), 204);
    assert_eq!(used().await, 0);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn partial_uploads_expire() {
    let mut service = Service::start_with(&[("UPLOADS__EXPIRED_RETENTION", "0")]).await;
    let urls = [send_partial(&service, &content(10, 200_000)).await, create_partial(&service, 10).await];
    service.sql("UPDATE files SET expires_at = 1").await;
    // The task runs at the start.
    service.kill_and_restart().await;
    for url in &urls {
        eventually("the upload has expired", async || {
            let answer = request(&service, Method::HEAD, url).send().await.unwrap();
            (answer.status() == 410).then_some(())
        })
        .await;
    }
    service.database().wait_until_idle().await;
    eventually("the bytes are removed", async || service.objects().is_empty().then_some(())).await;
    service.assert_consistent().await;
}

/// The process is killed after the parts were moved, and before the file is complete.
#[tokio::test]
async fn a_concatenation_continues_after_a_crash() {
    let mut service = Service::start().await;
    let bytes = content(11, 2 * PART);
    let mut urls = Vec::new();
    for piece in bytes.chunks(PART + 250_000) {
        urls.push(send_partial(&service, piece).await);
    }
    let file = "NEW.state = 'stored'";
    service.database().reject_changes("incomplete", "BEFORE UPDATE", "files", file).await;
    assert!(concatenate(&service, &urls).await.status().is_server_error());
    let uids = service.sql("SELECT uid FROM files WHERE state = 'receiving'").await;
    assert_eq!(uids.len(), 1);
    service.kill().await;
    service.database().allow_changes("incomplete", "files").await;
    // Nothing is lost, and nothing is an orphan. The parts have the digests that were computed when
    // they arrived.
    let (code, said) = service.cli(&["fsck", "--deep"]).await;
    assert_eq!(code, 0, "{said}");
    service.restart().await;
    for url in &urls {
        let upload = head(&service, url).await;
        assert_eq!(text(&upload, "upload-offset"), text(&upload, "upload-length"));
    }
    let url = expect_final(&service, &urls).await;
    assert_eq!(uid(&url), uids[0]);
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// A question for the offset completes a final upload, too.
#[tokio::test]
async fn a_question_completes_a_final_upload() {
    let mut service = Service::start().await;
    let url = send_partial(&service, b"content").await;
    let file = "NEW.state = 'stored'";
    service.database().reject_changes("incomplete", "BEFORE UPDATE", "files", file).await;
    assert!(concatenate(&service, &[&url]).await.status().is_server_error());
    service.database().allow_changes("incomplete", "files").await;
    let uid = service.sql("SELECT uid FROM files WHERE state = 'receiving'").await.concat();
    let upload = head(&service, &format!("/tus/{uid}")).await;
    assert_eq!((number(&upload, "upload-offset"), number(&upload, "upload-length")), (7, 7));
    assert_eq!(service.read(&uid).await, b"content");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// The process is killed at any moment, while it concatenates or merges.
#[tokio::test]
async fn kills_lose_nothing_and_leave_nothing() {
    let mut service = Service::start().await;
    let mut random = Random::new(12);
    let mut stored = Vec::new();
    for round in 0..12 {
        let bytes = content(100 + round, 600_000);
        let mut urls = Vec::new();
        for piece in bytes.chunks(250_000) {
            urls.push(send_partial(&service, piece).await);
        }
        let attempt = concatenation(&service, &list(&urls)).send();
        let running = tokio::spawn(attempt);
        tokio::time::sleep(Duration::from_micros(random.below(30_000))).await;
        service.kill_and_restart().await;
        // The answer may have arrived.
        let answered = running.await.unwrap().ok().filter(|answer| answer.status() == 201);
        let url = expect_final(&service, &urls).await;
        if let Some(answer) = answered {
            assert_eq!(text(answer.headers(), "osproxy-uid"), uid(&url));
        }
        assert!(service.read(uid(&url)).await == bytes);
        stored.push((uid(&url).to_owned(), bytes));
    }
    for (uid, bytes) in &stored {
        service.wait_until_merged(uid).await;
        assert!(service.read(uid).await == *bytes);
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// Whichever node a request goes to.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn all_parts_of_a_file_are_on_one_node() {
    let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &[]).await;
    let mut two = one.start_second_node(&[]).await;
    let bytes = content(13, 2_000_000);
    for last in [&one, &two] {
        let mut urls = Vec::new();
        for (piece, at) in bytes.chunks(500_000).zip(0..) {
            // The requests of each partial upload go to both nodes.
            let (first, second) = if at % 2 == 0 { (&one, &two) } else { (&two, &one) };
            let url = if at < 2 {
                create_partial(first, piece.len()).await
            } else {
                let creation = request(first, Method::POST, "/tus").header(PARTIAL.0, PARTIAL.1);
                let creation = creation.header("upload-length", piece.len());
                let answer = with_content(creation, &piece[..100_000]).send().await.unwrap();
                assert_eq!(answer.status(), 201);
                text(answer.headers(), "location").to_owned()
            };
            let received = offset(second, &url).await;
            expect_append(second, &url, received, &piece[received..]).await;
            urls.push(url);
        }
        let url = expect_final(last, &urls).await;
        assert_eq!(expect_final(&one, &urls).await, url);
        assert_eq!(expect_final(&two, &urls).await, url);
        assert!(one.read(uid(&url)).await == bytes && two.read(uid(&url)).await == bytes);
    }
    one.database().wait_until_idle().await;
    assert!(one.objects().is_empty() != two.objects().is_empty());
    one.assert_consistent().await;
    two.assert_consistent().await;
}
