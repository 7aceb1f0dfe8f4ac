use serde_json::json;

use crate::support::{Service, content, expect_v0_error, md5_hex};

#[tokio::test]
async fn stored_content_becomes_a_new_file_without_being_sent() {
    let service = Service::start().await;
    let bytes = content(1, 300_000);
    let (stored, missing) = (md5_hex(&bytes), md5_hex(b"never sent"));
    let original = service.store("original.bin", &bytes).await;
    let objects = service.objects();

    let items =
        [(stored.as_str(), "copies/one.txt"), (&missing, "x.txt"), (&stored.to_uppercase(), "two.png")];
    let results = service.instant_upload(&items).await;
    assert_eq!(results.len(), 3);
    for ((md5, _), result) in items.iter().zip(&results) {
        assert_eq!(*md5, result.md5);
    }
    assert_eq!(results[1].uid, "");
    for (result, name) in [(&results[0], "one.txt"), (&results[2], "two.png")] {
        assert_ne!(result.uid, original);
        assert_eq!(service.read(&result.uid).await, bytes);
        let link = service.download_link(&result.uid).await.unwrap();
        assert_eq!((link.meta.src_name.as_str(), link.meta.md5), (name, stored.clone()));
    }
    assert_ne!(results[0].uid, results[2].uid);
    assert_eq!(service.objects(), objects, "bytes were stored again");
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["3"]);
}

#[tokio::test]
async fn content_that_is_not_complete_serves_nobody() {
    let service = Service::start().await;
    let bytes = content(2, 100_000);
    let link = service.upload_link("half.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 100000\r\n").await;
    connection.send(&bytes[..60_000]).await;
    assert_eq!(service.instant_upload(&[(&md5_hex(&bytes), "x")]).await[0].uid, "");
    connection.send(&bytes[60_000..]).await;
    assert!(String::from_utf8_lossy(&connection.read_some().await).starts_with("HTTP/1.1 200"));
    assert_ne!(service.instant_upload(&[(&md5_hex(&bytes), "x")]).await[0].uid, "");
}

#[tokio::test]
async fn bad_input_is_refused_and_creates_nothing() {
    let service = Service::start().await;
    service.store("known.bin", b"known").await;
    let known = md5_hex(b"known");
    let item = json!({"md5": known, "path": "x"});
    for body in [
        json!({}),
        json!({"data": []}),
        json!({"data": vec![item.clone(); 51]}),
        json!({"data": [item, {"md5": "short", "path": "x"}]}),
        json!({"data": [{"md5": known, "path": ""}]}),
        json!({"data": [{"md5": known}]}),
        json!({"data": [{"md5": "zz".repeat(16), "path": "x"}]}),
    ] {
        expect_v0_error(service.post("/resume", &body).await, 422).await;
    }
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);
}
