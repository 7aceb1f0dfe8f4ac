//! Clients do everything concurrently while the service is killed: every acknowledged file survives
//! with its exact bytes, and no orphan is left.

mod appends;
mod client;
mod content;
mod objects;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::support::{Random, S3Key, Service, amount, eventually, md5_hex};
use appends::Appending;
use client::Client;
use content::{Known, Ledger, Piece, Sent, Upload, bytes_of};
use objects::{Endpoint, Objects};

const CLIENTS: u64 = 4;
/// Number of clients of the S3 API.
const S3_CLIENTS: u64 = 4;
/// Number of rounds after which everything ever sent is checked.
const CHECK_EVERY: u64 = 5;
/// Number of files and uploads of earlier rounds that are checked in the other rounds.
const SAMPLE: usize = 10;

/// Rounds and first seed: `OSPROXY_TORTURE_ROUNDS`, `OSPROXY_TORTURE_SEED`.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_lose_nothing_and_leave_nothing() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (rounds, base) = (number("OSPROXY_TORTURE_ROUNDS", amount(5, 10)), number("OSPROXY_TORTURE_SEED", 1));
    let settings = [
        ("TASKS__POLL_INTERVAL", "1"),
        ("TASKS__MIN_BACKOFF", "1"),
        ("S3_API__LISTEN", "127.0.0.1:0"),
        ("S3_API__MASTER_KEY", "a-master-key-for-all-nodes-of-a-test"),
        // False digests are found by tasks.
        ("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0"),
    ];
    let mut service = Service::start_with(&settings).await;
    let mut all = Ledger::default();
    let s3_key = S3Key::create(&service, &[]).await;
    Endpoint::find(&service, 1, &s3_key).await.create_bucket().await;
    let mut objects: Vec<_> = (0..S3_CLIENTS).map(Objects::new).collect();
    let mut starts = 1;
    for round in 1..=rounds {
        let seed = base + round - 1;
        println!("round {round}, seed {seed}");
        let mut random = Random::new(seed);
        let endpoint = Endpoint::find(&service, starts, &s3_key).await;
        let (killed, mut new);
        (killed, new, objects) = work_and_kill(service, endpoint, objects, seed, &mut random).await;
        service = killed;
        service.restart().await;
        starts += 1;
        check_objects(&objects, &Endpoint::find(&service, starts, &s3_key).await).await;
        check(&service, &mut new, &mut random).await;
        all.sent.append(&mut new.sent);
        all.uploads.append(&mut new.uploads);
        all.appends.append(&mut new.appends);
        if round % CHECK_EVERY == 0 || round == rounds {
            check_all(&mut service, &mut all).await;
            starts += 1;
            check_objects(&objects, &Endpoint::find(&service, starts, &s3_key).await).await;
        } else {
            check_some(&service, &mut all, &mut random).await;
        }
        println!(
            "  {} files, {} uploads in parts, {} over tus, {} changes of objects",
            all.sent.len(),
            all.uploads.len(),
            all.appends.len(),
            objects.iter().map(|client| client.changes).sum::<u64>()
        );
    }
    assert!(all.sent.len() as u64 > rounds, "only {} files were sent", all.sent.len());
    assert!(objects.iter().all(|client| client.changes > 0), "a client has written no object");
}

/// Lets clients work for a moment, and kills the service.
async fn work_and_kill(
    service: Service,
    endpoint: Endpoint,
    objects: Vec<Objects>,
    seed: u64,
    random: &mut Random,
) -> (Service, Ledger, Vec<Objects>) {
    let (service, killed) = (Arc::new(service), Arc::new(AtomicBool::new(false)));
    let done = Arc::new(AtomicU64::new(0));
    let shared: Vec<_> = (0..4).map(|_| Piece::random(random)).collect();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let seed = seed * 1_000 + client;
        let client = Client::new(service.clone(), killed.clone(), seed, shared.clone());
        clients.spawn(client.run(done.clone()));
    }
    let mut s3_clients = JoinSet::new();
    for (client, objects) in (0..).zip(objects) {
        s3_clients.spawn(objects.run(endpoint.clone(), killed.clone(), seed * 1_000 + 500 + client));
    }
    let enough = random.below(40);
    eventually("clients have done something", async || {
        (done.load(Ordering::Relaxed) >= enough).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(random.below(50))).await;
    killed.store(true, Ordering::SeqCst);
    service.signal(Signal::KILL);
    let mut new = Ledger::default();
    for ledger in clients.join_all().await {
        new.sent.extend(ledger.sent);
        new.uploads.extend(ledger.uploads);
        new.appends.extend(ledger.appends);
    }
    let mut service = Arc::into_inner(service).unwrap();
    service.exit_status().await;
    (service, new, s3_clients.join_all().await)
}

async fn check_objects(objects: &[Objects], endpoint: &Endpoint) {
    for client in objects {
        client.check_all(endpoint).await;
    }
}

/// Every change has its event, exactly once.
async fn check_events(service: &Service) {
    for (change, kind, states) in [
        ("complete", "file.completed", "'stored'"),
        ("deleted", "file.deleted", "'deleted'"),
        ("corrupt", "file.corrupt", "'corrupt'"),
        ("created", "file.created", "'pending', 'receiving', 'completing', 'stored', 'corrupt', 'expired'"),
    ] {
        let silent = format!(
            "SELECT uid FROM files WHERE state IN ({states}) AND final_uid IS NULL AND NOT EXISTS \
             (SELECT 1 FROM events WHERE events.uid = files.uid AND events.kind = '{kind}')"
        );
        assert_eq!(service.sql(&silent).await, [""; 0], "files that are {change} without an event");
        let repeated =
            format!("SELECT uid FROM events WHERE kind = '{kind}' GROUP BY uid HAVING count(*) > 1");
        assert_eq!(service.sql(&repeated).await, [""; 0], "{kind}");
    }
    let disordered = "SELECT first.uid FROM events first JOIN events second ON first.uid = second.uid \
                      WHERE first.id < second.id AND (second.kind = 'file.created' \
                      OR first.kind IN ('file.deleted', 'file.corrupt') AND second.kind = 'file.completed')";
    assert_eq!(service.sql(disordered).await, [""; 0], "events in the wrong order");
}

/// Checks what was sent in the last round, and finishes most of it.
async fn check(service: &Service, ledger: &mut Ledger, random: &mut Random) {
    for sent in &mut ledger.sent {
        check_sent(service, sent).await;
    }
    for upload in std::mem::take(&mut ledger.uploads) {
        check_upload(service, &upload).await;
        if random.percent(20) {
            ledger.uploads.push(upload);
        } else {
            ledger.sent.push(finish(service, upload).await);
        }
    }
    for mut upload in std::mem::take(&mut ledger.appends) {
        // Asserts that the offset is not below one that the service has told.
        upload.ask(service).await.expect("an answer");
        if random.percent(20) {
            ledger.appends.push(upload);
        } else {
            ledger.sent.push(finish_append(service, upload).await);
        }
    }
}

async fn check_some(service: &Service, all: &mut Ledger, random: &mut Random) {
    for _ in 0..SAMPLE {
        if !all.sent.is_empty() {
            let at = random.index(all.sent.len());
            check_sent(service, &mut all.sent[at]).await;
        }
        if !all.uploads.is_empty() {
            check_upload(service, &all.uploads[random.index(all.uploads.len())]).await;
        }
        if !all.appends.is_empty() {
            let at = random.index(all.appends.len());
            all.appends[at].go_on(service, random).await.expect("an answer");
        }
    }
}

/// Checks everything, and compares metadata and store, once all background work has finished.
async fn check_all(service: &mut Service, all: &mut Ledger) {
    service.database().wait_until_idle().await;
    for sent in &mut all.sent {
        check_sent(service, sent).await;
        assert_eq!(sent.known == Known::Corrupt, sent.is_false, "{} and its md5", sent.uid);
    }
    for upload in &all.uploads {
        check_upload(service, upload).await;
    }
    for upload in &mut all.appends {
        upload.ask(service).await.expect("an answer");
    }
    service.assert_consistent().await;
    check_events(service).await;
    service.restart().await;
}

async fn check_sent(service: &Service, sent: &mut Sent) {
    let link = service.download_link(&sent.uid).await;
    if link.is_none() && !sent.is_known_stored() {
        // It was never acknowledged, so it must be possible to send it again.
        let Some((url, recipe)) = &sent.retry else {
            // Of two concurrent writes, neither of which was refused, the first one counts.
            return;
        };
        let answer = service.put(url, &bytes_of(recipe)).await;
        let (status, said) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(status == 200 || (status == 404 && sent.is_false), "{said} for {}", sent.uid);
        sent.mark_stored();
    }
    let Some(link) = service.download_link(&sent.uid).await else {
        return sent.check_gone();
    };
    // A false digest may be found during the download, which is then cut.
    let check_cut = |cut: reqwest::Error| assert!(sent.is_false, "{cut} for {}", sent.uid);
    let answer = match service.client().get(service.url(&link.url)).send().await {
        Ok(answer) => answer,
        Err(cut) => return check_cut(cut),
    };
    match answer.status().as_u16() {
        200 => match answer.bytes().await {
            Ok(bytes) => sent.check(&bytes),
            Err(cut) => check_cut(cut),
        },
        404 => sent.check_gone(),
        other => panic!("{other} for {}", sent.uid),
    }
}

/// Every acknowledged part is stored, and no part that nobody sent.
async fn check_upload(service: &Service, upload: &Upload) {
    let there = service.checkpoint(&upload.link.uid).await;
    for (number, part) in &upload.parts {
        let lost = part.acknowledged && !there.contains(number);
        assert!(!lost, "part {number} of {} was acknowledged, but is missing", upload.link.uid);
    }
    assert!(there.iter().all(|number| upload.parts.contains_key(number)), "{there:?}");
}

/// Sends the missing parts, and completes the upload.
async fn finish(service: &Service, mut upload: Upload) -> Sent {
    let there = service.checkpoint(&upload.link.uid).await;
    let highest = upload.parts.keys().max().copied().unwrap_or(1);
    for number in (1..=highest).filter(|number| !there.contains(number)) {
        let piece = Piece::new(u64::from(number), 1_000);
        // The request in progress ended with the process.
        upload.parts.remove(&number);
        let url = upload.record_sending(number, &piece);
        assert_eq!(service.put(&url, &piece.bytes()).await.status(), 200);
        upload.record_acknowledged(number);
    }
    let known = upload.parts.values().all(|part| part.candidates.len() == 1);
    let md5 = known.then(|| md5_hex(&bytes_of(&upload.recipe())));
    assert_eq!(service.put(&upload.merge_url(md5.as_deref()), &[]).await.status(), 200);
    let read = service.read(&upload.link.uid).await;
    // A part whose replacement was interrupted may be the old or the new one.
    let (mut rest, mut recipe) = (&read[..], Vec::new());
    for (number, part) in &upload.parts {
        let (bytes, behind) = rest.split_at(part.candidates[0].size());
        let found = part.candidates.iter().find(|piece| piece.bytes() == bytes);
        let found = found.unwrap_or_else(|| panic!("part {number} of {} has wrong content", upload.link.uid));
        recipe.push(found.clone());
        rest = behind;
    }
    assert!(rest.is_empty());
    Sent::known(&upload.link.uid, recipe, Known::Stored)
}

/// Sends the rest of an upload over tus.
async fn finish_append(service: &Service, mut upload: Appending) -> Sent {
    upload.finish(service).await;
    assert!(service.read(upload.uid()).await == upload.piece.bytes(), "{} has wrong content", upload.uid());
    Sent::known(upload.uid(), vec![upload.piece.clone()], Known::Stored)
}
