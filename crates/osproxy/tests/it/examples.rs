//! The programs of the guides, extracted from their pages and run over an unreliable connection.

use std::{path::Path, process::Stdio, time::Duration};

use osproxy_api::v1::CreatedLink;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{Browser, Fault, FaultyProxy, Page, Service, content, eventually};

/// Timeout of a program; a compiler may have to build everything.
const LONG: Duration = Duration::from_mins(5);

const BACKEND: &str = "docs/guides/backend.md";
const MOBILE: &str = "docs/guides/mobile.md";
const WEB: &str = "docs/guides/web.md";

/// Runs a program, which must succeed, and returns its output.
async fn run_program(mut command: Command) -> String {
    let output = tokio::time::timeout(LONG, command.kill_on_drop(true).stdin(Stdio::null()).output());
    let output = output.await.expect("the program does not end").unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    said.into_owned()
}

#[tokio::test]
async fn the_requests_of_the_back_end_guide_work_line_by_line() {
    let mut service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let said = run_program(service.shell(folder.path(), &Page::read(BACKEND).joined_blocks("sh"))).await;
    for expected in ["\"state\":\"stored\",\"size\":20971520", "\nidentical\n", "\"name\":\"holiday.mp4\""] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert_eq!(service.sql("SELECT state FROM files").await, ["deleted"]);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_protocol_of_the_mobile_guide_works_line_by_line() {
    let mut service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let said = run_program(service.shell(folder.path(), &Page::read(MOBILE).joined_blocks("sh"))).await;
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
    let line = FaultyProxy::start(service.address.to_string(), 1).await;
    let folder = tempfile::tempdir().unwrap();
    // The first block of a language; a web back end may follow.
    let program = Page::read(BACKEND).blocks_in(language).remove(0);
    std::fs::write(folder.path().join(name), program).unwrap();
    let bytes = content(11, (20 << 20) + 17);
    std::fs::write(folder.path().join("film.bin"), &bytes).unwrap();
    line.plan_fault("POST", Fault::Unavailable);
    line.plan_fault("PUT", Fault::ResetRequest(2_000_000));
    line.plan_fault("PUT", Fault::Unavailable);
    line.plan_fault("PUT", Fault::StallRequest(1_000_000));
    // The first GET asks for the description of the file, the second for a range of it.
    line.plan_fault("GET", Fault::Reset(10));
    line.plan_fault("GET", Fault::Truncate(1_000_000));
    let mut program = Command::new(command[0]);
    program.args(&command[1..]).args([name, "film.bin"]).current_dir(folder.path());
    program.env("OSPROXY_URL", format!("http://{}", line.address)).env("OSPROXY_KEY", key);
    let uid = run_program(program).await;
    assert_eq!(line.faults().1.len(), 6, "{:?}", line.faults());
    assert_eq!(service.sql("SELECT uid FROM files WHERE state = 'stored'").await, [uid.trim()]);
    assert!(std::fs::read(folder.path().join("film.bin.copy")).unwrap() == bytes, "the copy differs");
    let mut parts = line.parts_sent();
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
        run_program(program).await;
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
    let line = FaultyProxy::start(service.address.to_string(), 2).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Resume.java"), Page::read(MOBILE).only_block("java")).unwrap();
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
    line.plan_fault("GET", Fault::Unavailable);
    line.plan_fault("PUT", Fault::ResetRequest(300_000));
    line.plan_fault("PUT", Fault::StallRequest(300_000));
    // The upload is completed, but the app does not receive the answer.
    line.plan_fault("POST", Fault::Truncate(0));
    // Started again after that, it finds everything stored.
    for _ in 0..2 {
        let mut program = Command::new("java");
        program.args(["Resume.java", &format!("http://{}", line.address), &url_of("state"), &url_of("part")]);
        program.args([&url_of("complete"), "1048576", "film.bin"]).current_dir(folder.path());
        assert!(run_program(program).await.contains("\"state\":\"stored\""));
        assert_eq!(line.parts_sent(), [2, 2, 2, 4, 5, 6]);
    }
    assert_eq!(line.faults().1.len(), 4);
    service.assert_consistent().await;
}

/// Starts a web back end with the pages of the web guide; returns its process, which is killed on
/// drop, and the URL of its first page.
async fn back_end(
    folder: &Path,
    interpreter: &str,
    name: &str,
    program: &str,
    settings: &[(&str, &str)],
) -> (Child, String) {
    let [index, film]: [String; 2] = Page::read(WEB).blocks_in("html").try_into().unwrap();
    for (name, text) in [(name, program), ("index.html", &index), ("film.html", &film)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let mut server = Command::new(interpreter);
    server.arg(name).current_dir(folder).envs(settings.iter().copied()).stdout(Stdio::piped());
    let mut server = server.kill_on_drop(true).spawn().expect("the interpreter is not installed");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("the back end does not start");
    (server, url)
}

/// Starts the back end of the web guide.
async fn web_back_end(folder: &Path, settings: &[(&str, &str)]) -> (Child, String) {
    back_end(folder, "node", "server.mjs", &Page::read(WEB).only_block("js"), settings).await
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
    let settings = Page::read(WEB).only_block("yaml").replace("3000", &port);
    let mut service = Service::start_configured(&format!("{settings}\nserver:\n  body_timeout: 2\n")).await;
    let key = service.create_key(&[]).await;
    let line = FaultyProxy::start(service.address.to_string(), 3).await;
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
    line.plan_fault("PUT", Fault::ResetRequest(3_000_000));
    line.plan_fault("PUT", Fault::StallRequest(1_000_000));
    browser.choose_file("#file", &film).await;
    let stored = async || service.sql("SELECT number FROM parts WHERE state = 'stored'").await;
    eventually("some parts are stored", async || (stored().await.len() >= 3).then_some(())).await;
    // From now on requests get no answer, and the page is closed.
    line.set_silent(true);
    browser.open("about:blank").await;
    let (there, sent) = (stored().await, line.parts_sent().len());
    assert!(there.len() < 13, "all parts were stored before the fault");

    // The links stored in the page are revoked; its back end creates new ones.
    let [uid] = &service.sql("SELECT uid FROM files").await[..] else { panic!("expected one upload") };
    let revoked = service.with_key(&key).v1(Method::DELETE, &format!("/files/{uid}/links"), None).await;
    assert_eq!(revoked.status(), 204);
    browser.open(&url).await;
    line.set_silent(false);
    browser.choose_file("#file", &film).await;
    browser.wait_for_text("#state", "stored: ").await;
    let again = &line.parts_sent()[sent..];
    assert!(
        !again.is_empty() && again.iter().all(|number| !there.contains(&number.to_string())),
        "{there:?} {again:?}"
    );
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);

    // The link on the page leads to the content through the back end.
    let href = browser.execute("return document.querySelector('#state a').href").await;
    let answer = reqwest::get(href.as_str().unwrap()).await.unwrap();
    let disposition = answer.headers()["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment; filename=\"film.mp4\""), "{disposition}");
    assert!(answer.bytes().await.unwrap() == bytes, "the content differs");
    assert_eq!(browser.execute("return localStorage.length").await, 0);

    // A page of another origin is blocked.
    let server = line.address;
    let script = format!("return fetch('http://{server}/health').then(() => 'read', () => 'refused')");
    let localhost = url.replace("127.0.0.1", "localhost");
    browser.open(&localhost).await;
    assert_eq!(browser.execute(&script).await, "refused");
    service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs Node and Chromium: just test-servers"]
async fn what_the_web_guide_says_works_with_the_settings_that_it_has() {
    let port = free_port().to_string();
    let service = Service::start_configured(&Page::read(WEB).only_block("yaml").replace("3000", &port)).await;
    let key = service.create_key(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let direct = format!("http://{}", service.address);
    let settings = [("OSPROXY_URL", direct.as_str()), ("OSPROXY_KEY", &key), ("PORT", &port)];
    let (_server, url) = web_back_end(folder.path(), &settings).await;
    let browser = Browser::start().await;
    browser.open(&url).await;
    let guide = Page::read(WEB).only_block("javascript");
    let run = async |script: &str| browser.execute_async(&format!("{guide}\n{script}")).await;

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
        urls.push(service.url(&crate::support::expect_json::<CreatedLink>(made, 201).await.url));
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

/// Two minutes of silence: so large that no browser reads all of it at once.
fn recording() -> Vec<u8> {
    const RATE: u32 = 44_100;
    const LEN: u32 = 20 << 20;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + LEN).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    // PCM, two channels of 16 bits.
    for (value, bytes) in [(16, 4), (1, 2), (2, 2), (RATE, 4), (RATE * 4, 4), (4, 2), (16, 2)] {
        wav.extend(&value.to_le_bytes()[..bytes]);
    }
    wav.extend(b"data");
    wav.extend(LEN.to_le_bytes());
    wav.resize(wav.len() + usize::try_from(LEN).unwrap(), 0);
    wav
}

#[tokio::test]
#[ignore = "needs Node and Chromium: just test-servers"]
async fn the_film_of_the_web_guide_goes_on_at_the_same_time_with_a_new_link() {
    let port = free_port().to_string();
    let service = Service::start_configured(&Page::read(WEB).only_block("yaml").replace("3000", &port)).await;
    let key = service.create_key(&[]).await;
    let owner = service.with_key(&key);
    let folder = tempfile::tempdir().unwrap();
    let direct = format!("http://{}", service.address);
    let settings = [("OSPROXY_URL", direct.as_str()), ("OSPROXY_KEY", &key), ("PORT", &port)];
    let (_server, url) = web_back_end(folder.path(), &settings).await;
    let uid = owner.store("film.wav", &recording()).await;
    let browser = Browser::start().await;
    browser.open(&format!("{url}film.html?uid={uid}")).await;

    let film = "const film = document.getElementById('film');";
    // Chromium plays sound without a click only if it is muted.
    browser
        .execute(&format!("{film} film.muted = true; film.playbackRate = 1.5; film.play(); return 0"))
        .await;
    let is_beyond = async |second: u32| {
        let script =
            format!("{film} return film.currentTime > {second} && !film.paused && film.readyState > 2");
        (browser.execute(&script).await == true).then_some(())
    };
    eventually("the film plays", async || is_beyond(0).await).await;
    let revoked = owner.v1(Method::DELETE, &format!("/files/{uid}/links"), None).await;
    assert_eq!(revoked.status(), 204);
    // The browser has not read this far: it needs the link again.
    browser.execute(&format!("{film} film.currentTime = 90; return 0")).await;
    eventually("the film continues there", async || is_beyond(90).await).await;
    let played = browser.execute(&format!("{film} return [film.playbackRate, film.error]")).await;
    assert_eq!(played, json!([1.5, null]));
    service.wait_for_log("error=\"link_revoked\"").await;

    let deleted = owner.v1(Method::DELETE, &format!("/files/{uid}"), None).await;
    assert_eq!(deleted.status(), 204);
    browser.execute(&format!("{film} film.currentTime = 60; return 0")).await;
    browser.wait_for_text("#state", "the film was deleted").await;
}

#[tokio::test]
#[ignore = "needs Python and Chromium: just test-servers"]
async fn the_web_back_end_in_python_serves_the_pages_of_the_web_guide() {
    let port = free_port().to_string();
    let mut service =
        Service::start_configured(&Page::read(WEB).only_block("yaml").replace("3000", &port)).await;
    let key = service.create_key(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let direct = format!("http://{}", service.address);
    let settings = [("OSPROXY_URL", direct.as_str()), ("OSPROXY_KEY", &key), ("PORT", &port)];
    let program = Page::read(BACKEND).blocks_in("python").remove(1);
    let (_server, url) = back_end(folder.path(), "python3", "web.py", &program, &settings).await;
    let file = folder.path().join("film.mp4");
    let bytes = content(15, (20 << 20) + 5);
    std::fs::write(&file, &bytes).unwrap();

    let browser = Browser::start().await;
    browser.open(&url).await;
    browser.choose_file("#file", &file).await;
    browser.wait_for_text("#state", "stored: ").await;
    let client = reqwest::Client::new();
    let ask = async |method: Method, path: &str, body: &str| {
        let request = client.request(method, format!("{url}{path}")).body(body.to_owned());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    let json_of = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();

    // The page has reported the upload, and the back end has recorded it.
    let (status, files) = ask(Method::GET, "files", "").await;
    let uid = service.sql("SELECT uid FROM files WHERE state = 'stored'").await.remove(0);
    assert_eq!(status, 200);
    assert_eq!(json_of(&files), json!([{"uid": uid, "name": "film.mp4", "size": bytes.len()}]));
    let (status, saved) = ask(Method::GET, &format!("files/{uid}"), "").await;
    assert!(status == 200 && saved == bytes, "the content differs");
    let (status, link) = ask(Method::POST, &format!("files/{uid}/links"), "").await;
    assert_eq!(status, 200);
    let shown = reqwest::get(json_of(&link)["url"].as_str().unwrap()).await.unwrap();
    assert!(shown.bytes().await.unwrap() == bytes, "the content differs");

    // An upload that is not complete is neither recorded nor readable.
    let (status, created) = ask(Method::POST, "uploads", r#"{"name": "x", "size": 1}"#).await;
    assert_eq!(status, 200);
    let created = json_of(&created);
    let uid = created["uid"].as_str().unwrap();
    for (method, path) in
        [(Method::POST, format!("uploads/{uid}/complete")), (Method::GET, format!("files/{uid}"))]
    {
        assert_eq!(ask(method, &path, "").await.0, 409, "{path}");
    }
    let (status, renewed) = ask(Method::POST, &format!("uploads/{uid}/links"), "").await;
    assert!(status == 200 && json_of(&renewed)["links"]["part"].is_string());

    // A uid that the back end did not create belongs to nobody here, even if osproxy has the file.
    let other = service.with_key(&key).store("other.bin", b"other").await;
    for (method, path) in [
        (Method::GET, format!("files/{other}")),
        (Method::POST, format!("files/{other}/links")),
        (Method::POST, format!("uploads/{other}/complete")),
    ] {
        assert_eq!(ask(method, &path, "").await.0, 404, "{path}");
    }
    service.assert_consistent().await;
}
