//! Several nodes on one database and one Redis, each with its own objects.

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::json;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Api, Proxy, ProxyMode, Service, TestNode, content, eventually, host_and_port, redis_url,
};

const SERVER: &str = "OSPROXY_TEST_POSTGRES";

/// The worker id in a uid.
fn worker(uid: &str) -> i64 {
    uid.parse::<i64>().unwrap() >> 12 & 1023
}

/// Issues a uid for an upload; `None` if the service cannot issue one now.
async fn issue_uid(api: &Api) -> Option<String> {
    let answer = api.post("/link/upload", &json!({"filePath": ["x"], "expire": 60})).await;
    if answer.status() == 503 {
        assert_eq!(answer.headers()["retry-after"], "1");
        return None;
    }
    let answer: serde_json::Value = answer.json().await.unwrap();
    Some(answer["data"][0]["uid"].as_str().unwrap().to_owned())
}

async fn redis(command: &[&str]) -> Option<String> {
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut asked = redis::cmd(command[0]);
    asked.arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn objects_stay_with_their_node() {
    let mut one = Service::start_on(SERVER, &[]).await;
    let mut two = one.start_second_node(&[("TASKS__POLL_INTERVAL", "1")]).await;
    let bytes = content(1, 100_000);
    let uid = one.store("x.bin", &bytes).await;
    // The other node forwards the request.
    assert!(two.read(&uid).await == bytes);
    assert!(one.read(&uid).await == bytes);
    // Stored through the other node, the same content shares the blob, which is not taken for lost.
    let again = two.store("y.bin", &bytes).await;
    assert_eq!(one.sql("SELECT refs FROM blobs").await, ["2"]);
    assert!(one.read(&again).await == bytes);
    assert!(two.objects().is_empty());
    // An upload stays on the node of its first part.
    let link = one.upload_link("z.bin").await;
    assert_eq!(one.put_part(&link, 1, b"one").await.status(), 200);
    assert_eq!(two.put_part(&link, 2, b"two").await.status(), 200);
    assert_eq!(two.merge(&link, 2, b"onetwo").await.status(), 200);
    one.wait_until_merged(&link.uid).await;
    assert_eq!(one.read(&link.uid).await, b"onetwo");
    assert!(two.objects().is_empty());
    one.assert_consistent().await;
    two.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_tell_each_other_of_work_and_of_changes() {
    // Without polling, and without expiry of the cache.
    let patient = [("TASKS__POLL_INTERVAL", "3600"), ("DATABASE__CACHE_MAX_AGE", "3600")];
    let one = Service::start_on(SERVER, &patient).await;
    let two = TestNode::start_second_node(&one).await;
    let link = one.upload_link("x.bin").await;
    one.put_parts(&link, &[b"one", b"two"]).await;
    assert_eq!(two.merge(&link, 2, b"onetwo").await.status(), 200);
    one.wait_until_merged(&link.uid).await;
    // The first node caches the file now.
    assert!(one.download_link(&link.uid).await.is_some());
    two.delete(&link.uid).await;
    let ask = json!({"uid": [link.uid], "expire": 60});
    eventually("the cache is invalidated", async || {
        let answer = one.post("/link/download", &ask).await;
        answer.json::<serde_json::Value>().await.unwrap()["data"].is_null().then_some(())
    })
    .await;
    eventually("its object is removed", async || one.objects().is_empty().then_some(())).await;
}

/// Every message costs every node something, so frequent operations send none: only removals are
/// announced.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn uploads_cost_other_nodes_nothing() {
    let one = Service::start_on(SERVER, &[]).await;
    let two = TestNode::start_second_node(&one).await;
    let prefix = one.database().url().unwrap().rsplit('/').next().unwrap().to_owned();
    let client = redis::Client::open(redis_url()).unwrap();
    let mut messages = client.get_async_pubsub().await.unwrap();
    messages.subscribe(format!("{{{prefix}}}:events")).await.unwrap();
    let mut messages = messages.into_on_message();
    let bytes = content(1, 100_000);
    let uid = one.store("x.bin", &bytes).await;
    for node in [&one as &Api, &two] {
        // This content is known already: the files move to the existing blob.
        let in_parts = node.store_in_parts("y.bin", &bytes, 30_000).await;
        one.wait_until_merged(&in_parts).await;
        assert!(one.read(&in_parts).await == bytes);
    }
    // Messages arrive in order: the first one is that of the deletion. Those about events do not
    // count: each stands for many, and there are only so many in a second.
    two.delete(&uid).await;
    let mut first = "events_recorded".to_owned();
    while first.contains("events_recorded") {
        first = messages.next().await.unwrap().get_payload().unwrap();
    }
    assert!(first.contains("file_changed") && first.contains(&uid), "{first}");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_is_remembered_is_not_trusted_while_others_are_not_heard() {
    let one = Service::start_on(SERVER, &[("TASKS__POLL_INTERVAL", "1")]).await;
    let folder = tempfile::tempdir().unwrap();
    let database = one.database().shared_with_folder(folder.path());
    let proxy = Proxy::start(host_and_port(&redis_url())).await;
    let through = Proxy::start(database.server()).await;
    let settings = database.settings_through(&through, Some(&proxy));
    let two =
        Service::start_at(folder, database, settings, &[("DATABASE__CACHE_MAX_AGE", "3600")], &[]).await;
    let two = two.with_key_of(&one);
    let uid = two.store("x.bin", b"x").await;
    assert_eq!(two.read(&uid).await, b"x");
    proxy.set(ProxyMode::Close);
    two.wait_for_log("lost the connection").await;
    let deleter = TestNode::start_second_node(&one).await;
    deleter.delete(&uid).await;
    assert!(two.download_link(&uid).await.is_none());
    proxy.set(ProxyMode::Forward);
    two.wait_for_log("reconnected to Redis").await;
    assert!(two.download_link(&uid).await.is_none());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_that_was_paused_beyond_its_lease_uses_it_no_more() {
    let short = [("CLUSTER__WORKER_LEASE", "2"), ("CLUSTER__HEARTBEAT", "1")];
    let paused = Service::start_on(SERVER, &short).await;
    let prefix = paused.database().url().unwrap().rsplit('/').next().unwrap().to_owned();
    let workers = format!("{{{prefix}}}:workers");
    let number = worker(&paused.upload_link("x").await.uid);
    // All worker ids but one are taken.
    let mut taken = vec!["HSET".to_owned(), workers.clone()];
    for other in (0..1024).filter(|other| *other != number) {
        taken.extend([other.to_string(), "x 99999999999999".to_owned()]);
    }
    redis(&taken.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // It is stopped in the middle of issuing uids.
    let (api, stop) = (Api::clone(&paused), Arc::<AtomicBool>::default());
    let stopped = stop.clone();
    let issuing = tokio::spawn(async move {
        let mut issued = Vec::new();
        while !stopped.load(Ordering::SeqCst) {
            issued.extend(issue_uid(&api).await);
        }
        issued
    });
    let count = "SELECT count(*) FROM files";
    eventually("the node issues uids", async || {
        (paused.sql(count).await[0].parse::<u32>().unwrap() > 20).then_some(())
    })
    .await;
    paused.signal(Signal::STOP);
    let free = async || {
        let until: u64 =
            redis(&["HGET", &workers, &number.to_string()]).await?.rsplit(' ').next()?.parse().ok()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        (u128::from(until) < now).then_some(())
    };
    eventually("its lease has expired", free).await;
    let next = paused.start_second_node(&short).await;
    let mut uids = HashSet::new();
    for _ in 0..50 {
        let uid = next.upload_link("y").await.uid;
        assert_eq!(worker(&uid), number, "the worker id has another holder");
        assert!(uids.insert(uid));
    }
    let newest = uids.iter().map(|uid| uid.parse::<i64>().unwrap()).min().unwrap();
    paused.signal(Signal::CONT);
    // It has no worker id, and refuses requests that need a uid.
    eventually("the node refuses", async || issue_uid(&paused).await.is_none().then_some(())).await;
    // Requests that need no uid succeed.
    assert_eq!(paused.get("/api/storage/v0/ping").await.status(), 200);
    // Another worker id becomes free.
    let other = (number + 1) % 1024;
    redis(&["HDEL", &workers, &other.to_string()]).await;
    let uid = eventually("the node has another worker id", async || issue_uid(&paused).await).await;
    assert_eq!(worker(&uid), other);
    stop.store(true, Ordering::SeqCst);
    for uid in issuing.await.unwrap() {
        assert!(uids.insert(uid.clone()), "{uid} was issued twice");
        let late = uid.parse::<i64>().unwrap() >= newest;
        assert!(!late || worker(&uid) == other, "{uid} was issued under an expired lease");
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_same_work_through_many_nodes_at_once_is_done_once() {
    for server in [SERVER, "OSPROXY_TEST_MYSQL"] {
        let one = Service::start_on(server, &[]).await;
        let two = one.start_second_node(&[]).await;
        for round in 0..10_u64 {
            let bytes = content(round, 5_000);
            let link = one.upload_link("x.bin").await;
            // Both nodes accept the same upload; one wins, the other answers the same.
            let (a, b) = futures_util::future::join(
                one.put(&link.url.single, &bytes),
                two.put(&link.url.single, &bytes),
            )
            .await;
            assert_eq!((a.status().as_u16(), b.status().as_u16()), (200, 200));
            // The first part of this upload decides on the node.
            let link = one.upload_link("y.bin").await;
            let sent =
                futures_util::future::join(one.put_part(&link, 1, b"one"), two.put_part(&link, 1, b"one"))
                    .await;
            assert_eq!((sent.0.status().as_u16(), sent.1.status().as_u16()), (200, 200));
            assert_eq!(one.checkpoint(&link.uid).await, [1]);
        }
        assert_eq!(one.sql("SELECT count(*) FROM blobs WHERE state = 'stored'").await, ["10"]);
        let mut nodes = [one, two];
        for node in &mut nodes {
            node.database().wait_until_idle().await;
            node.assert_consistent().await;
        }
    }
}
