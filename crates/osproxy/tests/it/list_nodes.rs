use osproxy_api::v1::Nodes;

use crate::support::{Service, eventually, expect_json, expect_problem};

#[tokio::test]
async fn a_node_that_is_alone_knows_itself() {
    let service = Service::start().await;
    let nodes: Nodes = expect_json(service.v1_get("/nodes").await, 200).await;
    let [node] = nodes.nodes.try_into().unwrap();
    assert_eq!(node.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((node.stores.len(), node.own_stores.len()), (1, 1));
    assert!(node.heard_at >= node.started_at && node.started_at.starts_with("20"));
    expect_problem(service.v1_get("/nodes?json=1").await, 400, "invalid_argument").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_know_each_other() {
    let one = Service::start_on("OSPROXY_TEST_POSTGRES", &[]).await;
    let two = one.start_second_node(&[]).await;
    for service in [&one, &two] {
        eventually("both nodes are registered", async || {
            let nodes: Nodes = expect_json(service.v1_get("/nodes").await, 200).await;
            (nodes.nodes.len() == 2).then_some(())
        })
        .await;
    }
}
