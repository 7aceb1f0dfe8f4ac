use std::sync::Arc;

use reqwest::{
    Body, Response,
    multipart::{Form, Part},
};

use crate::support::{Service, content, eventually, expect_v0_error, md5_hex};

async fn put_form(service: &Service, url: &str, form: Form) -> Response {
    service.client().put(service.url(url)).multipart(form).send().await.unwrap()
}

fn file(content: &[u8]) -> Part {
    Part::bytes(content.to_vec()).file_name("any")
}

/// Waits until the store is empty and no write is recorded.
async fn assert_nothing_left(service: &Service) {
    eventually("nothing is left in the store", async || service.objects().is_empty().then_some(())).await;
    eventually("no write is recorded", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["0"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn content_comes_back_byte_for_byte_raw_and_from_forms() {
    let service = Service::start().await;
    let batch = 256 * 1024;
    for (seed, len) in (1..).zip([0, 1, 2, 65_536, batch - 1, batch, batch + 1, 3_000_001]) {
        let raw = content(seed, len);
        let uid = service.store("raw.bin", &raw).await;
        assert!(service.read(&uid).await == raw, "{len} bytes raw");

        let form = content(seed + 100, len);
        let link = service.upload_link("form.bin").await;
        let answer = put_form(&service, &link.url.single, Form::new().part("file", file(&form))).await;
        assert_eq!(answer.status(), 200);
        assert!(service.read(&link.uid).await == form, "{len} bytes in a form");
    }
}

#[tokio::test]
async fn other_fields_of_a_form_and_unknown_lengths_do_no_harm() {
    let service = Service::start().await;
    let bytes = content(1, 700_000);
    let link = service.upload_link("x.bin").await;
    let form = Form::new().text("before", "b").part("file", file(&bytes)).text("after", "a");
    assert_eq!(put_form(&service, &link.url.single, form).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);

    let bytes = content(2, 700_000);
    let link = service.upload_link("x.bin").await;
    let chunks: Vec<Result<_, std::io::Error>> =
        bytes.chunks(1_000).map(|chunk| Ok(chunk.to_vec())).collect();
    let body = Body::wrap_stream(futures_util::stream::iter(chunks));
    let answer = service.client().put(service.url(&link.url.single)).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
}

#[tokio::test]
async fn an_md5_that_does_not_match_leaves_nothing_and_can_be_sent_again() {
    let service = Service::start().await;
    let bytes = content(1, 400_000);
    let link = service.upload_link("x.bin").await;
    let with_md5 = |md5: &str| format!("{}&md5={md5}", link.url.single);
    let message = expect_v0_error(service.put(&with_md5(&md5_hex(b"other")), &bytes).await, 422).await;
    assert!(message.contains(&md5_hex(&bytes)), "{message}");
    assert_nothing_left(&service).await;
    assert!(service.download_link(&link.uid).await.is_none());
    for md5 in ["x", "00", &"0".repeat(33)] {
        expect_v0_error(service.put(&with_md5(md5), &bytes).await, 422).await;
    }
    assert_eq!(service.put(&with_md5(&md5_hex(&bytes).to_uppercase()), &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
}

#[tokio::test]
async fn a_link_is_worth_nothing_for_anything_else() {
    let service = Service::start().await;
    let (mine, other) = (service.upload_link("mine").await, service.upload_link("other").await);
    let link = &mine.url.single;
    let stored = service.store("stored", b"stored").await;
    let download = service.download_link(&stored).await.unwrap().url;
    for changed in [
        link.replace(&mine.uid, &other.uid),
        link.replace(&mine.uid, "1"),
        link.replace(&mine.uid, "x"),
        link.replace("expire=600", "expire=601"),
        link.replace("signature=", "signature=0"),
        link.split("&signature").next().unwrap().to_owned(),
        "/api/storage/v0/upload".to_owned(),
        download.replace("/download", "/upload"),
        download.replace("/download", "/upload").replace(&stored, &mine.uid),
    ] {
        expect_v0_error(service.put(&changed, b"content").await, 422).await;
    }
    assert_eq!(service.objects().len(), 1);
    assert_eq!(service.put(link, b"content").await.status(), 200);
}

#[tokio::test]
async fn an_expired_link_is_refused() {
    let service = Service::start().await;
    let body = serde_json::json!({"filePath": ["x"], "expire": 1});
    let answer: serde_json::Value = service.post("/link/upload", &body).await.json().await.unwrap();
    let url = format!("{}&md5={}", answer["data"][0]["url"]["single"].as_str().unwrap(), md5_hex(b"other"));
    // Until the link expires, the error is the md5.
    let message = eventually("the link has expired", async || {
        let message = expect_v0_error(service.put(&url, b"content").await, 422).await;
        (!message.contains("md5")).then_some(message)
    });
    assert_eq!(message.await, "the link has expired");
    assert_nothing_left(&service).await;
}

#[tokio::test]
async fn bad_bodies_are_refused_and_leave_nothing() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let url = &link.url.single;
    let forms = [
        Form::new(),
        Form::new().text("other", "x"),
        Form::new().part("file", file(b"one")).part("file", file(b"two")),
    ];
    for form in forms {
        expect_v0_error(put_form(&service, url, form).await, 422).await;
    }
    let form = "multipart/form-data; boundary=X";
    for (content_type, body) in [
        ("multipart/form-data", "--X\r\n"),
        (form, ""),
        (form, "no form at all"),
        (form, "--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nnever ended"),
        (form, "--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nended\r\n--X\r\n"),
        (form, "--X--\r\n"),
    ] {
        let request = service.client().put(service.url(url)).header("content-type", content_type).body(body);
        expect_v0_error(request.send().await.unwrap(), 422).await;
    }
    let mut connection = service.connect().await;
    connection.send_head("PUT", url, "Connection: close\r\n").await;
    assert!(connection.read_to_end().await.contains("the request has no body"));
    assert_nothing_left(&service).await;
    assert_eq!(service.put(url, b"good").await.status(), 200);
}

#[tokio::test]
async fn a_connection_cut_anywhere_leaves_nothing() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let bytes = content(1, 600_000);
    let start = b"--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
    let form = [&start[..], &bytes, b"\r\n--X--\r\n"].concat();
    let as_form = "Content-Type: multipart/form-data; boundary=X\r\n";
    for (body, fields) in [(&bytes, ""), (&form, as_form)] {
        let fields = format!("{fields}Content-Length: {}\r\n", body.len());
        let len = body.len();
        // The last three bytes of the form are the end of its delimiter and an optional line break.
        for cut in [0, 1, start.len(), 65_536, 262_144, 262_145, len - 12, len - 3] {
            let mut connection = service.connect().await;
            connection.send_head("PUT", &link.url.single, &fields).await;
            connection.send(&body[..cut]).await;
            drop(connection);
        }
    }
    eventually("all writes have ended", async || {
        (service.log().matches("path=\"/api/storage/v0/upload\"").count() == 16).then_some(())
    })
    .await;
    assert_nothing_left(&service).await;
    assert!(service.download_link(&link.uid).await.is_none());
    assert_eq!(service.put(&link.url.single, &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
}

#[tokio::test]
async fn content_never_changes_once_stored() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let url = &link.url.single;
    let bytes = content(1, 300_000);
    assert_eq!(service.put(url, &bytes).await.status(), 200);
    assert_eq!(service.put(url, &bytes).await.status(), 200);
    assert_eq!(put_form(&service, url, Form::new().part("file", file(&bytes))).await.status(), 200);
    for other in [&b""[..], b"other", &bytes[..299_999]] {
        let message = expect_v0_error(service.put(url, other).await, 422).await;
        assert!(message.contains("already complete and has different content"), "{message}");
    }
    let claimed = format!("{url}&md5={}", md5_hex(b"other"));
    expect_v0_error(service.put(&claimed, b"other").await, 422).await;
    assert!(service.read(&link.uid).await == bytes);
    eventually("only the content remains", async || (service.objects().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn the_same_content_is_stored_once() {
    let service = Service::start().await;
    let bytes = content(1, 300_000);
    let one = service.store("one.bin", &bytes).await;
    let two = service.store("two.png", &bytes).await;
    eventually("the second copy is gone", async || (service.objects().len() == 1).then_some(())).await;
    assert_eq!(service.objects(), [format!("unknown/{one}.bin")]);
    assert!(service.read(&one).await == bytes && service.read(&two).await == bytes);
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_at_the_same_time_is_stored_once() {
    let service = Arc::new(Service::start().await);
    let bytes = Arc::new(content(1, 500_000));
    for round in 0..5 {
        let mut bytes = bytes.to_vec();
        bytes[0] = round;
        let bytes = Arc::new(bytes);
        let mut uploads = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (service, bytes) = (service.clone(), bytes.clone());
            uploads.spawn(async move { service.store("x.bin", &bytes).await });
        }
        for uid in uploads.join_all().await {
            assert!(service.read(&uid).await == *bytes);
        }
    }
    eventually("one object per content remains", async || (service.objects().len() == 5).then_some(())).await;
    eventually("their rows are gone too", async || {
        (service.sql("SELECT refs FROM blobs").await == ["8"; 5]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_uploads_to_one_uid_at_the_same_time_one_wins_and_the_others_are_told() {
    let service = Arc::new(Service::start().await);
    for round in 0..5 {
        let link = Arc::new(service.upload_link("x.bin").await);
        let mut uploads = tokio::task::JoinSet::new();
        for seed in 0..6 {
            let (service, link) = (service.clone(), link.clone());
            uploads.spawn(async move {
                // Two uploads per content.
                let bytes = content(round * 10 + seed / 2, 200_000);
                (service.put(&link.url.single, &bytes).await.status().as_u16(), bytes)
            });
        }
        let results = uploads.join_all().await;
        let stored = service.read(&link.uid).await;
        for (status, bytes) in results {
            assert_eq!(status, if bytes == stored { 200 } else { 422 });
        }
    }
    eventually("the losers' objects are gone", async || (service.objects().len() == 5).then_some(())).await;
    eventually("their rows are gone too", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["5"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn too_much_is_refused() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "100000")]).await;
    let link = service.upload_link("x.bin").await;
    let url = &link.url.single;
    let bytes = content(1, 100_001);
    expect_v0_error(service.put(url, &bytes).await, 413).await;
    expect_v0_error(put_form(&service, url, Form::new().part("file", file(&bytes))).await, 413).await;
    let chunks: Vec<Result<_, std::io::Error>> =
        bytes.chunks(1_000).map(|chunk| Ok(chunk.to_vec())).collect();
    let body = Body::wrap_stream(futures_util::stream::iter(chunks));
    let request = service.client().put(service.url(url)).body(body);
    expect_v0_error(request.send().await.unwrap(), 413).await;
    // An excessive length is refused before the body is read.
    let mut connection = service.connect().await;
    connection.send_head("PUT", url, "Content-Length: 9000000000000000000\r\nConnection: close\r\n").await;
    assert!(String::from_utf8_lossy(&connection.read_some().await).starts_with("HTTP/1.1 413"));
    assert_nothing_left(&service).await;
    assert_eq!(put_form(&service, url, Form::new().part("file", file(&bytes[1..]))).await.status(), 200);
}

#[tokio::test]
async fn who_sends_much_without_listening_still_gets_to_see_the_refusal() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    let url = link.url.single.replace("signature=", "signature=x");
    connection.send_head("PUT", &url, "Content-Length: 8000000\r\nConnection: close\r\n").await;
    assert!(connection.try_send(&content(1, 8_000_000)).await, "the upload was cut");
    assert!(connection.read_to_end().await.starts_with("HTTP/1.1 422"));
}

#[tokio::test]
async fn an_empty_body_is_a_file_only_if_it_is_meant_to_be() {
    let service = Service::start().await;
    let link = service.upload_link("empty").await;
    // The client sends no length for an empty body.
    let put = |url: String| service.client().put(service.url(&url)).send();
    let message = expect_v0_error(put(link.url.single.clone()).await.unwrap(), 422).await;
    assert!(message.contains("no body"), "{message}");
    let with_md5 = format!("{}&md5={}", link.url.single, md5_hex(b""));
    assert_eq!(put(with_md5).await.unwrap().status(), 200);
    assert_eq!(service.read(&link.uid).await, b"");
}

#[tokio::test]
async fn who_asks_before_sending_is_refused_without_sending() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let fields = "Content-Length: 8000000\r\nExpect: 100-continue\r\n";
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single.replace("signature=", "signature=x"), fields).await;
    let answer = connection.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");

    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, fields).await;
    assert_eq!(connection.read_some().await, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.send(&content(1, 8_000_000)).await;
    assert!(String::from_utf8_lossy(&connection.read_some().await).starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_form_that_is_large_outside_of_its_content_is_refused() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let padding = "x".repeat(10_000_000);
    let part = "--X\r\nContent-Disposition: form-data; name=\"file\"\r\n";
    let before = format!("{padding}\r\n{part}\r\ncontent\r\n--X--\r\n");
    let head = format!("{part}X-Padding: {padding}\r\n\r\ncontent\r\n--X--\r\n");
    let after = format!("{part}\r\ncontent\r\n--X\r\nX-Padding: {padding}\r\n\r\n\r\n--X--\r\n");
    for body in [before, head, after] {
        let request = service.client().put(service.url(&link.url.single));
        let request = request.header("content-type", "multipart/form-data; boundary=X").body(body);
        let message = expect_v0_error(request.send().await.unwrap(), 413).await;
        assert!(message.contains("outside the field `file`"), "{message}");
    }
    assert_nothing_left(&service).await;
}

#[tokio::test]
async fn content_that_was_lost_is_mended_by_who_sends_it_again() {
    let service = Service::start().await;
    let bytes = content(1, 100_000);
    let uid = service.store("x.bin", &bytes).await;
    for damage in ["cut", "removed"] {
        let object = service.object_path(&service.objects()[0]);
        match damage {
            "cut" => std::fs::File::options().write(true).open(&object).unwrap().set_len(10).unwrap(),
            _ => std::fs::remove_file(&object).unwrap(),
        }
        assert_eq!(service.instant_upload(&[(&md5_hex(&bytes), "y.bin")]).await[0].uid, "", "{damage}");
        let again = service.store("y.bin", &bytes).await;
        assert!(service.read(&again).await == bytes && service.read(&uid).await == bytes, "{damage}");
        eventually("the damaged blob is removed", async || {
            let states = service.sql("SELECT state FROM blobs").await;
            (!object.exists() && states == ["stored"] && service.objects().len() == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn comparing_with_what_is_stored_takes_no_more_than_that() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    assert_eq!(service.put(&link.url.single, b"four").await.status(), 200);
    let mut connection = service.connect().await;
    connection
        .send_head("PUT", &link.url.single, "Content-Length: 5000000000\r\nConnection: close\r\n")
        .await;
    let answer = String::from_utf8(connection.read_some().await).unwrap();
    assert!(answer.contains("already complete and has different content"), "{answer}");
    assert_eq!(service.objects().len(), 1);
}

#[tokio::test]
async fn who_goes_away_before_the_answer_leaves_a_line_in_the_log() {
    let service = Service::start().await;
    for _ in 0..10 {
        let link = service.upload_link("x.bin").await;
        let mut connection = service.connect().await;
        connection.send_head("PUT", &link.url.single, "Content-Length: 4\r\n").await;
        connection.send(b"four").await;
    }
    eventually("every request is logged", async || {
        (service.log().matches("method=PUT").count() == 10).then_some(())
    })
    .await;
}
