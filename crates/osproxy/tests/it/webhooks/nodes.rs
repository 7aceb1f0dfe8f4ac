//! One node of a cluster delivers, and another one takes over.

use serde_json::json;

use super::{LOCAL, create};
use crate::support::{Receiver, Service, eventually};

const OWNER: &str = "SELECT lease_owner FROM tasks WHERE kind = 'deliver_webhooks' AND state = 'running'";

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn another_node_delivers_when_one_dies() {
    for server in ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"] {
        let settings = [("CLUSTER__HEARTBEAT", "1"), ("TASKS__LEASE", "3"), ("TASKS__POLL_INTERVAL", "1")];
        let mut one = Service::start_on(server, &settings).await;
        let mut two = one.start_second_node(&settings).await;
        for node in [&mut one, &mut two] {
            std::fs::write(node.folder().join("config.yaml"), LOCAL).unwrap();
            node.restart_configured().await;
        }
        let receiver = Receiver::start().await;
        let wish = json!({"url": receiver.url(), "types": ["file.completed"]});
        create(&one, &wish).await;
        let first = eventually("a node delivers", async || one.sql(OWNER).await.pop()).await;
        for node in [&one, &two] {
            let uid = node.store("a", b"x").await;
            receiver.wait_for_event("file.completed", &uid).await;
        }
        let is_one = one.log().contains(&first);
        let (mut dead, alive) = if is_one { (one, two) } else { (two, one) };
        dead.kill().await;
        let uid = alive.store("b", b"x").await;
        receiver.wait_for_event("file.completed", &uid).await;
        let second = alive.sql(OWNER).await.remove(0);
        assert_ne!(first, second);
        // A node that stops hands the task over at once.
        dead.resume_configured().await;
        alive.signal(rustix::process::Signal::TERM);
        let uid = dead.store("c", b"x").await;
        receiver.wait_for_event("file.completed", &uid).await;
        let third = eventually("the other node delivers", async || {
            dead.sql(OWNER).await.pop().filter(|owner| *owner != second)
        })
        .await;
        assert_ne!(first, third);
    }
}
