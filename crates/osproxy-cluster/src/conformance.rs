//! Conformance suite of [`Coordinator`], and further tests of coordinators on a real Redis.

mod connections;
mod scale;

use std::{sync::Arc, time::Duration};

use osproxy_types::secret::Secret;
use tokio::time::Instant;

use crate::{
    ClusterTiming, Coordinator, DescribeNode, Event, LoadReport, LocalCoordinator, Message, NodeDescription,
    RedisAddress, RedisCoordinator, RedisSettings, RegisteredNode, UidGenerator, list_registry,
};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < TIMEOUT, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prints measurements for the person who runs the test.
#[expect(clippy::print_stdout, reason = "the measurements are the purpose of the test")]
fn report(line: &str) {
    println!("{line}");
}

fn timing(lease_secs: u64) -> ClusterTiming {
    ClusterTiming { heartbeat: Duration::from_secs(1), worker_lease: Duration::from_secs(lease_secs) }
}

/// The Redis at `address`, with default settings.
fn settings(address: RedisAddress) -> RedisSettings {
    RedisSettings {
        address,
        username: None,
        password: None,
        db: 0,
        tls: false,
        ca_pem: None,
        prefix: "osproxy".to_owned(),
    }
}

fn describe(node: NodeDescription) -> DescribeNode {
    Arc::new(move || node.clone())
}

fn node(id: &str) -> NodeDescription {
    NodeDescription {
        id: id.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        version: "1".to_owned(),
        stores: vec![format!("local:{id}"), "s3".to_owned()],
        own_stores: vec![format!("local:{id}")],
        started_at: 5,
        load: LoadReport { requests: 1, tasks: 2, load_average: 0.5 },
    }
}

/// Waits until it is certain that no node has a store. Right after connecting, the registry may be
/// incomplete.
async fn wait_until_unowned(coordinator: &dyn Coordinator, store: &str) {
    let is_unowned = async || coordinator.find_owner(store).await.ok()?.is_none().then_some(());
    eventually("no node has the store", is_unowned).await;
}

async fn run_suite(coordinator: &dyn Coordinator, id: &str) {
    let worker = coordinator.worker_lease().unwrap();
    let generator = UidGenerator::new(None);
    // Whatever the clock shows, uids stay within the window.
    for now in [0, u64::MAX, 1_800_000_000_000] {
        assert!(worker.permits(generator.next(worker.window(), now).unwrap()));
    }
    assert!(coordinator.is_connected());
    assert!(coordinator.list_nodes().await.unwrap().is_empty());
    coordinator.announce(describe(node(id))).await;
    let nodes = coordinator.list_nodes().await.unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].node, node(id));
    assert!(nodes[0].last_heartbeat > 1_700_000_000_000);
    let own = format!("local:{id}");
    assert_eq!(coordinator.find_owner(&own).await.unwrap(), Some(node(id)));
    for store in ["local:x", "s3", ""] {
        wait_until_unowned(coordinator, store).await;
    }
    let mut events = coordinator.subscribe();
    coordinator.publish(Message::TaskEnqueued);
    coordinator.leave().await;
    assert!(events.try_recv().is_err(), "a node must not receive its own messages");
}

#[tokio::test]
async fn the_local_coordinator_conforms() {
    run_suite(&LocalCoordinator::without_lock(), "one").await;
}

/// The Redis that the test script started, with a separate key prefix for the test.
fn redis(test: &str) -> RedisSettings {
    #[expect(clippy::disallowed_methods, reason = "the test script sets the addresses of its servers")]
    let url = std::env::var("OSPROXY_TEST_REDIS").expect("run this test with `just test-servers`");
    RedisSettings {
        prefix: format!("test-{test}-{}", std::process::id()),
        ..settings(RedisAddress::Url(Secret::new(url)))
    }
}

async fn open(redis: &RedisSettings, id: &str, timing: ClusterTiming) -> RedisCoordinator {
    RedisCoordinator::open(redis.clone(), id.to_owned(), timing).await.unwrap()
}

/// Sends a command to Redis directly.
async fn redis_command(redis: &RedisSettings, command: &[&str]) -> redis::Value {
    let RedisAddress::Url(url) = &redis.address else { panic!("the tests use a URL") };
    redis_command_at(url.reveal(), command).await
}

async fn redis_command_at<T: redis::FromRedisValue>(url: &str, command: &[&str]) -> T {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut sent = redis::cmd(command[0]);
    sent.arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_redis_coordinator_conforms() {
    let redis = redis("contract");
    run_suite(&open(&redis, "one", timing(120)).await, "one").await;
    // The worker id of the first coordinator was released, and the registry is empty.
    run_suite(&open(&redis, "two", timing(120)).await, "two").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_have_distinct_worker_ids_and_find_each_other() {
    let redis = redis("nodes");
    let mut coordinators = Vec::new();
    for number in 0..20 {
        let id = format!("n{number:02}");
        let coordinator = open(&redis, &id, timing(120)).await;
        coordinator.announce(describe(node(&id))).await;
        coordinators.push(coordinator);
    }
    let mut numbers: Vec<_> =
        coordinators.iter().map(|coordinator| coordinator.worker_lease().unwrap().id.get()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 20);
    assert_eq!(coordinators[3].list_nodes().await.unwrap().len(), 20);
    // A process outside the cluster gets the same list, except for the times of heartbeats.
    let listed =
        |nodes: Vec<RegisteredNode>| nodes.into_iter().map(|registered| registered.node).collect::<Vec<_>>();
    let outside = listed(list_registry(&redis).await.unwrap());
    assert_eq!(outside, listed(coordinators[3].list_nodes().await.unwrap()));
    assert_eq!(coordinators[3].find_owner("local:n19").await.unwrap(), Some(node("n19")));
    // One node leaves.
    coordinators.pop().unwrap().leave().await;
    assert_eq!(coordinators[3].list_nodes().await.unwrap().len(), 19);
    wait_until_unowned(&coordinators[3], "local:n19").await;
    // Another node takes over the disk of the node that left.
    let follower = NodeDescription { own_stores: vec!["local:n19".to_owned()], ..node("n03") };
    coordinators[3].announce(describe(follower.clone())).await;
    assert_eq!(coordinators[4].find_owner("local:n19").await.unwrap(), Some(follower));
    // Another node crashes.
    drop(coordinators.pop());
    let is_removed = async || (coordinators[3].list_nodes().await.unwrap().len() == 18).then_some(());
    eventually("the dead node is removed", is_removed).await;
    wait_until_unowned(&coordinators[3], "local:n18").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn messages_reach_all_other_nodes() {
    let redis = redis("messages");
    let (one, two) = (open(&redis, "one", timing(120)).await, open(&redis, "two", timing(120)).await);
    let (mut at_one, mut at_two) = (one.subscribe(), two.subscribe());
    for message in [
        Message::FileChanged { uid: i64::MAX },
        Message::BlobChanged { blob_id: 7 },
        Message::TaskEnqueued,
        Message::AppendStarted { uid: 1, append: u64::MAX },
        Message::AppendEnded { uid: 1, append: u64::MAX },
        Message::AppendSuperseded { append: u64::MAX },
    ] {
        one.publish(message.clone());
        let received = tokio::time::timeout(TIMEOUT, at_two.recv()).await.unwrap().unwrap();
        assert_eq!(received, Event::Message(message));
    }
    // Messages of another version or of other programs are ignored.
    let channel = format!("{{{}}}:events", redis.prefix);
    for payload in [r#"{"from":"x","message":{"kind":"of_later"}}"#, "nonsense"] {
        redis_command(&redis, &["PUBLISH", &channel, payload]).await;
    }
    two.publish(Message::TaskEnqueued);
    let received = tokio::time::timeout(TIMEOUT, at_one.recv()).await.unwrap().unwrap();
    assert_eq!(received, Event::Message(Message::TaskEnqueued));
    assert!(at_two.try_recv().is_err());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_broken_subscription_is_reported_and_restored() {
    let redis = redis("gap");
    let (one, two) = (open(&redis, "one", timing(120)).await, open(&redis, "two", timing(120)).await);
    let mut events = one.subscribe();
    let before = one.worker_lease().unwrap();
    redis_command(&redis, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(tokio::time::timeout(TIMEOUT, events.recv()).await.unwrap().unwrap(), Event::MayHaveMissed);
    eventually("both are connected again", async || (one.is_connected() && two.is_connected()).then_some(()))
        .await;
    assert_eq!(one.worker_lease().unwrap().id, before.id, "the worker id must stay the same");
    two.publish(Message::BlobChanged { blob_id: 7 });
    let expected = Event::Message(Message::BlobChanged { blob_id: 7 });
    eventually("the message arrives", async || (events.try_recv().ok()? == expected).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn an_expired_lease_issues_no_uid_and_its_timestamps_are_not_reused() {
    let redis = redis("fence");
    let short = timing(1);
    let one = open(&redis, "one", short).await;
    let lease = one.worker_lease().unwrap();
    // Simulate a suspended process: it no longer renews its lease.
    one.stop_session();
    eventually("the lease has ended", async || one.worker_lease().is_none().then_some(())).await;
    assert!(!lease.is_valid());
    let generator = UidGenerator::new(None);
    assert!(!lease.permits(generator.next(lease.window(), lease.until_ms).unwrap()));
    // The next holder of this id issues only later timestamps. All other ids are in use, so the
    // next node must get this id.
    let workers = format!("{{{}}}:workers", redis.prefix);
    for number in (0..1024).filter(|number| *number != lease.id.get()) {
        redis_command(&redis, &["HSET", &workers, &number.to_string(), "x 99999999999999"]).await;
    }
    let two = eventually("the worker id is free", async || {
        let two = open(&redis, "two", short).await;
        two.worker_lease().is_some().then_some(two)
    })
    .await;
    let next = two.worker_lease().unwrap();
    assert_eq!(next.id, lease.id);
    assert!(next.after_ms >= lease.until_ms, "{next:?} {lease:?}");
    // The first coordinator resumes, and finds that its id is in use.
    one.renew_now(&two).await;
    assert!(one.worker_lease().is_none(), "no other worker id is free");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_keep_their_worker_ids_when_redis_loses_its_data() {
    let redis = redis("empty");
    let coordinator = open(&redis, "one", timing(120)).await;
    coordinator.announce(describe(node("one"))).await;
    let before = coordinator.worker_lease().unwrap();
    for name in ["workers", "stamps", "nodes"] {
        redis_command(&redis, &["DEL", &format!("{{{}}}:{name}", redis.prefix)]).await;
    }
    // Another test may kill the connections to this Redis. The registry is then unavailable for a
    // moment.
    let listed = async || coordinator.list_nodes().await.is_ok_and(|nodes| nodes.len() == 1).then_some(());
    eventually("the node is listed again", listed).await;
    let workers = format!("{{{}}}:workers", redis.prefix);
    let is_held = redis_command(&redis, &["HEXISTS", &workers, &before.id.get().to_string()]).await;
    assert_eq!(is_held, redis::Value::Int(1));
    assert_eq!(coordinator.worker_lease().unwrap().id, before.id);
}

#[tokio::test]
async fn an_unreachable_redis_is_named_without_its_password() {
    let redis = settings(RedisAddress::Url(Secret::new("redis://user:hush@127.0.0.1:1/0")));
    let refused =
        RedisCoordinator::open(redis, "one".to_owned(), timing(120)).await.err().unwrap().to_string();
    assert!(refused.contains("127.0.0.1:1"), "{refused}");
    assert!(!refused.contains("hush"), "{refused}");
}
