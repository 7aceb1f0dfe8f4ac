//! Uploads over tus: a client may change the node with every request.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::forwarding::{QUICK, SERVER, start_three_nodes};
use crate::{
    resumable::Client,
    support::{Api, Service, Store, StoreServer, content, eventually, expect_problem, tus},
};

const MIB: usize = 1 << 20;
/// Part size of the small uploads, in bytes.
const PART: usize = 64 << 10;

/// Three nodes on a shared store.
async fn start_on_store(store: &Store) -> [Service; 3] {
    let settings = store.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.extend([("CLUSTER__HEARTBEAT", "1"), ("TASKS__POLL_INTERVAL", "1")]);
    let one = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let (two, three) = (one.start_second_node(&settings).await, one.start_second_node(&settings).await);
    [one, two, three]
}

/// Creates an upload, and returns its URL.
async fn create(api: &Api, size: usize, part_size: usize) -> String {
    let wish = json!({"name": "x.bin", "size": size, "part_size": part_size, "expires_in": 3600});
    api.create_upload(&wish).await.links.unwrap().tus
}

/// A request in the form for clients that cannot send its method.
fn overridden(api: &Api, method: &str, url: &str) -> RequestBuilder {
    tus::request(api, Method::POST, url).header("x-http-method-override", method)
}

/// Appends all bytes, in pieces, with every request to another node.
async fn send_through_all(nodes: &[Service; 3], url: &str, bytes: &[u8], piece: usize) {
    let (mut at, mut turn) = (0, 0);
    let mut next = || {
        turn += 1;
        &nodes[turn % nodes.len()]
    };
    while at < bytes.len() {
        assert_eq!(tus::offset(next(), url).await, at);
        let end = bytes.len().min(at + piece);
        tus::append(next(), url, at, &bytes[at..end]).await;
        let answer = overridden(next(), "HEAD", url).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), tus::number(answer.headers(), "upload-offset")),
            (200, Some(end))
        );
        at = bytes.len().min(end + piece / 2);
        let patch = overridden(next(), "PATCH", url).header("upload-offset", end);
        let patch = patch.header("content-type", "application/offset+octet-stream");
        tus::assert_appended(patch.body(bytes[end..at].to_vec()).send().await.unwrap(), at).await;
    }
    assert_eq!(tus::offset(next(), url).await, bytes.len());
}

async fn assert_consistent(mut nodes: [Service; 3]) {
    nodes[0].database().wait_until_idle().await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn any_node_appends_to_an_upload_on_the_disk_of_one() {
    let nodes = start_three_nodes().await;
    let bytes = content(1, 5 * PART + 100);
    // The node that creates an upload preallocates its file; without a size, the node with the first
    // byte keeps it.
    let deferred = tus::request(&nodes[1], Method::POST, "/tus").header("upload-defer-length", 1);
    let deferred = deferred.send().await.unwrap().headers()["location"].to_str().unwrap().to_owned();
    for (home, url) in [(0, create(&nodes[0], bytes.len(), PART).await), (2, deferred)] {
        send_through_all(&nodes, &url, &bytes, 50_000).await;
        if home == 2 {
            let patch = tus::patch(&nodes[0], &url, bytes.len(), 0).header("upload-length", bytes.len());
            tus::assert_appended(patch.send().await.unwrap(), bytes.len()).await;
        }
        for node in &nodes {
            assert!(node.read(tus::uid(&url)).await == bytes);
        }
        let wrong = tus::patch(&nodes[1], &url, 5, 1).body("x").send().await.unwrap();
        assert_eq!(tus::number(wrong.headers(), "upload-offset"), Some(bytes.len()));
        expect_problem(wrong, 409, "offset_mismatch").await;
    }
    // The second upload has the content of the first.
    nodes[0].database().wait_until_idle().await;
    assert_eq!(nodes.iter().map(|node| node.objects().len()).sum::<usize>(), 1);
    assert_consistent(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn any_node_terminates_an_upload() {
    let nodes = start_three_nodes().await;
    let bytes = content(2, 3 * PART);
    for (creates, sends, terminates) in [(0, 1, 2), (1, 2, 0), (2, 0, 0)] {
        let url = create(&nodes[creates], bytes.len(), PART).await;
        tus::append(&nodes[sends], &url, 0, &bytes[..=PART]).await;
        let answer = if creates == 0 {
            overridden(&nodes[terminates], "DELETE", &url)
        } else {
            tus::request(&nodes[terminates], Method::DELETE, &url)
        };
        assert_eq!(answer.send().await.unwrap().status(), 204);
        for node in &nodes {
            let answer = tus::request(node, Method::HEAD, &url).send().await.unwrap();
            assert_eq!(answer.status(), 410);
            let patch = tus::patch(node, &url, PART + 1, 1).body("x").send().await.unwrap();
            expect_problem(patch, 410, "file_gone").await;
        }
        eventually("nothing is left behind", async || {
            nodes.iter().all(|node| node.objects().is_empty()).then_some(())
        })
        .await;
    }
    assert_consistent(nodes).await;
}

/// Three nodes on their own disks, each with another URL.
async fn start_with_urls() -> [Service; 3] {
    let settings = |url: &'static str| [&QUICK[..], &[("SERVER__PUBLIC_URL", url)]].concat();
    let one = Service::start_on(SERVER, &settings("https://one.example")).await;
    let two = one.start_second_node(&settings("https://two.example")).await;
    let three = one.start_second_node(&settings("https://three.example")).await;
    [one, two, three]
}

/// By the IETF draft. Whichever node the client calls, its URL is in `Location`, and the content goes
/// to the node that has preallocated the file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn any_node_receives_content_for_the_disk_of_another() {
    let nodes = start_with_urls().await;
    let urls = ["https://one.example", "https://two.example", "https://three.example"];
    for (home, asked, seed) in [(0, 1, 10), (2, 0, 20), (1, 1, 30)] {
        let bytes = content(seed, 5 * PART + 100);
        let wish = json!({"name": "x.bin", "size": bytes.len(), "part_size": PART, "expires_in": 3600});
        let put = async |fields: &str| {
            let links = nodes[home].create_upload(&wish).await.links.unwrap();
            let path = links.content.strip_prefix(urls[home]).unwrap_or(&links.content);
            let mut client = Client::connect(&nodes[asked], 8).await;
            let fields = format!("Content-Length: {}\r\n{fields}", bytes.len());
            client.send_head("PUT", path, &fields).await;
            let location = client.interim().await.text("location").to_owned();
            let path = location.strip_prefix(urls[asked]).expect("a URL of the node that was called");
            assert_eq!(path, links.tus.strip_prefix(urls[home]).unwrap_or(&links.tus));
            (client, location.clone(), path.to_owned())
        };
        // It breaks off, and continues on the third node.
        let (mut client, _, url) = put("Upload-Complete: ?1\r\n").await;
        let sent = 2 * PART + 1000;
        client.send(&bytes[..sent]).await;
        let parts = format!(
            "SELECT number FROM parts WHERE state = 'stored' AND blob_id = \
             (SELECT blob_id FROM files WHERE uid = {})",
            tus::uid(&url)
        );
        eventually("a part is stored", async || (!nodes[0].sql(&parts).await.is_empty()).then_some(())).await;
        drop(client);
        let third = &nodes[(0..3).find(|node| ![home, asked].contains(node)).unwrap()];
        let mut client = Client::connect(third, 8).await;
        let cut = client.offset(&url).await;
        assert!((PART..=sent).contains(&cut), "{cut}");
        let answer = client.append(&url, cut, &bytes[cut..], true).await;
        assert_eq!((answer.status, answer.completes(8)), (200, Some(true)), "{answer:?}");
        for node in &nodes {
            assert!(node.read(tus::uid(&url)).await == bytes);
        }
        // At once. It is the same content, so it is stored once.
        let (mut client, location, url) = put("Upload-Complete: ?1\r\n").await;
        client.send(&bytes).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.completes(8)), (200, Some(true)), "{answer:?}");
        assert_eq!((answer.text("location"), &answer.json()["state"]), (&*location, &json!("stored")));
        for node in &nodes {
            assert!(node.read(tus::uid(&url)).await == bytes);
        }
    }
    nodes[0].database().wait_until_idle().await;
    assert_eq!(nodes.each_ref().map(|node| node.objects().len()), [1; 3]);
    assert_consistent(nodes).await;
}

/// Sends part of a body to the first node, which does not get the rest, and continues on the others.
async fn end_a_stale_request(nodes: &[Service; 3]) {
    let bytes = content(3, 3 * MIB);
    let url = create(&nodes[1], bytes.len(), 8 * MIB).await;
    tus::append(&nodes[1], &url, 0, &bytes[..1000]).await;
    for (from, sent) in [(1000, MIB), (1000 + MIB, MIB)] {
        let stale = tus::send_some(&nodes[0], &url, from, &bytes[from..], sent).await;
        let ended = tokio::spawn(stale.read_to_end());
        let mut told = from;
        // The first question may arrive before the request that it ends.
        eventually("the request is ended", async || {
            let now = tus::offset(&nodes[2], &url).await;
            assert!(now >= told, "{now} after {told}");
            told = now;
            ended.is_finished().then_some(())
        })
        .await;
        let answer = ended.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("superseded"), "{answer}");
        assert_eq!(tus::offset(&nodes[2], &url).await, from + sent, "what arrived must stay");
    }
    // A request that appends does the same, even if it arrives at once, and is not ended itself.
    let from = 1000 + 2 * MIB;
    let stale = tus::send_some(&nodes[0], &url, from, &bytes[from..], 1000).await;
    let ended = tokio::spawn(stale.read_to_end());
    eventually("the request is running", async || {
        for node in nodes {
            let page = node.get("/metrics").await.text().await.unwrap();
            if page.contains(r#"osproxy_transfers_in_flight{direction="upload"} 1"#) {
                return Some(());
            }
        }
        None
    })
    .await;
    let body = &bytes[from..from + 2000];
    let mut newer = tus::send_some(&nodes[2], &url, from, body, 1).await;
    let answer = ended.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("superseded"), "{answer}");
    newer.send(&body[1..]).await;
    let answer = String::from_utf8(newer.read_some().await).unwrap();
    // If the older request ends first, its bytes are there.
    let end = if answer.starts_with("HTTP/1.1 204 ") { from + 2000 } else { from + 1000 };
    assert!(end == from + 2000 || answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert_eq!(tus::offset(&nodes[0], &url).await, end);
    tus::append(&nodes[1], &url, end, &bytes[end..]).await;
    assert!(nodes[2].read(tus::uid(&url)).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_newer_request_ends_a_stale_one_that_was_forwarded() {
    let nodes = start_three_nodes().await;
    end_a_stale_request(&nodes).await;
    assert_consistent(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_newer_request_ends_a_stale_one_on_another_node() {
    let store = Store::new(StoreServer::S3);
    let nodes = start_on_store(&store).await;
    end_a_stale_request(&nodes).await;
    assert_consistent(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn every_node_continues_on_a_shared_store() {
    let store = Store::new(StoreServer::S3);
    let nodes = start_on_store(&store).await;
    // Larger parts are streamed, and incomplete ones become objects.
    for (part_size, size, piece) in [(8 * MIB, 12 * MIB + 100, 3 * MIB), (32 * MIB, 34 * MIB, 12 * MIB)] {
        let bytes = content(size as u64, size);
        let url = create(&nodes[0], size, part_size).await;
        send_through_all(&nodes, &url, &bytes, piece).await;
        for node in &nodes {
            assert!(node.read(tus::uid(&url)).await == bytes);
        }
    }
    assert_consistent(nodes).await;
}

/// Kills one node after the other in the middle of a PATCH, and continues on the next. `part_size`
/// is that of the upload.
async fn kill_in_the_middle(mut nodes: [Service; 3], part_size: usize) {
    let bytes = content(4, 7 * part_size + 100);
    let url = create(&nodes[0], bytes.len(), part_size).await;
    let recorded = format!("SELECT received FROM files WHERE uid = {}", tus::uid(&url));
    let mut told = 0;
    for (victim, arrives) in [(1, 2), (2, 4), (0, 6)] {
        let next = (victim + 1) % 3;
        let sent = arrives * part_size + part_size / 2 - told;
        let open = tus::send_some(&nodes[victim], &url, told, &bytes[told..], sent).await;
        let mut durable = 0;
        eventually("parts are stored", async || {
            durable = nodes[next].sql(&recorded).await[0].parse().unwrap();
            (durable >= (arrives - 1) * part_size).then_some(())
        })
        .await;
        nodes[victim].kill().await;
        drop(open);
        // With local disks, the node with the parts may be the one that was killed.
        let answer = tus::request(&nodes[next], Method::HEAD, &url).send().await.unwrap();
        if answer.status() != 200 {
            // Clients wait.
            let code = answer.headers()["osproxy-error"].to_str().unwrap();
            assert_eq!((answer.status().as_u16(), code), (423, "node_unavailable"));
            nodes[victim].restart().await;
        }
        let found = eventually("the upload can continue", async || {
            let answer = tus::request(&nodes[next], Method::HEAD, &url).send().await.unwrap();
            tus::number(answer.headers(), "upload-offset").filter(|_| answer.status() == 200)
        })
        .await;
        assert!(found >= durable && found >= told, "{found} after {durable} and {told}");
        tus::append(&nodes[next], &url, found, &bytes[found..found + 1000]).await;
        told = found + 1000;
        assert_eq!(tus::offset(&nodes[next], &url).await, told);
        if !nodes[victim].is_running() {
            nodes[victim].restart().await;
        }
    }
    tus::append(&nodes[1], &url, told, &bytes[told..]).await;
    for node in &nodes {
        assert!(node.read(tus::uid(&url)).await == bytes);
    }
    eventually("the killed processes are unlisted", async || {
        let (code, said) = nodes[0].cli(&["nodes", "--json"]).await;
        assert_eq!(code, 0, "{said}");
        (said.lines().count() == nodes.len()).then_some(())
    })
    .await;
    // What they were writing is removed, however recent it is.
    nodes[0].sql("UPDATE parts SET created_at = 0 WHERE state = 'writing'").await;
    for node in &mut nodes {
        node.kill_and_restart().await;
    }
    assert_consistent(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn another_node_continues_after_one_was_killed() {
    let store = Store::new(StoreServer::S3);
    Box::pin(kill_in_the_middle(start_on_store(&store).await, 8 * MIB)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_on_a_disk_continues_after_nodes_were_killed() {
    Box::pin(kill_in_the_middle(start_three_nodes().await, MIB)).await;
}
