use osproxy_api::v1::{CreatedState, CreatedUpload, UploadStatus};
use serde_json::{Value, json};

use crate::support::{Service, content, expect_json, expect_v0_error};

#[tokio::test]
async fn every_distinct_path_gets_a_uid_and_links() {
    let service = Service::start().await;
    let links = service.upload_links(&["a/x.txt", "b/x.txt", "a/x.txt", "no-extension"]).await;
    let paths: Vec<_> = links.iter().map(|link| link.path.as_str()).collect();
    assert_eq!(paths, ["a/x.txt", "b/x.txt", "no-extension"]);
    for link in &links {
        let uid: i64 = link.uid.parse().unwrap();
        assert!(uid > 0);
        let start = format!("?uid={uid}&date=");
        for (url, route) in [
            (&link.url.single, "/api/storage/v0/upload"),
            (&link.url.multi.upload, "/api/storage/v0/upload/multi"),
            (&link.url.multi.merge, "/api/storage/v0/upload/merge"),
        ] {
            assert!(url.starts_with(&format!("{route}{start}")), "{url}");
        }
    }
    let mut uids: Vec<_> = links.iter().map(|link| &link.uid).collect();
    uids.dedup();
    assert_eq!(uids.len(), 3);
}

#[tokio::test]
async fn a_whole_number_is_one_however_it_is_written() {
    let service = Service::start().await;
    for expire in ["60", "60.0", "6e1"] {
        let body = format!("{{\"filePath\": [\"a.txt\"], \"expire\": {expire}}}");
        let url = service.url("/api/storage/v0/link/upload");
        let answer = service.client().post(url).body(body).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains("&expire=60&"), "{text}");
    }
}

#[tokio::test]
async fn bad_input_is_refused_and_leaves_nothing() {
    let service = Service::start().await;
    let many: Vec<_> = (0..51).map(|number| number.to_string()).collect();
    for body in [
        json!({}),
        json!([]),
        json!("text"),
        json!({"filePath": ["a.txt"]}),
        json!({"expire": 60}),
        json!({"filePath": "a.txt", "expire": 60}),
        json!({"filePath": [1], "expire": 60}),
        json!({"filePath": ["a.txt"], "expire": "60"}),
        json!({"filePath": ["a.txt"], "expire": 1.5}),
        json!({"filePath": ["a.txt"], "expire": 1e300}),
        json!({"filePath": ["a.txt"], "expire": 0}),
        json!({"filePath": ["a.txt"], "expire": -1}),
        json!({"filePath": ["a.txt"], "expire": 31_536_001}),
        json!({"filePath": ["a.txt"], "expire": 9_223_372_036_854_775_807_u64}),
        json!({"filePath": ["a.txt"], "expire": 18_446_744_073_709_551_615_u64}),
        json!({"filePath": [], "expire": 60}),
        json!({"filePath": many, "expire": 60}),
        json!({"filePath": ["good.txt", ""], "expire": 60}),
        json!({"filePath": ["good.txt", "/"], "expire": 60}),
        json!({"filePath": ["nul\0.txt"], "expire": 60}),
        json!({"filePath": ["x".repeat(1025)], "expire": 60}),
        Value::Null,
    ] {
        let message = expect_v0_error(service.post("/link/upload", &body).await, 422).await;
        assert!(!message.contains("line 0"), "{message}");
    }
    let url = service.url("/api/storage/v0/link/upload");
    for body in ["", "{", "not json", "{\"filePath\":[\"\\ud800\"],\"expire\":60}"] {
        expect_v0_error(service.client().post(&url).body(body).send().await.unwrap(), 422).await;
    }
    let huge = format!("{{\"filePath\":[\"{}\"],\"expire\":60}}", "x".repeat(2 << 20));
    expect_v0_error(service.client().post(&url).body(huge).send().await.unwrap(), 413).await;
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);
}

#[tokio::test]
async fn fifty_paths_are_not_too_many() {
    let service = Service::start().await;
    let paths: Vec<_> = (0..50).map(|number| format!("{number}.txt")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    assert_eq!(service.upload_links(&paths).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_queue_and_get_different_uids() {
    let service = std::sync::Arc::new(Service::start().await);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let service = service.clone();
        writers.spawn(async move {
            let mut uids = Vec::new();
            for _ in 0..20 {
                uids.push(service.upload_link("x.bin").await.uid);
            }
            uids
        });
    }
    let mut uids = writers.join_all().await.concat();
    uids.sort();
    uids.dedup();
    assert_eq!(uids.len(), 400);
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["400"]);
}

#[tokio::test]
async fn a_clock_that_was_set_back_while_the_service_was_down_gives_no_uid_again() {
    let mut service = Service::start().await;
    let uid: i64 = service.upload_link("x.bin").await.uid.parse().unwrap();
    service.kill().await;
    // The newest uid is two seconds ahead: milliseconds are the bits above the lowest 22.
    let ahead = uid + (2_000 << 22);
    service.sql(&format!("UPDATE files SET uid = {ahead}")).await;
    service.restart().await;
    let next: i64 = service.upload_link("y.bin").await.uid.parse().unwrap();
    assert!(next > ahead, "{next} after {ahead}");
}

async fn create(service: &Service, wish: &Value) -> CreatedUpload {
    expect_json(service.v1_post("/uploads", wish).await, 201).await
}

#[tokio::test]
async fn what_is_noted_of_an_upload_stays_with_its_file() {
    let service = Service::start().await;
    let bytes = content(21, 100_000);
    let expected = json!({"owner": "ann", "é": ""});
    let wish = |name: &str| json!({"name": name, "blake3": blake3::hash(&bytes).to_hex().to_string(), "metadata": expected});
    let noted = async |upload: &CreatedUpload| {
        let file: Value = expect_json(service.v1_get(&format!("/files/{}", upload.uid)).await, 200).await;
        file["metadata"].clone()
    };
    let sent = create(&service, &wish("sent.bin")).await;
    assert_eq!(noted(&sent).await, expected);
    let url = &sent.links.as_ref().unwrap().content;
    expect_json::<UploadStatus>(service.put(url, &bytes).await, 200).await;
    assert_eq!(noted(&sent).await, expected);
    // A file that shares the content has its own metadata.
    let mut wish = wish("shared.bin");
    wish["metadata"] = json!({"owner": "bob"});
    let shared = create(&service, &wish).await;
    assert_eq!(shared.state, CreatedState::Stored);
    assert_eq!(noted(&shared).await, json!({"owner": "bob"}));
    assert_eq!(noted(&sent).await, expected);
}
