//! Several nodes that share a store.

use std::time::Duration;

use futures_util::future::join_all;

use super::{MIN, on_each};
use crate::support::{Service, Store, StoreServer, content, eventually};

/// Parts sent through both nodes concurrently; either completes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn any_node_takes_any_part() {
    on_each(async |store: Store| {
        let settings = store.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
        let mut two = one.start_second_node(&settings).await;
        let bytes = content(14, 6 * MIN + 77);
        let link = one.upload_link("x.bin").await;
        let sent = bytes.chunks(MIN).enumerate().map(|(at, part)| {
            let node = if at % 2 == 0 { &one } else { &two };
            node.put_part(&link, u32::try_from(at).unwrap() + 1, part)
        });
        for answer in join_all(sent).await {
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        }
        assert_eq!(two.checkpoint(&link.uid).await, [1, 2, 3, 4, 5, 6, 7]);
        let merged =
            futures_util::future::join(one.merge(&link, 7, &bytes), two.merge(&link, 7, &bytes)).await;
        assert_eq!(
            (merged.0.status(), merged.1.status()),
            (200.try_into().unwrap(), 200.try_into().unwrap())
        );
        assert!(one.read(&link.uid).await == bytes);
        assert!(two.read(&link.uid).await == bytes);
        one.wait_until_merged(&link.uid).await;
        assert_eq!(store.objects(), [format!("unknown/{}.bin", link.uid)]);
        two.kill().await;
        one.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_another_node_writes_is_not_swept_and_what_a_dead_one_wrote_is() {
    let store = Store::new(StoreServer::Oss);
    let settings = store.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // After its lease ends, another node takes over the work of a killed one, such as a sweep.
    settings.extend([("CLUSTER__HEARTBEAT", "1"), ("TASKS__LEASE", "2")]);
    let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let mut two = one.start_second_node(&settings).await;
    let link = one.upload_link("x.bin").await;
    let bytes = content(20, 2_000_000);
    let mut slow = one.connect().await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 2000000\r\n").await;
    slow.send(&bytes[..1_500_000]).await;
    let writing = async |node: &Service| node.sql("SELECT id FROM blobs WHERE state = 'writing'").await.len();
    eventually("the write has started", async || (writing(&one).await == 1).then_some(())).await;
    one.sql("UPDATE blobs SET created_at = 0").await;
    // When nodes start, one of them sweeps; here it must be the other one.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let swept = format!(
        "SELECT number FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'sweep' AND outcome = 'done' \
         AND started_at > {now} AND task_attempts.lease_owner <> (SELECT written_by FROM blobs WHERE state = 'writing')"
    );
    eventually("the other node has swept", async || {
        two.kill().await;
        two.restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (!two.sql(&swept).await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(writing(&one).await, 1, "the write was swept");
    slow.send(&bytes[1_500_000..]).await;
    let answer = String::from_utf8(slow.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(two.read(&link.uid).await == bytes);
    // The same again, and now it dies.
    let link = one.upload_link("y.bin").await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 2000000\r\n").await;
    slow.send(&bytes[..1_500_000]).await;
    eventually("the write has started", async || (writing(&one).await == 1).then_some(())).await;
    one.sql("UPDATE blobs SET created_at = 0").await;
    one.kill().await;
    eventually("the dead node's write is removed", async || {
        two.kill().await;
        two.restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (writing(&two).await == 0).then_some(())
    })
    .await;
    two.assert_consistent().await;
}
