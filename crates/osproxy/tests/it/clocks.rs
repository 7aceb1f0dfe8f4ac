//! Clocks that are ahead, behind, or jump: files can still be created, no uid repeats, and the skew
//! is reported.

use std::{
    collections::HashSet,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use crate::support::{Database, Service, content, eventually};

/// Runs a program with a shifted clock: the file `clock` in its folder holds the offset, such as
/// `+7d`, which may change while the program runs.
const CLOCK: [&str; 4] = [
    "sh",
    "-c",
    "exec env LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_TIMESTAMP_FILE=clock FAKETIME_NO_CACHE=1 \
     FAKETIME_DONT_FAKE_MONOTONIC=1 \"$@\"",
    "sh",
];

fn set_clock(folder: &Path, offset: &str) {
    // Renamed into place, so that it is never read half written.
    std::fs::write(folder.join("clock.new"), offset).unwrap();
    std::fs::rename(folder.join("clock.new"), folder.join("clock")).unwrap();
}

async fn start(folder: TempDir, database: Database, offset: &str) -> Service {
    set_clock(folder.path(), offset);
    let settings = database.settings();
    Service::start_at(folder, database, settings, &[], &CLOCK).await
}

/// The time encoded in a uid, in seconds since the Unix epoch.
fn issued(uid: &str) -> u64 {
    ((uid.parse::<u64>().unwrap() >> 22) + 1_417_937_700_000) / 1000
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn says(service: &Service, text: &str) {
    let says = async || {
        let said = service.get("/health/ready").await.text().await.unwrap();
        (said == text).then_some(())
    };
    eventually(text, says).await;
}

const READY: &str = r#"{"status":"ready"}"#;
const CLOCK_DOWN: &str = r#"{"status":"degraded","down":["clock"]}"#;

const DAY: u64 = 24 * 3600;

#[tokio::test]
async fn a_clock_that_was_ahead_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create(folder.path()).await;
    let is_on_server = database.url().is_some();
    let mut service = start(folder, database, "+7d").await;
    let mut uids = vec![service.store("x.bin", &content(1, 1000)).await];
    if is_on_server {
        // The clock of the database is right.
        says(&service, CLOCK_DOWN).await;
        let (code, said) = service.cli_wrapped(&CLOCK, &["doctor"]).await;
        assert!(code == 1 && said.contains("7 days ahead of that of the database"), "{said}");
    } else {
        assert!(issued(&uids[0]) > now() + 6 * DAY);
    }
    service.kill_and_restart().await;
    for _ in 0..20 {
        uids.push(service.store("x.bin", &content(1, 1000)).await);
    }
    let numbers: Vec<u64> = uids.iter().map(|uid| uid.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    if is_on_server {
        says(&service, READY).await;
        return;
    }
    says(&service, CLOCK_DOWN).await;
    assert_eq!(service.cli(&["health"]).await.0, 1, "`osproxy health` asks another address");
    let (code, said) = service.cli(&["doctor"]).await;
    assert!(code == 0 && said.contains("the newest uid is 6 days ahead of the clock"), "{said}");
    // Listing uses the same creation time as the description.
    let file = service.describe(&uids[20]).await;
    let made = serde_json::to_value(&file).unwrap()["created_at"].as_str().unwrap().to_owned();
    let of = |name: &str| format!("/files?{name}={}", made.replace('+', "%2B"));
    let listed = async |route: String| {
        let page = service.v1_get(&route).await.text().await.unwrap();
        page.contains(&uids[20])
    };
    assert!(listed(of("created_after")).await && !listed(of("created_before")).await, "{made}");
}

#[tokio::test]
async fn a_clock_that_jumps_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create(folder.path()).await;
    let service = start(folder, database, "+0").await;
    let mut newest = 0;
    for offset in ["+0", "-20m", "+3d", "+1d", "-20m", "+0"] {
        set_clock(service.folder(), offset);
        for _ in 0..5 {
            let uid = service.store("x.bin", b"x").await.parse::<u64>().unwrap();
            assert!(uid > newest, "{offset}");
            newest = uid;
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_whose_clocks_differ_make_files_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let beside = |folder: &TempDir| database.shared_with_folder(folder.path());
    let (two, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (second, third) = (beside(&two), beside(&three));
    let ahead = start(folder, database, "+7d").await;
    let behind = start(two, second, "-20m").await.with_key_of(&ahead);
    let mut jumping = start(three, third, "+0").await.with_key_of(&ahead);
    let mut uids = HashSet::new();
    let mut make = async |service: &Service| {
        for _ in 0..5 {
            let uid = service.store("x.bin", b"x").await;
            // Uids follow the clock of Redis; a lease allows them to run a little ahead.
            assert!(issued(&uid).abs_diff(now()) < 300, "{uid}");
            assert!(uids.insert(uid));
        }
    };
    for offset in ["+0", "+3d", "-20m", "+400d", "-10m", "+0"] {
        set_clock(jumping.folder(), offset);
        for service in [&jumping, &ahead, &behind] {
            make(service).await;
        }
    }
    for (service, told) in
        [(&ahead, "7 days ahead of that of the database"), (&behind, "min behind that of the database")]
    {
        says(service, CLOCK_DOWN).await;
        let (code, said) = service.cli_wrapped(&CLOCK, &["doctor"]).await;
        assert!(code == 1 && said.contains(told), "{said}");
    }
    says(&jumping, READY).await;
    // Once clocks are right, no trace of the skew is left.
    jumping.kill_and_restart().await;
    make(&jumping).await;
    says(&jumping, READY).await;
}
