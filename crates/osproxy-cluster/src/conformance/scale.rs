//! A large number of nodes on one Redis: worker ids for all of them, the cost of heartbeats and of
//! broadcast messages, and the crash of many nodes at once. docs/guides/capacity.md has the results.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use redis::Value;

use super::{describe, eventually, node, open, redis, redis_command, timing};
use crate::{ClusterTiming, Coordinator, Message, RedisCoordinator, RedisSettings};

/// Resources that Redis has used so far.
struct RedisUsage {
    cpu: f64,
    commands: f64,
    sent: f64,
    at: Instant,
}

async fn used(redis: &RedisSettings) -> RedisUsage {
    let Value::BulkString(text) = redis_command(redis, &["INFO", "everything"]).await else {
        panic!("no INFO")
    };
    let text = String::from_utf8(text).unwrap();
    let number = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().parse().unwrap()
    };
    RedisUsage {
        cpu: number("used_cpu_sys") + number("used_cpu_user"),
        commands: number("total_commands_processed"),
        sent: number("total_net_output_bytes"),
        at: Instant::now(),
    }
}

async fn start(redis: &RedisSettings, ids: std::ops::Range<usize>) -> Vec<RedisCoordinator> {
    let timing = ClusterTiming { heartbeat: Duration::from_secs(5), ..timing(10) };
    let starting = stream::iter(ids).map(async |number| {
        let id = format!("n{number:04}");
        let coordinator = open(redis, &id, timing).await;
        coordinator.announce(describe(node(&id))).await;
        coordinator
    });
    starting.buffer_unordered(50).collect().await
}

/// The worker ids that are held.
fn numbers(coordinators: &[RedisCoordinator]) -> HashSet<u16> {
    let held: Vec<_> = coordinators.iter().filter_map(|node| Some(node.worker_lease()?.id.get())).collect();
    let distinct: HashSet<_> = held.iter().copied().collect();
    assert_eq!(distinct.len(), held.len(), "two nodes hold the same worker id");
    distinct
}

/// `OSPROXY_SCALE_NODES` sets the number of nodes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn many_nodes_have_numbers_of_their_own() {
    let redis = redis("many");
    #[expect(clippy::disallowed_methods, reason = "the environment sets the size of the test")]
    let count = std::env::var("OSPROXY_SCALE_NODES").map_or(100, |text| text.parse().unwrap());
    let begun = Instant::now();
    let mut nodes = start(&redis, 0..count).await;
    let started = begun.elapsed();
    assert_eq!(numbers(&nodes).len(), count);
    let asked = Instant::now();
    assert_eq!(nodes[0].list_nodes().await.unwrap().len(), count);
    let listed = asked.elapsed();

    let asked = Instant::now();
    let looking = used(&redis).await;
    for number in 0..count {
        assert!(nodes[0].find_owner(&format!("local:n{number:04}")).await.unwrap().is_some());
    }
    let found = (used(&redis).await.cpu - looking.cpu) * 1e6 / f64::from(u32::try_from(count).unwrap());
    let looked = asked.elapsed() / u32::try_from(count).unwrap();

    let before = used(&redis).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = used(&redis).await;
    let seconds = (after.at - before.at).as_secs_f64();
    let (cpu, commands) = ((after.cpu - before.cpu) / seconds, (after.commands - before.commands) / seconds);

    let (messages, mut last) = (200, nodes[1].subscribe());
    let before = used(&redis).await;
    for blob_id in 1..=messages {
        nodes[0].publish(Message::BlobChanged { blob_id });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while !matches!(last.recv().await, Ok(crate::Event::Message(Message::BlobChanged { blob_id })) if blob_id == messages)
    {
    }
    let after = used(&redis).await;
    let deliveries = f64::from(u32::try_from(messages).unwrap()) * f64::from(u32::try_from(count).unwrap());
    let idle = cpu * (after.at - before.at).as_secs_f64();
    let delivery = ((after.cpu - before.cpu - idle) / deliveries).max(0.0) * 1e6;
    let bytes = (after.sent - before.sent) / deliveries;

    // Many nodes crash; as many new ones get their worker ids as the leases end.
    let dying = (count / 10).max(2);
    nodes.truncate(count - dying);
    let died = Instant::now();
    nodes.extend(start(&redis, count..count + dying).await);
    eventually("all have worker ids again", async || (numbers(&nodes).len() == count).then_some(())).await;
    let replaced = died.elapsed();

    super::report(&format!(
        "{count} nodes: started in {} ms, listed in {:.1} ms; heartbeats every 3.3 s: {commands:.0} \
         commands/s, {:.2} % of a core; lookup of a node: {} µs, {found:.0} µs of them CPU time of Redis; \
         broadcast: {delivery:.1} µs and {bytes:.0} bytes per receiver; {dying} crashed nodes were \
         replaced in {} ms (leases of 10 s)",
        started.as_millis(),
        listed.as_secs_f64() * 1e3,
        cpu * 100.0,
        looked.as_micros(),
        replaced.as_millis(),
    ));
}

/// There are 1,024 worker ids. A further node has none, logs an error, and gets one when another
/// node leaves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn there_is_no_number_for_more_nodes_than_there_are_numbers() {
    let redis = redis("full");
    let workers = format!("{{{}}}:workers", redis.prefix);
    for number in 0..1022 {
        redis_command(&redis, &["HSET", &workers, &number.to_string(), "x 99999999999999"]).await;
    }
    let mut nodes = start(&redis, 0..3).await;
    assert_eq!(numbers(&nodes).len(), 2);
    let holder = nodes.iter().position(|node| node.worker_lease().is_some()).unwrap();
    nodes.swap_remove(holder).leave().await;
    eventually("the third node has a worker id", async || (numbers(&nodes).len() == 2).then_some(())).await;
}
