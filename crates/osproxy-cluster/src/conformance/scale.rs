//! Tests with a large number of nodes on one Redis: worker ids for all nodes, the cost of
//! heartbeats and of broadcast messages, and the crash of many nodes at the same time. For results,
//! see docs/guides/capacity.md.

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

async fn redis_usage(redis: &RedisSettings) -> RedisUsage {
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

/// Returns the worker ids of all nodes. Panics if two nodes hold the same worker id.
fn worker_ids(coordinators: &[RedisCoordinator]) -> HashSet<u16> {
    let ids: Vec<_> = coordinators.iter().filter_map(|node| Some(node.worker_lease()?.id.get())).collect();
    let distinct: HashSet<_> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), ids.len(), "two nodes hold the same worker id");
    distinct
}

/// `OSPROXY_SCALE_NODES` sets the number of nodes. The default is 100.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn many_nodes_have_distinct_worker_ids() {
    let redis = redis("many");
    #[expect(clippy::disallowed_methods, reason = "the environment sets the size of the test")]
    let count = std::env::var("OSPROXY_SCALE_NODES").map_or(100, |text| text.parse().unwrap());
    let start_time = Instant::now();
    let mut nodes = start(&redis, 0..count).await;
    let started = start_time.elapsed();
    assert_eq!(worker_ids(&nodes).len(), count);
    let before_list = Instant::now();
    assert_eq!(nodes[0].list_nodes().await.unwrap().len(), count);
    let listed = before_list.elapsed();

    let before_list = Instant::now();
    let before_lookups = redis_usage(&redis).await;
    for number in 0..count {
        assert!(nodes[0].find_owner(&format!("local:n{number:04}")).await.unwrap().is_some());
    }
    let cpu_per_lookup =
        (redis_usage(&redis).await.cpu - before_lookups.cpu) * 1e6 / f64::from(u32::try_from(count).unwrap());
    let time_per_lookup = before_list.elapsed() / u32::try_from(count).unwrap();

    let before = redis_usage(&redis).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = redis_usage(&redis).await;
    let seconds = (after.at - before.at).as_secs_f64();
    let (cpu, commands) = ((after.cpu - before.cpu) / seconds, (after.commands - before.commands) / seconds);

    let (messages, mut last) = (200, nodes[1].subscribe());
    let before = redis_usage(&redis).await;
    for blob_id in 1..=messages {
        nodes[0].publish(Message::BlobChanged { blob_id });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while !matches!(last.recv().await, Ok(crate::Event::Message(Message::BlobChanged { blob_id })) if blob_id == messages)
    {
    }
    let after = redis_usage(&redis).await;
    let deliveries = f64::from(u32::try_from(messages).unwrap()) * f64::from(u32::try_from(count).unwrap());
    let idle = cpu * (after.at - before.at).as_secs_f64();
    let delivery = ((after.cpu - before.cpu - idle) / deliveries).max(0.0) * 1e6;
    let bytes = (after.sent - before.sent) / deliveries;

    // Many nodes crash, and the same number of new nodes start. In the end, all nodes have worker
    // ids.
    let crashed = (count / 10).max(2);
    nodes.truncate(count - crashed);
    let crash_time = Instant::now();
    nodes.extend(start(&redis, count..count + crashed).await);
    eventually("all nodes have worker ids again", async || (worker_ids(&nodes).len() == count).then_some(()))
        .await;
    let replaced = crash_time.elapsed();

    super::report(&format!(
        "{count} nodes: started in {} ms, listed in {:.1} ms; heartbeats every 3.3 s: {commands:.0} \
         commands/s, {:.2} % of a core; lookup of a node: {} µs, {cpu_per_lookup:.0} µs of them CPU time of Redis; \
         broadcast: {delivery:.1} µs and {bytes:.0} bytes per receiver; {crashed} crashed nodes were \
         replaced in {} ms (leases of 10 s)",
        started.as_millis(),
        listed.as_secs_f64() * 1e3,
        cpu * 100.0,
        time_per_lookup.as_micros(),
        replaced.as_millis(),
    ));
}

/// While all 1,024 worker ids are in use, a further node has none. It logs an error, and gets a
/// worker id when another node leaves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_node_beyond_the_worker_ids_has_none() {
    let redis = redis("full");
    let workers = format!("{{{}}}:workers", redis.prefix);
    for number in 0..1022 {
        redis_command(&redis, &["HSET", &workers, &number.to_string(), "x 99999999999999"]).await;
    }
    let mut nodes = start(&redis, 0..3).await;
    assert_eq!(worker_ids(&nodes).len(), 2);
    let holder = nodes.iter().position(|node| node.worker_lease().is_some()).unwrap();
    nodes.swap_remove(holder).leave().await;
    eventually("the third node has a worker id", async || (worker_ids(&nodes).len() == 2).then_some(()))
        .await;
}
