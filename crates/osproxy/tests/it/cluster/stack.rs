//! Three nodes behind nginx, on PostgreSQL and Redis, each with breakable connections to both.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::Signal;

use crate::support::{
    Api, Certificate, Database, Nginx, Proxy, ProxyMode, Service, Store, eventually, host_and_port, redis_url,
};

pub const NODES: usize = 3;

/// A node with its proxies.
pub struct Node {
    pub service: Service,
    pub database: Proxy,
    pub redis: Proxy,
}

/// The whole cluster.
pub struct Stack {
    pub nodes: Vec<Node>,
    pub nginx: Nginx,
    /// The certificate of nginx, if it serves TLS.
    pub certificate: Option<Certificate>,
}

/// Returns a loopback address that nothing else uses, so that a restarted node can have its port
/// again.
pub fn host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    format!("127.{}.{}.{}", 1 + (process >> 8) % 250, process % 250, 10 + number)
}

async fn start_nodes(store: Option<&Store>, more: &[(&str, &str)]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let folder = tempfile::tempdir().unwrap();
        let database = match nodes.first() {
            None => Database::create_empty_on("OSPROXY_TEST_POSTGRES", folder.path()).await,
            Some(first) => first.service.database().shared_with_folder(folder.path()),
        };
        let to_database = Proxy::start(database.server()).await;
        let to_redis = Proxy::start(host_and_port(&redis_url())).await;
        let mut settings = database.settings_through(&to_database, Some(&to_redis));
        settings.extend(store.iter().flat_map(|store| store.settings()));
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let listen = format!("{}:8888", host());
        let mut service = Service::start_listening(&listen, folder, database, store.cloned(), settings).await;
        if let Some(first) = nodes.first() {
            service = service.with_key_of(&first.service);
        }
        nodes.push(Node { service, database: to_database, redis: to_redis });
        println!("node {number} listens on {listen}");
    }
    nodes
}

fn addresses(nodes: &[Node]) -> Vec<SocketAddr> {
    nodes.iter().map(|node| node.service.address).collect()
}

impl Stack {
    /// Starts the cluster: objects in a shared store, or on a local disk of each node.
    pub async fn start(store: Option<&Store>, more: &[(&str, &str)]) -> Self {
        let nodes = start_nodes(store, more).await;
        let nginx = Nginx::start(&host(), &addresses(&nodes)).await;
        Self { nodes, nginx, certificate: None }
    }

    /// As [`start`](Self::start), over TLS.
    pub async fn start_secured(store: Option<&Store>, more: &[(&str, &str)]) -> Self {
        let nodes = start_nodes(store, more).await;
        let (host, folder) = (host(), tempfile::tempdir().unwrap());
        let certificate = Certificate::from_script(folder.path(), &["localhost", &host]);
        let nginx = Nginx::start_secured(folder.path(), &host, &addresses(&nodes)).await;
        Self { nodes, nginx, certificate: Some(certificate) }
    }

    /// The cluster as one service, with its key.
    pub fn api(&self) -> Api {
        Api::new(self.nginx.address).with_key(self.nodes[0].service.key().unwrap())
    }

    /// Repairs all connections, resumes stopped nodes, and starts dead ones.
    pub async fn restore(&mut self) {
        for node in &mut self.nodes {
            node.database.set(ProxyMode::Forward);
            node.redis.set(ProxyMode::Forward);
            if node.service.is_running() {
                node.service.signal(Signal::CONT);
            } else {
                node.service.restart().await;
            }
        }
        for node in &self.nodes {
            let ready = async || {
                let asked = node.service.client().get(node.service.url("/health/ready")).send().await;
                (asked.ok()?.status() == 200).then_some(())
            };
            eventually("the node is ready", ready).await;
        }
    }

    /// Waits until all background work has finished, and asserts that metadata and objects agree.
    pub async fn assert_consistent(mut self) {
        for node in &mut self.nodes {
            node.service.kill().await;
        }
        // Waits until the registry has dropped the nodes: their writes then belong to no live node,
        // however recent they are.
        tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
        let first = self.nodes[0].service.database();
        for table in ["blobs", "parts"] {
            first
                .sql(&format!("UPDATE {table} SET created_at = 0 WHERE state IN ('writing', 'deleting')"))
                .await;
        }
        self.restore().await;
        self.nodes[0].service.database().wait_until_idle().await;
        for node in &mut self.nodes {
            node.service.kill().await;
        }
        for node in &mut self.nodes {
            let (code, said) = node.service.cli(&["fsck", "--deep"]).await;
            assert_eq!(code, 0, "{said}");
        }
    }
}
