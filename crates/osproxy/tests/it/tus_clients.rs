//! Clients of tus that others wrote: tus-js-client and tuspy, and Uppy and tus-js-client in Chromium.

mod other_server;
mod other_uploaders;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use osproxy_api::v1::{CreatedLink, FileState, Files, UploadGrant};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    Api, Browser, Fault, FaultyProxy, Nginx, Page, Service, Store, StoreServer, amount, content, eventually,
    expect_json,
};

/// Timeout of a client.
const LONG: Duration = Duration::from_mins(5);

/// Bytes of content that may be sent again after a fault, and the heads of all requests. What the
/// proxy has forwarded can still be in a buffer of the kernel when the client asks for the offset.
const SLACK: u64 = 1 << 20;

/// Size of the blocks of the file that a page makes, as in `page.js`.
const BLOCK: usize = 1 << 20;

/// The folder with the programs and pages.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tus_clients")
}

/// The value of a variable that `.ci/servers` sets.
fn variable(name: &str) -> String {
    std::env::var(name).expect("run this by `just test-servers`")
}

#[derive(Clone, Copy, Debug)]
enum Client {
    /// tus-js-client in Node.
    Js,
    /// tuspy.
    Python,
}

/// A request of a client.
#[derive(Debug, Deserialize)]
struct Request {
    method: String,
    /// Where the body continues, if there is one.
    offset: Option<u64>,
    /// `None` if there was no answer. Pages do not tell it.
    status: Option<u16>,
}

/// What a client did.
#[derive(Debug, Deserialize)]
struct Sent {
    /// URL of the upload.
    url: String,
    requests: Vec<Request>,
}

impl Sent {
    /// The uid of the file.
    fn uid(&self) -> &str {
        let (_, rest) = self.url.split_once("/tus/").expect("not a URL of an upload");
        rest.split('?').next().unwrap()
    }

    /// The requests, such as `PATCH 5: 204`.
    fn lines(&self) -> Vec<String> {
        let line = |Request { method, offset, status }: &Request| {
            let offset = offset.map(|offset| format!(" {offset}")).unwrap_or_default();
            let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            format!("{method}{offset}: {status}")
        };
        self.requests.iter().map(line).collect()
    }

    /// Where the bodies of the requests began.
    fn offsets(&self) -> Vec<u64> {
        self.requests.iter().filter_map(|request| request.offset).collect()
    }
}

/// A service, an unreliable connection to it, and a folder for files.
struct Scene {
    service: Service,
    line: FaultyProxy,
    /// A client of the API with the key that the programs use.
    owner: Api,
    folder: TempDir,
}

impl Scene {
    async fn start(seed: u64) -> Self {
        // The time after which a stalled body fails is short.
        Self::around(Service::start_with(&[("SERVER__BODY_TIMEOUT", "2")]).await, seed).await
    }

    async fn around(service: Service, seed: u64) -> Self {
        let owner = service.with_key(&service.create_key(&[]).await);
        let line = FaultyProxy::start(service.address.to_string(), seed).await;
        Self { service, line, owner, folder: tempfile::tempdir().unwrap() }
    }

    /// The path of a file in the folder.
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Creates a file in the folder, and returns its path.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs a client, which must succeed. Its requests go over the connection.
    async fn run(&self, client: Client, arguments: &[&str]) -> Sent {
        let mut program = match client {
            Client::Js => {
                let mut node = Command::new("node");
                node.env("TUS_MODULES", variable("OSPROXY_TEST_NPM")).arg(programs().join("client.mjs"));
                node
            }
            Client::Python => {
                let mut python = Command::new(variable("OSPROXY_TEST_PYTHON"));
                python.arg(programs().join("client.py"));
                python
            }
        };
        program.args(arguments).env("TUS_URL", format!("http://{}", self.line.address));
        program.env("TUS_KEY", self.owner.key().unwrap()).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LONG, program.output()).await;
        let output = output.expect("the client does not end").unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{client:?} {arguments:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Asserts that a file has this name and content.
    async fn assert_stored(&self, sent: &Sent, name: &str, bytes: &[u8]) {
        let file = self.owner.describe(sent.uid()).await;
        assert_eq!((&*file.name, file.state), (name, FileState::Stored), "{:?}", sent.lines());
        let route = format!("/files/{}/links", sent.uid());
        let made = self.owner.v1_post(&route, &json!({"expires_in": 600})).await;
        let link: CreatedLink = expect_json(made, 201).await;
        let answer = self.owner.get(&link.url).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == bytes, "the content of {name} differs");
    }

    /// Asserts that all planned faults happened, and that content that the service received before
    /// a fault was not sent again. `size` is the size of all content.
    fn assert_nothing_is_repeated(&self, faults: usize, size: usize, sent: &Sent) {
        assert_eq!(self.line.faults().1.len(), faults, "{:?}", sent.lines());
        let offsets = sent.offsets();
        assert!(offsets.is_sorted(), "{offsets:?}");
        let more = self.line.sent() - size as u64;
        assert!(more < SLACK, "{more} bytes more than the content: {:?}", sent.lines());
    }
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn tus_js_client_sends_files_whole_and_in_chunks() {
    let mut scene = Scene::start(1).await;
    let big = content(1, 20_000_000);
    let path = scene.file("big.bin", &big);
    for (scenario, options, requests) in [
        ("send", "{}", &["POST: 201", "PATCH 0: 204"][..]),
        ("buffer", "{}", &["POST: 201", "PATCH 0: 204"]),
        ("send", r#"{"overridePatchMethod": true}"#, &["POST: 201", "POST 0: 204"]),
        ("send", r#"{"uploadDataDuringCreation": true}"#, &["POST: 201"]),
        (
            "send",
            r#"{"chunkSize": 8000000}"#,
            &["POST: 201", "PATCH 0: 204", "PATCH 8000000: 204", "PATCH 16000000: 204"],
        ),
        (
            "send",
            r#"{"uploadDataDuringCreation": true, "chunkSize": 8000000}"#,
            &["POST: 201", "PATCH 8000000: 204", "PATCH 16000000: 204"],
        ),
    ] {
        let sent = scene.run(Client::Js, &[scenario, &path, options]).await;
        assert_eq!(sent.lines(), requests, "{options}");
        scene.assert_stored(&sent, "big.bin", &big).await;
    }
    // An empty file is stored when its upload is created.
    for (name, text, requests) in [
        ("empty.bin", "", &["POST: 201"][..]),
        ("small.txt", "12345", &["POST: 201", "PATCH 0: 204"]),
        ("Grüße, 漢字 🎞.txt", "12345", &["POST: 201", "PATCH 0: 204"]),
    ] {
        let sent = scene.run(Client::Js, &["send", &scene.file(name, text.as_bytes())]).await;
        assert_eq!(sent.lines(), requests, "{name}");
        scene.assert_stored(&sent, name, text.as_bytes()).await;
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn tus_js_client_sends_a_stream_whose_length_it_does_not_know() {
    let mut scene = Scene::start(2).await;
    // tus-js-client waits forever if a stream ends where a chunk ends.
    for (len, chunk) in [(20_000_000, "3000000"), (5, "3"), (5, "100")] {
        let bytes = content(2, len);
        let sent = scene.run(Client::Js, &["stream", &scene.file("stream.bin", &bytes), chunk]).await;
        scene.assert_stored(&sent, "stream.bin", &bytes).await;
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node and Python: just test-servers"]
async fn another_process_continues_an_upload_that_was_stopped() {
    let mut scene = Scene::start(3).await;
    let bytes = content(3, 20_000_000);
    let path = scene.file("film.bin", &bytes);
    for (client, again) in [(Client::Js, &[][..]), (Client::Python, &["4000000"])] {
        let storage = scene.path(&format!("{client:?}.json"));
        let stopped = scene.run(client, &["stop", &path, &storage, "12000000", "4000000"]).await;
        let file = scene.owner.describe(stopped.uid()).await;
        assert_eq!((file.state, file.received), (FileState::Receiving, Some(12_000_000)));
        let arguments = [&["resume", &*path, &*storage][..], again].concat();
        let sent = scene.run(client, &arguments).await;
        assert_eq!(sent.lines()[..2], ["HEAD: 200", "PATCH 12000000: 204"], "{client:?}");
        assert_eq!(sent.uid(), stopped.uid());
        scene.assert_stored(&sent, "film.bin", &bytes).await;
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn an_upload_that_was_stopped_is_no_damage() {
    let mut scene = Scene::start(4).await;
    let path = scene.file("film.bin", &content(4, 20_000_000));
    scene.run(Client::Js, &["stop", &path, &scene.path("urls.json"), "10000000", "3000000"]).await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn an_upload_that_tus_js_client_terminates_is_gone() {
    let mut scene = Scene::start(5).await;
    let path = scene.file("film.bin", &content(5, 20_000_000));
    let sent = scene.run(Client::Js, &["terminate", &path, "10000000", "3000000"]).await;
    assert_eq!(sent.lines().last().unwrap(), "DELETE: 204");
    let request = scene.owner.client().head(&sent.url).header("tus-resumable", "1.0.0");
    assert_eq!(request.send().await.unwrap().status(), 410);
    scene.service.database().wait_until_idle().await;
    assert_eq!(scene.service.objects(), [""; 0]);
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn an_upload_of_api_v1_is_sent_by_tus_js_client_without_a_key() {
    let mut scene = Scene::start(6).await;
    let bytes = content(6, 20_000_000);
    let path = scene.file("any.bin", &bytes);
    let size = bytes.len();
    for (wish, options) in [
        (json!({"name": "film.bin", "size": size}), "{}"),
        (json!({"name": "film.bin", "size": size, "part_size": 1 << 20}), r#"{"chunkSize": 1500000}"#),
        // tus-js-client must know that the service does not know the size.
        (json!({"name": "film.bin"}), r#"{"uploadLengthDeferred": true, "chunkSize": 3000000}"#),
    ] {
        let created = scene.owner.create_upload(&wish).await;
        let url = format!("http://{}{}", scene.line.address, created.links.unwrap().tus);
        let sent = scene.run(Client::Js, &["continue", &path, &url, options]).await;
        assert_eq!(sent.uid(), created.uid);
        scene.assert_stored(&sent, "film.bin", &bytes).await;
        // Nothing is left to be sent.
        let sent = scene.run(Client::Js, &["continue", &path, &url]).await;
        assert_eq!(sent.lines(), ["HEAD: 200"]);
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn tus_js_client_goes_on_where_the_connection_broke() {
    let mut scene = Scene::start(7).await;
    let bytes = content(7, 20_000_000);
    let path = scene.file("film.bin", &bytes);
    for fault in [
        Fault::ResetRequest(3_000_000),
        Fault::ResetRequest(5_000_000),
        Fault::Unavailable,
        Fault::StallRequest(2_000_000),
        // Everything is stored, but the client does not receive the answer.
        Fault::Truncate(10),
    ] {
        scene.line.plan_fault("PATCH", fault);
    }
    let sent = scene.run(Client::Js, &["send", &path]).await;
    scene.assert_nothing_is_repeated(5, bytes.len(), &sent);
    assert_eq!(sent.lines().last().unwrap(), "HEAD: 200");
    scene.assert_stored(&sent, "film.bin", &bytes).await;
    assert_eq!(scene.service.sql("SELECT count(*) FROM files").await, ["1"]);
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_store_receives_parts_that_are_larger_than_the_chunks_of_the_client() {
    let store = Store::new(StoreServer::S3Parts);
    let mut scene = Scene::around(Service::start_on_store(&store, None, &[]).await, 14).await;
    let bytes = content(14, 60_000_000);
    let path = scene.file("film.bin", &bytes);
    // Content of 16 GiB has parts of this size.
    for part_size in [8 << 20, 32 << 20] {
        let wish = json!({"name": "film.bin", "size": bytes.len(), "part_size": part_size});
        let created = scene.owner.create_upload(&wish).await;
        let url = format!("http://{}{}", scene.line.address, created.links.unwrap().tus);
        scene.line.plan_fault("PATCH", Fault::ResetRequest(3_000_000));
        let sent = scene.run(Client::Js, &["continue", &path, &url, r#"{"chunkSize": 5000000}"#]).await;
        scene.assert_stored(&sent, "film.bin", &bytes).await;
    }
    scene.service.assert_consistent().await;
}

/// Sends a file over several connections at once, which break. Returns what was stored.
async fn send_in_parallel(scene: &Scene, seed: u64) {
    let bytes = content(seed, 60_000_000);
    let path = scene.file("film.bin", &bytes);
    for (options, faults) in [
        (json!({"parallelUploads": 4}), &[][..]),
        (json!({"parallelUploads": 3, "chunkSize": 5_000_000}), &[Fault::ResetRequest(3_000_000)]),
        (
            json!({"parallelUploads": 4}),
            &[Fault::ResetRequest(3_000_000), Fault::Unavailable, Fault::ResetRequest(9_000_000)],
        ),
    ] {
        for fault in faults {
            scene.line.plan_fault("PATCH", *fault);
        }
        let sent = scene.run(Client::Js, &["send", &path, &options.to_string()]).await;
        let lines = sent.lines();
        let partial = usize::try_from(options["parallelUploads"].as_u64().unwrap()).unwrap();
        let created = lines.iter().filter(|line| *line == "POST: 201").count();
        assert_eq!(
            (created, lines.last().map(String::as_str)),
            (partial + 1, Some("POST: 201")),
            "{lines:?}"
        );
        scene.assert_stored(&sent, "film.bin", &bytes).await;
    }
    assert_eq!(scene.line.faults().1.len(), 4);
    scene.service.database().wait_until_idle().await;
    assert_eq!(scene.service.sql("SELECT count(*) FROM blobs").await, ["1"], "equal content is stored once");
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn tus_js_client_sends_a_file_over_several_connections() {
    let mut scene = Scene::start(16).await;
    send_in_parallel(&scene, 16).await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_store_receives_a_file_over_several_connections() {
    let store = Store::new(StoreServer::S3Parts);
    let mut scene = Scene::around(Service::start_on_store(&store, None, &[]).await, 18).await;
    send_in_parallel(&scene, 18).await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn a_stream_goes_on_where_the_connection_broke() {
    let mut scene = Scene::start(8).await;
    let bytes = content(8, 20_000_000);
    let path = scene.file("stream.bin", &bytes);
    scene.line.plan_fault("PATCH", Fault::ResetRequest(3_000_000));
    scene.line.plan_fault("PATCH", Fault::ResetRequest(2_000_000));
    let sent = scene.run(Client::Js, &["stream", &path, "7000000"]).await;
    scene.assert_nothing_is_repeated(2, bytes.len(), &sent);
    scene.assert_stored(&sent, "stream.bin", &bytes).await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn tuspy_sends_files_whole_and_in_chunks() {
    let mut scene = Scene::start(9).await;
    for (scenario, name, len, chunk) in [
        ("send", "big.bin", 20_000_000, "30000000"),
        ("send", "big.bin", 20_000_000, "5242880"),
        ("send_async", "big.bin", 20_000_000, "7000000"),
        // With a SHA-1 of each chunk.
        ("checked", "big.bin", 20_000_000, "7000000"),
        ("send", "Grüße, 漢字.txt", 5, "2"),
        ("send", "empty.bin", 0, "2"),
    ] {
        let bytes = content(9, len);
        let sent = scene.run(Client::Python, &[scenario, &scene.file(name, &bytes), chunk]).await;
        scene.assert_stored(&sent, name, &bytes).await;
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn tuspy_goes_on_where_the_connection_broke() {
    let mut scene = Scene::start(10).await;
    let bytes = content(10, 20_000_000);
    let path = scene.file("film.bin", &bytes);
    for fault in [
        Fault::ResetRequest(3_000_000),
        Fault::ResetRequest(1_000_000),
        Fault::Unavailable,
        Fault::StallRequest(2_000_000),
    ] {
        scene.line.plan_fault("PATCH", fault);
    }
    let sent = scene.run(Client::Python, &["send", &path, "8000000"]).await;
    scene.assert_nothing_is_repeated(4, bytes.len(), &sent);
    scene.assert_stored(&sent, "film.bin", &bytes).await;
    scene.service.assert_consistent().await;
}

/// Serves the pages, from another origin than that of the service.
async fn serve_pages() -> Nginx {
    let types = "types { text/html html; text/javascript js; }";
    let nginx = Nginx::start_configured(&format!("{types} server {{ listen LISTEN; root html; }}")).await;
    let folder = nginx.folder().join("html");
    std::fs::create_dir(&folder).unwrap();
    let modules = Path::new(&variable("OSPROXY_TEST_NPM")).join("node_modules");
    for file in [
        programs().join("tus.html"),
        programs().join("uppy.html"),
        programs().join("page.js"),
        modules.join("tus-js-client/dist/tus.min.js"),
        modules.join("uppy/dist/uppy.min.js"),
    ] {
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    nginx
}

/// Opens a page, and lets it send a file over one connection. Returns at once.
async fn send_from_page(browser: &Browser, pages: &Nginx, page: &str, scene: &Scene, size: usize) {
    send_over(browser, pages, page, scene, size, 1).await;
}

/// Like [`send_from_page`], over several connections.
async fn send_over(
    browser: &Browser,
    pages: &Nginx,
    page: &str,
    scene: &Scene,
    size: usize,
    connections: usize,
) {
    // Another host name is another site as well.
    browser.open(&format!("http://localhost:{}/{page}", pages.address.port())).await;
    let (endpoint, key) = (format!("http://{}/tus", scene.line.address), scene.owner.key().unwrap());
    let [endpoint, key, name] = [&*endpoint, key, "Grüße.bin"].map(Value::from);
    browser.execute(&format!("send({endpoint}, {key}, {name}, {size}, {connections}); return 0")).await;
}

/// Waits until the page says that the file is stored.
async fn sent_from_page(browser: &Browser) -> Sent {
    let state = eventually("the page has sent the file", async || {
        let state = browser.execute("return document.getElementById('state').innerText").await;
        state.as_str().filter(|state| *state != "ready").map(str::to_owned)
    });
    let state = state.await;
    let url = state.strip_prefix("stored: ").unwrap_or_else(|| panic!("{state}")).to_owned();
    let requests = browser.execute("return requests").await;
    Sent { url, requests: serde_json::from_value(requests).unwrap() }
}

/// The content of a file that a page makes.
fn made_file(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + BLOCK);
    for number in 0..u32::MAX {
        if bytes.len() >= size {
            break;
        }
        bytes.extend(number.to_le_bytes().repeat(BLOCK / 4));
    }
    bytes.truncate(size);
    bytes
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn uppy_goes_on_where_the_connection_broke() {
    let mut scene = Scene::start(11).await;
    let (pages, browser) = (serve_pages().await, Browser::start().await);
    let size = amount(100, 200) * BLOCK + 5;
    scene.line.plan_fault("PATCH", Fault::ResetRequest(30_000_000));
    scene.line.plan_fault("PATCH", Fault::ResetRequest(50_000_000));
    send_from_page(&browser, &pages, "uppy.html", &scene, size).await;
    let sent = sent_from_page(&browser).await;
    scene.assert_nothing_is_repeated(2, size, &sent);
    scene.assert_stored(&sent, "Grüße.bin", &made_file(size)).await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn a_page_that_was_loaded_again_continues_its_upload() {
    let mut scene = Scene::start(12).await;
    let (pages, browser) = (serve_pages().await, Browser::start().await);
    let size = 30 * BLOCK + 5;
    scene.line.plan_fault("PATCH", Fault::StallRequest(20_000_000));
    send_from_page(&browser, &pages, "tus.html", &scene, size).await;
    // Two parts of 8 MiB.
    let parts = "SELECT number FROM parts WHERE state = 'stored'";
    let received = async || (scene.service.sql(parts).await.len() == 2).then_some(());
    eventually("the service has received some parts", received).await;
    eventually("the request stalls", async || (scene.line.sent() >= 20_000_000).then_some(())).await;
    browser.open("about:blank").await;

    send_from_page(&browser, &pages, "tus.html", &scene, size).await;
    let sent = sent_from_page(&browser).await;
    // These are the requests since the page was loaded again.
    let methods: Vec<_> = sent.requests.iter().map(|request| &*request.method).collect();
    assert_eq!(methods, ["HEAD", "PATCH"]);
    scene.assert_nothing_is_repeated(1, size, &sent);
    scene.assert_stored(&sent, "Grüße.bin", &made_file(size)).await;
    assert_eq!(browser.execute("return localStorage.length").await, 0);
    assert_eq!(scene.service.sql("SELECT count(*) FROM files").await, ["1"]);
    scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn pages_send_a_file_over_several_connections() {
    let mut scene = Scene::start(17).await;
    let (pages, browser) = (serve_pages().await, Browser::start().await);
    let size = 40 * BLOCK + 5;
    for page in ["tus.html", "uppy.html"] {
        scene.line.plan_fault("PATCH", Fault::ResetRequest(3_000_000));
        scene.line.plan_fault("PATCH", Fault::ResetRequest(5_000_000));
        send_over(&browser, &pages, page, &scene, size, 4).await;
        let sent = sent_from_page(&browser).await;
        assert_eq!(sent.requests.iter().filter(|request| request.method == "POST").count(), 5, "{page}");
        scene.assert_stored(&sent, "Grüße.bin", &made_file(size)).await;
    }
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

const GUIDE: &str = "docs/guides/uploaders.md";

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_program_of_the_guide_sends_a_file() {
    let mut scene = Scene::start(14).await;
    let page = Page::read(GUIDE);
    let script = page.joined_blocks("sh");
    let output = scene.service.shell(scene.folder.path(), &script).output().await.unwrap();
    let created: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(created["links"]["tus"].as_str().unwrap().starts_with("/tus/"), "{created}");
    let bytes = content(14, 20_000_000);
    scene.file("film.bin", &bytes);
    let program = scene.file("program.py", page.joined_blocks("python").as_bytes());
    let mut python = Command::new(variable("OSPROXY_TEST_PYTHON"));
    python.arg(program).current_dir(scene.folder.path()).kill_on_drop(true).stdin(Stdio::null());
    python.env("OSPROXY_URL", format!("http://{}", scene.line.address));
    python.env("OSPROXY_KEY", scene.owner.key().unwrap());
    scene.line.plan_fault("PATCH", Fault::ResetRequest(3_000_000));
    let output = tokio::time::timeout(LONG, python.output()).await.expect("it does not end").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    scene.assert_stored(&Sent { url, requests: Vec::new() }, "film.bin", &bytes).await;
    scene.service.assert_consistent().await;
}

/// The back end of the guide is an answer that the test prepares.
#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn the_pages_of_the_guide_send_files() {
    let mut scene = Scene::start(15).await;
    let (pages, browser) = (serve_pages().await, Browser::start().await);
    let [tus, grant, uppy] = &Page::read(GUIDE).section("A web page").blocks_in("js")[..] else {
        panic!("there are three examples")
    };
    let html = format!(
        "<!DOCTYPE html><meta charset=utf-8><p id=state>ready</p><div id=files></div>\
         <script src=tus.min.js></script><script src=uppy.min.js></script><script src=page.js></script>\
         <script>\nconsole.log = say;\nconsole.error = error => say(`failed: ${{error}}`);\n\
         function sendByTus(url, file) {{\n{tus}}}\n\
         function sendByGrant(grant, file) {{\n{grant}}}\nfunction start() {{\n{uppy}return uppy;\n}}\n</script>"
    );
    std::fs::write(pages.folder().join("html/guide.html"), html).unwrap();
    let size = 10 * BLOCK + 5;
    let by_link = async |scene: &Scene| {
        let created = scene.owner.create_upload(&json!({"name": "film.bin", "size": size})).await;
        format!("http://{}{}", scene.line.address, created.links.unwrap().tus)
    };
    for example in ["tus", "grant", "uppy"] {
        scene.line.plan_fault("PATCH", Fault::ResetRequest(3_000_000));
        browser.open(&format!("http://localhost:{}/guide.html", pages.address.port())).await;
        let url = match example {
            "grant" => {
                let grant = scene.owner.v1_post("/upload-grants", &json!({"max_uploads": 1})).await;
                let grant: UploadGrant = expect_json(grant, 201).await;
                format!("http://{}{}", scene.line.address, grant.links.unwrap().tus)
            }
            _ => by_link(&scene).await,
        };
        let send = match example {
            "uppy" => format!(
                "window.fetch = async () => new Response(JSON.stringify({{ url: '{url}' }}));\
                 const uppy = start();\
                 uppy.on('upload-error', (file, error) => say(`failed: ${{error}}`));\
                 uppy.on('upload-success', () => say('stored'));\
                 uppy.addFile({{ name: 'film.bin', data: madeFile('film.bin', {size}) }});\
                 uppy.upload(); return 0"
            ),
            "grant" => format!("sendByGrant('{url}', madeFile('film.bin', {size})); return 0"),
            _ => format!("sendByTus('{url}', madeFile('film.bin', {size})); return 0"),
        };
        browser.execute(&send).await;
        let state = eventually("the page has sent the file", async || {
            let state = browser.execute("return document.getElementById('state').innerText").await;
            let state = state.as_str().unwrap().to_owned();
            (state == "stored" || state.starts_with("failed")).then_some(state)
        });
        assert_eq!(state.await, "stored");
        let url = if example == "grant" {
            let newest: Files = expect_json(scene.owner.v1_get("/files").await, 200).await;
            format!("/tus/{}", newest.files.last().unwrap().uid)
        } else {
            url
        };
        scene.assert_stored(&Sent { url, requests: Vec::new() }, "film.bin", &made_file(size)).await;
    }
    scene.service.assert_consistent().await;
}
