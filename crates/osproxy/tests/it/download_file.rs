use reqwest::{Method, Response, header::HeaderMap};

use crate::support::{Service, content, eventually, expect_v0_error};

async fn request(service: &Service, method: Method, url: &str, fields: &[(&str, &str)]) -> Response {
    let mut request = service.client().request(method, service.url(url));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn ranges_give_exactly_the_bytes_asked_for() {
    let service = Service::start().await;
    let bytes = content(1, 1_000_000);
    let uid = service.store("x.bin", &bytes).await;
    let url = service.download_link(&uid).await.unwrap().url;
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-", 0..1_000_000),
        ("bytes=65535-65536", 65_535..65_537),
        ("bytes=999999-", 999_999..1_000_000),
        ("bytes=-1", 999_999..1_000_000),
        ("bytes=-70000", 930_000..1_000_000),
        ("bytes=500000-99999999", 500_000..1_000_000),
        ("bytes=-99999999", 0..1_000_000),
    ] {
        let answer = request(&service, Method::GET, &url, &[("range", range)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        let of = format!("bytes {}-{}/1000000", expected.start, expected.end - 1);
        assert_eq!(field(answer.headers(), "content-range"), of);
        assert_eq!(field(answer.headers(), "content-length"), expected.len().to_string());
        assert!(answer.bytes().await.unwrap() == bytes[expected], "{range}");
    }
    for range in ["bytes=5-3", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes="] {
        let answer = request(&service, Method::GET, &url, &[("range", range)]).await;
        assert_eq!(answer.status(), 200, "{range}");
        assert!(answer.bytes().await.unwrap() == bytes, "{range}");
    }
    for range in ["bytes=1000000-", "bytes=-0", "bytes=2000000-3000000"] {
        let answer = request(&service, Method::GET, &url, &[("range", range)]).await;
        assert_eq!(field(answer.headers(), "content-range"), "bytes */1000000");
        expect_v0_error(answer, 416).await;
    }
}

#[tokio::test]
async fn files_of_zero_and_one_byte_work() {
    let service = Service::start().await;
    let (empty, one) = (service.store("empty.txt", b"").await, service.store("one.txt", b"1").await);
    let empty = service.download_link(&empty).await.unwrap().url;
    let one = service.download_link(&one).await.unwrap().url;

    let answer = service.get(&empty).await;
    assert_eq!((answer.status().as_u16(), field(answer.headers(), "content-length")), (200, "0"));
    assert_eq!(answer.bytes().await.unwrap(), "");
    let answer = request(&service, Method::GET, &empty, &[("range", "bytes=0-")]).await;
    assert_eq!(field(answer.headers(), "content-range"), "bytes */0");
    expect_v0_error(answer, 416).await;

    assert_eq!(service.get(&one).await.bytes().await.unwrap(), "1");
    for range in ["bytes=0-0", "bytes=-1", "bytes=0-"] {
        let answer = request(&service, Method::GET, &one, &[("range", range)]).await;
        assert_eq!(field(answer.headers(), "content-range"), "bytes 0-0/1");
        assert_eq!(answer.bytes().await.unwrap(), "1");
    }
}

#[tokio::test]
async fn head_says_what_get_would_say() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"0123456789").await;
    let url = service.download_link(&uid).await.unwrap().url;
    let get = service.get(&url).await;
    let head = request(&service, Method::HEAD, &url, &[]).await;
    assert_eq!(head.status(), 200);
    for name in
        ["content-length", "content-type", "content-disposition", "etag", "last-modified", "accept-ranges"]
    {
        assert_ne!(field(head.headers(), name), "", "{name}");
        assert_eq!(field(head.headers(), name), field(get.headers(), name), "{name}");
    }
    assert_eq!(field(head.headers(), "content-length"), "10");
    assert_eq!(head.bytes().await.unwrap(), "");
    // HEAD ignores `Range`.
    let head = request(&service, Method::HEAD, &url, &[("range", "bytes=0-1")]).await;
    assert_eq!((head.status().as_u16(), field(head.headers(), "content-length")), (200, "10"));
}

#[tokio::test]
async fn preconditions_hold() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"0123456789").await;
    let url = service.download_link(&uid).await.unwrap().url;
    let head = request(&service, Method::HEAD, &url, &[]).await;
    let (etag, date) = (field(head.headers(), "etag"), field(head.headers(), "last-modified"));
    assert_eq!(etag, format!("\"{uid}\""));
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (fields, status) in [
        (&[("if-none-match", etag)][..], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("if-modified-since", date)], 304),
        (&[("if-modified-since", old)], 200),
        (&[("if-match", etag)], 200),
        (&[("if-match", "\"other\"")], 412),
        (&[("if-unmodified-since", old)], 412),
        (&[("if-range", etag), ("range", "bytes=2-3")], 206),
        (&[("if-range", date), ("range", "bytes=2-3")], 206),
        (&[("if-range", "\"other\""), ("range", "bytes=2-3")], 200),
        (&[("if-match", "\"other\""), ("range", "bytes=2-3")], 412),
        (&[("if-none-match", etag), ("range", "bytes=99-")], 304),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let expected = if method == Method::HEAD && status == 206 { 200 } else { status };
            let answer = request(&service, method.clone(), &url, fields).await;
            assert_eq!(answer.status().as_u16(), expected, "{method} {fields:?}");
            if status == 304 {
                assert_eq!(field(answer.headers(), "etag"), etag);
            }
        }
    }
}

#[tokio::test]
async fn any_name_is_data() {
    let service = Service::start().await;
    for name in [
        "plain.txt",
        "white space & 100%.txt",
        "名前 ünï.txt",
        "quote\"back\\slash;=,.txt",
        "line\r\nX-Injected: yes.txt",
        "..",
        "C:\\windows\\x.txt",
        "?uid=1&signature=x#y.txt",
        "+plus+.txt",
        "\u{202e}txt.exe",
        &"long".repeat(256),
    ] {
        let uid = service.store(name, name.as_bytes()).await;
        let link = service.download_link(&uid).await.unwrap();
        assert_eq!(link.meta.src_name, name);
        let answer = service.get(&link.url).await;
        assert_eq!(answer.status(), 200, "{name:?}");
        assert!(answer.headers().get("x-injected").is_none());
        let disposition = field(answer.headers(), "content-disposition").to_owned();
        let (_, encoded) = disposition.split_once("filename*=UTF-8''").unwrap();
        assert_eq!(percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap(), name);
        assert_eq!(answer.text().await.unwrap(), name);
    }
    assert!(service.objects().iter().all(|object| object.starts_with("unknown/")), "{:?}", service.objects());
}

#[tokio::test]
async fn online_decides_between_showing_and_saving() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"words").await;
    let url = service.download_link(&uid).await.unwrap().url;
    for (online, disposition) in [("", "inline;"), ("&online=1", "inline;"), ("&online=0", "attachment;")] {
        let answer = service.get(&format!("{url}{online}")).await;
        assert!(field(answer.headers(), "content-disposition").starts_with(disposition), "{online}");
    }
    expect_v0_error(service.get(&format!("{url}&online=2")).await, 422).await;
}

#[tokio::test]
async fn what_a_browser_would_run_is_not_shown() {
    let service = Service::start().await;
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>";
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    for (name, bytes, content_type, active) in [
        ("page.html", &b"<p>hello"[..], "text/html; charset=utf-8", true),
        ("innocent.png", b"<!DOCTYPE html><script>alert(1)</script>", "text/html; charset=utf-8", true),
        ("drawing.svg", svg, "image/svg+xml", true),
        ("page.xhtml", b"<x/>", "application/xhtml+xml", true),
        ("picture.html", png, "image/png", false),
        ("notes.txt", b"hello", "text/plain; charset=utf-8", false),
        ("unknown", b"hello", "application/octet-stream", false),
    ] {
        let uid = service.store(name, bytes).await;
        let answer = service.get(&service.download_link(&uid).await.unwrap().url).await;
        let headers = answer.headers();
        assert_eq!(field(headers, "content-type"), content_type, "{name}");
        assert_eq!(field(headers, "x-content-type-options"), "nosniff");
        assert_eq!(field(headers, "content-disposition").starts_with("attachment"), active, "{name}");
        assert!(field(headers, "content-security-policy").contains("sandbox"), "{name}");
    }
}

#[tokio::test]
async fn a_link_is_worth_nothing_for_anything_else() {
    let service = Service::start().await;
    let (mine, other) =
        (service.store("mine.txt", b"mine").await, service.store("other.txt", b"other").await);
    let link = service.download_link(&mine).await.unwrap().url;
    for changed in [
        link.replace(&format!("uid={mine}"), &format!("uid={other}")),
        link.replace("mine.txt", "page.html"),
        link.replace("bucket=unknown", "bucket=image"),
        link.replace("object=", "object=x"),
        link.replace("expire=600", "expire=6000"),
        link.replace("date=2", "date=3"),
        link.replace("signature=", "signature=x"),
        link.split("&signature").next().unwrap().to_owned(),
        link[..link.len() - 1].to_owned(),
    ] {
        assert_ne!(changed, link);
        expect_v0_error(service.get(&changed).await, 422).await;
    }
    // An upload link does not allow reading, not even its own uid.
    let upload = service.upload_link("mine.txt").await;
    service.put(&upload.url.single, b"mine too").await;
    let query = upload.url.single.split_once('?').unwrap().1;
    let object = format!("&name=mine.txt&bucket=unknown&object={}.txt", upload.uid);
    expect_v0_error(service.get(&format!("/api/storage/v0/download?{query}{object}")).await, 422).await;
}

#[tokio::test]
async fn fields_of_a_link_may_come_in_any_order() {
    let service = Service::start().await;
    let uid = service.store("a name.txt", b"content").await;
    let link = service.download_link(&uid).await.unwrap().url;
    let (path, query) = link.split_once('?').unwrap();
    let mut fields: Vec<_> = query.split('&').collect();
    fields.reverse();
    let reversed = format!("{path}?own=1&{}", fields.join("&")).replace("a+name", "a%20name");
    assert_eq!(service.get(&reversed).await.bytes().await.unwrap(), "content");
}

#[tokio::test]
async fn an_expired_link_is_refused() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let body = serde_json::json!({"uid": [uid], "expire": 1});
    let answer: serde_json::Value = service.post("/link/download", &body).await.json().await.unwrap();
    let url = answer["data"][0]["url"].as_str().unwrap();
    let message = eventually("the link has expired", async || {
        let answer = service.get(url).await;
        if answer.status() == 200 { None } else { Some(expect_v0_error(answer, 422).await) }
    });
    assert_eq!(message.await, "the link has expired");
}

#[tokio::test]
async fn content_that_was_damaged_on_disk_is_an_error_that_tells_no_paths() {
    let service = Service::start().await;
    let uid = service.store("x.bin", &content(3, 500_000)).await;
    let url = service.download_link(&uid).await.unwrap().url;
    let object = service.object_path(&service.objects()[0]);
    std::fs::File::options().write(true).open(&object).unwrap().set_len(1000).unwrap();
    let message = expect_v0_error(service.get(&url).await, 500).await;
    assert!(message.starts_with("internal error (request id "), "{message}");
    std::fs::remove_file(&object).unwrap();
    let message = expect_v0_error(service.get(&url).await, 500).await;
    assert!(!message.contains("unknown/") && !message.contains("local"), "{message}");
    eventually("the log says why", async || service.log().contains("local open: not found").then_some(()))
        .await;
}

#[tokio::test]
async fn a_reader_is_not_cut_when_the_object_goes_away() {
    let service = Service::start().await;
    let bytes = content(4, 20_000_000);
    let uid = service.store("x.bin", &bytes).await;
    let url = service.download_link(&uid).await.unwrap().url;
    let mut answer = service.get(&url).await;
    let mut read = answer.chunk().await.unwrap().unwrap().to_vec();
    std::fs::remove_file(service.object_path(&service.objects()[0])).unwrap();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == bytes);
}

#[tokio::test]
async fn bytes_that_have_moved_are_found_again() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"moved").await;
    let url = service.download_link(&uid).await.unwrap().url;
    assert_eq!(service.get(&url).await.status(), 200);
    // The object moves as if another node had repaired it; the cache of this node has the old
    // location.
    let object = |name: &str| service.object_path(name);
    std::fs::rename(object(&format!("unknown/{uid}.bin")), object("unknown/1.bin")).unwrap();
    service.sql("UPDATE blobs SET object_key = 'unknown/1.bin'").await;
    let answer = service.get(&url).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await.unwrap(), b"moved"[..]);
}
