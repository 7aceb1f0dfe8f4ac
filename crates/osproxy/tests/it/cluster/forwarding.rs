//! On local disks: any node can be asked, and the one with the object answers.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use reqwest::{Response, header::HeaderMap};
use rustix::process::Signal;

use crate::support::{Service, content, eventually, expect_v0_error};

pub const SERVER: &str = "OSPROXY_TEST_POSTGRES";
/// Short timeouts, so that a dead node is given up soon.
pub const QUICK: [(&str, &str); 3] =
    [("CLUSTER__HEARTBEAT", "1"), ("CLUSTER__FORWARD_TIMEOUT", "2"), ("TASKS__POLL_INTERVAL", "1")];

pub async fn start_three_nodes() -> [Service; 3] {
    let one = Service::start_on(SERVER, &QUICK).await;
    let (two, three) = (one.start_second_node(&QUICK).await, one.start_second_node(&QUICK).await);
    [one, two, three]
}

/// Status and headers of an answer, without those that differ every time.
fn comparable(answer: &Response) -> (u16, HeaderMap) {
    let mut headers = answer.headers().clone();
    headers.remove("date");
    headers.remove("x-request-id");
    // Its `max-age` decreases every second.
    headers.remove("cache-control");
    (answer.status().as_u16(), headers)
}

async fn assert_node_unavailable(answer: Response) {
    assert_eq!(answer.headers()["osproxy-error"], "node_unavailable");
    assert_eq!(answer.headers()["retry-after"], "1");
    let said = expect_v0_error(answer, 503).await;
    assert!(said.contains("the node that has the content"), "{said}");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn any_node_can_be_asked() {
    let mut nodes = start_three_nodes().await;
    let [one, two, three] = &nodes;
    let bytes = content(1, 3_000_000);
    let link = one.upload_link("film.mp4").await;
    // The node that receives the first part keeps the upload.
    let parts: Vec<_> = bytes.chunks(500_000).collect();
    for (at, number) in [2, 1, 3, 4, 6, 5].into_iter().enumerate() {
        let answer = nodes[(at + 1) % 3].put_part(&link, number, parts[number as usize - 1]).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    // As a form, and a second time.
    let form =
        reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(parts[3].to_vec()));
    let url = one.url(&format!("{}&chunkNum=4", link.url.multi.upload));
    assert_eq!(one.client().put(url).multipart(form).send().await.unwrap().status(), 200);
    // The error of the other node reaches the client unchanged.
    let wrong = three.put(&format!("{}&chunkNum=5&md5={:032}", link.url.multi.upload, 0), parts[4]).await;
    assert_eq!(wrong.headers()["osproxy-error"], "digest_mismatch");
    expect_v0_error(wrong, 422).await;
    assert!(one.objects().is_empty() && three.objects().is_empty());
    for node in &nodes {
        assert_eq!(node.checkpoint(&link.uid).await, [1, 2, 3, 4, 5, 6]);
    }
    expect_v0_error(one.merge(&link, 7, &bytes).await, 422).await;
    assert_eq!(three.merge(&link, 6, &bytes).await.status(), 200);
    assert_eq!(one.merge(&link, 6, &bytes).await.status(), 200);
    for node in &nodes {
        assert!(node.read(&link.uid).await == bytes);
    }
    two.wait_until_merged(&link.uid).await;
    assert_eq!(two.objects(), [format!("video/{}.mp4", link.uid)]);
    // Whichever node is asked, status and headers are those of the node with the object.
    let link = one.download_link(&link.uid).await.unwrap();
    for (name, value, status) in [
        ("range", "bytes=10-19", 206),
        ("range", "bytes=-5", 206),
        ("range", "bytes=3000000-", 416),
        ("if-none-match", "*", 304),
        ("if-match", "\"x\"", 412),
        ("accept", "*/*", 200),
    ] {
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let ask = async |node: &Service| {
                let url = node.url(&format!("{}&online=0", link.url));
                node.client().request(method.clone(), url).header(name, value).send().await.unwrap()
            };
            let [a, b, c] = [ask(one).await, ask(two).await, ask(three).await];
            assert!(method == reqwest::Method::HEAD || b.status() == status, "{name} {value}: {b:?}");
            assert_eq!(comparable(&a), comparable(&b));
            assert_eq!(comparable(&c), comparable(&b));
            let [a, b, c] = [a.bytes().await.unwrap(), b.bytes().await.unwrap(), c.bytes().await.unwrap()];
            // The body of an error has the request's id, which differs.
            assert!(b.len() < 100 || a == b && c == b);
        }
    }
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn first_parts_at_the_same_time_through_all_nodes_have_one_home() {
    let mut nodes = start_three_nodes().await;
    for round in 0..20_u64 {
        let bytes = content(round, 60_000);
        let link = nodes[0].upload_link("x.bin").await;
        let parts: Vec<_> = bytes.chunks(10_000).collect();
        let sending = (1..=6_u32).map(|number| {
            let node = &nodes[number as usize % 3];
            node.put_part(&link, number, parts[number as usize - 1])
        });
        for answer in join_all(sending).await {
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        }
        assert_eq!(nodes[1].merge(&link, 6, &bytes).await.status(), 200);
        assert!(nodes[2].read(&link.uid).await == bytes);
    }
    nodes[0].database().wait_until_idle().await;
    let objects: usize = nodes.iter().map(|node| node.objects().len()).sum();
    assert_eq!(objects, 20);
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_a_node_has_is_gone_with_it_and_back_with_it() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(3, 300_000);
    let uid = nodes[0].store("x.bin", &bytes).await;
    let first = nodes[0].store("shared.bin", &content(8, 50_000)).await;
    let link = nodes[1].upload_link("y.bin").await;
    assert_eq!(nodes[0].put_part(&link, 1, b"one").await.status(), 200);
    let url = nodes[1].download_link(&uid).await.unwrap().url;
    assert!(nodes[1].read(&uid).await == bytes);
    nodes[0].kill().await;
    // At first the dead node is still listed, later it is not.
    for _ in 0..2 {
        assert_node_unavailable(nodes[1].get(&url).await).await;
        assert_node_unavailable(nodes[2].put_part(&link, 2, b"two").await).await;
        assert_node_unavailable(nodes[2].merge(&link, 1, b"one").await).await;
        let gone = async || {
            let (code, said) = nodes[1].cli(&["nodes", "--json"]).await;
            assert_eq!(code, 0, "{said}");
            (said.lines().count() == 2).then_some(())
        };
        eventually("the dead node is unlisted", gone).await;
    }
    // Content on the dead node is not offered for instant upload; storing it again restores it for
    // every file that shares it.
    let shared = content(8, 50_000);
    let md5 = crate::support::md5_hex(&shared);
    assert_eq!(nodes[1].instant_upload(&[(&md5, "again.bin")]).await[0].uid, "");
    assert_node_unavailable(nodes[1].get(&nodes[1].download_link(&first).await.unwrap().url).await).await;
    let again = nodes[2].store("again.bin", &shared).await;
    for uid in [&first, &again] {
        assert!(nodes[1].read(uid).await == shared);
    }
    // Requests that do not need the dead node succeed.
    assert_eq!(nodes[2].checkpoint(&link.uid).await, [1]);
    let other = nodes[2].store("z.bin", b"z").await;
    assert_eq!(nodes[1].read(&other).await, b"z");
    nodes[0].restart().await;
    let start = Instant::now();
    let back = async || (nodes[1].get(&url).await.status() == 200).then_some(());
    eventually("the node is back", back).await;
    println!("other nodes reach its files {} ms after it is ready", start.elapsed().as_millis());
    assert_eq!(nodes[2].checkpoint(&link.uid).await, [1]);
    assert_eq!(nodes[2].put_part(&link, 2, b"two").await.status(), 200);
    assert_eq!(nodes[1].merge(&link, 2, b"onetwo").await.status(), 200);
    assert_eq!(nodes[2].read(&link.uid).await, b"onetwo");
    // Restarted, it is another process at another address, which the others find at once.
    nodes[0].kill().await;
    nodes[0].restart().await;
    assert!(nodes[1].read(&uid).await == bytes);
    nodes[0].database().wait_until_idle().await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_breaks_off_on_one_side_breaks_off_on_the_other() {
    let mut nodes = start_three_nodes().await;
    let bytes = content(4, 20_000_000);
    let uid = nodes[0].store("x.bin", &bytes).await;
    let link = nodes[1].upload_link("y.bin").await;
    assert_eq!(nodes[0].put_part(&link, 1, b"one").await.status(), 200);
    // A client that goes away in the middle of a part.
    let mut client = nodes[1].connect().await;
    client
        .send_head("PUT", &format!("{}&chunkNum=2", link.url.multi.upload), "Content-Length: 1000\r\n")
        .await;
    client.send(&[7; 500]).await;
    let writing = "SELECT id FROM parts WHERE state = 'writing'";
    eventually("the part arrives", async || (!nodes[0].sql(writing).await.is_empty()).then_some(())).await;
    drop(client);
    eventually("the part is dropped", async || nodes[0].sql(writing).await.is_empty().then_some(())).await;
    assert_eq!(nodes[1].checkpoint(&link.uid).await, [1]);
    // A client that stops sending gets the error of a client.
    let mut client = nodes[1].connect().await;
    client
        .send_head("PUT", &format!("{}&chunkNum=2", link.url.multi.upload), "Content-Length: 1000\r\n")
        .await;
    client.send(&[7; 500]).await;
    client.shutdown_write().await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("incomplete_body"), "{answer}");
    // A client that waits for `100 Continue` gets it, and a rejected part is answered before it was
    // sent completely.
    let mut client = nodes[1].connect().await;
    let fields = "Content-Length: 3\r\nExpect: 100-continue\r\n";
    client.send_head("PUT", &format!("{}&chunkNum=2", link.url.multi.upload), fields).await;
    assert!(String::from_utf8(client.read_some().await).unwrap().starts_with("HTTP/1.1 100 "));
    client.send(b"two").await;
    assert!(String::from_utf8(client.read_some().await).unwrap().starts_with("HTTP/1.1 200 "));
    // A node that dies in the middle of an answer.
    let url = nodes[1].url(&nodes[1].download_link(&uid).await.unwrap().url);
    let mut answer = nodes[1].client().get(&url).send().await.unwrap().bytes_stream();
    answer.next().await.unwrap().unwrap();
    nodes[0].kill().await;
    let mut rest = answer.collect::<Vec<_>>().await;
    assert!(rest.pop().unwrap().is_err(), "the cut answer looks complete");
    nodes[0].restart().await;
    assert!(nodes[1].read(&uid).await == bytes);
    // A node that hangs.
    let mut answer = nodes[1].client().get(&url).send().await.unwrap().bytes_stream();
    answer.next().await.unwrap().unwrap();
    nodes[0].signal(Signal::STOP);
    let start = Instant::now();
    let mut rest = answer.collect::<Vec<_>>().await;
    assert!(rest.pop().unwrap().is_err(), "the cut answer looks complete");
    assert_node_unavailable(nodes[1].get(&nodes[1].download_link(&uid).await.unwrap().url).await).await;
    assert_node_unavailable(nodes[1].put_part(&link, 2, b"two").await).await;
    println!("three requests to a hanging node failed within {} ms", start.elapsed().as_millis());
    nodes[0].signal(Signal::CONT);
    eventually("the node continues", async || {
        (nodes[1].client().get(&url).send().await.unwrap().status() == 200).then_some(())
    })
    .await;
    for node in &mut nodes {
        node.assert_consistent().await;
    }
}

/// Nodes reuse their connections: an unread body must not be taken for the next request.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_body_that_nobody_asked_for_disturbs_nobody() {
    let [owner, other, _] = &start_three_nodes().await;
    let uid = owner.store("x.bin", b"content").await;
    let link = other.upload_link("y.bin").await;
    assert_eq!(owner.put_part(&link, 1, b"one").await.status(), 200);
    let url = other.download_link(&uid).await.unwrap().url;
    let merge = format!("{}&num=9&size=3", link.url.multi.merge);
    for _ in 0..3 {
        let mut client = other.connect().await;
        client.send_head("GET", &url, "Content-Length: 60\r\nConnection: close\r\n").await;
        client.send(&[b'G'; 60]).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("content"), "{answer}");
        let mut client = other.connect().await;
        client.send_head("PUT", &merge, "Content-Length: 40\r\nConnection: close\r\n").await;
        client.send(b"GET /api/storage/v0/ping HTTP/1.1\r\nA: b\r\n").await;
        let answer = client.read_to_end().await;
        assert!(
            answer.starts_with("HTTP/1.1 422 ") && answer.contains("osproxy-error: parts_missing\r\n"),
            "{answer}"
        );
        assert_eq!(other.read(&uid).await, b"content");
        assert_eq!(other.put_part(&link, 1, b"one").await.status(), 200);
    }
    // The owner learns the length of a part before its bytes: it may reject the part, or reserve
    // space.
    let lines = owner.log();
    assert!(!lines.contains("status=400"), "{lines}");
}

/// A new process at the same address does not know the tokens of the one before.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_that_is_back_at_its_address_is_found_at_once() {
    let other = Service::start_on(SERVER, &[("CLUSTER__HEARTBEAT", "60")]).await;
    let folder = tempfile::tempdir().unwrap();
    let database = other.database().shared_with_folder(folder.path());
    let settings = database.settings();
    let listen = "127.77.77.77:8888";
    let mut owner =
        Service::start_listening(listen, folder, database, None, settings).await.with_key_of(&other);
    let uid = owner.store("x.bin", b"content").await;
    let link = other.upload_link("y.bin").await;
    assert_eq!(owner.put_part(&link, 1, b"one").await.status(), 200);
    assert_eq!(other.read(&uid).await, b"content");
    owner.kill().await;
    owner.restart().await;
    assert_eq!(other.read(&uid).await, b"content");
    assert_eq!(other.put_part(&link, 2, b"two").await.status(), 200);
    owner.kill().await;
    owner.restart().await;
    // A part whose bytes are in transit is lost; sent again, it is stored.
    eventually("the part is accepted", async || {
        (other.put_part(&link, 3, b"three").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(other.checkpoint(&link.uid).await, [1, 2, 3]);
}

/// `Connection: close` between nodes is not passed on to the client.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_that_is_about_to_stop_still_answers_for_what_it_has() {
    let settings = [&QUICK[..], &[("SERVER__DRAIN_DELAY", "3")]].concat();
    let mut owner = Service::start_on(SERVER, &settings).await;
    let other = owner.start_second_node(&QUICK).await;
    let uid = owner.store("x.bin", b"x").await;
    let url = other.download_link(&uid).await.unwrap().url;
    let before = comparable(&other.get(&url).await);
    owner.signal(Signal::TERM);
    let draining = async || owner.get(&url).await.headers().contains_key("connection").then_some(());
    eventually("the node drains", draining).await;
    for _ in 0..3 {
        assert_eq!(comparable(&other.get(&url).await), before);
    }
    assert!(owner.exit_status().await.success());
    assert_node_unavailable(other.get(&url).await).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn bodies_are_passed_on_piece_by_piece() {
    let nodes = start_three_nodes().await;
    let bytes = content(5, 64 << 20);
    let link = nodes[1].upload_link("y.bin").await;
    assert_eq!(nodes[0].put_part(&link, 1, b"one").await.status(), 200);
    let before = nodes[1].peak_memory();
    // Half of a part is on the other node's disk while the client still has the rest.
    let mut client = nodes[1].connect().await;
    let head = format!("Content-Length: {}\r\n", bytes.len());
    client.send_head("PUT", &format!("{}&chunkNum=2", link.url.multi.upload), &head).await;
    client.send(&bytes[..bytes.len() / 2]).await;
    let arrived = async || (nodes[0].allocated() >= 16 << 20).then_some(());
    eventually("the part is written there", arrived).await;
    client.send(&bytes[bytes.len() / 2..]).await;
    assert!(String::from_utf8(client.read_some().await).unwrap().starts_with("HTTP/1.1 200 "));
    let whole = [b"one", &bytes[..]].concat();
    assert_eq!(nodes[1].merge(&link, 2, &whole).await.status(), 200);
    // The answer is not read for a while: the forwarding node must not buffer it.
    let url = nodes[1].url(&nodes[1].download_link(&link.uid).await.unwrap().url);
    let mut answer = nodes[1].client().get(&url).send().await.unwrap();
    let mut read = answer.chunk().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(500)).await;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == whole);
    let grown = nodes[1].peak_memory() - before;
    assert!(grown < 8 << 20, "{grown} bytes");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_file_is_followed_that_moves_to_another_node() {
    let patient = [("DATABASE__CACHE_MAX_AGE", "3600"), ("CLUSTER__HEARTBEAT", "1")];
    let one = Service::start_on(SERVER, &patient).await;
    let (two, three) = (one.start_second_node(&patient).await, one.start_second_node(&patient).await);
    let bytes = content(6, 100_000);
    let uid = two.store("x.bin", &bytes).await;
    for node in [&one, &two, &three] {
        assert!(node.read(&uid).await == bytes);
    }
    // The object moves without an invalidation, so the caches are wrong.
    let key = Service::object_key(&format!("unknown/{uid}.bin"));
    let (from, to) = (two.objects_folder().join(&key), three.objects_folder().join(&key));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(from, to).unwrap();
    let store = std::fs::read_to_string(three.objects_folder().join("store-id")).unwrap();
    one.sql(&format!("UPDATE blobs SET backend = 'local:{}'", store.trim())).await;
    for node in [&one, &two, &three] {
        assert!(node.read(&uid).await == bytes);
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn no_client_takes_away_what_a_node_says_of_it() {
    let settings = [("LOG__FORMAT", "json")];
    let mut one = Service::start_on(SERVER, &settings).await;
    let mut two = one.start_second_node(&settings).await;
    // Nodes trust each other and this machine.
    for node in [&mut one, &mut two] {
        std::fs::write(node.folder().join("config.yaml"), "server: {trusted_proxies: [127.0.0.0/8]}")
            .unwrap();
        node.restart_configured().await;
    }
    let uid = one.store("x.bin", b"x").await;
    let url = two.download_link(&uid).await.unwrap().url;
    eventually("the other node is found", async || (two.get(&url).await.status() == 200).then_some(())).await;
    let mut client = two.connect().await;
    let fields = "Connection: close, x-forwarded-for, x-request-id, osproxy-forwarded\r\n\
                  X-Forwarded-For: 203.0.113.9\r\nX-Request-Id: of-the-client\r\n";
    client.send_head("GET", &url, fields).await;
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200"));
    for node in [&two, &one] {
        let line = eventually("the request is logged", async || {
            let log = node.log();
            log.lines().find(|line| line.contains("\"of-the-client\"")).map(str::to_owned)
        })
        .await;
        assert!(line.contains("\"peer\":\"203.0.113.9\""), "{line}");
    }
}
