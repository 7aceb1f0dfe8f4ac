//! One node of a cluster delivers, and another one takes over.

use osproxy_api::v1::{Webhook, WebhookState, Webhooks};
use serde_json::json;

use super::{LOCAL, create};
use crate::support::{Api, Receiver, Service, eventually, expect_json};

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

async fn configured(api: &Api, name: &str) -> Option<Webhook> {
    let list: Webhooks = expect_json(api.v1_get("/webhooks").await, 200).await;
    list.webhooks.into_iter().find(|webhook| webhook.config_name.as_deref() == Some(name))
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_with_the_earlier_configuration_deletes_no_endpoint() {
    let settings = [("CLUSTER__HEARTBEAT", "1"), ("TASKS__LEASE", "3"), ("TASKS__POLL_INTERVAL", "1")];
    let mut new = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let mut old = new.start_second_node(&settings).await;
    let receiver = Receiver::start().await;
    let endpoint = |name: &str| {
        let url = receiver.url();
        format!(
            "{{name: {name}, url: '{url}', secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, types: [file.completed]}}"
        )
    };
    let config = |endpoints: &str| LOCAL.replace('}', &format!(", endpoints: [{endpoints}]}}"));
    std::fs::write(old.folder().join("config.yaml"), config("")).unwrap();
    std::fs::write(new.folder().join("config.yaml"), config(&endpoint("added"))).unwrap();
    old.restart_configured().await;
    new.restart_configured().await;
    let first = old.store("a", b"x").await;
    let position = receiver.wait_for_event("file.completed", &first).await.sequence();
    eventually("the position is recorded", async || {
        configured(&new, "added").await.filter(|webhook| webhook.position >= position)
    })
    .await;
    old.restart_configured().await;
    let disabled = configured(&new, "added").await.unwrap();
    assert_eq!(disabled.state, WebhookState::Disabled);
    assert_eq!(disabled.reason.as_deref(), Some("not in the configuration of a node that started later"));
    let meanwhile = old.store("b", b"x").await;
    // Now the old node gets the new configuration, too.
    std::fs::write(old.folder().join("config.yaml"), config(&endpoint("added"))).unwrap();
    old.restart_configured().await;
    receiver.wait_for_event("file.completed", &meanwhile).await;
    let enabled = configured(&new, "added").await.unwrap();
    assert_eq!((enabled.state, &enabled.id), (WebhookState::Enabled, &disabled.id));
    let (code, said) = new.cli(&["webhook", "rm", &enabled.id]).await;
    assert!(code == 1 && said.contains("in the configuration file"), "{said}");

    std::fs::write(new.folder().join("config.yaml"), config("")).unwrap();
    new.restart_configured().await;
    let (code, said) = new.cli(&["webhook", "rm", &enabled.id]).await;
    assert_eq!(code, 0, "{said}");
    assert!(configured(&new, "added").await.is_none());
}
