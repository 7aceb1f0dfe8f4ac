use std::time::Duration;

use serde_json::json;

use crate::support::{Service, content, eventually, expect_v0_error, md5_hex};

#[tokio::test]
async fn parts_in_any_order_become_the_file() {
    let mut service = Service::start().await;
    // Parts of at least 64 KiB are not objects on a local disk.
    let bytes = content(1, 200_000);
    let link = service.upload_link("film.mp4").await;
    let parts: Vec<_> = bytes.chunks(60_000).collect();
    for number in [3, 1, 4, 2] {
        let answer = service.put_part(&link, number, parts[number as usize - 1]).await;
        assert_eq!(answer.text().await.unwrap(), r#"{"code":0,"message":"ok","data":""}"#);
    }
    // Parts are stored under the Go program's names.
    assert!(service.objects().contains(&format!("video/{}_3", link.uid)));
    assert!(service.download_link(&link.uid).await.is_none(), "it is not complete");
    assert_eq!(service.merge(&link, 4, &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    assert_eq!(service.objects(), [format!("video/{}.mp4", link.uid)]);
    assert!(service.read(&link.uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn parts_come_as_forms_too() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    for (number, text) in [(1, "hello, "), (2, "world")] {
        let form = reqwest::multipart::Form::new().text("file", text);
        let url = service.url(&format!(
            "{}&chunkNum={number}&md5={}",
            link.url.multi.upload,
            md5_hex(text.as_bytes())
        ));
        let answer = service.client().put(url).multipart(form).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(service.merge(&link, 2, b"hello, world").await.status(), 200);
    assert_eq!(service.read(&link.uid).await, b"hello, world");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_at_the_same_time_do_no_harm() {
    let mut service = Service::start().await;
    let bytes = content(2, 640_000);
    let link = service.upload_link("x.bin").await;
    // Every part three times concurrently, including the first one, which creates the upload.
    let sending = (0..30_u32).map(|turn| {
        let (number, part) = (turn % 10 + 1, &bytes[turn as usize % 10 * 64_000..][..64_000]);
        service.put_part(&link, number, part)
    });
    for answer in futures_util::future::join_all(sending).await {
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    assert_eq!(service.checkpoint(&link.uid).await, (1..=10).collect::<Vec<_>>());
    let merged = service.merge(&link, 10, &bytes).await;
    assert_eq!(merged.status(), 200, "{}", merged.text().await.unwrap());
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    eventually("the replaced part is removed", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_part_sent_again_is_one_part_and_with_other_bytes_replaces_the_first() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    service.put_parts(&link, &[b"one"]).await;
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2]);
    assert_eq!(service.put_part(&link, 2, b"TWO!").await.status(), 200);
    assert_eq!(service.merge(&link, 2, b"oneTWO!").await.status(), 200);
    assert_eq!(service.read(&link.uid).await, b"oneTWO!");
    service.wait_until_merged(&link.uid).await;
    assert_eq!(service.read(&link.uid).await, b"oneTWO!");
    eventually("the replaced part is removed", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_part_with_a_wrong_md5_leaves_nothing_and_what_was_there_stays() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let wrong =
        |number: u32| format!("{}&chunkNum={number}&md5={}", link.url.multi.upload, md5_hex(b"other"));
    let message = expect_v0_error(service.put(&wrong(1), b"bytes").await, 422).await;
    assert!(message.contains(&md5_hex(b"bytes")), "{message}");
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
    assert_eq!(service.checkpoint(&link.uid).await, [0; 0]);
    service.put_parts(&link, &[b"kept"]).await;
    expect_v0_error(service.put(&wrong(1), b"bytes").await, 422).await;
    assert_eq!(service.merge(&link, 1, b"kept").await.status(), 200);
    assert_eq!(service.read(&link.uid).await, b"kept");
    service.wait_until_merged(&link.uid).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn bad_numbers_are_refused() {
    let service = Service::start_with(&[("UPLOADS__MAX_PARTS", "100")]).await;
    let link = service.upload_link("x.bin").await;
    for number in ["", "0", "-1", "+1", "1.5", "one", "101", "4294967297", "99999999999999999999", "1%00"] {
        let url = format!("{}&chunkNum={number}", link.url.multi.upload);
        let message = expect_v0_error(service.put(&url, b"x").await, 422).await;
        assert!(message.contains("number"), "{number}: {message}");
    }
    expect_v0_error(service.put(&link.url.multi.upload, b"x").await, 422).await;
    assert_eq!(service.put_part(&link, 100, b"x").await.status(), 200);
    assert_eq!(
        service.put(&format!("{}&chunkNum=7&md5=zz", link.url.multi.upload), b"x").await.status(),
        422
    );
    assert_eq!(service.checkpoint(&link.uid).await, [100]);
}

#[tokio::test]
async fn a_part_that_is_too_large_is_refused_before_it_is_read() {
    let service = Service::start_with(&[("UPLOADS__MAX_PART_SIZE", "100000")]).await;
    let link = service.upload_link("x.bin").await;
    let url = format!("{}&chunkNum=1", link.url.multi.upload);
    // With a declared length, the error arrives before any byte was sent.
    let mut connection = service.connect().await;
    connection.send_head("PUT", &url, "Content-Length: 100001\r\n").await;
    let answer = String::from_utf8(connection.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Without a length, it arrives as soon as the part is too large.
    let mut connection = service.connect().await;
    connection.send_head("PUT", &url, "Transfer-Encoding: chunked\r\n").await;
    connection.send(b"30d40\r\n").await;
    connection.send(&content(1, 150_000)).await;
    let answer = String::from_utf8(connection.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let form =
        reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(content(1, 100_001)));
    let answer = service.client().put(service.url(&url)).multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(service.put(&url, &content(1, 100_000)).await.status(), 200);
    eventually("only the content remains", async || (service.objects().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_part_that_breaks_off_leaves_nothing_and_can_be_sent_again() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let bytes = content(3, 500_000);
    for cut in [0, 1, 300_000, 499_999] {
        let mut connection = service.connect().await;
        let url = format!("{}&chunkNum=1", link.url.multi.upload);
        connection.send_head("PUT", &url, "Content-Length: 500000\r\n").await;
        connection.send(&bytes[..cut]).await;
        drop(connection);
    }
    eventually("nothing is left behind", async || {
        let rows = service.sql("SELECT count(*) FROM parts WHERE state <> 'gone'").await;
        (service.allocated() == 0 && rows == ["0"]).then_some(())
    })
    .await;
    assert_eq!(service.checkpoint(&link.uid).await, [0; 0]);
    service.put_parts(&link, &[&bytes]).await;
    assert_eq!(service.merge(&link, 1, &bytes).await.status(), 200);
    service.wait_until_merged(&link.uid).await;
    assert!(service.read(&link.uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_complete_file_takes_no_parts() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one"]).await;
    // A part still in progress when the upload is completed does not count.
    let mut late = service.connect().await;
    let url = format!("{}&chunkNum=1", link.url.multi.upload);
    late.send_head("PUT", &url, "Content-Length: 3\r\n").await;
    late.send(b"LA").await;
    eventually("the write has started", async || {
        (service.sql("SELECT count(*) FROM parts").await == ["2"]).then_some(())
    })
    .await;
    assert_eq!(service.merge(&link, 1, b"one").await.status(), 200);
    late.send(b"T").await;
    let answer = String::from_utf8(late.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    expect_v0_error(service.put_part(&link, 2, b"two").await, 422).await;
    expect_v0_error(service.put_part(&link, 1, b"one").await, 422).await;
    service.wait_until_merged(&link.uid).await;
    expect_v0_error(service.put_part(&link, 2, b"two").await, 422).await;
    assert_eq!(service.read(&link.uid).await, b"one");
    eventually("nothing is left behind", async || {
        let rows = service.sql("SELECT count(*) FROM parts").await;
        (service.objects().len() == 1 && rows == ["0"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn links_of_others_and_unknown_uids_are_refused() {
    let service = Service::start().await;
    let [mine, other] = ["a.bin", "b.bin"];
    let links = service.upload_links(&[mine, other]).await;
    let foreign = links[0].url.multi.upload.replace(&links[0].uid, &links[1].uid);
    expect_v0_error(service.put(&format!("{foreign}&chunkNum=1"), b"x").await, 422).await;
    service.sql(&format!("DELETE FROM files WHERE uid = {}", links[0].uid)).await;
    let message = expect_v0_error(service.put_part(&links[0], 1, b"x").await, 404).await;
    assert!(message.contains("uid"), "{message}");
}

#[tokio::test]
async fn a_file_that_is_sent_whole_meanwhile_ends_the_upload_in_parts() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"part"]).await;
    assert_eq!(service.put(&link.url.single, b"all of it").await.status(), 200);
    expect_v0_error(service.put_part(&link, 2, b"late").await, 422).await;
    expect_v0_error(service.merge(&link, 1, b"part").await, 422).await;
    assert_eq!(service.read(&link.uid).await, b"all of it");
    // The parts are orphans now, which the next start sweeps.
    service.kill().await;
    service.restart().await;
    eventually("the parts are gone", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn abandoned_uploads_are_removed_with_all_their_parts() {
    // Where nodes share a database, a killed node's tasks are taken over after their lease.
    let settings = [("UPLOADS__EXPIRED_RETENTION", "0"), ("TASKS__LEASE", "3")];
    let mut service = Service::start_with(&settings).await;
    let answer = service.post("/link/upload", &json!({"filePath": ["x.bin", "y.bin"], "expire": 2})).await;
    let answer: serde_json::Value = answer.json().await.unwrap();
    let link: osproxy_api::v0::UploadLinks = serde_json::from_value(answer["data"][0].clone()).unwrap();
    assert_eq!(service.put_part(&link, 1, &content(1, 100_000)).await.status(), 200);
    assert_eq!(service.put_part(&link, 5, b"five").await.status(), 200);
    let kept = service.upload_link("kept.bin").await;
    service.put_parts(&kept, &[b"kept"]).await;
    eventually("the link has expired", async || {
        let answer = service.put_part(&link, 2, b"late").await;
        (answer.status() == 422).then_some(())
    })
    .await;
    // Expired uploads are looked for every minute, and at every start.
    service.kill().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    service.restart().await;
    eventually("the upload is removed", async || {
        let rows = service.sql("SELECT count(*) FROM parts").await;
        (service.objects() == [format!("unknown/{}_1", kept.uid)] && rows == ["1"]).then_some(())
    })
    .await;
    let answer = service.get(&format!("/api/storage/v0/checkpoint?uid={}", link.uid)).await;
    assert!(expect_v0_error(answer, 404).await.contains("has expired"));
    assert_eq!(service.sql("SELECT count(*) FROM files WHERE state = 'expired'").await, ["2"]);
    assert_eq!(service.merge(&kept, 1, b"kept").await.status(), 200);
    service.wait_until_merged(&kept.uid).await;
    service.assert_consistent().await;
}
