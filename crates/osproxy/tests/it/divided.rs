//! Uploads of API v1 with an announced size, whose files are preallocated.

use base64::{Engine, engine::general_purpose::STANDARD};
use osproxy_api::v1::{CreatedState, CreatedUpload, UploadState, UploadStatus};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    Random, Service, amount, content, eventually, expect_json, expect_problem, expect_v0_error, md5_hex,
};

const KIB: usize = 1024;
const PART: usize = 64 * KIB;

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Creates an upload in parts of 64 KiB.
async fn divide(service: &Service, name: &str, size: usize) -> CreatedUpload {
    let created = service.create_upload(&json!({"name": name, "size": size, "part_size": PART})).await;
    assert_eq!((created.state, created.part_size), (CreatedState::Pending, Some(PART as u64)));
    created
}

fn part_url(upload: &CreatedUpload, number: usize) -> String {
    upload.links.as_ref().unwrap().part.replace("{number}", &number.to_string())
}

async fn put_parts(
    service: &Service,
    upload: &CreatedUpload,
    bytes: &[u8],
    order: impl Iterator<Item = usize>,
) {
    let parts: Vec<_> = bytes.chunks(PART).collect();
    for number in order {
        let answer = service.v1_put_part(upload, number, parts[number - 1]).await;
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }
}

#[tokio::test]
async fn parts_lie_where_they_are_read_and_their_digest_is_known_at_once() {
    let mut service = Service::start().await;
    let bytes = content(1, 5 * PART + 1000);
    let upload = divide(&service, "film.mp4", bytes.len()).await;
    let to_be = format!("video/.{}.mp4.{PART}", upload.uid);
    assert_eq!(service.objects(), std::slice::from_ref(&to_be), "the file is not preallocated");
    put_parts(&service, &upload, &bytes, [6, 2, 4, 1].into_iter()).await;
    let there = service.v1_status(&upload).await;
    assert_eq!((there.state, there.parts), (UploadState::Receiving, vec![1, 2, 4, 6]));
    assert_eq!(there.received, 3 * PART as u64 + 1000);
    assert_eq!(there.size, Some(bytes.len() as u64));
    let missing = expect_problem(service.v1_complete(&upload).await, 409, "parts_missing").await;
    assert_eq!(missing["missing"], json!([3, 5]));
    put_parts(&service, &upload, &bytes, [5, 3].into_iter()).await;
    assert_eq!(service.objects(), [to_be]);
    let stored: UploadStatus = expect_json(service.v1_complete(&upload).await, 200).await;
    assert_eq!(stored.state, UploadState::Stored);
    assert_eq!(service.objects(), [format!("video/{}.mp4", upload.uid)]);
    assert!(service.read(&upload.uid).await == bytes);
    // No task is left, and nothing has read the content.
    assert_eq!(service.sql("SELECT count(*) FROM tasks WHERE unique_key IS NULL").await, ["0"]);
    assert_eq!(service.sql("SELECT count(*) FROM parts").await, ["0"]);
    let blake3 = blake3_hex(&bytes);
    assert_eq!(service.sql("SELECT blake3 FROM blobs").await, std::slice::from_ref(&blake3));
    let again = service.create_upload(&json!({"name": "again.mp4", "blake3": blake3})).await;
    assert_eq!((again.state, again.links.is_none()), (CreatedState::Stored, true));
    assert!(service.read(&again.uid).await == bytes);
    let again: UploadStatus = expect_json(service.v1_complete(&upload).await, 200).await;
    assert_eq!(again.state, UploadState::Stored, "completed twice");
    let late = service.v1_put_part(&upload, 1, &bytes[..PART]).await;
    expect_problem(late, 409, "already_stored").await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_that_is_there_is_shared_by_who_sends_it_again() {
    let service = Service::start().await;
    let bytes = content(2, 2 * PART + 7);
    let mut uids = Vec::new();
    for name in ["one.bin", "two.bin"] {
        let upload = divide(&service, name, bytes.len()).await;
        put_parts(&service, &upload, &bytes, 1..=3).await;
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        uids.push(upload.uid);
    }
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [format!("unknown/{}.bin", uids[0])]);
    for uid in uids {
        assert!(service.read(&uid).await == bytes);
    }
}

#[tokio::test]
async fn a_part_that_is_sent_again_replaces_the_first_and_one_that_breaks_leaves_it() {
    let mut service = Service::start().await;
    let (bytes, other) = (content(3, 3 * PART), content(4, PART));
    let upload = divide(&service, "x.bin", bytes.len()).await;
    put_parts(&service, &upload, &bytes, 1..=3).await;
    // The same bytes again, then bytes that do not match their digest or size.
    put_parts(&service, &upload, &bytes, 2..=2).await;
    let url = service.url(&part_url(&upload, 2));
    let broken = service.client().put(&url).header("content-md5", STANDARD.encode([1; 16]));
    expect_problem(broken.body(other.clone()).send().await.unwrap(), 422, "digest_mismatch").await;
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&bytes[..PART])));
    let broken = service.client().put(&url).header("content-digest", digest);
    expect_problem(broken.body(other.clone()).send().await.unwrap(), 422, "digest_mismatch").await;
    let blake3 = format!("blake3=:{}:", STANDARD.encode(blake3::hash(&bytes[..PART]).as_bytes()));
    let broken = service.client().put(&url).header("content-digest", blake3);
    expect_problem(broken.body(other.clone()).send().await.unwrap(), 422, "digest_mismatch").await;
    // Other bytes replace the part.
    let sha256 = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&other)));
    let blake3 = format!("blake3=:{}:", STANDARD.encode(blake3::hash(&other).as_bytes()));
    for digest in [sha256, blake3] {
        let replaced = service.client().put(&url).header("content-digest", digest);
        assert_eq!(replaced.body(other.clone()).send().await.unwrap().status(), 204);
    }
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    let expected = [&bytes[..PART], &other, &bytes[2 * PART..]].concat();
    assert!(service.read(&upload.uid).await == expected);
    service.wait_until_merged(&upload.uid).await;
    service.database().wait_until_idle().await;
    assert!(service.read(&upload.uid).await == expected);
    assert_eq!(service.sql("SELECT blake3 FROM blobs").await, [blake3_hex(&expected)]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_is_no_part_of_the_content_is_refused_and_leaves_nothing() {
    let service = Service::start().await;
    let bytes = content(5, PART + 10);
    let upload = divide(&service, "x.bin", bytes.len()).await;
    for (number, len) in [(1, PART - 1), (1, PART + 1), (1, 0), (2, 11), (2, 9), (3, 1)] {
        expect_problem(service.v1_put_part(&upload, number, &bytes[..len]).await, 422, "size_mismatch").await;
    }
    for number in ["0", "10001"] {
        let url = upload.links.as_ref().unwrap().part.replace("{number}", number);
        expect_problem(service.put(&url, b"x").await, 400, "invalid_argument").await;
    }
    for number in ["x", "+1", "1.0", "%20"] {
        let url = upload.links.as_ref().unwrap().part.replace("{number}", number);
        expect_problem(service.put(&url, b"x").await, 400, "invalid_argument").await;
    }
    let form = service.client().put(service.url(&part_url(&upload, 1)));
    let form = form.header("content-type", "multipart/form-data; boundary=x").body("--x--");
    expect_problem(form.send().await.unwrap(), 415, "unsupported_media_type").await;
    // A body without `Content-Length` must have the right length too.
    for len in [PART - 1, PART + 1] {
        let chunks = [Ok::<_, std::io::Error>(bytes[..len].to_vec())];
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let sent = service.client().put(service.url(&part_url(&upload, 1))).body(body).send().await.unwrap();
        assert!([408, 422].contains(&sent.status().as_u16()), "{}", sent.text().await.unwrap());
    }
    let short = service.client().put(service.url(&upload.links.as_ref().unwrap().content));
    expect_problem(short.body("short").send().await.unwrap(), 422, "size_mismatch").await;
    assert_eq!(service.v1_status(&upload).await.parts, [0; 0]);
    let other = divide(&service, "y.bin", bytes.len()).await;
    let stolen = part_url(&upload, 1).replace(&upload.uid, &other.uid);
    expect_problem(service.put(&stolen, &bytes[..PART]).await, 403, "invalid_signature").await;
    put_parts(&service, &other, &bytes, 1..=2).await;
    assert_eq!(service.v1_complete(&other).await.status(), 200);
    assert!(service.read(&other.uid).await == bytes);
}

#[tokio::test]
async fn wishes_that_make_no_sense_are_refused_and_leave_nothing() {
    let service = Service::start().await;
    let long = "x".repeat(5000);
    for (body, field) in [
        (json!({"name": ""}), Some("name")),
        (json!({"name": long}), Some("name")),
        (json!({}), Some("name")),
        (json!({"name": "x", "size": -1}), Some("size")),
        (json!({"name": "x", "size": "5"}), Some("size")),
        (json!({"name": "x", "nmae": "y"}), Some("nmae")),
        (json!({"name": "x", "md5": "00"}), Some("md5")),
        (json!({"name": "x", "sha256": "zz"}), Some("sha256")),
        (json!({"name": "x", "blake3": "z".repeat(64)}), Some("blake3")),
        (json!({"name": "x", "content_type": "text\r\nx: y"}), Some("content_type")),
        (json!({"name": "x", "metadata": {"": "y"}}), Some("metadata")),
        (json!({"name": "x", "metadata": {"a": null}}), Some("metadata.a")),
        (json!({"name": "x", "expires_in": 0}), Some("expires_in")),
        (json!({"name": "x", "part_size": 65536}), Some("part_size")),
        (json!({"name": "x", "size": 10, "part_size": 65537}), Some("part_size")),
        (json!({"name": "x", "size": 10, "part_size": 1024}), Some("part_size")),
        (json!({"name": "x", "size": 1_u64 << 40, "part_size": 65536}), Some("part_size")),
    ] {
        let refused = expect_problem(service.v1_post("/uploads", &body).await, 400, "invalid_argument").await;
        assert_eq!(refused.get("field").and_then(Value::as_str), field, "{body}");
    }
    let large = json!({"name": "x", "size": (5_u64 << 40) + 1});
    expect_problem(service.v1_post("/uploads", &large).await, 413, "too_large").await;
    let text = service.client().post(service.url("/api/v1/uploads")).body("{}").send().await.unwrap();
    expect_problem(text, 415, "unsupported_media_type").await;
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);
}

#[tokio::test]
async fn content_in_one_piece_has_the_digests_that_were_claimed() {
    let service = Service::start().await;
    let bytes = content(6, 3 * PART);
    let claims = json!({"name": "x.txt", "size": bytes.len(), "part_size": PART, "content_type": "text/x-log",
        "sha256": sha256_hex(&bytes), "blake3": blake3_hex(&bytes), "md5": md5_hex(&bytes)});
    let upload = service.create_upload(&claims.clone()).await;
    let url = upload.links.as_ref().unwrap().content.clone();
    let mut false_bytes = bytes.clone();
    false_bytes[77] ^= 1;
    expect_problem(service.put(&url, &false_bytes).await, 422, "digest_mismatch").await;
    let stored: UploadStatus = expect_json(service.put(&url, &bytes).await, 200).await;
    assert_eq!((stored.state, stored.received), (UploadState::Stored, bytes.len() as u64));
    service.database().wait_until_idle().await;
    assert_eq!(
        service.objects().len(),
        1,
        "the store still has the preallocated file: {:?}",
        service.objects()
    );
    let link = service.download_link(&upload.uid).await.unwrap();
    let answer = service.get(&link.url).await;
    assert_eq!(answer.headers()["content-type"], "text/x-log");
    let digests = answer.headers()["repr-digest"].to_str().unwrap().to_owned();
    let sha256 = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&bytes)));
    assert!(digests.contains(&sha256), "{digests}");
    // Stored once, it is found by any of its digests.
    for digest in ["md5", "sha256", "blake3"] {
        let again = service.create_upload(&json!({"name": "y.txt", digest: claims[digest]})).await;
        assert_eq!(again.state, CreatedState::Stored, "{digest}");
        assert!(service.read(&again.uid).await == bytes);
    }
    // A known digest with another size or another second digest is not that content.
    for wrong in
        [json!({"size": 5}), json!({"md5": md5_hex(b"other")}), json!({"sha256": sha256_hex(b"other")})]
    {
        let mut wish = json!({"name": "z.txt", "blake3": claims["blake3"]});
        wish.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(service.create_upload(&wish).await.state, CreatedState::Pending);
    }
}

#[tokio::test]
async fn claims_of_parts_are_verified_behind_and_a_false_one_shows() {
    let service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    let bytes = content(7, 2 * PART + 5);
    for (digest, claimed, state) in [
        ("sha256", sha256_hex(&bytes), "stored"),
        ("md5", md5_hex(b"other"), "corrupt"),
        ("sha256", sha256_hex(b"other"), "corrupt"),
    ] {
        let wish = json!({"name": "x.bin", "size": bytes.len(), "part_size": PART, digest: claimed});
        let upload = service.create_upload(&wish).await;
        if upload.state == CreatedState::Stored {
            continue;
        }
        put_parts(&service, &upload, &bytes, 1..=3).await;
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        service.database().wait_until_idle().await;
        let found = service.sql(&format!("SELECT state FROM files WHERE uid = {}", upload.uid)).await;
        assert_eq!(found, [state], "{digest}");
    }
    // The BLAKE3 digest is known as soon as the last part is stored.
    let wish =
        json!({"name": "x.bin", "size": bytes.len(), "part_size": PART, "blake3": blake3_hex(b"other")});
    let upload = service.create_upload(&wish).await;
    put_parts(&service, &upload, &bytes, 1..=3).await;
    expect_problem(service.v1_complete(&upload).await, 422, "digest_mismatch").await;
    assert_eq!(service.v1_status(&upload).await.parts, [1, 2, 3], "stored parts were lost");
}

#[tokio::test]
async fn an_upload_goes_on_over_the_other_version_of_the_api() {
    let service = Service::start().await;
    let bytes = content(8, 2 * PART + 100);
    let parts: Vec<_> = bytes.chunks(PART).collect();
    // Created over v0, where the size is not announced.
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &parts[..1]).await;
    let query = link.url.multi.upload.split_once('?').unwrap().1;
    let query = query.split('&').filter(|pair| !pair.starts_with("uid=")).collect::<Vec<_>>().join("&");
    let v1 = |what: &str| format!("/api/v1/uploads/{}{what}?{query}", link.uid);
    for number in [3, 2] {
        let answer = service.put(&v1(&format!("/parts/{number}")), parts[number - 1]).await;
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }
    let there: UploadStatus = expect_json(service.get(&v1("")).await, 200).await;
    assert_eq!((there.parts, there.size), (vec![1, 2, 3], None));
    let done = service.client().post(service.url(&v1("/complete"))).json(&json!({"parts": 3}));
    assert_eq!(done.send().await.unwrap().status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    // Created over v1, and completed over v0 with the md5 of the whole.
    let upload = divide(&service, "y.bin", bytes.len()).await;
    put_parts(&service, &upload, &bytes, 2..=2).await;
    let query = upload.links.as_ref().unwrap().state.split_once('?').unwrap().1.to_owned();
    let v0 = |route: &str| format!("/api/storage/v0{route}?uid={}&{query}", upload.uid);
    for number in [1, 3] {
        let part = parts[number - 1];
        let url = format!("{}&chunkNum={number}&md5={}", v0("/upload/multi"), md5_hex(part));
        assert_eq!(service.put(&url, part).await.status(), 200);
    }
    expect_v0_error(
        service.put(&format!("{}&chunkNum=1&md5={}", v0("/upload/multi"), md5_hex(b"x")), b"x").await,
        422,
    )
    .await;
    assert_eq!(service.checkpoint(&upload.uid).await, [1, 2, 3]);
    let url = format!("{}&num=3&size={}&md5={}", v0("/upload/merge"), bytes.len(), md5_hex(&bytes));
    assert_eq!(service.client().put(service.url(&url)).send().await.unwrap().status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    service.database().wait_until_idle().await;
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["1"]);
}

/// API v1 does not compute an md5, and API v0 finds content only by md5.
#[tokio::test]
async fn what_api_v0_computes_of_content_that_api_v1_stored_is_known_from_then_on() {
    let service = Service::start().await;
    for (seed, in_parts) in [(20, false), (21, true)] {
        let bytes = content(seed, 2 * PART);
        let md5 = md5_hex(&bytes);
        let upload = divide(&service, "x.bin", bytes.len()).await;
        put_parts(&service, &upload, &bytes, 1..=2).await;
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        assert!(service.instant_upload(&[(&md5, "y.bin")]).await.remove(0).uid.is_empty());
        if in_parts {
            let link = service.upload_link("y.bin").await;
            service.put_parts(&link, &bytes.chunks(PART).collect::<Vec<_>>()).await;
            assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
            service.database().wait_until_idle().await;
            assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200, "completed twice");
        } else {
            service.store("y.bin", &bytes).await;
        }
        let found = service.instant_upload(&[(&md5, "z.bin")]).await.remove(0).uid;
        assert!(service.read(&found).await == bytes, "in parts: {in_parts}");
    }
    service.database().wait_until_idle().await;
    assert_eq!(service.objects().len(), 2);
}

#[tokio::test]
async fn an_upload_is_not_complete_with_less_than_was_announced_whatever_is_said() {
    let mut service = Service::start().await;
    let bytes = content(22, 2 * PART + 100);
    let upload = divide(&service, "x.bin", bytes.len()).await;
    put_parts(&service, &upload, &bytes, 1..=2).await;
    let complete_with = async |said: Value| {
        let url = service.url(&upload.links.as_ref().unwrap().complete);
        service.client().post(url).json(&said).send().await.unwrap()
    };
    for said in [json!({}), json!({"parts": 2}), json!({"parts": 2, "size": 2 * PART})] {
        let missing = expect_problem(complete_with(said).await, 409, "parts_missing").await;
        assert_eq!(missing["missing"], json!([3]));
    }
    put_parts(&service, &upload, &bytes, 3..=3).await;
    let more = expect_problem(complete_with(json!({"parts": 4})).await, 409, "parts_missing").await;
    assert_eq!(more["missing"], json!([4]));
    expect_problem(complete_with(json!({"size": 2 * PART})).await, 422, "size_mismatch").await;
    assert_eq!(complete_with(json!({"parts": 3, "size": bytes.len()})).await.status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    service.assert_consistent().await;
}

/// The BLAKE3 digest of the whole is derived from the subtrees of the parts, in whatever order they
/// arrive.
#[tokio::test]
async fn parts_in_whatever_order_have_the_blake3_of_the_whole() {
    const AT_ONCE: usize = 8;
    let service = Service::start_with(&[("LOCAL__FSYNC", "false")]).await;
    let mut random = Random::new(3);
    for parts in [2, 3, 4, 31, amount(300, 2000_usize)] {
        // The last part is shorter, once by all but one byte.
        let size = if parts == 3 { 2 * PART + 1 } else { parts * PART - random.index(PART) };
        let part = |number: usize| content(number as u64 * 7919, PART.min(size - (number - 1) * PART));
        let upload = divide(&service, "x.bin", size).await;
        let mut order: Vec<_> = (1..=parts).collect();
        for at in (1..parts).rev() {
            order.swap(at, random.index(at + 1));
        }
        let (service, upload, order) = (&service, &upload, &order);
        let send = async |first: usize| {
            for number in order.iter().skip(first).step_by(AT_ONCE).copied() {
                assert_eq!(service.v1_put_part(upload, number, &part(number)).await.status(), 204);
            }
        };
        futures_util::future::join_all((0..AT_ONCE).map(send)).await;
        assert_eq!(service.v1_complete(upload).await.status(), 200);
        let mut hasher = blake3::Hasher::new();
        (1..=parts).for_each(|number| _ = hasher.update(&part(number)));
        let blake3 = hasher.finalize().to_hex().to_string();
        let recorded = format!("SELECT blake3 FROM blobs WHERE size = {size}");
        assert_eq!(service.sql(&recorded).await, std::slice::from_ref(&blake3), "{parts} parts");
        let object = service.object_path(format!("unknown/{}.bin", upload.uid));
        if let Ok(said) = std::process::Command::new("b3sum").arg("--no-names").arg(&object).output() {
            assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), blake3, "{parts} parts");
        }
        let again = service.create_upload(&json!({"name": "y.bin", "size": size, "blake3": blake3})).await;
        assert_eq!(again.state, CreatedState::Stored, "{parts} parts");
    }
}

#[tokio::test]
async fn an_upload_survives_kills_and_lapses_without_a_trace() {
    let mut service = Service::start_with(&[("UPLOADS__EXPIRED_RETENTION", "0")]).await;
    let bytes = content(9, 4 * PART);
    let (upload, gone) =
        (divide(&service, "x.bin", bytes.len()).await, divide(&service, "y.bin", 99_999).await);
    put_parts(&service, &upload, &bytes, [4, 1].into_iter()).await;
    service.kill().await;
    service.restart().await;
    assert_eq!(service.v1_status(&upload).await.parts, [1, 4]);
    put_parts(&service, &upload, &bytes, [3, 2].into_iter()).await;
    service.kill().await;
    service.sql(&format!("UPDATE files SET expires_at = 1 WHERE uid = {}", gone.uid)).await;
    service.restart().await;
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    let kept = [format!("unknown/{}.bin", upload.uid)];
    eventually("the other upload has expired", async || (service.objects() == kept).then_some(())).await;
    expect_problem(service.get(&gone.links.as_ref().unwrap().state).await, 410, "file_gone").await;
    // The row is deleted after the object.
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_full_disk_is_told_when_an_upload_is_created() {
    let service = Service::start().await;
    service.limit_file_size(Some(1_500_000));
    let wish = json!({"name": "x.bin", "size": 2_000_000, "part_size": PART});
    let answer = service.v1_post("/uploads", &wish).await;
    expect_problem(answer, 507, "storage_full").await;
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [""; 0]);
    let small = divide(&service, "y.bin", 900_000).await;
    assert_eq!(service.objects().len(), 1);
    service
        .v1(Method::DELETE, small.links.as_ref().unwrap().state.strip_prefix("/api/v1").unwrap(), None)
        .await;
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [""; 0]);
}

#[tokio::test]
async fn a_wish_with_a_key_is_granted_once() {
    let service = Service::start().await;
    let wish = async |name: &str| {
        let url = service.url("/api/v1/uploads");
        let request = service.client().post(url).header("idempotency-key", "once");
        request.json(&json!({"name": name, "size": 3 * PART, "part_size": PART})).send().await.unwrap()
    };
    let first: CreatedUpload = expect_json(wish("x.bin").await, 201).await;
    let again = wish("x.bin").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(expect_json::<CreatedUpload>(again, 201).await.uid, first.uid);
    expect_problem(wish("y.bin").await, 422, "key_reused").await;
    assert_eq!(service.objects().len(), 1);
}

#[tokio::test]
async fn nothing_is_content_too() {
    let service = Service::start().await;
    let upload = service.create_upload(&json!({"name": "empty.txt", "size": 0})).await;
    assert_eq!(service.put(&upload.links.as_ref().unwrap().content, b"").await.status(), 200);
    assert!(service.read(&upload.uid).await.is_empty());
    let upload = service.create_upload(&json!({"name": "empty.txt", "size": 0})).await;
    assert_eq!(service.v1_put_part(&upload, 1, b"").await.status(), 204);
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    assert!(service.read(&upload.uid).await.is_empty());
    service.database().wait_until_idle().await;
}

#[tokio::test]
async fn a_part_that_ends_after_the_upload_is_complete_is_refused() {
    let service = Service::start().await;
    let bytes = content(31, 2 * PART);
    let upload = divide(&service, "x.bin", bytes.len()).await;
    let first = &bytes[..PART];
    let mut straggler = service.connect().await;
    let fields = format!("Content-Length: {PART}\r\nConnection: close\r\n");
    straggler.send_head("PUT", &part_url(&upload, 1), &fields).await;
    straggler.send(&first[..100]).await;
    eventually("the write has started", async || {
        (service.sql("SELECT count(*) FROM parts WHERE state = 'writing'").await == ["1"]).then_some(())
    })
    .await;
    put_parts(&service, &upload, &bytes, 1..=2).await;
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    straggler.send(&first[100..]).await;
    let answer = straggler.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("already_stored"), "{answer}");
    let log = service.log();
    assert!(!log.contains("lost a multipart upload") && !log.contains("ERROR"), "{log}");
    service.wait_until_merged(&upload.uid).await;
    assert!(service.read(&upload.uid).await == bytes);
}
