//! The step `image`, with images that Pillow made: 24 × 16 pixels as they are shown.

use std::path::Path;

use osproxy_api::v1::FileState;
use serde_json::{Value, json};

use super::{said, start, store_v1, wait_for};
use crate::support::Service;

fn image(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/media/images").join(name)).unwrap()
}

fn content_type(name: &str) -> String {
    let extension = name.rsplit_once('.').unwrap().1;
    format!("image/{}", if extension == "jpg" { "jpeg" } else { extension })
}

/// Stores an image, and returns what is found out about it.
async fn describe(service: &Service, name: &str, bytes: &[u8]) -> Value {
    let uid = store_v1(service, name, &content_type(name), bytes).await;
    Value::from(wait_for(service, &uid, FileState::Stored).await.media.unwrap())
}

#[tokio::test]
async fn images_are_described_as_they_are_shown() {
    let service = start(&[json!({"step": "image", "thumbhash": true})]).await;
    for orientation in 1..=8 {
        let name = format!("orientation-{orientation}.jpg");
        let media = describe(&service, &name, &image(&name)).await;
        let expected = json!({
            "format": "jpeg", "width": 24, "height": 16, "orientation": orientation, "frames": 1,
            "has_alpha": false, "has_location": false, "thumbhash": media["thumbhash"],
        });
        assert_eq!(media, expected);
        assert!(media["thumbhash"].as_str().unwrap().len() > 20);
    }
    for (name, found) in [
        ("progressive.jpg", json!({"format": "jpeg", "frames": 1})),
        ("cmyk.jpg", json!({"format": "jpeg", "frames": 1})),
        ("grey.jpg", json!({"format": "jpeg", "frames": 1})),
        ("location.jpg", json!({"has_location": true})),
        ("alpha.png", json!({"format": "png", "has_alpha": true, "frames": 1})),
        ("animated.png", json!({"format": "png", "frames": 3, "duration_ms": 600})),
        ("animated.gif", json!({"format": "gif", "frames": 3, "duration_ms": 600})),
        ("palette.gif", json!({"format": "gif", "frames": 1})),
        ("animated.webp", json!({"format": "webp", "frames": 3, "duration_ms": 600})),
        ("still.webp", json!({"format": "webp", "frames": 1})),
    ] {
        let media = describe(&service, name, &image(name)).await;
        assert_eq!((&media["width"], &media["height"]), (&json!(24), &json!(16)), "{name}");
        for (key, value) in found.as_object().unwrap() {
            assert_eq!(media[key], *value, "{name}: {media}");
        }
    }
    let link = service.store("photo.jpg", &image("orientation-6.jpg")).await;
    wait_for(&service, &link, FileState::Stored).await;
    let meta = service.download_link(&link).await.unwrap().meta;
    assert_eq!((meta.width, meta.height), (24, 16));
    assert!(service.read(&link).await == image("orientation-6.jpg"));
}

#[tokio::test]
async fn damaged_images_and_bombs_are_found() {
    let cut = |name: &str| {
        let mut bytes = image(name);
        bytes.truncate(bytes.len() * 2 / 3);
        bytes
    };
    let images = [
        ("cut.jpg", cut("orientation-1.jpg")),
        ("cut.png", cut("alpha.png")),
        ("cut.gif", cut("animated.gif")),
        ("cut.webp", cut("animated.webp")),
        ("bomb.png", image("bomb.png")),
        ("text.png", b"words".to_vec()),
        ("empty.gif", Vec::new()),
    ];
    let service = start(&[json!({"step": "image"})]).await;
    for (name, bytes) in &images {
        let media = describe(&service, name, bytes).await;
        assert!(media["error"].is_string() && media.get("width").is_none(), "{name}: {media}");
    }
    let service = start(&[json!({"step": "image", "damaged": "reject"})]).await;
    for (name, bytes) in &images {
        let uid = store_v1(&service, name, &content_type(name), bytes).await;
        wait_for(&service, &uid, FileState::Rejected).await;
        let reason = said(&service, &uid).await["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("not accepted as an image: "), "{reason}");
    }
}

#[tokio::test]
async fn a_decoder_without_memory_harms_only_its_image() {
    // The decoder needs 400 MB for the bomb.
    let step = json!({"step": "image", "max_pixels": 1_000_000_000, "max_memory": "96MiB"});
    let mut service = start(&[step]).await;
    let media = describe(&service, "bomb.png", &image("bomb.png")).await;
    assert!(media["error"].is_string(), "{media}");
    assert!(service.is_running() && service.peak_memory() < 400 << 20);
    let media = describe(&service, "a.png", &image("alpha.png")).await;
    assert_eq!(media["width"], 24, "{media}");
}
