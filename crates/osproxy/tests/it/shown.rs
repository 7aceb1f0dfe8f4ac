//! What Chromium shows of content: in a tab, and on pages of other origins.

use osproxy_api::v1::CreatedLink;
use serde_json::{Value, json};

use crate::support::{Browser, Nginx, Service, eventually, expect_json};

const FILM: &[u8] = include_bytes!("media/film.mp4");
const MP3: &[u8] = include_bytes!("media/tone.mp3");
const WAV: &[u8] = include_bytes!("media/tone.wav");
/// One page, all red.
const PDF: &[u8] = include_bytes!("media/paper.pdf");
/// 8 by 8 pixels.
const PICTURE: &[u8] = include_bytes!("media/picture.png");
const TEXT: &str = "Grüße, 漢字";

/// An inline link to a file with this content, at the service's address for other origins.
async fn inline_link(service: &Service, name: &str, bytes: &[u8]) -> String {
    let uid = service.store(name, bytes).await;
    let wish = json!({"expires_in": 600, "disposition": "inline"});
    let made = service.v1_post(&format!("/files/{uid}/links"), &wish).await;
    service.url(&expect_json::<CreatedLink>(made, 201).await.url)
}

/// Content with a script that requests `/it-ran` when it runs.
fn active_content(service: &Service) -> [(&'static str, String); 3] {
    let ask = format!("new Image().src='{}'", service.url("/it-ran"));
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"";
    [
        (
            "page.html",
            format!("<!DOCTYPE html><title>ran</title><script>{ask}</script><img src=x onerror=\"{ask}\">"),
        ),
        ("drawing.svg", format!("{svg} onload=\"{ask}\"><script>{ask}</script></svg>")),
        ("page.xhtml", format!("<html xmlns=\"http://www.w3.org/1999/xhtml\"><script>{ask}</script></html>")),
    ]
}

/// Plays the media in the page or frame until its time advances.
async fn plays(browser: &Browser, selector: &str) {
    let selector = Value::from(selector);
    let play = format!(
        "const media = document.querySelector({selector});\
         if (media && media.readyState > 0 && media.paused && !media.currentTime) {{ media.muted = true; media.play() }}\
         return !!media && media.duration > 0.5 && media.currentTime > 0"
    );
    eventually("the media plays", async || (browser.execute(&play).await == true).then_some(())).await;
}

/// What the browser blocked by a policy, without the icon that it requests by itself.
async fn complaints(browser: &Browser) -> Vec<Value> {
    let mut all = browser.console_messages().await;
    all.retain(|entry| !entry["message"].as_str().unwrap().contains("/favicon.ico"));
    all
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn what_is_opened_in_a_tab_is_shown() {
    let service = Service::start().await;
    let browser = Browser::start().await;
    for (name, bytes) in [("film.mp4", FILM), ("tone.mp3", MP3), ("tone.wav", WAV)] {
        browser.open(&inline_link(&service, name, bytes).await).await;
        plays(&browser, "video").await;
        assert_eq!(complaints(&browser).await, [Value::Null; 0], "{name}");
    }
    browser.open(&inline_link(&service, "picture.png", PICTURE).await).await;
    assert_eq!(browser.execute("return document.images[0].naturalWidth").await, 8);
    browser.open(&inline_link(&service, "notes.txt", TEXT.as_bytes()).await).await;
    browser.wait_for_text("pre", TEXT).await;
    assert_eq!(
        browser.execute("return getComputedStyle(document.querySelector('pre')).whiteSpace").await,
        "pre-wrap"
    );
    browser.open(&inline_link(&service, "paper.pdf", PDF).await).await;
    eventually("the PDF is shown", async || (browser.red_pixels().await > 10_000).then_some(())).await;
    assert_eq!(complaints(&browser).await, [Value::Null; 0]);
    // Active content is downloaded: the previous page stays.
    browser.open(&inline_link(&service, "notes.txt", TEXT.as_bytes()).await).await;
    for (name, text) in active_content(&service) {
        let url = inline_link(&service, name, text.as_bytes()).await;
        browser.execute(&format!("location = {}; return 0", Value::from(url))).await;
    }
    browser.wait_for_text("pre", TEXT).await;
    assert!(!service.log().contains("/it-ran"));
}

#[tokio::test]
#[ignore = "needs Chromium: just test-servers"]
async fn pages_of_other_origins_show_it_isolated_or_not() {
    let service = Service::start().await;
    let browser = Browser::start().await;
    let nginx = Nginx::start_configured(
        "types { text/html html; }\n\
         server {\n\
             listen LISTEN;\n\
             root html;\n\
             location = /isolated.html {\n\
                 add_header Cross-Origin-Opener-Policy same-origin;\n\
                 add_header Cross-Origin-Embedder-Policy require-corp;\n\
             }\n\
         }",
    )
    .await;
    let [film, tone, picture, text, paper] = [
        inline_link(&service, "film.mp4", FILM).await,
        inline_link(&service, "tone.mp3", MP3).await,
        inline_link(&service, "picture.png", PICTURE).await,
        inline_link(&service, "notes.txt", TEXT.as_bytes()).await,
        inline_link(&service, "paper.pdf", PDF).await,
    ];
    let mut html = format!(
        "<!DOCTYPE html><meta charset=utf-8><video src='{film}'></video><audio src='{tone}'></audio><img id=png src='{picture}'>\
         <iframe id=text src='{text}'></iframe><iframe id=film src='{film}'></iframe>\
         <iframe id=picture src='{picture}'></iframe><iframe id=paper src='{paper}' width=600 height=500></iframe>"
    );
    for (name, text) in active_content(&service) {
        let url = inline_link(&service, name, text.as_bytes()).await;
        html.extend(["<iframe src='", &url, "'></iframe>"]);
        if name == "drawing.svg" {
            html.extend(["<img id=svg src='", &url, "'>"]);
        }
    }
    std::fs::create_dir(nginx.folder().join("html")).unwrap();
    for name in ["plain.html", "isolated.html"] {
        std::fs::write(nginx.folder().join("html").join(name), &html).unwrap();
    }
    for (name, is_isolated) in [("plain.html", false), ("isolated.html", true)] {
        // Another host name is another site as well.
        browser.open(&format!("http://localhost:{}/{name}", nginx.address.port())).await;
        assert_eq!(browser.execute("return crossOriginIsolated").await, is_isolated);
        plays(&browser, "video").await;
        // Chromium does not play sound before a click.
        let is_loaded = "return document.querySelector('audio').readyState === 4";
        eventually("audio is loaded", async || (browser.execute(is_loaded).await == true).then_some(()))
            .await;
        let widths = "return ['png', 'svg'].map(id => document.getElementById(id).naturalWidth)";
        assert_eq!(browser.execute(widths).await, json!([8, 9]));
        browser.in_frame("#text", async || browser.wait_for_text("pre", TEXT).await).await;
        browser.in_frame("#film", async || plays(&browser, "video").await).await;
        browser
            .in_frame("#picture", async || {
                assert_eq!(browser.execute("return document.images[0].naturalWidth").await, 8);
            })
            .await;
        eventually("the PDF is shown", async || (browser.red_pixels().await > 10_000).then_some(())).await;
    }
    assert!(!service.log().contains("/it-ran"));
}
