//! The programs of the guides, extracted from their pages and run over an unreliable connection.

use std::{path::Path, process::Stdio, time::Duration};

use osproxy_api::v1::CreatedLink;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{Browser, Page, Service, Trouble, Unreliable, content, eventually};

/// Timeout of a program; a compiler may have to build everything.
const LONG: Duration = Duration::from_mins(5);

const BACKEND: &str = "docs/guides/backend.md";
const MOBILE: &str = "docs/guides/mobile.md";
const WEB: &str = "docs/guides/web.md";

/// Runs a program, which must succeed, and returns its output.
async fn said(mut command: Command) -> String {
    let output = tokio::time::timeout(LONG, command.kill_on_drop(true).stdin(Stdio::null()).output());
    let output = output.await.expect("the program does not end").unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    said.into_owned()
}

/// The numbers of the parts sent over a connection, once for each time they were sent.
fn parts_sent(line: &Unreliable) -> Vec<u32> {
    let asked = line.asked();
    let paths =
        asked.iter().filter_map(|first| first.strip_prefix("PUT /api/v1/uploads/")?.split_once("/parts/"));
    paths.map(|(_, rest)| rest.split_once('?').unwrap().0.parse().unwrap()).collect()
}

#[tokio::test]
async fn the_requests_of_the_back_end_guide_work_line_by_line() {
    let mut service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let said = said(service.shell(folder.path(), &Page::read(BACKEND).script("sh"))).await;
    for expected in ["\"state\":\"stored\",\"size\":20971520", "\nidentical\n", "\"name\":\"holiday.mp4\""] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert_eq!(service.sql("SELECT state FROM files").await, ["deleted"]);
    service.database().settle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_protocol_of_the_mobile_guide_works_line_by_line() {
    let mut service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let said = said(service.shell(folder.path(), &Page::read(MOBILE).script("sh"))).await;
    assert_eq!(said.matches("\"state\":\"stored\"").count(), 2, "{said}");
    assert!(said.ends_with("\n409\n"), "{said}");
    service.assert_consistent().await;
}

/// A short body timeout.
const SHORT: [(&str, &str); 1] = [("SERVER__BODY_TIMEOUT", "2")];

/// Runs a back end's program: it stores a file and reads it back, while a part and a range break
/// off, a part stalls, and a request is refused.
async fn send_and_read_back(language: &str, name: &str, command: &[&str]) {
    let mut service = Service::start_with(&SHORT).await;
    let key = service.create_key(&[]).await;
    let line = Unreliable::start(service.address.to_string(), 1).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), Page::read(BACKEND).program(language)).unwrap();
    let bytes = content(11, (20 << 20) + 17);
    std::fs::write(folder.path().join("film.bin"), &bytes).unwrap();
    line.plan("POST", Trouble::Refused);
    line.plan("PUT", Trouble::ResetRequest(2_000_000));
    line.plan("PUT", Trouble::Refused);
    line.plan("PUT", Trouble::StallRequest(1_000_000));
    // The first GET asks for the description of the file, the second for a range of it.
    line.plan("GET", Trouble::Reset(10));
    line.plan("GET", Trouble::Truncate(1_000_000));
    let mut program = Command::new(command[0]);
    program.args(&command[1..]).args([name, "film.bin"]).current_dir(folder.path());
    program.env("OSPROXY_URL", format!("http://{}", line.address)).env("OSPROXY_KEY", key);
    let uid = said(program).await;
    assert_eq!(line.troubles().1.len(), 6, "{:?}", line.troubles());
    assert_eq!(service.sql("SELECT uid FROM files WHERE state = 'stored'").await, [uid.trim()]);
    assert!(std::fs::read(folder.path().join("film.bin.copy")).unwrap() == bytes, "the copy differs");
    let mut parts = parts_sent(&line);
    parts.sort_unstable();
    parts.dedup();
    assert_eq!(parts, [1, 2, 3]);
    // Content smaller than a part, and empty content.
    for (len, more) in [(0, "empty.bin"), (5, "small.bin")] {
        let bytes = content(12, len);
        std::fs::write(folder.path().join(more), &bytes).unwrap();
        let mut program = Command::new(command[0]);
        program.args(&command[1..]).args([name, more]).current_dir(folder.path());
        let key = service.create_key(&[]).await;
        program.env("OSPROXY_URL", format!("http://{}", service.address)).env("OSPROXY_KEY", key);
        said(program).await;
        assert_eq!(std::fs::read(folder.path().join(format!("{more}.copy"))).unwrap(), bytes);
    }
    service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn the_javascript_of_the_back_end_guide_sends_and_reads_a_file() {
    send_and_read_back("js", "upload.mjs", &["node"]).await;
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_python_of_the_back_end_guide_sends_and_reads_a_file() {
    send_and_read_back("python", "upload.py", &["python3"]).await;
}

#[tokio::test]
#[ignore = "needs Go: just test-servers"]
async fn the_go_of_the_back_end_guide_sends_and_reads_a_file() {
    send_and_read_back("go", "upload.go", &["go", "run"]).await;
}

#[tokio::test]
#[ignore = "needs Java: just test-servers"]
async fn the_java_of_the_back_end_guide_sends_and_reads_a_file() {
    send_and_read_back("java", "Upload.java", &["java"]).await;
}

#[tokio::test]
#[ignore = "needs Java: just test-servers"]
async fn the_java_of_the_mobile_guide_sends_what_is_missing() {
    let mut service = Service::start_with(&SHORT).await;
    let line = Unreliable::start(service.address.to_string(), 2).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Resume.java"), Page::read(MOBILE).program("java")).unwrap();
    let bytes = content(13, (5 << 20) + 1);
    std::fs::write(folder.path().join("film.bin"), &bytes).unwrap();
    let wanted = json!({"name": "film.bin", "size": bytes.len(), "part_size": 1 << 20});
    let created = service.client().post(service.url("/api/v1/uploads")).json(&wanted).send().await.unwrap();
    let created: Value = created.json().await.unwrap();
    let url_of = |name: &str| created["links"][name].as_str().unwrap().to_owned();
    // These parts were sent before it was stopped.
    for number in [1, 3] {
        let url = service.url(&url_of("part").replace("{number}", &number.to_string()));
        let part = bytes[(number - 1) << 20..number << 20].to_vec();
        assert_eq!(service.client().put(url).body(part).send().await.unwrap().status(), 204);
    }
    line.plan("GET", Trouble::Refused);
    line.plan("PUT", Trouble::ResetRequest(300_000));
    line.plan("PUT", Trouble::StallRequest(300_000));
    // The upload is completed, but the app does not receive the answer.
    line.plan("POST", Trouble::Truncate(0));
    // Started again after that, it finds everything stored.
    for _ in 0..2 {
        let mut program = Command::new("java");
        program.args(["Resume.java", &format!("http://{}", line.address), &url_of("state"), &url_of("part")]);
        program.args([&url_of("complete"), "1048576", "film.bin"]).current_dir(folder.path());
        assert!(said(program).await.contains("\"state\":\"stored\""));
        assert_eq!(parts_sent(&line), [2, 2, 2, 4, 5, 6]);
    }
    assert_eq!(line.troubles().1.len(), 4);
    service.assert_consistent().await;
}

/// Starts the back end of the web guide; returns its process, which is killed on drop, and the URL
/// of its page.
async fn web_back_end(folder: &Path, settings: &[(&str, &str)]) -> (tokio::process::Child, String) {
    let page = Page::read(WEB);
    std::fs::write(folder.join("server.mjs"), page.program("js")).unwrap();
    std::fs::write(folder.join("index.html"), page.program("html")).unwrap();
    let mut server = Command::new("node");
    server.arg("server.mjs").current_dir(folder).envs(settings.iter().copied()).stdout(Stdio::piped());
    let mut server = server.kill_on_drop(true).spawn().expect("node is not installed");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("the back end does not start");
    (server, url)
}

/// Returns a free port.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
#[ignore = "needs Node and Chromium: just test-servers"]
async fn the_page_of_the_web_guide_goes_on_after_it_was_loaded_again() {
    // The page's origin is a setting, so the port must be known first.
    let port = free_port().to_string();
    let settings = Page::read(WEB).program("yaml").replace("3000", &port);
    let mut service = Service::start_configured(&format!("{settings}\nserver:\n  body_timeout: 2\n")).await;
    let key = service.create_key(&[]).await;
    let line = Unreliable::start(service.address.to_string(), 3).await;
    let folder = tempfile::tempdir().unwrap();
    let (direct, shown) = (format!("http://{}", service.address), format!("http://{}", line.address));
    let settings = [
        ("OSPROXY_URL", direct.as_str()),
        ("OSPROXY_PUBLIC_URL", &shown),
        ("OSPROXY_KEY", &key),
        ("PORT", &port),
    ];
    let (_server, url) = web_back_end(folder.path(), &settings).await;
    let film = folder.path().join("film.mp4");
    let bytes = content(14, (100 << 20) + 5);
    std::fs::write(&film, &bytes).unwrap();

    let browser = Browser::start().await;
    browser.open(&url).await;
    line.plan("PUT", Trouble::ResetRequest(3_000_000));
    line.plan("PUT", Trouble::StallRequest(1_000_000));
    browser.choose("#file", &film).await;
    let stored = async || service.sql("SELECT number FROM parts WHERE state = 'stored'").await;
    eventually("some parts are stored", async || (stored().await.len() >= 3).then_some(())).await;
    // From now on requests get no answer, and the page is closed.
    line.silence(true);
    browser.open("about:blank").await;
    let (there, sent) = (stored().await, parts_sent(&line).len());
    assert!(there.len() < 13, "all parts were stored before the fault");

    // The links stored in the page are revoked; its back end creates new ones.
    let [uid] = &service.sql("SELECT uid FROM files").await[..] else { panic!("expected one upload") };
    let revoked = service.with_key(&key).v1(Method::DELETE, &format!("/files/{uid}/links"), None).await;
    assert_eq!(revoked.status(), 204);
    browser.open(&url).await;
    line.silence(false);
    browser.choose("#file", &film).await;
    browser.sees("#state", "stored: ").await;
    let again = &parts_sent(&line)[sent..];
    assert!(
        !again.is_empty() && again.iter().all(|number| !there.contains(&number.to_string())),
        "{there:?} {again:?}"
    );
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);

    // The link on the page leads to the content through the back end.
    let href = browser.run("return document.querySelector('#state a').href").await;
    let answer = reqwest::get(href.as_str().unwrap()).await.unwrap();
    let disposition = answer.headers()["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment; filename=\"film.mp4\""), "{disposition}");
    assert!(answer.bytes().await.unwrap() == bytes, "the content differs");
    assert_eq!(browser.run("return localStorage.length").await, 0);

    // A page of another origin is blocked.
    let server = line.address;
    let script = format!("return fetch('http://{server}/health').then(() => 'read', () => 'refused')");
    let localhost = url.replace("127.0.0.1", "localhost");
    browser.open(&localhost).await;
    assert_eq!(browser.run(&script).await, "refused");
    service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node and Chromium: just test-servers"]
async fn what_the_web_guide_says_works_with_the_settings_that_it_has() {
    let port = free_port().to_string();
    let service = Service::start_configured(&Page::read(WEB).program("yaml").replace("3000", &port)).await;
    let key = service.create_key(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let direct = format!("http://{}", service.address);
    let settings = [("OSPROXY_URL", direct.as_str()), ("OSPROXY_KEY", &key), ("PORT", &port)];
    let (_server, url) = web_back_end(folder.path(), &settings).await;
    let browser = Browser::start().await;
    browser.open(&url).await;
    let guide = Page::read(WEB).program("javascript");
    let run = async |script: &str| browser.resolve(&format!("{guide}\n{script}")).await;

    // With and without a content type from the browser; the download has the same bytes and type.
    let uploaded = run("const text = new Blob(['words and more'], { type: 'text/csv' });
         const uids = [];
         for (const file of [new File([text], 'a.csv', { type: text.type }), new File([text], 'a')]) {
             uids.push(await uploadSmall(file));
         }
         return [uids[0], await readStart(uids[0], 5), await readStart(uids[1], 100)]");
    let uploaded = uploaded.await.unwrap();
    assert_eq!(uploaded[1], json!({"size": 14, "start": "words"}));
    assert_eq!(uploaded[2], json!({"size": 14, "start": "words and more"}));

    // A part with its digest, which is checked: the digest of `x` does not match `y`.
    let digests = run(
        "const wanted = { method: 'POST', body: JSON.stringify({ name: 'x', size: 1 }) };
         const { base, links } = await (await fetch('/uploads', wanted)).json();
         const part = base + links.part.replace('{number}', 1);
         const headers = { 'content-md5': 'ndTkYSaMgDT1yFZOFVxnpg==' };
         const sent = [];
         for (const body of ['y', 'x']) sent.push((await fetch(part, { method: 'PUT', headers, body })).status);
         return sent",
    );
    assert_eq!(digests.await.unwrap(), json!([422, 204]));
    // The browser blocks headers that are not listed.
    let blocked =
        format!("return (await fetch('{direct}/health/live', {{ headers: {{ 'x-other': 'x' }} }})).status");
    assert!(run(&blocked).await.unwrap_err().contains("Failed to fetch"));

    // As an image, a video, and a download.
    let film = include_bytes!("media/film.mp4");
    let picture = include_bytes!("media/picture.png");
    let owner = service.with_key(&key);
    let (film, picture) = (owner.store("film.mp4", film).await, owner.store("picture.png", picture).await);
    let mut urls = Vec::new();
    for uid in [&picture, &film] {
        let made = owner.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 600})).await;
        urls.push(service.url(&crate::support::answered::<CreatedLink>(made, 201).await.url));
    }
    let shown = format!(
        "const image = new Image();
         image.src = {};
         await image.decode();
         const video = document.createElement('video');
         video.src = {};
         await new Promise((resolve, reject) => {{ video.onloadeddata = resolve; video.onerror = reject; }});
         return [image.naturalWidth, video.videoWidth]",
        Value::from(&*urls[0]),
        Value::from(&*urls[1]),
    );
    assert_eq!(run(&shown).await.unwrap(), json!([8, 64]));
}
