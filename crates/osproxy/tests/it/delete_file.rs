use reqwest::Method;

use crate::support::{Service, TestNode, content, expect_problem, expect_v0_error, md5_hex};

/// Parts that start, continue or end while their file is deleted leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_arrive_while_their_file_is_deleted_leave_nothing() {
    let mut node = TestNode::start().await;
    let bytes = content(1, 20_000);
    for _ in 0..20 {
        let links = node.upload_links(&["x.bin"; 10]).await;
        let racing = links.iter().enumerate().map(|(turn, link)| {
            let (node, bytes) = (&node, &bytes);
            async move {
                let parts = (1..=3).map(|number| node.put_part(link, number, bytes));
                let delete = async {
                    for _ in 0..turn * 3 {
                        tokio::task::yield_now().await;
                    }
                    node.delete(&link.uid).await;
                };
                let (answers, ()) =
                    futures_util::future::join(futures_util::future::join_all(parts), delete).await;
                for answer in answers {
                    assert!(
                        [200, 404].contains(&answer.status().as_u16()),
                        "{}",
                        answer.text().await.unwrap()
                    );
                }
            }
        });
        futures_util::future::join_all(racing).await;
    }
    node.restart(false).await;
    node.database().wait_until_idle().await;
    assert_eq!(node.database().sql("SELECT count(*) FROM blobs").await, ["0"]);
    node.assert_consistent().await;
}

#[tokio::test]
async fn a_deleted_file_is_gone_at_once_and_its_content_with_the_last_that_has_it() {
    let node = TestNode::start().await;
    let bytes = content(1, 100_000);
    let first = node.store("x.bin", &bytes).await;
    let second = node.store("y.bin", &bytes).await;
    let in_parts = node.store_in_parts("z.bin", &content(2, 100_000), 30_000).await;
    let url = node.download_link(&first).await.unwrap().url;
    assert_eq!(node.get(&url).await.status(), 200);
    node.delete(&first).await;
    assert!(expect_v0_error(node.get(&url).await, 404).await.contains("deleted"));
    assert!(node.download_link(&first).await.is_none());
    assert!(node.read(&second).await == bytes);
    let again = node.v1(Method::DELETE, &format!("/files/{first}"), None).await;
    expect_problem(again, 410, "file_gone").await;
    let url = node.download_link(&second).await.unwrap().url;
    let mut reading = node.get(&url).await;
    let mut read = reading.chunk().await.unwrap().unwrap().to_vec();
    for uid in [&second, &in_parts] {
        node.delete(uid).await;
    }
    node.database().wait_until_idle().await;
    // A download that began before the deletion continues.
    while let Some(chunk) = reading.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == bytes);
    assert_eq!(node.database().sql("SELECT count(*) FROM blobs").await, ["0"]);
    assert_eq!(node.instant_upload(&[(&md5_hex(&bytes), "x.bin")]).await[0].uid, "");
    // Stored again, it is new content.
    let again = node.store("x.bin", &bytes).await;
    assert!(node.read(&again).await == bytes);
    node.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_upload_and_the_end_of_its_content_do_not_both_happen() {
    let node = TestNode::start().await;
    let mut kept = 0;
    for round in 0..60 {
        let bytes = content(round, 10_000);
        let uid = node.store("x.bin", &bytes).await;
        let md5 = md5_hex(&bytes);
        let delete = async {
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            node.delete(&uid).await;
        };
        let wanted = [(md5.as_str(), "y.bin"); 3];
        let (instant, ()) = futures_util::future::join(node.instant_upload(&wanted), delete).await;
        for result in instant.iter().filter(|result| !result.uid.is_empty()) {
            kept += 1;
            assert!(node.read(&result.uid).await == bytes, "round {round}");
        }
    }
    println!("{kept} of 180 parts were stored");
    node.database().wait_until_idle().await;
    node.assert_consistent().await;
}

/// Deleting an upload removes everything of it, whatever its progress.
#[tokio::test]
async fn an_upload_that_is_not_complete_goes_with_its_parts() {
    let mut service = Service::start().await;
    let links = service.upload_links(&["pending.bin", "parts.bin", "stored.bin"]).await;
    service.put_parts(&links[1], &[&content(1, 10_000), &content(2, 10_000)]).await;
    assert_eq!(service.put(&links[2].url.single, &content(3, 10_000)).await.status(), 200);
    let download = service.download_link(&links[2].uid).await.unwrap().url;
    for link in &links {
        let route = format!("/files/{}", link.uid);
        let answer = service.v1(Method::DELETE, &route, None).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (204, ""));
        expect_problem(service.v1(Method::DELETE, &route, None).await, 410, "file_gone").await;
        expect_v0_error(service.put(&link.url.single, b"late").await, 404).await;
        expect_v0_error(service.put_part(link, 3, b"late").await, 404).await;
    }
    expect_v0_error(service.get(&download).await, 404).await;
    service.database().wait_until_idle().await;
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);
    assert_eq!(service.sql("SELECT count(*) FROM parts").await, ["0"]);
    assert!(service.objects().is_empty(), "{:?}", service.objects());
    service.assert_consistent().await;
}

#[tokio::test]
async fn bad_input_is_refused() {
    let service = Service::start().await;
    expect_problem(service.v1(Method::DELETE, "/files/1", None).await, 404, "file_not_found").await;
    expect_problem(service.v1(Method::DELETE, "/files/x", None).await, 400, "invalid_argument").await;
    let uid = service.store("x.bin", b"x").await;
    let route = format!("/files/{uid}");
    let with_body = service.v1(Method::DELETE, &route, Some(&serde_json::json!({}))).await;
    expect_problem(with_body, 400, "invalid_argument").await;
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("x")]));
    let chunked = service.client().delete(service.url(&format!("/api/v1{route}"))).body(chunked);
    expect_problem(chunked.send().await.unwrap(), 400, "invalid_argument").await;
    assert_eq!(service.read(&uid).await, b"x");
}
