use std::sync::{Arc, Mutex};

use bytes::Bytes;
use osproxy_api::v1::FileState;
use osproxy_client::{Client, ErrorCode, ErrorKind, ResumableUpload, Source};

use super::{MIB, Relay, after, client, client_through, names};
use crate::support::{Fault, FaultyProxy, Service, content, eventually};

/// Waits until no upload is open, and asserts that there is no other file.
async fn expect_no_files(service: &Service) {
    let none =
        async || (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["0"]).then_some(());
    eventually("nothing is left", none).await;
}

#[tokio::test]
async fn content_of_every_size_arrives() {
    let mut service = Service::start().await;
    let client = client(&service);
    let folder = tempfile::tempdir().unwrap();
    for (seed, size) in [(1, 0), (2, 1), (3, 64 << 10), (4, 8 * MIB), (5, 8 * MIB + 1), (6, 20 * MIB)] {
        let bytes = content(seed, size);
        let path = folder.path().join(format!("film {seed}.bin"));
        std::fs::write(&path, &bytes).unwrap();
        let sources = [
            Source::path(&path),
            Source::bytes(bytes.clone()),
            Source::reader(std::io::Cursor::new(bytes.clone())),
        ];
        for (number, source) in sources.into_iter().enumerate() {
            let mut upload = client.upload(source).metadata("case", "17").content_type("video/mp4");
            if number > 0 {
                upload = upload.name(format!("film {seed}.bin"));
            }
            let stored = upload.send().await.unwrap();
            assert_eq!((stored.size, stored.was_known), (size as u64, false));
            assert_eq!(stored.blake3, blake3::hash(&bytes).to_hex().to_string());
            assert!(service.read(&stored.uid).await == bytes, "{seed} {number}");
            let file = client.file(&stored.uid).await.unwrap();
            assert_eq!((file.name, file.state), (format!("film {seed}.bin"), FileState::Stored));
            assert_eq!(file.content_type.as_deref(), Some("video/mp4"));
            assert_eq!(file.metadata["case"], "17");
        }
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_part_that_breaks_is_sent_again_alone() {
    let service = Service::start().await;
    let proxy = FaultyProxy::start(service.address.to_string(), 1).await;
    let client = client_through(proxy.address, &service);
    let bytes = content(1, 6 * MIB + 5);
    let faults =
        [Fault::ResetRequest(300_000), Fault::Unavailable, Fault::FlipBit(400_000), Fault::Truncate(1)];
    for fault in faults {
        let sent_before = proxy.parts_sent().len();
        // Only parts are sent by `PUT`.
        proxy.plan_fault("PUT", fault);
        let upload = client.upload(bytes.clone()).name("x.bin").part_size(MIB as u64);
        let stored = upload.send().await.unwrap();
        assert!(service.read(&stored.uid).await == bytes);
        // A part whose response was lost is known from the state of the upload.
        let again = usize::from(fault != Fault::Truncate(1));
        assert_eq!(proxy.parts_sent().len() - sent_before, 7 + again, "{fault:?}");
    }
    assert_eq!(proxy.faults().1, faults);
}

#[tokio::test]
async fn a_small_file_is_stored_once_whatever_breaks() {
    let service = Service::start().await;
    let proxy = FaultyProxy::start(service.address.to_string(), 1).await;
    let client = client_through(proxy.address, &service);
    let bytes = content(1, MIB);
    for fault in
        [Fault::ResetRequest(300_000), Fault::Unavailable, Fault::FlipBit(400_000), Fault::Truncate(1)]
    {
        proxy.plan_fault("POST", fault);
        let stored = client.upload(bytes.clone()).name("x.bin").send().await.unwrap();
        assert!(service.read(&stored.uid).await == bytes);
        client.delete_file(&stored.uid).await.unwrap();
        expect_no_files(&service).await;
    }
}

/// Starts an upload, and drops it when a third is sent. Returns what is needed to resume it.
async fn drop_upload(client: &Client, source: Source) -> ResumableUpload {
    let (is_under_way, progress) = after(7 * MIB);
    let saved = Arc::new(Mutex::new(None));
    let save = saved.clone();
    let upload = client.upload(source).name("film.bin").part_size(MIB as u64).progress(progress);
    let upload =
        upload.on_start(move |state| *save.lock().unwrap() = Some(serde_json::to_string(state).unwrap()));
    tokio::select! {
        ended = upload.send() => panic!("{ended:?}"),
        () = is_under_way.notified() => {}
    }
    let saved = saved.lock().unwrap().take().unwrap();
    serde_json::from_str(&saved).unwrap()
}

#[tokio::test]
async fn an_upload_that_was_dropped_is_resumed() {
    let service = Service::start().await;
    let proxy = FaultyProxy::start(service.address.to_string(), 1).await;
    let bytes = content(1, 20 * MIB + 77);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.bin");
    std::fs::write(&path, &bytes).unwrap();
    let state = drop_upload(&client_through(proxy.address, &service), Source::path(&path)).await;
    let client = client(&service);
    // What the service still receives of the dropped requests ends.
    let is_quiet = async || {
        let before = client.upload_status(&state.uid).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let after = client.upload_status(&state.uid).await.unwrap();
        (before == after).then_some(after.parts)
    };
    let received = eventually("the dropped parts have ended", is_quiet).await;
    assert!(received.len() >= 3 && received.len() < 21, "{received:?}");
    let sent_before = proxy.parts_sent().len();
    let resumed = client_through(proxy.address, &service).upload(Source::path(&path)).resume(state.clone());
    let stored = resumed.send().await.unwrap();
    assert_eq!(stored.uid, state.uid);
    assert!(service.read(&stored.uid).await == bytes);
    let mut sent = proxy.parts_sent().split_off(sent_before);
    sent.sort_unstable();
    let missing: Vec<_> = (1..=21).filter(|number| !received.contains(number)).collect();
    assert_eq!(sent, missing);
}

#[tokio::test]
async fn an_upload_is_not_resumed_with_another_file_and_can_be_aborted() {
    let service = Service::start().await;
    let client = client(&service);
    let state = drop_upload(&client, Source::bytes(content(1, 20 * MIB))).await;
    let other = client.upload(content(2, 19 * MIB)).resume(state.clone()).send().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::SourceChanged);
    // Bytes have no time, so only their digest shows that they differ.
    let other = client.upload(content(2, 20 * MIB)).resume(state.clone()).send().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::DigestMismatch, "{other}");
    let state = drop_upload(&client, Source::bytes(content(1, 20 * MIB))).await;
    client.abort_upload(&state.uid).await.unwrap();
    let gone = client.upload_status(&state.uid).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::FileGone));
    let gone = client.upload(content(1, 20 * MIB)).resume(state).send().await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::FileGone));
}

#[tokio::test]
async fn an_upload_survives_that_the_service_is_killed() {
    let mut service = Service::start().await;
    let relay = Relay::start(service.address).await;
    let client = client_through(relay.address, &service);
    let bytes = content(1, 20 * MIB);
    let (is_under_way, progress) = after(6 * MIB);
    let upload = client.upload(bytes.clone()).name("film.bin").part_size(MIB as u64).progress(progress);
    let upload = tokio::spawn(upload.send());
    is_under_way.notified().await;
    service.kill().await;
    assert!(!upload.is_finished());
    service.restart().await;
    relay.set_target(service.address);
    let stored = upload.await.unwrap().unwrap();
    assert!(service.read(&stored.uid).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_is_not_stored() {
    let service = Service::start().await;
    let client = client(&service);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.bin");
    let change: [fn(&std::fs::File); 2] =
        [|file| file.set_len(5 * MIB as u64).unwrap(), |file| file.set_len(21 * MIB as u64).unwrap()];
    for change in change {
        std::fs::write(&path, content(1, 20 * MIB)).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let upload = client.upload(path.clone()).on_start(move |_| change(&file));
        let error = upload.send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
        expect_no_files(&service).await;
    }
}

#[tokio::test]
async fn sources_that_cannot_be_sent_are_named() {
    let service = Service::start().await;
    let client = client(&service);
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(pipe.success());
    for (name, reason) in [
        ("socket", "not a regular file"),
        ("pipe", "not a regular file"),
        ("folder", "a directory"),
        ("absent", "No such file"),
    ] {
        let error = client.upload(Source::path(folder.path().join(name))).send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(name) && error.to_string().contains(reason), "{error}");
    }
    let broken = futures_util::stream::iter([
        Ok(Bytes::from(content(1, 9 * MIB))),
        Err(std::io::Error::other("the disk is gone")),
    ]);
    let error = client.upload(Source::stream(broken)).name("x").send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    let error = client.upload(b"x".to_vec()).send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    expect_no_files(&service).await;
    assert_eq!(names(folder.path()), ["folder", "pipe", "socket"]);
}

#[tokio::test]
async fn content_that_is_too_large_is_refused_with_its_code() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1MiB")]).await;
    let client = client(&service);
    for source in [
        Source::bytes(content(1, 2 * MIB)),
        Source::bytes(content(1, 9 * MIB)),
        Source::reader(std::io::Cursor::new(content(1, 9 * MIB))),
    ] {
        let error = client.upload(source).name("x.bin").send().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Api, Some(ErrorCode::TooLarge)), "{error}");
        assert_eq!(error.status(), Some(413));
    }
    expect_no_files(&service).await;
}

#[tokio::test]
async fn known_content_is_not_sent_again() {
    for settings in [&[][..], &[("UPLOADS__REQUIRE_POSSESSION_PROOF", "true")]] {
        let service = Service::start_with(settings).await;
        let proxy = FaultyProxy::start(service.address.to_string(), 1).await;
        let client = client_through(proxy.address, &service);
        let bytes = content(1, 12 * MIB);
        let send =
            async || client.upload(bytes.clone()).name("x.bin").deduplicate(true).send().await.unwrap();
        assert!(!send().await.was_known);
        let before = proxy.sent();
        let again = send().await;
        assert!(again.was_known);
        let more = proxy.sent() - before;
        assert!(more < 10_000, "{more}");
        assert!(service.read(&again.uid).await == bytes);
    }
}
