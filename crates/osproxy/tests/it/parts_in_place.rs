//! Parts of unannounced size on a local disk: parts of the same size are written at their place in
//! one file.

use std::os::unix::fs::MetadataExt;

use osproxy_api::v0::UploadLinks;

use crate::support::{Api, RawConnection, Service, content, eventually, expect_v0_error, md5_hex};

const PART: usize = 64 << 10;
/// Size of a part that is written before all of it has arrived, in bytes.
const LARGE: usize = 1 << 20;

/// The preallocated file of an upload.
struct Preallocated(std::path::PathBuf);

impl Preallocated {
    /// Finds the file among the objects; `None` if there is none.
    fn find(service: &Service) -> Option<Self> {
        let name = service.objects().into_iter().find(|name| name.contains("/."))?;
        Some(Self(service.object_path(name)))
    }

    fn metadata(&self) -> std::fs::Metadata {
        std::fs::metadata(&self.0).unwrap()
    }

    /// The disk space of the file, in bytes.
    fn allocated(&self) -> u64 {
        self.metadata().blocks() * 512
    }
}

async fn tasks(service: &Service, kind: &str) -> String {
    service.sql(&format!("SELECT count(*) FROM tasks WHERE kind = '{kind}'")).await.concat()
}

#[tokio::test]
async fn parts_of_one_size_become_the_object_without_being_copied() {
    let mut service = Service::start().await;
    let bytes = content(1, 3 * PART + 1000);
    let link = service.upload_link("film.mp4").await;
    let parts: Vec<_> = bytes.chunks(PART).collect();
    for number in [3, 1, 2, 4] {
        assert_eq!(service.put_part(&link, number, parts[number as usize - 1]).await.status(), 200);
    }
    let file = Preallocated::find(&service).unwrap().metadata();
    assert_eq!((file.len(), service.objects().len()), (bytes.len() as u64, 1));
    assert_eq!(service.merge(&link, 4, &bytes).await.status(), 200);
    // It was verified before the answer, and nothing is left to do.
    let verified =
        "SELECT count(*) FROM blobs WHERE layout = 'whole' AND md5 IS NOT NULL AND blake3 IS NOT NULL";
    assert_eq!(service.sql(verified).await, ["1"]);
    assert_eq!(service.objects(), [format!("video/{}.mp4", link.uid)]);
    let object = std::fs::metadata(service.object_path(&service.objects()[0])).unwrap();
    assert_eq!((object.ino(), object.len()), (file.ino(), bytes.len() as u64));
    assert_eq!(
        (tasks(&service, "merge_parts").await, tasks(&service, "verify_blob").await),
        ("0".into(), "0".into())
    );
    assert!(service.read(&link.uid).await == bytes);
    // Known content is found by its MD5 and shared.
    let known = service.instant_upload(&[(&md5_hex(&bytes), "again.mp4")]).await;
    assert!(service.read(&known[0].uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_too_large_to_be_read_before_the_answer_is_verified_later() {
    let mut service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "100000")]).await;
    let bytes = content(2, 3 * PART);
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &bytes.chunks(PART).collect::<Vec<_>>()).await;
    assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    assert_eq!(
        (tasks(&service, "merge_parts").await, tasks(&service, "verify_blob").await),
        ("0".into(), "1".into())
    );
    let wrong = service.upload_link("x.bin").await;
    service.put_parts(&wrong, &content(3, 3 * PART).chunks(PART).collect::<Vec<_>>()).await;
    assert_eq!(service.merge(&wrong, 3, &bytes).await.status(), 200, "nothing was read yet");
    eventually("the content is rejected", async || {
        (service.sql(&format!("SELECT state FROM files WHERE uid = {}", wrong.uid)).await == ["corrupt"])
            .then_some(())
    })
    .await;
    eventually("it is removed", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// The first part determines the size of the slots; parts that do not fit are objects.
#[tokio::test]
async fn parts_of_any_size_in_any_order_become_the_content() {
    let mut service = Service::start().await;
    // Sizes of the parts, and the order in which they are sent.
    let cases: [(&[usize], &[usize]); 7] = [
        (&[PART, PART, 10], &[2, 0, 1]),
        (&[PART, PART + 1, PART], &[0, 1, 2]),
        (&[PART, 5, PART, PART], &[0, 2, 1, 3]),
        (&[PART, PART, PART], &[1, 2, 0]),
        (&[2 * PART, PART, PART, 2 * PART], &[1, 0, 3, 2]),
        (&[PART, 0, PART], &[0, 1, 2]),
        (&[PART + 7], &[0]),
    ];
    for (seed, (sizes, order)) in (10..).zip(cases) {
        let bytes = content(seed, sizes.iter().sum());
        let start = |at: usize| sizes[..at].iter().sum::<usize>();
        let link = service.upload_link("x.bin").await;
        for at in order {
            let part = &bytes[start(*at)..][..sizes[*at]];
            let number = u32::try_from(*at).unwrap() + 1;
            assert_eq!(service.put_part(&link, number, part).await.status(), 200);
        }
        assert_eq!(service.merge(&link, sizes.len(), &bytes).await.status(), 200);
        assert!(service.read(&link.uid).await == bytes, "{sizes:?} in the order {order:?}");
        service.wait_until_merged(&link.uid).await;
        assert!(service.read(&link.uid).await == bytes, "{sizes:?} in the order {order:?}, merged");
    }
    service.database().wait_until_idle().await;
    eventually("only the objects are left", async || (service.objects().len() == cases.len()).then_some(()))
        .await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_wrong_md5_leaves_the_upload_open_and_the_part_can_be_sent_again() {
    let mut service = Service::start().await;
    let bytes = content(30, 3 * PART);
    let mut wrong = bytes.clone();
    wrong[PART] ^= 1;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &wrong.chunks(PART).collect::<Vec<_>>()).await;
    let message = expect_v0_error(service.merge(&link, 3, &bytes).await, 422).await;
    assert!(message.contains(&md5_hex(&wrong)), "{message}");
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 3]);
    assert_eq!(service.put_part(&link, 2, &bytes[PART..2 * PART]).await.status(), 200);
    assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    eventually("one object is left", async || (service.objects().len() == 1).then_some(())).await;
    assert!(service.read(&link.uid).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// Sends the first `sent` bytes of a part.
async fn send_some(
    service: &Service,
    link: &UploadLinks,
    number: u32,
    part: &[u8],
    sent: usize,
) -> RawConnection {
    let mut connection: RawConnection = service.connect().await;
    let url = format!("{}&chunkNum={number}", link.url.multi.upload);
    connection.send_head("PUT", &url, &format!("Content-Length: {}\r\n", part.len())).await;
    connection.send(&part[..sent]).await;
    connection
}

#[tokio::test]
async fn parts_that_do_not_count_occupy_no_disk_space() {
    let mut service = Service::start().await;
    let (code, said) = service.cli(&["tenant", "set", "small", "--new", "--max-bytes", "4MB"]).await;
    assert_eq!(code, 0, "{said}");
    let small: Api = service.with_key(&service.create_key(&["--tenant", "small"]).await);
    let bytes = content(40, 4 * LARGE);
    let part = |number: usize| &bytes[(number - 1) * LARGE..][..LARGE];
    let link = small.upload_link("x.bin").await;
    assert_eq!(small.put_part(&link, 1, part(1)).await.status(), 200);
    let file = Preallocated::find(&service).unwrap();
    let one_part = file.allocated();
    assert!(one_part >= LARGE as u64);
    let settled = async |what: &str| {
        eventually(what, async || (file.allocated() <= one_part).then_some(())).await;
    };
    // With a wrong digest, broken off, and over the quota.
    let url = format!("{}&chunkNum=2&md5={}", link.url.multi.upload, md5_hex(b"other"));
    expect_v0_error(small.put(&url, part(2)).await, 422).await;
    settled("the part with a wrong digest is discarded").await;
    let broken = send_some(&service, &link, 3, part(3), LARGE / 2).await;
    eventually("the part has begun", async || {
        (service.sql("SELECT count(*) FROM parts WHERE number = 3").await == ["1"]).then_some(())
    })
    .await;
    drop(broken);
    eventually("the write has ended", async || {
        let rows = service.sql("SELECT state FROM parts WHERE number = 3").await;
        rows.iter().all(|state| state == "gone").then_some(())
    })
    .await;
    settled("the part that broke off is discarded").await;
    for number in [2, 3] {
        assert_eq!(small.put_part(&link, number, part(number as usize)).await.status(), 200);
    }
    let three_parts = file.allocated();
    let refused = small.put_part(&link, 4, part(4)).await;
    expect_v0_error(refused, 507).await;
    eventually("the part over the quota is discarded", async || {
        (file.allocated() <= three_parts).then_some(())
    })
    .await;
    // Replaced by a part that is an object.
    assert_eq!(small.put_part(&link, 3, b"short").await.status(), 200);
    eventually("the replaced part is discarded", async || (file.allocated() < three_parts).then_some(()))
        .await;
    let all = [part(1), part(2), b"short"].concat();
    assert_eq!(small.merge(&link, 3, &all).await.status(), 200);
    assert!(small.read(&link.uid).await == all);
    service.wait_until_merged(&link.uid).await;
    assert!(small.read(&link.uid).await == all);
    eventually("one object is left", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// A part beyond the end that is still being sent when the upload is completed.
#[tokio::test]
async fn a_late_part_does_not_make_the_object_longer() {
    let mut service = Service::start().await;
    let bytes = content(50, 2 * LARGE);
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &bytes.chunks(LARGE).collect::<Vec<_>>()).await;
    let file = Preallocated::find(&service).unwrap();
    let mut late = send_some(&service, &link, 5, &bytes[..LARGE], 600_000).await;
    eventually("the late part is written", async || (file.metadata().len() > 4 * LARGE as u64).then_some(()))
        .await;
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
    late.send(&bytes[600_000..LARGE]).await;
    let answer = String::from_utf8(late.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    let object = std::fs::metadata(service.object_path(&service.objects()[0])).unwrap();
    assert_eq!(object.len(), bytes.len() as u64);
    assert!(service.read(&link.uid).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_continues_after_a_crash() {
    let mut service = Service::start().await;
    let bytes = content(60, 4 * LARGE);
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &bytes.chunks(LARGE).take(2).collect::<Vec<_>>()).await;
    let file = Preallocated::find(&service).unwrap();
    let interrupted = send_some(&service, &link, 3, &bytes[2 * LARGE..3 * LARGE], 600_000).await;
    eventually("the part is being written", async || {
        (file.metadata().len() > 2 * LARGE as u64).then_some(())
    })
    .await;
    service.kill_and_restart().await;
    drop(interrupted);
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2]);
    for number in [3, 4] {
        let part = &bytes[(number - 1) * LARGE..][..LARGE];
        assert_eq!(service.put_part(&link, u32::try_from(number).unwrap(), part).await.status(), 200);
    }
    assert_eq!(service.merge(&link, 4, &bytes).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    eventually("one object is left", async || (service.objects().len() == 1).then_some(())).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// A part number far beyond the usual does not fail: a file system has a maximum file size.
#[tokio::test]
async fn a_part_whose_place_is_beyond_the_largest_file_is_an_object() {
    let service = Service::start_with(&[("UPLOADS__MAX_PART_SIZE", "2GiB")]).await;
    let link = service.upload_link("x.bin").await;
    // The length of the first part is declared; it breaks off.
    let mut connection = service.connect().await;
    let url = format!("{}&chunkNum=1", link.url.multi.upload);
    connection.send_head("PUT", &url, &format!("Content-Length: {}\r\n", 2_u64 << 30)).await;
    connection.send(b"some").await;
    eventually("the part has begun", async || {
        (service.sql("SELECT slot_size FROM blobs").await == [(2_u64 << 30).to_string()]).then_some(())
    })
    .await;
    drop(connection);
    assert_eq!(service.put_part(&link, 9_999, b"small").await.status(), 200);
    assert_eq!(service.checkpoint(&link.uid).await, [9_999]);
    let objects = "SELECT count(*) FROM parts WHERE number = 9999 AND tag IS NULL";
    assert_eq!(service.sql(objects).await, ["1"]);
}

/// After a restore, the file may be newer than the metadata.
#[tokio::test]
async fn parts_that_differ_from_their_rows_are_sent_again() {
    let mut service = Service::start().await;
    let bytes = content(70, 3 * PART);
    let parts: Vec<_> = bytes.chunks(PART).collect();
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &parts).await;
    service.kill().await;
    let (code, said) = service.cli(&["fsck", "--deep"]).await;
    assert_eq!(code, 0, "{said}");
    let path = Preallocated::find(&service).unwrap().0;
    let mut found = std::fs::read(&path).unwrap();
    found[PART..2 * PART].fill(0);
    std::fs::write(&path, &found).unwrap();
    let (code, said) = service.cli(&["fsck", "--deep", "--repair"]).await;
    assert!(code == 3 && said.contains("parts [2] of blob"), "{code}: {said}");
    service.restart().await;
    assert_eq!(service.checkpoint(&link.uid).await, [1, 3]);
    service.put_part(&link, 2, parts[1]).await;
    // Too short: no part of the file is trusted.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(3 * PART as u64 - 1).unwrap();
    let merge = format!("{}&num=3&size={}", link.url.multi.merge, bytes.len());
    let message = expect_v0_error(service.put(&merge, b"").await, 422).await;
    assert!(message.contains("missing: 1-3"), "{message}");
    // A task that completes uploads may find out too, and ask for the parts once more.
    eventually("the upload is complete", async || {
        for (number, part) in (1..).zip(&parts) {
            service.put_part(&link, number, part).await;
        }
        (service.merge(&link, 3, &bytes).await.status() == 200).then_some(())
    })
    .await;
    assert!(service.read(&link.uid).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}
