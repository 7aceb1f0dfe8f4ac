use osproxy_api::v0::{DownloadLink, Envelope};
use serde_json::json;

use crate::support::{Service, expect_v0_error, md5_hex};

#[tokio::test]
async fn complete_files_get_links_and_others_are_left_out() {
    let service = Service::start().await;
    let one = service.store("dir/photo.JPG", b"first").await;
    let pending = service.upload_link("pending.txt").await.uid;
    let two = service.store("no extension", b"").await;
    let uids = [&two, "1", &pending, &one, &two];
    let answer = service.post("/link/download", &json!({"uid": uids, "expire": 60})).await;
    let links: Vec<DownloadLink> = answer.json::<Envelope<_>>().await.unwrap().data;
    let [second, first] = links.try_into().unwrap();
    assert_eq!((&first.uid, &second.uid), (&one, &two));
    assert_eq!(first.meta.src_name, "photo.JPG");
    assert_eq!(first.meta.dst_name, format!("{one}.jpg"));
    assert_eq!((first.meta.size.as_str(), first.meta.md5), ("5", md5_hex(b"first")));
    assert_eq!((second.meta.size.as_str(), second.meta.dst_name), ("0", two));
    assert_eq!(service.get(&first.url).await.bytes().await.unwrap(), "first");
}

#[tokio::test]
async fn nothing_to_link_to_is_null() {
    let service = Service::start().await;
    let pending = service.upload_link("pending.txt").await.uid;
    let answer = service.post("/link/download", &json!({"uid": ["1", pending], "expire": 60})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"code":0,"message":"ok","data":null}"#);
}

#[tokio::test]
async fn bad_input_is_refused() {
    let service = Service::start().await;
    let many: Vec<_> = (1..=201).map(|number| number.to_string()).collect();
    for body in [
        json!({"uid": [], "expire": 60}),
        json!({"uid": many, "expire": 60}),
        json!({"uid": ["1"]}),
        json!({"uid": ["1"], "expire": 0}),
        json!({"uid": ["1"], "expire": -60}),
        json!({"uid": ["1"], "expire": 999_999_999_999_u64}),
        json!({"uid": [1], "expire": 60}),
        json!({"uid": ["x"], "expire": 60}),
        json!({"uid": ["-1"], "expire": 60}),
        json!({"uid": ["1", ""], "expire": 60}),
        json!({"uid": ["99999999999999999999"], "expire": 60}),
    ] {
        expect_v0_error(service.post("/link/download", &body).await, 422).await;
    }
}
