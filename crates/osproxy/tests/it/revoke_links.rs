//! `revoke_links` across nodes; `links.rs` has the effect on links.

use reqwest::Method;

use crate::support::{Service, content, eventually, expect_json, expect_problem};
use osproxy_api::v1::CreatedLink;
use serde_json::json;

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn links_that_one_node_revokes_are_worth_nothing_at_another() {
    let one = Service::start_on("OSPROXY_TEST_POSTGRES", &[]).await;
    let two = one.start_second_node(&[]).await;
    let uid = one.store("x.bin", &content(1, 1000)).await;
    let answer = one.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 600})).await;
    let url = expect_json::<CreatedLink>(answer, 201).await.url;
    for node in [&one, &two] {
        // The node caches the file from now on.
        assert_eq!(node.get(&url).await.status(), 200);
    }
    let answer = two.v1(Method::DELETE, &format!("/files/{uid}/links"), None).await;
    assert_eq!(answer.status(), 204);
    expect_problem(two.get(&url).await, 403, "link_revoked").await;
    let refused = eventually("the other node rejects the link", async || {
        Some(one.get(&url).await).filter(|answer| answer.status() != 200)
    })
    .await;
    expect_problem(refused, 403, "link_revoked").await;
}
