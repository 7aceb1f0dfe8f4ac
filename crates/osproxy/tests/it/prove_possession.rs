use osproxy_api::v1::{Challenge, CreatedState, CreatedUpload, UploadState, UploadStatus};
use serde_json::json;

use crate::support::{Service, content, eventually, expect_json, expect_problem, expect_v0_error, md5_hex};

const PROVE: (&str, &str) = ("UPLOADS__REQUIRE_POSSESSION_PROOF", "true");
/// Larger than the content that is challenged as a whole, and larger than a part.
const SIZE: usize = 9_000_000;

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Creates an upload with the digest of these bytes.
async fn create(service: &Service, name: &str, bytes: &[u8]) -> CreatedUpload {
    let wish = json!({"name": name, "size": bytes.len(), "blake3": blake3_hex(bytes)});
    expect_json(service.v1_post("/uploads", &wish).await, 201).await
}

async fn challenged(service: &Service, name: &str, bytes: &[u8]) -> (CreatedUpload, Challenge) {
    let created = create(service, name, bytes).await;
    assert_eq!(created.state, CreatedState::Pending);
    let challenge = created.challenge.clone().expect("known content without a challenge");
    (created, challenge)
}

/// The proof of a client that has these bytes.
fn proof(challenge: &Challenge, bytes: &[u8]) -> String {
    let key: [u8; 32] = hex::decode(&challenge.key).unwrap().try_into().unwrap();
    let mut hasher = blake3::Hasher::new_keyed(&key);
    for range in &challenge.ranges {
        let (start, length) =
            (usize::try_from(range.offset).unwrap(), usize::try_from(range.length).unwrap());
        hasher.update(&bytes[start..start + length]);
    }
    hasher.finalize().to_hex().to_string()
}

async fn answer(service: &Service, challenge: &Challenge, proof: &str) -> reqwest::Response {
    let url = service.url(&challenge.link);
    service.client().post(url).json(&json!({"proof": proof})).send().await.unwrap()
}

#[tokio::test]
async fn who_has_the_content_need_not_send_it() {
    let mut service = Service::start_with(&[PROVE]).await;
    for size in [0, 1, 131_072, SIZE] {
        let bytes = content(size as u64, size);
        service.store("first.bin", &bytes).await;
        let objects = service.objects();
        let (created, challenge) = challenged(&service, "second.txt", &bytes).await;
        assert_eq!(service.objects(), objects, "a file was preallocated for known content");
        assert_eq!(challenge.ranges.len(), if size > 131_072 { 32 } else { 1 });
        // The file can be read after the proof, not before.
        expect_problem(
            service.v1_post(&format!("/files/{}/links", created.uid), &json!({"expires_in": 9})).await,
            409,
            "not_stored",
        )
        .await;
        let status: UploadStatus =
            expect_json(answer(&service, &challenge, &proof(&challenge, &bytes)).await, 200).await;
        assert_eq!((status.state, status.uid.as_str()), (UploadState::Stored, created.uid.as_str()));
        assert!(service.read(&created.uid).await == bytes);
        assert_eq!(service.objects(), objects, "an object was written");
        // A repeated proof succeeds: the client may have missed the answer.
        expect_json::<UploadStatus>(answer(&service, &challenge, &proof(&challenge, &bytes)).await, 200)
            .await;
    }
    assert_eq!(service.sql("SELECT count(*) FROM challenges").await, ["0"]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn no_two_challenges_are_alike_and_none_holds_for_another_file() {
    let mut service = Service::start_with(&[PROVE]).await;
    let bytes = content(1, SIZE);
    service.store("first.bin", &bytes).await;
    let (_, one) = challenged(&service, "one.bin", &bytes).await;
    let (two_created, two) = challenged(&service, "two.bin", &bytes).await;
    assert!(one.key != two.key && one.ranges != two.ranges);
    let swapped = answer(&service, &two, &proof(&one, &bytes)).await;
    expect_problem(swapped, 422, "digest_mismatch").await;
    // A wrong proof ends the challenge. The content can still be sent.
    expect_problem(answer(&service, &two, &proof(&two, &bytes)).await, 410, "challenge_gone").await;
    let url = two_created.links.unwrap().content;
    let sent: UploadStatus = expect_json(service.put(&url, &bytes).await, 200).await;
    assert_eq!(sent.state, UploadState::Stored);
    // Of a wrong and a right proof at the same time, one counts.
    let (right, wrong) = (proof(&one, &bytes), proof(&two, &bytes));
    let both = tokio::join!(answer(&service, &one, &right), answer(&service, &one, &wrong));
    let statuses = (both.0.status().as_u16(), both.1.status().as_u16());
    assert!(matches!(statuses, (200, 200 | 410) | (410, 422)), "{statuses:?}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_answer_that_is_late_or_malformed_is_refused_and_changes_nothing() {
    let mut service = Service::start_with(&[PROVE]).await;
    let bytes = content(2, SIZE);
    let first = service.store("first.bin", &bytes).await;
    let (_, challenge) = challenged(&service, "late.bin", &bytes).await;
    let url = service.url(&challenge.link);
    let right = proof(&challenge, &bytes);
    for body in [json!({}), json!({"proof": "00"}), json!({"proof": right, "more": 1}), json!({"proof": 1})] {
        let refused = service.client().post(&url).json(&body).send().await.unwrap();
        expect_problem(refused, 400, "invalid_argument").await;
    }
    let forged = Challenge { link: challenge.link.replace("signature=", "signature=x"), ..challenge.clone() };
    expect_problem(answer(&service, &forged, &right).await, 403, "invalid_signature").await;
    // None of these counted as a proof.
    service.sql("UPDATE challenges SET expires_at = expires_at - 120000").await;
    expect_problem(answer(&service, &challenge, &right).await, 410, "challenge_gone").await;
    // Content that is gone cannot be claimed.
    let (created, challenge) = challenged(&service, "gone.bin", &bytes).await;
    service.v1(reqwest::Method::DELETE, &format!("/files/{first}"), None).await;
    let right = proof(&challenge, &bytes);
    expect_problem(answer(&service, &challenge, &right).await, 410, "challenge_gone").await;
    let sent = service.put(&created.links.unwrap().content, &bytes).await;
    expect_json::<UploadStatus>(sent, 200).await;
    assert!(service.read(&created.uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_that_is_not_there_or_not_meant_is_not_asked_about() {
    let service = Service::start_with(&[PROVE]).await;
    let bytes = content(3, SIZE);
    service.store("first.bin", &bytes).await;
    assert!(create(&service, "other.bin", &bytes[1..]).await.challenge.is_none());
    for wish in [
        json!({"name": "x", "size": 5, "blake3": blake3_hex(&bytes)}),
        // A digest must not reveal the size.
        json!({"name": "x", "blake3": blake3_hex(&bytes)}),
    ] {
        let created: CreatedUpload = expect_json(service.v1_post("/uploads", &wish).await, 201).await;
        assert!(created.challenge.is_none() && created.state == CreatedState::Pending);
    }
    // Without the setting, knowing the digest is enough.
    let trusting = Service::start().await;
    trusting.store("first.bin", &bytes).await;
    let created = create(&trusting, "second.bin", &bytes).await;
    assert!(created.state == CreatedState::Stored && created.challenge.is_none());
}

#[tokio::test]
async fn clients_of_api_v0_have_to_send_their_content() {
    let service = Service::start_with(&[PROVE]).await;
    let bytes = content(4, SIZE);
    service.store("first.bin", &bytes).await;
    let known = service.instant_upload(&[(&md5_hex(&bytes), "second.bin")]).await;
    assert_eq!(known[0].uid, "");
    let nameless = json!({"data": [{"md5": md5_hex(&bytes), "path": "/"}]});
    expect_v0_error(service.post("/resume", &nameless).await, 422).await;
    let again = service.store("second.bin", &bytes).await;
    assert!(service.read(&again).await == bytes);
    // The content received again is removed after the answer.
    eventually("one object remains", async || (service.objects().len() == 1).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn any_node_takes_the_answer_whoever_has_the_content() {
    let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &[PROVE]).await;
    let two = one.start_second_node(&[PROVE]).await;
    let bytes = content(5, SIZE);
    one.store("first.bin", &bytes).await;
    // The object is on the disk of the other node.
    assert!(two.objects().is_empty());
    let (_, wrong) = challenged(&two, "wrong.bin", &bytes).await;
    expect_problem(answer(&two, &wrong, &proof(&wrong, &content(6, SIZE))).await, 422, "digest_mismatch")
        .await;
    for node in [&two, &one] {
        let (created, challenge) = challenged(&two, "second.bin", &bytes).await;
        let status: UploadStatus =
            expect_json(answer(node, &challenge, &proof(&challenge, &bytes)).await, 200).await;
        assert_eq!(status.state, UploadState::Stored);
        assert!(two.read(&created.uid).await == bytes && one.read(&created.uid).await == bytes);
    }
    // While the node with the content is down, a proof cannot be checked; the content can still be
    // sent.
    let (created, challenge) = challenged(&two, "third.bin", &bytes).await;
    one.kill().await;
    let right = proof(&challenge, &bytes);
    expect_problem(answer(&two, &challenge, &right).await, 503, "node_unavailable").await;
    let sent = two.put(&created.links.unwrap().content, &bytes).await;
    expect_json::<UploadStatus>(sent, 200).await;
    one.restart().await;
    let link = two.download_link(&created.uid).await.unwrap();
    let there = async || {
        let answer = two.get(&link.url).await;
        (answer.status() == 200).then_some(answer)
    };
    assert!(eventually("the file can be read", there).await.bytes().await.unwrap() == bytes);
}
