//! The pages of the section "Other uploaders" of the guide, in Chromium: `FilePond`,
//! simple-uploader.js, vue-simple-uploader and `WebUploader`.

use std::path::Path;

use super::{GUIDE, SLACK, Scene, Sent, variable};
use crate::support::{Browser, Fault, Nginx, Page, content, eventually};

/// Size of the parts, as in the guide.
const PART: usize = 8 << 20;

/// Size of a file of eight parts.
const SIZE: usize = 7 * PART + 5;

/// The examples of the guide.
struct Examples {
    /// What all examples share.
    shared: String,
    filepond: String,
    /// What all uploaders share that send numbered chunks.
    chunks: String,
    /// What simple-uploader.js and vue-simple-uploader share.
    options: String,
    simple: String,
    vue: String,
    webuploader: String,
}

impl Examples {
    fn read() -> Self {
        let blocks = Page::read(GUIDE).section("Other uploaders").blocks_in("js");
        let blocks: [String; 7] = blocks.try_into().expect("there are seven blocks");
        let [shared, filepond, chunks, options, simple, vue, webuploader] = blocks;
        Self { shared, filepond, chunks, options, simple, vue, webuploader }
    }

    fn simple(&self) -> String {
        format!("{}{}{}", self.chunks, self.options, self.simple)
    }

    fn vue(&self) -> String {
        format!("{}{}{}", self.chunks, self.options, self.vue)
    }

    fn webuploader(&self) -> String {
        format!("{}{}", self.chunks, self.webuploader)
    }
}

/// Replaces text that must be there.
fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in the example");
    text.replace(from, to)
}

/// A page with an example of the guide, and a back end that creates uploads.
struct Site {
    scene: Scene,
    /// Serves the page, from another origin than that of the service. As the back end, it passes
    /// requests for uploads on, with an API key.
    nginx: Nginx,
    browser: Browser,
}

impl Site {
    /// `scripts` are paths of scripts in the folder of the modules.
    async fn start(seed: u64, scripts: &[&str], example: &str) -> Self {
        let scene = Scene::start(seed).await;
        let nginx = Nginx::start_configured(&format!(
            "types {{ text/html html; text/javascript js; }} server {{ listen LISTEN; root html; location = /uploads {{ \
             proxy_pass http://{}/api/v1/uploads; proxy_set_header Authorization 'Bearer {}'; }} }}",
            scene.service.address,
            scene.owner.key().unwrap(),
        ))
        .await;
        let folder = nginx.folder().join("html");
        std::fs::create_dir(&folder).unwrap();
        let modules = Path::new(&variable("OSPROXY_TEST_NPM")).join("node_modules");
        let mut elements = String::new();
        for script in scripts {
            let path = modules.join(script);
            let name = path.file_name().unwrap().to_str().unwrap();
            std::fs::copy(&path, folder.join(name)).unwrap();
            elements.extend(["<script src=", name, "></script>"]);
        }
        let shared = Examples::read().shared;
        let shared = replace(&shared, "http://127.0.0.1:8888", &format!("http://{}", scene.line.address));
        let page = format!(
            "<!DOCTYPE html><meta charset=utf-8><p id=state></p><div id=browse>Browse</div><div id=app></div>{elements}\
             <script>\nconst say = text => document.getElementById('state').innerText = text;\n\
             console.log = (...words) => say(words.join(' '));\n\
             console.error = (...words) => say(`failed: ${{words.join(' ')}}`);\n{shared}{example}</script>"
        );
        std::fs::write(folder.join("page.html"), page).unwrap();
        Self { scene, nginx, browser: Browser::start().await }
    }

    /// Loads the page.
    async fn open(&self) {
        self.browser.open(&format!("http://localhost:{}/page.html", self.nginx.address.port())).await;
    }

    /// Chooses a file in the page.
    async fn choose(&self, path: &str) {
        self.browser.choose_file("input[type=file]", Path::new(path)).await;
    }

    /// Clicks on the element that a CSS selector names. Without its style sheet, it may have no size.
    async fn click(&self, selector: &str) {
        let script =
            format!("const found = document.querySelector('{selector}'); found?.click(); return !!found");
        let click = async || (self.browser.execute(&script).await == true).then_some(());
        eventually(&format!("{selector} is there"), click).await;
    }

    async fn state(&self) -> String {
        let state = self.browser.execute("return document.getElementById('state').innerText").await;
        state.as_str().unwrap().to_owned()
    }

    /// Waits until the page says that a file is stored. Returns its uid, and resets what the page
    /// says.
    async fn stored(&self) -> String {
        let uid = eventually("the page has sent the file", async || {
            self.state().await.strip_prefix("stored ").map(str::to_owned)
        });
        let uid = uid.await;
        self.browser.execute("say(''); return 0").await;
        uid
    }

    /// The numbers of the parts that are stored.
    async fn parts(&self) -> Vec<u32> {
        let numbers = self.scene.service.sql("SELECT number FROM parts WHERE state = 'stored'").await;
        numbers.iter().map(|number| number.parse().unwrap()).collect()
    }

    /// Waits until some parts are stored, then closes the page. Returns the numbers of the parts that
    /// are stored. From now on, the line is silent.
    async fn close(&self) -> Vec<u32> {
        eventually("some parts are stored", async || (self.parts().await.len() >= 3).then_some(())).await;
        self.scene.line.set_silent(true);
        self.browser.open("about:blank").await;
        self.parts().await
    }

    async fn assert_stored(&self, uid: &str, name: &str, bytes: &[u8]) {
        let sent = Sent { url: format!("/tus/{uid}"), requests: Vec::new() };
        self.scene.assert_stored(&sent, name, bytes).await;
    }

    /// Sends a file through the page over a connection with these faults of `PUT`, and closes the
    /// page meanwhile. Asserts that stored parts are not sent again, and that the content is then
    /// known.
    async fn assert_continues(mut self, faults: &[Fault]) {
        let bytes = content(20, SIZE);
        let film = self.scene.file("film.bin", &bytes);
        for fault in faults {
            self.scene.line.plan_fault("PUT", *fault);
        }
        self.open().await;
        self.choose(&film).await;
        let (there, sent) = (self.close().await, self.scene.line.parts_sent().len());
        assert!(there.len() < 8, "all parts were stored before the page was closed");
        self.open().await;
        self.scene.line.set_silent(false);
        self.choose(&film).await;
        let uid = self.stored().await;
        let again = &self.scene.line.parts_sent()[sent..];
        assert!(again.iter().all(|number| !there.contains(number)), "{there:?} {again:?}");
        assert_eq!(self.scene.line.faults().1.len(), faults.len());
        assert_eq!(self.scene.service.sql("SELECT count(*) FROM files").await, ["1"]);
        self.assert_stored(&uid, "film.bin", &bytes).await;

        // The same content needs no request to the service but that of the back end.
        let requests = self.scene.line.request_lines().len();
        let copy = self.scene.file("copy.bin", &bytes);
        self.choose(&copy).await;
        let uid = self.stored().await;
        assert_eq!(self.scene.line.request_lines().len(), requests);
        self.assert_stored(&uid, "copy.bin", &bytes).await;
        assert_eq!(self.browser.execute("return localStorage.length").await, 0);
        self.scene.service.assert_consistent().await;
    }
}

/// Scripts of pages with `FilePond`.
const FILEPOND: [&str; 2] = ["tus-js-client/dist/tus.min.js", "filepond/dist/filepond.min.js"];

/// Scripts of pages with simple-uploader.js.
const SIMPLE: [&str; 2] = ["hash-wasm/dist/blake3.umd.min.js", "simple-uploader.js/dist/uploader.min.js"];

/// Scripts of pages with vue-simple-uploader.
const VUE: [&str; 3] = [
    "hash-wasm/dist/blake3.umd.min.js",
    "vue/dist/vue.global.prod.js",
    "vue-simple-uploader/dist/vue-simple-uploader.umd.js",
];

/// Scripts of pages with `WebUploader`.
const WEBUPLOADER: [&str; 3] = [
    "hash-wasm/dist/blake3.umd.min.js",
    "jquery/dist/jquery.min.js",
    "webuploader/dist/webuploader.html5only.min.js",
];

async fn start_filepond(seed: u64) -> Site {
    let page = "FilePond.create(document.getElementById('browse'), {
        onprocessfile: (error, item) => say(error ? `failed: ${error.body}` : `stored ${item.serverId}`),
        onprocessfileabort: () => say('aborted'),
    });";
    Site::start(seed, &FILEPOND, &format!("{}{page}", Examples::read().filepond)).await
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn filepond_goes_on_where_the_connection_broke() {
    let mut site = start_filepond(20).await;
    let bytes = content(20, SIZE);
    let film = site.scene.file("film.bin", &bytes);
    for fault in [Fault::ResetRequest(10_000_000), Fault::Unavailable, Fault::StallRequest(30_000_000)] {
        site.scene.line.plan_fault("PATCH", fault);
    }
    site.open().await;
    site.choose(&film).await;
    let all = || site.scene.line.sent() >= 40_000_000;
    eventually("the second request stalls", async || all().then_some(())).await;
    // The page is closed, and opened again.
    site.open().await;
    site.choose(&film).await;
    let uid = site.stored().await;
    assert_eq!(site.scene.line.faults().1.len(), 3);
    let more = site.scene.line.sent() - SIZE as u64;
    assert!(more < 3 * SLACK, "{more} bytes more than the content");
    site.assert_stored(&uid, "film.bin", &bytes).await;
    assert_eq!(site.browser.execute("return localStorage.length").await, 0);
    assert_eq!(site.scene.service.sql("SELECT count(*) FROM files").await, ["1"]);
    site.scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn an_upload_that_filepond_aborts_is_gone() {
    let mut site = start_filepond(21).await;
    let film = site.scene.file("film.bin", &content(21, SIZE));
    site.scene.line.plan_fault("PATCH", Fault::StallRequest(20_000_000));
    site.open().await;
    site.choose(&film).await;
    eventually("the request stalls", async || (site.scene.line.sent() >= 20_000_000).then_some(())).await;
    site.click(".filepond--action-abort-item-processing").await;
    site.browser.wait_for_text("#state", "aborted").await;
    eventually("the upload is gone", async || {
        let states = site.scene.service.sql("SELECT state FROM files").await;
        (states == ["deleted"]).then_some(())
    })
    .await;
    site.scene.service.database().wait_until_idle().await;
    assert_eq!(site.scene.service.objects(), [""; 0]);
    assert_eq!(site.browser.execute("return localStorage.length").await, 0);
    site.scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn simple_uploader_continues_after_the_page_was_closed() {
    let site = Site::start(22, &SIMPLE, &Examples::read().simple()).await;
    site.assert_continues(&[Fault::ResetRequest(3_000_000), Fault::Unavailable]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn vue_simple_uploader_continues_after_the_page_was_closed() {
    let site = Site::start(23, &VUE, &Examples::read().vue()).await;
    site.assert_continues(&[Fault::ResetRequest(3_000_000), Fault::Unavailable]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn webuploader_continues_after_the_page_was_closed() {
    let site = Site::start(24, &WEBUPLOADER, &Examples::read().webuploader()).await;
    // WebUploader itself sends a chunk three times. So of four chunks at a time, one fails.
    let mut faults = vec![Fault::ResetRequest(3_000_000)];
    faults.extend([Fault::Unavailable; 8]);
    site.assert_continues(&faults).await;
}

/// A file that failed is sent by the button that vue-simple-uploader shows for this.
#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn a_file_that_failed_in_simple_uploader_is_sent_again() {
    let example = replace(&Examples::read().vue(), "maxChunkRetries: 10", "maxChunkRetries: 0");
    let mut site = Site::start(25, &VUE, &example).await;
    let bytes = content(25, SIZE);
    let film = site.scene.file("film.bin", &bytes);
    site.scene.line.plan_fault("PUT", Fault::ResetRequest(3_000_000));
    site.open().await;
    site.choose(&film).await;
    site.browser.wait_for_text("#state", "failed").await;
    site.click(".uploader-file-retry").await;
    let uid = site.stored().await;
    site.assert_stored(&uid, "film.bin", &bytes).await;
    site.scene.service.assert_consistent().await;
}

/// Without `forceChunkSize`, the last chunk is up to twice as large as the others. Pages may send it
/// before the others.
#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn the_last_chunk_may_be_larger_if_the_size_is_not_announced() {
    let example = replace(&Examples::read().simple(), "forceChunkSize: true", "forceChunkSize: false");
    for (seed, option) in [(26, "forceChunkSize: false"), (27, "prioritizeFirstAndLastChunk: true")] {
        let any_size = replace(&example, "name, size, part_size: partSize,", "name,");
        let any_size = replace(&any_size, "forceChunkSize: false", option);
        let mut site = Site::start(seed, &SIMPLE, &any_size).await;
        let bytes = content(seed, 8 * PART - 1);
        let film = site.scene.file("film.bin", &bytes);
        site.scene.line.plan_fault("PUT", Fault::ResetRequest(3_000_000));
        site.open().await;
        site.choose(&film).await;
        let uid = site.stored().await;
        // The broken part was sent twice.
        let mut parts = site.scene.line.parts_sent();
        assert_eq!(parts.len(), 8, "{parts:?}");
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts, [1, 2, 3, 4, 5, 6, 7]);
        site.assert_stored(&uid, "film.bin", &bytes).await;
        site.scene.service.database().wait_until_idle().await;
        site.assert_stored(&uid, "film.bin", &bytes).await;
        site.scene.service.assert_consistent().await;
    }
    // If the size is announced, the chunk is refused.
    let mut site = Site::start(28, &SIMPLE, &example).await;
    let film = site.scene.file("film.bin", &content(28, SIZE));
    site.open().await;
    site.choose(&film).await;
    site.browser.wait_for_text("#state", "failed").await;
    let failed = site.state().await;
    assert!(failed.contains("\"code\":\"size_mismatch\""), "{failed}");
    site.scene.service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn empty_files_are_stored() {
    let examples = Examples::read();
    let simple = Site::start(29, &SIMPLE, &examples.simple()).await;
    let filepond = start_filepond(30).await;
    for mut site in [simple, filepond] {
        let empty = site.scene.file("empty.txt", b"");
        site.open().await;
        site.choose(&empty).await;
        let uid = site.stored().await;
        site.assert_stored(&uid, "empty.txt", b"").await;
        site.scene.service.assert_consistent().await;
    }
}
