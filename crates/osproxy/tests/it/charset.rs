//! The charset that downloads declare for text.

use osproxy_api::v1::CreatedLink;
use reqwest::Method;
use serde_json::json;

use crate::support::{Service, expect_json, md5_hex};

const TEXT: &str = "Grüße, Köln, 漢字, 🦀🦀\n";

/// Returns the content type of a file, which must be the same in both versions of the API.
async fn served_content_type(service: &Service, uid: &str) -> String {
    let wish = json!({"expires_in": 600});
    let made = service.v1_post(&format!("/files/{uid}/links"), &wish).await;
    let v1 = expect_json::<CreatedLink>(made, 201).await.url;
    let v0 = service.download_link(uid).await.unwrap().url;
    let mut found = Vec::new();
    for url in [&v1, &v0] {
        for method in [Method::GET, Method::HEAD] {
            let answer = service.client().request(method, service.url(url)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            found.push(answer.headers()["content-type"].to_str().unwrap().to_owned());
        }
    }
    found.dedup();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

#[tokio::test]
async fn text_that_is_utf8_says_so_and_other_text_does_not() {
    let service = Service::start().await;
    let late = [&b"words ".repeat(200_000)[..], &latin1("Grüße")].concat();
    let utf16: Vec<_> = "Grüße".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes, content_type) in [
        ("utf8.txt", TEXT.as_bytes(), "text/plain; charset=utf-8"),
        ("long.txt", TEXT.repeat(10_000).as_bytes(), "text/plain; charset=utf-8"),
        ("mark.csv", "\u{feff}ä;ö\n".as_bytes(), "text/csv; charset=utf-8"),
        ("ascii.md", b"# words", "text/markdown; charset=utf-8"),
        ("empty.txt", b"", "text/plain; charset=utf-8"),
        ("page.html", "<!DOCTYPE html><p>ä".as_bytes(), "text/html; charset=utf-8"),
        ("latin1.txt", &latin1("Grüße"), "text/plain"),
        ("late.txt", &late, "text/plain"),
        ("utf16.txt", &utf16, "text/plain"),
        ("data.json", TEXT.as_bytes(), "application/json"),
        ("unknown", TEXT.as_bytes(), "application/octet-stream"),
    ] {
        let uid = service.store(name, bytes).await;
        assert_eq!(served_content_type(&service, &uid).await, content_type, "{name}");
    }
}

#[tokio::test]
async fn it_is_known_however_the_content_came() {
    let service = Service::start().await;
    let utf8 = "text/plain; charset=utf-8";
    // In one part, and in parts that split a character; in API v0 too.
    let long = TEXT.repeat(5000);
    let part_size = 64 << 10;
    assert!(!long.is_char_boundary(part_size));
    for (bytes, content_type) in
        [(TEXT.as_bytes(), utf8), (&latin1("Grüße"), "text/plain"), (long.as_bytes(), utf8)]
    {
        let wish = json!({"name": "x.txt", "size": bytes.len(), "part_size": part_size});
        let upload = service.create_upload(&wish).await;
        for (number, part) in (1..).zip(bytes.chunks(part_size)) {
            assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
        }
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        assert_eq!(served_content_type(&service, &upload.uid).await, content_type);
    }
    let uid = service.store_in_parts("v0.txt", long.as_bytes(), part_size).await;
    assert_eq!(served_content_type(&service, &uid).await, utf8);
    service.wait_until_merged(&uid).await;
    assert_eq!(served_content_type(&service, &uid).await, utf8);

    // The client declares a content type without a charset, then one with it.
    let announced = async |content_type: &str, bytes: &[u8]| {
        let upload = service.create_upload(&json!({"name": "x", "content_type": content_type})).await;
        let links = upload.links.as_ref().unwrap();
        assert_eq!(service.put(&links.content, bytes).await.status(), 200);
        // The recorded type is the client's.
        assert_eq!(service.describe(&upload.uid).await.content_type.as_deref(), Some(content_type));
        served_content_type(&service, &upload.uid).await
    };
    assert_eq!(announced("text/x-log", b"one word").await, "text/x-log; charset=utf-8");
    let named = "text/plain; charset=iso-8859-1";
    assert_eq!(announced(named, b"two words").await, named);
    assert_eq!(announced("text/x-log", &latin1("Köln")).await, "text/x-log");

    // No bytes are sent: an instant upload, a copy, a rename.
    let first = service.store("first.bin", TEXT.as_bytes()).await;
    assert_eq!(served_content_type(&service, &first).await, "application/octet-stream");
    let instant = service.instant_upload(&[(&md5_hex(TEXT.as_bytes()), "instant.txt")]).await;
    assert_eq!(served_content_type(&service, &instant[0].uid).await, utf8);
    let route = format!("/files/{first}/copy");
    let copy: osproxy_api::v1::File =
        expect_json(service.v1_post(&route, &json!({"name": "copy.csv"})).await, 201).await;
    assert_eq!(served_content_type(&service, &copy.uid).await, "text/csv; charset=utf-8");
}
