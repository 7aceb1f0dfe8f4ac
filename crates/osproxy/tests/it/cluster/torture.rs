//! Nodes are killed, stopped, restarted and cut off while clients work through nginx: nothing
//! acknowledged is lost, no wrong byte is served, no uid is issued twice, all work finishes, and no
//! orphan is left.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::{
    client::{Client, Ledger, RequestTime},
    stack::{NODES, Stack},
};
use crate::support::{ProxyMode, Random, Store, StoreServer};

const CLIENTS: u64 = 4;

/// A fault that is injected into nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeFault {
    Kill,
    Pause,
    Restart,
    CutRedis,
    CutDatabase,
    SilenceDatabase,
}

const BLOWS: [NodeFault; 6] = [
    NodeFault::Kill,
    NodeFault::Pause,
    NodeFault::Restart,
    NodeFault::CutRedis,
    NodeFault::CutDatabase,
    NodeFault::SilenceDatabase,
];

/// Short timeouts, so that the test does not take long.
const SETTINGS: [(&str, &str); 8] = [
    ("CLUSTER__HEARTBEAT", "1"),
    ("CLUSTER__FORWARD_TIMEOUT", "3"),
    ("TASKS__LEASE", "3"),
    ("TASKS__POLL_INTERVAL", "1"),
    ("TASKS__MIN_BACKOFF", "1"),
    ("DATABASE__TIMEOUT", "3"),
    ("SERVER__DRAIN_DELAY", "3"),
    ("LOG__LEVEL", "warn"),
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Duration in seconds and seed: `OSPROXY_CLUSTER_SECONDS`, `OSPROXY_TORTURE_SEED`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn nodes_that_share_a_store_lose_nothing() {
    // Parts large enough for the store's multipart upload, and smaller ones.
    torture(Some(&Store::new(StoreServer::S3)), 20_000..6_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn nodes_with_disks_of_their_own_lose_nothing() {
    torture(None, 1_000..300_000).await;
}

async fn torture(store: Option<&Store>, parts: Range<usize>) {
    let (seconds, seed) = (number("OSPROXY_CLUSTER_SECONDS", 40), number("OSPROXY_TORTURE_SEED", 1));
    println!("{seconds} seconds, seed {seed}");
    let mut stack = Stack::start(store, &SETTINGS).await;
    let ledger = Arc::<Ledger>::default();
    let api = stack.api();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(Client::new(&api, ledger.clone(), seed * 1_000 + client, parts.clone()).run());
    }
    let mut random = Random::new(seed);
    let (start, mut blows, mut turn) = (Instant::now(), Vec::new(), random.index(BLOWS.len()));
    while start.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(500 + random.below(1_000))).await;
        // In turn, so that a short run has them all.
        let blow = BLOWS[turn % BLOWS.len()];
        turn += 1;
        blows.push((blow, Instant::now()));
        inject(&mut stack, blow, &mut random).await;
        assert!(clients.try_join_next().is_none_or(|ended| ended.is_ok()), "a client failed");
    }
    stack.restore().await;
    let restored = Instant::now();
    ledger.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client failed");
    }
    println!("clients finished {} ms after the last fault", restored.elapsed().as_millis());
    report(&ledger, &blows, start);
    let stored = ledger.stored.lock().unwrap().clone();
    assert!(stored.len() as u64 >= CLIENTS, "only {} files were stored", stored.len());
    let issued = ledger.issued.lock().unwrap().clone();
    let distinct: HashSet<_> = issued.iter().collect();
    assert_eq!(distinct.len(), issued.len(), "a uid was issued twice");
    let reader = Client::new(&api, ledger.clone(), seed, parts);
    for file in &stored {
        reader.check(file, None).await;
    }
    stack.assert_consistent().await;
}

/// Injects a fault into one node or all of them, and ends it after a while.
async fn inject(stack: &mut Stack, blow: NodeFault, random: &mut Random) {
    let victim = random.index(NODES);
    let while_ = Duration::from_millis(500 + random.below(3_500));
    let all = random.percent(30);
    let all =
        all && matches!(blow, NodeFault::CutRedis | NodeFault::CutDatabase | NodeFault::SilenceDatabase);
    println!(
        "{blow:?} {} for {} ms",
        if all { "all".to_owned() } else { victim.to_string() },
        while_.as_millis()
    );
    let cut = |line: ProxyMode, of: fn(&super::stack::Node) -> &crate::support::Proxy| {
        for (number, node) in stack.nodes.iter().enumerate() {
            if all || number == victim {
                of(node).set(line);
            }
        }
    };
    match blow {
        NodeFault::Kill => {
            stack.nodes[victim].service.kill().await;
            tokio::time::sleep(while_).await;
            stack.nodes[victim].service.restart().await;
        }
        NodeFault::Pause => {
            stack.nodes[victim].service.signal(Signal::STOP);
            tokio::time::sleep(while_).await;
            stack.nodes[victim].service.signal(Signal::CONT);
        }
        NodeFault::Restart => {
            stack.nodes[victim].service.signal(Signal::TERM);
            assert!(stack.nodes[victim].service.exit_status().await.success());
            stack.nodes[victim].service.restart().await;
        }
        NodeFault::CutRedis => {
            cut(ProxyMode::Close, |node| &node.redis);
            tokio::time::sleep(while_).await;
            cut(ProxyMode::Forward, |node| &node.redis);
        }
        NodeFault::CutDatabase => {
            cut(ProxyMode::Close, |node| &node.database);
            tokio::time::sleep(while_).await;
            cut(ProxyMode::Forward, |node| &node.database);
        }
        NodeFault::SilenceDatabase => {
            cut(ProxyMode::Stall, |node| &node.database);
            tokio::time::sleep(while_).await;
            cut(ProxyMode::Forward, |node| &node.database);
        }
    }
}

/// Prints how long clients waited around each kind of fault until their request was answered.
fn report(ledger: &Ledger, blows: &[(NodeFault, Instant)], start: Instant) {
    let (waits, files) = (ledger.waits.lock().unwrap(), ledger.stored.lock().unwrap().len());
    let again: u32 = waits.iter().map(|wait| wait.retries).sum();
    println!("{} requests, {files} files, {again} retries", waits.len());
    println!(
        "{:<16} {:>5} {:>11} {:>20} {:>16}",
        "blow", "times", "sent again", "longest wait, median", "longest of all"
    );
    for kind in BLOWS {
        let (mut longest, mut again) = (Vec::new(), 0);
        for (at, (_, struck)) in blows.iter().enumerate().filter(|(_, (blow, _))| *blow == kind) {
            let next = blows.get(at + 1).map_or(Instant::now(), |(_, next)| *next);
            let during = |wait: &&RequestTime| wait.started < next && wait.started + wait.took > *struck;
            longest.push(waits.iter().filter(during).map(|wait| wait.took.as_millis()).max().unwrap_or(0));
            again += waits.iter().filter(during).map(|wait| wait.retries).sum::<u32>();
        }
        longest.sort_unstable();
        if let Some(most) = longest.last() {
            let (times, median) = (longest.len(), longest[longest.len() / 2]);
            println!("{:<16} {times:>5} {again:>11} {median:>17} ms {most:>13} ms", format!("{kind:?}"));
        }
    }
    println!("{} s in all", start.elapsed().as_secs());
}

/// All nodes are restarted one after the other, and no request fails.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_rolling_restart_fails_no_request() {
    let store = Store::new(StoreServer::S3);
    let mut stack = Stack::start(Some(&store), &SETTINGS).await;
    let ledger = Arc::<Ledger>::default();
    ledger.strict.store(true, Ordering::SeqCst);
    let api = stack.api();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(Client::new(&api, ledger.clone(), client, 20_000..2_000_000).run());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for node in &mut stack.nodes {
        let start = Instant::now();
        node.service.signal(Signal::TERM);
        assert!(node.service.exit_status().await.success());
        let stopped = start.elapsed().as_millis();
        node.service.restart().await;
        println!("stopped in {stopped} ms, ready again after {} ms", start.elapsed().as_millis());
        // nginx avoids the node for a while longer.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    ledger.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a request failed");
    }
    println!(
        "{} requests, {} files, none failed",
        ledger.waits.lock().unwrap().len(),
        ledger.stored.lock().unwrap().len()
    );
    stack.assert_consistent().await;
}
