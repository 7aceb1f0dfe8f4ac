//! Clients of S3 that others wrote.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use super::Scene;
use crate::support::{Page, S3Key, amount};

/// Runs `client.py` with boto3.
async fn boto3(scene: &Scene, key: &S3Key, options: &Value) -> Value {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_api/client.py");
    let python = std::env::var("OSPROXY_TEST_PYTHON").expect("run this by `just test-servers`");
    let output = Command::new(python)
        .arg(program)
        .args([&format!("http://{}", scene.address), &key.access_key_id, &key.secret_access_key])
        .arg(options.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn boto3_lists_buckets() {
    let scene = Scene::start().await;
    assert_eq!(boto3(&scene, &scene.key, &json!({})).await, json!({"buckets": [], "owner": "shop"}));
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    assert_eq!(
        boto3(&scene, &wrong, &json!({})).await,
        json!({"error": "SignatureDoesNotMatch", "status": 403})
    );
    let version_2 = json!({"signature_version": "s3"});
    assert_eq!(
        boto3(&scene, &scene.key, &version_2).await,
        json!({"error": "InvalidRequest", "status": 400})
    );
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_commands_of_the_guide_work() {
    let scene = Scene::start().await;
    let script = Page::read("docs/guides/s3.md").joined_blocks("sh");
    let script = script
        .replace("127.0.0.1:9000", &scene.address.to_string())
        .replace("OSPEXAMPLEEXAMPLE234", &scene.key.access_key_id)
        .replace("secret-of-the-key", &scene.key.secret_access_key);
    let folder = tempfile::tempdir().unwrap();
    let python = std::env::var("OSPROXY_TEST_PYTHON").expect("run this by `just test-servers`");
    let clients = Path::new(&python).parent().unwrap().display().to_string();
    let script = format!("export PATH={clients}:$PATH HOME={}\n{script}", folder.path().display());
    let output = scene.service.shell(folder.path(), &script).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("make_bucket: photos") && said.contains("hello.txt"), "{said}");
    assert!(said.ends_with("hello\n"), "{said}");
}

/// Groups of cases that are not only run at night.
const GROUPS: &str = "objects,conditional,copy,delete,multipart,checksums,races";

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_conformance_suite_finds_only_known_differences() {
    let scene = Scene::start().await;
    let key = async |options: &[&str]| {
        let S3Key { access_key_id, secret_access_key } = S3Key::create(&scene.service, options).await;
        json!({"access_key_id": access_key_id, "secret_access_key": secret_access_key})
    };
    let shop = ["--tenant", "shop"];
    let mut limited = key(&[&shop[..], &["--buckets", "limited-a,limited-b"]].concat()).await;
    limited["buckets"] = json!(["limited-a", "limited-b"]);
    let keys = json!({
        "main": key(&shop).await,
        "read_only": key(&[&shop[..], &["--read-only"]].concat()).await,
        "limited": limited,
        "other_tenant": key(&["--tenant", "other"]).await,
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, keys.to_string()).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_api");
    let python = std::env::var("OSPROXY_TEST_PYTHON").expect("run this by `just test-servers`");
    let mut suite = Command::new(python);
    suite.arg(here.join("suite.py")).arg(format!("http://{}", scene.address)).arg(file);
    suite.arg("--known").arg(here.join("known_differences.txt"));
    if let Some(groups) = amount(Some(GROUPS), None) {
        suite.args(["--groups", groups]);
    }
    let output = suite.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" cases passed"), "{said}");
}
