//! What links allow, and what they do not: forged, replayed, revoked, and beyond their constraints.

use osproxy_api::{
    grpc::v1::CompleteUploadRequest,
    v1::{CreatedLink, CreatedUpload, CreatedUploadLinks, UploadStatus},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{
    Service, content, error_reason, eventually, expect_json, expect_problem, expect_v0_error,
};

/// Creates a download link of API v1.
async fn link(service: &Service, uid: &str, more: Value) -> String {
    let mut wish = json!({"expires_in": 600});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = service.v1_post(&format!("/files/{uid}/links"), &wish).await;
    expect_json::<CreatedLink>(answer, 201).await.url
}

async fn revoke(service: &Service, uid: &str) {
    let answer = service.v1(Method::DELETE, &format!("/files/{uid}/links"), None).await;
    assert_eq!(answer.status(), 204);
}

/// The parameters of a URL, each with the offset of its value.
fn parameters(url: &str) -> Vec<(usize, &str, &str)> {
    let start = url.find('?').unwrap() + 1;
    let mut at = start;
    let mut found = Vec::new();
    for pair in url[start..].split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        found.push((at + name.len() + 1, name, value));
        at += pair.len() + 1;
    }
    found
}

#[tokio::test]
async fn every_bit_of_a_signature_and_of_what_it_signs_counts() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"the content").await;
    let v0 = service.download_link(&uid).await.unwrap().url;
    let v1 = link(&service, &uid, json!({"networks": ["127.0.0.0/8"]})).await;
    for url in [v0, v1] {
        assert_eq!(service.get(&url).await.status(), 200);
        for (at, name, value) in parameters(&url) {
            // A client may change unsigned parameters, but none that is signed.
            for place in 0..value.len() {
                for bit in 0..8 {
                    let mut forged = url.clone().into_bytes();
                    forged[at + place] ^= 1 << bit;
                    let changed = forged[at + place];
                    if !changed.is_ascii_graphic() || b"&#%+=?".contains(&changed) {
                        continue;
                    }
                    let forged = String::from_utf8(forged).unwrap();
                    // The case of hexadecimal digits does not matter.
                    let escaped = value[..place].rfind('%').is_some_and(|sign| place - sign <= 2);
                    let is_same = (name == "signature" || escaped) && forged.eq_ignore_ascii_case(&url);
                    let status = service.get(&forged).await.status();
                    assert!(is_same || status != 200, "{name}: {forged}");
                    assert!(!status.is_server_error(), "{forged}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_link_is_worth_nothing_for_another_file_or_action() {
    let service = Service::start().await;
    let (mine, other) = (service.store("a.bin", b"a").await, service.store("b.bin", b"b").await);
    let upload = service.upload_link("c.bin").await;
    let download = service.download_link(&mine).await.unwrap().url;
    expect_v0_error(service.get(&download.replace(&mine, &other)).await, 422).await;
    let v1 = link(&service, &mine, json!({})).await;
    expect_problem(service.get(&v1.replace(&mine, &other)).await, 403, "invalid_signature").await;
    // The parameters of an upload link, used for a download.
    let (_, query) = upload.url.single.split_once('?').unwrap();
    let reading = format!("/api/storage/v0/download?{query}&name=c.bin&bucket=&object=");
    expect_v0_error(service.get(&reading).await, 422).await;
    let (_, query) = v1.split_once('?').unwrap();
    let sending = format!("/api/v1/uploads/{mine}/content?{}", query.replace("&disposition=inline", ""));
    expect_problem(service.put(&sending, b"x").await, 403, "invalid_signature").await;
}

#[tokio::test]
async fn what_is_revoked_is_not_good_again_and_new_links_are() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"the content").await;
    let (v0, v1) = (service.download_link(&uid).await.unwrap().url, link(&service, &uid, json!({})).await);
    let upload = service.create_upload(&json!({"name": "y.bin"})).await;
    for url in [&v0, &v1] {
        assert_eq!(service.get(url).await.status(), 200);
    }
    revoke(&service, &uid).await;
    revoke(&service, &upload.uid).await;
    expect_v0_error(service.get(&v0).await, 422).await;
    expect_problem(service.get(&v1).await, 403, "link_revoked").await;
    let links = upload.links.as_ref().unwrap();
    expect_problem(service.put(&links.content, b"y").await, 403, "link_revoked").await;
    expect_problem(service.get(&links.state).await, 403, "link_revoked").await;
    // New links are valid at once, even in the same second.
    assert_eq!(service.read(&uid).await, b"the content");
    assert_eq!(service.get(&link(&service, &uid, json!({})).await).await.status(), 200);
    expect_problem(service.v1(Method::DELETE, "/files/1/links", None).await, 404, "file_not_found").await;
}

#[tokio::test]
async fn a_link_is_used_no_more_often_than_it_may_be() {
    let service = Service::start().await;
    let uid = service.store("x.bin", &content(1, 100_000)).await;
    let url = link(&service, &uid, json!({"max_uses": 5})).await;
    let head = service.client().head(service.url(&url)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    let asked = (0..20).map(|_| service.get(&url));
    let answers: Vec<Response> = futures_util::future::join_all(asked).await;
    let served = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(served, 5);
    let refused = answers.into_iter().find(|answer| answer.status() != 200).unwrap();
    expect_problem(refused, 403, "link_used_up").await;
    // Another link has its own count.
    assert_eq!(service.get(&link(&service, &uid, json!({"max_uses": 1})).await).await.status(), 200);
    for max_uses in [0, 1_000_001] {
        let wish = json!({"expires_in": 60, "max_uses": max_uses});
        let answer = service.v1_post(&format!("/files/{uid}/links"), &wish).await;
        assert_eq!(expect_problem(answer, 400, "invalid_argument").await["field"], "max_uses");
    }
}

#[tokio::test]
async fn only_content_counts_as_a_use_of_a_link() {
    let mut service = Service::start().await;
    let uid = service.store("x.bin", &content(1, 1000)).await;
    let url = link(&service, &uid, json!({"max_uses": 3})).await;
    let etag = format!("\"{uid}\"");
    let get = async |service: &Service, name: &str, value: &str| {
        let request = service.client().get(service.url(&url)).header(name, value);
        request.send().await.unwrap().status().as_u16()
    };
    for _ in 0..5 {
        for (name, value, status) in
            [("if-none-match", &*etag, 304), ("if-match", "\"other\"", 412), ("range", "bytes=1000-", 416)]
        {
            assert_eq!(get(&service, name, value).await, status, "{name}");
        }
        let head = service.client().head(service.url(&url)).send().await.unwrap();
        assert_eq!(head.status(), 200);
    }
    // A download that fails because the object is unavailable does not count either.
    let object = service.object_path(&service.objects()[0]);
    let aside = service.folder().join("aside");
    std::fs::rename(&object, &aside).unwrap();
    assert_eq!(get(&service, "accept", "*/*").await, 500);
    service.kill_and_restart().await;
    assert_eq!(get(&service, "accept", "*/*").await, 500);
    std::fs::rename(&aside, &object).unwrap();
    assert_eq!(get(&service, "accept", "*/*").await, 200);
    // A range counts, and so does the whole.
    assert_eq!(get(&service, "range", "bytes=0-9").await, 206);
    assert_eq!(get(&service, "if-range", "\"other\"").await, 200);
    // Then it is used up for every request.
    expect_problem(service.get(&url).await, 403, "link_used_up").await;
    assert_eq!(get(&service, "if-none-match", &etag).await, 403);
    assert_eq!(service.client().head(service.url(&url)).send().await.unwrap().status(), 403);
    // An empty file counts as a download too.
    let empty = service.store("empty.bin", b"").await;
    let url = link(&service, &empty, json!({"max_uses": 1})).await;
    assert_eq!(service.get(&url).await.status(), 200);
    expect_problem(service.get(&url).await, 403, "link_used_up").await;
}

#[tokio::test]
async fn a_link_for_one_network_is_worth_nothing_in_another() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    let here = link(&service, &uid, json!({"networks": ["10.0.0.0/8", "127.0.0.1"]})).await;
    let elsewhere = link(&service, &uid, json!({"networks": ["10.0.0.0/8", "::/0"]})).await;
    assert_eq!(service.get(&here).await.status(), 200);
    expect_problem(service.get(&elsewhere).await, 403, "permission_denied").await;
    // Client headers do not change the result.
    let request = service.client().get(service.url(&elsewhere)).header("x-forwarded-for", "10.0.0.1");
    expect_problem(request.send().await.unwrap(), 403, "permission_denied").await;
    let upload =
        service.create_upload(&json!({"name": "x", "constraints": {"networks": ["10.0.0.0/8"]}})).await;
    let links = upload.links.unwrap();
    expect_problem(service.put(&links.content, b"x").await, 403, "permission_denied").await;
}

#[tokio::test]
async fn content_is_not_larger_than_its_link_takes() {
    let service = Service::start().await;
    let limited = json!({"name": "x.bin", "constraints": {"max_size": 1000}});
    let upload = service.create_upload(&limited).await;
    let links = upload.links.as_ref().unwrap();
    expect_problem(service.put(&links.content, &content(1, 1001)).await, 413, "too_large").await;
    // In parts, each below the limit.
    assert_eq!(service.v1_put_part(&upload, 1, &content(2, 600)).await.status(), 204);
    expect_problem(service.v1_put_part(&upload, 2, &content(2, 600)).await, 413, "too_large").await;
    assert_eq!(service.v1_put_part(&upload, 2, &content(2, 400)).await.status(), 204);
    expect_problem(service.v1_put_part(&upload, 3, b"x").await, 413, "too_large").await;
    // A replacement may not exceed the limit either.
    expect_problem(service.v1_put_part(&upload, 1, &content(3, 601)).await, 413, "too_large").await;
    assert_eq!(service.v1_put_part(&upload, 1, &content(3, 600)).await.status(), 204);
    assert_eq!(service.v1_status(&upload).await.received, 1000);
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    let upload: CreatedUpload = service.create_upload(&limited).await;
    let sent = service.put(&upload.links.unwrap().content, &content(1, 1000)).await;
    expect_json::<UploadStatus>(sent, 200).await;
    // Parts sent with an unlimited link cannot be completed with a limited one.
    let upload = service.create_upload(&json!({"name": "x.bin"})).await;
    assert_eq!(service.v1_put_part(&upload, 1, &content(2, 600)).await.status(), 204);
    let route = format!("/uploads/{}/links", upload.uid);
    let new = service.v1_post(&route, &json!({"constraints": {"max_size": 599}})).await;
    let new: CreatedUploadLinks = expect_json(new, 201).await;
    let sent = service.client().post(service.url(&new.links.complete)).send().await.unwrap();
    expect_problem(sent, 413, "too_large").await;
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    let wish = json!({"name": "x", "size": 9, "constraints": {"max_size": 8}});
    assert_eq!(
        expect_problem(service.v1_post("/uploads", &wish).await, 400, "invalid_argument").await["field"],
        "constraints.max_size"
    );
    // The limit of a key applies to its links, of API v0 too.
    let key = service.with_key(&service.create_key(&["--max-size", "1000"]).await);
    let link = key.upload_link("x.bin").await;
    expect_v0_error(service.put(&link.url.single, &content(3, 1001)).await, 413).await;
    assert_eq!(service.put(&link.url.single, &content(3, 1000)).await.status(), 200);
    expect_problem(key.v1_post("/uploads", &json!({"name": "x", "size": 1001})).await, 413, "too_large")
        .await;
}

#[tokio::test]
async fn parts_sent_at_the_same_time_are_not_larger_together_than_their_link_takes() {
    let service = Service::start().await;
    let limited = json!({"name": "x.bin", "constraints": {"max_size": 1000}});
    let upload = service.create_upload(&limited).await;
    let url = upload.links.as_ref().unwrap().part.clone();
    // All parts start before any of them ends.
    let mut begun = Vec::new();
    for number in 1..=8 {
        let mut connection = service.connect().await;
        let path = url.replace("{number}", &number.to_string());
        connection.send_head("PUT", &path, "Content-Length: 300\r\nExpect: 100-continue\r\n").await;
        assert!(connection.read_some().await.starts_with(b"HTTP/1.1 100"));
        connection.send(&[7; 299]).await;
        begun.push(connection);
    }
    let ends = begun.into_iter().map(async |mut connection| {
        connection.send(&[7; 1]).await;
        String::from_utf8(connection.read_some().await).unwrap()[9..12].to_owned()
    });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort();
    assert_eq!(ends, ["204", "204", "204", "413", "413", "413", "413", "413"]);
    let status = service.v1_status(&upload).await;
    assert_eq!((status.received, status.parts.len()), (900, 3));
}

/// The beginning of an executable.
const PROGRAM: &[u8] =
    b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0 and so on, for as many bytes as the \
      header of a program has, and some more";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";

#[tokio::test]
async fn the_first_bytes_decide_whichever_parts_they_come_in() {
    let service = Service::start().await;
    let of_type = json!({"name": "x.png", "constraints": {"content_type": "image/png"}});
    let divided = |bytes: &[u8]| {
        let (first, rest) = (&bytes[..1], &bytes[1..]);
        [vec![b"".to_vec(), bytes.to_vec()], vec![first.to_vec(), b"".to_vec(), rest.to_vec()]]
    };
    for parts in divided(PROGRAM) {
        let upload = service.create_upload(&of_type).await;
        for (number, part) in (1..).zip(&parts) {
            assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
        }
        expect_problem(service.v1_complete(&upload).await, 415, "unsupported_media_type").await;
        // Nor when the application completes it, without constraints of its own.
        let mut grpc = service.grpc();
        let request = CompleteUploadRequest { uid: upload.uid.clone(), ..CompleteUploadRequest::default() };
        let refused = grpc.files.complete_upload(request).await.unwrap_err();
        assert_eq!(error_reason(&refused).0, "unsupported_media_type");
        // Replacing the first bytes repairs it.
        assert_eq!(service.v1_put_part(&upload, parts.len(), PNG).await.status(), 204);
        for number in 1..parts.len() {
            assert_eq!(service.v1_put_part(&upload, number, b"").await.status(), 204);
        }
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        assert_eq!(service.describe(&upload.uid).await.content_type.as_deref(), Some("image/png"));
    }
    for parts in divided(PNG) {
        let upload = service.create_upload(&of_type).await;
        for (number, part) in (1..).zip(&parts) {
            assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
        }
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        assert!(service.read(&upload.uid).await == PNG);
    }
    // Without a constraint the file gets its detected type, over API v0 too.
    for parts in divided(PROGRAM) {
        let link = service.upload_link("x.png").await;
        service.put_parts(&link, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
        assert_eq!(service.merge(&link, parts.len(), PROGRAM).await.status(), 200);
        let file = service.describe(&link.uid).await;
        assert_eq!(file.content_type.as_deref(), Some("application/x-executable"));
    }
}

#[tokio::test]
async fn content_is_of_the_type_that_its_link_takes() {
    let service = Service::start().await;
    let wish = |kind: &str| json!({"name": "x.png", "constraints": {"content_type": kind}});
    let png = b"\x89PNG\r\n\x1a\n and so on".as_slice();
    let page = b"<!DOCTYPE html><html></html>".as_slice();
    for (kind, bytes, taken) in [
        ("image/*", png, true),
        ("image/png", png, true),
        ("image/jpeg", png, false),
        // The content decides, not the name.
        ("image/*", page, false),
    ] {
        let upload = service.create_upload(&wish(kind)).await;
        let answer = service.put(&upload.links.as_ref().unwrap().content, bytes).await;
        let parted = service.create_upload(&wish(kind)).await;
        let part = service.v1_put_part(&parted, 1, bytes).await;
        if taken {
            assert_eq!((answer.status().as_u16(), part.status().as_u16()), (200, 204), "{kind}");
        } else {
            expect_problem(answer, 415, "unsupported_media_type").await;
            expect_problem(part, 415, "unsupported_media_type").await;
            assert_eq!(service.v1_status(&parted).await.parts, [0; 0]);
        }
    }
    for bad in ["image", "*/*", "text/plain; charset=utf-8"] {
        let answer = service.v1_post("/uploads", &wish(bad)).await;
        assert_eq!(
            expect_problem(answer, 400, "invalid_argument").await["field"],
            "constraints.content_type"
        );
    }
}

#[tokio::test]
async fn keys_rotate_under_links_that_are_out_and_a_key_that_leaked_is_forgotten() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    let old = link(&service, &uid, json!({})).await;
    let key_of = |url: &str| {
        let (_, _, signature) = *parameters(url).iter().find(|(_, name, _)| *name == "signature").unwrap();
        signature.split_once('.').unwrap().0.to_owned()
    };
    let first = key_of(&old);
    let (code, said) = service.cli(&["link-key", "revoke", &first]).await;
    assert_eq!(code, 1, "{said}");
    let (code, said) = service.cli(&["link-key", "rotate"]).await;
    assert_eq!(code, 0, "{said}");
    let second = said.split_whitespace().next().unwrap().to_owned();
    // Signed by a node that has the new key, for one that has not read it yet.
    let new = eventually("the new key signs links", async || {
        let url = link(&service, &uid, json!({})).await;
        (key_of(&url) == second).then_some(url)
    })
    .await;
    for url in [&old, &new] {
        assert_eq!(service.get(url).await.status(), 200);
    }
    let (_, listed) = service.cli(&["link-key", "ls"]).await;
    let does: Vec<Vec<_>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(does, [vec![second.as_str(), "sign"], vec![first.as_str(), "verify"]], "{listed}");
    let (code, said) = service.cli(&["link-key", "revoke", &first]).await;
    assert_eq!(code, 0, "{said}");
    let refused = eventually("links of the old key are rejected", async || {
        Some(service.get(&old).await).filter(|answer| answer.status() != 200)
    })
    .await;
    expect_problem(refused, 403, "invalid_signature").await;
    assert_eq!(service.get(&new).await.status(), 200);
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_knows_a_key_as_soon_as_it_sees_a_link_of_it() {
    let one = Service::start_on("OSPROXY_TEST_POSTGRES", &[]).await;
    let two = one.start_second_node(&[]).await;
    let uid = one.store("x.bin", &content(1, 1000)).await;
    let (code, said) = one.cli(&["link-key", "rotate"]).await;
    assert_eq!(code, 0, "{said}");
    let second = said.split_whitespace().next().unwrap().to_owned();
    let mut signed = Vec::new();
    for _ in 0..200 {
        for node in [&one, &two] {
            let url = link(node, &uid, json!({})).await;
            // Both nodes accept it, whichever signed it; one of them forwards the request to the
            // other.
            for reader in [&one, &two] {
                assert_eq!(reader.get(&url).await.status(), 200);
            }
            signed.push(url.contains(&format!("signature={second}.")));
        }
        if signed.iter().rev().take(2).all(|by_new| *by_new) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the new key never signs a link");
}
