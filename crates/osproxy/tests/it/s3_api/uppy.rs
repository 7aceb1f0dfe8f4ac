//! Uppy in Chromium: pages send files to a bucket of another origin, as the guide shows.

use std::path::Path;

use osproxy_api::v1::{CreatedLink, File, Files};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{
    Scene,
    clients::{command, programs, run},
};
use crate::support::{Browser, Fault, FaultyProxy, Nginx, Page, S3Answer, content, eventually, expect_json};

/// Size of a file of four parts.
const LARGE: usize = 3 * (8 << 20) + 5;

/// The examples of the guide.
struct Guide {
    /// The command that sets the CORS rules.
    cors: String,
    back_end: String,
    /// The page whose requests the back end signs.
    signed: String,
    /// The page that has a key.
    with_key: String,
}

impl Guide {
    fn read() -> Self {
        let section = Page::read("docs/guides/s3.md").section("Browser uploads with Uppy");
        let scripts: [String; 3] = section.blocks_in("js").try_into().expect("there are three scripts");
        let [back_end, signed, with_key] = scripts;
        Self { cors: section.only_block("sh"), back_end, signed, with_key }
    }
}

/// What is encoded in the paths of objects.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.');

/// The path of an object.
fn path_of(key: &str) -> String {
    format!("/photos/{}", utf8_percent_encode(key, ENCODED))
}

/// A page with Uppy, and the bucket `photos` of an S3 listener.
struct Site {
    scene: Scene,
    guide: Guide,
    /// An unreliable connection to the S3 listener.
    line: FaultyProxy,
    /// Serves the page, from another origin than that of the S3 listener, and passes requests for
    /// signatures on to the back end.
    nginx: Nginx,
    browser: Browser,
    folder: TempDir,
    _back_end: Child,
}

impl Site {
    /// `page` is a script, which is bundled with the packages that it imports.
    async fn start(seed: u64, page: &str) -> Self {
        // The time after which a stalled body fails is short.
        let scene = Scene::start_with(&[("SERVER__BODY_TIMEOUT", "2")]).await;
        let line = FaultyProxy::start(scene.address.to_string(), seed).await;
        let (guide, folder) = (Guide::read(), tempfile::tempdir().unwrap());
        let npm = std::env::var("OSPROXY_TEST_NPM").expect("run this by `just test-servers`");
        let modules = Path::new(&npm).join("node_modules");
        std::os::unix::fs::symlink(&modules, folder.path().join("node_modules")).unwrap();

        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = guide.back_end.replace("127.0.0.1:9000", &line.address.to_string());
        let program = folder.path().join("sign.mjs");
        std::fs::write(&program, text.replace("3000", &port.to_string())).unwrap();
        let back_end = command(&scene, program.to_str().unwrap(), folder.path()).spawn().unwrap();
        eventually("the back end listens", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;

        let credentials = json!({"region": "us-east-1", "credentials": {
            "accessKeyId": scene.key.access_key_id,
            "secretAccessKey": scene.key.secret_access_key,
        }});
        let nginx = Nginx::start_configured(&format!(
            "types {{ text/html html; text/javascript js; }} server {{ listen LISTEN; root html; \
             location = /sign {{ proxy_pass http://127.0.0.1:{port}; }} \
             location = /credentials {{ return 200 '{credentials}'; }} }}"
        ))
        .await;
        let html = nginx.folder().join("html");
        std::fs::create_dir(&html).unwrap();
        let shared = std::fs::read_to_string(programs().join("uppy_page.js")).unwrap();
        let script = page.replace("127.0.0.1:9000", &line.address.to_string()) + &shared;
        std::fs::write(folder.path().join("page.js"), script).unwrap();
        let mut esbuild = Command::new(modules.join(".bin/esbuild"));
        esbuild.args(["page.js", "--bundle", "--log-level=warning"]).current_dir(folder.path());
        esbuild.arg(format!("--outfile={}", html.join("page.js").display()));
        run(esbuild).await;
        let text = "<!DOCTYPE html><meta charset=utf-8><p id=state></p><input type=file><script src=page.js></script>";
        std::fs::write(html.join("page.html"), text).unwrap();

        let browser = Browser::start().await;
        let site = Self { scene, guide, line, nginx, browser, folder, _back_end: back_end };
        assert_eq!(site.s3("PUT", "/photos", "").await.status, 200);
        site.open().await;
        site
    }

    async fn s3(&self, method: &'static str, path: &str, query: &str) -> S3Answer {
        let mut request = self.scene.get(path);
        (request.method, request.query) = (method, query.to_owned());
        request.send(self.scene.address, &self.scene.key).await
    }

    fn origin(&self) -> String {
        format!("http://localhost:{}", self.nginx.address.port())
    }

    /// Loads the page.
    async fn open(&self) {
        self.browser.open(&format!("{}/page.html", self.origin())).await;
    }

    /// Sets CORS rules by this command of the guide.
    async fn set_cors(&self, script: &str) {
        let program = self.folder.path().join("cors.sh");
        std::fs::write(&program, script.replace("https://shop.example.org", &self.origin())).unwrap();
        let mut bash = command(&self.scene, program.to_str().unwrap(), self.folder.path());
        bash.env("AWS_ENDPOINT_URL", format!("http://{}", self.scene.address));
        run(bash).await;
    }

    /// Chooses a file with this name and content in the page.
    async fn choose(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.browser.choose_file("input", &path).await;
    }

    /// Waits until the page says how sending the file ended.
    async fn outcome(&self) -> String {
        eventually("the page has sent the file", async || {
            let state = self.browser.execute("return document.getElementById('state').innerText").await;
            state.as_str().filter(|state| !state.is_empty()).map(str::to_owned)
        })
        .await
    }

    /// Waits until the page says that the file is stored. Asserts that the S3 API and API v1 have it.
    async fn assert_stored(&self, bytes: &[u8]) {
        let outcome = self.outcome().await;
        let key = outcome.strip_prefix("stored ").unwrap_or_else(|| panic!("{outcome}"));
        let object = self.s3("GET", &path_of(key), "").await;
        assert_eq!(object.status, 200, "{key}");
        assert!(object.body() == bytes, "the object {key} differs");
        let shop = self.scene.service.with_key(&self.scene.service.create_key(&["--tenant", "shop"]).await);
        let files: Files = expect_json(shop.v1_get("/files").await, 200).await;
        let is_it = |file: &&File| file.key.as_deref() == Some(key);
        let file = files.files.iter().find(is_it).expect("the object is a file");
        let made = shop.v1_post(&format!("/files/{}/links", file.uid), &json!({"expires_in": 600})).await;
        let link: CreatedLink = expect_json(made, 201).await;
        let read = shop.get(&link.url).await.bytes().await.unwrap();
        assert!(read == bytes, "the file {key} differs");
    }

    /// The query parameters of the `PUT` requests so far, which name the upload and the part.
    fn parts_sent(&self) -> Vec<String> {
        let lines = self.line.request_lines();
        let parts = lines.iter().filter(|line| line.starts_with("PUT "));
        parts.filter_map(|line| Some(line.split_once("partNumber=")?.1.to_owned())).collect()
    }

    /// Chooses a large file, and waits until a part is stored and another part stalls. Returns the
    /// query of the upload, and the numbers of the parts that are stored.
    async fn stall(&self, name: &str, bytes: &[u8]) -> (String, Vec<String>) {
        let faults = self.line.faults().1.len();
        self.line.plan_fault("PUT", Fault::Delay(0));
        self.line.plan_fault("PUT", Fault::StallRequest(2_000_000));
        self.choose(name, bytes).await;
        eventually("a part stalls", async || (self.line.faults().1.len() == faults + 2).then_some(())).await;
        let upload = self.s3("GET", "/photos", "uploads=").await;
        let path = path_of(upload.element("Key"));
        let query = format!("uploadId={}", upload.element("UploadId"));
        let stored = eventually("a part is stored", async || {
            let parts = self.s3("GET", &path, &query).await;
            let numbers = parts.text.split("<PartNumber>").skip(1);
            let numbers: Vec<_> = numbers.map(|rest| rest.split_once('<').unwrap().0.to_owned()).collect();
            (!numbers.is_empty()).then_some(numbers)
        })
        .await;
        (query, stored)
    }

    /// Asserts that files are sent whole and in parts, over a connection that breaks, that uploads
    /// can be paused, and that canceled uploads leave nothing.
    async fn assert_works(mut self, seed: u64) {
        self.set_cors(&self.guide.cors).await;
        self.choose("Grüße a+b.txt", b"hello").await;
        self.assert_stored(b"hello").await;

        let bytes = content(seed, LARGE);
        self.line.plan_fault("PUT", Fault::ResetRequest(3_000_000));
        self.line.plan_fault("PUT", Fault::Unavailable);
        self.choose("broken.bin", &bytes).await;
        self.assert_stored(&bytes).await;
        assert_eq!(self.line.faults().1.len(), 2);
        // The last part is small, and arrives whole if it is the one whose connection is reset.
        assert!(self.parts_sent().len() > 4, "{:?}", self.parts_sent());

        let (query, stored) = self.stall("paused.bin", &bytes).await;
        self.browser.execute("uppy.pauseAll(); return 0").await;
        let sent = self.parts_sent().len();
        self.browser.execute("uppy.resumeAll(); return 0").await;
        self.assert_stored(&bytes).await;
        let again = self.parts_sent().split_off(sent);
        for number in stored {
            assert!(!again.iter().any(|part| part.starts_with(&format!("{number}&"))), "{number} {again:?}");
        }
        let listed = |line: &String| line.starts_with("GET ") && line.contains(&query);
        assert!(self.line.request_lines().iter().any(listed), "the page has not asked for the parts");

        self.stall("canceled.bin", &bytes).await;
        self.browser.execute("uppy.cancelAll(); return 0").await;
        eventually("the upload is aborted", async || {
            let uploads = self.s3("GET", "/photos", "uploads=").await;
            uploads.element("UploadId").is_empty().then_some(())
        })
        .await;
        assert_eq!(self.scene.service.sql("SELECT count(*) FROM objects").await, ["3"]);
        // Content that was being written when it was to be deleted is left to the next sweep, and
        // every start begins with one.
        self.scene.service.kill_and_restart().await;
        self.scene.service.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn uppy_sends_files_by_urls_of_a_back_end() {
    Site::start(1, &Guide::read().signed).await.assert_works(1).await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn uppy_sends_files_with_a_key() {
    Site::start(2, &Guide::read().with_key).await.assert_works(2).await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn uppy_5_sends_files_by_urls_of_a_back_end() {
    let page = std::fs::read_to_string(programs().join("uppy5.js")).unwrap();
    Site::start(3, &page).await.assert_works(3).await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn without_cors_rules_uppy_sends_nothing() {
    let site = Site::start(4, &Guide::read().signed).await;
    site.choose("small.txt", b"hello").await;
    assert_eq!(site.outcome().await, "failed: Network error during S3 request");
    let requests = site.line.request_lines();
    assert!(!requests.is_empty() && requests.iter().all(|line| line.starts_with("OPTIONS ")), "{requests:?}");

    // A page that cannot read ETags cannot complete an upload.
    let hidden = site.guide.cors.replace(r#""ExposeHeaders": ["ETag"], "#, "");
    assert_ne!(hidden, site.guide.cors);
    site.set_cors(&hidden).await;
    site.open().await;
    site.choose("large.bin", &content(4, LARGE)).await;
    let outcome = site.outcome().await;
    assert!(outcome.starts_with("failed: ") && outcome.contains("Missing ETag"), "{outcome}");
    assert_eq!(site.scene.service.sql("SELECT count(*) FROM objects").await, ["0"]);
}
