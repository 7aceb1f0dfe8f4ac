//! Uploads of API v1 with an announced size, on local disks: the node that creates an upload
//! preallocates its file, and any node accepts the parts.

use futures_util::future::join_all;
use osproxy_api::v1::{CreatedState, FileState, UploadState};
use serde_json::json;

use super::forwarding::start_three_nodes;
use crate::support::{Service, content, eventually, expect_problem};

const PART: usize = 64 << 10;

fn wish(name: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"name": name, "size": bytes.len(), "part_size": PART})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn whichever_node_is_asked_parts_lie_where_room_was_kept() {
    let mut nodes = start_three_nodes().await;
    let [one, two, three] = &nodes;
    let bytes = content(1, 5 * PART + 100);
    let upload = one.create_upload(&wish("film.mp4", &bytes)).await;
    let to_be = format!("video/.{}.mp4.{PART}", upload.uid);
    assert_eq!(one.objects(), std::slice::from_ref(&to_be), "preallocated on another node");
    let parts: Vec<_> = bytes.chunks(PART).collect();
    let sent = [(two, 6), (three, 1), (two, 3), (three, 2), (two, 4)];
    let sent = sent.iter().map(|(node, number)| node.v1_put_part(&upload, *number, parts[number - 1]));
    for answer in join_all(sent).await {
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }
    // The error of the other node reaches the client unchanged.
    expect_problem(two.v1_put_part(&upload, 5, &bytes[..5]).await, 422, "size_mismatch").await;
    expect_problem(three.v1_put_part(&upload, 7, &bytes[..5]).await, 422, "size_mismatch").await;
    for node in &nodes {
        let there = node.v1_status(&upload).await;
        assert_eq!((there.state, there.parts), (UploadState::Receiving, vec![1, 2, 3, 4, 6]));
        assert_eq!(there.size, Some(bytes.len() as u64));
    }
    let missing = expect_problem(two.v1_complete(&upload).await, 409, "parts_missing").await;
    assert_eq!(missing["missing"], json!([5]));
    assert_eq!(two.v1_put_part(&upload, 5, parts[4]).await.status(), 204);
    // The same part again, through another node.
    assert_eq!(three.v1_put_part(&upload, 5, parts[4]).await.status(), 204);
    assert_eq!(one.objects(), [to_be]);
    assert_eq!(three.v1_complete(&upload).await.status(), 200);
    assert_eq!(two.v1_complete(&upload).await.status(), 200, "completed twice");
    assert_eq!(one.objects(), [format!("video/{}.mp4", upload.uid)]);
    assert!(two.objects().is_empty() && three.objects().is_empty());
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    for node in &nodes {
        assert!(node.read(&upload.uid).await == bytes);
        assert_eq!(node.v1_status(&upload).await.state, UploadState::Stored);
        eventually("the content is verified", async || {
            (node.describe(&upload.uid).await.blake3.as_ref() == Some(&blake3)).then_some(())
        })
        .await;
        let again = node.create_upload(&json!({"name": "again.mp4", "blake3": blake3})).await;
        assert_eq!(again.state, CreatedState::Stored);
        assert!(node.read(&again.uid).await == bytes);
        expect_problem(node.v1_put_part(&upload, 1, parts[0]).await, 409, "already_stored").await;
    }
    nodes[0].database().wait_until_idle().await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn claims_are_verified_where_the_bytes_lie_whichever_node_completes() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(3, 2 * PART + 100);
    for (claimed, status, state) in [
        (crate::support::md5_hex(b"other"), 422, FileState::Corrupt),
        (crate::support::md5_hex(&bytes), 200, FileState::Stored),
    ] {
        let mut wanted = wish("x.bin", &bytes);
        wanted["md5"] = json!(claimed);
        let upload = nodes[0].create_upload(&wanted).await;
        for (number, part) in (1..).zip(bytes.chunks(PART)) {
            assert_eq!(nodes[number % 3].v1_put_part(&upload, number, part).await.status(), 204);
        }
        assert_eq!(nodes[1].v1_complete(&upload).await.status(), status);
        nodes[0].database().wait_until_idle().await;
        let file = nodes[2].describe(&upload.uid).await;
        assert_eq!(file.state, state);
        if state == FileState::Stored {
            assert_eq!(file.md5, Some(claimed));
        }
    }
    assert_eq!(nodes.iter().map(|node| node.objects().len()).collect::<Vec<_>>(), [1, 0, 0]);
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_is_given_up_through_any_node() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(4, 3 * PART);
    let nothing = async |nodes: &[Service; 3]| {
        eventually("nothing is left behind", async || {
            nodes.iter().all(|node| node.objects().is_empty()).then_some(())
        })
        .await;
    };
    for (creates, sends, aborts) in [(0, 1, 2), (1, 2, 0), (2, 2, 1), (0, 0, 1)] {
        let upload = nodes[creates].create_upload(&wish("x.bin", &bytes)).await;
        assert_eq!(nodes[sends].v1_put_part(&upload, 2, &bytes[PART..2 * PART]).await.status(), 204);
        assert_eq!(nodes[creates].objects().len(), 1);
        assert_eq!(nodes[aborts].v1_abort(&upload).await.status(), 204);
        for node in &nodes {
            expect_problem(node.v1_abort(&upload).await, 410, "file_gone").await;
            expect_problem(node.v1_put_part(&upload, 1, &bytes[..PART]).await, 410, "file_gone").await;
            expect_problem(node.v1_complete(&upload).await, 410, "file_gone").await;
        }
        nothing(&nodes).await;
    }
    // Nothing was sent yet; only the preallocated file exists.
    let upload = nodes[1].create_upload(&wish("x.bin", &bytes)).await;
    assert_eq!(nodes[2].v1_abort(&upload).await.status(), 204);
    nothing(&nodes).await;
    nodes[0].database().wait_until_idle().await;
    assert_eq!(nodes[0].sql("SELECT count(*) FROM parts").await, ["0"]);
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

/// A part that replaces another is an object of its own on the node of the preallocated file, until
/// a task merges it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_part_is_replaced_through_another_node() {
    let mut nodes = start_three_nodes().await;
    let (bytes, other) = (content(8, 3 * PART), content(9, PART));
    let upload = nodes[0].create_upload(&wish("x.bin", &bytes)).await;
    for (number, part) in (1..).zip(bytes.chunks(PART)) {
        assert_eq!(nodes[1].v1_put_part(&upload, number, part).await.status(), 204);
    }
    assert_eq!(nodes[2].v1_put_part(&upload, 2, &other).await.status(), 204);
    assert_eq!(nodes[1].v1_complete(&upload).await.status(), 200);
    let expected = [&bytes[..PART], &other, &bytes[2 * PART..]].concat();
    for node in &nodes {
        assert!(node.read(&upload.uid).await == expected);
    }
    nodes[0].database().wait_until_idle().await;
    for node in &nodes {
        assert!(node.read(&upload.uid).await == expected);
        let blake3 = blake3::hash(&expected).to_hex().to_string();
        assert_eq!(node.describe(&upload.uid).await.blake3, Some(blake3));
    }
    assert_eq!(nodes.iter().map(|node| node.objects().len()).collect::<Vec<_>>(), [1, 0, 0]);
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

/// The whole content may arrive at a node other than the one with the preallocated file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_in_one_piece_frees_the_room_that_another_node_keeps() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(5, 3 * PART);
    let upload = nodes[0].create_upload(&wish("x.bin", &bytes)).await;
    assert_eq!(nodes[1].put(&upload.links.as_ref().unwrap().content, &bytes).await.status(), 200);
    for node in &nodes {
        assert!(node.read(&upload.uid).await == bytes);
    }
    eventually("one object remains", async || {
        (nodes.iter().map(|node| node.objects().len()).sum::<usize>() == 1).then_some(())
    })
    .await;
    nodes[0].database().wait_until_idle().await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

/// An upload of one part is not preallocated: the first part decides on the node.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_of_one_part_lies_where_it_is_sent() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(6, PART - 1);
    let upload = nodes[0].create_upload(&wish("x.bin", &bytes)).await;
    assert_eq!(nodes[1].v1_put_part(&upload, 1, &bytes).await.status(), 204);
    assert_eq!(nodes[2].v1_complete(&upload).await.status(), 200);
    for node in &nodes {
        assert!(node.read(&upload.uid).await == bytes);
    }
    nodes[0].database().wait_until_idle().await;
    assert_eq!(nodes.iter().map(|node| node.objects().len()).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(nodes[0].describe(&upload.uid).await.blake3, Some(blake3::hash(&bytes).to_hex().to_string()));
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

/// While a node is down, its parts are not available.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_waits_for_the_node_that_keeps_its_room() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(7, 2 * PART);
    let upload = nodes[0].create_upload(&wish("x.bin", &bytes)).await;
    assert_eq!(nodes[1].v1_put_part(&upload, 1, &bytes[..PART]).await.status(), 204);
    nodes[0].kill().await;
    expect_problem(nodes[1].v1_put_part(&upload, 2, &bytes[PART..]).await, 503, "node_unavailable").await;
    expect_problem(nodes[2].v1_complete(&upload).await, 503, "node_unavailable").await;
    assert_eq!(nodes[2].v1_status(&upload).await.parts, [1]);
    // After an abort, the object is removed when its node is back.
    let given_up = nodes[1].create_upload(&wish("y.bin", &bytes)).await;
    assert_eq!(nodes[2].v1_put_part(&given_up, 1, &bytes[..PART]).await.status(), 204);
    nodes[1].kill().await;
    assert_eq!(nodes[2].v1_abort(&given_up).await.status(), 204);
    nodes[0].restart().await;
    nodes[1].restart().await;
    eventually("the part is accepted", async || {
        (nodes[1].v1_put_part(&upload, 2, &bytes[PART..]).await.status() == 204).then_some(())
    })
    .await;
    assert_eq!(nodes[2].v1_complete(&upload).await.status(), 200);
    assert!(nodes[1].read(&upload.uid).await == bytes);
    eventually("the object is removed", async || nodes[1].objects().is_empty().then_some(())).await;
    nodes[0].database().wait_until_idle().await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}
