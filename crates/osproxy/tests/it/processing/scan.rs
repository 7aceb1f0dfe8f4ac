//! The step `scan`, with a real clamd that knows two signatures: that of the EICAR test file, and
//! one of a text.

use std::{path::PathBuf, process::Stdio};

use osproxy_api::v1::FileState;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{said, start, wait_for};
use crate::support::{Service, content, eventually};

/// A text that the signature database knows.
const INFECTED: &[u8] = b"begin osproxy-test-signature end";
/// Largest content that clamd accepts, in bytes.
const MAX_STREAM: usize = 1 << 20;

/// The EICAR test file, put together here so that this file is not found by scanners.
fn eicar() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*"].concat().into_bytes()
}

/// A clamd with its files in a folder.
struct Clamd {
    folder: TempDir,
    process: Child,
}

impl Clamd {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signatures = [
            format!("Eicar-Test-Signature:0:*:{}", hex::encode(eicar())),
            format!("Osproxy.Test:0:*:{}", hex::encode("osproxy-test-signature")),
        ];
        let database = folder.path().join("database");
        std::fs::create_dir(&database).unwrap();
        std::fs::write(database.join("test.ndb"), signatures.join("\n") + "\n").unwrap();
        let config = format!(
            "Foreground yes\nDatabaseDirectory {}\nLocalSocket {}\nStreamMaxLength {MAX_STREAM}\nLogFile {}\n",
            database.display(),
            folder.path().join("socket").display(),
            folder.path().join("clamd.log").display(),
        );
        std::fs::write(folder.path().join("clamd.conf"), config).unwrap();
        let process = Self::spawn(&folder);
        let clamd = Self { folder, process };
        clamd.wait_until_ready().await;
        clamd
    }

    fn spawn(folder: &TempDir) -> Child {
        let mut command = Command::new("/usr/sbin/clamd");
        command.arg("--config-file").arg(folder.path().join("clamd.conf")).kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("clamd; see .ci/install")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    async fn wait_until_ready(&self) {
        let socket = self.socket();
        eventually("clamd listens", async || tokio::net::UnixStream::connect(&socket).await.ok()).await;
    }

    async fn stop(&mut self) {
        self.process.kill().await.unwrap();
        let _ = std::fs::remove_file(self.socket());
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(&self.folder);
        self.wait_until_ready().await;
    }

    fn step(&self) -> Value {
        json!({"step": "scan", "clamd": format!("unix:{}", self.socket().display()), "max_size": MAX_STREAM})
    }
}

#[tokio::test]
#[ignore = "needs clamd"]
async fn infected_files_are_in_quarantine() {
    let clamd = Clamd::start().await;
    let mut service = start(&[clamd.step()]).await;
    let clean = service.store("clean.bin", &content(1, 900_000)).await;
    wait_for(&service, &clean, FileState::Stored).await;
    assert_eq!(service.read(&clean).await, content(1, 900_000));
    let run = said(&service, &clean).await["steps"][0].clone();
    assert!(run["basis"].as_str().unwrap().starts_with("ClamAV "), "{run}");

    let long = [&content(2, 700_000), INFECTED, &content(3, 100_000)].concat();
    for (bytes, signature) in
        [(eicar(), "Eicar"), (INFECTED.to_vec(), "Osproxy.Test"), (long, "Osproxy.Test")]
    {
        let uid = service.store_in_parts("bad.com", &bytes, 300_000).await;
        wait_for(&service, &uid, FileState::Quarantined).await;
        let reason = said(&service, &uid).await["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("infected: ") && reason.contains(signature), "{reason}");
        let md5 = crate::support::md5_hex(&bytes);
        assert!(service.instant_upload(&[(&md5, "x")]).await[0].uid.is_empty());
        assert!(service.download_link(&uid).await.is_none());
    }
    // Larger than clamd accepts.
    let large = service.store("large.bin", &content(4, MAX_STREAM + 1)).await;
    wait_for(&service, &large, FileState::Rejected).await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs clamd"]
async fn a_scanner_that_is_away_holds_passes_or_rejects() {
    let mut clamd = Clamd::start().await;
    clamd.stop().await;
    for (on_error, state) in [("pass", FileState::Stored), ("reject", FileState::Rejected)] {
        let mut step = clamd.step();
        step["on_error"] = on_error.into();
        let service = start(&[step]).await;
        let uid = service.store("a.bin", b"bytes").await;
        wait_for(&service, &uid, state).await;
        assert!(said(&service, &uid).await["steps"][0]["reason"].as_str().unwrap().contains("clamd"));
    }
    let service = start(&[clamd.step()]).await;
    let clean = service.store("a.bin", b"bytes").await;
    let infected = service.store("b.bin", INFECTED).await;
    wait_until_tried(&service).await;
    for uid in [&clean, &infected] {
        assert_eq!(service.describe(uid).await.state, FileState::Processing);
    }
    clamd.restart().await;
    wait_for(&service, &clean, FileState::Stored).await;
    wait_for(&service, &infected, FileState::Quarantined).await;
}

async fn wait_until_tried(service: &Service) {
    eventually("the scans have failed", async || {
        let tried = "SELECT id FROM tasks WHERE kind = 'process_file' AND attempts > 1";
        (service.sql(tried).await.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs clamd"]
async fn a_limit_of_clamd_below_ours_is_a_limit_too() {
    let clamd = Clamd::start().await;
    for (too_large, state) in [("reject", FileState::Rejected), ("pass", FileState::Stored)] {
        let mut step = clamd.step();
        step["max_size"] = (2 * MAX_STREAM).into();
        step["too_large"] = too_large.into();
        let service = start(&[step]).await;
        let uid = service.store("a.bin", &content(1, MAX_STREAM + 500_000)).await;
        wait_for(&service, &uid, state).await;
    }
}
