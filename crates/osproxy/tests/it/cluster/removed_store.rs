//! A cluster whose store was removed from the configuration.

use osproxy_api::v1::CreatedState;
use serde_json::json;

use crate::support::{Service, Store, StoreServer, content};

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn content_in_a_store_that_no_node_has_is_not_shared() {
    let settings = Store::new(StoreServer::S3).settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut node = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let bytes = content(1, 5_000);
    node.store("x.bin", &bytes).await;
    node.set_setting("S3__ENABLED", "false");
    node.kill_and_restart().await;
    // For some seconds after its start, the node does not know whether it knows all other nodes.
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    let known = node.create_upload(&json!({"name": "known.bin", "blake3": blake3})).await;
    assert_eq!(known.state, CreatedState::Pending);
    let uid = node.store("again.bin", &bytes).await;
    assert!(node.read(&uid).await == bytes);
    let known = node.create_upload(&json!({"name": "known.bin", "blake3": blake3})).await;
    assert_eq!(known.state, CreatedState::Stored);
}
