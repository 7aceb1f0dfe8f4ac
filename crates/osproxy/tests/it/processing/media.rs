//! The step `media`, with films that ffmpeg makes.

use std::os::unix::fs::PermissionsExt;

use osproxy_api::v1::FileState;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{said, start, store_v1, wait_for};
use crate::support::content;

/// Makes a file of audio and video with these arguments of ffmpeg.
async fn film(name: &str, arguments: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let made = Command::new("/usr/bin/ffmpeg")
        .args(["-v", "error"])
        .args(arguments.split(' '))
        .arg(&path)
        .status()
        .await
        .expect("ffmpeg; see .ci/install");
    assert!(made.success());
    std::fs::read(path).unwrap()
}

#[tokio::test]
#[ignore = "needs ffmpeg"]
async fn films_and_sounds_are_described() {
    let service = start(&[json!({"step": "media", "probe_size": "64KiB"})]).await;
    let picture = "-f lavfi -i testsrc=duration=3:size=640x360:rate=25";
    let sound = "-f lavfi -i sine=duration=3";
    // The index is at the end of the file, which is much longer than what ffprobe sees of it.
    let mp4 = film("a.mp4", &format!("{picture} {sound} -c:v mpeg4 -b:v 4M -c:a aac -shortest")).await;
    assert!(mp4.len() > 2 * (64 << 10), "{}", mp4.len());
    let fast = film("b.mp4", &format!("{picture} -c:v mpeg4 -movflags +faststart")).await;
    let webm = film("c.mkv", &format!("{picture} -c:v mpeg4")).await;
    let flac = film("d.flac", sound).await;
    for (name, kind, bytes, found) in [
        (
            "a.mp4",
            "video/mp4",
            &mp4,
            json!({"video_codec": "mpeg4", "audio_codec": "aac", "width": 640, "height": 360}),
        ),
        ("b.mp4", "video/mp4", &fast, json!({"video_codec": "mpeg4", "width": 640})),
        ("c.mkv", "video/x-matroska", &webm, json!({"video_codec": "mpeg4", "height": 360})),
        ("d.flac", "audio/flac", &flac, json!({"audio_codec": "flac", "container": "flac"})),
    ] {
        let uid = store_v1(&service, name, kind, bytes).await;
        let media = Value::from(wait_for(&service, &uid, FileState::Stored).await.media.unwrap());
        for (key, value) in found.as_object().unwrap() {
            assert_eq!(media[key], *value, "{name}: {media}");
        }
        let duration = media["duration_ms"].as_u64().unwrap();
        assert!((2900..=3100).contains(&duration), "{name}: {media}");
        assert!(service.read(&uid).await == **bytes);
    }
}

#[tokio::test]
#[ignore = "needs ffmpeg"]
async fn what_is_no_film_is_named_or_rejected() {
    for (damaged, state) in [("pass", FileState::Stored), ("reject", FileState::Rejected)] {
        let service = start(&[json!({"step": "media", "damaged": damaged})]).await;
        let uid = store_v1(&service, "a.mp4", "video/mp4", &content(1, 100_000)).await;
        let file = wait_for(&service, &uid, state).await;
        if state == FileState::Stored {
            assert!(file.media.unwrap()["error"].is_string());
        } else {
            assert!(said(&service, &uid).await["reason"].as_str().unwrap().contains("no valid audio"));
        }
    }
}

/// In place of ffprobe: tries to change its input, and reports what has worked.
const CHANGES_INPUT: &str = r#"#!/usr/bin/python3 -I
import fcntl, json, mmap, os

worked = []

def attempt(name, call):
    try:
        call()
        worked.append(name)
    except (OSError, ValueError):
        pass

attempt("read", lambda: os.read(0, 1))
if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
    worked.append("writable")
attempt("write", lambda: os.write(0, b"x"))
attempt("map", lambda: mmap.mmap(0, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
attempt("open", lambda: os.open("/dev/stdin", os.O_RDONLY))
attempt("open to write", lambda: os.open("/dev/stdin", os.O_RDWR))
print(json.dumps({"format": {"format_name": ",".join(worked)}}))
"#;

#[tokio::test]
async fn ffprobe_cannot_change_its_input() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ffprobe");
    std::fs::write(&program, CHANGES_INPUT).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let service = start(&[json!({"step": "media", "ffprobe": program})]).await;
    let uid = store_v1(&service, "a.mp4", "video/mp4", &content(1, 100_000)).await;
    let media = Value::from(wait_for(&service, &uid, FileState::Stored).await.media.unwrap());
    assert_eq!(media, json!({"container": "read,open"}));
}
