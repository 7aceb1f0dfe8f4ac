//! Tests of all ways to connect to Redis: with a password, with TLS, through sentinels, to a
//! cluster.

#![expect(clippy::disallowed_methods, reason = "a test may block")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use osproxy_types::secret::Secret;
use tempfile::TempDir;

use super::{eventually, open, redis_command_at, run_suite, settings, timing};
use crate::{Coordinator, Event, Message, RedisAddress, RedisCoordinator, RedisSettings};

/// Redis servers of one test, killed on drop.
struct Servers {
    folder: TempDir,
    running: Vec<Child>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Servers {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), running: Vec::new() }
    }

    /// Starts a server with the settings `more`, and waits until the server accepts connections.
    async fn start(&mut self, port: u16, more: &str, arguments: &[&str]) {
        let folder = self.folder.path().join(port.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("redis.conf");
        let text = format!("port {port}\nbind 127.0.0.1\nsave \"\"\ndir {}\n{more}\n", folder.display());
        std::fs::write(&file, text).unwrap();
        let mut server = Command::new("redis-server");
        server.arg(&file).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(server.spawn().unwrap());
        let address = format!("127.0.0.1:{port}");
        eventually("the server is up", async || tokio::net::TcpStream::connect(&address).await.ok()).await;
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_user_with_a_password_connects() {
    let (mut servers, port) = (Servers::new(), free_port());
    servers.start(port, "user default off\nuser osproxy on >hush ~* &* +@all", &[]).await;
    let redis = RedisSettings {
        username: Some("osproxy".to_owned()),
        password: Some(Secret::new("hush")),
        ..settings(RedisAddress::Server("127.0.0.1".to_owned(), port))
    };
    run_suite(&open(&redis, "one", timing(120)).await, "one").await;
    let wrong = RedisSettings { password: Some(Secret::new("wrong")), ..redis };
    let refused = RedisCoordinator::open(wrong, "two".to_owned(), timing(120)).await;
    assert!(refused.is_err());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn certificates_are_verified() {
    let env = |name| std::env::var(name).expect("run this test with `just test-servers`");
    let redis = RedisSettings {
        ca_pem: Some(std::fs::read(env("OSPROXY_TEST_CA")).unwrap()),
        prefix: format!("test-tls-{}", std::process::id()),
        ..settings(RedisAddress::Url(Secret::new(env("OSPROXY_TEST_REDIS_TLS"))))
    };
    run_suite(&open(&redis, "one", timing(120)).await, "one").await;
    // Without the CA of the test, the certificate of the server is not trusted.
    let strict = RedisSettings { ca_pem: None, ..redis };
    assert!(RedisCoordinator::open(strict, "two".to_owned(), timing(120)).await.is_err());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn sentinels_name_the_master() {
    let mut servers = Servers::new();
    let (master, replica, sentinel) = (free_port(), free_port(), free_port());
    servers.start(master, "", &[]).await;
    servers.start(replica, &format!("replicaof 127.0.0.1 {master}"), &[]).await;
    let watched = format!(
        "sentinel monitor files 127.0.0.1 {master} 1\nsentinel down-after-milliseconds files 500\n\
         sentinel failover-timeout files 2000"
    );
    servers.start(sentinel, &watched, &["--sentinel"]).await;
    let replica_url = format!("redis://127.0.0.1:{replica}");
    let is_synced = async || {
        let role: Vec<redis::Value> = redis_command_at(&replica_url, &["ROLE"]).await;
        (role.get(3) == Some(&redis::Value::BulkString(b"connected".to_vec()))).then_some(())
    };
    eventually("the replica is in sync", is_synced).await;
    let sentinel_url = format!("redis://127.0.0.1:{sentinel}");
    let is_known = async || {
        let replicas: Vec<redis::Value> =
            redis_command_at(&sentinel_url, &["SENTINEL", "REPLICAS", "files"]).await;
        (replicas.len() == 1).then_some(())
    };
    eventually("the sentinel knows the replica", is_known).await;
    let sentinels = vec![("127.0.0.1".to_owned(), sentinel)];
    let redis = settings(RedisAddress::Sentinel("files".to_owned(), sentinels));
    let coordinator = open(&redis, "one", timing(120)).await;
    let before = coordinator.worker_lease().unwrap();
    servers.running[0].kill().unwrap();
    eventually("the failure is detected", async || (!coordinator.is_connected()).then_some(())).await;
    assert!(coordinator.worker_lease().is_some(), "the lease must still hold");
    eventually("the replica has taken over", async || coordinator.is_connected().then_some(())).await;
    assert_eq!(coordinator.worker_lease().unwrap().id, before.id);
    run_suite(&coordinator, "one").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_redis_cluster_conforms() {
    let mut servers = Servers::new();
    let ports = [free_port(), free_port(), free_port()];
    for port in ports {
        let bus = free_port();
        servers.start(port, &format!("cluster-enabled yes\ncluster-port {bus}"), &[]).await;
    }
    let nodes = ports.map(|port| format!("127.0.0.1:{port}"));
    let create = ["--cluster", "create", &nodes[0], &nodes[1], &nodes[2], "--cluster-yes"];
    assert!(run_redis_cli(servers.folder.path(), &create));
    let url = format!("redis://{}", nodes[0]);
    let is_ready = async || {
        let info: String = redis_command_at(&url, &["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok").then_some(())
    };
    eventually("the cluster is ready", is_ready).await;
    let redis = settings(RedisAddress::Cluster(ports.map(|port| ("127.0.0.1".to_owned(), port)).to_vec()));
    let listener = open(&redis, "listener", timing(120)).await;
    let mut events = listener.subscribe();
    let one = open(&redis, "one", timing(120)).await;
    one.publish(Message::TaskEnqueued);
    let received = tokio::time::timeout(super::TIMEOUT, events.recv()).await.unwrap().unwrap();
    assert_eq!(received, Event::Message(Message::TaskEnqueued));
    run_suite(&one, "one").await;
}

fn run_redis_cli(folder: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new("redis-cli");
    command.args(arguments).current_dir(folder).stdout(Stdio::null()).status().unwrap().success()
}
