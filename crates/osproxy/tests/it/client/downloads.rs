use futures_util::TryStreamExt;
use osproxy_client::{ErrorCode, ErrorKind};

use super::{MIB, Relay, after, client, client_through, names};
use crate::support::{Fault, FaultyProxy, Service, content};

/// A service with a file, a proxy in front of it, and a folder for downloads.
struct Scene {
    service: Service,
    proxy: FaultyProxy,
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    uid: String,
}

impl Scene {
    async fn start(size: usize) -> Self {
        let service = Service::start().await;
        let proxy = FaultyProxy::start(service.address.to_string(), 1).await;
        let bytes = content(1, size);
        let uid = client(&service).upload(bytes.clone()).name("film.bin").send().await.unwrap().uid;
        Self { service, proxy, folder: tempfile::tempdir().unwrap(), bytes, uid }
    }

    fn client(&self) -> osproxy_client::Client {
        client_through(self.proxy.address, &self.service)
    }

    /// Plans a fault for the first request of content. The request before it describes the file.
    fn plan(&self, fault: Fault) {
        self.proxy.plan_fault("GET", Fault::Slow);
        self.proxy.plan_fault("GET", fault);
    }
}

#[tokio::test]
async fn files_of_every_size_are_saved() {
    let service = Service::start().await;
    let client = client(&service);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.bin");
    for (seed, size) in [(1, 0), (2, 1), (3, 64 << 10), (4, 8 * MIB), (5, 20 * MIB + 3)] {
        let bytes = content(seed, size);
        let uid = client.upload(bytes.clone()).name("film.bin").send().await.unwrap().uid;
        // Replaces the file of the round before.
        let saved = client.download(&uid).to_path(&path).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert!(saved.is_verified);
        assert_eq!(saved.blake3, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!((&saved.file.uid, saved.file.size), (&uid, Some(size as u64)));
        assert!(client.download(&uid).bytes(size).await.unwrap() == bytes);
        let (file, blocks) = client.download(&uid).stream().await.unwrap();
        assert_eq!(file.name, "film.bin");
        assert!(blocks.try_collect::<Vec<_>>().await.unwrap().concat() == bytes);
        if size > 0 {
            let error = client.download(&uid).bytes(size - 1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
    assert_eq!(names(folder.path()), ["film.bin"]);
}

#[tokio::test]
async fn a_download_that_breaks_continues_where_it_broke() {
    let scene = Scene::start(7 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    for fault in [Fault::Truncate(5_000_000), Fault::Reset(5_000_000), Fault::Unavailable] {
        for to_path in [true, false] {
            let before = scene.proxy.received();
            scene.plan(fault);
            let download = scene.client().download(&scene.uid);
            if to_path {
                download.to_path(&path).await.unwrap();
                assert!(std::fs::read(&path).unwrap() == scene.bytes);
            } else {
                assert!(download.bytes(7 * MIB).await.unwrap() == scene.bytes);
            }
            // A reset can destroy bytes that have arrived, the end of a connection cannot.
            let received = scene.proxy.received() - before;
            let most = if fault == Fault::Truncate(5_000_000) { 8 * MIB } else { 13 * MIB };
            assert!(received < most as u64, "{fault:?} {received}");
        }
    }
}

#[tokio::test]
async fn damaged_content_never_gets_the_final_name() {
    let scene = Scene::start(7 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    scene.plan(Fault::FlipAnswerBit(3_000_000));
    let error = scene.client().download(&scene.uid).to_path(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(names(scene.folder.path()).is_empty());
    scene.plan(Fault::FlipAnswerBit(3_000_000));
    let error = scene.client().download(&scene.uid).bytes(7 * MIB).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    scene.client().download(&scene.uid).to_path(&path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == scene.bytes);
}

#[tokio::test]
async fn a_download_that_was_dropped_is_resumed() {
    let scene = Scene::start(40 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    std::fs::write(&path, "an older file").unwrap();
    let relay = Relay::start(scene.proxy.address).await;
    let slow = client_through(relay.address, &scene.service);
    let (is_under_way, progress) = after(28 * MIB);
    tokio::select! {
        ended = slow.download(&scene.uid).parallel(2).progress(progress).to_path(&path) => panic!("{ended:?}"),
        () = is_under_way.notified() => {}
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"an older file");
    assert_eq!(
        names(scene.folder.path()),
        [".film.bin.osproxy-part", ".film.bin.osproxy-part.json", "film.bin"]
    );
    let before = scene.proxy.received();
    scene.client().download(&scene.uid).to_path(&path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == scene.bytes);
    assert_eq!(names(scene.folder.path()), ["film.bin"]);
    // At least one of the ranges of 8 MiB was complete.
    let received = scene.proxy.received() - before;
    assert!(received < 33 * MIB as u64, "{received}");
}

#[tokio::test]
async fn what_is_left_of_another_file_is_not_used() {
    let scene = Scene::start(9 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    let record =
        format!(r#"{{"uid": "1", "size": {}, "received": [{{"start": 0, "end": 8388608}}]}}"#, 9 * MIB);
    std::fs::write(scene.folder.path().join(".film.bin.osproxy-part"), content(7, 9 * MIB)).unwrap();
    std::fs::write(scene.folder.path().join(".film.bin.osproxy-part.json"), record).unwrap();
    scene.client().download(&scene.uid).to_path(&path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == scene.bytes);
    assert_eq!(names(scene.folder.path()), ["film.bin"]);
}

#[tokio::test]
async fn two_downloads_to_one_path_do_not_mix() {
    let scene = Scene::start(20 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    let other = content(2, 20 * MIB);
    let second = client(&scene.service).upload(other.clone()).name("x.bin").send().await.unwrap().uid;
    let client = client(&scene.service);
    let (first, second) =
        tokio::join!(client.download(&scene.uid).to_path(&path), client.download(&second).to_path(&path));
    assert!(first.is_ok() || second.is_ok());
    let saved = std::fs::read(&path).unwrap();
    assert!(saved == scene.bytes || saved == other);
    if first.is_ok() && second.is_ok() {
        assert_eq!(names(scene.folder.path()), ["film.bin"]);
    }
}

#[tokio::test]
async fn a_download_survives_that_the_service_is_killed() {
    let mut scene = Scene::start(20 * MIB).await;
    let path = scene.folder.path().join("film.bin");
    let relay = Relay::start(scene.service.address).await;
    let client = client_through(relay.address, &scene.service);
    let (is_under_way, progress) = after(6 * MIB);
    let download = tokio::spawn(client.download(&scene.uid).progress(progress).to_path(path.clone()));
    is_under_way.notified().await;
    scene.service.kill().await;
    assert!(!download.is_finished());
    scene.service.restart().await;
    relay.set_target(scene.service.address);
    download.await.unwrap().unwrap();
    assert!(std::fs::read(&path).unwrap() == scene.bytes);
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_said() {
    let scene = Scene::start(MIB).await;
    let client = client(&scene.service);
    let absent = client.download("1").to_path(scene.folder.path().join("x")).await.unwrap_err();
    assert_eq!(absent.code(), Some(ErrorCode::FileNotFound));
    let folder = client.download(&scene.uid).to_path(scene.folder.path()).await.unwrap_err();
    assert!(folder.kind() == ErrorKind::Io && folder.to_string().contains("a directory"), "{folder}");
    let nowhere = client.download(&scene.uid).to_path(scene.folder.path().join("a/b")).await.unwrap_err();
    assert!(nowhere.kind() == ErrorKind::Io && nowhere.to_string().contains("a/b"), "{nowhere}");
    assert!(names(scene.folder.path()).is_empty());
}
